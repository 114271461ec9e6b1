//! Changes to a running server: at points of a scenario, and by its
//! administrator. One object may say several things; they happen in the order of
//! its fields here.

use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Misbehaviour;
use super::fault::{Fault, Occurrences, Scripted, fault_from, which_from};
use super::parsed::{Parsed, enum_named};
use super::state::State;
use crate::protocol::json::{Field, Message, Shape};
use crate::protocol::wire;

/// What changes.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a key of its own")]
pub struct Change {
    /// The group whose rules and settings change; without it, those of all machines
    /// outside of groups.
    pub(super) group: Option<String>,
    /// Replaces all rules.
    pub(super) rules: Option<Vec<RuleSpec>>,
    /// Adds or replaces rules; policy REMOVE removes one.
    pub(super) update_rules: Vec<RuleSpec>,
    /// Changes these settings; null takes one back.
    pub(super) settings: SettingsSpec,
    pub(super) misbehave: Vec<Parsed<Misbehaviour>>,
    /// Ends all misbehaviours, before others begin.
    pub(super) behave: bool,
    /// Removes all faults, before others are added.
    pub(super) clear_faults: bool,
    pub(super) faults: Vec<FaultSpec>,
    pub(super) request_bundles: Vec<String>,
    /// Machines whose next syncs are clean until one is completed.
    pub(super) clean_sync: Vec<String>,
    /// Loses sessions and downloads in progress.
    pub(super) restart: bool,
    /// Makes XSRF tokens stale.
    pub(super) rotate_xsrf: bool,
}

/// A rule, in the form of `rules export`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RuleSpec {
    identifier: String,
    policy: Parsed<PolicyName>,
    #[serde(alias = "ruleType")]
    rule_type: Parsed<RuleTypeName>,
    #[serde(default, alias = "customMsg")]
    custom_msg: String,
    #[serde(default, alias = "customUrl")]
    custom_url: String,
    #[serde(default, alias = "eventDetailButtonLabel")]
    event_detail_button_label: String,
    #[serde(default, alias = "celExpr")]
    cel_expr: String,
    #[serde(default, rename = "comment")]
    _comment: String,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct PolicyName(i32);

impl std::str::FromStr for PolicyName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        enum_named::<wire::Policy>(text).map(Self)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct RuleTypeName(i32);

impl std::str::FromStr for RuleTypeName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        enum_named::<wire::RuleType>(text).map(Self)
    }
}

impl From<RuleSpec> for wire::Rule {
    fn from(spec: RuleSpec) -> Self {
        Self {
            identifier: spec.identifier,
            policy: spec.policy.0.0,
            rule_type: spec.rule_type.0.0,
            custom_msg: spec.custom_msg,
            custom_url: spec.custom_url,
            event_detail_button_label: spec.event_detail_button_label,
            cel_expr: spec.cel_expr,
            ..Self::default()
        }
    }
}

/// Members of a preflight response, checked against the schema.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct SettingsSpec(pub(super) Map<String, Value>);

impl<'de> Deserialize<'de> for SettingsSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(SettingsVisitor)
    }
}

/// Checks each member where it stands, so that an error names its line.
struct SettingsVisitor;

impl<'de> Visitor<'de> for SettingsVisitor {
    type Value = SettingsSpec;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("settings of a preflight response")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Map::new();
        while let Some(SettingField(field)) = map.next_key()? {
            members.insert(json_name(field), map.next_value_seed(SettingField(field))?);
        }
        Ok(SettingsSpec(members))
    }
}

/// A field of a preflight response: read from its name, it reads its value.
struct SettingField(&'static Field);

impl<'de> Deserialize<'de> for SettingField {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        let fields = wire::PreflightResponse::FIELDS;
        let found = fields.iter().find(|field| field.name == name || json_name(field) == name);
        found.map(Self).ok_or_else(|| {
            let names: Vec<_> = fields.iter().map(|field| field.name).collect();
            let names = names.join(", ");
            de::Error::custom(format!("{name:?} is not a setting; give one of {names}"))
        })
    }
}

impl<'de> DeserializeSeed<'de> for SettingField {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let value = Value::deserialize(deserializer)?;
        check_setting(self.0, &value).map_err(de::Error::custom)?;
        Ok(value)
    }
}

/// The name of a field in JSON.
fn json_name(field: &Field) -> String {
    field.key.trim_matches(['"', ':']).to_owned()
}

impl SettingsSpec {
    /// These settings over others.
    pub(super) fn over(&self, settings: &wire::PreflightResponse) -> wire::PreflightResponse {
        if self.0.is_empty() {
            return settings.clone();
        }
        let Ok(Value::Object(mut members)) = serde_json::to_value(settings) else {
            return settings.clone();
        };
        for (name, value) in &self.0 {
            if value.is_null() {
                members.remove(name);
            } else {
                members.insert(name.clone(), value.clone());
            }
        }
        // What was checked against the schema is readable.
        serde_json::from_value(Value::Object(members)).unwrap_or_else(|_| settings.clone())
    }
}

/// Says what is wrong with the value of a setting.
fn check_setting(field: &Field, value: &Value) -> Result<(), String> {
    let name = field.name;
    let is_one = |value: &Value| match &field.shape {
        Shape::Text => value.is_string(),
        Shape::Bool => value.is_boolean(),
        Shape::U32 => value.as_u64().is_some_and(|number| u32::try_from(number).is_ok()),
        Shape::I32 | Shape::F64 => value.is_number(),
        Shape::Enum(names) => value
            .as_str()
            .is_some_and(|text| names.iter().any(|(name, _)| name.eq_ignore_ascii_case(text))),
        Shape::Nested(_) | Shape::Map => value.is_object(),
    };
    let fits = match (value, field.repeated) {
        (Value::Null, _) => true,
        (Value::Array(values), true) => values.iter().all(is_one),
        (_, true) => false,
        (value, false) => is_one(value),
    };
    if !fits {
        return Err(match &field.shape {
            Shape::Enum(names) => {
                let names: Vec<_> = names.iter().map(|(name, _)| *name).collect();
                format!("{name} is one of {}, not {value}", names.join(", "))
            }
            Shape::Text
            | Shape::Bool
            | Shape::U32
            | Shape::I32
            | Shape::F64
            | Shape::Nested(_)
            | Shape::Map => format!("{name} cannot be {value}"),
        });
    }
    Ok(())
}

/// A fault, and when it strikes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FaultSpec {
    at: Parsed<super::Route>,
    fault: FaultText,
    #[serde(default)]
    occurrence: Which,
    machine: Option<String>,
    #[serde(default)]
    probability: Chance,
}

/// `FAULT[:VALUE]`, as on the command line.
#[derive(Clone, Debug)]
struct FaultText(Fault);

impl<'de> Deserialize<'de> for FaultText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        fault_from(&text).map(Self).map_err(de::Error::custom)
    }
}

/// Which requests, as on the command line; a number may be one.
#[derive(Clone, Debug)]
struct Which(Occurrences);

impl Default for Which {
    fn default() -> Self {
        Self(super::every())
    }
}

impl<'de> Deserialize<'de> for Which {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match Value::deserialize(deserializer)? {
            Value::String(text) => text,
            other @ (Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::Array(_)
            | Value::Object(_)) => other.to_string(),
        };
        which_from(&text).map(Self).map_err(de::Error::custom)
    }
}

/// A probability in millionths.
#[derive(Clone, Copy, Debug)]
struct Chance(u32);

impl Default for Chance {
    fn default() -> Self {
        Self(Occurrences::CERTAIN)
    }
}

impl<'de> Deserialize<'de> for Chance {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let chance = f64::deserialize(deserializer)?;
        if !(0.0..=1.0).contains(&chance) {
            return Err(de::Error::custom(format!("{chance} is not a probability from 0 to 1")));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between nothing and a million"
        )]
        let millionths = (chance * f64::from(Occurrences::CERTAIN)).round() as u32;
        Ok(Self(millionths))
    }
}

impl From<FaultSpec> for Scripted {
    fn from(spec: FaultSpec) -> Self {
        let mut when = spec.occurrence.0.with_chance(spec.probability.0);
        if let Some(machine) = &spec.machine {
            when = when.of(machine);
        }
        Self { route: spec.at.0, when, fault: spec.fault.0 }
    }
}

/// Why a change cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// There is no such group.
    #[error("there is no group {0:?} of machines")]
    Group(String),
    /// The server has not seen the machine.
    #[error("machine {0:?} is not known")]
    Machine(String),
}

impl State {
    /// Makes a change. Nothing changes if any part of it cannot be made.
    pub(super) fn change(&mut self, change: Change) -> Result<(), ChangeError> {
        let group = match &change.group {
            Some(name) => {
                let place = self.groups.iter().position(|group| group.name == *name);
                Some(place.ok_or_else(|| ChangeError::Group(name.clone()))?)
            }
            None => None,
        };
        let stranger = change.clean_sync.iter().find(|id| self.host(id).is_none());
        if let Some(machine_id) = stranger {
            return Err(ChangeError::Machine(machine_id.clone()));
        }
        if let Some(rules) = change.rules {
            self.set_rules_of(group, rules.into_iter().map(Into::into));
        }
        if !change.update_rules.is_empty() {
            let changes = change.update_rules.into_iter().map(Into::into).collect();
            self.queue_changes_of(group, changes);
        }
        self.change_settings_of(group, &change.settings);
        if change.behave {
            self.misbehaviours.clear();
        }
        change.misbehave.iter().for_each(|one| self.misbehaviours.add(one.0));
        if change.clear_faults {
            self.script.clear();
        }
        self.script.extend(change.faults.into_iter().map(Into::into));
        self.bundles.extend(change.request_bundles);
        for machine_id in &change.clean_sync {
            self.request_clean_sync(machine_id);
        }
        if change.restart {
            self.restart();
        }
        if change.rotate_xsrf {
            self.rotate_xsrf();
        }
        Ok(())
    }
}
