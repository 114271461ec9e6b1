//! The running server: looks into it and changes it.

use std::borrow::Cow;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{fmt, io};

use thiserror::Error;
use tokio::sync::oneshot;

pub use self::builder::Builder;
pub(super) use self::connection::ServerShared;
use super::change::{Change, ChangeError};
use super::exchange::{Exchange, Route};
use super::expectation::Outcome;
use super::fault::{Fault, Occurrences, Scripted};
use super::fixtures::AnyEvent;
use super::misbehaviour::Misbehaviour;
use super::record::RecordingError;
use super::scenario::Scenario;
use super::state::HostState;
use super::style::Style;
use crate::failure::Remedy;
use crate::protocol::wire;
use crate::serve::BindError;

mod builder;
mod connection;

/// Why the server did not start.
#[derive(Debug, Error)]
pub enum HarnessError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// The thread or its runtime cannot be made.
    #[error("cannot start the server's thread: {0}")]
    Thread(#[source] io::Error),
    /// The administrator's address cannot be listened on.
    #[error("the administrator's port: {0}")]
    Admin(#[source] BindError),
    /// A recording cannot be written or used.
    #[error(transparent)]
    Recording(#[from] RecordingError),
    /// There is no certificate to use.
    #[error("cannot use https: {0}")]
    Tls(String),
}

impl Remedy for HarnessError {
    fn fix(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::Listen { .. } => Some("give another address, or port 0 for a free one".into()),
            Self::Admin(error) => error.fix(),
            Self::Recording(error) => error.fix(),
            Self::Tls(_) => None,
            Self::Thread(_) => Some("free some memory or threads of this user".into()),
        }
    }
}

/// A running server, usable from any thread. Dropping it stops it.
pub struct FakeServer {
    shared: Arc<ServerShared>,
    address: SocketAddr,
    base_path: String,
    roots: Option<String>,
    admin: Option<(SocketAddr, String)>,
    stop: Option<oneshot::Sender<Infallible>>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for FakeServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeServer").field("url", &self.url()).finish_non_exhaustive()
    }
}

impl Drop for FakeServer {
    /// Ends every connection and waits for the thread.
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the server has been reported where it happened.
            let _ = thread.join();
        }
    }
}

impl FakeServer {
    /// Starts a server without rules that follows the protocol.
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// The base URL to give the client, with a slash at its end.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.roots.is_some() { "https" } else { "http" };
        match self.base_path.as_str() {
            "" => format!("{scheme}://{}/", self.address),
            path => format!("{scheme}://{}/{path}/", self.address),
        }
    }

    /// The root certificate for the client to trust, as PEM; `None` without https.
    #[must_use]
    pub fn roots(&self) -> Option<&str> {
        self.roots.as_deref()
    }

    /// Where the administrator is listened for, and the token; `None` if nowhere.
    #[must_use]
    pub fn admin(&self) -> Option<(SocketAddr, &str)> {
        self.admin.as_ref().map(|(address, token)| (*address, token.as_str()))
    }

    /// Completes once the administrator has ended the run.
    pub async fn finished(&self) {
        let mut finished = self.shared.finished.subscribe();
        // The sender lives as long as the server.
        let _ = finished.wait_for(|is_finished| *is_finished).await;
    }

    /// The number of requests that a replayed recording had no response for.
    #[must_use]
    pub fn replay_misses(&self) -> u64 {
        self.shared.state().replay.as_ref().map_or(0, |replay| replay.misses)
    }

    /// The address it listens on.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Replaces the rules. NORMAL syncs send hosts the difference.
    pub fn set_rules(&self, rules: impl IntoIterator<Item = wire::Rule>) {
        self.shared.state().set_rules(rules);
    }

    /// Changes rules: REMOVE removes one, anything else adds or replaces one.
    /// NORMAL syncs send hosts these changes, clean ones the whole set.
    pub fn queue_changes(&self, changes: Vec<wire::Rule>) {
        self.shared.state().queue_changes(changes);
    }

    /// The rules a clean sync would send.
    #[must_use]
    pub fn rules(&self) -> Vec<wire::Rule> {
        self.shared.state().rules()
    }

    /// Changes the settings that preflight sends.
    pub fn change_settings(&self, change: impl FnOnce(&mut wire::PreflightResponse)) {
        change(&mut self.shared.state().settings);
    }

    /// Changes its style.
    pub fn change_style(&self, change: impl FnOnce(&mut Style)) {
        change(&mut self.shared.state().style);
    }

    /// Injects a fault from now on. Requests are counted from the start of the
    /// server.
    pub fn fault(&self, route: impl Into<Route>, when: Occurrences, fault: Fault) {
        let scripted = Scripted { route: route.into(), when, fault };
        self.shared.state().script.push(scripted);
    }

    /// Removes all faults.
    pub fn clear_faults(&self) {
        self.shared.state().script.clear();
    }

    /// Takes over a scenario that was read again: rules that differ become changes,
    /// what expectations have counted stays, and changes whose point has passed do
    /// not happen again.
    pub fn read_again(&self, scenario: Scenario) {
        scenario.read_again(&mut self.shared.state());
    }

    /// Makes a change.
    ///
    /// # Errors
    /// If it names a group or a machine that does not exist; then nothing changes.
    pub fn change(&self, change: Change) -> Result<(), ChangeError> {
        self.shared.state().change(change)
    }

    /// What has become of the scenario's expectations so far. A change that could
    /// not be made at its point counts as one that is not met.
    #[must_use]
    pub fn outcomes(&self) -> Vec<Outcome> {
        self.shared.state().outcomes()
    }

    /// Breaks one more requirement from now on.
    pub fn misbehave(&self, misbehaviour: Misbehaviour) {
        self.shared.state().misbehaviours.add(misbehaviour);
    }

    /// The misbehaviours in force.
    #[must_use]
    pub fn misbehaviours(&self) -> Vec<Misbehaviour> {
        self.shared.state().misbehaviours.iter().collect()
    }

    /// Ends all misbehaviours.
    pub fn behave(&self) {
        self.shared.state().misbehaviours.clear();
    }

    /// Makes a host's syncs clean until one is completed, as an administrator does.
    /// Returns false if the server has not seen the host.
    pub fn request_clean_sync(&self, machine_id: &str) -> bool {
        self.shared.state().request_clean_sync(machine_id)
    }

    /// Forgets what a server keeps in memory only, as a restart does: downloads in
    /// progress, and sessions ([`Style::lost_session_status`]).
    pub fn restart(&self) {
        self.shared.state().restart();
    }

    /// Makes every XSRF token issued so far stale.
    pub fn rotate_xsrf(&self) {
        self.shared.state().rotate_xsrf();
    }

    /// Requests these bundles in the next response to an event upload.
    pub fn request_bundles(&self, hashes: Vec<String>) {
        self.shared.state().bundles = hashes;
    }

    /// Responds with this status to any event upload that contains this text.
    pub fn refuse_event(&self, text: &str, status: u16) {
        self.shared.state().refused_events.push((text.to_owned(), status));
    }

    /// Accepts every event again.
    pub fn refuse_no_event(&self) {
        self.shared.state().refused_events.clear();
    }

    /// Releases every response that [`Fault::Hold`] holds now.
    pub fn release(&self) {
        self.shared.release();
    }

    /// The number of requests received on a route.
    #[must_use]
    pub fn count(&self, route: impl Into<Route>) -> u64 {
        self.shared.state().requests[route.into().place()]
    }

    /// Every exchange that is remembered, oldest first.
    #[must_use]
    pub fn transcript(&self) -> Vec<Exchange> {
        self.shared.state().transcript.iter().cloned().collect()
    }

    /// The exchanges of a route that are remembered, oldest first.
    #[must_use]
    pub fn requests(&self, route: impl Into<Route>) -> Vec<Exchange> {
        let route = Some(route.into());
        let state = self.shared.state();
        state.transcript.iter().filter(|exchange| exchange.route == route).cloned().collect()
    }

    /// Every event received and kept, in order of arrival; within one upload
    /// executions before file accesses.
    #[must_use]
    pub fn events(&self) -> Vec<AnyEvent> {
        self.shared.state().events.clone()
    }

    /// Every audit event received and kept.
    #[must_use]
    pub fn audit_events(&self) -> Vec<wire::AuditEvent> {
        self.shared.state().audit_events.clone()
    }

    /// The number of events received, of all kinds.
    #[must_use]
    pub fn events_received(&self) -> u64 {
        self.shared.state().events_received
    }

    /// The machine ids it has seen, sorted.
    #[must_use]
    pub fn hosts(&self) -> Vec<String> {
        self.shared.state().hosts()
    }

    /// What it knows about a host.
    #[must_use]
    pub fn host(&self, machine_id: &str) -> Option<HostState> {
        self.shared.state().host(machine_id)
    }

    /// Completes once the server has done its work for the n-th request of a
    /// route; the response may still be held.
    pub async fn reached(&self, route: impl Into<Route>, n: u64) {
        let route = route.into();
        loop {
            let news = self.shared.notify.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            if self.count(route) >= n {
                return;
            }
            news.await;
        }
    }

    /// Waits as [`Self::reached`] does, for at most this long. Returns whether the
    /// request arrived.
    #[must_use]
    pub fn wait_for(&self, route: impl Into<Route>, n: u64, at_most: Duration) -> bool {
        let place = route.into().place();
        let (_state, outcome) = self
            .shared
            .arrived
            .wait_timeout_while(self.shared.state(), at_most, |state| state.requests[place] < n)
            .unwrap_or_else(PoisonError::into_inner);
        !outcome.timed_out()
    }
}
