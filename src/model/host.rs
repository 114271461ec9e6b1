//! Who this host is, as a server gets to know it.

use std::fmt;

use thiserror::Error;

/// The id a server knows this host by. Never empty, never an unreplaced
/// placeholder of a profile template.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MachineId(String);

/// Why a text cannot be a machine id.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MachineIdError {
    /// Nothing but white space.
    #[error("the machine id is empty")]
    Empty,
    /// The management system did not fill the placeholder in.
    #[error("the machine id {0:?} is a placeholder that was not replaced")]
    Placeholder(String),
    /// Control characters, more than [`MachineId::MAX_BYTES`] bytes, or a name
    /// that a path takes for a direction.
    #[error("the machine id holds control characters, is longer than 1024 bytes, or is . or ..")]
    Malformed,
}

impl MachineId {
    /// The longest id in bytes: it is a segment of every URL, and servers bound
    /// those at 2 to 8 KiB.
    pub const MAX_BYTES: usize = 1024;

    /// Checks a text and takes it as the machine id. White space around it is
    /// dropped.
    ///
    /// # Errors
    /// If the text is empty, an unreplaced placeholder (`%…%`, `$…`), holds
    /// control characters or is too long.
    pub fn new(text: &str) -> Result<Self, MachineIdError> {
        let text = text.trim();
        let percent = text.len() >= 2 && text.starts_with('%') && text.ends_with('%');
        if text.is_empty() {
            Err(MachineIdError::Empty)
        } else if text.starts_with('$') || percent {
            Err(MachineIdError::Placeholder(text.chars().take(64).collect()))
        } else if text.len() > Self::MAX_BYTES
            || text.chars().any(char::is_control)
            || matches!(text, "." | "..")
        {
            Err(MachineIdError::Malformed)
        } else {
            Ok(Self(text.to_owned()))
        }
    }

    /// The id's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MachineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What preflight tells about the host besides its rules.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct HostFacts {
    /// Serial number of the hardware.
    pub serial_number: String,
    /// Full host name.
    pub hostname: String,
    /// Dotted integers, for example `14.5`.
    pub os_version: String,
    /// For example `23F79`.
    pub os_build: String,
    /// For example `MacBookPro18,3`.
    pub model_identifier: String,
    /// Dotted integers: the Santa this host runs, or the version whose
    /// behaviour this agent has.
    pub santa_version: String,
    /// Short name of the person the host belongs to; may be empty.
    pub primary_user: String,
    /// Groups of that person.
    pub primary_user_groups: Vec<String>,
    /// System Integrity Protection flags: 0 if all of it is on, or the system
    /// has none; all ones if they cannot be read.
    pub sip_status: u32,
}
