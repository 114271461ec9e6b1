//! Between the machine's requests and the transport's bytes.

use super::machine::{Answer, Request};
use super::retry::{Failure, FailureKind};
use crate::model::Packed;
use crate::protocol::body::{self, BodyError, Transfer};
use crate::protocol::rules;
use crate::transport::Transport;

/// The body of a request.
///
/// # Errors
/// If a message has no JSON form, which none of the schema is without.
pub(super) fn encode(
    transfer: Transfer,
    request: &Request,
    transport: &Transport,
) -> Result<Packed, serde_json::Error> {
    let body = match request {
        Request::Preflight(message) => body::encode(transfer, &**message),
        Request::EventUpload(body) => return Ok(body.clone()),
        Request::RuleDownload { message, .. } => body::encode(transfer, message),
        Request::Postflight(message) => body::encode(transfer, message),
    };
    body.map(|body| transport.pack(body))
}

/// The answer that a complete body of a 200 holds.
///
/// # Errors
/// If the body is not the stage's message; the failure names the URL.
pub(super) fn decode(
    transfer: Transfer,
    request: &Request,
    bytes: &[u8],
    url: &str,
) -> Result<Answer, Failure> {
    let answer = match request {
        Request::Preflight(_) => {
            body::decode(transfer, bytes).map(|message| Answer::Preflight(Box::new(message)))
        }
        Request::EventUpload(_) => body::decode(transfer, bytes).map(Answer::EventUpload),
        Request::RuleDownload { page, .. } => {
            rules::read_page(transfer, bytes, *page).map(Answer::RuleDownload)
        }
        Request::Postflight(_) => {
            body::decode::<crate::protocol::wire::PostflightResponse>(transfer, bytes)
                .map(|_| Answer::Postflight)
        }
    };
    answer.map_err(|error| Failure {
        kind: kind_of_body_error(&error),
        message: format!("{url}: {error}"),
        http_status: Some(200),
        retry_after: None,
    })
}

pub(crate) const fn kind_of_body_error(error: &BodyError) -> FailureKind {
    match error {
        BodyError::TooManyRules(_) => FailureKind::TooManyRules,
        BodyError::CutShort(_) => FailureKind::Truncated,
        BodyError::Html(_) => FailureKind::Html,
        BodyError::NotJson { .. } => FailureKind::NotJson,
        BodyError::WrongShape { .. } => FailureKind::WrongShape,
        BodyError::NotProtobuf { .. } => FailureKind::NotProtobuf,
    }
}
