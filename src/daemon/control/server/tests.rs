//! Who may ask what, and what becomes of clients that stall.

use super::*;
use crate::config::Config;
use crate::control::message::RuleLookup;
use crate::model::SyncType;

/// DAEMON-4: status and sync for the group, clean syncs and the rest for owner
/// and root.
#[test]
fn daemon_4_who_may_ask_what() {
    assert_eq!(ClientAccess::of(0, 77), ClientAccess::Owner);
    assert_eq!(ClientAccess::of(77, 77), ClientAccess::Owner);
    assert_eq!(ClientAccess::of(78, 77), ClientAccess::Group);
    let open = [ControlRequest::Status, ControlRequest::Sync(SyncRequest::default())];
    let closed = [
        ControlRequest::Sync(SyncRequest {
            clean: Some(SyncType::Clean),
            ..SyncRequest::default()
        }),
        ControlRequest::Sync(SyncRequest {
            clean: Some(SyncType::CleanAll),
            ..SyncRequest::default()
        }),
        ControlRequest::EventsAdd { events: Vec::new() },
        ControlRequest::UploadEvents,
        ControlRequest::RulesLookup(RuleLookup::default()),
        ControlRequest::BundleRequests,
        ControlRequest::Subscribe,
        ControlRequest::Metrics,
        ControlRequest::LogLevel { level: "off".to_owned() },
    ];
    for (request, is_open) in open
        .iter()
        .map(|request| (request, true))
        .chain(closed.iter().map(|request| (request, false)))
    {
        assert!(ClientAccess::Owner.allows(request), "{request:?}");
        assert_eq!(ClientAccess::Group.allows(request), is_open, "{request:?}");
    }
}

/// DAEMON-4: without a group the socket is the owner's; with one, the group
/// passes through the directory and sees nothing in it.
#[tokio::test]
async fn daemon_4_the_modes_keep_everyone_else_out() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).expect("ours");
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    let (socket, _listener) = Socket::open(dir.path(), None).expect("a socket");
    assert_eq!((mode(dir.path()), mode(&socket.path)), (0o700, 0o600));
    let own = rustix::process::getegid().as_raw();
    permit(dir.path(), Some(own)).expect("permitted");
    assert_eq!((mode(dir.path()), mode(&socket.path)), (0o710, 0o660));
    permit(dir.path(), None).expect("permitted");
    assert_eq!((mode(dir.path()), mode(&socket.path)), (0o700, 0o600));
    let path = socket.path.clone();
    drop(socket);
    assert!(!path.exists());
}

/// A client of nobody's daemon that has run out of timeouts.
async fn stalls(access: ClientAccess, said: &[u8]) -> (io::Result<()>, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let (commands, mut asked) = mpsc::channel(1);
    let (_, configured) = watch::channel(Arc::new(Config::resolve(&[])));
    let shared = ControlShared {
        state_dir: PathBuf::from("/nowhere"),
        commands,
        events: broadcast::channel(1).0,
        configured,
        clock: SystemClock::new(),
        timeouts: ControlTimeouts {
            asking: Duration::from_millis(50),
            reading: Duration::from_millis(50),
        },
    };
    let queries = Queries::new(LocalAgent::new(shared.state_dir.clone(), Config::default()));
    let timeouts = shared.timeouts;
    let state = ServerState { shared, queries, line_readers: Semaphore::new(1) };
    let (read, write) = ours.into_split();
    let client = ControlConnection { read: BufReader::new(read), write, access, timeouts };
    // A daemon whose status is long.
    tokio::spawn(async move {
        while let Some(command) = asked.recv().await {
            if let LoopRequest::Metrics(reply) = command {
                let _ = reply.send("x".repeat(4 << 20));
            }
        }
    });
    theirs.writable().await.expect("it can be written to");
    theirs.try_write(said).expect("written");
    (client.converse(&state).await, theirs)
}

/// DAEMON-4: a client that says nothing, half a line, or reads nothing, is
/// ended after a while.
#[tokio::test]
async fn daemon_4_a_client_that_stalls_loses_its_place() {
    for said in [&b" "[..], br#"{"request":"sta"#, b"{\"request\":\"metrics\"}\n"] {
        let (ended, _theirs) = stalls(ClientAccess::Owner, said).await;
        let error = ended.expect_err("it has stalled");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
    }
}

/// DAEMON-4: what the group may not ask for is refused, a clean sync too.
#[tokio::test]
async fn daemon_4_the_group_is_refused_a_clean_sync() {
    let said = b"{\"request\":\"sync\",\"clean\":\"CLEAN_ALL\"}\n";
    let (_, theirs) = stalls(ClientAccess::Group, said).await;
    let mut answer = [0; 1024];
    theirs.readable().await.expect("there is an answer");
    let read = theirs.try_read(&mut answer).expect("an answer");
    let answer = String::from_utf8_lossy(&answer[..read]);
    assert!(answer.contains("forbidden"), "{answer}");
}

#[tokio::test]
async fn a_path_too_long_for_a_socket_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let long = dir.path().join("x".repeat(120));
    fs::create_dir(&long).expect("made");
    let error = Socket::open(&long, None).expect_err("too long");
    assert!(error.fix.contains("shorten StateDirectory"), "{error}");
}
