//! The driver as a library, where a process would be too coarse.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use santa_sync::clock::{Clock, Sleep, SystemClock};
use santa_sync::config::{Config, Sources};
use santa_sync::harness::fixtures::{self, AnyEvent};
use santa_sync::harness::{FakeServer, Fault, every, nth};
use santa_sync::model::{
    AuthorizerState, HostFacts, Identifier, MachineId, Now, Policy, Rule, RuleDetails, RuleSet,
    RuleType, Stage, SyncRecord, SyncResult, SyncType, Timestamp, Trigger,
};
use santa_sync::protocol::stored::{self, QueuedEvent};
use santa_sync::store::{EventStore, Limits, NewEvent, Queued, Store};
use santa_sync::sync::progress::{Observer, SyncProgress, Unobserved, When};
use santa_sync::sync::run::{self, SyncHost, SyncOptions};
use santa_sync::sync::upload::{self, UploadResult};
use tokio::sync::watch;

const NOW: Timestamp = Timestamp::from_secs(1_755_000_000);

struct Bench {
    dir: tempfile::TempDir,
    config: Config,
}

impl Bench {
    fn of(server: &FakeServer, sets: &[&str]) -> Self {
        let mut all = vec![format!("SyncBaseURL={}", server.url())];
        all.extend(sets.iter().map(|set| (*set).to_owned()));
        let sources = Sources { sets: all, file: None, system: Vec::new() };
        let config = Arc::unwrap_or_clone(Config::load(&sources).expect("a configuration").config);
        Self { dir: tempfile::tempdir().expect("a directory"), config }
    }

    fn sync(&self, observer: &mut dyn Observer) -> SyncRecord {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let host = SyncHost {
            config: &self.config,
            state_dir: &self.dir.path().join("state"),
            machine_id: MachineId::new("driver-test").expect("an id"),
            facts: HostFacts::default(),
            authorizer: AuthorizerState::NotServed,
        };
        let wanted = SyncOptions { wait: false, ..SyncOptions::of(Trigger::Timer) };
        let (_tell, stop) = watch::channel(None);
        let clock = SystemClock::with_rate(10_000);
        runtime.block_on(run::run_sync(&host, wanted, &clock, observer, stop)).expect("a record")
    }
}

/// SYNC-6: a server that never answers costs the sync its deadline and no more.
#[test]
fn sync_6_the_deadline_ends_a_sync_in_the_middle_of_a_request() {
    let server = FakeServer::builder().rules(fixtures::rules(5, 1)).start().expect("a server");
    server.fault(Stage::RuleDownload, every(), Fault::Stall);
    let mut bench = Bench::of(&server, &[]);
    bench.config.sync_deadline = Duration::from_secs(2);
    let record = bench.sync(&mut Unobserved);
    assert_eq!(record.result, SyncResult::RuleDownloadFailed);
    let error = record.error.expect("an error");
    assert_eq!(error.kind, "deadline");
    assert!((2_000..20_000).contains(&record.duration_ms), "{} ms", record.duration_ms);
    assert_eq!(record.settings_reverted.len(), 2, "{:?}", record.settings_reverted);
}

/// SYNC-6: what a server sends does not hold the deadline up: here a page whose
/// expressions take far longer to check.
#[test]
fn sync_6_a_page_of_costly_rules_does_not_hold_the_deadline_up() {
    let server = FakeServer::builder().start().expect("a server");
    let rule = |n: usize| {
        let terms: Vec<_> = (0..200).map(|term| format!("path == \"/{n}/{term}\"")).collect();
        serde_json::json!({"identifier": "ABCDE12345", "rule_type": "TEAMID", "policy": "CEL",
                           "cel_expr": terms.join(" || ")})
    };
    let page = serde_json::json!({"rules": (0..5_000).map(rule).collect::<Vec<_>>()});
    server.fault(Stage::RuleDownload, every(), Fault::WrongShape(page));
    let mut bench = Bench::of(&server, &[]);
    // It is spent on the way to the rules already.
    bench.config.sync_deadline = Duration::from_secs(1);
    let record = bench.sync(&mut Unobserved);
    assert_eq!(record.error.expect("an error").kind, "deadline");
    assert!(record.duration_ms < 6_000, "{} ms", record.duration_ms);
}

/// SYNC-6, RULE-7: a sync past its deadline does not go on to make `rules.db`
/// small; the next one does.
#[test]
fn sync_6_a_file_is_not_made_small_past_the_deadline() {
    let server = FakeServer::builder().rules(fixtures::rules(5, 1)).start().expect("a server");
    let mut bench = Bench::of(&server, &[]);
    let dir = bench.dir.path().join("state");
    let (mut store, _) = Store::open(&dir, NOW).expect("a store");
    for rules in [4_000, 1_500] {
        store.commit_rules(&with_long_comments(rules), (SyncType::Clean, NOW)).expect("committed");
    }
    drop(store);
    let size = || std::fs::metadata(dir.join("rules.db")).expect("a file").len();
    let full = size();
    server.fault(Stage::RuleDownload, nth(1), Fault::Stall);
    bench.config.sync_deadline = Duration::from_millis(500);
    assert_eq!(bench.sync(&mut Unobserved).error.expect("an error").kind, "deadline");
    assert_eq!(size(), full);
    bench.config.sync_deadline = Duration::from_hours(1);
    assert_eq!(bench.sync(&mut Unobserved).result, SyncResult::Success);
    assert!(size() < full / 2);
}

/// That many rules with a text of 4 KiB each.
fn with_long_comments(rules: usize) -> RuleSet {
    let rule = |n: usize| Rule {
        identifier: Identifier::parse(RuleType::SigningId, &format!("platform:{n}")).expect("one"),
        policy: Policy::Blocklist,
        details: Some(Box::new(RuleDetails {
            comment: format!("{n:04096}"),
            ..RuleDetails::default()
        })),
    };
    let mut set = RuleSet::default();
    set.push_page((0..rules).map(rule).collect::<Vec<_>>(), Vec::new());
    set
}

/// SYNC-3: the order in which a sync touches the stores, and that no request
/// is under way meanwhile (RULE-1).
#[test]
fn sync_3_settings_are_applied_after_rules_and_postflight() {
    #[derive(Default)]
    struct Order(Vec<&'static str>);
    impl Observer for Order {
        fn progress(&mut self, _: &SyncProgress<'_>) {}

        fn checkpoint(&mut self, when: When, effect: &'static str) {
            if when == When::After {
                self.0.push(effect);
            }
        }
    }
    let server = FakeServer::builder().rules(fixtures::rules(5, 1)).start().expect("a server");
    let bench = Bench::of(&server, &[]);
    let mut order = Order::default();
    bench.sync(&mut order);
    assert_eq!(
        order.0,
        ["send", "stage_settings", "read_events", "send", "commit_rules", "send", "apply_settings"]
    );
}

/// EV-1, EV-2: batches that are made ready while the server works are the ones
/// that would have been read later, whatever attempts fail on the way.
#[test]
fn ev_2_a_batch_made_ready_early_is_the_one_whose_turn_it_is() {
    let server = FakeServer::builder().batch_size(20).start().expect("a server");
    for attempt in [2, 5] {
        server.fault(Stage::EventUpload, nth(attempt), Fault::status(503));
    }
    let bench = Bench::of(&server, &[]);
    let sent: Vec<_> = fixtures::events(90, 3).collect();
    queue(&bench.dir.path().join("state"), &sent);
    let record = bench.sync(&mut Unobserved);
    assert_eq!((record.result, record.events_uploaded), (SyncResult::Success, 90));
    // Five batches, two of them twice.
    assert_eq!(server.count(Stage::EventUpload), 7);
    // A message has its executions before its file accesses.
    let batches = sent.chunks(20).flat_map(|batch| {
        let execution = |event: &&AnyEvent| matches!(event, AnyEvent::Execution(_));
        let (first, then): (Vec<_>, Vec<_>) = batch.iter().partition(execution);
        first.into_iter().chain(then).cloned().collect::<Vec<_>>()
    });
    assert_eq!(server.events(), batches.collect::<Vec<_>>());

    // The next sync fails for good with a batch lying ready.
    queue(&bench.dir.path().join("state"), &fixtures::events(40, 4).collect::<Vec<_>>());
    server.fault(Stage::EventUpload, nth(8), Fault::status(404));
    let record = bench.sync(&mut Unobserved);
    assert_eq!((record.result, record.events_pending), (SyncResult::EventUploadFailed, 40));
}

/// Queues events as if a rule asked for a record of each.
fn queue(state: &Path, events: &[AnyEvent]) {
    let now = Timestamp::from_secs(1_755_000_000);
    let (mut store, _) = EventStore::open(state, now).expect("a queue");
    let events: Vec<_> = events
        .iter()
        .cloned()
        .map(QueuedEvent::from)
        .map(|event| NewEvent {
            summary: stored::summarize(&event, true).expect("a whole event"),
            data: stored::encode(&event),
        })
        .collect();
    let now = Now { wall: now, elapsed: Duration::ZERO };
    let answers = store.queue_events(&events, now, Limits::default()).expect("queued");
    assert!(answers.iter().all(|answer| *answer == Queued::Added), "{answers:?}");
}

/// RULE-10: rules that users wait for are announced to the hook, once their
/// NORMAL sync has committed them.
#[test]
fn rule_10_the_hook_hears_of_rules_that_users_wait_for() {
    use santa_sync::protocol::wire;
    use std::os::unix::fs::PermissionsExt as _;
    let server = FakeServer::builder().start().expect("a server");
    let scratch = tempfile::tempdir().expect("a directory");
    let (hook, heard) = (scratch.path().join("hook"), scratch.path().join("heard"));
    let script = format!("#!/bin/sh\necho \"$1|$2\" >> '{}'\n", heard.display());
    std::fs::write(&hook, script).expect("a script");
    std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).expect("a mode");
    let bench = Bench::of(&server, &[&format!("NotificationHook={}", hook.display())]);
    let rule = |team: &str, app: &str| wire::Rule {
        identifier: team.to_owned(),
        policy: wire::Policy::Allowlist.into(),
        rule_type: wire::RuleType::Teamid.into(),
        notification_app_name: app.to_owned(),
        ..Default::default()
    };
    server.set_rules([rule("AAAAAAAAAA", "First; $(App)")]);
    bench.sync(&mut Unobserved);
    assert!(!heard.exists(), "a clean sync announces nothing");
    server.queue_changes(vec![rule("BBBBBBBBBB", "Second; $(App)"), rule("CCCCCCCCCC", "")]);
    bench.sync(&mut Unobserved);
    let heard = std::fs::read_to_string(heard).expect("the hook has run");
    assert_eq!(heard, "Second; $(App)|BBBBBBBBBB\n");
}

/// SYNC-7: a transport that cannot even be made leaves a record like any other
/// failure.
#[test]
fn sync_7_a_client_certificate_that_cannot_be_read_fails_preflight() {
    let server = FakeServer::builder().start().expect("a server");
    let bench = Bench::of(&server, &["ClientAuthCertificateFile=/no/such/file.p12"]);
    let record = bench.sync(&mut Unobserved);
    assert_eq!(record.result, SyncResult::PreflightFailed);
    assert_eq!(record.error.expect("an error").kind, "client_certificate_unreadable");
    assert_eq!(server.count(Stage::Preflight), 0);
    let store = Store::open_read_only(&bench.dir.path().join("state")).expect("a store");
    assert_eq!(store.history(10).expect("read").len(), 1);
}

/// A clock that moves on by 6 s whenever it is read.
#[derive(Default)]
struct Hasty(std::sync::atomic::AtomicU64);

impl Clock for Hasty {
    fn now(&self) -> Now {
        let seconds = self.0.fetch_add(6, std::sync::atomic::Ordering::Relaxed);
        Now { wall: NOW, elapsed: Duration::from_secs(seconds) }
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        SystemClock::with_rate(10_000).sleep(duration)
    }
}

/// EV-10: an upload begins no batch in the second half of its time, which the
/// limit could cut off; it is no failure, and the rest stays queued.
#[test]
fn ev_10_an_upload_begins_no_batch_that_its_limit_may_cut_off() {
    let server = FakeServer::builder().batch_size(1).start().expect("a server");
    let bench = Bench::of(&server, &[]);
    assert_eq!(bench.sync(&mut Unobserved).result, SyncResult::Success);
    queue(&bench.dir.path().join("state"), &fixtures::events(5, 3).collect::<Vec<_>>());
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let host = SyncHost {
        config: &bench.config,
        state_dir: &bench.dir.path().join("state"),
        machine_id: MachineId::new("driver-test").expect("an id"),
        facts: HostFacts::default(),
        authorizer: AuthorizerState::NotServed,
    };
    let (_tell, stop) = watch::channel(None);
    let report = runtime.block_on(upload::run(&host, &Hasty::default(), stop));
    // Read when it begins, before each batch, and for each attempt.
    assert_eq!((report.result, report.events, report.error), (UploadResult::Uploaded, 1, None));
}
