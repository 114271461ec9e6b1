//! What the environment says of sockets, without touching any.

use std::io;
use std::ops::Range;

/// The first file descriptor that systemd hands over.
const FIRST: i32 = 3;
/// The most that are believed; systemd itself would hand over a few.
const MOST: i32 = 1000;

/// File descriptors that were handed over.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct HandedOver {
    /// All of them.
    pub(crate) all: Range<i32>,
    /// Those of the name.
    pub(crate) named: Vec<i32>,
}

/// Reads the variables for the process of this number. Without names, every socket
/// has the name.
pub(crate) fn read(
    variable: impl Fn(&str) -> Option<String>,
    process: u32,
    name: &str,
) -> io::Result<HandedOver> {
    let nothing = HandedOver { all: FIRST..FIRST, named: Vec::new() };
    let malformed =
        |name: &str| io::Error::new(io::ErrorKind::InvalidData, format!("{name} is malformed"));
    let (Some(of), Some(count)) = (variable("LISTEN_PID"), variable("LISTEN_FDS")) else {
        return Ok(nothing);
    };
    if of.parse::<u32>().map_err(|_| malformed("LISTEN_PID"))? != process {
        // A parent's.
        return Ok(nothing);
    }
    let count = count.parse::<i32>().ok().filter(|count| (0..=MOST).contains(count));
    let all = FIRST..FIRST + count.ok_or_else(|| malformed("LISTEN_FDS"))?;
    let named = match variable("LISTEN_FDNAMES") {
        None => all.clone().collect(),
        Some(names) => {
            let names: Vec<&str> = names.split(':').collect();
            if names.len() != all.len() && !(all.is_empty() && names == [""]) {
                return Err(malformed("LISTEN_FDNAMES"));
            }
            all.clone().zip(names).filter(|(_, of)| *of == name).map(|(fd, _)| fd).collect()
        }
    };
    Ok(HandedOver { all, named })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads(pid: &str, fds: &str, names: Option<&str>) -> io::Result<HandedOver> {
        let variable = |name: &str| match name {
            "LISTEN_PID" => Some(pid.to_owned()),
            "LISTEN_FDS" => Some(fds.to_owned()),
            _ => names.map(str::to_owned),
        };
        read(variable, 42, "relay")
    }

    fn named(fds: &str, names: Option<&str>) -> Vec<i32> {
        reads("42", fds, names).unwrap_or_else(|error| panic!("{fds} {names:?}: {error}")).named
    }

    #[test]
    fn sockets_are_taken_by_name() {
        assert_eq!(named("1", None), [3]);
        assert_eq!(named("2", None), [3, 4]);
        assert_eq!(named("3", Some("relay:other:relay")), [3, 5]);
        assert_eq!(named("1", Some("unknown")), []);
        assert_eq!(named("2", Some("relay2:")), []);
        assert_eq!(named("0", None), []);
        assert_eq!(named("0", Some("")), []);
        assert_eq!(reads("42", "3", Some("a:relay:b")).ok().map(|found| found.all), Some(3..6));
    }

    #[test]
    fn those_of_another_process_are_not_ours() {
        assert_eq!(reads("41", "1", None).ok().map(|found| found.all), Some(3..3));
        assert_eq!(read(|_| None, 42, "relay").ok().map(|found| found.named), Some(Vec::new()));
    }

    #[test]
    fn a_malformed_environment_is_an_error() {
        for (pid, fds, names) in [
            ("x", "1", None),
            ("", "1", None),
            ("-42", "1", None),
            ("42", "x", None),
            ("42", "-1", None),
            ("42", "2147483647", None),
            ("42", "4294967297", None),
            ("42", "1", Some("relay:relay")),
            ("42", "2", Some("relay")),
        ] {
            let error = reads(pid, fds, names).expect_err("malformed");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    }
}
