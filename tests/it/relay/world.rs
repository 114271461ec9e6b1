//! A server, an agent with its relay, and a Santa that syncs with the relay, all in
//! this process; and what must be true of them once nothing happens any more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use santa_sync::agent::LocalAgent;
use santa_sync::harness::fixtures::AnyEvent;
use santa_sync::harness::{FakeServer, Fault, SyncTypePolicy, every};
use santa_sync::model::{FileAccessAction, MediaPolicy, Settings, Stage, SyncType};
use santa_sync::protocol::wire;
use santa_sync::stop_channel;
use santa_sync::{Config, Sources, SyncOptions, SyncRecord, SyncResult, Trigger, Unobserved};

use super::inside::Relay;
use super::santa::{Act, Age, Row, Santa, Status, Step, Synced, TRANSITIVE, unique_id};
use super::stored;
use crate::agent::Agent;

/// The files of the agent's database of rules.
const RULES_FILES: [&str; 3] = ["rules.db", "rules.db-wal", "rules.db-shm"];

/// The contents of these files; `None` for a file that did not exist.
type CopyOfRules = [Option<Vec<u8>>; 3];

pub(crate) struct World {
    pub(crate) server: FakeServer,
    pub(crate) agent: Agent,
    pub(crate) relay: Arc<Relay>,
    pub(crate) santa: Santa,
    config: Arc<Config>,
    guard: Option<u8>,
    /// Of the events that servers received before the agent was moved to the present one.
    received_before: BTreeSet<String>,
    /// No sync with the present server has succeeded yet, or may have.
    pub(crate) is_new_to_server: bool,
    /// Of every event that Santa stored.
    observed: BTreeSet<String>,
    /// Of those that came after its last whole sync.
    since_whole_sync: BTreeSet<String>,
    /// When that ended.
    last_whole_sync: Option<Duration>,
    transitive: BTreeSet<String>,
    /// The server replaced all rules, and Santa has not yet.
    clean_all_due: bool,
    /// The same, or it has not been seen to be acknowledged.
    clean_all_allowed: bool,
    copy: Option<CopyOfRules>,
}

impl World {
    /// `keeps_events`: Santa's profile has it upload events in clean syncs.
    pub(crate) fn with(age: Age, keeps_events: bool) -> Self {
        Self::guarded(age, keeps_events, None)
    }

    /// As [`Self::with`], with `GuardRemovedPercent` set to `guard`.
    pub(crate) fn guarded(age: Age, keeps_events: bool, guard: Option<u8>) -> Self {
        let server = FakeServer::builder().transcript_limit(0).start().expect("a server");
        let agent = Agent::of(&server);
        let config = configured(&server, &agent, guard);
        std::fs::create_dir(&agent.state_dir).expect("a directory");
        let relay = Relay::start(agent.state_dir.clone(), &agent.machine_id, keeps_events, guard);
        let relay = Arc::new(relay);
        let santa = Santa::new(age, "http://relay.invalid/").with(|profile| {
            profile.direct = Some(Arc::clone(&relay) as Arc<_>);
            profile.clean_sync_event_upload = keeps_events;
            profile.pace.second = Duration::ZERO;
        });
        Self {
            server,
            agent,
            relay,
            santa,
            config,
            guard,
            received_before: BTreeSet::new(),
            is_new_to_server: true,
            observed: BTreeSet::new(),
            since_whole_sync: BTreeSet::new(),
            last_whole_sync: None,
            transitive: BTreeSet::new(),
            clean_all_due: false,
            clean_all_allowed: false,
            copy: None,
        }
    }

    /// What makes a sync of the agent with the server.
    fn puller(&self) -> impl Fn() -> SyncRecord + use<> {
        let (state_dir, config) = (self.agent.state_dir.clone(), Arc::clone(&self.config));
        move || {
            let agent = LocalAgent::new(state_dir.clone(), Arc::clone(&config));
            let (_stopper, stop) = stop_channel();
            agent.sync(SyncOptions::of(Trigger::Manual), &mut Unobserved, stop)
        }
    }

    /// A sync of the agent has ended.
    fn note(&mut self, record: &SyncRecord) {
        assert_eq!(record.result, SyncResult::Success, "{record:?}");
        if std::mem::take(&mut self.is_new_to_server) {
            assert!(record.requested_sync_type.is_clean(), "PRE-7: {record:?}");
        }
        self.note_type(record);
    }

    /// A sync of the agent has committed its rules.
    fn note_type(&mut self, record: &SyncRecord) {
        let all = SyncType::CleanAll;
        if record.sync_type == Some(all) && record.requested_sync_type != all {
            self.clean_all_due = true;
            self.clean_all_allowed = true;
        }
    }

    /// A sync of the agent with the server.
    pub(crate) fn pull(&mut self) -> SyncRecord {
        let record = self.puller()();
        self.note(&record);
        record
    }

    /// The agent syncs with the server while Santa, syncing, is at that point.
    pub(crate) fn push_and_pull(&mut self, point: u8) {
        let pull = self.puller();
        let mut left = i32::from(point);
        let mut record = None;
        self.push_with(&mut |_| {
            if left == 0 {
                record = Some(pull());
            }
            left -= 1;
            Act::Go
        });
        if let Some(record) = record {
            self.note(&record);
        }
    }

    /// A sync of the agent of that type, by the server's will.
    pub(crate) fn pull_as(&mut self, sync_type: wire::SyncType) -> SyncRecord {
        self.server.change_style(|style| style.sync_type = SyncTypePolicy::Always(sync_type));
        let record = self.pull();
        self.server.change_style(|style| style.sync_type = SyncTypePolicy::AsRequested);
        record
    }

    /// A sync of the agent, of that type if one is given, for which the server has no
    /// `stage`.
    pub(crate) fn pull_without(&mut self, stage: Stage, sync_type: Option<wire::SyncType>) {
        let policy = sync_type.map_or(SyncTypePolicy::AsRequested, SyncTypePolicy::Always);
        self.server.change_style(|style| style.sync_type = policy);
        self.server.fault(stage, every(), Fault::status(404));
        let record = self.puller()();
        self.server.clear_faults();
        self.server.change_style(|style| style.sync_type = SyncTypePolicy::AsRequested);
        if stage == Stage::EventUpload && record.result == SyncResult::Success {
            // There were no events.
            self.note(&record);
            return;
        }
        assert_ne!(record.result, SyncResult::Success, "{stage:?}: {record:?}");
        if stage == Stage::Postflight {
            // The rules were committed.
            self.note_type(&record);
        }
    }

    /// The agent is configured for another server, which has these rules.
    pub(crate) fn move_to_another_server(&mut self, rules: Vec<wire::Rule>) {
        self.received_before.extend(self.server.events().iter().map(unique_id));
        self.server = FakeServer::builder().transcript_limit(0).start().expect("a server");
        self.server.set_rules(rules);
        self.is_new_to_server = true;
        self.agent.base_url = self.server.url();
        self.config = configured(&self.server, &self.agent, self.guard);
    }

    /// Santa's database of rules is lost.
    pub(crate) fn lose_rules(&mut self) {
        self.santa.lose_rules();
        self.transitive.clear();
    }

    /// The agent's database of rules is lost, and with it the fact that the server replaced all
    /// rules. The relay keeps running or is restarted.
    pub(crate) fn rebuild(&mut self, relay_runs: bool) {
        self.clean_all_due = false;
        self.replace_rules(None, relay_runs);
    }

    /// Keeps a copy of the agent's database of rules.
    pub(crate) fn copy_rules(&mut self) {
        let read = |file| std::fs::read(self.agent.state_dir.join(file)).ok();
        self.copy = Some(RULES_FILES.map(read));
    }

    /// Restores that copy, if there is one. It may have a `CLEAN_ALL` that Santa has already
    /// applied, or lack one that is due.
    pub(crate) fn restore_rules(&mut self) {
        if let Some(copy) = self.copy.clone() {
            self.clean_all_due = false;
            self.clean_all_allowed = true;
            self.replace_rules(Some(copy), false);
        }
    }

    fn replace_rules(&self, by: Option<CopyOfRules>, relay_runs: bool) {
        if !relay_runs {
            self.relay.kill();
        }
        for (file, content) in RULES_FILES.into_iter().zip(by.unwrap_or_default()) {
            let path = self.agent.state_dir.join(file);
            let _ = std::fs::remove_file(&path);
            if let Some(content) = content {
                std::fs::write(path, content).expect("written");
            }
        }
        if !relay_runs {
            self.relay.restart();
        }
    }

    /// A sync of Santa's without trouble.
    pub(crate) fn push(&mut self) -> Synced {
        self.push_with(&mut |_| Act::Go)
    }

    /// A sync of Santa's.
    pub(crate) fn push_with(&mut self, act: &mut dyn FnMut(Step) -> Act) -> Synced {
        let waiting: BTreeSet<_> = self.santa.pending().iter().map(unique_id).collect();
        let wanted_all = self.santa.required() == SyncType::CleanAll;
        let rows = self.santa.rows();
        let (mut committed, mut reported) = (false, false);
        let done = self.santa.sync_with(&mut |step| {
            committed |= step == Step::Committed;
            reported |= matches!(step, Step::Attempt { stage: Stage::Postflight, .. });
            act(step)
        });
        if committed && done.sync_type == SyncType::CleanAll {
            assert!(self.clean_all_allowed || wanted_all, "nobody wanted a CLEAN_ALL: {rows:?}");
            self.transitive.clear();
            self.clean_all_due = false;
        }
        if done.deleted_unsent > 0 {
            let kept: BTreeSet<_> = self.santa.pending().iter().map(unique_id).collect();
            let lost: BTreeSet<_> = waiting.difference(&kept).cloned().collect();
            let known = lost.difference(&self.since_whole_sync).collect::<Vec<_>>();
            assert!(known.is_empty(), "events that waited for a whole sync were lost: {known:?}");
            // Who has just uploaded everything may lose what came in that minute.
            let since = self.last_whole_sync.map(|at| self.relay.elapsed().saturating_sub(at));
            let is_recent = since.is_some_and(|since| since < Duration::from_mins(1));
            assert!(is_recent, "events were lost {since:?} after the last whole sync: {lost:?}");
            self.observed.retain(|id| !lost.contains(id));
        }
        assert!(!done.push_tokens);
        if done.status == Status::Success {
            self.since_whole_sync.clear();
        }
        // For the relay, a sync is complete once it has the postflight, even if the response is
        // lost.
        if reported {
            self.last_whole_sync = Some(self.relay.elapsed());
        }
        done
    }

    /// Santa stores an event.
    pub(crate) fn observe(&mut self, event: &AnyEvent) {
        if self.santa.observe(event) {
            self.observed.insert(unique_id(event));
            self.since_whole_sync.insert(unique_id(event));
        }
    }

    /// A compiler of the host wrote that file.
    pub(crate) fn add_transitive(&mut self, sha256: &str) {
        self.santa.add_transitive(sha256);
        self.transitive.insert(sha256.to_owned());
    }

    /// The rules that Santa should hold, in order.
    pub(crate) fn expected_rows(&self) -> Vec<Row> {
        let age = self.santa.profile.age;
        let rows = stored::rows(&self.agent.state_dir);
        rows.into_iter().filter_map(|row| as_known(age, row)).collect()
    }

    /// The settings that Santa should hold, by name.
    pub(crate) fn expected_settings(&self) -> BTreeMap<&'static str, String> {
        let applied = self.agent.store().applied_settings().expect("read");
        let mut shown = shown(&applied, self.santa.profile.age);
        shown.insert("full_sync_interval", "600".to_owned());
        shown
    }

    fn is_audit_only(&self) -> bool {
        let applied = self.agent.store().applied_settings().expect("read");
        applied.override_file_access_action == Some(FileAccessAction::AuditOnly)
    }

    /// Lets two more syncs of each happen, and looks whether all is as it should be.
    pub(crate) fn settle(&mut self) {
        for _ in 0..2 {
            self.pull();
            self.push();
        }
        self.assert_in_step();
        self.clean_all_allowed = false;
        let next = self.push();
        let why = self.relay.why();
        assert_eq!((next.received, next.sync_type), (0, SyncType::Normal), "{why}");
        self.assert_in_step();
        self.pull();
        let mut received: BTreeSet<_> = self.server.events().iter().map(unique_id).collect();
        received.extend(self.received_before.iter().cloned());
        let missing: Vec<_> = self.observed.difference(&received).collect();
        assert!(missing.is_empty(), "events were lost: {missing:?}");
        assert!(self.santa.pending().is_empty());
    }

    /// Whether Santa holds what it should, and the relay knows.
    pub(crate) fn assert_in_step(&self) {
        let age = self.santa.profile.age;
        let why = self.relay.why();
        assert_eq!(self.santa.server_rows(), self.expected_rows(), "{age:?}: {why}");
        if age == Age::Y2026M7 {
            let store = self.agent.store();
            assert_eq!(self.santa.rules_hash(), store.rules_hash().expect("read"));
        }
        let transitive = self.santa.rows().into_iter().filter(|row| row.state == TRANSITIVE);
        let transitive: BTreeSet<_> = transitive.map(|row| row.identifier).collect();
        assert_eq!(transitive, self.transitive);
        assert!(!self.clean_all_due, "the server's CLEAN_ALL never came: {why}");
        let mut held = self.santa.settings();
        let expected = self.expected_settings();
        // Santa cannot store AUDIT_ONLY: the value before stays.
        if !expected.contains_key("override_file_access_action") && self.is_audit_only() {
            held.remove("override_file_access_action");
        }
        if !age.clears_settings() {
            held.retain(|name, _| expected.contains_key(name));
        }
        assert_eq!(held, expected, "{age:?}: {why}");
        assert!(!self.relay.lacks(), "{why}");
        assert!(self.relay.is_in_step(), "{why}");
    }
}

/// The configuration of an agent of that server.
fn configured(server: &FakeServer, agent: &Agent, guard: Option<u8>) -> Arc<Config> {
    let mut sets = vec![
        format!("SyncBaseURL={}", server.url()),
        format!("MachineID={}", agent.machine_id),
        "SyncClientContentEncoding=none".to_owned(),
    ];
    sets.extend(guard.map(|percent| format!("GuardRemovedPercent={percent}")));
    let sources = Sources { sets, ..Sources::default() };
    Config::load(&sources).expect("a configuration").config
}

/// A row of ours as a release can hold it; `None` if it cannot.
pub(crate) fn as_known(age: Age, mut row: Row) -> Option<Row> {
    match row.state {
        9 if !age.knows(wire::Policy::Cel) => return None,
        12 | 13 if !age.knows(wire::Policy::SilentGuiBlocklist) => row.state = 3,
        _ => {}
    }
    Some(row)
}

/// Settings as Santa would show them.
fn shown(settings: &Settings, age: Age) -> BTreeMap<&'static str, String> {
    let media = |policy: &MediaPolicy| match policy {
        MediaPolicy::Allow => "Allow".to_owned(),
        MediaPolicy::Block => "Block".to_owned(),
        MediaPolicy::Remount(flags) => format!("Remount {}", flags.join(",")),
    };
    let encrypted = settings.encrypted_removable_media.as_ref();
    let action = settings.override_file_access_action.map(|action| action.name().to_owned());
    [
        ("client_mode", settings.client_mode.map(|mode| mode.name().to_owned())),
        ("enable_bundles", settings.enable_bundles.map(|on| on.to_string())),
        ("enable_transitive_rules", settings.enable_transitive_rules.map(|on| on.to_string())),
        ("enable_all_event_upload", settings.enable_all_event_upload.map(|on| on.to_string())),
        (
            "disable_unknown_event_upload",
            settings.disable_unknown_event_upload.map(|on| on.to_string()),
        ),
        ("allowed_path_regex", settings.allowed_path_regex.clone()),
        ("blocked_path_regex", settings.blocked_path_regex.clone()),
        ("media", settings.removable_media.as_ref().map(media)),
        ("encrypted_media", encrypted.filter(|_| age.knows_media_policies()).map(media)),
        ("override_file_access_action", action.filter(|action| action != "AUDIT_ONLY")),
        ("event_detail_url", settings.event_detail_url.clone()),
        ("event_detail_text", settings.event_detail_text.clone()),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
    .collect()
}
