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
    /// If the text is empty, an unreplaced placeholder, holds control characters
    /// or is too long.
    pub fn new(text: &str) -> Result<Self, MachineIdError> {
        let text = text.trim();
        if text.is_empty() {
            Err(MachineIdError::Empty)
        } else if is_placeholder(text) {
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

/// What management systems put around the name of a value that they fill in.
/// Those of two characters mean the same within a text, too.
const PLACEHOLDERS: [(&str, &str); 7] =
    [("{{", "}}"), ("[[", "]]"), ("<<", ">>"), ("${", "}"), ("%", "%"), ("{", "}"), ("$", "")];

/// Whether a text is a placeholder that no management system has replaced, or
/// holds one (HOST-2).
#[must_use]
pub fn is_placeholder(text: &str) -> bool {
    let text = text.trim();
    PLACEHOLDERS.iter().any(|(open, close)| {
        if open.len() == 2 {
            return text.match_indices(open).any(|(at, _)| {
                let inner = text.get(at + open.len()..).unwrap_or_default();
                inner.split_once(close).is_some_and(|(name, _)| is_name(name))
            });
        }
        let inner = text.strip_prefix(open).and_then(|inner| inner.strip_suffix(close));
        inner.is_some_and(|name| is_name(name) || *open != "{")
    })
}

/// The name of a value: no UUID, which some systems write in braces.
fn is_name(text: &str) -> bool {
    let text = text.trim();
    let is_uuid = text.len() == 36 && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    let starts = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    starts && !is_uuid && text.chars().all(|c| c.is_alphanumeric() || "_-.:| ()'\"".contains(c))
}

/// What preflight reports about the host besides its rules.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// HOST-2: one of each management system, alone and within a text.
    #[test]
    fn host_2_a_placeholder_of_any_management_system_is_no_id() {
        for text in [
            "{{serialnumber}}",
            "{{ device.serial_number }}",
            "{DeviceSerialNumber}",
            "[[SERIAL]]",
            "$SERIALNUMBER",
            "${udid}",
            "%SerialNumber%",
            "%HardwareUUID%",
            "<<serial>>",
            " {{serialnumber}} ",
            "host-{{serialnumber}}",
            "${udid}.example.com",
            "$",
            "%%",
        ] {
            assert!(is_placeholder(text), "{text}");
            assert!(matches!(MachineId::new(text), Err(MachineIdError::Placeholder(_))), "{text}");
        }
        for id in [
            "{ABCDEF01-2345-6789-ABCD-EF0123456789}",
            "ABCDEF01-2345-6789-ABCD-EF0123456789",
            "C02ABCDEF",
            "host%20one",
            "50%",
            "a$b",
            "[1]",
            "a<<b",
        ] {
            assert_eq!(MachineId::new(id).map(|id| id.as_str().to_owned()), Ok(id.to_owned()));
        }
    }
}
