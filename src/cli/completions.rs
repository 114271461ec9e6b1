//! `completions` and `man`: completion scripts and the manual page, generated from
//! the command line's definition.

use std::io::Write as _;

use clap::Command;
use clap_complete::Shell;

use super::{Error, output};

#[derive(Debug, Clone, clap::Args)]
pub(super) struct CompletionsArgs {
    /// Shell to complete for
    shell: Shell,
}

/// Prints the completion script of a shell.
pub(super) fn completions(mut command: Command, args: &CompletionsArgs) {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "santa-sync", &mut script);
    output::bytes(&script);
}

/// Prints the manual page: the program, then a section for every command.
pub(super) fn man(command: Command) -> Result<(), Error> {
    let mut page = Vec::new();
    render(command, &mut page)
        .map_err(|error| Error::internal(format!("cannot render the manual page: {error}")))?;
    output::bytes(&page);
    Ok(())
}

fn render(command: Command, page: &mut Vec<u8>) -> std::io::Result<()> {
    let mut command = command.disable_help_subcommand(true);
    command.build();
    clap_mangen::Man::new(command.clone()).render(page)?;
    command.get_subcommands().try_for_each(|below| section(below, page))
}

fn section(command: &Command, page: &mut Vec<u8>) -> std::io::Result<()> {
    if command.is_hide_set() {
        return Ok(());
    }
    let name = command.get_bin_name().unwrap_or(command.get_name());
    writeln!(page, ".SH {}", name.replace('-', "\\-"))?;
    // The global options appear once, at the top.
    let man = clap_mangen::Man::new(command.clone().mut_args(|arg| {
        let hidden = arg.is_hide_set() || arg.is_global_set();
        arg.hide(hidden)
    }));
    man.render_description_section(page)?;
    man.render_synopsis_section(page)?;
    man.render_options_section(page)?;
    command.get_subcommands().try_for_each(|below| section(below, page))
}
