//! The operator of the server under test, who does what the probe cannot do by itself.

use std::fmt;
use std::time::Duration;

/// What the operator is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OperatorTask {
    /// Add one rule and change the policy of another.
    ChangeRules,
    /// Change the client mode.
    ChangeMode,
    /// Change the policy of one rule, so that the number of rules stays the same.
    ChangeOneRule,
    /// Delete one rule.
    DeleteOneRule,
    /// Restart the server, and wait until it serves again.
    RestartServer,
    /// Request a clean sync for this machine.
    RequestCleanSync {
        /// The machine.
        machine_id: String,
    },
    /// Look for the events of the run, and say whether the server shows them as they were sent.
    FindEvents {
        /// The machine that sent them.
        machine_id: String,
        /// The path of each.
        path: String,
        /// The beginning of their file names.
        name: String,
    },
    /// Look for a file-access event of the run and say whether it is there.
    FindFileAccessEvent {
        /// The machine that sent it.
        machine_id: String,
        /// The beginning of the name of its rule.
        rule_name: String,
    },
    /// Say whether the time of the machine's last successful sync is shown.
    FindSyncTime {
        /// The machine.
        machine_id: String,
    },
}

/// The task as an instruction or a question to a person.
impl fmt::Display for OperatorTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ChangeRules => {
                f.write_str("On the server, add one rule and change the policy of another one.")
            }
            Self::ChangeMode => f.write_str(
                "On the server, change the client mode for the machines of this run; skip this if \
                 it cannot be changed.",
            ),
            Self::ChangeOneRule => f.write_str(
                "On the server, change the policy of one rule; do not add or delete any.",
            ),
            Self::RestartServer => f.write_str(
                "Restart the server, and wait until it serves again. A sync is in progress, and \
                 may fail.",
            ),
            Self::DeleteOneRule => f.write_str("On the server, delete one rule."),
            Self::RequestCleanSync { machine_id } => {
                write!(f, "On the server, request a clean sync for machine {machine_id}.")
            }
            Self::FindEvents { machine_id, path, name } => write!(
                f,
                "Look at the events of machine {machine_id}. Are those named {name}-… there, with \
                 path {path}, hash, decision and time?"
            ),
            Self::FindFileAccessEvent { machine_id, rule_name } => write!(
                f,
                "Look at the file-access events of machine {machine_id}. Is one of the rule \
                 {rule_name}-… there? Skip this if the server shows no such events."
            ),
            Self::FindSyncTime { machine_id } => write!(
                f,
                "Look at machine {machine_id}. Does the server show the time of its last sync, a \
                 moment ago?"
            ),
        }
    }
}

impl OperatorTask {
    /// How many tasks the check of a requirement has if it does not complain; a check that does
    /// is repeated.
    pub(super) fn count_for(requirement: &str) -> usize {
        match requirement {
            "OPS-02" | "OPS-04" | "OPS-06" => 1,
            "OPS-01" => 2,
            "OPS-03" | "OPS-05" => 3,
            _ => 0,
        }
    }
}

/// What the operator replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperatorReply {
    /// It is done, or the answer is yes.
    Yes,
    /// The answer is no.
    No,
    /// It cannot be done on this server.
    Skip,
}

/// Somebody, or something, that operates the server under test.
///
/// [`OperatorTask::ChangeOneRule`] and the like are done when `ask` returns
/// [`OperatorReply::Yes`].
pub trait Operator: Send {
    /// Does the task, or answers the question. This may take as long as the operator needs.
    fn ask(&mut self, task: &OperatorTask) -> OperatorReply;
}

/// How much time the operator takes. Times are those since some moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct OperatorTime {
    /// For what is done.
    took: Duration,
    /// When the operator was asked what is not.
    since: Option<Duration>,
}

impl OperatorTime {
    /// The operator is asked something.
    pub(super) const fn begin(&mut self, now: Duration) {
        self.since = Some(now);
    }

    /// The operator has replied.
    pub(super) fn end(&mut self, now: Duration) {
        self.took = self.until(now);
        self.since = None;
    }

    /// How much of the time until `now` was the operator's.
    pub(super) fn until(&self, now: Duration) -> Duration {
        self.took + self.since.map_or(Duration::ZERO, |since| now.saturating_sub(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_every_task_counts_the_running_one_included() {
        let secs = Duration::from_secs;
        let mut time = OperatorTime::default();
        time.begin(secs(10));
        assert_eq!(time.until(secs(15)), secs(5));
        time.end(secs(20));
        assert_eq!(time.until(secs(100)), secs(10));
        time.begin(secs(100));
        assert_eq!(time.until(secs(101)), secs(11));
    }
}
