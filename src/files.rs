//! Opening and replacing files safely.
//!
//! A user who may write to a directory can place a link, a FIFO or a device
//! where this program expects a file. Writing would then change another file,
//! and opening could block forever. Every file of the state directory, and
//! every path that comes from configuration, is opened and replaced through
//! this module, which refuses by name whatever is not a regular file, leaves it
//! alone, and bounds every read.

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
    /// It cannot be inspected, opened, read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It exists but is not a file of the expected kind; the text says what it
    /// is, as in "a FIFO, not a file".
    #[error("it is {0}")]
    NotAFile(String),
    /// It is larger than this many bytes.
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

/// Returns the name of a file type, with its article.
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

/// Returns the metadata of the regular file at a path, following links; `None`
/// if the path does not exist.
///
/// # Errors
/// If it is not a regular file, or a dangling link.
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

/// Reads a whole regular file that configuration names, following links.
///
/// # Errors
/// If it cannot be read, is not a regular file, or has more than `limit` bytes.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>, Obstacle> {
    // Checked first, because opening some devices has side effects.
    must_be_regular(&fs::metadata(path)?)?;
    let file = OpenOptions::new().read(true).custom_flags(flags(OFlags::NONBLOCK)).open(path)?;
    must_be_regular(&file.metadata()?)?;
    read_bounded(file, limit)
}

/// Checks that a regular file that configuration names can be read, by opening it:
/// a security extension may deny what the file's mode grants.
///
/// # Errors
/// If it does not exist, cannot be opened, or is not a regular file.
pub fn check_readable(path: &Path) -> Result<(), Obstacle> {
    must_be_regular(&fs::metadata(path)?)?;
    let file = OpenOptions::new().read(true).custom_flags(flags(OFlags::NONBLOCK)).open(path)?;
    must_be_regular(&file.metadata()?)
}

fn read_bounded(file: File, limit: u64) -> Result<Vec<u8>, Obstacle> {
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(Obstacle::TooLarge(limit));
    }
    Ok(bytes)
}

/// Returns the metadata of one of this program's own files: a regular file with
/// one name, not a link. `None` if the path does not exist.
///
/// # Errors
/// If it is something else.
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

/// What one of this program's own files is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading; the file must exist.
    Read,
    /// Writing; the file is created with mode 0600 if it does not exist.
    Write,
    /// Appending to a file that others may be permitted to read; it is created with mode
    /// 0600 if it does not exist.
    Append,
}

/// Opens one of this program's own files; see [`own`]. A file opened for
/// writing or appending must belong to this user, and one for writing loses all
/// permissions of others. Its content is kept.
///
/// Must not be used on a database that SQLite may have open in this process:
/// closing any descriptor of such a file drops SQLite's locks.
///
/// # Errors
/// If it cannot be opened or is something else.
pub fn open_own(path: &Path, access: Access) -> Result<File, Obstacle> {
    // Checked first, because opening some devices has side effects, and for an
    // error that names the kind. What was opened is then checked again.
    own(path)?;
    let mut options = OpenOptions::new();
    options.custom_flags(flags(OFlags::NOFOLLOW | OFlags::NONBLOCK));
    match access {
        Access::Read => options.read(true),
        Access::Write => options.read(true).write(true).create(true).mode(0o600),
        Access::Append => options.append(true).create(true).mode(0o600),
    };
    let file = options.open(path)?;
    let metadata = file.metadata()?;
    must_be_own(&metadata)?;
    if access != Access::Read {
        must_be_mine(&metadata)?;
    }
    if access == Access::Write
        && let Some(private) = private(&metadata)
    {
        file.set_permissions(private)?;
    }
    Ok(file)
}

/// Reads one of this program's own files; `None` if it does not exist.
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

/// Removes all permissions of others from one of this program's own files, if
/// it exists. Does not open it, so it is safe for a database. Nobody else may
/// be able to write to its directory (see [`check_guarded`]).
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
    /// Whether the new file must be on disk when the call returns.
    pub durable: bool,
}

/// Replaces a whole file atomically: readers see the old or the new content.
/// Anything but a regular file with one name is refused and left alone.
///
/// # Errors
/// If the file cannot be written, or if its path or that of its temporary file
/// (with `.new` appended) is something else.
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
        // On a full disk the part that was written takes up space.
        let _ = fs::remove_file(&new);
        return Err(error.into());
    }
    if how.durable {
        File::open(directory_of(path))?.sync_all()?;
    }
    Ok(())
}

/// Opens and locks the temporary file of a replacement. Its name is always the
/// same, so that a crash leaves at most one behind.
fn temporary(new: &Path) -> Result<FileLock, Obstacle> {
    loop {
        let file = match open_own(new, Access::Write) {
            Err(Obstacle::NotAFile(what)) => {
                let new = new.display();
                return Err(Obstacle::Io(io::Error::other(format!("{new} is {what}"))));
            }
            opened => opened?,
        };
        // Another writer holds the lock for one write, and may then have
        // renamed the file into place.
        let locked = FileLock::wait(file)?;
        if locked.is_at(new) {
            return Ok(locked);
        }
    }
}

/// Identifies a file among all that have or had its name.
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
    /// Returns the identity of the file at a path, without following a link;
    /// `None` if it does not exist or cannot be inspected.
    #[must_use]
    pub fn at(path: &Path) -> Option<Self> {
        fs::symlink_metadata(path).ok().map(|metadata| Self::from(&metadata))
    }
}

/// Creates the directories of `relative` below `root`, with mode 0755. Follows
/// no link: in a system image it would lead out of it.
///
/// # Errors
/// If one cannot be created, or its path is not a directory.
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

/// Returns the path with a suffix appended to its name.
#[must_use]
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Returns the directory that contains a path.
#[must_use]
pub fn directory_of(path: &Path) -> PathBuf {
    let parent = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    parent.unwrap_or(Path::new(".")).to_owned()
}

/// Returns flags for opening a file in the form of the standard library.
fn flags(flags: OFlags) -> i32 {
    flags.bits().cast_signed()
}
