//! Reading a request's body within limits of bytes, memory and time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use hyper::header::{ACCEPT_ENCODING, HeaderValue, RETRY_AFTER};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::budget::Budget;
use super::{BodyLimits, Coding, CodingError, Decoder, Response};
use crate::mapped_buffer::MappedBuffer;

/// Bytes decoded before other connections have their turn.
const STEP: usize = 64 * 1024;

/// Why there is no body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BodyError {
    /// Its `Content-Encoding` is not one of ours.
    UnknownCoding,
    /// It is longer than it may be, as sent or decoded.
    TooLong,
    /// It did not arrive in time.
    Slow,
    /// It would take more memory than there was within its time.
    NoRoom,
    /// Its framing is wrong, or the client went away.
    Broken,
    /// It cannot be decoded.
    Coding(CodingError),
}

impl BodyError {
    /// The answer. The rest of the body is not read, so the connection ends.
    pub(super) fn answer(self) -> Response {
        let answer = match self {
            Self::UnknownCoding => {
                Response::text(415, "Content-Encoding must be identity, deflate or gzip")
                    .with(ACCEPT_ENCODING, HeaderValue::from_static("gzip, deflate, identity"))
            }
            Self::TooLong => Response::text(413, "the body is too long"),
            Self::Slow => Response::text(408, "the body did not arrive in time"),
            Self::NoRoom => Response::text(503, "too many long bodies at once")
                .with(RETRY_AFTER, HeaderValue::from_static("5")),
            Self::Broken => Response::text(400, "the body is broken"),
            Self::Coding(error) => Response::text(400, &error.to_string()),
        };
        answer.closing()
    }
}

/// What a body may take.
#[derive(Debug)]
pub(super) struct BodyReader<'a> {
    pub(super) limits: BodyLimits,
    /// By its header; `None` if that names another.
    pub(super) coding: Option<Coding>,
    pub(super) budget: &'a Budget,
    pub(super) is_favoured: bool,
    pub(super) within: Duration,
}

/// A body and its share of the budget, which ends with it.
struct Held {
    bytes: MappedBuffer,
    _turn: Option<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl BodyReader<'_> {
    /// Reads a body, and decodes it.
    pub(super) async fn read(&self, body: Incoming) -> Result<Bytes, BodyError> {
        let waits = AtomicBool::new(false);
        let read = timeout(self.within, self.read_untimed(body, &waits)).await;
        read.unwrap_or_else(|_| {
            Err(if waits.load(Ordering::Relaxed) { BodyError::NoRoom } else { BodyError::Slow })
        })
    }

    async fn read_untimed(
        &self,
        mut body: Incoming,
        waits: &AtomicBool,
    ) -> Result<Bytes, BodyError> {
        let coding = if self.limits.decode {
            self.coding.ok_or(BodyError::UnknownCoding)?
        } else {
            Coding::Identity
        };
        let announced = body.size_hint().exact();
        let is_too_long = |encoded: u64| {
            encoded > self.limits.encoded
                || coding == Coding::Identity && encoded > self.limits.decoded
        };
        if announced.is_some_and(is_too_long) {
            return Err(BodyError::TooLong);
        }
        let mut decoder = Decoder::new(coding);
        let limit = usize::try_from(self.limits.decoded).unwrap_or(usize::MAX);
        // The first byte beyond the limit shows that there are too many.
        let mut out = MappedBuffer::new(limit.saturating_add(1));
        let mut encoded = 0_u64;
        let mut turn = None;
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| BodyError::Broken)?.into_data() else { continue };
            encoded += data.len() as u64;
            if is_too_long(encoded) {
                return Err(BodyError::TooLong);
            }
            let mut input = &data[..];
            loop {
                let mut most = (limit.saturating_add(1) - out.len()).min(STEP);
                if turn.is_none() {
                    // The first byte beyond shows that it is a long one.
                    most = most.min(self.budget.small.saturating_add(1) - out.len());
                }
                let has_more =
                    decoder.decode(&mut input, &mut out, most).map_err(BodyError::Coding)?;
                if out.len() > limit {
                    return Err(BodyError::TooLong);
                }
                if turn.is_none() && out.len() > self.budget.small {
                    waits.store(true, Ordering::Relaxed);
                    turn = self.budget.turn(self.is_favoured).await;
                    waits.store(false, Ordering::Relaxed);
                }
                if !has_more {
                    break;
                }
                // What a small piece expands to must not hold up the others.
                tokio::task::yield_now().await;
            }
        }
        decoder.finish().map_err(BodyError::Coding)?;
        Ok(Bytes::from_owner(Held { bytes: out, _turn: turn }))
    }
}
