//! A machine of the probe: what Santa's client would send in its place, with the counts, the
//! hash and the types that are true of it.

mod secrets;

use std::sync::Arc;

use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

use super::client::{KeptConnection, ProbeRequest, stage_path};
use super::cookies::CookieJar;
use super::exchange::{BreakKind, Intent, ProbeExchange};
use super::form::Form;
use super::message::Message;
use super::probe::Probe;
use super::probe_events::EventMaker;
use super::table::RuleTable;
use super::verdict::Judgement;
use super::walk::{Walk, cursor_of};
use crate::model::text::counted;
use crate::model::{MachineId, Rule, Stage, SyncType};
use crate::protocol::body::ResponseBody;
use crate::protocol::cel::CelBudget;
use crate::protocol::{body, postflight, preflight, rules, wire};
use secrets::secrets_of;

/// What a step could not do, and which requirement is about that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Broken {
    pub(super) exchange: Option<u64>,
    pub(super) by: &'static str,
    pub(super) said: String,
}

impl Broken {
    pub(super) fn at(exchange: &ProbeExchange, by: &'static str, said: String) -> Self {
        Self { exchange: Some(exchange.number), by, said }
    }
}

impl From<Broken> for Judgement {
    fn from(broken: Broken) -> Self {
        let judgement = Self::blocked(broken.by, broken.said);
        match broken.exchange {
            Some(exchange) => judgement.at(exchange),
            None => judgement,
        }
    }
}

/// Whether the client asks for a clean sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// It asks for nothing.
    Nothing,
    /// It asks for a clean sync.
    Clean,
}

/// Which members a machine writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Members {
    /// Those that Santa's client writes.
    LikeSanta,
    /// One more, which the schema does not know.
    Unknown,
    /// All but `machine_id`.
    WithoutId,
    /// Those that are zero, false or empty as well.
    Empty,
}

/// A preflight that succeeded.
#[derive(Clone, Debug)]
pub(super) struct PreflightDone {
    pub(super) exchange: Arc<ProbeExchange>,
    pub(super) message: Value,
    /// The type of sync that follows.
    pub(super) sync_type: SyncType,
}

impl PreflightDone {
    pub(super) fn is_clean(&self) -> bool {
        is_clean(self.sync_type)
    }

    /// The type of sync that was announced, and by what if not by `sync_type`.
    pub(super) fn type_in_words(&self) -> String {
        let given = |names: [&str; 2]| {
            names.iter().find_map(|name| self.message.get(*name)).filter(|value| !value.is_null())
        };
        let name = self.sync_type.name();
        match (given(["sync_type", "syncType"]), given(["clean_sync", "cleanSync"])) {
            (Some(Value::String(other)), _) if !other.eq_ignore_ascii_case(name) => {
                format!("{other:?}, which is read as {name}")
            }
            (Some(_), _) => name.to_owned(),
            (None, Some(flag)) => {
                format!("clean_sync {flag} and no sync_type, which means {name}")
            }
            (None, None) => format!("no sync_type, which means {name}"),
        }
    }
}

/// Whether the client deletes its rules in a sync of this type. It takes the partial clean
/// types for NORMAL.
pub(super) const fn is_clean(sync_type: SyncType) -> bool {
    matches!(sync_type, SyncType::Clean | SyncType::CleanAll)
}

/// One sync from preflight to postflight.
#[derive(Clone, Debug)]
pub(super) struct SyncDone {
    pub(super) preflight: PreflightDone,
    pub(super) walk: Walk,
}

/// The client model of one machine.
pub(super) struct ProbeMachine<'p> {
    pub(super) probe: &'p Probe,
    requirement: &'static str,
    pub(super) id: String,
    pub(super) form: Form,
    pub(super) table: RuleTable,
    pub(super) jar: CookieJar,
    /// It sends the cookies of the jar.
    pub(super) returns_cookies: bool,
    /// The header and the value of the XSRF token, if the server handed one out.
    token: Option<(String, String)>,
    /// The connection of the session.
    connection: KeptConnection,
    /// Every request has a connection of its own.
    pub(super) reconnects: bool,
    /// Why its requests are made.
    pub(super) intent: Intent,
    /// How it writes its messages.
    pub(super) writes: Members,
}

impl<'p> ProbeMachine<'p> {
    pub(super) fn new(probe: &'p Probe, requirement: &'static str, id: String) -> Self {
        Self {
            probe,
            requirement,
            id,
            form: probe.form(),
            table: RuleTable::default(),
            jar: CookieJar::default(),
            returns_cookies: true,
            token: None,
            connection: KeptConnection::default(),
            reconnects: false,
            intent: Intent::WellFormed,
            writes: Members::LikeSanta,
        }
    }

    /// Sends its requests in this form.
    pub(super) fn in_form(mut self, form: Form) -> Self {
        self.form = form;
        self
    }

    /// A client that knows of nothing but its table: a new session.
    pub(super) fn forget_session(&mut self) {
        self.jar = CookieJar::default();
        self.token = None;
        self.connection = KeptConnection::default();
    }

    /// The members of its preflight.
    pub(super) fn preflight_message(&self, wish: Wish) -> wire::PreflightRequest {
        let (rules_hash, counts) = self.table.hash_and_counts();
        wire::PreflightRequest {
            serial_number: self.serial(),
            hostname: "santa-probe.invalid".to_owned(),
            os_version: "15.3.1".to_owned(),
            os_build: "24D70".to_owned(),
            model_identifier: "Mac15,6".to_owned(),
            santa_version: "2026.4".to_owned(),
            primary_user: "santa-probe".to_owned(),
            client_mode: wire::ClientMode::Monitor.into(),
            request_clean_sync: wish == Wish::Clean,
            binary_rule_count: counts.binary,
            certificate_rule_count: counts.certificate,
            compiler_rule_count: counts.compiler,
            teamid_rule_count: counts.teamid,
            signingid_rule_count: counts.signingid,
            cdhash_rule_count: counts.cdhash,
            machine_id: self.id.clone(),
            rules_hash,
            ..wire::PreflightRequest::default()
        }
    }

    /// The serial number belongs to the machine id, so that a server sees one host.
    fn serial(&self) -> String {
        let digits = xxh3_64(self.id.as_bytes()) & 0xffff_ffff;
        format!("PROBE{digits:08X}")
    }

    /// The request of a stage with this message, as a client sends it.
    pub(super) fn request(&self, stage: Stage, message: Message) -> ProbeRequest {
        let message = match self.writes {
            Members::Unknown => message.with_unknown_member(),
            Members::LikeSanta | Members::WithoutId | Members::Empty => message,
        };
        let plain = message.bytes();
        self.request_of_bytes(stage, plain)
    }

    /// The request of a stage with this body, compressed by the form.
    pub(super) fn request_of_bytes(&self, stage: Stage, plain: Vec<u8>) -> ProbeRequest {
        ProbeRequest {
            machine_id: self.id.clone(),
            intent: self.intent,
            content_encoding: self.form.header().map(str::to_owned),
            // Memory takes anything.
            wire: self.form.pack(&plain).unwrap_or_default(),
            plain,
            ..ProbeRequest::empty(
                self.requirement,
                Some(stage),
                self.form,
                stage_path(stage.segment(), &self.id),
            )
        }
    }

    /// Sends a request with the cookies and the token of the session, on its connection. A 403
    /// makes a client ask for a token once, and repeat the request.
    pub(super) async fn send(&mut self, request: ProbeRequest) -> Arc<ProbeExchange> {
        if self.reconnects {
            return self.send_on(&mut KeptConnection::default(), request).await;
        }
        let mut connection = std::mem::take(&mut self.connection);
        let exchange = self.send_on(&mut connection, request).await;
        self.connection = connection;
        exchange
    }

    /// [`Self::send`] on a given connection.
    pub(super) async fn send_on(
        &mut self,
        connection: &mut KeptConnection,
        request: ProbeRequest,
    ) -> Arc<ProbeExchange> {
        let exchange = self.send_once(connection, request.clone()).await;
        let asks = exchange.is(403)
            && self.token.is_none()
            && request.intent == Intent::WellFormed
            && self.probe.hands_out_tokens();
        if !asks || !self.fetch_token().await {
            return exchange;
        }
        self.send_once(connection, request).await
    }

    async fn send_once(
        &mut self,
        connection: &mut KeptConnection,
        mut request: ProbeRequest,
    ) -> Arc<ProbeExchange> {
        let client = &self.probe.client;
        let path = client.full_path(&request);
        if request.cookies.is_none() && self.returns_cookies {
            request.cookies = self.jar.header(&path);
        }
        request.headers.extend(self.token.clone());
        let exchange = client.send_on(connection, request).await;
        if let Some(answer) = exchange.answer() {
            let host = client.base_url().host();
            for (_, value) in answer.headers.iter().filter(|(name, _)| name == "set-cookie") {
                self.jar.set(value, host, &path, client.is_https());
            }
            self.jar.values().for_each(|value| client.add_secret(value));
            if exchange.stage == Some(Stage::Preflight)
                && let Ok(message) = exchange.message()
            {
                for secret in secrets_of(&message) {
                    client.add_secret(secret);
                }
            }
        }
        exchange
    }

    /// Asks the xsrf endpoint for a token. Returns whether one came.
    pub(super) async fn fetch_token(&mut self) -> bool {
        let exchange = self.xsrf().await;
        let Some(answer) = exchange.answer().filter(|answer| answer.status == 200) else {
            self.probe.has_no_tokens();
            return false;
        };
        let Some(token) = answer.header("x-xsrf-token").filter(|token| !token.is_empty()) else {
            self.probe.has_no_tokens();
            return false;
        };
        let name = answer.header("x-xsrf-token-header").unwrap_or("x-xsrf-token");
        self.probe.client.add_secret(token);
        self.token = Some((name.to_owned(), token.to_owned()));
        true
    }

    /// The request for a token.
    pub(super) async fn xsrf(&mut self) -> Arc<ProbeExchange> {
        let path = stage_path("xsrf", &self.id);
        let request = ProbeRequest {
            intent: Intent::Provoking,
            machine_id: self.id.clone(),
            ..ProbeRequest::empty(self.requirement, None, self.form, path)
        };
        self.send_once(&mut KeptConnection::default(), request).await
    }

    fn message<M: prost::Message + serde::Serialize>(&self, message: &M) -> Message {
        if self.writes == Members::Empty {
            return Message::written_out(self.form.transfer, message);
        }
        Message::of(self.form.transfer, message)
    }

    fn id_member(&self) -> String {
        if self.writes == Members::WithoutId { String::new() } else { self.id.clone() }
    }

    /// One preflight.
    pub(super) async fn preflight(&mut self, wish: Wish) -> Result<PreflightDone, Broken> {
        let message = self.preflight_message(wish);
        self.preflight_with(message).await
    }

    /// One preflight with these members.
    pub(super) async fn preflight_with(
        &mut self,
        mut message: wire::PreflightRequest,
    ) -> Result<PreflightDone, Broken> {
        message.machine_id = self.id_member();
        let request = self.request(Stage::Preflight, self.message(&message));
        let exchange = self.send(request).await;
        self.read_preflight(exchange)
    }

    /// What a client makes of a preflight's response.
    pub(super) fn read_preflight(
        &self,
        exchange: Arc<ProbeExchange>,
    ) -> Result<PreflightDone, Broken> {
        if exchange.is(403) && self.token.is_some() {
            let said = "preflight: status 403 with the token of the xsrf endpoint".to_owned();
            return Err(Broken::at(&exchange, "ERR-04", said));
        }
        let bytes = accepted(&exchange)?;
        let unreadable = |why: String| {
            Broken::at(&exchange, "PRE-01", format!("the preflight response is unreadable: {why}"))
        };
        let message = exchange.message().map_err(unreadable)?;
        let received = ResponseBody::new(self.form.transfer, bytes);
        let decoded = body::decode(received).map_err(|error| unreadable(error.to_string()))?;
        let result = preflight::read(decoded.message);
        let older = if result.clean_sync { SyncType::Clean } else { SyncType::Normal };
        let sync_type = result.sync_type.unwrap_or(older);
        Ok(PreflightDone { exchange, message, sync_type })
    }

    /// The first page of a rule download.
    pub(super) async fn first_page(&mut self) -> Result<Walk, Broken> {
        let mut walk = Walk::default();
        self.page(&mut walk, "").await?;
        Ok(walk)
    }

    /// One page, which is added to the walk.
    pub(super) async fn page(&mut self, walk: &mut Walk, cursor: &str) -> Result<(), Broken> {
        let exchange = self.page_exchange(cursor).await;
        self.read_page(&exchange, walk)
    }

    /// The request for one page.
    pub(super) async fn page_exchange(&mut self, cursor: &str) -> Arc<ProbeExchange> {
        let message =
            wire::RuleDownloadRequest { cursor: cursor.to_owned(), machine_id: self.id_member() };
        let mut message = self.message(&message);
        if self.writes == Members::Empty {
            message = message.set("cursor", cursor.into());
        }
        let request = self.request(Stage::RuleDownload, message);
        self.send(request).await
    }

    /// The request for a page that a server may refuse.
    pub(super) async fn provoking_page(&mut self, cursor: &str) -> Arc<ProbeExchange> {
        let message =
            wire::RuleDownloadRequest { cursor: cursor.to_owned(), machine_id: self.id_member() };
        let request = self.request(Stage::RuleDownload, self.message(&message));
        self.send(ProbeRequest { intent: Intent::Provoking, ..request }).await
    }

    /// Adds what a client accepts of a page to the walk.
    pub(super) fn read_page(
        &self,
        exchange: &Arc<ProbeExchange>,
        walk: &mut Walk,
    ) -> Result<(), Broken> {
        let bytes = accepted(exchange)?.to_vec();
        let unreadable = |why: String| {
            Broken::at(exchange, "RULE-01", format!("the rule page is unreadable: {why}"))
        };
        let message = exchange.message().map_err(unreadable)?;
        walk.cursor = cursor_of(&message);
        let bare = message.get("rules").is_none_or(Value::is_null);
        if !bare {
            let received = ResponseBody::new(self.form.transfer, &*bytes);
            let read = rules::read_page(received, 1, &mut CelBudget::default(), &|| false);
            let page = read.map_err(|error| unreadable(error.to_string()))?.message;
            let (accepted, rejected) = (page.rules.len() as u64, page.rejected.len() as u64);
            walk.received += accepted + rejected + page.rejected_unlisted;
            walk.rules.extend(page.rules.iter().map(Rule::from));
        }
        walk.ends.push(walk.rules.len());
        walk.pages.push(Arc::clone(exchange));
        if let Some(cursor) = &walk.cursor
            && !walk.seen.insert((cursor.clone(), xxh3_64(&bytes)))
        {
            let said = format!(
                "page {} brought what an earlier one had, with a cursor that came before",
                walk.pages.len()
            );
            return Err(Broken::at(exchange, "PAGE-02", said));
        }
        Ok(())
    }

    /// The whole rule download.
    pub(super) async fn walk(&mut self) -> Result<Walk, Broken> {
        let mut walk = Walk::default();
        self.walk_into(&mut walk).await?;
        Ok(walk)
    }

    /// The whole rule download, of which the walk has what came, however it ends.
    pub(super) async fn walk_into(&mut self, walk: &mut Walk) -> Result<(), Broken> {
        self.page(walk, "").await?;
        self.rest_into(walk).await
    }

    /// The rest of a rule download.
    pub(super) async fn rest(&mut self, mut walk: Walk) -> Result<Walk, Broken> {
        self.rest_into(&mut walk).await?;
        Ok(walk)
    }

    async fn rest_into(&mut self, walk: &mut Walk) -> Result<(), Broken> {
        let limits = self.probe.walk_limits();
        let started = self.probe.client.elapsed();
        while let Some(cursor) = walk.cursor.take() {
            let is_text = walk.last_cursor_is_text();
            self.page(walk, &cursor).await.map_err(|broken| match broken.by {
                // No client sends a number back as text.
                "HTTP-01" if !is_text => Broken { by: "PAGE-01", ..broken },
                _ => broken,
            })?;
            let took = self.probe.client.elapsed().saturating_sub(started);
            let said = if walk.cursor.as_ref() == Some(&cursor) {
                format!("page {} repeats the cursor it was requested with", walk.pages.len())
            } else if walk.cursor.is_some()
                && (walk.pages.len() >= limits.pages
                    || walk.bytes() >= limits.bytes
                    || took > limits.time)
            {
                let pages = counted(walk.pages.len() as u64, "page");
                let bytes = counted(walk.bytes() as u64, "byte");
                format!("the download did not end: {pages}, {bytes} and {} s", took.as_secs())
            } else {
                continue;
            };
            return Err(Broken {
                exchange: walk.pages.last().map(|page| page.number),
                by: "PAGE-02",
                said,
            });
        }
        Ok(())
    }

    /// Takes a complete download into the table.
    pub(super) fn commit(&mut self, sync_type: SyncType, walk: &Walk) {
        self.table.apply(is_clean(sync_type), &walk.rules);
    }

    /// The postflight of a sync.
    pub(super) async fn postflight(
        &mut self,
        sync_type: SyncType,
        walk: &Walk,
    ) -> Result<Arc<ProbeExchange>, Broken> {
        let processed = walk.rules.len() as u64;
        self.postflight_of(sync_type, walk.received, processed).await
    }

    /// A postflight with these numbers.
    pub(super) async fn postflight_of(
        &mut self,
        sync_type: SyncType,
        received: u64,
        processed: u64,
    ) -> Result<Arc<ProbeExchange>, Broken> {
        let (rules_hash, _) = self.table.hash_and_counts();
        let id = MachineId::new(&self.id).map_err(|error| Broken {
            exchange: None,
            by: "ID-01",
            said: error.to_string(),
        })?;
        let mut message = postflight::request(&id, sync_type, received, processed, &rules_hash);
        message.machine_id = self.id_member();
        self.postflight_with(&message).await
    }

    /// A postflight with these members.
    pub(super) async fn postflight_with(
        &mut self,
        message: &wire::PostflightRequest,
    ) -> Result<Arc<ProbeExchange>, Broken> {
        let request = self.request(Stage::Postflight, self.message(message));
        let exchange = self.send(request).await;
        accepted(&exchange)?;
        exchange.message().map_err(|why| {
            let said = format!("the postflight response is unreadable: {why}");
            Broken::at(&exchange, "POST-01", said)
        })?;
        Ok(exchange)
    }

    /// Preflight, rule download and postflight, in a session of their own.
    pub(super) async fn sync(&mut self, wish: Wish) -> Result<SyncDone, Broken> {
        self.forget_session();
        let preflight = self.preflight(wish).await?;
        let walk = self.walk().await?;
        self.commit(preflight.sync_type, &walk);
        self.postflight(preflight.sync_type, &walk).await?;
        Ok(SyncDone { preflight, walk })
    }

    /// A clean sync that is complete, or as much of it as there is if the pages do not end.
    pub(super) async fn sync_if_it_ends(&mut self) -> Result<(), Broken> {
        if self.probe.base().is_ok() {
            return self.sync(Wish::Clean).await.map(|_| ());
        }
        self.forget_session();
        self.preflight(Wish::Clean).await?;
        self.first_page().await.map(|_| ())
    }

    /// The request of an upload.
    pub(super) fn upload_request(&self, mut upload: wire::EventUploadRequest) -> ProbeRequest {
        upload.machine_id = self.id_member();
        self.request(Stage::EventUpload, self.message(&upload))
    }

    /// Uploads events.
    pub(super) async fn upload(&mut self, events: Vec<wire::Event>) -> Arc<ProbeExchange> {
        let upload = wire::EventUploadRequest { events, ..wire::EventUploadRequest::default() };
        let request = self.upload_request(upload);
        self.send(request).await
    }

    /// Uploads one event as hosts usually send them.
    pub(super) async fn upload_one(&mut self) -> Result<Arc<ProbeExchange>, Broken> {
        let event = self.probe.event(EventMaker::usual);
        let exchange = self.upload(vec![event]).await;
        match accepted(&exchange) {
            Ok(_) => Ok(exchange),
            Err(broken) => Err(broken),
        }
    }
}

/// The decoded body of a 200, or which requirement is about what came instead.
pub(super) fn accepted(exchange: &ProbeExchange) -> Result<&[u8], Broken> {
    let stage = exchange.stage.map_or("the request", Stage::name);
    let broken = |by, said: String| Broken::at(exchange, by, format!("{stage}: {said}"));
    match &exchange.outcome {
        Ok(answer) if answer.status == 200 => match &answer.body {
            Ok(body) => Ok(body),
            Err(why) => Err(broken("HTTP-08", format!("the response cannot be decoded: {why}"))),
        },
        Ok(answer) if (300..400).contains(&answer.status) => {
            Err(broken("HTTP-02", format!("status {}", answer.status)))
        }
        Ok(answer) => Err(broken("HTTP-01", format!("status {}", answer.status))),
        Err(cause) => {
            let by = match cause.kind {
                BreakKind::Connect | BreakKind::Tls => "HTTP-04",
                BreakKind::Cut | BreakKind::Timeout | BreakKind::TooLarge => "HTTP-03",
                BreakKind::Closed | BreakKind::NotHttp => "HTTP-01",
            };
            Err(broken(by, cause.what.clone()))
        }
    }
}
