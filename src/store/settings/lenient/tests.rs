use tempfile::TempDir;

use super::*;
use crate::model::{ClientMode, RuleSet, Timestamp};
use crate::store::{EventStore, Notice, Store};

const T0: Timestamp = Timestamp::from_secs(1_700_000_000);

fn store() -> (TempDir, Store) {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut store, _) = Store::open(dir.path(), T0).expect("a store");
    store.commit_rules(&RuleSet::default(), (SyncType::Normal, T0)).expect("committed");
    (dir, store)
}

fn put_slot(store: &Store, slot: &str, value: &dyn rusqlite::ToSql) {
    store
        .rules
        .execute("INSERT OR REPLACE INTO agent_settings VALUES (?1, ?2)", params![slot, value])
        .expect("written");
}

fn put_request(store: &Store, key: &str, text: &str) {
    store
        .rules
        .execute("INSERT OR REPLACE INTO agent_clean_sync_requests VALUES (?1, ?2)", [key, text])
        .expect("written");
}

fn stored(store: &Store, sql: &str) -> Value {
    let text: String = store.rules.query_row(sql, [], |row| row.get(0)).expect("a row");
    serde_json::from_str(&text).expect("JSON")
}

fn sync(store: &mut Store, settings: &Settings, sync_type: SyncType) {
    store.stage_settings(settings, sync_type).expect("staged");
    store.apply_staged(sync_type.is_clean(), Some(sync_type), T0).expect("applied");
}

const LATER: &str = r#"{"client_mode":"LOCKDOWN","full_sync_interval":900,
    "network_policy":{"deny":["x"]},"override_file_access_action":"QUARANTINE",
    "removable_media":{"encrypt":7},"enable_bundles":null}"#;

/// STATE-6: keys and words of a newer program are ignored, and still there for
/// it after syncs of this one.
#[test]
fn state_6_settings_of_a_newer_program_are_read_and_kept() {
    let (dir, mut store) = store();
    put_slot(&store, "applied", &LATER);
    drop(store);
    let opened = Store::open(dir.path(), T0).expect("not bricked");
    store = opened.0;
    assert_eq!(opened.1, []);
    let applied = store.applied_settings().expect("read");
    assert_eq!(
        (applied.client_mode, applied.full_sync_interval, applied.override_file_access_action),
        (Some(ClientMode::Lockdown), Some(900), None)
    );
    let given = Settings { enable_bundles: Some(true), ..Settings::default() };
    sync(&mut store, &given, SyncType::Normal);
    let applied = "SELECT settings FROM agent_settings WHERE slot = 'applied'";
    let kept = stored(&store, applied);
    assert_eq!(kept["network_policy"]["deny"][0], "x");
    assert_eq!(kept["override_file_access_action"], "QUARANTINE");
    assert_eq!(kept["removable_media"]["encrypt"], 7);
    assert_eq!((&kept["full_sync_interval"], &kept["enable_bundles"]), (&900.into(), &true.into()));
    // A setting that the server gives again wins.
    let given = Settings {
        override_file_access_action: Some(crate::model::FileAccessAction::Disable),
        ..Settings::default()
    };
    sync(&mut store, &given, SyncType::Normal);
    assert_eq!(stored(&store, applied)["override_file_access_action"], "DISABLE");
    // SYNC-5: a clean sync forgets what the server does not repeat.
    sync(&mut store, &Settings::default(), SyncType::Clean);
    assert_eq!(stored(&store, applied).get("network_policy"), None);
}

/// STATE-6: requests of a newer program count if they can be understood, and
/// stay as they are if they cannot.
#[test]
fn state_6_requests_of_a_newer_program_are_honoured_or_kept() {
    let (_dir, mut store) = store();
    let since = serde_json::to_string(&T0).expect("JSON");
    let request = |sync_type: &str, reason: &str| {
        format!(
            r#"{{"sync_type":"{sync_type}","reason":"{reason}","since":{since},
                "last_answer":"CLEAN_SOMETHING","priority":3}}"#
        )
    };
    put_request(&store, "\"policy_drift\"", &request("CLEAN", "policy_drift"));
    put_request(&store, "\"new_kind\"", &request("CLEAN_NETWORK", "new_kind"));
    put_request(&store, "\"broken\"", "{");
    let requests = store.clean_sync_requests().expect("read");
    assert_eq!(requests.len(), 1);
    assert_eq!(
        (requests[0].sync_type, requests[0].reason),
        (SyncType::Clean, CleanSyncReason::Other)
    );
    store.stage_settings(&Settings::default(), SyncType::Normal).expect("staged");
    let drift = stored(
        &store,
        "SELECT request FROM agent_clean_sync_requests WHERE reason = '\"policy_drift\"'",
    );
    assert_eq!((&drift["priority"], &drift["last_answer"]), (&3.into(), &"NORMAL".into()));
    assert_eq!(drift["reason"], "policy_drift");
    sync(&mut store, &Settings::default(), SyncType::CleanAll);
    assert_eq!(store.clean_sync_requests().expect("read"), []);
    let left: i64 = store
        .rules
        .query_row("SELECT count(*) FROM agent_clean_sync_requests", [], |row| row.get(0))
        .expect("counted");
    assert_eq!(left, 2, "what this program does not understand is not its to delete");
}

/// STATE-6: staged settings that cannot be read are dropped.
#[test]
fn state_6_an_unreadable_staged_slot_is_dropped() {
    for damage in ["", "[1]", "{\"client_mode\":"] {
        let (_dir, mut store) = store();
        sync(
            &mut store,
            &Settings { enable_bundles: Some(true), ..Settings::default() },
            SyncType::Normal,
        );
        put_slot(&store, "staged", &damage);
        assert_eq!(store.drop_staged().expect("dropped"), Some(vec![]));
        assert_eq!(store.drop_staged().expect("none left"), None);
        assert_eq!(store.applied_settings().expect("read").enable_bundles, Some(true));
    }
}

/// STATE-6: settings in effect that cannot be read are reported, and a clean
/// sync brings new ones.
#[test]
fn state_6_an_unreadable_applied_slot_is_reported_and_everything_is_requested_anew() {
    let damages: [&dyn rusqlite::ToSql; 4] = [&"not JSON", &"[]", &vec![0xff_u8, 0x00], &7];
    for damage in damages {
        let (dir, store) = store();
        put_slot(&store, "applied", damage);
        drop(store);
        let (mut store, notices) = Store::open(dir.path(), T0).expect("not bricked");
        let path = dir.path().join("rules.db");
        assert_eq!(notices, [Notice::SettingsUnreadable { path }]);
        assert_eq!(store.applied_settings().expect("read"), Settings::default());
        let requests = store.clean_sync_requests().expect("read");
        assert_eq!(
            (requests[0].sync_type, requests[0].reason),
            (SyncType::CleanAll, CleanSyncReason::SettingsUnreadable)
        );
        store.write_sync_state().expect("written");
        sync(&mut store, &Settings::default(), SyncType::CleanAll);
        drop(store);
        let (store, notices) = Store::open(dir.path(), T0).expect("opens");
        assert_eq!((notices, store.clean_sync_requests().expect("read")), (vec![], vec![]));
    }
}

/// STATE-6: the stores of every released form open, hold what they held and
/// can be synced with, also with rows of a later form in our tables.
#[test]
fn state_6_stores_of_every_released_form_and_of_later_ones_are_usable() {
    let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/db");
    let load = |dir: &std::path::Path, file: &str, fixture: &str| {
        let sql = std::fs::read_to_string(fixtures.join(fixture)).expect("a fixture");
        let conn = Connection::open(dir.join(file)).expect("a database");
        conn.execute_batch(&sql).expect("filled");
    };
    let since = serde_json::to_string(&T0).expect("JSON");
    for version in 0..=16 {
        let dir = tempfile::tempdir().expect("a directory");
        load(dir.path(), "rules.db", &format!("{version:03}.sql"));
        if (1..=6).contains(&version) {
            load(dir.path(), "events.db", &format!("events/v{version}.sql"));
        }
        let (store, _) = Store::open(dir.path(), T0).expect("opens");
        let rules = store.rule_counts().expect("counted");
        put_slot(&store, "applied", &LATER);
        put_slot(&store, "staged", &LATER);
        let request =
            format!(r#"{{"sync_type":"CLEAN_ALL","reason":"later","since":{since},"x":[]}}"#);
        put_request(&store, "\"later\"", &request);
        store
            .rules
            .execute("INSERT INTO agent_syncs (begun, record) VALUES ('{\"later\":1}', '[]')", [])
            .expect("written");
        store
            .rules
            .execute("INSERT INTO agent_meta VALUES ('later_fact', x'00')", [])
            .expect("written");
        drop(store);
        let (mut store, notices) = Store::open(dir.path(), T0).expect("opens again");
        assert_eq!(notices, [], "version {version}");
        assert_eq!(store.rule_counts().expect("counted"), rules, "version {version}");
        store.drop_staged().expect("dropped");
        store.history(10).expect("read");
        store.close_interrupted_syncs(&[]).expect("closed");
        assert_eq!(store.clean_sync_requests().expect("read").len(), 1);
        store.write_sync_state().expect("written");
        sync(&mut store, &Settings::default(), SyncType::CleanAll);
        assert_eq!(store.clean_sync_requests().expect("read"), []);
        let (events, _) = EventStore::open(dir.path(), T0).expect("opens");
        events.pending().expect("counted");
    }
}
