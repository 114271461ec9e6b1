//! The stored form of events: what the payload of a row of the event queue
//! holds, whichever producer wrote it.
//!
//! Two kinds of producers exist. Programs that hand us events leave them in our
//! own form, [`encode`]: a mark, the kind, and the message in binary protobuf.
//! The existing daemon leaves `NSKeyedArchiver` archives, which `execution`
//! and `file_access` turn into messages. Reading never changes a row and
//! never fails as a whole: every row is sendable, unsendable or undecodable.

mod certificate;
mod entitlements;
mod execution;
mod file_access;
#[cfg(test)]
mod tests;

use prost::Message as _;
use thiserror::Error;

use super::archive::{Archive, ArchivedObject, ArchivedValue, Name};
use super::{json, wire};
use crate::model::EventSummary;

/// An event ready to be sent.
#[derive(Clone, Debug, PartialEq)]
pub enum QueuedEvent {
    /// An execution.
    Execution(Box<wire::Event>),
    /// An access to a watched file.
    FileAccess(Box<wire::FileAccessEvent>),
    /// A rule that a user of the host made.
    Audit(wire::AuditEvent),
}

/// What the payload of a row is.
#[derive(Clone, Debug, PartialEq)]
pub enum DecodedEvent {
    /// An event the protocol has a form for.
    Sendable(QueuedEvent),
    /// An event that was read, but that version 1 of the protocol cannot carry.
    /// It leaves the queue unsent and is counted.
    Unsendable {
        /// The decision, or what was archived: one of a small set of words.
        kind: String,
    },
    /// Nothing that can be read. It is set aside with the reason.
    Undecodable {
        /// What is wrong, with class and key.
        reason: String,
    },
}

/// What our own form starts with. No property list does: it is not UTF-8.
const STORED_MARK: &[u8] = b"\xf5sse";
const EXECUTION: u8 = 1;
const FILE_ACCESS: u8 = 2;
const AUDIT_EVENT: u8 = 3;

/// The longest unique id taken in, in bytes.
const MAX_UNIQUE_ID_BYTES: usize = 1024;

/// Our own stored form of an event.
#[must_use]
pub fn encode(event: &QueuedEvent) -> Vec<u8> {
    let (kind, length) = match event {
        QueuedEvent::Execution(event) => (EXECUTION, event.encoded_len()),
        QueuedEvent::FileAccess(event) => (FILE_ACCESS, event.encoded_len()),
        QueuedEvent::Audit(event) => (AUDIT_EVENT, event.encoded_len()),
    };
    let mut bytes = Vec::with_capacity(STORED_MARK.len() + 1 + length);
    bytes.extend_from_slice(STORED_MARK);
    bytes.push(kind);
    match event {
        QueuedEvent::Execution(event) => event.encode_raw(&mut bytes),
        QueuedEvent::FileAccess(event) => event.encode_raw(&mut bytes),
        QueuedEvent::Audit(event) => event.encode_raw(&mut bytes),
    }
    bytes
}

/// The binary message in our own form of an event, if it is one of those kinds
/// that are sent as they are; what it holds is not looked at.
pub(super) fn message_of(data: &[u8]) -> Option<(EventKind, &[u8])> {
    match data.strip_prefix(STORED_MARK)?.split_first()? {
        (&EXECUTION, message) => Some((EventKind::Execution, message)),
        (&FILE_ACCESS, message) => Some((EventKind::FileAccess, message)),
        (&AUDIT_EVENT, message) => Some((EventKind::Audit, message)),
        _ => None,
    }
}

/// Our own stored form of an event of which the binary message is given; what it
/// holds is not looked at.
pub(super) fn encode_message(kind: EventKind, message: &[u8]) -> Vec<u8> {
    let kind = match kind {
        EventKind::Execution => EXECUTION,
        EventKind::FileAccess => FILE_ACCESS,
        EventKind::Audit => AUDIT_EVENT,
    };
    [STORED_MARK, &[kind], message].concat()
}

/// The kinds of events the protocol has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EventKind {
    Execution,
    FileAccess,
    Audit,
}

/// Reads the payload of a row, whichever producer wrote it.
#[must_use]
pub fn decode_row(data: &[u8]) -> DecodedEvent {
    if let Some(own) = data.strip_prefix(STORED_MARK) {
        return decode_own(own);
    }
    let text = data.trim_ascii_start();
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    if data.is_empty() {
        undecodable("the row has no payload")
    } else if data.starts_with(b"bplist") || text.starts_with(b"<") {
        decode_archive(data)
    } else {
        undecodable("the payload is neither a property list nor an event that santa-sync stored")
    }
}

fn undecodable(reason: impl Into<String>) -> DecodedEvent {
    DecodedEvent::Undecodable { reason: reason.into() }
}

fn decode_own(bytes: &[u8]) -> DecodedEvent {
    let Some((&kind, message)) = bytes.split_first() else {
        return undecodable("the stored event breaks off after its mark");
    };
    let event = match kind {
        EXECUTION => wire::Event::decode(message).map(Box::new).map(QueuedEvent::Execution),
        FILE_ACCESS => {
            wire::FileAccessEvent::decode(message).map(Box::new).map(QueuedEvent::FileAccess)
        }
        AUDIT_EVENT => wire::AuditEvent::decode(message).map(QueuedEvent::Audit),
        newer => {
            return undecodable(format!(
                "a stored event of kind {newer}, which a newer santa-sync must have written"
            ));
        }
    };
    match event {
        Ok(event) => DecodedEvent::Sendable(event),
        Err(error) => undecodable(format!("the stored event is damaged: {error}")),
    }
}

/// Classes of events that only version 2 of the protocol carries.
const VERSION_2_ONLY: [&str; 6] = [
    "SNTStoredTemporaryMonitorMode",
    "SNTStoredTemporaryAdminMode",
    "SNTStoredNetworkMountEvent",
    "SNTStoredNetworkFlowEvent",
    "SNTStoredUSBMountEvent",
    "SNTStoredUSBDeviceEvent",
];

/// The kind of an event of version 2 by its class: one of few, whatever a
/// producer calls its classes, because each is counted for as long as the queue
/// exists.
fn version_2_kind(class: &str) -> Option<&str> {
    let split = |known: &&'static str| Some((*known, class.strip_prefix(known)?));
    let (known, rest) = VERSION_2_ONLY.iter().find_map(split)?;
    let class =
        if matches!(rest, "" | "EnterAuditEvent" | "LeaveAuditEvent") { class } else { known };
    Some(class.trim_start_matches("SNTStored").trim_end_matches("Event"))
}

fn decode_archive(bytes: &[u8]) -> DecodedEvent {
    let archive = match Archive::read(bytes) {
        Ok(archive) => archive,
        Err(error) => return undecodable(error.to_string()),
    };
    match archive.root() {
        Ok(ArchivedValue::Object(event)) => decode_object(event),
        Ok(other) => undecodable(format!("{} was archived, not an event", other.kind())),
        Err(error) => undecodable(error.to_string()),
    }
}

fn decode_object(event: ArchivedObject<'_>) -> DecodedEvent {
    let decoded = match event.class() {
        // Before events had kinds, every event was an execution of this class.
        "SNTStoredExecutionEvent" | "SNTStoredEvent" => execution::decode(event),
        "SNTStoredFileAccessEvent" => file_access::decode(event),
        class => {
            if let Some(kind) = version_2_kind(class) {
                return DecodedEvent::Unsendable { kind: kind.to_owned() };
            }
            return undecodable(format!(
                "{} was archived, a class this version does not know",
                Name::new(class)
            ));
        }
    };
    decoded.unwrap_or_else(|error| undecodable(error.to_string()))
}

/// Why an event cannot be queued.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EventError {
    /// A field that every event of the kind has is absent.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A field's value cannot be.
    #[error("{field} is {found:?}; it must be {expected}")]
    Value {
        /// The field's name in the schema.
        field: &'static str,
        /// What it is, cut to 80 characters.
        found: String,
        /// What it can be.
        expected: &'static str,
    },
}

fn value(field: &'static str, found: &str, expected: &'static str) -> EventError {
    EventError::Value { field, found: found.chars().take(80).collect(), expected }
}

/// What the queue must know of an event to store it, having checked that it
/// says what every event has to say. `audited` says that a rule asked for a
/// record of an execution it allowed; the message has no field for it.
///
/// # Errors
/// If the event lacks what a server cannot do without.
pub fn summarize(event: &QueuedEvent, audited: bool) -> Result<EventSummary, EventError> {
    let summary = match event {
        QueuedEvent::Execution(event) => summarize_execution(event, audited)?,
        QueuedEvent::FileAccess(event) => summarize_file_access(event)?,
        QueuedEvent::Audit(event) => summarize_audit(event)?,
    };
    if summary.unique_id.len() > MAX_UNIQUE_ID_BYTES {
        return Err(value(
            "the text that tells events apart",
            &summary.unique_id,
            "at most 1024 bytes",
        ));
    }
    Ok(summary)
}

fn summarize_execution(event: &wire::Event, audited: bool) -> Result<EventSummary, EventError> {
    let hash = &event.file_sha256;
    if hash.is_empty() {
        return Err(EventError::Missing("file_sha256"));
    }
    if hash.len() != 64 || !hash.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(value("file_sha256", hash, "64 hex digits"));
    }
    if event.file_name.is_empty() && event.file_path.is_empty() {
        return Err(EventError::Missing("file_name"));
    }
    let decision = decision_of(event)?;
    if !event.execution_time.is_finite() || event.execution_time < 0.0 {
        let found = event.execution_time.to_string();
        return Err(value("execution_time", &found, "seconds since 1970"));
    }
    if event.execution_time == 0.0 && decision != wire::Decision::BundleBinary {
        return Err(EventError::Missing("execution_time"));
    }
    let mut unique_id = hash.to_ascii_lowercase();
    if audited {
        unique_id.push_str(":audit");
    }
    Ok(EventSummary { unique_id, actionable: audited || !allows(decision) })
}

fn decision_of(event: &wire::Event) -> Result<wire::Decision, EventError> {
    match wire::Decision::try_from(event.decision) {
        Ok(wire::Decision::Unknown) => Err(EventError::Missing("decision")),
        Ok(decision) => Ok(decision),
        Err(_) => {
            Err(value("decision", &event.decision.to_string(), "one of the protocol's decisions"))
        }
    }
}

/// Whether the execution went ahead.
pub(super) fn allows(decision: wire::Decision) -> bool {
    use wire::Decision as D;
    match decision {
        D::AllowUnknown
        | D::AllowBinary
        | D::AllowCertificate
        | D::AllowScope
        | D::AllowTeamid
        | D::AllowSigningid
        | D::AllowCdhash
        | D::AllowPlatform => true,
        D::Unknown
        | D::BlockUnknown
        | D::BlockBinary
        | D::BlockCertificate
        | D::BlockScope
        | D::BlockTeamid
        | D::BlockSigningid
        | D::BlockCdhash
        | D::BundleBinary
        | D::BlockBinaryMismatch => false,
    }
}

/// Whether the event reports something that was not simply allowed. The others
/// are dropped first when the queue is full.
pub(super) fn is_actionable(event: &QueuedEvent) -> bool {
    match event {
        QueuedEvent::Execution(event) => {
            wire::Decision::try_from(event.decision).is_ok_and(|decision| !allows(decision))
        }
        QueuedEvent::FileAccess(event) => {
            event.decision != i32::from(wire::FileAccessDecision::AuditOnly)
        }
        QueuedEvent::Audit(_) => true,
    }
}

/// Whether the event reports something that was denied: an execution that was
/// blocked or a file access that was refused (EV-10). Audit records and the
/// executables of a bundle report nothing of the kind.
#[must_use]
pub fn is_denial(event: &QueuedEvent) -> bool {
    match event {
        QueuedEvent::Execution(event) => wire::Decision::try_from(event.decision)
            .is_ok_and(|decision| decision != wire::Decision::BundleBinary && !allows(decision)),
        QueuedEvent::FileAccess(event) => matches!(
            wire::FileAccessDecision::try_from(event.decision),
            Ok(wire::FileAccessDecision::Denied | wire::FileAccessDecision::DeniedInvalidSignature)
        ),
        QueuedEvent::Audit(_) => false,
    }
}

fn summarize_file_access(event: &wire::FileAccessEvent) -> Result<EventSummary, EventError> {
    use wire::FileAccessDecision as D;
    for (field, text) in [
        ("rule_name", &event.rule_name),
        ("rule_version", &event.rule_version),
        ("target", &event.target),
    ] {
        if text.is_empty() {
            return Err(EventError::Missing(field));
        }
    }
    let process = event.process_chain.first().ok_or(EventError::Missing("process_chain"))?;
    if process.file_path.is_empty() {
        return Err(EventError::Missing("process_chain[0].file_path"));
    }
    let actionable = match D::try_from(event.decision) {
        Ok(D::Denied | D::DeniedInvalidSignature) => true,
        Ok(D::AuditOnly) => false,
        Ok(D::Unknown) => return Err(EventError::Missing("decision")),
        Err(_) => {
            let found = event.decision.to_string();
            return Err(value("decision", &found, "one of the protocol's decisions"));
        }
    };
    let unique_id = format!("{}|{}|{}", event.rule_name, event.rule_version, process.file_sha256);
    Ok(EventSummary { unique_id, actionable })
}

fn summarize_audit(event: &wire::AuditEvent) -> Result<EventSummary, EventError> {
    let Some(wire::audit_event::Event::StandaloneModeRuleCreation(rule)) = &event.event else {
        return Err(EventError::Missing("standalone_mode_rule_creation"));
    };
    if rule.identifier.is_empty() {
        return Err(EventError::Missing("standalone_mode_rule_creation.identifier"));
    }
    let decision = json::enum_name::<wire::Decision>(rule.decision)
        .filter(|_| rule.decision != 0)
        .ok_or(EventError::Missing("standalone_mode_rule_creation.decision"))?;
    let unique_id = format!("standalone|{decision}|{}|{}", rule.identifier, rule.timestamp);
    Ok(EventSummary { unique_id, actionable: true })
}

/// The bundle an event belongs to, if it is one of the executables that a
/// server asked for: the bundle's hash, and of how many executables it is
/// made (0 if unknown).
#[must_use]
pub fn bundle_of(event: &QueuedEvent) -> Option<(&str, u32)> {
    let QueuedEvent::Execution(event) = event else { return None };
    let wanted = event.decision == i32::from(wire::Decision::BundleBinary)
        && !event.file_bundle_hash.is_empty();
    wanted.then_some((event.file_bundle_hash.as_str(), event.file_bundle_binary_count))
}
