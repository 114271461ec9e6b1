//! A sync: the machine that decides and the driver that acts.
//!
//! [`machine`], [`plan`], [`retry`] and [`schedule`] are pure. This module carries their
//! effects out against the transport, the stores and the clock, one at a time,
//! and writes the record; `prefetch` reads the next batch meanwhile. It holds no
//! write lock while the network is in use: every store effect is one finished
//! transaction.

pub mod codec;
mod held;
pub mod machine;
pub mod notify;
pub mod plan;
mod prefetch;
mod prepare;
pub mod progress;
pub mod retry;
pub mod run;
pub mod schedule;
mod store_effects;
pub mod upload;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tracing::{info, warn};

use self::held::{Held, events_warning};
use self::machine::{
    AttemptResult, Effect, Inputs, Machine, StageRequest, StageResponse, StoreEffect, SyncEvent,
    SyncOutcome, Traffic,
};
use self::prefetch::Prefetcher;
use self::progress::{Observer, SyncProgress, When, checkpoint_name};
use self::store_effects::{LiveStores, act_dry, pending_events};
use crate::clock::{self, Clock};
use crate::failure::{Failure, FailureKind, Remedy as _};
use crate::model::{Stage, SyncRecord, SyncWarning, Transfer, Trigger};
use crate::store::{EventStore, Horizon, ReadStore, RuleGuard, Store, StoreError, leave_record};
use crate::transport::{Packer, Transport};

pub(crate) use codec::kind_of_body_error;
pub use prepare::{SyncSpec, WAIT_JITTER, prepare, prepare_dry};

/// The stores of one sync.
#[derive(Debug)]
pub enum Stores<'a> {
    /// Rules, settings and events that this sync changes.
    Live {
        /// Rules and settings.
        store: &'a mut Store,
        /// The event queue.
        events: &'a mut EventStore,
        /// How much of the rules a download may take away.
        guard: Option<RuleGuard>,
    },
    /// Rules and settings that a dry run compares with.
    Dry(&'a ReadStore),
}

/// Stops a sync: send the reason once.
pub type Stop = watch::Receiver<Option<&'static str>>;

/// Creates a [`Stop`] and its sender: sending a reason ends the sync in good
/// order.
#[must_use]
pub fn stop_channel() -> (watch::Sender<Option<&'static str>>, Stop) {
    watch::channel(None)
}

/// What a sync runs on.
pub struct Driver<'a> {
    /// The stores.
    pub stores: Stores<'a>,
    /// The connection to the server, or why it cannot be made.
    pub transport: Result<&'a Transport, Failure>,
    /// How messages travel.
    pub transfer: Transfer,
    /// The clock, which also waits.
    pub clock: &'a dyn Clock,
    /// Observes the sync.
    pub observer: &'a mut dyn Observer,
    /// Stops the sync.
    pub stop: Stop,
}

impl std::fmt::Debug for Driver<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").field("stores", &self.stores).finish_non_exhaustive()
    }
}

/// How many warnings about responses a record keeps.
const MAX_WARNINGS: usize = 100;

impl Driver<'_> {
    /// Runs one sync to its end and leaves its record.
    pub async fn run(mut self, inputs: Inputs) -> SyncRecord {
        let trigger = inputs.trigger;
        let started = self.clock.now();
        let id = sync_id(started.wall.as_millis());
        let blank = SyncRecord {
            dry_run: inputs.dry_run,
            events_pending: inputs.events_pending,
            ..SyncRecord::begun(id, trigger, started.wall, inputs.requested)
        };
        let number = match &mut self.stores {
            Stores::Live { store, .. } => store.begin_sync(&blank).map_err(|error| {
                warn!(%error, fix = error.fix().as_deref(), "cannot note in rules.db that a sync begins");
            }),
            Stores::Dry(_) => Err(()),
        };
        info!(sync = blank.id, trigger = ?trigger, requested = inputs.requested.name(), "sync begins");

        let deadline = inputs.deadline;
        let pending = inputs.events_pending;
        // Those have been logged where they were met.
        let logged = inputs.warnings.len();
        let mut held = Held::new(blank.id.clone(), self.horizon());
        let mut prefetcher = self.prefetcher(&inputs);
        let mut machine = Machine::new(inputs);
        let mut event = SyncEvent::Started;
        let outcome = loop {
            let effect = machine.handle(event, self.clock.now());
            let name = checkpoint_name(&effect);
            self.observer.checkpoint(When::Before, name);
            let left = machine.time_left(self.clock.now());
            let mut stop = self.stop.clone();
            let interruptible = Interruptible { stop: &mut stop, left, deadline };
            let over = self.over(left);
            event = match effect {
                Effect::Send { request, attempt } => {
                    let reason = *self.stop.borrow();
                    if let Some(reason) = reason {
                        SyncEvent::Attempt(AttemptResult::Stopped {
                            failure: stop_failure(reason),
                            begun: attempt > 1,
                        })
                    } else {
                        if !matches!(*request, StageRequest::EventUpload(_)) {
                            prefetcher.stop();
                        }
                        let sending = self.send(request, attempt, &mut held, &over);
                        let sent = interruptible.run(sending).await;
                        SyncEvent::Attempt(match sent {
                            // Reading its response was given up.
                            Ok(AttemptResult::Failed(failure, _))
                                if failure.kind == FailureKind::Cancelled =>
                            {
                                stopped_midway(self.ended_early(deadline))
                            }
                            sent => sent.unwrap_or_else(stopped_midway),
                        })
                    }
                }
                Effect::FetchToken { .. } => {
                    let fetched = interruptible.run(self.fetch_token(&mut held)).await;
                    SyncEvent::Attempt(
                        fetched.map_or_else(stopped_midway, AttemptResult::TokenFetched),
                    )
                }
                Effect::Wait { duration, stage, next_attempt, failure } => {
                    self.report_wait(duration, stage, next_attempt, &failure);
                    let waited = interruptible.run(self.clock.sleep(duration)).await;
                    SyncEvent::Attempt(
                        waited.map_or_else(stopped_midway, |()| AttemptResult::Waited),
                    )
                }
                Effect::Store(effect) => {
                    let done = self.act_on_stores(
                        effect,
                        &mut held,
                        &mut prefetcher,
                        pending,
                        over.clone(),
                    );
                    if matches!(done, SyncEvent::StoreFailed(_)) && over() {
                        SyncEvent::StoreFailed(self.ended_early(deadline))
                    } else {
                        done
                    }
                }
                Effect::Finish(outcome) => break *outcome,
            };
            self.observer.checkpoint(When::After, name);
        };

        outcome.warnings.iter().skip(logged).for_each(log_warning);
        let took = self.clock.now().elapsed.saturating_sub(started.elapsed);
        let record = self.record(blank, outcome, &held, took).bounded();
        self.leave_record(number.ok(), &record);
        log_rejected(&record);
        log_end(&record);
        self.observer.progress(&SyncProgress::Ended(&record));
        let over = self.over(machine.time_left(self.clock.now()));
        if let Stores::Live { store, .. } = &mut self.stores {
            store.compact_rules(over);
            store.restore_reserved_space();
        }
        record
    }

    fn prefetcher(&self, inputs: &Inputs) -> Prefetcher {
        let packer = self.transport.as_ref().map_or_else(|_| Packer::default(), |t| t.packer());
        let machine_id = inputs.machine_id.clone();
        Prefetcher::new(prefetch::BatchBuilder { machine_id, transfer: self.transfer, packer })
    }

    /// Writes the record; one that `rules.db` cannot take waits beside it.
    fn leave_record(&mut self, number: Option<i64>, record: &SyncRecord) {
        let Stores::Live { store, .. } = &mut self.stores else { return };
        let ended = number.map(|number| store.end_sync(number, record));
        if matches!(ended, Some(Ok(()))) {
            return;
        }
        if let Some(Err(error)) = ended {
            warn!(%error, fix = error.fix().as_deref(), "the record of the sync waits for the next one to enter it");
        }
        if let Err(error) = leave_record(store.dir(), number, record) {
            warn!(%error, fix = error.fix().as_deref(), "the record of the sync could not be kept");
        }
    }

    /// Where the event queue ends now. If that cannot be read, the queue cannot
    /// be uploaded either, and reading the first batch reports it.
    fn horizon(&mut self) -> Horizon {
        let now = self.clock.now().wall;
        match &mut self.stores {
            Stores::Live { events, .. } => events.horizon(now).unwrap_or(Horizon::ENDLESS),
            Stores::Dry(_) => Horizon::ENDLESS,
        }
    }

    /// Returns a function that says whether the sync has been asked to stop or `left` has
    /// passed: for work on this thread that no await interrupts.
    fn over(&self, left: Duration) -> impl Fn() -> bool + Clone + Send + 'static + use<> {
        let stop = self.stop.clone();
        let timer = clock::timer(left);
        move || stop.borrow().is_some() || timer()
    }

    /// Why the sync ends early: the stop, or else the deadline.
    fn ended_early(&self, deadline: Duration) -> Failure {
        let reason = *self.stop.borrow();
        reason.map_or_else(|| machine::deadline_failure(deadline), stop_failure)
    }

    fn report_wait(
        &mut self,
        duration: Duration,
        stage: Stage,
        next_attempt: u32,
        failure: &Failure,
    ) {
        let wait_s = duration.as_secs_f64();
        info!(%stage, next_attempt, wait_s, kind = %failure.kind, error = %failure, "attempt failed");
        self.observer.progress(&SyncProgress::Waiting { stage, duration, next_attempt, failure });
    }

    async fn fetch_token(&self, held: &mut Held) -> bool {
        held.token = None;
        let Ok(transport) = &self.transport else { return false };
        match transport.fetch_token(self.clock.now().wall).await {
            Ok(token) => {
                held.token = token;
                true
            }
            Err(error) => {
                info!(kind = %error.kind, %error, fix = error.fix.as_deref(), "no token could be fetched");
                false
            }
        }
    }

    fn act_on_stores(
        &mut self,
        effect: StoreEffect,
        held: &mut Held,
        prefetcher: &mut Prefetcher,
        pending: u64,
        over: impl Fn() -> bool + Send + 'static,
    ) -> SyncEvent {
        let done = match &mut self.stores {
            Stores::Dry(store) => act_dry(store, effect, held, self.observer),
            Stores::Live { store, events, guard } => {
                let guard = *guard;
                let now = self.clock.now().wall;
                // The one effect whose time grows with what a server sends.
                let long = matches!(effect, StoreEffect::CommitRules { .. });
                if long {
                    store.give_up_when(over);
                }
                let mut live =
                    LiveStores { store, events, guard, prefetcher, observer: self.observer, now };
                let done = live.act(effect, held, pending);
                if long {
                    live.store.never_give_up();
                }
                done
            }
        };
        done.unwrap_or_else(|error| {
            let full = matches!(error, StoreError::Full { .. });
            let kind = if full { FailureKind::DiskFull } else { FailureKind::Store };
            SyncEvent::StoreFailed(Failure::new(kind, error.to_string()))
        })
    }

    fn record(
        &mut self,
        blank: SyncRecord,
        outcome: SyncOutcome,
        held: &Held,
        took: Duration,
    ) -> SyncRecord {
        let SyncOutcome {
            result,
            error,
            sync_type,
            stages,
            tally,
            settings_applied,
            settings_reverted,
            warnings,
        } = outcome;
        let (events_pending, rules_hash) = match &self.stores {
            Stores::Live { store, events, .. } => {
                (pending_events(events), store.rules_hash().unwrap_or_default())
            }
            Stores::Dry(store) => (blank.events_pending, store.rules_hash().unwrap_or_default()),
        };
        SyncRecord {
            result,
            exit_code: result.exit_code(),
            duration_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            sync_type,
            stages,
            events_uploaded: tally.events_uploaded,
            events_pending,
            events_dropped: tally.events_dropped,
            events_rejected: tally.events_rejected + held.rejected,
            rules_received: tally.rules_received,
            rules_processed: tally.committed.processed,
            rules_removed: tally.committed.removed,
            rules_kept_transitive: tally.committed.kept_transitive,
            rules_rejected_total: tally.rules_rejected_total,
            rules_rejected: tally.rules_rejected,
            rules_hash,
            settings_applied,
            settings_reverted,
            warnings: [&held.warnings[..], &warnings[..]].concat(),
            error,
            ..blank
        }
    }

    async fn send(
        &mut self,
        request: Arc<StageRequest>,
        attempt: u32,
        held: &mut Held,
        over: &dyn Fn() -> bool,
    ) -> AttemptResult {
        let stage = request.stage();
        self.observer.progress(&SyncProgress::Attempt { stage, attempt });
        let transport = match &self.transport {
            Ok(transport) => *transport,
            Err(failure) => return AttemptResult::Failed(failure.clone(), Traffic::default()),
        };
        let body = match &held.body {
            Some((of, body)) if Arc::ptr_eq(of, &request) => body.clone(),
            _ => match codec::encode(self.transfer, &request, transport) {
                Ok(body) => body,
                Err(error) => {
                    let message = format!("the request has no JSON form: {error}");
                    let failure = Failure::new(FailureKind::WrongShape, message);
                    return AttemptResult::Failed(failure, Traffic::default());
                }
            },
        };
        held.body = Some((Arc::clone(&request), body.clone()));
        let now = self.clock.now().wall;
        let exchanged = transport.post_packed(stage, &body, held.token.as_ref(), now).await;
        let traffic = codec::traffic(&exchanged);
        let url = transport.url(stage);
        let decoded = exchanged.outcome.and_then(|answer| {
            codec::decode(self.transfer, &request, answer, &url, &mut held.expressions, over)
        });
        // What could not be read may be an echo of what was sent.
        let decoded = decoded.map_err(|failure| failure.redacted(|text| transport.redact(text)));
        match decoded {
            Ok(codec::DecodedResponse { answer, warnings }) => {
                hold_warnings(held, warnings, transport);
                if let StageResponse::Preflight(response) = &answer {
                    held.batch_size = response.batch_size;
                }
                self.report_page(&request, &answer, held);
                AttemptResult::Answered(answer, traffic)
            }
            Err(failure) => AttemptResult::Failed(failure, traffic),
        }
    }

    fn report_page(&mut self, request: &StageRequest, answer: &StageResponse, held: &mut Held) {
        if let (StageRequest::RuleDownload { page, .. }, StageResponse::RuleDownload(answer)) =
            (request, answer)
        {
            held.rules += (answer.rules.len() + answer.rejected.len()) as u64;
            self.observer.progress(&SyncProgress::Page {
                page: *page,
                rules: held.rules,
                rejected: &answer.rejected,
            });
        }
    }
}

/// Logs warnings and keeps them for the record: the first [`MAX_WARNINGS`] of
/// a sync, however many pages bring some.
fn hold_warnings(held: &mut Held, warnings: Vec<SyncWarning>, transport: &Transport) {
    let room = MAX_WARNINGS.saturating_sub(held.warnings.len());
    for warning in warnings.into_iter().take(room) {
        let warning = redacted(warning, transport);
        log_response_warning(&warning);
        held.warnings.push(warning);
    }
}

/// The warning without secrets: its value may be an echo of what was sent.
fn redacted(warning: SyncWarning, transport: &Transport) -> SyncWarning {
    SyncWarning { value: transport.redact(&warning.value), ..warning }
}

fn log_response_warning(SyncWarning { stage, field, value, action }: &SyncWarning) {
    warn!(%stage, field, value, action, "the server's response was not read as sent");
}

/// Logs what the machine warns of.
fn log_warning(SyncWarning { stage, field, value, action }: &SyncWarning) {
    warn!(%stage, field, value, action, "the sync went on");
}

/// Bounds work on the network.
struct Interruptible<'a> {
    stop: &'a mut Stop,
    left: Duration,
    deadline: Duration,
}

impl Interruptible<'_> {
    /// Waits for `work`, but not past the sync's deadline and not once the sync
    /// is asked to stop.
    async fn run<T>(self, work: impl Future<Output = T>) -> Result<T, Failure> {
        tokio::select! {
            biased;
            reason = stopped(self.stop) => {
                Err(stop_failure(reason))
            }
            done = work => Ok(done),
            () = tokio::time::sleep(self.left) => Err(machine::deadline_failure(self.deadline)),
        }
    }
}

fn stop_failure(reason: &str) -> Failure {
    Failure::new(FailureKind::Cancelled, format!("the sync was stopped: {reason}"))
}

const fn stopped_midway(failure: Failure) -> AttemptResult {
    AttemptResult::Stopped { failure, begun: true }
}

async fn stopped(stop: &mut Stop) -> &'static str {
    match stop.wait_for(Option::is_some).await.map(|reason| reason.unwrap_or_default()) {
        Ok(reason) => reason,
        // Nobody is left to stop this sync.
        Err(_) => std::future::pending().await,
    }
}

/// Sixteen hex digits that no other sync of this host has: the time in
/// milliseconds, which moves on by more than one between syncs.
fn sync_id(millis: i64) -> String {
    format!("{:016x}", xxhash_rust::xxh3::xxh3_64(&millis.to_le_bytes()))
}

/// RULE-6: a line for each rejected rule that the record lists, then a count.
fn log_rejected(record: &SyncRecord) {
    for rule in &record.rules_rejected {
        warn!(
            page = rule.page,
            index = rule.index,
            identifier = rule.identifier,
            reason = rule.reason,
            "rule rejected"
        );
    }
    let unlisted = record.rules_rejected_total.saturating_sub(record.rules_rejected.len() as u64);
    if unlisted > 0 {
        warn!(rules = unlisted, "more rules rejected");
    }
}

/// One line per sync, with what an operator needs first. The failure of a sync started
/// by hand is shown at once, so it is not a warning.
fn log_end(record: &SyncRecord) {
    let sync_type = record.sync_type.map_or("none", crate::model::SyncType::name);
    let result = record.result.name();
    let Some(error) = &record.error else {
        info!(
            sync = record.id,
            result,
            sync_type,
            duration_ms = record.duration_ms,
            rules_received = record.rules_received,
            rules_processed = record.rules_processed,
            events_uploaded = record.events_uploaded,
            events_pending = record.events_pending,
            rules_hash = record.rules_hash,
            "sync ends"
        );
        return;
    };
    let reverted: Vec<_> = record.settings_reverted.iter().map(|c| c.setting.as_str()).collect();
    let reverted = reverted.join(",");
    macro_rules! failed {
        ($level:ident) => {
            $level!(
                sync = record.id,
                result,
                sync_type,
                duration_ms = record.duration_ms,
                stage = error.stage,
                kind = error.kind,
                error = error.message,
                fix = error.fix,
                cause = error.cause_in_brackets(),
                reverted,
                "sync ends"
            )
        };
    }
    match record.trigger {
        Trigger::Manual => failed!(info),
        Trigger::Timer | Trigger::Trigger => failed!(warn),
    }
}
