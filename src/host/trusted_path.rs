//! Whether a path that configuration names may be trusted: nobody but root and
//! this process's user can change what lies there.
//!
//! A program that root runs, or a directory that root writes to, is as safe as
//! the weakest directory on the way to it. So every step is looked at, links
//! included, from the root down. What passes can be changed between the check
//! and the use only by those who may change it anyway.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use thiserror::Error;

/// More links than this on the way are a circle.
const MAX_LINKS: usize = 40;

/// What must lie at the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// A regular file that can be executed.
    Program,
    /// A directory.
    Directory,
}

/// Why a path is not trusted. The message names the step that is to blame.
#[derive(Debug, Error)]
pub enum Distrust {
    /// It depends on the current directory.
    #[error("{0} is not an absolute path")]
    Relative(PathBuf),
    /// It cannot be looked at.
    #[error("{path} cannot be looked at: {source}")]
    Io {
        /// Which step.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Links lead in a circle, or nearly so.
    #[error("{0} leads through more than {MAX_LINKS} links")]
    TooManyLinks(PathBuf),
    /// Something else lies there.
    #[error("{path} is not {expected}")]
    Kind {
        /// The path.
        path: PathBuf,
        /// What was expected, with its article.
        expected: &'static str,
    },
    /// A user other than root and this one owns a step, and can change it.
    #[error("{path} belongs to user {owner}, who could replace it")]
    Owner {
        /// Which step.
        path: PathBuf,
        /// The owner's user id.
        owner: u32,
    },
    /// A step's mode lets others change it.
    #[error("{path} can be written by others (mode {mode:04o})")]
    Writable {
        /// Which step.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
}

impl Distrust {
    /// What to do about it.
    #[must_use]
    pub const fn fix(&self) -> &'static str {
        match self {
            Self::Relative(_) => "write the path from the root, with a /",
            Self::Io { .. } | Self::Kind { .. } => "check the path, or remove the key",
            Self::TooManyLinks(_) => "name the file itself",
            Self::Owner { .. } => "make it root's (chown root)",
            Self::Writable { .. } => "make it writable by its owner alone (chmod go-w)",
        }
    }
}

/// Checks a path, and returns where it leads, without links.
///
/// # Errors
/// If somebody other than root and this process's user could change what lies
/// there, or it is not what is expected.
pub fn check(path: &Path, expected: Expected) -> Result<PathBuf, Distrust> {
    check_for(path, expected, rustix::process::geteuid().as_raw())
}

fn check_for(path: &Path, expected: Expected, user: u32) -> Result<PathBuf, Distrust> {
    if !path.is_absolute() {
        return Err(Distrust::Relative(path.to_owned()));
    }
    let mut here = PathBuf::from("/");
    let mut last = look_at(&here, user)?;
    let mut steps = steps_of(path);
    let mut links = 0;
    while let Some(step) = steps.pop_front() {
        if step == ".." {
            here.pop();
            last = look_at(&here, user)?;
            continue;
        }
        let next = here.join(&step);
        last = look_at(&next, user)?;
        if !last.is_symlink() {
            here = next;
            continue;
        }
        links += 1;
        if links > MAX_LINKS {
            return Err(Distrust::TooManyLinks(path.to_owned()));
        }
        let target = fs::read_link(&next).map_err(|source| Distrust::Io { path: next, source })?;
        if target.is_absolute() {
            here = PathBuf::from("/");
        }
        let mut through = steps_of(&target);
        through.append(&mut steps);
        steps = through;
    }
    let (fits, name) = match expected {
        Expected::Program => (last.is_file() && last.mode() & 0o111 != 0, "an executable file"),
        Expected::Directory => (last.is_dir(), "a directory"),
    };
    if fits { Ok(here) } else { Err(Distrust::Kind { path: here, expected: name }) }
}

fn steps_of(path: &Path) -> VecDeque<OsString> {
    let names = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
    });
    names.collect()
}

/// Looks at one step without following it, and at who can change it.
fn look_at(path: &Path, user: u32) -> Result<Metadata, Distrust> {
    let path = path.to_owned();
    let step = match fs::symlink_metadata(&path) {
        Ok(step) => step,
        Err(source) => return Err(Distrust::Io { path, source }),
    };
    if step.uid() != 0 && step.uid() != user {
        return Err(Distrust::Owner { path, owner: step.uid() });
    }
    // The mode of a link means nothing. In a sticky directory others can make
    // files, but not replace those of root or this user.
    let sticky_directory = step.is_dir() && step.mode() & 0o1000 != 0;
    if step.mode() & 0o022 != 0 && !step.is_symlink() && !sticky_directory {
        return Err(Distrust::Writable { path, mode: step.mode() & 0o7777 });
    }
    Ok(step)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    const OUR_OWN: &str = "the test's own";

    struct Place(tempfile::TempDir);

    impl Place {
        /// `bin/program`, `link` to it, and `plain`, which cannot be executed.
        fn new() -> Self {
            let place = Self(tempfile::tempdir().expect("a directory"));
            fs::create_dir(place.at("bin")).expect("a directory");
            fs::write(place.at("bin/program"), "").expect("a file");
            fs::write(place.at("plain"), "").expect("a file");
            place.mode("bin", 0o755);
            place.mode("bin/program", 0o755);
            place.mode("plain", 0o644);
            symlink("bin/../bin/program", place.at("link")).expect("a link");
            place
        }

        fn at(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn mode(&self, name: &str, mode: u32) {
            fs::set_permissions(self.at(name), fs::Permissions::from_mode(mode)).expect(OUR_OWN);
        }

        fn distrust(&self, name: &str) -> String {
            let error = check(&self.at(name), Expected::Program).expect_err(name).to_string();
            error.replace(&*self.0.path().canonicalize().expect(OUR_OWN).to_string_lossy(), "DIR")
        }
    }

    #[test]
    fn conf_1_a_program_that_only_root_and_we_can_change_is_trusted() {
        let place = Place::new();
        let real = place.at("bin/program").canonicalize().expect("it exists");
        for name in ["bin/program", "link"] {
            assert_eq!(check(&place.at(name), Expected::Program).expect(name), real);
        }
        assert!(check(Path::new("/bin/sh"), Expected::Program).is_ok());
        assert!(check(&place.at("bin"), Expected::Directory).is_ok());
    }

    #[test]
    fn conf_1_a_program_that_others_can_change_is_not_trusted() {
        let place = Place::new();
        place.mode("bin/program", 0o775);
        let said = "DIR/bin/program can be written by others (mode 0775)";
        assert_eq!(place.distrust("link"), said);
        place.mode("bin/program", 0o755);
        place.mode("bin", 0o757);
        assert!(place.distrust("bin/program").starts_with("DIR/bin can be written by others"));
        place.mode("bin", 0o1777);
        assert!(check(&place.at("bin/program"), Expected::Program).is_ok(), "sticky");
        // As another user sees it, who is not root either: /'s owner is root's
        // business, and all else belongs to a stranger.
        let ours = rustix::process::geteuid().as_raw();
        if ours != 0 {
            let error = check_for(&place.at("bin/program"), Expected::Program, ours + 1);
            assert!(matches!(error, Err(Distrust::Owner { .. })), "{error:?}");
        } else {
            std::os::unix::fs::lchown(place.at("link"), Some(12345), None).expect("root may");
            assert!(place.distrust("link").contains("belongs to user 12345"));
        }
    }

    #[test]
    fn conf_1_what_cannot_be_run_is_said() {
        let place = Place::new();
        assert_eq!(place.distrust("plain"), "DIR/plain is not an executable file");
        assert_eq!(place.distrust("bin"), "DIR/bin is not an executable file");
        assert!(place.distrust("gone").starts_with("DIR/gone cannot be looked at: "));
        symlink("circle", place.at("circle")).expect("a link");
        assert!(place.distrust("circle").contains("more than 40 links"));
        let error = check(Path::new("bin/sh"), Expected::Program).expect_err("relative");
        assert!(error.to_string().contains("not an absolute path"));
        assert!(matches!(
            check(Path::new("/dev/null"), Expected::Program),
            Err(Distrust::Writable { .. } | Distrust::Kind { .. })
        ));
    }
}
