//! Why a command failed: its exit code, what went wrong, and how to fix it.
//!
//! Every error that ends a command becomes an [`Error`] here, so that each exit
//! code of `docs/errors.md` is decided in this file or by [`SyncResult`].

use std::borrow::Cow;
use std::fmt;
use std::process::ExitCode;

use super::service::ServiceError;
use crate::agent::AgentError;
use crate::config::{ConfigError, Finding, FindingKind, Severity};
use crate::daemon::DaemonError;
use crate::failure::Remedy;
#[cfg(feature = "harness")]
use crate::harness::{HarnessError, MergeError, SimulationError, TomlFileError};
use crate::model::SyncResult;
use crate::model::text::joined;
use crate::relay::certificates::CertificateError;
use crate::store::{CommitError, LockError, StoreError};

/// The command line cannot be understood, or asks for what cannot be done.
pub(super) const EXIT_USAGE: u8 = 64;
/// `status --max-age`: the last successful sync is too old.
pub(super) const EXIT_TOO_OLD: u8 = 1;
/// The daemon or its service manager does not respond.
pub(super) const EXIT_UNREACHABLE: u8 = SyncResult::DaemonNotReachable.exit_code();
/// A bug in this program, or a system that lacks something it needs.
pub(super) const EXIT_INTERNAL: u8 = SyncResult::InternalError.exit_code();
/// The state directory, a database or another file cannot be used.
pub(super) const EXIT_UNUSABLE: u8 = SyncResult::StateUnusable.exit_code();
/// The configuration cannot be used.
pub(super) const EXIT_CONFIG: u8 = SyncResult::BadConfiguration.exit_code();

/// SIGHUP ended the command before its work was done.
#[cfg(feature = "harness")]
pub(super) const EXIT_HUNG_UP: u8 = 129;
/// SIGINT ended the command before its work was done.
#[cfg(feature = "harness")]
pub(super) const EXIT_INTERRUPTED: u8 = 130;
/// SIGTERM ended the command before its work was done.
#[cfg(feature = "harness")]
pub(super) const EXIT_TERMINATED: u8 = 143;

/// Why a command failed.
#[derive(Debug)]
pub(super) struct Error {
    /// The exit code of the process.
    exit: u8,
    /// What failed, where and why.
    what: String,
    /// How to fix it.
    fix: Option<String>,
}

impl Error {
    /// An error that ends the process with the exit code `exit`.
    pub(super) fn new(exit: u8, what: impl Into<String>) -> Self {
        Self { exit, what: what.into(), fix: None }
    }

    /// An error that knows its remedy.
    pub(super) fn of(exit: u8, error: &dyn Remedy) -> Self {
        Self { exit, what: error.to_string(), fix: error.fix().map(Cow::into_owned) }
    }

    /// What the command line asks for cannot be done.
    pub(super) fn usage(what: impl Into<String>) -> Self {
        Self::new(EXIT_USAGE, what)
    }

    /// A bug in this program, or a system that lacks something it needs.
    pub(super) fn internal(what: impl Into<String>) -> Self {
        Self::new(EXIT_INTERNAL, what)
    }

    /// The state directory or a file cannot be used.
    pub(super) fn unusable(what: impl Into<String>) -> Self {
        Self::new(EXIT_UNUSABLE, what)
    }

    /// Says how to fix it.
    pub(super) fn with_fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    /// Adds a consequence to what went wrong.
    pub(super) fn and(mut self, consequence: impl fmt::Display) -> Self {
        self.what = format!("{}; {consequence}", self.what);
        self
    }

    /// What failed and how to fix it, apart.
    pub(super) fn parts(&self) -> (String, Option<String>) {
        (self.what.clone(), self.fix.clone())
    }

    /// The exit code of the process.
    pub(super) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.exit)
    }
}

/// What went wrong and how to fix it, as one text.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&joined(&self.what, self.fix.as_deref()))
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        Self::of(EXIT_UNUSABLE, &error)
    }
}

impl From<CommitError> for Error {
    fn from(error: CommitError) -> Self {
        Self::unusable(error.to_string())
    }
}

impl From<LockError> for Error {
    fn from(error: LockError) -> Self {
        let result = match error {
            LockError::TooManySyncs(_) => SyncResult::TooManySyncs,
            LockError::NotAFile { .. } | LockError::Unusable { .. } => SyncResult::StateUnusable,
        };
        Self::of(result.exit_code(), &error)
    }
}

impl From<AgentError> for Error {
    fn from(error: AgentError) -> Self {
        match error {
            AgentError::Store(error) => error.into(),
            AgentError::Lock(error) => error.into(),
            AgentError::Daemon(_) => Self::of(EXIT_UNUSABLE, &error),
        }
    }
}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Self {
        Self::of(exit_of(error.findings()), &error)
    }
}

impl From<DaemonError> for Error {
    fn from(error: DaemonError) -> Self {
        let exit = match error {
            DaemonError::Store(_) | DaemonError::Lock { .. } | DaemonError::Taken { .. } => {
                EXIT_UNUSABLE
            }
            DaemonError::System(_) => EXIT_INTERNAL,
        };
        Self::of(exit, &error)
    }
}

impl From<CertificateError> for Error {
    fn from(error: CertificateError) -> Self {
        Self::of(EXIT_UNUSABLE, &error)
    }
}

impl From<ServiceError> for Error {
    fn from(error: ServiceError) -> Self {
        let exit = match error {
            ServiceError::File { .. } | ServiceError::Program(_) | ServiceError::Exposed { .. } => {
                EXIT_UNUSABLE
            }
            ServiceError::Runner { .. }
            | ServiceError::Command { .. }
            | ServiceError::NotRunning { .. } => EXIT_UNREACHABLE,
        };
        Self::of(exit, &error)
    }
}

#[cfg(feature = "harness")]
impl From<TomlFileError> for Error {
    fn from(error: TomlFileError) -> Self {
        Self::of(EXIT_USAGE, &error)
    }
}

#[cfg(feature = "harness")]
impl From<HarnessError> for Error {
    fn from(error: HarnessError) -> Self {
        let exit = match error {
            HarnessError::Listen { .. } | HarnessError::Admin(_) | HarnessError::Recording(_) => {
                EXIT_USAGE
            }
            HarnessError::Thread(_) | HarnessError::Tls(_) => EXIT_INTERNAL,
        };
        Self::of(exit, &error)
    }
}

#[cfg(feature = "harness")]
impl From<SimulationError> for Error {
    fn from(error: SimulationError) -> Self {
        let exit = match error {
            SimulationError::Url(_) | SimulationError::NotYours(_) | SimulationError::Plan(_) => {
                EXIT_USAGE
            }
            SimulationError::Transport(_) => EXIT_CONFIG,
            SimulationError::Unreachable(_) => EXIT_UNREACHABLE,
            SimulationError::MachineId(_) | SimulationError::Runtime(_) => EXIT_INTERNAL,
        };
        Self::of(exit, &error)
    }
}

#[cfg(feature = "harness")]
impl From<MergeError> for Error {
    fn from(error: MergeError) -> Self {
        Self::of(EXIT_USAGE, &error)
    }
}

/// The exit code of a configuration with these findings: the command line is
/// the user's to fix at once, the rest is configuration.
pub(super) fn exit_of(findings: &[Finding]) -> u8 {
    let mut errors = findings.iter().filter(|f| f.severity == Severity::Error);
    match errors.next() {
        None => 0,
        Some(first) if first.kind == FindingKind::BadSet => EXIT_USAGE,
        Some(_) => EXIT_CONFIG,
    }
}

#[cfg(test)]
mod tests {
    #[cfg(feature = "harness")]
    use std::collections::BTreeSet;

    use super::*;

    /// Each exit code is documented, and each documented one exists.
    #[cfg(feature = "harness")]
    #[test]
    fn the_documented_exit_codes_are_those_of_the_program() {
        let page = include_str!("../../docs/errors.md");
        let table = page.split("## Exit codes").nth(1).and_then(|rest| rest.split("\n## ").next());
        let cells = table.expect("the table").lines().filter_map(|line| line.split('|').nth(1));
        let documented: BTreeSet<u8> = cells.filter_map(|cell| cell.trim().parse().ok()).collect();
        let results = [
            SyncResult::Success,
            SyncResult::PreflightFailed,
            SyncResult::EventUploadFailed,
            SyncResult::RuleDownloadFailed,
            SyncResult::PostflightFailed,
            SyncResult::TooManySyncs,
            SyncResult::MissingSyncBaseUrl,
            SyncResult::MissingMachineId,
        ];
        let results = results.map(SyncResult::exit_code).into_iter();
        let others =
            [EXIT_USAGE, EXIT_TOO_OLD, EXIT_UNREACHABLE, EXIT_INTERNAL, EXIT_UNUSABLE, EXIT_CONFIG];
        let signals = [EXIT_HUNG_UP, EXIT_INTERRUPTED, EXIT_TERMINATED];
        assert_eq!(documented, results.chain(others).chain(signals).collect());
    }

    #[test]
    fn an_error_says_what_and_then_how_to_fix_it() {
        let error = Error::usage("it is broken").with_fix("repair it");
        assert_eq!(
            error.and("line 3 is lost").to_string(),
            "it is broken; line 3 is lost; repair it"
        );
    }
}
