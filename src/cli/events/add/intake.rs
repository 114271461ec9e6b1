//! Who takes the events of `events add` in: the daemon, or this process.

use super::super::{look, open};
use crate::cli::setup::Setup;
use crate::cli::{Error, Global, by_daemon, output};
use crate::clock::{Clock as _, SystemClock};
use crate::control::client::Client;
use crate::control::message::{ControlRequest, ControlResponse, EventResult, MAX_LINE};
use crate::ingest::{self, IngestedEvent, ingest_lines};
use crate::model::Settings;
use crate::protocol::events::{IngestPolicy, read_line};
use crate::store::{EventStore, Limits, Store};

/// What a request has around its events, in bytes; rather more than less.
const AROUND: usize = 64;

/// What became of a line.
pub(super) struct Told {
    /// Empty if it is no event.
    pub(super) unique_id: String,
    /// `added`, `duplicate`, `backed_off`, `filtered` or `invalid`.
    pub(super) result: &'static str,
    /// Why it is no event.
    pub(super) reason: Option<String>,
}

/// Takes lines in. Once the daemon has not, this process does.
pub(super) struct Intake<'a> {
    setup: &'a Setup,
    by_daemon: bool,
    own: Option<(EventStore, IngestPolicy)>,
}

impl<'a> Intake<'a> {
    pub(super) fn new(global: &Global, setup: &'a Setup) -> Result<Self, Error> {
        let by_daemon = by_daemon::find_to_ask(global, &setup.state_dir).is_some();
        let own = if by_daemon { None } else { Some(own(setup)?) };
        Ok(Self { setup, by_daemon, own })
    }

    /// Takes lines in, in their order, and tells of each that was, also if the
    /// others could not be. An event that is told of as added is on disk.
    pub(super) fn ingest_lines(
        &mut self,
        lines: &[Vec<u8>],
        told: &mut Vec<Told>,
    ) -> Result<(), Error> {
        // Whoever writes the lines may have been silent for long.
        if self.by_daemon
            && let Some(mut client) = by_daemon::again(&self.setup.state_dir)
        {
            send(&mut client, lines, told)?;
        }
        let left = lines.get(told.len()..).unwrap_or_default();
        if left.is_empty() {
            return Ok(());
        }
        self.by_daemon = false;
        let (store, policy) = match &mut self.own {
            Some(own) => own,
            None => self.own.insert(own(self.setup)?),
        };
        let limits = Limits { events: self.setup.config.event_queue_limit, ..Limits::default() };
        let answers = ingest_lines(store, *policy, limits, left, SystemClock::new().now())?;
        if answers.iter().any(IngestedEvent::is_urgent) {
            by_daemon::upload_events(&self.setup.state_dir);
        }
        told.extend(answers.into_iter().map(|answered| Told {
            unique_id: answered.unique_id,
            result: answered.answer.name(),
            reason: match answered.answer {
                ingest::IngestOutcome::Invalid(error) => Some(error.to_string()),
                ingest::IngestOutcome::Added
                | ingest::IngestOutcome::Duplicate
                | ingest::IngestOutcome::BackedOff
                | ingest::IngestOutcome::Filtered => None,
            },
        }));
        Ok(())
    }

    /// How many events have been dropped because the queue was full.
    pub(super) fn dropped(&self) -> Result<u64, Error> {
        Ok(match &self.own {
            Some((store, _)) => store.drops()?.queue_full,
            None => look(self.setup)?.map_or(Ok(0), |store| store.drops().map(|d| d.queue_full))?,
        })
    }
}

/// The queue, and what the server's settings and the configuration take in.
fn own(setup: &Setup) -> Result<(EventStore, IngestPolicy), Error> {
    let store = open(setup)?;
    let applied = match Store::open_read_only(&setup.state_dir) {
        Ok(store) => store.applied_settings()?,
        // No sync of this program has been here yet.
        Err(error) if error.is_unused() => Settings::default(),
        Err(error) => return Err(error.into()),
    };
    let config = &setup.config;
    let policy = IngestPolicy::new(
        &applied,
        config.enable_all_event_upload,
        config.disable_unknown_event_upload,
    );
    Ok((store, policy))
}

/// Sends lines to the daemon, as many in a request as it takes, until it takes
/// no more.
fn send(client: &mut Client, lines: &[Vec<u8>], told: &mut Vec<Told>) -> Result<(), Error> {
    while let Some(left) = lines.get(told.len()..).filter(|left| !left.is_empty()) {
        let (mut chunk, events) = chunk(left);
        if chunk.is_empty() {
            output::note(format_args!(
                "an event of more than {MAX_LINE} bytes is not taken by the daemon; it and those \
                 after it are queued here"
            ));
            return Ok(());
        }
        if !events.is_empty() {
            let count = events.len();
            let answer = by_daemon::ask(client, &ControlRequest::EventsAdd { events }, |answer| {
                let ControlResponse::EventsAdded { results } = answer else { return None };
                (results.len() == count).then_some(results)
            });
            let Some(results) = answer else { return Ok(()) };
            let results = results.map_err(Error::unusable)?;
            let sent = chunk.iter_mut().filter(|told| told.reason.is_none());
            for (told, result) in sent.zip(results) {
                (told.result, told.reason) = match result {
                    EventResult::Added => ("added", None),
                    EventResult::Duplicate => ("duplicate", None),
                    EventResult::BackedOff => ("backed_off", None),
                    EventResult::Filtered => ("filtered", None),
                    EventResult::Rejected { reason } => ("invalid", Some(reason)),
                };
            }
        }
        told.append(&mut chunk);
    }
    Ok(())
}

/// As many lines as one request may carry, and their events. A line that is
/// no event has its reason already and is not sent.
fn chunk(lines: &[Vec<u8>]) -> (Vec<Told>, Vec<serde_json::Value>) {
    let mut told = Vec::new();
    let mut events = Vec::new();
    let mut size = AROUND;
    for line in lines {
        let read = read_line(line).map_err(|error| error.to_string());
        let read = read.and_then(|incoming| {
            let value: serde_json::Value =
                serde_json::from_slice(line).map_err(|error| error.to_string())?;
            Ok((incoming.summary.unique_id, value))
        });
        told.push(match read {
            Ok((unique_id, value)) => {
                size += value.to_string().len() + 1;
                if size > MAX_LINE {
                    break;
                }
                events.push(value);
                Told { unique_id, result: "invalid", reason: None }
            }
            Err(reason) => {
                Told { unique_id: String::new(), result: "invalid", reason: Some(reason) }
            }
        });
    }
    (told, events)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: usize, padding: usize) -> Vec<u8> {
        let path = "x".repeat(padding);
        format!(
            r#"{{"file_sha256":"{name:064x}","file_path":"/{path}","file_name":"{name}","executing_user":"u","execution_time":1.5,"decision":"BLOCK_BINARY"}}"#
        )
        .into_bytes()
    }

    /// DAEMON-4: a request holds as many events as a line may, and what is no
    /// event is not sent.
    #[test]
    fn daemon_4_lines_are_cut_into_requests_that_the_daemon_takes() {
        let mut lines: Vec<_> = (0..100).map(|n| event(n, 10_000)).collect();
        lines.insert(3, b"{".to_vec());
        let (told, events) = chunk(&lines);
        assert_eq!((told.len(), events.len()), (26, 25));
        assert!(told[3].reason.is_some() && told[3].unique_id.is_empty());
        assert!(told.iter().filter(|told| told.reason.is_none()).all(|t| !t.unique_id.is_empty()));
        let request = serde_json::to_string(&ControlRequest::EventsAdd { events }).expect("JSON");
        assert!(request.len() <= MAX_LINE, "{}", request.len());
        assert!(chunk(&[event(1, MAX_LINE)]).0.is_empty(), "one alone is too long");
    }
}
