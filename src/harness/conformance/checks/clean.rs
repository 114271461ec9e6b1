//! CLEAN-01 to CLEAN-08.

use serde_json::Value;

use super::same_as_set;
use super::settings::rules_of;
use crate::harness::conformance::machine::{Wish, is_clean};
use crate::harness::conformance::probe::{Checked, Probe};
use crate::harness::conformance::table::RuleTable;
use crate::harness::conformance::verdict::{Judgement, Verdict};

/// CLEAN-01.
pub(super) async fn granted(probe: &Probe, id: &'static str) -> Checked {
    let mut machine = probe.machine(id);
    let first = machine.sync(Wish::Clean).await?;
    if !first.preflight.is_clean() {
        let said =
            format!("a new machine's request is answered {}", first.preflight.sync_type.name());
        return Ok(Judgement::fail(said).at(first.preflight.exchange.number));
    }
    machine.sync(Wish::Nothing).await?;
    machine.forget_session();
    let again = machine.preflight(Wish::Clean).await?;
    if again.is_clean() {
        return Ok(Judgement::pass());
    }
    let said = format!("a synced machine's request is answered {}", again.sync_type.name());
    Ok(Judgement::fail(said).at(again.exchange.number))
}

/// CLEAN-02.
pub(super) async fn whole_set(probe: &Probe, id: &'static str) -> Checked {
    let base = probe.base_with_rules()?;
    probe.unless_broken("CLEAN-01")?;
    probe.unless_broken("PAGE-03")?;
    let mut machine = probe.machine(id);
    machine.sync(Wish::Clean).await?;
    machine.sync(Wish::Nothing).await?;
    let again = machine.sync(Wish::Clean).await?;
    Ok(same_as_set(&machine.table, &base.set, &again.walk))
}

/// CLEAN-03.
pub(super) async fn new_machine(probe: &Probe, id: &'static str) -> Checked {
    let base = probe.base_with_rules()?;
    let mut machine = probe.new_machine(id)?;
    let preflight = machine.preflight(Wish::Nothing).await?;
    let walk = machine.walk().await?;
    machine.commit(preflight.sync_type, &walk);
    let judgement = same_as_set(&machine.table, &base.set, &walk);
    if judgement.verdict != Verdict::Pass {
        return Ok(judgement);
    }
    machine.postflight(preflight.sync_type, &walk).await?;
    if preflight.is_clean() {
        return Ok(judgement);
    }
    let said = "all rules came, but the sync is NORMAL: rules of an earlier server stay";
    Ok(Judgement::warning(said).at(preflight.exchange.number))
}

/// CLEAN-04.
pub(super) async fn ends(probe: &Probe, id: &'static str) -> Checked {
    let base = probe.base()?;
    if !is_clean(base.sync_type) {
        return Ok(Judgement::not_applicable("no clean sync was announced"));
    }
    let mut machine = probe.machine(id);
    machine.sync(Wish::Clean).await?;
    for what in ["after a clean sync", "after one more sync"] {
        let next = machine.sync(Wish::Nothing).await?;
        if next.preflight.is_clean() {
            let said = format!("the sync {what} is {} again", next.preflight.sync_type.name());
            let judgement = if base.set.is_empty() {
                Judgement::info(format!("{said}, with an empty set of rules"))
            } else {
                Judgement::fail(said)
            };
            return Ok(judgement.at(next.preflight.exchange.number));
        }
    }
    Ok(Judgement::pass())
}

/// CLEAN-05.
pub(super) async fn broken_off(probe: &Probe, id: &'static str) -> Checked {
    let base = probe.base_with_rules()?;
    let mut machine = probe.new_machine(id)?;
    let first = machine.preflight(Wish::Nothing).await?;
    if !first.is_clean() {
        return Ok(Judgement::not_applicable("the server begins no clean sync by itself"));
    }
    machine.first_page().await?;
    machine.forget_session();
    let again = machine.preflight(Wish::Nothing).await?;
    let walk = machine.walk().await?;
    machine.commit(again.sync_type, &walk);
    let judgement = same_as_set(&machine.table, &base.set, &walk);
    if judgement.verdict != Verdict::Pass || again.is_clean() {
        return Ok(judgement);
    }
    let said = "all rules come again, but the sync is NORMAL";
    Ok(Judgement::warning(said).at(again.exchange.number))
}

/// CLEAN-06.
pub(super) async fn nothing_changed(probe: &Probe, id: &'static str) -> Checked {
    let base = probe.base_with_rules()?;
    probe.unless_broken("CLEAN-04")?;
    let mut machine = probe.machine(id);
    machine.sync(Wish::Clean).await?;
    machine.sync(Wish::Nothing).await?;
    let last = machine.sync(Wish::Nothing).await?;
    let judgement = same_as_set(&machine.table, &base.set, &last.walk);
    if judgement.verdict != Verdict::Pass || last.preflight.is_clean() {
        return Ok(judgement);
    }
    let sent = last.walk.received;
    let at = last.walk.pages.first().map_or(0, |page| page.number);
    let all = base.set.len() as u64;
    Ok(match sent {
        0 => judgement,
        _ if sent >= all => {
            Judgement::warning(format!("{sent} rules come although nothing changed")).at(at)
        }
        _ => Judgement::info(format!(
            "{sent} rules come although nothing changed; rules edited within minutes may come again"
        ))
        .at(at),
    })
}

/// CLEAN-07.
pub(super) async fn lost_rules(probe: &Probe, id: &'static str) -> Checked {
    probe.base_with_rules()?;
    let mut machine = probe.machine(id);
    machine.sync(Wish::Clean).await?;
    machine.table = RuleTable::default();
    machine.forget_session();
    let preflight = machine.preflight(Wish::Nothing).await?;
    if preflight.is_clean() {
        return Ok(Judgement::pass());
    }
    let said = "a host that reports no rules any more is not sent them again";
    Ok(Judgement::info(said).at(preflight.exchange.number))
}

/// CLEAN-08.
pub(super) fn empty_set(probe: &Probe) -> Checked {
    let base = probe.base()?;
    if !is_clean(base.sync_type) {
        return Ok(Judgement::not_applicable("no clean sync was announced"));
    }
    let pages = base.walk.pages.iter();
    let rules: Vec<_> = pages.filter_map(|page| page.message().ok()).flat_map(rules_of).collect();
    let removes = rules.iter().filter(|rule| rule.get("policy").is_some_and(is_remove)).count();
    let at = base.walk.pages.first().map_or(0, |page| page.number);
    Ok(match (base.set.is_empty(), removes) {
        (true, 0) => Judgement::info("the clean set is empty: Santa keeps its last rules").at(at),
        (true, _) => Judgement::pass(),
        (false, 0) => Judgement::not_applicable("there are rules"),
        (false, _) => {
            Judgement::info(format!("{removes} REMOVE beside rules of a clean sync do nothing"))
                .at(at)
        }
    })
}

fn is_remove(policy: &Value) -> bool {
    policy == "REMOVE" || policy == &Value::from(5)
}
