//! Which process has a socket: the one among whose open files it is.

use std::fs::{self, DirEntry};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// The most open files that are looked at, so that a user with many of them costs a
/// bounded time.
const MAX_FILES: usize = 20_000;

/// A process of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub id: u32,
    /// The name of its program, which Linux cuts to 15 bytes.
    pub program: Option<String>,
}

impl Process {
    /// The process of a user that has the socket of this inode open. Only Linux says it,
    /// and only to root and to the user itself.
    pub(in crate::serve) fn of_socket(user: u32, inode: u64) -> Option<Self> {
        Self::below(Path::new("/proc"), user, inode)
    }

    fn below(proc: &Path, user: u32, inode: u64) -> Option<Self> {
        let link = format!("socket:[{inode}]");
        let is_users = |entry: &DirEntry| entry.metadata().is_ok_and(|data| data.uid() == user);
        let mut files = 0;
        for entry in fs::read_dir(proc).ok()?.flatten() {
            let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            if !is_users(&entry) {
                continue;
            }
            for file in fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten() {
                files += 1;
                if files > MAX_FILES {
                    return None;
                }
                if fs::read_link(file.path()).is_ok_and(|target| target == Path::new(&link)) {
                    let program = fs::read_to_string(entry.path().join("comm")).ok();
                    let program = program.map(|name| name.trim_end().to_owned());
                    return Some(Self { id, program });
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RELAY-12: a process is found by a socket among its files, and no other is taken
    /// for it.
    #[test]
    fn relay_12_a_process_is_known_by_its_socket() {
        let dir = tempfile::tempdir().expect("a directory");
        let user = rustix::process::geteuid().as_raw();
        let process = |id: &str, files: &[&str]| {
            let fds = dir.path().join(id).join("fd");
            fs::create_dir_all(&fds).expect("made");
            fs::write(dir.path().join(id).join("comm"), format!("program{id}\n")).expect("written");
            for (number, file) in files.iter().enumerate() {
                std::os::unix::fs::symlink(file, fds.join(number.to_string())).expect("linked");
            }
        };
        process("self", &["socket:[77]"]);
        process("12", &["/dev/null", "socket:[7]"]);
        process("13", &["pipe:[77]", "socket:[77]"]);
        let found = |user, inode| Process::below(dir.path(), user, inode);
        let expected = Process { id: 13, program: Some("program13".to_owned()) };
        assert_eq!(found(user, 77), Some(expected));
        assert_eq!(found(user, 777), None);
        assert_eq!(found(user + 1, 77), None, "it is another user's");
        assert_eq!(Process::below(&dir.path().join("none"), user, 77), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn relay_12_this_process_is_found_by_its_own_socket() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let inode = std::os::fd::AsFd::as_fd(&listener);
        let inode = rustix::fs::fstat(inode).expect("facts").st_ino;
        let found = Process::of_socket(rustix::process::geteuid().as_raw(), inode);
        assert_eq!(found.map(|process| process.id), Some(std::process::id()));
    }
}
