//! OPS-01 to OPS-06: with an operator who changes the server when asked.

use super::{failed, same_as_set};
use crate::harness::conformance::client::ProbeRequest;
use crate::harness::conformance::exchange::Intent;
use crate::harness::conformance::machine::{ProbeMachine, Wish, accepted, is_clean};
use crate::harness::conformance::operator::{OperatorReply, OperatorTask};
use crate::harness::conformance::probe::{Checked, Probe};
use crate::harness::conformance::probe_events::{EventMaker, PROBE_PATH};
use crate::harness::conformance::table::RuleTable;
use crate::harness::conformance::verdict::{Judgement, Verdict};
use crate::protocol::wire;

/// Has the operator do something.
///
/// # Errors
/// If nobody can.
async fn ask(probe: &Probe, task: OperatorTask) -> Result<OperatorReply, Judgement> {
    match probe.ask(task).await {
        None => Err(Judgement::not_tested("needs an operator (--operator)")),
        Some(OperatorReply::Skip) => Err(Judgement::not_tested("the operator cannot do that")),
        Some(reply @ (OperatorReply::Yes | OperatorReply::No)) => Ok(reply),
    }
}

fn with_operator(probe: &Probe) -> Result<(), Judgement> {
    if !probe.has_operator {
        return Err(Judgement::not_tested("needs an operator (--operator)"));
    }
    if probe.verdict("CLEAN-06") == Some(Verdict::Fail) {
        return Err(Judgement::blocked("CLEAN-06", "NORMAL syncs leave the rules wrong"));
    }
    Ok(())
}

/// The table after a clean sync of another machine, or of the same where there is no other.
async fn clean_table(probe: &Probe, id: &'static str) -> Result<RuleTable, Judgement> {
    let mut machine = probe.second_machine(id).unwrap_or_else(|_| probe.machine(id));
    machine.sync(Wish::Clean).await?;
    Ok(machine.table)
}

/// Syncs and compares with a clean sync of now.
async fn follows(machine: &mut ProbeMachine<'_>, id: &'static str, before: &RuleTable) -> Checked {
    let done = machine.sync(Wish::Nothing).await?;
    let expected = clean_table(machine.probe, id).await?;
    if expected.difference(before).is_none() {
        return Ok(Judgement::not_tested("nothing has changed on the server"));
    }
    let judgement = same_as_set(
        "the NORMAL sync that follows the change",
        &machine.table,
        &expected,
        &done.walk,
    );
    Ok(judgement)
}

/// OPS-01.
pub(super) async fn changes_arrive(probe: &Probe, id: &'static str) -> Checked {
    with_operator(probe)?;
    let mut machine = probe.machine(id);
    let first = machine.sync(Wish::Clean).await?;
    let before = machine.table.clone();
    ask(probe, OperatorTask::ChangeRules).await?;
    let judgement = follows(&mut machine, id, &before).await?;
    if judgement.verdict != Verdict::Pass {
        return Ok(judgement);
    }
    if ask(probe, OperatorTask::ChangeMode).await.is_err() {
        // Not every server has a mode to change; what was checked before counts.
        let said = "tested with rules; the client mode was not changed";
        return Ok(Judgement { said: said.to_owned(), ..judgement });
    }
    machine.forget_session();
    let next = machine.preflight(Wish::Nothing).await?;
    let before = super::settings::mode_of(&first.preflight.message);
    // A server that names no mode, or none that exists, is PRE-03's.
    if before.is_some() && before == super::settings::mode_of(&next.message) {
        let said = "the client mode is the one from before the change";
        let harm = "hosts stay in their old mode";
        return Ok(Judgement::fail(said).harms(harm).at(next.exchange.number));
    }
    Ok(judgement)
}

/// OPS-02.
pub(super) async fn deletions_arrive(probe: &Probe, id: &'static str) -> Checked {
    with_operator(probe)?;
    let mut machine = probe.machine(id);
    machine.sync(Wish::Clean).await?;
    let before = machine.table.clone();
    ask(probe, OperatorTask::DeleteOneRule).await?;
    follows(&mut machine, id, &before).await
}

/// OPS-03.
pub(super) async fn unconfirmed_changes(probe: &Probe, id: &'static str) -> Checked {
    with_operator(probe)?;
    probe.unless_broken("RULE-06")?;
    probe.unless_broken("OPS-01")?;
    let mut judgement = Judgement::pass();
    for with_preflight in [true, false] {
        let mut machine = probe.machine(id);
        machine.sync(Wish::Clean).await?;
        let before = machine.table.clone();
        ask(probe, OperatorTask::ChangeOneRule).await?;
        machine.forget_session();
        if with_preflight {
            machine.preflight(Wish::Nothing).await?;
            machine.walk().await?;
        } else if machine.walk().await.is_err() {
            // RULE-07 is about a refused one; nothing was handed out.
            continue;
        }
        judgement = judgement.and(follows(&mut machine, id, &before).await?);
    }
    Ok(judgement.and(restarted_in_a_sync(probe, id).await?))
}

/// A sync in whose middle the server is restarted may break; the next one has to make up for it.
async fn restarted_in_a_sync(probe: &Probe, id: &'static str) -> Checked {
    let mut machine = probe.machine(id);
    let preflight = machine.preflight(Wish::Clean).await?;
    let walk = machine.first_page().await?;
    if ask(probe, OperatorTask::RestartServer).await.is_err() {
        // Not every server can be restarted; what was checked before counts.
        return Ok(Judgement::pass());
    }
    machine.intent = Intent::Aside;
    let mut wish = Wish::Clean;
    if let Ok(walk) = machine.rest(walk).await {
        machine.commit(preflight.sync_type, &walk);
        if machine.postflight(preflight.sync_type, &walk).await.is_ok() {
            wish = Wish::Nothing;
        }
    }
    machine.intent = Intent::WellFormed;
    let done = match machine.sync(wish).await {
        Ok(done) => done,
        Err(broken) => {
            return Ok(failed(probe, "the first sync after a restart of the server", &broken));
        }
    };
    let expected = clean_table(probe, id).await?;
    let after = "a sync in which the server was restarted, and the next";
    Ok(same_as_set(after, &machine.table, &expected, &done.walk))
}

/// OPS-04.
pub(super) async fn requested_clean_sync(probe: &Probe, id: &'static str) -> Checked {
    with_operator(probe)?;
    let mut machine = probe.machine(id);
    machine.sync(Wish::Clean).await?;
    ask(probe, OperatorTask::RequestCleanSync { machine_id: machine.id.clone() }).await?;
    machine.forget_session();
    let first = machine.preflight(Wish::Nothing).await?;
    if !is_clean(first.sync_type) {
        let said = "the clean sync that was requested is not announced";
        return Ok(Judgement::warning(said).at(first.exchange.number));
    }
    machine.forget_session();
    let second = machine.preflight(Wish::Nothing).await?;
    if is_clean(second.sync_type) {
        return Ok(Judgement::pass());
    }
    let said = "a preflight without the rest of the sync has used up the request";
    Ok(Judgement::warning(said).at(second.exchange.number))
}

/// OPS-05.
pub(super) async fn visible(probe: &Probe, id: &'static str) -> Checked {
    with_operator(probe)?;
    probe.unless_without_events()?;
    let mut machine = probe.machine(id);
    let preflight = machine.preflight(Wish::Clean).await?;
    let upload = machine.upload_one().await?;
    let access = wire::EventUploadRequest {
        file_access_events: vec![probe.event(EventMaker::file_access)],
        ..wire::EventUploadRequest::default()
    };
    let request = machine.upload_request(access);
    let access = machine.send(ProbeRequest { intent: Intent::Provoking, ..request }).await;
    let walk = machine.walk().await?;
    machine.commit(preflight.sync_type, &walk);
    let postflight = machine.postflight(preflight.sync_type, &walk).await?;
    let task = OperatorTask::FindEvents {
        machine_id: machine.id.clone(),
        path: PROBE_PATH.to_owned(),
        name: format!("probe-{}", probe.run_id),
    };
    if ask(probe, task).await? == OperatorReply::No {
        let said = "the operator does not find the uploaded event as it was sent";
        let judgement = Judgement::fail(said).at(upload.number);
        return Ok(judgement.harms("the server keeps nothing of what the hosts report"));
    }
    let mut judgement = Judgement::pass();
    // A refused one is EVENT-04's.
    if accepted(&access).is_ok() {
        let task = OperatorTask::FindFileAccessEvent {
            machine_id: machine.id.clone(),
            rule_name: format!("probe-{}", probe.run_id),
        };
        // A server that shows none to its operator cannot be asked.
        if ask(probe, task).await == Ok(OperatorReply::No) {
            let said = "the operator does not find the file-access event, which got 200";
            judgement = Judgement::fail(said)
                .harms("hosts delete their file-access events, but the server does not have them")
                .at(access.number);
        }
    }
    let task = OperatorTask::FindSyncTime { machine_id: machine.id.clone() };
    let replied = ask(probe, task).await;
    if let Err(skipped) = &replied
        && judgement.verdict == Verdict::Pass
    {
        return Err(skipped.clone());
    }
    if replied == Ok(OperatorReply::No) {
        let said = "the operator does not find the time of the sync";
        let found = Judgement::warning(said).at(postflight.number);
        let harm = "administrators cannot see which hosts no longer sync";
        return Ok(judgement.and(found.harms(harm)));
    }
    Ok(judgement)
}

/// OPS-06.
pub(super) async fn reaches_all(probe: &Probe, id: &'static str) -> Checked {
    with_operator(probe)?;
    probe.unless_broken("OPS-01")?;
    let mut a = probe.machine(id);
    let mut b = probe.second_machine(id)?;
    for machine in [&mut a, &mut b] {
        machine.sync(Wish::Clean).await?;
        machine.sync(Wish::Nothing).await?;
    }
    let before = a.table.clone();
    ask(probe, OperatorTask::ChangeOneRule).await?;
    let of_a = a.sync(Wish::Nothing).await?;
    b.sync(Wish::Nothing).await?;
    let of_b = b.sync(Wish::Nothing).await?;
    let expected = clean_table(probe, id).await?;
    if expected.difference(&before).is_none() {
        return Ok(Judgement::not_tested("nothing has changed on the server"));
    }
    let first = same_as_set("the first machine's sync", &a.table, &expected, &of_a.walk);
    Ok(first.and(same_as_set("the second machine's syncs", &b.table, &expected, &of_b.walk)))
}
