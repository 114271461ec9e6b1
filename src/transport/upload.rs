//! The body of a request on its way to the server, and what is known of how far
//! it has come.
//!
//! The HTTP client takes a body piece by piece, so the pieces it took are what
//! was handed to the connection. A server that refuses a body for its length
//! answers before it has read it and closes the connection; a client that is
//! writing then gets an error and loses the response, though it has arrived. So
//! the body comes in bursts, and the client reads before each of them.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, SizeHint};
use thiserror::Error;

use super::lock;
use crate::failure::FailureKind;

/// The size of a piece. HTTP/1.1 connections hold up to 16 pieces that are not
/// written yet, so that at most 64 KiB are counted that never left.
const PIECE_BYTES: usize = 4 << 10;
/// After this much the connection reads before it goes on writing.
const BURST_BYTES: usize = 64 << 10;
/// After its first burst a body waits this long, or a server nearby could not
/// answer before the next one is being written. One far away answers while the
/// kernel's buffer is full, and the client waits to read or write.
const FIRST_BURST_PAUSE: Duration = Duration::from_millis(20);
/// Smaller bodies are never what breaks a connection (HTTP-9).
const LARGE_BODY_BYTES: u64 = 64 << 10;
/// [`UploadMeter::queued`] if it is not known.
const QUEUED_UNKNOWN: u64 = u64::MAX;

/// How far the body of one attempt has come.
#[derive(Debug)]
pub(super) struct UploadMeter {
    length: u64,
    sent: AtomicU64,
    queued: AtomicU64,
    held: AtomicBool,
    ended: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl UploadMeter {
    fn new(length: u64) -> Self {
        Self {
            length,
            sent: AtomicU64::new(0),
            queued: AtomicU64::new(QUEUED_UNKNOWN),
            held: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            waker: Mutex::default(),
        }
    }

    /// Bytes handed to the connection.
    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Of these, the bytes that the kernel had not delivered when it was last
    /// asked; `None` if it was not asked or does not say.
    pub(super) fn queued(&self) -> Option<u64> {
        Some(self.queued.load(Ordering::Relaxed)).filter(|queued| *queued != QUEUED_UNKNOWN)
    }

    /// Keeps what the kernel says.
    pub(super) fn note_queued(&self, queued: Option<u64>) {
        self.queued.store(queued.unwrap_or(QUEUED_UNKNOWN), Ordering::Relaxed);
    }

    /// Whether the server's host has the whole body, as far as is known.
    pub(super) fn delivered(&self) -> bool {
        self.sent() >= self.length && (self.length == 0 || self.queued() == Some(0))
    }

    /// Whether a failure of that kind, with no more of a response than this
    /// status, says that the body may be too large for the way to the server:
    /// its upload timed out, or the connection broke under more than 64 KiB.
    pub(super) fn unfinished(&self, kind: FailureKind, status: Option<u16>) -> bool {
        let begun = self.sent() > 0;
        let large = self.length > LARGE_BODY_BYTES;
        match (kind, status) {
            (FailureKind::IdleTimeout | FailureKind::TotalTimeout, None) => {
                let on_its_way = self.queued().map_or(large, |queued| queued > 0);
                begun && (self.sent() < self.length || on_its_way)
            }
            (FailureKind::ConnectionLost, None) => begun && large,
            (FailureKind::RequestTimeout, Some(_)) => large,
            _ => false,
        }
    }

    /// Sends no more for now: the server has refused the request, and its
    /// answer is still to be read.
    pub(super) fn hold(&self) {
        self.held.store(true, Ordering::Relaxed);
    }

    fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(waker) = lock(&self.waker).take() {
            waker.wake();
        }
    }
}

/// Ends the upload when the attempt ends, however it ends: a connection with
/// half a request in it is of no further use.
pub(super) struct UploadGuard(pub(super) Arc<UploadMeter>);

impl Drop for UploadGuard {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// The attempt ended before the whole body was sent.
#[derive(Debug, Error)]
#[error("the attempt ended before the whole body was sent")]
pub(super) struct UploadEnded;

/// A body of a known length.
pub(super) struct UploadBody {
    rest: Bytes,
    meter: Arc<UploadMeter>,
    burst: usize,
    bursts: usize,
    pause: Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>,
}

impl UploadBody {
    /// A body of these bytes, which are not copied, and its meter.
    pub(super) fn new(bytes: Bytes) -> (Self, UploadGuard) {
        let meter = Arc::new(UploadMeter::new(bytes.len() as u64));
        let upload =
            Self { rest: bytes, meter: Arc::clone(&meter), burst: 0, bursts: 0, pause: None };
        (upload, UploadGuard(meter))
    }
}

impl Body for UploadBody {
    type Data = Bytes;
    type Error = UploadEnded;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadEnded>>> {
        let this = self.get_mut();
        if this.rest.is_empty() {
            return Poll::Ready(None);
        }
        *lock(&this.meter.waker) = Some(cx.waker().clone());
        if this.meter.ended.load(Ordering::Relaxed) {
            return Poll::Ready(Some(Err(UploadEnded)));
        }
        if this.meter.held.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        if let Some(pause) = &mut this.pause {
            ready!(pause.as_mut().poll(cx));
            this.pause = None;
        }
        let piece = this.rest.split_to(PIECE_BYTES.min(this.rest.len()));
        this.meter.sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
        this.burst += piece.len();
        if this.burst >= BURST_BYTES {
            this.burst = 0;
            this.bursts += 1;
            this.pause = Some(if this.bursts == 1 {
                Box::pin(tokio::time::sleep(FIRST_BURST_PAUSE))
            } else {
                // Wakes once the runtime has asked the system what has arrived.
                Box::pin(tokio::task::yield_now())
            });
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use strum::VariantArray as _;

    use super::*;

    fn sent(length: u64, sent: u64, queued: Option<u64>) -> UploadMeter {
        let meter = UploadMeter::new(length);
        meter.sent.store(sent, Ordering::Relaxed);
        meter.note_queued(queued);
        meter
    }

    #[test]
    fn http_9_a_timeout_while_the_body_is_on_its_way_leaves_the_upload_unfinished() {
        for kind in [FailureKind::IdleTimeout, FailureKind::TotalTimeout] {
            assert!(sent(100, 50, None).unfinished(kind, None));
            assert!(sent(100, 100, Some(7)).unfinished(kind, None));
            assert!(sent(LARGE_BODY_BYTES + 1, LARGE_BODY_BYTES + 1, None).unfinished(kind, None));
            assert!(!sent(100, 100, None).unfinished(kind, None), "too small to be the cause");
            assert!(
                !sent(LARGE_BODY_BYTES + 1, LARGE_BODY_BYTES + 1, Some(0)).unfinished(kind, None),
                "delivered"
            );
            assert!(!sent(LARGE_BODY_BYTES + 1, 0, None).unfinished(kind, None), "no connection");
            assert!(!sent(100, 50, None).unfinished(kind, Some(200)), "an answer has begun");
        }
    }

    #[test]
    fn http_9_a_connection_that_breaks_under_a_large_body_leaves_the_upload_unfinished() {
        let lost = FailureKind::ConnectionLost;
        assert!(sent(LARGE_BODY_BYTES + 1, LARGE_BODY_BYTES, None).unfinished(lost, None));
        assert!(!sent(LARGE_BODY_BYTES, LARGE_BODY_BYTES, None).unfinished(lost, None));
        assert!(!sent(LARGE_BODY_BYTES + 1, 0, None).unfinished(lost, None));
        for &other in FailureKind::VARIANTS {
            let counts = matches!(
                other,
                FailureKind::ConnectionLost | FailureKind::IdleTimeout | FailureKind::TotalTimeout
            );
            assert_eq!(
                sent(LARGE_BODY_BYTES + 1, LARGE_BODY_BYTES, None).unfinished(other, None),
                counts,
                "{other}"
            );
        }
        assert!(
            sent(LARGE_BODY_BYTES + 1, LARGE_BODY_BYTES, None)
                .unfinished(FailureKind::RequestTimeout, Some(408))
        );
    }

    #[test]
    fn http_9_only_a_body_that_left_the_kernel_is_delivered() {
        assert!(sent(0, 0, None).delivered());
        assert!(sent(9, 9, Some(0)).delivered());
        for meter in [sent(9, 8, Some(0)), sent(9, 9, Some(1)), sent(9, 9, None)] {
            assert!(!meter.delivered(), "{meter:?}");
        }
    }
}
