//! The one way a command is run: without a shell, without input, for a bounded
//! time and a bounded output.

use std::io::{self, Read as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use thiserror::Error;

/// Returns how long a command may take. A Mac at login, when every agent starts
/// at once, takes seconds to start a process.
pub(super) const fn time_limit(is_macos: bool) -> Duration {
    Duration::from_secs(if is_macos { 10 } else { 2 })
}

/// The most output kept; `ioreg` for one class writes 4 KiB.
const MAX_OUTPUT: u64 = 1024 * 1024;

/// Why a command gave no output.
#[derive(Debug, Error)]
pub enum CommandError {
    /// It could not be started or its output not be read.
    #[error("{program} cannot be run: {error}")]
    Io {
        /// The program's path.
        program: String,
        /// What the system says.
        #[source]
        error: io::Error,
    },
    /// It ended with an exit code other than 0, or by a signal.
    #[error("{program} failed")]
    Failed {
        /// The program's path.
        program: String,
        /// Its exit code; `None` after a signal.
        code: Option<i32>,
    },
    /// It was still running when its time was up, and was killed.
    #[error("{program} did not end within {} ms", .limit.as_millis())]
    TimedOut {
        /// The program's path.
        program: String,
        /// The time it had.
        limit: Duration,
    },
}

/// Runs a program by its absolute path and returns its output.
pub(super) fn run(program: &str, args: &[&str], limit: Duration) -> Result<Vec<u8>, CommandError> {
    let io_error = |error| CommandError::Io { program: program.to_owned(), error };
    let failed = |code| CommandError::Failed { program: program.to_owned(), code };
    let mut child = Command::new(program)
        .args(args)
        .env_clear()
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        // A group of its own, so that killing it reaches what it started.
        .process_group(0)
        .spawn()
        .map_err(io_error)?;
    let pid = Pid::from_child(&child);
    let (answer, answers) = mpsc::channel();
    let (finish, finished) = mpsc::channel::<()>();
    thread::spawn(move || {
        let mut output = Vec::new();
        let read = match child.stdout.take() {
            Some(stdout) => stdout.take(MAX_OUTPUT).read_to_end(&mut output),
            None => Ok(0),
        };
        // Waited for, but not reaped: until `finish` is dropped the process id
        // cannot become another process's, and killing by it is safe.
        let exit = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        let code = exit.ok().flatten().and_then(|status| status.exit_status());
        let _ = answer.send(read.map(|_| if code == Some(0) { Ok(output) } else { Err(code) }));
        let _ = finished.recv();
        let _ = child.wait();
    });
    let answered = answers.recv_timeout(limit);
    if answered.is_err() {
        let _ = kill_process_group(pid, Signal::KILL);
    }
    drop(finish);
    match answered {
        Ok(Ok(Ok(output))) => Ok(output),
        Ok(Ok(Err(code))) => Err(failed(code)),
        Ok(Err(error)) => Err(io_error(error)),
        Err(RecvTimeoutError::Timeout) => {
            Err(CommandError::TimedOut { program: program.to_owned(), limit })
        }
        Err(RecvTimeoutError::Disconnected) => Err(failed(None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = time_limit(cfg!(target_os = "macos"));

    #[test]
    fn a_command_answers_what_it_writes() {
        let output = run("/bin/echo", &["a", "b c"], TIMEOUT).expect("output");
        assert_eq!(output, b"a b c\n");
    }

    #[test]
    fn a_command_that_fails_or_is_not_there_is_an_error() {
        let error = run("/bin/sh", &["-c", "echo x; exit 3"], TIMEOUT).expect_err("exit 3");
        assert_eq!(error.to_string(), "/bin/sh failed");
        assert!(matches!(error, CommandError::Failed { code: Some(3), .. }), "{error:?}");
        let error = run("/no/such/program", &[], TIMEOUT).expect_err("no program").to_string();
        assert!(error.starts_with("/no/such/program cannot be run"), "{error}");
    }

    /// HOST-1: what hangs is killed with all it started; its output pipe would
    /// keep the caller waiting otherwise.
    #[test]
    fn host_1_a_command_that_hangs_costs_its_time_and_no_more() {
        let limit = Duration::from_millis(50);
        let script = "echo early; sleep 600 & sleep 600";
        let error = run("/bin/sh", &["-c", script], limit).expect_err("a hanging command");
        assert_eq!(error.to_string(), "/bin/sh did not end within 50 ms");
    }

    #[test]
    fn endless_output_is_cut_off() {
        let answer = run("/usr/bin/yes", &[], TIMEOUT);
        assert!(
            matches!(answer, Err(CommandError::Failed { .. })),
            "{:?}",
            answer.map(|o| o.len())
        );
    }
}
