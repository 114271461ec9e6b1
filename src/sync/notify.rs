//! The notification hook: tells a program of rules that users wait for.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tracing::{info, warn};

use super::{Stop, stopped};

/// How long one call of the hook may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How many rules of one sync are announced: a person reads each of them.
const MAX_ANNOUNCED: usize = 100;
/// Characters of an application's name that are passed on.
const MAX_NAME: usize = 200;

/// Runs `<hook> <application name> <identifier>` for each announcement, one
/// after the other, until told to stop. A hook that fails or hangs is reported
/// and costs the sync nothing else.
pub(super) async fn run_hook(hook: &Path, announcements: &[(String, String)], mut stop: Stop) {
    for (application, identifier) in announcements.iter().take(MAX_ANNOUNCED) {
        let called = tokio::select! {
            biased;
            reason = stopped(&mut stop) => {
                warn!(reason, "the other announcements are left out");
                return;
            }
            called = tokio::time::timeout(TIMEOUT, call(hook, application, identifier)) => called,
        };
        match called {
            Ok(Ok(status)) if status.success() => {
                info!(application, identifier, "announced");
            }
            Ok(Ok(status)) => {
                warn!(hook = %hook.display(), %status, "the notification hook failed");
            }
            Ok(Err(error)) => {
                let hook = hook.display();
                warn!(%hook, %error, "the notification hook cannot be run; check NotificationHook");
                return;
            }
            Err(_) => {
                warn!(hook = %hook.display(), "the notification hook did not end within 5 s");
                return;
            }
        }
    }
    if announcements.len() > MAX_ANNOUNCED {
        warn!(rules = announcements.len() - MAX_ANNOUNCED, "more rules than are announced");
    }
}

async fn call(
    hook: &Path,
    application: &str,
    identifier: &str,
) -> std::io::Result<std::process::ExitStatus> {
    Command::new(hook)
        .args([&*plain(application), identifier])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .status()
        .await
}

/// A name as a program's argument: no control characters, no end of the text
/// in its middle, and nothing that could be taken for an option.
fn plain(name: &str) -> String {
    let name: String = name.chars().filter(|c| !c.is_control()).take(MAX_NAME).collect();
    name.trim_start_matches(['-', ' ']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RULE-10: the name is the server's text and goes to a program of ours.
    #[test]
    fn rule_10_a_name_reaches_the_hook_as_text_and_nothing_else() {
        assert_eq!(plain("Notes 2"), "Notes 2");
        assert_eq!(plain("--exec=x\0\u{1b}[31m"), "exec=x[31m");
        assert_eq!(plain(&"ä".repeat(1000)).chars().count(), MAX_NAME);
    }
}
