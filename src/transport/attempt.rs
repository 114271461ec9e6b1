//! One attempt: the request out, the response in, within the limits of size and
//! time.

use std::time::Duration;

use reqwest::header::{CONTENT_ENCODING, CONTENT_LENGTH, HeaderMap, HeaderValue};
use tokio::time::timeout;
use url::Url;

use super::encoding::{DecodeError, Decoder};
use super::failure::{AttemptPhase, FailureContext};
use super::idle::IdleWatch;
use super::response_budget::{BudgetShare, ResponseBudget};
use super::upload::{UploadBody, UploadGuard};
use super::{Transport, XsrfToken, lock, status};
use crate::failure::{Failure, FailureKind};
use crate::model::Timestamp;
use crate::protocol::body::EncodedBody;

/// The port of a SOCKS proxy that names none; no other peer is without one.
pub(super) const DEFAULT_SOCKS_PORT: u16 = 1080;
/// At most this much of the body of an error is read.
const MAX_ERROR_BODY_BYTES: usize = 16 << 10;
/// At most this much of it is decoded.
const MAX_ERROR_BODY_DECODED_BYTES: usize = 1 << 20;
/// The body of an error is waited for no longer than this.
const ERROR_BODY_TIMEOUT: Duration = Duration::from_secs(2);

/// What an attempt has seen so far, for when it is cut short.
#[derive(Default)]
pub(super) struct AttemptTally {
    pub(super) status: Option<u16>,
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) upload_unfinished: bool,
}

/// A complete answer with status 200, headers included.
pub(super) struct RawResponse {
    pub(super) headers: HeaderMap,
    pub(super) version: reqwest::Version,
    pub(super) body: Vec<u8>,
}

impl Transport {
    pub(super) async fn attempt(
        &self,
        segment: &str,
        body: &EncodedBody,
        token: Option<&XsrfToken>,
        now: Timestamp,
        total: Duration,
        tally: &mut AttemptTally,
    ) -> Result<RawResponse, Failure> {
        let url = self.target(segment);
        let host = url.host_str().unwrap_or_default();
        let context = FailureContext {
            server: format!("{host}:{}", url.port_or_known_default().unwrap_or_default()),
            url: self.shown_target(segment),
            target: &url,
            route: self.route.as_ref(),
            resolver: &self.resolver,
            certificate_file: self.options.client_certificate.as_ref().map(|c| c.file.as_path()),
            roots: &self.options.roots,
            timeouts: &self.options.timeouts,
            now,
        };
        let EncodedBody { bytes, encoding } = body.clone();
        let mut headers = self.headers.clone();
        headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
        if let Some(encoding) = encoding {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
        }
        if let Some(token) = token {
            token.add_to(&mut headers);
        }
        self.add_cookies(&mut headers, &url);
        let (upload, uploading) = UploadBody::new(bytes);
        let client = lock(&self.client).clone();
        let request = client.post(url.clone()).headers(headers);
        let request = request.body(reqwest::Body::wrap(upload));
        let received = self.receive(request, &url, &context, &uploading, tally);
        let result = match timeout(total, received).await {
            Ok(result) => result,
            Err(_) => Err(context.total_timeout(total)),
        };
        let meter = &uploading.0;
        tally.sent = meter.sent();
        if let Err(failure) = &result {
            tally.upload_unfinished = meter.unfinished(failure.kind, tally.status);
            if failure.kind == FailureKind::Http11Required {
                self.leave_http2();
            }
        }
        result
    }

    async fn receive(
        &self,
        request: reqwest::RequestBuilder,
        url: &Url,
        context: &FailureContext<'_>,
        uploading: &UploadGuard,
        tally: &mut AttemptTally,
    ) -> Result<RawResponse, Failure> {
        let peer = self.route.as_ref().map_or(url, |route| &route.url);
        let watch = IdleWatch {
            meter: &uploading.0,
            idle: self.options.timeouts.idle,
            port: peer.port_or_known_default().unwrap_or(DEFAULT_SOCKS_PORT),
        };
        let mut response = match watch.until(request.send()).await {
            Err(_) => return Err(context.idle_timeout()),
            Ok(Err(error)) => return Err(context.failure(&error, AttemptPhase::Request)),
            Ok(Ok(response)) => response,
        };
        let status = response.status().as_u16();
        tally.status = Some(status);
        self.take_cookies(response.headers(), url, context.now);
        if status != 200 {
            // What is left of the request would be for nothing, and writing it
            // may break the connection under the response.
            uploading.0.hold();
            let body = error_body(&mut response, tally).await;
            let redaction = lock(&self.redaction);
            return Err(status::failure(context, status, response.headers(), &body, &redaction));
        }
        let limit = self.options.max_body;
        let budget = self.options.response_budget.as_ref();
        let refuse = |error| undecodable(context, &error, limit, budget);
        let length = response.content_length();
        let mut decoder = decoder(&response, length, limit)
            .map_err(refuse)?
            .within(BudgetShare::of(budget.cloned()));
        loop {
            match watch.until(response.chunk()).await {
                Err(_) => return Err(context.idle_timeout()),
                Ok(Err(error)) => return Err(context.failure(&error, AttemptPhase::Body)),
                Ok(Ok(Some(wire))) => {
                    tally.received += wire.len() as u64;
                    decoder.push(&wire).map_err(refuse)?;
                    // A few bytes may decode to many. Between the steps, the time
                    // limits and a stop take effect.
                    while decoder.step().map_err(refuse)? {
                        tokio::task::yield_now().await;
                    }
                }
                Ok(Ok(None)) => break,
            }
        }
        let version = response.version();
        let headers = std::mem::take(response.headers_mut());
        Ok(RawResponse { headers, version, body: decoder.finish().map_err(refuse)? })
    }
}

fn decoder(
    response: &reqwest::Response,
    length: Option<u64>,
    limit: usize,
) -> Result<Decoder, DecodeError> {
    let values: Vec<_> = response
        .headers()
        .get_all(CONTENT_ENCODING)
        .iter()
        .map(|value| String::from_utf8_lossy(value.as_bytes()))
        .collect();
    Decoder::new(values.iter().map(AsRef::as_ref), length, limit)
}

/// The beginning of the body of an error, as far as it comes without trouble
/// and soon: the status is what matters.
async fn error_body(response: &mut reqwest::Response, tally: &mut AttemptTally) -> Vec<u8> {
    let Ok(mut decoder) = decoder(response, None, MAX_ERROR_BODY_DECODED_BYTES) else {
        return Vec::new();
    };
    let reading = async {
        while let Ok(Some(wire)) = response.chunk().await {
            tally.received += wire.len() as u64;
            if decoder.push(&wire).is_err() {
                break;
            }
            let mut step = decoder.step();
            while step == Ok(true) {
                step = decoder.step();
            }
            if step.is_err() || tally.received >= MAX_ERROR_BODY_BYTES as u64 {
                break;
            }
        }
    };
    // What came in time is shown.
    let _ = timeout(ERROR_BODY_TIMEOUT, reading).await;
    decoder.so_far().iter().take(MAX_ERROR_BODY_BYTES).copied().collect()
}

fn undecodable(
    context: &FailureContext<'_>,
    error: &DecodeError,
    limit: usize,
    budget: Option<&ResponseBudget>,
) -> Failure {
    let (kind, what, fix) = match error {
        DecodeError::Truncated => return context.truncated("the compressed data has no end"),
        DecodeError::TooLarge => (
            FailureKind::TooLarge,
            format!("the response is larger than {limit} bytes"),
            "have the server send smaller pages",
        ),
        DecodeError::BudgetExhausted => (
            FailureKind::SimulatorMemory,
            format!(
                "the responses to all hosts together are larger than {} bytes",
                budget.map_or(0, ResponseBudget::limit)
            ),
            "simulate fewer hosts at once, or give the responses more memory",
        ),
        DecodeError::Corrupt(_) | DecodeError::NotEncoded(_) | DecodeError::Unknown(_) => (
            FailureKind::BadEncoding,
            format!("the response cannot be decoded ({error})"),
            "check the server's compression and any proxy in between",
        ),
    };
    Failure { http_status: Some(200), ..context.fail(kind, what, fix) }
}
