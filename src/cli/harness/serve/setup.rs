//! From the options to a server, and files that are read again.

use std::path::Path;

use serde::de::DeserializeOwned;

use super::report::unwritable;
use super::{Args, Exposed, ModeArg};
use crate::cli::Error;
use crate::files;
use crate::harness::{
    Encoding, FakeServer, ResponseEncoding, Scenario, Scripted, SyncTypePolicy, Xsrf, fixtures,
};
use crate::protocol::wire;

/// How many events are kept for an administrator.
const MAX_EVENTS: usize = 100_000;

/// Starts the server that the options describe.
pub(super) fn start(args: &Args) -> Result<FakeServer, Error> {
    if !args.listen.ip().is_loopback() && !args.public {
        let what =
            format!("{} is not a loopback address, so other hosts could connect", args.listen);
        return Err(Error::usage(what).with_fix("--public allows that"));
    }
    let mut builder = FakeServer::builder();
    if let Some(path) = &args.scenario {
        builder = builder.scenario(Scenario::load(path)?);
    }
    builder = builder.listen(args.listen);
    if let Some(path) = &args.base_path {
        builder = builder.base_path(path);
    }
    if let Some(preset) = args.preset {
        builder = builder.preset(preset);
    }
    if let Some(rules) = args.page_size {
        builder = builder.page_size(rules);
    }
    builder = match &args.rules_file {
        Some(path) => builder.rules(rules_of(path)?),
        None if args.rules == 0 && args.scenario.is_some() => builder,
        None => builder.rules(fixtures::rules(args.rules, args.seed)),
    };
    if let Some(path) = &args.settings {
        builder = builder.settings(read(path, "a preflight response")?);
    }
    if let Some(mode) = args.client_mode {
        builder = builder.client_mode(match mode {
            ModeArg::Monitor => wire::ClientMode::Monitor,
            ModeArg::Lockdown => wire::ClientMode::Lockdown,
            ModeArg::Standalone => wire::ClientMode::Standalone,
        });
    }
    if let Some(events) = args.batch_size {
        builder = builder.batch_size(events);
    }
    if args.clean {
        builder = builder.sync_type(SyncTypePolicy::Always(wire::SyncType::Clean));
    }
    if args.clean_all {
        builder = builder.sync_type(SyncTypePolicy::Always(wire::SyncType::CleanAll));
    }
    if let Some(transfer) = args.transfer {
        builder = builder.transfer(transfer.into());
    }
    builder = builder.style(|style| {
        if args.gzip {
            style.response_encoding = ResponseEncoding::Always(Encoding::Gzip);
        }
        if args.xsrf {
            style.xsrf = Xsrf::Demanded("X-XSRF-TOKEN".to_owned());
        }
        if args.demand_header.is_some() {
            style.header.clone_from(&args.demand_header);
        }
    });
    if args.hosts_up_to_date {
        builder = builder.hosts_up_to_date();
    }
    if args.encode_ahead {
        builder = builder.encode_ahead();
    }
    if let Some(address) = args.admin {
        builder = builder.admin(address, args.admin_token.clone()).events_limit(MAX_EVENTS);
    } else {
        // Nobody could ask this process for what it keeps; but bodies are read for
        // exchanges that are.
        let is_read = args.transcript.is_some() || args.scenario.is_some();
        builder = builder.forget_events().transcript_limit(usize::from(is_read));
    }
    if let Some(directory) = &args.record {
        builder = builder.record(directory, args.mask);
    }
    if let Some(directory) = &args.replay {
        builder = builder.replay(directory);
    }
    if args.count_only {
        builder = builder.count_only();
    }
    for exposed in &args.expose_errors {
        if let Exposed::One(misbehaviour) = exposed {
            builder = builder.misbehave(*misbehaviour);
        }
    }
    for fault in &args.faults {
        builder = builder.scripted(fault.clone());
    }
    if args.tls_roots.is_some() {
        builder = builder.tls();
    }
    let server = builder.on_exchange(super::report::exchanges(args)?).start()?;
    if let (Some(path), Some(roots)) = (&args.tls_roots, server.roots()) {
        std::fs::write(path, roots).map_err(|error| unwritable(path, &error))?;
    }
    Ok(server)
}

/// Reads the scenario or the rules again.
pub(super) fn read_again(args: &Args, server: &FakeServer) -> Result<(), Error> {
    if let Some(path) = &args.scenario {
        server.read_again(Scenario::load(path)?);
        for Scripted { route, when, fault } in args.faults.iter().cloned() {
            server.fault(route, when, fault);
        }
        for exposed in &args.expose_errors {
            if let Exposed::One(misbehaviour) = exposed {
                server.misbehave(*misbehaviour);
            }
        }
    }
    if let Some(path) = &args.rules_file {
        server.set_rules(rules_of(path)?);
    }
    Ok(())
}

/// The most bytes of a file of rules or settings: some millions of rules.
const MAX_FILE_BYTES: u64 = 1 << 30;

fn read<T: DeserializeOwned>(path: &Path, what: &'static str) -> Result<T, Error> {
    let shown = path.display();
    let text = files::read(path, MAX_FILE_BYTES).map_err(|error| {
        Error::usage(format!("cannot read {shown}: {error}"))
            .with_fix("name a file that this user may read")
    })?;
    serde_json::from_slice(&text)
        .map_err(|error| Error::usage(format!("{shown} is not {what}: {error}")))
}

fn rules_of(path: &Path) -> Result<Vec<wire::Rule>, Error> {
    let export: wire::RuleDownloadResponse = read(path, "an export of rules")?;
    for (index, rule) in export.rules.iter().enumerate() {
        let unknown = |what| {
            Err(Error::usage(format!("rule {index} of {} has no known {what}", path.display()))
                .with_fix("use the protocol's name for it"))
        };
        if rule.policy() == wire::Policy::Unknown {
            return unknown("policy");
        }
        if rule.rule_type() == wire::RuleType::RuletypeUnknown {
            return unknown("rule_type");
        }
    }
    Ok(export.rules)
}
