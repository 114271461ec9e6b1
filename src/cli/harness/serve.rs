//! `harness serve`: the fake sync server as a program of its own.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::ValueEnum;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::demo::at_most_5_million;
use crate::cli::{Error, output};
use crate::harness::simulation::process;
use crate::harness::{
    AcceptedForms, FakeServer, Misbehaviour, Preset, Scripted, UnknownMisbehaviour,
};

mod report;
mod setup;

/// The shortest token of an administrator: one that is left empty, or guessed, opens the port.
const MIN_TOKEN_BYTES: usize = 16;

pub(super) const EXAMPLES: &str = "\
The first line of output is the URL to give an agent; with --json it is
{\"schema_version\":1,\"url\":...}. Each request follows on its own line. SIGINT and
SIGTERM end the server with a summary. SIGHUP reads --rules-file or --scenario
again: the next NORMAL sync of a host downloads the difference. SIGUSR1 releases held responses.

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
  santa-sync harness serve --scenario fixtures/scenarios/first-sync.toml --json
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
    #[arg(long, value_name = "PATH")]
    base_path: Option<String>,
    /// Generate this many rules
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "rules_file", value_parser = at_most_5_million)]
    rules: usize,
    /// Seed for generated rules
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Serve the rules of this file, in the format of `rules export`
    #[arg(long, value_name = "FILE")]
    rules_file: Option<PathBuf>,
    /// Rules per page, 1000 by default; 0 puts all on one page
    #[arg(long, value_name = "N")]
    page_size: Option<usize>,
    /// Events per upload request
    #[arg(long, value_name = "N")]
    batch_size: Option<u32>,
    /// Send these settings: a preflight response in JSON
    #[arg(long, value_name = "FILE", conflicts_with = "scenario")]
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
    /// Do what this file says (see docs/harness.md); other options override it; failed expectations
    /// make the exit code 1
    #[arg(long, value_name = "FILE", conflicts_with = "rules_file")]
    scenario: Option<PathBuf>,
    /// Imitate this server: plain, moroz, rudolph, zentral, protobuf-gzip, cookie, numeric-cursor,
    /// always-clean, remove-from-empty or memory-session
    #[arg(long, value_name = "SERVER", conflicts_with = "scenario")]
    preset: Option<Preset>,
    /// Accept only this format of messages
    #[arg(long, value_name = "FORM")]
    transfer: Option<TransferArg>,
    /// Serve https; the root certificate to trust is written to this file
    #[arg(long, value_name = "FILE")]
    tls_roots: Option<PathBuf>,
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
    /// Listen here, on loopback, for an administrator, who sees and changes what the server does;
    /// the first line has the token to show
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,
    /// The administrator's token, at least 16 characters; a random one by default
    #[arg(
        long,
        value_name = "TOKEN",
        requires = "admin",
        env = "SANTA_SYNC_ADMIN_TOKEN",
        hide_env_values = true,
        value_parser = admin_token
    )]
    admin_token: Option<String>,
    /// Write each exchange, whole and with secrets as received, to a file of its own in this new
    /// directory
    #[arg(long, value_name = "DIR", conflicts_with = "replay")]
    record: Option<PathBuf>,
    /// Mask what may be a secret in recordings
    #[arg(long, requires = "record")]
    mask: bool,
    /// Answer from a recording
    #[arg(long, value_name = "DIR", conflicts_with_all = ["scenario", "rules_file", "rules", "expose_errors"])]
    replay: Option<PathBuf>,
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

/// What `--expose-errors` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exposed {
    List,
    One(Misbehaviour),
}

fn exposed(text: &str) -> Result<Exposed, UnknownMisbehaviour> {
    if text == "list" { Ok(Exposed::List) } else { text.parse().map(Exposed::One) }
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("a header is NAME: VALUE")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

fn admin_token(text: &str) -> Result<String, String> {
    if text.len() < MIN_TOKEN_BYTES {
        return Err(format!("a token has at least {MIN_TOKEN_BYTES} characters"));
    }
    Ok(text.to_owned())
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<(), Error> {
    if args.expose_errors.contains(&Exposed::List) {
        report::list_misbehaviours(args.json);
        return Ok(());
    }
    // A simulated fleet has thousands of connections.
    if let Err(error) = process::open_many_files() {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    let no_signals =
        |error| Error::internal(format!("cannot wait for connections and signals: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(no_signals)?;
    runtime.block_on(async {
        // Before the URL is printed: whoever reads it may send a signal at once.
        let mut signals = ServeSignals::new().map_err(no_signals)?;
        let server = setup::start(args)?;
        report::started(args, &server);
        while signals.next(args, &server).await {}
        report::summary(args, &server)
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

    /// Waits for a signal and does what it asks for. Returns whether to go on.
    async fn next(&mut self, args: &Args, server: &FakeServer) -> bool {
        tokio::select! {
            _ = self.interrupt.recv() => return false,
            _ = self.terminate.recv() => return false,
            _ = self.user.recv() => server.release(),
            () = server.finished() => return false,
            _ = self.hangup.recv() => {
                // What is served so far stays.
                if let Err(error) = setup::read_again(args, server) {
                    output::error(&error);
                }
            }
        }
        true
    }
}
