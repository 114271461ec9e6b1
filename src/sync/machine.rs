//! The state machine of a sync: the four stages, their order, and what a
//! failure does to them.
//!
//! [`Machine::handle`] takes what happened and the time and returns the one
//! next effect. It has no clock, no socket and no store, and whatever a server
//! sends, it cannot panic. What it promises (the ids are the contract's):
//!
//! - no stage begins before the one before it is done (SYNC-1);
//! - once a request has failed permanently, staged settings are dropped and no
//!   later stage runs (SYNC-2);
//! - settings are applied only after the postflight request (SYNC-3);
//! - a batch of events leaves the queue only after its 200 (EV-2);
//! - rules are committed once, after the last page (RULE-1).

mod attempts;
mod download;
mod event_stage;
mod tally;
mod types;
mod uploads;

use std::time::Duration;

pub use types::{
    AttemptResult, Committed, Effect, EventsOnly, Inputs, StageRequest, StageResponse, StoreEffect,
    SyncEvent, SyncOutcome, SyncTally, Traffic,
};

use self::attempts::{AttemptStep, Attempts, GivenUp};
use self::download::{Download, check_page, fingerprint, next_page};
use self::tally::RunningTally;
use self::uploads::Uploads;
use super::plan::{self, Plan};
use crate::failure::{Failure, FailureKind};
use crate::model::{
    CleanSyncReason, ErrorRecord, Now, SettingChange, Settings, Stage, SyncResult, SyncType,
    SyncWarning, Timestamp,
};
use crate::protocol::events::EventBatch;
use crate::protocol::rules::{self, Page};
use crate::protocol::{events, postflight, preflight, wire};

/// The most rule pages of one sync.
pub const MAX_PAGES: usize = 10_000;
/// The most bytes in the texts of all rules of one sync.
pub const MAX_TEXT: u64 = 256 << 20;
/// So many unfinished uploads in a row make the batch smaller.
const MAX_UNFINISHED_UPLOADS: u32 = 2;

/// One sync, from [`SyncEvent::Started`] to [`Effect::Finish`].
#[derive(Debug)]
pub struct Machine {
    inputs: Inputs,
    state: MachineState,
    started: Duration,
    /// Settings are staged on disk and must be applied or dropped.
    staged: bool,
    /// This sync has fetched its one token.
    token_spent: bool,
    uploads: Uploads,
    sync_type: Option<SyncType>,
    ledger: RunningTally,
    warnings: Vec<SyncWarning>,
    /// Settings for which the disk had no room: they are staged once the events
    /// that may fill it have gone up.
    unstaged: Option<Box<Settings>>,
}

#[derive(Debug)]
enum MachineState {
    Ready,
    Preflight(Attempts),
    Staging(Plan, Box<Settings>),
    StagingAgain(Plan),
    ReadingEvents(Plan),
    Uploading(Plan, Attempts, Box<EventBatch>),
    Settling(Plan),
    NotingUploads(Plan),
    NotingRefusal(Plan, GivenUp, AfterRefusal),
    EndingUploads(Plan),
    Downloading(Plan, Attempts, Download),
    Committing(Plan),
    Postflight(Plan, Attempts),
    Applying(Option<ErrorRecord>),
    Dropping(SyncResult, ErrorRecord),
    Finished,
}

/// What follows a refusal once it has been noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AfterRefusal {
    /// The sync fails, unless the event has been set aside.
    Fail,
    /// The sync goes on to the rules: refusals have kept them away long enough.
    GoOn,
}

impl Machine {
    /// A machine for one sync.
    #[must_use]
    pub fn new(mut inputs: Inputs) -> Self {
        let warnings = std::mem::take(&mut inputs.warnings);
        Self {
            state: MachineState::Ready,
            started: Duration::ZERO,
            staged: false,
            token_spent: false,
            uploads: Uploads::new(inputs.upload_memory),
            sync_type: None,
            ledger: RunningTally::default(),
            unstaged: None,
            warnings,
            inputs,
        }
    }

    #[expect(clippy::too_many_lines, reason = "one match, in which every pair can be seen")]
    /// Takes what happened and returns what to do next. An event that does not
    /// belong to the last effect ends the sync with an internal error.
    pub fn handle(&mut self, event: SyncEvent, now: Now) -> Effect {
        let state = std::mem::replace(&mut self.state, MachineState::Finished);
        match (state, event) {
            (MachineState::Ready, SyncEvent::Started) => self.start(now),

            (MachineState::Preflight(attempting), SyncEvent::Attempt(exchange)) => {
                match self.progress(attempting, exchange, now) {
                    AttemptStep::UnderWay(attempting, effect) => {
                        self.go_on(MachineState::Preflight(*attempting), effect)
                    }
                    AttemptStep::Answered(StageResponse::Preflight(response)) => {
                        self.stage_settings(*response, now)
                    }
                    AttemptStep::Answered(_) => self.out_of_step(),
                    AttemptStep::Failed(given_up) => self.abandon(Stage::Preflight, &given_up, now),
                }
            }
            (MachineState::Uploading(plan, attempting, batch), SyncEvent::Attempt(exchange)) => {
                match self.progress(attempting, exchange, now) {
                    AttemptStep::UnderWay(_, Effect::Wait { duration, .. })
                        if self.past_event_time(now, duration) =>
                    {
                        self.leave_events(plan, now)
                    }
                    // Smaller batches may fit the way to the server (HTTP-9).
                    AttemptStep::UnderWay(attempting, Effect::Wait { .. })
                        if attempting.unfinished() >= MAX_UNFINISHED_UPLOADS
                            && batch.ids.len() > 1 =>
                    {
                        self.halve(plan, &batch.ids)
                    }
                    AttemptStep::UnderWay(attempting, effect) => {
                        self.go_on(MachineState::Uploading(plan, *attempting, batch), effect)
                    }
                    AttemptStep::Answered(StageResponse::EventUpload(response)) => {
                        self.settle(plan, *batch, events::bundle_requests(response))
                    }
                    AttemptStep::Answered(_) => self.out_of_step(),
                    AttemptStep::Failed(given_up) => {
                        self.upload_failed(plan, *batch, given_up, now)
                    }
                }
            }
            (
                MachineState::Downloading(plan, attempting, download),
                SyncEvent::Attempt(exchange),
            ) => match self.progress(attempting, exchange, now) {
                AttemptStep::UnderWay(attempting, effect) => {
                    self.go_on(MachineState::Downloading(plan, *attempting, download), effect)
                }
                AttemptStep::Answered(StageResponse::RuleDownload(page)) => {
                    self.page(plan, download, page, now)
                }
                AttemptStep::Answered(_) => self.out_of_step(),
                AttemptStep::Failed(given_up) => self.abandon(Stage::RuleDownload, &given_up, now),
            },
            (MachineState::Postflight(plan, attempting), SyncEvent::Attempt(exchange)) => {
                match self.progress(attempting, exchange, now) {
                    AttemptStep::UnderWay(attempting, effect) => {
                        self.go_on(MachineState::Postflight(plan, *attempting), effect)
                    }
                    AttemptStep::Answered(StageResponse::Postflight) => self.apply(plan, None),
                    AttemptStep::Answered(_) => self.out_of_step(),
                    // No request was made, or it is another server's settings that
                    // stay in effect until a sync has succeeded (PRE-7).
                    AttemptStep::Failed(given_up)
                        if given_up.attempts == 0 || self.inputs.former_settings =>
                    {
                        self.abandon(Stage::Postflight, &given_up, now)
                    }
                    // The request has been made: its settings take effect.
                    AttemptStep::Failed(given_up) => {
                        self.apply(plan, Some(error_record(Stage::Postflight, &given_up)))
                    }
                }
            }

            (MachineState::Staging(plan, _), SyncEvent::SettingsStaged) => {
                self.staged = true;
                self.ledger.end(Stage::Preflight, now.elapsed);
                self.read_events(plan, now)
            }
            (MachineState::StagingAgain(plan), SyncEvent::SettingsStaged) => {
                self.staged = true;
                self.download(plan, now)
            }
            // Uploading events needs no room, and may make some.
            (MachineState::Staging(plan, settings), SyncEvent::StoreFailed(failure))
                if failure.kind == FailureKind::DiskFull =>
            {
                self.unstaged = Some(settings);
                self.read_events(plan, now)
            }
            (MachineState::ReadingEvents(plan), SyncEvent::EventsRead(batch)) => {
                self.upload(plan, *batch, now)
            }
            // What cannot be noted is learned again in the next sync.
            (MachineState::Settling(plan), SyncEvent::EventsSettled)
            | (
                MachineState::NotingUploads(plan),
                SyncEvent::UploadsNoted | SyncEvent::StoreFailed(_),
            )
            | (
                MachineState::NotingRefusal(plan, ..),
                SyncEvent::RefusalNoted { set_aside: true },
            ) => self.read_events(plan, now),
            (
                MachineState::NotingRefusal(plan, _, AfterRefusal::GoOn),
                SyncEvent::RefusalNoted { set_aside: false },
            )
            | (
                MachineState::EndingUploads(plan),
                SyncEvent::UploadsNoted | SyncEvent::StoreFailed(_),
            ) => self.download(plan, now),
            (
                MachineState::NotingRefusal(_, given_up, AfterRefusal::Fail),
                SyncEvent::RefusalNoted { set_aside: false },
            )
            | (MachineState::NotingRefusal(_, given_up, _), SyncEvent::StoreFailed(_)) => {
                self.abandon(Stage::EventUpload, &given_up, now)
            }
            (MachineState::Committing(plan), SyncEvent::RulesCommitted(committed)) => {
                self.committed(plan, committed, now)
            }
            (MachineState::Applying(error), SyncEvent::SettingsApplied(changes)) => {
                self.applied(error, changes, now)
            }
            (MachineState::Dropping(result, error), SyncEvent::StagedDropped(changes)) => {
                self.finish(result, Some(error), Vec::new(), changes)
            }
            // What cannot be dropped here is dropped at the next start.
            (MachineState::Dropping(result, error), SyncEvent::StoreFailed(_)) => {
                self.finish(result, Some(error), Vec::new(), Vec::new())
            }

            (
                MachineState::Staging(..) | MachineState::StagingAgain(_),
                SyncEvent::StoreFailed(failure),
            ) => self.abandon(Stage::Preflight, &failure.into(), now),
            (
                MachineState::ReadingEvents(_) | MachineState::Settling(_),
                SyncEvent::StoreFailed(failure),
            ) => self.abandon(Stage::EventUpload, &failure.into(), now),
            (MachineState::Committing(_), SyncEvent::StoreFailed(failure)) => {
                self.abandon(Stage::RuleDownload, &failure.into(), now)
            }
            (MachineState::Applying(_), SyncEvent::StoreFailed(failure)) => {
                self.abandon(Stage::Postflight, &failure.into(), now)
            }

            (
                MachineState::Ready
                | MachineState::Preflight(_)
                | MachineState::Staging(..)
                | MachineState::StagingAgain(_)
                | MachineState::ReadingEvents(_)
                | MachineState::Uploading(..)
                | MachineState::Settling(_)
                | MachineState::NotingUploads(_)
                | MachineState::NotingRefusal(..)
                | MachineState::EndingUploads(_)
                | MachineState::Downloading(..)
                | MachineState::Committing(_)
                | MachineState::Postflight(..)
                | MachineState::Applying(_)
                | MachineState::Dropping(..)
                | MachineState::Finished,
                SyncEvent::Started
                | SyncEvent::Attempt(_)
                | SyncEvent::SettingsStaged
                | SyncEvent::EventsRead(_)
                | SyncEvent::EventsSettled
                | SyncEvent::RefusalNoted { .. }
                | SyncEvent::UploadsNoted
                | SyncEvent::RulesCommitted(_)
                | SyncEvent::SettingsApplied(_)
                | SyncEvent::StagedDropped(_)
                | SyncEvent::StoreFailed(_),
            ) => self.out_of_step(),
        }
    }

    fn start(&mut self, now: Now) -> Effect {
        self.started = now.elapsed;
        self.ledger.begin(now.elapsed);
        if let Some(EventsOnly { batch_size, .. }) = self.inputs.events_only {
            let plan = Plan { sync_type: SyncType::Normal, batch_size, upload_events: true };
            return self.read_events(plan, now);
        }
        let clean = self.inputs.requested != SyncType::Normal;
        let message = preflight::request(&self.inputs.machine_id, &self.inputs.facts, clean);
        let (attempting, effect) = self.begin(StageRequest::Preflight(Box::new(message)));
        self.go_on(MachineState::Preflight(attempting), effect)
    }

    fn stage_settings(&mut self, response: wire::PreflightResponse, now: Now) -> Effect {
        let answer = preflight::read(response);
        let hold_back = self.inputs.hold_back_events_in_clean;
        let plan = plan::plan(self.inputs.requested, &answer, hold_back);
        self.sync_type = Some(plan.sync_type);
        self.warn_of_kept_request(plan.sync_type);
        self.ledger.end(Stage::Preflight, now.elapsed);
        let settings = Box::new(answer.settings);
        let effect = Effect::Store(StoreEffect::StageSettings {
            settings: settings.clone(),
            answered: plan.sync_type,
        });
        self.go_on(MachineState::Staging(plan, settings), effect)
    }

    fn download(&mut self, plan: Plan, now: Now) -> Effect {
        if let Some(EventsOnly { authorizer_since, .. }) = self.inputs.events_only {
            self.ledger.end(Stage::EventUpload, now.elapsed);
            let error = stale_record(authorizer_since);
            return self.finish(SyncResult::AuthorizerStale, Some(error), Vec::new(), Vec::new());
        }
        if let Some(settings) = self.unstaged.take() {
            let effect = StoreEffect::StageSettings { settings, answered: plan.sync_type };
            return self.go_on(MachineState::StagingAgain(plan), Effect::Store(effect));
        }
        self.ledger.end(Stage::EventUpload, now.elapsed);
        self.ask_for_page(plan, Download::default(), now)
    }

    fn ask_for_page(&mut self, plan: Plan, download: Download, now: Now) -> Effect {
        if let Some(failure) = self.past_deadline(now) {
            return self.abandon(Stage::RuleDownload, &failure.into(), now);
        }
        let message = rules::request(&self.inputs.machine_id, download.asked.as_ref());
        let page = next_page(&download);
        let (attempting, effect) = self.begin(StageRequest::RuleDownload { message, page });
        self.go_on(MachineState::Downloading(plan, attempting, download), effect)
    }

    fn page(&mut self, plan: Plan, mut download: Download, page: Page, now: Now) -> Effect {
        if let Some(failure) = check_page(plan, &self.inputs.rules_url, &download, &page) {
            return self.abandon(Stage::RuleDownload, &failure.into(), now);
        }
        let Page { rules, rejected, rejected_unlisted, cursor, .. } = page;
        download.rules.push_page(rules, rejected);
        download.rules.count_unlisted(rejected_unlisted);
        if let Some(cursor) = cursor {
            download.cursors.insert(fingerprint(&cursor));
            download.asked = Some(cursor);
            return self.ask_for_page(plan, download, now);
        }
        self.ledger.rules(&download.rules);
        if let Some(failure) = self.no_usable_rules(plan, &download.rules) {
            return self.abandon(Stage::RuleDownload, &failure.into(), now);
        }
        let rules = Box::new(download.rules);
        let effect = Effect::Store(StoreEffect::CommitRules { rules, sync_type: plan.sync_type });
        self.go_on(MachineState::Committing(plan), effect)
    }

    fn committed(&mut self, plan: Plan, committed: Committed, now: Now) -> Effect {
        self.ledger.tally.committed = committed;
        self.ledger.end(Stage::RuleDownload, now.elapsed);
        if self.inputs.dry_run {
            return self.apply(plan, None);
        }
        if let Some(failure) = self.past_deadline(now) {
            return self.abandon(Stage::Postflight, &failure.into(), now);
        }
        let message = postflight::request(
            &self.inputs.machine_id,
            plan.sync_type,
            self.ledger.tally.rules_received,
            self.ledger.tally.committed.processed,
            &self.ledger.tally.committed.rules_hash,
        );
        let (attempting, effect) = self.begin(StageRequest::Postflight(message));
        self.go_on(MachineState::Postflight(plan, attempting), effect)
    }

    /// Puts the settings in effect. Only a success ends a clean-sync request, and
    /// only a successful clean sync clears what the server gave before.
    fn apply(&mut self, plan: Plan, error: Option<ErrorRecord>) -> Effect {
        let succeeded = error.is_none().then_some(plan.sync_type);
        let clear = error.is_none() && (plan.sync_type.is_clean() || self.inputs.former_settings);
        self.go_on(
            MachineState::Applying(error),
            Effect::Store(StoreEffect::ApplySettings { clear, succeeded }),
        )
    }

    fn applied(
        &mut self,
        error: Option<ErrorRecord>,
        changes: Vec<SettingChange>,
        now: Now,
    ) -> Effect {
        self.staged = false;
        self.ledger.end(Stage::Postflight, now.elapsed);
        let result =
            if error.is_none() { SyncResult::Success } else { SyncResult::PostflightFailed };
        self.finish(result, error, changes, Vec::new())
    }

    /// Ends the sync: what was staged is dropped, no later stage runs.
    fn abandon(&mut self, stage: Stage, given_up: &GivenUp, now: Now) -> Effect {
        self.ledger.end(stage, now.elapsed);
        self.revert(SyncResult::of_failed(stage), error_record(stage, given_up))
    }

    /// Whoever requested a clean sync believes that it was done, unless a warning says otherwise.
    fn warn_of_kept_request(&mut self, done: SyncType) {
        let Some(reason) = self.inputs.clean_request else { return };
        if done != SyncType::Normal || self.inputs.dry_run {
            return;
        }
        let (rules, withdraw) = match reason {
            CleanSyncReason::ServerChanged | CleanSyncReason::MachineIdChanged => {
                (", the former server's rules stay", "")
            }
            CleanSyncReason::Operator => ("", ", or `santa-sync sync --forget-clean` withdraws it"),
            CleanSyncReason::NewState
            | CleanSyncReason::RulesRecreated
            | CleanSyncReason::SettingsUnreadable
            | CleanSyncReason::Other => ("", ""),
        };
        let action = format!(
            "nothing was cleaned{rules}; the request stays ({}), until the server responds with a \
             clean sync{withdraw}",
            reason.words()
        );
        self.warn(Stage::Preflight, "sync_type", done.name(), action);
    }

    fn warn(&mut self, stage: Stage, field: &str, value: &str, action: String) {
        self.warnings.push(SyncWarning::new(stage, field, value, action));
    }

    fn out_of_step(&mut self) -> Effect {
        let message = "internal error: unexpected event in the sync state machine".to_owned();
        let error =
            ErrorRecord::outside_stages("internal", message, Some("please report this".to_owned()));
        self.revert(SyncResult::InternalError, error)
    }

    fn revert(&mut self, result: SyncResult, error: ErrorRecord) -> Effect {
        if std::mem::take(&mut self.staged) {
            return self.go_on(
                MachineState::Dropping(result, error),
                Effect::Store(StoreEffect::DropStaged),
            );
        }
        self.finish(result, Some(error), Vec::new(), Vec::new())
    }

    fn finish(
        &mut self,
        result: SyncResult,
        error: Option<ErrorRecord>,
        settings_applied: Vec<SettingChange>,
        settings_reverted: Vec<SettingChange>,
    ) -> Effect {
        let RunningTally { stages, tally, .. } = std::mem::take(&mut self.ledger);
        let outcome = SyncOutcome {
            result,
            error,
            sync_type: self.sync_type,
            stages,
            tally,
            settings_applied,
            settings_reverted,
            warnings: std::mem::take(&mut self.warnings),
        };
        self.go_on(MachineState::Finished, Effect::Finish(Box::new(outcome)))
    }

    fn go_on(&mut self, state: MachineState, effect: Effect) -> Effect {
        if let Effect::Send { request, .. } = &effect {
            self.ledger.attempt(request.stage());
        }
        self.state = state;
        effect
    }

    fn begin(&mut self, request: StageRequest) -> (Attempts, Effect) {
        self.ledger.request(request.stage());
        Attempts::start(request, self.inputs.trigger, self.inputs.jitter)
    }

    fn progress(&mut self, attempting: Attempts, exchange: AttemptResult, now: Now) -> AttemptStep {
        if let AttemptResult::Answered(_, traffic) | AttemptResult::Failed(_, traffic) = &exchange {
            self.ledger.traffic(attempting.stage(), *traffic);
        }
        match (attempting.on(exchange, &mut self.token_spent), self.past_deadline(now)) {
            (AttemptStep::UnderWay(attempting, _), Some(failure)) => {
                AttemptStep::Failed(attempting.stop(failure))
            }
            (progress, _) => progress,
        }
    }

    /// How long the effect returned last may take: up to the deadline, and an
    /// event upload no longer than up to half of it.
    #[must_use]
    pub fn time_left(&self, now: Now) -> Duration {
        let uploading = matches!(self.state, MachineState::Uploading(..));
        let all = if uploading { self.inputs.deadline / 2 } else { self.inputs.deadline };
        all.saturating_sub(now.elapsed.saturating_sub(self.started))
    }

    fn past_deadline(&self, now: Now) -> Option<Failure> {
        let over = now.elapsed.saturating_sub(self.started) >= self.inputs.deadline;
        over.then(|| deadline_failure(self.inputs.deadline))
    }
}

/// The failure of a sync that took too long.
#[must_use]
pub fn deadline_failure(deadline: Duration) -> Failure {
    let message =
        format!("the sync did not finish within its deadline of {} s", deadline.as_secs());
    Failure::new(FailureKind::Deadline, message)
        .fixed_by("check the server's and the network's speed, or raise SyncDeadline")
}

/// The error of a sync that only uploaded events.
fn stale_record(since: Timestamp) -> ErrorRecord {
    ErrorRecord {
        stage: Stage::Preflight.name().to_owned(),
        kind: SyncResult::AuthorizerStale.name().to_owned(),
        message: format!(
            "the authorizer of this host last asked for its settings at {since}, longer ago than \
             RelayStale allows; only events were uploaded, so that the server sees that this host \
             is out of date"
        ),
        fix: Some(
            "check that Santa runs and that its SyncBaseURL leads to the relay (`santa-sync \
             doctor`); syncs are whole again once it has synced with the relay"
                .to_owned(),
        ),
        http_status: None,
        cause: None,
    }
}

fn error_record(stage: Stage, given_up: &GivenUp) -> ErrorRecord {
    let GivenUp { failure, attempts, cause } = given_up;
    let message = match attempts {
        0 => failure.message.clone(),
        1 => format!("{} (1 attempt)", failure.message),
        n => format!("{} ({n} attempts)", failure.message),
    };
    let record = |failure: &Failure, message: String| ErrorRecord {
        stage: stage.name().to_owned(),
        kind: failure.kind.name().to_owned(),
        message,
        fix: failure.fix.as_deref().map(str::to_owned),
        http_status: failure.http_status,
        cause: None,
    };
    let cause = cause.as_ref().map(|cause| Box::new(record(cause, cause.message.clone())));
    ErrorRecord { cause, ..record(failure, message) }
}

#[cfg(test)]
mod tests;
