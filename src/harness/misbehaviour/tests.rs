//! One conversation with the server that touches every requirement, held with a
//! server that behaves and once with each misbehaviour. What differs is pinned.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use prost::Message as _;
use serde_json::{Value, json};

use super::*;
use crate::harness::fixtures;
use crate::harness::reply::ReceivedRequest;
use crate::harness::script::{Script, Wait};
use crate::harness::state::State;
use crate::harness::style::Encoding;
use crate::model::{Now, Timestamp};
use crate::protocol::wire;

const RULES: usize = 25;
const PAGE: usize = 10;

/// A machine id, from a name for people.
fn id(name: &str) -> String {
    let number = name.bytes().fold(0_u64, |number, byte| number << 8 | u64::from(byte));
    format!("5A17A000-0000-4000-8000-{number:F>12X}")
}

/// The conversation so far.
struct Talk {
    state: State,
    now: Duration,
    connection: u64,
    /// What each step brought.
    heard: BTreeMap<String, String>,
    /// The rules each machine has.
    tables: BTreeMap<String, BTreeSet<String>>,
    /// The machines whose next page empties their table first.
    cleans: BTreeSet<String>,
}

impl Talk {
    fn new(misbehaviours: &[Misbehaviour]) -> Self {
        let mut state = State::new(1);
        state.page_size = PAGE;
        state.start_with(fixtures::rules(RULES, 1));
        state.style.header = Some(("Authorization".to_owned(), "t".to_owned()));
        let machines = ["A", "B", "C", "D", "E", "E2", "F", "N", "W", "X", "Y"].map(id);
        let odd = ["C02PROBE0001".to_owned()];
        state.style.enrolled = Some(machines.into_iter().chain(odd).collect());
        for misbehaviour in misbehaviours {
            state.misbehaviours.add(*misbehaviour);
        }
        let (now, connection) = (Duration::from_secs(1000), 0);
        Self {
            state,
            now,
            connection,
            heard: BTreeMap::new(),
            tables: BTreeMap::new(),
            cleans: BTreeSet::new(),
        }
    }

    /// Sends a request on the same connection as the one before, at once.
    fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Heard {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            map.insert(name, HeaderValue::from_str(value).unwrap());
        }
        let handled = self.state.handle(&ReceivedRequest {
            method: method.to_owned(),
            path: path.to_owned(),
            headers: map,
            body: body.into(),
            connection: self.connection,
            at: Now { wall: Timestamp::from_secs(1_750_000_000), elapsed: self.now },
        });
        let waits = match handled.wait {
            Wait::Nothing => "",
            Wait::For(_) | Wait::Release => " late",
        };
        let (shown, body) = match handled.response {
            Script::Whole(reply) => (format!("{} {:?}", reply.status, reply.headers), reply.body),
            Script::Bare(steps) => (format!("{steps:?}"), bytes::Bytes::new()),
        };
        Heard { shown: shown + waits, body: body.to_vec() }
    }

    /// Sends a JSON message as any client does, on a connection of its own.
    fn json(&mut self, stage: &str, machine: &str, body: &Value) -> Heard {
        self.connection += 1;
        self.now += Duration::from_secs(1);
        self.message(stage, machine, body)
    }

    /// The same on the connection of the request before.
    fn message(&mut self, stage: &str, machine: &str, body: &Value) -> Heard {
        let headers = [
            ("Content-Type", "application/json"),
            ("Content-Encoding", "deflate"),
            ("Authorization", "t"),
        ];
        let body = Encoding::Deflate.encode(body.to_string().into_bytes()).unwrap();
        self.send("POST", &format!("/{stage}/{machine}"), &headers, body)
    }

    fn bytes(&mut self, stage: &str, headers: &[(&str, &str)], body: &[u8]) -> Heard {
        self.connection += 1;
        self.now += Duration::from_secs(1);
        let path = format!("/{stage}/{}", id("X"));
        let headers: Vec<_> = headers.iter().copied().chain([("Authorization", "t")]).collect();
        self.send("POST", &path, &headers, body.to_vec())
    }

    fn hear(&mut self, step: &str, heard: &Heard) {
        let shown = format!("{} {}", heard.shown, String::from_utf8_lossy(&heard.body));
        assert!(self.heard.insert(step.to_owned(), shown).is_none(), "{step} is heard twice");
    }

    fn note(&mut self, step: &str, shown: impl std::fmt::Debug) {
        assert!(self.heard.insert(step.to_owned(), format!("{shown:?}")).is_none(), "{step}");
    }

    /// A preflight with true counts. Returns the type.
    fn preflight(&mut self, step: &str, name: &str, wish: bool) -> String {
        let rules = self.tables.get(name).map_or(0, BTreeSet::len);
        let body = json!({"machine_id": id(name), "serial_num": "S", "hostname": "h",
            "os_version": "15.5", "os_build": "24F74", "santa_version": "2026.4",
            "primary_user": "u", "client_mode": "MONITOR", "request_clean_sync": wish,
            "binary_rule_count": rules, "rulesHash": format!("{rules:032x}")});
        let heard = self.json("preflight", &id(name), &body);
        self.hear(step, &heard);
        let sync_type = heard.json()["syncType"].as_str().unwrap_or("none").to_owned();
        if sync_type.starts_with("CLEAN") {
            self.cleans.insert(name.to_owned());
        }
        sync_type
    }

    /// One page, on the connection of the preflight. Returns its cursor and rules.
    fn page(&mut self, name: &str, cursor: &Value) -> (Value, Vec<Value>) {
        let body = json!({"machine_id": id(name), "cursor": cursor});
        let heard = self.message("ruledownload", &id(name), &body);
        let page = heard.json();
        let rules = page["rules"].as_array().cloned().unwrap_or_default();
        if self.cleans.remove(name) {
            self.tables.remove(name);
        }
        let table = self.tables.entry(name.to_owned()).or_default();
        for rule in &rules {
            let identifier = rule["identifier"].as_str().unwrap_or_default().to_owned();
            if rule["policy"] == "REMOVE" {
                table.remove(&identifier);
            } else {
                table.insert(identifier);
            }
        }
        let cursor = &page["cursor"];
        let cursor = cursor.as_u64().map_or(cursor.clone(), |number| json!(number.to_string()));
        (cursor, rules)
    }

    /// All pages from a cursor on, seven at most. Returns the number of rules.
    fn walk(&mut self, name: &str, mut cursor: Value) -> usize {
        let mut received = 0;
        for _ in 0..7 {
            let (next, rules) = self.page(name, &cursor);
            received += rules.len();
            cursor = next;
            if cursor.is_null() {
                break;
            }
        }
        received
    }

    fn postflight(&mut self, name: &str, received: usize, sync_type: &str) -> Heard {
        let rules = self.tables.get(name).map_or(0, BTreeSet::len);
        let body = json!({"machine_id": id(name), "rules_received": received,
            "rules_processed": received, "syncType": sync_type,
            "rulesHash": format!("{rules:032x}")});
        self.message("postflight", &id(name), &body)
    }

    /// A whole sync, heard as one step: type, rules received, rules held, end.
    fn sync(&mut self, step: &str, name: &str, wish: bool) {
        let sync_type = self.preflight(&format!("{step}: preflight"), name, wish);
        let received = self.walk(name, json!(""));
        let end = self.postflight(name, received, &sync_type);
        self.note(&format!("{step}: rules"), (received, &self.tables[name].clone()));
        self.hear(&format!("{step}: postflight"), &end);
    }

    fn upload(&mut self, step: &str, body: &Value) {
        let heard = self.message("eventupload", &id("A"), body);
        self.hear(step, &heard);
    }
}

/// What came back.
struct Heard {
    shown: String,
    body: Vec<u8>,
}

impl Heard {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

fn event(number: u32) -> Value {
    json!({"file_sha256": format!("{number:064x}"), "file_path": "/tmp/probe",
        "executing_user": "u", "execution_time": 1_750_000_000.25, "decision": "ALLOW_UNKNOWN"})
}

/// The whole conversation.
fn talk(misbehaviours: &[Misbehaviour]) -> BTreeMap<String, String> {
    let mut talk = Talk::new(misbehaviours);
    talk_about_http(&mut talk);
    talk_about_forms(&mut talk);
    talk_about_machines(&mut talk);
    talk_about_clean_syncs(&mut talk);
    talk_about_pages(&mut talk);
    talk_about_events(&mut talk);
    talk_about_postflight(&mut talk);
    talk_about_others(&mut talk);
    talk_about_changes(&mut talk);
    talk.heard
}

fn talk_about_http(talk: &mut Talk) {
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

fn talk_about_forms(talk: &mut Talk) {
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
}

fn talk_about_machines(talk: &mut Talk) {
    let told = |name: &str| json!({"machine_id": name, "primary_user": "u", "rulesHash": "0"});
    let heard = talk.json("preflight", "C02PROBE0001", &told("C02PROBE0001"));
    talk.hear("a serial number as machine id", &heard);
    let stranger = id("?");
    let heard = talk.json("preflight", &stranger, &told(&stranger));
    talk.hear("not enrolled", &heard);
    let heard = talk.json("ruledownload", &id("N"), &json!({"machine_id": id("N")}));
    talk.hear("a page before any preflight", &heard);
}

fn talk_about_clean_syncs(talk: &mut Talk) {
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

fn talk_about_pages(talk: &mut Talk) {
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

fn talk_about_events(talk: &mut Talk) {
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

fn talk_about_postflight(talk: &mut Talk) {
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

fn talk_about_others(talk: &mut Talk) {
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

fn talk_about_changes(talk: &mut Talk) {
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

#[test]
fn there_is_a_misbehaviour_for_every_requirement() {
    let sections = [
        ("HTTP", 9),
        ("ENC", 9),
        ("ID", 5),
        ("PRE", 12),
        ("CLEAN", 8),
        ("RULE", 8),
        ("PAGE", 6),
        ("EVENT", 13),
        ("POST", 4),
        ("ISO", 4),
        ("ERR", 4),
        ("OPS", 6),
    ];
    let wanted: Vec<_> = sections
        .iter()
        .flat_map(|(name, count)| (1..=*count).map(move |n| format!("{name}-{n:02}")))
        .collect();
    assert_eq!(wanted.len(), 88);
    let mut broken: Vec<_> = Misbehaviour::ALL.iter().map(|m| m.requirement()).collect();
    broken.dedup();
    assert_eq!(broken, wanted, "each once, in the catalogue's order");
}

#[test]
fn a_misbehaviour_is_read_by_its_name_and_by_its_requirement() {
    for misbehaviour in Misbehaviour::ALL {
        assert_eq!(misbehaviour.name().parse(), Ok(*misbehaviour));
        assert!(misbehaviour.does().ends_with('.'), "{misbehaviour}");
    }
    assert_eq!("CLEAN-04".parse(), Ok(Misbehaviour::Clean04NeverEnds));
    assert_eq!("clean-05".parse(), Ok(Misbehaviour::Clean05Forgotten), "the plainest one");
    let unknown = "CLEAN-09".parse::<Misbehaviour>().unwrap_err().to_string();
    assert!(unknown.contains("`list` prints all"), "{unknown}");
}

/// Nothing else may differ from a server that behaves: a probe that finds more
/// than the requirement accuses falsely.
#[test]
fn each_misbehaviour_shows_where_its_requirement_is_touched() {
    let plain = talk(&[]);
    let mut lines = Vec::new();
    for misbehaviour in Misbehaviour::ALL {
        let heard = talk(&[*misbehaviour]);
        let differs: Vec<_> = plain
            .iter()
            .filter(|(step, was)| heard[*step] != **was)
            .map(|(step, _)| step)
            .collect();
        let count = differs.len();
        let shown = differs.into_iter().take(4).cloned().collect::<Vec<_>>().join(" | ");
        let more = if count > 4 { format!(" | {} more", count - 4) } else { String::new() };
        lines.push(format!("{misbehaviour}: {shown}{more}"));
    }
    insta::assert_snapshot!(lines.join("\n"));
}

/// What a server that behaves does wherever a misbehaviour could show.
#[test]
fn a_server_that_behaves_passes_the_whole_conversation() {
    let plain = talk(&[]);
    let is =
        |step: &str, words: &str| assert!(plain[step].contains(words), "{step}: {}", plain[step]);
    is("doctor", "400 ");
    is("unknown path", "404 ");
    is("no credential", "401 ");
    is("not enrolled", "403 ");
    is("br", "415 ");
    is("half a body", "415 ");
    is("broken message", "400 ");
    is("broken upload", "400 ");
    is("unknown cursor", "400 ");
    is("first sync without a wish: preflight", r#""syncType":"CLEAN""#);
    is("second sync: preflight", r#""syncType":"NORMAL""#);
    is("second sync: rules", "(0, ");
    is("rules lost: preflight", r#""syncType":"CLEAN""#);
    is("C begins again", r#""syncType":"CLEAN""#);
    is("D begins again", r#""syncType":"CLEAN""#);
    is("E begins again", r#""syncType":"CLEAN""#);
    is("after two postflights: preflight", r#""syncType":"NORMAL""#);
    is("a twin of A", r#""syncType":"CLEAN""#);
    is("clean by request again", r#""syncType":"CLEAN""#);
    is("events kept", "64");
    for step in ["C gets", "D gets", "E gets", "repeated: rules", "rules after an event elsewhere"]
    {
        assert_eq!(plain[step], RULES.to_string(), "{step}");
    }
    assert_eq!(plain["rules in turn"], "(25, 25)");
    assert_eq!((&*plain["a change brings"], &*plain["a change again brings"]), ("3", "3"));
    assert_eq!(
        plain["first page again"],
        plain["first page"]
            .split_once(", [")
            .map(|(_, rules)| format!("[{}", rules.strip_suffix(')').unwrap()))
            .unwrap()
    );
}
