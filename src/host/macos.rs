//! Facts from macOS: the I/O registry, `SystemVersion.plist`, `sysctl`, NVRAM and
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
    system_version(host, &mut observed);
    observed.sip = match sip_flags(host) {
        Ok(sip) => Some(sip),
        Err(problem) => {
            observed.problems.push(problem);
            None
        }
    };
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

/// Reads the version and the build. A program that was linked with an SDK before
/// macOS 26 is served a file that says 16 for 26, and one before macOS 11 a file
/// that says 10.16; `sw_vers` is part of the system and reads the real one.
fn system_version(host: &dyn HostSource, observed: &mut Observed) {
    let version = match dictionary(host, Path::new(SYSTEM_VERSION)) {
        Ok(version) => version,
        Err(error) => {
            observed.problems.push(format!("{SYSTEM_VERSION}: {error}"));
            Dictionary::default()
        }
    };
    let fact = |key| Fact::filled(version.get(key)?.as_string()?, SYSTEM_VERSION);
    let is_version = |fact: &Fact| dotted(&fact.value) == Some(&*fact.value);
    observed.os_version = fact("ProductVersion").filter(is_version);
    observed.os_build = fact("ProductBuildVersion");
    let is_real = |fact: &Fact| fact.value != "10.16" && fact.value.split('.').next() != Some("16");
    if !observed.os_version.as_ref().is_some_and(is_real) {
        observed.os_version = match host.run("/usr/bin/sw_vers", &["-productVersion"]) {
            Ok(output) => Fact::filled(&text(&output), "sw_vers").filter(is_version),
            Err(error) => {
                observed.problems.push(error.to_string());
                None
            }
        };
    }
}

/// The flags of System Integrity Protection that the kernel reports to programs;
/// it drops any other.
const VALID_FLAGS: u32 = 0x1fff;
/// Only hardware of Apple's own has this flag.
const APPLE_INTERNAL: u32 = 0x10;
/// The system volume's signature is not required.
const UNAUTHENTICATED_ROOT: u32 = 0x800;

/// Reads the flags of System Integrity Protection and where they come from. They
/// are the kernel's number, which servers compare: on Apple silicon it comes from
/// the boot policy in the device tree, on Intel from NVRAM. The report of
/// `csrutil` leaves flags out, so that it counts only if all is on.
fn sip_flags(host: &dyn HostSource) -> Result<(u32, String), String> {
    let args = ["-a", "-r", "-d", "1", "-p", "IODeviceTree", "-n", "asmb"];
    let policy = host.run("/usr/sbin/ioreg", &args);
    if let Some(flags) = policy.ok().and_then(|output| boot_policy_flags(&output)) {
        return Ok((flags, "boot policy, ioreg IODeviceTree".to_owned()));
    }
    if host.uname().machine == "x86_64" {
        let variable = host.run("/usr/sbin/nvram", &["csr-active-config"]);
        if let Some(flags) = variable.ok().and_then(|output| nvram_flags(&text(&output))) {
            return Ok((flags, "nvram csr-active-config".to_owned()));
        }
    }
    match host.run("/usr/bin/csrutil", &["status"]) {
        Ok(output) if is_all_on(&text(&output)) => Ok((0, "csrutil status".to_owned())),
        Ok(_) => Err("csrutil status does not say which protections are off".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// The flags in the boot policy's node of the device tree, as the kernel reads
/// them. A policy without the numbers has everything on.
fn boot_policy_flags(output: &[u8]) -> Option<u32> {
    let node = platform_device(output)?;
    if !node.keys().any(|key| key.starts_with("lp-")) {
        return None;
    }
    let number = |key| match node.get(key) {
        None => Some(0),
        Some(value) => {
            let bytes = value.as_data()?;
            let (low, _) = bytes.split_first_chunk::<4>()?;
            Some(u32::from_le_bytes(*low))
        }
    };
    let flags = number("lp-sip0")? & VALID_FLAGS & !APPLE_INTERNAL & !UNAUTHENTICATED_ROOT;
    Some(if number("lp-sip1")? == 0 { flags } else { flags | UNAUTHENTICATED_ROOT })
}

/// The flags in the output of `nvram csr-active-config`: the variable's name, a
/// tab, and four bytes, of which those that are not printable are `%xx`.
fn nvram_flags(output: &str) -> Option<u32> {
    let (name, value) = output.trim_end_matches('\n').split_once('\t')?;
    let mut bytes = Vec::new();
    let mut rest = value.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let (byte, after) = match (first, after) {
            (b'%', [high, low, after @ ..]) => {
                let digits = [*high, *low];
                (u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?, after)
            }
            (b'%', _) => return None,
            (plain, after) => (plain, after),
        };
        bytes.push(byte);
        rest = after;
    }
    let bytes: [u8; 4] = bytes.try_into().ok()?;
    (name == "csr-active-config").then(|| u32::from_le_bytes(bytes) & VALID_FLAGS)
}

/// Whether the report of `csrutil status` says that all protections are on. One
/// of a custom configuration begins with `enabled` or `unknown`.
fn is_all_on(report: &str) -> bool {
    let status = report
        .lines()
        .find_map(|line| line.split_once("System Integrity Protection status:"))
        .map(|(_, status)| status.trim().trim_end_matches('.'));
    status.is_some_and(|status| status.eq_ignore_ascii_case("enabled"))
}

#[cfg(test)]
mod tests;
