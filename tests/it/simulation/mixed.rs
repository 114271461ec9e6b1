//! Groups of hosts from a file.

use std::collections::BTreeMap;
use std::fs;

use santa_sync::harness::{AcceptedForms, FakeServer, SimulationReport};
use santa_sync::model::Stage;
use serde_json::Value;

use super::{server, simulate};
use crate::program::program;

const FILE: &str = r#"
[[group]]
name = "new"
share = 3
santa_version = "2026.8"
os_version = "26.0.1"
model = "Mac16,10"

[[group]]
name = "old"
share = 1
santa_version = "2025.7"
os_version = "12.7.6"
os_build = "21H1320"
model = "MacBookPro14,1"
encoding = "gzip"

[[group]]
name = "build machines"
count = 4
transfer = "protobuf"
encoding = "none"
"#;

const SHORT: [&str; 6] = ["--ramp", "10ms", "--for", "1500ms", "--speed", "100"];

#[test]
fn the_hosts_of_each_group_are_as_its_file_says() {
    let dir = tempfile::tempdir().unwrap();
    let (mix, saved) = (dir.path().join("mix.toml"), dir.path().join("saved.json"));
    fs::write(&mix, FILE).unwrap();
    let (mix, saved_to) = (mix.to_str().unwrap(), saved.to_str().unwrap());
    let server = server();
    let args = [&SHORT[..], &["--mix", mix, "--hosts", "24", "--save", saved_to]].concat();
    let output = simulate(&server.url(), &args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();
    let line = "hosts of all shards by group: new 15, old 5, build machines 4\n";
    assert!(printed.contains(line), "{printed}");
    let mut seen: BTreeMap<_, u32> = BTreeMap::new();
    for exchange in server.requests(Stage::Preflight) {
        let member = |snake: &str, camel: &str| {
            let value = exchange.body.get(snake).or_else(|| exchange.body.get(camel));
            value.and_then(|value| value.as_str()).unwrap_or_default().to_owned()
        };
        let encoding = exchange.headers.get("content-encoding").cloned().unwrap_or_default();
        let is_protobuf = exchange.headers["content-type"].contains("protobuf");
        let build = member("os_build", "osBuild");
        let old = (
            member("santa_version", "santaVersion"),
            build,
            member("model_identifier", "modelIdentifier"),
        );
        let (version, build, model) = match (is_protobuf, old) {
            // Theirs are those of all hosts.
            (true, _) => Default::default(),
            (false, others) => others,
        };
        *seen.entry((is_protobuf, encoding, version, build, model)).or_default() += 1;
    }
    let text = |text: &str| text.to_owned();
    let expected = [
        ((true, text(""), text(""), text(""), text("")), 4),
        ((false, text("deflate"), text("2026.8"), text("25A362"), text("Mac16,10")), 15),
        ((false, text("gzip"), text("2025.7"), text("21H1320"), text("MacBookPro14,1")), 5),
    ];
    assert_eq!(seen, expected.into());

    let report: SimulationReport = serde_json::from_slice(&fs::read(saved).unwrap()).unwrap();
    let groups: Vec<_> = report.plan.groups.iter().map(|g| (g.name.as_str(), g.hosts)).collect();
    assert_eq!(groups, [("new", 15), ("old", 5), ("build machines", 4)]);
    let page = report.to_html();
    assert!(page.contains("Groups of hosts") && page.contains("encoding gzip"), "{page}");

    let measured = &report.measured;
    for (group, hosts) in measured.groups.iter().zip([15, 5, 4]) {
        let answered = |stage| group.stages.get(&stage).map_or(0, |of| of.answered);
        assert_eq!((group.hosts, group.syncs.begun, group.syncs.succeeded), (hosts, hosts, hosts));
        assert_eq!((answered(Stage::Preflight), group.rules_received), (hosts, 50 * hosts));
        assert_eq!(group.sync_durations.count(), hosts);
        let latency = group.stages[&Stage::Preflight].latency.quantile(0.99);
        let words = format!("group {}, {hosts} hosts\n  syncs: {hosts} succeeded", group.name);
        assert!(printed.contains(&words) && latency.is_some(), "{printed}");
    }
    let names: Vec<_> = measured.groups.iter().map(|group| group.name.as_str()).collect();
    assert_eq!(names, ["new", "old", "build machines"]);
    assert!(page.contains("Attempts by group"), "{page}");
}

/// Only hosts of the protobuf group fail, and the report shows that.
#[test]
fn a_failure_is_counted_for_its_group() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (mix, shards) = (path("mix.toml"), [path("1.json"), path("2.json")]);
    fs::write(&mix, FILE).unwrap();
    let server =
        FakeServer::builder().style(|style| style.transfer = AcceptedForms::Json).start().unwrap();
    for (shard, saved) in ["1/2", "2/2"].into_iter().zip(&shards) {
        let own = ["--mix", &mix, "--hosts", "24", "--shard", shard, "--save", saved];
        let output = simulate(&server.url(), &[&SHORT[..], &own].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let (saved, page) = (path("all.json"), path("all.html"));
    let merged = program()
        .args(["harness", "report", &shards[0], &shards[1], "--save", &saved, "--html", &page])
        .output()
        .unwrap();
    let printed = String::from_utf8(merged.stdout).unwrap();
    let report: SimulationReport = serde_json::from_slice(&fs::read(&saved).unwrap()).unwrap();
    let groups: Vec<_> = report
        .measured
        .groups
        .iter()
        .map(|of| (of.hosts, of.syncs.succeeded, of.syncs.failed >= 4))
        .collect();
    assert_eq!(groups, [(15, 15, false), (5, 5, false), (4, 0, true)], "{printed}");
    let (_, of_builders) = printed.split_once("group build machines, 4 hosts\n").unwrap();
    assert!(of_builders.contains("    failed: preflight unsupported_media_type "), "{printed}");
    let page = fs::read_to_string(&page).unwrap();
    let row = "<tr><th scope=\"row\">build machines</th><td>preflight</td><td>unsupported_media_type</td>";
    assert!(page.contains(row), "{page}");

    // A report of a version without figures by group is shown with a caution.
    let mut old: Value = serde_json::from_slice(&fs::read(&shards[0]).unwrap()).unwrap();
    old["measured"].as_object_mut().unwrap().remove("groups").unwrap();
    fs::write(&shards[0], old.to_string()).unwrap();
    for files in [&shards[..1], &shards[..]] {
        let shown = program().args(["harness", "report"]).args(files).output().unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        assert!(shown.contains("! There are no figures by group"), "{shown}");
        assert!(!shown.contains("group build machines"), "{shown}");
    }
}

/// An option of the command line holds for every group.
#[test]
fn an_option_wins_over_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let mix = dir.path().join("mix.toml");
    fs::write(&mix, FILE).unwrap();
    let server = server();
    let own = ["--mix", mix.to_str().unwrap(), "--hosts", "8", "--encodings", "deflate"];
    let args = [&SHORT[..], &own, &["--protobuf", "0%", "--versions", "2026.1"]].concat();
    assert!(simulate(&server.url(), &args).status.success());
    let requests = server.requests(Stage::Preflight);
    assert_eq!(requests.len(), 8);
    for exchange in requests {
        assert_eq!(exchange.headers["content-encoding"], "deflate");
        assert_eq!(exchange.headers["content-type"], "application/json");
        assert_eq!(exchange.body["santa_version"], "2026.1");
    }
}

/// EXIT: usage.
#[test]
fn a_wrong_file_is_refused_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let mix = dir.path().join("mix.toml");
    fs::write(&mix, "[[group]]\nname = \"a\"\ncount = 5\nencoding = \"br\"\n").unwrap();
    let output = simulate("http://127.0.0.1:9/", &["--mix", mix.to_str().unwrap()]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64), "{stderr}");
    assert!(
        stderr.contains("mix.toml: line 4: \"br\" is not one of deflate, gzip, none"),
        "{stderr}"
    );
}
