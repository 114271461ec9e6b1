//! `harness serve`: the fake sync server as a program of its own.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use clap::ValueEnum;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::demo::at_most_5_million;
use crate::cli::{Error, output};
use crate::harness::{
    AcceptedForms, Encoding, Exchange, FakeServer, Misbehaviour, Preset, ResponseEncoding, Route,
    Scripted, SyncTypePolicy, UnknownMisbehaviour, Xsrf, fixtures,
};
use crate::protocol::wire;

/// The version of every `--json` line.
const SCHEMA_VERSION: u32 = 1;

pub(super) const EXAMPLES: &str = "\
The first line of output is the URL to give an agent; with --json it is
{\"schema_version\":1,\"url\":...}. Each request follows on its own line. SIGINT and
SIGTERM end the server with a summary. SIGHUP reads --rules-file again: the next
NORMAL sync of a host downloads the difference. SIGUSR1 releases held responses.

Faults are ROUTE[:WHICH]=FAULT[:VALUE]. ROUTE is preflight, event_upload,
rule_download, postflight or xsrf. WHICH counts the requests of that route: 2 is
the second, 2- the second and all after it, -2 the first two, * all (the default).
FAULT is one of
  replace the response    status:503  status:429,7 (with Retry-After)  redirect:URL
                          html  not-json  empty-body  wrong-shape:JSON  stall
                          gzip-bomb:BYTES  endless-header  endless-body  not-http
  damage the response     truncate  truncate-chunked  truncate-without-length
                          close  close-without-length  slow-bytes:10ms
                          corrupt-gzip  unknown-encoding  repeat-cursor
                          endless-cursor  broken-rule:INDEX  unknown-enum
  delay the response      delay:500ms  hold

Examples:
  santa-sync harness serve --rules 300 --page-size 100
  santa-sync harness serve --preset zentral --rules-file rules.json --transcript t.jsonl
  santa-sync harness serve --fault preflight:-2=status:503 --fault rule_download:2=truncate
  santa-sync harness serve --rules 1000000 --page-size 10000 --encode-ahead --count-only
Then, in another terminal:
  santa-sync sync --state-dir ./state --set MachineID=test --set SyncBaseURL=URL";

#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(super) struct Args {
    /// Listen on this address; port 0 picks a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Allow --listen to name an address that other hosts can reach; anyone who reaches it can
    /// act as any host, and nothing is encrypted
    #[arg(long)]
    public: bool,
    /// Path of the URL, for example v1/santa
    #[arg(long, value_name = "PATH", default_value = "")]
    base_path: String,
    /// Generate this many rules
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "rules_file", value_parser = at_most_5_million)]
    rules: usize,
    /// Seed for generated rules
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Serve the rules of this file, in the format of `rules export`
    #[arg(long, value_name = "FILE")]
    rules_file: Option<PathBuf>,
    /// Rules per page; 0 puts all on one page
    #[arg(long, value_name = "N", default_value_t = 1000)]
    page_size: usize,
    /// Events per upload request
    #[arg(long, value_name = "N")]
    batch_size: Option<u32>,
    /// Send these settings: a preflight response in JSON
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// Send this client mode, whatever the settings say
    #[arg(long, value_name = "MODE")]
    client_mode: Option<ModeArg>,
    /// Demand a clean sync every time
    #[arg(long)]
    clean: bool,
    /// Demand a clean sync of all rules every time
    #[arg(long, conflicts_with = "clean")]
    clean_all: bool,
    /// Assume that new hosts have all rules already
    #[arg(long)]
    hosts_up_to_date: bool,
    /// Imitate this server: plain, moroz, rudolph or zentral
    #[arg(long, value_name = "SERVER", default_value = "plain", value_parser = preset)]
    preset: Preset,
    /// Accept only this format of messages
    #[arg(long, value_name = "FORM")]
    transfer: Option<TransferArg>,
    /// Compress responses with gzip, whether requested or not
    #[arg(long)]
    gzip: bool,
    /// Require an XSRF token
    #[arg(long)]
    xsrf: bool,
    /// Require this header on every request of a stage
    #[arg(long, value_name = "NAME: VALUE", value_parser = header)]
    demand_header: Option<(String, String)>,
    /// Inject a fault (see below); may be repeated
    #[arg(long = "fault", value_name = "FAULT")]
    faults: Vec<Scripted>,
    /// Break this requirement of a server, for example CLEAN-04 or clean-04-never-ends; may be
    /// repeated; `list` prints all and ends
    #[arg(long, visible_alias = "misbehave", value_name = "REQUIREMENT", value_parser = exposed)]
    expose_errors: Vec<Exposed>,
    /// Write each exchange to this file, one JSON object per line; headers are written as received,
    /// including secrets
    #[arg(long, value_name = "FILE")]
    transcript: Option<PathBuf>,
    /// Encode all rule pages before listening, to measure a client undisturbed
    #[arg(long)]
    encode_ahead: bool,
    /// Count events without storing them, to measure a client undisturbed
    #[arg(long, conflicts_with = "transcript")]
    count_only: bool,
    /// Do not print a line for each request
    #[arg(long, short)]
    quiet: bool,
    /// Print JSON, one object per line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ModeArg {
    Monitor,
    Lockdown,
    Standalone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TransferArg {
    Any,
    Json,
    Protobuf,
}

impl From<TransferArg> for AcceptedForms {
    fn from(arg: TransferArg) -> Self {
        match arg {
            TransferArg::Any => Self::Any,
            TransferArg::Json => Self::Json,
            TransferArg::Protobuf => Self::Protobuf,
        }
    }
}

fn preset(text: &str) -> Result<Preset, String> {
    let known = Preset::NAMES.into_iter().find(|(name, _)| *name == text);
    known.map(|(_, preset)| preset).ok_or_else(|| {
        let names = Preset::NAMES.map(|(name, _)| name);
        format!("known ones are {}", names.join(", "))
    })
}

/// What `--expose-errors` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exposed {
    List,
    One(Misbehaviour),
}

fn exposed(text: &str) -> Result<Exposed, UnknownMisbehaviour> {
    if text == "list" { Ok(Exposed::List) } else { text.parse().map(Exposed::One) }
}

/// Prints every misbehaviour.
fn list_misbehaviours(as_json: bool) {
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

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("a header is NAME: VALUE")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<(), Error> {
    if args.expose_errors.contains(&Exposed::List) {
        list_misbehaviours(args.json);
        return Ok(());
    }
    let no_signals =
        |error| Error::internal(format!("cannot wait for connections and signals: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(no_signals)?;
    runtime.block_on(async {
        // Before the URL is printed: whoever reads it may send a signal at once.
        let mut signals = ServeSignals::new().map_err(no_signals)?;
        let server = start(args)?;
        let url = server.url();
        if args.json {
            output::json_line(&json!({ "schema_version": SCHEMA_VERSION, "url": url }));
        } else {
            output::line(format_args!("serving {url}"));
        }
        while signals.next(args, &server).await {}
        summary(args, &server);
        Ok(())
    })
}

/// What the program waits for.
struct ServeSignals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    user: Signal,
}

impl ServeSignals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            user: signal(SignalKind::user_defined1())?,
        })
    }

    /// Waits for a signal and does what it asks for. Answers whether to go on.
    async fn next(&mut self, args: &Args, server: &FakeServer) -> bool {
        tokio::select! {
            _ = self.interrupt.recv() => return false,
            _ = self.terminate.recv() => return false,
            _ = self.user.recv() => server.release(),
            _ = self.hangup.recv() => {
                if let Some(path) = &args.rules_file {
                    match rules_of(path) {
                        Ok(rules) => server.set_rules(rules),
                        // The rules served so far stay.
                        Err(error) => output::error(&error),
                    }
                }
            }
        }
        true
    }
}

fn start(args: &Args) -> Result<FakeServer, Error> {
    if !args.listen.ip().is_loopback() && !args.public {
        let what =
            format!("{} is not a loopback address, so other hosts could connect", args.listen);
        return Err(Error::usage(what).with_fix("--public allows that"));
    }
    let mut builder = FakeServer::builder()
        .listen(args.listen)
        .base_path(&args.base_path)
        .preset(args.preset)
        .page_size(args.page_size);
    builder = match &args.rules_file {
        Some(path) => builder.rules(rules_of(path)?),
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
    // Nobody could ask this process for what it keeps; but bodies are read for
    // exchanges that are.
    builder = builder.forget_events().transcript_limit(usize::from(args.transcript.is_some()));
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
    Ok(builder.on_exchange(report(args)?).start()?)
}

/// Prints and writes down exchanges as they are answered.
fn report(args: &Args) -> Result<impl Fn(&Exchange) + Send + Sync + 'static, Error> {
    let transcript = match &args.transcript {
        Some(path) => {
            let failed = |error| {
                Error::usage(format!("cannot write {}: {error}", path.display()))
                    .with_fix("name a file that this user may write")
            };
            Some(Mutex::new(File::create(path).map_err(failed)?))
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

fn summary(args: &Args, server: &FakeServer) {
    let counts = Route::ALL.map(|route| (route.name(), server.count(route)));
    let hosts = server.hosts().len();
    let events = server.events_received();
    if args.json {
        let requests: serde_json::Map<_, _> =
            counts.into_iter().map(|(name, n)| (name.to_owned(), n.into())).collect();
        output::json_line(&json!({"requests": requests, "hosts": hosts, "events": events}));
    } else {
        let counts = counts.map(|(name, n)| format!("{name} {n}")).join(", ");
        output::line(format_args!("stopped: hosts {hosts}, events {events}, {counts}"));
    }
}

fn read<T: DeserializeOwned>(path: &Path, what: &'static str) -> Result<T, Error> {
    let shown = path.display();
    let text = fs::read(path).map_err(|error| {
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
