//! The checks, one function for each requirement, and which one belongs to which.
//!
//! Checks that look at what the whole run has seen are plain functions; the others make
//! requests of their own, with machines of their own.

mod clean;
mod encodings;
mod errors;
mod events;
mod http;
mod identity;
mod isolation;
mod operated;
mod pages;
mod postflight;
mod preflight;
mod regex;
mod rule;
mod rules;
mod settings;

pub(super) use encodings::try_form;
pub(super) use http::for_want_of_a_cookie;
pub(super) use identity::preflight_of;

use super::machine::{Broken, ProbeMachine, Wish};
use super::probe::{BaseSync, Checked, Probe};
use super::report::RuleFacts;
use super::table::RuleTable;
use super::verdict::{Judgement, Verdict};
use super::walk::{Walk, cursor_of};
use crate::model::ContentEncoding;

/// Checks of the whole run: they come last and need no second try.
pub(super) const OVER_ALL: [&str; 17] = [
    "ENC-04", "HTTP-02", "HTTP-04", "PRE-01", "PRE-02", "PRE-03", "PRE-04", "PRE-05", "PRE-06",
    "PRE-12", "RULE-01", "RULE-02", "RULE-03", "PAGE-01", "EVENT-10", "POST-01", "ERR-01",
];

/// Checks that look back on the run and also make requests of their own: HTTP-03 repeats the
/// requests whose responses were cut off, RULE-04 syncs a host without an owner.
const ALSO_REQUESTS: [&str; 2] = ["HTTP-03", "RULE-04"];

/// What a check that looks back on the run finds so far, without a request of its own; `None`
/// for other checks.
pub(super) fn look_back(probe: &Probe, id: &str) -> Option<Judgement> {
    Some(match id {
        "ENC-04" => either(encodings::protobuf(probe)),
        "HTTP-02" => http::no_redirects(probe),
        "HTTP-03" => http::complete_and_in_time_so_far(probe),
        "HTTP-04" => http::usable_url(probe),
        "PRE-01" => settings::readable(probe),
        "PRE-02" => settings::types(probe),
        "PRE-03" => settings::client_mode(probe),
        "PRE-04" => settings::sync_type(probe),
        "PRE-05" => settings::values(probe),
        "PRE-06" => settings::path_expressions(probe),
        "PRE-12" => settings::deprecated_names(probe),
        "RULE-01" => rules::page_shape(probe),
        "RULE-02" => either(rules::rule_members(probe)),
        "RULE-03" => either(rules::identifiers(probe)),
        "RULE-04" => either(rules::named_once_in_first_download(probe)),
        "PAGE-01" => pages::cursor_is_text(probe),
        "EVENT-10" => events::responses(probe),
        "POST-01" => postflight::responses(probe),
        "ERR-01" => errors::no_error_in_200(probe),
        "ERR-02" => errors::summary_of_5xx(probe),
        _ => return None,
    })
}

fn either(checked: Checked) -> Judgement {
    match checked {
        Ok(judgement) | Err(judgement) => judgement,
    }
}

/// Runs the check of a requirement once.
pub(super) async fn check(probe: &Probe, id: &'static str) -> Checked {
    if !ALSO_REQUESTS.contains(&id)
        && let Some(judgement) = look_back(probe, id)
    {
        return Ok(judgement);
    }
    match id {
        "HTTP-03" => Ok(http::complete_and_in_time(probe).await),
        "HTTP-05" => Box::pin(http::kept_connection(probe, id)).await,
        "HTTP-06" => Box::pin(http::without_cookies(probe, id)).await,
        "HTTP-07" => Box::pin(http::doctor(probe, id)).await,
        "HTTP-08" => Box::pin(http::labels(probe, id)).await,
        "HTTP-09" => Box::pin(http::no_stage(probe, id)).await,
        "ENC-01" => Ok(encodings::json_is_accepted(probe, ContentEncoding::Deflate)),
        "ENC-02" => Ok(encodings::json_is_accepted(probe, ContentEncoding::None)),
        "ENC-03" => Ok(encodings::json_is_accepted(probe, ContentEncoding::Gzip)),
        "ENC-05" => Box::pin(encodings::every_stage_of_a_form(probe, id)).await,
        "ENC-06" => Box::pin(encodings::unsupported_forms(probe, id)).await,
        "ENC-07" => Box::pin(encodings::damaged_bodies(probe, id)).await,
        "ENC-08" => Box::pin(encodings::unknown_members(probe, id)).await,
        "ENC-09" => Box::pin(encodings::other_spellings(probe, id)).await,
        "ID-01" => Box::pin(identity::upper_case_uuid(probe, id)).await,
        "ID-02" => Box::pin(identity::other_ids(probe, id)).await,
        "ID-03" => Box::pin(identity::without_id_in_the_body(probe, id)).await,
        "ID-04" => Box::pin(identity::unknown_machine(probe, id)).await,
        "ID-05" => Box::pin(identity::no_preflight_before(probe, id)).await,
        "PRE-07" => Box::pin(preflight::least(probe, id)).await,
        "PRE-08" => Box::pin(preflight::most(probe, id)).await,
        "PRE-09" => Box::pin(preflight::modes(probe, id)).await,
        "PRE-10" => Box::pin(preflight::texts(probe, id)).await,
        "PRE-11" => Box::pin(preflight::repeated(probe, id)).await,
        "CLEAN-01" => Box::pin(clean::granted(probe, id)).await,
        "CLEAN-02" => Box::pin(clean::whole_set(probe, id)).await,
        "CLEAN-03" => Box::pin(clean::new_machine(probe, id)).await,
        "CLEAN-04" => Box::pin(clean::ends(probe, id)).await,
        "CLEAN-05" => Box::pin(clean::broken_off(probe, id)).await,
        "CLEAN-06" => Box::pin(clean::nothing_changed(probe, id)).await,
        "CLEAN-07" => Box::pin(clean::lost_rules(probe, id)).await,
        "CLEAN-08" => clean::empty_set(probe),
        "RULE-04" => Box::pin(rules::named_once(probe, id)).await,
        "RULE-05" => Box::pin(rules::first_page_again(probe, id)).await,
        "RULE-06" => Box::pin(rules::not_before_postflight(probe, id)).await,
        "RULE-07" => Box::pin(rules::outside_a_sync(probe, id)).await,
        "RULE-08" => Box::pin(rules::long_sync(probe, id)).await,
        "PAGE-02" => pages::pages_end(probe),
        "PAGE-03" => Box::pin(pages::each_rule_once(probe, id)).await,
        "PAGE-04" => Box::pin(pages::page_again(probe, id)).await,
        "PAGE-05" => Box::pin(pages::cursor_lives(probe, id)).await,
        "PAGE-06" => Box::pin(pages::unusable_cursor(probe, id)).await,
        "EVENT-01" => Box::pin(events::small(probe, id)).await,
        "EVENT-02" => Box::pin(events::full(probe, id)).await,
        "EVENT-03" => Box::pin(events::decisions(probe, id)).await,
        "EVENT-04" => Box::pin(events::file_access(probe, id)).await,
        "EVENT-05" => Box::pin(events::audit(probe, id)).await,
        "EVENT-06" => Box::pin(events::odd_values(probe, id)).await,
        "EVENT-07" => Box::pin(events::incomplete(probe, id)).await,
        "EVENT-08" => Box::pin(events::whole_batch(probe, id)).await,
        "EVENT-09" => Box::pin(events::twice(probe, id)).await,
        "EVENT-11" => Box::pin(events::outside_a_sync(probe, id)).await,
        "EVENT-12" => Box::pin(events::beside_a_sync(probe, id)).await,
        "EVENT-13" => Box::pin(events::bundle(probe, id)).await,
        "POST-02" => Box::pin(postflight::client_forms(probe, id)).await,
        "POST-03" => Box::pin(postflight::twice(probe, id)).await,
        "POST-04" => Box::pin(postflight::confirms_nothing(probe, id)).await,
        "ISO-01" => Box::pin(isolation::in_turn(probe, id)).await,
        "ISO-02" => Box::pin(isolation::same_counts(probe, id)).await,
        "ISO-03" => Box::pin(isolation::at_once(probe, id)).await,
        "ISO-04" => Box::pin(isolation::pending_work(probe, id)).await,
        "ERR-03" => Box::pin(errors::without_credential(probe, id)).await,
        "ERR-04" => Box::pin(errors::xsrf(probe, id)).await,
        "OPS-01" => Box::pin(operated::changes_arrive(probe, id)).await,
        "OPS-02" => Box::pin(operated::deletions_arrive(probe, id)).await,
        "OPS-03" => Box::pin(operated::unconfirmed_changes(probe, id)).await,
        "OPS-04" => Box::pin(operated::requested_clean_sync(probe, id)).await,
        "OPS-05" => Box::pin(operated::visible(probe, id)).await,
        "OPS-06" => Box::pin(operated::reaches_all(probe, id)).await,
        _ => Err(Judgement::not_tested("this version has no check for it")),
    }
}

/// A pass if the host's rules are those of a complete download. `after` names what the host did.
fn same_as_set(after: &str, table: &RuleTable, set: &RuleTable, walk: &Walk) -> Judgement {
    match table.difference(set) {
        None => Judgement::pass(),
        Some(difference) => {
            let judgement = Judgement::fail(format!("after {after}: the host has {difference}"));
            let judgement = Judgement { compares_rules: true, ..judgement };
            match walk.pages.last() {
                Some(page) => judgement.at(page.number),
                None => judgement,
            }
        }
    }
}

/// Requirements that look at every exchange, and so find by themselves what broke a step.
const FOUND_BY_ITSELF: [&str; 8] =
    ["HTTP-02", "HTTP-03", "HTTP-04", "HTTP-06", "PRE-01", "RULE-01", "POST-01", "ERR-04"];

/// The failure of a step that the requirement is about, unless another one is known to be
/// the cause.
fn failed(probe: &Probe, when: &str, broken: &Broken) -> Judgement {
    let is_known = probe.verdict(broken.by).is_some_and(Verdict::is_complaint);
    if is_known || FOUND_BY_ITSELF.contains(&broken.by) {
        return broken.clone().into();
    }
    let judgement = Judgement::fail(format!("{when}: {}", broken.said));
    match broken.exchange {
        Some(exchange) => judgement.at(exchange),
        None => judgement,
    }
}

/// A clean sync of a machine without owner, as far as the pages end.
async fn sync_without_owner(machine: &mut ProbeMachine<'_>) -> Result<Walk, Broken> {
    let mut message = machine.preflight_message(Wish::Clean);
    message.primary_user.clear();
    let preflight = machine.preflight_with(message).await?;
    if machine.probe.base().is_err() {
        return machine.first_page().await;
    }
    let walk = machine.walk().await?;
    machine.commit(preflight.sync_type, &walk);
    machine.postflight(preflight.sync_type, &walk).await?;
    Ok(walk)
}

/// The size of the first complete download.
pub(super) fn facts_of(base: &BaseSync) -> RuleFacts {
    let bytes = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
    let bodies = base.walk.pages.iter().filter_map(|page| page.answer()?.body.as_ref().ok());
    let cursors = base.walk.pages.iter().filter_map(|page| cursor_of(&page.message().ok()?));
    RuleFacts {
        rules: bytes(base.set.len()),
        received: base.walk.received,
        pages: bytes(base.walk.pages.len()),
        largest_page_bytes: bytes(bodies.map(bytes::Bytes::len).max().unwrap_or(0)),
        longest_cursor_bytes: bytes(cursors.map(|cursor| cursor.len()).max().unwrap_or(0)),
    }
}
