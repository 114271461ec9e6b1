//! What clients of the control socket ask the loop.

use tokio::sync::oneshot;
use tracing::{error, warn};

use super::Daemon;
use crate::daemon::beat::Doing;
use crate::daemon::level_of;
use crate::daemon::message::{self, Answer, ErrorKind};
use crate::daemon::schedule::{Asked, By};
use crate::daemon::socket::{self, Command, SyncReply};

impl Daemon {
    /// Opens the control socket and answers on it. A daemon without one syncs.
    pub(super) fn listen(&self) -> Option<socket::Socket> {
        let gid = self.group();
        match socket::Socket::open(&self.state_dir, gid) {
            Ok((mut socket, listener)) => {
                let house = socket::House {
                    state_dir: self.state_dir.clone(),
                    commands: self.commands.clone(),
                    news: self.news.clone(),
                    configured: self.configured.subscribe(),
                    clock: self.options.clock,
                    patience: socket::Patience::default(),
                };
                socket.serve(listener, house);
                Some(socket)
            }
            Err(error) => {
                error!(%error, "there is no control socket; syncs go on");
                None
            }
        }
    }

    pub(super) fn obey(&mut self, command: Command) {
        match command {
            Command::Status(reply) => {
                let _ = reply.send(self.beat(Doing::Idle));
            }
            Command::Metrics(reply) => {
                let text = self.counters.render(&self.beat(Doing::Idle), self.facts.as_deref());
                let _ = reply.send(text);
            }
            Command::LogLevel(name, reply) => {
                let _ = reply.send(match level_of(&name) {
                    Some(level) => {
                        self.asked_level = Some(level);
                        self.set_level(level);
                        warn!(level = name, "the level of log lines was changed by a client");
                        self.publish();
                        Answer::Done
                    }
                    None => Answer::error(
                        ErrorKind::BadRequest,
                        format!(
                            "{name:?} is no level; give off, error, warn, info, debug or trace"
                        ),
                    ),
                });
            }
            Command::Denial => self.denial_queued(),
            Command::Sync(sync, by, reply) => {
                let answer = self.asked(&sync, by);
                let _ = reply.send(answer);
                self.publish();
            }
        }
    }

    /// Takes a client's request for a sync. What the group asks for is joined to
    /// what begins anyway, or waits for its time (DAEMON-4); the owner is only
    /// ever refused for other requests of the owner.
    fn asked(&mut self, sync: &message::Sync, by: By) -> Result<SyncReply, Answer> {
        let now = self.alarm.now();
        let (asker, done) = oneshot::channel();
        let steps = self.news.subscribe();
        if let Some(running) = &mut self.running
            && sync.attach
        {
            running.askers.push(asker);
            return Ok(SyncReply { number: self.syncs, waits: false, steps, done });
        }
        let another_kind = self.waiting.clean != sync.clean;
        let refused = match (by, self.running.is_some()) {
            (By::Owner, true) => !sync.wait || self.waiting.owner,
            (By::Owner, false) => self.waiting.owner && another_kind,
            (By::Group, true) => !sync.wait || !self.waiting.askers.is_empty(),
            (By::Group, false) => false,
        };
        if refused {
            let message = "too many syncs are in progress: one runs and one waits; try again later";
            return Err(Answer::error(ErrorKind::TooManySyncs, message));
        }
        let early = self.schedule.group_wait(now);
        if by == By::Group && !sync.wait && !self.schedule.is_asked() && !early.is_zero() {
            let seconds = early.as_secs() + 1;
            let message = format!(
                "syncs that the group asks for begin at least 10 s apart, 60 s after a failure; \
                 try again in {seconds} s"
            );
            return Err(Answer::error(ErrorKind::TooManySyncs, message));
        }
        let waits = match self.schedule.ask(by, now) {
            Asked::Later(_) => true,
            Asked::AtOnce | Asked::Already | Asked::Next => self.running.is_some(),
        };
        self.waiting.clean = sync.clean.or(self.waiting.clean);
        self.waiting.manual |= sync.manual;
        self.waiting.owner |= by == By::Owner;
        self.waiting.askers.push(asker);
        Ok(SyncReply { number: self.syncs + 1, waits, steps, done })
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::sync::Arc;

    use super::*;
    use crate::clock::SystemClock;
    use crate::config::{Config, Sources};
    use crate::daemon::guard::Guard;
    use crate::daemon::{Options, Program};
    use crate::model::SyncType;

    fn daemon(dir: &Path) -> Daemon {
        let options = Options {
            sources: Arc::new(Sources::default),
            loaded: Config::resolve(&[]),
            state_dir: None,
            clock: SystemClock::new(),
            program: Box::new(|_, _| Program { path: PathBuf::from("/nowhere"), args: Vec::new() }),
            network: Box::new(|| Err(std::io::ErrorKind::Unsupported.into())),
            set_level: Box::new(|_| {}),
            level: None,
        };
        let guard = Guard::take(dir).expect("no error").expect("the place");
        Daemon::new(options, dir.to_owned(), guard).expect("a daemon")
    }

    /// DAEMON-4: thirty-two clients of the group are one sync, and the next of
    /// theirs waits for its time; one that does not want to wait is told when
    /// to try again. The owner is never refused because of the group.
    #[tokio::test]
    async fn daemon_4_a_storm_of_the_group_is_one_sync() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut daemon = daemon(dir.path());
        let normal = message::Sync::default();
        let clean = message::Sync { clean: Some(SyncType::Clean), ..message::Sync::default() };
        for _ in 0..32 {
            let reply = daemon.asked(&normal, By::Group).expect("it joins");
            assert_eq!((reply.number, reply.waits), (1, false));
        }
        let begins = |daemon: &mut Daemon| {
            daemon.waiting = super::super::Waiting::default();
            let now = daemon.alarm.now();
            daemon.schedule.begin(now).is_some()
        };
        assert!(begins(&mut daemon));
        let now = daemon.alarm.now();
        daemon.schedule.end(now, crate::daemon::schedule::End::Success, None, 0.5);

        let at_once = message::Sync { wait: false, ..message::Sync::default() };
        let Err(Answer::Error { kind, message }) = daemon.asked(&at_once, By::Group) else {
            panic!("it is too early")
        };
        assert_eq!(kind, ErrorKind::TooManySyncs);
        assert!(message.contains("try again in 10 s"), "{message}");
        assert!(daemon.asked(&normal, By::Group).expect("it waits").waits);
        assert!(!begins(&mut daemon), "too early");
        assert!(!daemon.asked(&clean, By::Owner).expect("the owner is not limited").waits);
        assert!(daemon.asked(&normal, By::Owner).is_err(), "the owner waits for another kind");
        daemon.asked(&normal, By::Group).expect("it joins the owner's");
        assert!(begins(&mut daemon));
    }
}
