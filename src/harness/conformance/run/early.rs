//! What becomes of a run that ends early: what is known is kept, the rest is marked as not run.

use super::{AFTER_THE_FIRST_SYNC, LAST, Runner, chosen, leave_clean};
use crate::harness::conformance::checks::{self, OVER_ALL};
use crate::harness::conformance::ending::{EarlyEnd, EarlyEndKind};
use crate::harness::conformance::exchange::{BreakKind, Intent};
use crate::harness::conformance::machine::{Broken, Wish, accepted};
use crate::harness::conformance::probe::{FormTrial, Probe};
use crate::harness::conformance::verdict::Judgement;

/// The end of a run whose first requests were in vain, whatever their form: there was no
/// complete response, or the URL has the wrong scheme.
pub(super) async fn cannot_talk(probe: &Probe, trials: &[FormTrial]) -> Option<EarlyEnd> {
    let first = &trials.first()?.exchange;
    if trials.iter().any(|trial| trial.accepted) {
        return None;
    }
    // Whoever speaks something else says so at once.
    let is_late = first.outcome.as_ref().is_err_and(|broken| broken.kind == BreakKind::Timeout);
    if !is_late && let Some(said) = probe.client.wrong_scheme().await {
        let broken = Broken::at(first, "HTTP-04", said.to_owned());
        return Some(EarlyEnd::nothing_can_be_tested(broken));
    }
    if trials.iter().any(|trial| trial.exchange.outcome.is_ok()) {
        return None;
    }
    let broken = accepted(first).err()?;
    Some(EarlyEnd::nothing_can_be_tested(Broken { said: first.ended(), ..broken }))
}

/// The end of a run whose last requests got no response, where another one gets none either.
/// They are too few to end it, and say nothing of what they were made for.
pub(super) async fn silent_at_the_end(probe: &Probe) -> Option<EarlyEnd> {
    let mut lost = probe.client.lost_at_the_end();
    lost.retain(|exchange| exchange.intent != Intent::Aside);
    if lost.is_empty() {
        return None;
    }
    let mut machine = probe.machine("HTTP-01");
    // Whatever it is answered.
    let _ = machine.preflight(Wish::Clean).await;
    lost.push(probe.client.exchanges().last().filter(|last| last.is_silent())?.clone());
    Some(EarlyEnd::fell_silent(&lost))
}

/// Settles every requirement that is still open.
pub(super) async fn finish(runner: &Runner<'_>, mut end: EarlyEnd) {
    let probe = runner.probe;
    match (end.kind, &end.broken) {
        (EarlyEndKind::NoResponse, Some(broken)) => {
            let found = Judgement::fail(broken.said.clone());
            runner.keep(broken.by, broken.exchange.map_or(found.clone(), |at| found.at(at)));
            // What it says of the URL alone is true all the same.
            keep_complaints(runner, &["HTTP-04"]);
        }
        (EarlyEndKind::NoResponse, None) => {
            withdraw(runner, &end);
            probe.client.disregard_from(end.silent_since());
            keep_complaints(runner, &AFTER_THE_FIRST_SYNC);
            keep_complaints(runner, &OVER_ALL);
        }
        (EarlyEndKind::Interrupted | EarlyEndKind::Deadline, _) => {
            keep_complaints(runner, &AFTER_THE_FIRST_SYNC);
            keep_complaints(runner, &OVER_ALL);
            keep_complaints(runner, &LAST);
            runner.hold_blockers_responsible();
        }
    }
    for requirement in chosen(probe) {
        if probe.verdict(requirement.id).is_none() {
            end.not_run += 1;
            runner.keep(requirement.id, end.not_run());
        }
    }
    // Limited, since a server that is the reason may be as slow once more.
    let _ = tokio::time::timeout(end.time_to_leave(), leave_clean(probe)).await;
    probe.keep_early_end(end);
}

/// Keeps what checks of the whole run complain about so far. That they do not complain says
/// nothing of a run that is not whole.
fn keep_complaints(runner: &Runner<'_>, ids: &[&'static str]) {
    for id in ids {
        if runner.probe.verdict(id).is_none()
            && let Some(found) = checks::look_back(runner.probe, id)
            && found.verdict.is_complaint()
        {
            runner.keep(id, found);
        }
    }
}

/// Takes verdicts back that rest on requests since the server went silent. Of a check that was
/// repeated then, or was making sure of what it found, the first verdict counts: it may be the one
/// that made the server fall silent.
fn withdraw(runner: &Runner<'_>, end: &EarlyEnd) {
    let probe = runner.probe;
    let silent_since = end.silent_since();
    let rests_on_silence = |judgement: &Judgement| {
        judgement.exchanges.iter().any(|exchange| *exchange >= silent_since)
    };
    for (id, outcome) in probe.outcomes() {
        if !rests_on_silence(&outcome.judgement) {
            continue;
        }
        probe.take_outcome(id);
        let first = outcome.runs.into_iter().next();
        if let Some(first) = first.filter(|first| !rests_on_silence(first)) {
            let said = format!("{}; the server has not responded since", first.said);
            probe.keep_outcome(id, Judgement { said, ..first });
        }
    }
    for (id, first) in probe.first_tries().into_iter().chain(probe.unconfirmed()) {
        let is_open = probe.verdict(id).is_none();
        if is_open && first.verdict.is_complaint() && !rests_on_silence(&first) {
            let said = format!("{}; the server has not responded since", first.said);
            runner.keep(id, Judgement { said, ..first });
        }
    }
}
