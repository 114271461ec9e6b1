//! The command line: one file per command. The only place that writes to
//! standard output.

use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};

mod completions;
mod config;
mod connect;
mod daemon;
#[cfg(feature = "harness")]
mod demo;
mod doctor;
mod error;
mod events;
#[cfg(feature = "harness")]
mod harness;
mod history;
mod hooks;
mod journal;
mod logging;
pub mod output;
mod relay;
mod rules;
mod run_as;
mod service;
mod setup;
mod status;
mod stderr;
mod sync;
mod sync_process;
mod whoami;

use crate::model::LogLevel;
use error::{EXIT_INTERNAL, EXIT_USAGE, Error};

/// A sync agent for Santa: rules in, events out, settings applied.
#[derive(Debug, Parser)]
#[command(name = "santa-sync", version, max_term_width = 100, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Read configuration from a property list (XML or binary) or a .mobileconfig
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Keep rules, events and settings in this directory
    #[arg(long, value_name = "DIR", global = true, env = "SANTA_SYNC_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
    /// Set a configuration key; overrides every file; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", global = true)]
    pub set: Vec<String>,
    /// Log at this level and above [default: warn; daemon: as configured]
    #[arg(long, value_name = "LEVEL", global = true)]
    pub log_level: Option<LogLevel>,
    /// Format of log lines on standard error [default: text; daemon: as configured]
    #[arg(long, value_name = "FORMAT", global = true)]
    pub log_format: Option<LogFormat>,
    /// Directory below which the system's configuration files are looked for, for tests and images
    #[arg(long, value_name = "DIR", global = true, default_value = "/", hide = true)]
    pub system_root: PathBuf,
    /// Run the clock N times as fast between attempts, for tests and drills
    #[arg(long, value_name = "N", global = true, default_value_t = 1, hide = true)]
    pub clock_rate: u32,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check and show the configuration
    Config(config::Args),
    /// Run three syncs against a built-in server on loopback; needs no set-up
    #[cfg(feature = "harness")]
    Demo(demo::Args),
    /// Find what keeps this host from syncing, layer by layer
    Doctor(doctor::Args),
    /// List, add, requeue or drop queued events
    Events(events::Args),
    /// Test tools for people who write sync servers and agents
    #[cfg(feature = "harness")]
    Harness(harness::Args),
    /// Run one sync now
    Sync(sync::Args),
    /// Run in the foreground, syncing on a schedule and on request
    Daemon(daemon::Args),
    /// Install, remove or show the launchd or systemd service
    Service(service::Args),
    /// Run the sync that the daemon orders on standard input
    #[command(hide = true)]
    SyncProcess(sync_process::Args),
    /// Show sync status; uses no network
    Status(status::Args),
    /// Show the results of the last syncs
    History(history::Args),
    /// Set up, show or remove the relay, the sync server for this host's own authorizer
    Relay(relay::Args),
    /// Look up, export, verify and import rules
    Rules(rules::Args),
    /// Show this host's machine id and facts, each with its source
    Whoami(whoami::Args),
    /// Print a shell completion script
    Completions(completions::CompletionsArgs),
    /// Print the manual page
    Man,
}

/// Runs the command line and returns the exit code of the process.
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
        let what = format!("cannot take on the user who owns the state directory: {error}");
        return failed(&Error::unusable(what).with_fix("run as that user"));
    }
    if let Command::Sync(args) = &cli.command {
        let level = cli.global.log_level.unwrap_or(LogLevel::Warn);
        cli.global.log_level = Some(args.log_level(level));
    }
    // The daemon starts its log itself, once it has read its configuration.
    let of_daemon = matches!(cli.command, Command::SyncProcess(_));
    let log = (!matches!(cli.command, Command::Daemon(_)))
        .then(|| logging::start(&cli.global, of_daemon));
    if std::env::var_os("RUST_BACKTRACE").is_none() {
        // Through the queue of all other lines, so that it cannot block.
        std::panic::set_hook(Box::new(|panic| output::error(panic)));
    }
    // A panic is a fault of this program; its message has gone to standard
    // error by the time it arrives here.
    let code = catch_unwind(AssertUnwindSafe(|| dispatch(cli)))
        .map_or(ExitCode::from(EXIT_INTERNAL), |done| done.unwrap_or_else(|error| failed(&error)));
    match log {
        Some(log) => drop(log),
        // The message of an error that ended the daemon comes after its log.
        None => stderr::flush(logging::DAEMON_FLUSH_TIMEOUT),
    }
    // Lost output is a failure.
    if output::was_lost() && code == ExitCode::SUCCESS {
        return ExitCode::from(EXIT_INTERNAL);
    }
    code
}

/// Reports why the command failed and returns its exit code.
fn failed(error: &Error) -> ExitCode {
    output::error(error);
    error.exit_code()
}

fn dispatch(cli: Cli) -> Result<ExitCode, Error> {
    let global = &cli.global;
    let done = match cli.command {
        Command::Config(args) => return Ok(config::run(global, &args)),
        Command::Doctor(args) => return doctor::run(global, &args),
        Command::Relay(args) => return relay::run(global, &args),
        Command::Service(args) => return service::run(global, &args),
        Command::Sync(args) => return sync::run(global, &args),
        Command::SyncProcess(args) => return sync_process::run(global, &args),
        Command::Whoami(args) => return Ok(whoami::run(&setup::load_to_read(global)?, &args)),
        Command::Events(args) => events::run(global, &args),
        #[cfg(feature = "harness")]
        Command::Demo(args) => demo::run(global, &args),
        #[cfg(feature = "harness")]
        Command::Harness(args) => return harness::run(global, &args),
        Command::Daemon(args) => daemon::run(global, &args),
        Command::Status(args) => status::run(global, &args),
        Command::History(args) => history::run(global, &args),
        Command::Rules(args) => rules::run(global, &args),
        Command::Completions(args) => {
            completions::completions(Cli::command(), &args);
            Ok(())
        }
        Command::Man => completions::man(Cli::command()),
    };
    done.map(|()| ExitCode::SUCCESS)
}
