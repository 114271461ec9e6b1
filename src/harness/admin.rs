//! The administrator's door of a running server: a port of its own on loopback,
//! JSON in and out.
//!
//! Every request needs the token, because any program and any web page on this host
//! can reach the port. `docs/harness.md` shows each request with curl.

use std::net::SocketAddr;
use std::sync::Arc;

use hyper::Method;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, ORIGIN};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use subtle::ConstantTimeEq as _;

use super::Misbehaviour;
use super::change::{Change, FaultSpec, RuleSpec, SettingsSpec};
use super::exchange::Route;
use super::fixtures::AnyEvent;
use super::server::ServerShared;
use super::state::State;
use crate::model::text::escaped_start;
use crate::serve::{BodyLimits, Connection, Head, Request, Response, Service};

/// The largest body of a request: 64 MiB.
const BODY_MAX: u64 = 64 << 20;

/// Exchanges or events in one response.
const PAGE: usize = 1000;

/// Answers the administrator.
pub(super) struct AdminService {
    pub(super) shared: Arc<ServerShared>,
    pub(super) token: String,
    pub(super) address: SocketAddr,
}

/// What a request leads to: an object, or a status with an error.
type Answer = Result<Value, (u16, String)>;

impl Service for AdminService {
    fn admit(&self, head: &Head, _: &Connection) -> Result<BodyLimits, Response> {
        let refuse = |status, words: &str| Err(answer(Err((status, words.to_owned()))));
        let (port, host) = (self.address.port(), head.header(HOST.as_str()));
        let names = [self.address.to_string(), format!("localhost:{port}")];
        if head.headers.contains_key(ORIGIN) {
            let words = "requests with the header Origin come from web pages and are refused; \
                         leave it out";
            return refuse(403, words);
        }
        if !names.iter().any(|name| name == host) {
            let shown = escaped_start(host, 100);
            let [address, localhost] = names;
            let words = format!(
                "the header Host is \"{shown}\", which may be a web page's doing; call this server \
                 http://{address}/ or http://{localhost}/"
            );
            return refuse(403, &words);
        }
        let given = head.header(AUTHORIZATION.as_str()).strip_prefix("Bearer ").unwrap_or_default();
        if !bool::from(given.as_bytes().ct_eq(self.token.as_bytes())) {
            return refuse(401, "the header Authorization: Bearer TOKEN is missing or wrong");
        }
        Ok(BodyLimits::both(BODY_MAX))
    }

    async fn respond(&self, request: Request, _: Arc<Connection>) -> Response {
        let Head { method, path, query, .. } = &request.head;
        let result = if *method == Method::GET {
            self.shown(path, query.as_deref().unwrap_or_default())
        } else if *method == Method::POST {
            self.done(path, &request.body)
        } else {
            Err((405, format!("{method} is neither GET nor POST")))
        };
        answer(result)
    }

    fn needs_user(&self) -> bool {
        false
    }
}

impl AdminService {
    fn shown(&self, path: &str, query: &str) -> Answer {
        let after = query.split('&').find_map(|pair| pair.strip_prefix("after="));
        let after = match after {
            Some(number) => {
                number.parse().map_err(|_| (400, format!("after={number} is not a number")))?
            }
            None => 0_u64,
        };
        let state = self.shared.state();
        match path {
            "/state" => Ok(state_of(&state)),
            "/exchanges" => {
                let exchanges: Vec<_> = state
                    .transcript
                    .iter()
                    .filter(|exchange| exchange.number > after)
                    .take(PAGE)
                    .collect();
                let next = exchanges.last().map_or(after, |exchange| exchange.number);
                Ok(json!({"exchanges": exchanges, "next": next}))
            }
            "/events" => {
                let start = usize::try_from(after).unwrap_or(usize::MAX);
                let events: Vec<_> =
                    state.events.iter().skip(start).take(PAGE).map(AnyEvent::to_json).collect();
                let next = after + events.len() as u64;
                Ok(json!({"events": events, "next": next, "received": state.events_received}))
            }
            "/expectations" => {
                let outcomes = state.outcomes();
                let met = outcomes.iter().all(|outcome| outcome.met);
                Ok(json!({"met": met, "expectations": outcomes}))
            }
            _ => Err((
                404,
                "GET /state, /exchanges, /events or /expectations; POST /change, /rules, \
                 /settings, /faults, /release, /restart, /clean-sync/MACHINE or /finish"
                    .to_owned(),
            )),
        }
    }

    fn done(&self, path: &str, body: &[u8]) -> Answer {
        let change = match path {
            "/change" => read(body)?,
            "/rules" => {
                let RulesBody { rules } = read(body)?;
                Change { rules: Some(rules), ..Change::default() }
            }
            "/settings" => Change { settings: read::<SettingsSpec>(body)?, ..Change::default() },
            "/faults" => Change { faults: read::<Vec<FaultSpec>>(body)?, ..Change::default() },
            "/restart" => Change { restart: true, ..Change::default() },
            "/release" => {
                self.shared.release();
                return Ok(json!({}));
            }
            "/finish" => {
                self.shared.finished.send_replace(true);
                return Ok(json!({}));
            }
            other => match other.strip_prefix("/clean-sync/") {
                Some(machine_id) if !machine_id.is_empty() => {
                    let id = percent_encoding::percent_decode_str(machine_id).decode_utf8_lossy();
                    Change { clean_sync: vec![id.into_owned()], ..Change::default() }
                }
                Some(_) | None => return self.shown("", ""),
            },
        };
        let changed = self.shared.state().change(change);
        changed.map(|()| json!({})).map_err(|error| (404, error.to_string()))
    }
}

/// The format of `rules export`.
#[derive(serde::Deserialize)]
struct RulesBody {
    rules: Vec<RuleSpec>,
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, (u16, String)> {
    serde_json::from_slice(body).map_err(|error| (400, error.to_string()))
}

fn state_of(state: &State) -> Value {
    let requests: serde_json::Map<_, _> = Route::ALL
        .map(|route| (route.name().to_owned(), state.requests[route.place()].into()))
        .into_iter()
        .collect();
    let hosts: Vec<_> = state
        .hosts()
        .into_iter()
        .filter_map(|id| state.host(&id).map(|host| (id, host)))
        .map(|(id, host)| {
            json!({
                "machine_id": id,
                "preflights": host.preflights,
                "event_uploads": host.event_uploads,
                "events": host.events,
                "pages": host.pages,
                "postflights": host.postflights,
                "sync_type": host.sync_type.as_str_name(),
                "synced": host.synced,
                "clean_requested": host.clean_requested,
                "last_sync": host.last_sync,
                "last_preflight": host.last_preflight,
                "last_postflight": host.last_postflight,
            })
        })
        .collect();
    let misbehaviours: Vec<_> = state.misbehaviours.iter().map(Misbehaviour::name).collect();
    json!({
        "requests": requests,
        "hosts": hosts,
        "events": state.events_received,
        "rules": state.rule_count(),
        "settings": state.settings,
        "misbehaviours": misbehaviours,
        "faults": state.script.len(),
        "pending_changes": state.pending.len(),
    })
}

fn answer(result: Answer) -> Response {
    let (status, body) = match result {
        Ok(value) => (200, value),
        Err((status, words)) => (status, json!({ "error": words })),
    };
    let json = HeaderValue::from_static("application/json");
    Response::new(status, format!("{body}\n")).with(CONTENT_TYPE, json)
}
