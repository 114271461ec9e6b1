//! Whether the authorizer is about to be led elsewhere. Then it is given the
//! server's own interval, which it keeps for as long as no one tells it another
//! (RELAY-14).

use std::fs;
use std::io;
use std::path::Path;

use crate::files::{self, Replacement};
use crate::model::Timestamp;

/// The file in the state directory that says so, and since when.
pub const LEAVING_FILE: &str = "relay-leaving";

/// The longest one read, in bytes.
const MAX_BYTES: u64 = 256;

/// Since when the authorizer is to leave; `None` if it is not. A file that cannot
/// be read counts as one of long ago.
#[must_use]
pub fn leaving_since(state_dir: &Path) -> Option<Timestamp> {
    let begin = Timestamp::from_secs(0);
    let bytes = match files::read_own(&state_dir.join(LEAVING_FILE), MAX_BYTES) {
        Ok(bytes) => bytes?,
        Err(_) => return Some(begin),
    };
    let text = String::from_utf8_lossy(&bytes);
    Some(Timestamp::parse(text.trim()).unwrap_or(begin))
}

/// Has the authorizer leave from `now` on.
///
/// # Errors
/// If the file cannot be written.
pub fn begin(state_dir: &Path, now: Timestamp) -> io::Result<()> {
    let how = Replacement { mode: 0o600, durable: true };
    Ok(files::replace(&state_dir.join(LEAVING_FILE), format!("{now}\n").as_bytes(), how)?)
}

/// Has the authorizer stay, or forgets that it has left.
///
/// # Errors
/// If the file cannot be removed.
pub fn end(state_dir: &Path) -> io::Result<()> {
    match fs::remove_file(state_dir.join(LEAVING_FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relay_14_leaving_begins_and_ends() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path();
        assert_eq!(leaving_since(dir), None);
        let at = Timestamp::from_secs(1_800_000_000);
        begin(dir, at).expect("written");
        assert_eq!(leaving_since(dir), Some(at));
        fs::write(dir.join(LEAVING_FILE), "torn").expect("written");
        assert_eq!(leaving_since(dir), Some(Timestamp::from_secs(0)));
        end(dir).expect("removed");
        end(dir).expect("removed twice");
        assert_eq!(leaving_since(dir), None);
    }
}
