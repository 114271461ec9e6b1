//! What is said in the conversation, topic by topic.

use super::*;

pub(super) fn talk_about_http(talk: &mut Talk) {
    talk.connection += 1;
    let heard =
        talk.send("POST", "/preflight/santactl-doctor-test", &[("Authorization", "t")], vec![]);
    talk.hear("doctor", &heard);
    talk.connection += 1;
    let heard = talk.send("POST", "/nosuchstage/A", &[], vec![]);
    talk.hear("unknown path", &heard);
    talk.connection += 1;
    let heard = talk.send("POST", &format!("/xsrf/{}", id("A")), &[], vec![]);
    talk.hear("xsrf", &heard);
    talk.connection += 1;
    let heard = talk.send("POST", &format!("/preflight/{}", id("A")), &[], b"{}".to_vec());
    talk.hear("no credential", &heard);
    talk.json("preflight", &id("W"), &json!({"machine_id": id("W")}));
    let heard = talk.json("ruledownload", &id("W"), &json!({"machine_id": id("W")}));
    talk.hear("no cookie", &heard);
    let heard = talk.message("ruledownload", &id("W"), &json!({"machine_id": id("W")}));
    talk.hear("second on a connection", &heard);
    let idle = talk.state.misbehaviours.idle_limit();
    talk.note("idle limit", idle);
    let flaw = talk.state.misbehaviours.certificate_flaw();
    talk.note("certificate", flaw);
}

pub(super) fn talk_about_forms(talk: &mut Talk) {
    let message = json!({"machine_id": id("X"), "hostname": "h", "primary_user": "u",
        "rulesHash": "00", "binary_rule_count": 1});
    let text = message.to_string().into_bytes();
    let gzip = Encoding::Gzip.encode(text.clone()).unwrap();
    let zlib = Encoding::Deflate.encode(text.clone()).unwrap();
    let json_type = ("Content-Type", "application/json");
    let encoded = |name| [json_type, ("Content-Encoding", name)];
    let request: wire::PreflightRequest = serde_json::from_value(message.clone()).unwrap();
    let protobuf = [("Content-Type", "application/x-protobuf")];
    for (step, headers, body) in [
        ("JSON, zlib", &encoded("deflate")[..], &zlib[..]),
        ("JSON, gzip", &encoded("gzip"), &gzip),
        ("JSON", &[json_type], &text),
        ("protobuf", &protobuf, &request.encode_to_vec()),
        ("br", &encoded("br"), b"?"),
        ("half a body", &encoded("gzip"), &gzip[..gzip.len() / 2]),
        ("broken message", &[json_type], b"{\"serial_num\":"),
        ("charset", &[("Content-Type", "application/json; charset=utf-8")], &text),
    ] {
        let heard = talk.bytes("preflight", headers, body);
        talk.hear(step, &heard);
    }
    let page = Encoding::Gzip.encode(json!({"machine_id": id("X")}).to_string().into()).unwrap();
    let heard = talk.bytes("ruledownload", &encoded("gzip"), &page);
    talk.hear("page, gzip", &heard);
    let heard = talk.bytes("eventupload", &[json_type], b"{\"events\":[");
    talk.hear("broken upload", &heard);

    for (step, name, value) in [
        ("unknown member", "probe_unknown_field", json!({"a": [1, "x"]})),
        ("null", "hostname", Value::Null),
        ("number as text", "binary_rule_count", json!("3")),
        ("enum as number", "client_mode", json!(1)),
        ("no machine_id in the body", "machine_id", json!("")),
        ("groups", "primary_user_groups", json!(["g"])),
        ("no owner", "primary_user", json!("")),
        ("no rules hash", "rulesHash", json!("")),
        ("standalone", "client_mode", json!("STANDALONE")),
        ("odd hostname", "hostname", json!("Zoë’s 💻")),
        ("odd version", "os_version", json!("14.5 (beta)")),
    ] {
        let mut odd = message.clone();
        odd[name] = value;
        let heard = talk.json("preflight", &id("X"), &odd);
        talk.hear(step, &heard);
    }
    talk.json("preflight", &id("Y"), &json!({"machine_id": id("Y"), "primary_user": ""}));
    let heard = talk.message("ruledownload", &id("Y"), &json!({"machine_id": id("Y")}));
    talk.hear("rules of nobody", &heard);
}

pub(super) fn talk_about_machines(talk: &mut Talk) {
    let told = |name: &str| json!({"machine_id": name, "primary_user": "u", "rulesHash": "0"});
    let heard = talk.json("preflight", "C02PROBE0001", &told("C02PROBE0001"));
    talk.hear("a serial number as machine id", &heard);
    let stranger = id("?");
    let heard = talk.json("preflight", &stranger, &told(&stranger));
    talk.hear("not enrolled", &heard);
    let heard = talk.json("ruledownload", &id("N"), &json!({"machine_id": id("N")}));
    talk.hear("a page before any preflight", &heard);
}

pub(super) fn talk_about_clean_syncs(talk: &mut Talk) {
    talk.sync("first sync with a wish", "A", true);
    talk.sync("second sync", "A", false);
    talk.sync("a wish", "A", true);
    talk.tables.remove("A");
    talk.sync("rules lost", "A", false);
    talk.sync("first sync without a wish", "B", false);

    talk.preflight("C begins", "C", false);
    talk.page("C", &json!(""));
    talk.preflight("C begins again", "C", false);
    let received = talk.walk("C", json!(""));
    talk.note("C gets", received);

    talk.preflight("repeated: first", "C", true);
    talk.preflight("repeated: second", "C", true);
    let received = talk.walk("C", json!(""));
    talk.note("repeated: rules", received);

    talk.preflight("D begins", "D", true);
    talk.walk("D", json!(""));
    talk.tables.remove("D");
    talk.preflight("D begins again", "D", false);
    let received = talk.walk("D", json!(""));
    talk.note("D gets", received);
}

pub(super) fn talk_about_pages(talk: &mut Talk) {
    talk.preflight("pages", "A", true);
    let (second, rules) = talk.page("A", &json!(""));
    talk.note("first page", (&second, &rules));
    let (_, again) = talk.page("A", &json!(""));
    talk.note("first page again", again);
    let (third, rules) = talk.page("A", &second);
    talk.note("second page", (&third, &rules));
    let (_, again) = talk.page("A", &second);
    talk.note("second page again", again);
    talk.connection += 1;
    let (_, elsewhere) = talk.page("A", &third);
    talk.note("last page on another connection", elsewhere);
    talk.connection -= 1;
    talk.now += Duration::from_secs(10);
    let later = talk.page("A", &third);
    talk.note("last page 10 s later", later);
    let body = json!({"machine_id": id("A"), "cursor": "no-such-cursor"});
    let heard = talk.message("ruledownload", &id("A"), &body);
    talk.hear("unknown cursor", &heard);
    talk.now += Duration::from_secs(70);
    let body = json!({"machine_id": id("A")});
    let heard = talk.message("ruledownload", &id("A"), &body);
    talk.hear("first page 70 s later", &heard);

    talk.sync("a complete sync", "A", true);
    let heard = talk.json("ruledownload", &id("A"), &json!({"machine_id": id("A")}));
    talk.hear("a page outside a sync", &heard);
    let heard =
        talk.json("eventupload", &id("A"), &json!({"machine_id": id("A"), "events": [event(1)]}));
    talk.hear("an event outside a sync", &heard);
}

pub(super) fn talk_about_events(talk: &mut Talk) {
    talk.preflight("before events", "A", false);
    let with = |number, name: &str, value: Value| {
        let mut event = event(number);
        event[name] = value;
        json!({"machine_id": id("A"), "events": [event]})
    };
    talk.upload("small event", &json!({"machine_id": id("A"), "events": [event(2)]}));
    talk.upload("the same event", &json!({"machine_id": id("A"), "events": [event(2)]}));
    talk.upload("no user", &with(3, "executing_user", json!("")));
    talk.upload("quarantined", &with(4, "quarantine_data_url", json!("https://x.invalid/")));
    talk.upload("mismatch", &with(5, "decision", json!("BLOCK_BINARY_MISMATCH")));
    talk.upload("emoji", &with(6, "file_name", json!("💻")));
    talk.upload("long path", &with(7, "file_path", json!("/a".repeat(500))));
    let chain = json!([{"sha256": "00", "valid_until": 4_294_967_295_u32}]);
    talk.upload("valid until", &with(8, "signing_chain", chain));
    talk.upload("no hash", &with(9, "file_sha256", json!("")));
    talk.upload("bundle", &with(10, "file_bundle_hash", json!("b1")));
    let mut part = with(11, "file_bundle_hash", json!("b1"));
    part["events"][0]["decision"] = json!("BUNDLE_BINARY");
    talk.upload("part of the bundle", &part);
    let batch: Vec<_> = (20..70).map(event).collect();
    talk.upload("a batch", &json!({"machine_id": id("A"), "events": batch}));
    let access = json!({"rule_name": "r", "target": "/etc", "access_time": 1.5});
    talk.upload(
        "file access alone",
        &json!({"machine_id": id("A"), "file_access_events": [access]}),
    );
    let audit = json!({"standalone_mode_rule_creation": {"identifier": "x"}});
    talk.upload("audit alone", &json!({"machine_id": id("A"), "audit_events": [audit]}));

    talk.preflight("before an event elsewhere", "A", true);
    let connection = talk.connection;
    talk.json("eventupload", &id("A"), &json!({"machine_id": id("A"), "events": [event(99)]}));
    talk.connection = connection;
    let received = talk.walk("A", json!(""));
    talk.note("rules after an event elsewhere", received);
    let kept = talk.state.events.len();
    talk.note("events kept", kept);
}

pub(super) fn talk_about_postflight(talk: &mut Talk) {
    talk.sync("before postflights", "A", true);
    let heard = talk.postflight("A", RULES, "CLEAN");
    talk.hear("postflight again", &heard);
    talk.sync("after two postflights", "A", false);

    let clean = |talk: &mut Talk, sync_type: &str| {
        talk.preflight(&format!("before {sync_type:?}"), "A", true);
        let received = talk.walk("A", json!(""));
        let heard = talk.postflight("A", received, sync_type);
        talk.hear(&format!("postflight {sync_type:?}"), &heard);
    };
    clean(talk, "CLEAN_ALL");
    clean(talk, "");

    talk.preflight("E begins", "E", true);
    let heard = talk.postflight("E", 0, "CLEAN");
    talk.hear("postflight without a download", &heard);
    talk.preflight("E begins again", "E", false);
    let received = talk.walk("E", json!(""));
    talk.note("E gets", received);

    talk.preflight("E2 begins", "E2", true);
    talk.walk("E2", json!(""));
    let body = json!({"machine_id": id("E2"), "rules_received": RULES, "syncType": "CLEAN"});
    let heard = talk.message("postflight", &id("E2"), &body);
    talk.hear("postflight that processed nothing", &heard);
}

pub(super) fn talk_about_others(talk: &mut Talk) {
    talk.sync("A before others", "A", true);
    talk.sync("B before others", "B", true);
    talk.preflight("A in turn", "A", true);
    talk.preflight("B in turn", "B", true);
    let (cursor_a, _) = talk.page("A", &json!(""));
    let (cursor_b, _) = talk.page("B", &json!(""));
    talk.walk("A", cursor_a);
    talk.walk("B", cursor_b);
    let tables = (talk.tables["A"].len(), talk.tables["B"].len());
    talk.note("rules in turn", tables);
    let heard = talk.postflight("A", RULES, "CLEAN");
    talk.hear("postflight of A in turn", &heard);
    let heard = talk.postflight("B", RULES, "CLEAN");
    talk.hear("postflight of B in turn", &heard);

    talk.tables.insert("F".to_owned(), talk.tables["A"].clone());
    talk.preflight("a twin of A", "F", false);

    talk.preflight("B breaks off", "B", true);
    talk.walk("B", json!(""));
    talk.sync("A meanwhile", "A", true);
    talk.tables.remove("B");
    talk.preflight("B after A", "B", false);
    let received = talk.walk("B", json!(""));
    talk.note("B gets after A", received);

    talk.preflight("one of two at once", "A", false);
    talk.now -= Duration::from_millis(990);
    talk.preflight("the other at once", "B", false);
}

pub(super) fn talk_about_changes(talk: &mut Talk) {
    talk.sync("A before changes", "A", true);
    talk.sync("B before changes", "B", true);
    let last = talk.state.host(&id("B")).and_then(|host| host.last_sync);
    talk.note("time of the last sync", last);
    let rules = talk.state.rules();
    talk.state.queue_changes(fixtures::changes(&rules, (1, 1, 1), 5));
    talk.preflight("a change", "A", false);
    let received = talk.walk("A", json!(""));
    talk.note("a change brings", received);
    talk.preflight("a change again", "A", false);
    let received = talk.walk("A", json!(""));
    talk.note("a change again brings", received);
    let heard = talk.postflight("A", 3, "NORMAL");
    talk.hear("a change: postflight", &heard);
    talk.sync("a change for B", "B", false);

    assert!(talk.state.request_clean_sync(&id("A")));
    talk.preflight("clean by request", "A", false);
    talk.preflight("clean by request again", "A", false);
}
