//! What lies at a path of the state directory, looked at before it is opened:
//! opening a FIFO would wait for whoever writes to it, and creating through a
//! dangling link would write somewhere else.

use std::fs::{self, FileType, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;

use thiserror::Error;

/// Why what lies there cannot be one of our files.
#[derive(Debug, Error)]
pub enum Obstacle {
    /// It cannot be looked at.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is something else; the text says what, as in "a FIFO, not a file".
    #[error("it is {0}")]
    NotAFile(String),
}

/// What a file of that type is, with its article.
#[must_use]
pub fn kind_of(file_type: FileType) -> &'static str {
    if file_type.is_file() {
        "a file"
    } else if file_type.is_dir() {
        "a directory"
    } else if file_type.is_fifo() {
        "a FIFO"
    } else if file_type.is_socket() {
        "a socket"
    } else if file_type.is_char_device() || file_type.is_block_device() {
        "a device"
    } else {
        "something"
    }
}

/// The regular file at a path, links followed; `None` if nothing is there.
///
/// # Errors
/// If something else is there, a link that leads nowhere included.
pub fn regular(path: &Path) -> Result<Option<Metadata>, Obstacle> {
    let missing = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => Ok(Some(metadata)),
        Ok(metadata) => {
            let kind = kind_of(metadata.file_type());
            Err(Obstacle::NotAFile(format!("{kind}, not a file")))
        }
        Err(error) if missing(&error) => match fs::read_link(path) {
            Ok(target) => {
                let target = target.display();
                Err(Obstacle::NotAFile(format!("a link to {target}, which does not exist")))
            }
            Err(_) => Ok(None),
        },
        Err(error) => Err(error.into()),
    }
}

/// Takes the rights of others away from a file, if it is there.
pub(super) fn keep_private(path: &Path) -> Result<(), Obstacle> {
    let Some(metadata) = regular(path)? else { return Ok(()) };
    let mode = metadata.permissions().mode();
    let private = mode & !0o077;
    if private == mode {
        return Ok(());
    }
    Ok(fs::set_permissions(path, Permissions::from_mode(private))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name);
        let said =
            |path: &Path| regular(path).map(|found| found.is_some()).map_err(|e| e.to_string());
        fs::write(path("file"), "").expect("written");
        std::os::unix::fs::symlink("file", path("link")).expect("a link");
        std::os::unix::fs::symlink("gone", path("dangling")).expect("a link");
        let made = std::process::Command::new("mkfifo").arg(path("fifo")).status();
        assert!(made.expect("it ran").success());
        let no = |text: &str| Err(text.to_owned());
        assert_eq!(said(&path("file")), Ok(true));
        assert_eq!(said(&path("link")), Ok(true));
        assert_eq!(said(&path("nothing")), Ok(false));
        assert_eq!(said(&path("dangling")), no("it is a link to gone, which does not exist"));
        assert_eq!(said(&path("fifo")), no("it is a FIFO, not a file"));
        assert_eq!(said(dir.path()), no("it is a directory, not a file"));
        assert_eq!(said(Path::new("/dev/null")), no("it is a device, not a file"));
    }
}
