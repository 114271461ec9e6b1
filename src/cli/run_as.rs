//! Root works in another user's state directory only as that user.
//!
//! The owner of a directory can replace what is in it, so nothing there is
//! opened with root's rights. This happens first of all, while the process has
//! one thread: on Linux the ids of a thread are changed, not of the process.

use std::io;
use std::path::{Path, PathBuf};

use super::{Command, Global, setup};
use crate::config::{self, Config};
use crate::files;

/// Neither file is longer on a host whose users come from it.
#[cfg(target_os = "linux")]
const MAX_FILE: u64 = 4 << 20;

/// A user to become.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ids {
    user: u32,
    group: u32,
    /// Supplementary groups.
    groups: Vec<u32>,
}

/// If root runs a command that opens the state directory, and that belongs to
/// another user, goes on as that user. A directory that does not exist yet
/// belongs to the owner of the one it will be created in.
///
/// # Errors
/// If the system refuses.
pub(super) fn take_on_owner(global: &Global, command: &Command) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let Some(dir) = state_dir(global, command) else { return Ok(()) };
    let Some((user, group)) = files::owner_of_nearest(&dir) else { return Ok(()) };
    if user == 0 {
        return Ok(());
    }
    become_user(user, group)
}

/// The state directory that a command will open, if it opens any.
fn state_dir(global: &Global, command: &Command) -> Option<PathBuf> {
    match command {
        Command::Daemon(_)
        | Command::Doctor(_)
        | Command::Events(_)
        | Command::History(_)
        | Command::Relay(_)
        | Command::Rules(_)
        | Command::Status(_)
        | Command::Sync(_)
        | Command::SyncProcess(_)
        | Command::Whoami(_) => {
            let flag = global.state_dir.as_deref();
            // The command reports what is wrong with the configuration.
            let loaded = Config::examine(&setup::sources(global));
            Some(config::state_dir(flag, &loaded.config))
        }
        #[cfg(feature = "harness")]
        Command::Demo(args) => args.keep().map(Path::to_owned),
        #[cfg(feature = "harness")]
        Command::Harness(_) => None,
        Command::Config(_) | Command::Service(_) | Command::Completions(_) | Command::Man => None,
    }
}

#[cfg(target_os = "linux")]
fn become_user(user: u32, group_of_dir: u32) -> io::Result<()> {
    use rustix::process::{Gid, Uid};
    use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
    let read = |path: &str| files::read(Path::new(path), MAX_FILE).unwrap_or_default();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let ids = ids(user, group_of_dir, &text(&read("/etc/passwd")), &text(&read("/etc/group")));
    let groups: Vec<Gid> = ids.groups.iter().map(|group| Gid::from_raw(*group)).collect();
    let (user, group) = (Uid::from_raw(ids.user), Gid::from_raw(ids.group));
    // In this order, because the right to the first two goes with the third.
    set_thread_groups(&groups)?;
    set_thread_res_gid(group, group, group)?;
    set_thread_res_uid(user, user, user)?;
    Ok(())
}

/// Starts this program again in its own place. The standard library drops all
/// supplementary groups when it changes the user, and this needs no unsafe code.
#[cfg(not(target_os = "linux"))]
fn become_user(user: u32, group_of_dir: u32) -> io::Result<()> {
    use std::os::unix::process::CommandExt as _;
    let ids = ids(user, group_of_dir, "", "");
    let mut again = std::process::Command::new(std::env::current_exe()?);
    Err(again.args(std::env::args_os().skip(1)).gid(ids.group).uid(ids.user).exec())
}

/// The ids of a user by the system's files. One that is not in them, as in a
/// container, has the group of the directory and no other.
fn ids(user: u32, group_of_dir: u32, passwd: &str, group: &str) -> Ids {
    let entry = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let (uid, gid) = (fields.nth(1)?.parse::<u32>().ok()?, fields.next()?.parse().ok()?);
        (uid == user).then_some((name, gid))
    });
    let Some((name, primary)) = entry else {
        return Ids { user, group: group_of_dir, groups: vec![group_of_dir] };
    };
    let member_of = group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let gid = fields.nth(2)?.parse::<u32>().ok()?;
        fields.next()?.split(',').any(|member| member == name).then_some(gid)
    });
    let mut groups: Vec<u32> = std::iter::once(primary).chain(member_of).collect();
    groups.sort_unstable();
    groups.dedup();
    Ids { user, group: primary, groups }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// STATE-1: with its groups, as after a login.
    #[test]
    fn state_1_root_takes_on_the_owners_user_and_groups() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\nsantasync:x:995:993::/:/bin/false\n";
        let group = "root:x:0:\nsantasync:x:993:\nssl-cert:x:110:www,santasync\nadm:x:4:syslog\n\
                     odd:x:notanumber:santasync\nsanta:x:77:santasync2";
        let known = ids(995, 5, passwd, group);
        assert_eq!(known, Ids { user: 995, group: 993, groups: vec![110, 993] });
        let unknown = ids(4242, 5, passwd, group);
        assert_eq!(unknown, Ids { user: 4242, group: 5, groups: vec![5] });
    }
}
