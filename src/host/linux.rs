//! Facts from Linux: `machine-id`, the firmware's DMI table, the device tree
//! and `os-release`.

use std::path::Path;

use super::source::HostSource;
use super::{Fact, Observed, dotted};

/// Everything.
pub(super) fn observe(host: &dyn HostSource) -> Observed {
    let mut observed = hardware(host);
    observed.model = ["/sys/class/dmi/id/product_name", "/proc/device-tree/model"]
        .iter()
        .find_map(|path| firmware_text(host, path));
    let release = ["/etc/os-release", "/usr/lib/os-release"]
        .iter()
        .find_map(|path| Some((host.read(Path::new(path)).ok()?, *path)));
    match release {
        Some((bytes, path)) => {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            observed.os_version = variable(&text, "VERSION_ID")
                .and_then(|version| Some(Fact::new(dotted(&version)?, path)));
            observed.os_build = variable(&text, "BUILD_ID").map(|build| Fact::new(build, path));
        }
        None => observed.problems.push("/etc/os-release cannot be read".to_owned()),
    }
    observed
}

/// The serial number and the hardware UUID. The firmware's own UUID and serial
/// number are for root alone to read; the machine id of the installation is for
/// everyone, so that the id is the same whoever asks.
pub(super) fn hardware(host: &dyn HostSource) -> Observed {
    let uuid = ["/etc/machine-id", "/var/lib/dbus/machine-id"]
        .iter()
        .find_map(|path| {
            let text = host.read(Path::new(path)).ok()?;
            Some(Fact::new(uuid_of(std::str::from_utf8(&text).ok()?.trim())?, *path))
        })
        .or_else(|| {
            let fact = firmware_text(host, "/sys/class/dmi/id/product_uuid")?;
            let digits = fact.value.replace('-', "");
            Some(Fact::new(uuid_of(&digits)?, fact.source))
        });
    let problem = "/etc/machine-id is missing or not 32 hex digits".to_owned();
    Observed {
        problems: if uuid.is_none() { vec![problem] } else { Vec::new() },
        uuid,
        serial: firmware_text(host, "/sys/class/dmi/id/product_serial"),
        ..Observed::default()
    }
}

/// 32 hex digits as a UUID in upper case, as Macs write theirs. All zeros or
/// all ones are what firmware without an id says.
fn uuid_of(digits: &str) -> Option<String> {
    let hex = digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    let filler = digits.bytes().all(|b| b == b'0') || digits.bytes().all(|b| b | 32 == b'f');
    if !hex || filler {
        return None;
    }
    let upper = digits.to_ascii_uppercase();
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| upper.get(part));
    Some(parts.into_iter().collect::<Option<Vec<_>>>()?.join("-"))
}

/// What firmware says where its maker left the field unfilled.
const FILLERS: [&str; 9] = [
    "0",
    "default string",
    "n/a",
    "none",
    "not applicable",
    "not specified",
    "system product name",
    "system serial number",
    "to be filled by o.e.m.",
];

fn firmware_text(host: &dyn HostSource, path: &str) -> Option<Fact> {
    let bytes = host.read(Path::new(path)).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let fact = Fact::filled(text.trim_end_matches(['\0', '\n']), path)?;
    (!FILLERS.contains(&fact.value.to_ascii_lowercase().as_str())).then_some(fact)
}

/// The value of a variable in a file of shell assignments.
fn variable(text: &str, name: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix('='))?;
    let value = value.trim();
    let bare = ['"', '\'']
        .iter()
        .find_map(|quote| value.strip_prefix(*quote).and_then(|rest| rest.strip_suffix(*quote)));
    let value = bare.unwrap_or(value);
    (!value.is_empty()).then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_2_a_machine_id_becomes_a_uuid() {
        let id = "4c4c4544003957108052b4c04f384833";
        assert_eq!(uuid_of(id).as_deref(), Some("4C4C4544-0039-5710-8052-B4C04F384833"));
        for none in ["", "uninitialized", &id[1..], &"0".repeat(32), &"fF".repeat(16)] {
            assert_eq!(uuid_of(none), None, "{none}");
        }
    }

    #[test]
    fn variables_come_with_and_without_quotes() {
        let text = "NAME=\"A B\"\nVERSION_ID='22.04'\nBUILD_ID=rolling\nEMPTY=\"\"\n";
        assert_eq!(variable(text, "NAME").as_deref(), Some("A B"));
        assert_eq!(variable(text, "VERSION_ID").as_deref(), Some("22.04"));
        assert_eq!(variable(text, "BUILD_ID").as_deref(), Some("rolling"));
        assert_eq!(variable(text, "EMPTY"), None);
        assert_eq!(variable(text, "VERSION"), None);
    }
}
