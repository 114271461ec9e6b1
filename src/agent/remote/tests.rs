use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixListener;

use super::*;
use crate::model::{Identifier, RuleType};

fn event(name: usize, padding: usize) -> Vec<u8> {
    let path = "x".repeat(padding);
    format!(
        r#"{{"file_sha256":"{name:064x}","file_path":"/{path}","file_name":"{name}","executing_user":"u","execution_time":1.5,"decision":"BLOCK_BINARY"}}"#
    )
    .into_bytes()
}

/// DAEMON-4: a request holds as many events as a line may, and a line that is not
/// JSON is not sent.
#[test]
fn daemon_4_lines_are_cut_into_requests_that_the_daemon_takes() {
    let mut lines: Vec<_> = (0..100).map(|n| event(n, 10_000)).collect();
    lines.insert(3, b"{".to_vec());
    let Batch { taken, invalid, events } = Batch::of(&lines);
    assert_eq!((taken, events.len()), (26, 25));
    assert_eq!(invalid.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [3]);
    assert_eq!(events[0].get().as_bytes(), lines[0], "as it came");
    let request = serde_json::to_string(&ControlRequest::EventsAdd { events }).expect("JSON");
    assert!(request.len() <= MAX_LINE, "{}", request.len());
    assert_eq!(Batch::of(&[event(1, MAX_LINE)]).taken, 0, "one alone is too long");
}

/// DAEMON-4: a rule that the daemon knows and does not tell is not taken for
/// none.
#[test]
fn daemon_4_half_a_response_is_none() {
    let dir = tempfile::tempdir().expect("a directory");
    let listener = UnixListener::bind(dir.path().join("agent.sock")).expect("a socket");
    let team = Identifier::parse(RuleType::TeamId, "ABCDEFGHIJ").expect("a team");
    let executable = Executable::default().with(team);
    for (response, whole) in [
        (r#"{"answer":"rule","matched":true,"decision":"Blocked","why":"it is"}"#, false),
        (r#"{"answer":"rule","matched":false,"decision":null,"why":null}"#, true),
    ] {
        let mut remote = RemoteAgent::connect(dir.path()).expect("access").expect("a daemon");
        let (stream, _) = listener.accept().expect("a client");
        (&stream).write_all(format!("{response}\n").as_bytes()).expect("answered");
        assert_eq!(remote.decide(&executable).is_ok(), whole, "{response}");
        let mut request = String::new();
        BufReader::new(stream).read_line(&mut request).expect("asked");
        assert!(request.contains("ABCDEFGHIJ"), "{request}");
    }
}

/// DAEMON-4: each line has its own result, in order, whichever side found it out.
#[test]
fn daemon_4_results_come_in_the_order_of_the_lines() {
    let dir = tempfile::tempdir().expect("a directory");
    let listener = UnixListener::bind(dir.path().join("agent.sock")).expect("a socket");
    let mut remote = RemoteAgent::connect(dir.path()).expect("access").expect("a daemon");
    let (stream, _) = listener.accept().expect("a client");
    let response = r#"{"answer":"events_added","results":[{"unique_id":"a","result":"added"},{"unique_id":"","result":"invalid","reason":"why"}]}"#;
    (&stream).write_all(format!("{response}\n").as_bytes()).expect("answered");
    let lines = [b"{".to_vec(), event(1, 1), b"nope".to_vec(), b"{}".to_vec()];
    let mut results = Vec::new();
    remote.add_events(&lines, &mut results).expect("added");
    let words: Vec<_> = results.iter().map(|result| result.outcome.name()).collect();
    assert_eq!(words, ["invalid", "added", "invalid", "invalid"]);
    assert_eq!(results[1].unique_id, "a");
}
