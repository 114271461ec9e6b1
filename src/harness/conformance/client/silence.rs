//! Servers that stop responding in the middle of a run: whether they are silent, gone or back.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Credentials, KeptConnection, ProbeClient, ProbeRequest, lock};
use crate::harness::conformance::exchange::{BreakKind, Intent, ProbeExchange};
use crate::model::Stage;

/// How often it is looked whether a server is back.
const RETURN_POLL: Duration = Duration::from_millis(250);
/// After so many requests in a row without a response, the server is not there any more. A
/// server that cannot serve four machines at once loses eight (ISO-03 and its second try).
const MAX_SILENT: usize = 10;

/// How long a preflight may take that shows whether the server hangs, at least; twice the time
/// that the same one took before, if that is longer.
const HANG_CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long after such a preflight the next one is sent.
const HANG_CHECK_PAUSE: Duration = Duration::from_secs(1);

/// A server that does not respond any more.
#[derive(Clone, Debug)]
pub(in crate::harness::conformance) enum Silence {
    /// These requests in a row got no response, which it had no reason to refuse.
    NoResponses(Vec<Arc<ProbeExchange>>),
    /// It accepts no connection, or hangs whatever it is asked.
    Gone {
        /// The last requests, none of which got a response.
        exchanges: Vec<Arc<ProbeExchange>>,
        /// The last one that did.
        answered: u64,
    },
}

impl ProbeClient {
    /// Exchanges from this number on say nothing of the server: it was not there any more.
    pub(in crate::harness::conformance) fn disregard_from(&self, number: u64) {
        self.disregarded_from.store(number, Ordering::Relaxed);
    }

    /// Returns once the server has stopped responding. Where it accepts connections, only
    /// requests count that it has no reason to refuse.
    pub(in crate::harness::conformance) async fn falls_silent(&self) -> Silence {
        loop {
            if let Some(first) = lock(&self.gone).clone() {
                return self.gone_since(first);
            }
            let silent = lock(&self.silent).clone();
            if silent.len() >= MAX_SILENT {
                return Silence::NoResponses(silent);
            }
            self.silence.notified().await;
        }
    }

    fn gone_since(&self, first: Arc<ProbeExchange>) -> Silence {
        let mut lost = self.lost_at_the_end();
        lost.retain(|exchange| exchange.number < first.number);
        let exchanges = self.every_exchange();
        let is_answered = |exchange: &&Arc<ProbeExchange>| {
            exchange.number < first.number && exchange.has_response()
        };
        let answered = exchanges.iter().rfind(is_answered).map_or(0, |exchange| exchange.number);
        lost.push(first);
        Silence::Gone { exchanges: lost, answered }
    }

    /// Requests that got no response, or not all of one, where none that began later got one:
    /// the server may have ended meanwhile.
    pub(in crate::harness::conformance) fn lost_at_the_end(&self) -> Vec<Arc<ProbeExchange>> {
        let mut exchanges = self.every_exchange();
        let responded = exchanges.iter().filter(|exchange| exchange.has_response());
        let last = responded.map(|exchange| exchange.began).max().unwrap_or_default();
        exchanges.retain(|exchange| !exchange.has_response() && last < exchange.ended_at());
        exchanges
    }

    /// Whether a request that got no connection is to be made again: a server that is being
    /// restarted is given some time. One that does not come back is noted to be gone, and one
    /// that is there has refused the connection.
    pub(super) async fn comes_back(&self, exchange: &Arc<ProbeExchange>) -> bool {
        let is_refused =
            exchange.outcome.as_ref().is_err_and(|broken| broken.kind == BreakKind::Connect);
        let has_responded = |exchange: &Arc<ProbeExchange>| exchange.outcome.is_ok();
        if !is_refused || !lock(&self.exchanges).iter().any(has_responded) {
            return false;
        }
        if self.way.is_open().await {
            return false;
        }
        let since = self.elapsed();
        while lock(&self.gone).is_none() && self.elapsed().saturating_sub(since) < self.return_time
        {
            self.sleep(RETURN_POLL).await;
            if self.way.is_open().await {
                return true;
            }
        }
        lock(&self.gone).get_or_insert_with(|| Arc::clone(exchange));
        self.silence.notify_one();
        false
    }

    /// Keeps the first preflight that the server answers with 200: as long as the server
    /// responds at all, it responds to that one.
    pub(super) fn note_answered_preflight(
        &self,
        request: &ProbeRequest,
        exchange: &Arc<ProbeExchange>,
    ) {
        let is_good = request.stage == Some(Stage::Preflight)
            && request.credentials == Credentials::Given
            && request.intent != Intent::Aside
            && exchange.is(200);
        if is_good && self.answered_preflight.get().is_none() {
            // Another request may have been noted meanwhile, which is as good.
            let _ = self.answered_preflight.set((request.clone(), exchange.elapsed));
        }
    }

    /// Finds out whether a server that let a well-formed request time out hangs on that request,
    /// or on every one: the latter is noted to be gone.
    pub(super) async fn look_whether_it_hangs(&self, exchange: &Arc<ProbeExchange>) {
        let is_timeout =
            exchange.outcome.as_ref().is_err_and(|broken| broken.kind == BreakKind::Timeout);
        if !is_timeout || exchange.intent != Intent::WellFormed {
            return;
        }
        let Some((preflight, took)) = self.answered_preflight.get() else { return };
        let preflight = ProbeRequest {
            requirement: exchange.requirement,
            intent: Intent::Aside,
            ..preflight.clone()
        };
        let limit = HANG_CHECK_TIMEOUT.max(took.saturating_mul(2)).min(self.request_timeout);
        let _turn = self.hang_check.lock().await;
        let since = self.elapsed();
        loop {
            if lock(&self.gone).is_some() || self.has_responded_since(exchange.ended_at()) {
                return;
            }
            let mut connection = KeptConnection::default();
            if self.send_once(&mut connection, preflight.clone(), limit).await.has_response() {
                return;
            }
            if self.elapsed().saturating_sub(since) >= self.hung_time {
                break;
            }
            self.sleep(HANG_CHECK_PAUSE).await;
        }
        if self.has_responded_since(exchange.ended_at()) {
            return;
        }
        lock(&self.gone).get_or_insert_with(|| Arc::clone(exchange));
        self.silence.notify_one();
    }

    /// Whether a request that began at this time or later got a response.
    fn has_responded_since(&self, time: Duration) -> bool {
        let exchanges = lock(&self.exchanges);
        exchanges.iter().any(|exchange| exchange.began >= time && exchange.has_response())
    }

    pub(super) fn note_silence(&self, exchange: &Arc<ProbeExchange>) {
        if exchange.intent == Intent::Aside {
            return;
        }
        if !exchange.is_silent() {
            lock(&self.silent).clear();
        } else if exchange.intent == Intent::WellFormed {
            lock(&self.silent).push(Arc::clone(exchange));
            self.silence.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::FakeServer;
    use crate::harness::conformance::form::Form;
    use crate::harness::conformance::options::{Options, Waits};
    use crate::model::{BaseUrl, MachineId};
    use crate::transport::TransportOptions;

    /// The server is started again only once the client has noted that it is not there.
    #[tokio::test]
    async fn a_server_that_comes_back_gets_the_request_again_and_one_that_does_not_is_gone() {
        let start =
            |address: &str| FakeServer::builder().listen(address.parse().unwrap()).start().unwrap();
        let server = start("127.0.0.1:0");
        let (url, address) = (server.url(), server.address().to_string());
        let told = Options {
            waits: Waits { return_of_server: Duration::from_mins(1), ..Waits::none() },
            ..Options::default()
        };
        let base_url = BaseUrl::parse_any_http(&url).unwrap();
        let options = TransportOptions::new(base_url, MachineId::new("probe").unwrap());
        let mut client = ProbeClient::new(&options, &told).unwrap();
        let request = ProbeRequest::empty("HTTP-01", None, Form::DEFAULT, "preflight/X".to_owned());
        assert!(client.send(request.clone()).await.outcome.is_ok());
        drop(server);
        let restarted = async {
            while client.every_exchange().len() < 2 {
                tokio::task::yield_now().await;
            }
            start(&address)
        };
        let (exchange, server) = tokio::join!(client.send(request.clone()), restarted);
        assert!(exchange.outcome.is_ok(), "{}", exchange.ended());
        assert_eq!(client.every_exchange().len(), 3);

        drop(server);
        client.return_time = Duration::ZERO;
        let lost = client.send(request).await;
        assert!(lost.is_silent());
        let Silence::Gone { exchanges, answered } = client.falls_silent().await else {
            panic!("it is gone");
        };
        let numbers: Vec<_> = exchanges.iter().map(|exchange| exchange.number).collect();
        assert_eq!((answered, numbers), (3, vec![lost.number]));
    }
}
