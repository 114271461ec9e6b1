//! `daemon`: syncs by the clock and on request, in the foreground.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Error, Global, LogFormat, logging, setup};
use crate::clock::SystemClock;
use crate::config::{self, Config};
use crate::daemon::{self, Options, Program, network};

#[derive(Debug, Clone, clap::Args)]
pub(super) struct Args {
    /// Has sync number N misbehave, for tests of the daemon
    #[cfg(feature = "harness")]
    #[arg(long, value_name = "N:HOW:WHEN:EFFECT", hide = true)]
    misbehave: Vec<String>,
    /// Hears of changes of the network on this datagram socket, for tests of the daemon
    #[cfg(feature = "harness")]
    #[arg(long, value_name = "SOCKET", hide = true)]
    network: Option<PathBuf>,
}

impl Args {
    /// How the sync of that number is to misbehave.
    #[cfg(feature = "harness")]
    fn misbehaviour(&self, number: u64) -> Option<OsString> {
        let of = |text: &String| {
            let (of, how) = text.split_once(':')?;
            (of == number.to_string()).then(|| format!("--misbehave={how}").into())
        };
        self.misbehave.iter().find_map(of)
    }

    #[cfg(not(feature = "harness"))]
    #[expect(clippy::unused_self, reason = "the other one has a use for it")]
    const fn misbehaviour(&self, _: u64) -> Option<OsString> {
        None
    }

    /// Where changes of the network are told.
    #[cfg_attr(
        not(feature = "harness"),
        expect(clippy::unused_self, reason = "with the harness it has a use for it")
    )]
    fn network(&self) -> network::Source {
        #[cfg(feature = "harness")]
        if let Some(path) = self.network.clone() {
            return Box::new(move || {
                // One that is there is its own, of an earlier time.
                let _ = std::fs::remove_file(&path);
                let socket = std::os::unix::net::UnixDatagram::bind(&path)?;
                socket.set_nonblocking(true)?;
                Ok(socket.into())
            });
        }
        Box::new(network::source)
    }
}

/// Runs the command.
pub(super) fn run(global: &Global, args: &Args) -> Result<(), Error> {
    let sources = {
        let global = global.clone();
        Arc::new(move || setup::sources(&global))
    };
    let loaded = Config::load(&sources())?;
    let configured = if loaded.config.log_json { LogFormat::Json } else { LogFormat::Text };
    let format = global.log_format.unwrap_or(configured);
    let level = global.log_level.map(config::LogLevel::from);
    let (log, set_level) =
        logging::start_adjustable(format, level.unwrap_or(loaded.config.log_level));
    setup::warn_of(&loaded.findings);

    let path = program().map_err(|error| {
        Error::internal(format!("cannot find the path of this program: {error}"))
            .with_fix("start it by its full path")
    })?;
    let state_dir = config::state_dir(global.state_dir.as_deref(), &loaded.config);
    let (clock_rate, misbehave) = (global.clock_rate, args.clone());
    let program = move |number, level: &'static str| {
        let mut args: Vec<OsString> = vec!["sync-process".into()];
        args.extend(["--state-dir".into(), state_dir.clone().into()]);
        args.extend(["--log-level".into(), level.into()]);
        let format = if format == LogFormat::Json { "json" } else { "text" };
        args.extend(["--log-format".into(), format.into()]);
        args.extend(["--clock-rate".into(), clock_rate.to_string().into()]);
        args.extend(misbehave.misbehaviour(number));
        Program { path: path.clone(), args }
    };
    let options = Options {
        sources,
        loaded,
        state_dir: global.state_dir.clone(),
        clock: SystemClock::with_rate(global.clock_rate),
        program: Box::new(program),
        network: args.network(),
        set_level,
        level,
    };
    let done = daemon::run(options);
    log.end();
    done.map_err(Error::from)
}

/// This very program: on Linux also after its file has been replaced by another
/// version, which would not be the one that runs.
fn program() -> std::io::Result<PathBuf> {
    let running = Path::new("/proc/self/exe");
    if running.exists() { Ok(running.to_owned()) } else { std::env::current_exe() }
}
