//! Request bodies: framing, codings, limits.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

use super::*;

fn zlib(body: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

fn raw(body: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

fn chunked(body: &[u8], size: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for chunk in body.chunks(size) {
        out.extend_from_slice(format!("{:x};name=value\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\nTrailer: yes\r\n\r\n");
    out
}

#[test]
fn relay_2_every_coding_and_framing_is_read_on_one_connection() {
    let server = Server::start(Limits::default());
    let mut client = server.connect();
    let body: Vec<u8> = (0..300_000_u32).flat_map(|n| (n % 1000).to_le_bytes()).collect();
    let two_members = [gzip(&body[..1000]), gzip(&body[1000..])].concat();
    let cases: [(&str, Vec<u8>); 8] = [
        ("", body.clone()),
        ("Content-Encoding: identity\r\n", body.clone()),
        ("Content-Encoding: deflate\r\n", zlib(&body)),
        ("Content-Encoding: Deflate\r\n", raw(&body)),
        ("Content-Encoding: gzip\r\n", gzip(&body)),
        ("Content-Encoding: x-gzip\r\n", two_members),
        ("Content-Encoding: gzip\r\n", Vec::new()),
        ("Content-Encoding: deflate\r\n", Vec::new()),
    ];
    for (header, sent) in cases {
        let expected = if sent.is_empty() { &[][..] } else { &body };
        let answer = client.post("/echo", header, &sent);
        assert_eq!((answer.status, &answer.body[..] == expected), (200, true), "{header}");
        client.send(format!("POST /echo HTTP/1.1\r\n{header}Transfer-Encoding: chunked\r\n\r\n"));
        let answer = client.send(chunked(&sent, 777)).answer();
        assert_eq!((answer.status, &answer.body[..] == expected), (200, true), "{header}");
        let length = client.post("/length", header, &sent);
        assert_eq!(length.text(), expected.len().to_string());
    }
}

#[test]
fn relay_2_another_coding_is_415_and_a_body_that_is_not_what_it_says_400() {
    let server = Server::start(Limits::default());
    let body = b"{\"events\":[]}".repeat(100);
    let (zlib, gzip, raw) = (zlib(&body), gzip(&body), raw(&body));
    let flipped = |stream: &[u8], at: usize| {
        let mut stream = stream.to_vec();
        stream[at] ^= 0x55;
        stream
    };
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        ("br", body.clone(), 415),
        ("gzip, deflate", body.clone(), 415),
        ("deflate", body.clone(), 400),
        ("gzip", body.clone(), 400),
        ("gzip", zlib.clone(), 400),
        ("deflate", gzip.clone(), 400),
        // Cut short, in the frame and in the data.
        ("deflate", zlib[..1].to_vec(), 400),
        ("deflate", zlib[..zlib.len() - 1].to_vec(), 400),
        ("deflate", raw[..raw.len() - 1].to_vec(), 400),
        ("gzip", gzip[..5].to_vec(), 400),
        ("gzip", gzip[..gzip.len() - 9].to_vec(), 400),
        ("gzip", gzip[..gzip.len() - 1].to_vec(), 400),
        // Checksums and lengths.
        ("deflate", flipped(&zlib, zlib.len() - 1), 400),
        ("gzip", flipped(&gzip, gzip.len() - 8), 400),
        ("gzip", flipped(&gzip, gzip.len() - 1), 400),
        // More than the stream.
        ("deflate", [&zlib[..], b"x"].concat(), 400),
        ("gzip", [&gzip[..], b"x"].concat(), 400),
    ];
    for (coding, sent, status) in cases {
        let header = format!("Content-Encoding: {coding}\r\n");
        let answer = server.connect().post("/echo", &header, &sent);
        assert_eq!(answer.status, status, "{coding}, {} bytes: {}", sent.len(), answer.text());
        assert!(answer.closes());
    }
    let twice = "Content-Encoding: gzip\r\nContent-Encoding: gzip\r\n";
    let answer = server.connect().post("/echo", twice, &gzip);
    assert_eq!(answer.status, 415);
    assert_eq!(answer.headers["accept-encoding"], "gzip, deflate, identity");
    // Unless it is not to be decoded.
    let answer = server.connect().post("/as-sent", "Content-Encoding: br\r\n", &body);
    assert_eq!((answer.status, answer.body), (200, body));
}

#[test]
fn relay_12_what_is_too_long_is_413_as_sent_and_decoded() {
    let limits = BodyLimits { encoded: 10_000, decoded: 100_000, decode: true };
    let server =
        Server::with(Limits::default(), Paths { bodies: limits, ..Paths::default() }, None);
    let noise: Vec<u8> =
        (0..10_001_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[2]).collect();
    let gzip_of = |length: usize| gzip(&vec![b' '; length]);
    let cases = [
        ("identity", noise[..10_000].to_vec(), 200),
        ("identity", noise.clone(), 413),
        ("gzip", gzip_of(100_000), 200),
        ("gzip", gzip_of(100_001), 413),
        ("deflate", zlib(&vec![b' '; 100_000]), 200),
        ("deflate", raw(&vec![b' '; 5_000_000]), 413),
        ("gzip", gzip_of(5_000_000), 413),
    ];
    for (coding, sent, status) in cases {
        let header = format!("Content-Encoding: {coding}\r\n");
        let answer = server.connect().post("/length", &header, &sent);
        assert_eq!(answer.status, status, "{coding}, {} bytes: {}", sent.len(), answer.text());
        let head = format!("POST /length HTTP/1.1\r\n{header}Transfer-Encoding: chunked\r\n\r\n");
        let answer = server.connect().send(head).send(chunked(&sent, 4000)).answer();
        assert_eq!(answer.status, status, "{coding}, {} bytes, chunked", sent.len());
    }
}

/// A thousandth of its size on the wire.
#[test]
#[cfg(target_os = "linux")]
fn relay_12_a_bomb_takes_no_more_memory_than_the_limit() {
    let bodies = BodyLimits::both(8 << 20);
    let server = Server::with(Limits::default(), Paths { bodies, ..Paths::default() }, None);
    let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
    (0..256 << 10).for_each(|_| bomb.write_all(&[0; 1024]).unwrap());
    let bomb = bomb.finish().unwrap();
    assert!(bomb.len() < 1 << 20);
    let resident = resident_bytes();
    for _ in 0..4 {
        let answer = server.connect().post("/length", "Content-Encoding: gzip\r\n", &bomb);
        assert_eq!(answer.status, 413);
    }
    let grown = resident_bytes() - resident;
    assert!(grown < 24 << 20, "{grown} bytes");
}

#[test]
fn relay_12_a_length_that_is_too_large_is_refused_before_the_body_is_read() {
    let server = Server::start(Limits::default());
    let mut client = server.connect();
    client.send("POST /echo HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n");
    assert_eq!(client.answer().status, 413);
    // A client that keeps sending still finds the answer.
    let answer = server.connect().post("/echo", "", &vec![0; 6 << 20]);
    assert_eq!(answer.status, 413);
    client.ends();
}

#[test]
fn relay_12_a_slow_body_is_408() {
    let server = Server::start(Limits { body: SHORT, ..Limits::default() });
    let mut client = server.connect();
    client.send("POST /echo HTTP/1.1\r\nContent-Length: 10\r\n\r\n12345");
    let answer = client.answer();
    assert_eq!((answer.status, answer.closes()), (408, true));
    client.ends();
}

#[test]
fn relay_12_a_body_that_breaks_off_reaches_no_service() {
    let server = Server::start(Limits::default());
    let mut client = server.connect();
    client.send("POST /echo HTTP/1.1\r\nContent-Length: 10\r\n\r\n12345");
    server.paths.wait_for("head /echo");
    client.0.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    client.0.read_to_end(&mut rest).unwrap();
    let mut client = server.connect();
    client.send("POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n");
    assert_eq!(client.answer().status, 400);
    assert!(!server.paths.seen.lock().unwrap().contains(&"body /echo".to_owned()));
}

#[test]
fn relay_12_a_long_body_counts_until_the_work_on_it_is_done() {
    let limits = Limits { small_body: 1000, body: SHORT, ..Limits::default() };
    let server = Server::start(limits);
    let mut gone = server.connect();
    gone.send("POST /keep HTTP/1.1\r\nContent-Length: 1001\r\n\r\n").send([b'x'; 1001]);
    server.paths.wait_for("kept");
    drop(gone);
    for _ in 0..3 {
        assert_eq!(server.connect().post("/echo", "", &[b'x'; 2000]).status, 503);
    }
    server.paths.kept.lock().unwrap().clear();
    // Once its connection has ended, too.
    let is_taken = (0..50).any(|_| server.connect().post("/echo", "", &[b'x'; 2000]).status == 200);
    assert!(is_taken);
}

#[test]
fn relay_12_long_bodies_take_turns_and_short_ones_never_wait() {
    let limits = Limits { small_body: 1000, body: SHORT * 4, ..Limits::default() };
    let server = Server::start(limits);
    let head = |length: usize| format!("POST /echo HTTP/1.1\r\nContent-Length: {length}\r\n\r\n");
    // One long body is there, and stays.
    let mut hog = server.connect();
    hog.send("POST /hold HTTP/1.1\r\nContent-Length: 1001\r\n\r\n").send([b'x'; 1001]);
    server.paths.wait_for("body /hold");
    // A second one waits in vain.
    let mut second = server.connect();
    let answer = second.send(head(2000)).send([b'x'; 2000]).answer();
    assert_eq!(answer.status, 503);
    assert!(answer.headers.contains_key("retry-after"));
    // A trusted client's does not wait, and a short one neither.
    let mut trusted = server.connect();
    assert_eq!(trusted.post("/trust", "", b"").status, 200);
    assert_eq!(trusted.post("/echo", "", &[b'x'; 2000]).body.len(), 2000);
    assert_eq!(server.connect().post("/echo", "", &[b'x'; 1000]).body.len(), 1000);
    // Nor does a long one once the first is gone.
    let mut third = server.connect();
    third.send(head(3000)).send([b'x'; 3000]);
    server.paths.release.notify_one();
    assert_eq!(hog.answer().body.len(), 1001);
    drop(hog);
    assert_eq!(third.answer().body.len(), 3000);
}
