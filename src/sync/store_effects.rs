//! Carries out the store effects of the machine, for real and in a dry run.

use tracing::{debug, warn};

use super::Held;
use super::machine::{Committed, StoreEffect, SyncEvent};
use super::prefetch::Prefetcher;
use super::progress::{Observer, SyncProgress};
use crate::failure::{Failure, FailureKind, Remedy as _};
use crate::model::{SettingChange, SettledEvents, Timestamp};
use crate::protocol::events::EventBatch;
use crate::store::{
    CommitError, EventStore, ReadStore, Refused, RuleCommit, RuleGuard, Store, StoreError,
};

/// How many changed rules a dry run lists.
const MAX_CHANGES_LISTED: usize = 1000;

/// Carries out store effects for real.
pub(super) struct LiveStores<'a> {
    pub(super) store: &'a mut Store,
    pub(super) events: &'a mut EventStore,
    pub(super) guard: Option<RuleGuard>,
    pub(super) prefetcher: &'a mut Prefetcher,
    pub(super) observer: &'a mut dyn Observer,
    pub(super) now: Timestamp,
}

impl LiveStores<'_> {
    pub(super) fn act(
        &mut self,
        effect: StoreEffect,
        held: &mut Held,
        pending: u64,
    ) -> Result<SyncEvent, StoreError> {
        Ok(match effect {
            StoreEffect::StageSettings { settings, answered } => {
                self.observer.progress(&SyncProgress::Negotiated { sync_type: answered });
                self.store.keep_batch_size(held.batch_size)?;
                self.store.stage_settings(&settings, answered)?;
                held.staged_changes = self.store.preview_settings(&settings, false)?;
                SyncEvent::SettingsStaged
            }
            StoreEffect::ReadEvents { limit } => {
                SyncEvent::EventsRead(Box::new(self.read(limit, held)))
            }
            StoreEffect::SettleEvents(settled) => {
                held.uploaded += settled.delivered.len() as u64;
                if let Err(error) = self.settle(&settled) {
                    // The batch is on the server. What is still queued is sent
                    // again by the next sync.
                    held.give_events_up(&error);
                }
                self.observer
                    .progress(&SyncProgress::Uploaded { total: held.uploaded, of: pending });
                SyncEvent::EventsSettled
            }
            StoreEffect::NoteRefusal { ids, words, at_once, memory } => {
                self.prefetcher.discard();
                let noted = self.events.note_refused(&ids, &words, at_once, memory, self.now);
                let set_aside = match noted {
                    Ok(refused) => refused == Refused::SetAside,
                    Err(error) => {
                        held.give_events_up(&error);
                        false
                    }
                };
                held.rejected += u64::from(set_aside);
                SyncEvent::RefusalNoted { set_aside }
            }
            StoreEffect::NoteUploads(memory) => {
                self.prefetcher.discard();
                if let Err(error) = self.events.note_upload_memory(memory) {
                    held.give_events_up(&error);
                }
                SyncEvent::UploadsNoted
            }
            StoreEffect::CommitRules { rules, sync_type } => {
                self.observer.progress(&SyncProgress::Committing { rules: rules.len() as u64 });
                let commit = RuleCommit {
                    sync: Some(held.sync_id.clone()),
                    guard: self.guard,
                    ..(sync_type, self.now).into()
                };
                let committed = match self.store.commit_rules(&rules, commit) {
                    Ok(committed) => committed,
                    Err(CommitError::Store(error)) => return Err(error),
                    Err(CommitError::Guarded(guarded)) => {
                        let message = format!("nothing was changed: {guarded}");
                        let failure = Failure::new(FailureKind::Guarded, message).fixed_by(
                            "if that is intended, run `santa-sync sync --clean --past-guard`",
                        );
                        return Ok(SyncEvent::StoreFailed(failure));
                    }
                };
                self.observer.progress(&SyncProgress::Committed(&committed));
                SyncEvent::RulesCommitted(Committed {
                    processed: committed.processed,
                    removed: committed.removed_by_cleanup,
                    kept_transitive: committed.kept_transitive,
                    rules_hash: committed.hash,
                })
            }
            StoreEffect::ApplySettings { clear, succeeded } => {
                let changes = self.store.apply_staged(clear, succeeded, self.now)?;
                self.observer.progress(&SyncProgress::Applied(&changes));
                SyncEvent::SettingsApplied(changes)
            }
            StoreEffect::DropStaged => {
                let changes = match self.store.drop_staged() {
                    Ok(changes) => changes.unwrap_or_default(),
                    // They are not in effect, and never will be: the next start
                    // drops them.
                    Err(error) => {
                        warn!(%error, fix = error.fix().as_deref(), "the staged settings stay on disk until the next sync");
                        std::mem::take(&mut held.staged_changes)
                    }
                };
                self.observer.progress(&SyncProgress::Reverted(&changes));
                SyncEvent::StagedDropped(changes)
            }
        })
    }

    /// The next batch; an empty one if the queue cannot be used any more.
    fn read(&mut self, limit: usize, held: &mut Held) -> EventBatch {
        if held.events_unusable {
            return EventBatch::default();
        }
        let read = if let Some(read) = self.prefetcher.take(limit) {
            read
        } else {
            match self.events.read_batch_within(limit, None, held.horizon, self.now) {
                Ok(rows) => self.prefetcher.build(rows),
                Err(error) => {
                    held.give_events_up(&error);
                    return EventBatch::default();
                }
            }
        };
        self.prefetcher.start_next(&read, limit, held.horizon, self.events);
        read
    }

    fn settle(&mut self, settled: &SettledEvents) -> Result<(), StoreError> {
        if !settled.bundle_requests.is_empty() {
            debug!(bundles = settled.bundle_requests.len(), "the server requests bundles");
        }
        self.events.settle(settled, self.now)
    }
}

/// Events queued here and in the other program's database. What cannot be
/// counted costs no sync.
pub(super) fn pending_events(events: &EventStore) -> u64 {
    let count = |counted: Result<u64, StoreError>| {
        counted.unwrap_or_else(|error| {
            warn!(%error, fix = error.fix().as_deref(), "queued events cannot be counted");
            0
        })
    };
    count(events.pending()) + count(events.pending_elsewhere())
}

/// What a dry run does in the place of each store effect.
pub(super) fn act_dry(
    store: &ReadStore,
    effect: StoreEffect,
    held: &mut Held,
    observer: &mut dyn Observer,
) -> Result<SyncEvent, StoreError> {
    Ok(match effect {
        StoreEffect::StageSettings { settings, answered } => {
            observer.progress(&SyncProgress::Negotiated { sync_type: answered });
            held.staged = *settings;
            SyncEvent::SettingsStaged
        }
        StoreEffect::CommitRules { rules, sync_type } => {
            let preview = store.preview_rules(&rules, sync_type, MAX_CHANGES_LISTED)?;
            observer.progress(&SyncProgress::Compared(&preview));
            SyncEvent::RulesCommitted(Committed {
                processed: rules.len() as u64,
                removed: preview.removed,
                kept_transitive: preview.kept_transitive,
                rules_hash: String::new(),
            })
        }
        StoreEffect::ApplySettings { clear, .. } => {
            let changes = store.preview_settings(&held.staged, clear)?;
            observer.progress(&SyncProgress::Applied(&changes));
            SyncEvent::SettingsApplied(changes)
        }
        StoreEffect::DropStaged => SyncEvent::StagedDropped(Vec::<SettingChange>::new()),
        StoreEffect::ReadEvents { .. } => SyncEvent::EventsRead(Box::default()),
        StoreEffect::SettleEvents(_) => SyncEvent::EventsSettled,
        StoreEffect::NoteRefusal { .. } => SyncEvent::RefusalNoted { set_aside: false },
        StoreEffect::NoteUploads(_) => SyncEvent::UploadsNoted,
    })
}
