//! Opening and replacing files without being led astray.
//!
//! Whoever may write to a directory can put a link, a FIFO or a device where
//! this program expects a file: writing would then change something else, and
//! opening would wait for ever. Every file of the state directory, and every
//! path that comes from configuration, is opened and replaced through this
//! module: what is not a regular file is refused by name and left alone, and a
//! read is bounded.

mod guarded;
mod lock;
#[cfg(test)]
mod tests;

use std::fs::{self, File, FileType, Metadata, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{
    FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use thiserror::Error;

pub use guarded::{Exposed, check_guarded, check_program, owner_of_nearest};
pub use lock::{FileLock, is_locked};

/// Why a path cannot be used as a file.
#[derive(Debug, Error)]
pub enum Obstacle {
    /// It cannot be looked at, opened, read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Something else is there; the text says what, as in "a FIFO, not a file".
    #[error("it is {0}")]
    NotAFile(String),
    /// It holds more than so many bytes.
    #[error("it is larger than {0} bytes")]
    TooLarge(u64),
}

impl Obstacle {
    fn not_a_file(what: impl Into<String>) -> Self {
        Self::NotAFile(what.into())
    }
}

impl From<Obstacle> for io::Error {
    fn from(obstacle: Obstacle) -> Self {
        match obstacle {
            Obstacle::Io(error) => error,
            Obstacle::NotAFile(_) | Obstacle::TooLarge(_) => Self::other(obstacle.to_string()),
        }
    }
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
    } else if file_type.is_symlink() {
        "a link"
    } else if file_type.is_char_device() || file_type.is_block_device() {
        "a device"
    } else {
        "something"
    }
}

fn must_be_regular(metadata: &Metadata) -> Result<(), Obstacle> {
    if metadata.is_file() {
        return Ok(());
    }
    Err(Obstacle::NotAFile(format!("{}, not a file", kind_of(metadata.file_type()))))
}

/// The regular file at a path, links followed; `None` if nothing is there.
///
/// # Errors
/// If something else is there, a link that leads nowhere included.
pub fn regular(path: &Path) -> Result<Option<Metadata>, Obstacle> {
    match fs::metadata(path) {
        Ok(metadata) => must_be_regular(&metadata).map(|()| Some(metadata)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match fs::read_link(path) {
            Ok(target) => {
                let target = target.display();
                Err(Obstacle::NotAFile(format!("a link to {target}, which does not exist")))
            }
            Err(_) => Ok(None),
        },
        Err(error) => Err(error.into()),
    }
}

/// Reads a regular file whole, links followed: what configuration names.
///
/// # Errors
/// If it cannot be read, is not a regular file, or has more than `limit` bytes.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>, Obstacle> {
    // Looked at first, because opening some devices does something.
    must_be_regular(&fs::metadata(path)?)?;
    let file = OpenOptions::new().read(true).custom_flags(flags(OFlags::NONBLOCK)).open(path)?;
    must_be_regular(&file.metadata()?)?;
    read_bounded(file, limit)
}

fn read_bounded(file: File, limit: u64) -> Result<Vec<u8>, Obstacle> {
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(Obstacle::TooLarge(limit));
    }
    Ok(bytes)
}

/// A file of this program's own: a regular file with one name, no link.
/// `None` if nothing is there.
///
/// # Errors
/// If something else is there.
pub fn own(path: &Path) -> Result<Option<Metadata>, Obstacle> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_symlink() => {
            let target = fs::read_link(path)?;
            Err(Obstacle::NotAFile(format!("a link to {}, not a file", target.display())))
        }
        Ok(metadata) => must_be_own(&metadata).map(|()| Some(metadata)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn must_be_own(metadata: &Metadata) -> Result<(), Obstacle> {
    must_be_regular(metadata)?;
    if metadata.nlink() > 1 {
        let names = metadata.nlink();
        return Err(Obstacle::NotAFile(format!("a file with {names} names (hard links)")));
    }
    Ok(())
}

fn must_be_mine(metadata: &Metadata) -> Result<(), Obstacle> {
    let (owner, me) = (metadata.uid(), rustix::process::geteuid().as_raw());
    if owner == me {
        return Ok(());
    }
    Err(Obstacle::NotAFile(format!("a file of user {owner}, not of this one ({me})")))
}

/// What a file of this program's own is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To read; it must exist.
    Read,
    /// To write; it is created with mode 0600 if it does not exist.
    Write,
}

/// Opens a file of this program's own; see [`own`]. One to write to must
/// belong to this user, and comes with the rights of others taken away. Its
/// content is left as it is.
///
/// Never use it for a database that SQLite may have open in this process:
/// closing any descriptor of such a file drops SQLite's locks.
///
/// # Errors
/// If it cannot be opened or is something else.
pub fn open_own(path: &Path, access: Access) -> Result<File, Obstacle> {
    // Looked at first, because opening some devices does something, and for an
    // error that names the kind; what was opened is then looked at again.
    own(path)?;
    let mut options = OpenOptions::new();
    options.custom_flags(flags(OFlags::NOFOLLOW | OFlags::NONBLOCK));
    match access {
        Access::Read => options.read(true),
        Access::Write => options.read(true).write(true).create(true).mode(0o600),
    };
    let file = options.open(path)?;
    let metadata = file.metadata()?;
    must_be_own(&metadata)?;
    if access == Access::Write {
        must_be_mine(&metadata)?;
        if let Some(private) = private(&metadata) {
            file.set_permissions(private)?;
        }
    }
    Ok(file)
}

/// Reads a file of this program's own; `None` if there is none.
///
/// # Errors
/// If it cannot be read, is something else, or has more than `limit` bytes.
pub fn read_own(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, Obstacle> {
    match open_own(path, Access::Read) {
        Ok(file) => read_bounded(file, limit).map(Some),
        Err(Obstacle::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Takes the rights of others away from a file of this program's own, if it is
/// there. Does not open it, so that it can be used on a database; nobody else
/// may write to its directory (see [`check_guarded`]).
///
/// # Errors
/// If it is something else, belongs to another user, or cannot be changed.
pub fn keep_private(path: &Path) -> Result<Option<Metadata>, Obstacle> {
    let Some(metadata) = own(path)? else { return Ok(None) };
    must_be_mine(&metadata)?;
    if let Some(private) = private(&metadata) {
        fs::set_permissions(path, private)?;
    }
    Ok(Some(metadata))
}

fn private(metadata: &Metadata) -> Option<Permissions> {
    let mode = metadata.permissions().mode();
    (mode & 0o7177 != 0).then(|| Permissions::from_mode(mode & 0o600))
}

/// How a file is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replacement {
    /// The mode of the new file.
    pub mode: u32,
    /// Whether the new file must have reached the disk.
    pub durable: bool,
}

/// Replaces a file whole: whoever reads it sees the old or the new content. What
/// lies in its place is left alone unless it is a regular file with one name.
///
/// # Errors
/// If it cannot be written, or something else is in its place or in that of
/// its temporary file (the name with `.new` behind it).
pub fn replace(path: &Path, bytes: &[u8], how: Replacement) -> Result<(), Obstacle> {
    own(path)?;
    if path.file_name().is_none() {
        return Err(Obstacle::not_a_file("a directory, not a file"));
    }
    let new = beside(path, ".new");
    let new_file = temporary(&new)?;
    let written = (|| {
        let mut file = new_file.file();
        file.set_len(0)?;
        file.write_all(bytes)?;
        file.set_permissions(Permissions::from_mode(how.mode))?;
        if how.durable {
            file.sync_all()?;
        }
        fs::rename(&new, path)
    })();
    if let Err(error) = written {
        // On a full disk the part that was written takes up room.
        let _ = fs::remove_file(&new);
        return Err(error.into());
    }
    if how.durable {
        File::open(directory_of(path))?.sync_all()?;
    }
    Ok(())
}

/// Opens the temporary file of a replacement for this writer alone. It always
/// has the same name, so that a crash leaves at most one behind.
fn temporary(new: &Path) -> Result<FileLock, Obstacle> {
    loop {
        let file = match open_own(new, Access::Write) {
            Err(Obstacle::NotAFile(what)) => {
                let new = new.display();
                return Err(Obstacle::Io(io::Error::other(format!("{new} is {what}"))));
            }
            opened => opened?,
        };
        // Another writer holds it for the time of one write, and may then have
        // renamed it into place.
        let locked = FileLock::wait(file)?;
        if locked.is_at(new) {
            return Ok(locked);
        }
    }
}

/// What tells a file from others that bear, or bore, its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileIdentity {
    device: u64,
    inode: u64,
}

impl From<&Metadata> for FileIdentity {
    fn from(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

impl FileIdentity {
    /// The identity of what is at a path, a link not followed; `None` if
    /// nothing is there or it cannot be looked at.
    #[must_use]
    pub fn at(path: &Path) -> Option<Self> {
        fs::symlink_metadata(path).ok().map(|metadata| Self::from(&metadata))
    }
}

/// Makes the directories of `relative` below `root`, mode 0755, and follows no
/// link on the way: in an image it would lead out of it.
///
/// # Errors
/// If one cannot be made, or something else is in its place.
pub fn create_below(root: &Path, relative: &Path) -> io::Result<()> {
    let mut at = root.to_owned();
    for name in relative {
        at.push(name);
        match fs::symlink_metadata(&at) {
            Ok(metadata) if metadata.is_dir() => continue,
            Ok(metadata) => {
                let kind = kind_of(metadata.file_type());
                let found = format!("{} is {kind}, not a directory", at.display());
                return Err(io::Error::other(found));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => fs::create_dir(&at)?,
            Err(error) => return Err(error),
        }
        fs::set_permissions(&at, Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// The path with something behind its name.
#[must_use]
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// The directory a path lies in.
#[must_use]
pub fn directory_of(path: &Path) -> PathBuf {
    let parent = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    parent.unwrap_or(Path::new(".")).to_owned()
}

/// Flags for opening a file, as the standard library takes them.
fn flags(flags: OFlags) -> i32 {
    flags.bits().cast_signed()
}
