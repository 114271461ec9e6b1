use std::path::PathBuf;

use super::*;
use crate::config::{Config, Layer, Source};
use crate::host::RecordedHost;

/// The report, with the version of this program made stable.
fn report(case: &str, entries: &[(&str, &str)]) -> IdentityReport {
    let mut report = whole_report(case, entries);
    for fact in report.facts.iter_mut().filter(|fact| fact.name == "agent_version") {
        assert_eq!(fact.value, env!("CARGO_PKG_VERSION"));
        "VERSION".clone_into(&mut fact.value);
    }
    report
}

fn whole_report(case: &str, entries: &[(&str, &str)]) -> IdentityReport {
    let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/host");
    let values = entries.iter().map(|(k, v)| ((*k).to_owned(), plist::Value::from(*v))).collect();
    let layer = Layer { source: Source::CommandLine, domain: None, values, exposed: false };
    let config = Config::resolve(&[layer]).config;
    IdentityReport::of(host::facts(&config, &RecordedHost::new(fixtures.join(case))))
}

/// HOST-1, HOST-2
#[test]
fn each_value_stands_beside_its_source() {
    let report = report("macos-laptop", &[("MachineOwner", "kim")]);
    assert_eq!(report.exit_code(), 0);
    insta::assert_snapshot!(report.text(), @r"
    machine_id        50C7E1EB-2EF5-42D4-A084-A7966FC45A95  hardware UUID, ioreg IOPlatformExpertDevice
    serial_number     QYGF4QM373                            ioreg IOPlatformExpertDevice
    hardware_uuid     50C7E1EB-2EF5-42D4-A084-A7966FC45A95  ioreg IOPlatformExpertDevice
    hostname          kims-laptop.example.com               uname
    model_identifier  MacBookPro18,3                        sysctl hw.model
    os_version        26.5.1                                /System/Library/CoreServices/SystemVersion.plist
    os_build          25F79                                 /System/Library/CoreServices/SystemVersion.plist
    santa_version     2026.6.655965194                      /Applications/Santa.app/Contents/Info.plist
    sip_status        0x0                                   boot policy, ioreg IODeviceTree
    primary_user      kim                                   MachineOwner
    agent_version     VERSION                               this program
    ");
    insta::assert_json_snapshot!(report, @r#"
    {
      "schema_version": 1,
      "machine_id": "50C7E1EB-2EF5-42D4-A084-A7966FC45A95",
      "machine_id_error": null,
      "facts": [
        {
          "name": "machine_id",
          "value": "50C7E1EB-2EF5-42D4-A084-A7966FC45A95",
          "source": "hardware UUID, ioreg IOPlatformExpertDevice"
        },
        {
          "name": "serial_number",
          "value": "QYGF4QM373",
          "source": "ioreg IOPlatformExpertDevice"
        },
        {
          "name": "hardware_uuid",
          "value": "50C7E1EB-2EF5-42D4-A084-A7966FC45A95",
          "source": "ioreg IOPlatformExpertDevice"
        },
        {
          "name": "hostname",
          "value": "kims-laptop.example.com",
          "source": "uname"
        },
        {
          "name": "model_identifier",
          "value": "MacBookPro18,3",
          "source": "sysctl hw.model"
        },
        {
          "name": "os_version",
          "value": "26.5.1",
          "source": "/System/Library/CoreServices/SystemVersion.plist"
        },
        {
          "name": "os_build",
          "value": "25F79",
          "source": "/System/Library/CoreServices/SystemVersion.plist"
        },
        {
          "name": "santa_version",
          "value": "2026.6.655965194",
          "source": "/Applications/Santa.app/Contents/Info.plist"
        },
        {
          "name": "sip_status",
          "value": "0x0",
          "source": "boot policy, ioreg IODeviceTree"
        },
        {
          "name": "primary_user",
          "value": "kim",
          "source": "MachineOwner"
        },
        {
          "name": "agent_version",
          "value": "VERSION",
          "source": "this program"
        }
      ],
      "problems": []
    }
    "#);
}

/// EXIT: 7 is "no machine id".
#[test]
fn a_host_without_a_machine_id_says_why_and_exits_7() {
    let report = report("linux-container", &[]);
    assert_eq!(report.exit_code(), 7);
    insta::assert_snapshot!(report.text(), @r"
    error: no machine id: neither MachineID nor MachineIDPlist is configured, and the hardware UUID is unknown (/etc/machine-id is missing or not 32 hex digits); set MachineID
    serial_number     unknown       nothing tells it
    hostname          4f1c2a9b7d3e  uname
    model_identifier  aarch64       uname
    os_version        6.8.0         uname
    os_build          rolling       /usr/lib/os-release
    santa_version     2026.8        the compatibility level of this agent
    sip_status        0x0           this system has none
    primary_user      -             not configured
    agent_version     VERSION       this program
    note: /etc/machine-id is missing or not 32 hex digits
    ");
    insta::assert_json_snapshot!(report, @r#"
    {
      "schema_version": 1,
      "machine_id": null,
      "machine_id_error": {
        "message": "no machine id: neither MachineID nor MachineIDPlist is configured, and the hardware UUID is unknown (/etc/machine-id is missing or not 32 hex digits)",
        "fix": "set MachineID"
      },
      "facts": [
        {
          "name": "serial_number",
          "value": "unknown",
          "source": "nothing tells it"
        },
        {
          "name": "hostname",
          "value": "4f1c2a9b7d3e",
          "source": "uname"
        },
        {
          "name": "model_identifier",
          "value": "aarch64",
          "source": "uname"
        },
        {
          "name": "os_version",
          "value": "6.8.0",
          "source": "uname"
        },
        {
          "name": "os_build",
          "value": "rolling",
          "source": "/usr/lib/os-release"
        },
        {
          "name": "santa_version",
          "value": "2026.8",
          "source": "the compatibility level of this agent"
        },
        {
          "name": "sip_status",
          "value": "0x0",
          "source": "this system has none"
        },
        {
          "name": "primary_user",
          "value": "",
          "source": "not configured"
        },
        {
          "name": "agent_version",
          "value": "VERSION",
          "source": "this program"
        }
      ],
      "problems": [
        "/etc/machine-id is missing or not 32 hex digits"
      ]
    }
    "#);
}

#[test]
fn a_placeholder_is_named_with_the_key_that_holds_it() {
    let report = report("macos-laptop", &[("MachineID", "%SerialNumber%")]);
    assert_eq!(report.exit_code(), 7);
    insta::assert_snapshot!(report.text().lines().next().unwrap_or_default(), @r#"error: the machine id "%SerialNumber%" is a placeholder that was not replaced (from MachineID); write the id itself there, or unset the key to use the hardware UUID"#);
}
