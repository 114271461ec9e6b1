//! Between the machine's requests and the transport's bytes.

use super::machine::{StageRequest, StageResponse, Traffic};
use crate::failure::{Failure, FailureKind, Remedy as _};
use crate::model::{Stage, SyncWarning, Transfer};
use crate::protocol::body::{self, BodyError, EncodedBody, ResponseBody};
use crate::protocol::cel::CelBudget;
use crate::protocol::lenient::Warning;
use crate::protocol::{rules, wire};
use crate::transport::{self, AttemptResult, Transport};

/// The body of a request.
///
/// # Errors
/// If a message has no JSON form, which none of the schema is without.
pub fn encode(
    transfer: Transfer,
    request: &StageRequest,
    transport: &Transport,
) -> Result<EncodedBody, serde_json::Error> {
    let body = match request {
        StageRequest::Preflight(message) => body::encode(transfer, &**message),
        StageRequest::EventUpload(body) => return Ok(body.clone()),
        StageRequest::RuleDownload { message, .. } => body::encode(transfer, message),
        StageRequest::Postflight(message) => body::encode(transfer, message),
    };
    body.map(|body| transport.pack(body))
}

/// What an attempt moved over the wire.
#[must_use]
pub const fn traffic(attempt: &AttemptResult) -> Traffic {
    Traffic {
        http_status: attempt.http_status,
        bytes_sent: attempt.bytes_sent,
        bytes_received: attempt.bytes_received,
        upload_unfinished: attempt.upload_unfinished,
    }
}

/// What the body of a 200 holds.
#[derive(Debug)]
pub struct DecodedResponse {
    /// The response.
    pub answer: StageResponse,
    /// Parts of it that were read as absent or zero.
    pub warnings: Vec<SyncWarning>,
}

/// Decodes a complete body of a 200. `expressions` spans the pages of a sync;
/// `give_up` ends the reading of a page.
///
/// # Errors
/// If the body is not the stage's message; the failure names the URL.
pub fn decode(
    transfer: Transfer,
    request: &StageRequest,
    response: transport::Response,
    url: &str,
    expressions: &mut CelBudget,
    give_up: &dyn Fn() -> bool,
) -> Result<DecodedResponse, Failure> {
    let transport::Response { body, content_type, .. } = response;
    let received = ResponseBody::new(transfer, body).under(content_type.as_deref());
    let decoded = match request {
        StageRequest::Preflight(_) => {
            split(body::decode(received), |message| StageResponse::Preflight(Box::new(message)))
        }
        StageRequest::EventUpload(_) => split(body::decode(received), StageResponse::EventUpload),
        StageRequest::RuleDownload { page, .. } => split(
            rules::read_page(received, *page, expressions, give_up),
            StageResponse::RuleDownload,
        ),
        StageRequest::Postflight(_) => postflight(body::decode(received)),
    };
    let (answer, warnings) = decoded.map_err(|error| failure(url, &error))?;
    Ok(DecodedResponse { answer, warnings: sync_warnings(request.stage(), warnings) })
}

/// Decodes the body of an event upload's 200, for a caller that makes no other request.
///
/// # Errors
/// As [`decode`].
pub(super) fn decode_upload(
    transfer: Transfer,
    response: transport::Response,
    url: &str,
) -> Result<(wire::EventUploadResponse, Vec<SyncWarning>), Failure> {
    let transport::Response { body, content_type, .. } = response;
    let received = ResponseBody::new(transfer, body).under(content_type.as_deref());
    let body::DecodedBody { message, warnings } =
        body::decode(received).map_err(|error| failure(url, &error))?;
    Ok((message, sync_warnings(Stage::EventUpload, warnings)))
}

fn failure(url: &str, error: &BodyError) -> Failure {
    Failure {
        http_status: Some(200),
        fix: error.fix(),
        ..Failure::new(kind_of_body_error(error), format!("{url}: {error}"))
    }
}

fn sync_warnings(stage: Stage, warnings: Vec<Warning>) -> Vec<SyncWarning> {
    let of_stage = |Warning { field, value, action }| SyncWarning { stage, field, value, action };
    warnings.into_iter().map(of_stage).collect()
}

type Split = Result<(StageResponse, Vec<Warning>), BodyError>;

fn split<M>(
    decoded: Result<body::DecodedBody<M>, BodyError>,
    answer: impl FnOnce(M) -> StageResponse,
) -> Split {
    decoded.map(|body::DecodedBody { message, warnings }| (answer(message), warnings))
}

/// Nothing depends on the response to a postflight, so an error in it is
/// a warning.
fn postflight(decoded: Result<body::DecodedBody<wire::PostflightResponse>, BodyError>) -> Split {
    match decoded {
        Err(BodyError::ErrorInResponse { member, words, .. }) => {
            let warning = Warning::of_error(member, &words);
            Ok((StageResponse::Postflight, vec![warning]))
        }
        other => split(other, |_| StageResponse::Postflight),
    }
}

/// The kind of failure that a body which cannot be read is.
pub(crate) const fn kind_of_body_error(error: &BodyError) -> FailureKind {
    match error {
        BodyError::GivenUp => FailureKind::Cancelled,
        BodyError::TooManyRules(_) => FailureKind::TooManyRules,
        BodyError::CutShort(_) => FailureKind::Truncated,
        BodyError::Html(_) => FailureKind::Html,
        BodyError::NotJson { .. } => FailureKind::NotJson,
        BodyError::WrongShape { .. } => FailureKind::WrongShape,
        BodyError::NotProtobuf { .. } => FailureKind::NotProtobuf,
        BodyError::ErrorInResponse { .. } => FailureKind::ErrorInResponse,
        BodyError::CursorTooLong(_) => FailureKind::TooLarge,
    }
}
