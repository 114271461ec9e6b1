//! What clients of the control socket ask the loop.

use tokio::sync::{mpsc, oneshot};
use tracing::{error, warn};

use super::Daemon;
use crate::daemon::beat::Doing;
use crate::daemon::level_of;
use crate::daemon::message::{self, Answer, ErrorKind};
use crate::daemon::schedule::Asked;
use crate::daemon::socket::{self, Command, SyncReply};

impl Daemon {
    /// Opens the control socket and answers on it. A daemon without one syncs.
    pub(super) fn listen(&self, commands: mpsc::Sender<Command>) -> Option<socket::Socket> {
        let gid = self.group();
        match socket::Socket::open(&self.state_dir, gid) {
            Ok((socket, listener)) => {
                let house = socket::House {
                    state_dir: self.state_dir.clone(),
                    commands,
                    news: self.news.clone(),
                    configured: self.configured.subscribe(),
                    clock: self.options.clock,
                };
                tokio::spawn(socket::serve(listener, house));
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
            Command::Sync(sync, reply) => {
                let answer = self.asked(&sync);
                let _ = reply.send(answer);
                self.publish();
            }
        }
    }

    /// Somebody asks for a sync and waits for its end.
    fn asked(&mut self, sync: &message::Sync) -> Result<SyncReply, Answer> {
        let (asker, done) = oneshot::channel();
        let steps = self.news.subscribe();
        let too_many = || {
            let message = "too many syncs are in progress: one runs and one waits; try again later";
            Err(Answer::error(ErrorKind::TooManySyncs, message))
        };
        if let Some(running) = &mut self.running {
            if sync.attach {
                running.askers.push(asker);
                return Ok(SyncReply { number: self.syncs, waits: false, steps, done });
            }
            if !sync.wait || !self.waiting.askers.is_empty() {
                return too_many();
            }
        }
        let waits = match self.schedule.ask() {
            // Two clients before the loop came round: they get the same sync,
            // unless one of them wants another kind.
            Asked::Already
                if self.waiting.clean != sync.clean && !self.waiting.askers.is_empty() =>
            {
                return too_many();
            }
            Asked::AtOnce | Asked::Already | Asked::Next => self.running.is_some(),
        };
        self.waiting.clean = sync.clean.or(self.waiting.clean);
        self.waiting.manual |= sync.manual;
        self.waiting.askers.push(asker);
        Ok(SyncReply { number: self.syncs + 1, waits, steps, done })
    }
}
