//! `doctor` as a user runs it: a healthy host, and each failure and warning of
//! each layer. Of every case the report for people is a snapshot as a whole,
//! and of `--json` everything but the lines that are fine (see [`Cases`]).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use santa_sync::harness::FakeServer;
use santa_sync::model::Stage;
use serde_json::{Value, json};

use crate::program::program;

mod daemon;
mod hostile;
mod network;
mod of_host;
mod tls;

/// A host with a state directory that does not exist yet.
struct Host {
    dir: tempfile::TempDir,
    args: Vec<String>,
}

impl Host {
    /// A host with a machine id and no server.
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let state = dir.path().join("state").display().to_string();
        let args = vec!["--state-dir".to_owned(), state];
        Self { dir, args }.set("MachineID=host-1")
    }

    /// A host that syncs with that server.
    fn of(url: &str) -> Self {
        Self::new().set(format!("SyncBaseURL={url}"))
    }

    fn set(self, set: impl Into<String>) -> Self {
        self.arg("--set").arg(set)
    }

    fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    fn state(&self, name: &str) -> PathBuf {
        self.dir.path().join("state").join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, content).expect("written");
        path
    }

    fn run(&self, args: &[&str]) -> std::process::Output {
        program().env("LC_ALL", "C").args(args).args(&self.args).output().expect("it ran")
    }

    /// Lets one sync succeed with a server that is gone then.
    fn synced(self) -> Self {
        let server = FakeServer::builder().start().expect("a server");
        let own = self.args.len();
        let mut with_server = self.set(format!("SyncBaseURL={}", server.url()));
        let output = with_server.run(&["sync"]);
        assert!(output.status.success(), "{output:?}");
        with_server.args.truncate(own);
        with_server
    }

    /// Every file of the host with its size and times, but for what SQLite
    /// needs to read: the index of a log, and a log that is empty. No file is
    /// opened: closing it would drop this process's locks on it.
    fn files(&self) -> BTreeMap<PathBuf, (u64, SystemTime)> {
        let mut files = BTreeMap::new();
        let mut dirs = vec![self.dir.path().to_owned()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).expect("a directory") {
                let path = entry.expect("an entry").path();
                let metadata = fs::symlink_metadata(&path).expect("metadata");
                if metadata.is_dir() {
                    dirs.push(path);
                    continue;
                }
                let name = path.to_string_lossy();
                let empty_log = name.ends_with("-wal") && metadata.len() == 0;
                if !name.ends_with("-shm") && !empty_log {
                    let modified = metadata.modified().expect("a time");
                    files.insert(path, (metadata.len(), modified));
                }
            }
        }
        files
    }
}

/// What `doctor` said in both forms, without what the machine has a say in: the
/// service manager and where the identity's values come from.
struct Examined {
    text: String,
    json: Value,
}

fn of_machine(line: &Value) -> bool {
    line["layer"] == "service" || (line["layer"] == "identity" && line["status"] == "warning")
}

/// A line of the report for people, made of one of `--json`.
fn rendered(line: &Value) -> String {
    let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
    let status = text("status").replace("problem", "PROBLEM");
    let layer = text("layer").replace('_', " ");
    let message = format!("{status:8} {layer:18} {}", text("message"));
    match line["fix"].as_str() {
        Some(fix) => format!("{message}\n{:27} fix: {fix}", ""),
        None => message,
    }
}

/// A text without its numbers, which differ from run to run.
fn numberless(text: &str) -> String {
    text.chars().filter(|c| !c.is_ascii_digit()).collect()
}

fn lines_of(report: &Value) -> &[Value] {
    report["lines"].as_array().expect("lines")
}

/// The worst status of these lines, and whether one is a problem.
fn worst(lines: &[Value]) -> &'static str {
    let has = |status: &str| lines.iter().any(|line| line["status"] == status);
    match (has("problem"), has("warning")) {
        (true, _) => "problem",
        (false, true) => "warning",
        (false, false) => "ok",
    }
}

/// Runs `doctor` in both forms, and checks what holds of every report: both
/// forms say the same; each warning and problem has its fix; the exit code
/// tells of the first problem; nothing on the host has changed.
fn examine(host: &Host, args: &[&str]) -> Examined {
    let before = host.files();
    let people = host.run(&[&["doctor"], args].concat());
    let program = host.run(&[&["doctor", "--json"], args].concat());
    assert_eq!(host.files(), before, "doctor never changes state");
    let report: Value = serde_json::from_slice(&program.stdout).expect("JSON");
    let (lines, code) = (lines_of(&report), report["exit_code"].as_i64());
    for line in lines {
        let status = line["status"].as_str().expect("a status");
        let fix = line["fix"].as_str().is_some_and(|fix| !fix.is_empty());
        assert_eq!(fix, matches!(status, "warning" | "problem"), "{line}");
    }
    assert_eq!(report["result"], worst(lines));
    assert_eq!(code == Some(0), report["result"] != "problem", "{report}");
    for output in [&people, &program] {
        assert_eq!(output.status.code().map(i64::from), code);
    }
    let text = String::from_utf8(people.stdout).expect("text");
    let same: Vec<_> = lines.iter().map(rendered).collect();
    let told = text.trim_end().rsplit_once('\n').expect("lines and their sum").0;
    assert_eq!(numberless(told), numberless(&same.join("\n")), "both forms say the same");
    let kept: Vec<_> = lines.iter().filter(|line| !of_machine(line)).cloned().collect();
    let human: Vec<_> = kept.iter().map(rendered).collect();
    let text = format!("{}\nexit {}\n", human.join("\n"), code.expect("a code"));
    let mut json = report.clone();
    json["result"] = worst(&kept).into();
    json["lines"] = kept.into();
    Examined { text: stable(&text, host), json }
}

/// Without the names of this run's directories.
fn stable(text: &str, host: &Host) -> String {
    text.replace(&host.dir.path().display().to_string(), "DIR")
        .replace(env!("CARGO_MANIFEST_DIR"), "PROJECT")
}

/// Cases that make one pair of snapshots.
#[derive(Default)]
struct Cases {
    people: Vec<String>,
    programs: Vec<String>,
}

impl Cases {
    fn add(&mut self, name: &str, host: &Host, args: &[&str]) {
        let Examined { text, mut json } = examine(host, args);
        self.people.push(format!("## {name}\n{text}"));
        let fine = |line: &Value| line["status"] == "ok" || line["status"] == "skipped";
        let lines: Vec<_> = lines_of(&json).iter().filter(|line| !fine(line)).cloned().collect();
        json["lines"] = lines.into();
        let json = serde_json::to_string_pretty(&json).expect("JSON");
        self.programs.push(format!("## {name}\n{}\n", stable(&json, host)));
    }

    /// The cases, numbers and names of this run and machine aside.
    fn pin(self, name: &str) {
        pin(name, &self.people.join("\n"));
        pin(&format!("{name}_json"), &self.programs.join("\n"));
    }
}

fn pin(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    for (pattern, stands_for) in [
        (r"(127\.0\.0\.1|localhost):\d+", "HOST:PORT"),
        (r#"localhost is [^\n"]*"#, "localhost is ADDRESS"),
        (r"\[::1\]:\d+", "HOST:PORT"),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "TIME"),
        (r" \(os error \d+\)", ""),
        (r#"cannot be resolved: [^\n"]*"#, "cannot be resolved: REASON"),
        (r"\d+ [KMGT]iB free on", "SIZE free on"),
        (r"\d+ s (ahead of|behind)", "N s $1"),
        (r"agree within \d+ s", "agree within N s"),
        (r"\d+ days left", "N days left"),
        (r"was \d+ (s|min|h|days) ago", "was AGE ago"),
    ] {
        settings.add_filter(pattern, stands_for);
    }
    settings.set_omit_expression(true);
    settings.set_prepend_module_to_snapshot(false);
    settings.set_snapshot_path("snapshots/doctor");
    settings.bind(|| insta::assert_snapshot!(name, text));
}

#[test]
fn a_healthy_host_has_nothing_to_mend_and_is_left_as_it_was() {
    let server = FakeServer::builder().start().expect("a server");
    let host = Host::of(&server.url());
    let fresh = examine(&host, &[]);
    assert_eq!(server.count(Stage::Preflight), 2);
    assert_eq!(server.hosts(), ["host-1"], "the probe goes in this host's own name");
    assert!(host.run(&["sync"]).status.success());
    let synced = examine(&host, &[]);
    let requests = server.transcript().len();
    let silent = examine(&host, &["--no-probe"]);
    assert_eq!(server.transcript().len(), requests, "the server hears nothing");
    let [fresh_text, synced_text, silent_text] = [fresh.text, synced.text, silent.text];
    pin(
        "healthy",
        &format!(
            "## before the first sync\n{fresh_text}\n## after it\n{synced_text}\n\
             ## without a probe\n{silent_text}"
        ),
    );
    let json = serde_json::to_string_pretty(&synced.json).expect("JSON");
    pin("healthy_json", &stable(&json, &host));
    let layers: Vec<_> = lines_of(&synced.json).iter().map(|line| &line["layer"]).collect();
    assert!(layers.is_sorted_by_key(|layer| order(layer)), "{layers:?}");
}

/// The place of a layer among all.
fn order(layer: &Value) -> Option<usize> {
    const LAYERS: [&str; 15] = [
        "configuration",
        "identity",
        "state_directory",
        "stores",
        "service",
        "daemon",
        "dns",
        "connection",
        "tls",
        "client_certificate",
        "http",
        "body",
        "clock",
        "encodings",
        "history",
    ];
    let place = LAYERS.iter().position(|name| *layer == json!(name));
    assert!(place.is_some(), "{layer}");
    place
}

fn fixture(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name).display().to_string()
}
