//! PAGE-01 to PAGE-06.

use serde_json::Value;

use super::settings::shown;
use super::{failed, same_as_set};
use crate::harness::conformance::machine::Wish;
use crate::harness::conformance::probe::{Checked, Probe};
use crate::harness::conformance::series::InSeries;
use crate::harness::conformance::verdict::{Judgement, Verdict};
use crate::harness::conformance::walk::Walk;
use crate::model::Stage;
use crate::model::text::counted;

/// A cursor that no server hands out.
const NO_CURSOR: &str = "probe-no-such-cursor";
/// A longer cursor is worth a warning: 4 KiB.
const LONG_CURSOR: u64 = 4096;
/// A page with more rules is worth a warning.
const MANY_RULES: usize = 50_000;
/// A larger page is worth a warning: 32 MiB.
const LARGE_PAGE: u64 = 32 << 20;

/// PAGE-01, over all pages.
pub(super) fn cursor_is_text(probe: &Probe) -> Judgement {
    let mut seen = false;
    for exchange in probe.client.exchanges() {
        if exchange.stage != Some(Stage::RuleDownload) || !exchange.is(200) {
            continue;
        }
        let Ok(message) = exchange.message() else { continue };
        match message.get("cursor") {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) => seen |= !text.is_empty(),
            Some(other) => {
                let said = format!("the cursor is {}, not text", shown(other));
                return Judgement::fail(said).at(exchange.number);
            }
        }
    }
    if seen { Judgement::pass() } else { Judgement::not_tested("no page came with a cursor") }
}

/// PAGE-02, from the first download.
pub(super) fn pages_end(probe: &Probe) -> Checked {
    let base = match probe.base() {
        Err(judgement) if judgement.blocked_by == Some("PAGE-02") => {
            return Ok(Judgement { blocked_by: None, verdict: Verdict::Fail, ..judgement });
        }
        other => other?,
    };
    let facts = super::facts_of(&base);
    let rules = base
        .walk
        .pages
        .iter()
        .filter_map(|page| Some((page, super::settings::rules_of(page.message().ok()?).len())))
        .max_by_key(|(_, rules)| *rules);
    let complaint = if facts.longest_cursor_bytes > LONG_CURSOR {
        format!("a cursor of {}", counted(facts.longest_cursor_bytes, "byte"))
    } else if facts.largest_page_bytes > LARGE_PAGE {
        format!("a page of {}", counted(facts.largest_page_bytes, "byte"))
    } else if let Some((_, rules)) = rules.filter(|(_, rules)| *rules > MANY_RULES) {
        format!("a page of {}", counted(rules as u64, "rule"))
    } else {
        return Ok(Judgement::pass());
    };
    let harm = "agents with limits refuse it, and those without limits need much memory";
    Ok(Judgement::warning(complaint).harms(harm).at(rules.map_or(0, |(page, _)| page.number)))
}

/// PAGE-03.
pub(super) async fn each_rule_once(probe: &Probe, id: &'static str) -> Checked {
    let base = probe.base_with_pages()?;
    let series = probe.series(id).await;
    let sync = series.synced(InSeries::CleanAgain)?;
    if !series.preflight(InSeries::CleanAgain)?.is_clean() {
        return Ok(Judgement::not_applicable("no second clean sync was announced"));
    }
    let judgement =
        same_as_set("a second clean sync of the same machine", &sync.table, &base.set, &sync.walk);
    if judgement.verdict != Verdict::Pass {
        if sync.table.lacks_only(&base.set, |rule| base.walk.is_at_a_border(rule)) {
            return Ok(judgement);
        }
        let compares_rules = judgement.compares_rules;
        return Ok(Judgement { compares_rules, ..Judgement::blocked("CLEAN-02", judgement.said) });
    }
    let doubles = sync.walk.repeated_on_later_pages();
    if doubles == 0 {
        return Ok(Judgement::pass());
    }
    let at = sync.walk.pages.last().map_or(0, |page| page.number);
    let rules = counted(doubles as u64, "rule");
    let harm = "which version of a rule applies depends on the order, and counts do not agree";
    let judgement =
        Judgement::warning(format!("{rules} repeated on later pages")).harms(harm).at(at);
    Ok(Judgement { compares_rules: true, ..judgement })
}

/// PAGE-04.
pub(super) async fn page_again(probe: &Probe, id: &'static str) -> Checked {
    let base = probe.base_with_pages()?;
    let mut machine = probe.machine(id);
    let preflight = machine.preflight(Wish::Clean).await?;
    let first = machine.first_page().await?;
    let Some(cursor) = first.cursor.clone() else {
        return Ok(Judgement::not_tested("the first page came without a cursor"));
    };
    let mut lost = first.clone();
    machine.page(&mut lost, &cursor).await?;
    // What the second response had is lost; the walk goes on from the third.
    let mut walk = first;
    walk.forget_cursors();
    if let Err(broken) = machine.page(&mut walk, &cursor).await {
        return Ok(failed(probe, "the second page requested again", &broken));
    }
    let walk = match machine.rest(walk).await {
        Ok(walk) => walk,
        Err(broken) => return Ok(failed(probe, "after the second page came twice", &broken)),
    };
    machine.commit(preflight.sync_type, &walk);
    Ok(same_as_set(
        "a download whose second page was requested twice",
        &machine.table,
        &base.set,
        &walk,
    ))
}

/// PAGE-05.
pub(super) async fn cursor_lives(probe: &Probe, id: &'static str) -> Checked {
    let base = probe.base_with_pages()?;
    if !probe.options.slow {
        return Ok(Judgement::not_tested("waits for seconds, and --no-slow is set"));
    }
    let mut machine = probe.machine(id);
    let preflight = machine.preflight(Wish::Clean).await?;
    machine.reconnects = true;
    let walk = machine.first_page().await?;
    let waited = probe.options.waits.between_pages;
    probe.sleep(waited).await;
    let walk = match machine.rest(walk).await {
        Ok(walk) => walk,
        Err(broken) => {
            return Ok(failed(probe, &format!("{waited:?} after the first page"), &broken));
        }
    };
    machine.commit(preflight.sync_type, &walk);
    let after =
        format!("a download with a connection for each page, and {waited:?} before the second");
    Ok(same_as_set(&after, &machine.table, &base.set, &walk))
}

/// PAGE-06.
pub(super) async fn unusable_cursor(probe: &Probe, id: &'static str) -> Checked {
    probe.rules_sent()?;
    let mut machine = probe.machine(id);
    let preflight = machine.preflight(Wish::Clean).await?;
    let exchange = machine.provoking_page(NO_CURSOR).await;
    if exchange.is_refused() {
        return Ok(Judgement::pass());
    }
    let at = exchange.number;
    if !exchange.is(200) {
        let said = format!("a page with the cursor {NO_CURSOR:?} gets {}", exchange.ended());
        let harm = "agents retry what can never succeed, instead of starting again";
        return Ok(Judgement::warning(said).harms(harm).at(at));
    }
    let mut walk = Walk::default();
    machine.read_page(&exchange, &mut walk)?;
    if walk.received == 0 && walk.cursor.is_none() {
        let said = format!(
            "a page with the cursor {NO_CURSOR:?} gets 200 without rules and without a cursor: the \
             download ends as if it were complete"
        );
        let harm = "after a restart of the server, hosts take half the rules for the whole set";
        return Ok(Judgement::warning(said).harms(harm).at(at));
    }
    let base = probe.base_with_rules()?;
    let walk = machine.rest(walk).await?;
    machine.commit(preflight.sync_type, &walk);
    match machine.table.difference(&base.set) {
        None => {
            let said = format!(
                "a page with the cursor {NO_CURSOR:?} gets the download from the beginning"
            );
            Ok(Judgement::info(said).at(at))
        }
        Some(difference) => {
            let said = format!("a download from the cursor {NO_CURSOR:?} has {difference}");
            Ok(Judgement::warning(said).at(at))
        }
    }
}
