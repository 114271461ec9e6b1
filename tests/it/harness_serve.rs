//! `harness serve` as a process of its own.

use std::fs;
use std::io::{BufRead as _, BufReader, Lines, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::program::program;

pub(crate) struct Serve {
    pub(crate) child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Serve {
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::of(program().args(["harness", "serve"]).args(args))
    }

    fn of(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    pub(crate) fn line(&mut self) -> String {
        self.lines.next().expect("another line").unwrap()
    }

    pub(crate) fn json(&mut self) -> Value {
        serde_json::from_str(&self.line()).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Ends it and answers what it still prints.
    pub(crate) fn stop(self) -> String {
        let (last, code) = self.ended();
        assert_eq!(code, Some(0));
        last
    }

    /// Ends it and answers what it still prints, and its exit code.
    pub(crate) fn ended(self) -> (String, Option<i32>) {
        self.signal(Signal::TERM);
        self.rest()
    }

    /// Waits for its end and answers what it still prints, and its exit code.
    pub(crate) fn rest(mut self) -> (String, Option<i32>) {
        let last = self.lines.by_ref().map(|line| line.unwrap() + "\n").collect();
        (last, self.child.wait().unwrap().code())
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        // Ended already, if all went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn post(url: &str, path: &str, body: &Value) -> Value {
    let address = url.trim_start_matches("http://").split('/').next().unwrap();
    let prefix = url.split_once(address).unwrap().1;
    let body = body.to_string();
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "POST {prefix}{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap_or_default()
}

pub(crate) fn refused(args: &[&str]) -> Output {
    let out = program().args(["harness", "serve"]).args(args).output().unwrap();
    assert_eq!(out.status.code(), Some(64));
    out
}

#[test]
fn it_prints_its_url_each_request_and_a_summary() {
    let mut serve = Serve::start(&["--rules", "5", "--base-path", "v1", "--fault", "xsrf=html"]);
    let first = serve.line();
    let url = first.strip_prefix("serving ").unwrap().to_owned();
    assert!(url.starts_with("http://127.0.0.1:") && url.ends_with("/v1/"), "{url}");
    assert_eq!(post(&url, "preflight/A", &json!({}))["syncType"], "CLEAN");
    let line = serve.line();
    assert!(line.starts_with("preflight A 200 2 B in, "), "{line}");
    post(&url, "xsrf/B", &json!({}));
    assert!(serve.line().ends_with("B out (html)"));
    assert_eq!(
        serve.stop(),
        "stopped: hosts 2, events 0, preflight 1, event_upload 0, rule_download 0, postflight 0, \
         xsrf 1\n"
    );
}

/// RELAY-12: a server without file descriptors waits for some, and does not spin.
#[test]
#[cfg(target_os = "linux")]
fn relay_12_a_server_out_of_file_descriptors_waits_without_work() {
    let command = program();
    let mut limited = Command::new("/bin/sh");
    limited.args(["-c", "ulimit -n 24; exec \"$@\"", "sh"]).arg(command.get_program());
    limited.args(command.get_args()).args(["harness", "serve"]).env_clear().stdin(Stdio::null());
    let mut serve = Serve::of(&mut limited);
    let url = serve.line().strip_prefix("serving ").unwrap().to_owned();
    let address = url.trim_start_matches("http://").trim_end_matches('/');
    let ticks = |serve: &Serve| -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", serve.child.id())).unwrap();
        let (_, words) = stat.rsplit_once(')').unwrap();
        words.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
    };
    let mut clients: Vec<_> = (0..40).map(|_| TcpStream::connect(address).unwrap()).collect();
    let before = ticks(&serve);
    // The last one is not accepted: a second passes.
    let last = clients.last_mut().unwrap();
    last.write_all(b"POST /x HTTP/1.1\r\nContent-Length: 0\r\n\r\n").unwrap();
    last.set_read_timeout(Some(std::time::Duration::from_secs(1))).unwrap();
    let error = last.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    // The first one is served meanwhile.
    clients[0].write_all(b"POST /x HTTP/1.1\r\nContent-Length: 0\r\n\r\n").unwrap();
    let mut answer = [0; 9];
    clients[0].read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 ");
    let used = ticks(&serve) - before;
    assert!(used < 30, "{used} hundredths of a second");
    drop(clients);
    assert_eq!(post(&url, "preflight/A", &json!({}))["syncType"], "CLEAN");
}

#[test]
fn its_json_lines_have_the_documented_form() {
    let dir = tempfile::tempdir().unwrap();
    let transcript = dir.path().join("transcript.jsonl");
    let mut serve = Serve::start(&["--json", "--transcript", transcript.to_str().unwrap()]);
    let started = serve.json();
    let url = started["url"].as_str().unwrap().to_owned();
    assert_eq!(started, json!({"schema_version": 1, "url": url}));
    let body = json!({"events": [{"file_sha256": "00"}], "machine_id": "A"});
    post(&url, "eventupload/A", &body);
    assert_eq!(
        serve.json(),
        json!({"number": 1, "route": "event_upload", "machine_id": "A", "path": "/eventupload/A",
            "status": 200, "body_bytes": body.to_string().len(), "response_bytes": 2, "note": ""})
    );
    let last: Value = serde_json::from_str(&serve.stop()).unwrap();
    let requests = json!({"preflight": 0, "event_upload": 1, "rule_download": 0, "postflight": 0,
        "xsrf": 0});
    assert_eq!(last, json!({"requests": requests, "hosts": 1, "events": 1}));

    let written: Value =
        serde_json::from_str(fs::read_to_string(&transcript).unwrap().trim()).unwrap();
    assert_eq!(written["body"], body);
    assert_eq!(written["headers"]["content-type"], "application/json");
}

#[test]
fn a_hangup_reads_the_rules_again_and_normal_syncs_bring_the_difference() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rules.json");
    let team = |name: &str| json!({"identifier": name, "policy": "ALLOWLIST", "rule_type": "TEAMID", "comment": ""});
    fs::write(&file, json!({"rules": [team("AAAAAAAAAA"), team("BBBBBBBBBB")]}).to_string())
        .unwrap();
    let mut serve = Serve::start(&["--rules-file", file.to_str().unwrap()]);
    let url = serve.line().strip_prefix("serving ").unwrap().to_owned();
    let mut sync = || {
        post(&url, "preflight/A", &json!({"teamid_rule_count": 2}));
        let rules = post(&url, "ruledownload/A", &json!({}))["rules"].clone();
        let count = rules.as_array().unwrap().len();
        post(
            &url,
            "postflight/A",
            &json!({"rules_received": count, "rules_processed": count, "syncType": "CLEAN"}),
        );
        rules
    };
    assert_eq!(sync().as_array().unwrap().len(), 2);
    assert_eq!(sync(), json!([]));

    fs::write(&file, "{").unwrap();
    serve.signal(Signal::HUP);
    let mut complaint = String::new();
    BufReader::new(serve.child.stderr.take().unwrap()).read_line(&mut complaint).unwrap();
    assert!(complaint.contains("is not an export of rules"), "{complaint}");
    assert_eq!(sync(), json!([]), "a file that cannot be read changes nothing");

    fs::write(&file, json!({"rules": [team("BBBBBBBBBB"), team("CCCCCCCCCC")]}).to_string())
        .unwrap();
    serve.signal(Signal::HUP);
    // The signal is heard some time after it is sent.
    let changes = std::iter::repeat_with(&mut sync).find(|rules| *rules != json!([])).unwrap();
    let change = |place: usize, key: &str| changes[place][key].as_str().unwrap().to_owned();
    assert_eq!(
        (change(0, "identifier"), change(0, "policy")),
        ("AAAAAAAAAA".into(), "REMOVE".into())
    );
    assert_eq!(change(1, "identifier"), "CCCCCCCCCC");
    drop(serve);
}

#[test]
fn wrong_arguments_are_answered_with_what_to_give() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file.json");
    let path = file.to_str().unwrap();
    let says = |args: &[&str], words: &str| {
        let err = String::from_utf8(refused(args).stderr).unwrap();
        assert!(err.contains(words), "{err}");
    };
    says(&["--fault", "preflight=trunkate"], "is not a fault; give one of status, redirect");
    says(
        &["--preset", "mozor"],
        "give one of plain, moroz, rudolph, zentral, protobuf-gzip, cookie",
    );
    says(&["--rules-file", path], "name a file that this user may read");
    fs::write(&file, "[1]").unwrap();
    says(&["--settings", path], "is not a preflight response");
    let rule = json!({"identifier": "A", "policy": "ALLOW", "rule_type": "TEAMID"});
    fs::write(&file, json!({ "rules": [rule] }).to_string()).unwrap();
    says(&["--rules-file", path], "rule 0 of");
    says(&["--rules-file", path], "has no known policy");
    says(&["--transcript", "/dev/null/x"], "name a file that this user may write");
    says(&["--listen", "192.0.2.1:9", "--public"], "cannot listen on 192.0.2.1:9");
    for public in ["0.0.0.0:0", "[::]:0", "192.0.2.1:9"] {
        says(&["--listen", public], "so other hosts could connect; --public allows that");
    }
    says(&["--rules", "5000001"], "up to 5000000, the limit of one sync");
}

#[test]
fn every_requirement_can_be_broken_and_is_listed() {
    let out = program().args(["harness", "serve", "--expose-errors", "list"]).output().unwrap();
    let list = String::from_utf8(out.stdout).unwrap();
    assert_eq!(list.lines().count(), santa_sync::harness::Misbehaviour::ALL.len());
    let line = list.lines().find(|line| line.starts_with("clean-04-never-ends ")).unwrap();
    assert!(line.ends_with("fail     Every sync is CLEAN."), "{line}");

    let mut serve = Serve::start(&["--misbehave", "CLEAN-04", "--expose-errors", "post-01-array"]);
    let url = serve.line().strip_prefix("serving ").unwrap().to_owned();
    for _ in 0..2 {
        assert_eq!(post(&url, "preflight/A", &json!({}))["syncType"], "CLEAN");
        post(&url, "ruledownload/A", &json!({}));
        assert_eq!(post(&url, "postflight/A", &json!({})), json!([]));
    }
    let err = String::from_utf8(refused(&["--expose-errors", "CLEAN-9"]).stderr).unwrap();
    assert!(err.contains("as clean-04-never-ends; `list` prints all"), "{err}");
}

#[test]
fn the_help_explains_faults_and_gives_examples() {
    let out = program().args(["harness", "serve", "--help"]).output().unwrap();
    let help = String::from_utf8(out.stdout).unwrap();
    assert!(help.contains("Faults are ROUTE[:WHICH]=FAULT[:VALUE]"), "{help}");
    assert!(help.contains("--fault rule_download:2=truncate"));
    for (name, _) in santa_sync::harness::Preset::NAMES {
        assert!(help.contains(name), "{name}");
    }
}
