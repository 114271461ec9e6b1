//! ENC-01 to ENC-09.

use std::sync::Arc;

use serde_json::json;

use super::preflight::confirmed;
use super::sync_without_owner;
use crate::harness::conformance::client::ProbeRequest;
use crate::harness::conformance::exchange::{Intent, ProbeExchange};
use crate::harness::conformance::form::Form;
use crate::harness::conformance::machine::{Broken, Members, ProbeMachine, Wish, accepted};
use crate::harness::conformance::message::Message;
use crate::harness::conformance::probe::{Checked, FormTrial, Probe};
use crate::harness::conformance::verdict::{Judgement, Verdict};
use crate::model::text::counted;
use crate::model::{ContentEncoding, Stage, Transfer};

/// How often a damaged body is tried: whether a server waits for the rest can depend on the
/// bytes.
const DAMAGED_TRIES: usize = 5;
/// What a 5xx to a form that is not supported leads to.
const LIKE_AN_OUTAGE: &str = "agents retry it for more than a minute, and it looks like an outage";
/// What no encoding makes sense of.
const GARBAGE: &[u8] = b"\x93\xfe\x00santa-conformance-probe\xff\x81";

/// One preflight in this form, for ENC-01 to ENC-04 and the choice of the form to work in.
pub(in crate::harness::conformance) async fn try_form(probe: &Probe, form: Form) -> FormTrial {
    let mut machine = probe.machine("ENC-01").in_form(form);
    let message = machine.preflight_message(Wish::Clean);
    let message = Message::of(form.transfer, &message);
    let request = machine.request(Stage::Preflight, message);
    // A refusal of this form is no failure of the server.
    let request = ProbeRequest { intent: Intent::Provoking, ..request };
    let mut exchange = machine.send(request.clone()).await;
    if exchange.is(403) && probe.hands_out_tokens() && machine.fetch_token().await {
        exchange = machine.send(request).await;
    }
    let accepted = exchange.is(200) && exchange.message().is_ok();
    FormTrial { form, exchange, accepted }
}

fn trial(probe: &Probe, transfer: Transfer, encoding: ContentEncoding) -> Option<FormTrial> {
    let form = Form { transfer, encoding };
    probe.trials().into_iter().find(|trial| trial.form == form)
}

/// The verdict on a form of which no trial tells anything.
fn untold(probe: &Probe) -> Judgement {
    if probe.trials().iter().any(|trial| trial.accepted) {
        let said = "a preflight that was accepted is refused when it is sent again";
        return Judgement::blocked("PRE-11", said);
    }
    Judgement::not_tested("not tried")
}

/// ENC-01 to ENC-03.
pub(super) fn json_is_accepted(probe: &Probe, encoding: ContentEncoding) -> Judgement {
    let Some(trial) = trial(probe, Transfer::Json, encoding) else {
        return untold(probe);
    };
    if trial.accepted {
        return Judgement::pass();
    }
    if trial.exchange.is(200) {
        return Judgement::blocked("PRE-01", "accepted, but the response is unreadable");
    }
    let ended = refusal(probe, &trial);
    let another_works = probe.options.form.is_some_and(|declared| declared != trial.form)
        && probe.trials().iter().any(|trial| trial.accepted);
    let judgement = match encoding {
        _ if probe.options.form == Some(trial.form) => asked_for_in_vain(&trial, &ended),
        ContentEncoding::Deflate if another_works => Judgement::warning(ended),
        ContentEncoding::Deflate => Judgement::fail(ended),
        ContentEncoding::Gzip | ContentEncoding::None => Judgement::warning(ended),
    };
    judgement.at(trial.exchange.number)
}

/// How a form was refused, the likely reason, and which forms are accepted.
fn refusal(probe: &Probe, trial: &FormTrial) -> String {
    let trials = probe.trials();
    let accepted: Vec<_> =
        trials.iter().filter(|trial| trial.accepted).map(|trial| trial.form).collect();
    let takes = |is_meant: fn(&Form) -> bool| {
        let transfer = trial.form.transfer;
        accepted.iter().filter(|form| form.transfer == transfer).any(is_meant)
    };
    let (body, hint) = match trial.form.encoding {
        ContentEncoding::Deflate => ("a deflate body with its zlib wrapper", true),
        ContentEncoding::Gzip => ("a gzip body", true),
        ContentEncoding::None => ("a body without Content-Encoding", false),
    };
    let hint = if hint && takes(|form| !form.is_compressed()) {
        "; the same message is accepted uncompressed: the component that reads the body, often a \
         body parser or a proxy in front of the application, does not decompress it"
    } else if !hint && takes(|form| form.is_compressed()) {
        "; the same message is accepted compressed: the component that reads the body seems to \
         decompress it whatever its Content-Encoding"
    } else if takes(|_| true) {
        ""
    } else if trial.form.is_json() {
        "; no JSON body is accepted, whatever its Content-Encoding"
    } else {
        "; no protobuf body is accepted, whatever its Content-Encoding"
    };
    let transfer = if trial.form.is_json() { "JSON" } else { "protobuf" };
    let accepted = in_words(&accepted, trial.form == Form::DEFAULT);
    format!("{} to {body} in {transfer}{hint}{accepted}", trial.exchange.ended())
}

/// Names the accepted forms, and if `is_asked` the keys that agents must set for the first.
fn in_words(accepted: &[Form], is_asked: bool) -> String {
    let Some((first, others)) = accepted.split_first() else {
        return "; no form is accepted".to_owned();
    };
    let mut names = vec![first.name().to_owned()];
    if is_asked {
        let encoding = first.header().unwrap_or("none");
        let keys = [
            (!first.is_json()).then(|| "SyncEnableProtoTransfer = true".to_owned()),
            (Some(encoding) != Form::DEFAULT.header())
                .then(|| format!("SyncClientContentEncoding = {encoding}")),
        ];
        let keys: Vec<_> = keys.into_iter().flatten().collect();
        names[0] = format!("{first} (agents need {})", keys.join(" and "));
    }
    names.extend(others.iter().map(|form| form.name().to_owned()));
    format!("; accepted: {}", names.join(", "))
}

/// The verdict on a refused form that the run was asked to use.
fn asked_for_in_vain(trial: &FormTrial, ended: &str) -> Judgement {
    Judgement::fail(format!("the run was asked to use {}: {ended}", trial.form))
        .harms("agents that are configured for this form cannot sync")
}

/// ENC-04, over all exchanges: ENC-05 goes through every stage in every form.
pub(super) fn protobuf(probe: &Probe) -> Checked {
    probe.unless_preflight_broken()?;
    let is_protobuf = |exchange: &&Arc<ProbeExchange>| {
        let is_trial = exchange.requirement == "ENC-01";
        let is_meant = exchange.intent == Intent::WellFormed || is_trial;
        is_meant && exchange.stage.is_some() && !exchange.form.is_json() && exchange.is(200)
    };
    let exchanges = probe.client.exchanges();
    let unreadable = exchanges
        .iter()
        .filter(is_protobuf)
        .find_map(|exchange| Some((exchange, exchange.message().err()?)));
    if let Some((exchange, why)) = unreadable {
        let stage = exchange.stage.map_or("", Stage::name);
        let said = format!("{stage} in {}: {why}", exchange.form);
        if super::settings::readable(probe).verdict == Verdict::Fail {
            // It is as unreadable in JSON.
            return Ok(Judgement::blocked("PRE-01", said));
        }
        return Ok(Judgement::fail(said).at(exchange.number));
    }
    let trials = probe.trials();
    let trials = trials.iter().filter(|trial| !trial.form.is_json());
    let asked = trials.clone().find(|trial| probe.options.form == Some(trial.form));
    if let Some(trial) = asked.filter(|trial| !trial.accepted) {
        let judgement = asked_for_in_vain(trial, &refusal(probe, trial));
        return Ok(judgement.at(trial.exchange.number));
    }
    if trials.clone().any(|trial| trial.accepted) {
        return Ok(Judgement::pass());
    }
    if trials.clone().next().is_none() {
        return Ok(untold(probe));
    }
    let mut ended: Vec<_> = trials.map(|trial| trial.exchange.ended()).collect();
    ended.dedup();
    Ok(Judgement::info(format!("preflight in protobuf: {}", ended.join(", "))))
}

/// Whether a 200 was not the message it should be.
fn is_unreadable(broken: &Broken) -> bool {
    matches!(broken.by, "PRE-01" | "RULE-01" | "EVENT-10" | "POST-01")
}

/// ENC-05.
pub(super) async fn every_stage_of_a_form(probe: &Probe, id: &'static str) -> Checked {
    probe.unless_without_pages()?;
    let mut judgement = Judgement::pass();
    // The other checks work in the form of the run.
    let others = |trial: &FormTrial| trial.accepted && trial.form != probe.form();
    for trial in probe.trials().into_iter().filter(others) {
        let mut machine = probe.machine(id).in_form(trial.form);
        if let Err(broken) = two_syncs(&mut machine).await {
            if judgement.verdict == Verdict::Pass {
                // The form is the reason only if the form of the run does not break as well.
                two_syncs(&mut probe.machine(id)).await?;
            }
            if is_unreadable(&broken) {
                judgement = judgement.and(broken.into());
                continue;
            }
            let found = Judgement::fail(format!(
                "in {}, which preflight accepts: {}",
                trial.form, broken.said
            ));
            let found = broken.exchange.map_or(found.clone(), |at| found.at(at));
            judgement = judgement.and(found);
        }
    }
    Ok(judgement)
}

/// Every stage in a clean sync and the next one, as far as the pages end.
async fn two_syncs(machine: &mut ProbeMachine<'_>) -> Result<(), Broken> {
    let preflight = machine.preflight(Wish::Clean).await?;
    if machine.probe.options.events {
        machine.upload_one().await?;
    }
    if machine.probe.base().is_err() {
        return machine.first_page().await.map(|_| ());
    }
    let walk = machine.walk().await?;
    machine.commit(preflight.sync_type, &walk);
    machine.postflight(preflight.sync_type, &walk).await?;
    machine.sync(Wish::Nothing).await?;
    Ok(())
}

/// ENC-06.
pub(super) async fn unsupported_forms(probe: &Probe, id: &'static str) -> Checked {
    let mut judgement = Judgement::pass();
    for trial in probe.trials().iter().filter(|trial| !trial.accepted) {
        if trial.exchange.is_server_error() {
            let said = format!("preflight in {}: {}", trial.form, trial.exchange.ended());
            let found = Judgement::warning(said).harms(LIKE_AN_OUTAGE);
            judgement = judgement.and(found.at(trial.exchange.number));
        }
    }
    let mut machine = probe.machine(id);
    let labelled = |machine: &ProbeMachine<'_>, encoding: &str, wire: Vec<u8>| {
        let request = machine.request_of_bytes(Stage::Preflight, wire.clone());
        ProbeRequest {
            intent: Intent::Provoking,
            content_encoding: Some(encoding.to_owned()),
            wire,
            ..request
        }
    };
    let request = labelled(&machine, "br", GARBAGE.to_vec());
    let brotli = machine.send(request).await;
    if brotli.is(200) {
        let said = "preflight with Content-Encoding br, and a body that is not brotli: 200";
        let found = Judgement::fail(said).harms("agents take it as success, but nothing was read");
        judgement = judgement.and(found.at(brotli.number));
    } else if brotli.is_server_error() {
        let said = format!("preflight with Content-Encoding br: {}", brotli.ended());
        let found = Judgement::warning(said).harms(LIKE_AN_OUTAGE);
        judgement = judgement.and(confirmed(&mut machine, &brotli, found).await?);
    }
    let message = machine.preflight_message(Wish::Clean);
    let plain = Message::of(machine.form.transfer, &message).bytes();
    let request = labelled(&machine, "deflate", raw_deflate(&plain));
    let raw = machine.send(request).await;
    if raw.is_server_error() {
        let said = format!("preflight with deflate data without the zlib wrapper: {}", raw.ended());
        let found = Judgement::warning(said).harms(LIKE_AN_OUTAGE);
        judgement = judgement.and(confirmed(&mut machine, &raw, found).await?);
    }
    Ok(judgement)
}

/// Deflate data without a wrapper, which some take the name for.
fn raw_deflate(plain: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let level = flate2::Compression::default();
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), level);
    // Writing to memory does not fail.
    let _ = encoder.write_all(plain);
    encoder.finish().unwrap_or_default()
}

/// ENC-07.
pub(super) async fn damaged_bodies(probe: &Probe, id: &'static str) -> Checked {
    let mut judgement = Judgement::pass();
    if probe.form().is_compressed() {
        let machine_id = probe.machine(id).id;
        let tries = (0..DAMAGED_TRIES)
            .map(|place| half_a_body(ProbeMachine::new(probe, id, machine_id.clone()), place));
        let tries: Vec<_> = tries.collect();
        // At once: each may take as long as a request may.
        for exchange in all(tries).await {
            judgement = judgement
                .and(refused_at_once("preflight with part of its compressed body", &exchange));
        }
    }
    let mut machine = probe.machine(id);
    let broken_message: &[u8] = if probe.form().is_json() {
        b"{\"serial_num\":"
    } else {
        // The first field, said to be longer than the rest.
        b"\x0a\x7fPROBE"
    };
    let request = machine.request_of_bytes(Stage::Preflight, broken_message.to_vec());
    let exchange = machine.send(ProbeRequest { intent: Intent::Provoking, ..request }).await;
    judgement =
        judgement.and(refused_at_once("preflight with a message that breaks off", &exchange));
    if probe.options.events {
        machine.preflight(Wish::Clean).await?;
        let broken_message: &[u8] = if probe.form().is_json() {
            b"{\"events\":[{\"file_sha256\":"
        } else {
            b"\x0a\x7fPROBE"
        };
        let request = machine.request_of_bytes(Stage::EventUpload, broken_message.to_vec());
        let exchange = machine.send(ProbeRequest { intent: Intent::Provoking, ..request }).await;
        judgement = judgement
            .and(refused_at_once("event_upload with a message that breaks off", &exchange));
    }
    Ok(judgement)
}

async fn half_a_body(mut machine: ProbeMachine<'_>, place: usize) -> Arc<ProbeExchange> {
    let mut request = machine.request(Stage::Preflight, preflight_of(&machine));
    request.intent = Intent::Provoking;
    // From a third to two thirds.
    let kept = request.wire.len() * (DAMAGED_TRIES + place) / (3 * DAMAGED_TRIES);
    request.wire.truncate(kept.max(1));
    machine.send(request).await
}

/// Runs futures at once.
async fn all<T>(futures: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut futures: Vec<_> = futures.into_iter().map(Box::pin).collect();
    let mut done: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|cx| {
        for (future, done) in futures.iter_mut().zip(&mut done) {
            if done.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(cx)
            {
                *done = Some(value);
            }
        }
        if done.iter().all(Option::is_some) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    done.into_iter().flatten().collect()
}

fn refused_at_once(what: &str, exchange: &ProbeExchange) -> Judgement {
    if exchange.is_refused() {
        return Judgement::pass();
    }
    let judgement = Judgement::warning(format!("{what}: {}", exchange.ended()));
    let judgement = match exchange.stage {
        Some(Stage::EventUpload) if exchange.is(200) => {
            judgement.harms("the agent deletes its events, but the server does not have them")
        }
        _ if exchange.is(200) => judgement.harms("a damaged request looks as if it was read"),
        _ => judgement.harms("agents retry what can never succeed"),
    };
    judgement.at(exchange.number)
}

/// ENC-08.
pub(super) async fn unknown_members(probe: &Probe, id: &'static str) -> Checked {
    probe.unless_without_pages()?;
    let mut machine = probe.machine(id);
    machine.writes = Members::Unknown;
    let done: Result<(), Broken> = async {
        let preflight = machine.preflight(Wish::Clean).await?;
        if probe.options.events {
            machine.upload_one().await?;
        }
        if probe.base().is_err() {
            return machine.first_page().await.map(|_| ());
        }
        let walk = machine.walk().await?;
        machine.commit(preflight.sync_type, &walk);
        machine.postflight(preflight.sync_type, &walk).await?;
        Ok(())
    }
    .await;
    let Err(broken) = done else { return Ok(Judgement::pass()) };
    // The same without them, to be sure that they are the reason.
    let mut plain = probe.machine(id);
    if let Err(broken) = two_syncs(&mut plain).await {
        return Ok(broken.into());
    }
    let judgement = Judgement::fail(format!(
        "with an unknown member (probe_unknown_field; in protobuf, field 4000), {}",
        broken.said
    ));
    Ok(broken.exchange.map_or(judgement.clone(), |at| judgement.at(at)))
}

/// ENC-09.
pub(super) async fn other_spellings(probe: &Probe, id: &'static str) -> Checked {
    probe.unless_preflight_broken()?;
    let mut judgement = Judgement::pass();
    let mut machine = probe.machine(id);
    let json_only = [
        ("primary_user null", "primary_user", json!(null)),
        ("client_mode as a number (1)", "client_mode", json!(1)),
        ("binary_rule_count as text (\"3\")", "binary_rule_count", json!("3")),
    ];
    for (what, member, value) in json_only {
        if !probe.form().is_json() {
            break;
        }
        let message = preflight_of(&machine).set(member, value);
        let request = machine.request(Stage::Preflight, message);
        judgement = judgement.and(odd(what, &mut machine, request).await?);
    }
    if probe.form().is_json() {
        let mut request = machine.request(Stage::Preflight, preflight_of(&machine));
        request.content_type = Some("application/json; charset=utf-8".to_owned());
        judgement =
            judgement.and(odd("charset=utf-8 in Content-Type", &mut machine, request).await?);
    }
    let mut request = machine.request(Stage::Preflight, preflight_of(&machine));
    request.headers.push(("x-santa-probe".to_owned(), "1".to_owned()));
    judgement =
        judgement.and(odd("an unknown header (X-Santa-Probe)", &mut machine, request).await?);
    if probe.form().is_json() && probe.unless_without_pages().is_ok() {
        judgement = judgement.and(empty_members(probe, id).await?);
    }
    Ok(judgement)
}

/// A sync of an agent that writes members that are zero, false or empty.
async fn empty_members(probe: &Probe, id: &'static str) -> Checked {
    const WHAT: &str = "a clean sync with empty members written out, such as primary_user \"\"";
    let mut machine = probe.machine(id);
    machine.writes = Members::Empty;
    let found = match sync_without_owner(&mut machine).await {
        Ok(walk) => {
            let Ok(base) = probe.base() else { return Ok(Judgement::pass()) };
            let (came, expected) = (walk.received, base.walk.received);
            if came == expected && machine.table.difference(&base.set).is_none() {
                return Ok(Judgement::pass());
            }
            let rules = counted(came, "rule");
            let judgement =
                Judgement::warning(format!("{WHAT}: {rules} received instead of {expected}"))
                    .harms("agents that write such members get rules other than Santa's");
            match walk.pages.last() {
                Some(page) => judgement.at(page.number),
                None => judgement,
            }
        }
        Err(broken) => {
            let exchanges = probe.client.exchanges();
            let exchange = exchanges.iter().find(|e| Some(e.number) == broken.exchange);
            let said = format!("{WHAT}: {}", broken.said);
            let judgement = if exchange.is_some_and(|exchange| exchange.is_server_error()) {
                Judgement::warning(said)
            } else {
                Judgement::info(said)
            };
            broken.exchange.map_or(judgement.clone(), |at| judgement.at(at))
        }
    };
    // The same without them, to be sure that they are the reason.
    let mut plain = probe.machine(id);
    // Where that breaks as well, empty members are not the reason.
    let Ok(walk) = sync_without_owner(&mut plain).await else { return Ok(Judgement::pass()) };
    let differs = probe.base().is_ok_and(|base| {
        walk.received != base.walk.received || plain.table.difference(&base.set).is_some()
    });
    Ok(if differs { Judgement::pass() } else { found })
}

fn preflight_of(machine: &ProbeMachine<'_>) -> Message {
    Message::of(machine.form.transfer, &machine.preflight_message(Wish::Clean))
}

async fn odd(what: &str, machine: &mut ProbeMachine<'_>, request: ProbeRequest) -> Checked {
    let request = ProbeRequest { intent: Intent::Provoking, ..request };
    let mut exchange = machine.send(request.clone()).await;
    if exchange.is(403) && machine.probe.hands_out_tokens() && machine.fetch_token().await {
        exchange = machine.send(request).await;
    }
    if accepted(&exchange).is_ok() {
        return Ok(Judgement::pass());
    }
    let said = format!("preflight with {what}: {}", exchange.ended());
    let judgement =
        if exchange.is_server_error() { Judgement::warning(said) } else { Judgement::info(said) };
    confirmed(machine, &exchange, judgement).await
}
