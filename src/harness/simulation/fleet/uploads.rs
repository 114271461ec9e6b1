//! What hosts do between syncs: events occur, and are uploaded soon after a denial.

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::{Due, Fleet, Reverse};
use crate::clock::Clock as _;
use crate::harness::simulation::host::SimulatedHost;
use crate::model::Now;
use crate::sync::schedule::Schedule;
use crate::sync::upload::UploadReport;

/// An upload between syncs that has ended; `report` is `None` if a reboot broke it off.
pub(super) struct EndedUpload {
    slot: usize,
    host: Box<SimulatedHost>,
    report: Option<UploadReport>,
    denied_at: Duration,
}

impl Fleet<'_> {
    /// Queues what has happened on a host that does not sync. What was denied is urgent.
    pub(super) fn events_happen(&mut self, slot: usize) {
        let Some(state) = self.slots.get_mut(slot) else { return };
        let Some(host) = &mut state.host else { return };
        let Some((first, last)) = host.events_happen(&self.world) else { return };
        let now = self.world.clock.now();
        state.prompt.queued(Now { elapsed: first, ..now });
        state.prompt.queued(Now { elapsed: last, ..now });
        state.denied_at.get_or_insert(first);
    }

    /// Plans when to look at a host between two syncs.
    pub(super) fn plan_wake(&mut self, slot: usize) {
        let Some(state) = self.slots.get_mut(slot) else { return };
        let (Some(host), Some(_)) = (&state.host, &state.schedule) else { return };
        let next = [host.next_denial(), state.prompt.due()].into_iter().flatten().min();
        let Some(next) = next else { return };
        state.wakes += 1;
        let at = self.world.clock.real_elapsed() + self.world.clock.until(next);
        self.queue.push(Reverse((at, Due::Wake { slot, wakes: state.wakes })));
    }

    pub(super) fn wake(&mut self, slot: usize, wakes: u32) {
        if self.slots.get(slot).is_none_or(|state| state.wakes != wakes) {
            return;
        }
        self.events_happen(slot);
        let now = self.world.clock.now();
        let Some(state) = self.slots.get_mut(slot) else { return };
        let sync_due = state.schedule.as_ref().and_then(Schedule::due);
        // A sync that is due uploads what waits, and its end plans again.
        if sync_due.is_none_or(|due| due <= now.elapsed) {
            return;
        }
        let may_upload = state.host.as_ref().is_some_and(|host| host.may_upload());
        if state.host.is_some() && state.prompt.begin(now) && may_upload {
            self.begin_upload(slot, now);
        } else {
            self.plan_wake(slot);
        }
    }

    fn begin_upload(&mut self, slot: usize, now: Now) {
        let Some(state) = self.slots.get_mut(slot) else { return };
        let Some(mut host) = state.host.take() else { return };
        let denied_at = state.denied_at.take().unwrap_or(now.elapsed);
        self.world.measured.borrow_mut().upload_begins(host.profile().group);
        let (reboot, rebooted) = oneshot::channel();
        self.reboots.insert(slot, reboot);
        let world = Rc::clone(&self.world);
        self.uploading.spawn_local(async move {
            let report = tokio::select! {
                report = host.upload(&world) => Some(report),
                Ok(()) = rebooted => None,
            };
            EndedUpload { slot, host, report, denied_at }
        });
    }

    /// An upload has ended, or its task died, and then its host with it.
    pub(super) fn upload_ended(&mut self, ended: Option<EndedUpload>) {
        let Some(EndedUpload { slot, host, report, denied_at }) = ended else { return };
        self.reboots.remove(&slot);
        let delay = self.world.clock.now().elapsed.saturating_sub(denied_at);
        let group = host.profile().group;
        self.world.measured.borrow_mut().upload_ends(group, report.as_ref(), delay);
        self.is_back(slot, host);
        // A sync that became due meanwhile begins.
        self.schedule(slot, |_| {});
        self.plan_wake(slot);
    }
}
