//! Runs that end before every requirement has been checked: they say why, keep what is known,
//! and are not successful.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use santa_sync::harness::conformance::{Conformance, EarlyEndKind, Report, Verdict, Waits};
use santa_sync::harness::{FakeServer, Fault, Route, every, fixtures, from};
use santa_sync::model::Stage;
use santa_sync::{Config, Sources};
use serde_json::{Value, json};

use super::by_hand::{Request, listen, respond};
use super::complaints;
use crate::program::program;

/// Longer than any test takes.
const LONG: Duration = Duration::from_mins(10);

fn server() -> santa_sync::harness::Builder {
    FakeServer::builder().rules(fixtures::rules(30, 1)).page_size(10)
}

fn conformance(url: &str) -> Conformance {
    Conformance::new(url).unwrap().waits(Waits::none())
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_raw(child.id().cast_signed()).unwrap(), signal).unwrap();
}

#[test]
fn an_interrupted_run_writes_its_reports_and_what_it_left_on_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (html, junit, transcript, known) =
        (path("r.html"), path("r.xml"), path("r.jsonl"), path("known.txt"));
    fs::write(&known, "ENC-03 warning\n").unwrap();
    // Four pages are the first sync's and one is another check's; the next is never answered.
    let server = server().fault(Stage::RuleDownload, from(6), Fault::Hold).start().unwrap();
    let child = program()
        .args(["harness", "conformance", &server.url(), "--no-slow", "--json"])
        .args(["--html", &html, "--junit", &junit, "--transcript", &transcript])
        .args(["--write-expect", &known])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    assert!(server.wait_for(Stage::RuleDownload, 6, LONG));
    signal(&child, Signal::INT);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));

    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let end = &report["ended_early"];
    assert_eq!(
        (&end["kind"], &end["cause"]),
        (&json!("interrupted"), &json!("interrupted (SIGINT)"))
    );
    let results = report["results"].as_array().unwrap();
    let not_run = |result: &&Value| result["summary"] == "not run: interrupted";
    assert_eq!(end["not_run"], results.iter().filter(not_run).count());
    let verdict = |id: &str| &results.iter().find(|result| result["id"] == id).unwrap()["verdict"];
    assert_eq!((verdict("HTTP-01"), verdict("OPS-06")), (&json!("pass"), &json!("not_tested")));
    // A pass of a check that looks back on the whole run would be premature.
    assert_eq!(verdict("ERR-01"), &json!("not_tested"));
    assert!(!report["machine_ids"].as_array().unwrap().is_empty());
    assert_eq!(report["events"].as_array().unwrap().len() as u64, server.events_received());

    let text = |path: &str| fs::read_to_string(path).unwrap();
    assert!(text(&html).contains("Ended early.</strong> interrupted (SIGINT)"), "{}", text(&html));
    assert!(text(&junit).contains("<error message=\"interrupted (SIGINT)"), "{}", text(&junit));
    assert_eq!(report["requests"], text(&transcript).lines().count());
    assert_eq!(text(&known), "ENC-03 warning\n", "deviations of half a run are not written");
}

#[test]
fn a_run_that_waits_for_its_operator_can_be_ended_as_well() {
    let server = server().start().unwrap();
    let known = tempfile::tempdir().unwrap();
    let known = known.path().join("known.txt");
    let mut child = program()
        .args(["harness", "conformance", &server.url(), "--operator", "--only", "OPS-02"])
        .args(["--write-expect", known.to_str().unwrap()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Open until the end: its end would be an answer.
    let stdin = child.stdin.take();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("answer y")), "the operator is asked");
    signal(&child, Signal::TERM);
    let rest = std::thread::spawn(move || lines.map(Result::unwrap).collect::<Vec<_>>());
    let output = child.wait_with_output().unwrap();
    drop(stdin);
    assert_eq!(output.status.code(), Some(143));
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(
        shown.contains("ended early: told to terminate (SIGTERM); 1 requirement not run"),
        "{shown}"
    );
    assert!(shown.contains("Left on the server:"), "{shown}");
    let rest = rest.join().unwrap().join("\n");
    assert!(rest.contains("known.txt is not written"), "{rest}");
    assert!(!known.exists(), "an empty one would say that there are no deviations");
}

#[test]
fn a_deadline_ends_a_run_with_what_is_known() {
    let error = json!({"error": "no such table"});
    let server = server()
        .fault(Stage::Postflight, every(), Fault::WrongShape(error))
        .fault(Stage::RuleDownload, from(6), Fault::Hold)
        .start()
        .unwrap();
    let deadline = Duration::from_millis(500);
    let conformance = conformance(&server.url()).request_timeout(LONG).deadline(deadline);
    let report = conformance.run_blocking().unwrap().report;
    let end = report.ended_early.clone().unwrap();
    assert_eq!(end.kind, EarlyEndKind::Deadline);
    assert!(end.cause.starts_with("the deadline of 500ms has passed"), "{}", end.cause);
    assert!(end.not_run > 0 && !report.is_met(false));
    for result in report.results.iter().filter(|result| result.summary.starts_with("not run")) {
        assert_eq!(result.verdict, Verdict::NotTested);
    }
}

#[test]
fn what_the_whole_run_shows_so_far_is_reported_if_it_is_a_complaint() {
    let error = json!({"error": "no such table"});
    let server = server()
        .fault(Stage::Postflight, every(), Fault::WrongShape(error))
        .fault(Stage::RuleDownload, from(4), Fault::Hold)
        .start()
        .unwrap();
    let (sender, stop) = tokio::sync::watch::channel(None);
    let running = {
        let conformance = conformance(&server.url()).request_timeout(LONG);
        std::thread::spawn(move || conformance.run_until_blocking(stop).unwrap().report)
    };
    assert!(server.wait_for(Stage::RuleDownload, 4, LONG));
    sender.send(Some("enough")).unwrap();
    let report = running.join().unwrap();
    assert_eq!(report.result("ERR-01").unwrap().verdict, Verdict::Fail);
    assert_eq!(report.result("PRE-01").unwrap().summary, "not run: interrupted");
    assert_eq!(report.ended_early.unwrap().cause, "enough");
}

/// Accepts connections and does something to each, until the test is over.
fn listener(each: impl Fn(TcpStream) + Send + 'static) -> String {
    let (listener, url) = listen();
    std::thread::spawn(move || listener.incoming().map_while(Result::ok).for_each(each));
    url
}

/// What is the same for every server that never responds.
fn assert_said_once(report: &Report, by: &'static str, cause: &str) {
    assert_eq!(complaints(report), [format!("{by} fail")]);
    for result in report.results.iter().filter(|result| result.id != by) {
        assert_eq!(result.summary, "not run: no request gets a usable response", "{}", result.id);
        assert_eq!((result.verdict, result.blocked_by), (Verdict::NotTested, Some(by)));
    }
    let end = report.ended_early.as_ref().unwrap();
    assert_eq!((end.kind, end.not_run), (EarlyEndKind::NoResponse, 87));
    assert!(!report.is_met(false));
    for verbose in [false, true] {
        let text = report.text(verbose).to_string();
        let said = text.lines().filter(|line| line.trim_start().starts_with(cause)).count();
        assert_eq!(said, 1, "{text}");
        assert!(text.contains("  87 requirements: blocked by"), "{text}");
    }
}

#[test]
fn a_server_that_does_not_respond_in_time_is_given_three_requests() {
    let kept = Mutex::new(Vec::new());
    let url = listener(move |stream| kept.lock().unwrap().push(stream));
    let timeout = Duration::from_millis(50);
    let report = conformance(&url).request_timeout(timeout).run_blocking().unwrap().report;
    assert_eq!(report.requests, 3);
    assert_said_once(&report, "HTTP-03", "no response within 50ms");
}

#[test]
fn a_server_that_drips_its_response_is_given_three_requests() {
    let drip = Fault::SlowBytes(Duration::from_millis(20));
    let server = server().fault(Stage::Preflight, every(), drip).start().unwrap();
    let timeout = Duration::from_millis(150);
    let conformance = conformance(&server.url()).request_timeout(timeout);
    let report = conformance.run_blocking().unwrap().report;
    assert_eq!((report.requests, server.count(Stage::Preflight)), (3, 3));
    let result = report.result("HTTP-03").unwrap();
    assert_eq!(result.verdict, Verdict::Fail, "{}", result.summary);
}

#[test]
fn a_server_that_closes_every_connection_is_tried_in_each_form() {
    let url = listener(|mut stream| {
        // The whole head, so that the end of the connection is no reset.
        let _ = stream.set_read_timeout(Some(LONG));
        let _ = stream.read(&mut [0; 4096]);
    });
    let report = conformance(&url).run_blocking().unwrap().report;
    assert_eq!(report.requests, 6);
    let said = report.result("HTTP-01").unwrap().summary.clone();
    assert!(said.starts_with("the connection ended without a response"), "{said}");
    assert_said_once(&report, "HTTP-01", &said);
}

/// The report of a run during which something happens as soon as this requirement has its
/// verdict.
fn report_with(
    conformance: Conformance,
    id: &'static str,
    happens: impl Fn() + Send + 'static,
) -> Report {
    let conformance = conformance.without_slow().on_verdict(move |requirement, _| {
        if requirement.id == id {
            happens();
        }
    });
    conformance.run_blocking().unwrap().report
}

/// Lets the server accept connections and answer nothing from here on.
fn hold_all(server: &FakeServer) {
    for route in Route::ALL {
        server.fault(route, every(), Fault::Hold);
    }
}

#[test]
fn a_server_that_goes_away_in_the_middle_is_accused_of_nothing_else() {
    let server = Mutex::new(Some(server().start().unwrap()));
    let server = Arc::new(server);
    let url = server.lock().unwrap().as_ref().unwrap().url();
    let report = report_with(conformance(&url), "CLEAN-01", move || {
        // It stops, and its port is closed.
        drop(server.lock().unwrap().take());
    });
    assert_eq!(complaints(&report), [""; 0]);
    assert_eq!(report.result("CLEAN-01").unwrap().verdict, Verdict::Pass);
    let end = report.ended_early.clone().unwrap();
    assert_eq!(end.kind, EarlyEndKind::NoResponse);
    let last = report.requests;
    let said = end.cause;
    assert!(said.starts_with("the server went away after exchange "), "{said}");
    assert!(said.contains("): no connection to 127.0.0.1:"), "{said}");
    assert!(said.contains(&format!("; exchange {last} (")), "one is enough: {said}");
    assert!(!report.is_met(false));
}

/// The last check makes its last requests in vain: too few to end the run before.
#[test]
fn a_server_that_goes_away_at_the_end_is_accused_of_nothing_either() {
    let server = Mutex::new(Some(server().start().unwrap()));
    let url = server.lock().unwrap().as_ref().unwrap().url();
    let report =
        report_with(conformance(&url), "ERR-03", move || drop(server.lock().unwrap().take()));
    assert_eq!(complaints(&report), [""; 0]);
    assert_eq!(report.result("ISO-04").unwrap().verdict, Verdict::Pass);
    assert_eq!(
        report.result("ERR-02").unwrap().summary,
        "not run: no request gets a usable response"
    );
    let cause = report.ended_early.as_ref().unwrap().cause.clone();
    assert!(cause.contains("; exchange ") && cause.contains("(ERR-04): no connection"), "{cause}");
}

/// That it refuses connections now says nothing of its URL and its certificate.
#[test]
fn a_server_of_tls_that_goes_away_had_a_usable_url() {
    let dir = tempfile::tempdir().unwrap();
    let roots = dir.path().join("roots.pem");
    let server = server().tls().start().unwrap();
    fs::write(&roots, server.roots().unwrap()).unwrap();
    let sets = vec![format!("ServerAuthRootsFile={}", roots.display())];
    let config = Config::load(&Sources { sets, ..Sources::default() }).unwrap().config;
    let conformance = conformance(&server.url()).configured(&config).unwrap();
    let server = Mutex::new(Some(server));
    let report = report_with(conformance, "CLEAN-01", move || drop(server.lock().unwrap().take()));
    assert_eq!(complaints(&report), [""; 0]);
    assert_eq!(report.ended_early.unwrap().kind, EarlyEndKind::NoResponse);
}

/// It still accepts connections.
#[test]
fn a_server_that_hangs_at_the_end_is_accused_of_nothing_either() {
    let server = server().start().unwrap();
    let conformance = conformance(&server.url()).request_timeout(Duration::from_secs(2));
    let report = report_with(conformance, "ERR-03", move || hold_all(&server));
    assert_eq!(complaints(&report), [""; 0]);
    assert_eq!(report.ended_early.unwrap().kind, EarlyEndKind::NoResponse);
}

/// The first request that times out shows it, rather than the tenth.
#[test]
fn a_server_that_hangs_in_the_middle_is_accused_of_nothing_and_soon_given_up() {
    let server = server().start().unwrap();
    let conformance = conformance(&server.url()).request_timeout(Duration::from_secs(2));
    let report = report_with(conformance, "ENC-08", move || hold_all(&server));
    assert_eq!(complaints(&report), [""; 0]);
    assert_eq!(report.result("ENC-08").unwrap().verdict, Verdict::Pass);
    let result = report.result("ID-02").unwrap();
    assert_eq!(result.summary, "not run: no request gets a usable response");
    let end = report.ended_early.clone().unwrap();
    assert_eq!(end.kind, EarlyEndKind::NoResponse);
    let said = "the server stopped responding after exchange ";
    assert!(end.cause.starts_with(said), "{}", end.cause);
    assert!(end.cause.contains("): no response within 2s"), "{}", end.cause);
}

/// The preflight that follows each timeout is answered.
#[test]
fn a_server_that_hangs_on_one_kind_of_request_is_accused_of_that() {
    let server = server().fault(Stage::Postflight, every(), Fault::Hold).start().unwrap();
    let conformance = conformance(&server.url()).request_timeout(Duration::from_secs(2));
    let report = conformance.only(["HTTP-01", "HTTP-03", "POST-03"]).run_blocking().unwrap().report;
    assert_eq!(report.ended_early, None);
    let result = report.result("HTTP-03").unwrap();
    assert_eq!(result.verdict, Verdict::Fail);
    assert!(result.summary.contains("postflight: no response within 2s"), "{}", result.summary);
}

/// What was found before the server went away stands, although it could not be found again:
/// this one does not survive its first 500.
#[test]
fn what_was_found_before_the_server_went_away_is_kept() {
    let (listener, url) = listen();
    std::thread::spawn(move || {
        let mut listener = Some(listener);
        while let Some(open) = &listener {
            let (stream, _) = open.accept().unwrap();
            let Some(Request { head, body }) = Request::read(&stream) else { continue };
            let is_last = body.contains("STANDALONE");
            let (status, message) = match head.contains("/preflight/") {
                _ if is_last => ("500 Internal Server Error", "{}"),
                true => ("200 OK", r#"{"client_mode":"MONITOR","sync_type":"CLEAN"}"#),
                false => ("200 OK", "{}"),
            };
            if is_last {
                // Before the response, so that nobody gets another connection after it.
                listener = None;
            }
            respond(&stream, status, &["Connection: close"], message.as_bytes());
        }
    });
    let form = "json-none".parse().unwrap();
    let report = conformance(&url).form(form).only(["PRE-09", "PRE-10"]).run_blocking().unwrap();
    let report = report.report;
    assert_eq!(complaints(&report), ["PRE-09 fail"]);
    let said = &report.result("PRE-09").unwrap().summary;
    assert_eq!(
        said,
        "preflight with client_mode STANDALONE: 500; the server has not responded since"
    );
    assert_eq!(report.result("PRE-10").unwrap().verdict, Verdict::NotTested);
}

/// A server that is killed while it handles an upload: whether or not its response had begun,
/// the upload says nothing of it.
#[test]
fn requests_that_a_server_did_not_survive_are_not_held_against_it() {
    for has_begun in [false, true] {
        let (listener, url) = listen();
        std::thread::spawn(move || {
            let mut postflights = 0;
            loop {
                let (mut stream, _) = listener.accept().unwrap();
                let Some(Request { head, .. }) = Request::read(&stream) else { continue };
                postflights += u32::from(head.contains("/postflight/"));
                // The first sync and that of the check are over.
                if postflights == 2 && head.contains("/eventupload/") {
                    drop(listener);
                    if has_begun {
                        let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{{");
                    }
                    return;
                }
                respond(&stream, "200 OK", &["Connection: close"], b"{}");
            }
        });
        let form = "json-none".parse().unwrap();
        let conformance = conformance(&url).form(form).only(["EVENT-11"]);
        let report = conformance.run_blocking().unwrap().report;
        assert_eq!(complaints(&report), [""; 0]);
        let result = report.result("EVENT-11").unwrap();
        assert_eq!(result.summary, "not run: no request gets a usable response");
        let cause = report.ended_early.unwrap().cause;
        let (lost, refused) = (report.requests - 1, report.requests);
        let answered = lost - 1;
        let expected = format!(
            "the server went away after exchange {answered}; exchange {lost} (EVENT-11): the "
        );
        assert!(cause.starts_with(&expected), "{cause}");
        assert!(
            cause.contains(&format!("; exchange {refused} (EVENT-11): no connection")),
            "{cause}"
        );
    }
}

/// HTTP-05 makes its second request aside, on a connection that may be closed.
#[test]
fn a_kept_connection_that_ends_with_the_server_is_not_held_against_it() {
    let (listener, url) = listen();
    std::thread::spawn(move || {
        loop {
            let (stream, _) = listener.accept().unwrap();
            let mut preflights = 0;
            while let Some(Request { head, .. }) = Request::read(&stream) {
                preflights += u32::from(head.contains("/preflight/"));
                if preflights == 2 {
                    drop(listener);
                    return;
                }
                respond(&stream, "200 OK", &[], b"{}");
            }
        }
    });
    let form = "json-none".parse().unwrap();
    let report = conformance(&url).form(form).only(["HTTP-05"]).run_blocking().unwrap().report;
    assert_eq!(complaints(&report), [""; 0]);
    assert!(report.ended_early.unwrap().cause.starts_with("the server went away after exchange "));
}

#[test]
fn nothing_is_left_on_a_server_that_took_nothing() {
    let url = listener(|mut stream| {
        let _ = stream.set_read_timeout(Some(LONG));
        let _ = stream.read(&mut [0; 4096]);
    });
    let report = conformance(&url).run_blocking().unwrap().report;
    assert_eq!((report.machine_ids.as_slice(), report.events.as_slice()), (&[][..], &[][..]));
    let text = report.text(false).to_string();
    assert!(text.contains("Left on the server: nothing"), "{text}");

    // This one takes preflights and no upload.
    let refused = Fault::status(400);
    let server = server().fault(Stage::EventUpload, every(), refused).start().unwrap();
    let report = conformance(&server.url()).without_slow().run_blocking().unwrap().report;
    assert!(!report.machine_ids.is_empty());
    assert_eq!(report.events, []);
}
