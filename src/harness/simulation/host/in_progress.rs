//! A sync or an upload in progress: its transport, and its exchanges, each of which is measured.

use std::sync::Arc;
use std::time::Duration;

use super::{AppliedSettings, SharedWorld};
use crate::clock::{self, Clock as _};
use crate::failure::{Failure, FailureKind};
use crate::harness::simulation::measure::AttemptEnd;
use crate::harness::simulation::profile::HostProfile;
use crate::model::EventRow;
use crate::protocol::body::EncodedBody;
use crate::protocol::cel::CelBudget;
use crate::protocol::events::EventBatch;
use crate::protocol::rules::Page;
use crate::sync::codec;
use crate::sync::machine::{AttemptResult, StageRequest, StageResponse, Traffic};
use crate::sync::run::user_agent;
use crate::transport::{BudgetExhausted, BudgetShare, HostOptions, Transport, XsrfToken};

/// What a sync remembers between effects.
pub(in crate::harness::simulation) struct SyncInProgress<'a> {
    pub(super) world: &'a SharedWorld,
    transport: Result<Transport, Failure>,
    token: Option<XsrfToken>,
    /// The request under way and its body.
    body: Option<(Arc<StageRequest>, EncodedBody)>,
    expressions: CelBudget,
    /// Memory for the rules of this download so far.
    rules_memory: BudgetShare,
    pub(super) staged: Option<AppliedSettings>,
    /// The batch size of its preflight; 0 if the server gave none.
    pub(super) batch_size: u32,
    /// The number of the last event that was queued when the sync began.
    pub(super) horizon: i64,
}

impl<'a> SyncInProgress<'a> {
    pub(in crate::harness::simulation) fn new(
        profile: &HostProfile,
        world: &'a SharedWorld,
        horizon: i64,
    ) -> Self {
        let transport = world.transport.for_host(HostOptions {
            machine_id: profile.machine_id.clone(),
            transfer: profile.transfer,
            content_encoding: profile.content_encoding,
            user_agent: user_agent(&profile.facts.santa_version),
        });
        Self {
            world,
            transport,
            token: None,
            body: None,
            expressions: CelBudget::new(clock::thread_time),
            rules_memory: BudgetShare::of(Some(world.budget.clone())),
            staged: None,
            batch_size: 0,
            horizon,
        }
    }

    /// Makes one attempt of a request, and measures it.
    pub(in crate::harness::simulation) async fn send(
        &mut self,
        request: Arc<StageRequest>,
        profile: &HostProfile,
        left: Duration,
    ) -> AttemptResult {
        let stage = request.stage();
        let began = self.world.clock.real_elapsed();
        let (end, traffic, result) = match self.exchange(&request, profile, left).await {
            Ok((Ok(response), traffic)) => {
                if let StageResponse::Preflight(settings) = &response {
                    self.batch_size = settings.batch_size;
                }
                (AttemptEnd::Answered, traffic, AttemptResult::Answered(response, traffic))
            }
            Ok((Err(failure), traffic)) => {
                (AttemptEnd::Failed(failure.kind), traffic, AttemptResult::Failed(failure, traffic))
            }
            Err(cut) => {
                let traffic = Traffic::default();
                (AttemptEnd::CutByOutage, traffic, AttemptResult::Failed(cut, traffic))
            }
        };
        let ended = self.world.clock.real_elapsed();
        let whose = (profile.group, stage);
        self.world.measured.borrow_mut().attempt_ends(whose, (began, ended), end, traffic);
        result
    }

    /// The response to an attempt, if the network let it through.
    async fn exchange(
        &mut self,
        request: &Arc<StageRequest>,
        profile: &HostProfile,
        left: Duration,
    ) -> Result<(Result<StageResponse, Failure>, Traffic), Failure> {
        let transport = match &self.transport {
            Ok(transport) => transport,
            Err(failure) => return Ok((Err(failure.clone()), Traffic::default())),
        };
        let body = match &self.body {
            Some((of, body)) if Arc::ptr_eq(of, request) => body.clone(),
            _ => match codec::encode(profile.transfer, request, transport) {
                Ok(body) => body,
                Err(error) => {
                    let what = format!("the request has no JSON form: {error}");
                    let failure = Failure::new(FailureKind::WrongShape, what);
                    return Ok((Err(failure), Traffic::default()));
                }
            },
        };
        self.body = Some((Arc::clone(request), body.clone()));
        let (stage, now) = (request.stage(), self.world.clock.now().wall);
        let attempt = transport.post_packed(stage, &body, self.token.as_ref(), now);
        let exchanged = self.world.network.reach(attempt).await?;
        let traffic = codec::traffic(&exchanged);
        let url = transport.url(stage);
        let give_up = clock::timer(left / self.world.clock.speed());
        let decoded = exchanged.outcome.and_then(|response| {
            let expressions = &mut self.expressions;
            codec::decode(profile.transfer, request, response, &url, expressions, &give_up)
        });
        let kept = decoded.and_then(|decoded| match decoded.answer {
            StageResponse::RuleDownload(page) => self.keep(page).map(StageResponse::RuleDownload),
            other @ (StageResponse::Preflight(_)
            | StageResponse::EventUpload(_)
            | StageResponse::Postflight) => Ok(other),
        });
        Ok((kept, traffic))
    }

    /// Takes memory for the rules of a page until the sync ends.
    fn keep(&mut self, page: Page) -> Result<Page, Failure> {
        self.rules_memory.grow(page.rules.packed_bytes()).map_err(|BudgetExhausted| {
            let limit = self.world.budget.limit();
            let what = format!("the downloads of all hosts hold more than {limit} bytes");
            Failure::new(FailureKind::SimulatorMemory, what)
        })?;
        Ok(page)
    }

    /// The batch of these rows.
    pub(in crate::harness::simulation) fn batch_of(
        &self,
        rows: Vec<EventRow>,
        profile: &HostProfile,
    ) -> EventBatch {
        let HostProfile { machine_id, transfer, .. } = profile;
        EventBatch::of_rows(rows, machine_id, *transfer, |body| match &self.transport {
            Ok(transport) => transport.pack(body),
            // No request will be made.
            Err(_) => EncodedBody::plain(body),
        })
    }

    pub(in crate::harness::simulation) async fn fetch_token(&mut self) -> bool {
        self.token = None;
        let Ok(transport) = &self.transport else { return false };
        self.world.measured.borrow_mut().token_requests += 1;
        let fetching = transport.fetch_token(self.world.clock.now().wall);
        match self.world.network.reach(fetching).await {
            Ok(Ok(token)) => {
                self.token = token;
                true
            }
            Ok(Err(_)) | Err(_) => false,
        }
    }
}
