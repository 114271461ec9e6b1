//! The control socket: who may connect, what each may ask, and bounds on all of
//! it. It passes what it cannot answer itself to the event loop, and never blocks
//! that.

use std::borrow::Cow;
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

use super::access::ClientAccess;
use super::queries::Queries;
use crate::agent::LocalAgent;
use crate::clock::SystemClock;
use crate::config::Loaded;
use crate::control::SOCKET_FILE;
use crate::control::message::{
    ControlErrorKind, ControlRequest, ControlResponse, MAX_LINE, SyncRequest,
};
use crate::control::relay::RelayStatus;
use crate::control::status::DaemonStatus;
use crate::failure::Remedy;
use crate::files::FileIdentity;
use crate::model::SyncRecord;
use crate::sync::progress::SyncStep;
use crate::sync::schedule::Requester;

/// How many may be connected at once.
pub(in crate::daemon) const MAX_CLIENTS: usize = 64;
/// How many of them may be of the group, so that the owner finds a place.
const MAX_GROUP_CLIENTS: usize = 48;
/// Longer lines are read in a thread: reading 256 KiB holds up everybody else
/// for some milliseconds.
const SHORT_LINE_BYTES: usize = 8 * 1024;
/// Threads that read long lines.
const LINE_READERS: usize = 2;
/// The pause after the system had no connection to give.
const ACCEPT_RETRY_PAUSE: Duration = Duration::from_secs(1);

/// How long the daemon waits for a client.
#[derive(Clone, Copy, Debug)]
pub(in crate::daemon) struct ControlTimeouts {
    /// From the last response to the end of the next request.
    asking: Duration,
    /// Until a line has been read.
    reading: Duration,
}

impl Default for ControlTimeouts {
    fn default() -> Self {
        Self { asking: Duration::from_secs(30), reading: Duration::from_secs(10) }
    }
}

/// What happens in the daemon, for its subscribers.
#[derive(Clone, Debug)]
pub(in crate::daemon) enum DaemonEvent {
    /// Something happened in the sync of that number.
    Step(u64, SyncStep),
    /// Users wait for a rule.
    Notification { application: String, identifier: String },
    /// How the relay stands has changed.
    Relay(Arc<RelayStatus>),
    /// A sync ended.
    Synced(Arc<SyncRecord>),
}

/// A request to the event loop.
#[derive(Debug)]
pub(in crate::daemon) enum LoopRequest {
    Status(oneshot::Sender<DaemonStatus>),
    Metrics(oneshot::Sender<String>),
    LogLevel(String, oneshot::Sender<ControlResponse>),
    /// Something that was denied has been queued.
    Denial,
    Sync(SyncRequest, Requester, oneshot::Sender<Result<SyncReply, ControlResponse>>),
}

/// A sync that was granted.
#[derive(Debug)]
pub(in crate::daemon) struct SyncReply {
    /// Its number.
    pub(in crate::daemon) number: u64,
    /// Whether another one runs before it.
    pub(in crate::daemon) waits: bool,
    /// What happens.
    pub(in crate::daemon) steps: broadcast::Receiver<DaemonEvent>,
    /// Its end.
    pub(in crate::daemon) done: oneshot::Receiver<Arc<SyncRecord>>,
}

/// Why there is no control socket.
#[derive(Debug, Error)]
#[error("cannot create the control socket {path}: {source}")]
pub(in crate::daemon) struct SocketError {
    path: PathBuf,
    source: io::Error,
    fix: &'static str,
}

impl Remedy for SocketError {
    fn fix(&self) -> Option<Cow<'static, str>> {
        Some(self.fix.into())
    }
}

/// The socket's file, which goes with it.
#[derive(Debug)]
pub(in crate::daemon) struct Socket {
    path: PathBuf,
    /// Which file it is: another daemon's may have come into its place.
    identity: Option<FileIdentity>,
    /// The task that serves it.
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
    /// Creates the socket. The caller is the only daemon of the directory, so an
    /// existing one is a leftover.
    pub(in crate::daemon) fn open(
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
                return Err(failed("remove what is in its place")(error));
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

    /// Serves the socket from here on.
    pub(in crate::daemon) fn serve(&mut self, listener: UnixListener, shared: ControlShared) {
        self.serving = Some(tokio::spawn(serve(listener, shared)));
    }

    /// Takes no more connections.
    pub(in crate::daemon) fn close(mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
        }
    }
}

/// Lets the owner use the socket, and a group if there is one. The group may
/// pass through the state directory to it, and see nothing else there.
pub(in crate::daemon) fn permit(state_dir: &Path, group: Option<u32>) -> io::Result<()> {
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

/// What every connection needs.
pub(in crate::daemon) struct ControlShared {
    pub(in crate::daemon) state_dir: PathBuf,
    pub(in crate::daemon) commands: mpsc::Sender<LoopRequest>,
    pub(in crate::daemon) events: broadcast::Sender<DaemonEvent>,
    pub(in crate::daemon) configured: watch::Receiver<Arc<Loaded>>,
    pub(in crate::daemon) clock: SystemClock,
    pub(in crate::daemon) timeouts: ControlTimeouts,
}

/// Serves every client that connects.
async fn serve(listener: UnixListener, shared: ControlShared) {
    let queries = Queries::new(
        LocalAgent::new(shared.state_dir.clone(), Arc::clone(&shared.configured.borrow().config))
            .with_clock(shared.clock),
    );
    let state =
        Arc::new(ServerState { shared, queries, line_readers: Semaphore::new(LINE_READERS) });
    let places = Arc::new(Semaphore::new(MAX_CLIENTS));
    let group_places = Arc::new(Semaphore::new(MAX_GROUP_CLIENTS));
    let owner = rustix::process::geteuid().as_raw();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Most likely too many open files; those of others pass.
                warn!(%error, "a client cannot connect");
                tokio::time::sleep(ACCEPT_RETRY_PAUSE).await;
                continue;
            }
        };
        let Ok(peer) = stream.peer_cred() else { continue };
        let access = ClientAccess::of(peer.uid(), owner);
        let place = Arc::clone(&places).try_acquire_owned();
        let group_place = match access {
            ClientAccess::Owner => Ok(None),
            ClientAccess::Group => Arc::clone(&group_places).try_acquire_owned().map(Some),
        };
        let (Ok(place), Ok(group_place)) = (place, group_place) else {
            turn_away(&stream);
            continue;
        };
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let (read, write) = stream.into_split();
            let timeouts = state.shared.timeouts;
            let client = ControlConnection { read: BufReader::new(read), write, access, timeouts };
            if let Err(error) = client.converse(&state).await {
                debug!(uid = peer.uid(), %error, "a client is gone");
            }
            drop((place, group_place));
        });
    }
}

/// Refuses a client without waiting.
fn turn_away(stream: &UnixStream) {
    let busy =
        ControlResponse::error(ControlErrorKind::Busy, "too many connections; try again later");
    let _ = stream.try_write(&line(&busy));
}

fn line(answer: &ControlResponse) -> Vec<u8> {
    // Every response has a JSON form.
    let mut line = serde_json::to_vec(answer).unwrap_or_default();
    line.push(b'\n');
    line
}

struct ServerState {
    shared: ControlShared,
    queries: Queries,
    line_readers: Semaphore,
}

impl ServerState {
    /// Reads a request; the error says why the line is not one.
    async fn read(&self, line: Vec<u8>) -> Result<ControlRequest, String> {
        let read = |line: &[u8]| ControlRequest::read(line).map_err(|error| error.to_string());
        if line.len() <= SHORT_LINE_BYTES {
            return read(&line);
        }
        let _place = self.line_readers.acquire().await.map_err(|error| error.to_string())?;
        let reading = tokio::task::spawn_blocking(move || read(&line));
        reading.await.map_err(|error| error.to_string())?
    }
}

struct ControlConnection {
    read: BufReader<OwnedReadHalf>,
    write: OwnedWriteHalf,
    access: ClientAccess,
    timeouts: ControlTimeouts,
}

impl ControlConnection {
    /// Serves requests until the client closes, is silent for too long, or
    /// does not read its responses.
    async fn converse(mut self, state: &ServerState) -> io::Result<()> {
        while let Some(bytes) = self.next_line().await? {
            if bytes.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let answer = match state.read(bytes).await {
                Ok(request) if !self.access.allows(&request) => Some(ControlResponse::error(
                    ControlErrorKind::Forbidden,
                    "only the owner of the daemon and root may ask for this",
                )),
                Ok(request) => self.answer(state, request).await?,
                Err(error) => Some(ControlResponse::error(
                    ControlErrorKind::BadRequest,
                    format!("not a request: {error}; see docs/control-socket.md"),
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
        let read = timeout(self.timeouts.asking, reading).await.map_err(|_| silent())??;
        if read > MAX_LINE && line.last() != Some(&b'\n') {
            let message = format!("a line may have {MAX_LINE} bytes; send fewer events at a time");
            self.send(&ControlResponse::error(ControlErrorKind::BadRequest, message)).await?;
            return Ok(None);
        }
        Ok(Some(line).filter(|line| !line.is_empty()))
    }

    async fn send(&mut self, answer: &ControlResponse) -> io::Result<()> {
        let line = line(answer);
        let writing = self.write.write_all(&line);
        timeout(self.timeouts.reading, writing).await.map_err(|_| silent())?
    }

    /// Returns the response to a request; `None` if it has been sent line by line.
    async fn answer(
        &mut self,
        state: &ServerState,
        request: ControlRequest,
    ) -> io::Result<Option<ControlResponse>> {
        let loaded = Arc::clone(&state.shared.configured.borrow());
        let commands = &state.shared.commands;
        let by = self.access.asker();
        Ok(Some(match request {
            ControlRequest::Status => ask(commands, LoopRequest::Status)
                .await
                .map_or_else(stopping, |status| ControlResponse::Status(Box::new(status))),
            ControlRequest::Metrics => ask(commands, LoopRequest::Metrics)
                .await
                .map_or_else(stopping, |text| ControlResponse::Metrics { text }),
            ControlRequest::LogLevel { level } => {
                ask(commands, |reply| LoopRequest::LogLevel(level, reply))
                    .await
                    .unwrap_or_else(stopping)
            }
            ControlRequest::Sync(sync) => {
                match ask(commands, |reply| LoopRequest::Sync(sync, by, reply)).await {
                    Some(Ok(reply)) => return self.attend(reply).await,
                    Some(Err(refused)) => refused,
                    None => stopping(),
                }
            }
            ControlRequest::Subscribe => {
                return self.subscribe(state.shared.events.subscribe()).await;
            }
            ControlRequest::EventsAdd { events } => {
                let added = state.queries.events_add(&loaded, events).await;
                if added.urgent {
                    // The events are on disk, whether the loop still runs or not.
                    let _ = commands.send(LoopRequest::Denial).await;
                }
                added.answer
            }
            ControlRequest::UploadEvents => match commands.send(LoopRequest::Denial).await {
                Ok(()) => ControlResponse::Done,
                Err(_) => stopping(),
            },
            ControlRequest::RulesLookup(lookup) => state.queries.lookup(&loaded, lookup).await,
            ControlRequest::BundleRequests => state.queries.bundle_requests().await,
        }))
    }

    /// Sends the progress of a sync until it has ended.
    async fn attend(&mut self, reply: SyncReply) -> io::Result<Option<ControlResponse>> {
        let SyncReply { number, waits, mut steps, mut done } = reply;
        if waits {
            self.send(&ControlResponse::Waiting).await?;
        }
        loop {
            let mut response = None;
            tokio::select! {
                biased;
                events = steps.recv() => match events {
                    // The progress of the sync before explains why this one has not begun.
                    Ok(DaemonEvent::Step(of, step)) if of <= number => response = Some(ControlResponse::Progress(step)),
                    Ok(DaemonEvent::Step(..) | DaemonEvent::Notification { .. } | DaemonEvent::Relay(_) | DaemonEvent::Synced(_)) => {}
                    Err(broadcast::error::RecvError::Lagged(lines)) => {
                        response = Some(ControlResponse::Missed { lines });
                    }
                    Err(broadcast::error::RecvError::Closed) => return Ok(Some(stopping())),
                },
                record = &mut done => {
                    return Ok(Some(match record {
                        Ok(record) => ControlResponse::Synced { record: Box::new((*record).clone()) },
                        Err(_) => stopping(),
                    }));
                }
                closed = closed(&mut self.read) => return closed.map(|()| None),
            }
            if let Some(answer) = response {
                self.send(&answer).await?;
            }
        }
    }

    /// Sends what happens until the client closes.
    async fn subscribe(
        &mut self,
        mut events: broadcast::Receiver<DaemonEvent>,
    ) -> io::Result<Option<ControlResponse>> {
        self.send(&ControlResponse::Subscribed).await?;
        loop {
            let answer = tokio::select! {
                closed = closed(&mut self.read) => return closed.map(|()| None),
                events = events.recv() => match events {
                    Ok(DaemonEvent::Step(_, step)) => ControlResponse::Progress(step),
                    Ok(DaemonEvent::Notification { application, identifier }) => {
                        ControlResponse::Notification { application, identifier }
                    }
                    Ok(DaemonEvent::Relay(relay)) => {
                        ControlResponse::Relay { relay: Box::new((*relay).clone()) }
                    }
                    Ok(DaemonEvent::Synced(record)) => {
                        ControlResponse::Synced { record: Box::new((*record).clone()) }
                    }
                    Err(broadcast::error::RecvError::Lagged(lines)) => ControlResponse::Missed { lines },
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

fn stopping() -> ControlResponse {
    ControlResponse::error(
        ControlErrorKind::Stopping,
        "the daemon is stopping; try again when it is back",
    )
}

/// Sends a request to the event loop and returns its response; `None` if the loop
/// has ended.
async fn ask<T>(
    commands: &mpsc::Sender<LoopRequest>,
    command: impl FnOnce(oneshot::Sender<T>) -> LoopRequest,
) -> Option<T> {
    let (reply, answer) = oneshot::channel();
    commands.send(command(reply)).await.ok()?;
    answer.await.ok()
}

#[cfg(test)]
mod tests;
