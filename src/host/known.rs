//! The facts that an earlier sync read, kept in the state directory: a command
//! that fails once must not make this host another one to its server (HOST-1).

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::command::CommandError;
use super::source::{HostSource, Uname};
use super::{Fact, Observed};
use crate::files::{self, Replacement};

/// The file in the state directory.
pub const KNOWN_FACTS_FILE: &str = "host-facts.json";
/// The largest file that is read, in bytes.
const MAX_BYTES: u64 = 64 * 1024;
/// The source of a fact that could not be read now.
const KEPT: &str = "read by an earlier sync";

/// Facts of this host's hardware and system.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KnownFacts {
    hardware_uuid: Option<String>,
    serial_number: Option<String>,
    model_identifier: Option<String>,
    os_version: Option<String>,
    os_build: Option<String>,
    sip_status: Option<u32>,
}

impl KnownFacts {
    pub(super) fn of(observed: &Observed) -> Self {
        let value = |fact: &Option<Fact>| fact.as_ref().map(|fact| fact.value.clone());
        Self {
            hardware_uuid: value(&observed.uuid),
            serial_number: value(&observed.serial),
            model_identifier: value(&observed.model),
            os_version: value(&observed.os_version),
            os_build: value(&observed.os_build),
            sip_status: observed.sip.as_ref().map(|(flags, _)| *flags),
        }
    }

    /// Fills in what could not be observed.
    pub(super) fn fill(self, observed: &mut Observed) {
        let fill = |fact: &mut Option<Fact>, known: Option<String>| {
            if fact.is_none() {
                *fact = known.and_then(|value| Fact::filled(&value, KEPT));
            }
        };
        fill(&mut observed.uuid, self.hardware_uuid);
        fill(&mut observed.serial, self.serial_number);
        fill(&mut observed.model, self.model_identifier);
        fill(&mut observed.os_version, self.os_version);
        fill(&mut observed.os_build, self.os_build);
        if observed.sip.is_none() {
            observed.sip = self.sip_status.map(|flags| (flags, KEPT.to_owned()));
        }
    }

    /// Keeps these facts in a state directory for later syncs. A directory where
    /// they cannot be kept costs only that.
    pub fn keep(&self, state_dir: &Path) {
        if *self == read(state_dir) {
            return;
        }
        let path = state_dir.join(KNOWN_FACTS_FILE);
        let kept = serde_json::to_vec(self).map_err(|error| error.to_string()).and_then(|text| {
            let how = Replacement { mode: 0o600, durable: false };
            files::replace(&path, &text, how).map_err(|error| error.to_string())
        });
        if let Err(error) = kept {
            tracing::debug!(error, "the facts of this host cannot be kept");
        }
    }
}

/// Reads the file; one that is missing, unreadable or not ours has no facts.
fn read(state_dir: &Path) -> KnownFacts {
    let bytes = files::read_own(&state_dir.join(KNOWN_FACTS_FILE), MAX_BYTES).ok().flatten();
    bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

/// A host with the facts in its state directory.
#[derive(Clone, Debug)]
pub struct RememberingHost<H> {
    host: H,
    state_dir: PathBuf,
}

impl<H: HostSource> RememberingHost<H> {
    /// The host whose facts are kept in that state directory.
    pub fn new(host: H, state_dir: impl Into<PathBuf>) -> Self {
        Self { host, state_dir: state_dir.into() }
    }
}

impl<H: HostSource> HostSource for RememberingHost<H> {
    fn uname(&self) -> Uname {
        self.host.uname()
    }

    fn read(&self, path: &Path) -> std::io::Result<Vec<u8>> {
        self.host.read(path)
    }

    fn run(&self, program: &str, args: &[&str]) -> Result<Vec<u8>, CommandError> {
        self.host.run(program, args)
    }

    fn known(&self) -> KnownFacts {
        read(&self.state_dir)
    }
}
