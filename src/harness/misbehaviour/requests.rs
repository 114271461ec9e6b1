//! What a misbehaving server refuses, and how.

use serde_json::{Value, json};

use super::{HostFacts, Misbehaviour, Misbehaviours};
use crate::harness::exchange::Route;
use crate::harness::reply::{Form, ReceivedRequest, Refusal, RefusalReason, Reply, page};
use crate::harness::script::{ConnectionStep, Script};
use crate::harness::style::Encoding;
use crate::model::Stage;
use crate::protocol::json::{Field, Message, Shape};
use crate::protocol::wire;

/// The machine id that Santa's doctor uses.
const DOCTOR: &str = "santactl-doctor-test";

const JSON: &str = "application/json";

fn is_upper_case(machine_id: &str) -> bool {
    machine_id.bytes().any(|byte| byte.is_ascii_uppercase())
}

impl Misbehaviours {
    /// The response to a request whose message does not matter. `is_first` says
    /// whether it is the first on its connection.
    pub(in crate::harness) fn at_the_door(
        &self,
        incoming: &ReceivedRequest,
        route: Option<Route>,
        is_first: bool,
    ) -> Option<Script> {
        let error = |status| Some(Script::Whole(Reply::new(status, "text/plain", "error\n")));
        let Some(route) = route else {
            if self.does(Misbehaviour::Http09Page) {
                return Some(Script::Whole(Reply::new(200, "text/html", page("Welcome"))));
            }
            return if self.does(Misbehaviour::Http09Error) { error(500) } else { None };
        };
        if self.does(Misbehaviour::Http05Reset) && !is_first {
            return Some(Script::Bare(Vec::new()));
        }
        if self.does(Misbehaviour::Http02TrailingSlash)
            && route != Route::Xsrf
            && !incoming.path.ends_with('/')
        {
            let mut reply = Reply::new(308, "", "");
            reply.set("Location", &format!("{}/", incoming.path));
            return Some(Script::Whole(reply));
        }
        let is_doctor = route == Route::Stage(Stage::Preflight)
            && incoming.method == "POST"
            && incoming.body.is_empty()
            && incoming.header("content-type").is_empty();
        if is_doctor && self.does(Misbehaviour::Http07Error) {
            return error(500);
        }
        if is_doctor && self.does(Misbehaviour::Http07NotFound) {
            return error(404);
        }
        None
    }

    /// Whether the server reads a body of this form at this stage.
    pub(in crate::harness) fn reads(
        &self,
        stage: Stage,
        form: Form,
        incoming: &ReceivedRequest,
    ) -> Result<(), Refusal> {
        if incoming.body.is_empty() {
            return Ok(());
        }
        let encoding = Encoding::from_header(incoming.header("content-encoding"));
        let is_gzip = encoding == Some(Encoding::Gzip);
        let with_charset = incoming.header("content-type").to_ascii_lowercase().contains("charset");
        let refuses = match form {
            Form::Protobuf => self.does(Misbehaviour::Enc04NoProtobuf),
            Form::Json => {
                (self.does(Misbehaviour::Enc01NoDeflate) && encoding == Some(Encoding::Deflate))
                    || (self.does(Misbehaviour::Enc02NoIdentity)
                        && encoding == Some(Encoding::Identity))
                    || (self.does(Misbehaviour::Enc03NoGzip) && is_gzip)
                    || (self.does(Misbehaviour::Enc05PreflightOnly)
                        && is_gzip
                        && stage != Stage::Preflight)
                    || (self.does(Misbehaviour::Enc09Charset) && with_charset)
            }
        };
        if refuses {
            return Err(Refusal::new(415, "this form is not taken"));
        }
        Ok(())
    }

    /// Whether the server admits this machine to this stage.
    pub(in crate::harness) fn admits(
        &self,
        stage: Stage,
        machine_id: &str,
        is_uuid: bool,
        host: &HostFacts,
    ) -> Result<(), Refusal> {
        if is_uuid && is_upper_case(machine_id) {
            self.refuse(Misbehaviour::Id01LowerCaseOnly, 404, "no such machine")?;
        }
        if !is_uuid && machine_id != DOCTOR {
            self.refuse(Misbehaviour::Id02Error, 500, "the machine id cannot be parsed")?;
            self.refuse(Misbehaviour::Id02UuidOnly, 403, "the machine id is not a UUID")?;
        }
        if stage != Stage::Preflight
            && host.preflights == 0
            && self.does_any(&[Misbehaviour::Id05Error, Misbehaviour::Id05Closes])
        {
            let words = format!("{stage} came before any preflight");
            return Err(Refusal::new(500, words).because(RefusalReason::NoPreflight));
        }
        if stage == Stage::Preflight && host.preflights > 0 {
            self.refuse(Misbehaviour::Pre11Error, 500, "this machine exists already")?;
        }
        let is_outside = host.open.is_none() && host.postflights > 0;
        if stage == Stage::RuleDownload && is_outside {
            self.refuse(Misbehaviour::Rule07Error, 500, "no sync is in progress")?;
            self.refuse(Misbehaviour::Rule07Refused, 409, "no sync is in progress")?;
        }
        if stage == Stage::EventUpload && is_outside {
            self.refuse(Misbehaviour::Event11Refused, 409, "no sync is in progress")?;
        }
        Ok(())
    }

    /// Whether the server takes a body that it can read from this machine.
    pub(in crate::harness) fn takes_id(&self, machine_id: &str) -> Result<(), Refusal> {
        if is_upper_case(machine_id) {
            self.refuse(Misbehaviour::Id01BadRequest, 400, "the machine id cannot be parsed")?;
        }
        Ok(())
    }

    /// Whether the server takes a message with these members.
    pub(in crate::harness) fn takes_members(
        &self,
        stage: Stage,
        form: Form,
        body: &[u8],
    ) -> Result<(), Refusal> {
        let looks = [
            Misbehaviour::Enc08Unknown,
            Misbehaviour::Enc09NumberAsText,
            Misbehaviour::Enc09Null,
            Misbehaviour::Enc09EnumAsNumber,
            Misbehaviour::Id03BodyMachineId,
        ];
        if body.is_empty() || !self.does_any(&looks) {
            return Ok(());
        }
        let fields = match stage {
            Stage::Preflight => wire::PreflightRequest::FIELDS,
            Stage::EventUpload => wire::EventUploadRequest::FIELDS,
            Stage::RuleDownload => wire::RuleDownloadRequest::FIELDS,
            Stage::Postflight => wire::PostflightRequest::FIELDS,
        };
        match form {
            Form::Protobuf => self.takes_fields(fields, body),
            Form::Json => match serde_json::from_slice(body) {
                Ok(Value::Object(members)) => self.takes_object(fields, &members),
                // Refused by whoever reads it.
                Ok(_) | Err(_) => Ok(()),
            },
        }
    }

    fn takes_object(
        &self,
        fields: &[Field],
        members: &serde_json::Map<String, Value>,
    ) -> Result<(), Refusal> {
        let is_named = |field: &Field, name: &str| {
            field.name == name || field.key.strip_prefix('"') == Some(&format!("{name}\":"))
        };
        for (name, value) in members {
            let Some(field) = fields.iter().find(|field| is_named(field, name)) else {
                self.refuse(Misbehaviour::Enc08Unknown, 400, "there is an unknown member")?;
                continue;
            };
            if value.is_null() {
                self.refuse(Misbehaviour::Enc09Null, 400, "there is a null")?;
            }
            if matches!(field.shape, Shape::U32 | Shape::I32) && value.is_string() {
                self.refuse(Misbehaviour::Enc09NumberAsText, 500, "a number is a text")?;
            }
            if matches!(field.shape, Shape::Enum(_)) && value.is_number() {
                self.refuse(Misbehaviour::Enc09EnumAsNumber, 400, "an enum is a number")?;
            }
        }
        let told = members.get("machine_id").or_else(|| members.get("machineId"));
        if told.is_none_or(|id| id.as_str().unwrap_or_default().is_empty()) {
            self.refuse(Misbehaviour::Id03BodyMachineId, 400, "machine_id is missing")?;
        }
        Ok(())
    }

    fn takes_fields(&self, fields: &[Field], mut body: &[u8]) -> Result<(), Refusal> {
        use prost::encoding::{DecodeContext, decode_key, skip_field};
        let mut has_machine_id = false;
        while !body.is_empty() {
            // What cannot be read is refused by whoever reads it.
            let Ok((number, wire_type)) = decode_key(&mut body) else { return Ok(()) };
            match fields.iter().find(|field| field.number == number) {
                Some(field) => has_machine_id |= field.name == "machine_id",
                None => {
                    self.refuse(Misbehaviour::Enc08Unknown, 400, "there is an unknown field")?;
                }
            }
            if skip_field(wire_type, number, &mut body, DecodeContext::default()).is_err() {
                return Ok(());
            }
        }
        if !has_machine_id {
            self.refuse(Misbehaviour::Id03BodyMachineId, 400, "machine_id is missing")?;
        }
        Ok(())
    }

    /// Whether the server takes this preflight.
    pub(in crate::harness) fn takes_preflight(
        &self,
        request: &wire::PreflightRequest,
    ) -> Result<(), Refusal> {
        if request.primary_user.is_empty() {
            self.refuse(Misbehaviour::Pre07Owner, 400, "primary_user is missing")?;
        }
        if request.rules_hash.is_empty() {
            self.refuse(Misbehaviour::Pre07RulesHash, 400, "rulesHash is missing")?;
        }
        if !request.primary_user_groups.is_empty() {
            self.refuse(Misbehaviour::Pre08Groups, 400, "primary_user_groups is not known")?;
        }
        if request.client_mode() == wire::ClientMode::Standalone {
            self.refuse(Misbehaviour::Pre09Standalone, 500, "STANDALONE is not known")?;
        }
        if !request.hostname.is_ascii() || !request.primary_user.is_ascii() {
            self.refuse(Misbehaviour::Pre10NotAscii, 500, "a text is not ASCII")?;
        }
        let is_odd = |version: &str| {
            !version.is_empty() && version.split('.').any(|part| part.parse::<u32>().is_err())
        };
        if is_odd(&request.os_version) || is_odd(&request.santa_version) {
            self.refuse(Misbehaviour::Pre10Version, 500, "a version cannot be parsed")?;
        }
        Ok(())
    }

    /// Whether the server takes this upload. `batch_size` is what it asked for.
    pub(in crate::harness) fn takes_upload(
        &self,
        request: &wire::EventUploadRequest,
        batch_size: u32,
    ) -> Result<(), Refusal> {
        if request.events.is_empty() {
            if !request.file_access_events.is_empty() {
                self.refuse(Misbehaviour::Event04Alone, 500, "there are no events")?;
            } else if !request.audit_events.is_empty() {
                self.refuse(Misbehaviour::Event05Alone, 400, "there are no events")?;
            }
        }
        let count =
            request.events.len() + request.file_access_events.len() + request.audit_events.len();
        if 2 * count > if batch_size == 0 { 50 } else { batch_size as usize } {
            self.refuse(Misbehaviour::Event08TooLarge, 413, "there are too many events")?;
        }
        if self.does(Misbehaviour::Event06Emoji)
            && json!(request).to_string().chars().any(|c| c > '\u{ffff}')
        {
            return Err(Refusal::new(500, "a text cannot be stored"));
        }
        request.events.iter().try_for_each(|event| self.takes_event(event))
    }

    #[expect(deprecated, reason = "quarantine data is what EVENT-02 is about")]
    fn takes_event(&self, event: &wire::Event) -> Result<(), Refusal> {
        if event.executing_user.is_empty() {
            self.refuse(Misbehaviour::Event01User, 400, "executing_user is missing")?;
        }
        if !event.quarantine_data_url.is_empty() {
            self.refuse(Misbehaviour::Event02Quarantine, 500, "quarantine data is not known")?;
        }
        if event.decision() == wire::Decision::BlockBinaryMismatch {
            self.refuse(Misbehaviour::Event03Mismatch, 400, "the decision is not known")?;
        }
        if event.signing_chain.iter().any(|certificate| certificate.valid_until == u32::MAX) {
            self.refuse(Misbehaviour::Event06ValidUntil, 500, "a time is out of range")?;
        }
        if event.file_path.len() >= 1000 {
            self.refuse(Misbehaviour::Event06LongPath, 400, "a path is too long")?;
        }
        let has_time = event.execution_time > 0.0;
        if event.file_sha256.is_empty() || !has_time || event.decision == 0 {
            self.refuse(Misbehaviour::Event07Missing, 400, "an event is incomplete")?;
        }
        Ok(())
    }

    /// Whether the server takes this postflight of a host whose sync was to bring
    /// `sent` rules.
    pub(in crate::harness) fn takes_postflight(
        &self,
        request: &wire::PostflightRequest,
        host: &HostFacts,
        sent: usize,
    ) -> Result<(), Refusal> {
        let announced = host.open.map(|open| open.announced);
        if request.sync_type() == wire::SyncType::CleanAll
            && announced == Some(wire::SyncType::Clean)
        {
            self.refuse(Misbehaviour::Post02CleanAll, 400, "CLEAN_ALL was not announced")?;
        }
        if request.rules_received == 0 && request.rules_processed == 0 {
            self.refuse(Misbehaviour::Post02NoCounts, 400, "the counts are missing")?;
        }
        if request.sync_type() == wire::SyncType::Unspecified {
            self.refuse(Misbehaviour::Post02OlderForm, 400, "syncType is missing")?;
        }
        match host.open {
            None if host.postflights > 0 => {
                self.refuse(Misbehaviour::Post03Conflict, 409, "the sync is complete already")?;
            }
            Some(open) if open.pages == 0 => {
                self.refuse(Misbehaviour::Post04Error, 500, "no rules were requested")?;
            }
            Some(_) if sent > 0 && request.rules_processed == 0 => {
                self.refuse(Misbehaviour::Post04Unprocessed, 500, "no rule was processed")?;
            }
            Some(_) | None => {}
        }
        Ok(())
    }

    /// What becomes of a refusal.
    pub(in crate::harness) fn refused(
        &self,
        stage: Option<Stage>,
        refusal: Refusal,
    ) -> Result<Script, Refusal> {
        let accepted = |body: &'static str| Ok(Script::Whole(Reply::new(200, JSON, body)));
        let as_500 = |refusal: Refusal| Err(Refusal { status: 500, ..refusal });
        match refusal.reason {
            RefusalReason::Coding if self.does(Misbehaviour::Enc06NotRead) => accepted("{}"),
            RefusalReason::Coding if self.does(Misbehaviour::Enc06Error) => as_500(refusal),
            RefusalReason::CutShort if self.does(Misbehaviour::Enc07Error) => as_500(refusal),
            RefusalReason::CutShort if self.does(Misbehaviour::Enc07Waits) => {
                Ok(Script::Bare(vec![ConnectionStep::Silence]))
            }
            RefusalReason::Message if self.does(Misbehaviour::Enc07Accepted) => accepted("{}"),
            RefusalReason::NotEnrolled if self.does(Misbehaviour::Id04Accepted) => {
                accepted(r#"{"error":"this machine is not enrolled"}"#)
            }
            RefusalReason::NotEnrolled if self.does(Misbehaviour::Id04Error) => as_500(refusal),
            RefusalReason::NoPreflight if self.does(Misbehaviour::Id05Closes) => {
                Ok(Script::Bare(Vec::new()))
            }
            RefusalReason::Cursor if self.does(Misbehaviour::Page06Error) => as_500(refusal),
            RefusalReason::Cursor if self.does(Misbehaviour::Page06Empty) => {
                accepted(r#"{"rules":[]}"#)
            }
            RefusalReason::Credential if self.does(Misbehaviour::Err03Error) => as_500(refusal),
            RefusalReason::NoTokens if self.does(Misbehaviour::Err04NoToken) => {
                Ok(Script::Whole(Reply::new(200, "", "")))
            }
            RefusalReason::NoTokens if self.does(Misbehaviour::Err04Error) => as_500(refusal),
            RefusalReason::Other
            | RefusalReason::Coding
            | RefusalReason::CutShort
            | RefusalReason::Message
            | RefusalReason::NotEnrolled
            | RefusalReason::NoPreflight
            | RefusalReason::Cursor
            | RefusalReason::Credential
            | RefusalReason::NoTokens => {
                let is_asked = stage.is_some() && (400..500).contains(&refusal.status);
                if self.does(Misbehaviour::Err02Errors) && is_asked {
                    return as_500(refusal);
                }
                Err(refusal)
            }
        }
    }

    fn refuse(&self, misbehaviour: Misbehaviour, status: u16, words: &str) -> Result<(), Refusal> {
        if self.does(misbehaviour) { Err(Refusal::new(status, words)) } else { Ok(()) }
    }
}
