//! Event uploads: refused batches, and the time they may take.

use super::play::*;
use crate::model::UploadMemory;
use crate::sync::machine::*;

/// EV-6: 413 says too large, not wrong: smaller batches go up in the same sync.
#[test]
fn ev_6_a_batch_that_is_too_large_is_halved_within_the_sync() {
    let script = [before(Stage::EventUpload), vec![status(413)]].concat();
    let (effects, outcome) = play(script)
        .batches([batch(&[1, 2, 3, 4]), batch(&[1, 2]), batch(&[3, 4]), EventBatch::default()])
        .run();
    assert_eq!(outcome.result, SyncResult::Success);
    assert_eq!(
        effects[2..11],
        [
            "read 50 events",
            "send event_upload #1",
            "note ceiling Some(2) refused 0",
            "read 2 events",
            "send event_upload #1",
            "settle [1, 2] 0 0",
            "read 2 events",
            "send event_upload #1",
            "settle [3, 4] 0 0",
        ]
    );
    assert_eq!(outcome.tally.events_uploaded, 4);
}

/// EV-6: an event that is too large by itself is set aside, and the sync goes on.
#[test]
fn ev_6_an_event_too_large_by_itself_does_not_fail_the_sync() {
    let script = [before(Stage::EventUpload), vec![status(413)]].concat();
    let (effects, outcome) = play(script).run();
    assert_eq!(outcome.result, SyncResult::Success);
    assert_eq!(effects[3..6], ["send event_upload #1", "note refusal of [7]", "read 50 events"]);
}

/// EV-6: a batch that is wrong is noted and fails the sync.
#[test]
fn ev_6_a_batch_that_is_wrong_fails_the_sync_once_it_is_noted() {
    for code in [400, 422] {
        let script = [before(Stage::EventUpload), vec![status(code)]].concat();
        let (effects, outcome) = play(script).run();
        assert_eq!(
            effects[3..],
            [
                "send event_upload #1",
                "note refusal of [7]",
                "drop staged",
                "finish event_upload_failed"
            ]
        );
        assert_eq!(outcome.tally.events_uploaded, 0);
    }
    let (effects, _) = play([before(Stage::EventUpload), vec![status(404)]].concat()).run();
    assert!(!effects.iter().any(|e| e.starts_with("note")));
}

/// EV-6: once the wrong event is set aside, its sync goes on to the rules.
#[test]
fn ev_6_setting_the_wrong_event_aside_lets_the_sync_go_on() {
    let script = [before(Stage::EventUpload), vec![status(422)]].concat();
    let mut sync = play(script);
    sync.set_aside = true;
    let (effects, outcome) = sync.run();
    assert_eq!(outcome.result, SyncResult::Success);
    assert_eq!(effects[4..6], ["note refusal of [7]", "read 50 events"]);
}

/// EV-6: however many events are wrong, the eighth sync brings rules and
/// settings.
#[test]
fn ev_6_refusals_do_not_keep_policy_away_for_more_than_eight_syncs() {
    let refused = |refused_syncs| {
        play([before(Stage::EventUpload), vec![status(400)]].concat())
            .with(|inputs| {
                inputs.upload_memory = UploadMemory { ceiling: None, refused_syncs };
            })
            .run()
    };
    assert_eq!(refused(6).1.result, SyncResult::EventUploadFailed);
    let (effects, outcome) = refused(7);
    assert_eq!(outcome.result, SyncResult::Success);
    assert!(effects.contains(&"commit 0 rules NORMAL".to_owned()), "{effects:?}");
    let [warning] = outcome.warnings.as_slice() else { panic!("{:?}", outcome.warnings) };
    assert_eq!((warning.stage, warning.value.as_str()), (Stage::EventUpload, "status 400"));
    assert!(warning.action.contains("stay queued"), "{}", warning.action);
}

/// EV-1: events have half of the deadline, then it is the rules' turn.
#[test]
fn ev_1_events_leave_half_of_the_deadline_to_the_rules() {
    let many = || std::iter::repeat_with(|| batch(&[5])).take(10_000);
    let short = |inputs: &mut Inputs| inputs.deadline = Duration::from_secs(20);
    let (effects, outcome) = play([]).with(short).batches(many()).run();
    assert_eq!(outcome.result, SyncResult::Success);
    let sent = effects.iter().filter(|effect| effect.starts_with("send event_upload")).count();
    assert!((100..=1_000).contains(&sent), "{sent}");
    assert!(outcome.warnings[0].action.contains("half of SyncDeadline"));

    // A wait that would outlast the half is not begun.
    let script = [before(Stage::EventUpload), times(2, &status(503))].concat();
    let (effects, outcome) = play(script).with(short).run();
    assert_eq!(outcome.result, SyncResult::Success);
    let waits: Vec<_> = effects.iter().filter(|effect| effect.starts_with("wait")).collect();
    assert_eq!(waits, ["wait 4"], "{effects:?}");

    // Nor is an attempt that overruns it a failure of the sync.
    let cut =
        AttemptResult::Stopped { failure: deadline_failure(Duration::from_secs(20)), begun: true };
    let (_, outcome) = play([before(Stage::EventUpload), vec![cut]].concat()).with(short).run();
    assert_eq!(outcome.result, SyncResult::Success);
}

/// HTTP-9: an upload that twice in a row did not get through is made smaller,
/// and only then.
#[test]
fn http_9_a_batch_that_does_not_get_through_twice_is_halved() {
    let lost = |upload_unfinished| {
        let failure = Failure::new(FailureKind::ConnectionLost, "reset".into());
        AttemptResult::Failed(failure, Traffic { upload_unfinished, ..Traffic::default() })
    };
    let run = |lost: Vec<AttemptResult>, ids: &[i64]| {
        play([before(Stage::EventUpload), lost].concat())
            .batches([batch(ids), batch(&[1]), batch(&[2]), EventBatch::default()])
            .run()
            .0
    };
    let halved =
        |effects: &[String]| effects.contains(&"note ceiling Some(1) refused 0".to_owned());
    let effects = run(vec![lost(true), lost(true)], &[1, 2]);
    assert!(halved(&effects), "{effects:?}");
    let waits = effects.iter().filter(|effect| effect.starts_with("wait")).count();
    assert_eq!(waits, 1, "the smaller batch is sent at once");
    assert!(!halved(&run(vec![lost(true), lost(false), lost(true)], &[1, 2])));
    assert!(!halved(&run(vec![lost(false), lost(false)], &[1, 2])));
    // A single event is repeated like any request; nothing says that it is wrong.
    let effects = run(vec![lost(true), lost(true), lost(true)], &[1]);
    assert!(!effects.iter().any(|effect| effect.starts_with("note")), "{effects:?}");
}

fn stale(inputs: &mut Inputs) {
    let authorizer_since = crate::model::Timestamp::from_secs(1_750_000_000);
    inputs.events_only = Some(EventsOnly { authorizer_since, batch_size: 20 });
}

/// RELAY-10: with a silent authorizer a sync uploads events and makes no other request.
#[test]
fn relay_10_a_sync_of_a_stale_host_only_uploads_events() {
    let (effects, outcome) =
        play([upload_ok(), upload_ok()]).with(stale).batches([batch(&[7, 8]), batch(&[9])]).run();
    assert_eq!(
        effects,
        [
            "read 20 events",
            "send event_upload #1",
            "settle [7, 8] 0 0",
            "read 20 events",
            "send event_upload #1",
            "settle [9] 0 0",
            "read 20 events",
            "finish authorizer_stale",
        ]
    );
    assert_eq!((outcome.sync_type, outcome.tally.events_uploaded), (None, 3));
    let error = outcome.error.expect("an error");
    assert_eq!((error.stage.as_str(), error.kind.as_str()), ("preflight", "authorizer_stale"));
    insta::assert_snapshot!(error.message, @"the authorizer of this host last asked for its settings at 2025-06-15T15:06:40Z, longer ago than RelayStale allows; only events were uploaded, so that the server sees that this host is out of date");
    assert_eq!(outcome.stages.len(), 1);
    assert!(outcome.stages[0].duration_ms >= 20, "{:?}", outcome.stages);

    let (effects, outcome) = play([]).with(stale).batches([]).run();
    assert_eq!(effects, ["read 20 events", "finish authorizer_stale"]);
    assert_eq!(outcome.result, SyncResult::AuthorizerStale);
    let dry = |inputs: &mut Inputs| {
        stale(inputs);
        inputs.dry_run = true;
    };
    assert_eq!(play([]).with(dry).run().0, ["finish authorizer_stale"]);
}

/// RELAY-10, SYNC-2: an upload that fails is the sync's result.
#[test]
fn relay_10_a_failed_upload_of_a_stale_host_is_reported_as_one() {
    let (effects, outcome) = play([status(404)]).with(stale).run();
    assert_eq!(effects[2..], ["finish event_upload_failed"]);
    assert_eq!(outcome.result, SyncResult::EventUploadFailed);
}
