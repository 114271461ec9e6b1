//! Checks who may write to a directory and to those above it.
//!
//! A program that root runs, or a directory that root writes to, is as safe as
//! the weakest directory on the way to it. So every step is checked from the
//! root down, links included. Between check and use, only users who may change
//! it anyway can change what passed.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

use thiserror::Error;

/// More links than this in one path count as a loop, as in the kernel.
const MAX_LINKS: u32 = 40;

/// Why it is not safe for this program to use a path.
#[derive(Debug, Error)]
pub enum Exposed {
    /// The directory cannot be inspected.
    #[error("cannot look at {path}: {source}")]
    Io {
        /// The directory or one above it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Neither root nor this user owns it.
    #[error("{path} belongs to user {owner}")]
    Owner {
        /// The directory or one above it.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// It depends on the current directory.
    #[error("{0} is not an absolute path")]
    Relative(PathBuf),
    /// It is not an executable file.
    #[error("{0} is not an executable file")]
    NotAProgram(PathBuf),
    /// Others may write to it.
    #[error("others may write to {path} (mode {mode:04o})")]
    Writable {
        /// The directory or one above it.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

impl Exposed {
    /// Returns how to fix it.
    #[must_use]
    pub fn fix(&self) -> String {
        match self {
            Self::Io { .. } | Self::NotAProgram(_) => {
                "check the path and its permissions".to_owned()
            }
            Self::Relative(_) => "write the path from the root, with a /".to_owned(),
            Self::Owner { path, .. } => {
                format!("run as that user, or as root chown root {}", path.display())
            }
            Self::Writable { path, .. } => format!("run chmod go-w {}", path.display()),
        }
    }
}

/// Checks that only root and this user can replace files in a directory: each
/// directory on the path, including those that links lead through, belongs to
/// one of the two and is not writable by others, unless it is sticky. The part
/// of the path that does not exist yet passes.
///
/// # Errors
/// The first exposed directory on the path.
pub fn check_guarded(dir: &Path) -> Result<(), Exposed> {
    walk(dir, rustix::process::geteuid().as_raw()).map(drop)
}

/// Follows a path as `user` and returns its target without links; `None` if
/// that does not exist.
pub(super) fn walk(path: &Path, user: u32) -> Result<Option<PathBuf>, Exposed> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| Exposed::Io { path, source }
    };
    let absolute = std::path::absolute(path).map_err(io(path))?;
    let mut left = names(&absolute);
    let mut at = PathBuf::from("/");
    check_one(&at, &fs::symlink_metadata(&at).map_err(io(&at))?, user)?;
    let mut links = 0;
    while let Some(name) = left.pop_front() {
        if name == ".." {
            at.pop();
            continue;
        }
        at.push(name);
        let metadata = match fs::symlink_metadata(&at) {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(None);
            }
            found => found.map_err(io(&at))?,
        };
        check_one(&at, &metadata, user)?;
        if metadata.is_symlink() {
            links += 1;
            if links > MAX_LINKS {
                return Err(io(&at)(io::Error::other("too many links")));
            }
            let target = fs::read_link(&at).map_err(io(&at))?;
            at.pop();
            if target.is_absolute() {
                at = PathBuf::from("/");
            }
            for name in names(&target).into_iter().rev() {
                left.push_front(name);
            }
        }
    }
    Ok(Some(at))
}

/// Returns the components of a path in order, including `..`.
fn names(path: &Path) -> VecDeque<OsString> {
    let name = |component: Component<'_>| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(name).collect()
}

fn check_one(path: &Path, metadata: &Metadata, user: u32) -> Result<(), Exposed> {
    let path = path.to_owned();
    let owner = metadata.uid();
    if owner != 0 && owner != user {
        return Err(Exposed::Owner { path, owner });
    }
    let mode = metadata.permissions().mode() & 0o7777;
    // A link has no mode of its own; in a sticky directory only an entry's
    // owner can replace it.
    if metadata.is_symlink() || mode & 0o022 == 0 || mode & 0o1000 != 0 {
        return Ok(());
    }
    Err(Exposed::Writable { path, mode })
}

/// Checks a program that configuration has this process run, and returns its
/// path without links. It must be an executable file that only root and this
/// user can replace or change.
///
/// # Errors
/// The first exposed directory on the path, the program if it is exposed, or
/// what is wrong with the path.
pub fn check_program(path: &Path) -> Result<PathBuf, Exposed> {
    if !path.is_absolute() {
        return Err(Exposed::Relative(path.to_owned()));
    }
    let io = |source| Exposed::Io { path: path.to_owned(), source };
    let missing = || io(io::ErrorKind::NotFound.into());
    let program = walk(path, rustix::process::geteuid().as_raw())?.ok_or_else(missing)?;
    let metadata = fs::metadata(&program).map_err(io)?;
    if metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 {
        Ok(program)
    } else {
        Err(Exposed::NotAProgram(program))
    }
}

/// Returns the owner (user, group) of a directory, or of its nearest ancestor
/// that exists. Links are followed.
#[must_use]
pub fn owner_of_nearest(dir: &Path) -> Option<(u32, u32)> {
    let absolute = std::path::absolute(dir).ok()?;
    let found = absolute.ancestors().find_map(|dir| fs::metadata(dir).ok())?;
    Some((found.uid(), found.gid()))
}
