use std::fs;

use super::*;
use crate::host::{KnownFacts, RecordedHost, RememberingHost};

const CASES: [&str; 5] =
    ["macos-laptop", "macos-26-older-sdk", "macos-intel", "macos-vm", "macos-vm-without-serial"];

fn recorded(case: &str) -> RecordedHost {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/host");
    RecordedHost::new(root.join(case))
}

fn output(case: &str, file: &str) -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/host");
    fs::read(root.join(case).join("commands").join(file)).expect("a recorded output")
}

/// A Mac with these outputs of commands.
fn mac(machine: &str, commands: &[(&str, &[u8])]) -> (tempfile::TempDir, RecordedHost) {
    let dir = tempfile::tempdir().expect("a directory");
    fs::create_dir(dir.path().join("commands")).expect("made");
    fs::write(dir.path().join("uname"), format!("Darwin\nm.local\n25.5.0\n{machine}\n"))
        .expect("written");
    for (name, output) in commands {
        fs::write(dir.path().join("commands").join(name), output).expect("written");
    }
    let host = RecordedHost::new(dir.path());
    (dir, host)
}

/// HOST-1: each Mac's version and build, serial number, model, and the flags of
/// System Integrity Protection with their source.
#[test]
fn host_1_macs_of_several_versions_are_read() {
    let lines = CASES.map(|case| {
        let observed = observe(&recorded(case));
        let value = |fact: &Option<Fact>| fact.as_ref().map_or("-".to_owned(), |f| f.value.clone());
        let sip =
            observed.sip.map_or("-".to_owned(), |(flags, from)| format!("{flags:#x}, {from}"));
        let [version, build, serial, model] =
            [&observed.os_version, &observed.os_build, &observed.serial, &observed.model]
                .map(value);
        let problems = observed.problems.join("; ");
        format!("{case}: {version} {build} {serial} {model} [{sip}] {problems}").trim().to_owned()
    });
    insta::assert_snapshot!(lines.join("\n"), @r"
    macos-laptop: 26.5.1 25F79 QYGF4QM373 MacBookPro18,3 [0x0, boot policy, ioreg IODeviceTree]
    macos-26-older-sdk: 26.5.1 25F79 H2WX7K0Q1F Mac16,10 [0xa6f, boot policy, ioreg IODeviceTree]
    macos-intel: 13.4.1 22F770820d C02F10ABMD6R MacBookPro16,1 [0x877, nvram csr-active-config]
    macos-vm: 14.8.2 23J126 ZQ4TX9P2LM VirtualMac2,1 [0x0, boot policy, ioreg IODeviceTree]
    macos-vm-without-serial: 15.6 24G84 - VMware20,1 [-] csrutil status does not say which protections are off
    ");
}

/// HOST-1: the kernel's flags, as the boot policy holds them.
#[test]
fn host_1_the_boot_policy_gives_the_kernels_flags() {
    let with = |sip0: &[u8], sip1: &[u8]| {
        let mut node = Dictionary::new();
        node.insert("lp-sip0".to_owned(), Value::Data(sip0.to_vec()));
        node.insert("lp-sip1".to_owned(), Value::Data(sip1.to_vec()));
        let mut text = Vec::new();
        Value::Array(vec![Value::Dictionary(node)]).to_writer_xml(&mut text).expect("written");
        boot_policy_flags(&text)
    };
    let off = [0, 0, 0, 0];
    assert_eq!(with(&[0; 8], &off), Some(0));
    assert_eq!(with(&[0x7f, 0, 0, 0, 0, 0, 0, 0], &off), Some(0x6f), "not Apple's own hardware");
    assert_eq!(with(&[0x7f, 0x0a, 0, 0, 0, 0, 0, 0], &[1, 0, 0, 0]), Some(0xa6f));
    assert_eq!(with(&[0, 8, 0, 0, 0, 0, 0, 0], &off), Some(0), "lp-sip1 decides on the root");
    assert_eq!(with(&[0, 0, 0xff, 0xff, 0, 0, 0, 0], &off), Some(0), "flags of a later kernel");
    assert_eq!(with(&[], &off), None);
    assert_eq!(with(&[1, 0], &off), None);
}

#[test]
fn host_1_nvram_gives_the_flags_of_an_intel_mac() {
    let flags = |value: &str| nvram_flags(&format!("csr-active-config\t{value}\n"));
    assert_eq!(flags("%7f%00%00%00"), Some(0x7f));
    assert_eq!(flags("w%08%00%00"), Some(0x877), "printable bytes stand for themselves");
    assert_eq!(flags("%25%00%00%00"), Some(0x25));
    for wrong in ["", "%", "%7", "%7f%00%00", "%zz%00%00%00", "%7f%00%00%00%00", "%é"] {
        assert_eq!(flags(wrong), None, "{wrong:?}");
    }
    assert_eq!(nvram_flags(""), None);
    assert_eq!(nvram_flags("other\t%7f%00%00%00"), None);
}

/// HOST-1: `csrutil` counts only if everything is on, since its report leaves
/// flags out.
#[test]
fn host_1_csrutil_counts_if_all_is_on() {
    let status = |s: &str| is_all_on(&format!("System Integrity Protection status: {s}\n"));
    assert!(status("enabled.") && status("enabled"));
    for other in ["disabled.", "enabled (Custom Configuration).", "unknown", "", "something new."] {
        assert!(!status(other), "{other}");
    }
    assert!(!is_all_on(""));
    assert!(!is_all_on(&text(&output("macos-intel", "csrutil"))));
}

/// HOST-1: output that is empty, cut off anywhere, or of a later system costs the
/// fact, and is never taken for another.
#[test]
fn host_1_output_cut_off_anywhere_gives_no_wrong_fact() {
    for case in CASES {
        let whole = output(case, "ioreg");
        for length in (0..whole.len()).step_by(97) {
            let (_dir, host) = mac("arm64", &[("ioreg", &whole[..length])]);
            let observed = hardware(&host);
            assert_eq!((observed.serial, observed.uuid), (None, None), "{case} at {length}");
            assert_eq!(observed.problems.len(), 1);
        }
    }
    let policy = output("macos-26-older-sdk", "ioreg.asmb");
    for length in (0..policy.len() - 20).step_by(53) {
        assert_eq!(boot_policy_flags(&policy[..length]), None, "at {length}");
    }
    let empty: &[u8] = b"";
    let (_dir, host) = mac(
        "x86_64",
        &["ioreg", "sysctl", "sw_vers", "nvram", "csrutil"].map(|program| (program, empty)),
    );
    let observed = observe(&host);
    assert_eq!(KnownFacts::of(&observed), KnownFacts::default(), "{observed:?}");
}

/// A later macOS may rename keys or change their types.
#[test]
fn host_1_output_of_a_later_system_is_no_fact() {
    for devices in [
        "<array/>",
        "<array><string>IOPlatformExpertDevice</string></array>",
        "<dict><key>IOPlatformUUID</key><string>U</string></dict>",
        "<array><dict><key>IOPlatformUUID</key><data>VQ==</data></dict></array>",
        "<array><dict><key>PlatformUUID</key><string>U</string></dict></array>",
    ] {
        let text = format!("<plist version=\"1.0\">{devices}</plist>");
        let (_dir, host) = mac("arm64", &[("ioreg", text.as_bytes())]);
        assert_eq!(hardware(&host).uuid, None, "{devices}");
    }
}

/// HOST-1: 16 and 10.16 are what programs of older SDKs are told.
#[test]
fn host_1_a_version_for_older_programs_is_asked_of_sw_vers() {
    let version = |plist: &str, sw_vers: &str| {
        let (dir, host) = mac("arm64", &[("sw_vers", sw_vers.as_bytes())]);
        let file = dir.path().join("files").join(SYSTEM_VERSION.trim_start_matches('/'));
        fs::create_dir_all(file.parent().expect("a parent")).expect("made");
        let text = format!(
            "<plist version=\"1.0\"><dict><key>ProductVersion</key><string>{plist}</string></dict></plist>"
        );
        fs::write(file, text).expect("written");
        let mut observed = Observed::default();
        system_version(&host, &mut observed);
        observed.os_version.map(|fact| fact.value)
    };
    assert_eq!(version("26.5.1", "9.9\n").as_deref(), Some("26.5.1"));
    assert_eq!(version("16.5.1", "26.5.1\n").as_deref(), Some("26.5.1"));
    assert_eq!(version("10.16", "12.7.6\n").as_deref(), Some("12.7.6"));
    assert_eq!(version("160.1", "9.9\n").as_deref(), Some("160.1"));
    assert_eq!(version("twenty", "26.0\n").as_deref(), Some("26.0"));
    assert_eq!(version("16.0", "ProductVersion: 26.0\n"), None);
}

/// HOST-1: what an earlier sync read stands in for what cannot be read now, and
/// what can be read replaces it.
#[test]
fn host_1_facts_keep_their_last_value() {
    let state = tempfile::tempdir().expect("a directory");
    let config = crate::config::Config::default();
    let laptop = RememberingHost::new(recorded("macos-laptop"), state.path());
    let before = crate::host::facts(&config, &laptop);
    before.known.clone().expect("facts of a Mac").keep(state.path());

    let hanging = RememberingHost::new(recorded("macos-hanging"), state.path());
    let after = crate::host::facts(&config, &hanging);
    let comparable = |facts: &crate::model::HostFacts| {
        let f = facts.clone();
        (f.serial_number, f.model_identifier, f.os_version, f.os_build, f.sip_status)
    };
    assert_eq!(comparable(&after.facts), comparable(&before.facts));
    let id = |report: &crate::host::HostReport| {
        report.machine_id.as_ref().map(|(id, _)| id.as_str().to_owned()).ok()
    };
    assert_eq!(id(&after), id(&before));
    assert!(!after.problems.is_empty(), "what failed is still reported");
    let (id, source) = crate::host::machine_id(&config, &hanging).expect("the kept one");
    assert!(source.contains("an earlier sync"), "{id}: {source}");
    assert_eq!(after.known, before.known, "kept values stay kept");

    let other = RememberingHost::new(recorded("macos-vm"), state.path());
    assert_eq!(crate::host::facts(&config, &other).facts.model_identifier, "VirtualMac2,1");
    for broken in ["", "{", "[]", "{\"sip_status\":\"x\"}"] {
        fs::write(state.path().join(crate::host::KNOWN_FACTS_FILE), broken).expect("written");
        assert_eq!(hanging.known(), KnownFacts::default(), "{broken:?}");
    }
}
