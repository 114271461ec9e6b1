//! The control socket.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use santa_sync::control::message::{ControlErrorKind, MAX_LINE, RuleLookup};
use santa_sync::protocol::wire;
use serde_json::json;

use super::*;

use crate::program::program;

fn idle() -> (FakeServer, Agent, Daemon) {
    let server = FakeServer::builder().rules(fixtures::rules(20, 1)).start().unwrap();
    let agent = Agent::of(&server);
    // What is added stays until the next sync.
    let daemon = Daemon::start(&agent, 1, &["--set", "PromptEventUpload=false"]);
    (server, agent, daemon)
}

/// DAEMON-4: one runs, one waits, a further one is one too many (SYNC-6); whoever
/// likes attaches to the one that runs.
#[test]
fn sync_6_one_runs_one_waits_and_a_further_one_is_too_many() {
    let (server, agent, _daemon) = idle();
    server.fault(Stage::RuleDownload, nth(1), Fault::Hold);
    let asks = |sync: SyncRequest| {
        let mut client = client(&agent);
        client.ask(&ControlRequest::Sync(sync)).unwrap();
        client
    };
    let mut running = asks(SyncRequest::default());
    assert!(server.wait_for(Stage::RuleDownload, 1, PATIENCE));
    let mut waiting = asks(SyncRequest::default());
    assert_eq!(waiting.answer().unwrap(), ControlResponse::Waiting);
    let too_many = |answer| {
        matches!(answer, ControlResponse::Error { kind: ControlErrorKind::TooManySyncs, .. })
    };
    assert!(too_many(asks(SyncRequest::default()).answer().unwrap()));
    assert!(too_many(
        asks(SyncRequest { wait: false, ..SyncRequest::default() }).answer().unwrap()
    ));
    let mut attached = asks(SyncRequest { attach: true, ..SyncRequest::default() });

    // The command says so, too.
    let mut command = program();
    let command = command.args(["sync", "--json", "--state-dir"]).arg(&agent.state_dir);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(5), "{output:?}");

    server.release();
    let first = synced(&mut running);
    assert_eq!(synced(&mut attached).id, first.id);
    let second = synced(&mut waiting);
    assert!(second.id != first.id && second.result == SyncResult::Success, "{second:?}");
}

/// DAEMON-4: the command has the daemon make its sync, and says so.
#[test]
fn daemon_4_the_sync_command_uses_the_daemon() {
    let (_server, agent, mut daemon) = idle();
    let run = |args: &[&str]| {
        let mut command = program();
        command.args(args).arg("--state-dir").arg(&agent.state_dir).output().unwrap()
    };
    let output = run(&["sync", "--json", "--clean-all"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stderr)
            .contains("using the daemon of this state directory")
    );
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(record["trigger"], "manual");
    assert_eq!(
        (&record["requested_sync_type"], &record["rules_processed"]),
        (&"CLEAN_ALL".into(), &20.into())
    );
    daemon.says(record["id"].as_str().unwrap());

    let output = run(&["sync"]);
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        shown.contains("preflight: a NORMAL sync") && shown.contains("sync succeeded"),
        "{shown}"
    );
    // With a configuration of its own it is not the daemon's business.
    let own = agent.sync(&[]);
    assert_eq!(own.result(), "success");
}

/// DAEMON-4: commands that have a request for it go through the daemon and say
/// so; their answer is the one that they find in the files themselves.
#[test]
fn daemon_4_commands_go_through_the_daemon_with_the_same_answer() {
    let (server, agent, daemon) = idle();
    assert_eq!(sync(&agent).result, SyncResult::Success);
    let rules = server.rules();
    let sha256 =
        &rules.iter().find(|r| r.rule_type() == wire::RuleType::Binary).unwrap().identifier;
    let run = |args: &[&str], input: &str| {
        let mut command = assert_cmd::Command::from_std(program());
        let command = command.args(args).arg("--state-dir").arg(&agent.state_dir);
        command.write_stdin(input.to_owned()).output().unwrap()
    };
    let questions: [&[&str]; 4] = [
        &["rules", "check", "--json", "--sha256", sha256],
        &["rules", "check", "--sha256", sha256],
        &["rules", "check", "--team-id", "ZZZZZZZZZ9"],
        &["events", "bundles", "--json"],
    ];
    let said = "note: using the daemon of this state directory\n";
    let by_daemon = questions.map(|args| {
        let output = run(args, "");
        assert_eq!(String::from_utf8_lossy(&output.stderr), said, "{args:?}");
        output.stdout
    });
    // A thousand lines at a time, and more than a request holds; one is bad.
    let mut lines: Vec<_> =
        fixtures::events(1500, 1).map(|event| event.to_json().to_string()).collect();
    lines.insert(1000, "{".to_owned());
    lines.push(lines[0].clone());
    let added = run(&["events", "add", "--json"], &lines.join("\n"));
    assert_eq!(added.status.code(), Some(64), "{added:?}");
    let told = String::from_utf8_lossy(&added.stderr).into_owned();
    assert!(told.starts_with(said) && told.contains("note: line 1001: "), "{told}");
    let shown = String::from_utf8_lossy(&added.stdout).into_owned();
    let results: Vec<Value> = shown.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(results.len(), 1502);
    let result = |line: usize| results[line - 1]["result"].as_str().unwrap();
    assert_eq!((result(1), result(1001)), ("added", "invalid"));
    assert!(["duplicate", "backed_off"].contains(&result(1502)), "{}", result(1502));
    let queued = results.iter().filter(|told| told["result"] == "added").count() as u64;
    assert!(queued > 1000, "{queued}");
    assert_eq!(agent.pending(), queued, "on disk when it is answered");
    assert_eq!(sync(&agent).events_uploaded, queued);

    drop(daemon);
    for (args, by_daemon) in questions.iter().zip(by_daemon) {
        let output = run(args, "");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.stdout, said.as_str()), (by_daemon, ""), "{args:?}");
    }
    let alone = run(&["events", "add"], &lines[0]);
    assert!(alone.status.success() && alone.stderr.is_empty(), "{alone:?}");
    assert_eq!(agent.pending(), 1);
}

/// DAEMON-4: the daemon ends a connection that is silent for long, so a producer
/// finds the one that runs for each batch.
#[test]
fn daemon_4_a_producer_outlives_a_daemon() {
    let (_server, agent, daemon) = idle();
    let (mut producer, mut input) = agent.producer(&["--json"]);
    let mut answers = BufReader::new(producer.stdout.take().unwrap()).lines();
    let mut add = |event: Value| {
        writeln!(input, "{event}").unwrap();
        let answer = answers.next().unwrap().unwrap();
        assert!(!answer.contains("invalid"), "{answer}");
    };
    let mut events = fixtures::events(2, 1).map(|event| event.to_json());
    add(events.next().unwrap());
    assert_eq!(daemon.stop(Signal::TERM).0, Some(0));
    let _daemon = Daemon::start(&agent, 1, &["--set", "PromptEventUpload=false"]);
    add(events.next().unwrap());
    drop(input);
    let output = producer.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(told, "note: using the daemon of this state directory\n");
}

/// DAEMON-4: a daemon that dies under a sync is told of, with exit code 69.
#[test]
fn daemon_4_a_daemon_that_goes_away_is_not_reachable() {
    let (server, agent, daemon) = idle();
    server.fault(Stage::RuleDownload, nth(1), Fault::Hold);
    let mut command = program();
    let command = command.args(["sync", "--json", "--state-dir"]).arg(&agent.state_dir);
    let command = command.stdout(Stdio::piped()).stderr(Stdio::null());
    let client = command.spawn().unwrap();
    assert!(server.wait_for(Stage::RuleDownload, 1, PATIENCE));
    drop(daemon);
    let output = client.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(record["result"], "daemon_not_reachable");
}

/// DAEMON-4: what else there is to ask.
#[test]
fn daemon_4_each_request_is_answered() {
    let (server, agent, mut daemon) = idle();
    let ControlResponse::Status(beat) = ask(&agent, &ControlRequest::Status) else {
        panic!("no status")
    };
    let configuration = &beat.configuration;
    assert_eq!(configuration.server.as_deref(), Some(agent.base_url.as_str()));
    assert_eq!(configuration.machine_id.as_deref(), Some(agent.machine_id.as_str()));
    assert_eq!(configuration.user_id, rustix::process::geteuid().as_raw());
    assert!(beat.pid == daemon.pid() && beat.syncs == 0 && beat.next_sync_at.is_some());
    assert_eq!(sync(&agent).result, SyncResult::Success);

    let event = fixtures::events(1, 1).next().unwrap().to_json();
    let events = vec![event.clone(), event, json!({"no": "event"})];
    let ControlResponse::EventsAdded { results } =
        ask(&agent, &ControlRequest::events_add(events).expect("JSON"))
    else {
        panic!("not added")
    };
    let outcomes: Vec<_> = results.iter().map(|result| result.outcome.name()).collect();
    assert_eq!(outcomes, ["added", "backed_off", "invalid"]);
    assert!(!results[0].unique_id.is_empty() && results[2].unique_id.is_empty(), "{results:?}");
    assert_eq!(agent.pending(), 1, "on disk when it is answered");
    assert_eq!(sync(&agent).events_uploaded, 1);
    assert_eq!(server.events_received(), 1);

    let mut team = None;
    let rules = agent.run(&["rules", "list", "--json"]);
    let rules: Value = serde_json::from_slice(&rules.stdout).unwrap();
    for rule in rules["rules"].as_array().unwrap() {
        if rule["rule_type"] == "TEAMID" {
            team = rule["identifier"].as_str().map(str::to_owned);
        }
    }
    let lookup = |team_id| {
        ask(&agent, &ControlRequest::RulesLookup(RuleLookup { team_id, ..RuleLookup::default() }))
    };
    if team.is_some() {
        assert!(matches!(lookup(team), ControlResponse::Rule(decision) if decision.matched));
    }
    let nobody = lookup(Some("ZZZZZZZZZ9".to_owned()));
    assert!(matches!(&nobody, ControlResponse::Rule(decision) if !decision.matched), "{nobody:?}");
    let nothing = lookup(None);
    assert!(
        matches!(nothing, ControlResponse::Error { kind: ControlErrorKind::BadRequest, .. }),
        "{nothing:?}"
    );
    assert_eq!(
        ask(&agent, &ControlRequest::BundleRequests),
        ControlResponse::BundleRequests { bundles: Vec::new() }
    );

    let ControlResponse::Metrics { text } = ask(&agent, &ControlRequest::Metrics) else {
        panic!("no metrics")
    };
    assert!(text.contains("santa_sync_syncs_total{result=\"success\"} 2\n"), "{text}");
    let level = |level: &str| ask(&agent, &ControlRequest::LogLevel { level: level.to_owned() });
    assert_eq!(level("debug"), ControlResponse::Done);
    assert!(matches!(
        level("loud"),
        ControlResponse::Error { kind: ControlErrorKind::BadRequest, .. }
    ));
    assert_eq!(sync(&agent).result, SyncResult::Success);
    daemon.says("DEBUG");
}

/// DAEMON-4: nonsense is answered, and too much of it ends the conversation.
#[test]
fn daemon_4_wrong_messages_are_answered() {
    let (_server, agent, _daemon) = idle();
    let mut stream = UnixStream::connect(agent.state_dir.join("agent.sock")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let mut says = |words: &str| {
        let line = lines.next().unwrap().unwrap();
        assert!(line.contains("bad_request") && line.contains(words), "{line}");
    };
    for wrong in ["hello", "{}", r#"{"request":"format_disk"}"#, r#"{"request":"log_level"}"#, "[]"]
    {
        stream.write_all(format!("\n{wrong}\n").as_bytes()).unwrap();
        says("not a request");
    }
    stream.write_all(&vec![b'x'; MAX_LINE + 1]).unwrap();
    says("a line may have 262144 bytes");
    assert!(lines.next().is_none_or(|line| line.is_err()), "it has closed");
}

/// DAEMON-4: a thousand silent clients take the socket's places and nothing
/// else; the timer does not notice.
#[test]
fn daemon_4_a_thousand_connections_do_not_touch_the_timer() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limits = getrlimit(Resource::Nofile);
    let current = limits.maximum.map_or(4096, |most| most.min(4096));
    setrlimit(Resource::Nofile, Rlimit { current: Some(current), ..limits }).unwrap();

    let server = FakeServer::builder().start().unwrap();
    let agent = Agent::of(&server);
    let daemon = Daemon::start(&agent, 200, &[]);
    let path = agent.state_dir.join("agent.sock");
    let clients: Vec<_> = (0..1000).map(|_| UnixStream::connect(&path).unwrap()).collect();
    let busy = clients
        .iter()
        .skip(100)
        .filter(|client| {
            let mut client: &UnixStream = client;
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut text = String::new();
            let _ = client.read_to_string(&mut text);
            text.contains("\"busy\"")
        })
        .count();
    assert_eq!(busy, 900, "those beyond the bound are told and closed");
    let before = server.count(Stage::Postflight);
    assert!(server.wait_for(Stage::Postflight, before + 2, PATIENCE), "the timer stands still");
    drop(clients);
    assert_eq!(daemon.stop(Signal::TERM).0, Some(0));
}
