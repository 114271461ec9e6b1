//! One request and its attempts: repeat, fetch a token, or fail permanently.

use std::sync::Arc;

use super::{AttemptResult, Effect, StageRequest, StageResponse};
use crate::failure::{Disposition, Failure};
use crate::model::{Stage, Trigger};
use crate::sync::retry::{RetryPace, WaitSchedule};

/// A request under way.
#[derive(Debug)]
pub(super) struct Attempts {
    request: Arc<StageRequest>,
    waits: WaitSchedule,
    made: u32,
    /// The 403 that made us fetch a token; reported if that does not help.
    forbidden: Option<Failure>,
    /// Why the last attempt failed: the cause if the sync is stopped before the
    /// request is repeated with success.
    last: Option<Failure>,
    /// How many attempts in a row have left their upload unfinished.
    unfinished: u32,
}

/// How a request stands after something came of it.
#[derive(Debug)]
pub(super) enum AttemptStep {
    /// It goes on with this effect.
    UnderWay(Box<Attempts>, Effect),
    /// It succeeded.
    Answered(StageResponse),
    /// It has failed permanently.
    Failed(GivenUp),
}

/// A request that has failed permanently, or a stage that failed without one.
#[derive(Clone, Debug)]
pub(super) struct GivenUp {
    pub(super) failure: Failure,
    /// Attempts made; 0 if none was.
    pub(super) attempts: u32,
    /// For a stop or a deadline: the error of the last attempt.
    pub(super) cause: Option<Failure>,
}

impl From<Failure> for GivenUp {
    /// A failure outside any request.
    fn from(failure: Failure) -> Self {
        Self { failure, attempts: 0, cause: None }
    }
}

impl Attempts {
    /// Starts a request: the first attempt's effect.
    pub(super) fn start(request: StageRequest, trigger: Trigger, jitter: f64) -> (Self, Effect) {
        let waits = WaitSchedule::new(RetryPace::of(request.stage(), trigger), jitter);
        let request = Arc::new(request);
        let effect = Effect::Send { request: Arc::clone(&request), attempt: 1 };
        (Self { request, waits, made: 1, forbidden: None, last: None, unfinished: 0 }, effect)
    }

    pub(super) fn stage(&self) -> Stage {
        self.request.stage()
    }

    /// How many attempts in a row have left their upload unfinished.
    pub(super) const fn unfinished(&self) -> u32 {
        self.unfinished
    }

    /// Ends the request because the sync is stopped or out of time.
    pub(super) fn stop(self, failure: Failure) -> GivenUp {
        GivenUp { failure, attempts: self.made, cause: self.last }
    }

    /// Something came of the request. `token_spent` says, and remembers,
    /// whether this sync has fetched its one token.
    pub(super) fn on(mut self, exchange: AttemptResult, token_spent: &mut bool) -> AttemptStep {
        match exchange {
            AttemptResult::Answered(answer, _) => AttemptStep::Answered(answer),
            AttemptResult::Failed(failure, traffic) => {
                self.unfinished = if traffic.upload_unfinished { self.unfinished + 1 } else { 0 };
                self.on_failure(failure, token_spent)
            }
            AttemptResult::Waited | AttemptResult::TokenFetched(true) => self.send_again(),
            AttemptResult::TokenFetched(false) => match self.forbidden.take() {
                Some(forbidden) => self.give_up(forbidden),
                None => self.send_again(),
            },
            AttemptResult::Stopped { failure, begun: true } => {
                AttemptStep::Failed(self.stop(failure))
            }
            AttemptResult::Stopped { failure, begun: false } => AttemptStep::Failed(failure.into()),
        }
    }

    fn on_failure(mut self, failure: Failure, token_spent: &mut bool) -> AttemptStep {
        match failure.kind.disposition() {
            Disposition::Final => self.give_up(failure),
            Disposition::RefreshToken if *token_spent => {
                let first = self.forbidden.take();
                self.give_up(first.unwrap_or(failure))
            }
            Disposition::RefreshToken => {
                *token_spent = true;
                self.last = Some(failure.clone());
                self.forbidden = Some(failure);
                let stage = self.stage();
                AttemptStep::UnderWay(Box::new(self), Effect::FetchToken { stage })
            }
            Disposition::Retry => match self.waits.next_wait() {
                None => self.give_up(failure),
                Some(scheduled) => {
                    self.last = Some(failure.clone());
                    let effect = Effect::Wait {
                        duration: failure.retry_after.unwrap_or(scheduled),
                        stage: self.stage(),
                        next_attempt: self.made + 1,
                        failure,
                    };
                    AttemptStep::UnderWay(Box::new(self), effect)
                }
            },
        }
    }

    fn send_again(mut self) -> AttemptStep {
        self.made += 1;
        let request = Arc::clone(&self.request);
        let effect = Effect::Send { request, attempt: self.made };
        AttemptStep::UnderWay(Box::new(self), effect)
    }

    fn give_up(self, failure: Failure) -> AttemptStep {
        AttemptStep::Failed(GivenUp { failure, attempts: self.made, cause: None })
    }
}
