//! What goes wrong at a named place, for crash tests: a real SIGKILL, so that
//! nothing is flushed, closed or dropped; a panic; or a hang of the thread, which
//! no signal ends but that one.
#![cfg(feature = "harness")]

use std::str::FromStr;

use crate::sync::progress::{Observer, Progress, When};

/// Before or after which effect to die, for example `after:commit_rules`; with
/// `panic:` or `hang:` before it, to do that instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KillAt {
    how: How,
    when: When,
    effect: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Kill,
    Panic,
    Hang,
}

impl FromStr for KillAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (how, text) = match text.split_once(':') {
            Some(("kill", rest)) => (How::Kill, rest),
            Some(("panic", rest)) => (How::Panic, rest),
            Some(("hang", rest)) => (How::Hang, rest),
            Some(_) | None => (How::Kill, text),
        };
        let (when, effect) = text.split_once(':').ok_or("write before:EFFECT or after:EFFECT")?;
        let when = match when {
            "before" => When::Before,
            "after" => When::After,
            other => return Err(format!("{other:?} is neither `before` nor `after`")),
        };
        Ok(Self { how, when, effect: effect.to_owned() })
    }
}

/// Passes everything on until the place is reached.
pub(crate) struct Killing<'a> {
    inner: &'a mut dyn Observer,
    at: Option<KillAt>,
}

impl<'a> Killing<'a> {
    pub(crate) fn new(inner: &'a mut dyn Observer, at: Option<KillAt>) -> Self {
        Self { inner, at }
    }
}

impl Observer for Killing<'_> {
    fn progress(&mut self, progress: &Progress<'_>) {
        self.inner.progress(progress);
    }

    fn checkpoint(&mut self, when: When, effect: &'static str) {
        let here = |at: &&KillAt| at.when == when && at.effect == effect;
        match self.at.as_ref().filter(here).map(|at| at.how) {
            None => {}
            Some(How::Kill) => {
                let _ = rustix::process::kill_process(
                    rustix::process::getpid(),
                    rustix::process::Signal::KILL,
                );
            }
            Some(How::Panic) => panic_here(effect),
            Some(How::Hang) => loop {
                std::thread::park();
            },
        }
        self.inner.checkpoint(when, effect);
    }
}

#[expect(clippy::panic, reason = "it is what was asked for")]
fn panic_here(effect: &str) {
    panic!("asked to panic at {effect}");
}
