//! Archived executions.

use super::super::archive::{ArchiveError, ArchivedObject, Name};
use super::super::wire;
use super::{DecodedEvent, QueuedEvent, certificate, entitlements, undecodable};

/// What becomes of a decision on the wire.
enum DecisionForm {
    Sent(wire::Decision),
    /// Without a form; the word is counted.
    Unsent(&'static str),
}

/// The form of a decision as the existing daemon stores it: one bit of 16..=31
/// for a block, one of 40..=63 for an allow. `None` for what this version does
/// not know.
fn form(state: u64) -> Option<DecisionForm> {
    use DecisionForm::{Sent, Unsent};
    use wire::Decision as D;
    const BLOCK: u64 = 0xff_ffff << 16;
    const ALLOW: u64 = 0xff_ffff << 40;
    let bit = match state {
        0 => return Some(Unsent("Unknown")),
        1 => return Some(Sent(D::BundleBinary)),
        BLOCK => return Some(Unsent("Block")),
        ALLOW => return Some(Unsent("Allow")),
        state if state.is_power_of_two() => state.trailing_zeros(),
        _ => return None,
    };
    Some(match bit {
        // A CEL rule's fallback has a value of its own only in version 2.
        16 | 24 => Sent(D::BlockUnknown),
        17 => Sent(D::BlockBinary),
        18 => Sent(D::BlockCertificate),
        19 => Sent(D::BlockScope),
        20 => Sent(D::BlockTeamid),
        21 => Unsent("BlockLongPath"),
        22 => Sent(D::BlockSigningid),
        23 => Sent(D::BlockCdhash),
        40 | 54 => Sent(D::AllowUnknown),
        41 | 44 => Sent(D::AllowBinary),
        42 => Sent(D::AllowCertificate),
        43 => Sent(D::AllowScope),
        45 => Unsent("AllowTransitive"),
        46 => Unsent("AllowPendingTransitive"),
        47 => Sent(D::AllowTeamid),
        48 | 52 => Sent(D::AllowSigningid),
        49 | 53 => Sent(D::AllowCdhash),
        50 => Unsent("AllowLocalBinary"),
        51 => Unsent("AllowLocalSigningID"),
        55 => Sent(D::AllowPlatform),
        _ => return None,
    })
}

/// Reads an archived execution.
pub(super) fn decode(event: ArchivedObject<'_>) -> Result<DecodedEvent, ArchiveError> {
    let hash = event.required_text("fileSHA256")?;
    let path = event.required_text("filePath")?;
    let occurred = event.date("occurrenceDate")?.ok_or_else(|| event.missing("occurrenceDate"))?;
    let state = event.whole::<u64>("decision")?.ok_or_else(|| event.missing("decision"))?;
    let decision = match form(state) {
        Some(DecisionForm::Sent(decision)) => decision,
        Some(DecisionForm::Unsent(kind)) => {
            return Ok(DecodedEvent::Unsendable { kind: kind.to_owned() });
        }
        None => {
            return Ok(undecodable(format!(
                "{}.decision is {state:#x}, which this version does not know",
                Name::new(event.class())
            )));
        }
    };
    let text = |key| event.text(key).map(|text| text.unwrap_or_default().to_owned());
    let (file_path, file_name) = split(path);
    #[expect(deprecated, reason = "servers still read the quarantine fields")]
    let message = wire::Event {
        file_sha256: hash.to_owned(),
        file_path,
        file_name,
        executing_user: text("executingUser")?,
        // Of an executable of a bundle only its presence is told.
        execution_time: if decision == wire::Decision::BundleBinary { 0.0 } else { occurred },
        logged_in_users: event.texts("loggedInUsers")?,
        current_sessions: event.texts("currentSessions")?,
        decision: decision.into(),
        file_bundle_id: text("fileBundleID")?,
        file_bundle_path: text("fileBundlePath")?,
        file_bundle_executable_rel_path: text("fileBundleExecutableRelPath")?,
        file_bundle_name: text("fileBundleName")?,
        file_bundle_version: text("fileBundleVersion")?,
        file_bundle_version_string: text("fileBundleVersionString")?,
        file_bundle_hash: text("fileBundleHash")?,
        file_bundle_hash_millis: event.whole("fileBundleHashMilliseconds")?.unwrap_or(0),
        file_bundle_binary_count: event.whole("fileBundleBinaryCount")?.unwrap_or(0),
        pid: event.whole("pid")?.unwrap_or(0),
        ppid: event.whole("ppid")?.unwrap_or(0),
        parent_name: text("parentName")?,
        team_id: text("teamID")?,
        signing_id: text("signingID")?,
        cdhash: text("cdhash")?,
        quarantine_data_url: text("quarantineDataURL")?,
        quarantine_referer_url: text("quarantineRefererURL")?,
        quarantine_timestamp: seconds(event.date("quarantineTimestamp")?),
        quarantine_agent_bundle_id: text("quarantineAgentBundleID")?,
        signing_chain: certificate::chain(&event, "signingChain")?,
        entitlement_info: Some(entitlements::info(&event)?),
        cs_flags: event.whole("codesigningFlags")?.unwrap_or(0),
        signing_status: signing_status(event.whole("signingStatus")?.unwrap_or(0)).into(),
        secure_signing_time: seconds(event.date("secureSigningTime")?),
        signing_time: seconds(event.date("signingTime")?),
        static_rule: event.flag("staticRule")?,
    };
    Ok(DecodedEvent::Sendable(QueuedEvent::Execution(Box::new(message))))
}

/// Directory and last component of a path.
fn split(path: &str) -> (String, String) {
    match path.rsplit_once('/') {
        Some(("", name)) => ("/".to_owned(), name.to_owned()),
        Some((directory, name)) => (directory.to_owned(), name.to_owned()),
        None => (String::new(), path.to_owned()),
    }
}

/// Whole seconds since 1970, 0 if there is no date or it is earlier.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "truncated, and a date before 1970 or past 2106 becomes the nearest that fits"
)]
fn seconds(date: Option<f64>) -> u32 {
    date.unwrap_or(0.0) as u32
}

/// Stored 0 to 4, one more on the wire. An absent status is archived by
/// daemons that did not know it yet and counts as 0.
fn signing_status(stored: i64) -> wire::SigningStatus {
    match stored {
        0 => wire::SigningStatus::Unsigned,
        1 => wire::SigningStatus::Invalid,
        2 => wire::SigningStatus::Adhoc,
        3 => wire::SigningStatus::Development,
        4 => wire::SigningStatus::Production,
        _ => wire::SigningStatus::Unspecified,
    }
}
