//! HTTP-8: what a response can cost, measured on the whole process.
//!
//! Each case is a field of a response made as large as a response may be: long,
//! repeated, nested. The process is held at its last line of output, where the
//! kernel tells its peak. `SANTA_SYNC_MEMORY=full` sends 100 MiB each time and
//! holds the process to 256 MB; otherwise it is 1 MiB, and twice as much may be
//! taken beside what any sync takes.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::thread;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;

use crate::agent::Agent;

const MIB: usize = 1 << 20;

fn full() -> bool {
    std::env::var_os("SANTA_SYNC_MEMORY").is_some_and(|value| value == "full")
}

fn size() -> usize {
    if full() { 100 * MIB } else { MIB }
}

/// A response body: the unit is repeated until the body has its size.
#[derive(Clone)]
struct Case {
    name: &'static str,
    stage: &'static str,
    protobuf: bool,
    start: Vec<u8>,
    unit: Vec<u8>,
    end: Vec<u8>,
    /// Bytes that a rule made of one unit takes, if it is accepted.
    kept: usize,
}

fn json(stage: &'static str, name: &'static str, start: &str, unit: &str, end: &str) -> Case {
    Case {
        name,
        stage,
        protobuf: false,
        start: start.as_bytes().to_vec(),
        unit: unit.as_bytes().to_vec(),
        end: end.as_bytes().to_vec(),
        kept: 0,
    }
}

fn binary(stage: &'static str, name: &'static str, start: &[u8], unit: &[u8]) -> Case {
    let (start, unit) = (start.to_vec(), unit.to_vec());
    Case { name, stage, protobuf: true, start, unit, end: Vec::new(), kept: 0 }
}

/// The key and length of a field whose value is `length` bytes long.
fn field(number: u32, length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    prost::encoding::encode_key(number, prost::encoding::WireType::LengthDelimited, &mut bytes);
    prost::encoding::encode_varint(length as u64, &mut bytes);
    bytes
}

impl Case {
    fn units(&self) -> usize {
        size() / self.unit.len()
    }

    fn length(&self) -> usize {
        self.start.len() + self.units() * self.unit.len() + self.end.len()
    }

    /// The most that the process may take, in KiB, where any sync takes so much.
    fn limit(&self, any_sync: usize) -> usize {
        let kept = self.units() * self.kept;
        // Syncs differ by some MiB among themselves.
        let limit = if full() { 256_000_000 } else { any_sync * 1024 + 4 * MIB + 2 * size() };
        (limit + kept) / 1024
    }

    fn write(&self, out: &mut dyn std::io::Write) -> std::io::Result<()> {
        let many = (MIB / self.unit.len()).max(1);
        let block = self.unit.repeat(many);
        out.write_all(&self.start)?;
        for _ in 0..self.units() / many {
            out.write_all(&block)?;
        }
        for _ in 0..self.units() % many {
            out.write_all(&self.unit)?;
        }
        out.write_all(&self.end)
    }
}

/// Serves one sync: this case at its stage, defaults at the others.
fn serve(listener: &TcpListener, case: &Case, packed: Option<&[u8]>) {
    while let Ok((stream, _)) = listener.accept() {
        // A response that is too large to be read is not read to its end.
        let _ = converse(stream, case, packed);
    }
}

fn converse(mut stream: TcpStream, case: &Case, packed: Option<&[u8]>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let (mut path, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if path.is_empty() {
                path = line;
            } else if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        reader.by_ref().take(length).read_to_end(&mut Vec::new())?;
        let content_type =
            if case.protobuf { "application/x-protobuf" } else { "application/json" };
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\n");
        if !path.contains(&format!("/{}/", case.stage)) {
            let body = if case.protobuf { "" } else { "{}" };
            write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len())?;
        } else if let Some(body) = packed {
            let length = body.len();
            write!(stream, "{head}Content-Encoding: gzip\r\nContent-Length: {length}\r\n\r\n")?;
            stream.write_all(body)?;
        } else {
            write!(stream, "{head}Content-Length: {}\r\n\r\n", case.length())?;
            case.write(&mut stream)?;
        }
    }
}

/// Runs a sync against the case; its peak in KiB and the end of its log.
fn peak(case: &Case, gzip: bool) -> (usize, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let agent = Agent::at(&format!("http://{}/", listener.local_addr().expect("an address")));
    if case.stage == "eventupload" {
        agent.queue([json!({
            "file_sha256": "a".repeat(64), "file_path": "/usr/bin", "file_name": "yes",
            "execution_time": 1_700_000_000, "decision": "BLOCK_UNKNOWN",
        })]);
    }
    let served = case.clone();
    let packed = gzip.then(|| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        case.write(&mut encoder).expect("packed");
        encoder.finish().expect("packed")
    });
    // Ends with the test's process: it waits for connections until then.
    thread::spawn(move || serve(&listener, &served, packed.as_deref()));
    let protobuf = format!("SyncEnableProtoTransfer={}", case.protobuf);
    let mut command = agent.command(&["sync", "--json", "--log-level", "info", "--set", &protobuf]);
    let (out, mut held) = held_output(&mut command);
    let mut child = command.stderr(Stdio::piped()).spawn().expect("the program runs");
    // The child has the only other end.
    drop(command);
    drop(out);
    let mut log = BufReader::new(child.stderr.take().expect("a log")).lines();
    let end = log.find_map(|line| line.ok().filter(|line| line.contains("sync ends")));
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).expect("status");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    let peak = peak.trim().trim_end_matches(" kB").parse().expect("a number");
    let rest = thread::spawn(move || log.for_each(drop));
    held.read_to_end(&mut Vec::new()).expect("its output");
    child.wait().expect("it ends");
    rest.join().expect("its log ends");
    (peak, end.expect("the sync ends"))
}

/// Makes the command's standard output one that takes nothing until the other
/// end is read.
fn held_output(command: &mut Command) -> (OwnedFd, UnixStream) {
    let (mut out, held) = UnixStream::pair().expect("a pair");
    out.set_nonblocking(true).expect("set");
    let filled = std::iter::repeat_with(|| out.write(&[b'\n'; 1024])).find_map(Result::err);
    assert_eq!(filled.map(|error| error.kind()), Some(std::io::ErrorKind::WouldBlock));
    out.set_nonblocking(false).expect("set");
    let out = OwnedFd::from(out);
    command.stdout(out.try_clone().expect("another"));
    (out, held)
}

fn check(cases: &[Case]) {
    let nothing = Case { start: b"{}".to_vec(), ..json("none", "nothing", "", "x", "") };
    let (any_sync, _) = peak(&nothing, false);
    for (n, case) in cases.iter().enumerate() {
        // Both ways in the full run; by turns otherwise.
        for gzip in [false, true] {
            if full() || gzip == (n % 2 == 1) {
                let (peak, end) = peak(case, gzip);
                let (name, stage, limit) = (case.name, case.stage, case.limit(any_sync));
                assert!(peak <= limit, "{stage} {name} gzip={gzip}: {peak} > {limit} KiB; {end}");
            }
        }
    }
}

/// HTTP-8: settings in JSON.
#[test]
fn http_8_no_preflight_response_takes_much_memory() {
    let long = format!("\"allowed_path_regex\":\"{}\",", "x".repeat(60 << 10));
    let case = |name, start: &str, unit: &str, end: &str| json("preflight", name, start, unit, end);
    check(&[
        case("text", r#"{"allowed_path_regex":""#, "x", r#""}"#),
        case("escaped text", r#"{"push_token":""#, r"\u0041", r#""}"#),
        case("repeated text", "{", &long, r#""a":1}"#),
        case("small texts", r#"{"remount_usb_mode":["#, r#""","#, r#"""]}"#),
        case("array for a text", r#"{"event_detail_url":["#, "0,", "0]}"),
        case("deep array for an enum", r#"{"client_mode":"#, "[", "}"),
        case("deep unknown objects", r#"{"x":"#, r#"{"":"#, "]"),
        case("digits", r#"{"batch_size":1"#, "1", "}"),
        case("word", r#"{"sync_type":""#, "CLEAN", r#""}"#),
        case("key", "{\"", "k", "\":1}"),
        case("escaped key", "{\"", r"\n", "\":1}"),
        case("many keys", "{", r#""a":0,"#, r#""a":0}"#),
        case("flags", r#"{"removable_media_policy":{"remount":{"flags":["#, r#""x","#, r#"""]}}}"#),
        case(
            "map",
            r#"{"export_configuration":{"signed_post":{"form_values":{"#,
            r#""":"","#,
            r#""a":""}}}}"#,
        ),
        case("error beside an answer", r#"{"batch_size":1,"error":""#, r"\u0007", r#""}"#),
        case("faults", "{", r#""batch_size":"x","#, r#""a":0}"#),
        case("text that is no JSON", "", "nonsense ", ""),
        Case { unit: vec![0xff], ..case("not UTF-8", r#"{"push_token":""#, "x", r#""}"#) },
    ]);
}

/// HTTP-8: rules in JSON.
#[test]
fn http_8_no_rule_page_takes_much_memory() {
    let rule = r#"{"identifier":"AAAAAAAAAA","policy":"BLOCKLIST","rule_type":"TEAMID""#;
    let page =
        |name, start: &str, unit: &str, end: &str| json("ruledownload", name, start, unit, end);
    let with = |field: &str| format!(r#"{{"rules":[{rule},{field}"#);
    let accepted = |name, unit: String| Case {
        kept: 64 + unit.len(),
        ..page(name, r#"{"rules":["#, &unit, "null]}")
    };
    check(&[
        page("array in a rule", &with(r#""x":["#), "0,", "0]}]}"),
        page("array for a policy", r#"{"rules":[{"policy":["#, "0,", "0]}]}"),
        page("deep rule", &with(r#""custom_msg":"#), "[", "}"),
        page("no rules", r#"{"rules":["#, "{},", "{}]}"),
        page("nulls", r#"{"rules":["#, "null,", "null]}"),
        page("identifier", r#"{"rules":[{"policy":1,"identifier":""#, "x", r#""}]}"#),
        page("key in a rule", r#"{"rules":[{""#, "k", r#"":1}]}"#),
        page("message", &with(r#""custom_msg":""#), "x", r#""}]}"#),
        page("cursor", r#"{"rules":[],"cursor":""#, "x", r#""}"#),
        page("cursor of digits", r#"{"rules":[],"cursor":1"#, "1", "}"),
        page("repeated cursor", "{", r#""cursor":"x","#, r#""cursor":""}"#),
        page("expression", &with(r#""policy":"CEL","cel_expr":""#), "#@", r#""}]}"#),
        page(
            "bad expressions",
            r#"{"rules":["#,
            &format!(r#"{rule},"policy":"CEL","cel_expr":"{}"}},"#, "#@".repeat(20_000)),
            "null]}",
        ),
        accepted("rules", format!("{rule}}},")),
        accepted(
            "rules with texts",
            format!(r#"{rule},"custom_msg":"m","custom_url":"u","notification_app_name":"a"}},"#),
        ),
    ]);
}

/// HTTP-8: bundle hashes in JSON, and what a postflight may hold.
#[test]
fn http_8_no_upload_response_takes_much_memory() {
    let upload =
        |name, start: &str, unit: &str, end: &str| json("eventupload", name, start, unit, end);
    check(&[
        upload("hashes", r#"{"event_upload_bundle_binaries":["#, r#""h","#, r#""h"]}"#),
        upload("hash", r#"{"event_upload_bundle_binaries":[""#, "h", r#""]}"#),
        json("postflight", "anything", r#"{"x":["#, "[],", "0]}"),
    ]);
}

/// HTTP-8: every response in binary protobuf.
#[test]
fn http_8_no_binary_response_takes_much_memory() {
    let size = size();
    // One field, in fields around it, whose value is made of units.
    let within = |stage, name, numbers: &[u32], unit: &[u8]| {
        assert_eq!(size % unit.len(), 0, "{name}: the value is made of whole units");
        let mut start = Vec::new();
        let mut length = size;
        for number in numbers.iter().rev() {
            let head = field(*number, length);
            length += head.len();
            start = [head, start].concat();
        }
        binary(stage, name, &start, unit)
    };
    let flag = [field(36, 4), field(3, 2), field(1, 0)].concat();
    check(&[
        within("preflight", "text", &[11], b"x"),
        within("preflight", "not UTF-8", &[11], b"\xff"),
        binary("preflight", "small texts", &[], &field(14, 0)),
        within("preflight", "flags", &[36, 3], &field(1, 0)),
        binary("preflight", "one flag each", &[], &flag),
        within("preflight", "map", &[16, 1], &field(2, 0)),
        within("preflight", "urls", &[16, 1], &[field(1, 2), b"uu".to_vec()].concat()),
        binary("preflight", "unknown enums", &[], &[8, 99]),
        binary("preflight", "unknown fields", &[24, 1], &[0xf8, 0x3e, 1]),
        binary("eventupload", "hashes", &[], &field(1, 0)),
        binary("ruledownload", "empty rules", &[], &field(1, 0)),
        within("ruledownload", "rule", &[1], b"\x0a\x00"),
        within("ruledownload", "cursor", &[2], b"x"),
        binary("ruledownload", "cursors", &[], &[field(2, 1), b"x".to_vec()].concat()),
        binary("postflight", "unknown fields", &[], &[8, 1]),
    ]);
}
