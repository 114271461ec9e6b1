//! The `events` commands, as a user or a program runs them.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Output, Stdio};

use assert_cmd::Command;
use santa_sync::model::SettledEvents;
use santa_sync::model::{EventSummary, Now, Timestamp};
use santa_sync::store::{EventStore, Limits, NewEvent};

use crate::program::program;

const LINES: &str = include_str!("../../fixtures/events/add.jsonl");
const NOW: Timestamp = Timestamp::from_secs(1_755_000_000);

fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = assert_cmd::Command::from_std(program());
    command.arg("--state-dir").arg(dir).arg("events").args(args);
    command
}

fn add(dir: &Path, args: &[&str], lines: &str) -> Output {
    let mut command = command(dir, &["add"]);
    command.args(args).write_stdin(lines.to_owned()).output().expect("it ran")
}

fn stdout(dir: &Path, args: &[&str]) -> String {
    let output = command(dir, args).output().expect("it ran");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// A state directory; its mode must not depend on the umask of the test.
fn state() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

/// Times differ from run to run.
fn settings() -> insta::Settings {
    let mut settings = insta::Settings::clone_current();
    settings.add_filter(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "[time]");
    settings
}

/// EV-7: an execution that a rule allowed is not taken in; a block, an unknown,
/// one a rule asked a record of, a file access and an audit event are.
#[test]
fn ev_7_events_are_added_and_listed_as_the_policy_says() {
    let dir = state();
    let output = add(dir.path(), &["--json"], LINES);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answers = String::from_utf8(output.stdout).expect("text");
    settings().bind(|| {
        insta::assert_snapshot!("events_add_json", answers);
        insta::assert_snapshot!("events_list", stdout(dir.path(), &["list"]));
        insta::assert_snapshot!("events_list_json", stdout(dir.path(), &["list", "--json"]));
    });
}

/// EV-7: the configuration's keys decide where the server is silent.
#[test]
fn ev_7_the_configuration_can_take_everything_in_or_leave_unknowns_out() {
    for (sets, expected) in [
        (&["--set", "EnableAllEventUpload=true"][..], "6 added\n"),
        (&["--set", "DisableUnknownEventUpload=true"], "4 added, 2 filtered\n"),
    ] {
        let dir = state();
        let output = add(dir.path(), sets, LINES);
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{sets:?}");
    }
}

#[test]
fn bad_lines_are_named_and_the_good_ones_are_kept() {
    let dir = state();
    let good = LINES.lines().next().expect("a line");
    let lines = format!(
        "{{}}\n\n{good}\nnot json\n{}\n{{\"file_sha256\":\"ab\"}}\n[1]",
        r#"{"file_sha256":"x","pid":"many"}"#
    );
    let output = add(dir.path(), &[], &lines);
    assert_eq!(output.status.code(), Some(64));
    insta::assert_snapshot!("events_add_bad_lines", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1 added, 5 invalid\n");
    assert!(stdout(dir.path(), &["list"]).contains("1 queued"));
}

/// Windows editors and shells put a byte-order mark before UTF-8.
#[test]
fn a_byte_order_mark_before_a_line_changes_nothing() {
    let line = LINES.lines().find(|line| line.contains("BLOCK_")).expect("a blocked execution");
    let dir = state();
    let output = add(dir.path(), &[], &format!("\u{feff}{line}\n"));
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1 added\n");
    let output = add(dir.path(), &[], "\u{feff}\r\n");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "no events\n");
    // Files put together have one before a later line.
    let output = add(dir.path(), &[], &format!("{line}\n\u{feff}{line}\n"));
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "2 duplicate\n");
}

#[test]
fn a_line_past_the_bound_is_bad_and_the_next_one_is_read() {
    let dir = state();
    let good = LINES.lines().next().expect("a line");
    let lines = format!("{}\n{good}\n", "x".repeat(3 << 20));
    let output = add(dir.path(), &[], &lines);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1 added, 1 invalid\n");
}

/// EV-2 begins here: an answer means that the event is on disk, and it comes
/// before the next line is written.
#[test]
fn ev_2_a_line_is_answered_once_its_event_is_durable() {
    let dir = state();
    let mut producer = command_of(&command(dir.path(), &["add", "--json"]))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it started");
    let mut input = producer.stdin.take().expect("a pipe");
    let mut answers = BufReader::new(producer.stdout.take().expect("a pipe")).lines();
    for (number, line) in LINES.lines().take(2).enumerate() {
        writeln!(input, "{line}").expect("written");
        let answer = answers.next().expect("an answer").expect("text");
        assert!(answer.contains("\"added\""), "{answer}");
        let pending = EventStore::open_read_only(dir.path()).expect("a queue").pending();
        assert_eq!(pending.expect("a count"), number as u64 + 1);
    }
    // Killed without warning, it has lost nothing it answered for.
    producer.kill().expect("killed");
    producer.wait().expect("gone");
    assert_eq!(EventStore::open(dir.path(), NOW).expect("opens").0.pending().expect("a count"), 2);
}

/// The same command for a process that is talked to.
fn command_of(command: &Command) -> std::process::Command {
    let mut plain = std::process::Command::new(command.get_program());
    plain.args(command.get_args());
    plain
}

/// A queue with one event set aside and one bundle asked for.
fn with_rejected() -> tempfile::TempDir {
    let dir = state();
    let (mut store, _) = EventStore::open(dir.path(), NOW).expect("a queue");
    let summary = EventSummary { unique_id: "bad\u{7}".to_owned(), actionable: true };
    let event = NewEvent { summary, data: b"junk".to_vec() };
    let now = Now { wall: NOW, elapsed: std::time::Duration::ZERO };
    store.queue_events(&[event], now, Limits::default()).expect("queued");
    let id = store.read_batch(1, None, NOW).expect("a batch")[0].id;
    let settled = SettledEvents {
        rejected: vec![(id, "the payload is junk".to_owned())],
        dropped: vec![(99, "AllowTransitive".to_owned())],
        bundle_requests: vec!["f".repeat(64)],
        ..SettledEvents::default()
    };
    store.settle(&settled, NOW).expect("settled");
    drop(store);
    dir
}

/// EV-5, EV-6 and EV-9: what was set aside and what is asked for can be seen.
#[test]
fn ev_5_events_set_aside_and_bundle_requests_are_shown() {
    let dir = with_rejected();
    insta::assert_snapshot!("events_rejected", stdout(dir.path(), &["list", "--rejected"]));
    insta::assert_snapshot!(
        "events_rejected_json",
        stdout(dir.path(), &["list", "--rejected", "--json"])
    );
    insta::assert_snapshot!("events_bundles", stdout(dir.path(), &["bundles"]));
    insta::assert_snapshot!("events_bundles_json", stdout(dir.path(), &["bundles", "--json"]));
}

/// EV-6: `events requeue` brings it back.
#[test]
fn ev_6_an_event_set_aside_can_be_requeued_or_dropped() {
    let dir = with_rejected();
    insta::assert_snapshot!("events_requeue_json", stdout(dir.path(), &["requeue", "1", "--json"]));
    assert!(stdout(dir.path(), &["list"]).contains("1 queued"));

    let dir = with_rejected();
    let output = command(dir.path(), &["drop", "1", "7"]).output().expect("it ran");
    assert_eq!(output.status.code(), Some(64));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "       1  dropped\n       7  unknown\n");
    assert!(!stdout(dir.path(), &["list"]).contains("rejected"));

    let dir = with_rejected();
    assert_eq!(stdout(dir.path(), &["requeue", "--all"]), "       1  added\n");
}

#[test]
fn a_queue_that_was_never_used_is_an_empty_one() {
    let dir = state();
    assert_eq!(stdout(dir.path(), &["list"]), "0 queued\n");
    assert_eq!(stdout(dir.path(), &["bundles"]), "0 open\n");
    assert!(!dir.path().join("events.db").exists(), "looking creates nothing");
}
