//! Pedro, the authorizer for Linux, as a sync server sees it: its client, and the map
//! its kernel part decides by.

use std::collections::BTreeMap;
use std::time::Duration;

use santa_sync::model::{ContentEncoding, Stage};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::link::{Link, Loss, Post};

/// The longest answer it reads, in bytes.
const LONGEST: usize = 10 << 20;
/// The entries of its map.
const ENTRIES: usize = 65_536;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) enum Mode {
    #[serde(rename = "MONITOR")]
    Monitor,
    #[serde(rename = "LOCKDOWN")]
    Lockdown,
}

/// Types that do not exist for it fail the whole sync; of what it can read it acts on
/// the mode alone.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum SyncType {
    Normal,
    Clean,
    CleanAll,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum FileAccess {
    Disable,
    AuditOnly,
    None,
}

/// Assumed: it knows keys by their `snake_case` names alone; others it passes over.
#[derive(Debug, Deserialize)]
struct Preflight {
    client_mode: Option<Mode>,
    #[serde(rename = "sync_type")]
    _sync_type: Option<SyncType>,
    #[serde(rename = "remount_usb_mode")]
    _remount_usb_mode: Option<String>,
    #[serde(rename = "override_file_access_action")]
    _override: Option<FileAccess>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum Policy {
    Allowlist,
    AllowlistCompiler,
    Blocklist,
    Remove,
    SilentBlocklist,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
enum RuleType {
    #[serde(rename = "BINARY")]
    Binary,
    #[serde(rename = "CERTIFICATE")]
    Certificate,
    #[serde(rename = "SIGNINGID")]
    SigningId,
    #[serde(rename = "TEAMID")]
    TeamId,
    #[serde(rename = "CD_HASH")]
    CdHash,
}

#[derive(Debug, Deserialize)]
struct Rule {
    identifier: String,
    policy: Policy,
    #[serde(rename = "rule_type")]
    names: RuleType,
}

#[derive(Debug, Deserialize)]
struct Page {
    rules: Option<Vec<Rule>>,
    cursor: Option<String>,
}

/// A host with pedro.
#[derive(Debug)]
pub(crate) struct Pedro {
    pub(crate) base_url: String,
    pub(crate) machine_id: String,
    pub(crate) mode: Mode,
    /// The policy of each binary.
    pub(crate) map: BTreeMap<String, Policy>,
    /// Of the last page, for the next sync's request.
    cursor: String,
}

impl Pedro {
    pub(crate) fn new(base_url: &str) -> Self {
        Self {
            base_url: base_url.to_owned(),
            machine_id: "test-host".to_owned(),
            mode: Mode::Monitor,
            map: BTreeMap::new(),
            cursor: String::new(),
        }
    }

    /// Whether the kernel denies that file: any policy but ALLOWLIST does.
    pub(crate) fn denies(&self, sha256: &str) -> bool {
        self.map.get(sha256).is_some_and(|policy| *policy != Policy::Allowlist)
    }

    /// Makes a sync. A failure leaves what was done up to there.
    pub(crate) fn sync(&mut self) -> Result<(), String> {
        let mut link = Link::new(&self.base_url, None);
        let preflight: Preflight = self.post(
            &mut link,
            Stage::Preflight,
            &json!({
                "serial_num": self.machine_id,
                "hostname": "linux.example.com",
                "os_version": "6.12",
                "os_build": "6.12.1",
                "santa_version": "1.0.0",
                "primary_user": "root",
                "client_mode": if self.mode == Mode::Monitor { "MONITOR" } else { "LOCKDOWN" },
            }),
        )?;
        let page: Page =
            self.post(&mut link, Stage::RuleDownload, &json!({ "cursor": self.cursor }))?;
        self.cursor = page.cursor.unwrap_or_default();
        self.map.clear();
        for rule in page.rules.unwrap_or_default() {
            if rule.names != RuleType::Binary {
                continue;
            }
            if rule.policy == Policy::Remove {
                self.map.remove(&rule.identifier);
                continue;
            }
            if self.map.len() == ENTRIES && !self.map.contains_key(&rule.identifier) {
                return Err("the map is full".to_owned());
            }
            self.map.insert(rule.identifier, rule.policy);
        }
        let done = json!({"rules_received": 0, "rules_processed": 0, "sync_type": "NORMAL"});
        let _: Value = self.post(&mut link, Stage::Postflight, &done)?;
        if let Some(mode) = preflight.client_mode {
            self.mode = mode;
        }
        Ok(())
    }

    fn post<A: DeserializeOwned>(
        &self,
        link: &mut Link,
        stage: Stage,
        body: &Value,
    ) -> Result<A, String> {
        let body = body.to_string();
        let post = Post {
            path: &format!("{}/{}", stage.segment(), self.machine_id),
            headers: &[],
            content_type: "application/json",
            encoding: ContentEncoding::Deflate,
            body: body.as_bytes(),
        };
        let answer = link.post(&post, Duration::from_secs(30), Loss::Nothing);
        let answer = answer.map_err(|error| format!("{stage}: {error}"))?;
        if answer.status != 200 || !answer.is_whole {
            return Err(format!("{stage}: status {}", answer.status));
        }
        if answer.body.len() > LONGEST {
            return Err(format!("{stage}: {} bytes", answer.body.len()));
        }
        let answered: &[u8] = if answer.body.is_empty() { b"{}" } else { &answer.body };
        serde_json::from_slice(answered).map_err(|error| format!("{stage}: {error}"))
    }
}
