//! `events list`.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use serde::Serialize;

use super::{SCHEMA_VERSION, look};
use crate::cli::setup::Setup;
use crate::cli::{Error, output};
use crate::model::{EventRow, Timestamp};
use crate::protocol::events::decode;
use crate::protocol::json::enum_name;
use crate::protocol::stored::{DecodedEvent, QueuedEvent};
use crate::protocol::wire;
use crate::store::{Drops, Rejected};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// List rejected events, with the reason
    #[arg(long)]
    rejected: bool,
    /// List at most N events
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct EventList {
    schema_version: u32,
    pending: u64,
    oldest: Option<Timestamp>,
    rejected: u64,
    dropped: DropsForm,
    /// Queued events, unless those set aside were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    events: Option<Vec<EventForm>>,
    /// Events set aside, if they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    rejected_events: Option<Vec<RejectedForm>>,
}

#[derive(Debug, Default, Serialize)]
struct DropsForm {
    queue_full: u64,
    unsendable: BTreeMap<String, u64>,
}

#[derive(Debug, Serialize)]
struct EventForm {
    id: i64,
    unique_id: String,
    queued_at: Timestamp,
    /// `execution`, `file_access`, `audit`, `unsendable` or `undecodable`.
    kind: &'static str,
    /// The decision's protocol name; what cannot be sent, or why it cannot be
    /// read.
    decision: String,
    /// The file, or what it was about.
    subject: String,
}

#[derive(Debug, Serialize)]
struct RejectedForm {
    id: i64,
    unique_id: String,
    cause: String,
    reason: String,
    since: Timestamp,
    bytes: u64,
}

/// Lists the events.
pub(super) fn run(setup: &Setup, args: &Args) -> Result<(), Error> {
    let mut list = EventList {
        schema_version: SCHEMA_VERSION,
        pending: 0,
        oldest: None,
        rejected: 0,
        dropped: DropsForm::default(),
        events: (!args.rejected).then(Vec::new),
        rejected_events: args.rejected.then(Vec::new),
    };
    if let Some(store) = look(setup)? {
        list.pending = store.pending()?;
        list.oldest = store.oldest()?;
        list.rejected = store.rejected_count()?;
        let Drops { queue_full, unsendable } = store.drops()?;
        list.dropped = DropsForm { queue_full, unsendable };
        if let Some(rejected) = &mut list.rejected_events {
            rejected.extend(store.rejected(args.limit)?.into_iter().map(RejectedForm::from));
        }
        if let Some(events) = &mut list.events
            && args.limit > 0
        {
            store.visit(&mut |row, queued_at| {
                events.push(EventForm::of(row, queued_at));
                if events.len() < args.limit {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            })?;
        }
    }
    if args.json {
        setup.print_json(&list);
    } else {
        list.show();
    }
    Ok(())
}

impl EventList {
    fn show(&self) {
        let mut lines = output::Lines::new();
        for event in self.events.iter().flatten() {
            let EventForm { id, queued_at, kind, decision, subject, .. } = event;
            lines.line(format_args!("{id:>8}  {queued_at}  {kind:<11}  {decision}  {subject}"));
        }
        for event in self.rejected_events.iter().flatten() {
            let RejectedForm { id, unique_id, cause, reason, since, .. } = event;
            lines.line(format_args!("{id:>8}  {since}  {cause:<11}  {unique_id}  {reason}"));
        }
        let mut counts = vec![format!("{} queued", self.pending)];
        counts.extend(self.oldest.map(|oldest| format!("the oldest since {oldest}")));
        if self.rejected > 0 {
            counts.push(format!("{} rejected (events list --rejected)", self.rejected));
        }
        let DropsForm { queue_full, unsendable } = &self.dropped;
        if *queue_full > 0 {
            counts.push(format!("{queue_full} dropped because the queue was full"));
        }
        counts
            .extend(unsendable.iter().map(|(kind, count)| format!("{count} {kind} not sendable")));
        lines.line(counts.join(", "));
    }
}

impl EventForm {
    fn of(row: EventRow, queued_at: Timestamp) -> Self {
        let (kind, decision, subject) = match decode(&row) {
            DecodedEvent::Unsendable { kind } => ("unsendable", kind, String::new()),
            DecodedEvent::Undecodable { reason } => ("undecodable", reason, String::new()),
            DecodedEvent::Sendable(event) => described(event),
        };
        Self { id: row.id, unique_id: row.unique_id, queued_at, kind, decision, subject }
    }
}

/// Kind, decision and subject of an event.
fn described(event: QueuedEvent) -> (&'static str, String, String) {
    let decision = |number| enum_name::<wire::Decision>(number).unwrap_or_default().to_owned();
    match event {
        QueuedEvent::Execution(event) => {
            let directory = event.file_path.trim_end_matches('/');
            let subject = format!("{directory}/{}", event.file_name);
            ("execution", decision(event.decision), subject)
        }
        QueuedEvent::FileAccess(event) => {
            let name = enum_name::<wire::FileAccessDecision>(event.decision);
            ("file_access", name.unwrap_or_default().to_owned(), event.target)
        }
        QueuedEvent::Audit(event) => match event.event {
            Some(wire::audit_event::Event::StandaloneModeRuleCreation(rule)) => {
                ("audit", decision(rule.decision), rule.identifier)
            }
            None => ("audit", String::new(), String::new()),
        },
    }
}

impl From<Rejected> for RejectedForm {
    fn from(event: Rejected) -> Self {
        let Rejected { id, unique_id, cause, reason, since, bytes } = event;
        Self { id, unique_id, cause, reason, since, bytes }
    }
}
