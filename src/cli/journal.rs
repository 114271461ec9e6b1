//! Standard error as systemd's journal reads it: each line begins with its priority
//! (sd-daemon(3)), and needs no time stamp.

use std::borrow::Cow;
use std::sync::OnceLock;

use tracing::Level;

/// Whether standard error goes to the journal. systemd says so by the device and
/// inode of the stream in `JOURNAL_STREAM`, which programs started with another
/// standard error inherit, too.
pub(super) fn is_connected() -> bool {
    static CONNECTED: OnceLock<bool> = OnceLock::new();
    *CONNECTED.get_or_init(|| {
        let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
        rustix::fs::fstat(std::io::stderr())
            .is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
    })
}

/// The lines of a text as they are written to standard error.
pub(super) fn lines(level: Level, text: &str) -> Cow<'_, str> {
    if is_connected() { Cow::Owned(with_priority(level, text)) } else { Cow::Borrowed(text) }
}

fn with_priority(level: Level, text: &str) -> String {
    let priority = match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        Level::DEBUG | Level::TRACE => "<7>",
    };
    format!("{priority}{}", text.replace('\n', &format!("\n{priority}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn daemon_5_every_line_has_its_priority() {
        assert_eq!(with_priority(Level::ERROR, "a\n  b"), "<3>a\n<3>  b");
        assert_eq!(with_priority(Level::INFO, "a"), "<6>a");
    }
}
