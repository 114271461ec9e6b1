//! Syncs that go wrong in ways a sync cannot report itself, and a network that
//! comes back.

use std::os::unix::net::UnixDatagram;

use santa_sync::sync::progress::SyncStep;

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
    assert_eq!(beat["back_off"], 600, "{beat}");
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
    client.ask(&ControlRequest::Subscribe).unwrap();
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

/// DAEMON-6: the daemon is killed while its sync hangs: the sync ends all the same,
/// and does not keep the state directory.
#[test]
fn daemon_6_a_sync_that_hangs_does_not_outlive_its_daemon() {
    let server = FakeServer::builder().start().unwrap();
    let agent = Agent::of(&server);
    let mut daemon = Daemon::start(&agent, 1, &["--misbehave", "1:hang:after:stage_settings"]);
    daemon.signal(Signal::USR1);
    daemon.says("hangs, as a test asked");
    drop(daemon);
    // Waits for the lock of the state directory.
    assert_eq!(agent.sync(&[]).result(), "success");
    let history = agent.store().history(2).unwrap();
    assert_eq!(history[1].error.as_ref().unwrap().kind, "interrupted");
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
    client.ask(&ControlRequest::Subscribe).unwrap();
    assert_eq!(client.answer().unwrap(), ControlResponse::Subscribed);
    let mut asker = super::client(&agent);
    asker.ask(&ControlRequest::Sync(SyncRequest::default())).unwrap();
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

/// DAEMON-6: the state directory is removed under the daemon: it says so, makes
/// it anew with the next sync, and can be asked there.
#[test]
fn daemon_6_a_state_directory_that_is_removed_is_made_anew() {
    let server = FakeServer::builder().rules(fixtures::rules(5, 1)).start().unwrap();
    let agent = Agent::of(&server);
    let mut daemon = Daemon::start(&agent, 1, &[]);
    assert_eq!(sync(&agent).result, SyncResult::Success);
    std::fs::remove_dir_all(&agent.state_dir).unwrap();
    daemon.signal(Signal::USR1);
    daemon.says("was removed or replaced");
    daemon.says("has been created again");
    assert!(server.wait_for(Stage::Postflight, 2, PATIENCE));
    assert_eq!(sync(&agent).result, SyncResult::Success);
    assert_eq!((agent.rules(), status(&agent)["daemon"]["liveness"].clone()), (5, "alive".into()));
    assert_eq!(agent.run(&["daemon"]).status.code(), Some(73), "its place is taken");

    // What cannot be made anew costs syncs, and nothing else.
    std::fs::remove_dir_all(&agent.state_dir).unwrap();
    std::fs::write(&agent.state_dir, "in the way").unwrap();
    daemon.signal(Signal::USR1);
    daemon.says("the state directory cannot be used");
    std::fs::remove_file(&agent.state_dir).unwrap();
    daemon.signal(Signal::USR1);
    daemon.says("has been created again");
    assert!(server.wait_for(Stage::Postflight, 4, PATIENCE));
    assert_eq!(sync(&agent).result, SyncResult::Success);
    assert_eq!(daemon.stop(Signal::TERM).0, Some(0));
}

/// DAEMON-6: a disk that takes nothing more costs syncs; the daemon runs on, and
/// syncs again once there is room.
#[test]
#[cfg(target_os = "linux")]
fn daemon_6_a_full_disk_does_not_end_the_daemon() {
    use rustix::process::{Resource, Rlimit, prlimit};
    let server = FakeServer::builder().rules(fixtures::rules(5, 1)).start().unwrap();
    let agent = Agent::of(&server);
    // A process that may write no byte to a file stands for a full disk; with
    // the signal ignored it is told so by an error.
    let url = format!("SyncBaseURL={}", agent.base_url);
    let command = Daemon::command(&agent, 1, &["--set", &url]);
    let mut daemon = Daemon::of(&mut signals::ignoring(&command, "XFSZ"));
    assert_eq!(sync(&agent).result, SyncResult::Success);
    let pid = Pid::from_raw(daemon.pid().cast_signed());
    let all = prlimit(pid, Resource::Fsize, Rlimit { current: Some(0), maximum: None }).unwrap();
    let record = sync(&agent);
    assert_ne!(record.result, SyncResult::Success, "{record:?}");
    daemon.says("cannot write a file");
    assert!(matches!(ask(&agent, &ControlRequest::Status), ControlResponse::Status(_)));
    prlimit(pid, Resource::Fsize, all).unwrap();
    assert_eq!(sync(&agent).result, SyncResult::Success);
    assert_eq!(agent.rules(), 5);
    assert_eq!(daemon.stop(Signal::TERM).0, Some(0));
}

/// SYNC-2: the daemon is told to stop while its sync waits to repeat a request:
/// the record has both, the stop and what the server had answered.
#[test]
fn sync_2_a_stop_of_the_daemon_keeps_the_cause() {
    let server = FakeServer::builder()
        .fault(Stage::RuleDownload, santa_sync::harness::every(), Fault::status(503))
        .start()
        .unwrap();
    let agent = Agent::of(&server);
    let daemon = Daemon::start(&agent, 1, &[]);
    let mut client = client(&agent);
    client.ask(&ControlRequest::Sync(SyncRequest::default())).unwrap();
    loop {
        let answer = client.answer().unwrap();
        if matches!(answer, ControlResponse::Progress(SyncStep::Retry { .. })) {
            break;
        }
    }
    let (code, took) = daemon.stop(Signal::TERM);
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_secs(5), "{took:?}");
    let record = &agent.store().history(1).unwrap()[0];
    let error = record.error.as_ref().unwrap();
    let cause = error.cause.as_ref().expect("a cause");
    assert_eq!((error.kind.as_str(), cause.http_status), ("cancelled", Some(503)), "{error:?}");
    for command in ["status", "history"] {
        let shown = agent.run(&[command]);
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        assert!(shown.contains("503"), "{command}: {shown}");
    }
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
    let ControlResponse::Status(beat) = ask(&agent, &ControlRequest::Status) else {
        panic!("no status")
    };
    assert!(!listens || beat.syncs > 0, "nobody listens before the first sync");
    for _ in 0..5 {
        assert_eq!(sync(&agent).result, SyncResult::PreflightFailed);
    }
    assert_eq!(status(&agent)["daemon"]["next_sync_why"], "back_off");
    server.clear_faults();
    let mut client = client(&agent);
    client.ask(&ControlRequest::Subscribe).unwrap();
    assert_eq!(client.answer().unwrap(), ControlResponse::Subscribed);
    // Of an interface, as macOS tells it.
    UnixDatagram::unbound().unwrap().send_to(&[4, 0, 5, 0xe], &network).unwrap();
    let record = synced(&mut client);
    assert_eq!((record.trigger, record.result), (Trigger::Trigger, SyncResult::Success));
    let beat = status(&agent)["daemon"].clone();
    assert_eq!((&beat["back_off"], &beat["next_sync_why"]), (&Value::Null, &"interval".into()));
}
