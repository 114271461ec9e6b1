//! A preflight in this host's own name, and what came of it.

use crate::clock::Clock;
use crate::config::Config;
use crate::failure::{Failure, FailureKind};
use crate::host::HostReport;
use crate::model::{ClientMode, RuleCounts, Stage};
use crate::protocol::body::{self, BodyError, DecodedBody, ResponseBody};
use crate::protocol::{preflight, wire};
use crate::store::ReadStore;
use crate::transport::{Response, Transport, TransportOptions};

/// What a probe reports of this host: the same as a sync.
#[derive(Debug)]
pub(super) struct Probe {
    facts: preflight::PreflightFacts,
}

/// What came of one.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) answer: Result<Response, Failure>,
    pub(super) http_status: Option<u16>,
    /// Whether the server wanted an XSRF token first.
    pub(super) token_fetched: bool,
}

impl Probe {
    /// Reads the rule counts and the mode in effect, if there is a store.
    pub(super) fn new(config: &Config, report: &HostReport, rules: Option<&ReadStore>) -> Self {
        let read = |store: &ReadStore| {
            let mode = store.client_mode(config.client_mode).ok()?;
            Some((mode, store.rule_counts().ok()?, store.rules_hash().ok()?))
        };
        let (client_mode, rule_counts, rules_hash) = rules.and_then(read).unwrap_or((
            ClientMode::Monitor,
            RuleCounts::default(),
            String::new(),
        ));
        let host = report.facts.clone();
        Self { facts: preflight::PreflightFacts { host, client_mode, rule_counts, rules_hash } }
    }

    /// Sends the preflight once; where the server asks for a token, once more.
    pub(super) async fn send(
        &self,
        transport: &Transport,
        options: &TransportOptions,
        clock: &dyn Clock,
    ) -> Outcome {
        let request = preflight::request(&options.machine_id, &self.facts, false);
        let body = match body::encode(options.transfer, &request) {
            Ok(body) => body,
            Err(error) => {
                let failure = Failure::new(FailureKind::WrongShape, error.to_string());
                return Outcome { answer: Err(failure), http_status: None, token_fetched: false };
            }
        };
        let mut first = transport.post(Stage::Preflight, &body, None, clock.now().wall).await;
        if first.outcome.as_ref().is_err_and(|f| f.kind == FailureKind::Http11Required) {
            first = transport.post(Stage::Preflight, &body, None, clock.now().wall).await;
        }
        let mut outcome =
            Outcome { answer: first.outcome, http_status: first.http_status, token_fetched: false };
        if outcome.http_status != Some(403) {
            return outcome;
        }
        let token = transport.fetch_token(clock.now().wall).await;
        if let Ok(Some(token)) = token {
            let second =
                transport.post(Stage::Preflight, &body, Some(&token), clock.now().wall).await;
            if second.http_status != Some(403) {
                outcome.answer = second.outcome;
                outcome.http_status = second.http_status;
                outcome.token_fetched = true;
            }
        }
        outcome
    }
}

/// Decodes the response; what could not be read of it is among the warnings.
pub(super) fn read(
    options: &TransportOptions,
    answer: &Response,
) -> Result<DecodedBody<preflight::PreflightResult>, BodyError> {
    let received = ResponseBody::new(options.transfer, answer.body.as_slice())
        .under(answer.content_type.as_deref());
    body::decode::<wire::PreflightResponse>(received).map(|decoded| DecodedBody {
        message: preflight::read(decoded.message),
        warnings: decoded.warnings,
    })
}
