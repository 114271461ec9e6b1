//! Killing the process at a named place, for crash tests: a real SIGKILL, so
//! that nothing is flushed, closed or dropped.
#![cfg(feature = "harness")]

use std::str::FromStr;

use crate::sync::progress::{Observer, Progress, When};

/// Before or after which effect to die, for example `after:commit_rules`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KillAt {
    when: When,
    effect: String,
}

impl FromStr for KillAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (when, effect) = text.split_once(':').ok_or("write before:EFFECT or after:EFFECT")?;
        let when = match when {
            "before" => When::Before,
            "after" => When::After,
            other => return Err(format!("{other:?} is neither `before` nor `after`")),
        };
        Ok(Self { when, effect: effect.to_owned() })
    }
}

/// Passes everything on until the place is reached.
pub(super) struct Killing<'a> {
    inner: &'a mut dyn Observer,
    at: Option<KillAt>,
}

impl<'a> Killing<'a> {
    pub(super) fn new(inner: &'a mut dyn Observer, at: Option<KillAt>) -> Self {
        Self { inner, at }
    }
}

impl Observer for Killing<'_> {
    fn progress(&mut self, progress: &Progress<'_>) {
        self.inner.progress(progress);
    }

    fn checkpoint(&mut self, when: When, effect: &'static str) {
        if self.at.as_ref().is_some_and(|at| at.when == when && at.effect == effect) {
            let _ = rustix::process::kill_process(
                rustix::process::getpid(),
                rustix::process::Signal::KILL,
            );
        }
        self.inner.checkpoint(when, effect);
    }
}
