//! A server's style: what it requires of requests and what its responses look
//! like. Every field is something that a real server does.

use std::time::Duration;

use serde_json::{Value, json};

use crate::protocol::wire::SyncType;

/// A content encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// None.
    Identity,
    /// Zlib, which is what the name deflate stands for in HTTP.
    Deflate,
    /// Gzip.
    Gzip,
}

/// The message formats a server accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptedForms {
    /// JSON and protobuf.
    Any,
    /// JSON only; protobuf gets 415.
    Json,
    /// Protobuf only; JSON gets 415.
    Protobuf,
}

/// When responses are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseEncoding {
    /// With gzip or deflate if the request's `Accept-Encoding` names it.
    AsAccepted,
    /// Always with this encoding, requested or not.
    Always(Encoding),
}

/// The spelling of field names in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Spelling {
    /// As the schema's JSON names are: mostly camelCase.
    Schema,
    /// `snake_case` throughout.
    Snake,
}

/// What preflight says about the type of sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncTypePolicy {
    /// CLEAN if the client or [`super::FakeServer::request_clean_sync`] requests
    /// it, if the host never had all rules, and if it says that it has none of
    /// those it was sent; otherwise NORMAL.
    AsNeeded,
    /// CLEAN if the client or [`super::FakeServer::request_clean_sync`] requests
    /// it, otherwise NORMAL.
    AsRequested,
    /// As [`Self::AsRequested`], and CLEAN too if the host says it has no
    /// binary, certificate, compiler and transitive rules.
    CleanWhenEmpty,
    /// Always this one.
    Always(SyncType),
    /// `clean_sync`, true or false as the client requests; no `sync_type`.
    LegacyFlag,
    /// Nothing.
    Silent,
}

/// When the rules of a sync count as delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// With any postflight.
    AnyPostflight,
    /// With a postflight after the last page was sent, if the host received all
    /// of them and processed some.
    Confirmed,
    /// With a postflight that processed exactly these rules and names the type.
    Exact,
}

/// The form of rule page cursors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CursorStyle {
    /// Eight letters and digits, the same for the same page.
    Opaque,
    /// Eight random letters and digits, new in each response. Sending one
    /// acknowledges the previous page.
    Fresh,
    /// The text of a JSON object, quotes and all.
    JsonText,
    /// A JSON number.
    Number,
}

/// The body that goes with an error status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorStyle {
    /// `{"error": ...}` as JSON.
    Json,
    /// The same, called `text/plain`.
    JsonAsText,
    /// A page of HTML.
    Html,
}

/// What the `xsrf` endpoint does, and whether the stages require its token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Xsrf {
    /// There is none: 404.
    Absent,
    /// It returns 200 without a token.
    NoToken,
    /// Stages return 403 without the token in this header, which is named in
    /// `X-XSRF-TOKEN-HEADER` unless it is `X-XSRF-TOKEN`.
    Demanded(String),
}

/// A server's style. Start from a [`Preset`] and change what matters.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a habit that servers have or have not")]
pub struct Style {
    /// The message formats it accepts.
    pub transfer: AcceptedForms,
    /// Whether `Content-Type` must be exactly the media type; with a charset it
    /// gets 415.
    pub exact_content_type: bool,
    /// The request encodings it accepts.
    pub request_encodings: Vec<Encoding>,
    /// The status for any other encoding, and for corrupt data.
    pub wrong_encoding_status: u16,
    /// Whether bodies are read as zlib regardless of the header, and that of
    /// rule download is not read at all.
    pub assumes_zlib: bool,
    /// The largest request body on the wire, in bytes; a larger one gets 413.
    pub request_max: Option<usize>,
    /// Whether chunked requests get 400.
    pub refuses_chunked: bool,
    /// When responses are compressed.
    pub response_encoding: ResponseEncoding,
    /// How field names are spelled.
    pub spelling: Spelling,
    /// What preflight says about the type of sync.
    pub sync_type: SyncTypePolicy,
    /// Whether `sync_type` is written in lower case.
    pub lower_case_sync_type: bool,
    /// Fields that preflight adds to the settings.
    pub preflight_extra: Value,
    /// The form of cursors.
    pub cursor: CursorStyle,
    /// Whether the last page with rules also has a cursor, which leads to an
    /// empty page.
    pub cursor_after_last_page: bool,
    /// Whether the last page that was reached by a cursor repeats that cursor, so
    /// that a client that does not notice never ends.
    pub repeats_last_cursor: bool,
    /// Whether all rules come on one page whatever the page size.
    pub one_page: bool,
    /// Whether an empty set of rules is `null`.
    pub null_rules: bool,
    /// Text before each JSON response.
    pub xssi_prefix: &'static str,
    /// The `Content-Type` of JSON responses; none if empty.
    pub content_type: String,
    /// Whether the responses to event upload and postflight have no body.
    pub empty_responses: bool,
    /// The response to event upload if no bundle is requested.
    pub event_upload_response: Value,
    /// The response to postflight.
    pub postflight_response: Value,
    /// The body of error responses.
    pub errors: ErrorStyle,
    /// The XSRF endpoint.
    pub xsrf: Xsrf,
    /// A cookie that preflight sets and later stages require; without it they
    /// return 401.
    pub cookie: Option<String>,
    /// A header that every request must have; otherwise it gets 401.
    pub header: Option<(String, String)>,
    /// Whether the machine id must be a UUID; otherwise 403.
    pub uuid_only: bool,
    /// Whether a `machine_id` in the body must equal that of the path; otherwise
    /// 400.
    pub compares_machine_id: bool,
    /// Whether serial, hostname, OS version (dotted integers) and build are
    /// required; otherwise 400.
    pub demands_host_facts: bool,
    /// Whether client mode STANDALONE gets 500.
    pub refuses_standalone: bool,
    /// Whether the other stages get 400 before a preflight.
    pub preflight_first: bool,
    /// When the rules of a sync count as delivered.
    pub delivery: Delivery,
    /// Whether an empty clean set has one REMOVE of an identifier that does not
    /// exist, because some clients ignore a clean sync without rules.
    pub removes_from_empty_set: bool,
    /// Whether the binaries of each new bundle are requested.
    pub requests_bundles: bool,
    /// The machines that are known; others get 403. `None` takes any.
    pub enrolled: Option<Vec<String>>,
    /// The status of the other stages from a restart of the server
    /// ([`super::FakeServer::restart`]) to the host's next preflight; `None` keeps
    /// sessions over a restart.
    pub lost_session_status: Option<u16>,
    /// How long after its preflight a sync may go on; later requests get 409.
    pub sync_time: Option<Duration>,
    /// How long a cursor is known.
    pub cursor_time: Option<Duration>,
    /// How long a connection may be idle before it is closed. Read when the
    /// server starts.
    pub idle_time: Option<Duration>,
}

/// The style of a real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// Follows the protocol.
    Plain,
    /// Files on disk, one page, zlib only, `clean_sync`.
    Moroz,
    /// Serverless: JSON text cursors, an empty last page, lower-case types.
    Rudolph,
    /// Strict about everything; cursors acknowledge pages.
    Zentral,
    /// Protobuf in gzip, and nothing else.
    ProtobufGzip,
    /// Later stages require the cookie of preflight.
    Cookie,
    /// Cursors are JSON numbers, and the last page repeats its own.
    NumericCursor,
    /// Every sync is CLEAN.
    AlwaysClean,
    /// An empty clean set is one REMOVE of an identifier that does not exist.
    RemoveFromEmpty,
    /// Sessions are lost in a restart: 409 until the next preflight.
    MemorySession,
}

impl Preset {
    /// Every preset with its name on the command line.
    pub const NAMES: [(&'static str, Self); 10] = [
        ("plain", Self::Plain),
        ("moroz", Self::Moroz),
        ("rudolph", Self::Rudolph),
        ("zentral", Self::Zentral),
        ("protobuf-gzip", Self::ProtobufGzip),
        ("cookie", Self::Cookie),
        ("numeric-cursor", Self::NumericCursor),
        ("always-clean", Self::AlwaysClean),
        ("remove-from-empty", Self::RemoveFromEmpty),
        ("memory-session", Self::MemorySession),
    ];

    /// The style.
    #[must_use]
    pub fn style(self) -> Style {
        match self {
            Self::Plain => plain(),
            Self::Moroz => Style {
                transfer: AcceptedForms::Json,
                request_encodings: vec![Encoding::Deflate],
                wrong_encoding_status: 500,
                assumes_zlib: true,
                spelling: Spelling::Snake,
                sync_type: SyncTypePolicy::LegacyFlag,
                preflight_extra: json!({"allowed_path_regex": "", "blocked_path_regex": ""}),
                one_page: true,
                null_rules: true,
                event_upload_response: json!({"Err": null}),
                postflight_response: json!({"NoOp": {}}),
                errors: ErrorStyle::JsonAsText,
                refuses_standalone: true,
                delivery: Delivery::AnyPostflight,
                ..plain()
            },
            Self::Rudolph => Style {
                transfer: AcceptedForms::Json,
                exact_content_type: true,
                request_encodings: vec![Encoding::Identity],
                wrong_encoding_status: 400,
                spelling: Spelling::Snake,
                sync_type: SyncTypePolicy::CleanWhenEmpty,
                lower_case_sync_type: true,
                preflight_extra: json!({"upload_logs_url": "", "server_note": {"a": [1, null]}}),
                cursor: CursorStyle::JsonText,
                cursor_after_last_page: true,
                xsrf: Xsrf::NoToken,
                uuid_only: true,
                preflight_first: true,
                delivery: Delivery::AnyPostflight,
                ..plain()
            },
            Self::Zentral => Style {
                transfer: AcceptedForms::Json,
                request_encodings: vec![Encoding::Identity, Encoding::Deflate],
                wrong_encoding_status: 400,
                request_max: Some(10 << 20),
                refuses_chunked: true,
                spelling: Spelling::Snake,
                preflight_extra: json!({"blocked_path_regex": "(?!)"}),
                cursor: CursorStyle::Fresh,
                errors: ErrorStyle::Html,
                uuid_only: true,
                demands_host_facts: true,
                preflight_first: true,
                delivery: Delivery::Exact,
                idle_time: Some(Duration::from_secs(3)),
                ..plain()
            },
            Self::ProtobufGzip => Style {
                transfer: AcceptedForms::Protobuf,
                request_encodings: vec![Encoding::Gzip],
                ..plain()
            },
            Self::Cookie => Style { cookie: Some("session".to_owned()), ..plain() },
            Self::NumericCursor => {
                Style { cursor: CursorStyle::Number, repeats_last_cursor: true, ..plain() }
            }
            Self::AlwaysClean => {
                Style { sync_type: SyncTypePolicy::Always(SyncType::Clean), ..plain() }
            }
            Self::RemoveFromEmpty => Style { removes_from_empty_set: true, ..plain() },
            Self::MemorySession => Style { lost_session_status: Some(409), ..plain() },
        }
    }
}

impl Default for Style {
    fn default() -> Self {
        plain()
    }
}

fn plain() -> Style {
    Style {
        transfer: AcceptedForms::Any,
        exact_content_type: false,
        request_encodings: vec![Encoding::Identity, Encoding::Deflate, Encoding::Gzip],
        wrong_encoding_status: 415,
        assumes_zlib: false,
        request_max: None,
        refuses_chunked: false,
        response_encoding: ResponseEncoding::Always(Encoding::Identity),
        spelling: Spelling::Schema,
        sync_type: SyncTypePolicy::AsNeeded,
        lower_case_sync_type: false,
        preflight_extra: json!({}),
        cursor: CursorStyle::Opaque,
        cursor_after_last_page: false,
        repeats_last_cursor: false,
        one_page: false,
        null_rules: false,
        xssi_prefix: "",
        content_type: "application/json".to_owned(),
        empty_responses: false,
        event_upload_response: json!({}),
        postflight_response: json!({}),
        errors: ErrorStyle::Json,
        xsrf: Xsrf::Absent,
        cookie: None,
        header: None,
        uuid_only: false,
        compares_machine_id: false,
        demands_host_facts: false,
        refuses_standalone: false,
        preflight_first: false,
        delivery: Delivery::Confirmed,
        removes_from_empty_set: false,
        requests_bundles: false,
        enrolled: None,
        lost_session_status: None,
        sync_time: None,
        cursor_time: None,
        idle_time: None,
    }
}
