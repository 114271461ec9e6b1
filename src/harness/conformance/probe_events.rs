//! The events that a run makes up: they are of no real file, and easy to find afterwards.

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::model::text::hex;
use crate::protocol::wire;

/// The path of every made-up event.
pub const PROBE_PATH: &str = "/tmp/santa-conformance-probe";
const TEAM_ID: &str = "PROBE00000";
const SIGNING_ID: &str = "PROBE00000:invalid.santa-probe";
const USER: &str = "santa-probe";

/// A made-up event that was uploaded, for finding and deleting it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProbeEvent {
    /// Its `file_name`.
    pub file_name: String,
    /// Its `file_sha256`.
    pub file_sha256: String,
}

/// Makes the events of one run.
#[derive(Debug)]
pub(super) struct EventMaker {
    run_id: String,
    made: Vec<ProbeEvent>,
}

impl EventMaker {
    pub(super) const fn new(run_id: String) -> Self {
        Self { run_id, made: Vec::new() }
    }

    pub(super) fn made(&self) -> &[ProbeEvent] {
        &self.made
    }

    fn next(&mut self) -> ProbeEvent {
        let number = self.made.len() + 1;
        let digest =
            Sha256::digest(format!("santa-conformance-probe {} {number}", self.run_id).as_bytes());
        let event = ProbeEvent {
            file_name: format!("probe-{}-{number}", self.run_id),
            file_sha256: hex(&digest),
        };
        self.made.push(event.clone());
        event
    }

    /// An event with the fewest members; `at` in seconds since 1970.
    pub(super) fn small(&mut self, at: f64) -> wire::Event {
        let ProbeEvent { file_name, file_sha256 } = self.next();
        wire::Event {
            file_sha256,
            file_path: PROBE_PATH.to_owned(),
            file_name,
            execution_time: at,
            decision: wire::Decision::AllowUnknown.into(),
            ..wire::Event::default()
        }
    }

    /// An event as a host usually sends them.
    pub(super) fn usual(&mut self, at: f64) -> wire::Event {
        wire::Event {
            executing_user: USER.to_owned(),
            logged_in_users: vec![USER.to_owned()],
            current_sessions: vec![format!("{USER}@console")],
            pid: 4242,
            ppid: 1,
            parent_name: "launchd".to_owned(),
            team_id: TEAM_ID.to_owned(),
            signing_id: SIGNING_ID.to_owned(),
            cdhash: "5a".repeat(20),
            signing_chain: chain(3),
            cs_flags: 570_506_001,
            signing_status: wire::SigningStatus::Production.into(),
            ..self.small(at)
        }
    }

    /// An event of an executable in a bundle of its own.
    pub(super) fn bundled(&mut self, at: f64) -> wire::Event {
        let event = self.usual(at);
        let hash = Sha256::digest(format!("bundle of {}", event.file_sha256).as_bytes());
        wire::Event {
            file_bundle_id: "invalid.santa-probe".to_owned(),
            file_bundle_path: format!("{PROBE_PATH}/Probe.app"),
            file_bundle_executable_rel_path: "Contents/MacOS/Probe".to_owned(),
            file_bundle_name: "Probe".to_owned(),
            file_bundle_version: "1.4.2".to_owned(),
            file_bundle_version_string: "1.4".to_owned(),
            file_bundle_hash: hex(&hash),
            file_bundle_hash_millis: 1200,
            file_bundle_binary_count: 2,
            ..event
        }
    }

    /// An event with every member of the schema.
    #[expect(deprecated, reason = "hosts still send where a file came from")]
    pub(super) fn full(&mut self, at: f64) -> wire::Event {
        let entitlement = |key: &str, value: &str| wire::Entitlement {
            key: Some(key.to_owned()),
            value: Some(value.to_owned()),
        };
        wire::Event {
            quarantine_data_url: "https://santa-probe.invalid/Probe.dmg".to_owned(),
            quarantine_referer_url: "https://santa-probe.invalid/".to_owned(),
            quarantine_timestamp: 1_735_689_600,
            quarantine_agent_bundle_id: "com.apple.Safari".to_owned(),
            entitlement_info: Some(wire::EntitlementInfo {
                entitlements_filtered: Some(true),
                entitlements: vec![
                    entitlement("com.apple.security.app-sandbox", "true"),
                    entitlement("com.apple.security.files", "[\"a\",\"b\"]"),
                ],
            }),
            secure_signing_time: 1_735_689_600,
            signing_time: 1_735_689_000,
            static_rule: true,
            ..self.bundled(at)
        }
    }

    /// A file-access event.
    pub(super) fn file_access(&mut self, at: f64) -> wire::FileAccessEvent {
        let ProbeEvent { file_sha256, file_name } = self.next();
        wire::FileAccessEvent {
            rule_version: "probe".to_owned(),
            rule_name: file_name,
            target: format!("{PROBE_PATH}/watched"),
            process_chain: vec![wire::Process {
                file_path: PROBE_PATH.to_owned(),
                cdhash: "5a".repeat(20),
                file_sha256,
                signing_id: SIGNING_ID.to_owned(),
                team_id: TEAM_ID.to_owned(),
                pid: 4242,
                signing_chain: chain(1),
            }],
            access_time: at,
            decision: wire::FileAccessDecision::AuditOnly.into(),
        }
    }

    /// An audit event.
    pub(super) fn audit(&mut self, at: u32) -> wire::AuditEvent {
        let ProbeEvent { file_sha256, .. } = self.next();
        let creation = wire::StandaloneModeRuleCreation {
            decision: wire::Decision::AllowBinary.into(),
            identifier: file_sha256,
            timestamp: at,
        };
        wire::AuditEvent {
            event: Some(wire::audit_event::Event::StandaloneModeRuleCreation(creation)),
        }
    }
}

/// A chain of that many certificates, of nobody.
pub(super) fn chain(length: usize) -> Vec<wire::Certificate> {
    (0..length)
        .map(|place| wire::Certificate {
            sha256: hex(&Sha256::digest(format!("santa-conformance-probe certificate {place}"))),
            cn: format!("Santa Probe {place}"),
            org: "Santa Probe".to_owned(),
            ou: TEAM_ID.to_owned(),
            valid_from: 1_704_067_200,
            valid_until: 2_019_686_400,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_event_has_a_name_and_a_hash_of_its_own_that_the_report_lists() {
        let mut maker = EventMaker::new("0A1B2C3D".to_owned());
        let (one, two) = (maker.small(1.5), maker.full(2.5));
        assert_eq!(one.file_name, "probe-0A1B2C3D-1");
        assert_ne!(one.file_sha256, two.file_sha256);
        assert_eq!(two.file_sha256, maker.made()[1].file_sha256);
        assert_eq!(one.file_sha256.len(), 64);
    }
}
