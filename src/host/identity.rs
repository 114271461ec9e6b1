//! The machine id and the owner, from configuration, property lists and the
//! hardware (HOST-2).

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};

use plist::Value;
use thiserror::Error;

use super::source::HostSource;
use super::{Fact, Observed, dictionary};
use crate::config::Config;
use crate::failure::Remedy;
use crate::model::{MachineId, MachineIdError, is_placeholder};

/// Why the host has no machine id.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MachineIdProblem {
    /// No source has one.
    #[error(
        "no machine id: neither MachineID nor MachineIDPlist is configured, and the hardware UUID \
         is unknown{}",
        .0.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default()
    )]
    Missing(Option<String>),
    /// A source has one that cannot be used.
    #[error("{reason} (from {source_name})")]
    Refused {
        /// Where it comes from.
        source_name: String,
        /// What is wrong with it.
        reason: MachineIdError,
    },
    /// The property list is there, but cannot be read. Going on with another
    /// id would make this host a stranger to its server.
    #[error("MachineIDPlist {} cannot be read: {reason}", path.display())]
    Plist {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl Remedy for MachineIdProblem {
    fn fix(&self) -> Option<Cow<'static, str>> {
        let fix = match self {
            Self::Missing(_) => "set MachineID",
            Self::Refused { .. } => {
                "write the id itself there, or unset the key to use the hardware UUID"
            }
            Self::Plist { .. } => "fix the file or unset MachineIDPlist",
        };
        Some(fix.into())
    }
}

/// Returns the first machine id that is not empty. `hardware` comes last.
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
    if let Some(id) = listed_id(config, host)? {
        return checked(id);
    }
    let observed = hardware();
    match observed.uuid {
        Some(uuid) => checked(Fact::new(uuid.value, format!("hardware UUID, {}", uuid.source))),
        None => Err(MachineIdProblem::Missing(observed.problems.into_iter().next())),
    }
}

/// Returns the machine id that `MachineIDPlist` has, if that is configured.
fn listed_id(config: &Config, host: &dyn HostSource) -> Result<Option<Fact>, MachineIdProblem> {
    let (Some(path), Some(key)) = (&config.machine_id_plist, &config.machine_id_key) else {
        return Ok(None);
    };
    match dictionary(host, path) {
        Ok(list) => {
            let id = list.get(key).and_then(text_of);
            Ok(id.map(|id| Fact::new(id, source_name("MachineIDPlist", path, key))))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            Err(MachineIdProblem::Plist { path: path.clone(), reason: error.to_string() })
        }
    }
}

/// Whose the host is.
pub(super) struct Owner {
    /// The owner; may be empty.
    pub(super) name: Fact,
    pub(super) groups: Vec<Fact>,
    /// The placeholders among them, which count as absent.
    placeholders: Vec<IdentityProblem>,
}

/// Returns the owner and the owner's groups.
pub(super) fn owner(config: &Config, host: &dyn HostSource) -> Owner {
    let list = config.machine_owner_plist.as_deref();
    let list = list.and_then(|path| Some((path, dictionary(host, path).ok()?)));
    let listed = |key: &Option<String>| {
        let ((path, list), key) = (list.as_ref()?, key.as_deref()?);
        Some((list.get(key)?, source_name("MachineOwnerPlist", path, key)))
    };
    let owner = match &config.machine_owner {
        Some(owner) => Some(Fact::new(owner, "MachineOwner")),
        None => listed(&config.machine_owner_key)
            .and_then(|(value, source)| Some(Fact::new(text_of(value)?, source))),
    };
    let mut groups: Vec<Fact> = if config.machine_owner_groups.is_empty() {
        listed(&config.machine_owner_groups_key)
            .and_then(|(value, source)| {
                // All or none, as the existing client has it.
                Some(texts_of(value)?.into_iter().map(|v| Fact::new(v, &source)).collect())
            })
            .unwrap_or_default()
    } else {
        let groups = &config.machine_owner_groups;
        groups.iter().map(|group| Fact::new(group, "MachineOwnerGroups")).collect()
    };
    let mut placeholders = Vec::new();
    let mut is_replaced = |fact: &Fact, key: &'static str| {
        let found = placeholder(fact, key);
        let is_replaced = found.is_none();
        placeholders.extend(found);
        is_replaced
    };
    groups.retain(|group| is_replaced(group, "MachineOwnerGroups"));
    let owner = owner.unwrap_or_else(|| Fact::new("", "not configured"));
    let name = if is_replaced(&owner, "MachineOwner") {
        owner
    } else {
        Fact::new("", format!("{} holds a placeholder", owner.source))
    };
    Owner { name, groups, placeholders }
}

/// What is wrong with a value that its management system has not filled in. `key` is
/// the one that sets it, unless it comes from a list.
fn placeholder(fact: &Fact, key: &'static str) -> Option<IdentityProblem> {
    if !is_placeholder(&fact.value) {
        return None;
    }
    let what = format!("{:?} is a placeholder that was not replaced", start_of(&fact.value));
    Some(match fact.source.split_once(' ') {
        Some((list, place)) => IdentityProblem {
            key: if list == "MachineIDPlist" { "MachineIDPlist" } else { "MachineOwnerPlist" },
            message: format!("{place}: {what}"),
            fix: "correct it there, or name another key",
        },
        None => IdentityProblem {
            key,
            message: what,
            fix: "have the management system fill it in, or remove it",
        },
    })
}

/// A key of the machine id, the owner or the groups that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityProblem {
    /// The configuration's key.
    pub key: &'static str,
    /// What is wrong.
    pub message: String,
    /// How to fix it.
    pub fix: &'static str,
}

/// Returns what is wrong with the property lists that the configuration names for
/// machine id, owner and groups, and with the values there and of owner and groups
/// (HOST-2). What is wrong with `MachineID` is for [`MachineId::new`].
#[must_use]
pub fn identity_problems(config: &Config, host: &dyn HostSource) -> Vec<IdentityProblem> {
    type Usable = fn(&Value) -> bool;
    let text: Usable = |value| text_of(value).is_some();
    let texts: Usable = |value| texts_of(value).is_some();
    let id = config.machine_id.is_none();
    let owner = config.machine_owner.is_none();
    let groups = config.machine_owner_groups.is_empty();
    let id_keys = [("MachineIDKey", &config.machine_id_key, id, text)];
    let owner_keys = [
        ("MachineOwnerKey", &config.machine_owner_key, owner, text),
        ("MachineOwnerGroupsKey", &config.machine_owner_groups_key, groups, texts),
    ];
    let mut problems = Vec::new();
    for (list_key, path, keys) in [
        ("MachineIDPlist", &config.machine_id_plist, &id_keys[..]),
        ("MachineOwnerPlist", &config.machine_owner_plist, &owner_keys),
    ] {
        let Some(path) = path else { continue };
        let shown = path.display();
        let list = match dictionary(host, path) {
            Ok(list) => list,
            Err(error) => {
                let message = format!("{shown} cannot be read: {error}");
                let fix = "check the path and its permissions, or remove the key";
                problems.push(IdentityProblem { key: list_key, message, fix });
                continue;
            }
        };
        for (key, name, counts, usable) in keys {
            let (Some(name), true) = (name, counts) else { continue };
            let (message, fix) = match list.get(name) {
                None => {
                    let fix = "write the key's name as the list has it";
                    (format!("{shown} has no key {name:?}"), fix)
                }
                Some(value) if !usable(value) => {
                    let groups = *key == "MachineOwnerGroupsKey";
                    let wanted = if groups { "an array of strings" } else { "a string" };
                    let message = format!("the value under {name:?} in {shown} is not {wanted}");
                    (message, "correct it there, or name another key")
                }
                Some(_) => continue,
            };
            problems.push(IdentityProblem { key, message, fix });
        }
    }
    if config.machine_id.is_none()
        && let Ok(Some(id)) = listed_id(config, host)
    {
        problems.extend(placeholder(&id, "MachineID"));
    }
    problems.extend(self::owner(config, host).placeholders);
    problems
}

/// A value as text: a string that is not blank, or an integer in decimal.
fn text_of(value: &Value) -> Option<String> {
    if let Value::Integer(number) = value {
        return Some(number.to_string());
    }
    Some(value.as_string()?.trim().to_owned()).filter(|text| !text.is_empty())
}

fn texts_of(value: &Value) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|value| value.as_string().map(str::to_owned)).collect()
}

/// The start of a text that may be long.
fn start_of(text: &str) -> String {
    text.chars().take(64).collect()
}

fn source_name(name: &str, path: &Path, key: &str) -> String {
    format!("{name} {} ({key})", path.display())
}
