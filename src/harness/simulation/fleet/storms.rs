//! Storms: clean syncs, syncs or reboots of many hosts at once.

use super::Fleet;
use crate::clock::Clock as _;
use crate::harness::fixtures::Random;
use crate::harness::simulation::plan::StormKind;
use crate::sync::schedule::Requester;

impl Fleet<'_> {
    pub(super) fn storm(&mut self, number: usize) {
        let Some(storm) = self.plan.storms.get(number) else { return };
        let mut random = Random::new(self.plan.seed ^ ((number as u64 + 1) << 40));
        for slot in 0..self.slots.len() {
            let takes_part = random.below(100) < u32::from(storm.percent);
            if takes_part && self.slots.get(slot).is_some_and(|slot| slot.schedule.is_some()) {
                self.strike(slot, storm.kind);
            }
        }
    }

    fn strike(&mut self, slot: usize, kind: StormKind) {
        let now = self.world.clock.now();
        match kind {
            StormKind::Clean => {
                let Some(state) = self.slots.get_mut(slot) else { return };
                match &mut state.host {
                    Some(host) => host.request_clean_sync(now.wall),
                    None => state.clean_wanted = true,
                }
            }
            StormKind::Sync => self.schedule(slot, |state| {
                if let Some(schedule) = &mut state.schedule {
                    schedule.ask(Requester::Owner, now);
                }
            }),
            StormKind::Reboot => {
                if let Some(reboot) = self.reboots.remove(&slot) {
                    // A sync that has just ended needs no breaking off.
                    let _ = reboot.send(());
                }
                self.start(slot);
            }
        }
    }
}
