//! PRE-01 to PRE-06 and PRE-12: what the preflight responses of the run say.

use std::sync::Arc;

use serde_json::Value;

use super::regex;
use crate::harness::conformance::exchange::{Intent, MAX_SHOWN_CHARS, ProbeExchange};
use crate::harness::conformance::machine::is_clean;
use crate::harness::conformance::probe::Probe;
use crate::harness::conformance::verdict::{Judgement, Verdict};
use crate::model::text::on_one_line;
use crate::model::{Stage, SyncType};
use crate::protocol::json::{Enumeration as _, Field, Shape};
use crate::protocol::wire;

/// The largest `batch_size` that makes sense.
const MAX_BATCH: u64 = 5000;
/// The shortest interval between full syncs that clients keep, in seconds.
const MIN_INTERVAL: u64 = 60;
/// A week in seconds.
const MAX_INTERVAL: u64 = 7 * 24 * 60 * 60;
/// Names that later ones have replaced.
const DEPRECATED: [(&str, &[&str]); 11] = [
    ("bundles_enabled", &["enable_bundles", "enableBundles"]),
    ("enabled_transitive_whitelisting", &["enable_transitive_rules", "enableTransitiveRules"]),
    ("transitive_whitelisting_enabled", &["enable_transitive_rules", "enableTransitiveRules"]),
    ("whitelist_regex", &["allowed_path_regex", "allowedPathRegex"]),
    ("blacklist_regex", &["blocked_path_regex", "blockedPathRegex"]),
    ("fcm_full_sync_interval", &["push_notification_full_sync_interval"]),
    ("fcm_global_rule_sync_deadline", &["push_notification_global_rule_sync_deadline"]),
    ("clean_sync", &["sync_type", "syncType"]),
    ("block_usb_mount", &["removable_media_policy", "removableMediaPolicy"]),
    ("blockUsbMount", &["removable_media_policy", "removableMediaPolicy"]),
    ("remount_usb_mode", &["removable_media_policy", "removableMediaPolicy"]),
];
/// The same in rules.
const DEPRECATED_IN_RULES: [&str; 5] = [
    "sha256",
    "file_bundle_hash",
    "fileBundleHash",
    "file_bundle_binary_count",
    "fileBundleBinaryCount",
];

/// The first value of a member that is not null, by any of its names.
pub(super) fn member<'v>(message: &'v Value, names: &[&str]) -> Option<&'v Value> {
    names.iter().find_map(|name| message.get(name)).filter(|value| !value.is_null())
}

/// Preflights that were answered 200.
fn preflights(probe: &Probe) -> Vec<Arc<ProbeExchange>> {
    let mut exchanges = probe.client.exchanges();
    exchanges.retain(|exchange| exchange.stage == Some(Stage::Preflight) && exchange.is(200));
    exchanges
}

/// The worst verdict on the responses, each different one once.
fn each(probe: &Probe, judge: impl Fn(&Value) -> Judgement) -> Judgement {
    let mut worst: Option<Judgement> = None;
    for exchange in preflights(probe) {
        let Ok(message) = exchange.message() else { continue };
        let found = judge(&message);
        if worst.as_ref().is_none_or(|worst| found.verdict > worst.verdict) {
            worst = Some(found.at(exchange.number));
        }
    }
    match worst {
        Some(worst) if worst.verdict == Verdict::Pass => Judgement::pass(),
        Some(worst) => worst,
        None => Judgement::not_tested("no preflight got a 200"),
    }
}

/// PRE-01.
pub(super) fn readable(probe: &Probe) -> Judgement {
    let mut judgement = Judgement::not_tested("no preflight got a 200");
    for exchange in preflights(probe) {
        // The trials of forms were answered, too; ENC-04 is about those of protobuf.
        let is_trial = exchange.requirement == "ENC-01" && exchange.form.is_json();
        if exchange.intent != Intent::WellFormed && !is_trial {
            continue;
        }
        if let Err(why) = exchange.message() {
            return Judgement::fail(format!("preflight: {why}")).at(exchange.number);
        }
        let is_empty = exchange.answer().is_some_and(|answer| answer.wire.is_empty());
        judgement = if is_empty && exchange.form.is_json() {
            Judgement::info("preflight: the body is empty, so every setting stays as it is")
                .at(exchange.number)
        } else if judgement.verdict == Verdict::Info {
            judgement
        } else {
            Judgement::pass()
        };
    }
    judgement
}

/// PRE-02.
pub(super) fn types(probe: &Probe) -> Judgement {
    each(probe, |message| {
        let mut wrong = Vec::new();
        wrong_types(
            message,
            <wire::PreflightResponse as crate::protocol::json::Message>::FIELDS,
            "",
            &mut wrong,
        );
        if wrong.is_empty() { Judgement::pass() } else { Judgement::fail(wrong.join("; ")) }
    })
}

/// Names the members whose values have another type than the schema's.
pub(super) fn wrong_types(message: &Value, fields: &[Field], path: &str, wrong: &mut Vec<String>) {
    for field in fields {
        let json_name = field.key.trim_matches([':', '"']);
        let names = [json_name, field.name];
        let Some(value) = member(message, &names) else { continue };
        let name = names.iter().find(|name| message.get(**name).is_some()).unwrap_or(&field.name);
        let name = format!("{path}{name}");
        match (field.repeated, value) {
            (true, Value::Array(items)) => {
                for item in items {
                    wrong_type(item, &field.shape, &name, wrong);
                }
            }
            (true, _) => wrong.push(format!("{name} is {}, not a list", kind(value))),
            (false, _) => wrong_type(value, &field.shape, &name, wrong),
        }
    }
}

fn wrong_type(value: &Value, shape: &Shape, name: &str, wrong: &mut Vec<String>) {
    let number = || match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.parse::<f64>().ok(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    let whole = |low: f64, high: f64| {
        number().is_some_and(|n| n.fract() == 0.0 && (low..=high).contains(&n))
    };
    let (fits, expected) = match shape {
        Shape::Text => (value.is_string(), "text"),
        Shape::Bool => (value.is_boolean(), "true or false"),
        Shape::U32 => (whole(0.0, f64::from(u32::MAX)), "a number of 32 bits"),
        Shape::I32 => (whole(f64::from(i32::MIN), f64::from(i32::MAX)), "a number of 32 bits"),
        Shape::F64 => (number().is_some(), "a number"),
        Shape::Enum(_) => (value.is_string() || value.is_i64() || value.is_u64(), "a name"),
        Shape::Map => (value.is_object(), "an object"),
        Shape::Nested(fields) => {
            if value.is_object() {
                wrong_types(value, fields, &format!("{name}."), wrong);
                return;
            }
            (false, "an object")
        }
    };
    if !fits {
        wrong.push(format!("{name} is {}, not {expected}", shown(value)));
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

pub(super) fn shown(value: &Value) -> String {
    on_one_line(&value.to_string(), MAX_SHOWN_CHARS)
}

/// The client mode that a response sets, by its number.
pub(super) fn mode_of(message: &Value) -> Option<i64> {
    let value = member(message, &["client_mode", "clientMode"])?;
    let named = value.as_str().map(|name| {
        let known = wire::ClientMode::NAMES.iter().find(|(known, _)| *known == name);
        known.map_or(0, |(_, number)| i64::from(*number))
    });
    let number = named.or_else(|| value.as_i64())?;
    (1..=3).contains(&number).then_some(number)
}

/// PRE-03.
pub(super) fn client_mode(probe: &Probe) -> Judgement {
    each(probe, |message| match member(message, &["client_mode", "clientMode"]) {
        None => Judgement::info("no client_mode: clients keep theirs"),
        Some(Value::String(name)) => {
            let known = wire::ClientMode::NAMES.iter().find(|(known, _)| known == name);
            match known {
                Some((_, 0)) => Judgement::info(format!("{name}: clients keep their mode")),
                Some(_) => Judgement::pass(),
                None => Judgement::fail(format!("client_mode is {name:?}")),
            }
        }
        Some(Value::Number(number)) => match number.as_i64() {
            Some(0) => Judgement::info("client_mode 0: clients keep theirs"),
            Some(1..=3) => Judgement::pass(),
            Some(_) | None => Judgement::fail(format!("client_mode is {number}")),
        },
        // Its type is PRE-02's.
        Some(Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_)) => {
            Judgement::pass()
        }
    })
}

/// PRE-04.
pub(super) fn sync_type(probe: &Probe) -> Judgement {
    each(probe, sync_type_of)
}

fn sync_type_of(message: &Value) -> Judgement {
    let clean_sync = member(message, &["clean_sync", "cleanSync"]).and_then(Value::as_bool);
    let Some(value) = member(message, &["sync_type", "syncType"]) else {
        return Judgement::info(match clean_sync {
            Some(_) => "clean_sync is sent instead of sync_type",
            None => "no sync_type: the sync is NORMAL",
        });
    };
    let number = match value {
        Value::String(name) => {
            let known = wire::SyncType::NAMES.iter().find(|(known, _)| known == name);
            known.map(|(_, number)| i64::from(*number))
        }
        Value::Number(number) => number.as_i64(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    let sync_type = match number {
        Some(1) => SyncType::Normal,
        Some(2) => SyncType::Clean,
        Some(3) => SyncType::CleanAll,
        Some(0) => return Judgement::info("sync_type is unspecified: the sync is NORMAL"),
        Some(4..=6) => {
            return Judgement::warning(format!("sync_type {value}: clients treat it as NORMAL"));
        }
        Some(_) | None => return Judgement::fail(format!("sync_type is {}", shown(value))),
    };
    match clean_sync {
        Some(clean) if clean != is_clean(sync_type) => Judgement::warning(format!(
            "sync_type {value} and clean_sync {clean} contradict each other"
        )),
        _ => Judgement::pass(),
    }
}

/// PRE-05.
pub(super) fn values(probe: &Probe) -> Judgement {
    each(probe, |message| {
        let complaints = odd_values(message);
        if complaints.is_empty() {
            Judgement::pass()
        } else {
            Judgement::warning(complaints.join("; "))
        }
    })
}

fn number_of(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

fn odd_values(message: &Value) -> Vec<String> {
    let mut complaints = Vec::new();
    let number = |names: &[&str]| member(message, names).and_then(number_of);
    if let Some(batch) = number(&["batch_size", "batchSize"]).filter(|n| *n > MAX_BATCH) {
        complaints.push(format!("batch_size {batch}: uploads of many MiB"));
    }
    let interval = number(&["full_sync_interval", "full_sync_interval_seconds"]);
    match interval {
        Some(seconds @ 1..MIN_INTERVAL) => {
            complaints.push(format!("full_sync_interval {seconds} s: clients take 60 s"));
        }
        Some(seconds) if seconds > MAX_INTERVAL => {
            complaints.push(format!("full_sync_interval {seconds} s is more than a week"));
        }
        Some(_) | None => {}
    }
    let policy = member(message, &["removable_media_policy", "removableMediaPolicy"]);
    if let Some(policy) = policy.filter(|policy| policy.is_object()) {
        let is_set = |name: &&&str| {
            policy.get(**name).is_some_and(|value| !value.is_null() && *value != Value::Bool(false))
        };
        let actions: Vec<_> =
            ["allow", "block", "remount"].iter().filter(is_set).copied().collect();
        if actions.len() != 1 {
            let given = actions.len();
            complaints.push(format!("removable_media_policy has {given} actions instead of one"));
        }
        let block = member(message, &["block_usb_mount", "blockUsbMount"]).and_then(Value::as_bool);
        if let (Some(block), [action]) = (block, actions.as_slice())
            && block == (*action == "allow")
        {
            complaints.push(format!(
                "block_usb_mount {block} and removable_media_policy {action} contradict each other"
            ));
        }
    }
    let url = member(message, &["event_detail_url", "eventDetailUrl"]).and_then(Value::as_str);
    let is_http = |url: &str| {
        let url = url.to_ascii_lowercase();
        url.starts_with("https://") || url.starts_with("http://")
    };
    if let Some(url) = url.filter(|url| !url.is_empty() && !is_http(url)) {
        complaints
            .push(format!("event_detail_url {} is not an http URL", shown(&Value::from(url))));
    }
    complaints
}

/// PRE-06.
pub(super) fn path_expressions(probe: &Probe) -> Judgement {
    each(probe, |message| {
        let mut judgement = Judgement::pass();
        let names: [(&str, &[&str], bool); 2] = [
            (
                "allowed_path_regex",
                &["allowed_path_regex", "allowedPathRegex", "whitelist_regex"],
                false,
            ),
            (
                "blocked_path_regex",
                &["blocked_path_regex", "blockedPathRegex", "blacklist_regex"],
                true,
            ),
        ];
        for (name, spellings, blocks) in names {
            // Text of another type is PRE-02's.
            let value = member(message, spellings).and_then(Value::as_str);
            let Some(expression) = value else { continue };
            judgement = judgement.and(regex::judge(name, expression, blocks));
        }
        judgement
    })
}

/// PRE-12.
pub(super) fn deprecated_names(probe: &Probe) -> Judgement {
    let in_settings = each(probe, |message| {
        let old: Vec<_> = DEPRECATED
            .iter()
            .filter(|(old, new)| {
                member(message, &[*old]).is_some() && member(message, new).is_none()
            })
            .map(|(old, _)| *old)
            .collect();
        if old.is_empty() {
            Judgement::pass()
        } else {
            Judgement::info(format!(
                "preflight has {} without the names that replace them",
                old.join(", ")
            ))
        }
    });
    let pages = probe.first_walk().map(|walk| walk.pages.clone()).unwrap_or_default();
    let mut old = Vec::new();
    for rule in pages.iter().filter_map(|page| page.message().ok()).flat_map(rules_of) {
        let names = DEPRECATED_IN_RULES.iter().filter(|name| rule.get(**name).is_some());
        let policy = rule.get("policy").and_then(Value::as_str).unwrap_or_default();
        let policy =
            [policy].into_iter().filter(|p| p.contains("WHITELIST") || p.contains("BLACKLIST"));
        for name in names.copied().chain(policy) {
            if !old.iter().any(|known| known == name) {
                old.push(name.to_owned());
            }
        }
    }
    if old.is_empty() {
        return in_settings;
    }
    in_settings.and(Judgement::info(format!("rules have the deprecated names {}", old.join(", "))))
}

/// The rules of a page's message.
pub(super) fn rules_of(message: Value) -> Vec<Value> {
    match message {
        Value::Object(mut members) => match members.remove("rules") {
            Some(Value::Array(rules)) => rules,
            _ => Vec::new(),
        },
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn members_of_another_type_are_named_in_either_spelling() {
        let fields = <wire::PreflightResponse as crate::protocol::json::Message>::FIELDS;
        for (message, expected) in [
            (json!({"batch_size": 50, "enableBundles": true, "clientMode": 1}), ""),
            (json!({"batch_size": "50", "full_sync_interval": null}), ""),
            (json!({"batch_size": "fifty"}), "batch_size is \"fifty\", not a number of 32 bits"),
            (json!({"batchSize": -1}), "batchSize is -1, not a number of 32 bits"),
            (json!({"enable_bundles": "true"}), "enable_bundles is \"true\", not true or false"),
            (json!({"remount_usb_mode": "noexec"}), "remount_usb_mode is text, not a list"),
            (
                json!({"removable_media_policy": {"remount": {"flags": [1]}}}),
                "removable_media_policy.remount.flags is 1, not text",
            ),
        ] {
            let mut wrong = Vec::new();
            wrong_types(&message, fields, "", &mut wrong);
            assert_eq!(wrong.join("; "), expected, "{message}");
        }
    }

    #[test]
    fn each_sync_type_has_its_verdict() {
        for (message, verdict) in [
            (json!({"sync_type": "NORMAL"}), Verdict::Pass),
            (json!({"syncType": "clean_all"}), Verdict::Pass),
            (json!({"sync_type": 2, "clean_sync": true}), Verdict::Pass),
            (json!({"clean_sync": true}), Verdict::Info),
            (json!({}), Verdict::Info),
            (json!({"sync_type": "CLEAN_RULES"}), Verdict::Warning),
            (json!({"sync_type": "NORMAL", "clean_sync": true}), Verdict::Warning),
            (json!({"sync_type": "everything"}), Verdict::Fail),
        ] {
            assert_eq!(sync_type_of(&message).verdict, verdict, "{message}");
        }
    }

    #[test]
    fn values_that_make_little_sense_are_named() {
        for message in [
            json!({"batch_size": 5001}),
            json!({"full_sync_interval": 59}),
            json!({"full_sync_interval": 604_801}),
            json!({"removable_media_policy": {"allow": true, "block": true}}),
            json!({"removable_media_policy": {"allow": true}, "block_usb_mount": true}),
            json!({"event_detail_url": "santa.example.com/%file_sha%"}),
        ] {
            assert_eq!(odd_values(&message).len(), 1, "{message}");
        }
        let sensible = json!({
            "batch_size": 0, "full_sync_interval": 600, "block_usb_mount": true,
            "removable_media_policy": {"remount": {"flags": ["noexec"]}},
            "event_detail_url": "https://santa.example.com/%file_sha%"
        });
        assert_eq!(odd_values(&sensible), [""; 0]);
    }
}
