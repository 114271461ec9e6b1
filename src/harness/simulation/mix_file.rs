//! Groups of hosts from a TOML file (`--mix`).

use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::path::Path;
use std::str::FromStr;

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use toml::Spanned;

use super::groups::{ENCODINGS, HostGroup, MAX_BUNDLE_BINARIES, MAX_GROUPS, TRANSFERS};
use super::plan::{Mix, SimulationPlan, parse_duration, parse_percent};
use super::profile::build_of;
use crate::harness::toml_file::{TomlFileError, TomlText, text_of};
use crate::model::{MAX_SYNC_INTERVAL_SECS, MIN_SYNC_INTERVAL_SECS};

/// The maximum length of a group's name, in characters.
const MAX_NAME_CHARS: usize = 64;

/// The groups of a file, with the numbers of their hosts.
#[derive(Clone, Debug, PartialEq)]
pub struct HostMix {
    /// Hosts of all groups together.
    pub hosts: u32,
    /// In the order of the file.
    pub groups: Vec<HostGroup>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MixFile {
    /// For people.
    #[serde(default, rename = "description")]
    _description: String,
    #[serde(default, rename = "group")]
    groups: Vec<Spanned<GroupSpec>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupSpec {
    name: Spanned<String>,
    count: Option<Spanned<u32>>,
    share: Option<Spanned<u32>>,
    santa_version: Option<MixValue<String>>,
    os_version: Option<Spanned<MixValue<String>>>,
    os_build: Option<Spanned<String>>,
    model: Option<Models>,
    encoding: Option<Spanned<MixValue<String>>>,
    transfer: Option<Spanned<MixValue<String>>>,
    interval: Option<Interval>,
    events_per_hour: Option<MixValue<u32>>,
    event_bytes: Option<MixValue<u32>>,
    denied: Option<Percent>,
    prompt_uploads: Option<Percent>,
    bundle_binaries: Option<Spanned<MixValue<u32>>>,
}

/// A mix as on the command line; a number may be one.
#[derive(Clone, Debug)]
struct MixValue<T>(Mix<T>);

/// A share as on the command line, `20%`; a number may be one.
#[derive(Clone, Copy, Debug)]
struct Percent(u8);

/// A time as on the command line, in seconds.
#[derive(Clone, Copy, Debug)]
struct Interval(u32);

/// Reads a text, or a number as its decimal text.
struct TextOrNumber<T>(PhantomData<T>, &'static str);

impl<T: FromStr<Err = E>, E: fmt::Display> Visitor<'_> for TextOrNumber<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.1)
    }

    fn visit_str<D: de::Error>(self, text: &str) -> Result<T, D> {
        text.parse().map_err(D::custom)
    }

    fn visit_i64<D: de::Error>(self, number: i64) -> Result<T, D> {
        self.visit_str(&number.to_string())
    }
}

impl<'de, T: FromStr> Deserialize<'de> for MixValue<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wanted = "a value, or several as \"VALUE=WEIGHT,VALUE=WEIGHT\"";
        deserializer.deserialize_any(TextOrNumber(PhantomData, wanted)).map(Self)
    }
}

impl FromStr for Percent {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_percent(text).map(Self).ok_or("write a share from \"0%\" to \"100%\"")
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOrNumber(PhantomData, "a share such as \"20%\""))
    }
}

impl<'de> Deserialize<'de> for Interval {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let whole = parse_duration(&text).filter(|time| time.subsec_nanos() == 0);
        let secs = whole.and_then(|time| u32::try_from(time.as_secs()).ok());
        let allowed = MIN_SYNC_INTERVAL_SECS..=MAX_SYNC_INTERVAL_SECS;
        secs.filter(|secs| allowed.contains(secs)).map(Self).ok_or_else(|| {
            de::Error::custom(format!(
                "{text:?} is not an interval from \"{MIN_SYNC_INTERVAL_SECS}s\" to \"7d\""
            ))
        })
    }
}

/// Model identifiers, which have commas: one, or a list of them.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a model, or a list of models")]
enum Models {
    One(String),
    Several(Vec<String>),
}

impl Models {
    fn mix(self) -> Mix<String> {
        match self {
            Self::One(model) => Mix::only(model),
            Self::Several(models) => Mix::evenly(models),
        }
    }
}

/// What is wrong, and where.
type Mistake = (Range<usize>, String);

impl HostMix {
    /// Reads the groups of a file. `hosts` is the number of all hosts; without it, every group
    /// must have a count, and the counts add up to all hosts.
    ///
    /// # Errors
    /// If the file cannot be read, is not TOML, or has a key or value that is not allowed.
    pub fn load(path: &Path, hosts: Option<u32>) -> Result<Self, TomlFileError> {
        Self::parse(&text_of(path)?, path, hosts)
    }

    fn parse(text: &str, path: &Path, hosts: Option<u32>) -> Result<Self, TomlFileError> {
        let file = TomlText { path, text };
        let MixFile { groups: specs, .. } = file.parse()?;
        let wrong = |(place, message): Mistake| file.wrong(place, &message);
        let (hosts, numbers) = numbers(&specs, hosts).map_err(wrong)?;
        let groups = specs.into_iter().zip(numbers).map(|(spec, hosts)| group(spec, hosts));
        Ok(Self { hosts, groups: groups.collect::<Result<_, _>>().map_err(wrong)? })
    }
}

/// How many hosts there are, and how many of them belong to each group: counts are
/// exact, and shares divide the rest.
fn numbers(specs: &[Spanned<GroupSpec>], hosts: Option<u32>) -> Result<(u32, Vec<u32>), Mistake> {
    if specs.is_empty() {
        return Err((0..0, "there is no [[group]] of hosts".to_owned()));
    }
    if let Some(spec) = specs.get(MAX_GROUPS) {
        let words = format!("there are {} groups; the maximum is {MAX_GROUPS}", specs.len());
        return Err((spec.get_ref().name.span(), words));
    }
    for (place, spec) in specs.iter().enumerate() {
        let name = &spec.get_ref().name;
        let characters = name.get_ref().chars();
        if !(1..=MAX_NAME_CHARS).contains(&characters.clone().count())
            || characters.clone().any(char::is_control)
        {
            let words = format!(
                "a name must have 1 to {MAX_NAME_CHARS} characters, and no control characters"
            );
            return Err((name.span(), words));
        }
        if specs[..place].iter().any(|other| other.get_ref().name == *name) {
            let words = format!("there are two groups with the name {:?}", name.get_ref());
            return Err((name.span(), words));
        }
    }
    let (mut counted, mut weight) = (0_u32, 0_u64);
    let all = hosts.unwrap_or(SimulationPlan::MAX_HOSTS);
    for spec in specs {
        match (&spec.get_ref().count, &spec.get_ref().share) {
            (Some(count), None) => {
                counted = counted.saturating_add(*count.get_ref());
                if counted > all {
                    let words = format!("the groups so far have {counted} hosts, more than {all}");
                    return Err((count.span(), words));
                }
            }
            (None, Some(share)) if (1..=1_000_000).contains(share.get_ref()) => {
                weight += u64::from(*share.get_ref());
            }
            (None, Some(share)) => {
                return Err((share.span(), "a share is a weight from 1 to 1000000".to_owned()));
            }
            (Some(_), Some(share)) => {
                return Err((share.span(), "give a count or a share, not both".to_owned()));
            }
            (None, None) => {
                let words = "give the group a count or a share of the hosts";
                return Err((spec.get_ref().name.span(), words.to_owned()));
            }
        }
    }
    let shares = specs.iter().filter_map(|spec| spec.get_ref().share.as_ref());
    let hosts = match (hosts, weight, shares.clone().next()) {
        (Some(hosts), 0, _) if counted < hosts => {
            let words = format!(
                "the groups have only {counted} of {hosts} hosts; give one a share, or leave out --hosts"
            );
            return Err((specs.last().map_or(0..0, |spec| spec.get_ref().name.span()), words));
        }
        (None, 1.., Some(share)) => {
            let words = "a share needs the number of all hosts: give --hosts";
            return Err((share.span(), words.to_owned()));
        }
        (Some(hosts), 1.., Some(share)) if counted == hosts => {
            let words = format!("the groups with a count have all {hosts} hosts already");
            return Err((share.span(), words));
        }
        (hosts, _, _) => hosts.unwrap_or(counted),
    };
    let rest = u64::from(hosts - counted.min(hosts));
    let (mut weight_so_far, mut given) = (0, 0);
    let numbers = specs.iter().map(|spec| match (&spec.get_ref().count, &spec.get_ref().share) {
        (Some(count), _) => *count.get_ref(),
        (None, share) => {
            // Rounded so that all of them together are the rest.
            weight_so_far += share.as_ref().map_or(0, |share| u64::from(*share.get_ref()));
            let up_to = rest * weight_so_far / weight.max(1);
            let own = up_to - given;
            given = up_to;
            u32::try_from(own).unwrap_or(u32::MAX)
        }
    });
    Ok((hosts, numbers.collect()))
}

fn group(spec: Spanned<GroupSpec>, hosts: u32) -> Result<HostGroup, Mistake> {
    let spec = spec.into_inner();
    known(spec.encoding.as_ref(), &ENCODINGS)?;
    known(spec.transfer.as_ref(), &TRANSFERS)?;
    if let Some(sizes) = &spec.bundle_binaries
        && let Some(size) = sizes.get_ref().0.values().find(|size| **size > MAX_BUNDLE_BINARIES)
    {
        let words = format!("{size} is too many; a bundle has up to {MAX_BUNDLE_BINARIES}");
        return Err((sizes.span(), words));
    }
    Ok(HostGroup {
        systems: systems(spec.os_version, spec.os_build)?,
        versions: spec.santa_version.map(|mix| mix.0),
        models: spec.model.map(Models::mix),
        encodings: spec.encoding.map(|mix| mix.into_inner().0),
        transfers: spec.transfer.map(|mix| mix.into_inner().0),
        interval_secs: spec.interval.map(|interval| interval.0),
        events_per_hour: spec.events_per_hour.map(|mix| mix.0),
        event_bytes: spec.event_bytes.map(|mix| mix.0),
        denied_percent: spec.denied.map(|share| share.0),
        prompt_percent: spec.prompt_uploads.map(|share| share.0),
        bundle_binaries: spec.bundle_binaries.map(|mix| mix.into_inner().0),
        ..HostGroup::new(spec.name.into_inner(), hosts)
    })
}

fn known(mix: Option<&Spanned<MixValue<String>>>, known: &[&str]) -> Result<(), Mistake> {
    let Some(mix) = mix else { return Ok(()) };
    match mix.get_ref().0.values().find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err((mix.span(), format!("{name:?} is not one of {}", known.join(", ")))),
        None => Ok(()),
    }
}

/// Versions with their builds.
fn systems(
    versions: Option<Spanned<MixValue<String>>>,
    build: Option<Spanned<String>>,
) -> Result<Option<Mix<String>>, Mistake> {
    let Some(versions) = versions else {
        return match build {
            Some(build) => Err((build.span(), "a build needs its os_version".to_owned())),
            None => Ok(None),
        };
    };
    let place = versions.span();
    let versions = versions.into_inner().0;
    if let Some(build) = build {
        if versions.values().count() > 1 {
            let words = "a build belongs to one os_version; make a group for each";
            return Err((build.span(), words.to_owned()));
        }
        let build = build.into_inner();
        return Ok(Some(versions.map(|version| format!("{version}/{build}"))));
    }
    if let Some(version) = versions.values().find(|version| build_of(version).is_none()) {
        return Err((place, format!("the build of {version} is not known; add os_build")));
    }
    Ok(Some(versions.map(|version| {
        let build = build_of(&version).unwrap_or_default();
        format!("{version}/{build}")
    })))
}

#[cfg(test)]
mod tests;
