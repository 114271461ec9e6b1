//! How a server speaks: what it demands of requests and how its answers look.
//! Every field is something that a server of the field does.

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

/// Which forms of the messages a server takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// JSON and protobuf.
    Any,
    /// JSON alone; protobuf is answered 415.
    Json,
    /// Protobuf alone; JSON is answered 415.
    Protobuf,
}

/// When answers are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerEncoding {
    /// With gzip or deflate if the request's `Accept-Encoding` names it.
    AsAccepted,
    /// In this way, asked for or not.
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

/// What preflight answers about the type of the sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncTypePolicy {
    /// CLEAN if the client requests a clean sync, else NORMAL.
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

/// The form of rule page cursors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CursorStyle {
    /// Eight letters and digits, the same for the same page.
    Opaque,
    /// Eight random letters and digits, others in each answer. Sending one
    /// acknowledges the page before.
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

/// What the `xsrf` endpoint does, and whether the stages demand its token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Xsrf {
    /// There is none: 404.
    Absent,
    /// It answers 200 without a token.
    NoToken,
    /// Stages answer 403 without the token in the header of this name, which
    /// is told in `X-XSRF-TOKEN-HEADER` unless it is `X-XSRF-TOKEN`.
    Demanded(String),
}

/// How a server speaks. Start from a [`Preset`] and change what matters.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a habit that servers have or have not")]
pub struct Style {
    /// The forms it takes.
    pub transfer: Transfer,
    /// Whether `Content-Type` must be the media type to the letter; 415 with
    /// a charset behind it.
    pub exact_content_type: bool,
    /// The request encodings it takes.
    pub request_encodings: Vec<Encoding>,
    /// The status for one that it does not take, or whose data is corrupt.
    pub wrong_encoding_status: u16,
    /// Whether bodies are taken for zlib whatever the header says, and that of
    /// rule download is not read at all.
    pub assumes_zlib: bool,
    /// The largest request body in bytes as it came over the wire; a larger
    /// one is answered 413.
    pub request_max: Option<usize>,
    /// Whether chunked requests are answered 400.
    pub refuses_chunked: bool,
    /// When answers are compressed.
    pub answer_encoding: AnswerEncoding,
    /// How field names are written.
    pub spelling: Spelling,
    /// What is said about the sync's type.
    pub sync_type: SyncTypePolicy,
    /// Whether `sync_type` is written in lower case.
    pub lower_case_sync_type: bool,
    /// What preflight says, on top of the settings, in the server's own words.
    pub preflight_extra: Value,
    /// The form of cursors.
    pub cursor: CursorStyle,
    /// Whether the last page with rules has a cursor too, which leads to an
    /// empty one.
    pub cursor_after_last_page: bool,
    /// Whether all rules come on one page whatever the page size.
    pub one_page: bool,
    /// Whether an empty set of rules is `null`.
    pub null_rules: bool,
    /// What stands before each JSON answer.
    pub xssi_prefix: &'static str,
    /// The `Content-Type` of JSON answers; none if empty.
    pub content_type: String,
    /// Whether the answers to event upload and postflight have no body.
    pub empty_answers: bool,
    /// The answer to event upload if no bundle is asked for.
    pub event_upload_answer: Value,
    /// The answer to postflight.
    pub postflight_answer: Value,
    /// What goes with an error status.
    pub errors: ErrorStyle,
    /// The XSRF endpoint.
    pub xsrf: Xsrf,
    /// The name of a cookie that preflight sets and later stages demand, with
    /// 401 if it is missing.
    pub cookie: Option<String>,
    /// A header every request must carry, with 401 if it does not.
    pub header: Option<(String, String)>,
    /// Whether the machine id must be a UUID, with 403 if it is not.
    pub uuid_only: bool,
    /// Whether a `machine_id` in the body must equal that of the path, with
    /// 400 if it does not.
    pub compares_machine_id: bool,
    /// Whether serial, hostname, OS version (dotted integers) and build must
    /// be told, with 400 if they are not.
    pub demands_host_facts: bool,
    /// Whether client mode STANDALONE is answered 500.
    pub refuses_standalone: bool,
    /// Whether the other stages are answered 400 before a preflight.
    pub preflight_first: bool,
    /// Whether a sync counts as done only if postflight reports as many rules
    /// processed as were sent, and a clean sync as one.
    pub commits_if_exact: bool,
}

/// A style after a server of the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// What the protocol says, and nothing odd.
    Plain,
    /// Files on disk, one page, zlib only, `clean_sync`.
    Moroz,
    /// Serverless: JSON text cursors, an empty last page, lower-case types.
    Rudolph,
    /// Strict about everything; cursors acknowledge pages.
    Zentral,
}

impl Preset {
    /// Every preset with its name on the command line.
    pub const NAMES: [(&'static str, Self); 4] = [
        ("plain", Self::Plain),
        ("moroz", Self::Moroz),
        ("rudolph", Self::Rudolph),
        ("zentral", Self::Zentral),
    ];

    /// The style.
    #[must_use]
    pub fn style(self) -> Style {
        match self {
            Self::Plain => plain(),
            Self::Moroz => Style {
                transfer: Transfer::Json,
                request_encodings: vec![Encoding::Deflate],
                wrong_encoding_status: 500,
                assumes_zlib: true,
                spelling: Spelling::Snake,
                sync_type: SyncTypePolicy::LegacyFlag,
                preflight_extra: json!({"allowed_path_regex": "", "blocked_path_regex": ""}),
                one_page: true,
                null_rules: true,
                event_upload_answer: json!({"Err": null}),
                postflight_answer: json!({"NoOp": {}}),
                errors: ErrorStyle::JsonAsText,
                refuses_standalone: true,
                ..plain()
            },
            Self::Rudolph => Style {
                transfer: Transfer::Json,
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
                ..plain()
            },
            Self::Zentral => Style {
                transfer: Transfer::Json,
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
                commits_if_exact: true,
                ..plain()
            },
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
        transfer: Transfer::Any,
        exact_content_type: false,
        request_encodings: vec![Encoding::Identity, Encoding::Deflate, Encoding::Gzip],
        wrong_encoding_status: 415,
        assumes_zlib: false,
        request_max: None,
        refuses_chunked: false,
        answer_encoding: AnswerEncoding::Always(Encoding::Identity),
        spelling: Spelling::Schema,
        sync_type: SyncTypePolicy::AsRequested,
        lower_case_sync_type: false,
        preflight_extra: json!({}),
        cursor: CursorStyle::Opaque,
        cursor_after_last_page: false,
        one_page: false,
        null_rules: false,
        xssi_prefix: "",
        content_type: "application/json".to_owned(),
        empty_answers: false,
        event_upload_answer: json!({}),
        postflight_answer: json!({}),
        errors: ErrorStyle::Json,
        xsrf: Xsrf::Absent,
        cookie: None,
        header: None,
        uuid_only: false,
        compares_machine_id: false,
        demands_host_facts: false,
        refuses_standalone: false,
        preflight_first: false,
        commits_if_exact: false,
    }
}
