//! Requests of the control socket that the event loop handles.

use tokio::sync::oneshot;
use tracing::{error, warn};

use super::EventLoop;
use crate::control::message::{self, ControlErrorKind, ControlResponse};
use crate::control::status::Activity;
use crate::daemon::control::server::{self, LoopRequest, SyncReply};
use crate::failure::Remedy as _;
use crate::model::LogLevel;
use crate::sync::schedule::{RequestOutcome, Requester};

impl EventLoop {
    /// Opens the control socket and serves it. A daemon without one still syncs.
    pub(super) fn listen(&self) -> Option<server::Socket> {
        let gid = self.group();
        match server::Socket::open(&self.state_dir, gid) {
            Ok((mut socket, listener)) => {
                let shared = server::ControlShared {
                    state_dir: self.state_dir.clone(),
                    commands: self.commands.clone(),
                    events: self.events.clone(),
                    configured: self.configured.subscribe(),
                    clock: self.options.clock,
                    timeouts: server::ControlTimeouts::default(),
                };
                socket.serve(listener, shared);
                Some(socket)
            }
            Err(error) => {
                error!(%error, fix = error.fix().as_deref(), "no control socket; syncs continue");
                None
            }
        }
    }

    pub(super) fn handle(&mut self, request: LoopRequest) {
        match request {
            LoopRequest::Status(reply) => {
                let _ = reply.send(self.status(Activity::Idle));
            }
            LoopRequest::Metrics(reply) => {
                let text =
                    self.counters.render(&self.status(Activity::Idle), self.summary.as_deref());
                let _ = reply.send(text);
            }
            LoopRequest::LogLevel(name, reply) => {
                let _ = reply.send(match name.parse::<LogLevel>() {
                    Ok(level) => {
                        self.asked_level = Some(level);
                        self.set_level(level);
                        warn!(level = name, "log level changed by a client");
                        self.publish();
                        ControlResponse::Done
                    }
                    Err(_) => ControlResponse::error(
                        ControlErrorKind::BadRequest,
                        format!(
                            "{name:?} is not a level; give off, error, warn, info, debug or trace"
                        ),
                    ),
                });
            }
            LoopRequest::Denial => self.denial_queued(),
            LoopRequest::Sync(sync, by, reply) => {
                let answer = self.asked(&sync, by);
                let _ = reply.send(answer);
                self.publish();
            }
        }
    }

    /// Handles a client's request for a sync. A request of the group joins the
    /// sync that begins next, which may be delayed (DAEMON-4); it is refused only
    /// if the client does not want to wait. The owner is refused for that reason,
    /// or because another request of the owner waits already.
    fn asked(
        &mut self,
        sync: &message::SyncRequest,
        by: Requester,
    ) -> Result<SyncReply, ControlResponse> {
        let now = self.alarm.now();
        let (asker, done) = oneshot::channel();
        let steps = self.events.subscribe();
        if let Some(running) = &mut self.running
            && sync.attach
        {
            running.waiters.push(asker);
            return Ok(SyncReply { number: self.syncs, waits: false, steps, done });
        }
        let another_kind = self.waiting.clean != sync.clean;
        let refused = match (by, self.running.is_some()) {
            (Requester::Owner, true) => !sync.wait || self.waiting.owner,
            (Requester::Owner, false) => self.waiting.owner && another_kind,
            (Requester::Group, true) => !sync.wait,
            (Requester::Group, false) => false,
        };
        if refused {
            let message = "too many syncs are in progress: one runs and one waits; try again later";
            return Err(ControlResponse::error(ControlErrorKind::TooManySyncs, message));
        }
        let early = self.schedule.group_wait(now);
        if by == Requester::Group && !sync.wait && !self.schedule.is_asked() && !early.is_zero() {
            let seconds = early.as_secs() + u64::from(early.subsec_nanos() > 0);
            let message = format!(
                "syncs requested by the group start at least 10 s apart, 60 s after a failure; \
                 try again in {seconds} s"
            );
            return Err(ControlResponse::error(ControlErrorKind::TooManySyncs, message));
        }
        let waits = match self.schedule.ask(by, now) {
            RequestOutcome::Later(_) => true,
            RequestOutcome::AtOnce | RequestOutcome::Already | RequestOutcome::Next => {
                self.running.is_some()
            }
        };
        self.waiting.clean = sync.clean.or(self.waiting.clean);
        self.waiting.manual |= sync.manual;
        self.waiting.owner |= by == Requester::Owner;
        self.waiting.waiters.push(asker);
        Ok(SyncReply { number: self.syncs + 1, waits, steps, done })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::{Path, PathBuf};
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::sync::watch;

    use super::*;
    use crate::clock::SystemClock;
    use crate::config::{Config, Sources};
    use crate::daemon::event_loop::RunningSync;
    use crate::daemon::instance_lock::InstanceLock;
    use crate::daemon::sync_process::order::SyncOrder;
    use crate::daemon::sync_process::parent::{ProcessEnd, SyncPhase};
    use crate::daemon::sync_process::summary::StoreSummary;
    use crate::daemon::{Options, Program};
    use crate::model::{SyncType, Trigger};

    /// An event loop on a state directory, without a server.
    pub(in crate::daemon::event_loop) fn daemon(dir: &Path) -> EventLoop {
        let options = Options {
            sources: Arc::new(Sources::default),
            loaded: Config::resolve(&[]),
            state_dir: None,
            clock: SystemClock::new(),
            program: Box::new(|_, _| Program { path: PathBuf::from("/nowhere"), args: Vec::new() }),
            network: Box::new(|| Err(std::io::ErrorKind::Unsupported.into())),
            set_level: Box::new(|_| {}),
            level: None,
            own_program: None,
            reopen_log: Box::new(|| {}),
            relay_checkpoint: Arc::new(|_, _| {}),
        };
        let instance_lock = InstanceLock::take(dir).expect("no error").expect("the place");
        EventLoop::new(options, dir.to_owned(), instance_lock).expect("a daemon").0
    }

    /// A sync that runs until the daemon ends.
    fn running(daemon: &EventLoop) -> RunningSync {
        let (_, phases) = watch::channel(SyncPhase::Begun);
        RunningSync {
            task: tokio::spawn(std::future::pending()),
            phases,
            phase: SyncPhase::Begun,
            errand: SyncOrder { trigger: Trigger::Timer, clean: None },
            began: daemon.alarm.now(),
            stamp: daemon.stamp(),
            limit: Duration::from_mins(1),
            waiters: Vec::new(),
        }
    }

    /// EV-10: a sync of which nothing is known has taken no events.
    #[tokio::test]
    async fn ev_10_a_sync_that_leaves_no_word_leaves_what_was_denied_urgent() {
        let dir = tempfile::tempdir().expect("a directory");
        for (left, urgent) in [(None, true), (Some(1), true), (Some(0), false)] {
            let mut daemon = daemon(dir.path());
            let queued = daemon.alarm.now();
            daemon.prompt.queued(queued);
            // Time passes between the two.
            while daemon.alarm.now().elapsed == queued.elapsed {
                tokio::task::yield_now().await;
            }
            let running = running(&daemon);
            let summary = left.map(|events_pending| {
                Box::new(StoreSummary { events_pending, ..StoreSummary::default() })
            });
            daemon.ended((running, ProcessEnd { summary, ..ProcessEnd::default() }));
            assert_eq!(daemon.prompt.due().is_some(), urgent, "{left:?}");
        }
    }

    /// DAEMON-4: thirty-two clients of the group are one sync, and the next of
    /// theirs waits for its time; one that does not want to wait is told when
    /// to try again. The owner is never refused because of the group.
    #[tokio::test]
    async fn daemon_4_a_storm_of_the_group_is_one_sync() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut daemon = daemon(dir.path());
        let normal = message::SyncRequest::default();
        let clean = message::SyncRequest {
            clean: Some(SyncType::Clean),
            ..message::SyncRequest::default()
        };
        for _ in 0..32 {
            let reply = daemon.asked(&normal, Requester::Group).expect("it joins");
            assert_eq!((reply.number, reply.waits), (1, false));
        }
        let begins = |daemon: &mut EventLoop| {
            daemon.waiting = super::super::PendingSync::default();
            let now = daemon.alarm.now();
            daemon.schedule.begin(now).is_some()
        };
        assert!(begins(&mut daemon));
        let now = daemon.alarm.now();
        daemon.schedule.end(now, crate::sync::schedule::SyncEnd::Success, None, 0.5);

        let at_once = message::SyncRequest { wait: false, ..message::SyncRequest::default() };
        let Err(ControlResponse::Error { kind, message, .. }) =
            daemon.asked(&at_once, Requester::Group)
        else {
            panic!("it is too early")
        };
        assert_eq!(kind, ControlErrorKind::TooManySyncs);
        assert!(message.contains("try again in 10 s"), "{message}");
        assert!(daemon.asked(&normal, Requester::Group).expect("it waits").waits);
        assert!(!begins(&mut daemon), "too early");
        assert!(!daemon.asked(&clean, Requester::Owner).expect("the owner is not limited").waits);
        assert!(
            daemon.asked(&normal, Requester::Owner).is_err(),
            "the owner waits for another kind"
        );
        daemon.asked(&normal, Requester::Group).expect("it joins the owner's");
        assert!(begins(&mut daemon));

        // While a sync runs, any number of the group waits for the next one.
        daemon.running = Some(running(&daemon));
        for _ in 0..32 {
            assert!(daemon.asked(&normal, Requester::Group).expect("it joins").waits);
        }
        assert!(daemon.asked(&at_once, Requester::Group).is_err(), "it does not want to wait");
        assert!(daemon.asked(&clean, Requester::Owner).expect("the group is not in its way").waits);
        assert!(daemon.asked(&normal, Requester::Owner).is_err(), "one of the owner's waits");
    }
}
