//! Exchanges in full, as `--transcript` writes them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::client::ProbeClient;
use super::exchange::{BreakKind, Intent, ProbeExchange};
use super::form::Form;

/// A body: text where it is text, otherwise base64.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TranscriptBody {
    /// UTF-8.
    Text(String),
    /// Anything else.
    Base64(String),
}

impl TranscriptBody {
    /// Of bytes without secrets.
    fn of(masked: &[u8]) -> Self {
        match str::from_utf8(masked) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Base64(STANDARD.encode(masked)),
        }
    }
}

/// One exchange in full, with secrets redacted.
#[derive(Clone, Debug, Serialize)]
pub struct TranscriptEntry {
    /// Its number in the run; reports point at it.
    pub exchange: u64,
    /// The requirement it was made for.
    pub requirement: &'static str,
    /// Why it was made.
    pub intent: Intent,
    /// The form of its body.
    pub form: Form,
    /// The method.
    pub method: String,
    /// The path and query.
    pub path: String,
    /// The request's headers.
    pub request_headers: Vec<(String, String)>,
    /// The request's body before compression.
    pub request_body: TranscriptBody,
    /// The size of the request's body as sent.
    pub request_bytes: u64,
    /// The status; `None` if no response began.
    pub status: Option<u16>,
    /// The response's headers.
    pub response_headers: Vec<(String, String)>,
    /// The response's body, decoded if it could be; `None` if it was not complete.
    pub response_body: Option<TranscriptBody>,
    /// What went wrong, if no complete response came.
    pub broken: Option<BreakKind>,
    /// What went wrong, in words.
    pub cause: Option<String>,
    /// How long it took.
    pub elapsed_ms: u64,
}

impl TranscriptEntry {
    pub(super) fn of(exchange: &ProbeExchange, client: &ProbeClient) -> Self {
        let answer = exchange.answer();
        let broken = exchange.outcome.as_ref().err();
        Self {
            exchange: exchange.number,
            requirement: exchange.requirement,
            intent: exchange.intent,
            form: exchange.form,
            method: exchange.method.clone(),
            path: exchange.path.clone(),
            request_headers: exchange.request_headers.clone(),
            request_body: TranscriptBody::of(&client.redact_bytes(&exchange.request_plain)),
            request_bytes: exchange.request_wire.len() as u64,
            status: exchange.status(),
            response_headers: answer.map_or_else(Vec::new, |answer| {
                let shown = answer.headers.iter();
                shown.map(|(name, value)| (name.clone(), client.redact(value))).collect()
            }),
            response_body: answer.map(|answer| TranscriptBody::of(&client.redact_body(answer))),
            broken: broken.map(|broken| broken.kind),
            cause: broken.map(|broken| client.redact(&broken.what)),
            elapsed_ms: u64::try_from(exchange.elapsed.as_millis()).unwrap_or(u64::MAX),
        }
    }
}
