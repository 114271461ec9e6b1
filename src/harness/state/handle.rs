//! From a request to its response: routing, faults, admission, and the transcript.

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;
use serde_json::Value;

use super::{Handled, Host, State};
use crate::harness::exchange::{Exchange, Route};
use crate::harness::fault::Fault;
use crate::harness::reply::{self, Form, ReceivedRequest, Refusal, Reply};
use crate::harness::script::{Script, Wait};
use crate::harness::style::Xsrf;
use crate::model::Stage;
use crate::protocol::wire;

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
        let wait = faults.iter().find_map(Fault::wait).unwrap_or(Wait::Nothing);
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
        let response = match (fault.and_then(Fault::instead), route) {
            (Some(instead), _) => {
                self.remember_unserved(incoming, route, &mut exchange);
                instead
            }
            (None, None) => Err(Refusal::new(404, format!("nothing exists at {}", incoming.path))),
            (None, Some(route)) => self
                .served(incoming, route, &machine_id, fault, &mut exchange)
                .and_then(|reply| match fault {
                    Some(fault) => fault.damaged(reply),
                    None => Ok(Script::Whole(reply)),
                }),
        };
        let response = response.unwrap_or_else(|refusal| {
            exchange.note.clone_from(&refusal.words);
            Script::Whole(Reply::refusal(&self.style, &refusal))
        });
        if let Script::Whole(reply) = &response {
            exchange.status = Some(reply.status);
            exchange.response_bytes = reply.body.len() as u64;
        }
        self.remember(&exchange);
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
        if machine_id.is_empty() || machine_id.contains('/') {
            return None;
        }
        let route = Route::ALL.into_iter().find(|route| route.segment() == segment)?;
        Some((route, percent_decode_str(machine_id).decode_utf8_lossy().into_owned()))
    }

    /// Counts a request and finds the faults that apply to it.
    fn struck(&mut self, route: Route, machine_id: &str) -> (u64, Vec<Fault>) {
        let seen = self.hosts_up_to_date.then_some(self.log.len());
        let host = self
            .hosts
            .entry(machine_id.to_owned())
            .or_insert_with(|| Host { seen, ..Host::default() });
        let place = route.place();
        self.requests[place] += 1;
        host.requests[place] += 1;
        let (of_all, of_host) = (self.requests[place], host.requests[place]);
        let faults = self
            .script
            .iter()
            .filter(|s| s.route == route && s.when.strikes(machine_id, of_all, of_host))
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

    /// Decodes what it can of a request whose response a fault replaces.
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

    /// The response to a request that no fault replaces.
    fn served(
        &mut self,
        incoming: &ReceivedRequest,
        route: Route,
        machine_id: &str,
        fault: Option<&Fault>,
        exchange: &mut Exchange,
    ) -> Result<Reply, Refusal> {
        let stage = match route {
            Route::Xsrf => {
                Self::checked_method(incoming)?;
                return self.xsrf();
            }
            Route::Stage(stage) => stage,
        };
        // Read first, so that the transcript has the body of a refused request.
        let opened = match stage {
            Stage::RuleDownload if self.style.assumes_zlib => Ok((Form::Json, Vec::new())),
            Stage::Preflight | Stage::EventUpload | Stage::RuleDownload | Stage::Postflight => {
                reply::opened(&self.style, incoming)
            }
        };
        if let Ok((form, body)) = &opened {
            self.remember_body(route, *form, body, exchange);
        }
        Self::checked_method(incoming)?;
        self.admitted(incoming, stage, machine_id)?;
        let (form, body) = opened?;
        let response = match stage {
            Stage::Preflight => self.preflight(machine_id, form, &body, fault),
            Stage::EventUpload => self.event_upload(machine_id, form, &body),
            Stage::RuleDownload => self.rule_download(machine_id, form, &body, fault),
            Stage::Postflight => self.postflight(machine_id, form, &body),
        }?;
        let mut reply = Reply::success(&self.style, incoming, form, response)?;
        if stage == Stage::Preflight
            && let Some(name) = &self.style.cookie
        {
            reply.set("Set-Cookie", &format!("{name}={}; Path=/; HttpOnly", self.cookie));
        }
        Ok(reply)
    }

    fn checked_method(incoming: &ReceivedRequest) -> Result<(), Refusal> {
        if incoming.method == "POST" {
            return Ok(());
        }
        Err(Refusal::new(405, format!("{} is not POST", incoming.method)))
    }

    /// Checks that the host may make this request.
    fn admitted(
        &self,
        incoming: &ReceivedRequest,
        stage: Stage,
        machine: &str,
    ) -> Result<(), Refusal> {
        if let Some((name, value)) = &self.style.header
            && incoming.header(name) != value
        {
            return Err(Refusal::new(401, format!("header {name} is missing or wrong")));
        }
        if let Xsrf::Demanded(name) = &self.style.xsrf
            && incoming.header(name) != self.xsrf_token
        {
            return Err(Refusal::new(403, format!("token in {name} is missing or stale")));
        }
        if let Some(name) = &self.style.cookie
            && stage != Stage::Preflight
            && !incoming.header("cookie").contains(&format!("{name}={}", self.cookie))
        {
            return Err(Refusal::new(401, format!("cookie {name} is missing or wrong")));
        }
        if self.style.uuid_only && !is_uuid(machine) {
            return Err(Refusal::new(403, format!("machine id {machine:?} is not a UUID")));
        }
        let known = self.hosts.get(machine).is_some_and(|host| host.shown.preflights > 0);
        if self.style.preflight_first && stage != Stage::Preflight && !known {
            return Err(Refusal::new(400, format!("{stage} came before any preflight")));
        }
        Ok(())
    }

    fn xsrf(&self) -> Result<Reply, Refusal> {
        const DEFAULT_TOKEN_HEADER: &str = "X-XSRF-TOKEN";
        let mut reply = Reply::new(200, "", "");
        match &self.style.xsrf {
            Xsrf::Absent => return Err(Refusal::new(404, "there is no xsrf endpoint")),
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
