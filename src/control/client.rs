//! The client of the control socket, for the command line and for programs that add
//! events.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::SOCKET_FILE;
use super::message::{ControlRequest, ControlResponse};

/// The longest response read: a record with 100 rejected rules and every setting
/// has less than 1 MiB.
const MAX_RESPONSE_BYTES: u64 = 4 * 1024 * 1024;

/// A connection to the daemon of a state directory. Blocks its thread.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the daemon of a state directory; `None` if there is none or this
    /// user may not connect to it.
    #[must_use]
    pub fn connect(state_dir: &Path) -> Option<Self> {
        Self::reach(state_dir).ok().flatten()
    }

    /// Connects to the daemon of a state directory; `None` if there is none.
    ///
    /// # Errors
    /// If this user may not ask it, or may not even look.
    pub fn reach(state_dir: &Path) -> io::Result<Option<Self>> {
        match UnixStream::connect(state_dir.join(SOCKET_FILE)) {
            Ok(stream) => Ok(Some(Self { stream: BufReader::new(stream) })),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// Limits how long a response may take to arrive, and a request to be read;
    /// `None` removes the limits.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn wait_at_most(&self, duration: Option<Duration>) -> io::Result<()> {
        self.stream.get_ref().set_write_timeout(duration)?;
        self.stream.get_ref().set_read_timeout(duration)
    }

    /// Sends a request.
    ///
    /// # Errors
    /// If the daemon is gone.
    pub fn ask(&mut self, request: &ControlRequest) -> io::Result<()> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line)
    }

    /// Reads the next response.
    ///
    /// # Errors
    /// If the daemon is gone, or says what this program does not understand.
    pub fn answer(&mut self) -> io::Result<ControlResponse> {
        let mut line = Vec::new();
        let read = (&mut self.stream).take(MAX_RESPONSE_BYTES).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_slice(&line)?)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// DAEMON-4: a daemon that stands still costs its clients a while, not all
    /// their time.
    #[test]
    fn daemon_4_a_daemon_that_reads_nothing_is_given_up() {
        let dir = tempfile::tempdir().expect("a directory");
        let _listener = UnixListener::bind(dir.path().join(SOCKET_FILE)).expect("a socket");
        let mut client = Client::connect(dir.path()).expect("a daemon");
        client.wait_at_most(Some(Duration::from_millis(50))).expect("a timeout");
        let long = ControlRequest::LogLevel { level: "x".repeat(8 << 20) };
        let error = client.ask(&long).expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}");
    }
}
