//! A simulated host and the real agent, given the same history, put the same bytes on
//! the wire.

use std::cell::RefCell;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use santa_sync::agent::LocalAgent;
use santa_sync::clock::{Clock as _, SystemClock};
use santa_sync::config::{Config, Sources};
use santa_sync::harness::simulation::host::{SharedWorld, SimulatedHost};
use santa_sync::harness::simulation::measure::Measurements;
use santa_sync::harness::simulation::network::{HostClock, SimulatedNetwork};
use santa_sync::harness::simulation::profile::HostProfile;
use santa_sync::harness::simulation::rules::RuleBook;
use santa_sync::harness::{FakeServer, Fault, Xsrf, every, fixtures, nth};
use santa_sync::host::{self, SystemHost};
use santa_sync::model::{BaseUrl, MachineId, Stage, SyncType, Trigger};
use santa_sync::protocol::stored::QueuedEvent;
use santa_sync::protocol::wire;
use santa_sync::sync::run::{SyncOptions, transport_options};
use santa_sync::sync::upload::UploadResult;
use santa_sync::transport::{ResponseBudget, Transport};
use santa_sync::{Unobserved, stop_channel};

use super::SPEED;

/// Forwards connections to the server of the moment and keeps what clients sent, one
/// text a connection. Its address stays the same, and so does each `Host` header.
struct Wiretap {
    address: SocketAddr,
    server: Arc<Mutex<Option<SocketAddr>>>,
    sent: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Wiretap {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = Arc::<Mutex<Option<SocketAddr>>>::default();
        let sent = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let (target, record) = (Arc::clone(&server), Arc::clone(&sent));
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Some(server) = *target.lock().unwrap() else { return };
                let mut record_of = record.lock().unwrap();
                record_of.push(Vec::new());
                let number = record_of.len() - 1;
                drop(record_of);
                let record = Arc::clone(&record);
                thread::spawn(move || forward(client, server, number, &record));
            }
        });
        Self { address, server, sent }
    }

    /// What clients of this server send from here on.
    fn lead_to(&self, server: &FakeServer) {
        *self.server.lock().unwrap() = Some(server.address());
        self.sent.lock().unwrap().clear();
    }

    fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    fn sent(&self) -> Vec<Vec<u8>> {
        self.sent.lock().unwrap().clone()
    }
}

fn forward(client: TcpStream, server: SocketAddr, number: usize, record: &Mutex<Vec<Vec<u8>>>) {
    let server = TcpStream::connect(server).unwrap();
    let (mut back_from, mut back_to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    let back = thread::spawn(move || {
        // A client that has gone away ends it.
        let _ = io::copy(&mut back_from, &mut back_to);
        let _ = back_to.shutdown(Shutdown::Write);
    });
    let (mut from, mut to) = (client, server);
    let mut buffer = [0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        record.lock().unwrap()[number].extend_from_slice(&buffer[..count]);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    back.join().unwrap();
}

/// A host that makes syncs.
trait Syncs {
    fn queue(&mut self, events: &[QueuedEvent]);
    fn request_clean(&mut self);
    /// Makes a sync and says whether it succeeded.
    fn sync(&mut self) -> bool;
    /// Uploads what waits, as after a denial, and says whether that succeeded.
    fn upload(&mut self) -> bool;
}

struct RealHost {
    agent: LocalAgent,
    clean: Option<SyncType>,
    _dir: tempfile::TempDir,
}

impl Syncs for RealHost {
    fn queue(&mut self, events: &[QueuedEvent]) {
        let lines: Vec<_> = events
            .iter()
            .map(|event| match event {
                QueuedEvent::Execution(event) => serde_json::json!(**event).to_string(),
                QueuedEvent::FileAccess(event) => {
                    serde_json::json!({ "file_access_event": **event }).to_string()
                }
                QueuedEvent::Audit(_) => panic!("not queued here"),
            })
            .collect();
        let added = self.agent.add_events(&lines).unwrap();
        assert_eq!(added.len(), events.len());
    }

    fn request_clean(&mut self) {
        self.clean = Some(SyncType::Clean);
    }

    fn sync(&mut self) -> bool {
        let (_sender, stop) = stop_channel();
        let options = SyncOptions { clean: self.clean.take(), ..SyncOptions::of(Trigger::Timer) };
        self.agent.sync(options, &mut Unobserved, stop).error.is_none()
    }

    fn upload(&mut self) -> bool {
        let (_sender, stop) = stop_channel();
        self.agent.upload_events(stop).result == UploadResult::Uploaded
    }
}

struct Simulated {
    host: SimulatedHost,
    world: SharedWorld,
    runtime: tokio::runtime::Runtime,
}

impl Syncs for Simulated {
    fn queue(&mut self, events: &[QueuedEvent]) {
        for event in events {
            self.host.queue(event);
        }
    }

    fn request_clean(&mut self) {
        self.host.request_clean_sync(self.world.clock.now().wall);
    }

    fn sync(&mut self) -> bool {
        use santa_sync::harness::simulation::measure::SimulatedEnd;
        let end = self.runtime.block_on(self.host.sync(&self.world, Trigger::Manual));
        matches!(end, SimulatedEnd::Succeeded { .. })
    }

    fn upload(&mut self) -> bool {
        // Before its first sync a host has nobody to upload to.
        self.host.may_upload()
            && self.runtime.block_on(self.host.upload(&self.world)).result == UploadResult::Uploaded
    }
}

/// How a host speaks.
#[derive(Clone, Copy)]
struct Speech {
    encoding: &'static str,
    protobuf: bool,
}

fn config(url: &str, speech: Speech) -> Arc<Config> {
    let sets = vec![
        format!("SyncBaseURL={url}"),
        "MachineID=AAAAAAAA-0000-4000-8000-000000000001".to_owned(),
        format!("SyncClientContentEncoding={}", speech.encoding),
        format!("SyncEnableProtoTransfer={}", speech.protobuf),
        r#"SyncExtraHeaders={"X-Team":"blue"}"#.to_owned(),
    ];
    Config::load(&Sources { sets, ..Sources::default() }).unwrap().config
}

fn real(config: &Arc<Config>) -> RealHost {
    let dir = tempfile::tempdir().unwrap();
    let agent = LocalAgent::new(dir.path().join("state"), Arc::clone(config));
    let agent = agent.with_clock(SystemClock::with_rate(SPEED));
    RealHost { agent, clean: None, _dir: dir }
}

fn simulated(config: &Config, url: &str) -> Simulated {
    let report = host::facts(config, &SystemHost);
    let machine_id = MachineId::new("AAAAAAAA-0000-4000-8000-000000000001").unwrap();
    let profile = HostProfile {
        machine_id: machine_id.clone(),
        facts: report.facts,
        transfer: config.transfer,
        content_encoding: config.content_encoding,
        group: None,
        interval_secs: None,
        events_per_hour: 0,
        uploads_promptly: true,
    };
    let base_url = BaseUrl::parse(url).unwrap();
    let clock = HostClock::new(SPEED);
    let (_, network) = SimulatedNetwork::new();
    let world = SharedWorld {
        transport: Transport::new(transport_options(config, base_url.clone(), machine_id, ""))
            .unwrap(),
        base_url,
        clock,
        network,
        budget: ResponseBudget::new(1 << 30),
        rules: RuleBook::default(),
        events: Vec::new(),
        measured: RefCell::new(Measurements::default()),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    Simulated { host: SimulatedHost::new(profile, 1, clock.now().wall), world, runtime }
}

/// Events that the agent takes in, whatever the settings say.
fn events(count: usize, seed: u64) -> Vec<QueuedEvent> {
    fixtures::events(count, seed)
        .map(QueuedEvent::from)
        .map(|mut event| {
            if let QueuedEvent::Execution(event) = &mut event {
                event.set_decision(wire::Decision::BlockUnknown);
            }
            event
        })
        .collect()
}

/// Everything that decides what a host sends next: rules that come, change and go,
/// settings, the mode, events in batches, refusals, tokens, faults, failed syncs.
/// Returns which syncs succeeded.
fn live(server: &FakeServer, host: &mut dyn Syncs) -> Vec<bool> {
    let mut ends = vec![host.upload()];
    ends.push(host.sync());
    uploads_between_syncs(server, host, &mut ends);
    let mut sync = |host: &mut dyn Syncs| ends.push(host.sync());
    host.queue(&events(7, 1));
    sync(host);
    server.queue_changes(fixtures::changes(&server.rules(), (4, 3, 5), 2));
    server.change_style(|style| style.xsrf = Xsrf::Demanded("X-XSRF-TOKEN".to_owned()));
    sync(host);
    server.fault(
        Stage::RuleDownload,
        nth(server.count(Stage::RuleDownload) + 1),
        Fault::status(503),
    );
    sync(host);
    // A sync that fails leaves mode and rules as they are.
    server.change_settings(|settings| settings.set_client_mode(wire::ClientMode::Monitor));
    server.queue_changes(fixtures::changes(&server.rules(), (2, 2, 2), 3));
    server.fault(Stage::RuleDownload, every(), Fault::Truncate);
    sync(host);
    server.clear_faults();
    sync(host);
    host.request_clean();
    sync(host);
    sync(host);
    // A batch that is too large, then one with an event that is refused.
    let marked = events(6, 4);
    let QueuedEvent::Execution(first) = &marked[0] else { panic!("an execution") };
    host.queue(&marked);
    server.fault(Stage::EventUpload, nth(server.count(Stage::EventUpload) + 1), Fault::status(413));
    server.refuse_event(&first.file_sha256, 400);
    for _ in 0..6 {
        sync(host);
    }
    host.queue(&events(2, 5));
    sync(host);
    ends
}

/// EV-10: batches as large as the last preflight said, one attempt of each, a token where
/// the server demands one, and what fails stays queued.
fn uploads_between_syncs(server: &FakeServer, host: &mut dyn Syncs, ends: &mut Vec<bool>) {
    host.queue(&events(8, 7));
    ends.push(host.upload());
    ends.push(host.upload());
    host.queue(&events(5, 8));
    let second = nth(server.count(Stage::EventUpload) + 2);
    server.fault(Stage::EventUpload, second, Fault::status(503));
    ends.push(host.upload());
    server.change_style(|style| style.xsrf = Xsrf::Demanded("X-XSRF-TOKEN".to_owned()));
    ends.push(host.upload());
    server.change_style(|style| style.xsrf = Xsrf::Absent);
}

/// Two texts of requests, up to where they differ.
fn difference(real: &[Vec<u8>], simulated: &[Vec<u8>]) -> Option<String> {
    let places = real.len().max(simulated.len());
    let nothing = Vec::new();
    (0..places).find_map(|place| {
        let (a, b) =
            (real.get(place).unwrap_or(&nothing), simulated.get(place).unwrap_or(&nothing));
        let at = a.iter().zip(b).take_while(|(a, b)| a == b).count();
        let around = |text: &[u8]| {
            String::from_utf8_lossy(&text[at.saturating_sub(300)..text.len().min(at + 300)])
                .into_owned()
        };
        (a != b).then(|| {
            format!(
                "connection {place}, byte {at}:\nreal: {}\n\nsimulated: {}",
                around(a),
                around(b)
            )
        })
    })
}

#[test]
fn a_simulated_host_sends_what_the_agent_sends_byte_for_byte() {
    for (encoding, protobuf) in
        [("deflate", false), ("gzip", false), ("none", false), ("deflate", true), ("none", true)]
    {
        let tap = Wiretap::start();
        let config = config(&tap.url(), Speech { encoding, protobuf });
        let lived = |host: &mut dyn Syncs| {
            let server = FakeServer::builder()
                .rules(fixtures::rules(25, 1))
                .page_size(10)
                .batch_size(3)
                .client_mode(wire::ClientMode::Lockdown)
                .start()
                .unwrap();
            tap.lead_to(&server);
            let ends = live(&server, host);
            (ends, server.events_received(), tap.sent())
        };
        let (ends, received, sent) = lived(&mut real(&config));
        let (simulated_ends, simulated_received, simulated_sent) =
            lived(&mut simulated(&config, &tap.url()));
        assert!(ends.contains(&true) && ends.contains(&false), "{ends:?}");
        assert_eq!((&ends, received), (&simulated_ends, simulated_received), "{encoding}");
        assert!(sent.len() >= ends.len(), "each sync has a connection of its own");
        if let Some(difference) = difference(&sent, &simulated_sent) {
            panic!("{encoding}, protobuf {protobuf}: {difference}");
        }
    }
}
