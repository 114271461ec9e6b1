//! EVENT-01 to EVENT-13.

use std::sync::Arc;

use serde_json::Value;

use super::settings::{member, shown};
use super::{failed, same_as_set};
use crate::harness::conformance::client::ProbeRequest;
use crate::harness::conformance::exchange::{Intent, ProbeExchange};
use crate::harness::conformance::machine::{Broken, ProbeMachine, Wish, accepted};
use crate::harness::conformance::probe::{Checked, Probe};
use crate::harness::conformance::probe_events::{EventMaker, chain};
use crate::harness::conformance::verdict::{Judgement, Verdict};
use crate::model::Stage;
use crate::protocol::wire::{self, Decision};

/// The most events of the largest batch.
const MAX_BATCH: usize = 50;
/// Events of a batch if the server does not say.
const DEFAULT_BATCH: u64 = 50;
/// The length of the longest path that is tried, in bytes.
const LONG_PATH_BYTES: usize = 1000;

const BUNDLE_NAMES: [&str; 2] = ["event_upload_bundle_binaries", "eventUploadBundleBinaries"];

const DECISIONS: [Decision; 17] = [
    Decision::AllowUnknown,
    Decision::AllowBinary,
    Decision::AllowCertificate,
    Decision::AllowScope,
    Decision::AllowTeamid,
    Decision::AllowSigningid,
    Decision::AllowCdhash,
    Decision::BlockUnknown,
    Decision::BlockBinary,
    Decision::BlockCertificate,
    Decision::BlockScope,
    Decision::BlockTeamid,
    Decision::BlockSigningid,
    Decision::BlockCdhash,
    Decision::BlockBinaryMismatch,
    Decision::AllowPlatform,
    Decision::BundleBinary,
];

/// A machine after its preflight, ready to upload.
async fn ready<'p>(probe: &'p Probe, id: &'static str) -> Result<ProbeMachine<'p>, Judgement> {
    probe.unless_without_events()?;
    let mut machine = probe.machine(id);
    machine.preflight(Wish::Clean).await?;
    Ok(machine)
}

/// Uploads what the check is about: its refusal says nothing about other requests.
async fn upload(
    machine: &mut ProbeMachine<'_>,
    upload: wire::EventUploadRequest,
) -> Arc<ProbeExchange> {
    let request = machine.upload_request(upload);
    let request = ProbeRequest { intent: Intent::Provoking, ..request };
    machine.send(request).await
}

async fn upload_events(
    machine: &mut ProbeMachine<'_>,
    events: Vec<wire::Event>,
) -> Arc<ProbeExchange> {
    upload(machine, wire::EventUploadRequest { events, ..wire::EventUploadRequest::default() })
        .await
}

/// A pass, or this verdict on an upload that was not accepted.
fn judged(verdict: Verdict, what: &str, exchange: &ProbeExchange) -> Judgement {
    if accepted(exchange).is_ok() {
        return Judgement::pass();
    }
    Judgement::new(verdict, format!("{what}: {}", exchange.ended())).at(exchange.number)
}

/// EVENT-01.
pub(super) async fn small(probe: &Probe, id: &'static str) -> Checked {
    let mut machine = ready(probe, id).await?;
    let exchange = upload_events(&mut machine, vec![probe.small_event()]).await;
    Ok(judged(Verdict::Fail, "an upload of an event with few members", &exchange))
}

/// EVENT-02.
pub(super) async fn full(probe: &Probe, id: &'static str) -> Checked {
    let mut machine = ready(probe, id).await?;
    let event = probe.event(EventMaker::full);
    let exchange = upload_events(&mut machine, vec![event]).await;
    Ok(judged(Verdict::Fail, "an upload of an event with every member of the schema", &exchange))
}

/// EVENT-03.
pub(super) async fn decisions(probe: &Probe, id: &'static str) -> Checked {
    let mut machine = ready(probe, id).await?;
    let mut judgement = Judgement::pass();
    for decision in DECISIONS {
        let mut event = probe.event(EventMaker::usual);
        event.set_decision(decision);
        let exchange = upload_events(&mut machine, vec![event]).await;
        judgement = judgement.and(judged(
            Verdict::Fail,
            &format!("an event with decision {}", decision.as_str_name()),
            &exchange,
        ));
    }
    Ok(judgement)
}

/// EVENT-04.
pub(super) async fn file_access(probe: &Probe, id: &'static str) -> Checked {
    let mut machine = ready(probe, id).await?;
    let event = probe.event(EventMaker::file_access);
    let request = wire::EventUploadRequest {
        file_access_events: vec![event],
        ..wire::EventUploadRequest::default()
    };
    let exchange = upload(&mut machine, request).await;
    let judgement = judged(Verdict::Fail, "an upload of a file-access event alone", &exchange);
    if judgement.verdict != Verdict::Pass {
        return Ok(judgement);
    }
    let said = "got 200; whether the event was stored is what OPS-05 asks the operator";
    Ok(Judgement { said: said.to_owned(), ..judgement })
}

/// EVENT-05.
pub(super) async fn audit(probe: &Probe, id: &'static str) -> Checked {
    let mut machine = ready(probe, id).await?;
    let at = u32::try_from(probe.client.now().as_secs()).unwrap_or(u32::MAX);
    let event = probe.event(|maker, _| maker.audit(at));
    let request = wire::EventUploadRequest {
        audit_events: vec![event],
        ..wire::EventUploadRequest::default()
    };
    let exchange = upload(&mut machine, request).await;
    Ok(judged(Verdict::Warning, "an upload of an audit event alone", &exchange))
}

type Change = fn(&mut wire::Event);

/// EVENT-06.
pub(super) async fn odd_values(probe: &Probe, id: &'static str) -> Checked {
    let kinds: [(&str, Change); 11] = [
        ("letters with accents", |event| "jürgen-żółć-東京".clone_into(&mut event.executing_user)),
        ("an emoji", |event| event.file_name.push_str(" 💻")),
        ("quotation marks", |event| event.file_name.push_str(" \"quoted\" 'too'")),
        ("a backslash", |event| event.file_name.push_str(" \\back")),
        ("a line feed", |event| event.file_name.push_str("\nline")),
        ("a control character", |event| event.file_name.push('\u{1}')),
        ("a path of 1,000 bytes", |event| {
            let rest = LONG_PATH_BYTES.saturating_sub(event.file_path.len() + 1);
            event.file_path = format!("{}/{}", event.file_path, "p".repeat(rest));
        }),
        ("a certificate valid until 4294967295", |event| {
            if let Some(leaf) = event.signing_chain.first_mut() {
                leaf.valid_until = u32::MAX;
            }
        }),
        ("certificates without org and ou", |event| {
            for certificate in &mut event.signing_chain {
                certificate.org.clear();
                certificate.ou.clear();
            }
        }),
        ("ten certificates", |event| event.signing_chain = chain(10)),
        ("no certificates", |event| event.signing_chain.clear()),
    ];
    let mut machine = ready(probe, id).await?;
    let mut judgement = Judgement::pass();
    for (what, change) in kinds {
        let mut event = probe.event(EventMaker::usual);
        change(&mut event);
        let exchange = upload_events(&mut machine, vec![event]).await;
        let verdict = if exchange.is_server_error() { Verdict::Fail } else { Verdict::Warning };
        judgement = judgement.and(judged(verdict, &format!("an event with {what}"), &exchange));
    }
    Ok(judgement)
}

/// EVENT-07.
pub(super) async fn incomplete(probe: &Probe, id: &'static str) -> Checked {
    let kinds: [(&str, Change); 3] = [
        ("an event without file_sha256", |event| event.file_sha256.clear()),
        ("an event without execution_time", |event| event.execution_time = 0.0),
        ("an event without decision", |event| event.set_decision(Decision::Unknown)),
    ];
    let mut machine = ready(probe, id).await?;
    let mut judgement = Judgement::pass();
    for (what, change) in kinds {
        let good = probe.event(EventMaker::usual);
        let mut event = probe.event(EventMaker::usual);
        change(&mut event);
        let exchange = upload_events(&mut machine, vec![good, event]).await;
        judgement = judgement.and(judged(Verdict::Warning, what, &exchange));
    }
    Ok(judgement)
}

/// EVENT-08.
pub(super) async fn whole_batch(probe: &Probe, id: &'static str) -> Checked {
    probe.unless_without_events()?;
    if !probe.options.heavy {
        return Ok(Judgement::not_tested("uploads up to 50 events: needs --heavy"));
    }
    probe.unless_broken("EVENT-02")?;
    let mut machine = probe.machine(id);
    let preflight = machine.preflight(Wish::Clean).await?;
    let named = member(&preflight.message, &["batch_size", "batchSize"]).and_then(Value::as_u64);
    let size = named.filter(|size| *size > 0).unwrap_or(DEFAULT_BATCH);
    let size = usize::try_from(size).unwrap_or(MAX_BATCH).min(MAX_BATCH);
    let events = (0..size).map(|_| probe.event(EventMaker::full)).collect();
    let exchange = upload_events(&mut machine, events).await;
    Ok(judged(Verdict::Fail, &format!("an upload of {size} events"), &exchange))
}

/// EVENT-09.
pub(super) async fn twice(probe: &Probe, id: &'static str) -> Checked {
    let mut machine = ready(probe, id).await?;
    let event = probe.event(EventMaker::usual);
    let first = machine.upload(vec![event.clone()]).await;
    accepted(&first)?;
    let again = upload_events(&mut machine, vec![event]).await;
    Ok(judged(Verdict::Fail, "an event that is uploaded again", &again))
}

/// EVENT-10, over all uploads.
pub(super) fn responses(probe: &Probe) -> Judgement {
    let mut judgement = Judgement::not_tested("no upload got a 200");
    for exchange in probe.client.exchanges() {
        if exchange.stage != Some(Stage::EventUpload) || !exchange.is(200) {
            continue;
        }
        let found = match exchange.message() {
            Err(why) => Judgement::fail(format!("event_upload: {why}")),
            Ok(message) => response(&message),
        };
        if judgement.verdict == Verdict::NotTested || found.verdict > judgement.verdict {
            judgement =
                if found.verdict == Verdict::Pass { found } else { found.at(exchange.number) };
        }
    }
    judgement
}

fn response(message: &Value) -> Judgement {
    let is_hash = |item: &Value| {
        item.as_str().is_some_and(|text| {
            text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
        })
    };
    match member(message, &BUNDLE_NAMES) {
        Some(Value::Array(items)) => match items.iter().find(|item| !is_hash(item)) {
            Some(item) => Judgement::fail(format!("a bundle hash is {}", shown(item))),
            None => Judgement::pass(),
        },
        Some(other) => {
            Judgement::fail(format!("event_upload_bundle_binaries is {}, not a list", shown(other)))
        }
        None => {
            let unknown: Vec<_> = message
                .as_object()
                .into_iter()
                .flatten()
                .filter(|(name, _)| !BUNDLE_NAMES.contains(&name.as_str()))
                .map(|(name, _)| name.as_str())
                .collect();
            if unknown.is_empty() {
                Judgement::pass()
            } else {
                Judgement::info(format!(
                    "members that the schema does not have: {}",
                    unknown.join(", ")
                ))
            }
        }
    }
}

/// EVENT-11.
pub(super) async fn outside_a_sync(probe: &Probe, id: &'static str) -> Checked {
    probe.unless_without_events()?;
    probe.unless_without_pages()?;
    let mut machine = probe.machine(id);
    machine.sync_if_it_ends().await?;
    machine.forget_session();
    let event = probe.event(EventMaker::usual);
    let exchange = upload_events(&mut machine, vec![event]).await;
    let at_once = judged(Verdict::Fail, "an event uploaded outside a sync", &exchange);
    if at_once.verdict != Verdict::Pass || !probe.options.slow {
        return Ok(at_once);
    }
    // Servers that tie requests to a session answer otherwise once it has run out.
    let waited = probe.options.waits.in_sync;
    probe.sleep(waited).await;
    machine.forget_session();
    let event = probe.event(EventMaker::usual);
    let exchange = upload_events(&mut machine, vec![event]).await;
    Ok(judged(Verdict::Info, &format!("an event uploaded {waited:?} after a sync"), &exchange))
}

/// EVENT-12.
pub(super) async fn beside_a_sync(probe: &Probe, id: &'static str) -> Checked {
    let base = probe.base_with_rules()?;
    probe.unless_without_events()?;
    let mut machine = probe.machine(id);
    let preflight = machine.preflight(Wish::Clean).await?;
    // The other connection knows nothing of the sync's session.
    let mut other = ProbeMachine::new(probe, id, machine.id.clone());
    let mut met = Judgement::pass();
    if let Err(broken) = other.upload_one().await {
        // A refused upload does not disturb the sync. A server that requires the cookies of
        // preflight gets them. Both connections belong to one client, so cookies that the
        // upload sets are kept for the sync.
        other.jar = machine.jar.clone();
        if machine.jar.all().is_none() || other.upload_one().await.is_err() {
            let said = format!("an upload without the session of a sync: {}", broken.said);
            let blocked = Judgement::blocked("EVENT-11", said);
            return Ok(broken.exchange.map_or(blocked.clone(), |at| blocked.at(at)));
        }
        machine.jar = other.jar.clone();
        met.said = format!(
            "tested with an upload that carries the cookies of the sync; without them, {}",
            broken.said
        );
    }
    let done: Result<_, Broken> = async {
        let walk = machine.walk().await?;
        machine.commit(preflight.sync_type, &walk);
        machine.postflight(preflight.sync_type, &walk).await?;
        Ok(walk)
    }
    .await;
    let walk = match done {
        Ok(walk) => walk,
        Err(broken) => return Ok(failed(probe, "after an upload during the sync", &broken)),
    };
    let judgement = same_as_set(
        "a sync with an upload on another connection in its middle",
        &machine.table,
        &base.set,
        &walk,
    );
    if judgement.verdict != Verdict::Pass {
        return Ok(judgement);
    }
    if probe.unless_broken("CLEAN-04").is_err() {
        return Ok(met);
    }
    machine.forget_session();
    let next = machine.preflight(Wish::Nothing).await?;
    if next.is_clean() && preflight.is_clean() {
        let said = "after an upload during a sync, the next sync is clean again";
        return Ok(Judgement::fail(said).at(next.exchange.number));
    }
    Ok(met)
}

/// EVENT-13.
pub(super) async fn bundle(probe: &Probe, id: &'static str) -> Checked {
    let mut machine = ready(probe, id).await?;
    let mut main = probe.event(EventMaker::bundled);
    main.set_decision(Decision::BlockUnknown);
    let hash = main.file_bundle_hash.clone();
    let first = upload_events(&mut machine, vec![main]).await;
    accepted(&first)?;
    let asked = first.message().ok().and_then(|message| {
        let hashes = member(&message, &BUNDLE_NAMES)?.as_array()?.clone();
        Some(hashes.iter().any(|item| item.as_str().is_some_and(|h| h.eq_ignore_ascii_case(&hash))))
    });
    let events = (0..2)
        .map(|_| {
            let mut event = probe.event(EventMaker::bundled);
            event.set_decision(Decision::BundleBinary);
            event.file_bundle_hash.clone_from(&hash);
            event
        })
        .collect();
    let second = upload_events(&mut machine, events).await;
    let is_asked = asked.unwrap_or(false);
    if accepted(&second).is_err() {
        let verdict = if is_asked { Verdict::Fail } else { Verdict::Info };
        return Ok(judged(
            verdict,
            if is_asked {
                "events of a bundle's executables, which the server asked for"
            } else {
                "events of a bundle's executables, which the server did not ask for"
            },
            &second,
        ));
    }
    if is_asked {
        return Ok(Judgement::pass());
    }
    Ok(Judgement::info("accepted, though the server did not ask for the bundle").at(first.number))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_response_to_an_upload_has_its_verdict() {
        let hash = "5a".repeat(32);
        for (message, verdict) in [
            (json!({}), Verdict::Pass),
            (json!({"event_upload_bundle_binaries": [hash]}), Verdict::Pass),
            (json!({"eventUploadBundleBinaries": null}), Verdict::Pass),
            (json!({"Err": null}), Verdict::Info),
            (json!({"event_upload_bundle_binaries": hash}), Verdict::Fail),
            (json!({"event_upload_bundle_binaries": ["ab"]}), Verdict::Fail),
        ] {
            assert_eq!(response(&message).verdict, verdict, "{message}");
        }
    }
}
