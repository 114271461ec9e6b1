//! Who and what this host is: the machine id, its owner, and the facts a
//! preflight tells.
//!
//! Everything is read from files and the output of a few commands, through a
//! [`HostSource`] that tests replace by recordings. A file that is not there or
//! a command that hangs costs its own value, never the sync: each value has a
//! fallback, so that none a server needs is empty (HOST-1). Nothing here changes
//! anything or uses the network.

use std::path::Path;

mod authorizer;
mod boot;
mod command;
mod group;
mod identity;
mod known;
mod linux;
mod macos;
mod proxies;
mod signals;
mod source;
mod user;

pub use authorizer::{AUTHORIZER_FILE, AuthorizerReport};
pub use boot::{boot_id, woke_at};
pub use command::CommandError;
pub use group::group_id;
pub use identity::{IdentityProblem, MachineIdProblem, identity_problems};
pub use known::{KNOWN_FACTS_FILE, KnownFacts, RememberingHost};
pub use proxies::{SystemProxies, with_system_proxies};
pub use signals::{Ignored, ignored_signals};
#[cfg(any(test, feature = "internals"))]
pub use source::RecordedHost;
pub use source::{HostSource, SystemHost, Uname};

pub use user::{nobody_id, user_id, user_name};

use crate::config::Config;
use crate::model::{HostFacts, MachineId};
use crate::plist_bounded::read_plist;

/// The Santa whose sync behaviour this agent has, told to servers where no
/// Santa is installed. Servers switch features off below 2025.6; this is the
/// release the contract was written against.
pub const COMPATIBILITY_VERSION: &str = "2026.8";

/// A value and where it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// The value; empty only for an unknown owner.
    pub value: String,
    /// The key, file or command it comes from.
    pub source: String,
}

impl Fact {
    fn new(value: impl Into<String>, source: impl Into<String>) -> Self {
        Self { value: value.into(), source: source.into() }
    }

    /// A fact of that value, unless the value is blank.
    fn filled(value: &str, source: impl Into<String>) -> Option<Self> {
        let value = value.trim();
        (!value.is_empty()).then(|| Self::new(value, source))
    }
}

/// Facts from the operating system, as far as they could be read.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
struct Observed {
    uuid: Option<Fact>,
    serial: Option<Fact>,
    model: Option<Fact>,
    os_version: Option<Fact>,
    os_build: Option<Fact>,
    sip: Option<(u32, String)>,
    problems: Vec<String>,
}

/// Everything known of the host.
#[derive(Clone, Debug)]
pub struct HostReport {
    /// The id a server knows this host by, and where it comes from.
    pub machine_id: Result<(MachineId, String), MachineIdProblem>,
    /// The facts that a preflight reports.
    pub facts: HostFacts,
    /// Every value by name with its source, in the order to show them.
    pub sources: Vec<(&'static str, Fact)>,
    /// What could not be read and cost a value its best source.
    pub problems: Vec<String>,
    /// What later syncs fall back to; `None` if they are to fall back to nothing.
    pub known: Option<KnownFacts>,
}

/// The machine id: the first that is not empty of `MachineID`, the value under
/// `MachineIDKey` in `MachineIDPlist`, and the hardware UUID (HOST-2). On Linux
/// the last is `/etc/machine-id` in the form of a UUID, which is the same for
/// every user who asks.
///
/// # Errors
/// If there is none, it is a placeholder that was not replaced, or the file
/// that should hold it is there but cannot be read.
pub fn machine_id(
    config: &Config,
    host: &dyn HostSource,
) -> Result<(MachineId, String), MachineIdProblem> {
    identity::machine_id(config, host, || hardware(host))
}

/// The hardware UUID; `None` if it cannot be read. On Linux it is
/// `/etc/machine-id` in the form of a UUID.
#[must_use]
pub fn hardware_uuid(host: &dyn HostSource) -> Option<String> {
    hardware(host).uuid.map(|uuid| uuid.value)
}

fn hardware(host: &dyn HostSource) -> Observed {
    if !host.uname().is_macos() {
        return linux::hardware(host);
    }
    let mut observed = macos::hardware(host);
    if observed.uuid.is_none() {
        host.known().fill(&mut observed);
    }
    observed
}

/// Everything known of the host; runs each command once.
#[must_use]
pub fn facts(config: &Config, host: &dyn HostSource) -> HostReport {
    let uname = host.uname();
    let (observed, known) = if uname.is_macos() {
        let mut observed = macos::observe(host);
        host.known().fill(&mut observed);
        let known = KnownFacts::of(&observed);
        (observed, Some(known))
    } else {
        // An image that is made into many hosts loses its `machine-id` on
        // purpose, and may keep its state directory.
        (linux::observe(host), None)
    };
    let machine_id = identity::machine_id(config, host, || observed.clone());
    let mut problems = observed.problems.clone();
    // What is wrong with MachineIDPlist is the reason why there is no machine id.
    let is_reason = matches!(
        machine_id,
        Err(MachineIdProblem::Plist { .. } | MachineIdProblem::Refused { .. })
    );
    problems.extend(
        identity_problems(config, host)
            .into_iter()
            .filter(|problem| !(is_reason && problem.key == "MachineIDPlist"))
            .map(|problem| format!("{}: {}", problem.key, problem.message)),
    );
    let identity::Owner { name: owner, groups, .. } = identity::owner(config, host);
    let santa = installed_santa(host).unwrap_or_else(|| {
        Fact::new(COMPATIBILITY_VERSION, "the compatibility level of this agent")
    });

    let or = |fact: &Option<Fact>, fallback: &dyn Fn() -> Option<Fact>| {
        fact.clone().or_else(fallback).unwrap_or_else(|| Fact::new("unknown", "nothing tells it"))
    };
    let hostname = Fact::filled(&uname.nodename, "uname")
        .unwrap_or_else(|| Fact::new("localhost", "no host name is set"));
    let serial = or(&observed.serial, &|| {
        observed.uuid.clone().or_else(|| {
            let (id, source) = machine_id.as_ref().ok()?;
            Some(Fact::new(id.as_str(), source.clone()))
        })
    });
    let model = or(&observed.model, &|| Fact::filled(&uname.machine, "uname"));
    let kernel = || Some(Fact::new(dotted(&uname.release)?, "uname"));
    let os_version = observed
        .os_version
        .clone()
        .or_else(kernel)
        .unwrap_or_else(|| Fact::new("0", "nothing tells it"));
    let os_build = or(&observed.os_build, &|| Fact::filled(&uname.release, "uname"));
    let (sip_status, sip_source) = observed.sip.clone().unwrap_or_else(|| {
        if uname.is_macos() {
            // As the existing client tells it; 0 would claim that all is on.
            (u32::MAX, "nothing tells it".to_owned())
        } else {
            (0, "this system has none".to_owned())
        }
    });

    let facts = HostFacts {
        serial_number: serial.value.clone(),
        hostname: hostname.value.clone(),
        os_version: os_version.value.clone(),
        os_build: os_build.value.clone(),
        model_identifier: model.value.clone(),
        santa_version: santa.value.clone(),
        primary_user: owner.value.clone(),
        primary_user_groups: groups.iter().map(|group| group.value.clone()).collect(),
        sip_status,
    };
    let mut sources = vec![
        ("serial_number", serial),
        ("hostname", hostname),
        ("model_identifier", model),
        ("os_version", os_version),
        ("os_build", os_build),
        ("santa_version", santa),
        ("sip_status", Fact::new(format!("{sip_status:#x}"), sip_source)),
        ("primary_user", owner),
    ];
    sources.extend(groups.into_iter().map(|group| ("primary_user_group", group)));
    if let Some(uuid) = observed.uuid {
        sources.insert(1, ("hardware_uuid", uuid));
    }
    HostReport { machine_id, facts, sources, problems, known }
}

/// The installed Santa's version. The build number is the fuller one of the two
/// and the one Santa itself tells servers.
fn installed_santa(host: &dyn HostSource) -> Option<Fact> {
    let path = "/Applications/Santa.app/Contents/Info.plist";
    let info = dictionary(host, Path::new(path)).ok()?;
    ["CFBundleVersion", "CFBundleShortVersionString"].iter().find_map(|key| {
        let text = info.get(key)?.as_string()?.trim();
        (dotted(text)? == text).then(|| Fact::new(text, path))
    })
}

/// The property list dictionary in a file.
fn dictionary(host: &dyn HostSource, path: &Path) -> std::io::Result<plist::Dictionary> {
    let malformed = |reason: String| std::io::Error::new(std::io::ErrorKind::InvalidData, reason);
    let value = read_plist(&host.read(path)?).map_err(|error| malformed(error.to_string()))?;
    value.into_dictionary().ok_or_else(|| malformed("not a dictionary".to_owned()))
}

/// The dotted integers a text begins with, for example `6.1.0` of
/// `6.1.0-18-amd64`.
fn dotted(text: &str) -> Option<&str> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let version = text.get(..end)?.trim_end_matches('.');
    let whole = version.split('.').all(|part| !part.is_empty());
    (whole && !version.is_empty()).then_some(version)
}

#[cfg(test)]
mod tests;
