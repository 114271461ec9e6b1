//! One conversation with the server that touches every requirement, held with a
//! server that behaves and once with each misbehaviour. What differs is pinned.

mod conversation;

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
    conversation::talk_about_http(&mut talk);
    conversation::talk_about_forms(&mut talk);
    conversation::talk_about_machines(&mut talk);
    conversation::talk_about_clean_syncs(&mut talk);
    conversation::talk_about_pages(&mut talk);
    conversation::talk_about_events(&mut talk);
    conversation::talk_about_postflight(&mut talk);
    conversation::talk_about_others(&mut talk);
    conversation::talk_about_changes(&mut talk);
    talk.heard
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
    let line = &|misbehaviour: &Misbehaviour| {
        let heard = talk(&[*misbehaviour]);
        let differs: Vec<_> = plain
            .iter()
            .filter(|(step, was)| heard[*step] != **was)
            .map(|(step, _)| step)
            .collect();
        let count = differs.len();
        let shown = differs.into_iter().take(4).cloned().collect::<Vec<_>>().join(" | ");
        let more = if count > 4 { format!(" | {} more", count - 4) } else { String::new() };
        format!("{misbehaviour}: {shown}{more}")
    };
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let share = Misbehaviour::ALL.len().div_ceil(threads);
    let lines: Vec<String> = std::thread::scope(|scope| {
        let parts: Vec<_> = Misbehaviour::ALL
            .chunks(share)
            .map(|part| scope.spawn(move || part.iter().map(line).collect::<Vec<_>>()))
            .collect();
        parts.into_iter().flat_map(|part| part.join().unwrap()).collect()
    });
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
