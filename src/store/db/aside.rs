//! Setting a corrupt database aside, so that neither a crash in the middle nor
//! corruption that repeats costs more than it must.
//!
//! The mark beside a database (`rules.db-suspect`) has the next opening check
//! the whole file. Before anything is moved the mark says where to and why, on
//! disk; so an opening after a crash ends the move before it does anything
//! else, and a database and its log stay together. Whoever calls this has the
//! turn of the database (see [`super::turn`]), but for [`mark_suspect`].

use std::cmp::Reverse;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::Notice;
use crate::files::{self, Access, Obstacle, Replacement, beside};
use crate::model::Timestamp;

/// Behind the name of a database: the mark.
pub(super) const MARK: &str = "-suspect";
/// A mark that says where the database goes begins with this.
const MOVING: &str = "moving to ";
/// The name of a copy is that of the database, this and the time.
const COPY: &str = ".corrupt-";
/// The files of a database, its log first: should the mark be lost, the log
/// must not lie beside a new database.
const PARTS: [&str; 4] = ["-wal", "-journal", "-shm", ""];
/// A mark is longer than this only if it is not ours.
const MAX_MARK: u64 = 4096;
/// Of the copies of one database the first and this many of the last are kept.
const LAST_KEPT: usize = 2;

/// Whether the whole file must be checked before it is used.
pub(super) fn is_suspect(path: &Path) -> bool {
    fs::symlink_metadata(beside(path, MARK)).is_ok()
}

/// Notes that a statement met corruption. The next opening for writing checks
/// the file and sets it aside if it is broken.
pub(in crate::store) fn mark_suspect(path: &Path) {
    if let Err(error) = files::open_own(&beside(path, MARK), Access::Write) {
        tracing::warn!(path = %path.display(), %error, "cannot mark the database as suspect");
    }
}

/// Notes that the file was checked and is sound.
pub(super) fn clear_mark(path: &Path) -> io::Result<()> {
    match fs::remove_file(beside(path, MARK)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Moves a corrupt database and its log to `<name>.corrupt-<time>`.
pub(super) fn set_aside(path: &Path, now: Timestamp, reason: &str) -> io::Result<Notice> {
    let copy = free_name(path, now)?;
    let name = copy.file_name().unwrap_or_default().to_string_lossy();
    let reason: String = reason.chars().filter(|c| !c.is_control()).take(500).collect();
    let mark = format!("{MOVING}{name}\n{reason}\n");
    let how = Replacement { mode: 0o600, durable: true };
    files::replace(&beside(path, MARK), mark.as_bytes(), how)?;
    finish(path, copy, reason)
}

/// Ends a move that a crash interrupted.
pub(super) fn resume(path: &Path) -> io::Result<Option<Notice>> {
    let mark = match files::read_own(&beside(path, MARK), MAX_MARK) {
        Ok(Some(mark)) => mark,
        Ok(None) | Err(Obstacle::TooLarge(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mark = String::from_utf8_lossy(&mark);
    let mut lines = mark.lines();
    let Some(name) = lines.next().and_then(|line| line.strip_prefix(MOVING)) else {
        return Ok(None);
    };
    let copy = path.with_file_name(name);
    if Copy::parse(path, copy.file_name().unwrap_or_default()).is_none() {
        return Ok(None);
    }
    finish(path, copy, lines.next().unwrap_or_default().to_owned()).map(Some)
}

fn finish(path: &Path, copy: PathBuf, reason: String) -> io::Result<Notice> {
    for part in PARTS {
        let from = beside(path, part);
        if fs::symlink_metadata(&from).is_err() {
            continue;
        }
        let mut to = beside(&copy, part);
        // A reader may have made an empty log after the crash.
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
    let mut copy = beside(path, &format!("{COPY}{time}"));
    let mut further = 1;
    loop {
        let taken = PARTS.iter().map(|part| fs::symlink_metadata(beside(&copy, part)));
        match taken.flatten().next() {
            None => return Ok(copy),
            Some(_) if further == u32::MAX => return Err(io::ErrorKind::AlreadyExists.into()),
            Some(_) => {}
        }
        further += 1;
        copy = beside(path, &format!("{COPY}{time}-{further}"));
    }
}

/// The name of a copy: when it was made, and which of that second.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Copy {
    time: String,
    further: u32,
}

impl Copy {
    /// `None` for the name of anything else, the log of a copy included.
    fn parse(path: &Path, name: &OsStr) -> Option<Self> {
        let rest = name.to_str()?.strip_prefix(path.file_name()?.to_str()?)?.strip_prefix(COPY)?;
        let (time, further) = rest.split_once('-').unwrap_or((rest, "1"));
        let plain = !time.is_empty() && time.chars().all(|c| c.is_ascii_alphanumeric());
        Some(Self { time: plain.then(|| time.to_owned())?, further: further.parse().ok()? })
    }
}

/// Deletes copies of a database but the first, the last ones, and the one just
/// made, whatever the clock said.
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
    // The newest come first, and the one just made is one of the last.
    let first = copies.len().saturating_sub(1);
    for (_, copy) in copies.get(LAST_KEPT - 1..first).unwrap_or_default() {
        for part in PARTS {
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
