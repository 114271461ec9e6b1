use std::path::PathBuf;
use std::sync::Arc;

use plist::{Dictionary, Value};

use super::*;
use crate::config::{Layer, Source};
use crate::failure::Remedy as _;

fn recorded(case: &str) -> RecordedHost {
    RecordedHost::new(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/host").join(case))
}

fn config(entries: &[(&str, &str)]) -> Config {
    let values = entries.iter().map(|(k, v)| ((*k).to_owned(), Value::from(*v))).collect();
    let source = Source::File("/c.plist".into());
    let layer = Layer { source, domain: None, values, exposed: false };
    Arc::unwrap_or_clone(Config::resolve(&[layer]).config)
}

/// The whole report as lines.
fn report(case: &str, config: &Config) -> String {
    let report = facts(config, &recorded(case));
    let id = match &report.machine_id {
        Ok((id, source)) => format!("machine_id = {id} ({source})"),
        Err(problem) => format!("machine_id: {problem}"),
    };
    let facts =
        report.sources.iter().map(|(name, f)| format!("{name} = {} ({})", f.value, f.source));
    let problems = report.problems.iter().map(|p| format!("problem: {p}"));
    std::iter::once(id).chain(facts).chain(problems).collect::<Vec<_>>().join("\n")
}

const MAPPING: &str = "/Library/Preferences/com.example.machine-mapping.plist";

/// HOST-1
#[test]
fn host_1_a_laptop_tells_everything() {
    let config = config(&[
        ("MachineOwnerPlist", MAPPING),
        ("MachineOwnerKey", "Owner"),
        ("MachineOwnerGroupsKey", "Groups"),
    ]);
    insta::assert_snapshot!(report("macos-laptop", &config), @r"
    machine_id = 50C7E1EB-2EF5-42D4-A084-A7966FC45A95 (hardware UUID, ioreg IOPlatformExpertDevice)
    serial_number = QYGF4QM373 (ioreg IOPlatformExpertDevice)
    hardware_uuid = 50C7E1EB-2EF5-42D4-A084-A7966FC45A95 (ioreg IOPlatformExpertDevice)
    hostname = kims-laptop.example.com (uname)
    model_identifier = MacBookPro18,3 (sysctl hw.model)
    os_version = 26.5.1 (/System/Library/CoreServices/SystemVersion.plist)
    os_build = 25F79 (/System/Library/CoreServices/SystemVersion.plist)
    santa_version = 2026.6.655965194 (/Applications/Santa.app/Contents/Info.plist)
    sip_status = 0x0 (boot policy, ioreg IODeviceTree)
    primary_user = kim (MachineOwnerPlist /Library/Preferences/com.example.machine-mapping.plist (Owner))
    primary_user_group = engineering (MachineOwnerPlist /Library/Preferences/com.example.machine-mapping.plist (Groups))
    primary_user_group = berlin (MachineOwnerPlist /Library/Preferences/com.example.machine-mapping.plist (Groups))
    ");
}

#[test]
fn host_1_a_virtual_mac_without_a_serial_number_tells_its_uuid_for_one() {
    insta::assert_snapshot!(report("macos-vm-without-serial", &Config::default()), @r"
    machine_id = 1F2E3D4C-0000-4000-8000-0123456789AB (hardware UUID, ioreg IOPlatformExpertDevice)
    serial_number = 1F2E3D4C-0000-4000-8000-0123456789AB (ioreg IOPlatformExpertDevice)
    hardware_uuid = 1F2E3D4C-0000-4000-8000-0123456789AB (ioreg IOPlatformExpertDevice)
    hostname = virtual-mac.local (uname)
    model_identifier = VMware20,1 (sysctl hw.model)
    os_version = 15.6 (/System/Library/CoreServices/SystemVersion.plist)
    os_build = 24G84 (/System/Library/CoreServices/SystemVersion.plist)
    santa_version = 2026.8 (the compatibility level of this agent)
    sip_status = 0xffffffff (nothing tells it)
    primary_user =  (not configured)
    problem: csrutil status does not say which protections are off
    ");
}

/// HOST-1: each hanging command costs its own value.
#[test]
fn host_1_a_mac_whose_commands_hang_still_tells_what_files_say() {
    let config = config(&[("MachineID", "asset-1")]);
    insta::assert_snapshot!(report("macos-hanging", &config), @r"
    machine_id = asset-1 (MachineID)
    serial_number = asset-1 (MachineID)
    hostname = stuck.local (uname)
    model_identifier = arm64 (uname)
    os_version = 26.5.1 (/System/Library/CoreServices/SystemVersion.plist)
    os_build = 25F79 (/System/Library/CoreServices/SystemVersion.plist)
    santa_version = 2026.8 (the compatibility level of this agent)
    sip_status = 0xffffffff (nothing tells it)
    primary_user =  (not configured)
    problem: /usr/sbin/ioreg did not end within 10000 ms
    problem: /usr/sbin/sysctl did not end within 10000 ms
    problem: /usr/bin/csrutil did not end within 10000 ms
    ");
}

#[test]
fn host_1_a_linux_server_tells_its_firmware() {
    insta::assert_snapshot!(report("linux-server", &Config::default()), @r"
    machine_id = 9F3C1D2E-4B5A-6978-8796-A5B4C3D2E1F0 (hardware UUID, /etc/machine-id)
    serial_number = J7K2M93 (/sys/class/dmi/id/product_serial)
    hardware_uuid = 9F3C1D2E-4B5A-6978-8796-A5B4C3D2E1F0 (/etc/machine-id)
    hostname = web-3.example.com (uname)
    model_identifier = PowerEdge R650 (/sys/class/dmi/id/product_name)
    os_version = 12 (/etc/os-release)
    os_build = 6.1.0-18-amd64 (uname)
    santa_version = 2026.8 (the compatibility level of this agent)
    sip_status = 0x0 (this system has none)
    primary_user =  (not configured)
    ");
}

/// HOST-1: no value that a server needs is empty.
#[test]
fn host_1_a_container_without_firmware_has_a_fallback_for_each_value() {
    let config = config(&[("MachineID", "c-1")]);
    insta::assert_snapshot!(report("linux-container", &config), @r"
    machine_id = c-1 (MachineID)
    serial_number = c-1 (MachineID)
    hostname = 4f1c2a9b7d3e (uname)
    model_identifier = aarch64 (uname)
    os_version = 6.8.0 (uname)
    os_build = rolling (/usr/lib/os-release)
    santa_version = 2026.8 (the compatibility level of this agent)
    sip_status = 0x0 (this system has none)
    primary_user =  (not configured)
    problem: /etc/machine-id is missing or not 32 hex digits
    ");
    let facts = facts(&config, &recorded("linux-container")).facts;
    for value in [
        facts.serial_number,
        facts.hostname,
        facts.os_version,
        facts.os_build,
        facts.model_identifier,
        facts.santa_version,
    ] {
        assert!(!value.is_empty());
    }
}

/// HOST-2
#[test]
fn host_2_the_first_machine_id_that_is_not_empty_counts() {
    let host = recorded("macos-laptop");
    let id = |entries: &[(&str, &str)]| {
        machine_id(&config(entries), &host).map(|(id, source)| format!("{id} from {source}"))
    };
    let list = [("MachineIDPlist", MAPPING), ("MachineIDKey", "MachineUUID")];
    assert_eq!(id(&[("MachineID", "A"), list[0], list[1]]), Ok("A from MachineID".to_owned()));
    let listed = Ok(format!("asset-00017 from MachineIDPlist {MAPPING} (MachineUUID)"));
    assert_eq!(id(&list), listed);
    assert_eq!(id(&[("MachineID", " "), list[0], list[1]]), listed);
    let hardware = Ok("50C7E1EB-2EF5-42D4-A084-A7966FC45A95 from hardware UUID, \
                       ioreg IOPlatformExpertDevice"
        .to_owned());
    assert_eq!(id(&[]), hardware);
    assert_eq!(id(&[list[0], ("MachineIDKey", "NoSuchKey")]), hardware);
    assert_eq!(id(&[("MachineIDPlist", "/no/such.plist"), list[1]]), hardware);
}

#[test]
fn host_2_a_placeholder_is_refused_whatever_stands_behind_it() {
    let host = recorded("macos-laptop");
    for (entries, from) in [
        (vec![("MachineID", "%HardwareUUID%")], "MachineID"),
        (vec![("MachineID", "$UDID")], "MachineID"),
        (vec![("MachineIDPlist", MAPPING), ("MachineIDKey", "Unfilled")], "MachineIDPlist"),
    ] {
        let problem = machine_id(&config(&entries), &host).expect_err("a placeholder").to_string();
        assert!(problem.contains("placeholder") && problem.contains(from), "{problem}");
    }
}

/// HOST-2: a list that is there but broken must not make the host another one.
#[test]
fn host_2_an_unreadable_list_is_a_problem_and_no_reason_for_another_id() {
    let host = recorded("macos-laptop");
    let broken = "/Applications/Santa.app/Contents";
    let config = config(&[("MachineIDPlist", broken), ("MachineIDKey", "x")]);
    let problem = machine_id(&config, &host).expect_err("no file").to_string();
    assert!(problem.contains("MachineIDPlist /Applications"), "{problem}");
}

#[test]
fn host_2_without_any_source_the_problem_says_why() {
    let problem = machine_id(&Config::default(), &recorded("macos-hanging")).expect_err("no id");
    insta::assert_snapshot!(problem.with_fix(), @"no machine id: neither MachineID nor MachineIDPlist is configured, and the hardware UUID is unknown (/usr/sbin/ioreg did not end within 10000 ms); set MachineID");
    let problem = machine_id(&Config::default(), &recorded("linux-container")).expect_err("no id");
    insta::assert_snapshot!(problem.with_fix(), @"no machine id: neither MachineID nor MachineIDPlist is configured, and the hardware UUID is unknown (/etc/machine-id is missing or not 32 hex digits); set MachineID");
}

#[test]
fn an_owner_is_never_a_placeholder_and_groups_are_strings_or_none() {
    let config = config(&[
        ("MachineOwner", "$USERNAME"),
        ("MachineOwnerPlist", MAPPING),
        ("MachineOwnerGroupsKey", "Mixed"),
    ]);
    let report = facts(&config, &recorded("macos-laptop"));
    assert_eq!(report.facts.primary_user, "");
    assert!(report.facts.primary_user_groups.is_empty());
    let has = |text: &str| report.problems.iter().any(|problem| problem.contains(text));
    assert!(has("placeholder") && has("is not an array of strings"), "{:?}", report.problems);
}

/// HOST-2: groups that a profile or a list names by placeholders are left out one by
/// one, and the report says which.
#[test]
fn host_2_a_placeholder_among_the_owners_groups_is_left_out_and_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let list = dir.path().join("files/groups.plist");
    std::fs::create_dir_all(list.parent().expect("a directory")).expect("made");
    let groups = ["staff", "%GroupName%", "host-{{group}}", "50%"].map(Value::from).to_vec();
    let values = Dictionary::from_iter([
        ("Groups", Value::from(groups.clone())),
        ("Owner", "[[USERNAME]]".into()),
    ]);
    Value::Dictionary(values).to_file_xml(&list).expect("written");
    let listed = config(&[
        ("MachineOwnerPlist", "/groups.plist"),
        ("MachineOwnerGroupsKey", "Groups"),
        ("MachineOwnerKey", "Owner"),
    ]);
    let set = Config {
        machine_owner: Some("${user}".to_owned()),
        machine_owner_groups: groups
            .iter()
            .filter_map(Value::as_string)
            .map(str::to_owned)
            .collect(),
        ..Config::default()
    };
    let list = |key| format!("MachineOwnerPlist: /groups.plist ({key})");
    for (config, of_groups, of_owner, owner) in [
        (listed, list("Groups"), list("Owner"), "[[USERNAME]]"),
        (set, "MachineOwnerGroups".to_owned(), "MachineOwner".to_owned(), "${user}"),
    ] {
        let report = facts(&config, &RecordedHost::new(dir.path()));
        assert_eq!(report.facts.primary_user, "");
        assert_eq!(report.facts.primary_user_groups, ["staff", "50%"]);
        let replaced: Vec<_> =
            report.problems.iter().filter(|problem| problem.contains("placeholder")).collect();
        let not_replaced = "is a placeholder that was not replaced";
        assert_eq!(
            replaced,
            [
                &format!("{of_groups}: \"%GroupName%\" {not_replaced}"),
                &format!("{of_groups}: \"host-{{{{group}}}}\" {not_replaced}"),
                &format!("{of_owner}: {owner:?} {not_replaced}"),
            ]
        );
    }
}

#[test]
fn versions_are_cut_to_dotted_integers() {
    for (text, version) in
        [("6.1.0-18-amd64", "6.1.0"), ("12", "12"), ("22.04 ", "22.04"), ("15.", "15")]
    {
        assert_eq!(dotted(text), Some(version));
    }
    for text in ["", "rolling", ".5", "1..2"] {
        assert_eq!(dotted(text), None, "{text}");
    }
}

/// The system the tests run on has facts, whatever it is.
#[test]
fn this_system_tells_something() {
    let report = facts(&Config::default(), &SystemHost);
    assert!(!report.facts.hostname.is_empty() && !report.facts.os_version.is_empty());
    assert!(SystemHost.read(Path::new("/")).is_err());
}
