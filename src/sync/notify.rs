//! The notification hook: tells a program of rules that users wait for.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tracing::{info, warn};

/// How long one call of the hook may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How many rules of one sync are announced: a person reads each of them.
const MAX_ANNOUNCED: usize = 100;

/// Runs `<hook> <application name> <identifier>` for each announcement, one
/// after the other. A hook that fails or hangs is reported and costs the sync
/// nothing else.
pub(super) async fn run_hook(hook: &Path, announcements: &[(String, String)]) {
    for (application, identifier) in announcements.iter().take(MAX_ANNOUNCED) {
        let child = Command::new(hook)
            .args([application, identifier])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .status();
        match tokio::time::timeout(TIMEOUT, child).await {
            Ok(Ok(status)) if status.success() => {
                info!(application, identifier, "announced");
            }
            Ok(Ok(status)) => {
                warn!(hook = %hook.display(), %status, "the notification hook failed");
            }
            Ok(Err(error)) => {
                warn!(hook = %hook.display(), %error, "the notification hook cannot be run; check NotificationHook");
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
