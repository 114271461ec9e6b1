//! Uploads of events: in a sync, and at once when something is blocked.

use santa_sync::harness::fixtures::AnyEvent;
use santa_sync::model::Stage;
use santa_sync::protocol::wire;

use super::Santa;
use super::events::{is_blocked, is_unactionable, unique_id};
use super::sync::{Act, DEFAULT_BATCH, Ended, Session, Step};

/// What an upload did.
#[derive(Debug, Default)]
pub(super) struct Uploaded {
    pub(super) sent: u32,
    /// The bundles whose members the server wants.
    wanted: Vec<String>,
}

/// What became of the members of a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BundleOutcome {
    /// The server wanted them and they went to it at once.
    Sent,
    /// The server did not want them.
    Dropped,
    /// The server could not be asked: they wait for the next sync.
    Stored,
    /// Bundles are not looked into: the server has not enabled it.
    Disabled,
}

impl Session<'_> {
    /// Uploads these rows in batches, and deletes each batch after its 200.
    ///
    /// # Errors
    /// If a batch failed; the later ones stay as well.
    pub(super) fn upload(
        &mut self,
        rows: &[(u32, AnyEvent)],
        uploaded: &mut Uploaded,
    ) -> Result<(), Ended> {
        let santa = self.santa();
        let batch = santa.service.lock().expect("unpoisoned").batch_size.unwrap_or(DEFAULT_BATCH);
        for batch in rows.chunks(batch as usize) {
            let mut request = wire::EventUploadRequest {
                machine_id: santa.profile.machine_id.clone(),
                ..wire::EventUploadRequest::default()
            };
            for (_, event) in batch {
                match event.clone() {
                    AnyEvent::Execution(event) => request.events.push(*event),
                    AnyEvent::FileAccess(event) => request.file_access_events.push(event),
                }
            }
            let answer = self.message::<_, wire::EventUploadResponse>(
                Stage::EventUpload,
                ("EventUploadRequest", "EventUploadResponse"),
                &request,
                &[],
            )?;
            let Some(answer) = answer else { return Err(Ended::Failed) };
            // The last list that is not empty counts.
            if !answer.event_upload_bundle_binaries.is_empty() {
                uploaded.wanted = answer.event_upload_bundle_binaries;
            }
            let keys: Vec<_> = batch.iter().map(|(key, _)| *key).collect();
            self.deleted(&keys)?;
            uploaded.sent += u32::try_from(batch.len()).expect("few");
        }
        Ok(())
    }
}

impl Santa {
    /// Something happened that its daemon stores an event of. What was blocked is
    /// uploaded at once, in a session of its own. Returns whether the event was
    /// stored.
    pub(crate) fn observe(&self, event: &AnyEvent) -> bool {
        self.observe_with(event, &mut |_| Act::Go)
    }

    /// The same; `act` is asked at every point of the upload.
    pub(crate) fn observe_with(&self, event: &AnyEvent, act: &mut dyn FnMut(Step) -> Act) -> bool {
        let id = unique_id(event);
        if is_unactionable(event)
            && !self.back_offs.lock().expect("unpoisoned").seen.insert(id.clone())
        {
            return false;
        }
        let blocked = is_blocked(event);
        let stored = self.disk().events.store(event.clone());
        if blocked {
            // An event that waits already is sent again under a key that no row has.
            self.post((stored.unwrap_or(u32::MAX), &id, event), act);
        }
        stored.is_some()
    }

    /// Sends one event at once, unless one of this id was tried within ten minutes.
    /// Returns the bundles the server wants; `None` if it did not answer.
    fn post(
        &self,
        (key, id, event): (u32, &str, &AnyEvent),
        act: &mut dyn FnMut(Step) -> Act,
    ) -> Option<Vec<String>> {
        if !self.back_offs.lock().expect("unpoisoned").posted.insert(id.to_owned()) {
            return None;
        }
        let mut uploaded = Uploaded::default();
        match Session::new(self, act).upload(&[(key, event.clone())], &mut uploaded) {
            Ok(()) => Some(uploaded.wanted),
            Err(Ended::Failed) => {
                self.back_offs.lock().expect("unpoisoned").posted.remove(id);
                None
            }
            Err(Ended::Killed) => {
                self.kill_service();
                None
            }
        }
    }

    /// A blocked executable lies in a bundle, whose members are these.
    pub(crate) fn observe_bundle(
        &self,
        event: wire::Event,
        members: Vec<wire::Event>,
    ) -> BundleOutcome {
        if self.disk().state.given.enable_bundles != Some(true) {
            self.observe(&AnyEvent::Execution(Box::new(event)));
            return BundleOutcome::Disabled;
        }
        let hash = event.file_bundle_hash.clone();
        let event = AnyEvent::Execution(Box::new(event));
        let tried = self.back_offs.lock().expect("unpoisoned").posted.contains(&hash);
        let stored = self.disk().events.store(event.clone());
        let Some(key) = stored.filter(|_| !tried) else { return BundleOutcome::Dropped };
        let wanted = self.post((key, &hash, &event), &mut |_| Act::Go);
        let store = || {
            let mut disk = self.disk();
            for member in members {
                disk.events.store(AnyEvent::Execution(Box::new(member)));
            }
        };
        match wanted {
            None => {
                store();
                BundleOutcome::Stored
            }
            Some(wanted) if wanted.contains(&hash) => {
                let before: Vec<_> = self.disk().events.pending();
                store();
                let new: Vec<_> = self
                    .disk()
                    .events
                    .pending()
                    .into_iter()
                    .filter(|(key, _)| before.iter().all(|(known, _)| known != key))
                    .collect();
                // Failing, they stay for the next sync.
                let _ = Session::new(self, &mut |_| Act::Go).upload(&new, &mut Uploaded::default());
                BundleOutcome::Sent
            }
            Some(_) => BundleOutcome::Dropped,
        }
    }
}
