//! The machine's event stage: reading batches, sending them, and what a refusal
//! does to them.

use std::time::Duration;

use super::attempts::GivenUp;
use super::{AfterRefusal, Effect, Machine, MachineState, StageRequest, StoreEffect, uploads};
use crate::failure::FailureKind;
use crate::model::{Now, Stage};
use crate::protocol::events::EventBatch;
use crate::sync::plan::Plan;

impl Machine {
    /// The next batch, unless this sync uploads no events or no more of them.
    pub(super) fn read_events(&mut self, plan: Plan, now: Now) -> Effect {
        if self.inputs.dry_run || !plan.upload_events {
            return self.download(plan, now);
        }
        if self.past_event_time(now, Duration::ZERO) {
            return self.leave_events(plan, now);
        }
        let limit = self.uploads.limit(plan.batch_size);
        self.go_on(
            MachineState::ReadingEvents(plan),
            Effect::Store(StoreEffect::ReadEvents { limit }),
        )
    }

    /// A batch has been read: sends it, or ends the stage if there is none.
    pub(super) fn upload(&mut self, plan: Plan, mut batch: EventBatch, now: Now) -> Effect {
        if batch.ids.is_empty() && batch.dropped.is_empty() && batch.rejected.is_empty() {
            return self.end_uploads(plan, true, now);
        }
        if batch.ids.is_empty() {
            return self.settle(plan, batch, Vec::new());
        }
        if let Some(failure) = self.past_deadline(now) {
            return self.abandon(Stage::EventUpload, &failure.into(), now);
        }
        let body = std::mem::take(&mut batch.body);
        let (attempting, effect) = self.begin(StageRequest::EventUpload(body));
        self.go_on(MachineState::Uploading(plan, attempting, Box::new(batch)), effect)
    }

    /// Has the rows of a batch leave the queue.
    pub(super) fn settle(
        &mut self,
        plan: Plan,
        batch: EventBatch,
        bundle_requests: Vec<String>,
    ) -> Effect {
        self.ledger.batch(&batch);
        let settled = batch.settled(bundle_requests);
        self.go_on(MachineState::Settling(plan), Effect::Store(StoreEffect::SettleEvents(settled)))
    }

    /// EV-6: what becomes of a batch whose upload has failed permanently.
    pub(super) fn upload_failed(
        &mut self,
        plan: Plan,
        batch: EventBatch,
        given_up: GivenUp,
        now: Now,
    ) -> Effect {
        if given_up.failure.kind == FailureKind::Deadline && self.past_deadline(now).is_none() {
            return self.leave_events(plan, now);
        }
        let ids = batch.ids;
        let words = given_up.failure.message.clone();
        let (at_once, after) = match given_up.failure.http_status {
            Some(413) if ids.len() > 1 => return self.halve(plan, &ids),
            Some(413) => {
                self.uploads.found_too_large(&ids, plan.batch_size);
                (true, AfterRefusal::Fail)
            }
            Some(400 | 422) => {
                self.uploads.found_wrong();
                let go_on = self.uploads.must_go_on();
                if go_on {
                    let action = format!(
                        "a refused batch has failed {} syncs in a row; its events stay queued \
                         and this sync goes on to the rules",
                        uploads::MAX_REFUSED_SYNCS
                    );
                    self.warn(Stage::EventUpload, "events", &words, action);
                }
                (false, if go_on { AfterRefusal::GoOn } else { AfterRefusal::Fail })
            }
            _ => return self.abandon(Stage::EventUpload, &given_up, now),
        };
        let memory = self.uploads.memory();
        let effect = Effect::Store(StoreEffect::NoteRefusal { ids, words, at_once, memory });
        self.go_on(MachineState::NotingRefusal(plan, given_up, after), effect)
    }

    /// Sends the events of a batch again in smaller ones.
    pub(super) fn halve(&mut self, plan: Plan, ids: &[i64]) -> Effect {
        self.uploads.found_too_large(ids, plan.batch_size);
        let effect = StoreEffect::NoteUploads(self.uploads.memory());
        self.go_on(MachineState::NotingUploads(plan), Effect::Store(effect))
    }

    /// EV-1: half of the deadline has gone to events; the rules come next.
    pub(super) fn leave_events(&mut self, plan: Plan, now: Now) -> Effect {
        let action = "half of SyncDeadline was used for events; the others stay queued".to_owned();
        self.warn(Stage::EventUpload, "events", "", action);
        self.end_uploads(plan, false, now)
    }

    /// The uploads of this sync are over. `drained`: all that waited has gone
    /// through.
    fn end_uploads(&mut self, plan: Plan, drained: bool, now: Now) -> Effect {
        match self.uploads.ended(drained, plan.batch_size) {
            Some(memory) => self.go_on(
                MachineState::EndingUploads(plan),
                Effect::Store(StoreEffect::NoteUploads(memory)),
            ),
            None => self.download(plan, now),
        }
    }

    /// Whether events have had their half of the deadline, or will have had it
    /// after another `wait`.
    pub(super) fn past_event_time(&self, now: Now, wait: Duration) -> bool {
        now.elapsed.saturating_sub(self.started) + wait >= self.inputs.deadline / 2
    }
}
