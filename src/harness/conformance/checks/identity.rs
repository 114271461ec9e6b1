//! ID-01 to ID-05.

use std::sync::Arc;

use crate::harness::conformance::client::ProbeRequest;
use crate::harness::conformance::exchange::{Intent, ProbeExchange};
use crate::harness::conformance::machine::{Members, ProbeMachine, Wish, accepted};
use crate::harness::conformance::message::Message;
use crate::harness::conformance::probe::{Checked, Probe};
use crate::harness::conformance::verdict::Judgement;
use crate::model::Stage;
use crate::protocol::wire;

/// Machine ids as administrators set them.
const OTHER_IDS: [&str; 2] = ["C02PROBE", "Büro Probe "];

/// ID-01, after the forms were tried.
pub(super) async fn upper_case_uuid(probe: &Probe, id: &'static str) -> Checked {
    if let Some(first) = probe.trials_of_the_machine().first().map(|trial| &trial.exchange) {
        let ended = first.ended();
        let said = if probe.takes_lower_case() {
            Some(format!(
                "preflight with a machine id in upper case gets {ended}, in lower case it is \
                 accepted"
            ))
        } else if probe.refuses_the_machine() && !probe.met_a_useless_token() {
            Some(format!("the ids of --machine-id get {ended}"))
        } else {
            None
        };
        if let Some(said) = said {
            return Ok(Judgement::fail(said).at(first.number));
        }
    }
    let mut machine = probe.machine(id);
    machine.preflight(Wish::Clean).await?;
    if probe.options.machine_ids.is_empty() {
        return Ok(Judgement::pass());
    }
    Ok(Judgement::info("tested with the ids of --machine-id"))
}

/// ID-02.
pub(super) async fn other_ids(probe: &Probe, id: &'static str) -> Checked {
    probe.new_machine(id)?;
    let mut judgement = Judgement::pass();
    for start in OTHER_IDS {
        let machine_id = format!("{start}{:04}", probe.random_below(10_000));
        probe.note_id(&machine_id);
        let exchange = preflight_of(probe, id, machine_id.clone()).await;
        let said = format!("machine id {machine_id:?}: {}", exchange.ended());
        let found = if accepted(&exchange).is_ok() {
            Judgement::pass()
        } else if exchange.is_server_error() {
            Judgement::warning(said).at(exchange.number)
        } else {
            Judgement::info(said).at(exchange.number)
        };
        judgement = judgement.and(found);
    }
    Ok(judgement)
}

/// A preflight of a machine that the server may refuse.
pub(in crate::harness::conformance) async fn preflight_of(
    probe: &Probe,
    id: &'static str,
    machine_id: String,
) -> Arc<ProbeExchange> {
    let mut machine = ProbeMachine::new(probe, id, machine_id);
    let message = machine.preflight_message(Wish::Clean);
    let message = Message::of(machine.form.transfer, &message);
    let request = machine.request(Stage::Preflight, message);
    let request = ProbeRequest { intent: Intent::Provoking, ..request };
    let exchange = machine.send(request.clone()).await;
    if exchange.is(403) && probe.hands_out_tokens() && machine.fetch_token().await {
        return machine.send(request).await;
    }
    exchange
}

/// ID-03.
pub(super) async fn without_id_in_the_body(probe: &Probe, id: &'static str) -> Checked {
    probe.unless_without_pages()?;
    let mut machine = probe.machine(id);
    machine.writes = Members::WithoutId;
    match machine.sync_if_it_ends().await {
        Ok(()) => Ok(Judgement::pass()),
        Err(broken) => {
            let mut with = probe.machine(id);
            with.sync_if_it_ends().await?;
            let judgement =
                Judgement::warning(format!("without machine_id in the body, {}", broken.said));
            Ok(broken.exchange.map_or(judgement.clone(), |at| judgement.at(at)))
        }
    }
}

/// ID-04, where unknown machines are refused.
pub(super) async fn unknown_machine(probe: &Probe, id: &'static str) -> Checked {
    if probe.options.machine_ids.is_empty() {
        return Ok(Judgement::not_applicable("new machine ids are accepted"));
    }
    let machine_id = probe.fresh_id();
    let exchange = preflight_of(probe, id, machine_id).await;
    let judgement = match exchange.status() {
        Some(200) => match exchange.message() {
            Ok(message) if super::errors::error_member(&message).is_some() => {
                Judgement::fail("an unknown machine gets 200 with an error in it")
                    .harms("unknown hosts believe that they have synced")
            }
            Ok(_) => return Ok(Judgement::not_applicable("new machine ids are accepted")),
            Err(why) => Judgement::fail(format!("an unknown machine gets 200, but {why}")),
        },
        Some(400..=404) if exchange.outcome.is_ok() => return Ok(Judgement::pass()),
        _ if exchange.is_server_error() => {
            Judgement::warning(format!("an unknown machine gets {}", exchange.ended()))
                .harms("unknown hosts keep retrying")
        }
        _ => return Ok(Judgement::pass()),
    };
    Ok(judgement.at(exchange.number))
}

/// ID-05.
pub(super) async fn no_preflight_before(probe: &Probe, id: &'static str) -> Checked {
    let mut judgement = Judgement::pass();
    for stage in [Stage::RuleDownload, Stage::Postflight, Stage::EventUpload] {
        if stage == Stage::EventUpload && !probe.options.events {
            continue;
        }
        let mut machine = probe.new_machine(id)?;
        let machine_id = machine.id.clone();
        let transfer = machine.form.transfer;
        let request = match stage {
            Stage::RuleDownload => {
                let message = wire::RuleDownloadRequest { cursor: String::new(), machine_id };
                machine.request(stage, Message::of(transfer, &message))
            }
            Stage::EventUpload => machine.upload_request(wire::EventUploadRequest {
                events: vec![probe.small_event()],
                ..wire::EventUploadRequest::default()
            }),
            Stage::Preflight | Stage::Postflight => {
                let (rules_hash, _) = machine.table.hash_and_counts();
                let message = wire::PostflightRequest {
                    machine_id,
                    sync_type: wire::SyncType::Normal.into(),
                    rules_hash,
                    ..wire::PostflightRequest::default()
                };
                machine.request(stage, Message::of(transfer, &message))
            }
        };
        let exchange = machine.send(ProbeRequest { intent: Intent::Provoking, ..request }).await;
        if exchange.is_server_error() {
            let said = format!("{stage} of a machine without preflight: {}", exchange.ended());
            judgement = judgement.and(Judgement::warning(said).at(exchange.number));
        }
    }
    Ok(judgement)
}
