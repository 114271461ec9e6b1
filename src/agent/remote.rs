//! What an agent has the daemon of its state directory do.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::value::RawValue;
use thiserror::Error;

use crate::clock::{Clock as _, SystemClock};
use crate::control::client::Client;
use crate::control::message::{
    ControlErrorKind, ControlRequest, ControlResponse, Decision, MAX_LINE, RequestedBundle,
    RuleLookup, SyncRequest,
};
use crate::control::status::DaemonStatus;
use crate::failure::ErrorText;
use crate::ingest::IngestedEvent;
use crate::model::{Executable, SyncRecord, SyncResult, SyncType, Trigger};
use crate::protocol::events::read_line;
use crate::sync::progress::{Observer, SyncProgress};
use crate::sync::run::SyncOptions;

/// How long the daemon may take for what it does at once. It answers `busy`
/// after 10 s.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the daemon may take to hear that events were queued.
const ANNOUNCEMENT_TIMEOUT: Duration = Duration::from_secs(1);
/// How often a request is repeated that the daemon is too busy for. It has
/// waited before it says so.
const REPEATS_WHEN_BUSY: u32 = 2;
/// What a request has around its events, in bytes; rather more than less.
const EVENTS_ENVELOPE_BYTES: usize = 64;

/// Why the daemon did not do what was asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RemoteError {
    /// It cannot use a database, nor could another process.
    #[error("{0}")]
    Store(ErrorText),
    /// It refused, or failed.
    #[error("{error}")]
    Refused {
        /// The cause.
        kind: ControlErrorKind,
        /// What it says.
        error: ErrorText,
    },
    /// It has ended, or does not respond in time.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It responded with something else than what was asked for.
    #[error("unexpected response; the daemon may be of another version")]
    Unexpected,
    /// An event is longer than a line of the control socket.
    #[error("an event is longer than {MAX_LINE} bytes")]
    EventTooLong,
}

/// The daemon of a state directory.
#[derive(Debug)]
pub struct RemoteAgent {
    client: Client,
    state_dir: PathBuf,
}

impl RemoteAgent {
    /// Connects to the daemon of a state directory; `None` if none runs there.
    ///
    /// # Errors
    /// If this user has no access to it.
    pub fn connect(state_dir: &Path) -> io::Result<Option<Self>> {
        let Some(client) = Client::reach(state_dir)? else { return Ok(None) };
        client.wait_at_most(Some(RESPONSE_TIMEOUT))?;
        Ok(Some(Self { client, state_dir: state_dir.to_owned() }))
    }

    /// Connects again: the daemon ends a connection that is silent for long.
    ///
    /// # Errors
    /// If the daemon has ended, or this user has no access to it.
    pub fn reconnect(&mut self) -> io::Result<()> {
        let state_dir = &self.state_dir;
        *self = Self::connect(state_dir)?.ok_or(io::ErrorKind::NotConnected)?;
        Ok(())
    }

    /// Whether the daemon can make this sync: only an ordinary or a clean one.
    #[must_use]
    pub const fn can_sync(options: SyncOptions) -> bool {
        !options.dry_run && !options.past_guard
    }

    /// Has the daemon make a sync and returns its record. If the daemon ends
    /// meanwhile, the record says so.
    pub fn sync(&mut self, options: SyncOptions, observer: &mut dyn Observer) -> SyncRecord {
        let began = SystemClock::new().now().wall;
        let not_begun = |result: SyncResult, ErrorText { message, fix }: ErrorText| {
            let requested = options.clean.unwrap_or(SyncType::Normal);
            SyncRecord::not_begun(result, message, fix, options.trigger, began, requested)
        };
        match self.attend_sync(options, observer) {
            Ok(record) => record,
            Err(RemoteError::Refused { kind: ControlErrorKind::TooManySyncs, error }) => {
                not_begun(SyncResult::TooManySyncs, error)
            }
            Err(RemoteError::Refused { error, .. }) => {
                not_begun(SyncResult::DaemonNotReachable, error)
            }
            Err(error) => {
                let message = format!("the daemon does not respond ({error})");
                let fix = Some("look at its log, and at `santa-sync status`".to_owned());
                not_begun(SyncResult::DaemonNotReachable, ErrorText { message, fix })
            }
        }
    }

    fn attend_sync(
        &mut self,
        options: SyncOptions,
        observer: &mut dyn Observer,
    ) -> Result<SyncRecord, RemoteError> {
        // A sync takes as long as it takes.
        self.client.wait_at_most(None)?;
        let manual = options.trigger == Trigger::Manual;
        let (clean, wait) = (options.clean, options.wait);
        self.client.ask(&ControlRequest::Sync(SyncRequest {
            clean,
            manual,
            wait,
            attach: false,
        }))?;
        loop {
            match self.client.answer()? {
                ControlResponse::Waiting => {
                    observer.progress(&SyncProgress::InLine { behind: None });
                }

                ControlResponse::Progress(step) => observer.progress(&SyncProgress::Relayed(&step)),
                ControlResponse::Missed { .. } => {}
                ControlResponse::Synced { record } => return Ok(*record),
                ControlResponse::Error { kind, message, fix } => {
                    return Err(RemoteError::Refused { kind, error: ErrorText { message, fix } });
                }
                ControlResponse::Status(_)
                | ControlResponse::EventsAdded { .. }
                | ControlResponse::Rule(_)
                | ControlResponse::BundleRequests { .. }
                | ControlResponse::Subscribed
                | ControlResponse::Notification { .. }
                | ControlResponse::Relay { .. }
                | ControlResponse::Metrics { .. }
                | ControlResponse::Done => return Err(RemoteError::Unexpected),
            }
        }
    }

    /// Asks which rule decides about an executable.
    ///
    /// # Errors
    /// If the daemon cannot tell.
    pub fn decide(&mut self, executable: &Executable) -> Result<Decision, RemoteError> {
        let lookup = RuleLookup { since: true, ..RuleLookup::of(executable) };
        self.ask(&ControlRequest::RulesLookup(lookup), |response| {
            let ControlResponse::Rule(decision) = response else { return None };
            // A rule that is known and not sent must not pass for none.
            (decision.matched == decision.rule.is_some()).then_some(*decision)
        })
    }

    /// Hands events over, as many in a request as a line holds, and appends what
    /// became of each to `results`.
    ///
    /// # Errors
    /// If the daemon did not take the rest.
    pub fn add_events(
        &mut self,
        lines: &[Vec<u8>],
        results: &mut Vec<IngestedEvent>,
    ) -> Result<(), RemoteError> {
        let mut left = lines;
        while !left.is_empty() {
            let Batch { taken, invalid, events } = Batch::of(left);
            if taken == 0 {
                return Err(RemoteError::EventTooLong);
            }
            let count = events.len();
            let added = if count == 0 {
                Vec::new()
            } else {
                self.ask(&ControlRequest::EventsAdd { events }, |response| {
                    let ControlResponse::EventsAdded { results } = response else { return None };
                    (results.len() == count).then_some(results)
                })?
            };
            let mut added = added.into_iter();
            let mut invalid = invalid.into_iter().peekable();
            for at in 0..taken {
                let result = match invalid.next_if(|(place, _)| *place == at) {
                    Some((_, result)) => Some(result),
                    None => added.next(),
                };
                results.extend(result);
            }
            left = left.get(taken..).unwrap_or_default();
        }
        Ok(())
    }

    /// Asks for the bundles whose executables the server waits for.
    ///
    /// # Errors
    /// If the daemon cannot tell.
    pub fn bundle_requests(&mut self) -> Result<Vec<RequestedBundle>, RemoteError> {
        self.ask(&ControlRequest::BundleRequests, |response| {
            if let ControlResponse::BundleRequests { bundles } = response {
                Some(bundles)
            } else {
                None
            }
        })
    }

    /// Asks for the daemon's status.
    ///
    /// # Errors
    /// If the daemon does not respond.
    pub fn status(&mut self) -> Result<DaemonStatus, RemoteError> {
        self.ask(&ControlRequest::Status, |response| {
            if let ControlResponse::Status(status) = response { Some(*status) } else { None }
        })
    }

    /// Sends a request that has a response of one line, and picks from it.
    fn ask<T>(
        &mut self,
        request: &ControlRequest,
        pick: impl FnOnce(ControlResponse) -> Option<T>,
    ) -> Result<T, RemoteError> {
        let mut repeats = 0..REPEATS_WHEN_BUSY;
        loop {
            self.client.ask(request)?;
            let response = self.client.answer()?;
            let ControlResponse::Error { kind, message, fix } = response else {
                return pick(response).ok_or(RemoteError::Unexpected);
            };
            if kind == ControlErrorKind::Busy && repeats.next().is_some() {
                continue;
            }
            let error = ErrorText { message, fix };
            return Err(if kind == ControlErrorKind::Store {
                RemoteError::Store(error)
            } else {
                RemoteError::Refused { kind, error }
            });
        }
    }
}

/// Tells the daemon, if there is one, that something that was denied has been
/// queued (EV-10). Nothing is lost if it does not hear of it.
pub(super) fn announce_denial(state_dir: &Path) {
    let Some(mut client) = Client::connect(state_dir) else { return };
    let told = client
        .wait_at_most(Some(ANNOUNCEMENT_TIMEOUT))
        .and_then(|()| client.ask(&ControlRequest::UploadEvents))
        .and_then(|()| client.answer());
    if let Err(error) = told {
        tracing::debug!(%error, "the daemon has not heard of the events");
    }
}

/// The events of as many lines as one request holds. They are passed on as they
/// came: the daemon reads them.
struct Batch {
    /// How many lines.
    taken: usize,
    /// Those that are not JSON at all, with their place among the lines.
    invalid: Vec<(usize, IngestedEvent)>,
    events: Vec<Box<RawValue>>,
}

impl Batch {
    fn of(lines: &[Vec<u8>]) -> Self {
        let mut batch = Self { taken: 0, invalid: Vec::new(), events: Vec::new() };
        let mut size = EVENTS_ENVELOPE_BYTES;
        for (at, line) in lines.iter().enumerate() {
            match serde_json::from_slice::<Box<RawValue>>(line) {
                Ok(event) => {
                    size += event.get().len() + 1;
                    if size > MAX_LINE {
                        break;
                    }
                    batch.events.push(event);
                }
                Err(error) => {
                    let reason = read_line(line)
                        .err()
                        .map_or_else(|| error.to_string(), |error| error.to_string());
                    batch.invalid.push((at, IngestedEvent::invalid(reason)));
                }
            }
            batch.taken = at + 1;
        }
        batch
    }
}

#[cfg(test)]
mod tests;
