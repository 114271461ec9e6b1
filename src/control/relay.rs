//! How the relay stands, as the daemon reports it (RELAY-11).

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{ClientMode, SyncType, Timestamp};

/// How the relay stands.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
pub struct RelayStatus {
    /// Where it listens, as a URL.
    pub url: String,
    /// Why it does not listen; `None` if it does.
    pub error: Option<String>,
    /// How to fix [`Self::error`], where that is known.
    pub error_fix: Option<String>,
    /// Which authorizer it serves, as `RelayManner` names it.
    pub manner: String,
    /// The user of the authorizer's connections is checked, or its certificate.
    pub checks_peers: bool,
    /// Only holders of its client certificate are served.
    pub client_certificate: bool,
    /// Where the authorizer finds the certificates, with TLS.
    pub directory: String,
    /// Whether requests must carry `RelaySecret`.
    pub secret: bool,
    /// Seconds without a preflight after which the server gets events only; `None`: never.
    pub stale_after: Option<u64>,
    /// The machine id that the authorizer must use.
    pub machine_id: String,
    /// Another id that a request named last.
    pub other_machine_id: Option<String>,
    /// When it did.
    pub other_machine_id_at: Option<Timestamp>,
    /// Seconds between the authorizer's syncs, as it is told.
    pub interval: u32,
    /// What its last preflight said.
    pub authorizer: Option<AuthorizerStatus>,
    /// Our newest generation of rules; `None` if there is nothing to hand out.
    pub newest_generation: Option<i64>,
    /// What the authorizer last acknowledged.
    pub acknowledged: Option<AcknowledgedStatus>,
    /// Whether the authorizer has all rules and settings.
    pub in_step: bool,
    /// Since when it does not.
    pub behind_since: Option<Timestamp>,
    /// Why a preflight is answered with 503, if it is.
    pub not_ready: Option<String>,
    /// What the last delivery was, and why.
    pub last_delivery: Option<DeliveryStatus>,
    /// The last delivery that was not acknowledged.
    pub not_acknowledged: Option<NotAcknowledged>,
    /// Settings that are no longer given, which only a clean sync can take back.
    pub withdrawn_settings: Vec<String>,
    /// Rules that the authorizer cannot take, of the last whole set.
    pub rules_left_out: u64,
    /// The same by reason: `release`, `rule_type`, `policy`, `limit`.
    pub rules_left_out_why: BTreeMap<String, u64>,
    /// Rules sent with another policy, of the last whole set.
    pub rules_altered: u64,
    /// What its release cannot do.
    pub release_cannot: Vec<String>,
    /// Requests that were refused, by reason, since the daemon started.
    pub refused: BTreeMap<String, u64>,
    /// Whose requests were refused because of their user or certificate, since the
    /// daemon started. At most [`RelayStatus::MAX_REFUSED_PEERS`].
    pub refused_peers: Vec<RefusedPeer>,
    /// Events taken since the daemon started.
    pub events: u64,
    /// The last nudge.
    pub nudge: Option<NudgeStatus>,
}

impl RelayStatus {
    /// The most users that are listed as refused.
    pub const MAX_REFUSED_PEERS: usize = 16;

    /// The other machine id that was asked for within the last day.
    #[must_use]
    pub fn other_machine_id(&self, now: Timestamp) -> Option<&str> {
        let is_old = self.other_machine_id_at.is_some_and(|at| now.since(at) > REMEMBERED_FOR);
        self.other_machine_id.as_deref().filter(|_| !is_old)
    }

    /// What became of the last whole set's rules that were not sent as they are, in words;
    /// `None` if there are none.
    #[must_use]
    pub fn unlike_words(&self) -> Option<String> {
        let mut words: Vec<_> = self
            .rules_left_out_why
            .iter()
            .map(|(reason, rules)| format!("{rules} left out ({})", left_out_words(reason)))
            .collect();
        if self.rules_altered > 0 {
            words
                .push(format!("{} sent with the nearest policy that it knows", self.rules_altered));
        }
        (!words.is_empty()).then(|| words.join(", "))
    }

    /// Why the authorizer's rules are not those of the generation that it acknowledged, in
    /// words; `None` if they are.
    #[must_use]
    pub fn drift_words(&self) -> Option<&'static str> {
        let drift = self.acknowledged.as_ref().is_some_and(|held| held.drift);
        let is_sent_unlike = self.rules_left_out + self.rules_altered > 0;
        drift.then_some(if is_sent_unlike {
            "its rules differ from the server's: some were left out or altered for it, and it may \
             have rules of its users"
        } else {
            "its rules differ from those it was sent: it has rules of its users, or could not \
             take some"
        })
    }

    /// How it was made sure that the last preflight was the authorizer's, in words.
    #[must_use]
    pub fn authentication_words(&self) -> &'static str {
        let is_authenticated = self.authorizer.as_ref().is_some_and(|last| last.authenticated);
        match (is_authenticated, self.client_certificate, self.checks_peers) {
            (true, true, _) => "authenticated by its certificate",
            (true, false, _) => "authenticated by its user",
            (false, _, true) => "not authenticated",
            (false, _, false) => "not authenticated: any program of this host can send one",
        }
    }

    /// Who is served, in words.
    #[must_use]
    pub const fn clients_words(&self) -> &'static str {
        clients_words(self.client_certificate, self.checks_peers, self.secret)
    }
}

/// Who is served, in words, by what is checked of them.
#[must_use]
pub const fn clients_words(
    client_certificate: bool,
    checks_peers: bool,
    secret: bool,
) -> &'static str {
    match (client_certificate, checks_peers, secret) {
        (true, _, _) => "holders of the relay's client certificate",
        (false, true, _) => "processes of RelayPeerUsers [default: root and the agent's user]",
        (false, false, true) => "every local program that knows RelaySecret",
        (false, false, false) => "every local program",
    }
}

/// Why rules are left out, by the reason's name.
fn left_out_words(reason: &str) -> &str {
    match reason {
        "release" => "its release does not know their policy",
        "rule_type" => "pedro enforces BINARY rules only",
        "policy" => "pedro has no policy like theirs",
        "limit" => "beyond the 65,000 rules and 9 MB that pedro takes",
        other => other,
    }
}

/// How long a request for another machine id is worth a look.
const REMEMBERED_FOR: Duration = Duration::from_hours(24);

/// A user whose requests were refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedPeer {
    /// The number of the user; `None` where the kernel does not say whose a connection is.
    pub user_id: Option<u32>,
    /// The name of the user, if there is one.
    pub user: Option<String>,
    /// The process that was refused last, if the kernel says.
    pub process: Option<u32>,
    /// The name of its program, as the kernel cuts it.
    pub program: Option<String>,
    /// How often.
    pub times: u64,
    /// When last.
    pub at: Timestamp,
}

impl RefusedPeer {
    /// `3 times, last at TIME`, or `once, at TIME`.
    #[must_use]
    pub fn times_words(&self) -> String {
        match self.times {
            1 => format!("once, at {}", self.at),
            times => format!("{times} times, last at {}", self.at),
        }
    }
}

/// `kim (user 1000), process 4242 (curl)`, as far as it is known.
impl fmt::Display for RefusedPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.user, self.user_id) {
            (Some(name), Some(id)) => write!(f, "{name} (user {id})")?,
            (_, Some(id)) => write!(f, "user {id}")?,
            (_, None) => f.write_str("an unknown user")?,
        }
        if let Some(process) = self.process {
            write!(f, ", process {process}")?;
        }
        if let Some(program) = &self.program {
            write!(f, " ({program})")?;
        }
        Ok(())
    }
}

/// What the authorizer said of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorizerStatus {
    /// When.
    pub at: Timestamp,
    /// Its version.
    pub version: String,
    /// The mode in force.
    pub client_mode: Option<ClientMode>,
    /// Whether its connection was authenticated (RELAY-12).
    pub authenticated: bool,
}

/// What the authorizer acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcknowledgedStatus {
    /// The generation.
    pub generation: i64,
    /// When.
    pub at: Timestamp,
    /// Whether its rules differ from ours all the same.
    pub drift: bool,
}

/// A delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryStatus {
    /// When it began.
    pub at: Timestamp,
    /// Its type.
    pub sync_type: SyncType,
    /// Why it is what it is, in words.
    pub why: String,
}

/// A delivery that was not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotAcknowledged {
    /// When.
    pub at: Timestamp,
    /// Why.
    pub reason: String,
    /// How often in a row.
    pub times: u64,
}

/// A nudge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NudgeStatus {
    /// When it began.
    pub at: Timestamp,
    /// What came of it; `None` while it runs.
    pub result: Option<String>,
    /// Failures in a row.
    pub failures: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A status in which nothing is empty.
    fn full() -> RelayStatus {
        let at = Timestamp::from_secs(1_800_000_000);
        let text = || Some("text".to_owned());
        RelayStatus {
            error: text(),
            error_fix: text(),
            stale_after: Some(1),
            other_machine_id: text(),
            other_machine_id_at: Some(at),
            authorizer: Some(AuthorizerStatus {
                at,
                version: String::new(),
                client_mode: None,
                authenticated: true,
            }),
            acknowledged: Some(AcknowledgedStatus { generation: 1, at, drift: true }),
            behind_since: Some(at),
            not_ready: text(),
            last_delivery: Some(DeliveryStatus {
                at,
                sync_type: SyncType::Normal,
                why: String::new(),
            }),
            not_acknowledged: Some(NotAcknowledged { at, reason: String::new(), times: 1 }),
            refused_peers: vec![RefusedPeer {
                user_id: None,
                user: None,
                process: None,
                program: None,
                times: 1,
                at,
            }],
            nudge: Some(NudgeStatus { at, result: None, failures: 0 }),
            ..RelayStatus::default()
        }
    }

    /// RELAY-11: docs/json.md has each member of the object, and no other.
    #[test]
    fn relay_11_every_member_is_documented() {
        let page = include_str!("../../docs/json.md");
        let (_, section) = page.split_once("## The relay\n").expect("the section");
        let section = section.split("\n## ").next().unwrap_or(section);
        let rows: Vec<_> = section
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split_once(" | "))
            .collect();
        let names = |cell: &str| -> Vec<String> {
            let cell = format!("`{cell}");
            cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
        };
        let status = serde_json::to_value(full()).expect("JSON");
        let status = status.as_object().expect("an object");
        let mut documented: Vec<_> = rows.iter().flat_map(|(cell, _)| names(cell)).collect();
        let mut members: Vec<_> = status.keys().cloned().collect();
        documented.sort_unstable();
        members.sort_unstable();
        assert_eq!(documented, members);
        for (name, value) in status {
            let value = value.as_array().and_then(|list| list.first()).unwrap_or(value);
            let Some(inner) = value.as_object() else { continue };
            let row = rows.iter().find(|(cell, _)| names(cell).contains(name));
            let (_, meaning) = row.expect("a row");
            for member in inner.keys() {
                assert!(meaning.contains(&format!("`{member}`")), "{name}.{member}");
            }
        }
    }

    /// RELAY-11: whether the last preflight was the authorizer's own is said in words that
    /// fit what is checked.
    #[test]
    fn relay_11_plain_http_authenticates_nobody() {
        let words = |authenticated: bool, client_certificate: bool, checks_peers: bool| {
            let authorizer =
                full().authorizer.map(|last| AuthorizerStatus { authenticated, ..last });
            let status = RelayStatus { checks_peers, client_certificate, authorizer, ..full() };
            status.authentication_words()
        };
        assert_eq!(words(true, true, true), "authenticated by its certificate");
        assert_eq!(words(true, false, true), "authenticated by its user");
        assert_eq!(words(false, false, true), "not authenticated");
        assert!(words(false, false, false).contains("any program of this host"));
    }
}
