use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use tempfile::TempDir;
use tokio::sync::watch;

use super::*;
use crate::model::text::{HOSTILE, is_unsafe_to_show};

/// Longer than any test may take.
const LONG: Duration = Duration::from_mins(5);

/// A hook in a directory of its own, whose path stands for DIR in the script.
fn hook(script: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a directory");
    let hook = dir.path().join("hook");
    let script = script.replace("DIR", &dir.path().display().to_string());
    fs::write(&hook, format!("#!/bin/sh\n{script}\n")).expect("written");
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).expect("our own");
    (dir, hook)
}

fn announcement(application: &str, identifier: &str) -> (String, String) {
    (application.to_owned(), identifier.to_owned())
}

async fn run(hook: &Path, announcements: &[(String, String)]) {
    // With its sender gone, nobody can stop it.
    run_hook(hook, announcements, watch::channel(None).1).await;
}

/// RULE-10: names and identifiers are the server's text and go to a program of
/// ours; one that no argument can hold stops none of the others.
#[tokio::test]
async fn rule_10_a_text_reaches_the_hook_as_text_and_nothing_else() {
    let (dir, hook) = hook(r#"printf '%s|%s|%s\n' "$#" "$1" "$2" >>DIR/calls"#);
    let announcements = [
        announcement(HOSTILE, HOSTILE),
        announcement("a\0b", "--exec\0=c"),
        announcement(&"x".repeat(1 << 20), &"y".repeat(1 << 20)),
        announcement("", "last"),
    ];
    run(&hook, &announcements).await;
    let calls = fs::read_to_string(dir.path().join("calls")).expect("the hook ran");
    assert!(!calls.contains(|c| c != '\n' && is_unsafe_to_show(c)), "{calls:?}");
    let calls: Vec<_> = calls.lines().collect();
    assert_eq!((calls.len(), calls[1], calls[3]), (4, "2|ab|exec=c", "2||last"));
    assert!(calls[0].starts_with("2|a"), "{}", calls[0]);
    assert_eq!(calls[2].len(), 3 + MAX_NAME + MAX_IDENTIFIER);
}

/// RULE-10: nothing of the agent's environment, directory or input.
#[tokio::test]
async fn rule_10_the_hook_has_no_more_than_a_path() {
    let (dir, hook) = hook("/usr/bin/env >DIR/env; pwd >DIR/pwd; cat >DIR/input");
    run(&hook, &[announcement("a", "b")]).await;
    let read = |name: &str| fs::read_to_string(dir.path().join(name)).expect("the hook ran");
    let env = read("env");
    // `PWD` and the like are the shell's own.
    assert!(env.lines().any(|line| line == format!("PATH={PATH}")), "{env}");
    assert!(!env.contains("CARGO") && !env.contains("HOME="), "{env}");
    assert_eq!((read("pwd").as_str(), read("input").as_str()), ("/\n", ""));
}

/// Runs a hook that writes a line to DIR/alive and keeps that open, in itself
/// and in what it starts; returns once nothing of it is left. `meanwhile` is
/// called when the line has come.
async fn outlived(
    script: &str,
    limit: Duration,
    meanwhile: impl FnOnce() + Send + 'static,
    stop: Stop,
) {
    let (dir, hook) = hook(script);
    let fifo = dir.path().join("alive");
    let made = Command::new("mkfifo").arg(&fifo).status().expect("it runs");
    assert!(made.success());
    let reader = thread::spawn(move || {
        let mut lines = BufReader::new(File::open(fifo).expect("a FIFO"));
        let mut line = String::new();
        lines.read_line(&mut line).expect("a line");
        assert_eq!(line, "alive\n");
        meanwhile();
        // Ends when the last process that has it open has ended.
        lines.read_to_string(&mut line).expect("the end")
    });
    run_within(limit, &hook, &[announcement("a", "b")], stop).await;
    assert_eq!(reader.join().expect("no panic"), 0);
}

const LINGERS: &str = "exec 3>DIR/alive; sleep 600 & echo alive >&3;";

#[tokio::test]
async fn rule_10_a_hook_that_hangs_is_killed_with_all_it_started() {
    let script = format!("{LINGERS} sleep 600");
    outlived(&script, HOOK_TIMEOUT, || (), watch::channel(None).1).await;
}

#[tokio::test]
async fn rule_10_a_stop_ends_the_hook_and_all_it_started() {
    let (stop, stopped) = watch::channel(None);
    let script = format!("{LINGERS} sleep 600");
    let tell = move || {
        stop.send_replace(Some("a signal"));
    };
    outlived(&script, LONG, tell, stopped).await;
}

#[tokio::test]
async fn rule_10_nothing_that_the_hook_started_outlives_it() {
    outlived(LINGERS, LONG, || (), watch::channel(None).1).await;
}

/// CONF-1: others could have it do anything as root.
#[tokio::test]
async fn conf_1_a_hook_that_others_can_change_is_not_run() {
    let (dir, hook) = hook("echo ran >DIR/ran");
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o777)).expect("our own");
    run(&hook, &[announcement("a", "b")]).await;
    assert!(!dir.path().join("ran").exists());
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).expect("our own");
    run(&hook, &[announcement("a", "b")]).await;
    assert!(dir.path().join("ran").exists());
}
