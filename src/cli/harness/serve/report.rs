//! What the program prints and writes down.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Mutex;

use serde_json::json;

use super::Args;
use crate::cli::{Error, output};
use crate::harness::{Exchange, FakeServer, Misbehaviour, Route};

/// The version of every `--json` line.
const SCHEMA_VERSION: u32 = 1;

/// The exit code if an expectation is not met.
const EXIT_NOT_MET: u8 = 1;

/// Prints every misbehaviour.
pub(super) fn list_misbehaviours(as_json: bool) {
    for misbehaviour in Misbehaviour::ALL {
        let (requirement, severity) = (misbehaviour.requirement(), misbehaviour.severity().name());
        if as_json {
            output::json_line(&json!({
                "requirement": requirement,
                "name": misbehaviour.name(),
                "severity": severity,
                "does": misbehaviour.does(),
            }));
        } else {
            let does = misbehaviour.does();
            output::line(format_args!("{misbehaviour:<28} {severity:<8} {does}"));
        }
    }
}

/// Prints where the server listens.
pub(super) fn started(args: &Args, server: &FakeServer) {
    let url = server.url();
    if args.json {
        let mut line = json!({ "schema_version": SCHEMA_VERSION, "url": url });
        if let Some((address, token)) = server.admin() {
            line["admin"] = json!({"url": format!("http://{address}/"), "token": token});
        }
        output::json_line(&line);
    } else {
        output::line(format_args!("serving {url}"));
        if let Some((address, token)) = server.admin() {
            output::line(format_args!("administrator: http://{address}/ with token {token}"));
        }
    }
}

pub(super) fn unwritable(path: &Path, error: &io::Error) -> Error {
    Error::usage(format!("cannot write {}: {error}", path.display()))
        .with_fix("name a file that this user may write")
}

/// Prints and writes down exchanges as they are answered.
pub(super) fn exchanges(args: &Args) -> Result<impl Fn(&Exchange) + Send + Sync + 'static, Error> {
    let transcript = match &args.transcript {
        Some(path) => {
            Some(Mutex::new(File::create(path).map_err(|error| unwritable(path, &error))?))
        }
        None => None,
    };
    let (quiet, as_json) = (args.quiet, args.json);
    Ok(move |exchange: &Exchange| {
        if !quiet && as_json {
            output::json_line(&json!({
                "number": exchange.number,
                "route": exchange.route,
                "machine_id": exchange.machine_id,
                "path": exchange.path,
                "status": exchange.status,
                "body_bytes": exchange.body_bytes,
                "response_bytes": exchange.response_bytes,
                "note": exchange.note,
            }));
        } else if !quiet {
            output::line(exchange);
        }
        if let Some(Ok(mut file)) = transcript.as_ref().map(Mutex::lock)
            && let Err(error) = writeln!(file, "{}", json!(exchange))
        {
            tracing::error!(%error, "the transcript cannot be written");
        }
    })
}

/// Prints the end of a run.
///
/// # Errors
/// If an expectation is not met, or a replayed recording had no response.
pub(super) fn summary(args: &Args, server: &FakeServer) -> Result<(), Error> {
    let counts = Route::ALL.map(|route| (route.name(), server.count(route)));
    let hosts = server.hosts().len();
    let events = server.events_received();
    let outcomes = server.outcomes();
    let misses = server.replay_misses();
    if args.json {
        let requests: serde_json::Map<_, _> =
            counts.into_iter().map(|(name, n)| (name.to_owned(), n.into())).collect();
        let mut line = json!({"requests": requests, "hosts": hosts, "events": events});
        if args.scenario.is_some() {
            line["expectations"] = json!(outcomes);
        }
        if args.replay.is_some() {
            line["replay_misses"] = json!(misses);
        }
        output::json_line(&line);
    } else {
        for outcome in &outcomes {
            let (verdict, name) = (if outcome.met { "met" } else { "NOT MET" }, &outcome.name);
            let colon = if outcome.reason.is_empty() { "" } else { ": " };
            output::line(format_args!("{verdict:<8}{name}{colon}{}", outcome.reason));
        }
        let counts = counts.map(|(name, n)| format!("{name} {n}")).join(", ");
        output::line(format_args!("stopped: hosts {hosts}, events {events}, {counts}"));
    }
    let unmet = outcomes.iter().filter(|outcome| !outcome.met).count();
    if unmet > 0 {
        let what = format!("{unmet} of {} expectations are not met", outcomes.len());
        return Err(Error::new(EXIT_NOT_MET, what));
    }
    if misses > 0 {
        let what = format!("{misses} requests have no response in the recording");
        return Err(Error::new(EXIT_NOT_MET, what));
    }
    Ok(())
}
