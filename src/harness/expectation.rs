//! What a scenario expects of the requests that arrive. Pure: exchanges go in, a
//! verdict comes out.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use toml::Spanned;

use super::exchange::{Exchange, Route};
use super::parsed::{Parsed, matches};
use super::reply::snake;
use crate::model::text::counted;

/// Requests, or events in them, of which so many are expected.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Expectation {
    name: Spanned<String>,
    /// The route; without it, any stage.
    stage: Option<Parsed<Route>>,
    /// The machine id; `*` stands for any text.
    machine: Option<String>,
    /// Members of the request's body and their values, in either spelling.
    #[serde(default)]
    members: Map<String, Value>,
    /// Headers and their values.
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// The status of the response; 0 if there was none.
    status: Option<u16>,
    /// Members of an event: then events are counted, not requests.
    event: Option<Map<String, Value>>,
    /// At least so many; 1, unless there is a `max` below.
    min: Option<u64>,
    /// At most so many.
    max: Option<Spanned<u64>>,
    /// Counts only what comes after that expectation has been met.
    after: Option<Spanned<String>>,
}

/// What became of an expectation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// Its name.
    pub name: String,
    /// Whether it is met.
    pub met: bool,
    /// How many were seen.
    pub seen: u64,
    /// How many were expected, at least.
    pub min: u64,
    /// How many were expected, at most.
    pub max: Option<u64>,
    /// Why it is not met, for people; empty if it is.
    pub reason: String,
}

/// Expectations and what was seen of each.
#[derive(Debug, Default)]
pub(super) struct Expectations(Vec<(Expectation, u64)>);

impl Expectations {
    pub(super) fn new(expectations: Vec<Expectation>) -> Self {
        Self(expectations.into_iter().map(|expectation| (expectation, 0)).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes another list, keeping what was seen of expectations of the same name.
    pub(super) fn replace(&mut self, expectations: Vec<Expectation>) {
        let seen: BTreeMap<_, _> = self
            .0
            .drain(..)
            .map(|(expectation, seen)| (expectation.name.into_inner(), seen))
            .collect();
        let kept =
            |expectation: &Expectation| seen.get(expectation.name.get_ref()).copied().unwrap_or(0);
        self.0 =
            expectations.into_iter().map(|one| (kept(&one), one)).map(|(n, e)| (e, n)).collect();
    }

    /// Counts an exchange. What it meets counts from the next exchange on.
    pub(super) fn observe(&mut self, exchange: &Exchange) {
        let met: Vec<_> = self.0.iter().map(|(one, seen)| *seen >= one.min().max(1)).collect();
        let is_met = |name: &str| {
            self.0
                .iter()
                .position(|(one, _)| one.name.get_ref() == name)
                .is_some_and(|place| met[place])
        };
        let counts: Vec<_> = self
            .0
            .iter()
            .map(|(one, _)| match &one.after {
                Some(after) if !is_met(after.get_ref()) => 0,
                Some(_) | None => one.count(exchange),
            })
            .collect();
        for ((_, seen), count) in self.0.iter_mut().zip(counts) {
            *seen += count;
        }
    }

    pub(super) fn outcomes(&self) -> Vec<Outcome> {
        self.0.iter().map(|(expectation, seen)| expectation.outcome(*seen)).collect()
    }
}

/// What no agent could meet in a list of expectations, or nobody could tell apart: its
/// place in the text, and a message.
pub(super) fn mistake(expectations: &[Expectation]) -> Option<(Range<usize>, String)> {
    expectations.iter().enumerate().find_map(|(number, one)| {
        let name = one.name.get_ref();
        if expectations[..number].iter().any(|other| other.name.get_ref() == name) {
            let words = format!("there are two expectations with the name {name:?}");
            return Some((one.name.span(), words));
        }
        if let Some(max) = &one.max
            && one.min() > *max.get_ref()
        {
            let words = format!(
                "expectation {name:?} cannot be met: at least {} and at most {}",
                one.min(),
                max.get_ref()
            );
            return Some((max.span(), words));
        }
        let after = one.after.as_ref()?;
        wrong_predecessor(expectations, one, after.get_ref()).map(|words| (after.span(), words))
    })
}

/// Why an expectation cannot come after the one with this name.
fn wrong_predecessor(all: &[Expectation], one: &Expectation, after: &str) -> Option<String> {
    let named = |name: &str| all.iter().find(|other| other.name.get_ref() == name);
    let name = one.name.get_ref();
    let Some(first) = named(after) else {
        return Some(format!("expectation {name:?} comes after {after:?}, which does not exist"));
    };
    if first.max() == Some(0) {
        return Some(format!(
            "expectation {name:?} comes after {after:?}, which is met while nothing comes (max = 0)"
        ));
    }
    let mut chain = vec![name.as_str()];
    let mut next = Some(first);
    while let Some(other) = next {
        chain.push(other.name.get_ref());
        if other.name == one.name {
            let chain = chain.join(" -> ");
            return Some(format!("expectation {name:?} would come after itself: {chain}"));
        }
        if chain.len() > all.len() {
            // A circle further up, which is reported at one of its own.
            return None;
        }
        next = other.after.as_ref().and_then(|after| named(after.get_ref()));
    }
    None
}

impl Expectation {
    fn min(&self) -> u64 {
        self.min.unwrap_or_else(|| self.max().map_or(1, |max| max.min(1)))
    }

    fn max(&self) -> Option<u64> {
        self.max.as_ref().map(|max| *max.get_ref())
    }

    /// How many requests or events of an exchange it counts.
    fn count(&self, exchange: &Exchange) -> u64 {
        let is_of_route = match (&self.stage, exchange.route) {
            (Some(wanted), route) => Some(wanted.0) == route,
            (None, route) => route.is_some_and(|route| route != Route::Xsrf),
        };
        let fits = is_of_route
            && self.machine.as_ref().is_none_or(|wanted| matches(wanted, &exchange.machine_id))
            && self.status.is_none_or(|wanted| wanted == exchange.status.unwrap_or(0))
            && self.headers.iter().all(|(name, wanted)| {
                let found = exchange.headers.get(&name.to_ascii_lowercase());
                found.is_some_and(|found| matches(wanted, found))
            })
            && has_members(&exchange.body, &self.members);
        match &self.event {
            _ if !fits => 0,
            None => 1,
            Some(members) => {
                let events = ["events", "file_access_events", "audit_events"];
                let arrays = events.iter().filter_map(|name| exchange.body.get(name)?.as_array());
                arrays.flatten().filter(|event| has_members(event, members)).count() as u64
            }
        }
    }

    fn outcome(&self, seen: u64) -> Outcome {
        let (min, max) = (self.min(), self.max());
        let what = if self.event.is_some() { "event" } else { "request" };
        let reason = if seen < min {
            format!("at least {} expected, {seen} seen", counted(min, what))
        } else if let Some(max) = max.filter(|max| seen > *max) {
            format!("at most {} expected, {seen} seen", counted(max, what))
        } else {
            String::new()
        };
        Outcome {
            name: self.name.get_ref().clone(),
            met: reason.is_empty(),
            seen,
            min,
            max,
            reason,
        }
    }
}

/// Whether an object has these members. Names may be spelled in either way; in a
/// text `*` stands for any text; of an object the given members count.
fn has_members(object: &Value, wanted: &Map<String, Value>) -> bool {
    wanted.iter().all(|(name, wanted)| {
        let members = object.as_object();
        let found = members.and_then(|members| {
            members.iter().find(|(known, _)| *known == name || snake(known) == snake(name))
        });
        found.is_some_and(|(_, found)| is_value(found, wanted))
    })
}

fn is_value(found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (Value::String(found), Value::String(wanted)) => matches(wanted, found),
        (Value::Object(_), Value::Object(wanted)) => has_members(found, wanted),
        (Value::Number(found), Value::Number(wanted)) => found.as_f64() == wanted.as_f64(),
        (found, wanted) => found == wanted,
    }
}
