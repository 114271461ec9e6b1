//! `daemon`: syncs on a schedule and on request, in the foreground.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::hooks::DaemonHooks;
use super::logging::LogFile;
use super::{Error, Global, LogFormat, logging, output, setup};
use crate::clock::SystemClock;
use crate::config::{self, Config, ConfigError};
use crate::daemon::{self, Options, Program};
use crate::failure::Remedy as _;

#[derive(Debug, Clone, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    hooks: DaemonHooks,
}

/// Runs the command.
pub(super) fn run(global: &Global, args: &Args) -> Result<(), Error> {
    let sources = {
        let global = global.clone();
        Arc::new(move || setup::sources(&global))
    };
    let log_file = LogFile::of_stderr();
    let reopen_log = move || {
        if let Some(file) = &log_file {
            file.reopen();
        }
    };
    let loaded = match Config::load(&sources()) {
        Ok(loaded) => loaded,
        // Restarted every few seconds, it would report the same again and again.
        Err(_) if daemon::is_supervised() => {
            let report = |error: &ConfigError| {
                output::error(format_args!(
                    "{}; the daemon waits until it changes",
                    error.with_fix()
                ));
            };
            let loaded = daemon::wait_for_configuration(&*sources, report, &reopen_log);
            match loaded.map_err(|error| Error::internal(error.to_string()))? {
                Some(loaded) => loaded,
                None => return Ok(()),
            }
        }
        Err(error) => return Err(error.into()),
    };
    let configured = if loaded.config.log_json { LogFormat::Json } else { LogFormat::Text };
    let format = global.log_format.unwrap_or(configured);
    let level = global.log_level;
    let (_log, set_level) =
        logging::start_adjustable(format, level.unwrap_or(loaded.config.log_level));
    setup::warn_of(&loaded.findings);

    let path = program().map_err(|error| {
        Error::internal(format!("cannot find the path of this program: {error}"))
            .with_fix("start it by its full path")
    })?;
    let state_dir = config::state_dir(global.state_dir.as_deref(), &loaded.config);
    let (clock_rate, hooks) = (global.clock_rate, args.hooks.clone());
    let program = move |number, level: &'static str| {
        let mut args: Vec<OsString> = vec!["sync-process".into()];
        args.extend(["--state-dir".into(), state_dir.clone().into()]);
        args.extend(["--log-level".into(), level.into()]);
        let format = if format == LogFormat::Json { "json" } else { "text" };
        args.extend(["--log-format".into(), format.into()]);
        args.extend(["--clock-rate".into(), clock_rate.to_string().into()]);
        args.extend(hooks.sync_process_arg(number));
        Program { path: path.clone(), args }
    };
    let options = Options {
        sources,
        loaded,
        state_dir: global.state_dir.clone(),
        clock: SystemClock::with_rate(global.clock_rate),
        program: Box::new(program),
        network: args.hooks.network(),
        set_level,
        level,
        // Started by hand it would not come back.
        own_program: daemon::is_supervised().then(std::env::current_exe).and_then(Result::ok),
        reopen_log: Box::new(reopen_log),
        relay_checkpoint: args.hooks.relay_checkpoint(),
    };
    daemon::run(options).map_err(Error::from)
}

/// This very program: on Linux also after its file has been replaced by another
/// version, which would not be the one that runs.
fn program() -> std::io::Result<PathBuf> {
    let running = Path::new("/proc/self/exe");
    if running.exists() { Ok(running.to_owned()) } else { std::env::current_exe() }
}
