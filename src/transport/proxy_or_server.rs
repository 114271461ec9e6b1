//! Which end of a new connection a TLS handshake is with: the proxy's or the
//! server's. The HTTP client uses one TLS configuration for both, and neither
//! the names (they may be the same) nor the client's hooks tell them apart. But
//! the order does: no handshake with the server comes before the one with the
//! proxy has ended, and every handshake with a proxy verifies its certificate,
//! since sessions are not resumed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use tokio::task::futures::TaskLocalFuture;
use tower_layer::Layer;
use tower_service::Service;

use super::lock;

tokio::task_local! {
    /// The connection that is being made where this is asked for.
    static CONNECTION: Arc<ConnectionProgress>;
}

/// Who a handshake is with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leg {
    Proxy,
    Server,
}

/// How far a new connection has come.
#[derive(Debug, Default)]
pub(super) struct ConnectionProgress {
    proxy_verified: AtomicBool,
    server_begun: AtomicBool,
}

/// The connections of one transport.
#[derive(Debug, Default)]
pub(super) struct Legs {
    /// Whether the proxy is spoken to in TLS.
    tls_proxy: bool,
    /// The connection begun last, for messages.
    last: Mutex<Arc<ConnectionProgress>>,
}

impl Legs {
    pub(super) fn new(tls_proxy: bool) -> Self {
        Self { tls_proxy, last: Mutex::default() }
    }

    pub(super) const fn tls_proxy(&self) -> bool {
        self.tls_proxy
    }

    /// Who the handshake is with that this is asked in; `None` if that cannot be
    /// told, which must then be no handshake at all.
    pub(super) fn current(&self) -> Option<Leg> {
        if !self.tls_proxy {
            return Some(Leg::Server);
        }
        let passed = CONNECTION.try_with(|c| c.proxy_verified.load(Ordering::Relaxed)).ok()?;
        Some(if passed { Leg::Server } else { Leg::Proxy })
    }

    /// Notes that a handshake begins.
    pub(super) fn begin(&self) {
        if self.current() == Some(Leg::Server) {
            let _ = CONNECTION.try_with(|c| c.server_begun.store(true, Ordering::Relaxed));
        }
    }

    /// Notes that the proxy's certificate has been verified: the next handshake
    /// of this connection is with the server.
    pub(super) fn pass_proxy() {
        let _ = CONNECTION.try_with(|c| c.proxy_verified.store(true, Ordering::Relaxed));
    }

    /// Whether the connection begun last came through the proxy, as far as a
    /// handshake with the server.
    pub(super) fn server_reached(&self) -> bool {
        lock(&self.last).server_begun.load(Ordering::Relaxed)
    }
}

/// Wraps a connector and gives each of its connections a [`ConnectionProgress`].
#[derive(Clone, Debug)]
pub(super) struct Tracking(pub(super) Arc<Legs>);

/// A connector inside [`Tracking`].
#[derive(Clone, Debug)]
pub(super) struct Tracked<S> {
    connector: S,
    legs: Arc<Legs>,
}

impl<S> Layer<S> for Tracking {
    type Service = Tracked<S>;

    fn layer(&self, connector: S) -> Tracked<S> {
        Tracked { connector, legs: Arc::clone(&self.0) }
    }
}

impl<S: Service<R>, R> Service<R> for Tracked<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = TaskLocalFuture<Arc<ConnectionProgress>, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.connector.poll_ready(cx)
    }

    fn call(&mut self, target: R) -> Self::Future {
        let connection = Arc::<ConnectionProgress>::default();
        *lock(&self.legs.last) = Arc::clone(&connection);
        CONNECTION.scope(connection, self.connector.call(target))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn http_12_the_handshake_after_the_proxy_s_is_the_server_s_on_each_connection() {
        let legs = Legs::new(true);
        assert_eq!(legs.current(), None, "no connection is being made");
        for _ in 0..2 {
            let connecting = async {
                legs.begin();
                assert_eq!(legs.current(), Some(Leg::Proxy));
                // Another connection in between has legs of its own.
                CONNECTION.scope(Arc::default(), async { Legs::pass_proxy() }).await;
                assert_eq!(legs.current(), Some(Leg::Proxy));
                Legs::pass_proxy();
                assert_eq!(legs.current(), Some(Leg::Server));
            };
            CONNECTION.scope(Arc::default(), connecting).await;
        }
        assert_eq!(Legs::new(false).current(), Some(Leg::Server));
    }
}
