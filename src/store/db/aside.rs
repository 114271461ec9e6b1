//! Setting a corrupt database aside, safely across crashes and without filling
//! the disk when corruption repeats.
//!
//! A mark beside a database (`rules.db-suspect`) makes the next open check the
//! whole file. Before anything is moved, the destination and the reason are
//! written to the mark, durably. So an open after a crash completes the move
//! first, and a database and its log stay together. All callers except those of
//! [`mark_suspect`] have the turn of the database (see [`super::turn`]).

use std::cmp::Reverse;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::Notice;
use crate::files::{self, Access, Obstacle, Replacement, beside};
use crate::model::Timestamp;
use crate::model::text::on_one_line;
use crate::store::SUSPECT_SUFFIX;

/// A mark with a destination begins with this.
const MOVING_TO: &str = "moving to ";
/// Comes between the name of the database and the time in the name of a copy.
const COPY_INFIX: &str = ".corrupt-";
/// The suffixes of the files of a database, log first: if the mark were lost,
/// the log must not end up beside a new database.
const FILE_SUFFIXES: [&str; 4] = ["-wal", "-journal", "-shm", ""];
/// The size of the longest mark of ours, in bytes.
const MAX_MARK_BYTES: u64 = 4096;
/// How many of the last copies of a database are kept besides the first.
const LAST_KEPT: usize = 2;

/// Returns whether the whole file must be checked before use.
pub(super) fn is_suspect(path: &Path) -> bool {
    fs::symlink_metadata(beside(path, SUSPECT_SUFFIX)).is_ok()
}

/// Records that a statement reported corruption. The next writable open checks
/// the file and sets it aside if it is corrupt.
pub(in crate::store) fn mark_suspect(path: &Path) {
    if let Err(error) = files::open_own(&beside(path, SUSPECT_SUFFIX), Access::Write) {
        tracing::warn!(path = %path.display(), %error, "cannot mark the database as suspect");
    }
}

/// Records that the file was checked and is sound.
pub(super) fn clear_mark(path: &Path) -> io::Result<()> {
    match fs::remove_file(beside(path, SUSPECT_SUFFIX)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Moves a corrupt database and its log to `<name>.corrupt-<time>`.
pub(super) fn set_aside(path: &Path, now: Timestamp, reason: &str) -> io::Result<Notice> {
    let copy = free_name(path, now)?;
    let name = copy.file_name().unwrap_or_default().to_string_lossy();
    let reason: String = on_one_line(reason, 500);
    let mark = format!("{MOVING_TO}{name}\n{reason}\n");
    let how = Replacement { mode: 0o600, durable: true };
    files::replace(&beside(path, SUSPECT_SUFFIX), mark.as_bytes(), how)?;
    finish(path, copy, reason)
}

/// Completes a move that a crash interrupted.
pub(super) fn resume(path: &Path) -> io::Result<Option<Notice>> {
    let mark = match files::read_own(&beside(path, SUSPECT_SUFFIX), MAX_MARK_BYTES) {
        Ok(Some(mark)) => mark,
        Ok(None) | Err(Obstacle::TooLarge(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mark = String::from_utf8_lossy(&mark);
    let mut lines = mark.lines();
    let Some(name) = lines.next().and_then(|line| line.strip_prefix(MOVING_TO)) else {
        return Ok(None);
    };
    let copy = path.with_file_name(name);
    if Copy::parse(path, copy.file_name().unwrap_or_default()).is_none() {
        return Ok(None);
    }
    finish(path, copy, lines.next().unwrap_or_default().to_owned()).map(Some)
}

fn finish(path: &Path, copy: PathBuf, reason: String) -> io::Result<Notice> {
    for part in FILE_SUFFIXES {
        let from = beside(path, part);
        if fs::symlink_metadata(&from).is_err() {
            continue;
        }
        let mut to = beside(&copy, part);
        // A reader may have created an empty log after the crash.
        while fs::symlink_metadata(&to).is_ok() {
            to = beside(&to, "-more");
        }
        fs::rename(&from, &to)?;
    }
    let dir = File::open(files::directory_of(path))?;
    dir.sync_all()?;
    clear_mark(path)?;
    dir.sync_all()?;
    if let Err(error) = forget_copies(path, &copy) {
        tracing::warn!(%error, "older copies of the damaged database could not be deleted");
    }
    Ok(Notice::SetAside { path: copy, reason })
}

fn free_name(path: &Path, now: Timestamp) -> io::Result<PathBuf> {
    let time: String = Timestamp::from_secs(now.as_secs())
        .to_string()
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect();
    let mut copy = beside(path, &format!("{COPY_INFIX}{time}"));
    let mut further = 1;
    loop {
        let taken = FILE_SUFFIXES.iter().map(|part| fs::symlink_metadata(beside(&copy, part)));
        match taken.flatten().next() {
            None => return Ok(copy),
            Some(_) if further == u32::MAX => return Err(io::ErrorKind::AlreadyExists.into()),
            Some(_) => {}
        }
        further += 1;
        copy = beside(path, &format!("{COPY_INFIX}{time}-{further}"));
    }
}

/// A parsed name of a copy: its time, and its number within that second.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Copy {
    time: String,
    further: u32,
}

impl Copy {
    /// Returns `None` for any other name, including that of a copy's log.
    fn parse(path: &Path, name: &OsStr) -> Option<Self> {
        let rest =
            name.to_str()?.strip_prefix(path.file_name()?.to_str()?)?.strip_prefix(COPY_INFIX)?;
        let (time, further) = rest.split_once('-').unwrap_or((rest, "1"));
        let plain = !time.is_empty() && time.chars().all(|c| c.is_ascii_alphanumeric());
        Some(Self { time: plain.then(|| time.to_owned())?, further: further.parse().ok()? })
    }
}

/// Deletes all copies of a database except the first, the last ones and the one
/// just made, even if the clock was wrong.
fn forget_copies(path: &Path, made: &Path) -> io::Result<()> {
    let dir = files::directory_of(path);
    let mut copies = Vec::new();
    for entry in fs::read_dir(&dir)? {
        let entry = entry?;
        if let Some(copy) = Copy::parse(path, &entry.file_name())
            && Some(entry.file_name().as_os_str()) != made.file_name()
            && entry.file_type()?.is_file()
        {
            copies.push((Reverse(copy), entry.path()));
        }
    }
    copies.sort();
    // The newest come first; the one just made counts as one of the last.
    let first = copies.len().saturating_sub(1);
    for (_, copy) in copies.get(LAST_KEPT - 1..first).unwrap_or_default() {
        for part in FILE_SUFFIXES {
            match fs::remove_file(beside(copy, part)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        tracing::info!(path = %copy.display(), "an older copy of the damaged database was deleted");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
