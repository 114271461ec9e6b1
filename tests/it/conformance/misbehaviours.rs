//! Servers that break one requirement each: the probe names that one and no other.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "there are over a hundred misbehaviours, and few need anything besides"
)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use santa_sync::harness::conformance::{Conformance, Report, Verdict, Waits};
use santa_sync::harness::{Builder, FakeServer, Misbehaviour, Severity, fixtures};
use santa_sync::{Config, Sources};

use super::operator::Admin;

const TOKEN: &str = "conformance-secret";
/// An id that servers with enrolment know.
const ENROLLED: [&str; 2] =
    ["5A17A001-0000-4000-8000-000000000001", "5A17A001-0000-4000-8000-000000000002"];

/// Other requirements that a misbehaviour also breaks, and why.
const ALSO: &[(Misbehaviour, &[&str], &str)] = &[
    (Misbehaviour::Err04Useless, &["HTTP-07"], "the doctor's preflight gets 403 as every other"),
    (Misbehaviour::Id04Accepted, &["ERR-01"], "it is by an error in a 200 that it breaks ID-04"),
    (
        Misbehaviour::Clean06All,
        &["OPS-02"],
        "what is gone from the server is in no download of all rules as NORMAL",
    ),
    (
        Misbehaviour::Http06Cookie,
        &["RULE-07", "EVENT-11"],
        "outside a sync there is no cookie of preflight",
    ),
    (
        Misbehaviour::Http06UsedUp,
        &["RULE-07", "EVENT-11"],
        "outside a sync there is no cookie of preflight",
    ),
    (
        Misbehaviour::Err02Errors,
        &["HTTP-09", "ENC-06", "ENC-07", "PAGE-06"],
        "each of these refuses something, with 500 here",
    ),
];

/// What the servers of some misbehaviours need besides.
fn prepared(misbehaviour: Misbehaviour, builder: Builder) -> Builder {
    match misbehaviour {
        Misbehaviour::Http05ClosesIdle => {
            builder.style(|style| style.idle_time = Some(Duration::from_millis(300)))
        }
        Misbehaviour::Page05Expires => {
            builder.style(|style| style.cursor_time = Some(Duration::from_secs(2)))
        }
        Misbehaviour::Rule08Expires => {
            builder.style(|style| style.sync_time = Some(Duration::from_secs(3)))
        }
        Misbehaviour::Id04Accepted | Misbehaviour::Id04Error => {
            builder.style(|style| style.enrolled = Some(ENROLLED.map(str::to_owned).to_vec()))
        }
        // Then some forms are refused for what they are, and the others for the id.
        Misbehaviour::Id01BadRequest => builder.misbehave(Misbehaviour::Enc04NoProtobuf),
        Misbehaviour::Err03Unchecked | Misbehaviour::Err03Error => builder
            .style(|style| style.header = Some(("X-Probe-Token".to_owned(), TOKEN.to_owned()))),
        _ => builder,
    }
}

/// What the probe is told in these cases.
fn configured(misbehaviour: Misbehaviour, conformance: Conformance) -> Conformance {
    match misbehaviour {
        Misbehaviour::Id04Accepted | Misbehaviour::Id04Error => {
            conformance.machine_ids(ENROLLED).unwrap()
        }
        Misbehaviour::Err03Unchecked | Misbehaviour::Err03Error => {
            with_key(conformance, &format!(r#"SyncExtraHeaders={{"X-Probe-Token":"{TOKEN}"}}"#))
        }
        // Each of its postflights takes 11 seconds.
        Misbehaviour::Http03Slow => conformance.only(["HTTP-01", "HTTP-03", "RULE-02"]),
        Misbehaviour::Enc07Waits => conformance.request_timeout(Duration::from_secs(3)),
        _ => conformance,
    }
}

/// With this key of an agent's configuration.
fn with_key(conformance: Conformance, set: &str) -> Conformance {
    let sources = Sources { sets: vec![set.to_owned()], ..Sources::default() };
    conformance.configured(&Config::load(&sources).unwrap().config).unwrap()
}

fn report(misbehaviour: Misbehaviour) -> Report {
    let builder =
        FakeServer::builder().rules(fixtures::rules(30, 1)).page_size(10).misbehave(misbehaviour);
    let server = Arc::new(prepared(misbehaviour, builder).start().unwrap());
    // Longer than what the servers above allow.
    let waits = match misbehaviour {
        Misbehaviour::Http05ClosesIdle => Waits { idle: Duration::from_secs(1), ..Waits::none() },
        Misbehaviour::Page05Expires => {
            Waits { between_pages: Duration::from_secs(3), ..Waits::none() }
        }
        Misbehaviour::Rule08Expires => Waits { in_sync: Duration::from_secs(4), ..Waits::none() },
        _ => Waits::none(),
    };
    let conformance = Conformance::new(&server.url())
        .unwrap()
        .waits(waits)
        .heavy()
        .operator(Admin(Arc::clone(&server)));
    let mut conformance = configured(misbehaviour, conformance);
    let directory = tempfile::tempdir().unwrap();
    if let Some(roots) = server.roots() {
        let file = directory.path().join("roots.pem");
        std::fs::write(&file, roots).unwrap();
        conformance = with_key(conformance, &format!("ServerAuthRootsFile={}", file.display()));
    }
    conformance.run_blocking().unwrap().report
}

/// What is wrong with the report on a server that does this, if anything.
fn mistake(misbehaviour: Misbehaviour) -> Option<String> {
    let report = report(misbehaviour);
    let id = misbehaviour.requirement();
    let expected = match misbehaviour.severity() {
        Severity::Fail => Verdict::Fail,
        Severity::Warning => Verdict::Warning,
        Severity::Info => Verdict::Info,
    };
    let found = report.result(id).unwrap();
    let also: Vec<&str> = ALSO
        .iter()
        .filter(|(with, _, _)| *with == misbehaviour)
        .flat_map(|(_, ids, _)| ids.iter().copied())
        .collect();
    let others: Vec<_> = report
        .complaints()
        .filter(|other| other.id != id && !also.contains(&other.id))
        .map(|other| format!("\n  {} {}: {}", other.id, other.verdict, other.summary))
        .collect();
    (found.verdict != expected || !others.is_empty()).then(|| {
        let (verdict, by) = (found.verdict, found.blocked_by);
        let others = others.join("");
        format!("{misbehaviour}: {verdict}, not {expected}: {} {by:?}{others}", found.summary)
    })
}

/// Checks every misbehaviour of these requirements, some at a time: they mostly wait.
fn each_is_found(prefixes: &[&str]) {
    let is_meant = |m: &&Misbehaviour| prefixes.iter().any(|p| m.requirement().starts_with(p));
    let left = Mutex::new(Misbehaviour::ALL.iter().filter(is_meant));
    let mistakes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let Some(next) = left.lock().unwrap().next().copied() else { break };
                    let mistake = std::panic::catch_unwind(|| mistake(next))
                        .unwrap_or_else(|_| Some(format!("{next} panicked")));
                    mistakes.lock().unwrap().extend(mistake);
                }
            });
        }
    });
    let mistakes = mistakes.into_inner().unwrap();
    assert!(mistakes.is_empty(), "{}", mistakes.join("\n"));
}

#[test]
fn what_breaks_http_is_named() {
    each_is_found(&["HTTP"]);
}

#[test]
fn what_breaks_encodings_is_named() {
    each_is_found(&["ENC"]);
}

#[test]
fn what_breaks_identity_is_named() {
    each_is_found(&["ID"]);
}

#[test]
fn what_breaks_preflight_is_named() {
    each_is_found(&["PRE"]);
}

#[test]
fn what_breaks_clean_syncs_is_named() {
    each_is_found(&["CLEAN"]);
}

#[test]
fn what_breaks_rules_and_pages_is_named() {
    each_is_found(&["RULE", "PAGE"]);
}

#[test]
fn what_breaks_event_uploads_is_named() {
    each_is_found(&["EVENT"]);
}

#[test]
fn what_breaks_postflight_and_independence_is_named() {
    each_is_found(&["POST", "ISO"]);
}

#[test]
fn what_breaks_errors_and_operation_is_named() {
    each_is_found(&["ERR", "OPS"]);
}
