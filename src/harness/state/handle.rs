//! From a request to its response: routing, faults, admission, and the transcript.

use std::collections::BTreeMap;

use bytes::Bytes;
use percent_encoding::percent_decode_str;
use serde_json::Value;

use super::stages::Call;
use super::{Handled, Host, State};
use crate::harness::exchange::{Exchange, Route};
use crate::harness::fault::Fault;
use crate::harness::misbehaviour::Misbehaviour;
use crate::harness::reply::{self, Form, ReceivedRequest, Refusal, RefusalReason, Reply};
use crate::harness::script::{Script, Wait};
use crate::harness::style::Xsrf;
use crate::model::Stage;
use crate::protocol::wire;

/// The machine id that Santa's doctor uses.
const DOCTOR: &str = "santactl-doctor-test";

const DEFAULT_TOKEN_HEADER: &str = "X-XSRF-TOKEN";

impl State {
    /// Does the server's work for one request and returns the response.
    pub(in crate::harness) fn handle(&mut self, incoming: &ReceivedRequest) -> Handled {
        let target = self.target(&incoming.path);
        let (route, machine_id) = target.unzip();
        let machine_id = machine_id.unwrap_or_default();
        let (occurrence, faults) = match route {
            Some(route) => self.struck(route, &machine_id),
            None => (0, Vec::new()),
        };
        let stage = route.and_then(Route::stage);
        let wait = faults.iter().find_map(Fault::wait);
        let wait =
            wait.or_else(|| stage.map(|s| self.misbehaviours.wait(s))).unwrap_or(Wait::Nothing);
        let fault = faults.iter().find(|fault| fault.wait().is_none());

        self.number += 1;
        let mut exchange = Exchange {
            number: self.number,
            route,
            occurrence,
            machine_id: machine_id.clone(),
            method: incoming.method.clone(),
            path: incoming.path.clone(),
            headers: self.kept_headers(incoming),
            body_bytes: incoming.body.len() as u64,
            body: Value::Null,
            text: String::new(),
            status: None,
            response_bytes: 0,
            note: faults.iter().map(Fault::name).collect::<Vec<_>>().join(", "),
        };
        let is_first = self.is_first_on_connection(incoming.connection);
        let instead = fault
            .and_then(Fault::instead)
            .or_else(|| self.misbehaviours.at_the_door(incoming, route, is_first).map(Ok));
        let response = match (instead, route) {
            (Some(instead), _) => {
                self.remember_unserved(incoming, route, &mut exchange);
                instead
            }
            (None, Some(route)) if self.replay.is_some() => {
                self.remember_unserved(incoming, Some(route), &mut exchange);
                self.replayed(route, &machine_id, &exchange.body, fault)
            }
            (None, None) => Err(Refusal::new(404, format!("nothing exists at {}", incoming.path))),
            (None, Some(route)) => self.served(incoming, route, &machine_id, fault, &mut exchange),
        };
        let response = response
            .or_else(|refusal| {
                exchange.note.clone_from(&refusal.words);
                self.misbehaviours.refused(stage, refusal)
            })
            .unwrap_or_else(|refusal| Script::Whole(Reply::refusal(&self.style, &refusal)));
        if let Script::Whole(reply) = &response {
            exchange.status = Some(reply.status);
            exchange.response_bytes = reply.body.len() as u64;
        }
        self.remember(&exchange);
        if !self.expectations.is_empty() {
            self.expectations.observe(&exchange);
        }
        if route == Some(Route::Stage(Stage::Postflight)) {
            self.make_due_changes();
        }
        Handled { response, wait, exchange }
    }

    /// The route and machine id of a path.
    fn target(&self, path: &str) -> Option<(Route, String)> {
        let path = path.split('?').next()?.strip_prefix('/')?;
        let path = if self.base_path.is_empty() {
            path
        } else {
            path.strip_prefix(&self.base_path)?.strip_prefix('/')?
        };
        let (segment, machine_id) = path.split_once('/')?;
        let machine_id = match machine_id.strip_suffix('/') {
            Some(id) if self.misbehaviours.does(Misbehaviour::Http02TrailingSlash) => id,
            Some(_) | None => machine_id,
        };
        if machine_id.is_empty() || machine_id.contains('/') {
            return None;
        }
        let route = Route::ALL.into_iter().find(|route| route.segment() == segment)?;
        Some((route, percent_decode_str(machine_id).decode_utf8_lossy().into_owned()))
    }

    /// Whether this is the first request of its connection. Connections are
    /// remembered only while a misbehaviour depends on it.
    fn is_first_on_connection(&mut self, connection: u64) -> bool {
        !self.misbehaviours.does(Misbehaviour::Http05Reset) || self.connections.insert(connection)
    }

    /// Counts a request and finds the faults that apply to it.
    fn struck(&mut self, route: Route, machine_id: &str) -> (u64, Vec<Fault>) {
        let seen = self.hosts_up_to_date.then(|| self.set_of(machine_id).log.len());
        let host = self
            .hosts
            .entry(machine_id.to_owned())
            .or_insert_with(|| Host { seen, ..Host::default() });
        let place = route.place();
        self.requests[place] += 1;
        host.requests[place] += 1;
        let (of_all, of_host) = (self.requests[place], host.requests[place]);
        let chances = &mut self.chances;
        let faults = self
            .script
            .iter()
            .filter(|s| s.route == route && s.when.strikes(machine_id, of_all, of_host))
            .filter(|s| s.when.happens(chances))
            .map(|s| s.fault.clone())
            .collect();
        (of_all, faults)
    }

    fn kept_headers(&self, incoming: &ReceivedRequest) -> BTreeMap<String, String> {
        if self.transcript_limit == 0 {
            return BTreeMap::new();
        }
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        incoming
            .headers
            .iter()
            .map(|(name, value)| (name.as_str().to_owned(), text(value.as_bytes())))
            .collect()
    }

    fn remember(&mut self, exchange: &Exchange) {
        if self.transcript_limit == 0 {
            return;
        }
        if self.transcript.len() >= self.transcript_limit {
            self.transcript.pop_front();
        }
        self.transcript.push_back(exchange.clone());
    }

    /// Decodes what it can of a request whose response something replaces.
    fn remember_unserved(
        &self,
        incoming: &ReceivedRequest,
        route: Option<Route>,
        into: &mut Exchange,
    ) {
        if let (Some(route), Ok((form, body))) = (route, reply::opened(&self.style, incoming)) {
            self.remember_body(route, form, &body, into);
        }
    }

    fn remember_body(&self, route: Route, form: Form, body: &[u8], into: &mut Exchange) {
        if self.transcript_limit == 0 {
            return;
        }
        into.body = match form {
            Form::Json => {
                into.text = String::from_utf8_lossy(body).into_owned();
                serde_json::from_slice(body).unwrap_or_default()
            }
            Form::Protobuf => match route {
                Route::Stage(Stage::Preflight) => shown::<wire::PreflightRequest>(body),
                Route::Stage(Stage::EventUpload) => shown::<wire::EventUploadRequest>(body),
                Route::Stage(Stage::RuleDownload) => shown::<wire::RuleDownloadRequest>(body),
                Route::Stage(Stage::Postflight) => shown::<wire::PostflightRequest>(body),
                Route::Xsrf => Value::Null,
            },
        };
    }

    /// The response of a recording.
    fn replayed(
        &mut self,
        route: Route,
        machine_id: &str,
        message: &Value,
        fault: Option<&Fault>,
    ) -> Result<Script, Refusal> {
        let found = self.replay.as_mut().map(|replay| replay.next(route, machine_id, message));
        match (found, fault) {
            (Some(Ok(Script::Whole(reply))), Some(fault)) => fault.damaged(reply),
            (Some(Ok(script)), _) => Ok(script),
            (Some(Err(words)), _) => Err(Refusal::new(404, words)),
            (None, _) => Err(Refusal::new(404, "there is no recording")),
        }
    }

    /// The response to a request that nothing replaces.
    fn served(
        &mut self,
        incoming: &ReceivedRequest,
        route: Route,
        machine_id: &str,
        fault: Option<&Fault>,
        exchange: &mut Exchange,
    ) -> Result<Script, Refusal> {
        let damaged = |reply| match fault {
            Some(fault) => fault.damaged(reply),
            None => Ok(Script::Whole(reply)),
        };
        let stage = match route {
            Route::Xsrf => {
                Self::checked_method(incoming)?;
                return self.xsrf().and_then(damaged);
            }
            Route::Stage(stage) => stage,
        };
        // Read first, so that the transcript has the body of a refused request.
        let opened = match stage {
            Stage::RuleDownload if self.style.assumes_zlib => Ok((Form::Json, Vec::new())),
            Stage::Preflight | Stage::EventUpload | Stage::RuleDownload | Stage::Postflight => self
                .misbehaviours
                .reads(stage, reply::form_of(incoming), incoming)
                .and_then(|()| reply::opened(&self.style, incoming)),
        };
        if let Ok((form, body)) = &opened {
            self.remember_body(route, *form, body, exchange);
        }
        Self::checked_method(incoming)?;
        self.admitted(incoming, stage, machine_id)?;
        let (form, body) = opened?;
        self.misbehaviours.takes_id(machine_id)?;
        self.misbehaviours.takes_members(stage, form, &body)?;
        if let Some(open) = self.hosts.get_mut(machine_id).and_then(|host| host.open.as_mut())
            && stage != Stage::Preflight
        {
            open.requests += 1;
            open.pages += u64::from(stage == Stage::RuleDownload);
        }

        let answer_form = self.misbehaviours.answers_in(form);
        let (connection, at) = (incoming.connection, incoming.at);
        let call = Call { machine_id, form, answer_form, connection, at, fault };
        let message = match stage {
            Stage::Preflight => self.preflight(call, &body).map(Bytes::from),
            Stage::EventUpload => self.event_upload(call, &body).map(Bytes::from),
            Stage::RuleDownload => self.rule_download(call, &body),
            Stage::Postflight => self.postflight(call, &body).map(Bytes::from),
        }?;
        let message = self.misbehaviours.message(stage, answer_form, message);
        let mut reply = Reply::success(&self.style, incoming, answer_form, message)?;
        if stage == Stage::Preflight
            && let Some(name) = self.cookie_name()
        {
            let secure = if self.misbehaviours.does(Misbehaviour::Http06SecureCookie) {
                "; Secure"
            } else {
                ""
            };
            let cookie = format!("{name}={}; Path=/; HttpOnly{secure}", self.cookie);
            reply.set("Set-Cookie", &cookie);
        }
        match self.misbehaviours.reply(stage, reply)? {
            Script::Whole(reply) => damaged(reply),
            bare @ Script::Bare(_) => Ok(bare),
        }
    }

    fn checked_method(incoming: &ReceivedRequest) -> Result<(), Refusal> {
        if incoming.method == "POST" {
            return Ok(());
        }
        Err(Refusal::new(405, format!("{} is not POST", incoming.method)))
    }

    /// The cookie that preflight sets and later stages require.
    fn cookie_name(&self) -> Option<&str> {
        let misbehaves = self.misbehaviours.does(Misbehaviour::Http06Cookie)
            || self.misbehaviours.does(Misbehaviour::Http06UsedUp)
            || self.misbehaviours.does(Misbehaviour::Http06SecureCookie);
        self.style.cookie.as_deref().or(misbehaves.then_some("session"))
    }

    /// Checks the credentials of a request.
    fn authenticated(&self, incoming: &ReceivedRequest, stage: Stage) -> Result<(), Refusal> {
        if let Some((name, value)) = &self.style.header
            && incoming.header(name) != value
            && !self.misbehaviours.does(Misbehaviour::Err03Unchecked)
        {
            let words = format!("header {name} is missing or wrong");
            return Err(Refusal::new(401, words).because(RefusalReason::Credential));
        }
        if self.misbehaviours.does(Misbehaviour::Err04Useless) {
            return Err(Refusal::new(403, "the token is missing or stale"));
        }
        if let Xsrf::Demanded(name) = &self.style.xsrf
            && incoming.header(name) != self.xsrf_token
        {
            return Err(Refusal::new(403, format!("token in {name} is missing or stale")));
        }
        if let Some(name) = self.cookie_name()
            && stage != Stage::Preflight
            && !(stage == Stage::Postflight && self.misbehaviours.does(Misbehaviour::Http06UsedUp))
            && !incoming.header("cookie").contains(&format!("{name}={}", self.cookie))
        {
            return Err(Refusal::new(401, format!("cookie {name} is missing or wrong")));
        }
        Ok(())
    }

    /// Checks that the host may make this request.
    fn admitted(
        &self,
        incoming: &ReceivedRequest,
        stage: Stage,
        machine: &str,
    ) -> Result<(), Refusal> {
        self.authenticated(incoming, stage)?;
        if let Some(enrolled) = &self.style.enrolled
            && !enrolled.iter().any(|id| id == machine)
        {
            if machine == DOCTOR {
                return Err(Refusal::new(400, "a test, and not a machine"));
            }
            let words = format!("machine {machine:?} is not enrolled");
            return Err(Refusal::new(403, words).because(RefusalReason::NotEnrolled));
        }
        if self.style.uuid_only && !is_uuid(machine) {
            return Err(Refusal::new(403, format!("machine id {machine:?} is not a UUID")));
        }
        let Some(host) = self.hosts.get(machine) else { return Ok(()) };
        if stage != Stage::Preflight {
            if self.style.preflight_first && host.shown.preflights == 0 {
                let words = format!("{stage} came before any preflight");
                return Err(Refusal::new(400, words).because(RefusalReason::NoPreflight));
            }
            if let Some(status) = self.style.lost_session_status
                && host.is_session_lost
            {
                return Err(Refusal::new(status, "this session is not known"));
            }
            if self.misbehaviours.does(Misbehaviour::Http06UsedUp)
                && stage != Stage::Postflight
                && host.had_last_page
            {
                return Err(Refusal::new(401, "the cookie has been used up"));
            }
            if let Some(limit) = self.style.sync_time.or(self.misbehaviours.sync_time())
                && let Some(open) = host.open
                && incoming.at.elapsed.saturating_sub(open.began) >= limit
            {
                return Err(Refusal::new(409, "the sync took too long"));
            }
        }
        self.misbehaviours.admits(stage, machine, is_uuid(machine), &host.facts())
    }

    fn xsrf(&self) -> Result<Reply, Refusal> {
        let mut reply = Reply::new(200, "", "");
        if self.misbehaviours.does(Misbehaviour::Err04Useless) {
            reply.set(DEFAULT_TOKEN_HEADER, &self.xsrf_token);
            return Ok(reply);
        }
        match &self.style.xsrf {
            Xsrf::Absent => {
                return Err(
                    Refusal::new(404, "there is no xsrf endpoint").because(RefusalReason::NoTokens)
                );
            }
            Xsrf::NoToken => {}
            Xsrf::Demanded(name) => {
                reply.set(DEFAULT_TOKEN_HEADER, &self.xsrf_token);
                if !name.eq_ignore_ascii_case(DEFAULT_TOKEN_HEADER) {
                    reply.set("X-XSRF-TOKEN-HEADER", name);
                }
            }
        }
        Ok(reply)
    }
}

fn shown<M>(body: &[u8]) -> Value
where
    M: prost::Message + Default + serde::Serialize,
{
    M::decode(body).ok().and_then(|message| serde_json::to_value(message).ok()).unwrap_or_default()
}

fn is_uuid(text: &str) -> bool {
    let groups: Vec<_> = text.split('-').collect();
    groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
        && groups.iter().all(|group| group.bytes().all(|b| b.is_ascii_hexdigit()))
}
