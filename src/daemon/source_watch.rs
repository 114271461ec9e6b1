//! Watches the files that the configuration comes from (CONF-3).
//!
//! On Linux the kernel reports changes of their directories, so that an idle
//! daemon is not woken; a directory that does not exist yet is waited for in the
//! nearest one above it. Elsewhere the files are compared once a minute: no safe
//! interface reports changes there, and the alarm wakes the daemon once a minute
//! anyway.

use std::path::PathBuf;

/// The files to watch and how to hear of their changes. Made by [`arm`].
pub(super) struct SourceWatch(platform::Watch);

/// Watches these files from here on. Blocks on slow file systems. Call it before
/// the files are read, so that no change is missed.
pub(super) fn arm(files: Vec<PathBuf>) -> Armed {
    Armed(platform::arm(files))
}

/// A watch that has been set up, and is not connected to the event loop yet.
pub(super) struct Armed(platform::ArmResult);

impl Armed {
    /// Connects the watch to the event loop. Call it within a runtime.
    pub(super) fn connect(self) -> SourceWatch {
        SourceWatch(platform::connect(self.0))
    }
}

impl SourceWatch {
    /// Completes when one of the files may have changed. Nothing is lost if it is
    /// dropped before.
    pub(super) async fn changed(&mut self) {
        self.0.changed().await;
    }
}

#[cfg(target_os = "linux")]
mod platform {
    use std::collections::HashMap;
    use std::ffi::{OsStr, OsString};
    use std::fs;
    use std::io;
    use std::mem::MaybeUninit;
    use std::os::fd::OwnedFd;
    use std::os::unix::ffi::OsStrExt as _;
    use std::path::{Path, PathBuf};

    use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init};
    use rustix::io::Errno;
    use tokio::io::unix::AsyncFd;
    use tracing::debug;

    /// Room for some events with the longest names.
    const BUFFER_BYTES: usize = 4096;

    /// The names that count in a directory; `None` if all do.
    type Names = Option<Vec<OsString>>;

    pub(super) struct Armed {
        inotify: OwnedFd,
        names: HashMap<i32, Names>,
    }

    #[cfg(test)]
    pub(super) fn drain(armed: &Armed) -> io::Result<bool> {
        read_events(&armed.inotify, &armed.names)
    }

    pub(super) struct Watch {
        inotify: Option<AsyncFd<OwnedFd>>,
        names: HashMap<i32, Names>,
    }

    pub(super) type ArmResult = io::Result<Armed>;

    pub(super) fn arm(files: Vec<PathBuf>) -> ArmResult {
        let inotify = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let mut names = HashMap::new();
        for file in files {
            let target = fs::canonicalize(&file).ok().filter(|target| *target != file);
            // Behind a link anything in its directory may change where it leads.
            watch(&inotify, &mut names, &file, target.is_some())?;
            if let Some(target) = target {
                watch(&inotify, &mut names, &target, false)?;
            }
        }
        Ok(Armed { inotify, names })
    }

    fn watch(
        inotify: &OwnedFd,
        names: &mut HashMap<i32, Names>,
        file: &Path,
        all: bool,
    ) -> io::Result<()> {
        let flags = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::ATTRIB
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        // From the file up to the first directory that exists.
        let mut missing = file;
        while let (Some(dir), Some(name)) = (missing.parent(), missing.file_name()) {
            match add_watch(inotify, dir, flags) {
                Ok(descriptor) => {
                    let of_dir = names.entry(descriptor).or_insert_with(|| Some(Vec::new()));
                    match of_dir {
                        _ if all => *of_dir = None,
                        Some(of_dir) => of_dir.push(name.to_owned()),
                        None => {}
                    }
                    return Ok(());
                }
                Err(Errno::NOENT | Errno::NOTDIR) => missing = dir,
                // Then the file cannot be read either, which is reported.
                Err(Errno::ACCESS) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    pub(super) fn connect(armed: ArmResult) -> Watch {
        let connected = armed.and_then(|Armed { inotify, names }| {
            #[expect(
                deprecated,
                reason = "an owned descriptor keeps what its successor, unsafe, asks for"
            )]
            Ok(Watch { inotify: Some(AsyncFd::new(inotify)?), names })
        });
        connected.unwrap_or_else(|error| {
            debug!(%error, "the configuration files cannot be watched; they are read before each sync");
            Watch { inotify: None, names: HashMap::new() }
        })
    }

    impl Watch {
        pub(super) async fn changed(&mut self) {
            while let Some(inotify) = &self.inotify {
                let names = &self.names;
                let read = match inotify.readable().await {
                    Ok(mut ready) => ready
                        .try_io(|inotify| read_events(inotify.get_ref(), names))
                        .unwrap_or(Ok(false)),
                    Err(error) => Err(error),
                };
                match read {
                    Ok(true) => return,
                    Ok(false) => {}
                    Err(error) => {
                        debug!(%error, "the configuration files are no longer watched");
                        self.inotify = None;
                    }
                }
            }
            std::future::pending::<()>().await;
        }
    }

    /// Reads the events at hand and returns whether one of them counts;
    /// `WouldBlock` if no event is pending.
    fn read_events(inotify: &OwnedFd, names: &HashMap<i32, Names>) -> io::Result<bool> {
        let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
        let mut reader = Reader::new(inotify, &mut buffer);
        let mut changed = None;
        loop {
            match reader.next() {
                Ok(event) => {
                    let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
                    let counts = match (names.get(&event.wd()), name) {
                        (Some(Some(names)), Some(name)) => names.iter().any(|of| of == name),
                        // A directory itself, or more events than the queue holds.
                        (_, None) | (Some(None), _) => true,
                        (None, Some(_)) => false,
                    };
                    changed = Some(changed.unwrap_or(false) || counts);
                }
                Err(Errno::WOULDBLOCK) => {
                    return changed.ok_or_else(|| io::ErrorKind::WouldBlock.into());
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod platform {
    use std::fs;
    use std::os::unix::fs::MetadataExt as _;
    use std::path::PathBuf;
    use std::time::Duration;

    /// How often the files are compared (CONF-3).
    const CHECK_INTERVAL: Duration = Duration::from_mins(1);

    /// What changes when a file does: device, file number, size, mode, and the
    /// times of its last changes.
    type Stamp = Option<(u64, u64, u64, u32, [i64; 4])>;

    pub(super) type ArmResult = Watch;

    pub(super) struct Watch {
        files: Vec<PathBuf>,
        stamps: Vec<Stamp>,
    }

    pub(super) fn arm(files: Vec<PathBuf>) -> Watch {
        let stamps = stamps(&files);
        Watch { files, stamps }
    }

    pub(super) fn connect(armed: ArmResult) -> Watch {
        armed
    }

    impl Watch {
        pub(super) async fn changed(&mut self) {
            loop {
                tokio::time::sleep(CHECK_INTERVAL).await;
                let files = self.files.clone();
                // A file system may not respond; the loop must not wait for it.
                let read = tokio::task::spawn_blocking(move || stamps(&files)).await;
                if read.is_ok_and(|read| read != self.stamps) {
                    return;
                }
            }
        }
    }

    fn stamps(files: &[PathBuf]) -> Vec<Stamp> {
        let stamp = |file: &PathBuf| {
            let data = fs::metadata(file).ok()?;
            let times = [data.mtime(), data.mtime_nsec(), data.ctime(), data.ctime_nsec()];
            Some((data.dev(), data.ino(), data.size(), data.mode(), times))
        };
        files.iter().map(stamp).collect()
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::time::Duration;

    use super::*;

    async fn is_reported(mut watch: SourceWatch) -> bool {
        tokio::time::timeout(Duration::from_mins(1), watch.changed()).await.is_ok()
    }

    /// CONF-3: every way to change a file counts, and only the files named do.
    #[tokio::test]
    async fn conf_3_every_way_to_change_a_source_is_noticed() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("new/config.plist");
        let other = dir.path().join("new/other");
        let changes: [(&str, &dyn Fn()); 6] = [
            ("its directory is made", &|| fs::create_dir(dir.path().join("new")).expect("made")),
            ("it is created", &|| fs::write(&file, "1").expect("written")),
            ("it is written", &|| fs::write(&file, "2").expect("written")),
            ("it is replaced", &|| {
                fs::write(&other, "3").expect("written");
                fs::rename(&other, &file).expect("renamed");
            }),
            ("it is removed", &|| fs::remove_file(&file).expect("removed")),
            ("its directory goes", &|| fs::remove_dir(dir.path().join("new")).expect("removed")),
        ];
        for (what, change) in changes {
            let watch = arm(vec![file.clone()]).connect();
            change();
            assert!(is_reported(watch).await, "{what}");
        }
    }

    /// CONF-3: neither other files of the directory nor reading count.
    #[test]
    fn conf_3_other_files_of_the_directory_do_not_count() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("config.plist");
        fs::write(&file, "1").expect("written");
        let armed = platform::arm(vec![file.clone()]).expect("armed");
        fs::read(&file).expect("read");
        assert!(platform::drain(&armed).is_err(), "nobody is woken");
        fs::write(dir.path().join("other"), "x").expect("written");
        assert!(!platform::drain(&armed).expect("events"));
        fs::write(&file, "2").expect("written");
        assert!(platform::drain(&armed).expect("events"));
    }

    /// CONF-3: a link that is led elsewhere is a change.
    #[tokio::test]
    async fn conf_3_a_link_that_leads_elsewhere_is_noticed() {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["1", "2"] {
            fs::create_dir(dir.path().join(name)).expect("made");
            fs::write(dir.path().join(name).join("config.plist"), name).expect("written");
        }
        let (data, next) = (dir.path().join("data"), dir.path().join("next"));
        symlink("1", &data).expect("a link");
        symlink("data/config.plist", dir.path().join("config.plist")).expect("a link");
        let watch = arm(vec![dir.path().join("config.plist")]).connect();
        symlink("2", &next).expect("a link");
        fs::rename(&next, &data).expect("renamed");
        assert!(is_reported(watch).await);
    }
}
