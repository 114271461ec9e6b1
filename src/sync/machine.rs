//! The state machine of a sync: the four stages, their order, and what a
//! failure does to them.
//!
//! [`Machine::handle`] takes what happened and the time and answers the one
//! next effect. It has no clock, no socket and no store, and whatever a server
//! sends, it cannot panic. What it promises (the ids are the contract's):
//!
//! - no stage begins before the one before it is done (SYNC-1);
//! - once a request has failed for good, staged settings are dropped and no
//!   later stage runs (SYNC-2);
//! - settings are applied only after the postflight request (SYNC-3);
//! - a batch of events leaves the queue only after its 200 (EV-2);
//! - rules are committed once, after the last page (RULE-1).

mod ledger;
mod request;
mod words;

use std::time::Duration;

pub use words::{
    Answer, Batch, Committed, Effect, Event, Exchange, Inputs, Outcome, Request, Settled,
    StoreEffect, Tally, Traffic,
};

use self::ledger::Ledger;
use self::request::{Attempting, Progress};
use super::plan::{self, Plan};
use super::retry::{Failure, FailureKind};
use crate::model::{Cursor, ErrorRecord, Now, RuleSet, SettingChange, Stage, SyncResult, SyncType};
use crate::protocol::rules::{self, MAX_RULES, Page};
use crate::protocol::{events, postflight, preflight, wire};

/// Rule pages of one sync at the most.
pub const MAX_PAGES: usize = 10_000;
/// Bytes of the texts of all rules of one sync at the most.
pub const MAX_TEXT: u64 = 256 << 20;

/// One sync, from [`Event::Started`] to [`Effect::Finish`].
#[derive(Debug)]
pub struct Machine {
    inputs: Inputs,
    state: State,
    started: Duration,
    /// Settings lie on disk and must be applied or dropped.
    staged: bool,
    /// This sync has fetched its one token.
    token_spent: bool,
    /// Events that may still be read: what was queued at the start and a
    /// little more, so that a flood of new ones cannot keep the rules waiting.
    events_left: u64,
    sync_type: Option<SyncType>,
    ledger: Ledger,
}

#[derive(Debug)]
enum State {
    Ready,
    Preflight(Attempting),
    Staging(Plan),
    ReadingEvents(Plan),
    Uploading(Plan, Attempting, Box<Batch>),
    Settling(Plan),
    NotingRefusal(Failure, u32),
    Downloading(Plan, Attempting, Download),
    Committing(Plan),
    Postflight(Plan, Attempting),
    Applying(Option<ErrorRecord>),
    Dropping(SyncResult, ErrorRecord),
    Finished,
}

/// A rule download under way.
#[derive(Debug, Default)]
struct Download {
    rules: RuleSet,
    text_bytes: u64,
    asked: Option<Cursor>,
}

impl Machine {
    /// A machine for one sync.
    #[must_use]
    pub fn new(inputs: Inputs) -> Self {
        Self {
            state: State::Ready,
            started: Duration::ZERO,
            staged: false,
            token_spent: false,
            events_left: inputs.events_pending,
            sync_type: None,
            ledger: Ledger::default(),
            inputs,
        }
    }

    #[expect(clippy::too_many_lines, reason = "one match, in which every pair can be seen")]
    /// Takes what happened and answers what to do next. An event that does not
    /// belong to the effect answered last ends the sync as an internal error.
    pub fn handle(&mut self, event: Event, now: Now) -> Effect {
        let state = std::mem::replace(&mut self.state, State::Finished);
        match (state, event) {
            (State::Ready, Event::Started) => self.start(now),

            (State::Preflight(attempting), Event::Exchange(exchange)) => {
                match self.progress(attempting, exchange, now) {
                    Progress::UnderWay(attempting, effect) => {
                        self.go_on(State::Preflight(attempting), effect)
                    }
                    Progress::Answered(Answer::Preflight(response)) => {
                        self.stage_settings(*response, now)
                    }
                    Progress::Answered(_) => self.out_of_step(),
                    Progress::Failed(failure, attempts) => {
                        self.abandon(Stage::Preflight, &failure, attempts, now)
                    }
                }
            }
            (State::Uploading(plan, attempting, batch), Event::Exchange(exchange)) => {
                match self.progress(attempting, exchange, now) {
                    Progress::UnderWay(attempting, effect) => {
                        self.go_on(State::Uploading(plan, attempting, batch), effect)
                    }
                    Progress::Answered(Answer::EventUpload(response)) => {
                        self.settle(plan, *batch, events::bundle_requests(response))
                    }
                    Progress::Answered(_) => self.out_of_step(),
                    Progress::Failed(failure, attempts) => {
                        self.upload_failed(*batch, failure, attempts, now)
                    }
                }
            }
            (State::Downloading(plan, attempting, download), Event::Exchange(exchange)) => {
                match self.progress(attempting, exchange, now) {
                    Progress::UnderWay(attempting, effect) => {
                        self.go_on(State::Downloading(plan, attempting, download), effect)
                    }
                    Progress::Answered(Answer::RuleDownload(page)) => {
                        self.page(plan, download, page, now)
                    }
                    Progress::Answered(_) => self.out_of_step(),
                    Progress::Failed(failure, attempts) => {
                        self.abandon(Stage::RuleDownload, &failure, attempts, now)
                    }
                }
            }
            (State::Postflight(plan, attempting), Event::Exchange(exchange)) => {
                match self.progress(attempting, exchange, now) {
                    Progress::UnderWay(attempting, effect) => {
                        self.go_on(State::Postflight(plan, attempting), effect)
                    }
                    Progress::Answered(Answer::Postflight) => self.apply(plan, None),
                    Progress::Answered(_) => self.out_of_step(),
                    Progress::Failed(failure, 0) => {
                        self.abandon(Stage::Postflight, &failure, 0, now)
                    }
                    // The request has been made: its settings take effect.
                    Progress::Failed(failure, attempts) => {
                        let error = error_record(Stage::Postflight, &failure, attempts);
                        self.apply(plan, Some(error))
                    }
                }
            }

            (State::Staging(plan), Event::SettingsStaged) => {
                self.staged = true;
                self.ledger.end(Stage::Preflight, now.elapsed);
                self.read_events(plan, now)
            }
            (State::ReadingEvents(plan), Event::EventsRead(batch)) => {
                self.upload(plan, *batch, now)
            }
            (State::Settling(plan), Event::EventsSettled) => self.read_events(plan, now),
            // A refusal that cannot be noted is met again in the next sync.
            (
                State::NotingRefusal(failure, attempts),
                Event::RefusalNoted | Event::StoreFailed(_),
            ) => self.abandon(Stage::EventUpload, &failure, attempts, now),
            (State::Committing(plan), Event::RulesCommitted(committed)) => {
                self.committed(plan, committed, now)
            }
            (State::Applying(error), Event::SettingsApplied(changes)) => {
                self.applied(error, changes, now)
            }
            (State::Dropping(result, error), Event::StagedDropped(changes)) => {
                self.finish(result, Some(error), Vec::new(), changes)
            }
            // What cannot be dropped here is dropped at the next start.
            (State::Dropping(result, error), Event::StoreFailed(_)) => {
                self.finish(result, Some(error), Vec::new(), Vec::new())
            }

            (State::Staging(_), Event::StoreFailed(failure)) => {
                self.abandon(Stage::Preflight, &failure, 0, now)
            }
            (State::ReadingEvents(_) | State::Settling(_), Event::StoreFailed(failure)) => {
                self.abandon(Stage::EventUpload, &failure, 0, now)
            }
            (State::Committing(_), Event::StoreFailed(failure)) => {
                self.abandon(Stage::RuleDownload, &failure, 0, now)
            }
            (State::Applying(_), Event::StoreFailed(failure)) => {
                self.abandon(Stage::Postflight, &failure, 0, now)
            }

            (
                State::Ready
                | State::Preflight(_)
                | State::Staging(_)
                | State::ReadingEvents(_)
                | State::Uploading(..)
                | State::Settling(_)
                | State::NotingRefusal(..)
                | State::Downloading(..)
                | State::Committing(_)
                | State::Postflight(..)
                | State::Applying(_)
                | State::Dropping(..)
                | State::Finished,
                Event::Started
                | Event::Exchange(_)
                | Event::SettingsStaged
                | Event::EventsRead(_)
                | Event::EventsSettled
                | Event::RefusalNoted
                | Event::RulesCommitted(_)
                | Event::SettingsApplied(_)
                | Event::StagedDropped(_)
                | Event::StoreFailed(_),
            ) => self.out_of_step(),
        }
    }

    fn start(&mut self, now: Now) -> Effect {
        self.started = now.elapsed;
        self.ledger.begin(now.elapsed);
        let clean = self.inputs.wished != SyncType::Normal;
        let message = preflight::request(&self.inputs.machine_id, &self.inputs.facts, clean);
        let (attempting, effect) = self.begin(Request::Preflight(Box::new(message)));
        self.go_on(State::Preflight(attempting), effect)
    }

    fn stage_settings(&mut self, response: wire::PreflightResponse, now: Now) -> Effect {
        let answer = preflight::read(response);
        let hold_back = self.inputs.hold_back_events_in_clean;
        let plan = plan::plan(self.inputs.wished, &answer, hold_back);
        self.sync_type = Some(plan.sync_type);
        self.events_left = self.events_left.saturating_add(2 * plan.batch_size as u64);
        self.ledger.end(Stage::Preflight, now.elapsed);
        let effect = Effect::Store(StoreEffect::StageSettings {
            settings: Box::new(answer.settings),
            answered: plan.sync_type,
        });
        self.go_on(State::Staging(plan), effect)
    }

    /// The next batch, unless this sync uploads no events or no more of them.
    fn read_events(&mut self, plan: Plan, now: Now) -> Effect {
        if self.inputs.dry_run || !plan.upload_events || self.events_left == 0 {
            return self.download(plan, now);
        }
        self.go_on(
            State::ReadingEvents(plan),
            Effect::Store(StoreEffect::ReadEvents { limit: plan.batch_size }),
        )
    }

    fn upload(&mut self, plan: Plan, mut batch: Batch, now: Now) -> Effect {
        let seen = batch.ids.len() + batch.dropped.len() + batch.rejected.len();
        if seen == 0 {
            return self.download(plan, now);
        }
        self.events_left = self.events_left.saturating_sub(seen as u64);
        if batch.ids.is_empty() {
            return self.settle(plan, batch, Vec::new());
        }
        if let Some(failure) = self.past_deadline(now) {
            return self.abandon(Stage::EventUpload, &failure, 0, now);
        }
        let body = std::mem::take(&mut batch.body);
        let (attempting, effect) = self.begin(Request::EventUpload(body));
        self.go_on(State::Uploading(plan, attempting, Box::new(batch)), effect)
    }

    fn settle(&mut self, plan: Plan, batch: Batch, bundle_requests: Vec<String>) -> Effect {
        self.ledger.batch(&batch);
        let Batch { ids: delivered, dropped, rejected, .. } = batch;
        let settled = Settled { delivered, dropped, rejected, bundle_requests };
        self.go_on(State::Settling(plan), Effect::Store(StoreEffect::SettleEvents(settled)))
    }

    fn upload_failed(&mut self, batch: Batch, failure: Failure, attempts: u32, now: Now) -> Effect {
        if matches!(failure.http_status, Some(400 | 413 | 422)) {
            let effect = Effect::Store(StoreEffect::NoteRefusal {
                ids: batch.ids,
                words: failure.message.clone(),
            });
            return self.go_on(State::NotingRefusal(failure, attempts), effect);
        }
        self.abandon(Stage::EventUpload, &failure, attempts, now)
    }

    fn download(&mut self, plan: Plan, now: Now) -> Effect {
        self.ledger.end(Stage::EventUpload, now.elapsed);
        self.ask_for_page(plan, Download::default(), now)
    }

    fn ask_for_page(&mut self, plan: Plan, download: Download, now: Now) -> Effect {
        if let Some(failure) = self.past_deadline(now) {
            return self.abandon(Stage::RuleDownload, &failure, 0, now);
        }
        let message = rules::request(&self.inputs.machine_id, download.asked.as_ref());
        let page = next_page(&download);
        let (attempting, effect) = self.begin(Request::RuleDownload { message, page });
        self.go_on(State::Downloading(plan, attempting, download), effect)
    }

    fn page(&mut self, plan: Plan, mut download: Download, page: Page, now: Now) -> Effect {
        if let Some(failure) = check_page(plan, &download, &page) {
            return self.abandon(Stage::RuleDownload, &failure, 0, now);
        }
        let Page { rules, rejected, rejected_unlisted, text_bytes, cursor, .. } = page;
        download.rules.push_page(rules, rejected);
        download.rules.count_unlisted(rejected_unlisted);
        download.text_bytes += text_bytes;
        if cursor.is_some() {
            download.asked = cursor;
            return self.ask_for_page(plan, download, now);
        }
        self.ledger.rules(&download.rules);
        let rules = Box::new(download.rules);
        let effect = Effect::Store(StoreEffect::CommitRules { rules, sync_type: plan.sync_type });
        self.go_on(State::Committing(plan), effect)
    }

    fn committed(&mut self, plan: Plan, committed: Committed, now: Now) -> Effect {
        self.ledger.tally.committed = committed;
        self.ledger.end(Stage::RuleDownload, now.elapsed);
        if self.inputs.dry_run {
            return self.apply(plan, None);
        }
        if let Some(failure) = self.past_deadline(now) {
            return self.abandon(Stage::Postflight, &failure, 0, now);
        }
        let message = postflight::request(
            &self.inputs.machine_id,
            plan.sync_type,
            self.ledger.tally.rules_received,
            self.ledger.tally.committed.processed,
            &self.ledger.tally.committed.rules_hash,
        );
        let (attempting, effect) = self.begin(Request::Postflight(message));
        self.go_on(State::Postflight(plan, attempting), effect)
    }

    /// Puts the settings in force. Only a success ends a wish, and only a
    /// successful clean sync clears what the server gave before.
    fn apply(&mut self, plan: Plan, error: Option<ErrorRecord>) -> Effect {
        let succeeded = error.is_none().then_some(plan.sync_type);
        let clear = error.is_none() && plan.sync_type.is_clean();
        self.go_on(
            State::Applying(error),
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
    fn abandon(&mut self, stage: Stage, failure: &Failure, attempts: u32, now: Now) -> Effect {
        self.ledger.end(stage, now.elapsed);
        self.revert(SyncResult::of_failed(stage), error_record(stage, failure, attempts))
    }

    fn out_of_step(&mut self) -> Effect {
        let error = ErrorRecord {
            stage: String::new(),
            kind: "internal".to_owned(),
            message: "the sync was told of something it had not asked for; please report this"
                .to_owned(),
            http_status: None,
            cause: None,
        };
        self.revert(SyncResult::InternalError, error)
    }

    fn revert(&mut self, result: SyncResult, error: ErrorRecord) -> Effect {
        if std::mem::take(&mut self.staged) {
            return self
                .go_on(State::Dropping(result, error), Effect::Store(StoreEffect::DropStaged));
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
        let Ledger { stages, tally, .. } = std::mem::take(&mut self.ledger);
        let outcome = Outcome {
            result,
            error,
            sync_type: self.sync_type,
            stages,
            tally,
            settings_applied,
            settings_reverted,
        };
        self.go_on(State::Finished, Effect::Finish(Box::new(outcome)))
    }

    fn go_on(&mut self, state: State, effect: Effect) -> Effect {
        if let Effect::Send { request, .. } = &effect {
            self.ledger.attempt(request.stage());
        }
        self.state = state;
        effect
    }

    fn begin(&mut self, request: Request) -> (Attempting, Effect) {
        self.ledger.request(request.stage());
        Attempting::start(request, self.inputs.jitter)
    }

    fn progress(&mut self, attempting: Attempting, exchange: Exchange, now: Now) -> Progress {
        if let Exchange::Answered(_, traffic) | Exchange::Failed(_, traffic) = &exchange {
            self.ledger.traffic(attempting.stage(), *traffic);
        }
        match (attempting.on(exchange, &mut self.token_spent), self.past_deadline(now)) {
            (Progress::UnderWay(attempting, _), Some(failure)) => {
                Progress::Failed(failure, attempting.attempts())
            }
            (progress, _) => progress,
        }
    }

    fn past_deadline(&self, now: Now) -> Option<Failure> {
        let over = now.elapsed.saturating_sub(self.started) >= self.inputs.deadline;
        over.then(|| deadline_failure(self.inputs.deadline))
    }
}

/// The failure of a sync that took too long.
#[must_use]
pub fn deadline_failure(deadline: Duration) -> Failure {
    let message = format!(
        "the sync did not finish within its deadline of {} s (SyncDeadline)",
        deadline.as_secs()
    );
    Failure::new(FailureKind::Deadline, message)
}

fn next_page(download: &Download) -> u32 {
    u32::try_from(download.rules.pages()).map_or(u32::MAX, |pages| pages.saturating_add(1))
}

/// Why a page must not be taken, if so.
fn check_page(plan: Plan, download: &Download, page: &Page) -> Option<Failure> {
    let number = next_page(download);
    let received = download.rules.received() + page.rules.len() as u64 + page.rejected.len() as u64;
    let (kind, message) = if page.without_body && plan.sync_type != SyncType::Normal {
        (
            FailureKind::EmptyBody,
            format!(
                "page {number} of a {} sync has no body; for an empty set of rules \
                 the server must send {{}}",
                plan.sync_type.name()
            ),
        )
    } else if page.cursor.is_some() && page.cursor == download.asked {
        (
            FailureKind::CursorNotAdvancing,
            format!(
                "page {number} came with the cursor it was asked with; the server must move on"
            ),
        )
    } else if page.cursor.is_some() && download.rules.pages() + 1 >= MAX_PAGES {
        (
            FailureKind::TooManyPages,
            format!(
                "the server has more than {MAX_PAGES} pages of rules; it must send larger ones"
            ),
        )
    } else if download.text_bytes + page.text_bytes > MAX_TEXT {
        let message =
            format!("the rules' texts are longer than {MAX_TEXT} bytes; they must be shorter");
        (FailureKind::TooLarge, message)
    } else if received > MAX_RULES {
        (
            FailureKind::TooManyRules,
            format!("the server sent more than {MAX_RULES} rules; it must send fewer"),
        )
    } else {
        return None;
    };
    Some(Failure::new(kind, message))
}

fn error_record(stage: Stage, failure: &Failure, attempts: u32) -> ErrorRecord {
    let message = match attempts {
        0 => failure.message.clone(),
        1 => format!("{} (1 attempt)", failure.message),
        n => format!("{} ({n} attempts)", failure.message),
    };
    ErrorRecord {
        stage: stage.name().to_owned(),
        kind: failure.kind.name().to_owned(),
        message,
        http_status: failure.http_status,
        cause: None,
    }
}

#[cfg(test)]
mod tests;
