use super::*;
use crate::model::Timestamp;

mod play;
mod uploads;

use play::*;

/// SYNC-1, SYNC-3, EV-2, RULE-1: the whole order of effects.
#[test]
fn sync_1_a_sync_runs_its_stages_in_order() {
    let (effects, outcome) = play([
        preflight_of(wire::SyncType::Clean),
        upload_ok(),
        upload_ok(),
        page_of(&["AAAAAAAAAA", "BBBBBBBBBB"], "more"),
        page_of(&["CCCCCCCCCC"], ""),
    ])
    .with(|inputs| inputs.events_pending = 3)
    .batches([batch(&[7, 8]), batch(&[9])])
    .run();
    assert_eq!(
        effects,
        [
            "send preflight #1",
            "stage settings",
            "read 50 events",
            "send event_upload #1",
            "settle [7, 8] 0 0",
            "read 50 events",
            "send event_upload #1",
            "settle [9] 0 0",
            "read 50 events",
            "send rule_download page 1 \"\" #1",
            "send rule_download page 2 \"more\" #1",
            "commit 3 rules CLEAN",
            "send postflight #1",
            "apply settings clear=true succeeded=true",
            "finish success",
        ]
    );
    assert_eq!(outcome.error, None);
    assert_eq!(outcome.tally.events_uploaded, 3);
    assert_eq!((outcome.tally.rules_received, outcome.tally.committed.processed), (3, 3));
    let stages: Vec<_> =
        outcome.stages.iter().map(|s| (s.stage, s.requests, s.attempts, s.bytes_sent)).collect();
    assert_eq!(
        stages,
        [
            (Stage::Preflight, 1, 1, 10),
            (Stage::EventUpload, 2, 2, 20),
            (Stage::RuleDownload, 2, 2, 20),
            (Stage::Postflight, 1, 1, 10)
        ]
    );
    assert!(outcome.stages.iter().all(|s| s.duration_ms >= 10), "{:?}", outcome.stages);
}

/// SYNC-1: an empty queue makes no upload request and leaves no stage record.
#[test]
fn sync_1_no_events_means_no_upload_request() {
    let (effects, outcome) = play([]).batches([]).run();
    assert_eq!(
        effects,
        [
            "send preflight #1",
            "stage settings",
            "read 50 events",
            "send rule_download page 1 \"\" #1",
            "commit 0 rules NORMAL",
            "send postflight #1",
            "apply settings clear=false succeeded=true",
            "finish success",
        ]
    );
    assert_eq!(outcome.stages.len(), 3);
}

/// SYNC-2, SYNC-3, HTTP-3: every stage against every kind of status. Failing
/// permanently before postflight drops what was staged; postflight applies it.
#[test]
fn sync_2_a_request_that_fails_permanently_ends_the_sync_in_every_stage() {
    let waits = ["wait 4", "wait 8", "wait 16", "wait 32", "wait 32"];
    for stage in Stage::ALL.iter().copied() {
        for (code, attempts) in [
            (500, 6),
            (503, 6),
            (429, 6),
            (408, 6),
            (204, 6),
            (404, 1),
            (302, 1),
            (501, 1),
            (401, 1),
        ] {
            let mut script = before(stage);
            script.extend(times(attempts, &status(code)));
            let (effects, outcome) = play(script).run();
            let context = format!("{stage} {code}: {effects:#?}");
            assert_eq!(outcome.result, SyncResult::of_failed(stage), "{context}");
            let seen: Vec<_> = effects.iter().filter(|e| e.starts_with("wait")).collect();
            assert_eq!(seen, waits[..attempts - 1].iter().collect::<Vec<_>>(), "{context}");
            let record = outcome.stages.last().expect("a stage");
            assert_eq!((record.stage, record.attempts as usize), (stage, attempts), "{context}");
            assert_eq!(record.http_status, Some(code), "{context}");
            let error = outcome.error.expect("an error");
            assert_eq!((error.stage.as_str(), error.http_status), (stage.name(), Some(code)));

            let has = |effect: &str| effects.iter().any(|e| e.starts_with(effect));
            assert_eq!(
                has("drop staged"),
                matches!(stage, Stage::EventUpload | Stage::RuleDownload)
            );
            assert_eq!(
                has("apply settings clear=false succeeded=false"),
                stage == Stage::Postflight
            );
            assert_eq!(has("commit"), stage == Stage::Postflight, "{context}");
            assert_eq!(outcome.settings_applied.is_empty(), stage != Stage::Postflight);
            assert_eq!(
                outcome.settings_reverted.len(),
                usize::from(has("drop staged")),
                "{context}"
            );
            for later in Stage::ALL.iter().copied().filter(|s| *s > stage) {
                assert!(!has(&format!("send {later}")), "{context}");
            }
        }
    }
}

/// HTTP-3: what fails and then goes well costs nothing but attempts.
#[test]
fn http_3_a_stage_that_recovers_goes_on() {
    for stage in Stage::ALL.iter().copied() {
        let mut script = before(stage);
        script.extend(times(5, &status(503)));
        let (_, outcome) = play(script).run();
        assert_eq!(outcome.result, SyncResult::Success, "{stage}");
        let record = outcome.stages.iter().find(|s| s.stage == stage).expect("a record");
        assert_eq!((record.requests, record.attempts), (1, 6), "{stage}");
    }
}

/// HTTP-3: `Retry-After` replaces the wait.
#[test]
fn http_3_retry_after_replaces_the_wait() {
    let AttemptResult::Failed(mut failure, traffic) = status(429) else { unreachable!() };
    failure.retry_after = Some(Duration::from_secs(77));
    let (effects, _) = play([AttemptResult::Failed(failure, traffic), status(500)]).run();
    assert_eq!(effects[1..4], ["wait 77", "send preflight #2", "wait 8"]);
}

/// HTTP-4: one token a sync; the repeat is at once; then a 403 is final.
#[test]
fn http_4_a_403_fetches_a_token_once() {
    let (effects, outcome) = play([status(403)]).run();
    assert_eq!(
        effects[..4],
        ["send preflight #1", "fetch token for preflight", "send preflight #2", "stage settings"]
    );
    assert_eq!(outcome.result, SyncResult::Success);

    let (effects, outcome) = play([status(403), status(403)]).run();
    assert_eq!(effects[2..], ["send preflight #2", "finish preflight_failed"]);
    assert_eq!(outcome.error.and_then(|e| e.http_status), Some(403));

    // The first 403 is the one reported.
    let (_, outcome) =
        play([status_saying(403, "the first"), status_saying(403, "the second")]).run();
    assert_eq!(outcome.error.map(|e| e.message).as_deref(), Some("the first (2 attempts)"));

    let script = [vec![status(403)], before(Stage::Postflight), vec![status(403)]].concat();
    let (effects, outcome) = play(script).run();
    assert_eq!(outcome.result, SyncResult::PostflightFailed);
    assert_eq!(effects.iter().filter(|e| e.starts_with("fetch")).count(), 1);
}

/// HTTP-4: a failed token request reports the 403 that asked for it.
#[test]
fn http_4_a_failed_token_request_reports_the_403() {
    let mut without_token = play([status(403)]);
    without_token.token = false;
    let (effects, outcome) = without_token.run();
    assert_eq!(effects[1..], ["fetch token for preflight", "finish preflight_failed"]);
    assert_eq!(outcome.error.map(|e| e.kind), Some("forbidden".into()));
}

/// SYNC-5: only a clean sync that succeeded clears the settings of before.
#[test]
fn sync_5_only_a_successful_clean_sync_clears_settings() {
    use wire::SyncType::{
        Clean, CleanAll, CleanFileAccessRules, CleanRules, CleanStandalone, Normal,
    };
    for (sync_type, clears) in [
        (Normal, false),
        (Clean, true),
        (CleanAll, true),
        (CleanStandalone, false),
        (CleanRules, false),
        (CleanFileAccessRules, false),
    ] {
        let (effects, _) = play([preflight_of(sync_type)]).run();
        let apply = format!("apply settings clear={clears} succeeded=true");
        assert!(effects.contains(&apply), "{sync_type:?} {effects:?}");
    }
    let mut script = vec![preflight_of(Clean), upload_ok(), page_of(&[], "")];
    script.extend(times(6, &status(500)));
    let (effects, _) = play(script).run();
    assert!(effects.contains(&"apply settings clear=false succeeded=false".to_owned()));
}

/// RULE-1, HTTP-8: pages that must not be taken; nothing is committed.
#[test]
fn http_8_pages_past_a_limit_end_the_download_uncommitted() {
    let start = || vec![preflight_of(wire::SyncType::Clean), upload_ok()];
    let same =
        [start(), vec![page_of(&["AAAAAAAAAA"], "x"), page_of(&["BBBBBBBBBB"], "x")]].concat();
    let endless: Vec<_> = (0..=MAX_PAGES).map(|n| page_of(&[], &n.to_string())).collect();
    let endless = [start(), endless].concat();
    let empty = Page { without_body: true, ..Page::default() };
    let empty = [start(), vec![answered(StageResponse::RuleDownload(empty))]].concat();
    let alternating =
        [start(), ["x", "y", "x"].map(|cursor| page_of(&["AAAAAAAAAA"], cursor)).to_vec()].concat();
    for (script, kind) in [
        (same, "cursor_not_advancing"),
        (alternating, "cursor_not_advancing"),
        (endless, "too_many_pages"),
        (empty, "empty_body"),
    ] {
        let (effects, outcome) = play(script).run();
        assert_eq!(outcome.error.map(|e| e.kind), Some(kind.to_owned()));
        assert!(!effects.iter().any(|e| e.starts_with("commit")), "{kind}");
        assert_eq!(effects[effects.len() - 2..], ["drop staged", "finish rule_download_failed"]);
    }
}

/// HTTP-8: whoever runs the server can look for that page.
#[test]
fn http_8_a_cursor_that_does_not_advance_is_named_with_the_url_of_its_page() {
    let cursor = format!("next\n{}", "x".repeat(80));
    let pages = ["AAAAAAAAAA", "BBBBBBBBBB"].map(|rule| page_of(&[rule], &cursor));
    let script = [vec![preflight_of(wire::SyncType::Clean), upload_ok()], pages.to_vec()].concat();
    let (_, outcome) = play(script).run();
    let error = outcome.error.expect("an error");
    assert_eq!(error.kind, "cursor_not_advancing");
    assert_eq!(error.stage, Stage::RuleDownload.name());
    assert_eq!(
        error.message,
        format!(
            "page 2 from https://sync.example.com/ruledownload/host came with a cursor that this \
             sync has used already (\"next\\n{}…\")",
            "x".repeat(59)
        )
    );
    assert_eq!(
        error.fix.as_deref(),
        Some("the server's paging does not advance: each page must name the next one's cursor")
    );
}

/// PRE-7: a former server's settings stay in effect until a sync with the new
/// one has succeeded, and that sync replaces them whatever its type.
#[test]
fn pre_7_a_former_servers_settings_go_with_the_first_success_and_not_before() {
    let former = |script: Vec<AttemptResult>| play(script).with(|i| i.former_settings = true).run();
    let (effects, _) = former(vec![preflight_of(wire::SyncType::Normal)]);
    assert!(effects.contains(&"apply settings clear=true succeeded=true".to_owned()));
    for stage in Stage::ALL.iter().copied() {
        let (effects, outcome) = former([before(stage), vec![status(404)]].concat());
        assert_eq!(outcome.result, SyncResult::of_failed(stage));
        assert!(!effects.iter().any(|effect| effect.starts_with("apply")), "{effects:?}");
    }
}

/// HTTP-7: in a NORMAL sync a page without a body is the last and empty one.
#[test]
fn http_7_a_normal_sync_takes_a_page_without_body_for_no_rules() {
    let empty = Page { without_body: true, ..Page::default() };
    let (effects, outcome) = play([
        preflight_of(wire::SyncType::Normal),
        upload_ok(),
        answered(StageResponse::RuleDownload(empty)),
    ])
    .run();
    assert_eq!(outcome.result, SyncResult::Success);
    assert!(effects.contains(&"commit 0 rules NORMAL".to_owned()));
}

/// RULE-2: a clean sync commits an empty set, which deletes.
#[test]
fn rule_2_a_clean_sync_commits_an_empty_set() {
    let (effects, _) = play([preflight_of(wire::SyncType::CleanAll)]).run();
    assert!(effects.contains(&"commit 0 rules CLEAN_ALL".to_owned()));
}

/// EV-4, EV-5: rows without a wire form settle without a request.
#[test]
fn ev_4_rows_without_a_wire_form_settle_without_a_request() {
    let odd = EventBatch {
        dropped: vec![(1, "AllowTransitive".into())],
        rejected: vec![(2, "no plist".into())],
        ..EventBatch::default()
    };
    let (effects, outcome) = play([]).batches([odd, batch(&[3])]).run();
    assert_eq!(outcome.result, SyncResult::Success);
    assert_eq!(
        effects[2..6],
        ["read 50 events", "settle [] 1 1", "read 50 events", "send event_upload #1"]
    );
    assert_eq!(outcome.tally.events_dropped.get("AllowTransitive"), Some(&1));
    assert_eq!(outcome.tally.events_rejected, 1);
}

/// RULE-2: rules of which not one can be used are no empty set.
#[test]
fn rule_2_a_clean_sync_without_a_usable_rule_deletes_nothing() {
    use wire::SyncType::{Clean, CleanAll, CleanRules, CleanStandalone, Normal};
    let run = |sync_type, page, complete| {
        let (effects, outcome) = play([preflight_of(sync_type), upload_ok(), page])
            .with(|inputs| inputs.rules_complete = complete)
            .run();
        let kind = outcome.error.as_ref().map(|error| error.kind.clone()).unwrap_or_default();
        (effects.iter().any(|effect| effect.starts_with("commit")), kind, outcome)
    };
    for sync_type in [Clean, CleanAll, CleanRules, CleanStandalone] {
        let (committed, kind, outcome) = run(sync_type, page_of_rejected(5), true);
        assert_eq!((committed, kind.as_str()), (false, "no_usable_rules"), "{sync_type:?}");
        assert_eq!(outcome.result, SyncResult::RuleDownloadFailed);
        assert_eq!((outcome.tally.rules_received, outcome.tally.rules_rejected_total), (5, 5));
        let message = outcome.error.expect("an error").message;
        assert!(message.contains("not one of the 5 rules"), "{message}");
        assert!(message.contains("the policy is missing or unknown"), "{message}");
        assert!(!message.contains('\u{202e}') && message.len() < 600, "{message}");
    }
    // A NORMAL sync with rejected rules goes on, unless it would make a store
    // complete that has never had a rule.
    assert!(run(Normal, page_of_rejected(5), true).0);
    assert_eq!(run(Normal, page_of_rejected(5), false).1, "no_usable_rules");
    assert!(run(Normal, page_of(&[], ""), false).0, "an empty set is complete");
    assert!(run(Clean, page_of(&["AAAAAAAAAA"], ""), true).0);
}

/// EV-3: events held back in a clean sync stay queued.
#[test]
fn ev_3_events_held_back_are_not_even_read() {
    let script = [preflight_of(wire::SyncType::Clean)];
    let (effects, _) = play(script).with(|i| i.hold_back_events_in_clean = true).run();
    assert!(!effects.iter().any(|e| e.starts_with("read") || e.starts_with("settle")));
}

/// SYNC-2: a store that fails ends the sync where it stands.
#[test]
fn sync_2_a_store_that_fails_ends_the_sync() {
    for (effect, result, dropped) in [
        ("stage settings", SyncResult::PreflightFailed, false),
        ("read 50 events", SyncResult::EventUploadFailed, true),
        ("settle", SyncResult::EventUploadFailed, true),
        ("commit", SyncResult::RuleDownloadFailed, true),
        ("apply", SyncResult::PostflightFailed, true),
    ] {
        let (effects, outcome) = play([]).breaking(effect).run();
        assert_eq!(outcome.result, result, "{effects:?}");
        assert_eq!(outcome.error.map(|e| e.kind), Some("store".into()));
        assert_eq!(effects.contains(&"drop staged".to_owned()), dropped, "{effects:?}");
    }
    let script = [before(Stage::RuleDownload), vec![status(404)]].concat();
    let (_, outcome) = play(script).breaking("drop staged").run();
    assert_eq!(outcome.error.map(|e| e.kind), Some("not_found".into()));
}

/// A full disk: the events that may fill it go up before anything that needs
/// room, and no setting is in effect that is not staged.
#[test]
fn sync_4_a_full_disk_does_not_keep_the_events_from_going_up() {
    let full = |repeats| play([]).full(repeats).run();
    let (effects, outcome) = full(1);
    assert_eq!(
        effects[1..8],
        [
            "stage settings",
            "read 50 events",
            "send event_upload #1",
            "settle [7] 0 0",
            "read 50 events",
            "stage settings",
            "send rule_download page 1 \"\" #1",
        ]
    );
    assert_eq!(outcome.result, SyncResult::Success);
    let (effects, outcome) = full(2);
    assert_eq!(outcome.result, SyncResult::PreflightFailed);
    assert_eq!(outcome.error.map(|error| error.kind), Some("disk_full".into()));
    assert!(effects.contains(&"settle [7] 0 0".to_owned()));
    assert!(!effects.iter().any(|effect| effect.starts_with("send rule")), "{effects:?}");
}

/// SYNC-6: past its deadline a sync starts nothing new.
#[test]
fn sync_6_past_its_deadline_a_sync_is_abandoned() {
    let (effects, outcome) = play([before(Stage::RuleDownload), times(9, &status(503))].concat())
        .with(|i| i.deadline = Duration::from_secs(10))
        .run();
    let error = outcome.error.expect("an error");
    assert_eq!((error.kind.as_str(), error.stage.as_str()), ("deadline", "rule_download"));
    assert_eq!(effects[effects.len() - 2..], ["drop staged", "finish rule_download_failed"]);
}

/// SYNC-2: what a sync was waiting to repeat when it was stopped, or ran out of
/// time, is recorded beside the stop.
#[test]
fn sync_2_a_stop_does_not_erase_the_error_it_was_waiting_for() {
    let stop = |begun| AttemptResult::Stopped {
        failure: Failure::new(FailureKind::Cancelled, "told to stop".into()),
        begun,
    };
    for stage in Stage::ALL.iter().copied() {
        // In the wait, and in the attempt after it.
        for repeated in [vec![], vec![AttemptResult::Waited]] {
            let script = [before(stage), vec![status_saying(503, "out of order")]].concat();
            let (_, outcome) = play(script).then(repeated, stop(true)).run();
            let error = outcome.error.expect("an error");
            assert_eq!((error.kind.as_str(), error.stage.as_str()), ("cancelled", stage.name()));
            let cause = error.cause.expect("a cause");
            assert_eq!((cause.kind.as_str(), cause.http_status), ("server_error", Some(503)));
            assert_eq!((cause.message.as_str(), cause.cause), ("out of order", None));
        }
        let (_, outcome) = play([before(stage), vec![stop(true)]].concat()).run();
        assert_eq!(outcome.error.expect("an error").cause, None);
    }
    let (_, outcome) = play([before(Stage::RuleDownload), times(9, &status(503))].concat())
        .with(|i| i.deadline = Duration::from_secs(10))
        .run();
    let error = outcome.error.expect("an error");
    assert_eq!(error.kind, "deadline");
    assert_eq!(error.cause.map(|cause| cause.kind), Some("server_error".into()));
}

/// SYNC-6, SYNC-3: a sync asked to stop reverts, except where the postflight
/// request has been made.
#[test]
fn sync_6_a_sync_told_to_stop_ends_where_it_stands() {
    for (stage, begun) in
        Stage::ALL.iter().copied().flat_map(|stage| [(stage, true), (stage, false)])
    {
        let failure = Failure::new(FailureKind::Cancelled, "told to stop".into());
        let stop = AttemptResult::Stopped { failure, begun };
        let (effects, outcome) = play([before(stage), vec![stop]].concat()).run();
        assert_eq!(outcome.result, SyncResult::of_failed(stage));
        assert_eq!(outcome.error.map(|e| e.kind), Some("cancelled".into()));
        let applied = effects.iter().any(|e| e.starts_with("apply"));
        assert_eq!(applied, stage == Stage::Postflight && begun, "{stage} {begun}");
    }
}

/// PRE-3: a clean-sync request goes up, whatever its strength.
#[test]
fn pre_3_a_clean_sync_request_goes_up_in_preflight() {
    for (requested, told) in
        [(SyncType::Normal, false), (SyncType::Clean, true), (SyncType::CleanAll, true)]
    {
        let mut machine = Machine::new(Inputs { requested, ..inputs() });
        let now = Now { wall: Timestamp::default(), elapsed: Duration::ZERO };
        let Effect::Send { request, .. } = machine.handle(SyncEvent::Started, now) else {
            panic!()
        };
        let StageRequest::Preflight(message) = &*request else { panic!() };
        assert_eq!(message.request_clean_sync, told);
    }
}

/// A dry run compares rules and settings and tells the server nothing more.
#[test]
fn a_dry_run_neither_uploads_nor_reports() {
    let (effects, outcome) = play([]).with(|i| i.dry_run = true).run();
    assert_eq!(
        effects,
        [
            "send preflight #1",
            "stage settings",
            "send rule_download page 1 \"\" #1",
            "commit 0 rules NORMAL",
            "apply settings clear=false succeeded=true",
            "finish success",
        ]
    );
    assert_eq!(outcome.settings_applied, [change()]);
}

/// Events that were not asked for end the sync and never panic.
#[test]
fn an_event_out_of_step_ends_the_sync_as_an_internal_error() {
    let now = Now { wall: Timestamp::default(), elapsed: Duration::ZERO };
    for event in [
        SyncEvent::EventsSettled,
        SyncEvent::SettingsApplied(Vec::new()),
        SyncEvent::Attempt(answered(StageResponse::Postflight)),
    ] {
        let mut machine = Machine::new(inputs());
        assert_eq!(words(&machine.handle(event.clone(), now)), "finish internal_error");
        let mut machine = Machine::new(inputs());
        machine.handle(SyncEvent::Started, now);
        assert_eq!(words(&machine.handle(event, now)), "finish internal_error");
    }
}
