//! The command line: one file per command. The only place that writes to
//! standard output.

use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};

use crate::store::StoreError;

mod by_daemon;
mod config;
mod daemon;
#[cfg(feature = "harness")]
mod demo;
mod doctor;
mod events;
mod generate;
#[cfg(feature = "harness")]
mod harness;
mod history;
mod logging;
pub mod output;
mod rules;
mod run_as;
mod service;
mod setup;
mod status;
mod stderr;
mod sync;
mod sync_process;
mod whoami;

/// Exit code for a command line that cannot be understood.
pub const EXIT_USAGE: u8 = 64;
/// Exit code for a fault of this program.
pub const EXIT_INTERNAL: u8 = 70;
/// Exit code for a configuration that cannot be used.
pub const EXIT_CONFIG: u8 = 78;

/// A sync agent for Santa: rules in, events out, settings applied.
#[derive(Debug, Parser)]
#[command(name = "santa-sync", version, max_term_width = 100, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct Global {
    /// Configuration file: a property list (XML or binary) or a .mobileconfig
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Where rules, events and settings are kept
    #[arg(long, value_name = "DIR", global = true, env = "SANTA_SYNC_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
    /// Sets a configuration key; wins over every file
    #[arg(long = "set", value_name = "KEY=VALUE", global = true)]
    pub set: Vec<String>,
    /// Least severe log lines to show [default: warn, for the daemon as configured]
    #[arg(long, value_name = "LEVEL", global = true)]
    pub log_level: Option<LogLevel>,
    /// Form of the log lines on standard error [default: text, for the daemon as configured]
    #[arg(long, value_name = "FORMAT", global = true)]
    pub log_format: Option<LogFormat>,
    /// Lets waits between attempts pass N times as fast, for tests and drills
    #[arg(long, value_name = "N", global = true, default_value_t = 1, hide = true)]
    pub clock_rate: u32,
}

/// How severe a log line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// Nothing at all.
    Off,
    /// What failed.
    Error,
    /// What an operator should look at.
    Warn,
    /// One line a sync.
    Info,
    /// Each request.
    Debug,
    /// Everything.
    Trace,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows what is configured and what is wrong with it
    Config(config::Args),
    /// Shows three syncs against a server of its own on loopback; needs no set-up
    #[cfg(feature = "harness")]
    Demo(demo::Args),
    /// Finds what keeps this host from syncing, layer by layer
    Doctor(doctor::Args),
    /// Looks at the queue of events, adds to it, and decides about those set aside
    Events(events::Args),
    /// For people who write sync servers and agents
    #[cfg(feature = "harness")]
    Harness(harness::Args),
    /// Makes one sync now
    Sync(sync::Args),
    /// Syncs by the clock and on request until told to stop
    Daemon(daemon::Args),
    /// Installs the daemon as a service of launchd or systemd
    Service(service::Args),
    /// Makes the sync that the daemon asks for on standard input
    #[command(hide = true)]
    SyncProcess(sync_process::Args),
    /// Tells how syncing stands, from files alone
    Status(status::Args),
    /// Tells what became of the last syncs
    History(history::Args),
    /// Looks at the rules, and manages those of a host without a server
    Rules(rules::Args),
    /// Tells who this host is to its server, each value with its source
    Whoami(whoami::Args),
    /// Writes the completions of a shell
    Completions(generate::CompletionsArgs),
    /// Writes the manual page
    Man,
}

/// Runs the command line and answers the process exit code.
#[must_use]
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are not errors; they go to standard output.
            let code = if error.use_stderr() { EXIT_USAGE } else { 0 };
            // A closed pipe is nothing to report on.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    if let Err(error) = run_as::take_on_owner(&cli.global, &cli.command) {
        output::error(format_args!(
            "cannot take on the user who owns the state directory: {error}; run as that user"
        ));
        return ExitCode::from(StoreError::EXIT_CODE);
    }
    if let Command::Sync(args) = &cli.command {
        let level = cli.global.log_level.unwrap_or(LogLevel::Warn);
        cli.global.log_level = Some(args.log_level(level));
    }
    // The daemon's configuration has a say in its log lines.
    let of_daemon = matches!(cli.command, Command::SyncProcess(_));
    let log = (!matches!(cli.command, Command::Daemon(_)))
        .then(|| logging::start(&cli.global, of_daemon));
    if std::env::var_os("RUST_BACKTRACE").is_none() {
        // By the way of all other lines, which blocks nobody.
        std::panic::set_hook(Box::new(|panic| output::error(panic)));
    }
    // A panic is a fault of this program; its message has gone to standard
    // error by the time it arrives here.
    let code =
        catch_unwind(AssertUnwindSafe(|| dispatch(cli))).unwrap_or(ExitCode::from(EXIT_INTERNAL));
    log.into_iter().for_each(logging::Log::end);
    // An answer that has not arrived is none.
    if output::was_lost() && code == ExitCode::SUCCESS {
        return ExitCode::from(EXIT_INTERNAL);
    }
    code
}

fn dispatch(cli: Cli) -> ExitCode {
    match cli.command {
        Command::Config(args) => config::run(&cli.global, &args),
        Command::Doctor(args) => doctor::run(&cli.global, &args),
        Command::Events(args) => events::run(&cli.global, &args),
        #[cfg(feature = "harness")]
        Command::Demo(args) => demo::run(&cli.global, &args),
        #[cfg(feature = "harness")]
        Command::Harness(args) => harness::run(&args),
        Command::Sync(args) => sync::run(&cli.global, &args),
        Command::Daemon(args) => daemon::run(&cli.global, &args),
        Command::Service(args) => service::run(&args),
        Command::SyncProcess(args) => sync_process::run(&cli.global, &args),
        Command::Status(args) => status::run(&cli.global, &args),
        Command::History(args) => history::run(&cli.global, &args),
        Command::Rules(args) => rules::run(&cli.global, &args),
        Command::Completions(args) => generate::completions(Cli::command(), &args),
        Command::Man => generate::man(Cli::command()),
        Command::Whoami(args) => whoami::run(&cli.global, &args),
    }
}
