//! What it sends, how often, and how a sync breaks off.

use std::time::Duration;

use santa_sync::harness::{Encoding, FakeServer, Fault, Route, SyncTypePolicy, Xsrf, fixtures};
use santa_sync::harness::{every, first, from, nth};
use santa_sync::model::{ContentEncoding, Stage, SyncType, Transfer};
use santa_sync::protocol::wire;
use tokio::sync::oneshot;

use super::{allowed, lose, rows_of, team};
use crate::relay::link::Loss;
use crate::relay::santa::{Act, Age, Pace, Santa, Status, Step, unique_id};
use crate::relay::tls;
use crate::transport::pki::{self, Ca, Clients};
use crate::transport::server::{self, Script};

/// The bodies of case 11, byte for byte but for the facts of another host, and what
/// older releases leave out.
#[test]
fn preflight_and_postflight_are_written_as_each_release_writes_them() {
    let server = FakeServer::builder()
        .rules([team("ABCDEFGHIJ", wire::Policy::Blocklist)])
        .sync_type(SyncTypePolicy::Silent)
        .start()
        .unwrap();
    let empty = "99aa06d3014798d86001c324468d497f";
    let facts = r#""serial_num":"C02TEST00001","hostname":"mac.example.com","os_version":"15.5","os_build":"24F74","model_identifier":"Mac15,3""#;
    for (age, tail, type_and_hash) in [
        (Age::Y2024M12, String::new(), false),
        (Age::Y2025M7, format!(r#","sipStatus":111,"rulesHash":"{empty}""#), true),
        (Age::Y2026M7, format!(r#","sipStatus":111,"rulesHash":"{empty}""#), true),
    ] {
        let santa = Santa::new(age, &server.url()).with(|profile| {
            profile.machine_id = format!("{age:?}");
        });
        let done = santa.sync();
        assert_eq!((done.received, done.processed, done.connections), (1, 1, 1));
        let sent = server.requests(Stage::Preflight).pop().unwrap();
        assert_eq!(
            sent.text,
            format!(
                r#"{{{facts},"santa_version":"{}","primary_user":"jdoe","client_mode":"MONITOR","request_clean_sync":true,"machine_id":"{age:?}"{tail}}}"#,
                age.version()
            )
        );
        assert_eq!(sent.headers["content-type"], "application/json");
        assert_eq!(sent.headers["content-encoding"], "deflate");
        assert!(!sent.headers.contains_key("transfer-encoding"), "{:?}", sent.headers);
        let sent = server.requests(Stage::Postflight).pop().unwrap();
        let tail = if type_and_hash {
            format!(r#","syncType":"NORMAL","rulesHash":"{}""#, santa.rules_hash())
        } else {
            String::new()
        };
        assert_eq!(
            sent.text,
            format!(r#"{{"rules_received":1,"rules_processed":1,"machine_id":"{age:?}"{tail}}}"#)
        );
    }
}

#[test]
fn bodies_travel_in_every_encoding() {
    for (encoding, accepted) in [
        (ContentEncoding::None, Encoding::Identity),
        (ContentEncoding::Gzip, Encoding::Gzip),
        (ContentEncoding::Deflate, Encoding::Deflate),
    ] {
        for transfer in [Transfer::Json, Transfer::Protobuf] {
            let server = FakeServer::builder()
                .rules(fixtures::rules(20, 1))
                .style(|style| style.request_encodings = vec![accepted])
                .start()
                .unwrap();
            let santa = Santa::new(Age::Y2026M7, &server.url()).with(|profile| {
                (profile.encoding, profile.transfer) = (encoding, transfer);
                profile.headers.push(("X-Extra".to_owned(), "value".to_owned()));
            });
            assert_eq!(santa.sync().status, Status::Success);
            assert_eq!(santa.rows(), rows_of(&server, Age::Y2026M7));
            let sent = server.requests(Stage::RuleDownload).pop().unwrap();
            assert_eq!(sent.headers["x-extra"], "value");
        }
    }
}

/// A truncated 200 is an empty last page, and in a clean sync nothing is deleted.
#[test]
fn a_body_that_breaks_off_is_an_empty_last_page() {
    for age in Age::ALL {
        let server =
            FakeServer::builder().rules(fixtures::rules(30, 1)).page_size(10).start().unwrap();
        server.fault(Stage::RuleDownload, nth(2), Fault::Truncate);
        let santa = Santa::new(age, &server.url());
        let done = santa.sync();
        assert_eq!((done.status, done.received, done.pages), (Status::Success, 10, 2));
        let before = santa.rows();
        santa.require(SyncType::Clean);
        let done = santa.sync_with(&mut lose(Stage::RuleDownload, Loss::HalfOfBody));
        assert_eq!((done.sync_type, done.received, done.pages), (SyncType::Clean, 0, 1));
        assert_eq!(santa.rows(), before);
        assert_eq!(santa.required(), SyncType::Normal, "it counts as done");
    }
}

/// An attempt ends after its time whatever came before; five of them are made.
#[test]
fn attempts_are_five_and_each_has_its_time_to_the_last_byte() {
    let server = FakeServer::builder().start().unwrap();
    server.fault(Stage::RuleDownload, first(3), Fault::SlowBytes(Duration::from_millis(400)));
    server.fault(Stage::RuleDownload, nth(4), Fault::Stall);
    let santa = Santa::new(Age::Y2026M7, &server.url()).with(|profile| {
        profile.pace = Pace { attempt: Duration::from_secs(2), ..Pace::FAST };
    });
    assert_eq!(santa.sync().status, Status::Success);
    assert_eq!(server.count(Stage::RuleDownload), 5);
    server.fault(Stage::Preflight, from(2), Fault::retry_after(503, "1"));
    assert_eq!(santa.sync().status, Status::PreflightFailed);
    assert_eq!(server.count(Stage::Preflight), 6);
}

/// 4xx is final since 2026.4 and was repeated before; 408, 429, 5xx and redirects are
/// repeated by all, and a redirect is never followed.
#[test]
fn what_is_repeated_depends_on_the_status_and_the_release() {
    for age in Age::ALL {
        for (status, old, new) in [(404, 5, 1), (409, 5, 1), (408, 5, 5), (429, 5, 5), (503, 5, 5)]
        {
            let server = FakeServer::builder()
                .fault(Stage::Preflight, every(), Fault::status(status))
                .start()
                .unwrap();
            let done = Santa::new(age, &server.url()).sync();
            assert_eq!((done.status, done.http_status), (Status::PreflightFailed, Some(status)));
            let attempts = if age == Age::Y2026M7 { new } else { old };
            assert_eq!(server.count(Stage::Preflight), attempts, "{age:?} {status}");
        }
        let server = FakeServer::builder()
            .fault(Stage::Preflight, every(), Fault::Redirect("/elsewhere".to_owned()))
            .start()
            .unwrap();
        assert_eq!(Santa::new(age, &server.url()).sync().status, Status::PreflightFailed);
        assert_eq!((server.count(Stage::Preflight), server.transcript().len()), (5, 5));
    }
}

#[test]
fn a_403_has_it_fetch_a_token_and_try_again() {
    let server = FakeServer::builder()
        .style(|style| style.xsrf = Xsrf::Demanded("X-Other".to_owned()))
        .start()
        .unwrap();
    let santa = Santa::new(Age::Y2026M7, &server.url());
    assert_eq!(santa.sync().status, Status::Success);
    assert_eq!((server.count(Stage::Preflight), server.count(Route::Xsrf)), (2, 1));
    // A 200 without a token has it repeat the request for nothing.
    let server = FakeServer::builder()
        .style(|style| style.xsrf = Xsrf::NoToken)
        .fault(Stage::Preflight, every(), Fault::status(403))
        .start()
        .unwrap();
    assert_eq!(Santa::new(Age::Y2026M7, &server.url()).sync().status, Status::PreflightFailed);
    assert_eq!(server.count(Stage::Preflight), 5);
}

/// A lost request never reaches the server, a lost response did; either is repeated.
#[test]
fn lost_requests_and_responses_are_repeated() {
    for (loss, seen) in [(Loss::Request, 1), (Loss::Response, 2)] {
        let server = FakeServer::builder().start().unwrap();
        let santa = Santa::new(Age::Y2026M7, &server.url());
        let done = santa.sync_with(&mut |step| {
            let first = Step::Attempt { stage: Stage::Postflight, request: 1, attempt: 1 };
            if step == first { Act::Lose(loss) } else { Act::Go }
        });
        assert_eq!((done.status, server.count(Stage::Postflight)), (Status::Success, seen));
    }
}

/// Killed at any point, it has done what came before that point, and the next sync
/// does the rest.
#[test]
fn a_sync_can_be_killed_at_every_point() {
    let points = {
        let (santa, _server) = with_events();
        let mut points = Vec::new();
        santa.sync_with(&mut |step| {
            points.push(step);
            Act::Go
        });
        points
    };
    assert_eq!(points.len(), 5 * 2 + 2 + 1 + 1, "{points:?}");
    for (number, point) in points.iter().enumerate() {
        let (santa, server) = with_events();
        let mut left = number;
        let done = santa.sync_with(&mut |_| match left.checked_sub(1) {
            None => Act::Kill,
            Some(fewer) => {
                left = fewer;
                Act::Go
            }
        });
        assert_eq!(done.status, Status::Killed);
        let committed = points[..=number].iter().rposition(|p| *p == Step::Committed).is_some();
        assert_eq!(santa.rows().len(), if committed { 5 } else { 0 }, "{point:?}");
        let applied = *point == Step::Applied;
        assert_eq!(santa.settings().is_empty(), !applied, "{point:?}");
        santa.sync();
        assert_eq!(santa.rows(), rows_of(&server, Age::Y2026M7));
        let mut ids: Vec<_> = server.events().iter().map(unique_id).collect();
        ids.sort();
        ids.dedup();
        assert_eq!((ids.len(), santa.pending().len()), (4, 0), "{point:?}");
    }
}

fn with_events() -> (Santa, FakeServer) {
    let server = FakeServer::builder()
        .rules(fixtures::rules(5, 1))
        .batch_size(2)
        .sync_type(SyncTypePolicy::AsRequested)
        .start()
        .unwrap();
    let santa = Santa::new(Age::Y2026M7, &server.url());
    santa.require(SyncType::Normal);
    assert!((0..4).all(|number| santa.observe(&allowed(number))));
    (santa, server)
}

/// Over TLS it trusts the authority it was given and no other, and shows its
/// certificate to a server that asks for one.
#[test]
fn it_syncs_over_tls_with_a_certificate_of_its_own() {
    let (ca, other) = (Ca::new("relay"), Ca::new("other"));
    let leaf = ca.issue("server", &["127.0.0.1"]);
    let own = ca.issue("santa", &[]);
    let config = pki::server_config(&ca, &leaf, Clients::WithCertificate, pki::VERSIONS);
    let script = Script::new([server::ok("{}")]);
    let (port, _running) = listening(script.clone(), config);
    let url = format!("https://127.0.0.1:{port}/");
    let sync = |tls| Santa::new(Age::Y2026M7, &url).with(|profile| profile.tls = Some(tls)).sync();

    let own = Some((own.pem.as_str(), own.key_pem.as_str()));
    let done = sync(tls::client(&ca.pem, own));
    assert_eq!((done.status, done.connections), (Status::Success, 1));
    assert_eq!(script.requests().len(), 3);
    assert_eq!(sync(tls::client(&ca.pem, None)).status, Status::PreflightFailed);
    assert_eq!(sync(tls::client(&other.pem, own)).status, Status::PreflightFailed);
    assert_eq!(script.requests().len(), 3);
}

/// Serves the script over TLS in a thread until the sender goes.
fn listening(script: Script, config: rustls::ServerConfig) -> (u16, oneshot::Sender<()>) {
    let (stop, stopped) = oneshot::channel();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            tell.send(pki::listen_tls(&script, config).await).unwrap();
            let _ = stopped.await;
        });
    });
    (told.recv().unwrap(), stop)
}
