//! CLEAN-01 to CLEAN-08.

use serde_json::Value;

use super::same_as_set;
use super::settings::rules_of;
use crate::harness::conformance::machine::{ProbeMachine, Wish, is_clean};
use crate::harness::conformance::probe::{Checked, Probe};
use crate::harness::conformance::series::InSeries;
use crate::harness::conformance::table::RuleTable;
use crate::harness::conformance::verdict::{Judgement, Verdict};
use crate::model::text::counted;

/// The effect if all rules are sent in a NORMAL sync where a clean sync was due.
const RULES_STAY: &str = "rules that the host has from an earlier server stay";

/// CLEAN-01.
pub(super) async fn granted(probe: &Probe, id: &'static str) -> Checked {
    let series = probe.series(id).await;
    let first = series.preflight(InSeries::Clean)?;
    if !first.is_clean() {
        let said = format!(
            "a new machine's preflight with request_clean_sync gets {}",
            first.type_in_words()
        );
        return Ok(Judgement::fail(said).at(first.exchange.number));
    }
    let again = match series.preflight(InSeries::CleanAgain) {
        Err(_) if probe.base().is_err() => {
            let said = "granted to a new machine; not asked again, because no sync completed";
            return Ok(Judgement { said: said.to_owned(), ..Judgement::pass() });
        }
        again => again?,
    };
    if again.is_clean() {
        return Ok(Judgement::pass());
    }
    let said = format!(
        "preflight with request_clean_sync from a machine that has synced before gets {}",
        again.type_in_words()
    );
    Ok(Judgement::fail(said).at(again.exchange.number))
}

/// CLEAN-02.
pub(super) async fn whole_set(probe: &Probe, id: &'static str) -> Checked {
    let base = probe.base_with_rules()?;
    probe.unless_broken("CLEAN-01")?;
    probe.unless_broken("PAGE-03")?;
    let series = probe.series(id).await;
    let again = series.synced(InSeries::CleanAgain)?;
    Ok(same_as_set("a second clean sync of the same machine", &again.table, &base.set, &again.walk))
}

/// CLEAN-03.
pub(super) async fn new_machine(probe: &Probe, id: &'static str) -> Checked {
    let base = probe.base_with_rules()?;
    let mut machine = probe.new_machine(id)?;
    let preflight = machine.preflight(Wish::Nothing).await?;
    let walk = machine.walk().await?;
    machine.commit(preflight.sync_type, &walk);
    let judgement = same_as_set(
        "the first sync of a new machine, without request_clean_sync",
        &machine.table,
        &base.set,
        &walk,
    );
    if judgement.verdict != Verdict::Pass {
        return Ok(judgement.harms("a new host lacks rules until someone asks for a clean sync"));
    }
    machine.postflight(preflight.sync_type, &walk).await?;
    if preflight.is_clean() {
        return Ok(judgement);
    }
    let said = format!(
        "a new machine's first preflight, without request_clean_sync, gets {}; all rules are sent",
        preflight.type_in_words()
    );
    Ok(Judgement::warning(said).harms(RULES_STAY).at(preflight.exchange.number))
}

/// CLEAN-04.
pub(super) async fn ends(probe: &Probe, id: &'static str) -> Checked {
    let base = probe.base()?;
    if !is_clean(base.sync_type) {
        return Ok(Judgement::not_applicable("no clean sync was announced"));
    }
    let series = probe.series(id).await;
    for (what, place) in [
        ("after a complete clean sync", InSeries::Normal),
        ("after one more sync", InSeries::SecondNormal),
    ] {
        let next = series.preflight(place)?;
        if next.is_clean() {
            let said = format!(
                "preflight {what}, with true rule counts and without request_clean_sync, gets {} \
                 again",
                next.sync_type.name()
            );
            let judgement = if base.set.is_empty() {
                Judgement::info(format!("{said}, with an empty set of rules"))
            } else {
                Judgement::fail(said)
            };
            return Ok(judgement.at(next.exchange.number));
        }
        series.synced(place)?;
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
    let judgement = same_as_set(
        "the sync that follows an interrupted clean sync",
        &machine.table,
        &base.set,
        &walk,
    );
    if judgement.verdict != Verdict::Pass || again.is_clean() {
        return Ok(judgement);
    }
    let said = format!(
        "the preflight that follows an interrupted clean sync gets {}; all rules are sent",
        again.type_in_words()
    );
    Ok(Judgement::warning(said).harms(RULES_STAY).at(again.exchange.number))
}

/// CLEAN-06.
pub(super) async fn nothing_changed(probe: &Probe, id: &'static str) -> Checked {
    let base = probe.base_with_rules()?;
    probe.unless_broken("CLEAN-04")?;
    let series = probe.series(id).await;
    let last = series.synced(InSeries::SecondNormal)?;
    let preflight = series.preflight(InSeries::SecondNormal)?;
    let judgement =
        same_as_set("a NORMAL sync without changes", &last.table, &base.set, &last.walk);
    if judgement.verdict != Verdict::Pass {
        return Ok(judgement.harms("hosts with wrong rules decide wrongly"));
    }
    if preflight.is_clean() {
        return Ok(judgement);
    }
    let sent = last.walk.received;
    let at = last.walk.pages.first().map_or(0, |page| page.number);
    let all = base.set.len() as u64;
    Ok(match sent {
        0 => judgement,
        _ if sent >= all => {
            Judgement::warning(format!("a NORMAL sync without changes: {}", shown_sent(sent)))
                .harms("load grows with the number of hosts times rules")
                .at(at)
        }
        _ => Judgement::info(format!(
            "a NORMAL sync without changes: {}; recently edited rules may be sent again",
            shown_sent(sent)
        ))
        .at(at),
    })
}

/// CLEAN-07.
pub(super) async fn lost_rules(probe: &Probe, id: &'static str) -> Checked {
    let base = probe.base_with_rules()?;
    let series = probe.series(id).await;
    series.synced(InSeries::CleanAgain)?;
    // No other check uses that machine, unless there are few.
    let mut machine = if probe.options.machine_ids.is_empty() {
        ProbeMachine::new(probe, id, series.machine_id.clone())
    } else {
        let mut machine = probe.machine(id);
        machine.sync(Wish::Clean).await?;
        machine.table = RuleTable::default();
        machine.forget_session();
        machine
    };
    let preflight = machine.preflight(Wish::Nothing).await?;
    if preflight.is_clean() {
        return Ok(Judgement::pass());
    }
    let walk = machine.walk().await?;
    machine.commit(preflight.sync_type, &walk);
    let answered = preflight.type_in_words();
    if machine.table.difference(&base.set).is_none() {
        let said = format!("preflight gets {answered}, but all rules are sent anyway");
        return Ok(Judgement { said, ..Judgement::pass() });
    }
    let said = format!(
        "a host that no longer reports any rules gets {answered}, and {} of {}",
        walk.received,
        counted(base.set.len() as u64, "rule")
    );
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
            let removes = counted(removes as u64, "REMOVE rule");
            Judgement::info(format!(
                "a clean sync has {removes} among its rules, without any effect"
            ))
            .at(at)
        }
    })
}

/// How many rules are sent, in words.
fn shown_sent(rules: u64) -> String {
    if rules == 1 { "1 rule is sent".to_owned() } else { format!("{rules} rules are sent") }
}

fn is_remove(policy: &Value) -> bool {
    policy == "REMOVE" || policy == &Value::from(5)
}
