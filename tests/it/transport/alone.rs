//! Tests that need a process of their own: where tests run as threads of one,
//! they share its memory and its log.

use std::process::Command;

/// Set in the process that runs one test.
const ALONE: &str = "SANTA_SYNC_TEST_ALONE";

/// Whether this process runs the test of that name alone. If not, one that
/// does is started and waited for.
pub(crate) fn alone(test: &str) -> bool {
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let tests = std::env::current_exe().expect("the test program");
    let name = format!("transport::{test}");
    let output = Command::new(tests)
        .args(["--exact", &name])
        .env(ALONE, "1")
        .output()
        .expect("the test program runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    false
}
