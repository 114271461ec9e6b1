//! HTTP-01 to HTTP-09.

use std::time::Duration;

use super::preflight::confirmed;
use super::same_as_set;
use crate::harness::conformance::client::{KeptConnection, ProbeRequest, stage_path};
use crate::harness::conformance::exchange::{BreakKind, Intent, ProbeExchange};
use crate::harness::conformance::machine::{Broken, ProbeMachine, Wish, accepted};
use crate::harness::conformance::message::Message;
use crate::harness::conformance::probe::{Checked, Probe};
use crate::harness::conformance::probe_events::EventMaker;
use crate::harness::conformance::table::RuleTable;
use crate::harness::conformance::verdict::{Judgement, Verdict};
use crate::model::Stage;
use crate::model::text::counted;
use crate::protocol::wire;

/// The client gives an attempt up after that long without a byte.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(30);
/// A response that takes longer is worth a warning.
const SLOW: Duration = Duration::from_secs(10);
/// A certificate that is valid for less is worth a note: 30 days.
const SOON: Duration = Duration::from_hours(30 * 24);
/// What a cookie leads to that is required and not returned.
const ENDS_THERE: &str = "every sync of every agent ends at that stage";
/// The id that the doctor of Santa sends.
const DOCTOR_ID: &str = "santactl-doctor-test";

/// HTTP-02, over all exchanges.
pub(super) fn no_redirects(probe: &Probe) -> Judgement {
    well_formed(probe)
        .filter(|exchange| exchange.stage.is_some())
        .filter(|exchange| exchange.status().is_some_and(|status| (300..400).contains(&status)))
        .map(|exchange| {
            let location = exchange.answer().and_then(|answer| answer.header("location"));
            let to = location.map(|to| format!(" to {}", probe.client.redact(to)));
            let stage = exchange.stage.map_or("", Stage::name);
            let said =
                format!("{stage} is redirected ({}{})", exchange.ended(), to.unwrap_or_default());
            Judgement::fail(said).at(exchange.number)
        })
        .next()
        .unwrap_or_else(Judgement::pass)
}

/// HTTP-03, over all exchanges of a run that ends early: a single loss proves nothing.
pub(super) fn complete_and_in_time_so_far(probe: &Probe) -> Judgement {
    let (worst, lost) = worst_in_time(probe);
    match lost.as_slice() {
        [_] if worst.verdict == Verdict::Fail => {
            let said = format!("{}; seen once", worst.said);
            Judgement { verdict: Verdict::Unstable, said, ..worst }
        }
        _ => worst,
    }
}

/// HTTP-03, over all exchanges. A response that was cut is requested again: one loss proves
/// nothing.
pub(super) async fn complete_and_in_time(probe: &Probe) -> Judgement {
    let (worst, lost) = worst_in_time(probe);
    let Some(cut) = lost.first() else { return worst };
    let (Some(stage), true) = (cut.stage, worst.verdict == Verdict::Fail) else { return worst };
    let machine = ProbeMachine::new(probe, "HTTP-03", cut.machine_id.clone()).in_form(cut.form);
    let again = probe.client.send(machine.request_of_bytes(stage, cut.request_plain.clone())).await;
    if again.outcome.as_ref().is_err_and(|broken| is_incomplete(broken.kind)) {
        return worst.at(again.number);
    }
    let said = format!("{}; repeated once, the response was complete", worst.said);
    Judgement { verdict: Verdict::Unstable, said, ..worst }.at(again.number)
}

/// The worst response so far, and those that did not come whole or in time.
fn worst_in_time(probe: &Probe) -> (Judgement, Vec<std::sync::Arc<ProbeExchange>>) {
    let mut worst = Judgement::pass();
    let mut lost = Vec::new();
    for exchange in probe.client.exchanges() {
        let is_cut = exchange.outcome.as_ref().is_err_and(|broken| broken.kind == BreakKind::Cut);
        if !is_cut && exchange.intent != Intent::WellFormed {
            continue;
        }
        let stage = exchange.stage.map_or("a request", Stage::name);
        let seconds = exchange.elapsed.as_secs();
        let found = match &exchange.outcome {
            Err(broken) if is_incomplete(broken.kind) => {
                lost.push(std::sync::Arc::clone(&exchange));
                Judgement::fail(format!("{stage}: {}", broken.what)).harms(
                    "the attempt fails; it is repeated up to five times, which multiplies the load",
                )
            }
            _ if exchange.elapsed > CLIENT_TIMEOUT => {
                Judgement::fail(format!("{stage} took {seconds} s; clients give up after 30 s"))
            }
            _ if exchange.elapsed > SLOW => {
                let said = format!("{stage} took {seconds} s");
                Judgement::warning(said).harms("over a slow network it comes too late for clients")
            }
            _ => continue,
        };
        if found.verdict > worst.verdict {
            worst = found.at(exchange.number);
        }
    }
    (worst, lost)
}

const fn is_incomplete(kind: BreakKind) -> bool {
    matches!(kind, BreakKind::Cut | BreakKind::Timeout | BreakKind::TooLarge)
}

fn well_formed(probe: &Probe) -> impl Iterator<Item = std::sync::Arc<ProbeExchange>> {
    let exchanges = probe.client.exchanges();
    exchanges.into_iter().filter(|exchange| exchange.intent == Intent::WellFormed)
}

/// HTTP-04.
pub(super) fn usable_url(probe: &Probe) -> Judgement {
    let url = probe.client.base_url().as_url();
    if !probe.client.is_https() {
        if crate::model::is_loopback(url) {
            return Judgement::not_applicable("http on loopback");
        }
        return Judgement::fail("agents refuse plain http to a host that is not loopback");
    }
    let exchanges = probe.client.exchanges();
    // Of a server that has responded, a connection that fails is no matter of the URL.
    let has_responded = exchanges.iter().any(|exchange| exchange.outcome.is_ok());
    for exchange in exchanges {
        if let Err(broken) = &exchange.outcome
            && exchange.intent != Intent::Aside
            && (broken.kind == BreakKind::Tls
                || (broken.kind == BreakKind::Connect && !has_responded))
        {
            return Judgement::fail(broken.what.clone()).at(exchange.number);
        }
    }
    let now = probe.client.now();
    let soonest = probe.client.server_chain().into_iter().min_by_key(|facts| facts.not_after);
    let Some(facts) = soonest else { return Judgement::pass() };
    let left = facts.not_after.since(now);
    if left > SOON {
        return Judgement::pass();
    }
    let days = left.as_secs() / (24 * 60 * 60);
    let days = counted(days, "more day");
    Judgement::info(format!("the certificate {} is valid for {days}", facts.subject))
}

/// HTTP-05.
pub(super) async fn kept_connection(probe: &Probe, id: &'static str) -> Checked {
    let mut machine = probe.machine(id);
    let mut connection = KeptConnection::strict();
    let preflight = |machine: &ProbeMachine<'_>, intent| {
        let message = machine.preflight_message(Wish::Clean);
        let message = Message::of(machine.form.transfer, &message);
        ProbeRequest { intent, ..machine.request(Stage::Preflight, message) }
    };
    let request = preflight(&machine, Intent::WellFormed);
    let first = machine.send_on(&mut connection, request).await;
    accepted(&first)?;
    if connection.is_closed().await {
        return Ok(Judgement::info("the server closes each connection after one response")
            .at(first.number));
    }
    let request = preflight(&machine, Intent::Aside);
    let second = machine.send_on(&mut connection, request).await;
    if let Err(broken) = &second.outcome {
        let said = format!("a second request on the same connection: {}", broken.what);
        return Ok(Judgement::warning(said).at(second.number));
    }
    if !probe.options.slow {
        return Ok(Judgement::pass());
    }
    probe.sleep(probe.options.waits.idle).await;
    let said = format!("idle connections are closed within {:?}", probe.options.waits.idle);
    if connection.is_closed().await {
        return Ok(Judgement::info(said));
    }
    let request = preflight(&machine, Intent::Aside);
    let third = machine.send_on(&mut connection, request).await;
    if third.outcome.is_ok() {
        return Ok(Judgement::pass());
    }
    Ok(Judgement::info(said).at(third.number))
}

/// HTTP-06.
pub(super) async fn without_cookies(probe: &Probe, id: &'static str) -> Checked {
    let of_its_own = |blocked: Judgement| {
        if blocked.blocked_by == Some(id) { blocked.harms(ENDS_THERE) } else { blocked }
    };
    probe.unless_without_pages().map_err(of_its_own)?;
    if let Err(blocked) = probe.unless_without_events()
        && blocked.blocked_by == Some(id)
    {
        return Err(of_its_own(blocked));
    }
    let base = probe.base().ok();
    let set = base.as_ref().map(|base| &base.set);
    let mut machine = probe.machine(id);
    let (stage, broken) = match stages_after_preflight(&mut machine, set, false).await? {
        Ok(judgement) => return Ok(judgement),
        Err(broken) => broken,
    };
    let mut machine = probe.machine(id);
    if let Err((stage, broken)) = stages_after_preflight(&mut machine, set, true).await? {
        return Ok(of_its_own(for_want_of_a_cookie(&machine, stage, broken).await.into()));
    }
    let said =
        format!("without the cookies of preflight, {}; with them, {stage} works", broken.said);
    let judgement = Judgement::warning(said);
    Ok(match broken.exchange {
        Some(exchange) => judgement.at(exchange),
        None => judgement,
    })
}

/// A sync as clients make it, up to the last page, with or without the cookies that the server
/// sets on the way: the rules are compared with the set where it is known. Returns the stage
/// after preflight that broke, and how.
async fn stages_after_preflight(
    machine: &mut ProbeMachine<'_>,
    set: Option<&RuleTable>,
    with_cookies: bool,
) -> Result<Result<Judgement, (Stage, Broken)>, Judgement> {
    let preflight = machine.preflight(Wish::Clean).await?;
    machine.returns_cookies = with_cookies;
    if machine.probe.unless_without_events().is_ok()
        && let Err(broken) = machine.upload_one().await
    {
        return Ok(Err((Stage::EventUpload, broken)));
    }
    let walked = match set {
        Some(_) => machine.walk().await,
        // The download does not end, which is another matter.
        None => machine.first_page().await,
    };
    Ok(match (walked, set) {
        (Err(broken), _) => Err((Stage::RuleDownload, broken)),
        (Ok(_), None) => Ok(Judgement::pass()),
        (Ok(walk), Some(set)) => {
            machine.commit(preflight.sync_type, &walk);
            let after = if with_cookies { "a clean sync" } else { "a clean sync without cookies" };
            Ok(same_as_set(after, &machine.table, set, &walk))
        }
    })
}

/// What a step broke at, if it did for want of a cookie that a client does not return: the same
/// step works with it in a session of another machine.
pub(in crate::harness::conformance) async fn for_want_of_a_cookie(
    machine: &ProbeMachine<'_>,
    stage: Stage,
    broken: Broken,
) -> Broken {
    let probe = machine.probe;
    let path_of = |machine: &ProbeMachine<'_>| {
        probe.client.full_path(&machine.request_of_bytes(stage, Vec::new()))
    };
    let withheld = machine.jar.withheld(&path_of(machine));
    let Some(withheld) = withheld.map(|(name, why)| format!("{name}: {why}")) else {
        return broken;
    };
    let mut again = probe.machine("HTTP-06");
    if again.preflight(Wish::Clean).await.is_err() {
        return broken;
    }
    let request = if stage == Stage::EventUpload {
        let events = vec![probe.event(EventMaker::usual)];
        again.upload_request(wire::EventUploadRequest {
            events,
            ..wire::EventUploadRequest::default()
        })
    } else {
        let message =
            wire::RuleDownloadRequest { cursor: String::new(), machine_id: again.id.clone() };
        again.request(stage, Message::of(again.form.transfer, &message))
    };
    let Some(all) = again.jar.all() else { return broken };
    let request = ProbeRequest { cookies: Some(all), intent: Intent::Provoking, ..request };
    if !again.send(request).await.is(200) {
        return broken;
    }
    let said = format!("{stage}: a cookie is required that no client returns ({withheld})");
    Broken { by: "HTTP-06", said, ..broken }
}

/// HTTP-07.
pub(super) async fn doctor(probe: &Probe, id: &'static str) -> Checked {
    let path = stage_path(Stage::Preflight.segment(), DOCTOR_ID);
    probe.note_id(DOCTOR_ID);
    let exchange = probe
        .client
        .send(ProbeRequest {
            intent: Intent::Provoking,
            machine_id: DOCTOR_ID.to_owned(),
            content_type: None,
            ..ProbeRequest::empty(id, Some(Stage::Preflight), probe.form(), path.clone())
        })
        .await;
    let ended = format!("POST {path} with an empty body: {}", exchange.ended());
    if exchange.status().is_some_and(|status| (300..400).contains(&status)) {
        probe.unless_preflight_broken()?;
    }
    let judgement = match exchange.status() {
        Some(200 | 400) if exchange.outcome.is_ok() => return Ok(Judgement::pass()),
        Some(401 | 403 | 404) => Judgement::warning(ended)
            .harms("`santactl doctor` sends one, and reports a problem that does not exist"),
        Some(_) | None => Judgement::warning(ended),
    };
    Ok(judgement.at(exchange.number))
}

/// HTTP-08.
pub(super) async fn labels(probe: &Probe, id: &'static str) -> Checked {
    let mut machine = probe.machine(id);
    let message = machine.preflight_message(Wish::Clean);
    let message = Message::of(machine.form.transfer, &message);
    let mut request = machine.request(Stage::Preflight, message);
    request.headers.push(("accept-encoding".to_owned(), "identity".to_owned()));
    let exchange = machine.send(request).await;
    accepted(&exchange)?;
    let mut judgement = Judgement::pass();
    let encoding = exchange.answer().and_then(|answer| answer.header("content-encoding"));
    if let Some(encoding) = encoding.filter(|name| !name.eq_ignore_ascii_case("identity")) {
        let said = format!(
            "preflight with Accept-Encoding: identity gets a response in Content-Encoding {encoding}"
        );
        judgement = Judgement::warning(said).at(exchange.number);
    }
    Ok(judgement.and(media_types(probe)))
}

/// Responses whose `Content-Type` is not that of their body. What is in no form that was asked
/// for is a matter of others (PRE-01, ENC-04), and may well be labelled as what it is.
fn media_types(probe: &Probe) -> Judgement {
    let wrong = probe.client.exchanges().into_iter().find_map(|exchange| {
        let answer = exchange.answer().filter(|answer| answer.status == 200)?;
        if exchange.stage.is_none() || answer.wire.is_empty() || exchange.message().is_err() {
            return None;
        }
        let named = answer.header("content-type").unwrap_or("nothing");
        let media_type = named.split(';').next().unwrap_or_default().trim();
        let expected = exchange.form.transfer.content_type();
        (!media_type.eq_ignore_ascii_case(expected)).then(|| {
            let stage = exchange.stage.map_or("", Stage::name);
            Judgement::info(format!("{stage} has Content-Type {named}, not {expected}"))
                .at(exchange.number)
        })
    });
    wrong.unwrap_or_else(Judgement::pass)
}

/// HTTP-09.
pub(super) async fn no_stage(probe: &Probe, id: &'static str) -> Checked {
    let mut machine = probe.machine(id);
    let message = machine.preflight_message(Wish::Clean);
    let message = Message::of(machine.form.transfer, &message);
    let preflight = machine.request(Stage::Preflight, message);
    let of = |path: String, method: &'static str| ProbeRequest {
        stage: None,
        intent: Intent::Provoking,
        method,
        path,
        ..preflight.clone()
    };
    let path = &preflight.path;
    let unknown = probe.client.send(of(stage_path("nosuchstage", &machine.id), "POST")).await;
    let doubled = probe.client.send(of(format!("/{path}"), "POST")).await;
    let get = ProbeRequest {
        plain: Vec::new(),
        wire: Vec::new(),
        content_type: None,
        content_encoding: None,
        ..of(path.clone(), "GET")
    };
    let get = probe.client.send(get).await;
    let mut judgement = Judgement::pass();
    for (what, exchange, may_be_200) in [
        ("POST nosuchstage/MACHINE_ID", &unknown, false),
        ("POST //preflight/MACHINE_ID", &doubled, true),
        ("GET preflight/MACHINE_ID", &get, false),
    ] {
        let is_html = exchange.answer().is_some_and(|answer| {
            answer.body.as_ref().is_ok_and(|body| body.trim_ascii_start().starts_with(b"<"))
        });
        let complaint = if exchange.is_server_error() {
            exchange.ended()
        } else if exchange.is(200) && !may_be_200 {
            "200".to_owned()
        } else if exchange.is(200) && is_html {
            "200 with HTML".to_owned()
        } else {
            continue;
        };
        let harm = if exchange.is(200) {
            "a mistyped base URL looks healthy"
        } else {
            "scanners and mistyped URLs fill the error log"
        };
        let found = Judgement::warning(format!("{what}: {complaint}")).harms(harm);
        let is_preflight = may_be_200 && exchange.is_server_error();
        let found = if is_preflight {
            confirmed(&mut machine, exchange, found).await.unwrap_or_else(|blocked| blocked)
        } else {
            found.at(exchange.number)
        };
        judgement = judgement.and(found);
    }
    Ok(judgement)
}
