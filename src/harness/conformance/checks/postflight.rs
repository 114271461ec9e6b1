//! POST-01 to POST-04.

use super::same_as_set;
use crate::harness::conformance::client::ProbeRequest;
use crate::harness::conformance::exchange::Intent;
use crate::harness::conformance::machine::{ProbeMachine, Wish, accepted};
use crate::harness::conformance::message::Message;
use crate::harness::conformance::probe::{Checked, Probe};
use crate::harness::conformance::table::RuleTable;
use crate::harness::conformance::verdict::{Judgement, Verdict};
use crate::harness::conformance::walk::Walk;
use crate::model::text::counted;
use crate::model::{Stage, SyncType};
use crate::protocol::{preflight, wire};

/// POST-01, over all postflights.
pub(super) fn responses(probe: &Probe) -> Judgement {
    let mut judgement = Judgement::not_tested("no postflight got a 200");
    for exchange in probe.client.exchanges() {
        if exchange.stage != Some(Stage::Postflight) || !exchange.is(200) {
            continue;
        }
        if let Err(why) = exchange.message() {
            return Judgement::fail(format!("postflight: {why}")).at(exchange.number);
        }
        judgement = Judgement::pass();
    }
    judgement
}

/// A postflight whose refusal is for the check to judge.
fn request(machine: &ProbeMachine<'_>, message: &wire::PostflightRequest) -> ProbeRequest {
    let message = Message::of(machine.form.transfer, message);
    ProbeRequest { intent: Intent::Provoking, ..machine.request(Stage::Postflight, message) }
}

fn message(
    machine: &ProbeMachine<'_>,
    sync_type: SyncType,
    walk: &Walk,
) -> wire::PostflightRequest {
    let (rules_hash, _) = machine.table.hash_and_counts();
    wire::PostflightRequest {
        rules_received: u32::try_from(walk.received).unwrap_or(u32::MAX),
        rules_processed: u32::try_from(walk.rules.len()).unwrap_or(u32::MAX),
        machine_id: machine.id.clone(),
        sync_type: preflight::sync_type_number(sync_type),
        rules_hash,
    }
}

/// POST-02.
pub(super) async fn client_forms(probe: &Probe, id: &'static str) -> Checked {
    probe.base()?;
    let mut judgement = Judgement::pass();

    let mut machine = probe.machine(id);
    machine.sync(Wish::Clean).await?;
    machine.forget_session();
    let done = machine.preflight(Wish::Nothing).await?;
    let walk = machine.walk().await?;
    machine.commit(done.sync_type, &walk);
    let nothing = request(&machine, &message(&machine, done.sync_type, &walk));
    let exchange = machine.send(nothing).await;
    if accepted(&exchange).is_err() {
        let rules = counted(walk.received, "rule");
        let said = format!("postflight of a sync with {rules}: {}", exchange.ended());
        let found = Judgement::fail(said).harms("syncs that change nothing fail at the end");
        judgement = judgement.and(found.at(exchange.number));
    }

    let mut machine = probe.machine(id);
    let done = machine.preflight(Wish::Clean).await?;
    if done.is_clean() {
        let walk = machine.walk().await?;
        machine.commit(SyncType::CleanAll, &walk);
        let all = request(&machine, &message(&machine, SyncType::CleanAll, &walk));
        let exchange = machine.send(all).await;
        if accepted(&exchange).is_err() {
            let said = format!(
                "postflight with syncType CLEAN_ALL, after preflight announced {}: {}",
                done.sync_type.name(),
                exchange.ended()
            );
            let found = Judgement::fail(said).harms("`santactl sync --clean-all` fails at the end");
            judgement = judgement.and(found.at(exchange.number));
        }
    }

    let mut machine = probe.machine(id);
    let done = machine.preflight(Wish::Clean).await?;
    let walk = machine.walk().await?;
    machine.commit(done.sync_type, &walk);
    let mut older = message(&machine, done.sync_type, &walk);
    older.sync_type = 0;
    older.rules_hash.clear();
    let older = request(&machine, &older);
    let exchange = machine.send(older).await;
    if accepted(&exchange).is_err() {
        let said = format!(
            "postflight of an older agent, without syncType and rulesHash: {}",
            exchange.ended()
        );
        let found = Judgement::warning(said).harms("syncs of older agents fail at the end");
        judgement = judgement.and(found.at(exchange.number));
    }
    Ok(judgement)
}

/// POST-03.
pub(super) async fn twice(probe: &Probe, id: &'static str) -> Checked {
    probe.base()?;
    let mut machine = probe.machine(id);
    let done = machine.sync(Wish::Clean).await?;
    let again = request(&machine, &message(&machine, done.preflight.sync_type, &done.walk));
    let exchange = machine.send(again).await;
    if accepted(&exchange).is_err() {
        let said = format!("the same postflight sent again: {}", exchange.ended());
        let harm = "if one response is lost, the sync fails";
        return Ok(Judgement::fail(said).harms(harm).at(exchange.number));
    }
    if !done.preflight.is_clean() || probe.unless_broken("CLEAN-04").is_err() {
        return Ok(Judgement::pass());
    }
    machine.forget_session();
    let next = machine.preflight(Wish::Nothing).await?;
    if next.is_clean() && !machine.table.is_empty() {
        let said =
            "after a postflight that was sent twice, the next preflight gets a clean sync again";
        let harm = "if one response is lost, another clean sync follows";
        return Ok(Judgement::warning(said).harms(harm).at(next.exchange.number));
    }
    Ok(Judgement::pass())
}

/// POST-04.
pub(super) async fn confirms_nothing(probe: &Probe, id: &'static str) -> Checked {
    let base = probe.base_with_rules()?;
    let mut judgement = Judgement::pass();
    for downloads in [false, true] {
        let mut machine = probe.new_machine(id)?;
        let done = machine.preflight(Wish::Clean).await?;
        let mut walk = if downloads { machine.walk().await? } else { Walk::default() };
        let without = if downloads { "with no rule processed" } else { "without a rule download" };
        // It stored none of them.
        walk.rules.clear();
        let empty = request(&machine, &message(&machine, done.sync_type, &walk));
        let exchange = machine.send(empty).await;
        if exchange.is_server_error() {
            let said = format!("postflight {without}: {}", exchange.ended());
            let found = Judgement::warning(said).harms("agents retry the postflight in vain");
            judgement = judgement.and(found.at(exchange.number));
            continue;
        }
        machine.table = RuleTable::default();
        machine.forget_session();
        let done = machine.preflight(Wish::Nothing).await?;
        let walk = machine.walk().await?;
        machine.commit(done.sync_type, &walk);
        let comes_again = same_as_set("the next sync", &machine.table, &base.set, &walk);
        let found = match (downloads, comes_again.verdict == Verdict::Pass) {
            (_, true) => Judgement::pass(),
            (false, false) => {
                let said = format!(
                    "postflight without a rule download counts as delivery: {}",
                    comes_again.said
                );
                let found = Judgement::warning(said).at(exchange.number);
                Judgement { compares_rules: comes_again.compares_rules, ..found }
            }
            (true, false) => {
                Judgement::info("postflight with no rule processed counts as delivery")
                    .at(exchange.number)
            }
        };
        judgement = judgement.and(found);
    }
    Ok(judgement)
}
