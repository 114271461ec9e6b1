//! `harness simulate`: many hosts against one server.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::report::{ReportFiles, show};
use super::time;
use crate::cli::sync::Signals;
use crate::cli::{Error, Global, output};
use crate::harness::simulation::groups::HostGroup;
use crate::harness::simulation::mix_file::HostMix;
use crate::harness::simulation::plan::{Mix, Outage, Shard, SimulationPlan, Storm, parse_percent};
use crate::harness::simulation::process;
use crate::harness::{Simulation, SimulationProgress};
use crate::host::{self, SystemHost};
use crate::model::MIN_SYNC_INTERVAL_SECS;

/// Time between two lines of progress if standard output is not a terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// Files that a process needs besides its connections.
const OTHER_FILES: u64 = 64;

pub(super) const EXAMPLES: &str = "\
Hosts run the agent's own protocol code, waits and schedule, with stores in memory.
Times are a number and ms, s, m, h or d. A mix is VALUE=WEIGHT,VALUE=WEIGHT or one
value. --storm is KIND@TIME or KIND@TIME:SHARE%, where KIND is
  clean   the hosts request a clean sync, at their next sync
  sync    the hosts sync at once
  reboot  the hosts reboot: running syncs break off, and the next one begins 15 to 30 s
          later
--outage TIME:LENGTH makes the simulator refuse its hosts' connections; the server sees
silence, then the hosts' return.

SIGINT and SIGTERM end the simulation with a report of what has been measured. The
machine id of every simulated host begins with 51A7A51D-. If nothing listens at the
server's address, the exit code is 69.

Examples:
  santa-sync harness simulate http://127.0.0.1:8080/ --hosts 1000 --for 10m --html report.html
  santa-sync harness simulate https://sync.test.example.com/ --i-own-this-server \\
      --set 'SyncExtraHeaders={\"Authorization\":\"Bearer t\"}' --hosts 10000 --ramp 10m --for 1h \\
      --versions 2026.8=70,2025.7=30 --protobuf 20% --events 4=95,400=5 --outage 40m:5m
  santa-sync harness simulate URL --hosts 80000 --shard 3/8 --save shard-3.json
  santa-sync harness report shard-*.json --html report.html";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Base URL of the server
    #[arg(value_name = "URL")]
    url: String,
    /// Simulate this many hosts, in all shards together (100, or the counts of --mix)
    #[arg(long, value_name = "N")]
    hosts: Option<u32>,
    /// Start the hosts one after another over this time
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = time)]
    ramp: Duration,
    /// Simulate this long, the ramp included
    #[arg(long = "for", value_name = "TIME", default_value = "5m", value_parser = time)]
    lasting: Duration,
    /// Sync at this interval, at least 60s, instead of what the server says
    #[arg(long, value_name = "TIME", value_parser = interval)]
    interval: Option<u32>,
    /// Run the hosts' clocks N times as fast: N times the load of that many hosts
    #[arg(long, value_name = "N", default_value_t = 1)]
    speed: u32,
    /// Read groups of hosts from a TOML file; options on the command line override every group
    #[arg(long, value_name = "FILE")]
    mix: Option<PathBuf>,
    /// Santa versions to report (2026.8)
    #[arg(long, value_name = "MIX")]
    versions: Option<Mix<String>>,
    /// Content encodings of requests: deflate, gzip, none (deflate)
    #[arg(long, value_name = "MIX")]
    encodings: Option<Mix<String>>,
    /// Share of hosts that speak protobuf instead of JSON (0%)
    #[arg(long, value_name = "SHARE%", value_parser = percent)]
    protobuf: Option<u8>,
    /// Events that a host queues per hour (6)
    #[arg(long, value_name = "MIX")]
    events: Option<Mix<u32>>,
    /// Enlarge events to this many bytes before compression; the smallest have about 700 (0)
    #[arg(long, value_name = "MIX")]
    event_bytes: Option<Mix<u32>>,
    /// Share of events that report something denied (10%)
    #[arg(long, value_name = "SHARE%", value_parser = percent)]
    denied: Option<u8>,
    /// Share of hosts that upload within 2 s after something was denied (100%)
    #[arg(long, value_name = "SHARE%", value_parser = percent)]
    prompt_uploads: Option<u8>,
    /// Executables in the bundle of a denied execution, sent if the server requests the bundle;
    /// 0 for an execution that is in no bundle (0)
    #[arg(long, value_name = "MIX")]
    bundle_binaries: Option<Mix<u32>>,
    /// Memory for the responses to all hosts of this process; if a response does not fit, its
    /// attempt is counted as a failure of the simulator
    #[arg(long, value_name = "MIB", default_value_t = 512,
        value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    response_memory: u32,
    /// Have many hosts do something at once (see below); may be repeated
    #[arg(long = "storm", value_name = "STORM")]
    storms: Vec<Storm>,
    /// Refuse the hosts' connections for a while (see below); may be repeated
    #[arg(long = "outage", value_name = "TIME:LENGTH")]
    outages: Vec<Outage>,
    /// Repeat the hosts, events and storms of an earlier run; waits vary all the same, as the
    /// agent's do
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Play only one part of the hosts, for example 3/8, as one of several processes
    #[arg(long, value_name = "PART/PARTS", default_value = "1/1")]
    shard: Shard,
    /// Allow a server that is not on this host
    #[arg(long)]
    i_own_this_server: bool,
    /// Do not show progress
    #[arg(long, short)]
    quiet: bool,
    /// Print the report as one line of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    files: ReportFiles,
}

fn interval(text: &str) -> Result<u32, String> {
    let time = time(text)?;
    let secs = u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
    if secs < MIN_SYNC_INTERVAL_SECS || time.subsec_nanos() > 0 {
        return Err(format!(
            "a host syncs at most once in {MIN_SYNC_INTERVAL_SECS}s; for more load, use more hosts \
             or --speed"
        ));
    }
    Ok(secs)
}

fn percent(text: &str) -> Result<u8, String> {
    parse_percent(text).ok_or_else(|| "write a share from 0% to 100%".to_owned())
}

impl Args {
    fn plan(&self, current: &SimulationPlan) -> Result<SimulationPlan, Error> {
        let mix = match &self.mix {
            Some(path) => Some(HostMix::load(path, self.hosts)?),
            None => None,
        };
        let (hosts, mut groups) =
            mix.map_or((None, Vec::new()), |mix| (Some(mix.hosts), mix.groups));
        for group in &mut groups {
            self.overrule(group);
        }
        Ok(SimulationPlan {
            url: current.url.clone(),
            hosts: hosts.or(self.hosts).unwrap_or(current.hosts),
            shard: self.shard,
            seed: self.seed,
            ramp: self.ramp.min(self.lasting),
            lasting: self.lasting,
            interval_secs: self.interval,
            speed: self.speed,
            versions: given(self.versions.as_ref(), &current.versions),
            encodings: given(self.encodings.as_ref(), &current.encodings),
            protobuf_percent: self.protobuf.unwrap_or(current.protobuf_percent),
            groups,
            events_per_hour: given(self.events.as_ref(), &current.events_per_hour),
            event_bytes: given(self.event_bytes.as_ref(), &current.event_bytes),
            denied_percent: self.denied.unwrap_or(current.denied_percent),
            prompt_percent: self.prompt_uploads.unwrap_or(current.prompt_percent),
            bundle_binaries: given(self.bundle_binaries.as_ref(), &current.bundle_binaries),
            response_memory: u64::from(self.response_memory) << 20,
            storms: self.storms.clone(),
            outages: self.outages.clone(),
        })
    }

    /// Makes the options of the command line override a group's own values.
    fn overrule(&self, group: &mut HostGroup) {
        fn drop_if<T>(is_given: bool, own: &mut Option<T>) {
            if is_given {
                *own = None;
            }
        }
        drop_if(self.versions.is_some(), &mut group.versions);
        drop_if(self.encodings.is_some(), &mut group.encodings);
        drop_if(self.protobuf.is_some(), &mut group.transfers);
        drop_if(self.interval.is_some(), &mut group.interval_secs);
        drop_if(self.events.is_some(), &mut group.events_per_hour);
        drop_if(self.event_bytes.is_some(), &mut group.event_bytes);
        drop_if(self.denied.is_some(), &mut group.denied_percent);
        drop_if(self.prompt_uploads.is_some(), &mut group.prompt_percent);
        drop_if(self.bundle_binaries.is_some(), &mut group.bundle_binaries);
    }
}

fn given<T: Clone>(own: Option<&Mix<T>>, default: &Mix<T>) -> Mix<T> {
    own.unwrap_or(default).clone()
}

/// Runs the command.
pub(super) fn run(global: &Global, args: &Args) -> Result<(), Error> {
    let config = super::configuration(global)?;
    let mut simulation = Simulation::new(&args.url)?.config(&config);
    let plan = args.plan(simulation.current_plan())?;
    if args.i_own_this_server {
        simulation = simulation.on_my_own_server();
    }
    let files = args.files.create()?;
    warn_of_few_files(&plan);
    if let Some(short) = plan.too_short() {
        output::note(format!("{}: {short}", short.who()));
    }
    let progress = Progress::new(!args.quiet && !args.json);
    let signals = Signals::catch(host::ignored_signals(&SystemHost));
    let mut reporter = progress.clone();
    let simulation = simulation.plan(plan).on_progress(move |now| reporter.show(now));
    let done = simulation.run_until(signals.stop());
    progress.finish();
    let report = done?;
    files.write(&report)?;
    show(&report, args.json);
    Ok(())
}

/// Each running sync has a connection, and in a storm all of them may run.
fn warn_of_few_files(plan: &SimulationPlan) {
    let hosts = u64::from(plan.hosts / plan.shard.of.max(1));
    match process::open_many_files() {
        Ok(Some(most)) if most < hosts + OTHER_FILES => output::note(format!(
            "this process may open {most} files, which is too few for its {hosts} hosts; in a \
             storm, connections may fail for that reason (raise the hard limit, or use more \
             shards)"
        )),
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "the limit of open files stays as it is"),
    }
}

/// Shows how the simulation is getting on.
#[derive(Clone)]
struct Progress {
    bar: Option<ProgressBar>,
    is_shown: bool,
    next_line: Duration,
    last: Option<SimulationProgress>,
}

impl Progress {
    fn new(is_shown: bool) -> Self {
        let bar = (is_shown && output::is_terminal()).then(|| {
            let bar = ProgressBar::new_spinner();
            bar.set_style(ProgressStyle::default_spinner());
            bar
        });
        Self { bar, is_shown, next_line: LINE_EVERY, last: None }
    }

    fn show(&mut self, now: &SimulationProgress) {
        if let Some(bar) = &self.bar {
            bar.set_message(self.line(now));
            bar.tick();
            self.last = Some(*now);
        } else if self.is_shown && now.elapsed >= self.next_line {
            output::line(self.line(now));
            self.next_line = now.elapsed + LINE_EVERY;
            self.last = Some(*now);
        }
    }

    fn line(&self, now: &SimulationProgress) -> String {
        let (syncs, requests, since) = self.last.map_or((0, 0, Duration::ZERO), |last| {
            (last.syncs.succeeded, last.requests, last.elapsed)
        });
        let secs = now.elapsed.saturating_sub(since).as_secs_f64().max(0.001);
        #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
        let rate = |count: u64, before: u64| count.saturating_sub(before) as f64 / secs;
        format!(
            "{} of {} s: {} of {} hosts started, syncs running: {}; {:.1} syncs/s, {:.1} \
             requests/s; syncs succeeded: {}, failed: {}{}",
            now.elapsed.as_secs(),
            now.lasting.as_secs(),
            now.started,
            now.hosts,
            now.running,
            rate(now.syncs.succeeded, syncs),
            rate(now.requests, requests),
            now.syncs.succeeded,
            now.syncs.failed,
            if now.is_down { "; simulated outage" } else { "" }
        )
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Creates a file that is written at the end, so that a mistyped name is an error before a long
/// run, not after it.
pub(super) fn create(path: &Path) -> Result<(PathBuf, File), Error> {
    let file = File::create(path).map_err(|error| unwritable(path, &error))?;
    Ok((path.to_owned(), file))
}

/// Writes all of a file that [`create`] made.
pub(super) fn write((path, file): &mut (PathBuf, File), text: &str) -> Result<(), Error> {
    file.write_all(text.as_bytes()).map_err(|error| unwritable(path, &error))
}

fn unwritable(path: &Path, error: &std::io::Error) -> Error {
    Error::unusable(format!("cannot write {}: {error}", path.display()))
        .with_fix("name a file that this user may write")
}
