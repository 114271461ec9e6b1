//! Heads: framing, limits, order.

use std::io::ErrorKind;

use super::*;

#[test]
fn relay_2_answers_have_a_length_and_the_connection_lives_on() {
    let server = Server::start(Limits::default());
    let mut client = server.connect();
    for _ in 0..3 {
        let answer = client.post("/echo?query", "", b"body");
        assert_eq!((answer.status, answer.text(), answer.closes()), (200, "body", false));
        let answer = client.post("/empty", "", b"body");
        assert_eq!((answer.status, answer.headers["content-length"].as_str()), (200, "0"));
        // The path is as sent, without the query.
        server.paths.wait_for("head /echo");
    }
    let answer = client.post("/echo", "Connection: close\r\n", b"last");
    assert_eq!((answer.text(), answer.closes()), ("last", true));
    client.ends();
}

#[test]
fn relay_2_a_body_is_asked_for_only_if_it_is_wanted() {
    let server = Server::start(Limits::default());
    let mut client = server.connect();
    client.send("POST /echo HTTP/1.1\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!((client.line(), client.line()), ("HTTP/1.1 100 Continue".into(), String::new()));
    assert_eq!(client.send("body").answer().text(), "body");
    client.send("POST /refused HTTP/1.1\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.answer().status, 404);
    // A refused request whose body comes all the same.
    let answer = server.connect().post("/refused", "", &vec![b'x'; 3 << 20]);
    assert_eq!((answer.status, answer.text()), (404, "no such path\n"));
}

#[test]
fn relay_2_a_client_of_http_1_0_gets_an_answer_and_the_end() {
    let server = Server::start(Limits::default());
    let mut client = server.connect();
    client.send("POST /echo HTTP/1.0\r\nContent-Length: 4\r\n\r\nbody");
    assert_eq!(client.answer().text(), "body");
    client.ends();
    let mut client = server.connect();
    client.send("POST /echo HTTP/1.0\r\nContent-Length: 4\r\nConnection: keep-alive\r\n\r\nbody");
    assert_eq!(client.answer().text(), "body");
    assert_eq!(client.post("/echo", "", b"more").text(), "more");
}

/// Two servers in a row must not see different requests in the same bytes.
#[test]
fn relay_12_ambiguous_framing_is_refused_or_ends_the_connection() {
    let server = Server::start(Limits::default());
    let refused = [
        "POST /echo HTTP/1.1\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\n",
        "POST /echo HTTP/1.1\r\nContent-Length: 4, 5\r\n\r\n",
        "POST /echo HTTP/1.1\r\nContent-Length: +4\r\n\r\n",
        "POST /echo HTTP/1.1\r\nContent-Length: -4\r\n\r\n",
        "POST /echo HTTP/1.1\r\nContent-Length: 0x4\r\n\r\n",
        "POST /echo HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        "POST /echo HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "POST /echo HTTP/1.1\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /echo HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /echo HTTP/1.1\r\nContent-Length : 4\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: x\r\n folded: yes\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHo\0st: x\r\n\r\n",
        "POST  /echo HTTP/1.1\r\n\r\n",
        "POST /echo HTTP/2.0\r\n\r\n",
    ];
    for request in refused {
        let mut client = server.connect();
        client.send(request);
        let answer = client.answer();
        assert_eq!(answer.status, 400, "{request:?}: {answer:?}");
        client.ends();
    }
    assert!(server.paths.seen.lock().unwrap().is_empty());

    // Both headers: the chunks count, and nothing behind them is a request.
    let smuggled = "POST /smuggled HTTP/1.1\r\nContent-Length: 0\r\n\r\n";
    for both in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
    ] {
        let mut client = server.connect();
        client.send(format!("POST /echo HTTP/1.1\r\n{both}\r\n0\r\n\r\n{smuggled}"));
        let answer = client.answer();
        assert_eq!((answer.status, answer.closes()), (200, true));
        client.ends();
    }
    assert!(!server.paths.seen.lock().unwrap().iter().any(|seen| seen.contains("smuggled")));
}

#[test]
fn relay_12_a_head_has_64_kib_and_100_fields() {
    let server = Server::start(Limits::default());
    let with = |fields: &str| format!("POST /empty HTTP/1.1\r\n{fields}Content-Length: 0\r\n\r\n");
    let filler = |bytes: usize| format!("Filler: {}\r\n", "x".repeat(bytes));
    for (fields, status) in [
        ("A: b\r\n".repeat(99), 200),
        ("A: b\r\n".repeat(100), 431),
        (filler(65_000), 200),
        (filler(66_000), 431),
    ] {
        assert_eq!(server.connect().send(with(&fields)).answer().status, status);
    }
    // A line that never ends, in chunks as well.
    let mut client = server.connect();
    client.send("POST /").send("x".repeat(70_000));
    assert!(matches!(client.answer().status, 414 | 431));
    let mut client = server.connect();
    client
        .send("POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;")
        .send("x".repeat(70_000));
    assert_eq!(client.answer().status, 400);
    let mut client = server.connect();
    client.send("POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n");
    client.send("A: b\r\n".repeat(20_000));
    assert_eq!(client.answer().status, 400);
}

#[test]
fn relay_12_slow_heads_and_idle_connections_end() {
    let server = Server::start(Limits { head: SHORT, idle: SHORT * 2, ..Limits::default() });
    server.connect().ends();
    // Each byte comes in time, all of them do not.
    let mut slow = server.connect();
    let written = (0..1000).find_map(|_| {
        let written = slow.0.get_mut().write_all(b"P");
        let read = slow.0.get_ref().set_read_timeout(Some(SHORT / 10));
        read.and(written).err().or_else(|| match slow.0.get_mut().read(&mut [0]) {
            Ok(_) => Some(ErrorKind::BrokenPipe.into()),
            Err(error) => Some(error).filter(|error| error.kind() != ErrorKind::WouldBlock),
        })
    });
    assert!(written.is_some(), "it could go on for ever");
    let mut idle = server.connect();
    assert_eq!(idle.post("/echo", "", b"x").status, 200);
    idle.ends();
    // A head that begins has its own time again.
    let mut late = server.connect();
    assert_eq!(late.post("/echo", "", b"x").status, 200);
    late.send("P").ends();
}

#[test]
fn relay_12_an_answer_that_nobody_takes_ends_its_connection() {
    let server = Server::start(Limits { respond: SHORT, ..Limits::default() });
    let mut client = server.connect();
    client.send("POST /large HTTP/1.1\r\nContent-Length: 0\r\n\r\n");
    server.paths.wait_for("body /large");
    // A byte now and then does not help.
    for _ in 0..100 {
        client.0.get_mut().read_exact(&mut [0]).unwrap();
        std::thread::park_timeout(SHORT / 50);
    }
    let mut rest = Vec::new();
    let _ = client.0.read_to_end(&mut rest);
    assert!(rest.len() < 32 << 20, "the whole answer came");
}

/// A client that sends the next request before it takes the answer.
#[test]
fn relay_12_requests_that_come_ahead_are_answered_in_order_one_at_a_time() {
    let server = Server::start(Limits::default());
    let mut client = server.connect();
    let post = |path: &str, body: &str| {
        format!("POST {path} HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    };
    client.send(post("/large", "") + &post("/echo", "first") + &post("/echo", "second"));
    server.paths.wait_for("body /large");
    // The socket's buffers do not hold 32 MiB, so the first answer is not taken yet.
    assert!(!server.paths.seen.lock().unwrap().contains(&"head /echo".to_owned()));
    assert_eq!(client.answer().body.len(), 32 << 20);
    assert_eq!(client.answer().text(), "first");
    assert_eq!(client.answer().text(), "second");
}
