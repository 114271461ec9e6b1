//! The layers that look at the host itself: configuration, identity, state
//! directory, stores, and the last syncs.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};

use rusqlite::Connection;
use santa_sync::harness::{FakeServer, Fault, Route, every};
use santa_sync::model::Stage;

use super::{Cases, Host, fixture};

/// Nothing is sent in these cases.
const SILENT: &[&str] = &["--no-probe"];
/// Where nobody listens: the first port that no program gets by chance.
const NOBODY: &str = "http://127.0.0.1:1/";

/// CONF-2, HTTP-11, HTTP-12, EXIT 6, 64 and 78: see also `config check` on the
/// same profile.
#[test]
fn conf_2_every_mistake_of_a_configuration_is_named() {
    let mut cases = Cases::default();
    cases.add("no SyncBaseURL", &Host::new(), SILENT);
    let profile = fixture("config/five-mistakes.mobileconfig");
    let mut host = Host::new().arg("--config").arg(profile);
    // The machine id is one of the five.
    host.args.retain(|arg| arg != "MachineID=host-1");
    host.args.remove(2);
    cases.add("a profile with five typical mistakes", &host, SILENT);
    cases.add("no such file", &Host::new().arg("--config").arg("/nowhere/profile"), SILENT);
    let host = Host::new();
    let broken = host.write("broken.plist", "<plist><dict><key>SyncBaseURL</key>");
    let host = host.arg("--config").arg(broken.display().to_string());
    cases.add("a file that is cut short", &host, SILENT);
    cases.add("a --set without a value", &Host::of(NOBODY).set("ClientMode"), SILENT);
    let host = Host::of("ftp://sync.example.com/");
    cases.add("a URL of another scheme", &host, SILENT);
    let rules = serde_json::json!([
        {"identifier": "ABCDEFGHIJ", "rule_type": "TEAMID", "policy": "CEL", "cel_expr": "1 +"},
        {"identifier": "short", "rule_type": "TEAMID", "policy": "BLOCKLIST"},
    ]);
    let host = Host::of(NOBODY)
        .set("SyncClientContentEncoding=brotli")
        .set(r#"SyncExtraHeaders={"Host":"elsewhere","X-Fleet":"1"}"#)
        .set("SyncDeadline=5")
        .set("EventsDatabase=/nowhere/events.db")
        .set("FCMProject=push")
        .set(format!("StaticRules={rules}"));
    cases.add("what works without", &host, SILENT);
    cases.pin("configuration");
}

/// HOST-2, EXIT 7.
#[test]
fn host_2_an_identity_that_is_none_is_named() {
    let mut cases = Cases::default();
    let mut host = Host::of(NOBODY);
    host.args.retain(|arg| arg != "MachineID=host-1");
    host.args.remove(2);
    let placeholder = "<plist><dict><key>id</key><string>$SERIALNUMBER</string></dict></plist>";
    let ids = host.write("ids.plist", placeholder);
    let plist = ids.display().to_string();
    let placeholder = host.set(format!("MachineIDPlist={plist}")).set("MachineIDKey=id");
    cases.add("a placeholder in MachineIDPlist", &placeholder, SILENT);
    let broken = placeholder.write("ids.plist", "no property list");
    assert!(broken.exists());
    cases.add("a MachineIDPlist that is none", &placeholder, SILENT);
    cases.add(
        "a placeholder in MachineID",
        &Host::of(NOBODY).set("MachineID=%SerialNumber%"),
        SILENT,
    );
    cases.pin("identity");
}

/// STATE-1, EXIT 73. Of other users' files the unit tests tell: only root
/// could make one.
#[test]
fn state_1_a_state_directory_that_is_not_as_it_should_be() {
    let mut cases = Cases::default();
    let host = Host::of(NOBODY).synced();
    for (name, mode) in [("others may look", 0o755), ("others may write", 0o777)] {
        fs::set_permissions(host.state(""), Permissions::from_mode(mode)).expect("a mode");
        cases.add(name, &host, SILENT);
    }
    fs::set_permissions(host.state(""), Permissions::from_mode(0o700)).expect("a mode");
    for name in ["agent.lock", "sync-state.plist"] {
        fs::set_permissions(host.state(name), Permissions::from_mode(0o644)).expect("a mode");
    }
    cases.add("files for others to read", &host, SILENT);
    fs::remove_dir_all(host.state("")).expect("removed");
    fs::write(host.dir.path().join("state"), "").expect("written");
    cases.add("a file in its place", &host, SILENT);
    fs::remove_file(host.dir.path().join("state")).expect("removed");
    symlink("/nowhere/state", host.dir.path().join("state")).expect("a link");
    cases.add("a link that leads nowhere", &host, SILENT);
    let mut host = Host::of(NOBODY);
    host.args[1] = "/dev/null/state".to_owned();
    cases.add("a place where none can be made", &host, SILENT);
    let host = Host::of(NOBODY).synced();
    fs::remove_file(host.state("agent.lock")).expect("removed");
    symlink("/nowhere/lock", host.state("agent.lock")).expect("a link");
    cases.add("a lock file that is none", &host, SILENT);
    cases.pin("state_directory");
}

/// STATE-1: a bare name is a directory below the present one.
#[test]
fn state_1_a_bare_relative_name_is_a_place_for_a_state_directory() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut doctor = crate::program::program();
    doctor.current_dir(dir.path()).args(["doctor", "--no-probe", "--state-dir", "brandnew"]);
    let output = doctor.output().expect("it ran");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("brandnew does not exist yet; the first sync creates it"), "{text}");
}

/// STATE-5: that LOCKDOWN is held back matters where somebody has set it.
#[test]
fn state_5_lockdown_is_held_back_only_where_it_is_set() {
    let fault = Fault::Status(404, Vec::new(), String::new());
    let server = FakeServer::builder()
        .fault(Route::from(Stage::RuleDownload), every(), fault)
        .start()
        .expect("a server");
    let host = Host::of(&server.url());
    assert_eq!(host.run(&["sync"]).status.code(), Some(3));
    let text = |args: &[&str]| {
        let output = host.run(&[&["doctor", "--no-probe"], args].concat());
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let unset = text(&[]);
    assert!(unset.contains("has not seen a complete rule download"), "{unset}");
    assert!(!unset.contains("LOCKDOWN"), "{unset}");
    assert!(text(&["--set", "ClientMode=2"]).contains("so LOCKDOWN is held back"));
}

/// STATE-3, STATE-4, RULE-7, EXIT 73: found, named, and left alone.
#[test]
fn state_3_a_store_that_cannot_be_used_is_named_and_left_alone() {
    let mut cases = Cases::default();
    let host = Host::of(NOBODY).synced();
    let good = |name: &str| fs::read(host.state(name)).expect("a database");
    let (rules, events) = (good("rules.db"), good("events.db"));
    let restore = || {
        fs::write(host.state("rules.db"), &rules).expect("written");
        fs::write(host.state("events.db"), &events).expect("written");
    };
    let open = |name: &str| Connection::open(host.state(name)).expect("opened");
    for name in ["rules.db", "events.db"] {
        fs::write(host.state(name), "garbage that is no database at all").expect("written");
    }
    cases.add("no databases at all", &host, SILENT);
    for name in ["rules.db", "events.db"] {
        fs::write(host.state(name), "").expect("written");
    }
    cases.add("made and never filled", &host, SILENT);
    restore();
    // The root page of the last table: nothing reads it in passing.
    for (name, content) in [("rules.db", &rules), ("events.db", &events)] {
        let mut damaged = content.clone();
        let page = 4096;
        let last = damaged.len() - page;
        damaged[last..].fill(0xa5);
        fs::write(host.state(name), damaged).expect("written");
    }
    cases.add("a damaged page in each", &host, SILENT);
    restore();
    for (name, version) in [("rules.db", 17), ("events.db", 3)] {
        open(name).pragma_update(None, "user_version", version).expect("set");
    }
    cases.add("one too new and one too old", &host, SILENT);
    restore();
    let holder = open("rules.db");
    let hold = "PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; CREATE TABLE x (y); COMMIT;";
    holder.execute_batch(hold).expect("held");
    cases.add("one that another program holds", &host, SILENT);
    drop(holder);
    restore();
    fs::remove_file(host.state("rules.db")).expect("removed");
    symlink("/nowhere/rules.db", host.state("rules.db")).expect("a link");
    fs::remove_file(host.state("events.db")).expect("removed");
    fs::create_dir(host.state("events.db")).expect("a directory");
    cases.add("what is no file", &host, SILENT);
    cases.pin("stores");
}

/// SYNC-7, PRE-3: what became of the last syncs.
#[test]
fn sync_7_the_last_syncs_are_told_with_their_reason() {
    let mut cases = Cases::default();
    let fault = Fault::Status(404, Vec::new(), "no such tenant".to_owned());
    let server = FakeServer::builder()
        .fault(Route::from(Stage::Preflight), every(), fault)
        .start()
        .expect("a server");
    let host = Host::of(&server.url());
    assert_eq!(host.run(&["sync"]).status.code(), Some(1));
    server.clear_faults();
    cases.add("none has succeeded", &host, &[]);
    assert!(host.run(&["sync"]).status.success());
    let fault = Fault::Status(401, Vec::new(), String::new());
    server.fault(Route::from(Stage::RuleDownload), every(), fault);
    assert_eq!(host.run(&["sync", "--clean"]).status.code(), Some(3));
    cases.add("the last one failed", &host, &[]);
    server.clear_faults();
    assert!(host.run(&["sync"]).status.success());
    let store = Connection::open(host.state("rules.db")).expect("opened");
    store
        .execute(
            "UPDATE agent_meta SET value = '2025-01-01T00:00:00Z' \
             WHERE key = 'full_sync_last_success'",
            [],
        )
        .expect("set");
    drop(store);
    cases.add("none for long", &host, &[]);
    cases.pin("history");
}
