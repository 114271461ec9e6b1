//! Syncs that go wrong in ways a sync cannot report itself, and a network that
//! comes back.

use std::os::unix::net::UnixDatagram;

use super::*;

/// DAEMON-6: a sync that panics costs one sync; the next one runs on time.
#[test]
fn daemon_6_a_sync_that_panics_does_not_stop_the_next() {
    let server = FakeServer::builder().start().unwrap();
    let agent = Agent::of(&server);
    let _daemon = Daemon::start(&agent, 1, &["--misbehave", "1:panic:after:stage_settings"]);
    let record = sync(&agent);
    assert_eq!(record.result, SyncResult::InternalError);
    let message = record.error.unwrap().message;
    assert!(message.contains("panicked") && message.contains("stage_settings"), "{message}");
    let beat = status(&agent)["daemon"].clone();
    assert_eq!(beat["back_off"], 60, "{beat}");
    assert!(beat["last_panic"]["message"].as_str().unwrap().contains("panicked"), "{beat}");
    assert_eq!(sync(&agent).result, SyncResult::Success);
    let history = agent.store().history(2).unwrap();
    assert_eq!(history[1].error.as_ref().unwrap().kind, "interrupted");
}

/// DAEMON-6: a sync that hangs, deaf to every signal but one, is killed after
/// its deadline; the next one runs after the back-off.
#[test]
fn daemon_6_a_sync_that_hangs_is_killed_and_the_next_runs_on_time() {
    let server = FakeServer::builder().start().unwrap();
    let agent = Agent::of(&server);
    let args = ["--misbehave", "1:hang:after:stage_settings", "--set", "SyncDeadline=60"];
    let _daemon = Daemon::start(&agent, 30, &args);
    let mut client = client(&agent);
    client.ask(&Request::Subscribe).unwrap();
    let record = synced(&mut client);
    assert_eq!(record.result, SyncResult::InternalError);
    let message = record.error.unwrap().message;
    assert!(message.contains("had not ended after 90 s and was killed"), "{message}");
    let record = synced(&mut client);
    assert_eq!((record.result, record.trigger), (SyncResult::Success, Trigger::Timer));
    let beat = status(&agent)["daemon"].clone();
    assert!(beat["last_hang"]["message"].as_str().unwrap().contains("was killed"), "{beat}");
}

/// DAEMON-6: the daemon is killed, and its sync ends with it in good order.
#[test]
fn daemon_6_a_sync_does_not_outlive_its_daemon() {
    let server =
        FakeServer::builder().fault(Stage::RuleDownload, nth(1), Fault::Hold).start().unwrap();
    let agent = Agent::of(&server);
    let daemon = Daemon::start(&agent, 1, &[]);
    daemon.signal(Signal::USR1);
    assert!(server.wait_for(Stage::RuleDownload, 1, PATIENCE));
    drop(daemon);
    // Waits for the lock of the state directory, which the sync gives up.
    assert_eq!(agent.sync(&[]).result(), "success");
    let history = agent.store().history(2).unwrap();
    assert_eq!(history[1].error.as_ref().unwrap().kind, "cancelled");
}

/// DAEMON-6: a daemon's sync that waits for one of another process says so, and
/// begins when that has ended.
#[test]
fn daemon_6_a_sync_that_waits_in_line_is_waiting() {
    let server = FakeServer::builder().start().unwrap();
    let agent = Agent::of(&server);
    let _daemon = Daemon::start(&agent, 1, &[]);
    server.fault(Stage::RuleDownload, nth(1), Fault::Hold);
    let own = agent.spawn(&["sync", "--json"]);
    assert!(server.wait_for(Stage::RuleDownload, 1, PATIENCE));
    let mut client = client(&agent);
    client.ask(&Request::Subscribe).unwrap();
    assert_eq!(client.answer().unwrap(), Answer::Subscribed);
    let mut asker = super::client(&agent);
    asker.ask(&Request::Sync(Sync::default())).unwrap();
    let waiting = loop {
        let beat = status(&agent)["daemon"].clone();
        if beat["doing"] == "waiting" {
            break beat;
        }
        assert!(beat["last_sync"].is_null(), "{beat}");
    };
    assert_eq!((&waiting["liveness"], &waiting["sync_limit"]), (&"alive".into(), &90_000.into()));
    assert!(waiting["boot"]["sync_began"]["elapsed_ms"].is_u64(), "{waiting}");
    server.release();
    assert_eq!(synced(&mut asker).result, SyncResult::Success);
    let own = crate::agent::synced(&own.wait_with_output().unwrap());
    assert_eq!(own.result(), "success", "{own:?}");
}

/// DAEMON-2: a network that changes during a long back-off is tried at once,
/// and `status` says why.
#[test]
fn daemon_2_a_network_that_comes_back_is_tried_before_the_back_off_ends() {
    let server = FakeServer::builder()
        .fault(Stage::Preflight, santa_sync::harness::every(), Fault::status(404))
        .start()
        .unwrap();
    let agent = Agent::of(&server);
    let network = agent.state_dir.with_file_name("network");
    // 5 to 10 s are half a second or one; ten minutes of back-off are one.
    let args = ["--network", network.to_str().unwrap()];
    let _daemon = Daemon::start(&agent, 10, &args);
    let listens = network.exists();
    let Answer::Status(beat) = ask(&agent, &Request::Status) else { panic!("no status") };
    assert!(!listens || beat.syncs > 0, "nobody listens before the first sync");
    for _ in 0..5 {
        assert_eq!(sync(&agent).result, SyncResult::PreflightFailed);
    }
    assert_eq!(status(&agent)["daemon"]["next_sync_why"], "back_off");
    server.clear_faults();
    let mut client = client(&agent);
    client.ask(&Request::Subscribe).unwrap();
    assert_eq!(client.answer().unwrap(), Answer::Subscribed);
    // Of an interface, as macOS tells it.
    UnixDatagram::unbound().unwrap().send_to(&[4, 0, 5, 0xe], &network).unwrap();
    let record = synced(&mut client);
    assert_eq!((record.trigger, record.result), (Trigger::Trigger, SyncResult::Success));
    let beat = status(&agent)["daemon"].clone();
    assert_eq!((&beat["back_off"], &beat["next_sync_why"]), (&Value::Null, &"interval".into()));
}
