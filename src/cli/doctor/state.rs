//! The state directory: is it there, whose is it, who may use it, and is there
//! room. Nothing is opened and nothing written.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::Access;
use rustix::io::Errno;

use super::{Layer, Line};
use crate::control::INSTANCE_LOCK_FILE;
use crate::control::status::STATUS_FILE;
use crate::files::{Obstacle, check_guarded, own, regular};
use crate::host::KNOWN_FACTS_FILE;
use crate::store::{EVENTS_FILE, LEFT_RECORDS_FILE, LOCK_FILE, RULES_FILE, SYNC_STATE_FILE};

const LAYER: Layer = Layer::StateDirectory;

/// Our files there, and those that SQLite has beside a database.
fn our_files() -> impl Iterator<Item = String> {
    let databases = [RULES_FILE, EVENTS_FILE]
        .into_iter()
        .flat_map(|file| ["", "-wal", "-shm"].map(|suffix| format!("{file}{suffix}")));
    let others = [
        SYNC_STATE_FILE,
        LOCK_FILE,
        LEFT_RECORDS_FILE,
        INSTANCE_LOCK_FILE,
        STATUS_FILE,
        KNOWN_FACTS_FILE,
    ];
    databases.chain(others.map(str::to_owned))
}

/// Looks at the directory, the files in it, and the room on its file system.
/// With `group` members of a group may come to the control socket.
pub(super) fn examine(dir: &Path, group: bool) -> Vec<Line> {
    let shown = dir.display();
    let metadata = match fs::metadata(dir) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return missing(dir),
        Err(error) => {
            let fix = if error.kind() == io::ErrorKind::PermissionDenied {
                "run as the agent's user or as root (sudo)"
            } else {
                "name another with --state-dir or StateDirectory"
            };
            return vec![Line::problem(LAYER, format!("{shown} cannot be examined: {error}"), fix)];
        }
    };
    if !metadata.is_dir() {
        let fix = "name another with --state-dir or StateDirectory";
        return vec![Line::problem(LAYER, format!("{shown} is not a directory"), fix)];
    }
    let mut lines = Vec::new();
    let mode = metadata.permissions().mode() & 0o7777;
    // The daemon lets the group of its socket pass through.
    let of_others = mode & 0o077;
    let private = of_others == 0 || (group && of_others == 0o010);
    if mode & 0o022 != 0 {
        let message =
            format!("{shown} can be written by others (mode {mode:o}), so nothing uses it");
        lines.push(Line::problem(LAYER, message, format!("chmod 0700 {shown}")));
    } else if let Err(exposed) = check_guarded(dir) {
        let message = format!("others could exchange {shown}, so nothing uses it: {exposed}");
        lines.push(Line::problem(LAYER, message, exposed.fix()));
    } else if !private {
        let message = format!("{shown} can be entered by others (mode {mode:o})");
        lines.push(Line::warning(LAYER, message, format!("chmod 0700 {shown}")));
    }
    let wanted = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
    match rustix::fs::access(dir, wanted) {
        Ok(()) => {}
        Err(Errno::ROFS) => lines.push(read_only(dir)),
        Err(_) => {
            lines.push(not_ours(dir, metadata.uid(), rustix::process::geteuid().as_raw()));
            // Nothing in it can be seen.
            return lines;
        }
    }
    if lines.is_empty() {
        lines.push(Line::ok(LAYER, format!("{shown} exists and is private")));
    }
    lines.extend(files(dir, &metadata));
    lines.extend(Room::of(dir).map(|room| room.line(dir)));
    lines
}

/// The first sync makes the directory, if it may.
fn missing(dir: &Path) -> Vec<Line> {
    let shown = dir.display();
    // A bare name has no directory above it.
    let absolute = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    if let Err(Obstacle::NotAFile(what)) = regular(dir) {
        let fix = "remove it, or name another directory with --state-dir or StateDirectory";
        return vec![Line::problem(LAYER, format!("{shown} is {what}"), fix)];
    }
    let parent = absolute.ancestors().skip(1).find(|parent| parent.is_dir());
    let access = parent.map(|parent| rustix::fs::access(parent, Access::WRITE_OK));
    match (parent, access) {
        (Some(parent), Some(Ok(()))) => {
            let message = format!("{shown} does not exist yet; the first sync creates it");
            let room = Room::of(parent).map(|room| room.line(dir));
            [Line::ok(LAYER, message)].into_iter().chain(room).collect()
        }
        (Some(_), Some(Err(Errno::ROFS))) => vec![read_only(dir)],
        _ => {
            let fix = "run as root once, or name another with --state-dir or StateDirectory";
            vec![Line::problem(LAYER, format!("{shown} does not exist and cannot be created"), fix)]
        }
    }
}

pub(super) fn not_ours(dir: &Path, owner: u32, me: u32) -> Line {
    let shown = dir.display();
    let message =
        format!("{shown} belongs to user {owner} and this is user {me}, who may not use it");
    let fix = "run as that user or as root (sudo), or name another with --state-dir";
    Line::problem(LAYER, message, fix)
}

fn read_only(dir: &Path) -> Line {
    let message = format!("{} is on a file system that is mounted read-only", dir.display());
    let fix = "mount it for writing, or name another directory with --state-dir or StateDirectory";
    Line::problem(LAYER, message, fix)
}

/// Entries that are not files, files that this user cannot use, that the directory's user
/// cannot use, or that others can.
fn files(dir: &Path, of_dir: &Metadata) -> Vec<Line> {
    let mut lines = Vec::new();
    let (mut unusable, mut foreign, mut loose) = (Vec::new(), Vec::new(), Vec::new());
    for name in our_files() {
        let path = dir.join(&name);
        let metadata = match own(&path) {
            Ok(Some(metadata)) => metadata,
            Ok(None) => continue,
            Err(Obstacle::NotAFile(what)) => {
                // The next layer reports the databases.
                if ![RULES_FILE, EVENTS_FILE].contains(&name.as_str()) {
                    let message = format!("{} is {what}", path.display());
                    let fix = "move it away; the agent creates a new one";
                    lines.push(Line::problem(LAYER, message, fix));
                }
                continue;
            }
            Err(Obstacle::Io(_) | Obstacle::TooLarge(_)) => {
                unusable.push(name);
                continue;
            }
        };
        if rustix::fs::access(&path, Access::READ_OK | Access::WRITE_OK) == Err(Errno::ACCESS) {
            unusable.push(name);
        } else if metadata.uid() != of_dir.uid() {
            foreign.push(name);
        } else if metadata.permissions().mode() & 0o077 != 0 {
            loose.push(name);
        }
    }
    let me = rustix::process::geteuid().as_raw();
    lines.extend(Rights { me, owner: of_dir.uid(), unusable, foreign, loose }.lines(dir));
    lines
}

/// Files by what is wrong with who may use them.
pub(super) struct Rights {
    /// The user who runs this.
    pub(super) me: u32,
    /// The directory's user.
    pub(super) owner: u32,
    /// Not for this user to read and write.
    pub(super) unusable: Vec<String>,
    /// Not the directory's user's.
    pub(super) foreign: Vec<String>,
    /// For others to read or write.
    pub(super) loose: Vec<String>,
}

impl Rights {
    pub(super) fn lines(&self, dir: &Path) -> Vec<Line> {
        let Self { me, owner, .. } = self;
        let dir = dir.display();
        let mut lines = Vec::new();
        if !self.unusable.is_empty() {
            let files = self.unusable.join(", ");
            let message = format!("user {me}, who runs this, may not read and write {files}");
            let fix = format!("as root: chown -R {owner} {dir} && chmod -R go=,u+rwX {dir}");
            lines.push(Line::problem(LAYER, message, fix));
        }
        if !self.foreign.is_empty() {
            let files = self.foreign.join(", ");
            let message = format!(
                "the directory is user {owner}'s, but not {files}: a daemon of that user cannot \
                 use what root or another user created"
            );
            lines.push(Line::warning(LAYER, message, format!("as root: chown -R {owner} {dir}")));
        }
        if !self.loose.is_empty() {
            let message = format!("others may read or write {}", self.loose.join(", "));
            let files: Vec<_> = self.loose.iter().map(|name| format!("{dir}/{name}")).collect();
            let fix = format!("chmod 0600 {}", files.join(" "));
            lines.push(Line::warning(LAYER, message, fix));
        }
        lines
    }
}

/// Below this a sync cannot end: it commits settings, events and its record to
/// two databases, whose logs grow to 4 MiB each.
const MIN_FREE_BYTES: u64 = 8 << 20;
/// Below this it is time to look.
const LOW_FREE_BYTES: u64 = 64 << 20;
/// A clean sync writes every rule beside the old ones, and sorts their
/// identifiers in a file: so much room it may take, in sizes of `rules.db`
/// (measured with a million rules: 1.9).
const CLEAN_SYNC_STORE_SIZES: u64 = 3;
/// A sync makes up to so many files; the rest is for others.
const MIN_FREE_FILES: u64 = 16;

/// What is left on a file system.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// Bytes that this user may still write.
    pub(super) free: u64,
    /// Files that may still be made; `None` where the file system does not
    /// count them.
    pub(super) files: Option<u64>,
    /// The size of `rules.db`, in bytes.
    pub(super) rules: u64,
}

impl Room {
    fn of(dir: &Path) -> Option<Self> {
        let stat = rustix::fs::statvfs(dir).ok()?;
        Some(Self {
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
            files: (stat.f_files > 0).then_some(stat.f_favail),
            rules: fs::metadata(dir.join(RULES_FILE)).map_or(0, |metadata| metadata.len()),
        })
    }

    pub(super) fn line(self, dir: &Path) -> Line {
        let shown = dir.display();
        let free = size(self.free);
        let fix = format!("free space on the file system of {shown}");
        if self.files.is_some_and(|files| files < MIN_FREE_FILES) {
            let message = format!("no more files can be created on the file system of {shown}");
            return Line::problem(
                LAYER,
                message,
                format!("delete files on it (`df -i {shown}` counts them)"),
            );
        }
        if self.free < MIN_FREE_BYTES {
            let message = format!("the disk is full: {free} free, too little for any commit");
            return Line::problem(LAYER, message, fix);
        }
        let clean_sync = self.rules.saturating_mul(CLEAN_SYNC_STORE_SIZES);
        if self.free < clean_sync {
            let needed = size(clean_sync);
            let message = format!("{free} free, and a clean sync may take {needed}");
            return Line::warning(LAYER, message, fix);
        }
        if self.free < LOW_FREE_BYTES {
            return Line::warning(LAYER, format!("only {free} free"), fix);
        }
        Line::ok(LAYER, format!("{free} free on its file system"))
    }
}

/// Bytes in the largest unit of which there is one.
fn size(bytes: u64) -> String {
    for (shift, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes >> shift > 0 {
            return format!("{} {unit}", bytes >> shift);
        }
    }
    format!("{bytes} B")
}
