//! What the relay keeps about its authorizer: what it acknowledged (RELAY-7), and which
//! settings it was given.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::plan::{Shortfall, Surplus};
use super::release::{Release, RuleForm};
use crate::files::{self, Replacement};
use crate::model::{MachineId, RelayManner, RuleCounts, SyncType, Timestamp};

/// The name of the state's file in the state directory.
pub const RELAY_FILE: &str = "relay.json";
/// The maximum size of that file, in bytes.
const MAX_BYTES: u64 = 1 << 20;
/// The version of the file's schema.
const SCHEMA_VERSION: u32 = 1;
/// The most generations kept that were sent and not acknowledged.
const MAX_SENT: usize = 32;

/// The last delivery that the authorizer said it has taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledgement {
    /// The generation of the rules.
    pub generation: i64,
    /// A digest of all columns of these rules, in order.
    pub digest: String,
    /// The counts of these rules, as they were sent.
    pub counts: RuleCounts,
    /// The form in which they were sent.
    #[serde(default)]
    pub form: RuleForm,
    /// Whether that form alters rules or leaves rules out.
    #[serde(default)]
    pub altered: bool,
    /// What the authorizer counts beyond them; `None` until its next preflight.
    pub surplus: Option<Surplus>,
    /// What it had counted when it lacked some, before the clean sync that sent all of them
    /// again; `None` once it has all.
    #[serde(default)]
    pub shortfall: Option<Shortfall>,
    /// The hash it reported afterwards, which is the reference for whether it
    /// still holds them; `None` from releases before 2025.7.
    pub rules_hash: Option<String>,
    /// Whether that hash differs from the hash of the rules as they were sent. If so, the
    /// authorizer has rules that are not ours, or did not take some.
    pub drift: bool,
    /// Rules it received.
    pub rules_received: u64,
    /// Rules it says it has processed.
    pub rules_processed: u64,
    /// The type of the sync.
    pub sync_type: SyncType,
    /// Whether it may hold rules from elsewhere, because no clean sync had
    /// filled our store.
    pub partial: bool,
    /// The time of the postflight.
    pub at: Timestamp,
}

/// A generation that was sent whole, so that the authorizer may hold it even if its postflight
/// was lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentGeneration {
    /// The number of the generation.
    pub generation: i64,
    /// A digest of all columns of its rules, in order.
    pub digest: String,
    /// The hash of its rules as they were sent.
    pub rules_hash: String,
    /// The form in which they were sent.
    pub form: RuleForm,
    /// Whether that form alters rules or leaves rules out.
    pub altered: bool,
}

/// Everything the relay keeps.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RelayState {
    /// The version of the file's schema.
    schema_version: u32,
    /// The manner and the machine id of the authorizer; empty if an older version wrote the
    /// file.
    served: (String, String),
    /// The last acknowledged delivery.
    pub acknowledged: Option<Acknowledgement>,
    /// The generations that were sent whole since then, and the acknowledged one, in the order
    /// in which they were sent first; at most 32.
    pub sent: Vec<SentGeneration>,
    /// The settings given since the authorizer's last clean sync, by name.
    pub handed_out: BTreeSet<String>,
    /// The settings given before, which its release did not clear in a clean sync.
    pub left_over: BTreeSet<String>,
    /// What it counted when it lacked rules that it had acknowledged.
    pub shortfall: Option<Shortfall>,
    /// A digest of the settings in the last sync that the authorizer finished.
    pub settings: String,
}

impl RelayState {
    /// Reads the state from a directory. A file that cannot be read counts as an empty state:
    /// the authorizer is then sent everything again.
    #[must_use]
    pub fn read(state_dir: &Path) -> Self {
        let path = state_dir.join(RELAY_FILE);
        let text = match files::read_own(&path, MAX_BYTES) {
            Ok(Some(text)) => text,
            Ok(None) => return Self::default(),
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "what the authorizer holds is not known");
                return Self::default();
            }
        };
        match serde_json::from_slice::<Self>(&text) {
            Ok(state) if state.schema_version == SCHEMA_VERSION => state,
            Ok(_) | Err(_) => {
                let path = path.display();
                tracing::warn!(%path, "damaged, so what the authorizer holds is not known");
                Self::default()
            }
        }
    }

    /// The state for an authorizer of this manner and machine id. If the relay served another
    /// one before, its acknowledgement is discarded; settings that were handed out are kept.
    #[must_use]
    pub fn of(mut self, manner: RelayManner, machine_id: &MachineId) -> Self {
        let served = (manner.name().to_owned(), machine_id.as_str().to_owned());
        if self.served != served && self.served != Default::default() {
            tracing::info!("the relay serves a different authorizer than before");
            (self.acknowledged, self.shortfall) = (None, None);
            self.sent.clear();
            self.settings.clear();
        }
        Self { served, ..self }
    }

    /// A copy of the state after the authorizer has taken settings with this digest.
    #[must_use]
    pub fn with_settings(&self, settings: String) -> Self {
        Self { settings, ..self.clone() }
    }

    /// A copy of the state after a generation was sent whole. If too many are kept, it is not
    /// added: a later one must not be mistaken for an earlier one that was dropped.
    #[must_use]
    pub fn with_sent(&self, sent: SentGeneration) -> Self {
        let mut state = self.clone();
        if !state.sent.contains(&sent) && state.sent.len() < MAX_SENT {
            state.sent.push(sent);
        }
        state
    }

    /// Replaces the file in one step; it is on disk when this returns.
    ///
    /// # Errors
    /// If it cannot be written; the old file is then unchanged.
    pub fn write(&mut self, state_dir: &Path) -> io::Result<()> {
        self.schema_version = SCHEMA_VERSION;
        let mut text = Vec::new();
        crate::model::text::write_json_pretty(&mut text, self)?;
        let how = Replacement { mode: 0o600, durable: true };
        Ok(files::replace(&state_dir.join(RELAY_FILE), &text, how)?)
    }

    /// Records a clean sync: the authorizer has the settings `given`, and also those from before
    /// if its release does not clear them.
    pub fn note_clean_sync(&mut self, given: BTreeSet<String>, clears_settings: bool) {
        let before = std::mem::replace(&mut self.handed_out, given);
        if clears_settings {
            self.left_over.clear();
        } else {
            self.left_over.extend(before);
        }
    }

    /// The names of settings that were given and are no longer in force, and that a clean sync of
    /// this release would clear.
    #[must_use]
    pub fn withdrawn(&self, in_force: &BTreeSet<String>, release: Option<Release>) -> Vec<String> {
        let left_over = Some(&self.left_over).filter(|_| Release::clears_settings(release));
        let given: BTreeSet<_> =
            self.handed_out.iter().chain(left_over.into_iter().flatten()).collect();
        given.into_iter().filter(|name| !in_force.contains(*name)).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RELAY-6: a later generation is not kept in the place of an earlier one with the same hash.
    #[test]
    fn relay_6_the_first_generations_that_were_sent_are_kept() {
        let sent = |generation| SentGeneration {
            generation,
            digest: format!("digest-{generation}"),
            rules_hash: "hash".to_owned(),
            form: RuleForm::AsStored,
            altered: false,
        };
        let mut state = RelayState::default();
        for generation in [1, 2, 1].into_iter().chain(3..100) {
            state = state.with_sent(sent(generation));
        }
        let kept: Vec<_> = state.sent.iter().map(|sent| sent.generation).collect();
        assert_eq!(kept, (1..=32).collect::<Vec<_>>());
    }

    /// RELAY-6: if `RelayManner` or the machine id has changed, or the state directory was
    /// copied, the acknowledgement of the previous authorizer does not count.
    #[test]
    fn relay_6_another_authorizer_has_acknowledged_nothing() {
        let id = |id| MachineId::new(id).expect("an id");
        let dir = tempfile::tempdir().expect("a directory");
        let mut state = RelayState::default().of(RelayManner::Santa, &id("one"));
        state.settings = "digest".to_owned();
        state.handed_out = BTreeSet::from(["client_mode".to_owned()]);
        state.write(dir.path()).expect("written");
        let read = || RelayState::read(dir.path());
        assert_eq!(read().of(RelayManner::Santa, &id("one")), state);
        for (manner, other) in [(RelayManner::Pedro, "one"), (RelayManner::Santa, "two")] {
            let served = read().of(manner, &id(other));
            assert_eq!((served.settings.as_str(), &served.acknowledged), ("", &None));
            assert_eq!(served.handed_out, state.handed_out, "it may have these settings");
        }
        // A file without the manner and the machine id, as older versions wrote it.
        let text = r#"{"schema_version":1,"settings":"digest"}"#;
        std::fs::write(dir.path().join(RELAY_FILE), text).expect("written");
        assert_eq!(read().of(RelayManner::Pedro, &id("one")).settings, "digest");
    }
}
