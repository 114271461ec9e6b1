//! Facts from macOS: the I/O registry, `SystemVersion.plist`, `sysctl` and
//! `csrutil`.

use std::path::Path;

use plist::{Dictionary, Value};

use super::source::HostSource;
use super::{Fact, Observed, dictionary, dotted};
use crate::plist_bounded::read_plist;

const SYSTEM_VERSION: &str = "/System/Library/CoreServices/SystemVersion.plist";

/// Everything.
pub(super) fn observe(host: &dyn HostSource) -> Observed {
    let mut observed = hardware(host);
    match host.run("/usr/sbin/sysctl", &["-n", "hw.model"]) {
        Ok(output) => observed.model = Fact::filled(&text(&output), "sysctl hw.model"),
        Err(error) => observed.problems.push(error.to_string()),
    }
    match dictionary(host, Path::new(SYSTEM_VERSION)) {
        Ok(version) => {
            let fact = |key| Fact::filled(version.get(key)?.as_string()?, SYSTEM_VERSION);
            observed.os_version =
                fact("ProductVersion").filter(|fact| dotted(&fact.value).is_some());
            observed.os_build = fact("ProductBuildVersion");
        }
        Err(error) => observed.problems.push(format!("{SYSTEM_VERSION}: {error}")),
    }
    match host.run("/usr/bin/csrutil", &["status"]) {
        Ok(output) => match sip_flags(&text(&output)) {
            Some(flags) => observed.sip = Some((flags, "csrutil status".to_owned())),
            None => observed.problems.push("csrutil status says nothing known".to_owned()),
        },
        Err(error) => observed.problems.push(error.to_string()),
    }
    observed
}

/// The serial number and the hardware UUID.
pub(super) fn hardware(host: &dyn HostSource) -> Observed {
    let mut observed = Observed::default();
    let args = ["-a", "-r", "-d", "1", "-c", "IOPlatformExpertDevice"];
    let source = "ioreg IOPlatformExpertDevice";
    match host.run("/usr/sbin/ioreg", &args) {
        Ok(output) => match platform_device(&output) {
            Some(device) => {
                let fact = |key| Fact::filled(device.get(key)?.as_string()?, source);
                observed.serial = fact("IOPlatformSerialNumber").filter(|f| f.value != "0");
                observed.uuid = fact("IOPlatformUUID");
            }
            None => observed.problems.push(format!("{source}: no device in its output")),
        },
        Err(error) => observed.problems.push(error.to_string()),
    }
    observed
}

fn text(output: &[u8]) -> String {
    String::from_utf8_lossy(output).into_owned()
}

fn platform_device(output: &[u8]) -> Option<Dictionary> {
    let devices = read_plist(output).ok()?.into_array()?;
    devices.into_iter().next().and_then(Value::into_dictionary)
}

/// What `csrutil disable` switches off: kext signing (1), file system
/// protections (2), debugging restrictions (4), kernel debugging (8), `DTrace`
/// restrictions (0x20) and NVRAM protections (0x40).
const ALL_DISABLED: u32 = 0x6f;

/// The flags of System Integrity Protection, read from text. The kernel's
/// number is not readable in one place on every Mac (NVRAM on Intel, the boot
/// policy on Apple silicon), while this report is.
fn sip_flags(report: &str) -> Option<u32> {
    let status = report.lines().find_map(|line| {
        let (_, status) = line.split_once("System Integrity Protection status:")?;
        Some(status.trim().trim_end_matches('.').to_ascii_lowercase())
    })?;
    if status.starts_with("enabled") && !status.contains("custom") {
        return Some(0);
    }
    if status == "disabled" {
        return Some(ALL_DISABLED);
    }
    // A custom configuration lists each protection. One that is disabled sets
    // its flag; "Apple Internal" is no protection, and counts when enabled.
    let mut flags = None;
    for line in report.lines() {
        let Some((name, state)) = line.split_once(':') else { continue };
        let (flag, counts) = match name.trim() {
            "Kext Signing" => (0x1, "disabled"),
            "Filesystem Protections" => (0x2, "disabled"),
            "Debugging Restrictions" => (0x4, "disabled"),
            "Apple Internal" => (0x10, "enabled"),
            "DTrace Restrictions" => (0x20, "disabled"),
            "NVRAM Protections" => (0x40, "disabled"),
            "BaseSystem Verification" => (0x100, "disabled"),
            _ => continue,
        };
        let set = state.trim().trim_end_matches('.').eq_ignore_ascii_case(counts);
        flags = Some(flags.unwrap_or(0) | if set { flag } else { 0 });
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_1_sip_flags_follow_the_report() {
        let status = |s: &str| sip_flags(&format!("System Integrity Protection status: {s}\n"));
        assert_eq!(status("enabled."), Some(0));
        assert_eq!(status("disabled."), Some(0x6f));
        assert_eq!(status("something new."), None);
        assert_eq!(sip_flags(""), None);
        let custom = "System Integrity Protection status: unknown (Custom Configuration).\n\n\
            Configuration:\n\tApple Internal: enabled\n\tKext Signing: disabled\n\
            \tFilesystem Protections: enabled\n\tDebugging Restrictions: disabled\n\
            \tDTrace Restrictions: enabled\n\tNVRAM Protections: disabled\n\
            \tBaseSystem Verification: enabled\n\nThis is an unsupported configuration.\n";
        assert_eq!(sip_flags(custom), Some(0x55));
    }
}
