//! Simulated hosts, against the fake server and beside the real agent.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use santa_sync::harness::simulation::plan::Shard;
use santa_sync::harness::simulation::profile::{HostProfile, MACHINE_ID_START};
use santa_sync::harness::{FakeServer, Simulation, SimulationReport, fixtures};
use santa_sync::model::{ContentEncoding, Stage, Transfer};
use serde_json::Value;

use crate::program::program;
use crate::wrong_input::mkfifo;

mod memory;
mod mixed;
mod prompt;
mod same_requests;

/// How many times as fast the hosts' clocks run: a first sync comes after 150 to
/// 300 ms, and the next one 6 s after it.
const SPEED: u32 = 100;

fn server() -> FakeServer {
    FakeServer::builder().rules(fixtures::rules(50, 1)).page_size(20).start().unwrap()
}

fn simulation(server: &FakeServer, hosts: u32, millis: u64) -> Simulation {
    Simulation::new(&server.url())
        .unwrap()
        .hosts(hosts)
        .ramp(Duration::from_millis(50))
        .lasting(Duration::from_millis(millis))
        .speed(SPEED)
}

/// Every attempt that a report counts is one that the server saw, and the other way
/// round.
#[test]
fn what_is_reported_is_what_the_server_saw() {
    let server = server();
    let simulation = simulation(&server, 20, 3_000).events_per_hour("600".parse().unwrap());
    let mut plan = simulation.current_plan().clone();
    // A prompt upload that its deadline cuts off is one that only the server saw.
    plan.denied_percent = 0;
    let report = simulation.plan(plan).run().unwrap();
    let measured = &report.measured;
    assert_eq!((measured.syncs.failed, measured.syncs.unfinished), (0, 0), "{report}");
    assert_eq!(measured.syncs.succeeded, measured.syncs.begun);
    for stage in [Stage::Preflight, Stage::EventUpload, Stage::RuleDownload, Stage::Postflight] {
        let counted = measured.stages.get(&stage).map_or(0, |of| of.answered);
        assert_eq!(counted, server.count(stage), "{stage}: {report}");
        assert_eq!(counted, measured.stages.get(&stage).map_or(0, |of| of.latency.count()));
    }
    assert_eq!(measured.events_uploaded, server.events_received());
    let hosts = server.hosts();
    assert_eq!(hosts.len(), 20);
    assert!(hosts.iter().all(|id| id.starts_with(MACHINE_ID_START)), "{hosts:?}");
    assert_eq!(measured.rules_received, 20 * 50, "each host's one clean sync");
    let received: u64 = server.requests(Stage::RuleDownload).iter().map(|e| e.response_bytes).sum();
    assert_eq!(measured.stages[&Stage::RuleDownload].bytes_received, received);
}

/// Every host speaks as its profile says.
#[test]
fn hosts_are_as_different_as_the_mix_says() {
    let server = server();
    let simulation = simulation(&server, 30, 2_000);
    let mut plan = simulation.current_plan().clone();
    plan.versions = "2026.4=70,2025.7=30".parse().unwrap();
    plan.encodings = "deflate=2,gzip=1,none=1".parse().unwrap();
    plan.protobuf_percent = 40;
    simulation.plan(plan.clone()).run().unwrap();
    let mut seen = BTreeSet::new();
    for number in 0..plan.hosts {
        let profile = HostProfile::of(&plan, number).unwrap();
        let id = profile.machine_id.as_str();
        let requests = server.requests(Stage::Preflight);
        let preflight = requests.iter().find(|e| e.machine_id == id).expect("it synced");
        let header = |name: &str| preflight.headers.get(name).map(String::as_str);
        let encoding = match profile.content_encoding {
            ContentEncoding::None => None,
            other @ (ContentEncoding::Deflate | ContentEncoding::Gzip) => Some(other.name()),
        };
        assert_eq!(header("content-encoding"), encoding);
        assert_eq!(header("content-type"), Some(profile.transfer.content_type()));
        let version = &profile.facts.santa_version;
        assert!(header("user-agent").unwrap().contains(version.as_str()), "{preflight:?}");
        assert_eq!(
            preflight.body["santaVersion"].as_str().or(preflight.body["santa_version"].as_str()),
            Some(version.as_str())
        );
        seen.insert((encoding.is_some(), profile.transfer == Transfer::Protobuf, version.clone()));
    }
    assert!(seen.len() > 4, "a mix: {seen:?}");
}

/// The hosts of all shards are those of one process, and so are the figures.
#[test]
fn shards_play_all_hosts_and_their_reports_add_up() {
    let server = server();
    let run = |index, seed| {
        let simulation = simulation(&server, 15, 1_500).seed(seed);
        simulation.shard(Shard { index, of: 2 }).run().unwrap()
    };
    let (one, two) = (run(1, 9), run(2, 9));
    assert_eq!((one.hosts(), two.hosts()), (8, 7));
    assert_eq!(server.hosts().len(), 15);
    let known = HostProfile::of(&one.plan, 14).unwrap().machine_id;
    assert!(server.host(known.as_str()).is_some_and(|host| host.synced));

    let again: SimulationReport =
        serde_json::from_str(&serde_json::to_string(&two).unwrap()).unwrap();
    let all = SimulationReport::merged([again, one.clone()]).unwrap();
    assert_eq!((all.hosts(), all.shards.len()), (15, 2));
    assert_eq!(all.measured.syncs.begun, one.measured.syncs.begun + two.measured.syncs.begun);
    assert_eq!(
        all.measured.stages[&Stage::Preflight].latency.count(),
        server.count(Stage::Preflight)
    );
    assert!(all.missing_shards().is_empty() && !one.missing_shards().is_empty());

    let twice = SimulationReport::merged([one.clone(), one.clone()]).unwrap_err();
    assert_eq!(twice.to_string(), "two reports are of shard 1/2");
    let other = SimulationReport::merged([one, run(2, 10)]).unwrap_err();
    assert!(other.to_string().contains("different options"), "{other}");
}

/// The hosts request a clean sync in their next one, and all rules come again.
#[test]
fn a_clean_storm_has_every_host_download_all_rules_again() {
    let server = server();
    let simulation = simulation(&server, 10, 4_000)
        .storm("clean@1500ms".parse().unwrap())
        .storm("sync@1600ms".parse().unwrap());
    let report = simulation.run().unwrap();
    assert_eq!(report.measured.syncs.failed, 0, "{report}");
    assert_eq!((report.measured.syncs.clean, report.measured.rules_received), (20, 2 * 10 * 50));
    let requests = server.requests(Stage::Preflight);
    let clean = requests.iter().filter(|e| e.body["request_clean_sync"] == true).count();
    assert_eq!(clean, 20, "the first sync of each host, and the one in the storm");
}

/// A reboot is followed by the first sync of an agent that starts.
#[test]
fn a_reboot_storm_has_hosts_sync_again_soon() {
    let server = server();
    let simulation = simulation(&server, 40, 4_000).storm("reboot@2s:50%".parse().unwrap());
    let report = simulation.run().unwrap();
    let begun = report.measured.syncs.begun;
    assert!((45..=75).contains(&begun), "half of 40 hosts synced twice: {report}");
}

/// In an outage nothing reaches the server; afterwards every host is in step.
#[test]
fn hosts_come_back_after_an_outage_as_the_agent_does() {
    let server = server();
    // A back-off of ten minutes takes 0.6 s.
    let simulation = simulation(&server, 20, 5_000).speed(10 * SPEED);
    let report = simulation.outage("10ms:800ms".parse().unwrap()).run().unwrap();
    let preflight = &report.measured.stages[&Stage::Preflight];
    assert!(preflight.cut_by_outage >= 20, "{report}");
    assert_eq!(preflight.answered, server.count(Stage::Preflight), "{report}");
    let synced = |id: &String| server.host(id).is_some_and(|host| host.synced);
    assert!(server.hosts().len() == 20 && server.hosts().iter().all(synced), "{report}");
    let series = &report.measured.series;
    let bins = |from: usize, to: usize| from / 100..to / 100;
    let during: u64 = bins(200, 800).filter_map(|bin| series.requests.get(bin)).sum();
    assert_eq!((series.bin_ms, during), (100, 0), "the server saw silence");
}

#[test]
fn a_server_elsewhere_must_be_ones_own() {
    let refused = Simulation::new("https://sync.example.com/").unwrap().run().unwrap_err();
    assert!(refused.to_string().contains("not on this host"), "{refused}");
    let output = simulate("https://sync.example.com/", &["--hosts", "1", "--for", "1m"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64), "{stderr}");
    assert!(stderr.contains("--i-own-this-server"), "{stderr}");
}

/// EXIT: 69. Nobody waits for a ramp to learn that the port is wrong.
#[test]
fn a_server_that_is_not_there_is_named_before_the_ramp() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let output = simulate(&format!("http://127.0.0.1:{port}/"), &["--ramp", "1h", "--for", "2h"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(69), "{stderr}");
    let words = format!("no host could sync: 127.0.0.1:{port} does not accept connections");
    assert!(stderr.contains(&words), "{stderr}");
    assert!(stderr.contains("start the server, or check the host and the port"), "{stderr}");
    let output = simulate("http://sync.invalid/", &["--i-own-this-server", "--set", "x=y"]);
    assert_eq!(output.status.code(), Some(64), "a mistake of the command line comes first");
}

#[test]
fn a_simulation_in_which_nobody_can_sync_says_so_and_what_to_change() {
    let server = server();
    let output = simulate(&server.url(), &["--hosts", "1", "--ramp", "0s", "--for", "300ms"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    for (said, words) in [
        (&stderr, "no host will sync: a host first syncs 15 to 30 s after its start"),
        (&stderr, "ends after 300ms: give --for 31s or more"),
        (
            &stdout,
            "! Not every host has synced: there were 0 syncs of 1 host; a host first syncs 15 to 30 s",
        ),
    ] {
        assert!(said.contains(words), "{said}");
    }
    assert!(output.status.success());
    assert_eq!(server.hosts().len(), 0, "the look at the port sends nothing");
}

fn simulate(url: &str, args: &[&str]) -> Output {
    program().args(["harness", "simulate", url]).args(args).output().unwrap()
}

/// `harness report` shows what `harness simulate` printed, from the file it saved.
#[test]
fn a_saved_report_is_shown_again_and_is_one_page() {
    let server = server();
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (json, html) = (path("a.json"), path("a.html"));
    let output = simulate(
        &server.url(),
        &[
            "--hosts",
            "5",
            "--ramp",
            "10ms",
            "--for",
            "1500ms",
            "--speed",
            "100",
            "--save",
            &json,
            "--html",
            &html,
            "--event-bytes",
            "2000",
            "--outage",
            "100ms:100ms",
        ],
    );
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && printed.contains("syncs: 5 succeeded"), "{printed}");
    let again = program().args(["harness", "report", &json]).output().unwrap();
    assert_eq!(String::from_utf8(again.stdout).unwrap(), printed);
    let page = fs::read_to_string(&html).unwrap();
    for part in ["Simulation of 5 hosts", "Load of the server", "prefers-color-scheme:dark", "<svg"]
    {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains("<script") && !page.contains("src="), "nothing is loaded");
    let report: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    assert_eq!(report["schema_version"], 1);
    assert_eq!(report["measured"]["stages"]["preflight"]["latency"]["count"], 5);

    let keys = |value: &Value| {
        let keys = value.as_object().unwrap().keys().map(String::as_str);
        keys.collect::<Vec<_>>().join(" ")
    };
    let measured = &report["measured"];
    insta::assert_snapshot!(
        [&report, &report["plan"], &report["shards"][0], measured, &measured["syncs"],
            &measured["stages"]["preflight"], &measured["lateness"], &measured["series"]]
            .map(keys).join("\n"),
        @r"
        measured plan recoveries schema_version shards
        bundle_binaries denied_percent encodings event_bytes events_per_hour groups hosts interval_secs lasting_ms outages prompt_percent protobuf_percent ramp_ms response_memory seed shard speed storms url versions
        cpu_ms hosts is_stopped lasted_ms memory_before memory_peak shard started_at
        bundle_binaries bundles_requested events_uploaded groups lateness prompt_uploads rules_received series stages sync_durations syncs token_requests
        begun broken_off clean failed succeeded unfinished
        answered bytes_received bytes_sent cut_by_outage failures latency
        buckets count max_us p50_us p90_us p99_us
        begun bin_ms bytes_received bytes_sent cut_by_outage events failed failed_requests latency requests running succeeded
        ");

    let twice = program().args(["harness", "report", &json, &json]).output().unwrap();
    let stderr = String::from_utf8(twice.stderr).unwrap();
    assert_eq!(twice.status.code(), Some(64), "{stderr}");
    assert!(stderr.contains("two reports are of shard 1/1"), "{stderr}");
    fs::write(&json, "{}").unwrap();
    let fifo = path("fifo");
    mkfifo(fifo.as_ref());
    for path in [&json, &fifo] {
        let none = program().args(["harness", "report", path]).output().unwrap();
        assert_eq!(none.status.code(), Some(64));
    }
}

/// SIGINT ends an hour's simulation at once, with a report.
#[test]
fn an_interrupted_simulation_reports_what_it_has_measured() {
    let server = server();
    let mut child = program()
        .args(["harness", "simulate", &server.url()])
        .args(["--hosts", "3", "--ramp", "0s", "--for", "1h", "--speed", "100", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    assert!(server.wait_for(Stage::Postflight, 3, Duration::from_mins(1)), "they sync");
    kill_process(Pid::from_raw(child.id().cast_signed()).unwrap(), Signal::INT).unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(child.wait().unwrap().success());
    let report: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(report["shards"][0]["is_stopped"], true);
    assert_eq!(report["measured"]["syncs"]["succeeded"], 3);
}

#[test]
fn options_that_cannot_be_meant_are_refused() {
    for (args, word) in [
        (&["--interval", "59s"][..], "at most once in 60s"),
        (&["--hosts", "0"], "0 hosts"),
        (&["--storm", "hail@1m"], "clean, sync and reboot"),
        (&["--outage", "9m:1m"], "ends after 5m"),
        (&["--shard", "0/3"], "3/8"),
        (&["--encodings", "br"], "deflate, gzip or none"),
        (&["--html", "/nowhere/x.html"], "/nowhere/x.html"),
    ] {
        let output = simulate("http://127.0.0.1:9/", args);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && stderr.contains(word), "{args:?}: {stderr}");
    }
}

/// The script of the sample Job, with this server, a tenth of a second a phase, and a
/// directory of ours.
#[test]
fn the_sample_job_for_kubernetes_plays_its_shard() {
    let sample = include_str!("../../fixtures/kubernetes/simulation.yaml");
    let folded = sample.split("- >-\n").nth(1).unwrap();
    let script: Vec<_> = folded
        .lines()
        .take_while(|line| line.starts_with("              "))
        .map(str::trim)
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let reports = dir.path().to_str().unwrap();
    let script = script
        .join(" ")
        .replace("exec santa-sync", "exec \"$PROGRAM\"")
        .replace(
            "--hosts 80000 --ramp 10m --for 1h",
            "--hosts 16 --ramp 0s --for 1500ms --speed 100",
        )
        .replace("clean@30m --outage 40m:5m", "clean@600ms --outage 100ms:50ms")
        .replace("/reports", reports);
    let server = server();
    let output = std::process::Command::new("/bin/sh")
        .args(["-c", &script])
        .env_clear()
        .env("PROGRAM", env!("CARGO_BIN_EXE_santa-sync"))
        .env("SERVER", server.url())
        .env("JOB_COMPLETION_INDEX", "2")
        .output()
        .unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    let saved = fs::read(dir.path().join("shard-2.json")).unwrap();
    let report: SimulationReport = serde_json::from_slice(&saved).unwrap();
    assert_eq!(report.shards[0].shard, Shard { index: 3, of: 8 });
    assert_eq!((report.hosts(), server.hosts().len()), (2, 2));
    assert_eq!(report.missing_shards().len(), 7);
}
