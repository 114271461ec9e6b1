//! RULE-01 to RULE-08.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

use super::rule::{IDENTIFIER, RULE_TYPE, enum_of, members_of_rule};
use super::settings::{member, rules_of, shown};
use super::{same_as_set, sync_without_owner};
use crate::harness::conformance::exchange::{Intent, ProbeExchange};
use crate::harness::conformance::machine::{ProbeMachine, Wish, accepted};
use crate::harness::conformance::probe::{Checked, Probe};
use crate::harness::conformance::table::RuleTable;
use crate::harness::conformance::verdict::{Judgement, Verdict};
use crate::harness::conformance::walk::Walk;
use crate::model::text::counted;
use crate::model::{Identifier, RuleType, Stage};
use crate::protocol::json::Enumeration as _;
use crate::protocol::wire;

/// How many rules a complaint names.
const MAX_NAMED: usize = 3;

/// RULE-01, over all pages.
pub(super) fn page_shape(probe: &Probe) -> Judgement {
    let mut judgement = Judgement::not_tested("no rule download got a 200");
    for exchange in probe.client.exchanges() {
        let is_page = exchange.stage == Some(Stage::RuleDownload);
        if !is_page || !exchange.is(200) || exchange.intent != Intent::WellFormed {
            continue;
        }
        let is_empty = exchange.answer().is_some_and(|answer| answer.wire.is_empty());
        let found = match exchange.message() {
            Err(why) => Judgement::fail(format!("rule_download: {why}")).at(exchange.number),
            Ok(_) if is_empty && exchange.form.is_json() => {
                Judgement::info("if there are no rules, the body is empty").at(exchange.number)
            }
            Ok(message) => match message.get("rules") {
                None | Some(Value::Array(_)) => Judgement::pass(),
                Some(Value::Null) => {
                    Judgement::info("if there are no rules, `rules` is null").at(exchange.number)
                }
                Some(other) => Judgement::fail(format!("`rules` is {}, not a list", shown(other)))
                    .at(exchange.number),
            },
        };
        if judgement.verdict == Verdict::NotTested || found.verdict > judgement.verdict {
            judgement = found;
        }
    }
    judgement
}

/// Every rule of the first download with the number of its exchange. Pages of one that does not
/// end are as good for what is asked of single rules.
fn all_rules(probe: &Probe) -> Result<Vec<(u64, Value)>, Judgement> {
    Ok(rules_with_exchanges(&*probe.rules_sent()?))
}

/// Every rule of a download with the number of its exchange.
fn rules_with_exchanges(walk: &Walk) -> Vec<(u64, Value)> {
    let of_page = |page: &Arc<ProbeExchange>| {
        let rules = page.message().map(rules_of).unwrap_or_default();
        let number = page.number;
        rules.into_iter().map(move |rule| (number, rule))
    };
    walk.pages.iter().flat_map(of_page).collect()
}

/// The worst of the rules, with how many there are.
fn worst_of(rules: &[(u64, Value)], judge: impl Fn(&Value) -> Option<Judgement>) -> Judgement {
    let mut worst = Judgement::pass();
    let mut named = 0;
    for (number, rule) in rules {
        let Some(found) = judge(rule) else { continue };
        if found.verdict == worst.verdict && named >= MAX_NAMED {
            continue;
        }
        named = if found.verdict > worst.verdict { 1 } else { named + 1 };
        worst = worst.and(found.at(*number));
    }
    worst
}

/// RULE-02.
pub(super) fn rule_members(probe: &Probe) -> Checked {
    let rules = all_rules(probe)?;
    Ok(worst_of(&rules, members_of_rule))
}

/// The type and the identifier of a rule that has both.
fn key_of(rule: &Value) -> Option<(RuleType, &str)> {
    let number = enum_of(rule, &RULE_TYPE, wire::RuleType::NAMES).ok()?;
    let rule_type = match wire::RuleType::try_from(number).ok()? {
        wire::RuleType::Binary => RuleType::Binary,
        wire::RuleType::Certificate => RuleType::Certificate,
        wire::RuleType::Teamid => RuleType::TeamId,
        wire::RuleType::Signingid => RuleType::SigningId,
        wire::RuleType::Cdhash => RuleType::Cdhash,
        wire::RuleType::RuletypeUnknown => return None,
    };
    Some((rule_type, member(rule, &IDENTIFIER)?.as_str()?))
}

/// RULE-03.
pub(super) fn identifiers(probe: &Probe) -> Checked {
    let rules = all_rules(probe)?;
    Ok(worst_of(&rules, |rule| {
        let (rule_type, text) = key_of(rule).filter(|(_, text)| !text.is_empty())?;
        let error = Identifier::parse(rule_type, text).err()?;
        Some(Judgement::fail(format!("{}: {error}", shown(&Value::from(text)))))
    }))
}

/// RULE-04, in the first download and in that of a host without an owner: a server that joins
/// rules with owners may repeat rules for such a host only.
pub(super) async fn named_once(probe: &Probe, id: &'static str) -> Checked {
    let found = named_once_in_first_download(probe)?;
    if found.verdict != Verdict::Pass || probe.base_with_rules().is_err() {
        return Ok(found);
    }
    // PRE-07 judges whether such a host can sync at all. The server chooses which rules it
    // gets: only repeated rules count here.
    let mut machine = probe.machine(id);
    let Ok(walk) = sync_without_owner(&mut machine).await else { return Ok(found) };
    let found = repeated(&rules_with_exchanges(&walk));
    if found.verdict == Verdict::Pass {
        return Ok(found);
    }
    let said = format!(
        "preflight without primary_user (a host without an owner): {}; with primary_user, no \
         rule is repeated",
        found.said
    );
    Ok(Judgement { said, ..found })
}

/// RULE-04 in the first download.
pub(super) fn named_once_in_first_download(probe: &Probe) -> Checked {
    let mut rules = all_rules(probe)?;
    if probe.base().is_err()
        && let Some((page, _)) = rules.first().cloned()
    {
        // Later pages of a download that does not end repeat what came.
        rules.retain(|(number, _)| *number == page);
    }
    Ok(repeated(&rules))
}

/// The verdict on rules that occur more than once in a download.
fn repeated(rules: &[(u64, Value)]) -> Judgement {
    let mut first: HashMap<(RuleType, String), &Value> = HashMap::new();
    let (mut other, mut equal, mut at) = (Vec::new(), 0_u64, None);
    for (number, rule) in rules {
        let Some((rule_type, identifier)) = key_of(rule) else { continue };
        let key = (rule_type, identifier.to_ascii_lowercase());
        match first.get(&key) {
            Some(known) if *known == rule => {
                equal += 1;
                at = at.or(Some(*number));
            }
            Some(_) => other.push((format!("{rule_type} {identifier}"), *number)),
            None => drop(first.insert(key, rule)),
        }
    }
    if let Some((name, number)) = other.first() {
        let rules = counted(other.len() as u64, "rule");
        let said = format!("{rules} repeated with other contents, first {name}");
        return Judgement::warning(said).at(*number);
    }
    match at {
        Some(number) => {
            Judgement::info(format!("{} repeated unchanged", counted(equal, "rule"))).at(number)
        }
        None => Judgement::pass(),
    }
}

const TWICE: &str = "a download whose first page was requested twice";

/// RULE-05.
pub(super) async fn first_page_again(probe: &Probe, id: &'static str) -> Checked {
    probe.rules_sent()?;
    let mut machine = probe.machine(id);
    let preflight = machine.preflight(Wish::Clean).await?;
    let first = machine.first_page().await?;
    let exchange = machine.page_exchange("").await;
    let mut walk = Walk::default();
    if accepted(&exchange).is_err() {
        let said = format!("the first page requested again: {}", exchange.ended());
        return Ok(Judgement::fail(said).at(exchange.number));
    }
    machine.read_page(&exchange, &mut walk)?;
    let Ok(base) = probe.base_with_rules() else {
        // Of a download that does not end, the page is all there is to compare.
        let mut expected = RuleTable::default();
        expected.apply(true, &first.rules);
        machine.commit(preflight.sync_type, &walk);
        return Ok(same_as_set(TWICE, &machine.table, &expected, &walk));
    };
    let walk = match machine.rest(walk).await {
        Ok(walk) => walk,
        Err(broken) => return Ok(super::failed(probe, "after the first page came twice", &broken)),
    };
    machine.commit(preflight.sync_type, &walk);
    Ok(same_as_set(TWICE, &machine.table, &base.set, &walk))
}

/// RULE-06.
pub(super) async fn not_before_postflight(probe: &Probe, id: &'static str) -> Checked {
    let base = probe.base_with_rules()?;
    let mut machine = probe.machine(id);
    machine.preflight(Wish::Clean).await?;
    machine.walk().await?;
    machine.forget_session();
    let preflight = machine.preflight(Wish::Nothing).await?;
    let walk = machine.walk().await?;
    machine.commit(preflight.sync_type, &walk);
    Ok(same_as_set(
        "a download without postflight, and another sync",
        &machine.table,
        &base.set,
        &walk,
    ))
}

/// RULE-07.
pub(super) async fn outside_a_sync(probe: &Probe, id: &'static str) -> Checked {
    probe.unless_without_pages()?;
    let mut machine = probe.machine(id);
    machine.sync_if_it_ends().await?;
    let at_once = page_outside_a_sync(&mut machine, "a rule download outside a sync").await;
    if at_once.verdict != Verdict::Pass || !probe.options.slow {
        return Ok(at_once);
    }
    // Servers that tie requests to a session answer otherwise once it has run out.
    let waited = probe.options.waits.in_sync;
    probe.sleep(waited).await;
    let what = format!("a rule download {waited:?} after a sync");
    Ok(page_outside_a_sync(&mut machine, &what).await)
}

/// The first page for a client that knows of no session.
async fn page_outside_a_sync(machine: &mut ProbeMachine<'_>, what: &str) -> Judgement {
    machine.forget_session();
    let exchange = machine.page_exchange("").await;
    if accepted(&exchange).is_err() {
        let said = format!("{what}: {}", exchange.ended());
        let judgement = if exchange.is_refused() {
            Judgement::warning(said)
                .harms("rule-only syncs, which push messages start, bring nothing")
        } else {
            Judgement::fail(said)
                .harms("rule-only syncs fail, and are retried for more than a minute")
        };
        return judgement.at(exchange.number);
    }
    if rule_members(machine.probe).is_ok_and(|found| found.verdict.is_complaint()) {
        // RULE-02 says what is wrong with them, wherever they come from.
        return Judgement::pass();
    }
    let rules = exchange.message().map(rules_of).unwrap_or_default();
    let wrong =
        rules.iter().filter_map(members_of_rule).find(|found| found.verdict == Verdict::Fail);
    match wrong {
        Some(found) => found.at(exchange.number),
        None => Judgement::pass(),
    }
}

/// RULE-08.
pub(super) async fn long_sync(probe: &Probe, id: &'static str) -> Checked {
    probe.unless_without_pages()?;
    let base = probe.base();
    if !probe.options.slow {
        return Ok(Judgement::not_tested("waits for a minute, and --no-slow is set"));
    }
    let mut machine = probe.machine(id);
    let preflight = machine.preflight(Wish::Clean).await?;
    if probe.options.events {
        machine.upload_one().await?;
    }
    probe.sleep(probe.options.waits.in_sync).await;
    let waited = probe.options.waits.in_sync;
    let done = after_the_wait(&mut machine, base.is_ok()).await;
    let walk = match done {
        Ok(walk) => walk,
        Err(broken) => {
            return Ok(super::failed(probe, &format!("{waited:?} after preflight"), &broken));
        }
    };
    let Ok(base) = base else {
        let said = "the first page comes; the pages do not end";
        return Ok(Judgement { said: said.to_owned(), ..Judgement::pass() });
    };
    machine.commit(preflight.sync_type, &walk);
    let judgement = same_as_set(
        &format!("a sync that waited {waited:?} after preflight"),
        &machine.table,
        &base.set,
        &walk,
    );
    match machine.postflight(preflight.sync_type, &walk).await {
        Ok(_) => Ok(judgement),
        Err(broken) => Ok(super::failed(probe, &format!("{waited:?} after preflight"), &broken)),
    }
}

async fn after_the_wait(
    machine: &mut ProbeMachine<'_>,
    it_ends: bool,
) -> Result<Walk, crate::harness::conformance::machine::Broken> {
    if machine.probe.options.events {
        machine.upload_one().await?;
    }
    if it_ends { machine.walk().await } else { machine.first_page().await }
}
