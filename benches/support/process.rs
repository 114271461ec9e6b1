//! Processes and plain HTTP, measured from outside.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    reason = "parts of programs that measure"
)]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What a process took: milliseconds and megabytes (10^6 bytes).
pub(crate) struct Ran {
    pub(crate) wall: f64,
    pub(crate) cpu: f64,
    pub(crate) peak: f64,
}

/// Runs a command that must succeed.
pub(crate) fn run(command: &mut Command) -> Ran {
    let start = Instant::now();
    let mut child = command.stdout(Stdio::piped()).spawn().expect("started");
    let mut ran = Ran { wall: 0.0, cpu: 0.0, peak: 0.0 };
    let status = loop {
        look(&child, &mut ran);
        match child.try_wait().expect("asked") {
            Some(status) => break status,
            // Looking takes a part of a processor, too.
            None => std::thread::sleep(Duration::from_millis(match start.elapsed().as_millis() {
                ..200 => 1,
                _ => 20,
            })),
        }
    };
    ran.wall = start.elapsed().as_secs_f64() * 1e3;
    let mut told = String::new();
    let output = child.stdout.as_mut().map(|out| out.read_to_string(&mut told));
    assert!(output.is_some_and(|read| read.is_ok()) && status.success(), "{status}: {told}");
    ran
}

/// Reads peak memory and CPU so far; a process that has just ended has none.
fn look(child: &Child, ran: &mut Ran) {
    let read = |name: &str| fs::read_to_string(format!("/proc/{}/{name}", child.id()));
    if let Ok(status) = read("status") {
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kb: Option<f64> = line.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok());
        ran.peak = ran.peak.max(kb.unwrap_or(0.0) * 1.024e-3);
    }
    // Time on a processor in nanoseconds, of the main thread and then of all.
    let tasks = fs::read_dir(format!("/proc/{}/task", child.id()));
    let cpu: f64 = tasks
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|text| text.split(' ').next()?.parse::<f64>().ok())
        .sum();
    ran.cpu = ran.cpu.max(cpu / 1e6);
}

/// One plain connection to a server.
pub(crate) struct Plain {
    reader: BufReader<TcpStream>,
    host: String,
    path: String,
}

impl Plain {
    pub(crate) fn connect(url: &str) -> Self {
        let rest = url.trim_start_matches("http://").trim_end_matches('/');
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let stream = TcpStream::connect(host).expect("connected");
        stream.set_nodelay(true).expect("set");
        Self { reader: BufReader::new(stream), host: host.to_owned(), path: path.to_owned() }
    }

    /// The body of the answer to a stage's request.
    pub(crate) fn post(&mut self, stage: &str, encoding: &str, body: &[u8]) -> Vec<u8> {
        let mut answer = Vec::new();
        self.post_into(stage, encoding, body, &mut answer);
        answer
    }

    /// Like [`Self::post`], into a buffer whose memory is used again.
    pub(crate) fn post_into(
        &mut self,
        stage: &str,
        encoding: &str,
        body: &[u8],
        answer: &mut Vec<u8>,
    ) {
        let Self { reader, host, path } = self;
        // In one piece: in several, one would wait for the other's
        // acknowledgement.
        let mut request = format!(
            "POST {path}/{stage}/floor HTTP/1.1\r\nHost: {host}\r\n\
             Content-Type: application/json\r\nContent-Encoding: {encoding}\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        reader.get_mut().write_all(&request).expect("sent");
        read_answer(reader, answer);
    }
}

/// Reads the body of one answer with a length.
fn read_answer(reader: &mut BufReader<TcpStream>, body: &mut Vec<u8>) {
    let (mut length, mut line) = (0, String::new());
    loop {
        line.clear();
        reader.read_line(&mut line).expect("a line");
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().expect("a number");
        }
        assert!(!lower.starts_with("transfer-encoding:"), "the floor reads no chunks");
        if line == "\r\n" {
            break;
        }
    }
    body.resize(length, 0);
    reader.read_exact(body).expect("a body");
}
