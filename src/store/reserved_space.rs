//! Disk space reserved for a sync.
//!
//! On a full disk no commit succeeds, not even the one that deletes delivered
//! events. A file beside `rules.db` reserves some space, and a sync that finds
//! the disk full releases it before it does anything else. Producers of events
//! never release it. It is reserved again as soon as there is space: at the end of
//! that sync, before another flood of events can take what it has freed.

use std::fs;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};

use super::space;
use crate::files::{self, Access};

/// The file in the state directory.
const RESERVE_FILE: &str = "rules.db-reserve";
/// What a sync without rules needs, in bytes: two logs of 4 MiB.
const RESERVE_BYTES: u64 = 8 << 20;
/// With this many bytes free the space is reserved again.
const ENOUGH_FREE_BYTES: u64 = 64 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReserveAction {
    Make,
    Release,
    Leave,
}

const fn action(free: u64, held: bool) -> ReserveAction {
    if held && free < RESERVE_BYTES {
        ReserveAction::Release
    } else if !held && free >= ENOUGH_FREE_BYTES {
        ReserveAction::Make
    } else {
        ReserveAction::Leave
    }
}

/// Reserves or releases the space, when a sync begins. A failure does not affect it.
pub(super) fn keep(dir: &Path) {
    act(dir, true);
}

/// Reserves the space if it was released and there is enough, when a sync ends.
pub(super) fn restore(dir: &Path) {
    act(dir, false);
}

fn act(dir: &Path, may_release: bool) {
    let Some(free) = space::free_room(dir) else { return };
    let path = dir.join(RESERVE_FILE);
    let held = match files::own(&path) {
        Ok(found) => found.is_some_and(|file| file.len() >= RESERVE_BYTES),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "no space can be reserved for a full disk");
            return;
        }
    };
    match action(free, held) {
        ReserveAction::Leave => {}
        ReserveAction::Release if !may_release => {}
        ReserveAction::Release => {
            tracing::warn!(
                path = %path.display(),
                "the disk is full; the space reserved for this sync is released"
            );
            if let Err(error) = fs::remove_file(&path) {
                tracing::warn!(%error, "the reserved space cannot be released");
            }
        }
        ReserveAction::Make => {
            let made = files::open_own(&path, Access::Write).and_then(|file| {
                fallocate(&file, FallocateFlags::empty(), 0, RESERVE_BYTES)
                    .map_err(|error| std::io::Error::from(error).into())
            });
            if let Err(error) = made {
                tracing::debug!(%error, "no space can be reserved for a full disk");
                let _ = fs::remove_file(&path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// STATE-6: reserved while there is plenty, released when nothing is left.
    #[test]
    fn state_6_space_is_reserved_while_there_is_plenty() {
        for (free, held, expected) in [
            (0, true, ReserveAction::Release),
            (RESERVE_BYTES - 1, true, ReserveAction::Release),
            (RESERVE_BYTES, true, ReserveAction::Leave),
            (u64::MAX, true, ReserveAction::Leave),
            (0, false, ReserveAction::Leave),
            (ENOUGH_FREE_BYTES - 1, false, ReserveAction::Leave),
            (ENOUGH_FREE_BYTES, false, ReserveAction::Make),
        ] {
            assert_eq!(action(free, held), expected, "{free} {held}");
        }
    }

    /// STATE-6: what a sync released is there again when it ends, if there is space.
    #[test]
    fn state_6_space_that_was_released_is_reserved_again_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = || fs::metadata(dir.path().join(RESERVE_FILE)).map_or(0, |file| file.len());
        keep(dir.path());
        assert_eq!(bytes(), RESERVE_BYTES, "this test needs 64 MiB of disk");
        fs::remove_file(dir.path().join(RESERVE_FILE)).unwrap();
        restore(dir.path());
        assert_eq!(bytes(), RESERVE_BYTES);
    }
}
