//! Responses before faults are applied, and the formats of request and response
//! bodies.

use bytes::Bytes;
use hyper::header::HeaderMap;
use prost::Message as _;
use serde::de::{DeserializeOwned, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};

use super::style::{AcceptedForms, Encoding, ErrorStyle, ResponseEncoding, Style};
use crate::model::Now;
use crate::protocol::wire;

/// A request as received.
#[derive(Debug)]
pub(super) struct ReceivedRequest {
    pub(super) method: String,
    /// With the query.
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// The number of its connection.
    pub(super) connection: u64,
    /// When it arrived.
    pub(super) at: Now,
}

impl ReceivedRequest {
    /// A header's value; empty if it is absent or not text.
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// The form of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Json,
    Protobuf,
}

/// Why a request is refused, as far as it matters for what becomes of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RefusalReason {
    Other,
    /// A credential is missing or wrong.
    Credential,
    /// The machine is not enrolled.
    NotEnrolled,
    /// There was no preflight.
    NoPreflight,
    /// The content encoding is unknown.
    Coding,
    /// The compressed body ends early.
    CutShort,
    /// The body is not a message.
    Message,
    /// The cursor is unknown.
    Cursor,
    /// There are no XSRF tokens.
    NoTokens,
}

/// A refused request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) words: String,
    pub(super) reason: RefusalReason,
}

impl Refusal {
    pub(super) fn new(status: u16, words: impl Into<String>) -> Self {
        Self { status, words: words.into(), reason: RefusalReason::Other }
    }

    pub(super) fn because(mut self, reason: RefusalReason) -> Self {
        self.reason = reason;
        self
    }
}

/// A complete response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Bytes,
}

impl Reply {
    pub(super) fn new(status: u16, content_type: &str, body: impl Into<Bytes>) -> Self {
        let mut reply = Self { status, headers: Vec::new(), body: body.into() };
        if !content_type.is_empty() {
            reply.set("Content-Type", content_type);
        }
        reply
    }

    pub(super) fn set(&mut self, name: &str, value: &str) {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.to_owned()));
    }

    /// The response to a refused request, in the server's style.
    pub(super) fn refusal(style: &Style, refusal: &Refusal) -> Self {
        let Refusal { status, words, .. } = refusal;
        let object = json!({ "error": words }).to_string();
        match style.errors {
            ErrorStyle::Json => Self::new(*status, "application/json", object),
            ErrorStyle::JsonAsText => Self::new(*status, "text/plain; charset=utf-8", object),
            ErrorStyle::Html => Self::new(*status, "text/html; charset=utf-8", page(words)),
        }
    }

    /// The response to a request that was served, in the server's style.
    pub(super) fn success(
        style: &Style,
        incoming: &ReceivedRequest,
        form: Form,
        body: Bytes,
    ) -> Result<Self, Refusal> {
        let (content_type, body) = match form {
            Form::Protobuf => ("application/x-protobuf", body),
            Form::Json if body.is_empty() => (style.content_type.as_str(), body),
            Form::Json => {
                let body = match style.xssi_prefix.as_bytes() {
                    [] => body,
                    prefix => [prefix, &body].concat().into(),
                };
                (style.content_type.as_str(), body)
            }
        };
        let accepts = incoming.header("accept-encoding");
        let encoding = match style.response_encoding {
            _ if body.is_empty() => Encoding::Identity,
            ResponseEncoding::Always(encoding) => encoding,
            ResponseEncoding::AsAccepted if accepts.contains("gzip") => Encoding::Gzip,
            ResponseEncoding::AsAccepted if accepts.contains("deflate") => Encoding::Deflate,
            ResponseEncoding::AsAccepted => Encoding::Identity,
        };
        let body = match encoding {
            Encoding::Identity => body,
            Encoding::Gzip | Encoding::Deflate => {
                let encoded = encoding.encode(body.into());
                encoded.map_err(|e| Refusal::new(500, e.to_string()))?.into()
            }
        };
        let mut reply = Self::new(200, content_type, body);
        if let Some(name) = encoding.header() {
            reply.set("Content-Encoding", name);
        }
        Ok(reply)
    }
}

/// A page of HTML with this text.
pub(super) fn page(words: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html><head><title>{words}</title></head><body><h1>{words}</h1></body></html>\n"
    )
}

fn media_type(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

/// The form that a request says it has.
pub(super) fn form_of(incoming: &ReceivedRequest) -> Form {
    let media_type = media_type(incoming.header("content-type"));
    if media_type.eq_ignore_ascii_case("application/x-protobuf") {
        Form::Protobuf
    } else {
        Form::Json
    }
}

/// Decodes a request's body as far as the server does.
pub(super) fn opened(
    style: &Style,
    incoming: &ReceivedRequest,
) -> Result<(Form, Vec<u8>), Refusal> {
    let body = &incoming.body;
    let content_type = incoming.header("content-type");
    let media_type = media_type(content_type);
    let form = form_of(incoming);
    let unsupported = || Refusal::new(415, format!("Content-Type {content_type:?} is not taken"));
    match (style.transfer, form) {
        (AcceptedForms::Any, _)
        | (AcceptedForms::Json, Form::Json)
        | (AcceptedForms::Protobuf, Form::Protobuf) => {}
        (AcceptedForms::Json, Form::Protobuf) | (AcceptedForms::Protobuf, Form::Json) => {
            return Err(unsupported());
        }
    }
    if style.exact_content_type && content_type != media_type {
        return Err(unsupported());
    }
    if style.request_max.is_some_and(|max| body.len() > max) {
        return Err(Refusal::new(413, format!("{} bytes are too many", body.len())));
    }
    if style.refuses_chunked && !incoming.header("transfer-encoding").is_empty() {
        return Err(Refusal::new(400, "chunked requests are not taken"));
    }
    let named = incoming.header("content-encoding");
    let wrong = |words: String| Refusal::new(style.wrong_encoding_status, words);
    let encoding = if style.assumes_zlib {
        Encoding::Deflate
    } else {
        Encoding::from_header(named)
            .filter(|encoding| style.request_encodings.contains(encoding))
            .ok_or_else(|| {
            wrong(format!("Content-Encoding {named:?} is not taken")).because(RefusalReason::Coding)
        })?
    };
    let opened = encoding.decode(body).map_err(|error| {
        let refusal = wrong(format!("the body is corrupt: {error}"));
        if error.kind() == std::io::ErrorKind::UnexpectedEof {
            refusal.because(RefusalReason::CutShort)
        } else {
            refusal
        }
    })?;
    Ok((form, opened))
}

/// Decodes a request message.
pub(super) fn read<M>(form: Form, body: &[u8]) -> Result<M, Refusal>
where
    M: prost::Message + Default + DeserializeOwned,
{
    let broken = |words: String| Refusal::new(400, words).because(RefusalReason::Message);
    match form {
        Form::Json if body.is_empty() => Ok(M::default()),
        Form::Json => {
            serde_json::from_slice(body).map_err(|error| broken(format!("not JSON: {error}")))
        }
        Form::Protobuf => M::decode(body).map_err(|error| broken(format!("not protobuf: {error}"))),
    }
}

/// Encodes a response message; in JSON these fields come first.
pub(super) fn written<M>(style: &Style, form: Form, message: &M, extra: &Value) -> Vec<u8>
where
    M: prost::Message + Serialize,
{
    match form {
        Form::Protobuf => message.encode_to_vec(),
        Form::Json => json_text(style, json!(message), extra),
    }
}

/// An object in the server's spelling, with these fields added unless present.
pub(super) fn json_text(style: &Style, object: Value, extra: &Value) -> Vec<u8> {
    let mut object = match style.spelling {
        super::Spelling::Schema => object,
        super::Spelling::Snake => respelled(object),
    };
    if let (Some(object), Some(extra)) = (object.as_object_mut(), extra.as_object()) {
        for (name, value) in extra {
            object.entry(name).or_insert_with(|| value.clone());
        }
    }
    object.to_string().into_bytes()
}

/// A value with every field name in `snake_case`.
pub(super) fn respelled(value: Value) -> Value {
    match value {
        Value::Object(object) => Value::Object(
            object
                .into_iter()
                .map(|(name, value)| (snake(&name), respelled(value)))
                .collect::<Map<_, _>>(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(respelled).collect()),
        other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => other,
    }
}

/// A field name in `snake_case`.
pub(super) fn snake(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 4);
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// Counts the events of an upload without decoding them.
pub(super) fn counted(form: Form, body: &[u8]) -> Result<u64, Refusal> {
    match form {
        Form::Json => serde_json::from_slice::<Counted>(body)
            .map(|counted| counted.0)
            .map_err(|e| Refusal::new(400, format!("not JSON: {e}"))),
        Form::Protobuf => {
            counted_protobuf(body).map_err(|e| Refusal::new(400, format!("not protobuf: {e}")))
        }
    }
}

fn counted_protobuf(mut body: &[u8]) -> Result<u64, prost::DecodeError> {
    use prost::encoding::{DecodeContext, decode_key, skip_field};
    const EVENTS: u32 = 1;
    const AUDIT_EVENTS: u32 = 3;
    const FILE_ACCESS_EVENTS: u32 = 4;
    let mut count = 0;
    while !body.is_empty() {
        let (tag, wire_type) = decode_key(&mut body)?;
        if matches!(tag, EVENTS | AUDIT_EVENTS | FILE_ACCESS_EVENTS) {
            count += 1;
        }
        skip_field(wire_type, tag, &mut body, DecodeContext::default())?;
    }
    Ok(count)
}

/// Counts the events of an upload in JSON.
struct Counted(u64);

impl<'de> Deserialize<'de> for Counted {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Upload;
        impl<'de> Visitor<'de> for Upload {
            type Value = Counted;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Counted, A::Error> {
                let mut count = 0;
                while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
                    match &*key {
                        "events" | "audit_events" | "file_access_events" | "auditEvents"
                        | "fileAccessEvents" => count += map.next_value::<Length>()?.0,
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(Counted(count))
            }
        }
        deserializer.deserialize_map(Upload)
    }
}

/// Counts the elements of an array; null has none.
struct Length(u64);

impl<'de> Deserialize<'de> for Length {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Elements;
        impl<'de> Visitor<'de> for Elements {
            type Value = Length;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an array or null")
            }
            fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Length, S::Error> {
                let mut length = 0;
                while seq.next_element::<IgnoredAny>()?.is_some() {
                    length += 1;
                }
                Ok(Length(length))
            }
            fn visit_unit<E>(self) -> Result<Length, E> {
                Ok(Length(0))
            }
        }
        deserializer.deserialize_any(Elements)
    }
}

/// The end of a rule page: the cursor, if there is one.
pub(super) fn page_end(form: Form, mut page: Vec<u8>, cursor: &str, as_number: bool) -> Vec<u8> {
    match form {
        Form::Protobuf => {
            let end = wire::RuleDownloadResponse { rules: Vec::new(), cursor: cursor.to_owned() };
            page.extend(end.encode_to_vec());
        }
        Form::Json => {
            if !cursor.is_empty() {
                page.extend_from_slice(b",\"cursor\":");
                let text = if as_number { cursor.to_owned() } else { json!(cursor).to_string() };
                page.extend_from_slice(text.as_bytes());
            }
            page.push(b'}');
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::fixtures::{self, AnyEvent};

    #[test]
    fn counting_events_agrees_with_reading_them() {
        let mut upload = wire::EventUploadRequest { machine_id: "M".into(), ..Default::default() };
        for event in fixtures::events(40, 5) {
            match event {
                AnyEvent::Execution(event) => upload.events.push(*event),
                AnyEvent::FileAccess(event) => upload.file_access_events.push(event),
            }
        }
        upload.audit_events.push(wire::AuditEvent::default());
        assert_eq!(counted(Form::Protobuf, &upload.encode_to_vec()), Ok(41));
        assert_eq!(counted(Form::Json, &serde_json::to_vec(&upload).unwrap()), Ok(41));
        assert_eq!(counted(Form::Json, br#"{"events":null,"more":[1,2]}"#), Ok(0));
    }

    #[test]
    fn names_are_respelled_at_every_depth() {
        let value =
            json!({"syncType": "CLEAN", "removableMediaPolicy": {"remountAs": [{"aB": 1}]}});
        let snake =
            json!({"sync_type": "CLEAN", "removable_media_policy": {"remount_as": [{"a_b": 1}]}});
        assert_eq!(respelled(value), snake);
    }
}
