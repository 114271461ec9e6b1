//! What the authorizer of this host reported when it last asked the relay for its
//! settings, kept in the state directory for syncs with the upstream server
//! (RELAY-10).

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::files::{self, Obstacle, Replacement};
use crate::model::{ClientMode, Timestamp};

/// The file in the state directory.
pub const AUTHORIZER_FILE: &str = "authorizer.json";
/// The largest file that is read, in bytes.
const MAX_BYTES: u64 = 1 << 20;
/// The longest text that is kept, in bytes.
const MAX_TEXT_BYTES: usize = 1024;
/// The most groups that are kept.
const MAX_GROUPS: usize = 64;

/// What a preflight request of the authorizer said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorizerReport {
    /// When it came.
    pub at: Timestamp,
    /// The mode in effect there; `None` if it names none.
    #[serde(default)]
    pub client_mode: Option<ClientMode>,
    /// How many transitive rules it has.
    #[serde(default)]
    pub transitive: u32,
    /// Its version.
    #[serde(default)]
    pub santa_version: String,
    /// The SIP flags.
    #[serde(default)]
    pub sip_status: u32,
    /// The person to whom the host belongs; may be empty.
    #[serde(default)]
    pub primary_user: String,
    /// Groups of that person.
    #[serde(default)]
    pub primary_user_groups: Vec<String>,
    /// It came over an authenticated connection (RELAY-12).
    #[serde(default)]
    pub authenticated: bool,
}

impl AuthorizerReport {
    /// Keeps the report in a state directory, in place of the former one. It is on
    /// disk when this returns. Texts of over 1 KiB and groups beyond the first 64 are
    /// left out.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn keep(&self, state_dir: &Path) -> Result<(), Obstacle> {
        let mut kept = self.clone();
        for text in [&mut kept.santa_version, &mut kept.primary_user] {
            if text.len() > MAX_TEXT_BYTES {
                text.clear();
            }
        }
        kept.primary_user_groups.retain(|group| group.len() <= MAX_TEXT_BYTES);
        kept.primary_user_groups.truncate(MAX_GROUPS);
        let text = serde_json::to_vec(&kept).map_err(std::io::Error::from)?;
        let how = Replacement { mode: 0o600, durable: true };
        files::replace(&state_dir.join(AUTHORIZER_FILE), &text, how)
    }

    /// Reads the last report; `None` if there is none. One that cannot be read is
    /// logged and counts as none.
    #[must_use]
    pub fn read(state_dir: &Path) -> Option<Self> {
        let path = state_dir.join(AUTHORIZER_FILE);
        let read = files::read_own(&path, MAX_BYTES).map_err(|error| error.to_string());
        let report = read.and_then(|bytes| {
            bytes
                .map(|bytes| serde_json::from_slice(&bytes).map_err(|error| error.to_string()))
                .transpose()
        });
        report.unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), error, "cannot read what the authorizer reported last");
            None
        })
    }
}
