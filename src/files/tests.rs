use std::os::unix::fs::symlink;
use std::process::Command;

use super::*;

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

fn fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().expect("it ran").success());
}

/// Every kind of thing that is not one of our files, by what an error calls it.
fn impostors(dir: &Path) -> Vec<(PathBuf, &'static str)> {
    let path = |name: &str| dir.join(name);
    fs::write(path("victim"), "untouched").expect("written");
    fs::write(path("second"), "untouched").expect("written");
    fs::hard_link(path("second"), path("hard")).expect("a link");
    symlink("victim", path("link")).expect("a link");
    symlink("gone", path("dangling")).expect("a link");
    fifo(&path("fifo"));
    fs::create_dir(path("dir")).expect("made");
    vec![
        (path("link"), "a link to victim, not a file"),
        (path("dangling"), "a link to gone, not a file"),
        (path("hard"), "a file with 2 names (hard links)"),
        (path("fifo"), "a FIFO, not a file"),
        (path("dir"), "a directory, not a file"),
        (PathBuf::from("/dev/null"), "a device, not a file"),
    ]
}

/// STATE-1: nothing is followed, waited for or changed, and the error says what
/// is there.
#[test]
fn state_1_what_is_not_a_file_of_ours_is_refused_by_name_and_left_alone() {
    let dir = scratch();
    for (path, what) in impostors(dir.path()) {
        let before = fs::symlink_metadata(&path).expect("there");
        let how = Replacement { mode: 0o600, durable: true };
        for (doing, error) in [
            ("own", own(&path).map(drop)),
            ("read", open_own(&path, Access::Read).map(drop)),
            ("write", open_own(&path, Access::Write).map(drop)),
            ("read whole", read_own(&path, 100).map(drop)),
            ("keep private", keep_private(&path).map(drop)),
            ("replace", replace(&path, b"ours", how)),
        ] {
            let error = error.expect_err(doing).to_string();
            assert_eq!(error, format!("it is {what}"), "{doing} {}", path.display());
        }
        let after = fs::symlink_metadata(&path).expect("there");
        assert_eq!((before.ino(), before.mode()), (after.ino(), after.mode()));
    }
    for victim in ["victim", "second"] {
        let text = fs::read_to_string(dir.path().join(victim)).expect("there");
        assert_eq!(text, "untouched");
    }
    assert!(!dir.path().join("gone").exists());
}

/// STATE-1: the temporary file of a replacement is refused as well.
#[test]
fn state_1_a_replacement_writes_through_no_link_in_its_temporary_files_place() {
    let dir = scratch();
    let (path, victim) = (dir.path().join("file"), dir.path().join("victim"));
    let how = Replacement { mode: 0o600, durable: false };
    fs::write(&victim, "untouched").expect("written");
    let new = dir.path().join("file.new");
    symlink(&victim, &new).expect("a link");
    let error = replace(&path, b"ours", how).expect_err("refused").to_string();
    assert!(error.contains("file.new is a link to"), "{error}");
    fs::remove_file(&new).expect("removed");
    fs::hard_link(&victim, &new).expect("a link");
    let error = replace(&path, b"ours", how).expect_err("refused").to_string();
    assert!(error.contains("file.new is a file with 2 names"), "{error}");
    assert_eq!(fs::read_to_string(&victim).expect("there"), "untouched");
    assert!(!path.exists());
}

#[test]
fn a_file_is_replaced_whole_by_any_number_of_writers_and_leaves_nothing_else() {
    let dir = scratch();
    let path = dir.path().join("file");
    // What a crash has left.
    fs::write(dir.path().join("file.new"), "x".repeat(100_000)).expect("written");
    let how = Replacement { mode: 0o640, durable: false };
    std::thread::scope(|scope| {
        for writer in 0..8_u8 {
            let path = &path;
            scope.spawn(move || {
                for _ in 0..50 {
                    replace(path, &vec![b'a' + writer; 10_000], how).expect("replaced");
                    let read = read_own(path, 10_000).expect("read").expect("there");
                    assert_eq!(read.len(), 10_000);
                    assert!(read.iter().all(|byte| *byte == read[0]), "a mix of two writers");
                }
            });
        }
    });
    assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o640);
    assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 1);
}

/// HOST-1 and 11.14: a read is bounded, and waits for no writer.
#[test]
fn a_read_is_bounded_and_waits_for_nobody() {
    let dir = scratch();
    let (path, link) = (dir.path().join("file"), dir.path().join("link"));
    File::create(&path).and_then(|file| file.set_len(3 << 30)).expect("a sparse file");
    symlink(&path, &link).expect("a link");
    assert!(matches!(read(&link, 1 << 20), Err(Obstacle::TooLarge(_))));
    assert!(matches!(read_own(&path, 1 << 20), Err(Obstacle::TooLarge(_))));
    let pipe = dir.path().join("fifo");
    fifo(&pipe);
    let error = read(&pipe, 100).expect_err("refused").to_string();
    assert_eq!(error, "it is a FIFO, not a file");
    assert_eq!(
        read(Path::new("/dev/zero"), 100).expect_err("refused").to_string(),
        "it is a device, not a file"
    );
}

/// STATE-1: the rights of others are taken away.
#[test]
fn state_1_a_file_of_ours_is_brought_to_0600() {
    let dir = scratch();
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o7777;
    for name in ["a", "b"] {
        let path = dir.path().join(name);
        fs::write(&path, "").expect("written");
        fs::set_permissions(&path, Permissions::from_mode(0o4666)).expect("set");
        if name == "a" {
            keep_private(&path).expect("ours");
        } else {
            open_own(&path, Access::Write).expect("ours");
        }
        assert_eq!(mode(&path), 0o600);
    }
}

/// STATE-1: nobody else may write to the directory or to one above it.
#[test]
fn state_1_a_directory_that_others_can_exchange_is_refused() {
    let outer = scratch();
    let (loose, inner) = (outer.path().join("loose"), outer.path().join("loose/inner"));
    fs::create_dir_all(&inner).expect("made");
    check_guarded(&inner).expect("nobody else's");
    check_guarded(&inner.join("not/yet")).expect("nobody else's");
    fs::set_permissions(&loose, Permissions::from_mode(0o770)).expect("set");
    let error = check_guarded(&inner).expect_err("exposed");
    assert!(matches!(&error, Exposed::Writable { path, mode: 0o770 } if path.ends_with("loose")));
    // By way of a link as well.
    symlink(&inner, outer.path().join("link")).expect("a link");
    check_guarded(&outer.path().join("link")).expect_err("exposed");
    symlink("loose/../link", outer.path().join("link2")).expect("a link");
    check_guarded(&outer.path().join("link2/x")).expect_err("exposed");
    fs::set_permissions(&loose, Permissions::from_mode(0o1777)).expect("set");
    check_guarded(&inner).expect("sticky");
    symlink("loop", outer.path().join("loop")).expect("a link");
    check_guarded(&outer.path().join("loop")).expect_err("a loop");
}

const OUR_OWN: &str = "the test's own";

struct ProgramDir(tempfile::TempDir);

impl ProgramDir {
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
        let error = check_program(&self.at(name)).expect_err(name).to_string();
        error.replace(&*self.0.path().canonicalize().expect(OUR_OWN).to_string_lossy(), "DIR")
    }
}

#[test]
fn conf_1_a_program_that_only_root_and_we_can_change_is_trusted() {
    let place = ProgramDir::new();
    let real = place.at("bin/program").canonicalize().expect("it exists");
    for name in ["bin/program", "link"] {
        assert_eq!(check_program(&place.at(name)).expect(name), real);
    }
    assert!(check_program(Path::new("/bin/sh")).is_ok());
}

#[test]
fn conf_1_a_program_that_others_can_change_is_not_trusted() {
    let place = ProgramDir::new();
    place.mode("bin/program", 0o775);
    let said = "others may write to DIR/bin/program (mode 0775)";
    assert_eq!(place.distrust("link"), said);
    place.mode("bin/program", 0o755);
    place.mode("bin", 0o757);
    assert!(place.distrust("bin/program").starts_with("others may write to DIR/bin ("));
    place.mode("bin", 0o1777);
    assert!(check_program(&place.at("bin/program")).is_ok(), "sticky");
    // As another user sees it, who is not root either: /'s owner is root's
    // business, and all else belongs to a stranger.
    let ours = rustix::process::geteuid().as_raw();
    if ours != 0 {
        let error = guarded::walk(&place.at("bin/program"), ours + 1);
        assert!(matches!(error, Err(Exposed::Owner { .. })), "{error:?}");
    } else {
        std::os::unix::fs::lchown(place.at("link"), Some(12345), None).expect("root may");
        assert!(place.distrust("link").contains("belongs to user 12345"));
    }
}

#[test]
fn conf_1_what_cannot_be_run_is_said() {
    let place = ProgramDir::new();
    assert_eq!(place.distrust("plain"), "DIR/plain is not an executable file");
    assert_eq!(place.distrust("bin"), "DIR/bin is not an executable file");
    assert!(place.distrust("gone").starts_with("cannot look at DIR/gone: "));
    symlink("circle", place.at("circle")).expect("a link");
    assert!(place.distrust("circle").contains("too many links"));
    let error = check_program(Path::new("bin/sh")).expect_err("relative");
    assert!(error.to_string().contains("not an absolute path"));
    assert!(matches!(
        check_program(Path::new("/dev/null")),
        Err(Exposed::Writable { .. } | Exposed::NotAProgram(_))
    ));
}
