//! Connections: their number, their order, their end.

use std::io::ErrorKind;
#[cfg(target_os = "linux")]
use std::time::Instant;

use super::*;

#[test]
fn relay_12_the_limits_are_those_of_the_contract() {
    let limits = Limits::default();
    let seconds = [limits.handshake, limits.head, limits.body, limits.respond, limits.stop];
    assert_eq!(limits.connections, 32);
    assert_eq!(seconds.map(|time| time.as_secs()), [5, 10, 30, 30, 10]);
}

#[test]
fn relay_12_when_full_the_oldest_without_an_authenticated_request_goes() {
    let server = Server::start(Limits { connections: 3, ..Limits::default() });
    let echo = |client: &mut Client| client.post("/echo", "", b"x").status;
    let mut trusted = server.connect();
    assert_eq!(trusted.post("/trust", "", b"").status, 200);
    let (mut second, mut third) = (server.connect(), server.connect());
    assert_eq!((echo(&mut third), echo(&mut second)), (200, 200));

    let mut fourth = server.connect();
    second.ends();
    assert_eq!((echo(&mut trusted), echo(&mut third), echo(&mut fourth)), (200, 200, 200));
    let mut fifth = server.connect();
    third.ends();
    assert_eq!((echo(&mut trusted), echo(&mut fourth), echo(&mut fifth)), (200, 200, 200));

    // All are trusted: the new one is refused.
    for client in [&mut fourth, &mut fifth] {
        assert_eq!(client.post("/trust", "", b"").status, 200);
    }
    server.connect().ends();
    assert_eq!((echo(&mut trusted), echo(&mut fourth), echo(&mut fifth)), (200, 200, 200));
    // Until one of them goes.
    drop(fourth);
    let again = std::iter::repeat_with(|| {
        let mut client = server.connect();
        client.0.get_mut().write_all(b"POST /echo HTTP/1.1\r\nContent-Length: 0\r\n\r\n").ok()?;
        client.0.fill_buf().ok().map(<[u8]>::len).filter(|bytes| *bytes > 0)
    });
    assert!(again.take(1000).flatten().next().is_some());
}

/// A peer that is known without a request is ended after all strangers.
#[test]
fn relay_12_strangers_go_before_peers_that_are_known() {
    let paths = Paths { known: Some(1), ..Paths::default() };
    let server = Server::with(Limits { connections: 2, ..Limits::default() }, paths, None);
    let mut known = server.connect();
    assert_eq!(known.post("/echo", "", b"x").status, 200);
    let mut stranger = server.connect();
    assert_eq!(stranger.post("/echo", "", b"x").status, 200);
    let mut next = server.connect();
    stranger.ends();
    assert_eq!(known.post("/echo", "", b"x").status, 200);
    // Among trusted ones it has no privilege.
    assert_eq!(next.post("/trust", "", b"").status, 200);
    let mut last = server.connect();
    known.ends();
    assert_eq!(
        (last.post("/echo", "", b"x").status, next.post("/echo", "", b"x").status),
        (200, 200)
    );
}

#[test]
#[cfg(target_os = "linux")]
fn relay_12_a_thousand_strangers_cost_neither_memory_nor_the_trusted_client() {
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: most.maximum, ..most };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    let server = Server::start(Limits::default());
    let mut trusted = server.connect();
    assert_eq!(trusted.post("/trust", "", b"").status, 200);
    let median = |client: &mut Client| {
        let mut times: Vec<Duration> = (0..101)
            .map(|_| {
                #[expect(clippy::disallowed_methods, reason = "measures the server")]
                let begin = Instant::now();
                assert_eq!(client.post("/echo", "", &[b'x'; 1000]).status, 200);
                begin.elapsed()
            })
            .collect();
        times.sort();
        times[50]
    };
    let alone = median(&mut trusted);
    let resident = resident_bytes();

    // A head that never ends, one whose body never comes, and silence.
    let begun: [&[u8]; 3] =
        [b"POST /", b"POST /echo HTTP/1.1\r\nContent-Length: 1000000\r\n\r\nxx", b""];
    let mut strangers: Vec<TcpStream> = Vec::new();
    for n in 0..1000 {
        let mut stranger = TcpStream::connect(server.address).unwrap();
        // It may have been ended already.
        let _ = stranger.write_all(begun[n % 3]);
        strangers.push(stranger);
    }
    assert_eq!(trusted.post("/echo", "", b"x").status, 200);
    let beside = median(&mut trusted);
    // Some may wait to be accepted.
    let held = (0..100).map(|_| server.connections()).find(|held| (1..=32).contains(held));
    assert!(held.is_some(), "{} connections", server.connections());
    let grown = resident_bytes().saturating_sub(resident);
    assert!(grown < 32 << 20, "{grown} bytes");
    assert!(beside <= alone.mul_f64(1.2) + Duration::from_millis(50), "{alone:?}, then {beside:?}");

    // While strangers come and go without a pause.
    let (address, flooding) = (server.address, Arc::new(std::sync::atomic::AtomicBool::new(true)));
    let flood = std::thread::spawn({
        let flooding = Arc::clone(&flooding);
        move || {
            while flooding.load(std::sync::atomic::Ordering::Relaxed) {
                let _ = TcpStream::connect(address);
            }
        }
    });
    let during = median(&mut trusted);
    flooding.store(false, std::sync::atomic::Ordering::Relaxed);
    flood.join().unwrap();
    assert!(
        during <= alone.mul_f64(1.2) + Duration::from_millis(100),
        "{alone:?}, then {during:?}"
    );
}

#[test]
fn relay_2_an_answer_that_has_been_begun_is_finished_when_the_server_stops() {
    let mut server = Server::start(Limits::default());
    let mut asking = server.connect();
    asking.send("POST /hold HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody");
    server.paths.wait_for("body /hold");
    let mut taking = server.connect();
    taking.send("POST /large HTTP/1.1\r\nContent-Length: 0\r\n\r\n");
    server.paths.wait_for("body /large");
    let mut idle = server.connect();
    assert_eq!(idle.post("/echo", "", b"x").status, 200);
    let (mut head, mut body) = (server.connect(), server.connect());
    head.send("POST /ec");
    body.send("POST /body HTTP/1.1\r\nContent-Length: 4\r\n\r\nbo");
    server.paths.wait_for("head /body");

    server.stop.send_replace(true);
    for client in [&mut idle, &mut head, &mut body] {
        client.ends();
    }
    assert_eq!(
        TcpStream::connect(server.address).unwrap_err().kind(),
        ErrorKind::ConnectionRefused
    );
    server.paths.release.notify_one();
    let answer = asking.answer();
    assert_eq!((answer.status, answer.text(), answer.closes()), (200, "body", true));
    assert_eq!(taking.answer().body.len(), 32 << 20);
    server.stop();
}

#[test]
fn relay_2_an_answer_that_nobody_takes_does_not_hold_up_the_end() {
    let mut server = Server::start(Limits { stop: SHORT, ..Limits::default() });
    let mut client = server.connect();
    client.send("POST /large HTTP/1.1\r\nContent-Length: 0\r\n\r\n");
    server.paths.wait_for("body /large");
    let mut stuck = server.connect();
    stuck.send("POST /hold HTTP/1.1\r\nContent-Length: 0\r\n\r\n");
    server.paths.wait_for("body /hold");
    server.stop();
    stuck.ends();
}

#[test]
fn relay_12_a_panic_ends_its_connection_alone() {
    let server = Server::start(Limits::default());
    let mut other = server.connect();
    assert_eq!(other.post("/echo", "", b"x").status, 200);
    for path in ["/panic", "/panic-early"] {
        let mut client = server.connect();
        let answer = client.post(path, "", b"x");
        assert_eq!((answer.status, answer.closes()), (500, true));
        client.ends();
    }
    assert_eq!(other.post("/echo", "", b"x").status, 200);
}

#[test]
#[cfg(target_os = "linux")]
fn relay_12_the_user_of_a_connection_is_that_of_its_socket() {
    let server = Server::start(Limits::default());
    let seen = server.connect().post("/user", "", b"").text().to_owned();
    let user = rustix::process::getuid().as_raw();
    assert!(seen.contains(&format!("user: Some({user}), inode: Some(")), "{seen}");
    assert!(seen.contains("certificate: false"), "{seen}");
}
