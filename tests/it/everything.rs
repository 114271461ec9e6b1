//! Everything the program writes, in every command and form, after syncs with a
//! server that sends the worst texts and repeats what it was sent: no character
//! that is more than text, and no secret.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use santa_sync::harness::{FakeServer, Fault, every, first, fixtures};
use santa_sync::model::Stage;
use santa_sync::model::text::is_unsafe_to_show;
use santa_sync::protocol::wire;
use serde_json::{Value, json};

use crate::agent::Agent;
use crate::daemon::{Daemon, PATIENCE};
use crate::program::program;

/// Arguments of every command but those of [`OTHERS`]; they run as they are and
/// with `--json`, where a command has it. What deletes comes last.
const COMMANDS: &[&[&str]] = &[
    &["sync"],
    &["sync", "--dry-run"],
    &["status"],
    &["history"],
    &["rules", "list"],
    &["rules", "export"],
    &["rules", "verify"],
    &["rules", "log"],
    &["rules", "check", "--sha256", SHA256],
    &["rules", "import", "-", "--dry-run"],
    &["events", "add"],
    &["events", "list"],
    &["events", "list", "--rejected"],
    &["events", "bundles"],
    &["config", "show"],
    &["config", "show", "--origin", "--all"],
    &["config", "check"],
    &["doctor"],
    &["harness", "conformance", "--no-slow", "--only", "HTTP-01,PRE-02,PRE-06", "--verbose"],
    &["whoami"],
    &["relay", "show"],
    &["relay", "setup", "--plain", "--output", "/nowhere"],
    &["relay", "remove", "--wait", "0"],
    &["service", "install", "--print", "--root", "/nowhere"],
    &["service", "status", "--root", "/nowhere"],
    &["service", "uninstall", "--root", "/nowhere"],
    &["events", "requeue", "--all"],
    &["events", "drop", "--all"],
];

/// Commands that are not in [`COMMANDS`], and why.
const OTHERS: &[(&str, &str)] = &[
    ("daemon", "`run_daemon` runs it"),
    ("demo", "its server, configuration and state are its own"),
    ("harness serve", "runs until a signal; it shows what the person at the terminal sends it"),
    ("harness simulate", "counts what servers send and shows the kinds of failures only"),
    ("harness report", "shows what `harness simulate` has counted"),
    ("completions", "prints what the program is built with"),
    ("man", "prints what the program is built with"),
];

const SHA256: &str = "c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00";

/// The commands of the manual page, each with whether it has `--json`.
fn commands() -> Vec<(String, bool)> {
    let page = program().arg("man").output().expect("the program runs").stdout;
    let page = String::from_utf8(page).expect("UTF-8").replace('\\', "");
    let synopses = page.lines().filter_map(|line| line.strip_prefix("fBsanta-sync "));
    let leaves = synopses.filter(|synopsis| !synopsis.contains("subcommands"));
    let leaves = leaves.filter_map(|synopsis| synopsis.split_once("fR"));
    leaves.map(|(name, options)| (name.to_owned(), options.contains("fB--jsonfR"))).collect()
}

#[test]
fn no_command_is_missing_here() {
    let here = |args: &&[&str]| args.iter().take_while(|arg| !arg.starts_with('-')).count();
    let named: Vec<String> = COMMANDS.iter().map(|args| args[..here(args)].join(" ")).collect();
    let commands = commands();
    for (command, _) in &commands {
        let is_here = named.contains(command);
        let is_elsewhere = OTHERS.iter().any(|(other, _)| other == command);
        assert!(is_here != is_elsewhere, "{command} must be in COMMANDS or in OTHERS");
    }
    let gone = |name: &&str| !commands.iter().any(|(command, _)| command == name);
    let named = named.iter().map(String::as_str).chain(OTHERS.iter().map(|(other, _)| *other));
    assert_eq!(named.filter(gone).collect::<Vec<_>>(), [""; 0], "no such commands");
}

/// Runs every command with each form of its output and of the log, and gives
/// `judge` what was asked and what it wrote.
fn run_all(agent: &Agent, more: &[String], env: &[(&str, &str)], judge: &dyn Fn(&str, &str)) {
    let stdin = agent.state_dir.with_file_name("stdin");
    let commands = commands();
    for args in COMMANDS {
        let name = args.join(" ");
        let json = commands.iter().any(|(command, json)| *json && name.starts_with(command));
        for form in [None, Some("--json")].iter().take(1 + usize::from(json)) {
            for format in ["text", "json"] {
                let input = match args {
                    ["events", "add", ..] => format!("{}\n{HOSTILE}\n", hostile_event()),
                    ["rules", "import", ..] => json!({ "rules": hostile_rules() }).to_string(),
                    _ => String::new(),
                };
                fs::write(&stdin, input).expect("written");
                let mut command = agent.command(args);
                command.stdin(fs::File::open(&stdin).expect("a file")).args(form);
                command.args(["--log-level", "trace", "--log-format", format]).args(more);
                let output = command.envs(env.iter().copied()).output().expect("the program runs");
                let asked = format!("{args:?} {form:?} with log lines as {format}");
                let stdout = String::from_utf8(output.stdout).expect("UTF-8");
                if form.is_some() {
                    let documents =
                        serde_json::Deserializer::from_str(&stdout).into_iter::<Value>();
                    documents.for_each(|document| drop(document.expect(&asked)));
                }
                judge(&asked, &stdout);
                let stderr = String::from_utf8(output.stderr).expect("UTF-8");
                assert!(!stderr.contains("panicked"), "{asked}: {stderr}");
                judge(&asked, &stderr);
                if format == "json" {
                    // What stands behind `error:` and `note:` is for people.
                    let lines = stderr.lines().filter(|line| line.starts_with('{'));
                    lines.for_each(|line| drop(serde_json::from_str::<Value>(line).expect(line)));
                }
            }
        }
    }
}

fn hostile_event() -> Value {
    json!({
        "file_sha256": SHA256, "file_path": HOSTILE, "file_name": HOSTILE,
        "executing_user": HOSTILE, "decision": "BLOCK_BINARY", "execution_time": 1_700_000_000,
    })
}

/// Has a daemon make a sync or more, and gives `judge` its log and its files.
fn run_daemon(
    agent: &Agent,
    server: &FakeServer,
    more: &[String],
    env: &[(&str, &str)],
    judge: &dyn Fn(&str, &str),
) {
    let metrics = agent.state_dir.with_file_name("metrics.prom");
    let log = agent.state_dir.with_file_name("daemon.log");
    let before = server.count(Stage::Preflight);
    let mut daemon = agent
        .command(&["daemon", "--log-level", "trace", "--set", "SyncDeadline=86400"])
        .args(more)
        .arg(format!("--set=MetricsFile={}", metrics.display()))
        .envs(env.iter().copied())
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log).expect("a file"))
        .spawn()
        .expect("the program runs");
    let synced = server.wait_for(Stage::Preflight, before + 2, PATIENCE);
    kill_process(Pid::from_child(&daemon), Signal::TERM).expect("it runs");
    assert_eq!(daemon.wait().expect("it ends").code(), Some(0));
    assert!(synced, "the daemon makes no sync");
    for file in [log, metrics, agent.state_dir.join("daemon.json")] {
        let text = fs::read_to_string(&file).expect("UTF-8");
        assert!(!text.is_empty());
        judge(&file.display().to_string(), &text);
    }
}

/// What each place that takes any text is given.
const HOSTILE: &str = "-a\0b\u{1b}[31mc\u{9b}2Jd\u{85}\u{202e}e\u{2066}f\u{2028}g\
     \u{feff}h\u{200b}\u{7f}\nerror: i\r\tj\u{fffe}\u{ffff}\u{10ffff}k\"<&>'\\";

fn hostile_rules() -> Vec<wire::Rule> {
    let text = || HOSTILE.to_owned();
    let rule = wire::Rule {
        policy: wire::Policy::Blocklist.into(),
        rule_type: wire::RuleType::Binary.into(),
        custom_msg: text(),
        custom_url: text(),
        notification_app_name: text(),
        ..wire::Rule::default()
    };
    let of = |identifier: String| wire::Rule { identifier, ..rule.clone() };
    let cel =
        wire::Rule { policy: wire::Policy::Cel.into(), cel_expr: text(), ..of(SHA256.into()) };
    let signing_id = wire::Rule {
        rule_type: wire::RuleType::Signingid.into(),
        ..of(format!("platform:{HOSTILE}"))
    };
    let mut rules = vec![of(SHA256.to_owned()), of(text()), cel, signing_id];
    rules.extend(std::iter::repeat_n(of(HOSTILE.repeat(20_000)), 3));
    rules
}

fn hostile_settings() -> wire::PreflightResponse {
    let text = || Some(HOSTILE.to_owned());
    wire::PreflightResponse {
        allowed_path_regex: text(),
        blocked_path_regex: text(),
        event_detail_url: text(),
        event_detail_text: text(),
        push_token: HOSTILE.to_owned(),
        push_issuer_token: HOSTILE.to_owned(),
        ..wire::PreflightResponse::default()
    }
}

/// Answers that make a sync fail with the server's words.
fn hostile_answers() -> Vec<Fault> {
    let header = || ("Location".to_owned(), "https://h/\u{9b}31m\u{202e}".to_owned());
    let long = HOSTILE.repeat((1 << 20) / HOSTILE.len());
    let html = format!("<html><title>{HOSTILE}</title>");
    vec![
        Fault::Status(400, Vec::new(), HOSTILE.to_owned()),
        Fault::Status(400, Vec::new(), long.clone()),
        Fault::Status(404, Vec::new(), html.clone()),
        Fault::Status(302, vec![header()], String::new()),
        Fault::Status(200, Vec::new(), html),
        Fault::Status(200, Vec::new(), long),
        Fault::Status(
            200,
            Vec::new(),
            r#"{"client_mode":"\ud800\ud800","sync_type":"\udfff"}"#.into(),
        ),
        Fault::WrongShape(
            json!({ "batch_size": HOSTILE, "client_mode": HOSTILE, HOSTILE: HOSTILE }),
        ),
        Fault::WrongShape(json!({ "error": HOSTILE })),
        Fault::WrongShape(json!([HOSTILE])),
    ]
}

/// A profile in which every key that takes a text, and an unknown one, has the
/// worst of it.
fn hostile_profile(dir: &Path) -> PathBuf {
    let text = plist::Value::String(HOSTILE.to_owned());
    let mut values = plist::Dictionary::new();
    for key in [
        "MachineOwner",
        "EventDetailURL",
        "EventDetailText",
        "AllowedPathRegex",
        "SyncClientContentEncoding",
        "NotificationHook",
        "EventsDatabase",
        "SocketGroup",
        HOSTILE,
    ] {
        values.insert(key.to_owned(), text.clone());
    }
    let headers = plist::Dictionary::from_iter([(HOSTILE, text.clone()), ("X-A", text.clone())]);
    values.insert("SyncExtraHeaders".to_owned(), headers.into());
    values.insert("StaticRules".to_owned(), plist::Value::Array(vec![text]));
    let file = dir.join("profile\u{1b}[2J\u{202e}\n.plist");
    plist::Value::Dictionary(values).to_file_binary(&file).expect("written");
    file
}

/// NEVER; issue of the kind: a text from elsewhere moves the cursor, reorders a
/// line, fakes one, or makes a file unreadable.
#[test]
fn never_is_a_text_from_elsewhere_more_than_text_in_anything_written() {
    let server = FakeServer::builder()
        .rules(hostile_rules().into_iter().chain(fixtures::rules(5, 1)))
        .settings(hostile_settings())
        .start()
        .unwrap();
    let mut agent = Agent::of(&server);
    // A file name can hold all but NUL and the slash.
    let dir =
        agent.state_dir.parent().expect("a directory").join("state\u{1b}[31m\u{202e}\u{9b}\n");
    fs::create_dir(&dir).expect("a directory");
    let profile = hostile_profile(&dir);
    agent.state_dir = dir.join("state");
    agent.queue([hostile_event()]);
    let judge = |what: &str, text: &str| {
        let found = text.chars().find(|c| *c != '\n' && is_unsafe_to_show(*c));
        assert_eq!(found, None, "{what}: {text:?}");
        assert!(!text.lines().any(|line| line.starts_with("error: i")), "{what}: {text}");
    };
    let more = ["--config".to_owned(), profile.display().to_string()];
    let synced = agent.sync(&[]);
    assert_eq!(synced.result(), "success", "{synced:?}");
    // Those of the fixture, and two whose texts alone are hostile.
    assert_eq!(agent.rules(), 7);
    let state = plist::Value::from_file(agent.state_dir.join("sync-state.plist")).expect("XML");
    assert!(state.as_dictionary().expect("a dictionary")["EventDetailText"].as_string().is_some());
    run_all(&agent, &more, &[], &judge);
    for answer in hostile_answers() {
        server.clear_faults();
        server.fault(Stage::Preflight, every(), answer);
        for args in [&["sync"][..], &["sync", "--json"], &["status"], &["doctor"], &["history"]] {
            let output = agent.command(args).args(["--log-level", "debug"]).output().unwrap();
            judge(&format!("{args:?}"), &String::from_utf8(output.stdout).expect("UTF-8"));
            judge(&format!("{args:?}"), &String::from_utf8(output.stderr).expect("UTF-8"));
        }
    }
    server.clear_faults();
    server.fault(Stage::Preflight, first(u64::MAX / 2), Fault::Status(400, vec![], HOSTILE.into()));
    run_daemon(&agent, &server, &more, &[], &judge);
}

/// Each secret carries this mark behind its fifth character.
const MARK: &str = "5ecretm4rk";

fn secret(name: &str) -> String {
    format!("{name}-{MARK}-{name}")
}

/// NEVER "send secrets to a log", HTTP-14.
#[test]
fn http_14_no_secret_is_in_anything_written() {
    let [user, password, query, path] = ["user0", "password", "query", "0path0"].map(secret);
    let (header, cookie) = (secret("header"), secret("cookie"));
    let echo = format!("you sent {user} {password} {query} {path} {header} {cookie}");
    let cut = format!("{}{header}", "x".repeat(190));
    let server = FakeServer::builder()
        .rules(fixtures::rules(5, 1))
        .base_path(&format!("/santa/{path}"))
        .settings(wire::PreflightResponse {
            push_token: secret("push-token"),
            push_issuer_token: secret("push-issuer"),
            ..wire::PreflightResponse::default()
        })
        .start()
        .unwrap();
    let mut agent = Agent::of(&server);
    let judge = |what: &str, text: &str| {
        let found = text.lines().find(|line| line.contains(&MARK[..5]));
        assert_eq!(found, None, "{what}");
    };
    let credentials = format!("http://{user}:{password}@");
    agent.base_url = format!("{}?key={query}", server.url().replace("http://", &credentials));
    let proxy = json!({
        "HTTPSEnable": 1, "HTTPSProxy": format!("{}:{}@proxy.invalid", secret("proxyuser"), secret("proxypw")),
        "HTTPSUser": secret("proxy-user"), "HTTPSPassword": secret("proxy-password"),
        "ProxyAutoConfigURLString": format!("https://h/?k={}", secret("pac-key")),
    });
    let more = [
        format!(
            "--set=SyncExtraHeaders={}",
            json!({
                "X-Api-Key": format!("Bearer {header}"),
                "Cookie": format!("session={cookie}"),
                format!("Authorization: {}", secret("wrongplace")): "",
            })
        ),
        format!("--set=SyncProxyConfiguration={proxy}"),
    ];
    let environment = format!("http://{}:{}@proxy.invalid:1", secret("env-user"), secret("env-pw"));
    let env = [("HTTPS_PROXY", &*environment), ("ALL_PROXY", &*environment)];

    let output = agent.command(&["sync", "--json"]).args(&more).envs(env).output().unwrap();
    let synced = crate::agent::synced(&output);
    assert_eq!(synced.result(), "success", "the secrets do reach the wire: {synced:?}");
    run_all(&agent, &more, &env, &judge);

    for answer in [
        Fault::Status(400, Vec::new(), echo.clone()),
        Fault::Status(400, Vec::new(), cut.clone()),
        Fault::Status(200, Vec::new(), format!("<html>{echo}")),
        Fault::Status(200, Vec::new(), cut),
        Fault::Redirect(format!("https://{user}:{password}@h/{path}/x?k={query}")),
        Fault::WrongShape(json!({ "error": echo, "batch_size": header })),
    ] {
        server.clear_faults();
        server.fault(Stage::Preflight, every(), answer);
        for args in
            [&["sync"][..], &["sync", "--json"], &["status"], &["doctor"], &["history", "--json"]]
        {
            let output = agent.command(args).args(&more).args(["--log-level", "trace"]).output();
            let output = output.expect("the program runs");
            judge(&format!("{args:?}"), &String::from_utf8_lossy(&output.stdout));
            judge(&format!("{args:?}"), &String::from_utf8_lossy(&output.stderr));
        }
    }
    run_daemon(&agent, &server, &more, &env, &judge);
    // The rule store keeps the push tokens, for they are settings; nothing else.
    let database = fs::read(agent.state_dir.join("rules.db")).expect("a store");
    for kept in [user, password, query, path, header, cookie] {
        let found = database.windows(kept.len()).any(|window| window == kept.as_bytes());
        assert!(!found, "{kept} is in rules.db");
    }
}

/// HTTP-14: a secret in the path of SyncBaseURL is in no file, not even those of a
/// daemon that runs, and a failure that quotes a page's URL does not show it.
#[test]
fn http_14_a_secret_in_the_path_is_in_no_file_and_in_no_error() {
    let secret = "k7Q2mZ9xW4tR8vB1nC5";
    let server = FakeServer::builder()
        .rules(fixtures::rules(60, 1))
        .base_path(&format!("/t/{secret}"))
        .start()
        .unwrap();
    let agent = Agent::of(&server);
    assert!(agent.base_url.contains(secret));
    let judge = |what: &str, bytes: &[u8]| {
        let found = bytes.windows(5).any(|window| window == &secret.as_bytes()[4..9]);
        assert!(!found, "{what}: {}", String::from_utf8_lossy(bytes));
    };
    let metrics = agent.state_dir.with_file_name("santa.prom");
    let metrics_file = format!("MetricsFile={}", metrics.display());
    let daemon = Daemon::start(&agent, 1, &["--set", &metrics_file]);
    let said = |args: &[&str]| {
        let mut output = agent.run(args);
        output.stdout.append(&mut output.stderr);
        judge(&format!("{args:?}"), &output.stdout);
        String::from_utf8(output.stdout).unwrap()
    };
    for (fault, kind) in [
        (Fault::RepeatCursor, "cursor_not_advancing"),
        (Fault::Html, "html"),
        (Fault::status(404), "not_found"),
        (Fault::Redirect(format!("{}elsewhere", agent.base_url)), "redirected"),
    ] {
        server.clear_faults();
        server.fault(Stage::RuleDownload, every(), fault);
        let shown = said(&["sync", "--json"]);
        assert!(shown.contains(kind), "{shown}");
        if kind == "cursor_not_advancing" {
            assert!(shown.contains("/t/k7Q2…/ruledownload/"), "{shown}");
        }
        said(&["sync"]);
        said(&["status"]);
        said(&["doctor"]);
    }
    server.clear_faults();
    assert_eq!(crate::daemon::sync(&agent).result.name(), "success");
    let mut files = 0;
    for entry in fs::read_dir(&agent.state_dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            judge(&format!("{:?}", entry.path()), &fs::read(entry.path()).unwrap());
            files += 1;
        }
    }
    assert!(files >= 5, "{files} files");
    judge("the metrics", &fs::read(&metrics).unwrap());
    drop(daemon);
}

/// HTTP-14: what cannot be parsed may hold a secret anywhere.
#[test]
fn http_14_a_malformed_value_with_a_secret_is_not_shown() {
    let mut agent = Agent::at("");
    let judge = |what: &str, text: &str| {
        let found = text.lines().find(|line| line.contains(&MARK[..5]));
        assert_eq!(found, None, "{what}");
    };
    let of = |text: &str| text.replace("MARK", &secret("some"));
    for url in [
        "https://user:MARK@h:port/",
        "user:MARK@host/path",
        "host/path?token=MARK",
        "MARK",
        "MARK://host/",
        "http://user:MARK@sync.example.com/?k=MARK",
        "ftp://user:MARK@h/MARK",
        "https://[MARK]/",
        "https://user:MARK@MARK@h:99999/",
    ] {
        agent.base_url = of(url);
        run_some(&agent, &[], &[], &judge);
    }
    agent.base_url = "https://sync.invalid/".to_owned();
    let certificate = agent.state_dir.with_file_name("client.p12");
    fs::write(&certificate, "not a certificate").expect("written");
    for set in [
        r#"SyncProxyConfiguration={"HTTPSEnable":1,"HTTPSProxy":"u:MARK@h"}"#.to_owned(),
        r#"SyncProxyConfiguration={"HTTPSEnable":1,"HTTPSProxy":"http://u:MARK@h:x/MARK"}"#
            .to_owned(),
        r#"SyncProxyConfiguration={"HTTPSEnable":1,"HTTPSProxy":"h","HTTPSPort":"MARK"}"#
            .to_owned(),
        r#"SyncProxyConfiguration={"HTTPSEnable":1,"HTTPSPasword":"MARK"}"#.to_owned(),
        "SyncProxyConfiguration=u:MARK@h".to_owned(),
        "SyncExtraHeaders=X-Key: MARK".to_owned(),
        r#"SyncExtraHeaders={"X-Key: MARK":"x"}"#.to_owned(),
        r#"SyncExtraHeaders={"X-Key":["MARK"]}"#.to_owned(),
        r#"SyncExtraHeaders={"X-Key":"a\nMARK"}"#.to_owned(),
        "ServerAuthRootsData=MARK".to_owned(),
        "EventDetailURL=https://u:MARK@h:x/".to_owned(),
        "RelaySecret=MARK".to_owned(),
        "RelaySecret=a\nMARK".to_owned(),
    ] {
        run_some(&agent, &["--set".to_owned(), of(&set)], &[], &judge);
    }
    let certificate = format!("ClientAuthCertificateFile={}", certificate.display());
    let password = of("ClientAuthCertificatePassword=MARK");
    let more = ["--set".to_owned(), certificate, "--set".to_owned(), password];
    run_some(&agent, &more, &[], &judge);
    for proxy in ["u:MARK@h:x", "http://u:MARK@h:x/", "MARK://u:MARK@h:1/", "MARK MARK"] {
        run_some(&agent, &[], &[("HTTPS_PROXY", &of(proxy))], &judge);
    }
}

/// The commands that use or show the configuration.
fn run_some(agent: &Agent, more: &[String], env: &[(&str, &str)], judge: &dyn Fn(&str, &str)) {
    for args in [
        &["sync"][..],
        &["sync", "--json"],
        &["config", "show", "--origin"],
        &["config", "show", "--json"],
        &["config", "check", "--json"],
        &["doctor"],
        &["status"],
        &["history", "--json"],
    ] {
        let mut command: Command = agent.command(args);
        command.args(["--log-level", "trace"]).args(more).envs(env.iter().copied());
        let output = command.output().expect("the program runs");
        let asked = format!("{args:?} {more:?} {env:?}");
        assert_ne!(output.status.code(), Some(64), "{asked}: {output:?}");
        judge(&asked, &String::from_utf8_lossy(&output.stdout));
        judge(&asked, &String::from_utf8_lossy(&output.stderr));
    }
}
