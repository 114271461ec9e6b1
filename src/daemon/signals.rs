//! A signal that is caught, unless this process was started to ignore it.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// A signal to wait for.
#[derive(Debug)]
pub struct Caught(Option<Signal>);

impl Caught {
    /// Catches a signal. One that is ignored is left alone: catching it would
    /// undo that.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn unless(ignored: bool, kind: SignalKind) -> io::Result<Self> {
        (!ignored).then(|| signal(kind)).transpose().map(Self)
    }

    /// Completes when the signal comes; never, if it is left alone. Nothing is
    /// lost if it is dropped before.
    pub async fn came(&mut self) {
        if let Some(signal) = &mut self.0
            && signal.recv().await.is_some()
        {
            return;
        }
        std::future::pending::<()>().await;
    }
}
