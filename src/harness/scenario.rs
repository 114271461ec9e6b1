//! Scenarios: what the fake server serves, breaks, changes and expects, as a file
//! of TOML.
//!
//! A key that is not known, a value of the wrong kind and a name that does not
//! exist are errors that name file and line. `docs/harness.md` has a table of all
//! keys.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::change::{Change, ChangeError, FaultSpec, RuleSpec, SettingsSpec};
use super::expectation::{self, Expectation};
use super::parsed::{Parsed, PresetName};
use super::style::CursorStyle;
use super::toml_file::{TomlFileError, TomlText, text_of};
use super::{Misbehaviour, SyncTypePolicy};

mod apply;

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
    #[serde(deserialize_with = "status_of_error")]
    pub(super) lost_session_status: Option<u16>,
    pub(super) hosts_up_to_date: bool,
}

fn status_of_error<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u16>, D::Error> {
    let status = u16::deserialize(deserializer)?;
    if !(400..=599).contains(&status) {
        return Err(serde::de::Error::custom(format!(
            "{status} is not the status of an error; give 400 to 599"
        )));
    }
    Ok(Some(status))
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
    pub(super) change: Spanned<Change>,
}

impl Scenario {
    /// Reads a scenario, and the files of rules that it names.
    ///
    /// # Errors
    /// If a file cannot be read, or says what a scenario may not.
    pub fn load(path: &Path) -> Result<Self, TomlFileError> {
        let mut scenario = Self::parse(&text_of(path)?, path)?;
        let base = path.parent().unwrap_or(Path::new(""));
        let groups = scenario.groups.iter_mut().filter_map(|group| group.rules.as_mut());
        for rules in groups.chain([&mut scenario.rules]) {
            let Some(file) = rules.file.take() else { continue };
            let file = base.join(file);
            let content = |message: String| TomlFileError::Content { path: file.clone(), message };
            let text = text_of(&file)?;
            let export: RulesFile =
                serde_json::from_str(&text).map_err(|error| content(error.to_string()))?;
            rules.list.extend(export.rules);
        }
        Ok(scenario)
    }

    /// Reads a scenario; a file of rules is left for [`Self::load`]. The path is for
    /// messages.
    pub(super) fn parse(text: &str, path: &Path) -> Result<Self, TomlFileError> {
        let file = TomlText { path, text };
        let scenario: Self = file.parse()?;
        if let Some((place, message)) = expectation::mistake(&scenario.expectations) {
            return Err(file.wrong(place, &message));
        }
        for spec in &scenario.changes {
            let Some(name) = &spec.change.get_ref().group else { continue };
            if scenario.groups.iter().all(|group| group.name != *name) {
                let message = ChangeError::Group(name.clone()).to_string();
                return Err(file.wrong(spec.change.span(), &message));
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

#[cfg(test)]
mod tests;
