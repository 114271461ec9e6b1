//! Where a connection is within an exchange, told by what passes through its
//! stream, so that each part has its own time.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::io::{self, AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use super::Limits;

/// A part of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// A head is expected, or has begun.
    Head,
    /// The body is read.
    Body,
    /// The service works.
    Answering,
    /// The answer is written.
    Writing,
    /// The answer has been written.
    Idle,
}

impl Phase {
    /// How long it may last. A body has its time in `body.rs`, because one that is
    /// too slow is answered; a service takes its own time.
    fn limit(self, limits: &Limits) -> Option<Duration> {
        match self {
            Self::Head => Some(limits.head),
            Self::Body | Self::Answering => None,
            Self::Writing => Some(limits.respond),
            Self::Idle => Some(limits.idle),
        }
    }

    /// Whether an answer has been begun.
    pub(super) fn is_answer(self) -> bool {
        matches!(self, Self::Answering | Self::Writing)
    }
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// How many phases there have been.
    number: u64,
    /// Whether the answer is in the buffers of the stream.
    handed_over: bool,
}

/// The phase of a connection, shared by its stream, its service and its task.
#[derive(Debug)]
pub(super) struct Phases {
    state: Mutex<State>,
    written: Notify,
}

impl Phases {
    pub(super) fn new() -> Arc<Self> {
        let state = State { phase: Phase::Head, number: 0, handed_over: false };
        Arc::new(Self { state: Mutex::new(state), written: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn enter(&self, phase: Phase) {
        let mut state = self.state();
        state.phase = phase;
        state.number += 1;
        state.handed_over = false;
    }

    pub(super) fn now(&self) -> Phase {
        self.state().phase
    }

    /// The number of the phase, and how long it may last.
    pub(super) fn limit(&self, limits: &Limits) -> (u64, Option<Duration>) {
        let state = self.state();
        (state.number, state.phase.limit(limits))
    }

    /// Completes once no answer is being written.
    pub(super) async fn until_written(&self) {
        while self.now() == Phase::Writing {
            self.written.notified().await;
        }
    }

    fn received(&self) {
        if self.now() == Phase::Idle {
            self.enter(Phase::Head);
        }
    }

    fn handed_over(&self) {
        let mut state = self.state();
        state.handed_over = state.phase == Phase::Writing;
    }

    /// The buffers of the stream are empty.
    fn flushed(&self) {
        let is_written = {
            let state = self.state();
            state.phase == Phase::Writing && state.handed_over
        };
        if is_written {
            self.enter(Phase::Idle);
            self.written.notify_one();
        }
    }
}

/// A stream that notes what passes through it.
#[derive(Debug)]
pub(super) struct Watched<S> {
    stream: S,
    phases: Arc<Phases>,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S, phases: Arc<Phases>) -> Self {
        Self { stream, phases }
    }

    pub(super) fn into_inner(self) -> S {
        self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.phases.received();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    /// hyper flushes once its own buffer is empty.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if matches!(flushed, Poll::Ready(Ok(()))) {
            self.phases.flushed();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[std::io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// The body of an answer. hyper drops it once it holds all of it.
#[derive(Debug)]
pub(super) struct AnswerBody {
    bytes: Option<Bytes>,
    phases: Arc<Phases>,
}

impl AnswerBody {
    pub(super) fn new(bytes: Bytes, phases: Arc<Phases>) -> Self {
        Self { bytes: Some(bytes).filter(|bytes| !bytes.is_empty()), phases }
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        self.phases.handed_over();
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(self.bytes.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}
