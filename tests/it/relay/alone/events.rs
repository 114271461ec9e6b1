//! When it sends events, and when it deletes them.

use santa_sync::harness::fixtures::{self, AnyEvent};
use santa_sync::harness::{FakeServer, Fault, SyncTypePolicy, from, nth};
use santa_sync::model::{Stage, SyncType, Transfer};
use santa_sync::protocol::wire;

use super::{allowed, blocked, lose};
use crate::relay::link::Loss;
use crate::relay::santa::{Act, Age, BundleOutcome, Santa, Status, Step};

/// Batches, deleted after each 200 only; a failed batch and what follows it stay, and
/// the sync goes on.
#[test]
fn events_are_uploaded_in_batches_and_deleted_after_each() {
    for transfer in [Transfer::Json, Transfer::Protobuf] {
        let server = FakeServer::builder()
            .batch_size(3)
            .sync_type(SyncTypePolicy::AsRequested)
            .start()
            .unwrap();
        server.fault(Stage::EventUpload, nth(3), Fault::status(400));
        let santa = Santa::new(Age::Y2026M7, &server.url()).with(|profile| {
            profile.transfer = transfer;
        });
        santa.require(SyncType::Normal);
        let events: Vec<_> = (0..8).map(allowed).collect();
        assert!(events.iter().all(|event| santa.observe(event)));
        let order = santa.pending();
        let done = santa.sync();
        assert_eq!((done.status, done.uploaded), (Status::Success, 6));
        assert_eq!((server.events(), santa.pending()), (order[..6].to_vec(), order[6..].to_vec()));
        assert_eq!(santa.sync().uploaded, 2);
        assert_eq!(server.events(), order);
        assert!(!santa.observe(&events[0]), "four hours have not passed");
        santa.forget_back_offs();
        assert!(santa.observe(&events[0]));
    }
}

/// Clean syncs delete what waits unsent, unless the profile says otherwise.
#[test]
fn clean_syncs_delete_events_unsent() {
    let server = FakeServer::builder().rules(fixtures::rules(3, 1)).start().unwrap();
    let santa = Santa::new(Age::Y2026M7, &server.url());
    santa.observe(&allowed(1));
    let done = santa.sync();
    assert_eq!((done.sync_type, done.uploaded, done.deleted_unsent), (SyncType::CleanAll, 0, 1));
    assert_eq!((santa.pending().len(), server.events_received()), (0, 0));

    let santa = santa.with(|profile| profile.clean_sync_event_upload = true);
    santa.observe(&allowed(2));
    santa.require(SyncType::Clean);
    let done = santa.sync();
    assert_eq!((done.uploaded, done.deleted_unsent, server.events_received()), (1, 0, 1));
}

/// What is blocked goes to the server at once, while a sync runs as well, on a
/// connection of its own; a failure leaves it to the next sync.
#[test]
fn blocked_events_are_uploaded_at_once() {
    let server = FakeServer::builder().start().unwrap();
    let santa = Santa::new(Age::Y2026M7, &server.url());
    santa.observe(&blocked(1));
    assert_eq!((server.events_received(), santa.pending().len()), (1, 0));
    let mut seen = 0;
    santa.sync_with(&mut |step| {
        if step == (Step::Answered { stage: Stage::Preflight, request: 1 }) {
            santa.observe(&blocked(2));
            seen = server.events_received();
        }
        Act::Go
    });
    assert_eq!(seen, 2);
    assert!(santa.observe(&blocked(2)), "it is stored, and not sent again within ten minutes");
    assert_eq!(server.events_received(), 2);
    santa.sync();
    assert_eq!(server.events_received(), 3);
    santa.observe_with(&blocked(3), &mut lose(Stage::EventUpload, Loss::Request));
    assert_eq!((server.events_received(), santa.pending().len()), (3, 1));
    santa.sync();
    assert_eq!((server.events_received(), santa.pending().len()), (4, 0));
}

/// The members of a bundle follow at once if the server wants them, wait if it did
/// not answer, and are forgotten otherwise.
#[test]
fn members_of_a_bundle_follow_the_answer() {
    let server = FakeServer::builder().start().unwrap();
    server.change_settings(|settings| settings.enable_bundles = Some(true));
    let santa = Santa::new(Age::Y2026M7, &server.url());
    let bundle = |number: u64, hash: &str| {
        let event = |number, decision| {
            let AnyEvent::Execution(mut event) = blocked(number) else { unreachable!() };
            event.set_decision(decision);
            hash.clone_into(&mut event.file_bundle_hash);
            *event
        };
        let members = [number + 100, number + 200];
        let members = members.map(|number| event(number, wire::Decision::BundleBinary)).to_vec();
        (event(number, wire::Decision::BlockUnknown), members)
    };
    let (event, members) = bundle(1, "one");
    assert_eq!(santa.observe_bundle(event, members), BundleOutcome::Disabled);
    santa.sync();
    for (number, hash, wanted, outcome, received, pending) in [
        (2, "two", vec!["two".to_owned()], BundleOutcome::Sent, 3, 0),
        (3, "three", vec!["other".to_owned()], BundleOutcome::Dropped, 1, 0),
        (4, "four", vec![], BundleOutcome::Dropped, 1, 0),
        (5, "four", vec![], BundleOutcome::Dropped, 0, 1),
    ] {
        let before = server.events_received();
        server.request_bundles(wanted);
        let (event, members) = bundle(number, hash);
        assert_eq!(santa.observe_bundle(event, members), outcome, "{hash}");
        assert_eq!(server.events_received() - before, received, "{hash}");
        assert_eq!(santa.pending().len(), pending, "{hash}");
    }
    santa.sync();
    server.fault(
        Stage::EventUpload,
        from(server.count(Stage::EventUpload) + 1),
        Fault::status(500),
    );
    let (event, members) = bundle(6, "six");
    assert_eq!(santa.observe_bundle(event, members), BundleOutcome::Stored);
    assert_eq!(santa.pending().len(), 3);
}
