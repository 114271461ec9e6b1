//! Exchanges as files: one JSON object each, whole, to look at and to replay.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use hyper::header::{HeaderName, HeaderValue};
use prost::Message as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use super::exchange::{Exchange, Route};
use super::reply::{ReceivedRequest, Reply};
use super::script::Script;
use super::style::Encoding;
use crate::failure::Remedy;
use crate::files;
use crate::model::{Stage, Timestamp};
use crate::protocol::wire;

/// A recording has at most so many exchanges, and so many bytes: 1 GiB.
const MAX_EXCHANGES: u64 = 10_000;
const MAX_BYTES: u64 = 1 << 30;

/// The version of the files.
const SCHEMA_VERSION: u32 = 1;

/// Headers that hold no secret.
const PLAIN_HEADERS: [&str; 12] = [
    "accept",
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "date",
    "host",
    "location",
    "retry-after",
    "transfer-encoding",
    "user-agent",
];

const MASK: &str = "(masked)";

/// Why a recording cannot be written or used.
#[derive(Debug, Error)]
pub enum RecordingError {
    /// A file or the directory cannot be read or written.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file is not an exchange.
    #[error("{path} is not a recorded exchange: {message}", path = path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// The directory has files in it already.
    #[error("{path} is not empty", path = _0.display())]
    NotEmpty(PathBuf),
    /// There is nothing to replay.
    #[error("{path} holds no recorded exchange", path = _0.display())]
    Empty(PathBuf),
    /// There is more than a recording may hold.
    #[error("{path} holds more than 10,000 exchanges or 1 GiB", path = _0.display())]
    TooLarge(PathBuf),
}

impl Remedy for RecordingError {
    fn fix(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::NotEmpty(_) => Some("name a directory that does not exist".into()),
            Self::Empty(_) => Some("name a directory that --record wrote".into()),
            Self::Io { .. } | Self::Content { .. } | Self::TooLarge(_) => None,
        }
    }
}

/// A body, as text where it is text.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RecordedBody {
    Text(String),
    Base64(String),
}

impl RecordedBody {
    fn of(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Base64(BASE64.encode(bytes)),
        }
    }

    fn bytes(&self) -> Result<Bytes, String> {
        match self {
            Self::Text(text) => Ok(text.clone().into()),
            Self::Base64(text) => {
                BASE64.decode(text).map(Into::into).map_err(|error| error.to_string())
            }
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordedRequest {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    /// As received.
    body: RecordedBody,
    /// The message, decoded; null if it cannot be.
    message: Value,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordedResponse {
    status: u16,
    headers: Vec<(String, String)>,
    body: RecordedBody,
}

impl RecordedResponse {
    /// Checks what HTTP demands: a file may have been edited.
    fn check(&self) -> Result<(), String> {
        if !(200..=599).contains(&self.status) {
            return Err(format!("no response has status {}; give 200 to 599", self.status));
        }
        for (name, value) in &self.headers {
            let is_sound = HeaderName::from_bytes(name.as_bytes()).is_ok()
                && HeaderValue::from_str(value).is_ok();
            if !is_sound {
                return Err(format!("HTTP forbids the header {name:?} with the value {value:?}"));
            }
        }
        Ok(())
    }
}

/// A file of a recording.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordedExchange {
    schema_version: u32,
    number: u64,
    time: Timestamp,
    route: Option<String>,
    machine_id: String,
    request: RecordedRequest,
    /// Null if the response was no complete HTTP.
    response: Option<RecordedResponse>,
    note: String,
}

/// Writes a recording.
#[derive(Debug)]
pub(super) struct Recorder {
    directory: PathBuf,
    masks: bool,
    exchanges: u64,
    bytes: u64,
}

impl Recorder {
    /// Begins a recording in a directory that is empty or does not exist.
    pub(super) fn create(directory: &Path, masks: bool) -> Result<Self, RecordingError> {
        let failed = |action| {
            move |source| RecordingError::Io { action, path: directory.to_owned(), source }
        };
        fs::create_dir_all(directory).map_err(failed("make"))?;
        if fs::read_dir(directory).map_err(failed("read"))?.next().is_some() {
            return Err(RecordingError::NotEmpty(directory.to_owned()));
        }
        Ok(Self { directory: directory.to_owned(), masks, exchanges: 0, bytes: 0 })
    }

    /// Writes an exchange; beyond the bounds of a recording, nothing.
    pub(super) fn record(
        &mut self,
        incoming: &ReceivedRequest,
        exchange: &Exchange,
        response: &Script,
    ) {
        if self.exchanges >= MAX_EXCHANGES || self.bytes >= MAX_BYTES {
            return;
        }
        self.exchanges += 1;
        let file = self.file(incoming, exchange, response);
        let route = exchange.route.map_or("unknown", Route::name);
        let machine: String = exchange
            .machine_id
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' })
            .take(64)
            .collect();
        let name = format!("{:06}-{route}-{machine}.json", exchange.number);
        let path = self.directory.join(name);
        let mut text = serde_json::to_vec_pretty(&file).unwrap_or_default();
        text.push(b'\n');
        self.bytes += text.len() as u64;
        if let Err(error) = fs::write(&path, text) {
            tracing::error!(path = %path.display(), %error, "the recording cannot be written");
        }
        if self.exchanges >= MAX_EXCHANGES || self.bytes >= MAX_BYTES {
            tracing::warn!(exchanges = self.exchanges, bytes = self.bytes, "the recording is full");
        }
    }

    fn file(
        &self,
        incoming: &ReceivedRequest,
        exchange: &Exchange,
        response: &Script,
    ) -> RecordedExchange {
        let header = |name: &str, value: &str| {
            let is_plain = PLAIN_HEADERS.iter().any(|plain| name.eq_ignore_ascii_case(plain));
            let value = if self.masks && !is_plain { MASK } else { value };
            (name.to_owned(), value.to_owned())
        };
        let headers = incoming
            .headers
            .iter()
            .map(|(name, value)| header(name.as_str(), &String::from_utf8_lossy(value.as_bytes())));
        let (mut path, mut message) = (incoming.path.clone(), exchange.body.clone());
        let mut body = RecordedBody::of(&incoming.body);
        if self.masks {
            let stage = exchange.route.map_or("", Route::segment);
            // A secret may be in front of the stage, or in the query.
            path = format!("/{MASK}/{stage}/{}", exchange.machine_id);
            mask_members(&mut message);
            body = RecordedBody::Text(message.to_string());
        }
        let response = match response {
            Script::Whole(reply) => {
                let masked = self.masks.then(|| masked_reply(exchange.route, reply));
                let reply = masked.as_ref().unwrap_or(reply);
                let headers = reply.headers.iter().map(|(name, value)| header(name, value));
                Some(RecordedResponse {
                    status: reply.status,
                    headers: headers.collect(),
                    body: RecordedBody::of(&reply.body),
                })
            }
            Script::Bare(_) => None,
        };
        // That of an unknown path repeats it.
        let hides_note = self.masks && exchange.route.is_none();
        RecordedExchange {
            schema_version: SCHEMA_VERSION,
            number: exchange.number,
            time: incoming.at.wall,
            route: exchange.route.map(|route| route.name().to_owned()),
            machine_id: exchange.machine_id.clone(),
            request: RecordedRequest {
                method: incoming.method.clone(),
                path,
                headers: headers.collect(),
                body,
                message,
            },
            response,
            note: if hides_note { MASK.to_owned() } else { exchange.note.clone() },
        }
    }
}

/// A response whose body is decoded and has no secrets. Settings that cannot be
/// read are left out.
fn masked_reply(route: Option<Route>, reply: &Reply) -> Reply {
    let value = |name: &str| {
        let found = reply.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str()).unwrap_or_default()
    };
    let mut masked = reply.clone();
    let decoded = Encoding::from_header(value("content-encoding"))
        .and_then(|encoding| encoding.decode(&reply.body).ok());
    if let Some(body) = decoded {
        masked.body = body.into();
        masked.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("content-encoding"));
    }
    if route.is_none() {
        // It repeats the path.
        masked.body = MASK.into();
    }
    if route != Some(Route::Stage(Stage::Preflight)) || masked.body.is_empty() {
        return masked;
    }
    let is_protobuf = value("content-type").starts_with("application/x-protobuf");
    masked.body = if let Ok(mut message) = serde_json::from_slice::<Value>(&masked.body) {
        mask_members(&mut message);
        message.to_string().into()
    } else if is_protobuf && let Ok(settings) = wire::PreflightResponse::decode(&*masked.body) {
        let settings = wire::PreflightResponse {
            push_token: String::new(),
            push_issuer_token: String::new(),
            export_configuration: None,
            ..settings
        };
        settings.encode_to_vec().into()
    } else {
        MASK.into()
    };
    masked
}

/// Hides the members of messages that hold secrets.
fn mask_members(message: &mut Value) {
    const SECRET: [&str; 4] =
        ["push_token", "push_issuer_token", "push_notification_token", "export_configuration"];
    if let Some(members) = message.as_object_mut() {
        for (name, value) in members {
            if SECRET.contains(&super::reply::snake(name).as_str()) {
                *value = MASK.into();
            }
        }
    }
}

/// A recording to answer from. The n-th request of a route, machine and cursor gets
/// what its n-th one got.
#[derive(Debug, Default)]
pub(super) struct Replay {
    /// The responses in order, and how many have been given.
    responses: HashMap<(Route, String, String), (Vec<Script>, usize)>,
    /// The machine that stands for any, if there is only one.
    only_machine: Option<String>,
    /// Requests that the recording has no response for.
    pub(super) misses: u64,
}

impl Replay {
    /// Reads a recording.
    pub(super) fn load(directory: &Path) -> Result<Self, RecordingError> {
        let io = |action, path: &Path| {
            let path = path.to_owned();
            move |source| RecordingError::Io { action, path, source }
        };
        let mut paths = Vec::new();
        for entry in fs::read_dir(directory).map_err(io("read", directory))? {
            let path = entry.map_err(io("read", directory))?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                paths.push(path);
            }
        }
        paths.sort();
        let mut size = 0;
        let mut files = Vec::with_capacity(paths.len());
        for path in paths {
            size += fs::metadata(&path).map_err(io("read", &path))?.len();
            if size > MAX_BYTES || files.len() as u64 >= MAX_EXCHANGES {
                return Err(RecordingError::TooLarge(directory.to_owned()));
            }
            let text = files::read(&path, MAX_BYTES)
                .map_err(|obstacle| io("read", &path)(obstacle.into()))?;
            files.push(
                Self::file(&text).map_err(|message| RecordingError::Content { path, message })?,
            );
        }
        if files.is_empty() {
            return Err(RecordingError::Empty(directory.to_owned()));
        }
        let mut replay = Self::default();
        for (key, response) in files.into_iter().flatten() {
            replay.responses.entry(key).or_default().0.push(response);
        }
        let mut machines: Vec<_> = replay.responses.keys().map(|(_, id, _)| id).collect();
        machines.sort();
        machines.dedup();
        replay.only_machine = match machines.as_slice() {
            [one] => Some((*one).clone()),
            _ => None,
        };
        Ok(replay)
    }

    #[expect(clippy::type_complexity, reason = "an entry of the map")]
    fn file(text: &[u8]) -> Result<Option<((Route, String, String), Script)>, String> {
        let file: RecordedExchange =
            serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if file.schema_version != SCHEMA_VERSION {
            return Err(format!("version {} is not known", file.schema_version));
        }
        let Some(route) = file.route else { return Ok(None) };
        let response = match file.response {
            Some(recorded) => {
                recorded.check()?;
                Script::Whole(Reply {
                    status: recorded.status,
                    headers: recorded.headers,
                    body: recorded.body.bytes()?,
                })
            }
            // As much as can be said of it: no response.
            None => Script::Bare(Vec::new()),
        };
        let cursor = cursor_of(&file.request.message);
        Ok(Some(((route.parse()?, file.machine_id, cursor), response)))
    }

    /// The recorded response, or why there is none.
    pub(super) fn next(
        &mut self,
        route: Route,
        machine_id: &str,
        message: &Value,
    ) -> Result<Script, String> {
        let cursor = cursor_of(message);
        let machine = self.only_machine.as_deref().unwrap_or(machine_id);
        let key = (route, machine.to_owned(), cursor);
        let found = self.responses.get_mut(&key).and_then(|(responses, given)| {
            let response = responses.get(*given).cloned();
            *given += usize::from(response.is_some());
            response
        });
        found.ok_or_else(|| {
            self.misses += 1;
            let recorded = self.responses.get(&key).map_or(0, |(responses, _)| responses.len());
            let of_cursor = match key.2.as_str() {
                "" => String::new(),
                cursor => format!(" with cursor {cursor:?}"),
            };
            format!("the recording has {recorded} of {route} for {machine}{of_cursor}, and no more")
        })
    }
}

fn cursor_of(message: &Value) -> String {
    message["cursor"].as_str().unwrap_or_default().to_owned()
}
