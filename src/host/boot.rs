//! Which boot of the machine this is, and since when it is awake: what makes
//! clocks that start at boot comparable between processes.

use std::path::Path;

use super::source::HostSource;
use crate::model::Timestamp;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const SYSCTL: &str = "/usr/sbin/sysctl";

/// The name of this boot, which no other boot has; `None` if the system does
/// not tell.
#[must_use]
pub fn boot_id(host: &dyn HostSource) -> Option<String> {
    let bytes = if host.uname().is_macos() {
        host.run(SYSCTL, &["-n", "kern.bootsessionuuid"]).ok()
    } else {
        host.read(Path::new(BOOT_ID)).ok()
    };
    let id = String::from_utf8(bytes?).ok()?.trim().to_ascii_lowercase();
    let plain = id.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
    (plain && (8..=64).contains(&id.len())).then_some(id)
}

/// When the machine last woke from sleep; `None` if it has not slept since its
/// boot, or if [`crate::clock::awake`] makes it unnecessary to know.
#[must_use]
pub fn woke_at(host: &dyn HostSource) -> Option<Timestamp> {
    if !host.uname().is_macos() {
        return None;
    }
    let output = host.run(SYSCTL, &["-n", "kern.waketime"]).ok()?;
    let text = String::from_utf8(output).ok()?;
    // `{ sec = 1700000000, usec = 123 } Tue Nov 14 ...`, or zeros.
    let (seconds, _) = text.split_once("sec = ")?.1.split_once(',')?;
    let seconds = seconds.trim().parse().ok()?;
    (seconds > 0).then(|| Timestamp::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{RecordedHost, SystemHost};

    fn host(sysname: &str, file: &str, content: &str) -> (tempfile::TempDir, RecordedHost) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(file);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        std::fs::write(dir.path().join("uname"), sysname).expect("written");
        std::fs::write(path, content).expect("written");
        let host = RecordedHost::new(dir.path());
        (dir, host)
    }

    #[test]
    fn daemon_6_a_boot_has_a_name() {
        let id = "0B2E8F0A-11c4-4a6b-9f0e-3b8a4d1e2f33";
        let (_dir, linux) =
            host("Linux", "files/proc/sys/kernel/random/boot_id", &format!("{id}\n"));
        let (_dir2, macos) = host("Darwin", "commands/sysctl", &format!("{id}\n"));
        let lower = Some(id.to_ascii_lowercase());
        assert_eq!((boot_id(&linux), boot_id(&macos)), (lower.clone(), lower));
        for wrong in ["", "short", "no such variable: kern.bootsessionuuid"] {
            let (_dir, macos) = host("Darwin", "commands/sysctl", wrong);
            assert_eq!(boot_id(&macos), None, "{wrong:?}");
        }
        assert_eq!(boot_id(&SystemHost), boot_id(&SystemHost));
        #[cfg(target_os = "linux")]
        assert!(boot_id(&SystemHost).is_some());
    }

    #[test]
    fn daemon_6_a_mac_says_when_it_woke() {
        for (text, woke) in [
            ("{ sec = 1700000000, usec = 12 } Tue Nov 14 22:13:20 2023", Some(1_700_000_000)),
            ("{ sec = 0, usec = 0 } Thu Jan  1 00:00:00 1970", None),
            ("nonsense", None),
            ("", None),
            ("{ sec = 17", None),
            ("{ sec = , usec = 0 }", None),
        ] {
            let (_dir, macos) = host("Darwin", "commands/sysctl", text);
            assert_eq!(woke_at(&macos), woke.map(Timestamp::from_secs), "{text}");
        }
    }
}
