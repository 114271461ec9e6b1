//! ERR-01 to ERR-04.

use serde_json::Value;

use super::settings::shown;
use crate::harness::conformance::client::{Credentials, ProbeRequest};
use crate::harness::conformance::exchange::{BreakKind, Intent, ProbeExchange};
use crate::harness::conformance::machine::Wish;
use crate::harness::conformance::message::Message;
use crate::harness::conformance::probe::{Checked, Probe};
use crate::harness::conformance::verdict::Judgement;
use crate::model::Stage;
use crate::model::text::counted;

/// Members by which servers report an error.
const ERROR_MEMBERS: [&str; 4] = ["error", "errors", "errorMessage", "error_message"];
/// How many requests a summary names.
const MAX_NAMED: usize = 5;

/// The error that a message reports.
pub(super) fn error_member(message: &Value) -> Option<(&'static str, &Value)> {
    let is_empty = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    };
    ERROR_MEMBERS.iter().find_map(|name| {
        let value = message.get(*name).filter(|value| !is_empty(value))?;
        Some((*name, value))
    })
}

/// ERR-01, over all exchanges.
pub(super) fn no_error_in_200(probe: &Probe) -> Judgement {
    let of_stage = |exchange: &&std::sync::Arc<ProbeExchange>| {
        exchange.stage.is_some() && exchange.form.is_json() && exchange.is(200)
    };
    let exchanges = probe.client.exchanges();
    for exchange in exchanges.iter().filter(of_stage) {
        let Ok(message) = exchange.message() else { continue };
        if let Some((name, value)) = error_member(&message) {
            let stage = exchange.stage.map_or("", Stage::name);
            let value = probe.client.redact(&shown(value));
            let said = format!("{stage}: 200 with {name} {value}");
            let harm = match exchange.stage {
                Some(Stage::EventUpload) => {
                    "agents take 200 as success and delete the events they uploaded"
                }
                Some(Stage::RuleDownload) => {
                    "agents take it as a page without rules, and the download as complete"
                }
                Some(Stage::Postflight) => {
                    "the agent believes that the sync is complete, but the server does not"
                }
                Some(Stage::Preflight) | None => {
                    "agents take it for a preflight response without settings, and go on with \
                     default settings"
                }
            };
            return Judgement::fail(said).harms(harm).at(exchange.number);
        }
    }
    Judgement::pass()
}

/// ERR-02, over all exchanges.
pub(super) fn summary_of_5xx(probe: &Probe) -> Judgement {
    let failed: Vec<_> = probe
        .client
        .exchanges()
        .into_iter()
        .filter(|exchange| exchange.intent != Intent::Aside)
        .filter(|exchange| match &exchange.outcome {
            Ok(_) => exchange.is_server_error(),
            // Without a connection there was no mistake that it could answer.
            Err(broken) => broken.kind != BreakKind::Connect,
        })
        .collect();
    if failed.is_empty() {
        return Judgement::pass();
    }
    let mut named: Vec<String> = Vec::new();
    for exchange in &failed {
        let what = exchange.stage.map_or("another path", Stage::name);
        let name = format!("{what} for {}: {}", exchange.requirement, exchange.ended());
        if !named.contains(&name) {
            named.push(name);
        }
    }
    let more = named.len().saturating_sub(MAX_NAMED);
    let more = match more {
        0 => String::new(),
        more => format!("; and {}", counted(more as u64, "more kind")),
    };
    named.truncate(MAX_NAMED);
    let said = format!(
        "{} got a 5xx or no response: {}{more}",
        counted(failed.len() as u64, "request"),
        named.join("; ")
    );
    // Each of these requests was made for another requirement, which judges its response.
    let mut judgement = Judgement::info(said);
    judgement.exchanges = failed.iter().take(MAX_NAMED).map(|exchange| exchange.number).collect();
    judgement
}

/// ERR-03.
pub(super) async fn without_credential(probe: &Probe, id: &'static str) -> Checked {
    let given = probe.client.credentials();
    if given.is_empty() {
        return Ok(Judgement::not_applicable("the configuration has no credential"));
    }
    let mut judgement = Judgement::pass();
    for (what, credentials) in
        [("without its credential", Credentials::Left), ("with a wrong one", Credentials::Altered)]
    {
        let what = format!("preflight {what} ({})", given.join(", "));
        let machine = probe.machine(id);
        let message = machine.preflight_message(Wish::Clean);
        let message = Message::of(machine.form.transfer, &message);
        let request = ProbeRequest {
            intent: Intent::Aside,
            credentials,
            ..machine.request(Stage::Preflight, message)
        };
        let exchange = probe.client.send(request).await;
        let found = match &exchange.outcome {
            // A server may end the handshake with whoever shows no certificate.
            Err(_) if given.iter().any(|given| given == "client certificate") => continue,
            Err(broken) => Judgement::warning(format!("{what}: {}", broken.what))
                .harms("an agent with a wrong credential cannot report that as the reason"),
            Ok(answer) => match answer.status {
                401 | 403 | 404 => continue,
                200 => Judgement::fail(format!("{what}: 200")),
                status => Judgement::warning(format!("{what}: {status}"))
                    .harms("an agent with a wrong credential cannot report that as the reason"),
            },
        };
        judgement = judgement.and(found.at(exchange.number));
    }
    Ok(judgement)
}

/// ERR-04.
pub(super) async fn xsrf(probe: &Probe, id: &'static str) -> Checked {
    let mut machine = probe.machine(id);
    let exchange = machine.xsrf().await;
    if exchange.is_refused() {
        return Ok(Judgement::pass());
    }
    let Some(answer) = exchange.answer().filter(|answer| answer.status == 200) else {
        let said = format!("POST xsrf/MACHINE_ID: {}", exchange.ended());
        return Ok(Judgement::warning(said).at(exchange.number));
    };
    if answer.header("x-xsrf-token").is_none_or(str::is_empty) {
        let said = "POST xsrf/MACHINE_ID: 200 without the header X-XSRF-TOKEN";
        return Ok(Judgement::warning(said).at(exchange.number));
    }
    let mut machine = probe.machine(id);
    let message = machine.preflight_message(Wish::Clean);
    let message = Message::of(machine.form.transfer, &message);
    let request = machine.request(Stage::Preflight, message);
    let request = ProbeRequest { intent: Intent::Provoking, ..request };
    let bare = machine.send(request.clone()).await;
    if !bare.is(403) || !machine.fetch_token().await {
        return Ok(Judgement::pass());
    }
    let with_token = machine.send(request).await;
    if !with_token.is(200) {
        let said = format!("preflight with the token of xsrf/MACHINE_ID: {}", with_token.ended());
        let harm = "no agent gets past preflight";
        return Ok(Judgement::fail(said).harms(harm).at(with_token.number));
    }
    Ok(match machine.walk().await {
        Ok(_) => Judgement::pass(),
        Err(broken) => super::failed(probe, "with the token of preflight", &broken),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_error_is_found_where_it_says_something() {
        assert!(error_member(&json!({"error": "no such host"})).is_some());
        assert!(error_member(&json!({"errors": [{"code": 7}]})).is_some());
        for fine in [json!({"Err": null}), json!({"error": null}), json!({"errors": []}), json!({})]
        {
            assert_eq!(error_member(&fine), None, "{fine}");
        }
    }
}
