//! launchd takes a job out and puts one in while its commands have returned, so
//! that each step is waited for.

use std::path::Path;
use std::time::Duration;

use super::{
    CommandResult, LAUNCHCTL, LAUNCHD_TARGET, Runner, ServiceError, failed, launchd_value,
};

/// How often launchd is asked again.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// How long launchd may take to let go of a job: the daemon may take 5 s to end, and
/// the job's `ExitTimeOut` is 10 s.
const MAX_LEAVING: Duration = Duration::from_secs(15);
/// How long a job that launchd still holds may keep its successor out.
const MAX_ENTERING: Duration = Duration::from_secs(15);
/// How long the daemon may take to report that it runs. It may need the hardware's
/// facts first, whose commands have 10 s on a Mac at login.
const MAX_STARTING: Duration = Duration::from_secs(30);
/// The errors of `bootstrap` while launchd has not let go of the job: EIO and
/// EALREADY.
const STILL_LEAVING: [i32; 2] = [5, 37];

/// Replaces the job, if there is one, by that of a file.
pub(super) fn load(runner: &dyn Runner, job: &Path) -> Result<(), ServiceError> {
    unload(runner)?;
    runner.must(LAUNCHCTL, &["enable", LAUNCHD_TARGET])?;
    let job = job.to_string_lossy();
    let bootstrap = ["bootstrap", "system", &*job];
    let mut waited = Duration::ZERO;
    loop {
        let answer = runner.ask(LAUNCHCTL, &bootstrap)?;
        if answer.success {
            return Ok(());
        }
        if waited >= MAX_ENTERING || !is_still_leaving(&answer) {
            return Err(failed(LAUNCHCTL, &bootstrap, answer));
        }
        runner.pause(LOOK_AGAIN);
        waited += LOOK_AGAIN;
    }
}

/// Takes the job out and waits until launchd has let go of it, for as long as that
/// may take.
pub(super) fn unload(runner: &dyn Runner) -> Result<(), ServiceError> {
    // Fails if it is not loaded, and then there is nothing to unload.
    runner.ask(LAUNCHCTL, &["bootout", LAUNCHD_TARGET])?;
    let mut waited = Duration::ZERO;
    while waited < MAX_LEAVING && runner.ask(LAUNCHCTL, &["print", LAUNCHD_TARGET])?.success {
        runner.pause(LOOK_AGAIN);
        waited += LOOK_AGAIN;
    }
    Ok(())
}

/// Waits until launchd runs the job and the daemon says that it is the process that
/// launchd runs: one that fails at once is running for an instant, too.
pub(super) fn wait_until_it_runs(
    runner: &dyn Runner,
    log: &'static str,
) -> Result<(), ServiceError> {
    let mut waited = Duration::ZERO;
    loop {
        let answer = runner.ask(LAUNCHCTL, &["print", LAUNCHD_TARGET])?;
        let process = running_process(&answer);
        if process.is_some() && process == runner.daemon_process() {
            return Ok(());
        }
        if waited >= MAX_STARTING {
            return Err(ServiceError::NotRunning { said: state(&answer, process), log });
        }
        runner.pause(LOOK_AGAIN);
        waited += LOOK_AGAIN;
    }
}

/// The process of the job, if it is running.
pub(super) fn running_process(answer: &CommandResult) -> Option<u32> {
    let value = |name| launchd_value(&answer.output, name);
    if !answer.success || value("state") != Some("running") {
        return None;
    }
    value("pid")?.parse().ok()
}

fn is_still_leaving(answer: &CommandResult) -> bool {
    let said = |code: &i32| answer.output.contains(&format!("failed: {code}: "));
    STILL_LEAVING.iter().any(|code| answer.code == Some(*code) || said(code))
}

fn state(answer: &CommandResult, process: Option<u32>) -> String {
    if let Some(process) = process {
        let seconds = MAX_STARTING.as_secs();
        return format!("process {process} has not reported itself within {seconds} s");
    }
    let value = |name| launchd_value(&answer.output, name);
    match (value("state"), value("last exit code")) {
        (Some(state), Some(code)) => format!("its state is {state:?}, its last exit code {code:?}"),
        (Some(state), None) => format!("its state is {state:?}"),
        (None, _) => answer.output.clone(),
    }
}
