//! Room on the disk that is kept for a sync.
//!
//! On a full disk no commit succeeds, and so the events that fill it could not
//! leave: taking them out of the queue is a commit, too. A file beside
//! `rules.db` holds some room, and a sync that finds the disk full gives it
//! back before it does anything else. Producers of events never do.

use std::fs;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};

use super::space;
use crate::files::{self, Access};

/// The file in the state directory.
const FILE: &str = "rules.db-reserve";
/// What a sync without rules needs: two logs of 4 MiB.
const SIZE: u64 = 8 << 20;
/// With this much left on the disk the room is taken again.
const ENOUGH: u64 = 64 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Make,
    Release,
    Leave,
}

const fn action(free: u64, held: bool) -> Action {
    if held && free < SIZE {
        Action::Release
    } else if !held && free >= ENOUGH {
        Action::Make
    } else {
        Action::Leave
    }
}

/// Takes the room or gives it back. What goes wrong costs the sync nothing.
pub(super) fn keep(dir: &Path) {
    let Some(free) = space::free_room(dir) else { return };
    let path = dir.join(FILE);
    let held = match files::own(&path) {
        Ok(found) => found.is_some_and(|file| file.len() >= SIZE),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "no room can be kept for a full disk");
            return;
        }
    };
    match action(free, held) {
        Action::Leave => {}
        Action::Release => {
            tracing::warn!(
                path = %path.display(),
                "the disk is full; the room that was kept for this sync is given back"
            );
            if let Err(error) = fs::remove_file(&path) {
                tracing::warn!(%error, "it cannot be given back");
            }
        }
        Action::Make => {
            let made = files::open_own(&path, Access::Write).and_then(|file| {
                fallocate(&file, FallocateFlags::empty(), 0, SIZE)
                    .map_err(|error| std::io::Error::from(error).into())
            });
            if let Err(error) = made {
                tracing::debug!(%error, "no room can be kept for a full disk");
                let _ = fs::remove_file(&path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// STATE-6: taken while there is plenty, given back when nothing is left.
    #[test]
    fn state_6_room_is_kept_while_there_is_plenty() {
        for (free, held, expected) in [
            (0, true, Action::Release),
            (SIZE - 1, true, Action::Release),
            (SIZE, true, Action::Leave),
            (u64::MAX, true, Action::Leave),
            (0, false, Action::Leave),
            (ENOUGH - 1, false, Action::Leave),
            (ENOUGH, false, Action::Make),
        ] {
            assert_eq!(action(free, held), expected, "{free} {held}");
        }
    }
}
