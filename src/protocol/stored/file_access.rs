//! Archived file accesses, with the process and its ancestors.

use super::super::archive::{ArchiveError, ArchivedObject};
use super::super::wire;
use super::{DecodedEvent, QueuedEvent, certificate, undecodable};

/// The class of processes, and the name it had before.
const PROCESS: [&str; 2] = ["SNTStoredProcess", "SNTStoredFileAccessProcess"];

/// The most ancestors followed. The chain ends at launchd, seldom past ten; an
/// archive whose chain does not end is damaged.
const MAX_CHAIN: usize = 128;

/// Reads an archived file access.
pub(super) fn decode(event: ArchivedObject<'_>) -> Result<DecodedEvent, ArchiveError> {
    use wire::FileAccessDecision as D;
    let occurred = event.date("occurrenceDate")?.ok_or_else(|| event.missing("occurrenceDate"))?;
    let rule_version = event.required_text("ruleVersion")?;
    let rule_name = event.required_text("ruleName")?;
    let target = event.required_text("accessedPath")?;
    let process = event.object("process", &PROCESS)?.ok_or_else(|| event.missing("process"))?;
    process.required_text("filePath")?;
    let unsendable = |kind: &str| Ok(DecodedEvent::Unsendable { kind: kind.to_owned() });
    let decision = match event.whole::<i64>("decision")? {
        None => return Err(event.missing("decision")),
        Some(1) => D::Denied,
        Some(2) => D::DeniedInvalidSignature,
        Some(5) => D::AuditOnly,
        Some(0) => return unsendable("FileAccessNoPolicy"),
        Some(3) => return unsendable("FileAccessAllowed"),
        Some(4) => return unsendable("FileAccessAllowedReadAccess"),
        Some(other) => {
            return Ok(undecodable(format!(
                "SNTStoredFileAccessEvent.decision is {other}, which this version does not know"
            )));
        }
    };
    let message = wire::FileAccessEvent {
        rule_version: rule_version.to_owned(),
        rule_name: rule_name.to_owned(),
        target: target.to_owned(),
        process_chain: chain(process)?,
        access_time: occurred,
        decision: decision.into(),
    };
    Ok(DecodedEvent::Sendable(QueuedEvent::FileAccess(Box::new(message))))
}

/// The process, then its parent, then that one's.
fn chain(process: ArchivedObject<'_>) -> Result<Vec<wire::Process>, ArchiveError> {
    let mut chain = Vec::new();
    let mut next = Some(process);
    while let Some(process) = next {
        if chain.len() == MAX_CHAIN {
            return Err(ArchiveError::TooManyParents(MAX_CHAIN));
        }
        let text = |key| process.text(key).map(|text| text.unwrap_or_default().to_owned());
        chain.push(wire::Process {
            file_path: text("filePath")?,
            cdhash: text("cdhash")?,
            file_sha256: text("fileSHA256")?,
            signing_id: text("signingID")?,
            team_id: text("teamID")?,
            pid: process.whole("pid")?.unwrap_or(0),
            signing_chain: certificate::chain(&process, "signingChain")?,
        });
        next = process.object("parent", &PROCESS)?;
    }
    Ok(chain)
}
