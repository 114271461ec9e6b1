//! What reports say: what was seen, what it leads to, and no more.

use santa_sync::harness::conformance::{Conformance, Report, RequirementResult, Verdict, Waits};

use santa_sync::harness::{
    FakeServer, Fault, Misbehaviour, Preset, SyncTypePolicy, every, fixtures,
};
use santa_sync::model::Stage;
use serde_json::{Value, json};

use super::by_hand::{Request, listen, respond};
use super::report;

fn server() -> santa_sync::harness::Builder {
    FakeServer::builder().rules(fixtures::rules(30, 1)).page_size(10)
}

fn of(builder: santa_sync::harness::Builder, only: &[&str]) -> Report {
    let server = builder.start().unwrap();
    report(&server, |conformance| conformance.without_slow().only(only.iter().copied()))
}

fn result(builder: santa_sync::harness::Builder, id: &str) -> RequirementResult {
    of(builder, &[id]).result(id).unwrap().clone()
}

fn answers(stage: Stage, message: Value) -> santa_sync::harness::Builder {
    server().fault(stage, every(), Fault::WrongShape(message))
}

#[test]
fn protobuf_that_is_answered_in_json_is_rightly_labelled_json() {
    let report = of(server().misbehave(Misbehaviour::Enc04Json), &["ENC-04", "HTTP-08"]);
    let verdicts: Vec<_> = report.results.iter().map(|r| (r.id, r.verdict)).collect();
    assert_eq!(verdicts, [("HTTP-08", Verdict::Pass), ("ENC-04", Verdict::Fail)]);
}

/// A host with an empty `primary_user` gets them twice, whether or not the member is written, so
/// ENC-09 passes.
#[test]
fn rules_that_only_a_host_without_an_owner_gets_twice_are_named() {
    for form in ["json-deflate", "protobuf-gzip"] {
        for (misbehaviour, verdict, said) in [
            (
                Some(Misbehaviour::Rule04NoOwner),
                Verdict::Info,
                "preflight without primary_user (a host without an owner): 30 rules repeated \
                 unchanged; with primary_user, no rule is repeated",
            ),
            (None, Verdict::Pass, ""),
        ] {
            let server =
                misbehaviour.into_iter().fold(server(), santa_sync::harness::Builder::misbehave);
            let server = server.start().unwrap();
            let only = ["RULE-04", "ENC-09", "PRE-07"];
            let form = form.parse().unwrap();
            let report = report(&server, |conformance| conformance.form(form).only(only));
            let found = report.result("RULE-04").unwrap();
            assert_eq!((found.verdict, &*found.summary), (verdict, said), "{form}");
            for id in ["ENC-09", "PRE-07"] {
                assert_eq!(report.result(id).unwrap().verdict, Verdict::Pass, "{id} {form}");
            }
        }
    }
}

/// PRE-07 reports that such a host cannot sync at all.
#[test]
fn a_server_that_refuses_hosts_without_an_owner_repeats_no_rules() {
    let report = of(server().misbehave(Misbehaviour::Pre07Owner), &["RULE-04", "PRE-07"]);
    assert_eq!(super::complaints(&report), ["PRE-07 fail"]);
    assert_eq!(report.result("RULE-04").unwrap().verdict, Verdict::Pass);
}

#[test]
fn a_host_that_lost_its_rules_is_said_to_get_what_it_gets() {
    let unnoticed = || server().misbehave(Misbehaviour::Clean07Unnoticed);
    let few = result(unnoticed(), "CLEAN-07");
    assert_eq!(few.verdict, Verdict::Info);
    let said = "a host that no longer reports any rules gets NORMAL, and 0 of 30 rules";
    assert_eq!(few.summary, said);
    let all = result(unnoticed().misbehave(Misbehaviour::Clean06All), "CLEAN-07");
    assert_eq!(all.verdict, Verdict::Pass);
    assert_eq!(all.summary, "preflight gets NORMAL, but all rules are sent anyway");
}

#[test]
fn a_cursor_that_is_a_number_is_shown_as_one() {
    let result = result(server().misbehave(Misbehaviour::Page01Number), "PAGE-01");
    assert_eq!((result.verdict, &*result.summary), (Verdict::Fail, "the cursor is 10, not text"));
}

/// The client asks for the next page with a cursor that is text, because it has no other.
#[test]
fn a_cursor_that_is_a_number_is_the_reason_for_the_refusal_of_its_text() {
    let (listener, url) = listen();
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            while let Some(Request { head, body }) = Request::read(&stream) {
                let (status, message) = if head.contains("/preflight/") {
                    ("200 OK", r#"{"client_mode":"MONITOR","sync_type":"CLEAN"}"#)
                } else if body.contains("\"cursor\"") {
                    ("400 Bad Request", "{}")
                } else if head.contains("/ruledownload/") {
                    ("200 OK", r#"{"rules":[],"cursor":7}"#)
                } else {
                    ("200 OK", "{}")
                };
                respond(&stream, status, &[], message.as_bytes());
            }
        }
    });
    let only = ["HTTP-01", "PAGE-01", "PAGE-02"];
    let conformance = Conformance::new(&url)
        .unwrap()
        .waits(Waits::none())
        .form("json-none".parse().unwrap())
        .only(only);
    let report = conformance.run_blocking().unwrap().report;
    assert_eq!(super::complaints(&report), ["PAGE-01 fail"]);
    assert_eq!(report.result("PAGE-02").unwrap().blocked_by, Some("PAGE-01"));
}

/// A server with 30 rules on three pages, for a client that does clean syncs. `place` says where a
/// page begins in the circle of all rules, by its index and the number of the request. `own` adds a
/// rule that the machine alone gets.
fn three_pages(place: fn(usize, usize) -> usize, own: bool) -> String {
    let (listener, url) = listen();
    std::thread::spawn(move || {
        let requests = std::sync::atomic::AtomicUsize::new(0);
        let rule = |number: u128| {
            let identifier = format!("{number:064x}");
            json!({"identifier": identifier, "policy": "BLOCKLIST", "rule_type": "BINARY"})
        };
        let answer = |head: &str, body: &str| {
            if head.contains("/preflight/") {
                return json!({"client_mode": "MONITOR", "sync_type": "CLEAN"});
            }
            if !head.contains("/ruledownload/") {
                return json!({});
            }
            let request = requests.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let body: Value = serde_json::from_str(body).unwrap();
            let page = body["cursor"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0);
            let begin = place(page, request);
            let mut rules: Vec<_> =
                (begin..begin + 10).map(|number| rule((number % 30) as u128)).collect();
            if own && page == 0 {
                let id = head.split("/ruledownload/").nth(1).unwrap();
                let digits = id.chars().filter(char::is_ascii_hexdigit).take(30);
                rules.push(rule(u128::from_str_radix(&digits.collect::<String>(), 16).unwrap()));
            }
            match page {
                2 => json!({"rules": rules}),
                _ => json!({"rules": rules, "cursor": (page + 1).to_string()}),
            }
        };
        std::thread::scope(|scope| {
            while let Ok((stream, _)) = listener.accept() {
                let answer = &answer;
                scope.spawn(move || {
                    while let Some(Request { head, body }) = Request::read(&stream) {
                        let message = answer(&head, &body).to_string();
                        respond(&stream, "200 OK", &[], message.as_bytes());
                    }
                });
            }
        });
    });
    url
}

/// The requirements that compare a machine's rules with those of the first one.
const COMPARING: [&str; 7] =
    ["CLEAN-02", "CLEAN-05", "RULE-05", "RULE-06", "PAGE-03", "PAGE-04", "POST-04"];

fn compared(url: &str) -> Report {
    let conformance = Conformance::new(url).unwrap().waits(Waits::none());
    let conformance = conformance.form("json-none".parse().unwrap()).only(COMPARING);
    conformance.run_blocking().unwrap().report
}

#[test]
fn an_order_that_changes_between_pages_is_what_is_named() {
    let report = compared(&three_pages(|page, request| 10 * page + 7 * request, false));
    assert_eq!(super::complaints(&report), ["PAGE-03 fail"]);
    let said = &report.result("PAGE-03").unwrap().summary;
    assert!(said.contains("the order of the rules may change between pages"), "{said}");
    for id in COMPARING.into_iter().filter(|id| *id != "PAGE-03") {
        let blocked_by = report.result(id).unwrap().blocked_by;
        assert_eq!(blocked_by, Some("PAGE-03"), "{id}");
    }
    let report = compared(&three_pages(|page, _| 10 * page, false));
    assert_eq!(super::complaints(&report), [""; 0]);
}

#[test]
fn rules_of_a_machines_own_are_nobodys_fault() {
    let report = compared(&three_pages(|page, _| 10 * page, true));
    assert_eq!(super::complaints(&report), [""; 0]);
    let result = report.result("RULE-05").unwrap();
    assert_eq!(result.verdict, Verdict::NotTested);
    assert!(result.summary.contains("gives machines different rules"), "{}", result.summary);
}

/// RULE-02 says what is wrong with rules, wherever they come from.
#[test]
fn rules_that_are_wrong_in_every_download_are_not_held_against_one_outside_a_sync() {
    let rule = json!({"identifier": "a".repeat(64), "policy": "PERHAPS", "rule_type": "BINARY"});
    let server = answers(Stage::RuleDownload, json!({"rules": [rule]}));
    let report = of(server, &["RULE-02", "RULE-07"]);
    assert_eq!(super::complaints(&report), ["RULE-02 fail"]);
    assert_eq!(report.result("RULE-07").unwrap().verdict, Verdict::Pass);
}

#[test]
fn a_type_that_nobody_knows_is_shown_with_what_it_means() {
    let message = json!({"client_mode": "MONITOR", "sync_type": "FULL"});
    let result = result(answers(Stage::Preflight, message), "CLEAN-01");
    assert_eq!(result.verdict, Verdict::Fail);
    assert!(result.summary.ends_with("gets \"FULL\", which is read as NORMAL"), "{result:?}");
}

#[test]
fn an_empty_expression_is_not_said_to_be_like_one_left_out() {
    let message = json!({"client_mode": "MONITOR", "allowed_path_regex": ""});
    let result = result(answers(Stage::Preflight, message), "PRE-06");
    let said = "allowed_path_regex is empty: clients drop the expression that they have; left out, \
                it stays";
    assert_eq!((result.verdict, &*result.summary), (Verdict::Info, said));
}

#[test]
fn a_type_that_is_not_given_is_not_said_to_be() {
    for (policy, expected) in [
        (SyncTypePolicy::Silent, "gets no sync_type, which means NORMAL"),
        (
            SyncTypePolicy::Always(santa_sync::protocol::wire::SyncType::Normal),
            "request_clean_sync gets NORMAL",
        ),
    ] {
        let found = result(server().style(|style| style.sync_type = policy), "CLEAN-01");
        assert_eq!(found.verdict, Verdict::Fail);
        assert!(found.summary.ends_with(expected), "{}", found.summary);
    }
    let flag = answers(Stage::Preflight, json!({"client_mode": 1, "clean_sync": false}));
    let said = result(flag, "CLEAN-01").summary;
    let expected = "gets clean_sync false and no sync_type, which means NORMAL";
    assert!(said.ends_with(expected), "{said}");
}

#[test]
fn the_harm_is_that_of_what_was_found() {
    for (misbehaviour, id, harm) in [
        (Misbehaviour::Clean03NoRules, "CLEAN-03", "a new host lacks rules"),
        (Misbehaviour::Clean03Normal, "CLEAN-03", "an earlier server stay"),
        (Misbehaviour::Clean05Normal, "CLEAN-05", "an earlier server stay"),
        (Misbehaviour::Clean05Forgotten, "CLEAN-05", "an incomplete set"),
        (Misbehaviour::Clean06All, "CLEAN-06", "load grows"),
        (Misbehaviour::Clean06Removes, "CLEAN-06", "wrong rules"),
        (Misbehaviour::Err01Accepted, "ERR-01", "delete the events"),
        (Misbehaviour::Rule02Policy, "RULE-02", "drop such a rule"),
        (Misbehaviour::Rule02WrongName, "RULE-02", "has no effect"),
        (Misbehaviour::Enc06Error, "ENC-06", "looks like an outage"),
        (Misbehaviour::Post04Error, "POST-04", "in vain"),
        (Misbehaviour::Post04Counts, "POST-04", "never gets them"),
        (Misbehaviour::Enc06NotRead, "ENC-06", "nothing was read"),
    ] {
        let found = result(server().misbehave(misbehaviour), id);
        assert!(found.verdict.is_complaint(), "{misbehaviour}: {:?}", found.verdict);
        assert!(found.breaks.contains(harm), "{misbehaviour}: {}", found.breaks);
    }
}

#[test]
fn an_error_in_a_200_harms_by_its_stage_and_is_quoted_once() {
    for (stage, harm) in [
        (Stage::Preflight, "default settings"),
        (Stage::EventUpload, "delete the events"),
        (Stage::RuleDownload, "a page without rules"),
        (Stage::Postflight, "believes that the sync"),
    ] {
        let found = result(answers(stage, json!({"error": "not_implemented"})), "ERR-01");
        assert_eq!(found.summary, format!("{stage}: 200 with error \"not_implemented\""));
        assert!(found.breaks.contains(harm), "{stage}: {}", found.breaks);
    }
}

#[test]
fn pages_that_do_not_end_block_only_what_needs_all_of_them() {
    let report = of(server().misbehave(Misbehaviour::Page02Endless), &[]);
    assert_eq!(super::complaints(&report), ["PAGE-02 fail"]);
    for id in [
        "HTTP-06", "ENC-05", "ENC-08", "ENC-09", "ID-03", "PRE-11", "CLEAN-01", "RULE-02",
        "RULE-03", "RULE-04", "RULE-05", "RULE-07", "PAGE-06", "EVENT-11",
    ] {
        let result = report.result(id).unwrap();
        assert_eq!(result.verdict, Verdict::Pass, "{id}: {}", result.summary);
    }
    let blocked: Vec<_> = report
        .results
        .iter()
        .filter(|result| result.blocked_by == Some("PAGE-02"))
        .map(|result| result.id)
        .collect();
    assert_eq!(
        blocked.join(" "),
        "HTTP-01 CLEAN-02 CLEAN-03 CLEAN-04 CLEAN-05 CLEAN-06 CLEAN-07 CLEAN-08 RULE-06 PAGE-03 \
         PAGE-04 PAGE-05 EVENT-12 POST-02 POST-03 POST-04 ISO-01 ISO-02 ISO-03 ISO-04"
    );
}

#[test]
fn a_server_that_sends_everything_each_time_proves_little_whatever_it_calls_that() {
    let note = "the server sends all rules each time, so RULE-05, RULE-06, CLEAN-05 and ISO-04 \
                prove little";
    for builder in [
        server().misbehave(Misbehaviour::Clean06All),
        server().preset(Preset::AlwaysClean),
        server().misbehave(Misbehaviour::Clean04NeverEnds),
    ] {
        assert_eq!(of(builder, &["CLEAN"]).notes, [note]);
    }
    assert_eq!(of(server(), &["CLEAN"]).notes, [""; 0]);
}

#[test]
fn an_accepted_file_access_event_is_not_said_to_be_stored() {
    let result = result(server(), "EVENT-04");
    assert_eq!(result.verdict, Verdict::Pass);
    assert!(result.summary.contains("what OPS-05 asks"), "{}", result.summary);
}
