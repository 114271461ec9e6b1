//! The options that make the program fail on purpose are in no product.

use assert_cmd::Command;

/// A build for users knows none of them: clap refuses each as unknown.
#[test]
fn a_release_build_refuses_the_options_for_tests() {
    for args in [
        ["sync", "--kill-at", "after:commit_rules"],
        ["sync-process", "--misbehave", "panic:after:commit_rules"],
        ["daemon", "--misbehave", "1:hang:after:commit_rules"],
        ["daemon", "--network", "/nowhere/socket"],
    ] {
        // No hook gets by the argument after it, which no build knows.
        let output = Command::new(env!("CARGO_BIN_EXE_santa-sync"))
            .args(args)
            .arg("--no-such-option")
            .output()
            .expect("the program runs");
        let message = String::from_utf8_lossy(&output.stderr);
        let has_hooks = cfg!(any(debug_assertions, feature = "test-hooks"));
        let unknown = if has_hooks { "--no-such-option" } else { args[1] };
        assert_eq!(output.status.code(), Some(64), "{message}");
        assert!(message.contains(&format!("unexpected argument '{unknown}'")), "{message}");
    }
}
