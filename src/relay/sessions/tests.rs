//! Deliveries, pages and postflights as lists of what happens.

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const WALL: Timestamp = Timestamp::from_secs(1_800_000_000);

fn plan(sync_type: SyncType, content: Content, why: Why) -> Plan {
    Plan { sync_type, content, why }
}

fn delivery(plan: Plan) -> Delivery {
    Delivery {
        plan,
        generation: 7,
        digest: "digest".to_owned(),
        rules_hash: "hash".to_owned(),
        counts: RuleCounts::default(),
        release: None,
        altered: false,
        partial: false,
        settings: BTreeSet::from(["client_mode".to_owned()]),
        settings_digest: "settings".to_owned(),
        hash_before: Some("before".to_owned()),
        mode: None,
        wants_clean: false,
        clears_v2: false,
    }
}

fn sessions() -> Sessions<&'static str> {
    Sessions::new(Duration::ZERO)
}

fn report(rules_received: u64, sync_type: SyncType) -> Report {
    Report {
        rules_received,
        rules_processed: rules_received,
        sync_type: Some(sync_type),
        rules_hash: Some("hash".to_owned()),
    }
}

/// Begins a delivery and fetches `pages` of it, the last of which is the last.
fn fetched(plan: Plan, pages: &[u64]) -> Sessions<&'static str> {
    let mut sessions = sessions();
    sessions.begin(1, 99, delivery(plan), "source", SECOND);
    let mut cursor = String::new();
    for (number, rules) in (1..).zip(pages) {
        let PageOf::Page { token, position, .. } = sessions.page(1, &cursor, SECOND) else {
            panic!("page {number} is served")
        };
        let next = (number < pages.len()).then(|| Position::After(i64::try_from(number).unwrap()));
        sessions.served(token, position, *rules, next);
        cursor = next.map(|next| next.cursor(token)).unwrap_or_default();
    }
    sessions
}

const WHOLE: Plan = Plan { sync_type: SyncType::Clean, content: Content::Whole, why: Why::NoBase };

/// RELAY-7: only a delivery that was taken as it was sent is acknowledged.
#[test]
fn relay_7_only_what_was_sent_and_received_is_acknowledged() {
    let outcome =
        |pages: &[u64], report: &Report| fetched(WHOLE, pages).postflight(1, report, SECOND, WALL);
    let Outcome::Acknowledged { acknowledgement, settings, clean, .. } =
        outcome(&[50, 3], &report(53, SyncType::Clean))
    else {
        panic!("taken")
    };
    assert_eq!((acknowledgement.generation, acknowledgement.drift, clean), (7, false, true));
    assert_eq!(acknowledgement.rules_hash.as_deref(), Some("hash"));
    assert_eq!(settings.1, "settings");

    let refused = |pages: &[u64], report: &Report| match outcome(pages, report) {
        Outcome::NotTaken { reason, .. } => reason,
        other @ (Outcome::NoDelivery | Outcome::Nothing { .. } | Outcome::Acknowledged { .. }) => {
            panic!("{other:?}")
        }
    };
    assert_eq!(refused(&[50, 3], &report(50, SyncType::Clean)), "it received 50 of 53 rules");
    assert!(refused(&[50, 3], &report(53, SyncType::Normal)).contains("NORMAL"));
    assert!(refused(&[], &report(0, SyncType::Clean)).contains("all pages"));
    let silent = Report { sync_type: None, rules_hash: None, ..report(53, SyncType::Clean) };
    let Outcome::Acknowledged { acknowledgement, .. } = outcome(&[50, 3], &silent) else {
        panic!("releases before 2025.1 do not tell the type")
    };
    assert_eq!((acknowledgement.rules_hash, acknowledgement.drift), (None, false));
}

/// RELAY-7: a postflight that belongs to nothing changes nothing, and one
/// acknowledges once.
#[test]
fn relay_7_a_postflight_without_a_delivery_says_nothing() {
    let said = report(1, SyncType::Clean);
    assert_eq!(sessions().postflight(1, &said, SECOND, WALL), Outcome::NoDelivery);
    let mut sessions = fetched(WHOLE, &[1]);
    let late = SECOND + SESSION_LIFE;
    assert_eq!(sessions.postflight(1, &said, late, WALL), Outcome::NoDelivery, "too late");
    let mut sessions = fetched(WHOLE, &[1]);
    assert!(matches!(sessions.postflight(1, &said, SECOND, WALL), Outcome::Acknowledged { .. }));
    assert_eq!(sessions.postflight(1, &said, SECOND, WALL), Outcome::NoDelivery);
}

/// RELAY-6: Santa makes a `CLEAN_ALL` of a CLEAN if it asked for that itself.
#[test]
fn relay_6_a_clean_that_was_raised_is_acknowledged() {
    let mut raised = sessions();
    let asked = Delivery { wants_clean: true, ..delivery(WHOLE) };
    raised.begin(1, 5, asked, "", SECOND);
    raised.served(5, Position::After(i64::MIN), 1, None);
    let outcome = raised.postflight(1, &report(1, SyncType::CleanAll), SECOND, WALL);
    assert!(matches!(outcome, Outcome::Acknowledged { clean: true, .. }), "{outcome:?}");
    let mut of_its_own = fetched(WHOLE, &[1]);
    let outcome = of_its_own.postflight(1, &report(1, SyncType::CleanAll), SECOND, WALL);
    assert!(matches!(outcome, Outcome::NotTaken { .. }), "{outcome:?}");
}

/// RELAY-6: a hash that differs after a delivery is the reference, and drift. A
/// sync without rules cannot have changed it.
#[test]
fn relay_6_a_hash_that_differs_is_kept_as_the_reference() {
    let other = Report { rules_hash: Some("other".to_owned()), ..report(1, SyncType::Clean) };
    let Outcome::Acknowledged { acknowledgement, .. } =
        fetched(WHOLE, &[1]).postflight(1, &other, SECOND, WALL)
    else {
        panic!("taken")
    };
    assert_eq!(
        (acknowledgement.rules_hash.as_deref(), acknowledgement.drift),
        (Some("other"), true)
    );
    let nothing = plan(SyncType::Normal, Content::Nothing, Why::InStep);
    let other = Report { rules_hash: Some("other".to_owned()), ..report(0, SyncType::Normal) };
    let Outcome::Acknowledged { acknowledgement, .. } =
        fetched(nothing, &[0]).postflight(1, &other, SECOND, WALL)
    else {
        panic!("taken")
    };
    assert_eq!(acknowledgement.rules_hash.as_deref(), Some("before"), "the next preflight tells");
}

/// RELAY-7: a release that does not say which type of sync it made may not have read
/// that it should be clean, if the connection of its preflight broke.
#[test]
fn relay_7_a_clean_sync_that_may_not_have_been_one_is_not_acknowledged() {
    for (connection, taken) in [(1, true), (2, false)] {
        let mut sessions = sessions();
        sessions.begin(1, 99, delivery(WHOLE), "source", SECOND);
        let PageOf::Page { token, position, .. } = sessions.page(connection, "", SECOND) else {
            panic!("it is the last delivery")
        };
        sessions.served(token, position, 5, None);
        let report = Report { sync_type: None, ..report(5, SyncType::Clean) };
        let outcome = sessions.postflight(connection, &report, SECOND, WALL);
        assert_eq!(matches!(outcome, Outcome::Acknowledged { .. }), taken, "{outcome:?}");
    }
}

/// RELAY-5: a request belongs to its connection's preflight, else to the last
/// one; a cursor to the delivery that gave it.
#[test]
fn relay_5_a_page_belongs_to_the_delivery_of_its_connection() {
    let mut sessions = sessions();
    assert_eq!(sessions.page(1, "", SECOND), PageOf::Empty, "no preflight");
    sessions.begin(1, 11, delivery(WHOLE), "first", SECOND);
    sessions.begin(2, 22, delivery(WHOLE), "second", SECOND);
    let source = |sessions: &mut Sessions<&'static str>, connection, cursor: &str| match sessions
        .page(connection, cursor, SECOND)
    {
        PageOf::Page { source, .. } => Some(*source),
        PageOf::Empty | PageOf::Gone => None,
    };
    assert_eq!(source(&mut sessions, 1, ""), Some("first"));
    assert_eq!(source(&mut sessions, 2, ""), Some("second"));
    assert_eq!(source(&mut sessions, 3, ""), Some("second"), "a new connection");
    sessions.served(11, Position::After(i64::MIN), 5, Some(Position::After(5)));
    let cursor = Position::After(5).cursor(11);
    assert_eq!(source(&mut sessions, 2, &cursor), Some("first"), "whatever the connection");
    for wrong in [
        Position::After(6).cursor(11),
        Position::After(5).cursor(12),
        "x".to_owned(),
        "-".to_owned(),
        format!("{:016x}-a", 11),
        format!("{:016x}-\u{e9}5", 11),
    ] {
        assert_eq!(sessions.page(1, &wrong, SECOND), PageOf::Gone, "{wrong}");
    }
    assert_eq!(sessions.page(1, &cursor, SECOND + SESSION_LIFE), PageOf::Gone, "too old");
    assert_eq!(sessions.expires(), None);
}

/// RELAY-5: after the relay has restarted its listener, a connection is not mistaken for an
/// earlier one with the same number.
#[test]
fn relay_5_a_connection_of_another_listener_is_another_connection() {
    let mut sessions = sessions();
    sessions.begin(1, 11, delivery(WHOLE), "broken off", SECOND);
    sessions.begin(2, 22, delivery(WHOLE), "last", SECOND);
    sessions.connections_ended();
    let PageOf::Page { source, .. } = sessions.page(1, "", SECOND) else { panic!("the last") };
    assert_eq!(*source, "last");
    sessions.begin(2, 33, delivery(WHOLE), "new", SECOND);
    assert_eq!(sessions.kept.len(), 3, "no session replaces another");
}

/// RELAY-5: each connection has one delivery, and their number is bounded.
#[test]
fn relay_5_deliveries_are_bounded() {
    let mut sessions = sessions();
    for connection in 0..200 {
        sessions.begin(connection % 100, connection, delivery(WHOLE), "", SECOND);
    }
    assert_eq!(sessions.kept.len(), MAX_SESSIONS);
    assert_eq!(sessions.expires(), Some(SECOND + SESSION_LIFE));
}

/// RELAY-6: a clean sync deletes events, so it comes right after a sync whose
/// uploads were all accepted.
#[test]
fn relay_6_events_are_safe_right_after_a_sync_that_uploaded_them() {
    let first = plan(SyncType::Normal, Content::Nothing, Why::EventsFirst);
    let flush = |refused: bool, interval| {
        let mut sessions = Sessions::new(interval);
        sessions.begin(1, 1, delivery(first), "", SECOND);
        if refused {
            sessions.upload_refused();
        }
        let outcome = sessions.postflight(1, &report(0, SyncType::Normal), SECOND, WALL);
        assert!(matches!(outcome, Outcome::Nothing { why: Why::EventsFirst, .. }));
        sessions
    };
    let flushed = flush(false, Duration::ZERO);
    assert!(flushed.is_flushed(60 * SECOND));
    assert!(!flushed.is_flushed(62 * SECOND));
    assert!(!flush(true, Duration::ZERO).is_flushed(2 * SECOND));
    // Without a nudge the authorizer comes back after its interval.
    assert!(flush(false, 60 * SECOND).is_flushed(119 * SECOND));
    assert!(!flush(false, 60 * SECOND).is_flushed(122 * SECOND));
}
