//! The order of a run, second tries, and who is blocked by whom.

mod early;

use std::sync::Arc;

use super::catalogue::{Requirement, catalogue};
use super::checks::{self, OVER_ALL};
use super::ending::{EarlyEnd, early_end};
use super::exchange::{BreakKind, Intent, ProbeExchange};
use super::form::Form;
use super::lanes::{Lanes, MAX_MACHINES};
use super::machine::{Broken, ProbeMachine, Wish, accepted};
use super::probe::{BaseSync, FormTrial, Outcome, Probe};
use super::verdict::{Judgement, Verdict};
use super::walk::Walk;
use super::{ConformanceError, Progress};
use crate::model::Stage;
use crate::sync::Stop;

/// Checks that come before the first complete sync.
const BEFORE_THE_FIRST_SYNC: [&str; 1] = ["ID-01"];
/// Whether machines disturb each other, and what that is told by, and what checks that wait ask
/// for: before checks run beside each other.
const ALONE: [&str; 9] = [
    "PAGE-02", "HTTP-06", "CLEAN-01", "CLEAN-04", "RULE-06", "ISO-01", "ISO-02", "ISO-03", "ISO-04",
];
/// The other checks after the first complete sync, in this order: those that others depend on
/// come first, those that provoke errors last.
const AFTER_THE_FIRST_SYNC: [&str; 44] = [
    "HTTP-08", "ENC-05", "ENC-08", "ID-02", "ID-03", "ID-05", "PRE-07", "PRE-08", "PRE-09",
    "PRE-10", "PRE-11", "PAGE-03", "CLEAN-02", "CLEAN-03", "CLEAN-05", "CLEAN-06", "CLEAN-07",
    "CLEAN-08", "RULE-04", "RULE-05", "PAGE-04", "PAGE-06", "EVENT-01", "EVENT-02", "EVENT-03",
    "EVENT-04", "EVENT-05", "EVENT-06", "EVENT-07", "EVENT-08", "EVENT-09", "EVENT-12", "EVENT-13",
    "POST-02", "POST-03", "POST-04", "ENC-06", "ENC-07", "ENC-09", "HTTP-07", "HTTP-09", "ID-04",
    "ERR-03", "ERR-04",
];
/// The checks with an operator.
const WITH_OPERATOR: [&str; 6] = ["OPS-01", "OPS-02", "OPS-03", "OPS-04", "OPS-05", "OPS-06"];
/// Those that look back on the whole run, after [`OVER_ALL`].
const LAST: [&str; 2] = ["HTTP-03", "ERR-02"];
const JSON_FORMS: [&str; 3] = ["ENC-01", "ENC-02", "ENC-03"];
/// After so many first requests without a response in time, others would not get one either.
const MAX_FIRST_TIMEOUTS: usize = 3;

/// Runs every check that was chosen, as long as there is no reason to end early.
///
/// # Errors
/// If nothing can be tested: no connection, or a server that refuses the probe's machines.
pub(super) async fn run(
    probe: &Probe,
    progress: &dyn Progress,
    stop: Stop,
) -> Result<(), ConformanceError> {
    let runner = Runner { probe, progress };
    let end = tokio::select! {
        biased;
        end = early_end(probe, stop) => Some(end),
        done = Box::pin(every_check(&runner)) => done?,
    };
    if let Some(end) = end {
        early::finish(&runner, end).await;
    }
    Ok(())
}

/// Runs every check. Returns why it could not, if the server does not respond from the start.
async fn every_check(runner: &Runner<'_>) -> Result<Option<EarlyEnd>, ConformanceError> {
    let probe = runner.probe;
    let trials = choose_form(probe).await?;
    let end = early::cannot_talk(probe, &trials).await;
    let same_end =
        trials.windows(2).all(|pair| pair[0].exchange.ended() == pair[1].exchange.ended());
    let no_form_works = trials.iter().all(|trial| !trial.accepted);
    probe.keep_trials(trials);
    if end.is_some() {
        return Ok(end);
    }

    for id in BEFORE_THE_FIRST_SYNC {
        runner.settle(id).await;
    }
    runner.first_sync().await;
    try_given_machines(probe).await;
    for id in JSON_FORMS {
        match probe.base() {
            // Every form ends alike, so the form is not the reason.
            Err(blocked) if no_form_works && (same_end || is_for_the_id(probe, id)) => {
                runner.keep(id, blocked);
            }
            _ => runner.settle_once(id).await,
        }
    }
    for id in ALONE {
        runner.settle(id).await;
    }
    let main = async {
        for id in AFTER_THE_FIRST_SYNC {
            runner.settle(id).await;
        }
    };
    let is_disturbed = runner.machines_disturb_each_other();
    if probe.options.machine_ids.is_empty() && !is_disturbed {
        let lanes = Lanes::apart(&probe.options);
        tokio::join!(main, Box::pin(runner.settle_waiting(&lanes)));
    } else {
        main.await;
        let machines = if is_disturbed { 1 } else { probe.given_machines() };
        let lanes = Lanes::of_machines(&probe.options, machines);
        probe.share_machines(&lanes);
        Box::pin(runner.settle_waiting(&lanes)).await;
    }
    for id in WITH_OPERATOR {
        runner.settle(id).await;
    }
    if let Some(end) = early::silent_at_the_end(probe).await {
        return Ok(Some(end));
    }
    for id in OVER_ALL.into_iter().chain(LAST) {
        runner.settle_once(id).await;
    }
    runner.hold_blockers_responsible();
    leave_clean(probe).await;
    Ok(None)
}

/// Sends a preflight for each machine id of the operator except the first. If the server refuses
/// one, the run continues without it; otherwise every check that uses it would fail.
async fn try_given_machines(probe: &Probe) {
    let ids = &probe.options.machine_ids;
    if probe.unless_preflight_broken().is_err() {
        return;
    }
    let mut usable: Vec<String> = ids.iter().take(1).cloned().collect();
    for id in ids.iter().take(MAX_MACHINES).skip(1) {
        probe.note_id(id);
        let exchange = checks::preflight_of(probe, "ID-01", id.clone()).await;
        if accepted(&exchange).is_ok() {
            usable.push(id.clone());
        } else {
            probe.keep_refused_machine(id, exchange.ended());
        }
    }
    probe.work_with(usable);
}

/// Whether the trial of a form was refused for the upper case of its machine id.
fn is_for_the_id(probe: &Probe, id: &str) -> bool {
    let trials = probe.trials_of_the_machine();
    probe.takes_lower_case() && trials.iter().any(|trial| trial.form.requirement() == id)
}

/// Tries every form and chooses the one to work in.
async fn choose_form(probe: &Probe) -> Result<Vec<FormTrial>, ConformanceError> {
    let first = checks::try_form(probe, Form::DEFAULT).await;
    if let Err(broken) = &first.exchange.outcome
        && broken.kind == BreakKind::Connect
    {
        return Err(ConformanceError::Unreachable(broken.what.clone()));
    }
    let mut trials = vec![first];
    let in_time = |trial: &FormTrial| {
        trial.exchange.outcome.as_ref().err().is_none_or(|broken| broken.kind != BreakKind::Timeout)
    };
    for form in &Form::ALL[1..] {
        if trials.len() == MAX_FIRST_TIMEOUTS && !trials.iter().any(in_time) {
            break;
        }
        trials.push(checks::try_form(probe, *form).await);
    }
    leave_out_repeats(probe, &mut trials).await;
    let works = |form: Form| trials.iter().any(|trial| trial.form == form && trial.accepted);
    let chosen = probe.options.form.filter(|form| works(*form));
    if let Some(form) = chosen.or_else(|| Form::ALL.into_iter().find(|form| works(*form))) {
        probe.work_in(form);
        return Ok(trials);
    }
    probe.keep_trials(trials.clone());
    try_lower_case(probe).await?;
    Ok(trials)
}

/// All trials of a given machine id but the first repeat its preflight. Where the server refuses
/// that, a refusal tells nothing of the form, and the trial is left out.
async fn leave_out_repeats(probe: &Probe, trials: &mut Vec<FormTrial>) {
    let Some(accepted) = trials.iter().find(|trial| trial.accepted).cloned() else { return };
    let first = accepted.exchange.number;
    let may_be_repeat = |trial: &FormTrial| {
        !trial.accepted && trial.exchange.number > first && !trial.exchange.is(415)
    };
    if probe.options.machine_ids.is_empty() || !trials.iter().any(may_be_repeat) {
        return;
    }
    let control = checks::try_form(probe, accepted.form).await;
    if !control.accepted {
        let ended = control.exchange.ended();
        trials.retain(|trial| !may_be_repeat(trial) || trial.exchange.ended() != ended);
    }
}

/// Tries a machine id in lower case where those in upper case may be what the server refuses.
///
/// # Errors
/// If it refuses new machines.
async fn try_lower_case(probe: &Probe) -> Result<(), ConformanceError> {
    let trials = probe.trials_of_the_machine();
    let Some(first) = trials.first() else { return Ok(()) };
    let may_be_the_id =
        |trial: &FormTrial| matches!(trial.exchange.status(), Some(400 | 401 | 403 | 404 | 422));
    let given = !probe.options.machine_ids.is_empty();
    if given || probe.met_a_useless_token() || !trials.iter().all(may_be_the_id) {
        return Ok(());
    }
    if accepts_lower_case(probe, first.form).await {
        probe.keep_takes_lower_case();
    } else if probe.refuses_the_machine() {
        return Err(ConformanceError::Refused(first.exchange.ended()));
    }
    Ok(())
}

/// Whether a machine id in lower case is accepted, after upper case was refused.
async fn accepts_lower_case(probe: &Probe, form: Form) -> bool {
    let id = probe.fresh_id().to_ascii_lowercase();
    probe.note_id(&id);
    let mut machine = ProbeMachine::new(probe, "ID-01", id).in_form(form);
    machine.preflight(Wish::Clean).await.is_ok()
}

/// Machines of the operator end with the wish for a clean sync, which their next real sync
/// then has the best chance of being.
async fn leave_clean(probe: &Probe) {
    for id in &probe.options.machine_ids {
        let mut machine = ProbeMachine::new(probe, "HTTP-01", id.clone());
        // Whatever it is answered.
        let _ = machine.preflight(Wish::Clean).await;
    }
}

struct Runner<'p> {
    probe: &'p Probe,
    progress: &'p dyn Progress,
}

impl Runner<'_> {
    fn keep(&self, id: &'static str, outcome: impl Into<Outcome>) {
        if !self.probe.chooses(id) {
            return;
        }
        let outcome = outcome.into();
        if let Some(requirement) = super::requirement(id) {
            self.progress.settled(requirement, outcome.judgement.verdict);
        }
        self.probe.keep_outcome(id, outcome);
    }

    /// Runs a check, and once more if it complains.
    async fn settle(&self, id: &'static str) {
        if !self.probe.chooses(id) {
            return;
        }
        let first = self.judged(id).await;
        if !self.deserves_a_second_try(&first) {
            return self.keep(id, first);
        }
        self.probe.begin_second_try(id, &first);
        let second = self.judged(id).await;
        self.keep(id, of_both(first, second));
    }

    /// Runs the checks that wait, all lanes in parallel.
    async fn settle_waiting(&self, lanes: &Lanes) {
        let lane = async |checks: &[&'static str]| {
            for id in checks {
                self.settle(id).await;
            }
        };
        let [first, second, third, fourth, fifth] = lanes.checks();
        tokio::join!(lane(first), lane(second), lane(third), lane(fourth), lane(fifth));
    }

    /// Runs a check that a second run would not tell more about.
    async fn settle_once(&self, id: &'static str) {
        if self.probe.chooses(id) {
            let judgement = self.judged(id).await;
            self.keep(id, judgement);
        }
    }

    async fn judged(&self, id: &'static str) -> Judgement {
        let judgement = match checks::check(self.probe, id).await {
            Ok(judgement) | Err(judgement) => judgement,
        };
        // With an operator, rules are meant to change.
        let judgement = if judgement.compares_rules && !WITH_OPERATOR.contains(&id) {
            self.probe.rule_scope().await.explain(judgement)
        } else {
            judgement
        };
        if judgement.blocked_by == Some(id) {
            // It is the one that is broken.
            return Judgement { verdict: Verdict::Fail, blocked_by: None, ..judgement };
        }
        judgement
    }

    fn deserves_a_second_try(&self, judgement: &Judgement) -> bool {
        if judgement.verdict.is_complaint() {
            return true;
        }
        let Some(by) = judgement.blocked_by else { return false };
        let known = self.probe.verdict(by).is_some_and(Verdict::is_complaint);
        let of_first_sync = self.probe.base().is_err_and(|blocked| blocked.blocked_by == Some(by));
        !known && !of_first_sync
    }

    /// The first complete sync, and HTTP-01.
    async fn first_sync(&self) {
        if let Err(blocked) = self.probe.unless_broken("ID-01") {
            self.probe.keep_base(Err(blocked.clone()));
            self.probe.keep_preflight_broken(Some(blocked.clone()));
            self.probe.keep_uploads_broken(Some(blocked.clone()));
            return self.keep("HTTP-01", blocked);
        }
        let (base, judgement) = first_sync(self.probe).await;
        if base.is_ok() && judgement.verdict == Verdict::Pass {
            self.probe.keep_base(base);
            return self.keep("HTTP-01", judgement);
        }
        let (second, again) = first_sync(self.probe).await;
        self.probe.keep_base(second.or(base));
        self.keep("HTTP-01", of_both(judgement, again));
    }

    fn machines_disturb_each_other(&self) -> bool {
        let is_broken = |id: &&str| self.probe.verdict(id).is_some_and(Verdict::is_complaint);
        ["ISO-01", "ISO-03", "ISO-04"].iter().any(is_broken)
    }

    /// Where a requirement that blocks others is blocked itself, what blocks it blocks them.
    fn name_first_blockers(&self) {
        let outcomes = self.probe.outcomes();
        let blocker = |id: &str| outcomes.get(id).and_then(|found| found.judgement.blocked_by);
        for (id, outcome) in &outcomes {
            let Some(mut first) = outcome.judgement.blocked_by else { continue };
            // There are no more steps than requirements, even in a circle.
            for _ in 0..outcomes.len() {
                let Some(next) = blocker(first).filter(|next| next != id) else { break };
                first = next;
            }
            let judgement = Judgement { blocked_by: Some(first), ..outcome.judgement.clone() };
            self.probe.keep_outcome(id, Outcome { judgement, ..outcome.clone() });
        }
    }

    /// What kept a check from its question was a valid request that was refused. Where another
    /// requirement was found broken by the same stage and status, that is the reason;
    /// otherwise the requirement about the request is not met, whatever its own check saw.
    fn hold_blockers_responsible(&self) {
        let exchanges = self.probe.client.exchanges();
        let ending = |number: &u64| {
            let exchange = exchanges.iter().find(|exchange| exchange.number == *number)?;
            Some((exchange.stage, exchange.ended()))
        };
        // How an unusual form ends does not tell why a usual one was refused.
        let is_about_a_form = |id: &str, number: u64| {
            let is_provoking = |exchange: &Arc<ProbeExchange>| {
                exchange.number == number && exchange.intent == Intent::Provoking
            };
            id.starts_with("ENC-") && exchanges.iter().any(is_provoking)
        };
        self.name_first_blockers();
        let outcomes = self.probe.outcomes();
        for (id, outcome) in &outcomes {
            let judgement = &outcome.judgement;
            let Some(by) = judgement.blocked_by else { continue };
            let is_met = |verdict| matches!(verdict, Verdict::Pass | Verdict::Info);
            if !self.probe.verdict(by).is_some_and(is_met) {
                continue;
            }
            let broken: Vec<_> = judgement.exchanges.iter().filter_map(ending).collect();
            let ended_alike = |id: &str, number: &u64| {
                !is_about_a_form(id, *number) && ending(number).is_some_and(|e| broken.contains(&e))
            };
            let reason = outcomes.iter().find(|(id, found)| {
                let found = &found.judgement;
                found.verdict.is_complaint() && found.exchanges.iter().any(|e| ended_alike(id, e))
            });
            if let Some((reason, _)) = reason {
                let blocked = Judgement { blocked_by: Some(reason), ..judgement.clone() };
                self.probe.keep_outcome(id, blocked);
                continue;
            }
            let said = format!("in the check of {id}: {}", judgement.said);
            let exchanges = judgement.exchanges.clone();
            self.keep(by, Judgement { exchanges, ..Judgement::fail(said) });
        }
    }
}

/// One verdict of two tries.
fn of_both(first: Judgement, second: Judgement) -> Outcome {
    if first.verdict == second.verdict {
        return first.into();
    }
    let exchanges = [&first, &second].map(|judgement| judgement.exchanges.clone()).concat();
    let said = "the check was repeated, with another verdict";
    Outcome {
        judgement: Judgement { exchanges, ..Judgement::new(Verdict::Unstable, said) },
        runs: vec![first, second],
    }
}

/// Preflight, event, rules and postflight of a new client.
async fn first_sync(probe: &Probe) -> (Result<BaseSync, Judgement>, Judgement) {
    let mut machine = probe.machine("HTTP-01");
    let preflight = match machine.preflight(Wish::Clean).await {
        Ok(preflight) => preflight,
        Err(broken) => {
            let broken = as_repeat(probe, broken);
            probe.keep_preflight_broken(Some(broken.clone().into()));
            probe.keep_uploads_broken(Some(broken.clone().into()));
            return (Err(broken.clone().into()), about_statuses(&broken));
        }
    };
    probe.keep_preflight_broken(None);
    let mut judgement = Judgement::pass();
    if probe.options.events {
        let broken = match machine.upload_one().await {
            Ok(_) => None,
            Err(broken) => {
                let stage = Stage::EventUpload;
                Some(checks::for_want_of_a_cookie(&machine, stage, broken).await)
            }
        };
        if let Some(broken) = &broken {
            judgement = judgement.and(about_statuses(broken));
        }
        probe.keep_uploads_broken(broken.map(Judgement::from));
    }
    let mut walk = Walk::default();
    let walked = machine.walk_into(&mut walk).await;
    probe.keep_first_walk(&walk, walked.is_ok());
    let walk = match walked {
        Ok(()) => walk,
        Err(broken) => {
            let stage = Stage::RuleDownload;
            let broken = checks::for_want_of_a_cookie(&machine, stage, broken).await;
            return (Err(broken.clone().into()), judgement.and(about_statuses(&broken)));
        }
    };
    machine.commit(preflight.sync_type, &walk);
    if let Err(broken) = machine.postflight(preflight.sync_type, &walk).await {
        judgement = judgement.and(about_statuses(&broken));
    }
    let base = BaseSync { set: machine.table, walk, sync_type: preflight.sync_type };
    (Ok(base), judgement)
}

/// A given machine's preflight that is refused, though one was accepted when the forms were
/// tried, is refused because it is repeated.
fn as_repeat(probe: &Probe, broken: Broken) -> Broken {
    let was_accepted = |trial: &FormTrial| trial.accepted && trial.form == probe.form();
    let is_repeat =
        !probe.options.machine_ids.is_empty() && probe.trials().iter().any(was_accepted);
    if !is_repeat || broken.by != "HTTP-01" {
        return broken;
    }
    let said = format!("{}, after one of the same machine was accepted", broken.said);
    Broken { by: "PRE-11", said, ..broken }
}

/// What a broken step means for HTTP-01: nothing, if another requirement is about it.
fn about_statuses(broken: &Broken) -> Judgement {
    let judgement = if broken.by == "HTTP-01" {
        Judgement::fail(broken.said.clone())
    } else {
        Judgement::blocked(broken.by, broken.said.clone())
    };
    match broken.exchange {
        Some(exchange) => judgement.at(exchange),
        None => judgement,
    }
}

/// The requirements of a run, in the order of the catalogue.
pub(super) fn chosen(probe: &Probe) -> impl Iterator<Item = &'static Requirement> {
    catalogue().filter(|requirement| probe.chooses(requirement.id))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::harness::conformance::lanes::WAITING;

    #[test]
    fn every_requirement_has_its_place_in_the_run() {
        let places: Vec<_> = BEFORE_THE_FIRST_SYNC
            .into_iter()
            .chain(["HTTP-01"])
            .chain(JSON_FORMS)
            .chain(ALONE)
            .chain(AFTER_THE_FIRST_SYNC)
            .chain(LAST)
            .chain(WAITING)
            .chain(WITH_OPERATOR)
            .chain(OVER_ALL)
            .collect();
        let set: BTreeSet<_> = places.iter().copied().collect();
        assert_eq!(places.len(), set.len(), "one comes twice");
        assert_eq!(set, catalogue().map(|requirement| requirement.id).collect());
    }

    #[test]
    fn two_verdicts_that_differ_are_unstable_with_both() {
        let outcome = of_both(Judgement::fail("cut").at(1), Judgement::pass());
        assert_eq!(outcome.judgement.verdict, Verdict::Unstable);
        assert_eq!(outcome.runs.len(), 2);
        let outcome = of_both(Judgement::fail("cut"), Judgement::fail("cut again"));
        assert_eq!((outcome.judgement.said.as_str(), outcome.runs.len()), ("cut", 0));
    }
}
