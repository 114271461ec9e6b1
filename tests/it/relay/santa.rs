//! Santa as a sync server sees it: its sync client, and the stores of its daemon,
//! by release. What it does is what `reference/relay.md` says of the real one; where
//! that leaves something open, the assumption is named where it is made.

mod age;
mod events;
mod rules;
mod settings;
mod sync;
mod upload;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rustls::ClientConfig;
use santa_sync::harness::fixtures::AnyEvent;
use santa_sync::model::{ClientMode, ContentEncoding, SyncType, Transfer};
use santa_sync::protocol::wire;

use super::link::Direct;
pub(crate) use age::Age;
pub(crate) use events::unique_id;
use events::{BackOffs, EventTable};
pub(crate) use rules::{BINARY, LOCAL_BINARY, Row, RuleTable, TRANSITIVE, UNCOMPILABLE, row};
use settings::SyncState;
pub(crate) use sync::{Act, Status, Step, Synced};
pub(crate) use upload::BundleOutcome;

/// How fast its clock runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// How long an attempt may take to its last byte.
    pub(crate) attempt: Duration,
    /// What a second of waiting between attempts takes.
    pub(crate) second: Duration,
}

impl Pace {
    /// Waits pass a thousand times as fast; attempts have their 30 s, so that a busy
    /// machine is no fault.
    pub(crate) const FAST: Self =
        Self { attempt: Duration::from_secs(30), second: Duration::from_millis(1) };
}

/// The configuration profile of the host, and the host itself.
#[derive(Clone)]
pub(crate) struct Profile {
    pub(crate) age: Age,
    /// `SyncBaseURL`.
    pub(crate) base_url: String,
    pub(crate) machine_id: String,
    /// `SyncEnableProtoTransfer`.
    pub(crate) transfer: Transfer,
    /// `SyncClientContentEncoding`.
    pub(crate) encoding: ContentEncoding,
    /// `ClientMode`, which a server's has precedence over.
    pub(crate) client_mode: ClientMode,
    /// `SyncEnableCleanSyncEventUpload`.
    pub(crate) clean_sync_event_upload: bool,
    /// `StaticRules`, which only count.
    pub(crate) static_rules: Vec<Row>,
    /// `SyncExtraHeaders`.
    pub(crate) headers: Vec<(String, String)>,
    /// `ServerAuthRootsFile` and the client certificate.
    pub(crate) tls: Option<Arc<ClientConfig>>,
    /// In place of what `base_url` names.
    pub(crate) direct: Option<Arc<dyn Direct>>,
    /// `MachineOwner`.
    pub(crate) owner: String,
    pub(crate) sip_status: u32,
    pub(crate) pace: Pace,
}

/// What survives that the sync service is killed: the stores of the daemon.
struct Disk {
    rules: RuleTable,
    state: SyncState,
    events: EventTable,
}

/// What the sync service has in memory.
#[derive(Default)]
struct Service {
    /// Of the last preflight.
    batch_size: Option<u32>,
}

/// A Mac with Santa.
pub(crate) struct Santa {
    pub(crate) profile: Profile,
    disk: Mutex<Disk>,
    service: Mutex<Service>,
    back_offs: Mutex<BackOffs>,
}

impl Santa {
    /// A new installation that syncs with this server.
    pub(crate) fn new(age: Age, base_url: &str) -> Self {
        let profile = Profile {
            age,
            base_url: base_url.to_owned(),
            machine_id: "test-host".to_owned(),
            transfer: Transfer::Json,
            encoding: ContentEncoding::Deflate,
            client_mode: ClientMode::Monitor,
            clean_sync_event_upload: false,
            static_rules: Vec::new(),
            headers: Vec::new(),
            tls: None,
            direct: None,
            owner: "jdoe".to_owned(),
            sip_status: 0x6f,
            pace: Pace::FAST,
        };
        let state = SyncState { required: Some(SyncType::CleanAll), ..SyncState::default() };
        Self {
            profile,
            disk: Mutex::new(Disk {
                rules: RuleTable::default(),
                state,
                events: EventTable::new(1),
            }),
            service: Mutex::default(),
            back_offs: Mutex::default(),
        }
    }

    /// The same with another profile.
    pub(crate) fn with(mut self, change: impl FnOnce(&mut Profile)) -> Self {
        change(&mut self.profile);
        self
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().expect("unpoisoned")
    }

    /// The sync service is killed.
    pub(crate) fn kill_service(&self) {
        *self.service.lock().expect("unpoisoned") = Service::default();
    }

    /// The machine starts anew.
    pub(crate) fn restart(&self) {
        self.kill_service();
        *self.back_offs.lock().expect("unpoisoned") = BackOffs::default();
        self.disk().state.reload();
    }

    /// Four hours pass.
    pub(crate) fn forget_back_offs(&self) {
        *self.back_offs.lock().expect("unpoisoned") = BackOffs::default();
    }

    /// `santactl sync --clean` or `--clean-all`, before the sync itself.
    pub(crate) fn require(&self, sync_type: SyncType) {
        self.disk().state.required = Some(sync_type);
    }

    /// Its database of rules is gone, and made anew.
    pub(crate) fn lose_rules(&self) {
        let mut disk = self.disk();
        disk.rules = RuleTable::default();
        disk.state.required = Some(SyncType::CleanAll);
    }

    /// The file of the sync state is gone.
    pub(crate) fn lose_state(&self) {
        self.disk().state = SyncState::default();
    }

    /// It comes from a server of sync v2, whose tokens it holds.
    pub(crate) fn hold_tokens(&self) {
        self.disk().state.token_chain = true;
    }

    /// Every rule in stored order.
    pub(crate) fn rows(&self) -> Vec<Row> {
        self.disk().rules.rows()
    }

    /// The rules that came from a server, in stored order.
    pub(crate) fn server_rows(&self) -> Vec<Row> {
        self.disk().rules.server_rows()
    }

    pub(crate) fn rules_hash(&self) -> String {
        self.disk().rules.hash()
    }

    /// Changes the rules behind every server's back.
    pub(crate) fn drift(&self, change: impl FnOnce(&mut RuleTable)) {
        change(&mut self.disk().rules);
    }

    /// A compiler wrote that file, unless a rule names it already.
    pub(crate) fn add_transitive(&self, sha256: &str) {
        let mut disk = self.disk();
        if !disk.rules.holds(sha256, BINARY) {
            disk.rules.put(local(sha256, TRANSITIVE, BINARY));
        }
    }

    /// The user lets that file run, in standalone mode.
    pub(crate) fn add_of_user(&self, sha256: &str) {
        self.disk().rules.put(local(sha256, LOCAL_BINARY, BINARY));
    }

    /// What servers have set, as stored.
    pub(crate) fn settings(&self) -> BTreeMap<&'static str, String> {
        self.disk().state.given.shown()
    }

    /// The mode in force.
    pub(crate) fn client_mode(&self) -> ClientMode {
        self.disk().state.given.client_mode.unwrap_or(self.profile.client_mode)
    }

    /// The clean sync its next preflight asks for; NORMAL if none.
    pub(crate) fn required(&self) -> SyncType {
        self.disk().state.required()
    }

    /// Seconds from one sync to the next.
    pub(crate) fn interval(&self) -> u32 {
        self.disk().state.given.full_sync_interval.unwrap_or(600)
    }

    /// The events that wait, in the order they would be sent.
    pub(crate) fn pending(&self) -> Vec<AnyEvent> {
        self.disk().events.pending().into_iter().map(|(_, event)| event).collect()
    }

    /// Whether it speaks v2 to any server.
    pub(crate) fn speaks_v2(&self) -> bool {
        self.disk().state.token_chain
    }

    /// The preflight it would send.
    pub(crate) fn preflight(&self) -> wire::PreflightRequest {
        let profile = &self.profile;
        let disk = self.disk();
        let mut counts = disk.rules.counts();
        profile.static_rules.iter().for_each(|row| counts.add(row));
        wire::PreflightRequest {
            serial_number: "C02TEST00001".to_owned(),
            hostname: "mac.example.com".to_owned(),
            os_version: "15.5".to_owned(),
            os_build: "24F74".to_owned(),
            model_identifier: "Mac15,3".to_owned(),
            santa_version: profile.age.version().to_owned(),
            primary_user: profile.owner.clone(),
            client_mode: disk.state.given.client_mode.unwrap_or(profile.client_mode).number(),
            request_clean_sync: disk.state.required() != SyncType::Normal,
            binary_rule_count: counts.binary,
            certificate_rule_count: counts.certificate,
            compiler_rule_count: counts.compiler,
            transitive_rule_count: counts.transitive,
            teamid_rule_count: counts.team_id,
            signingid_rule_count: counts.signing_id,
            cdhash_rule_count: counts.cdhash,
            machine_id: profile.machine_id.clone(),
            sip_status: if profile.age.reports_sip() { profile.sip_status } else { 0 },
            rules_hash: if profile.age.reports_hash() { disk.rules.hash() } else { String::new() },
            ..wire::PreflightRequest::default()
        }
    }
}

/// A row that the host made itself.
fn local(identifier: &str, state: i32, rule_type: i32) -> Row {
    Row { identifier: identifier.to_owned(), state, rule_type, ..Row::default() }
}
