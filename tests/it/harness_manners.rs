//! Manners of real servers, and certificates, met by a whole agent.

use santa_sync::harness::{FakeServer, Fault, Misbehaviour, Preset, fixtures, nth};
use santa_sync::model::Stage;

use crate::agent::Agent;

fn server(preset: Preset, rules: usize) -> FakeServer {
    let rules = fixtures::rules(rules, 1);
    FakeServer::builder().preset(preset).rules(rules).page_size(5).start().expect("a server")
}

#[test]
fn a_server_of_protobuf_in_gzip_refuses_everything_else() {
    let server = server(Preset::ProtobufGzip, 12);
    let agent = Agent::of(&server);
    assert_eq!(agent.sync(&[]).code, Some(1));
    assert_eq!(server.requests(Stage::Preflight)[0].status, Some(415));
    let form = ["--set", "SyncEnableProtoTransfer=true", "--set", "SyncClientContentEncoding=gzip"];
    assert_eq!(agent.sync(&form).code, Some(0));
    assert_eq!(agent.rules(), 12);
}

#[test]
fn a_cookie_of_preflight_is_required_later() {
    let server = server(Preset::Cookie, 12);
    let agent = Agent::of(&server);
    assert_eq!(agent.sync(&[]).code, Some(0));
    let page = server.requests(Stage::RuleDownload).pop().expect("a page");
    assert!(page.headers["cookie"].starts_with("session="), "{page:?}");
}

/// HTTP-8: the agent ends a download that the server never does.
#[test]
fn a_numeric_cursor_that_repeats_ends_the_download() {
    let server = server(Preset::NumericCursor, 12);
    let synced = Agent::of(&server).sync(&[]);
    assert_eq!((synced.code, synced.result()), (Some(3), "rule_download_failed"));
    assert_eq!(server.count(Stage::RuleDownload), 3, "the third page repeats the cursor");
    let pages = server.requests(Stage::RuleDownload);
    assert_eq!(pages[1].body["cursor"], "5");
}

#[test]
fn an_always_clean_server_sends_everything_each_time() {
    let server = server(Preset::AlwaysClean, 12);
    let agent = Agent::of(&server);
    for _ in 0..2 {
        let synced = agent.sync(&[]);
        assert!(synced.json["sync_type"].as_str().is_some_and(|t| t.starts_with("CLEAN")));
        assert_eq!(synced.json["rules_received"], 12);
    }
}

#[test]
fn an_empty_clean_set_is_one_remove() {
    let server = server(Preset::RemoveFromEmpty, 0);
    let synced = Agent::of(&server).sync(&[]);
    assert_eq!((synced.code, &synced.json["rules_received"]), (Some(0), &1.into()));
}

#[test]
fn a_session_kept_in_memory_is_lost_in_a_restart_until_the_next_preflight() {
    let server = server(Preset::MemorySession, 12);
    server.fault(Stage::Preflight, nth(1), Fault::Hold);
    let agent = Agent::of(&server);
    let synced = std::thread::scope(|scope| {
        let syncing = scope.spawn(|| agent.sync(&[]));
        assert!(server.wait_for(Stage::Preflight, 1, std::time::Duration::from_secs(30)));
        server.restart();
        server.release();
        syncing.join().expect("a sync")
    });
    assert_eq!(synced.result(), "rule_download_failed");
    assert_eq!(server.requests(Stage::RuleDownload)[0].status, Some(409));
    assert_eq!(agent.sync(&[]).code, Some(0));
    assert_eq!(agent.rules(), 12);
}

/// HTTP-12: certificates as they should be, and each as it should not.
#[test]
fn a_certificate_is_trusted_by_its_root_unless_it_is_flawed() {
    let dir = tempfile::tempdir().expect("a directory");
    let sync = |misbehaviour: Option<Misbehaviour>| {
        let mut builder = FakeServer::builder().tls();
        if let Some(misbehaviour) = misbehaviour {
            builder = builder.misbehave(misbehaviour);
        }
        let server = builder.start().expect("a server");
        assert!(server.url().starts_with("https://127.0.0.1:"));
        let roots = dir.path().join("roots.pem");
        std::fs::write(&roots, server.roots().expect("roots")).expect("written");
        let roots = format!("ServerAuthRootsFile={}", roots.display());
        let synced = Agent::of(&server).sync(&["--no-wait", "--set", &roots]);
        (synced.code, synced.json["error"]["message"].to_string())
    };
    assert_eq!(sync(None).0, Some(0));
    assert_eq!(sync(Some(Misbehaviour::Http04ExpiresSoon)).0, Some(0));
    for (misbehaviour, words) in [
        (Misbehaviour::Http04Expired, "expired"),
        (Misbehaviour::Http04WrongName, "127.0.0.1"),
        (Misbehaviour::Http04IncompleteChain, "is not signed by any CA"),
    ] {
        let (code, message) = sync(Some(misbehaviour));
        assert_eq!(code, Some(1), "{misbehaviour}");
        assert!(message.contains(words), "{misbehaviour}: {message}");
    }
}
