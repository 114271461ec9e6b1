//! Uploads between syncs (EV-10).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::{DEADLINE_GRACE, EventLoop};
use crate::control::status::PromptUpload;
use crate::daemon::own_program::OwnProgram;
use crate::daemon::sync_process::order::{self, Order};
use crate::daemon::sync_process::parent::{self, ProcessEnd, Supervision, SyncPhase};
use crate::sync::upload::{UPLOAD_LIMIT, UploadReport, UploadResult};

impl EventLoop {
    /// Something that was denied has been queued.
    pub(super) fn denial_queued(&mut self) {
        let config = &self.loaded.config;
        if config.prompt_event_upload && config.sync_base_url.is_some() {
            self.prompt.queued(self.alarm.now());
        }
    }

    /// When the next thing is due: a reading of the configuration, a look at this
    /// program's file, or a sync or an upload. Neither of these two begins while one of
    /// them runs, or while that file is another one.
    pub(super) fn due(&self) -> Option<Duration> {
        let sync = self.schedule.due().filter(|_| self.may_start());
        let upload = sync.and_then(|_| self.prompt.due());
        [self.reload_at, self.look_again_at, sync, upload].into_iter().flatten().min()
    }

    /// Whether a process of a sync or an upload may be started.
    fn may_start(&self) -> bool {
        self.uploading.is_none() && !self.own_program.as_ref().is_some_and(OwnProgram::is_another)
    }

    /// Begins what is due. A sync uploads what waits, so it comes before an upload.
    pub(super) async fn begin(&mut self) {
        self.look_at_program().await;
        let now = self.alarm.now();
        if self.reload_at.is_some_and(|due| due <= now.elapsed) {
            self.reload_changed().await;
        } else if !self.may_start() {
            // The alarm rang for something that has been done meanwhile.
        } else if self.schedule.due().is_some_and(|due| due <= now.elapsed) {
            self.begin_sync().await;
        } else if self.prompt.begin(now) {
            self.begin_upload();
        }
    }

    fn begin_upload(&mut self) {
        if !self.instance_lock.holds(&self.state_dir) {
            // The next sync creates it again.
            return;
        }
        // No number: those are of syncs, and so is misbehaviour.
        let program = (self.options.program)(0, self.level.name());
        let order = order::encode(Order::Upload, &self.loaded.effective);
        let watch = Supervision {
            clock: Arc::new(self.options.clock),
            limit: UPLOAD_LIMIT + DEADLINE_GRACE,
            stop: self.stop.subscribe(),
            phase: watch::channel(SyncPhase::Begun).0,
        };
        debug!(program = %program.path.display(), "an upload's process starts");
        self.uploading = Some(tokio::spawn(parent::run(program, order, watch, |_| {})));
    }

    pub(super) fn upload_ended(&mut self, ended: ProcessEnd) {
        let now = self.alarm.now();
        let report = match ended {
            ProcessEnd { uploaded: Some(report), .. } => report,
            ProcessEnd { trouble, .. } => UploadReport::failed(trouble.map_or_else(
                || "the process of the upload ended without a report".to_owned(),
                |trouble| trouble.message().to_owned(),
            )),
        };
        match (report.result, &report.error) {
            (UploadResult::Uploaded, _) if report.events > 0 => {
                info!(events = report.events, "events uploaded after a denial");
            }
            (UploadResult::Failed, Some(error)) => {
                warn!(error, "prompt upload failed; the next sync uploads the events");
            }
            (result, _) => debug!(?result, "no events uploaded"),
        }
        // It may or may not take them.
        if report.result == UploadResult::Busy {
            self.prompt.queued(now);
        }
        if ended.summary.is_some() {
            self.summary = ended.summary;
        }
        self.prompt_upload = Some(PromptUpload { at: now.wall, report });
        self.publish();
    }
}
