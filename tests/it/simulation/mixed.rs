//! Groups of hosts from a file.

use std::collections::BTreeMap;
use std::fs;

use santa_sync::harness::SimulationReport;

use super::{server, simulate};

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
    for exchange in server.requests(santa_sync::model::Stage::Preflight) {
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
    let requests = server.requests(santa_sync::model::Stage::Preflight);
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
