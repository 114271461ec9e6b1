//! Scenarios: what the fake server serves, breaks, changes and expects, as a file
//! of TOML.
//!
//! A key that is not known, a value of the wrong kind and a name that does not
//! exist are errors that name file and line. `docs/harness.md` has a table of all
//! keys.

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

use super::change::{Change, FaultSpec, RuleSpec, SettingsSpec};
use super::expectation::Expectation;
use super::parsed::{Parsed, PresetName};
use super::style::CursorStyle;
use super::{Misbehaviour, SyncTypePolicy};
use crate::failure::Remedy;
use crate::files;

mod apply;

/// A file of this many bytes is no scenario: 8 MiB.
const MAX_BYTES: u64 = 8 << 20;

/// What a file says.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scenario {
    /// What it is about, for people.
    pub description: String,
    /// The server it imitates.
    pub(super) preset: Option<PresetName>,
    /// The path above the stages.
    pub(super) base_path: Option<String>,
    /// Seed of generated rules, and of faults that strike at random.
    pub(super) seed: Option<u64>,
    pub(super) rules: RulesSpec,
    pub(super) settings: SettingsSpec,
    pub(super) style: StyleSpec,
    pub(super) misbehave: Vec<Parsed<Misbehaviour>>,
    pub(super) request_bundles: Vec<String>,
    #[serde(rename = "machines")]
    pub(super) groups: Vec<GroupSpec>,
    #[serde(rename = "fault")]
    pub(super) faults: Vec<FaultSpec>,
    #[serde(rename = "change")]
    pub(super) changes: Vec<ChangeSpec>,
    #[serde(rename = "expect")]
    pub(super) expectations: Vec<Expectation>,
}

/// The rules to serve: these, those of a file, and generated ones.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RulesSpec {
    pub(super) list: Vec<RuleSpec>,
    pub(super) file: Option<PathBuf>,
    #[serde(deserialize_with = "generated")]
    pub(super) generate: usize,
}

/// The most rules that are generated, as on the command line.
const MAX_GENERATED: usize = 5_000_000;

fn generated<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    let rules = usize::deserialize(deserializer)?;
    if rules > MAX_GENERATED {
        return Err(serde::de::Error::custom("at most 5000000 rules can be generated"));
    }
    Ok(rules)
}

/// Traits of the server that differ from the preset.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct StyleSpec {
    pub(super) page_size: Option<usize>,
    pub(super) one_page: Option<bool>,
    pub(super) cursor: Option<Parsed<CursorStyle>>,
    pub(super) cursor_after_last_page: Option<bool>,
    pub(super) sync_type: Option<Parsed<SyncTypePolicy>>,
    pub(super) cookie: Option<String>,
    pub(super) header: Option<HeaderSpec>,
    pub(super) xsrf_header: Option<String>,
    pub(super) request_bundles: Option<bool>,
    pub(super) remove_from_empty_set: Option<bool>,
    pub(super) enrolled: Option<Vec<String>>,
    pub(super) lost_session_status: Option<u16>,
    pub(super) hosts_up_to_date: bool,
}

/// A header that every request must have.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HeaderSpec {
    pub(super) name: String,
    pub(super) value: String,
}

/// What machines of a group get in place of what all get.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GroupSpec {
    pub(super) name: String,
    /// Machine ids, with `*` for any text.
    #[serde(rename = "match")]
    pub(super) patterns: Vec<String>,
    pub(super) rules: Option<RulesSpec>,
    #[serde(default)]
    pub(super) settings: SettingsSpec,
    pub(super) sync_type: Option<Parsed<SyncTypePolicy>>,
}

/// A change, and when it happens.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChangeSpec {
    /// After that many postflights have been served.
    pub(super) after_syncs: u64,
    /// Counts the postflights of these machines only; `*` stands for any text.
    pub(super) machine: Option<String>,
    #[serde(rename = "do")]
    pub(super) change: Change,
}

/// Why a file is not a scenario.
#[derive(Debug, Error)]
pub enum ScenarioError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file does not say what a scenario may say.
    #[error("{path}: {message}", path = path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the line.
        message: String,
    },
}

impl Remedy for ScenarioError {
    fn fix(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::Read { .. } => Some("name a file that this user may read".into()),
            Self::Content { .. } => None,
        }
    }
}

impl Scenario {
    /// Reads a scenario, and the files of rules that it names.
    ///
    /// # Errors
    /// If a file cannot be read, or says what a scenario may not.
    pub fn load(path: &Path) -> Result<Self, ScenarioError> {
        let mut scenario = Self::parse(&text_of(path)?, path)?;
        let base = path.parent().unwrap_or(Path::new(""));
        let groups = scenario.groups.iter_mut().filter_map(|group| group.rules.as_mut());
        for rules in groups.chain([&mut scenario.rules]) {
            let Some(file) = rules.file.take() else { continue };
            let file = base.join(file);
            let content = |message: String| ScenarioError::Content { path: file.clone(), message };
            let text = text_of(&file)?;
            let export: RulesFile =
                serde_json::from_str(&text).map_err(|error| content(error.to_string()))?;
            rules.list.extend(export.rules);
        }
        Ok(scenario)
    }

    /// Reads a scenario; a file of rules is left for [`Self::load`]. The path is for
    /// messages.
    pub(super) fn parse(text: &str, path: &Path) -> Result<Self, ScenarioError> {
        let content = |message: String| ScenarioError::Content { path: path.into(), message };
        let scenario: Self = toml::from_str(text).map_err(|error| content(error.to_string()))?;
        for expectation in &scenario.expectations {
            let named = |name: &String| scenario.expectations.iter().any(|e| e.name == *name);
            if let Some(after) = expectation.after.as_ref().filter(|after| !named(after)) {
                let words = format!(
                    "expectation {:?} comes after {after:?}, which does not exist",
                    expectation.name
                );
                return Err(content(words));
            }
        }
        Ok(scenario)
    }
}

/// The format of `rules export`.
#[derive(Deserialize)]
struct RulesFile {
    rules: Vec<RuleSpec>,
}

fn text_of(path: &Path) -> Result<String, ScenarioError> {
    let failed = |source| ScenarioError::Read { path: path.into(), source };
    let bytes = files::read(path, MAX_BYTES).map_err(|obstacle| failed(obstacle.into()))?;
    String::from_utf8(bytes).map_err(|error| failed(io::Error::other(error)))
}

#[cfg(test)]
mod tests;
