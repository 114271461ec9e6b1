//! What the authorizer of this host reported when it last asked the relay for its
//! settings, kept in the state directory for syncs with the upstream server
//! (RELAY-10).

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Fact, HostReport, dotted};
use crate::config::RelayConfig;
use crate::files::{self, Obstacle, Replacement};
use crate::model::{AuthorizerState, ClientMode, Timestamp};

/// The file in the state directory.
pub const AUTHORIZER_FILE: &str = "authorizer.json";
/// The largest file that is read, in bytes.
const MAX_BYTES: u64 = 1 << 20;
/// The longest text that is kept, in bytes.
const MAX_TEXT_BYTES: usize = 1024;
/// The most groups that are kept.
const MAX_GROUPS: usize = 64;

/// How long a report is news.
const NEWS_FOR: Duration = Duration::from_hours(24);
/// A report from further in the future than this says nothing about its age: the
/// clock was wrong then or is wrong now.
const MAX_FUTURE: Duration = Duration::from_hours(24);

/// The source of a fact that the authorizer reported.
const REPORTED: &str = "the authorizer's last preflight";

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
    /// The SIP flags; `None` if its release does not report them.
    #[serde(default)]
    pub sip_status: Option<u32>,
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

    /// What the last report says at this time.
    ///
    /// A report from the future counts as recent, because the clock may have been set
    /// back since. One from more than 24 h ahead does not, but it does not show either
    /// how long the authorizer has been silent.
    #[must_use]
    pub fn state(
        report: Option<&Self>,
        relay: Option<&RelayConfig>,
        now: Timestamp,
    ) -> AuthorizerState {
        relay.map_or(AuthorizerState::NotServed, |relay| {
            Self::state_when_served(report, relay.stale, now)
        })
    }

    /// The same where a relay is known to run, whose `RelayStale` is given.
    #[must_use]
    pub fn state_when_served(
        report: Option<&Self>,
        stale: Option<Duration>,
        now: Timestamp,
    ) -> AuthorizerState {
        let Some(report) = report else { return AuthorizerState::NeverSeen };
        let (age, since) = (now.since(report.at), report.at);
        if stale.is_some_and(|stale| age > stale) {
            AuthorizerState::Stale { since }
        } else if age < NEWS_FOR && report.at.since(now) <= MAX_FUTURE {
            let client_mode = report.client_mode.unwrap_or(ClientMode::Monitor);
            AuthorizerState::Heard { client_mode, transitive: report.transitive }
        } else {
            AuthorizerState::Silent { since }
        }
    }
}

impl HostReport {
    /// The facts with what the authorizer knows better, if its report is news and
    /// came over an authenticated connection.
    #[must_use]
    pub fn with_authorizer(
        mut self,
        report: Option<&AuthorizerReport>,
        state: AuthorizerState,
    ) -> Self {
        let Some(report) = report.filter(|report| report.authenticated) else { return self };
        if !matches!(state, AuthorizerState::Heard { .. }) {
            return self;
        }
        let version = report.santa_version.trim();
        if dotted(version) == Some(version) {
            version.clone_into(&mut self.facts.santa_version);
            self.note_reported("santa_version", version);
        }
        if let Some(flags) = report.sip_status {
            self.facts.sip_status = flags;
            self.note_reported("sip_status", &format!("{flags:#x}"));
        }
        let user = report.primary_user.trim();
        if !user.is_empty() {
            let groups = &report.primary_user_groups;
            user.clone_into(&mut self.facts.primary_user);
            self.facts.primary_user_groups.clone_from(groups);
            self.sources.retain(|(name, _)| *name != "primary_user_group");
            self.note_reported("primary_user", user);
            let groups = groups.iter().map(|group| ("primary_user_group", reported(group)));
            self.sources.extend(groups);
        }
        self
    }

    fn note_reported(&mut self, name: &str, value: &str) {
        for (_, fact) in self.sources.iter_mut().filter(|(known, _)| *known == name) {
            *fact = reported(value);
        }
    }
}

fn reported(value: &str) -> Fact {
    Fact::new(value, REPORTED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Layer, Source};
    use crate::host::{RecordedHost, facts};

    const NOW: Timestamp = Timestamp::from_secs(1_755_000_000);

    fn hours_ago(hours: i64) -> AuthorizerReport {
        AuthorizerReport {
            at: Timestamp::from_secs(NOW.as_secs() - hours * 3600),
            client_mode: Some(ClientMode::Lockdown),
            transitive: 7,
            santa_version: "2026.7.123".to_owned(),
            sip_status: Some(3),
            primary_user: "kim".to_owned(),
            primary_user_groups: vec!["staff".to_owned(), "devs".to_owned()],
            authenticated: true,
        }
    }

    fn config(entries: &[(&str, &str)]) -> std::sync::Arc<Config> {
        let values =
            entries.iter().map(|(k, v)| ((*k).to_owned(), plist::Value::from(*v))).collect();
        let source = Source::File("/c.plist".into());
        Config::resolve(&[Layer { source, domain: None, values, exposed: false }]).config
    }

    fn relay(stale: Option<Duration>) -> RelayConfig {
        let config = config(&[("RelayListen", "127.0.0.1:917")]);
        RelayConfig { stale, ..config.relay.clone().expect("a relay") }
    }

    /// RELAY-10: news for 24 h, then silence, and after `RelayStale` only events.
    #[test]
    fn relay_10_a_report_is_news_for_a_day() {
        let relay = relay(Some(Duration::from_hours(72)));
        let state = |report: Option<&AuthorizerReport>| {
            AuthorizerReport::state(report, Some(&relay), NOW).name()
        };
        assert_eq!(state(None), "never_seen");
        for (hours, expected) in [(0, "heard"), (23, "heard"), (24, "silent"), (72, "silent")] {
            assert_eq!(state(Some(&hours_ago(hours))), expected, "{hours}");
        }
        assert_eq!(state(Some(&hours_ago(73))), "stale");
        let never = self::relay(None);
        let old = hours_ago(10_000);
        assert_eq!(AuthorizerReport::state(Some(&old), Some(&never), NOW).name(), "silent");
        assert_eq!(AuthorizerReport::state(Some(&old), None, NOW), AuthorizerState::NotServed);
        let soon = self::relay(Some(Duration::from_hours(1)));
        assert_eq!(
            AuthorizerReport::state(Some(&hours_ago(2)), Some(&soon), NOW).name(),
            "stale",
            "RelayStale may be less than a day"
        );
    }

    /// RELAY-10: a clock that was set back makes a report come from the future. It is
    /// news, unless it is nonsense; no clock makes a host that has just been heard
    /// stale for it.
    #[test]
    fn relay_10_a_report_from_the_future_is_news_within_a_day() {
        let relay = relay(Some(Duration::from_hours(72)));
        for (hours, expected) in
            [(-1, "heard"), (-24, "heard"), (-25, "silent"), (-100_000, "silent")]
        {
            let report = hours_ago(hours);
            let state = AuthorizerReport::state(Some(&report), Some(&relay), NOW);
            assert_eq!(state.name(), expected, "{hours}");
        }
    }

    /// RELAY-10: the mode is the authorizer's, and MONITOR without news.
    #[test]
    fn relay_10_without_news_the_mode_is_monitor() {
        use crate::model::RuleCounts;
        let relay = relay(None);
        let state = |report| AuthorizerReport::state(report, Some(&relay), NOW);
        let (news, old) = (hours_ago(1), hours_ago(30));
        let modeless = AuthorizerReport { client_mode: None, ..hours_ago(1) };
        let own = RuleCounts { binary: 5, transitive: 1, teamid: 2, ..RuleCounts::default() };
        for (report, mode) in [
            (Some(&news), ClientMode::Lockdown),
            (Some(&modeless), ClientMode::Monitor),
            (Some(&old), ClientMode::Monitor),
            (None, ClientMode::Monitor),
        ] {
            assert_eq!(state(report).client_mode(ClientMode::Standalone), mode);
        }
        assert_eq!(
            AuthorizerState::NotServed.client_mode(ClientMode::Standalone),
            ClientMode::Standalone
        );
        let counts = state(Some(&news)).rule_counts(own);
        assert_eq!(counts, RuleCounts { binary: 12, transitive: 8, teamid: 2, ..own });
        assert_eq!(state(Some(&old)).rule_counts(own), own);
        let huge = AuthorizerReport { transitive: u32::MAX, ..hours_ago(1) };
        assert_eq!(state(Some(&huge)).rule_counts(own).binary, u32::MAX);
    }

    /// RELAY-10: version, SIP and primary user only if nobody else can have said so.
    #[test]
    fn relay_10_facts_come_from_authenticated_reports_only() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/host/macos-laptop");
        let config = config(&[("MachineOwner", "owner"), ("RelayListen", "127.0.0.1:917")]);
        let relay = config.relay.as_ref();
        let own = || facts(&config, &RecordedHost::new(root.clone()));
        let with = |report: AuthorizerReport| {
            let state = AuthorizerReport::state(Some(&report), relay, NOW);
            own().with_authorizer(Some(&report), state)
        };
        let unchanged = own().facts;
        let stranger = AuthorizerReport { authenticated: false, ..hours_ago(1) };
        assert_eq!(with(stranger).facts, unchanged);
        assert_eq!(with(hours_ago(24)).facts, unchanged);

        let report = with(hours_ago(1));
        assert_eq!(
            (report.facts.santa_version.as_str(), report.facts.sip_status),
            ("2026.7.123", 3)
        );
        assert_eq!(report.facts.primary_user, "kim");
        assert_eq!(report.facts.primary_user_groups, ["staff", "devs"]);
        assert_eq!(report.facts.serial_number, unchanged.serial_number);
        let told = |wanted: &str| -> Vec<_> {
            let facts = report.sources.iter().filter(|(name, _)| *name == wanted);
            facts.map(|(_, fact)| format!("{} ({})", fact.value, fact.source)).collect()
        };
        assert_eq!(told("santa_version"), ["2026.7.123 (the authorizer's last preflight)"]);
        assert_eq!(told("sip_status"), ["0x3 (the authorizer's last preflight)"]);
        assert_eq!(told("primary_user"), ["kim (the authorizer's last preflight)"]);
        assert_eq!(told("primary_user_group").len(), 2);

        // PRE-1: unusable values do not replace usable ones. SIP flags that an old release does
        // not report are not the same as zero.
        let odd = AuthorizerReport {
            sip_status: None,
            santa_version: "newest".to_owned(),
            primary_user: " ".to_owned(),
            ..hours_ago(1)
        };
        let report = with(odd);
        assert_eq!(report.facts.santa_version, unchanged.santa_version);
        assert_eq!(report.facts.sip_status, unchanged.sip_status);
        assert_eq!(report.facts.primary_user, "owner");
    }

    /// RELAY-10: the file is private, and what it holds is bounded; a damaged one
    /// counts as none.
    #[test]
    fn relay_10_the_report_is_kept_within_bounds() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(AuthorizerReport::read(dir.path()), None);
        for report in [hours_ago(5), hours_ago(1)] {
            report.keep(dir.path()).expect("kept");
            assert_eq!(AuthorizerReport::read(dir.path()), Some(report));
        }
        let path = dir.path().join(AUTHORIZER_FILE);
        let mode = std::fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        let long = "\u{1}".repeat(MAX_TEXT_BYTES + 1);
        let large = AuthorizerReport {
            santa_version: long.clone(),
            primary_user: "\u{1}".repeat(MAX_TEXT_BYTES),
            primary_user_groups: [vec![long], vec!["\u{1}".repeat(MAX_TEXT_BYTES); MAX_GROUPS + 1]]
                .concat(),
            ..hours_ago(1)
        };
        large.keep(dir.path()).expect("kept");
        let read = AuthorizerReport::read(dir.path()).expect("a report");
        assert_eq!((read.santa_version.as_str(), read.primary_user.len()), ("", MAX_TEXT_BYTES));
        assert_eq!(read.primary_user_groups.len(), MAX_GROUPS);

        // One of a newer version, and damaged ones.
        std::fs::write(&path, r#"{"at":"2026-01-01T00:00:00Z","later":{}}"#).expect("written");
        assert_eq!(AuthorizerReport::read(dir.path()).expect("read").transitive, 0);
        for text in ["", "{}", "{\"at\":5}"] {
            std::fs::write(&path, text).expect("written");
            assert_eq!(AuthorizerReport::read(dir.path()), None, "{text}");
        }
        std::fs::write(&path, " ".repeat((1 << 20) + 1)).expect("written");
        assert_eq!(AuthorizerReport::read(dir.path()), None);
    }
}
