use tempfile::TempDir;

use super::*;
use crate::model::{ClientMode, Identifier, MediaPolicy, Policy, Rule, RuleSet, RuleType};

const T0: Timestamp = Timestamp::from_secs(1_700_000_000);

fn store() -> (TempDir, Store) {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = Store::open(dir.path(), T0).expect("a store");
    (dir, store)
}

fn identify(store: &mut Store, server: &str, machine: &str) -> Option<CleanSyncReason> {
    let server = BaseUrl::parse(server).expect("a URL");
    let machine = MachineId::new(machine).expect("an id");
    store.identify(&server, &machine, T0).expect("identified")
}

fn mode(mode: ClientMode) -> Settings {
    Settings { client_mode: Some(mode), ..Settings::default() }
}

fn plist(dir: &TempDir) -> plist::Dictionary {
    let value = plist::Value::from_file(dir.path().join(SYNC_STATE_FILE)).expect("a plist");
    value.into_dictionary().expect("a dictionary")
}

fn run_sync(store: &mut Store, settings: &Settings, sync_type: SyncType) -> Vec<SettingChange> {
    run_sync_with(store, settings, &RuleSet::default(), sync_type)
}

fn one_rule() -> RuleSet {
    let identifier = Identifier::parse(RuleType::TeamId, "ABCDE12345").expect("a team");
    let mut rules = RuleSet::default();
    rules
        .push_page(vec![Rule { identifier, policy: Policy::Allowlist, details: None }], Vec::new());
    rules
}

fn run_sync_with(
    store: &mut Store,
    settings: &Settings,
    rules: &RuleSet,
    sync_type: SyncType,
) -> Vec<SettingChange> {
    store.stage_settings(settings, sync_type).expect("staged");
    store.commit_rules(rules, (sync_type, T0)).expect("committed");
    store.apply_staged(sync_type.is_clean(), Some(sync_type), T0).expect("applied")
}

/// STATE-1: whatever texts a server sends, other programs can read the file.
#[test]
fn state_1_sync_state_is_xml_whatever_the_settings_hold() {
    use crate::model::text::{HOSTILE, fit_for_xml};
    let (dir, mut store) = store();
    let settings = Settings {
        allowed_path_regex: Some(HOSTILE.to_owned()),
        event_detail_text: Some("a\0b".to_owned()),
        event_detail_url: Some("x\u{b}".repeat(1 << 18)),
        push_token_chain: Some(["t".to_owned(), HOSTILE.to_owned()]),
        removable_media: Some(MediaPolicy::Remount(vec![HOSTILE.to_owned()])),
        ..Settings::default()
    };
    run_sync(&mut store, &settings, SyncType::Normal);
    let state = plist(&dir);
    assert_eq!(state["EventDetailText"], "ab".into());
    assert_eq!(state["EventDetailURL"], "x".repeat(1 << 18).into());
    // XML has one form for all line ends.
    let fit = fit_for_xml(HOSTILE).replace('\r', "\n");
    let read = state["AllowedPathRegex"].as_string().expect("a text").replace('\r', "\n");
    assert_eq!(read, fit);
    assert_eq!(state["PushTokenChain"].as_array().map(Vec::len), Some(2));
    assert_eq!(store.applied_settings().expect("read"), settings, "the database has all of it");
}

/// PRE-3, HTTP-14: servers whose URLs differ only in a hidden part are two, and
/// a name kept by an older version is no reason for a clean sync.
#[test]
fn pre_3_a_server_is_told_apart_by_its_whole_url_and_known_by_its_former_name() {
    let (_dir, mut store) = store();
    let one = "https://h/p?key=tenant-a1";
    assert_eq!(identify(&mut store, one, "A"), Some(CleanSyncReason::NewState));
    assert_eq!(identify(&mut store, one, "A"), None);
    let other = identify(&mut store, "https://h/p?key=tenant-a2", "A");
    assert_eq!(other, Some(CleanSyncReason::ServerChanged));
    agent_meta::put(&store.rules, SERVER_URL_KEY, &"https://h/p?key=...").expect("written");
    assert_eq!(identify(&mut store, one, "A"), None);
    let (kept, _) = store.identity().expect("read").expect("an identity");
    assert_eq!(kept, BaseUrl::parse(one).expect("a URL").identity());
    assert!(!kept.contains("tenant-a1"), "{kept}");
    let other = identify(&mut store, "https://h/p?key=tenant-a2", "A");
    assert_eq!(other, Some(CleanSyncReason::ServerChanged));
}

/// SYNC-4: staged settings are on disk and not in effect; a restart drops them.
#[test]
fn sync_4_staged_settings_survive_a_restart_only_to_be_dropped() {
    let (dir, mut store) = store();
    run_sync(&mut store, &mode(ClientMode::Monitor), SyncType::Normal);
    store.stage_settings(&mode(ClientMode::Standalone), SyncType::Normal).expect("staged");
    drop(store);
    let (mut store, _) = Store::open(dir.path(), T0).expect("opens again");
    assert_eq!(store.applied_settings().expect("read"), mode(ClientMode::Monitor));
    let reverted = store.drop_staged().expect("dropped").expect("there were some");
    assert_eq!(reverted.len(), 1);
    assert_eq!(reverted[0].after.as_deref(), Some("STANDALONE"));
    assert_eq!(store.drop_staged().expect("dropped"), None);
    assert_eq!(store.applied_settings().expect("read"), mode(ClientMode::Monitor));
}

/// SYNC-5: NORMAL leaves what is absent alone, CLEAN forgets it.
#[test]
fn sync_5_a_clean_sync_forgets_what_the_server_does_not_repeat() {
    let (_dir, mut store) = store();
    let both = Settings { enable_bundles: Some(true), ..mode(ClientMode::Monitor) };
    run_sync(&mut store, &both, SyncType::Normal);
    run_sync(&mut store, &mode(ClientMode::Standalone), SyncType::Normal);
    let kept = store.applied_settings().expect("read");
    assert_eq!((kept.client_mode, kept.enable_bundles), (Some(ClientMode::Standalone), Some(true)));
    let changes = run_sync(&mut store, &mode(ClientMode::Standalone), SyncType::Clean);
    assert_eq!(store.applied_settings().expect("read").enable_bundles, None);
    assert_eq!(changes.len(), 1);
    assert_eq!((changes[0].setting.as_str(), &changes[0].after), ("enable_bundles", &None));
}

fn standing(store: &Store) -> Vec<String> {
    let mode = store.client_mode(None).expect("read");
    let standing = store.standing(mode, false).expect("read");
    standing.iter().map(ToString::to_string).collect()
}

/// PRE-3, PRE-7: a new state, another server and another id each request
/// everything again. The former server's settings and rules stay in effect: a
/// mistyped URL does not lift LOCKDOWN.
#[test]
fn pre_7_a_former_servers_settings_and_rules_stay_until_the_new_one_replaces_them() {
    let (_dir, mut store) = store();
    let lockdown = mode(ClientMode::Lockdown);
    assert_eq!(identify(&mut store, "https://a/", "m"), Some(CleanSyncReason::NewState));
    assert_eq!(identify(&mut store, "https://a", "m"), None);
    run_sync_with(&mut store, &lockdown, &one_rule(), SyncType::Normal);
    assert_eq!(store.clean_sync_requests().expect("read"), []);
    assert_eq!(standing(&store), [""; 0]);

    assert_eq!(identify(&mut store, "https://a/typo/", "m"), Some(CleanSyncReason::ServerChanged));
    assert_eq!(store.applied_settings().expect("read"), lockdown);
    assert_eq!(store.client_mode(None).expect("read"), ClientMode::Lockdown);
    let told = standing(&store);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told.iter().all(|text| text.contains("https://a/ for machine id m")), "{told:?}");
    // Put right, or mistyped again: it stays clear whose settings those are.
    identify(&mut store, "https://a/typ0/", "m");
    assert!(standing(&store)[0].contains("https://a/ for"), "{:?}", standing(&store));
    identify(&mut store, "https://a/", "m");
    assert_eq!(standing(&store), [""; 0]);

    // A NORMAL sync with the new server replaces the settings, not the rules.
    identify(&mut store, "https://b/", "m");
    assert!(store.has_former_settings().expect("read"));
    let changes = {
        store.stage_settings(&Settings::default(), SyncType::Normal).expect("staged");
        store.commit_rules(&RuleSet::default(), (SyncType::Normal, T0)).expect("committed");
        store.apply_staged(true, Some(SyncType::Normal), T0).expect("applied")
    };
    assert_eq!(changes.len(), 1);
    assert!(!store.has_former_settings().expect("read"));
    let told = standing(&store);
    assert!(told.len() == 1 && told[0].starts_with("rules of https://a/"), "{told:?}");
    run_sync(&mut store, &lockdown, SyncType::Clean);
    let told = standing(&store);
    assert!(told.len() == 1 && told[0].contains("no rule allows anything"), "{told:?}");
    assert_eq!(
        store.clean_sync_requests().expect("read").len(),
        1,
        "CLEAN is weaker than CLEAN_ALL"
    );

    assert_eq!(identify(&mut store, "https://b/", "n"), Some(CleanSyncReason::MachineIdChanged));
    assert_eq!(store.clean_sync_requests().expect("read").len(), 2);
    run_sync(&mut store, &lockdown, SyncType::CleanAll);
    assert_eq!(store.clean_sync_requests().expect("read"), []);
}

/// PRE-3: a clean-sync request is kept until a sync of its strength succeeds,
/// and says what the server answered meanwhile.
#[test]
fn pre_3_an_operators_request_outlasts_weaker_and_failed_syncs() {
    let (_dir, mut store) = store();
    store.request_clean_sync(SyncType::CleanAll, CleanSyncReason::Operator, T0).expect("added");
    store.request_clean_sync(SyncType::Clean, CleanSyncReason::Operator, T0).expect("added");
    store.stage_settings(&Settings::default(), SyncType::Normal).expect("staged");
    store.apply_staged(false, None, T0).expect("applied after a failed postflight");
    run_sync(&mut store, &Settings::default(), SyncType::Clean);
    let requests = store.clean_sync_requests().expect("read");
    assert_eq!(requests.len(), 1);
    assert_eq!(
        (requests[0].sync_type, requests[0].last_answer),
        (SyncType::CleanAll, Some(SyncType::Clean))
    );
    run_sync(&mut store, &Settings::default(), SyncType::CleanAll);
    assert_eq!(store.clean_sync_requests().expect("read"), []);
}

/// STATE-5: LOCKDOWN waits for the first complete set of rules, also in the
/// file for other programs.
#[test]
fn state_5_lockdown_waits_for_the_first_complete_rules() {
    let (dir, mut store) = store();
    assert_eq!(store.client_mode(Some(ClientMode::Lockdown)).expect("read"), ClientMode::Monitor);
    store.stage_settings(&mode(ClientMode::Lockdown), SyncType::Normal).expect("staged");
    store.apply_staged(false, None, T0).expect("applied");
    assert_eq!(store.client_mode(None).expect("read"), ClientMode::Monitor);
    assert_eq!(plist(&dir)["ClientMode"].as_signed_integer(), Some(1));
    store.commit_rules(&RuleSet::default(), (SyncType::Normal, T0)).expect("committed");
    store.apply_staged(false, None, T0).expect("applied");
    assert_eq!(store.client_mode(None).expect("read"), ClientMode::Lockdown);
    assert_eq!(plist(&dir)["ClientMode"].as_signed_integer(), Some(2));
}

/// STATE-1: the reference's keys and types, and a file for its owner alone.
#[test]
fn state_1_the_settings_in_force_are_written_under_the_references_keys() {
    use std::os::unix::fs::PermissionsExt as _;
    let (dir, mut store) = store();
    let settings = Settings {
        enable_bundles: Some(true),
        full_sync_interval: Some(900),
        allowed_path_regex: Some("^/opt".into()),
        removable_media: Some(MediaPolicy::Remount(vec!["rdonly".into()])),
        push_token_chain: Some(["issuer".into(), "user".into()]),
        ..mode(ClientMode::Standalone)
    };
    store.request_clean_sync(SyncType::Clean, CleanSyncReason::Operator, T0).expect("added");
    store.write_sync_state().expect("written");
    assert_eq!(plist(&dir)["SyncTypeRequired"].as_signed_integer(), Some(1));
    run_sync(&mut store, &settings, SyncType::CleanAll);
    let state = plist(&dir);
    assert_eq!(state["ClientMode"].as_signed_integer(), Some(3));
    assert_eq!(state["SyncTypeRequired"].as_signed_integer(), Some(0));
    assert_eq!(state["EnableBundles"].as_boolean(), Some(true));
    assert_eq!(state["full_sync_interval"].as_signed_integer(), Some(900));
    assert_eq!(state["AllowedPathRegex"].as_string(), Some("^/opt"));
    assert_eq!(state["RemovableMediaAction"].as_string(), Some("Remount"));
    assert_eq!(state["PushTokenChain"].as_array().map(Vec::len), Some(2));
    assert!(state["FullSyncLastSuccess"].as_date().is_some());
    let mode = std::fs::metadata(dir.path().join(SYNC_STATE_FILE)).expect("a file").permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
    // No leftovers of the writing.
    let names: Vec<_> = std::fs::read_dir(dir.path())
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
        .filter(|name| !name.starts_with("rules.db"))
        .collect();
    assert_eq!(names, [SYNC_STATE_FILE]);
}

/// SYNC-7: the last 50 are kept; one whose process died says so.
#[test]
fn sync_7_the_last_fifty_syncs_leave_a_record() {
    let (_dir, mut store) = store();
    let record = |id: u32| {
        let trigger = crate::model::Trigger::Manual;
        crate::model::SyncRecord::begun(id.to_string(), trigger, T0, SyncType::Normal)
    };
    for id in 0..60 {
        let number = store.begin_sync(&record(id)).expect("begun");
        store.end_sync(number, &record(id)).expect("ended");
    }
    store.begin_sync(&record(60)).expect("begun");
    assert_eq!(store.close_interrupted_syncs(&[]).expect("closed"), 1);
    let history = store.history(100).expect("read");
    assert_eq!(history.len(), 50);
    assert_eq!(history[0].error.as_ref().map(|e| e.kind.as_str()), Some("interrupted"));
    assert_eq!((history[1].id.as_str(), history[49].id.as_str()), ("59", "11"));
}

/// STATE-5: a rebuilt rule store holds LOCKDOWN back until its clean sync has
/// succeeded: an empty NORMAL answer fills nothing.
#[test]
fn state_5_lockdown_waits_for_the_clean_sync_of_a_rebuilt_rule_store() {
    let (dir, mut store) = store();
    identify(&mut store, "https://a/", "m");
    run_sync(&mut store, &mode(ClientMode::Lockdown), SyncType::CleanAll);
    store.write_sync_state().expect("written");
    assert_eq!(store.client_mode(None).expect("read"), ClientMode::Lockdown);
    drop(store);
    let _ = std::fs::remove_file(dir.path().join("rules.db-wal"));
    std::fs::write(dir.path().join("rules.db"), "garbage").expect("written");

    let (mut store, _) = Store::open(dir.path(), T0).expect("rebuilt");
    assert_eq!(identify(&mut store, "https://a/", "m"), Some(CleanSyncReason::RulesRecreated));
    for sync_type in [SyncType::Normal, SyncType::Clean] {
        run_sync(&mut store, &mode(ClientMode::Lockdown), sync_type);
        assert_eq!(store.client_mode(None).expect("read"), ClientMode::Monitor, "{sync_type:?}");
        assert_eq!(store.lockdown_held_back().expect("read"), Some(ModeHeldBack::RulesRecreated));
        assert_eq!(plist(&dir)["ClientMode"].as_signed_integer(), Some(1));
    }
    run_sync(&mut store, &mode(ClientMode::Lockdown), SyncType::CleanAll);
    assert_eq!(store.client_mode(None).expect("read"), ClientMode::Lockdown);
    assert_eq!(store.lockdown_held_back().expect("read"), None);
    assert_eq!(plist(&dir)["ClientMode"].as_signed_integer(), Some(2));
}

/// STATE-5: the same if `sync-state.plist`, which tells a rebuilt store from a
/// new one, could never be written.
#[test]
fn state_5_a_rebuilt_store_is_known_without_the_file_for_other_programs() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("rules.db"), "garbage").expect("written");
    let (mut store, _) = Store::open(dir.path(), T0).expect("rebuilt");
    assert_eq!(identify(&mut store, "https://a/", "m"), Some(CleanSyncReason::RulesRecreated));
    run_sync(&mut store, &mode(ClientMode::Lockdown), SyncType::Normal);
    assert_eq!(store.client_mode(None).expect("read"), ClientMode::Monitor);
}
