//! Why a run ends before every requirement has been checked: it is interrupted, its deadline
//! passes, or the server does not respond.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use super::client::Silence;
use super::exchange::{BreakKind, ProbeExchange};
use super::machine::Broken;
use super::probe::Probe;
use super::verdict::Judgement;
use crate::model::text::counted;
use crate::sync::Stop;

/// What kind of end it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EarlyEndKind {
    /// The program was told to stop.
    Interrupted,
    /// The deadline of the run passed.
    Deadline,
    /// Requests got no response, or none of use.
    NoResponse,
}

/// The end of a run that did not check every requirement it was to check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EarlyEnd {
    /// What kind of end it is.
    pub kind: EarlyEndKind,
    /// What happened, and what to do about it where something can be done.
    pub cause: String,
    /// How many requirements were not run for that reason.
    pub not_run: u64,
    /// How the first request ended, if there has never been a response.
    #[serde(skip)]
    pub(super) broken: Option<Broken>,
    /// The requests that got no response, if there had been responses before.
    #[serde(skip)]
    pub(super) exchanges: Vec<u64>,
}

impl EarlyEnd {
    fn new(kind: EarlyEndKind, cause: impl Into<String>) -> Self {
        Self { kind, cause: cause.into(), not_run: 0, broken: None, exchanges: Vec::new() }
    }

    fn interrupted(reason: &str) -> Self {
        Self::new(EarlyEndKind::Interrupted, reason)
    }

    fn deadline(limit: Duration) -> Self {
        let cause = format!(
            "the deadline of {limit:?} has passed; if the server is merely slow, set a longer one \
             (--deadline) or check fewer requirements (--only)"
        );
        Self::new(EarlyEndKind::Deadline, cause)
    }

    /// The server has responded before.
    pub(super) fn fell_silent(last: &[std::sync::Arc<ProbeExchange>]) -> Self {
        let requests = counted(last.len() as u64, "request");
        let mut cause = format!("the last {requests} got no response");
        if let (Some(first), Some(last)) = (last.first(), last.last()) {
            let (number, requirement) = (first.number, first.requirement);
            cause = format!("{cause}, from exchange {number} ({requirement}) on: {}", last.ended());
        }
        cause.push_str("; see the server's log for the reason");
        let exchanges = last.iter().map(|exchange| exchange.number).collect();
        Self { exchanges, ..Self::new(EarlyEndKind::NoResponse, cause) }
    }

    /// The server has responded before. Its port is closed, or it hangs whatever it is asked.
    fn went_away(exchanges: &[std::sync::Arc<ProbeExchange>], answered: u64) -> Self {
        let is_refused = |exchange: &std::sync::Arc<ProbeExchange>| {
            exchange.outcome.as_ref().is_err_and(|broken| broken.kind == BreakKind::Connect)
        };
        let what = if exchanges.last().is_some_and(is_refused) {
            "went away"
        } else {
            "stopped responding"
        };
        let mut cause = format!("the server {what} after exchange {answered}");
        for exchange in exchanges {
            let (number, requirement) = (exchange.number, exchange.requirement);
            let ended = exchange.ended();
            let _ = write!(cause, "; exchange {number} ({requirement}): {ended}");
        }
        cause.push_str("; see the server's log for the reason");
        let exchanges = exchanges.iter().map(|exchange| exchange.number).collect();
        Self { exchanges, ..Self::new(EarlyEndKind::NoResponse, cause) }
    }

    /// The first request that got no response.
    pub(super) fn silent_since(&self) -> u64 {
        self.exchanges.iter().min().copied().unwrap_or(u64::MAX)
    }

    /// No first request was of use.
    pub(super) fn nothing_can_be_tested(broken: Broken) -> Self {
        let cause = format!("nothing can be tested; see {}", broken.by);
        Self { broken: Some(broken), ..Self::new(EarlyEndKind::NoResponse, cause) }
    }

    /// The verdict on a requirement that was not run.
    pub(super) fn not_run(&self) -> Judgement {
        let judgement = Judgement::not_tested(match self.kind {
            EarlyEndKind::Interrupted => "not run: interrupted",
            EarlyEndKind::Deadline => "not run: the deadline had passed",
            EarlyEndKind::NoResponse => "not run: no request gets a usable response",
        });
        Judgement { blocked_by: self.broken.as_ref().map(|broken| broken.by), ..judgement }
    }

    /// How long the run may still take to leave machines of the operator as it should.
    pub(super) const fn time_to_leave(&self) -> Duration {
        match self.kind {
            EarlyEndKind::Interrupted => Duration::from_secs(1),
            EarlyEndKind::Deadline => Duration::from_secs(10),
            EarlyEndKind::NoResponse => Duration::ZERO,
        }
    }
}

/// Returns when a run has to end early.
pub(super) async fn early_end(probe: &Probe, mut stop: Stop) -> EarlyEnd {
    let stopped = async {
        match stop.wait_for(Option::is_some).await {
            Ok(reason) => reason.unwrap_or_default(),
            // Nobody is left who could stop it.
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        reason = stopped => EarlyEnd::interrupted(reason),
        silence = probe.client.falls_silent() => match silence {
            Silence::NoResponses(last) => EarlyEnd::fell_silent(&last),
            Silence::Gone { exchanges, answered } => EarlyEnd::went_away(&exchanges, answered),
        },
        () = deadline(probe) => EarlyEnd::deadline(probe.options.deadline),
    }
}

/// Waits for the deadline of the run. While an operator is asked, the time stands still.
async fn deadline(probe: &Probe) {
    let started = probe.client.elapsed();
    loop {
        let now = probe.client.elapsed();
        let took = now.saturating_sub(started);
        let left = time_left(probe.options.deadline, took, probe.time_of_operator(now));
        if left.is_zero() {
            return;
        }
        probe.sleep(left).await;
    }
}

/// What is left of the limit after so much time, of which the operator took a part.
fn time_left(limit: Duration, took: Duration, operators: Duration) -> Duration {
    limit.saturating_sub(took.saturating_sub(operators))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_the_operator_does_not_count_towards_the_deadline() {
        let secs = Duration::from_secs;
        assert_eq!(time_left(secs(60), secs(50), secs(0)), secs(10));
        assert_eq!(time_left(secs(60), secs(600), secs(580)), secs(40));
        assert_eq!(time_left(secs(60), secs(600), secs(0)), secs(0));
    }
}
