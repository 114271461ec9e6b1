//! Signals that this process was started to ignore: by `nohup`, by the shell of
//! a background job, by a service manager. Whoever did that meant it, so nobody
//! here catches them.
//!
//! To be asked before the first signal is caught: catching one hides what was
//! there before.

use std::path::Path;

use super::source::HostSource;

/// Which of the signals that end or steer this program are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Ignored {
    /// SIGHUP.
    pub hang_up: bool,
    /// SIGINT.
    pub interrupt: bool,
    /// SIGTERM.
    pub terminate: bool,
}

/// Signal numbers that every system has.
const HANG_UP: u32 = 1;
const INTERRUPT: u32 = 2;
const TERMINATE: u32 = 15;

/// Prints the name of each signal that a child of this process ignores. A child
/// inherits that, and a shell leaves what it inherited alone, so a shell that
/// survives its own signal ignores it. With the trap the outer shell outlives
/// an inner one that SIGINT ended.
const SURVIVED: &str = "trap : INT; \
     for s in HUP TERM INT; do /bin/sh -c \"kill -s $s \\$\\$; echo $s\"; done; exit 0";

/// Returns the signals that this process was started to ignore. Linux says so in
/// `/proc`; elsewhere a shell is started to find out, since asking the system
/// takes unsafe code. What cannot be found out counts as not ignored.
#[must_use]
pub fn ignored_signals(host: &dyn HostSource) -> Ignored {
    match host.read(Path::new("/proc/self/status")) {
        Ok(status) => of_status(&String::from_utf8_lossy(&status)).unwrap_or_default(),
        Err(_) => of_survivors(host),
    }
}

/// Of the line `SigIgn:` with a mask in hex digits, whose lowest bit is signal 1.
fn of_status(status: &str) -> Option<Ignored> {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    let mask = u64::from_str_radix(mask.trim(), 16).ok()?;
    let ignored = |signal: u32| mask >> (signal - 1) & 1 == 1;
    Some(Ignored {
        hang_up: ignored(HANG_UP),
        interrupt: ignored(INTERRUPT),
        terminate: ignored(TERMINATE),
    })
}

fn of_survivors(host: &dyn HostSource) -> Ignored {
    let output = host.run("/bin/sh", &["-c", SURVIVED]).unwrap_or_default();
    let output = String::from_utf8_lossy(&output).into_owned();
    let ignored = |name: &str| output.lines().any(|line| line.trim() == name);
    Ignored { hang_up: ignored("HUP"), interrupt: ignored("INT"), terminate: ignored("TERM") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{RecordedHost, SystemHost};

    #[test]
    fn sync_6_the_mask_of_ignored_signals_is_read() {
        let status =
            |mask: &str| format!("Name:\tx\nSigBlk:\t0000\nSigIgn:\t{mask}\nSigCgt:\tff\n");
        let read = |mask: &str| of_status(&status(mask));
        assert_eq!(read("0000000000000000"), Some(Ignored::default()));
        // SIGPIPE, which every program in Rust ignores.
        assert_eq!(read("0000000000001000"), Some(Ignored::default()));
        let hang_up = Ignored { hang_up: true, ..Ignored::default() };
        assert_eq!(read("0000000000001001"), Some(hang_up));
        let all = Ignored { hang_up: true, interrupt: true, terminate: true };
        assert_eq!(read("0000000000004003"), Some(all));
        assert_eq!(read("x"), None);
        assert_eq!(of_status(""), None);
    }

    /// SYNC-6: the shell finds out what `/proc` says, with each signal ignored in
    /// turn.
    #[test]
    fn sync_6_a_shell_finds_out_what_is_ignored() {
        for (trap, name) in [("HUP", "HUP\n"), ("INT", "INT\n"), ("TERM", "TERM\n"), ("USR2", "")] {
            // What is ignored at the start stays so: the test may run in the
            // background.
            let own = of_survivors(&SystemHost);
            let output = std::process::Command::new("/bin/sh")
                .args(["-c", &format!("trap '' {trap}; exec /bin/sh -c '{SURVIVED}'")])
                .stderr(std::process::Stdio::null())
                .output()
                .expect("a shell");
            let output = String::from_utf8(output.stdout).expect("text");
            assert!(output.contains(name), "{trap}: {output:?}");
            let others = output.lines().filter(|line| *line != trap).count();
            let expected = [own.hang_up && trap != "HUP", own.interrupt && trap != "INT"];
            assert_eq!(others, expected.iter().filter(|e| **e).count(), "{trap}: {output:?}");
        }
        #[cfg(target_os = "linux")]
        assert_eq!(of_survivors(&SystemHost), ignored_signals(&SystemHost));
        let nowhere = RecordedHost::new("/nowhere");
        assert_eq!(ignored_signals(&nowhere), Ignored::default());
    }
}
