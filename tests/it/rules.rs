//! The `rules` commands, as a user runs them.

use std::fs;
use std::path::Path;
use std::process::Output;

use santa_sync::model::{Rule, RuleSet, SyncType, Timestamp, parse_rule};
use santa_sync::store::{RuleCommit, Store};

use crate::program::program;

const NOW: Timestamp = Timestamp::from_secs(1_755_000_000);
const CERTIFICATE: &str = "7ae80b9ab38af0c63a9a81765f434d9a7cd8f720eb6037ef303de39d779bc258";
const BINARY: &str = "b7c1e3fd640c5f211c89b02c2c6122f78ce322aa5c56eb0bb54bc422a8f8b670";
/// The SHA-256 of an empty file.
const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn rule(rule_type: &str, identifier: &str, policy: &str, more: &[(&str, &str)]) -> Rule {
    let entries = [("rule_type", rule_type), ("identifier", identifier), ("policy", policy)];
    parse_rule(entries.iter().chain(more).copied()).expect("a rule")
}

/// A state directory with one rule of each kind that is worth showing.
fn state() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let mut rules = RuleSet::default();
    rules.push_page(
        vec![
            rule("CERTIFICATE", CERTIFICATE, "ALLOWLIST", &[]),
            rule(
                "BINARY",
                BINARY,
                "BLOCKLIST",
                &[("custom_msg", "Not here\n"), ("custom_url", "https://h/")],
            ),
            rule("TEAMID", "ABCDEFGHIJ", "SILENT_BLOCKLIST", &[("comment", "ticket 7")]),
            rule("SIGNINGID", "platform:com.apple.yes", "CEL", &[("cel_expr", "euid == 0")]),
            rule("BINARY", EMPTY, "ALLOWLIST_COMPILER", &[("event_detail_button_label", "More")]),
        ],
        Vec::new(),
    );
    let (mut store, _) = Store::open(dir.path(), NOW).expect("a store");
    store.commit_rules(&rules, (SyncType::Normal, NOW)).expect("committed");
    dir
}

fn run(dir: &Path, args: &[&str]) -> Output {
    program().arg("--state-dir").arg(dir).arg("rules").args(args).output().expect("it ran")
}

fn stdout(dir: &Path, args: &[&str]) -> String {
    let output = run(dir, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn rules_are_listed_in_stored_order_and_filtered() {
    let dir = state();
    insta::assert_snapshot!("list", stdout(dir.path(), &["list"]));
    insta::assert_snapshot!(
        "list_json",
        stdout(dir.path(), &["list", "--json", "--type", "teamid"])
    );
    let blocked = stdout(dir.path(), &["list", "--policy", "blocklist", "--type", "BINARY"]);
    assert_eq!(blocked.lines().count(), 1, "{blocked}");
    let named = stdout(dir.path(), &["list", "--identifier", "APPLE"]);
    assert!(named.contains("platform:com.apple.yes") && named.lines().count() == 1, "{named}");
    assert_eq!(stdout(dir.path(), &["list", "--limit", "2"]).lines().count(), 2);
}

#[test]
fn a_check_tells_the_rule_and_why() {
    let dir = state();
    insta::assert_snapshot!("check_binary", stdout(dir.path(), &["check", "--sha256", BINARY]));
    let args = ["check", "--team-id", "abcdefghij", "--cert-sha256", CERTIFICATE, "--json"];
    insta::assert_snapshot!("check_json", stdout(dir.path(), &args));
    let none = stdout(dir.path(), &["check", "--cdhash", &"0".repeat(40)]);
    assert_eq!(none, "No matching rule exists\n");
    insta::assert_snapshot!(
        "check_json_none",
        stdout(dir.path(), &["check", "--cdhash", &"0".repeat(40), "--json"])
    );
}

/// RULE-5: a file is known by its SHA-256.
#[test]
fn a_check_of_a_file_computes_its_hash() {
    let dir = state();
    let file = dir.path().join("empty file");
    std::fs::write(&file, "").expect("written");
    let told = stdout(dir.path(), &["check", "--path", file.to_str().expect("a path")]);
    assert!(told.starts_with("Allowed (Binary)\n"), "{told}");
    assert!(told.contains("a compiler rule counts as ALLOWLIST"), "{told}");
}

/// RULE-12: the log says what each commit did, also to one rule.
#[test]
fn rule_12_the_log_says_what_each_commit_did() {
    let dir = state();
    let (mut store, _) = Store::open(dir.path(), NOW).expect("a store");
    let mut rules = RuleSet::default();
    let changed = [("custom_msg", "Another text")];
    rules.push_page(
        vec![
            rule("TEAMID", "ABCDEFGHIJ", "REMOVE", &[]),
            rule("BINARY", BINARY, "BLOCKLIST", &changed),
            rule("BINARY", EMPTY, "BLOCKLIST", &[]),
            rule("TEAMID", "ZZZZZZZZZZ", "REMOVE", &[]),
        ],
        Vec::new(),
    );
    let later = Timestamp::from_secs(NOW.as_secs() + 3_600);
    let commit =
        RuleCommit { sync: Some("the-sync".to_owned()), ..(SyncType::Normal, later).into() };
    store.commit_rules(&rules, commit).expect("committed");
    drop(store);
    insta::assert_snapshot!("log", stdout(dir.path(), &["log"]));
    insta::assert_snapshot!(
        "log_json",
        stdout(dir.path(), &["log", "--json", "--identifier", "abc"])
    );
    let since = ["log", "--since", "2025-08-12T12:30:00Z"];
    assert!(stdout(dir.path(), &since).starts_with("2  2025-08-12T13:00:00Z  sync the-sync"));
    assert_eq!(stdout(dir.path(), &["log", "--since", "1s"]), "");
    assert_eq!(run(dir.path(), &["log", "--since", "once"]).status.code(), Some(64));
    // No more than asked for, the newest first; what was cut is said.
    let cut = run(dir.path(), &["log", "--limit", "1"]);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let commits = |text: &str| text.lines().filter(|line| !line.starts_with(' ')).count();
    assert_eq!(commits(&text(&cut.stdout)), 1, "{cut:?}");
    assert!(text(&cut.stderr).contains("the newest 1; --limit 0 shows all"), "{cut:?}");
    for whole in [&["log", "--limit", "2"][..], &["log", "--limit", "0"], &["log"]] {
        let whole = run(dir.path(), whole);
        assert_eq!(commits(&text(&whole.stdout)), 2, "{whole:?}");
        assert_eq!(text(&whole.stderr), "", "nothing was cut");
    }
    let json = stdout(dir.path(), &["log", "--json", "--limit", "1"]);
    assert!(json.trim_end().ends_with("\"truncated\": true\n}"), "{json}");
    let day = stdout(dir.path(), &["log", "--since", "2025-08-12"]);
    assert_eq!(commits(&day), 2);
    // A text alone does not change what decides.
    let told = stdout(dir.path(), &["check", "--sha256", BINARY]);
    assert!(told.contains("  since       2025-08-12T12:00:00Z (generation 1)\n"), "{told}");
    let told = stdout(dir.path(), &["check", "--sha256", EMPTY]);
    assert!(told.contains("  since       2025-08-12T13:00:00Z (sync the-sync, generation 2)\n"));
}

#[test]
fn an_export_has_the_references_form() {
    insta::assert_snapshot!("export", stdout(state().path(), &["export"]));
}

#[test]
fn an_export_imports_again() {
    let (from, to) = (state(), tempfile::tempdir().expect("a directory"));
    let file = from.path().join("export.json");
    std::fs::write(&file, stdout(from.path(), &["export"])).expect("written");
    let file = file.to_str().expect("a path");
    insta::assert_snapshot!("import_dry_run", stdout(to.path(), &["import", "--dry-run", file]));
    assert!(!to.path().join("rules.db").exists());
    let told = stdout(to.path(), &["import", file]);
    assert_eq!(told, "Imported: 5 added, 0 replaced, 0 removed\n");
    assert_eq!(stdout(to.path(), &["list"]), stdout(from.path(), &["list"]));
    let hash =
        |dir: &Path| Store::open_read_only(dir).and_then(|s| s.rules_hash()).expect("a hash");
    assert_eq!(hash(to.path()), hash(from.path()));
    insta::assert_snapshot!(
        "import_dry_run_json",
        stdout(to.path(), &["import", "--clean", "--dry-run", "--json", file])
    );
    let complete = Store::open_read_only(to.path()).and_then(|store| store.rules_complete());
    assert!(!complete.expect("known"), "STATE-5: an import is no download");
}

/// RULE-4: a file is taken as a whole or not at all, and every fault is named.
/// Windows editors and shells put a byte-order mark before UTF-8.
#[test]
fn a_byte_order_mark_before_a_rule_file_changes_nothing() {
    let exported = stdout(state().path(), &["export"]);
    let marked = format!("\u{feff}{exported}");
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("rules.json");
    fs::write(&file, &marked).expect("written");
    for source in [file.to_str().expect("UTF-8"), "-"] {
        let state = dir.path().join("state");
        let mut command = assert_cmd::Command::from_std(program());
        command.arg("--state-dir").arg(&state).args(["rules", "import", source]);
        command.write_stdin(marked.clone()).assert().success();
        assert_eq!(stdout(&state, &["export"]), exported, "{source}");
        fs::remove_dir_all(state).expect("removed");
    }
    // A mark anywhere else is not white space.
    fs::write(&file, format!("{{\u{feff}{}", &exported[1..])).expect("written");
    let output = run(dir.path(), &["import", file.to_str().expect("UTF-8")]);
    assert_eq!(output.status.code(), Some(64), "{output:?}");
}

#[test]
fn rule_4_a_file_with_a_fault_imports_nothing() {
    let dir = state();
    let before = stdout(dir.path(), &["list"]);
    let file = dir.path().join("rules.json");
    let import = |content: &str| {
        std::fs::write(&file, content).expect("written");
        let output = run(dir.path(), &["import", file.to_str().expect("a path")]);
        assert_eq!(output.status.code(), Some(64));
        assert_eq!(stdout(dir.path(), &["list"]), before);
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let told = import(
        r#"{"rules":[{"identifier":"ABCDEFGHIK","policy":"ALLOWLIST","rule_type":"TEAMID"},
            {"identifier":"x","policy":"ALLOWLIST","rule_type":"BINARY"},
            {"identifier":"ABCDEFGHIK","policy":"CEL","rule_type":"TEAMID","cel_expr":"1 +"}]}"#,
    );
    assert!(told.contains(r#"rule 1 "x": a BINARY identifier is 64 hex digits"#), "{told}");
    assert!(told.contains(r#"rule 2 "ABCDEFGHIK": the CEL expression does not parse"#), "{told}");
    for (content, expected) in [
        ("{}", "has no \"rules\""),
        ("", "is not a rule file"),
        (r#"{"rules":[{}"#, "is not a rule file"),
        (r#"{"rules":[1]}"#, "is not a rule file"),
        (r#"{"rules":[]} x"#, "is not a rule file"),
        (r#"{"rules":[],"rules":[]}"#, "is not a rule file"),
    ] {
        let told = import(content);
        assert!(told.contains(expected), "{content}: {told}");
    }
}

#[test]
fn rule_9_an_import_of_no_rules_is_an_error_unless_it_is_clean() {
    let dir = state();
    let before = stdout(dir.path(), &["list"]);
    let file = dir.path().join("rules.json");
    fs::write(&file, r#"{"rules":[]}"#).expect("written");
    let file = file.to_str().expect("a path");
    for more in [&[][..], &["--dry-run"], &["--strict"]] {
        let output = run(dir.path(), &[&["import", file][..], more].concat());
        assert_eq!(output.status.code(), Some(64), "{more:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("there is nothing to import"), "{said}");
    }
    assert_eq!(stdout(dir.path(), &["list"]), before);
    let done = stdout(dir.path(), &["import", "--clean", file]);
    assert_eq!(done, "Imported: 0 added, 0 replaced, 5 removed\n");
}

#[test]
fn rule_9_a_cel_rule_that_does_not_parse_is_left_out_alone() {
    let dir = state();
    let before = stdout(dir.path(), &["list"]);
    let file = dir.path().join("rules.json");
    let bad = r#"{"identifier":"ABCDEFGHIK","policy":"CEL","rule_type":"TEAMID","cel_expr":"1 +"}"#;
    let good = r#"{"identifier":"ABCDEFGHIL","policy":"ALLOWLIST","rule_type":"TEAMID"}"#;
    let import = |rules: &str, more: &[&str]| {
        fs::write(&file, format!(r#"{{"rules":[{rules}]}}"#)).expect("written");
        let args = [&["import", file.to_str().expect("a path")][..], more].concat();
        let output = run(dir.path(), &args);
        let text = |bytes| String::from_utf8(bytes).expect("text");
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let both = format!("{bad},{good}");
    let named = "rule 0 \"ABCDEFGHIK\": the CEL expression does not parse";

    // With --strict the file is taken as a whole or not at all.
    let (code, _, stderr) = import(&both, &["--strict"]);
    assert_eq!((code, stdout(dir.path(), &["list"])), (Some(64), before.clone()));
    assert!(stderr.contains(named), "{stderr}");
    // A file of which nothing is left must not empty the store.
    for more in [&[][..], &["--clean"], &["--clean-all"]] {
        let (code, _, stderr) = import(bad, more);
        assert_eq!((code, stdout(dir.path(), &["list"])), (Some(64), before.clone()));
        assert!(stderr.contains("has no rule that can be stored"), "{stderr}");
        assert!(stderr.contains(named), "{stderr}");
    }

    let (code, told, stderr) = import(&both, &[]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.contains(named) && stderr.contains("note: skipped: "), "{stderr}");
    assert_eq!(told, "Imported: 1 added, 0 replaced, 0 removed\n1 skipped\n");
    let list = stdout(dir.path(), &["list"]);
    assert!(list.contains("ABCDEFGHIL") && !list.contains("ABCDEFGHIK"), "{list}");
    let (code, told, _) = import(&both, &["--json"]);
    let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!((code, told["refused"].as_u64()), (Some(0), Some(1)));
    assert_eq!(told["refused_rules"][0]["identifier"], "ABCDEFGHIK");
}

#[test]
fn rule_9_a_check_shows_when_a_transitive_rule_was_last_used() {
    let dir = state();
    let file = "a".repeat(64);
    rusqlite::Connection::open(dir.path().join("rules.db"))
        .and_then(|conn| {
            conn.execute(
                "INSERT INTO execution_rules (identifier, state, type, timestamp) \
                 VALUES (?1, 6, 1000, 776692800)",
                [&file],
            )
        })
        .expect("written");
    let check = |enabled: &str, more: &[&str]| {
        let enabled = format!("EnableTransitiveRules={enabled}");
        let args = ["check", "--sha256", &file, "--set", &enabled];
        stdout(dir.path(), &[&args[..], more].concat())
    };
    let told = check("true", &[]);
    assert!(told.starts_with("Allowed (Binary, Transitive)\n"), "{told}");
    assert!(told.contains("\n  last used   2025-08-12T12:00:00Z\n"), "{told}");
    let told: serde_json::Value = serde_json::from_str(&check("true", &["--json"])).expect("JSON");
    assert_eq!(told["rule"]["last_used"], "2025-08-12T12:00:00.000Z");
    // It decides only while transitive rules are enabled.
    assert_eq!(check("false", &[]), "No matching rule exists\n");
    let binary = stdout(dir.path(), &["check", "--sha256", BINARY]);
    assert!(!binary.contains("last used"), "{binary}");
}

#[test]
fn an_import_is_refused_while_a_server_is_configured() {
    let dir = state();
    let file = dir.path().join("rules.json");
    std::fs::write(&file, r#"{"rules":[]}"#).expect("written");
    let file = file.to_str().expect("a path");
    let server = ["--set", "SyncBaseURL=https://santa.example.com/"];
    let output = run(dir.path(), &[&["import", file][..], &server].concat());
    assert_eq!(output.status.code(), Some(64));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("rules are managed centrally"), "{told}");
    let forced =
        stdout(dir.path(), &[&["import", "--force", "--clean", file][..], &server].concat());
    assert_eq!(forced, "Imported: 0 added, 0 replaced, 5 removed\n");
}

/// PRE-2, RULE-8: `rules verify` reckons hash and counts anew and compares.
#[test]
fn verify_tells_whether_the_store_is_right() {
    let dir = state();
    insta::assert_snapshot!("verify", stdout(dir.path(), &["verify"]));
    insta::assert_snapshot!("verify_json", stdout(dir.path(), &["verify", "--json"]));
    let db = dir.path().join("rules.db");
    let db = rusqlite::Connection::open(db).expect("open");
    db.execute_batch(
        "PRAGMA recursive_triggers = OFF;
         DROP TRIGGER agent_rules_updated;
         UPDATE execution_rules SET identifier = 'nonsense' WHERE type = 3000;",
    )
    .expect("changed behind the program's back");
    let output = run(dir.path(), &["verify"]);
    assert_eq!(output.status.code(), Some(73));
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(
        told.contains("the kept hash ea41b686475bc8959318504e92a5c9fc is not that of"),
        "{told}"
    );
    assert!(told.contains("rule \"nonsense\" (row 1): a CERTIFICATE identifier is 64"), "{told}");
}

/// RULE-5, RULE-9: the configuration's rules and whether transitive rules are
/// enabled count in a check.
#[test]
fn rule_9_a_check_knows_the_configuration() {
    let dir = state();
    let config = dir.path().join("config.plist");
    std::fs::write(
        &config,
        format!(
            "<?xml version=\"1.0\"?><plist version=\"1.0\"><dict>
             <key>EnableTransitiveRules</key><true/>
             <key>StaticRules</key><array><dict>
               <key>identifier</key><string>{CERTIFICATE}</string>
               <key>rule_type</key><string>CERTIFICATE</string>
               <key>policy</key><string>BLOCKLIST</string>
             </dict></array></dict></plist>"
        ),
    )
    .expect("written");
    let config = ["--config", config.to_str().expect("a path")];
    let args = [&["check", "--sha256", BINARY, "--cert-sha256", CERTIFICATE][..], &config].concat();
    insta::assert_snapshot!("check_static", stdout(dir.path(), &args));
    let args = [&["check", "--sha256", EMPTY][..], &config].concat();
    assert!(stdout(dir.path(), &args).starts_with("Allowed (Binary, Compiler)\n"));
}

/// EXIT: 64 for arguments that make no sense, 73 for a store that is not there.
#[test]
fn exit_codes_of_rules_commands() {
    let dir = state();
    let output = run(dir.path(), &["check", "--sha256", "xyz"]);
    assert_eq!(output.status.code(), Some(64));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("--sha256 \"xyz\": a BINARY identifier is 64 hex digits"), "{told}");
    assert_eq!(run(dir.path(), &["check"]).status.code(), Some(64));
    let output = run(&dir.path().join("gone"), &["list"]);
    assert_eq!(output.status.code(), Some(73));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("rules.db does not exist; run `santa-sync sync` once"), "{told}");
}
