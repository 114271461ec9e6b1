//! The control socket: who may connect, what each may ask, and bounds on all of
//! it. What it cannot answer itself it hands to the daemon's loop, and never
//! makes that wait.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::beat::Beat;
use super::message::{Answer, ErrorKind, MAX_LINE, Request, Step, Sync};
use super::queries::Queries;
use super::schedule::By;
use crate::clock::SystemClock;
use crate::config::Loaded;
use crate::files::FileIdentity;
use crate::model::SyncRecord;

/// The socket in the state directory.
pub(super) const SOCKET_FILE: &str = "agent.sock";
/// How many may be connected at once.
pub(super) const MAX_CLIENTS: usize = 64;
/// How many of them may be of the group, so that the owner finds a place.
const MAX_GROUP_CLIENTS: usize = 48;
/// Longer lines are read in a thread: reading 256 KiB holds up everybody else
/// for some milliseconds.
const SHORT_LINE: usize = 8 * 1024;
/// Threads that read long lines.
const LINE_READERS: usize = 2;
/// The pause after the system had no connection to give.
const EXHAUSTED: Duration = Duration::from_secs(1);

/// How long the daemon has patience with a client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// From the last answer to the end of the next request.
    asking: Duration,
    /// Until a line has been read.
    reading: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { asking: Duration::from_secs(30), reading: Duration::from_secs(10) }
    }
}

/// What happens in the daemon, for whoever listens.
#[derive(Clone, Debug)]
pub(super) enum News {
    /// Something happened in the sync of that number.
    Step(u64, Step),
    /// Users wait for a rule.
    Notification { application: String, identifier: String },
    /// A sync ended.
    Synced(Arc<SyncRecord>),
}

/// What the loop of the daemon is asked.
#[derive(Debug)]
pub(super) enum Command {
    Status(oneshot::Sender<Beat>),
    Metrics(oneshot::Sender<String>),
    LogLevel(String, oneshot::Sender<Answer>),
    /// Something that was denied has been queued.
    Denial,
    Sync(Sync, By, oneshot::Sender<Result<SyncReply, Answer>>),
}

/// A sync that was granted.
#[derive(Debug)]
pub(super) struct SyncReply {
    /// Its number.
    pub(super) number: u64,
    /// Whether another one runs before it.
    pub(super) waits: bool,
    /// What happens.
    pub(super) steps: broadcast::Receiver<News>,
    /// Its end.
    pub(super) done: oneshot::Receiver<Arc<SyncRecord>>,
}

/// Why there is no control socket.
#[derive(Debug, Error)]
#[error("cannot make the control socket {path}: {source}; {fix}")]
pub(super) struct SocketError {
    path: PathBuf,
    source: io::Error,
    fix: &'static str,
}

/// The socket's file, which goes with it.
#[derive(Debug)]
pub(super) struct Socket {
    path: PathBuf,
    /// Which file it is: another daemon's may have come into its place.
    identity: Option<FileIdentity>,
    /// Who answers on it.
    serving: Option<JoinHandle<()>>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.identity.is_some() && self.identity == FileIdentity::at(&self.path) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Socket {
    /// Makes the socket anew. The caller is the only daemon of the directory,
    /// so one that is there is a left-over.
    pub(super) fn open(
        state_dir: &Path,
        group: Option<u32>,
    ) -> Result<(Self, UnixListener), SocketError> {
        let path = state_dir.join(SOCKET_FILE);
        let failed = |fix| {
            let path = path.clone();
            move |source| SocketError { path, source, fix }
        };
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove what lies there")(error));
            }
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(&path).map_err(failed(
            "the path of a socket may have about 100 bytes; shorten StateDirectory",
        ))?;
        let socket = Self { identity: FileIdentity::at(&path), path: path.clone(), serving: None };
        permit(state_dir, group).map_err(failed("check the owner of the state directory"))?;
        Ok((socket, listener))
    }

    /// Answers on the socket from here on.
    pub(super) fn serve(&mut self, listener: UnixListener, house: House) {
        self.serving = Some(tokio::spawn(serve(listener, house)));
    }

    /// Takes no more connections.
    pub(super) fn close(mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
        }
    }
}

/// Lets the owner use the socket, and a group if there is one. The group may
/// pass through the state directory to it, and see nothing else there.
pub(super) fn permit(state_dir: &Path, group: Option<u32>) -> io::Result<()> {
    let path = state_dir.join(SOCKET_FILE);
    let Some(group) = group else {
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        let mode = fs::metadata(state_dir)?.permissions().mode() & 0o7777;
        return if mode == 0o710 {
            fs::set_permissions(state_dir, Permissions::from_mode(0o700))
        } else {
            Ok(())
        };
    };
    for (path, mode) in [(state_dir, 0o710), (path.as_path(), 0o660)] {
        std::os::unix::fs::chown(path, None, Some(group))?;
        fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// What a client may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    /// Everything.
    Owner,
    /// Status, and syncs that are not clean. Nobody else than the group gets
    /// past the socket's mode.
    Group,
}

impl Access {
    const fn of(peer: u32, owner: u32) -> Self {
        if peer == 0 || peer == owner { Self::Owner } else { Self::Group }
    }

    const fn allows(self, request: &Request) -> bool {
        match (self, request) {
            (Self::Owner, _)
            | (Self::Group, Request::Status | Request::Sync(Sync { clean: None, .. })) => true,
            (
                Self::Group,
                Request::Sync(Sync { clean: Some(_), .. })
                | Request::EventsAdd { .. }
                | Request::UploadEvents
                | Request::RulesLookup(_)
                | Request::BundleRequests
                | Request::Subscribe
                | Request::Metrics
                | Request::LogLevel { .. },
            ) => false,
        }
    }

    const fn asker(self) -> By {
        match self {
            Self::Owner => By::Owner,
            Self::Group => By::Group,
        }
    }
}

/// What answers are made of.
pub(super) struct House {
    pub(super) state_dir: PathBuf,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) news: broadcast::Sender<News>,
    pub(super) configured: watch::Receiver<Arc<Loaded>>,
    pub(super) clock: SystemClock,
    pub(super) patience: Patience,
}

/// Answers everyone who connects.
async fn serve(listener: UnixListener, house: House) {
    let queries = Queries::new(house.state_dir.clone(), house.clock);
    let room = Arc::new(Room { house, queries, line_readers: Semaphore::new(LINE_READERS) });
    let places = Arc::new(Semaphore::new(MAX_CLIENTS));
    let group_places = Arc::new(Semaphore::new(MAX_GROUP_CLIENTS));
    let owner = rustix::process::geteuid().as_raw();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Most likely too many open files; those of others pass.
                warn!(%error, "a client cannot connect");
                tokio::time::sleep(EXHAUSTED).await;
                continue;
            }
        };
        let Ok(peer) = stream.peer_cred() else { continue };
        let access = Access::of(peer.uid(), owner);
        let place = Arc::clone(&places).try_acquire_owned();
        let group_place = match access {
            Access::Owner => Ok(None),
            Access::Group => Arc::clone(&group_places).try_acquire_owned().map(Some),
        };
        let (Ok(place), Ok(group_place)) = (place, group_place) else {
            turn_away(&stream);
            continue;
        };
        let room = Arc::clone(&room);
        tokio::spawn(async move {
            let (read, write) = stream.into_split();
            let patience = room.house.patience;
            let client = Client { read: BufReader::new(read), write, access, patience };
            if let Err(error) = client.converse(&room).await {
                debug!(uid = peer.uid(), %error, "a client is gone");
            }
            drop((place, group_place));
        });
    }
}

/// Says no without waiting.
fn turn_away(stream: &UnixStream) {
    let busy = Answer::error(ErrorKind::Busy, "too many connections; try again later");
    let _ = stream.try_write(&line(&busy));
}

fn line(answer: &Answer) -> Vec<u8> {
    // Every answer has a JSON form.
    let mut line = serde_json::to_vec(answer).unwrap_or_default();
    line.push(b'\n');
    line
}

struct Room {
    house: House,
    queries: Queries,
    line_readers: Semaphore,
}

impl Room {
    /// Reads a request; the error says why the line is not one.
    async fn read(&self, line: Vec<u8>) -> Result<Request, String> {
        let read = |line: &[u8]| serde_json::from_slice(line).map_err(|error| error.to_string());
        if line.len() <= SHORT_LINE {
            return read(&line);
        }
        let _place = self.line_readers.acquire().await.map_err(|error| error.to_string())?;
        let reading = tokio::task::spawn_blocking(move || read(&line));
        reading.await.map_err(|error| error.to_string())?
    }
}

struct Client {
    read: BufReader<OwnedReadHalf>,
    write: OwnedWriteHalf,
    access: Access,
    patience: Patience,
}

impl Client {
    /// Answers requests until the client closes, is silent for too long, or
    /// does not read what it asked for.
    async fn converse(mut self, room: &Room) -> io::Result<()> {
        while let Some(bytes) = self.next_line().await? {
            if bytes.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let answer = match room.read(bytes).await {
                Ok(request) if !self.access.allows(&request) => Some(Answer::error(
                    ErrorKind::Forbidden,
                    "only the owner of the daemon and root may ask for this",
                )),
                Ok(request) => self.answer(room, request).await?,
                Err(error) => Some(Answer::error(
                    ErrorKind::BadRequest,
                    format!("not a request: {error}; see `The control socket` in the README"),
                )),
            };
            if let Some(answer) = answer {
                self.send(&answer).await?;
            }
        }
        Ok(())
    }

    async fn next_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        let most = MAX_LINE as u64 + 1;
        let mut bounded = (&mut self.read).take(most);
        let reading = bounded.read_until(b'\n', &mut line);
        let read = timeout(self.patience.asking, reading).await.map_err(|_| silent())??;
        if read > MAX_LINE && line.last() != Some(&b'\n') {
            let message = format!("a line may have {MAX_LINE} bytes; send fewer events at a time");
            self.send(&Answer::error(ErrorKind::BadRequest, message)).await?;
            return Ok(None);
        }
        Ok(Some(line).filter(|line| !line.is_empty()))
    }

    async fn send(&mut self, answer: &Answer) -> io::Result<()> {
        let line = line(answer);
        let writing = self.write.write_all(&line);
        timeout(self.patience.reading, writing).await.map_err(|_| silent())?
    }

    /// Answers a request; `None` if it has been answered line by line.
    async fn answer(&mut self, room: &Room, request: Request) -> io::Result<Option<Answer>> {
        let loaded = Arc::clone(&room.house.configured.borrow());
        let commands = &room.house.commands;
        let by = self.access.asker();
        Ok(Some(match request {
            Request::Status => ask(commands, Command::Status)
                .await
                .map_or_else(stopping, |beat| Answer::Status(Box::new(beat))),
            Request::Metrics => ask(commands, Command::Metrics)
                .await
                .map_or_else(stopping, |text| Answer::Metrics { text }),
            Request::LogLevel { level } => ask(commands, |reply| Command::LogLevel(level, reply))
                .await
                .unwrap_or_else(stopping),
            Request::Sync(sync) => {
                match ask(commands, |reply| Command::Sync(sync, by, reply)).await {
                    Some(Ok(reply)) => return self.attend(reply).await,
                    Some(Err(refused)) => refused,
                    None => stopping(),
                }
            }
            Request::Subscribe => return self.subscribe(room.house.news.subscribe()).await,
            Request::EventsAdd { events } => {
                let added = room.queries.events_add(&loaded, events).await;
                if added.urgent {
                    // The events are on disk, whether the loop still runs or not.
                    let _ = commands.send(Command::Denial).await;
                }
                added.answer
            }
            Request::UploadEvents => match commands.send(Command::Denial).await {
                Ok(()) => Answer::Done,
                Err(_) => stopping(),
            },
            Request::RulesLookup(lookup) => room.queries.lookup(&loaded, lookup).await,
            Request::BundleRequests => room.queries.bundle_requests().await,
        }))
    }

    /// Tells of a sync until it has ended.
    async fn attend(&mut self, reply: SyncReply) -> io::Result<Option<Answer>> {
        let SyncReply { number, waits, mut steps, mut done } = reply;
        if waits {
            self.send(&Answer::Waiting).await?;
        }
        loop {
            let mut told = None;
            tokio::select! {
                biased;
                news = steps.recv() => match news {
                    // The one before tells why ours does not begin.
                    Ok(News::Step(of, step)) if of <= number => told = Some(Answer::Progress(step)),
                    Ok(News::Step(..) | News::Notification { .. } | News::Synced(_)) => {}
                    Err(broadcast::error::RecvError::Lagged(lines)) => {
                        told = Some(Answer::Missed { lines });
                    }
                    Err(broadcast::error::RecvError::Closed) => return Ok(Some(stopping())),
                },
                record = &mut done => {
                    return Ok(Some(match record {
                        Ok(record) => Answer::Synced { record: Box::new((*record).clone()) },
                        Err(_) => stopping(),
                    }));
                }
                closed = closed(&mut self.read) => return closed.map(|()| None),
            }
            if let Some(answer) = told {
                self.send(&answer).await?;
            }
        }
    }

    /// Tells what happens until the client closes.
    async fn subscribe(
        &mut self,
        mut news: broadcast::Receiver<News>,
    ) -> io::Result<Option<Answer>> {
        self.send(&Answer::Subscribed).await?;
        loop {
            let answer = tokio::select! {
                closed = closed(&mut self.read) => return closed.map(|()| None),
                news = news.recv() => match news {
                    Ok(News::Step(_, step)) => Answer::Progress(step),
                    Ok(News::Notification { application, identifier }) => {
                        Answer::Notification { application, identifier }
                    }
                    Ok(News::Synced(record)) => {
                        Answer::Synced { record: Box::new((*record).clone()) }
                    }
                    Err(broadcast::error::RecvError::Lagged(lines)) => Answer::Missed { lines },
                    Err(broadcast::error::RecvError::Closed) => return Ok(Some(stopping())),
                },
            };
            self.send(&answer).await?;
        }
    }
}

/// Completes when the client closes, with an error, so that nothing more is
/// read of it. What it sends meanwhile waits.
async fn closed(read: &mut BufReader<OwnedReadHalf>) -> io::Result<()> {
    if read.fill_buf().await?.is_empty() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it has closed"));
    }
    std::future::pending().await
}

fn silent() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "it was silent for too long")
}

fn stopping() -> Answer {
    Answer::error(ErrorKind::Stopping, "the daemon ends; ask again when it is back")
}

/// Asks the loop; `None` if it is gone.
async fn ask<T>(
    commands: &mpsc::Sender<Command>,
    command: impl FnOnce(oneshot::Sender<T>) -> Command,
) -> Option<T> {
    let (reply, answer) = oneshot::channel();
    commands.send(command(reply)).await.ok()?;
    answer.await.ok()
}

#[cfg(test)]
mod tests;
