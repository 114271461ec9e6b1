//! Looks up the number of a group.

use std::path::Path;

use super::HostSource;

/// Returns the number of a group given by name or number; `None` if it does not exist.
pub fn group_id(group: &str, host: &dyn HostSource) -> Option<u32> {
    if let Ok(number) = group.parse() {
        return Some(number);
    }
    // A Mac that is bound to Active Directory names groups `DOMAIN\group`.
    let marks = if host.uname().is_macos() { "_-. \\" } else { "_-. " };
    let plain = |name: &str| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || marks.contains(c))
    };
    if !plain(group) || group.starts_with('-') {
        return None;
    }
    let file = host.read(Path::new("/etc/group")).ok();
    let local = file.and_then(|bytes| in_group_file(&String::from_utf8_lossy(&bytes), group));
    local.or_else(|| {
        if host.uname().is_macos() {
            let args = ["-q", "group", "-a", "name", group];
            let answer = host.run("/usr/bin/dscacheutil", &args).ok()?;
            in_directory(&String::from_utf8_lossy(&answer))
        } else {
            let answer = host.run("/usr/bin/getent", &["group", group]).ok()?;
            in_group_file(&String::from_utf8_lossy(&answer), group)
        }
    })
}

/// Of lines `name:password:number:members`.
fn in_group_file(text: &str, group: &str) -> Option<u32> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(group)).then(|| fields.nth(1)?.parse().ok())?
    })
}

/// Of lines `gid: number` among others.
fn in_directory(text: &str) -> Option<u32> {
    text.lines().find_map(|line| line.strip_prefix("gid:")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::RecordedHost;

    fn host(
        sysname: &str,
        group_file: &str,
        command: (&str, &str),
    ) -> (tempfile::TempDir, RecordedHost) {
        let dir = tempfile::tempdir().expect("a directory");
        let etc = dir.path().join("files/etc");
        std::fs::create_dir_all(&etc).expect("made");
        std::fs::create_dir_all(dir.path().join("commands")).expect("made");
        std::fs::write(dir.path().join("uname"), sysname).expect("written");
        std::fs::write(etc.join("group"), group_file).expect("written");
        std::fs::write(dir.path().join("commands").join(command.0), command.1).expect("written");
        let host = RecordedHost::new(dir.path());
        (dir, host)
    }

    /// DAEMON-4: the configured group is found where this system keeps it.
    #[test]
    fn daemon_4_a_group_is_found_by_name_or_number() {
        let file = "# local\nroot:x:0:\nadmins:x:500:a,b\nbroken\n";
        let (_dir, linux) = host("Linux", file, ("getent", "ops:*:70001:a\n"));
        assert_eq!(group_id("admins", &linux), Some(500));
        assert_eq!(group_id("ops", &linux), Some(70001));
        assert_eq!(group_id("123", &linux), Some(123));
        for none in ["admin", "", "-x", "a;b", "broken"] {
            assert_eq!(group_id(none, &linux), None, "{none:?}");
        }
        let answer = "name: staff\npassword: *\ngid: 20\nusers: root\n";
        let (_dir, macos) = host("Darwin", file, ("dscacheutil", answer));
        assert_eq!(group_id("staff", &macos), Some(20));
        // A Mac prints nothing, and succeeds, for a group that does not exist;
        // a group without members has no line of users.
        for (answer, number) in [
            ("", None),
            ("name: ops\npassword: *\ngid: 1301\n\n", Some(1301)),
            ("name: ops\npassword: *\ngi", None),
            ("name: ops\ngid:\n", None),
            ("name: ops\ngid: many\n", None),
        ] {
            let (_dir, macos) = host("Darwin", file, ("dscacheutil", answer));
            assert_eq!(group_id("ops", &macos), number, "{answer:?}");
        }
        let answer = "name: EXAMPLE\\ops\npassword: *\ngid: 1893471\n\n";
        let (_dir, macos) = host("Darwin", file, ("dscacheutil", answer));
        assert_eq!(group_id("EXAMPLE\\ops", &macos), Some(1_893_471));
        let (_dir, linux) = host("Linux", file, ("getent", "EXAMPLE\\ops:*:7:\n"));
        assert_eq!(group_id("EXAMPLE\\ops", &linux), None);
    }
}
