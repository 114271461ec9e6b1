//! The Python examples of `fixtures/pytest`, with pytest where it is installed and
//! without where it is not.

use std::path::Path;
use std::process::Command;

use crate::program::program;

fn python(args: &[&str]) -> Command {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/pytest");
    let mut command = Command::new("python3");
    command
        .args(args)
        .current_dir(directory)
        .env("SANTA_SYNC", program().get_program())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env_remove("SERVER_UNDER_TEST");
    command
}

#[test]
fn the_python_examples_pass() {
    let Ok(version) = python(&["--version"]).output() else {
        eprintln!("skipped: there is no python3 in PATH");
        assert!(std::env::var_os("REQUIRE_PYTEST").is_none(), "CI has python3");
        return;
    };
    assert!(version.status.success(), "{version:?}");
    let has_pytest =
        python(&["-c", "import pytest"]).output().is_ok_and(|done| done.status.success());
    assert!(has_pytest || std::env::var_os("REQUIRE_PYTEST").is_none(), "CI has pytest");
    let args: &[&str] = if has_pytest {
        &["-m", "pytest", "-q", "-p", "no:cacheprovider"]
    } else {
        &["run_plain.py"]
    };
    let done = python(args).output().unwrap();
    let printed = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{printed}\n{}", String::from_utf8_lossy(&done.stderr));
    assert!(printed.contains("6 passed"), "{printed}");
}
