//! Accepting connections within their number, and ending them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{debug, error, warn};

use super::budget::Budget;
use super::connection::Standing;
use super::exchange::{Shared, serve};
use super::peer::Users;
use super::{Connection, Limits, Listener, Peer, Service};

/// The pause after the system had no connection to give, and its longest one.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Serves connections until `stop` is true or its sender gone; then takes no more,
/// finishes answers that have been begun ([`Limits::stop`]), and returns. Dropping
/// the future ends all connections at once.
///
/// # Errors
/// If the socket cannot be used with this runtime.
pub async fn run<S: Service>(
    listener: Listener,
    tls: Option<Arc<ServerConfig>>,
    limits: Limits,
    service: Arc<S>,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let listener = listener.into_tokio()?;
    // Connections hear of it once no new ones are taken.
    let (closing, closed) = watch::channel(false);
    let door = Door {
        users: service.needs_user().then(Users::open),
        shared: Arc::new(Shared { service, limits, budget: Budget::new(&limits) }),
        tls: tls.map(TlsAcceptor::from),
        closed,
    };
    let mut guests = Guests::default();
    let mut pause = FIRST_PAUSE;
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stop.wait_for(|is_stopped| *is_stopped) => break,
            Some(ended) = guests.tasks.join_next_with_id() => {
                guests.forget(ended);
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => {
                pause = FIRST_PAUSE;
                if guests.make_room(limits.connections).await {
                    guests.admit(stream, address, &door);
                } else {
                    debug!("a connection is refused: all others are trusted");
                }
            }
            // The client of that connection has gone.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                // Out of file descriptors, most likely: others will close some.
                warn!(%error, "cannot accept a connection");
                tokio::select! {
                    biased;
                    _ = stop.wait_for(|is_stopped| *is_stopped) => break,
                    () = sleep(pause) => {}
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
    drop(listener);
    closing.send_replace(true);
    let all = async { while guests.tasks.join_next().await.is_some() {} };
    if timeout(limits.stop, all).await.is_err() {
        warn!(
            connections = guests.tasks.len(),
            "clients did not take their answers; they are cut off"
        );
        guests.tasks.shutdown().await;
    }
    Ok(())
}

/// What a new connection needs.
struct Door<S> {
    shared: Arc<Shared<S>>,
    tls: Option<TlsAcceptor>,
    users: Option<Users>,
    closed: watch::Receiver<bool>,
}

impl<S> Clone for Door<S> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            tls: self.tls.clone(),
            users: self.users.clone(),
            closed: self.closed.clone(),
        }
    }
}

/// A client, with TLS or without.
enum Entered {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl<S: Service> Door<S> {
    /// Finds out who is there, and serves them.
    async fn enter(self, id: u64, stream: TcpStream, address: SocketAddr, standing: Arc<Standing>) {
        // Only a matter of speed.
        let _ = stream.set_nodelay(true);
        let mut closed = self.closed.clone();
        let entered = tokio::select! {
            biased;
            _ = closed.wait_for(|is_closed| *is_closed) => return,
            entered = self.identify(id, stream, address) => entered,
        };
        let Some((peer, stream)) = entered else { return };
        if self.shared.service.knows(&peer) {
            standing.set_known();
        }
        let connection = Arc::new(Connection::new(id, peer, standing));
        match stream {
            Entered::Plain(stream) => serve(stream, connection, self.shared, self.closed).await,
            Entered::Tls(stream) => serve(stream, connection, self.shared, self.closed).await,
        }
    }

    async fn identify(
        &self,
        id: u64,
        stream: TcpStream,
        address: SocketAddr,
    ) -> Option<(Peer, Entered)> {
        let limit = self.shared.limits.handshake;
        let owner = match (&self.users, stream.local_addr()) {
            (Some(users), Ok(ours)) => {
                timeout(limit, users.owner(address, ours)).await.ok().flatten()
            }
            _ => None,
        };
        let (user, inode) = owner.unzip();
        let mut peer = Peer { address, user, inode, certificate: false };
        let Some(tls) = &self.tls else { return Some((peer, Entered::Plain(stream))) };
        match timeout(limit, tls.accept(stream)).await {
            Ok(Ok(stream)) => {
                peer.certificate = stream.get_ref().1.peer_certificates().is_some();
                Some((peer, Entered::Tls(Box::new(stream))))
            }
            Ok(Err(error)) => {
                debug!(connection = id, %error, "a TLS handshake failed");
                None
            }
            Err(_) => {
                debug!(connection = id, "a TLS handshake took too long");
                None
            }
        }
    }
}

/// The connections there are, oldest first.
#[derive(Default)]
struct Guests {
    tasks: JoinSet<()>,
    present: Vec<Guest>,
    /// How many there have been.
    number: u64,
}

struct Guest {
    standing: Arc<Standing>,
    task: AbortHandle,
}

impl Guests {
    /// Serves a connection in a task of its own.
    fn admit<S: Service>(&mut self, stream: TcpStream, address: SocketAddr, door: &Door<S>) {
        self.number += 1;
        let standing = Arc::new(Standing::default());
        let entering = door.clone().enter(self.number, stream, address, Arc::clone(&standing));
        self.present.push(Guest { standing, task: self.tasks.spawn(entering) });
    }

    fn forget(&mut self, ended: Result<(Id, ()), JoinError>) {
        let id = match ended {
            Ok((id, ())) => id,
            Err(error) => {
                if error.is_panic() {
                    error!("the task of a connection panicked");
                }
                error.id()
            }
        };
        self.present.retain(|guest| guest.task.id() != id);
    }

    /// Makes sure that there are fewer than `most`: ends the oldest that is neither
    /// known nor trusted, else the oldest that is not trusted. Returns whether there
    /// is room.
    async fn make_room(&mut self, most: usize) -> bool {
        while let Some(ended) = self.tasks.try_join_next_with_id() {
            self.forget(ended);
        }
        while self.present.len() >= most.max(1) {
            let is_stranger =
                |guest: &&Guest| !guest.standing.is_known() && !guest.standing.is_trusted();
            let is_untrusted = |guest: &&Guest| !guest.standing.is_trusted();
            let oldest = self.present.iter().find(is_stranger);
            let Some(guest) = oldest.or_else(|| self.present.iter().find(is_untrusted)) else {
                return false;
            };
            guest.task.abort();
            // Its file descriptor is closed once the task has ended.
            let Some(ended) = self.tasks.join_next_with_id().await else { return false };
            self.forget(ended);
        }
        true
    }
}
