//! The corpus `fixtures/exchanges`: whole exchanges in the shapes of real
//! servers, replayed through the transport and decoded.

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::read::{DeflateEncoder, GzEncoder, ZlibEncoder};
use prost::Message as _;
use santa_sync::model::{
    BaseUrl, ClientMode, Cursor, HostFacts, MachineId, Proxy, Rule, RuleCounts, Secret, Stage,
    SyncType, Transfer,
};
use santa_sync::protocol::body::{self, ResponseBody};
use santa_sync::protocol::cel::CelBudget;
use santa_sync::protocol::{events, postflight, preflight, rules, wire};
use santa_sync::transport::{Transport, TransportOptions};

use super::server::{NOW, Reply, Request, Script, compressed};

const MACHINE_ID: &str = "0A1B2C3D-0000-4000-8000-0123456789AB";
const RULES_HASH: &str = "a6cb5171bbb8895820d61e395592b293";

/// One file of the corpus.
struct AttemptResult {
    name: String,
    keys: Vec<(String, String)>,
    line: String,
    headers: Vec<(String, String)>,
    request: String,
    answer: String,
}

fn pair(line: &str, separator: &str) -> (String, String) {
    let (key, value) = line.split_once(separator).expect(line);
    (key.to_owned(), value.trim().to_owned())
}

impl AttemptResult {
    fn read(file: &Path) -> Self {
        let text = std::fs::read_to_string(file).expect("a file of the corpus");
        let (request, answer) = text.split_once("\n----\n").expect("a line of dashes");
        let mut lines = request.lines().skip_while(|line| line.starts_with('#')).peekable();
        let mut keys = Vec::new();
        while let Some(line) = lines.next_if(|line| line.starts_with('@')) {
            keys.push(pair(&line[1..], " "));
        }
        let line = lines.next().expect("a request line").to_owned();
        let headers = lines.by_ref().take_while(|line| !line.is_empty()).map(|l| pair(l, ":"));
        let headers = headers.collect();
        Self {
            name: file.file_stem().expect("a name").to_string_lossy().into_owned(),
            keys,
            line: line.replace("{id}", MACHINE_ID),
            headers,
            request: lines.collect(),
            answer: answer.to_owned(),
        }
    }

    fn values<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.keys.iter().filter(move |(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    fn is_protobuf(&self) -> bool {
        self.values("answer").any(|value| value == "protobuf")
    }

    fn transfer(&self) -> Transfer {
        if self.is_protobuf() { Transfer::Protobuf } else { Transfer::Json }
    }

    /// The URL up to the stage, and the stage's segment.
    fn target(&self) -> (&str, &str) {
        let path = self.line.split(' ').nth(1).expect("a path");
        let stage = path.strip_suffix(&format!("/{MACHINE_ID}")).expect("the machine id");
        stage.rsplit_once('/').expect("a stage")
    }

    fn stage(&self) -> Option<Stage> {
        let (_, segment) = self.target();
        Stage::ALL.iter().copied().find(|stage| stage.segment() == segment)
    }

    /// The body to send: what the protocol makes of fixed values.
    fn body(&self) -> Vec<u8> {
        let id = MachineId::new(MACHINE_ID).expect("a machine id");
        let form = self.transfer();
        let encoded = match self.stage() {
            Some(Stage::Preflight) => body::encode(form, &preflight::request(&id, &facts(), false)),
            Some(Stage::EventUpload) => body::encode(
                form,
                &wire::EventUploadRequest { machine_id: id.to_string(), ..Default::default() },
            ),
            Some(Stage::RuleDownload) => {
                let cursor = self.values("cursor").next().map(str::to_owned).and_then(Cursor::new);
                body::encode(form, &rules::request(&id, cursor.as_ref()))
            }
            Some(Stage::Postflight) => {
                body::encode(form, &postflight::request(&id, SyncType::Clean, 2, 2, RULES_HASH))
            }
            None => return Vec::new(),
        };
        encoded.expect("a body")
    }

    fn reply(&self) -> Reply {
        let (head, text) = self.answer.split_once("\n\n").expect("a head and a body");
        let head = head.replace('\n', "\r\n");
        if head.contains("Transfer-Encoding") {
            return Reply::Keep(self.answer.replace('\n', "\r\n").into_bytes());
        }
        let mut wire = text.strip_suffix('\n').unwrap_or(text).as_bytes().to_vec();
        if self.is_protobuf() {
            let page: wire::RuleDownloadResponse =
                serde_json::from_slice(&wire).expect("the answer as JSON");
            wire = page.encode_to_vec();
        }
        for encoding in self.values("answer") {
            wire = match encoding {
                "gzip" => compressed(GzEncoder::new(&*wire, Compression::best())),
                "deflate" => compressed(ZlibEncoder::new(&*wire, Compression::best())),
                "raw-deflate" => compressed(DeflateEncoder::new(&*wire, Compression::best())),
                _ => wire,
            };
        }
        if head.contains("Connection: close") {
            return Reply::Close([head.as_bytes(), b"\r\n\r\n", &wire].concat());
        }
        let head = format!("{head}\r\nContent-Length: {}\r\n\r\n", wire.len());
        Reply::Keep([head.as_bytes(), &wire].concat())
    }

    fn options(&self, port: u16) -> TransportOptions {
        let base = format!("http://localhost:{port}{}", self.target().0);
        let mut options = TransportOptions::new(
            BaseUrl::parse(&base).expect("a base URL"),
            MachineId::new(MACHINE_ID).expect("a machine id"),
        );
        options.proxy = Proxy::Direct;
        if let Some(encoding) = self.values("encoding").next() {
            options.content_encoding = encoding.parse().expect("an encoding");
        }
        options.transfer = self.transfer();
        options.extra_headers = self
            .values("header")
            .map(|line| pair(line, ":"))
            .map(|(name, value)| (name, Secret::new(value)))
            .collect();
        options
    }

    /// Whether the request is the one the file wants.
    fn check(&self, request: &Request) {
        assert_eq!(request.line(), self.line, "{}", self.name);
        for (header, wanted) in &self.headers {
            let value = request.header(header);
            let fits = match wanted.as_str() {
                "*" => value.is_some(),
                "-" => value.is_none(),
                wanted => value == Some(wanted),
            };
            assert!(fits, "{}: {header} is {value:?}, wanted {wanted:?}", self.name);
        }
        if !self.request.is_empty() {
            let mut sent = Vec::new();
            match request.header("content-encoding") {
                Some("deflate") => {
                    flate2::read::ZlibDecoder::new(&*request.body).read_to_end(&mut sent)
                }
                Some("gzip") => flate2::read::GzDecoder::new(&*request.body).read_to_end(&mut sent),
                _ => (&*request.body).read_to_end(&mut sent),
            }
            .expect("the encoding the header names");
            let json = |bytes: &[u8]| -> serde_json::Value {
                serde_json::from_slice(bytes).expect("JSON")
            };
            assert_eq!(json(&sent), json(self.request.as_bytes()), "{}", self.name);
        }
    }

    /// What a body means, in words.
    fn meaning(&self, answer: &[u8]) -> String {
        let received = ResponseBody::new(self.transfer(), answer);
        let meaning = match self.stage().expect("a stage") {
            Stage::Preflight => body::decode(received)
                .map(|decoded| format!("{:#?}", preflight::read(decoded.message))),
            Stage::EventUpload => body::decode(received)
                .map(|decoded| format!("bundles: {:?}", events::bundle_requests(decoded.message))),
            Stage::RuleDownload => {
                rules::read_page(received, 1, &mut CelBudget::default(), &|| false)
                    .map(|decoded| page_words(&decoded.message))
            }
            Stage::Postflight => {
                body::decode::<wire::PostflightResponse>(received).map(|_| "done".to_owned())
            }
        };
        meaning.unwrap_or_else(|error| format!("error: {error}"))
    }
}

fn page_words(page: &rules::Page) -> String {
    let mut words = String::new();
    for rule in page.rules.iter().map(Rule::from) {
        let identifier = &rule.identifier;
        let _ = write!(words, "{} {} {identifier}", rule.policy.name(), identifier.rule_type());
        let details = rule.details.as_ref().map(|details| format!(" {details:?}"));
        let _ = writeln!(words, "{}", details.unwrap_or_default());
    }
    for rejected in &page.rejected {
        let _ = writeln!(
            words,
            "rejected {} {:?}: {}",
            rejected.index, rejected.identifier, rejected.reason
        );
    }
    let _ = write!(words, "cursor: {:?}", page.cursor);
    words
}

fn facts() -> preflight::PreflightFacts {
    preflight::PreflightFacts {
        host: HostFacts {
            serial_number: "C02X".to_owned(),
            hostname: "host.example.com".to_owned(),
            os_version: "14.5".to_owned(),
            os_build: "23F79".to_owned(),
            model_identifier: "Mac14,2".to_owned(),
            santa_version: "2025.6".to_owned(),
            primary_user: "ada".to_owned(),
            ..HostFacts::default()
        },
        client_mode: ClientMode::Monitor,
        rule_counts: RuleCounts { binary: 3, certificate: 1, ..RuleCounts::default() },
        rules_hash: RULES_HASH.to_owned(),
    }
}

/// Replays the files of a server's folder; answers what came of them.
async fn replay(server: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/exchanges").join(server);
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("a folder of the corpus")
        .map(|entry| entry.expect("a file").path())
        .collect();
    files.sort();
    let mut report = String::new();
    for file in files {
        let exchange = AttemptResult::read(&file);
        let script = Script::new([exchange.reply()]);
        let transport = Transport::new(exchange.options(script.listen().await)).expect("transport");
        let outcome = match exchange.stage() {
            None => match transport.fetch_token(NOW).await {
                Ok(token) => format!("token: {token:?}"),
                Err(failure) => format!("{}: {failure}", failure.kind),
            },
            Some(stage) => match transport.post(stage, &exchange.body(), None, NOW).await.outcome {
                Ok(answer) => exchange.meaning(&answer.body),
                Err(failure) => {
                    let wait = failure.retry_after.map(|wait| format!(" (after {wait:?})"));
                    format!("{}{}: {failure}", failure.kind, wait.unwrap_or_default())
                }
            },
        };
        exchange.check(script.requests().first().expect("a request"));
        let _ = writeln!(report, "== {}\n{outcome}\n", exchange.name);
    }
    report
}

/// HTTP-1, HTTP-5, HTTP-6, HTTP-7, JSON-1 and JSON-2 against the shapes of
/// servers that exist.
async fn snapshot(server: &str) {
    let report = replay(server).await;
    let mut settings = insta::Settings::clone_current();
    settings.add_filter(r"localhost:\d+", "localhost:PORT");
    settings.bind(|| insta::assert_snapshot!(format!("exchanges_{server}"), report));
}

#[tokio::test]
async fn json_1_exchanges_with_moroz() {
    snapshot("moroz").await;
}

#[tokio::test]
async fn json_1_exchanges_with_rudolph() {
    snapshot("rudolph").await;
}

#[tokio::test]
async fn json_1_exchanges_with_zentral() {
    snapshot("zentral").await;
}

#[tokio::test]
async fn json_1_exchanges_seen_elsewhere() {
    snapshot("elsewhere").await;
}
