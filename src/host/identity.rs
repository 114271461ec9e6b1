//! The machine id and the owner, from configuration, property lists and the
//! hardware (HOST-2).

use std::io;
use std::path::{Path, PathBuf};

use plist::Value;
use thiserror::Error;

use super::source::HostSource;
use super::{Fact, Observed, dictionary};
use crate::config::Config;
use crate::model::{MachineId, MachineIdError};

/// Why the host has no machine id.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MachineIdProblem {
    /// No source tells one.
    #[error(
        "no machine id: neither MachineID nor MachineIDPlist is configured, and the hardware \
         tells none{}; set MachineID",
        .0.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default()
    )]
    Missing(Option<String>),
    /// A source tells one that cannot be used.
    #[error(
        "{reason} (from {source_name}); write the id itself there, or remove the key to use the \
         hardware UUID"
    )]
    Refused {
        /// Where it comes from.
        source_name: String,
        /// What is wrong with it.
        reason: MachineIdError,
    },
    /// The property list is there, but cannot be read. Going on with another
    /// id would make this host a stranger to its server.
    #[error(
        "MachineIDPlist {} cannot be read: {reason}; mend it or remove the key",
        path.display()
    )]
    Plist {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// The first machine id that is not empty. `hardware` is asked last.
pub(super) fn machine_id(
    config: &Config,
    host: &dyn HostSource,
    hardware: impl FnOnce() -> Observed,
) -> Result<(MachineId, String), MachineIdProblem> {
    let checked = |fact: Fact| match MachineId::new(&fact.value) {
        Ok(id) => Ok((id, fact.source)),
        Err(reason) => Err(MachineIdProblem::Refused { source_name: fact.source, reason }),
    };
    if let Some(id) = &config.machine_id {
        return checked(Fact::new(id, "MachineID"));
    }
    if let (Some(path), Some(key)) = (&config.machine_id_plist, &config.machine_id_key) {
        match listed(host, path, key) {
            Ok(Some(Value::String(id))) if !id.trim().is_empty() => {
                return checked(Fact::new(id, source_name("MachineIDPlist", path, key)));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let (path, reason) = (path.clone(), error.to_string());
                return Err(MachineIdProblem::Plist { path, reason });
            }
        }
    }
    let observed = hardware();
    match observed.uuid {
        Some(uuid) => checked(Fact::new(uuid.value, format!("hardware UUID, {}", uuid.source))),
        None => Err(MachineIdProblem::Missing(observed.problems.into_iter().next())),
    }
}

/// The owner (maybe empty) and the owner's groups.
pub(super) fn owner(
    config: &Config,
    host: &dyn HostSource,
    problems: &mut Vec<String>,
) -> (Fact, Vec<Fact>) {
    let mut from_list = |key: &Option<String>| {
        let (path, key) = (config.machine_owner_plist.as_deref()?, key.as_deref()?);
        match listed(host, path, key) {
            Ok(value) => Some((value?, source_name("MachineOwnerPlist", path, key))),
            Err(error) => {
                problems.push(format!("MachineOwnerPlist {}: {error}", path.display()));
                None
            }
        }
    };
    let owner = match &config.machine_owner {
        Some(owner) => Some(Fact::new(owner, "MachineOwner")),
        None => from_list(&config.machine_owner_key)
            .and_then(|(value, source)| Fact::filled(value.as_string()?, source)),
    };
    let groups: Vec<Fact> = if config.machine_owner_groups.is_empty() {
        from_list(&config.machine_owner_groups_key)
            .and_then(|(value, source)| {
                // All or none, as the existing client has it.
                let array = value.as_array()?;
                array.iter().map(|v| Some(Fact::new(v.as_string()?, &source))).collect()
            })
            .unwrap_or_default()
    } else {
        let groups = &config.machine_owner_groups;
        groups.iter().map(|group| Fact::new(group, "MachineOwnerGroups")).collect()
    };
    let none = || Fact::new("", "not configured");
    let owner = owner.unwrap_or_else(none);
    if let Err(MachineIdError::Placeholder(text)) = MachineId::new(&owner.value) {
        let source = &owner.source;
        problems.push(format!("{source}: {text:?} is a placeholder that was not replaced"));
        return (Fact::new("", format!("{source} holds a placeholder")), groups);
    }
    (owner, groups)
}

fn listed(host: &dyn HostSource, path: &Path, key: &str) -> io::Result<Option<Value>> {
    Ok(dictionary(host, path)?.remove(key))
}

fn source_name(name: &str, path: &Path, key: &str) -> String {
    format!("{name} {} ({key})", path.display())
}
