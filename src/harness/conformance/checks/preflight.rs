//! PRE-07 to PRE-11.

use std::sync::Arc;

use serde_json::Value;

use super::same_as_set;
use super::settings::{member, shown};
use crate::harness::conformance::client::ProbeRequest;
use crate::harness::conformance::exchange::{Intent, ProbeExchange};
use crate::harness::conformance::machine::{ProbeMachine, Wish, accepted};
use crate::harness::conformance::message::Message;
use crate::harness::conformance::probe::{Checked, Probe};
use crate::harness::conformance::verdict::Judgement;
use crate::model::Stage;
use crate::protocol::wire;

/// Settings that a repeated preflight must repeat, in both spellings.
const SETTINGS: [&[&str]; 12] = [
    &["client_mode", "clientMode"],
    &["batch_size", "batchSize"],
    &["enable_bundles", "enableBundles"],
    &["enable_transitive_rules", "enableTransitiveRules"],
    &["enable_all_event_upload", "enableAllEventUpload"],
    &["disable_unknown_event_upload", "disableUnknownEventUpload"],
    &["full_sync_interval", "full_sync_interval_seconds"],
    &["allowed_path_regex", "allowedPathRegex"],
    &["blocked_path_regex", "blockedPathRegex"],
    &["block_usb_mount", "blockUsbMount"],
    &["removable_media_policy", "removableMediaPolicy"],
    &["override_file_access_action", "overrideFileAccessAction"],
];

/// A preflight whose refusal is for the check to judge.
async fn preflight(
    machine: &mut ProbeMachine<'_>,
    change: impl FnOnce(&mut wire::PreflightRequest),
) -> Arc<ProbeExchange> {
    let mut message = machine.preflight_message(Wish::Clean);
    change(&mut message);
    let request = preflight_request(machine, &message);
    let exchange = machine.send(request.clone()).await;
    if exchange.is(403) && machine.probe.hands_out_tokens() && machine.fetch_token().await {
        return machine.send(request).await;
    }
    exchange
}

fn preflight_request(machine: &ProbeMachine<'_>, message: &wire::PreflightRequest) -> ProbeRequest {
    let message = Message::of(machine.form.transfer, message);
    ProbeRequest { intent: Intent::Provoking, ..machine.request(Stage::Preflight, message) }
}

/// Whether a preflight that is only to find the cause was accepted.
async fn is_accepted(exchange: impl Future<Output = Arc<ProbeExchange>>) -> bool {
    accepted(&*exchange.await).is_ok()
}

/// What was found of a preflight that ended badly, if an ordinary one that is repeated ends in
/// another way: then what was special about the preflight is the reason. Where machines are made
/// up, the ordinary ones are those of a new machine, to which nothing special was sent.
///
/// # Errors
/// If it ends alike: then what is refused is that a preflight is repeated.
pub(super) async fn confirmed(
    machine: &mut ProbeMachine<'_>,
    exchange: &ProbeExchange,
    found: Judgement,
) -> Checked {
    let found = found.at(exchange.number);
    let probe = machine.probe;
    probe.keep_unconfirmed(exchange.requirement, &found);
    let control = match probe.new_machine(exchange.requirement) {
        Ok(mut new) => {
            preflight(&mut new, |_| ()).await;
            preflight(&mut new, |_| ()).await
        }
        Err(_) => preflight(machine, |_| ()).await,
    };
    probe.take_unconfirmed(exchange.requirement);
    match accepted(&control) {
        Err(broken) if control.ended() == exchange.ended() => {
            let by = if broken.by == "HTTP-01" { "PRE-11" } else { broken.by };
            let said = format!("an ordinary preflight sent again: {}", control.ended());
            Err(Judgement::blocked(by, said).at(control.number))
        }
        Ok(_) | Err(_) => Ok(found),
    }
}

type Change = fn(&mut wire::PreflightRequest);

/// PRE-07.
pub(super) async fn least(probe: &Probe, id: &'static str) -> Checked {
    probe.unless_preflight_broken()?;
    let mut machine = probe.machine(id);
    let least: Change = |message| {
        message.request_clean_sync = false;
        message.primary_user.clear();
    };
    let exchange = preflight(&mut machine, least).await;
    if accepted(&exchange).is_err() {
        let found = Judgement::fail(format!("the smallest preflight: {}", exchange.ended()));
        let found = confirmed(&mut machine, &exchange, found).await?;
        let members: [(&str, Change); 2] = [
            ("primary_user", |message| message.request_clean_sync = false),
            ("request_clean_sync", |message| message.primary_user.clear()),
        ];
        let mut needed = Vec::new();
        for (name, change) in members {
            if is_accepted(preflight(&mut machine, change)).await {
                needed.push(name);
            }
        }
        let sip = preflight(&mut machine, |message| {
            least(message);
            message.sip_status = 111;
        });
        if is_accepted(sip).await {
            needed.push("sipStatus");
        }
        let missing = match needed.as_slice() {
            [] => String::new(),
            names => format!(", without {}", names.join(" or ")),
        };
        let said = format!("the smallest preflight{missing}: {}", exchange.ended());
        let harm = match needed.as_slice() {
            ["primary_user"] => "hosts without a configured owner cannot sync",
            ["request_clean_sync"] => "hosts that request no clean sync cannot sync",
            ["sipStatus"] => "hosts with all of SIP on cannot sync",
            _ => "hosts with little to say, as one without an owner, cannot sync",
        };
        return Ok(Judgement { said, ..found }.harms(harm));
    }
    let older = preflight(&mut machine, |message| {
        least(message);
        message.rules_hash.clear();
    })
    .await;
    if accepted(&older).is_err() {
        let said = format!(
            "the smallest preflight of an older agent, without rulesHash: {}",
            older.ended()
        );
        let harm = "hosts with an older agent cannot sync";
        return confirmed(&mut machine, &older, Judgement::warning(said).harms(harm)).await;
    }
    Ok(Judgement::pass())
}

/// Sets the counts of binary, transitive, compiler, certificate, team id, signing id and cdhash
/// rules.
const fn set_counts(message: &mut wire::PreflightRequest, counts: [u32; 7]) {
    [
        message.binary_rule_count,
        message.transitive_rule_count,
        message.compiler_rule_count,
        message.certificate_rule_count,
        message.teamid_rule_count,
        message.signingid_rule_count,
        message.cdhash_rule_count,
    ] = counts;
}

fn fullest(message: &mut wire::PreflightRequest) {
    message.primary_user_groups = vec!["staff".to_owned(), "admin".to_owned()];
    message.push_notification_token = "5a".repeat(32);
    message.push_notification_sync = true;
    // Transitive rules are among the binary ones.
    set_counts(message, [30, 19, 4, 5, 6, 7, 2]);
    message.sip_status = 111;
    message.rules_hash = "5a".repeat(16);
}

/// PRE-08.
pub(super) async fn most(probe: &Probe, id: &'static str) -> Checked {
    probe.unless_preflight_broken()?;
    let mut machine = probe.machine(id);
    let exchange = preflight(&mut machine, fullest).await;
    if accepted(&exchange).is_ok() {
        return Ok(Judgement::pass());
    }
    let found = Judgement::fail(format!("the largest preflight: {}", exchange.ended()));
    let found = confirmed(&mut machine, &exchange, found).await?;
    let members: [(&str, Change); 5] = [
        ("primary_user_groups", |message| message.primary_user_groups.clear()),
        ("push_notification_token", |message| message.push_notification_token.clear()),
        ("push_notification_sync", |message| message.push_notification_sync = false),
        ("sipStatus", |message| message.sip_status = 0),
        ("the counts", |message| set_counts(message, [0; 7])),
    ];
    let mut cause = String::new();
    for (name, without) in members {
        let exchange = preflight(&mut machine, |message| {
            fullest(message);
            without(message);
        });
        if is_accepted(exchange).await {
            cause = format!("; without {name} it is accepted");
            break;
        }
    }
    let said = format!("{}{cause}", found.said);
    Ok(Judgement { said, ..found })
}

/// PRE-09.
pub(super) async fn modes(probe: &Probe, id: &'static str) -> Checked {
    probe.unless_preflight_broken()?;
    let mut machine = probe.machine(id);
    let mut judgement = Judgement::pass();
    for mode in
        [wire::ClientMode::Monitor, wire::ClientMode::Lockdown, wire::ClientMode::Standalone]
    {
        let exchange = preflight(&mut machine, |message| message.set_client_mode(mode)).await;
        if accepted(&exchange).is_err() {
            let said =
                format!("preflight with client_mode {}: {}", mode.as_str_name(), exchange.ended());
            let found = confirmed(&mut machine, &exchange, Judgement::fail(said)).await?;
            judgement = judgement.and(found);
        }
    }
    Ok(judgement)
}

/// PRE-10.
pub(super) async fn texts(probe: &Probe, id: &'static str) -> Checked {
    probe.unless_preflight_broken()?;
    let mut machine = probe.machine(id);
    let cases: [(&str, bool, Change); 5] = [
        ("a hostname with accents, quotes and an emoji", true, |message| {
            "Zoë’s \"Mac\" 💻".clone_into(&mut message.hostname);
        }),
        ("a user with umlauts", true, |message| {
            "jürgen@exämple.org".clone_into(&mut message.primary_user);
        }),
        ("os_version 14.5 (beta)", false, |message| {
            "14.5 (beta)".clone_into(&mut message.os_version);
        }),
        ("santa_version 2026.4-rc1", false, |message| {
            "2026.4-rc1".clone_into(&mut message.santa_version);
        }),
        ("no os_build", false, |message| message.os_build.clear()),
    ];
    let mut judgement = Judgement::pass();
    for (what, occurs, change) in cases {
        let exchange = preflight(&mut machine, change).await;
        if accepted(&exchange).is_ok() {
            continue;
        }
        let said = format!("preflight with {what}: {}", exchange.ended());
        let found = if occurs {
            Judgement::fail(said)
        } else if exchange.is_server_error() {
            Judgement::warning(said)
        } else {
            Judgement::info(said)
        };
        judgement = judgement.and(confirmed(&mut machine, &exchange, found).await?);
    }
    Ok(judgement)
}

/// PRE-11.
pub(super) async fn repeated(probe: &Probe, id: &'static str) -> Checked {
    probe.unless_without_pages()?;
    let mut machine = probe.machine(id);
    let first = machine.preflight(Wish::Clean).await?;
    let message = machine.preflight_message(Wish::Clean);
    let request = preflight_request(&machine, &message);
    let exchange = machine.send(request).await;
    let Ok(second) = machine.read_preflight(Arc::clone(&exchange)) else {
        let said = format!("the same preflight sent again: {}", exchange.ended());
        return Ok(Judgement::fail(said).at(exchange.number));
    };
    if first.is_clean() && !second.is_clean() {
        let said = format!(
            "preflight with request_clean_sync, sent twice: the first gets {}, the second {}",
            first.type_in_words(),
            second.type_in_words()
        );
        let harm = "if one response is lost, so is the clean sync";
        return Ok(Judgement::fail(said).harms(harm).at(exchange.number));
    }
    let differs = |names: &&&[&str]| {
        let of = |message: &Value| member(message, names).cloned();
        of(&first.message) != of(&second.message)
    };
    if let Some(names @ [name, ..]) = SETTINGS.iter().find(differs) {
        let of = |message| member(message, names).map_or_else(|| "absent".to_owned(), shown);
        let said = format!(
            "preflight sent twice: {name} is {} in the first response and {} in the second",
            of(&first.message),
            of(&second.message)
        );
        return Ok(Judgement::fail(said).at(exchange.number));
    }
    let Ok(base) = probe.base() else {
        let said = "type and settings are repeated; the pages do not end";
        return Ok(Judgement { said: said.to_owned(), ..Judgement::pass() });
    };
    let walk = machine.walk().await?;
    machine.commit(second.sync_type, &walk);
    let judgement =
        same_as_set("a sync whose preflight was sent twice", &machine.table, &base.set, &walk);
    machine.postflight(second.sync_type, &walk).await?;
    Ok(judgement)
}
