//! The state directory, with whole processes: many at once, and other users'.

use std::io::Write as _;
use std::process::{Child, Stdio};

use santa_sync::harness::fixtures::{self, AnyEvent};
use santa_sync::harness::{FakeServer, SyncTypePolicy};
use santa_sync::protocol::wire;

use crate::agent::{Agent, piped};

/// A producer of one event.
fn producer(agent: &Agent, number: u32) -> Child {
    let (child, mut stdin) = piped(&mut agent.command(&["events", "add"]));
    let event = serde_json::json!({
        "file_sha256": format!("{number:064x}"),
        "file_path": "/opt",
        "file_name": format!("program-{number}"),
        "decision": "BLOCK_UNKNOWN",
        "execution_time": 1_700_000_000,
        "executing_user": "root",
    });
    writeln!(stdin, "{event}").expect("written");
    child
}

/// STATE-2, NEVER: the stores are created under any number of processes at
/// once, and none of them loses its event or is told to move a file away.
#[test]
fn state_2_producers_and_a_first_sync_at_once_create_the_stores_and_lose_nothing() {
    let server = FakeServer::builder().rules(fixtures::rules(10, 1)).start().expect("a server");
    for round in 0..6 {
        let agent = Agent::of(&server);
        let mut children: Vec<_> = (0..6).map(|n| producer(&agent, 6 * round + n)).collect();
        children.insert(3, agent.spawn(&["sync"]));
        for child in children {
            let output = child.wait_with_output().expect("ended");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "round {round}: {:?} {said}", output.status);
        }
        // Whatever the first sync was too early for.
        assert_eq!(agent.sync(&[]).code, Some(0));
        assert_eq!(agent.pending(), 0);
        assert_eq!(agent.rules(), 10);
    }
    let mut uploaded: Vec<_> = server.events().iter().filter_map(name_of).collect();
    uploaded.sort();
    uploaded.dedup();
    assert_eq!(uploaded.len(), 36, "{uploaded:?}");
}

fn name_of(event: &AnyEvent) -> Option<String> {
    match event {
        AnyEvent::Execution(event) => Some(event.file_name.clone()),
        AnyEvent::FileAccess(_) => None,
    }
}

/// STATE-6: rules come although events cannot be sent, and the record says so.
#[test]
fn state_6_a_queue_that_cannot_be_used_stops_only_the_events() {
    let server = FakeServer::builder().rules(fixtures::rules(10, 1)).start().expect("a server");
    for obstacle in ["too new", "locked", "a FIFO"] {
        let agent = Agent::of(&server);
        assert_eq!(agent.sync(&[]).code, Some(0));
        let queue = agent.state_dir.join("events.db");
        let other = rusqlite::Connection::open(&queue).expect("open");
        let words = match obstacle {
            "too new" => {
                other.execute_batch("PRAGMA user_version = 99").expect("set");
                "has schema version 99"
            }
            "locked" => {
                other
                    .execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE")
                    .expect("locked");
                "is locked by another program"
            }
            _ => {
                std::fs::remove_file(&queue).expect("removed");
                let made = std::process::Command::new("mkfifo").arg(&queue).status();
                assert!(made.expect("it ran").success());
                "it is a FIFO"
            }
        };
        let synced = agent.sync(&["--clean"]);
        assert_eq!((synced.code, synced.result()), (Some(0), "success"), "{}", synced.stderr);
        assert!(synced.stderr.contains(words), "{obstacle}: {}", synced.stderr);
        let store = agent.store();
        let history = store.history(1).expect("read");
        let warning = &history[0].warnings[0];
        assert_eq!((warning.field.as_str(), warning.stage.name()), ("events.db", "event_upload"));
        assert!(warning.action.contains("without events"), "{warning:?}");
        assert_eq!(history[0].rules_received, 10);
    }
}

/// STATE-6: nor does the file for other programs stop anything.
#[test]
fn state_6_a_settings_file_that_cannot_be_written_is_a_warning() {
    let server = FakeServer::builder().rules(fixtures::rules(10, 1)).start().expect("a server");
    let agent = Agent::of(&server);
    assert_eq!(agent.sync(&[]).code, Some(0));
    let file = agent.state_dir.join("sync-state.plist");
    std::fs::remove_file(&file).expect("removed");
    let victim = agent.state_dir.join("victim");
    std::fs::write(&victim, "untouched").expect("written");
    std::os::unix::fs::symlink(&victim, &file).expect("a link");
    let synced = agent.sync(&["--clean-all"]);
    assert_eq!((synced.code, synced.result()), (Some(0), "success"), "{}", synced.stderr);
    assert!(synced.stderr.contains("it is a link to"), "{}", synced.stderr);
    let history = agent.store().history(1).expect("read");
    assert_eq!(history[0].warnings[0].field, "sync-state.plist");
    assert_eq!(std::fs::read_to_string(&victim).expect("there"), "untouched");
}

/// STATE-3, STATE-5: a rebuilt rule store is in the record, and holds LOCKDOWN
/// back until the clean sync that refills it.
#[test]
fn state_5_an_empty_normal_answer_after_a_rebuild_does_not_bring_lockdown() {
    let server = FakeServer::builder()
        .rules(fixtures::rules(10, 1))
        .client_mode(wire::ClientMode::Lockdown)
        .sync_type(SyncTypePolicy::Always(wire::SyncType::Normal))
        .hosts_up_to_date()
        .start()
        .expect("a server");
    let agent = Agent::of(&server);
    assert_eq!(agent.sync(&[]).code, Some(0));
    std::fs::write(agent.state_dir.join("rules.db"), "garbage").expect("written");
    let synced = agent.sync(&[]);
    assert_eq!(synced.code, Some(0), "{}", synced.stderr);
    let history = agent.store().history(1).expect("read");
    assert_eq!(history[0].warnings[0].field, "rules.db");
    assert_eq!(agent.store().client_mode(None).expect("read").name(), "MONITOR");
    let status = agent.run(&["status"]);
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(
        status.contains("waits for a clean sync, because the rule store was recreated"),
        "{status}"
    );
    let preflights = server.requests(santa_sync::model::Stage::Preflight).len();
    assert_eq!(agent.sync(&[]).code, Some(0));
    assert_eq!(server.requests(santa_sync::model::Stage::Preflight).len(), preflights + 1);
    assert_eq!(agent.store().client_mode(None).expect("read").name(), "MONITOR");
}

/// STATE-1: root works in the directory of a service user only as that user: so
/// all it makes there belongs to it, and nothing that only root may change is
/// changed.
#[test]
fn state_1_root_works_in_another_users_directory_as_that_user() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
    let server = FakeServer::builder().rules(fixtures::rules(10, 1)).start().expect("a server");
    let agent = Agent::of(&server);
    let dir = &agent.state_dir;
    std::fs::create_dir(dir).expect("made");
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).expect("set");
    let me = rustix::process::geteuid().as_raw();
    // Only root can give a directory away; whoever else runs this keeps it.
    let user = if me == 0 { 54_321 } else { me };
    chown(dir, Some(user), (me == 0).then_some(54_322)).expect("given away");
    let home = dir.parent().expect("a directory");
    std::fs::set_permissions(home, std::fs::Permissions::from_mode(0o755)).expect("set");

    let added = producer(&agent, 1).wait_with_output().expect("ended");
    assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
    let synced = agent.sync(&[]);
    assert_eq!(synced.code, Some(0), "{}", synced.stderr);
    for command in [&["status"][..], &["history"], &["rules", "list"], &["rules", "verify"]] {
        assert!(agent.run(command).status.success(), "{command:?}");
    }
    let mut files = 0;
    for entry in std::fs::read_dir(dir).expect("listed") {
        let entry = entry.expect("an entry");
        assert_eq!(entry.metadata().expect("there").uid(), user, "{:?}", entry.file_name());
        files += 1;
    }
    assert!(files >= 5, "{files} files");

    // What the user may not touch, root does not touch for it.
    let secret = home.join("secret");
    std::fs::write(&secret, "root's").expect("written");
    for name in ["rules.db", "agent.lock", "sync-state.plist", "events.db", "daemon.json"] {
        let _ = std::fs::remove_file(dir.join(name));
        symlink(&secret, dir.join(name)).expect("a link");
    }
    for command in [&["sync"][..], &["status"], &["doctor"], &["events", "add"]] {
        agent.run(command);
    }
    assert_eq!(std::fs::read_to_string(&secret).expect("there"), "root's");
    assert_eq!(std::fs::metadata(&secret).expect("there").uid(), me);
}

/// STATE-1, SYNC-6: roots and certificates that are FIFOs or have no end stop a
/// sync at once, not at its deadline.
#[test]
fn state_1_a_certificate_path_that_is_no_file_stops_the_sync_at_once() {
    let agent = Agent::at("https://127.0.0.1:1/");
    let fifo = agent.state_dir.parent().expect("a directory").join("fifo");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status();
    assert!(made.expect("it ran").success());
    for key in ["ServerAuthRootsFile", "ClientAuthCertificateFile"] {
        for (path, words) in
            [(fifo.to_str().expect("UTF-8"), "it is a FIFO"), ("/dev/zero", "it is a device")]
        {
            let mut command = agent.command(&["sync", "--set", &format!("{key}={path}")]);
            let output = command.output().expect("ended");
            let said = String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success() && said.contains(words), "{key} {path}: {said}");
        }
    }
}

/// STATE-1: of files of any size no more is read than makes sense.
#[test]
fn state_1_huge_state_files_are_not_read_whole() {
    let server = FakeServer::builder().rules(fixtures::rules(10, 1)).start().expect("a server");
    let agent = Agent::of(&server);
    assert_eq!(agent.sync(&[]).code, Some(0));
    for name in ["sync-state.plist", "daemon.json", "agent.lock", "rules.db-suspect"] {
        let path = agent.state_dir.join(name);
        let file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(path);
        file.and_then(|file| file.set_len(3 << 30)).expect("a sparse file");
    }
    // Within 1 GiB of addresses a read of 3 GiB fails.
    for command in ["status", "doctor", "sync --no-wait"] {
        let program = agent.command(&command.split(' ').collect::<Vec<_>>());
        let mut limited = std::process::Command::new("/bin/sh");
        limited.args(["-c", "ulimit -v 1048576; exec \"$0\" \"$@\""]).arg(program.get_program());
        limited.args(program.get_args()).env_clear();
        let output = limited.output().expect("ended");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !said.contains("memory") && output.status.code().is_some_and(|code| code < 70),
            "{command}: {:?} {said}",
            output.status
        );
    }
}

/// A volume of its own, if this user may mount one.
struct Volume<'a>(&'a std::path::Path);

impl<'a> Volume<'a> {
    fn mount(at: &'a std::path::Path) -> Option<Self> {
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=80m,mode=0700", "tmpfs"]).arg(at);
        let mounted = mount.stderr(Stdio::null()).status().is_ok_and(|status| status.success());
        mounted.then_some(Self(at))
    }

    /// Leaves not one page.
    fn fill(&self) {
        let mut file = std::fs::File::create(self.0.join("filler")).expect("made");
        let mut size = 1 << 20;
        while size > 0 {
            if file.write_all(&vec![1; size]).is_err() {
                size /= 2;
            }
        }
    }

    /// Takes back what [`Self::fill`] did.
    fn empty(&self) {
        std::fs::remove_file(self.0.join("filler")).expect("removed");
    }
}

impl Drop for Volume<'_> {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(self.0).status();
    }
}

/// STATE-6: the sync uploads the events that fill the disk, and makes room; the space
/// that it took for that is reserved again once there is some.
#[test]
fn state_6_on_a_full_disk_the_events_that_fill_it_are_uploaded() {
    let server = FakeServer::builder().rules(fixtures::rules(10, 1)).start().expect("a server");
    let agent = Agent::of(&server);
    std::fs::create_dir(&agent.state_dir).expect("made");
    let volume = Volume::mount(&agent.state_dir);
    assert_eq!(agent.sync(&[]).code, Some(0));
    let reserve = agent.state_dir.join("rules.db-reserve");
    assert_eq!(std::fs::metadata(&reserve).expect("kept").len(), 8 << 20);
    agent.queue(fixtures::events(500, 1).map(|event| event.to_json()));
    // Only root may mount a volume; for others the disk has room left.
    if let Some(volume) = &volume {
        volume.fill();
    }
    let synced = agent.sync(&[]);
    assert_eq!((synced.code, agent.pending()), (Some(0), 0), "{}", synced.stderr);
    assert_eq!(reserve.exists(), volume.is_none());
    let record = agent.store().history(1).expect("read").remove(0);
    assert_eq!((record.events_uploaded, record.warnings), (500, vec![]));
    if let Some(volume) = &volume {
        volume.empty();
    }
    assert_eq!(agent.sync(&[]).code, Some(0));
    assert!(reserve.exists(), "there is space again");
}
