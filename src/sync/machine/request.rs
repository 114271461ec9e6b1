//! One request and its attempts: repeat, fetch a token, or fail for good.

use std::sync::Arc;

use super::{Answer, Effect, Exchange, Request};
use crate::model::Stage;
use crate::sync::retry::{Disposition, Failure, WaitSchedule};

/// A request under way.
#[derive(Debug)]
pub(super) struct Attempting {
    request: Arc<Request>,
    waits: WaitSchedule,
    attempts: u32,
    /// The 403 that made us fetch a token; reported if that does not help.
    forbidden: Option<Failure>,
}

/// How a request stands after something came of it.
#[derive(Debug)]
pub(super) enum Progress {
    /// It goes on with this effect.
    UnderWay(Attempting, Effect),
    /// It was answered.
    Answered(Answer),
    /// It has failed for good, after this many attempts; 0 if none was made.
    Failed(Failure, u32),
}

impl Attempting {
    /// Starts a request: the first attempt's effect.
    pub(super) fn start(request: Request, jitter: f64) -> (Self, Effect) {
        let request = Arc::new(request);
        let effect = Effect::Send { request: Arc::clone(&request), attempt: 1 };
        (Self { request, waits: WaitSchedule::new(jitter), attempts: 1, forbidden: None }, effect)
    }

    pub(super) fn stage(&self) -> Stage {
        self.request.stage()
    }

    pub(super) const fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Something came of the request. `token_spent` tells, and remembers,
    /// whether this sync has fetched its one token.
    pub(super) fn on(mut self, exchange: Exchange, token_spent: &mut bool) -> Progress {
        match exchange {
            Exchange::Answered(answer, _) => Progress::Answered(answer),
            Exchange::Failed(failure, _) => self.on_failure(failure, token_spent),
            Exchange::Waited | Exchange::TokenFetched(true) => self.send_again(),
            Exchange::TokenFetched(false) => match self.forbidden.take() {
                Some(forbidden) => self.give_up(forbidden),
                None => self.send_again(),
            },
            Exchange::Stopped { failure, begun: true } => self.give_up(failure),
            Exchange::Stopped { failure, begun: false } => Progress::Failed(failure, 0),
        }
    }

    fn on_failure(mut self, failure: Failure, token_spent: &mut bool) -> Progress {
        match failure.kind.disposition() {
            Disposition::Final => self.give_up(failure),
            Disposition::RefreshToken if *token_spent => {
                let first = self.forbidden.take();
                self.give_up(first.unwrap_or(failure))
            }
            Disposition::RefreshToken => {
                *token_spent = true;
                self.forbidden = Some(failure);
                let stage = self.stage();
                Progress::UnderWay(self, Effect::FetchToken { stage })
            }
            Disposition::Retry => match self.waits.next_wait() {
                None => self.give_up(failure),
                Some(scheduled) => {
                    let effect = Effect::Wait {
                        duration: failure.retry_after.unwrap_or(scheduled),
                        stage: self.stage(),
                        next_attempt: self.attempts + 1,
                        failure,
                    };
                    Progress::UnderWay(self, effect)
                }
            },
        }
    }

    fn send_again(mut self) -> Progress {
        self.attempts += 1;
        let request = Arc::clone(&self.request);
        let effect = Effect::Send { request, attempt: self.attempts };
        Progress::UnderWay(self, effect)
    }

    fn give_up(self, failure: Failure) -> Progress {
        Progress::Failed(failure, self.attempts)
    }
}
