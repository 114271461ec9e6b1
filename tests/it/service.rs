//! `service` as a command, into an image: nothing of this system is touched.

use std::fs;
use std::process::Output;

use crate::program::program;

fn service(args: &[&str]) -> Output {
    let mut command = program();
    command.arg("service").args(args).output().expect("the program runs")
}

/// DAEMON-5: the file is shown, installed, found and removed.
#[test]
fn daemon_5_a_service_goes_into_an_image_and_out_of_it() {
    let root = tempfile::tempdir().expect("a directory");
    let at = root.path().to_str().expect("UTF-8");
    for (manager, file) in [
        ("systemd", "etc/systemd/system/santa-sync.service"),
        ("launchd", "Library/LaunchDaemons/com.santa-sync.daemon.plist"),
    ] {
        let run = |action: &[&str]| {
            let base = ["--root", at, "--manager", manager, "--program", "/usr/bin/santa-sync"];
            service(&[action, &base].concat())
        };
        let file = root.path().join(file);
        let printed = run(&["install", "--print"]);
        assert!(printed.status.success() && !file.exists());
        assert_eq!(run(&["status"]).status.code(), Some(69));
        assert!(run(&["install"]).status.success());
        let text = fs::read_to_string(&file).expect("installed");
        assert!(text.contains("/usr/bin/santa-sync"), "{text}");
        assert!(String::from_utf8_lossy(&printed.stdout).contains(text.trim_end()));
        let again = run(&["install"]);
        assert!(String::from_utf8_lossy(&again.stdout).contains("already"), "{again:?}");
        assert!(run(&["status"]).status.success());
        assert!(run(&["uninstall"]).status.success() && !file.exists());
        assert!(run(&["uninstall"]).status.success());
    }
}

#[test]
fn a_place_that_cannot_be_written_is_told() {
    let output = service(&["install", "--root", "/dev/null", "--program", "/bin/x"]);
    assert_eq!(output.status.code(), Some(73));
    assert!(String::from_utf8_lossy(&output.stderr).contains("run this as root"));
}

/// DAEMON-5: a service that starts what a user or a build may replace, or what is
/// gone after a restart, is warned of before it is installed.
#[test]
fn daemon_5_a_program_in_a_home_or_a_build_directory_is_warned_of() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = dir.path().join("config.plist");
    fs::write(&config, "<plist><dict/></plist>").expect("written");
    let config = config.to_str().expect("UTF-8");
    let noted = |program: &str| {
        let args = ["install", "--print", "--config", config, "--manager", "systemd"];
        let output = service(&[&args[..], &["--program", program]].concat());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    for program in [
        "/home/kim/bin/santa-sync",
        "/Users/kim/Downloads/santa-sync",
        "/root/santa-sync",
        "/tmp/santa-sync",
        "/srv/build/target/release/santa-sync",
        // As this very program is one.
        env!("CARGO_BIN_EXE_santa-sync"),
    ] {
        let noted = noted(program);
        assert!(
            noted.contains("is in a home or a build directory; copy it to a directory of root's"),
            "{program}: {noted}"
        );
    }
    let sh = noted("/bin/sh");
    assert!(!sh.contains("/bin/sh") && !sh.contains("directory"), "{sh}");
}

/// DAEMON-5: options are carried into the service or refused, an image's service is
/// not called running, and a refused configuration is not installed.
#[test]
fn daemon_5_install_carries_options_and_refuses_what_cannot_run() {
    let root = tempfile::tempdir().expect("a directory");
    let at = root.path().to_str().expect("UTF-8");
    let systemd = ["--manager", "systemd", "--program", "/usr/bin/santa-sync"];
    let text = |output: &[u8]| String::from_utf8_lossy(output).into_owned();
    let image = [&["--root", at], &systemd[..]].concat();
    let secret = "ClientAuthCertificatePassword=5ecretm4rk";
    let refused = service(&[&["install", "--set", secret], &image[..]].concat());
    assert_eq!(refused.status.code(), Some(64));
    assert!(text(&refused.stderr).contains("write the keys into the configuration file"));
    let more = ["install", "--state-dir", "/srv/santa"];
    let installed = service(&[&more, &image[..]].concat());
    assert!(installed.status.success(), "{installed:?}");
    assert!(!text(&installed.stdout).contains("running"), "{installed:?}");
    let shown = service(&[&["install", "--print", "--config", "relative"], &image[..]].concat());
    assert_eq!(shown.status.code(), Some(64), "{shown:?}");

    let bad = root.path().join("bad.plist");
    fs::write(&bad, "<plist><dict><key>SyncBaseURL</key><integer>1</integer></dict></plist>")
        .expect("written");
    let bad = bad.to_str().expect("UTF-8");
    let refused = service(&[&["install", "--config", bad], &systemd[..]].concat());
    assert_eq!(refused.status.code(), Some(78), "{refused:?}");
}

/// DAEMON-5: what `--print` writes to standard output is the file, so that a job for
/// launchd stays a property list.
#[test]
fn daemon_5_a_printed_job_is_a_property_list() {
    let root = tempfile::tempdir().expect("a directory");
    let at = root.path().to_str().expect("UTF-8");
    let args = ["install", "--print", "--program", "/usr/bin/santa-sync", "--root", at];
    let printed = service(&[&args[..], &["--manager", "launchd"]].concat());
    assert!(printed.status.success(), "{printed:?}");
    assert!(printed.stdout.starts_with(b"<?xml "), "{printed:?}");
    plist::from_bytes::<plist::Value>(&printed.stdout).expect("a property list");
    let said = String::from_utf8_lossy(&printed.stderr);
    assert!(said.contains("Library/LaunchDaemons/com.santa-sync.daemon.plist"), "{said}");
}
