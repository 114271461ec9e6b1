//! Which source's value is in effect for each key.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;

use plist::{Dictionary, Value};

use super::finding::{Finding, FindingKind, Severity, Source};
use super::keys::{self, KEYS, Key, Kind, Origin};
use super::profile::Domain;
use super::relay::leads_to;
use super::santa_keys::is_santas as is_santas_key;
use super::source::Layer;
use super::value;
use crate::model::{BaseUrl, Secret, is_placeholder};

/// The value in effect for a key.
#[derive(Clone, PartialEq)]
pub struct Chosen {
    /// The value; of the key's type and within its bounds.
    pub value: Value,
    /// Where it comes from.
    pub source: Source,
    /// What it won over, the strongest first.
    pub overridden: Vec<(Source, Value)>,
}

/// The values in effect, by key.
#[derive(Clone, PartialEq, Default)]
pub struct Effective {
    chosen: BTreeMap<&'static str, Chosen>,
    /// Keys whose value holds a placeholder, in a template.
    templates: BTreeSet<&'static str>,
}

impl Effective {
    /// Chooses among the layers, the strongest first. A value that its key does
    /// not accept counts as absent, and is reported. In a `template` one
    /// with a placeholder is neither.
    pub(super) fn choose(layers: &[Layer], template: bool, findings: &mut Vec<Finding>) -> Self {
        for layer in layers {
            report_unknown(layer, findings);
        }
        let server =
            layers.iter().position(|layer| !layer.is_santas() && sets(layer, "SyncBaseURL"));
        // The way in Santa's domain then is the one to the relay.
        let relay = layers.iter().any(|layer| sets(layer, "RelayListen"));
        let leads_to_relay = leads_to_relay(layers);
        let mut chosen = BTreeMap::new();
        let mut templates = BTreeSet::new();
        for key in KEYS {
            let mut valid = Vec::new();
            for (index, layer) in layers.iter().enumerate() {
                let Some(value) = layer.values.get(key.name) else { continue };
                if layer.is_santas() && key.origin == Origin::Own {
                    findings.push(misplaced(key, &layer.source));
                }
                let own_server = server.filter(|server| *server < index);
                if key.transport && layer.is_santas() && leads_to_relay {
                    // As it should be: Santa's way ends here.
                    continue;
                }
                if key.transport && layer.is_santas() && (relay || own_server.is_some()) {
                    let server = own_server.and_then(|server| layers.get(server));
                    let because = server.map_or_else(
                        || "RelayListen is set".to_owned(),
                        |server| format!("{} sets SyncBaseURL", server.source),
                    );
                    findings.push(not_taken(key, &layer.source, &because));
                    continue;
                }
                if template && holds_placeholder(key, value) {
                    templates.insert(key.name);
                    findings.push(unfilled(key, &layer.source));
                    continue;
                }
                match complaint(key, value, &layer.source) {
                    Some(finding) => findings.push(finding),
                    None => valid.push((layer.source.clone(), value.clone())),
                }
                if key.secret && layer.exposed {
                    findings.push(exposed(key, &layer.source));
                }
            }
            let mut valid = valid.into_iter();
            if let Some((source, value)) = valid.next() {
                report_origin(key, &source, findings);
                let overridden = valid.collect();
                chosen.insert(key.name, Chosen { value, source, overridden });
            }
        }
        Self { chosen, templates }
    }

    /// What holds for a key; `None` if no source sets it.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Chosen> {
        self.chosen.get(name)
    }

    /// Whether a source sets the key to a placeholder, in a template.
    #[must_use]
    pub fn is_template(&self, name: &str) -> bool {
        self.templates.contains(name)
    }

    /// Every key that a source sets, in the order of the key table.
    pub fn iter(&self) -> impl Iterator<Item = (&'static Key, &Chosen)> {
        KEYS.iter().filter_map(|key| Some((key, self.chosen.get(key.name)?)))
    }

    /// Where the value of a key comes from.
    #[must_use]
    pub fn source(&self, name: &str) -> Source {
        self.get(name).map_or(Source::Default, |chosen| chosen.source.clone())
    }

    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.get(name)?.value.as_string().map(str::to_owned)
    }

    /// A text that means nothing when it is empty.
    pub(super) fn filled_text(&self, name: &str) -> Option<String> {
        self.text(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    pub(super) fn path(&self, name: &str) -> Option<PathBuf> {
        self.text(name).filter(|path| !path.is_empty()).map(PathBuf::from)
    }

    pub(super) fn secret(&self, name: &str) -> Option<Secret> {
        self.text(name).map(Secret::new)
    }

    /// A `Choice`, in lower case.
    pub(super) fn choice(&self, name: &str) -> Option<String> {
        self.text(name).map(|text| text.to_ascii_lowercase())
    }

    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        let value = &self.get(name)?.value;
        value.as_boolean().or_else(|| value.as_signed_integer().map(|n| n != 0))
    }

    pub(super) fn integer(&self, name: &str) -> Option<i64> {
        self.get(name)?.value.as_signed_integer()
    }

    pub(super) fn data(&self, name: &str) -> Option<Vec<u8>> {
        value::bytes(&self.get(name)?.value)
    }

    pub(super) fn texts(&self, name: &str) -> Option<Vec<String>> {
        let array = self.get(name)?.value.as_array()?;
        array.iter().map(|v| v.as_string().map(str::to_owned)).collect()
    }

    /// The words of a `Command`.
    pub(super) fn command(&self, name: &str) -> Option<Vec<String>> {
        match self.text(name) {
            Some(text) => Some(text.split_whitespace().map(str::to_owned).collect()),
            None => self.texts(name),
        }
    }

    pub(super) fn array(&self, name: &str) -> Option<&[Value]> {
        self.get(name)?.value.as_array().map(Vec::as_slice)
    }

    pub(super) fn dictionary(&self, name: &str) -> Option<&Dictionary> {
        self.get(name)?.value.as_dictionary()
    }
}

/// Shows which keys are set and where, never a value.
impl std::fmt::Debug for Effective {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.chosen.iter().map(|(name, c)| (name, &c.source))).finish()
    }
}

/// Shows where it comes from, never the value.
impl std::fmt::Debug for Chosen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chosen").field("source", &self.source).finish_non_exhaustive()
    }
}

fn complaint(key: &Key, value: &Value, source: &Source) -> Option<Finding> {
    let from_file = *source != Source::CommandLine;
    let complaint = value::check(key, value, from_file).err()?;
    Some(Finding {
        severity: if key.strict { Severity::Error } else { Severity::Warning },
        kind: complaint.kind,
        key: Some(key.name.to_owned()),
        source: source.clone(),
        message: complaint.message,
        fix: complaint.fix,
    })
}

fn report_unknown(layer: &Layer, findings: &mut Vec<Finding>) {
    for name in layer.values.keys() {
        if keys::find(name).is_some() || is_santas_key(name) {
            continue;
        }
        findings.push(Finding {
            severity: Severity::Warning,
            kind: FindingKind::UnknownKey,
            key: Some(name.chars().take(128).collect()),
            source: layer.source.clone(),
            message: "is not a known key and has no effect".to_owned(),
            fix: match keys::nearest(name) {
                Some(meant) => format!("did you mean {meant}?"),
                None => {
                    "check its spelling: neither Santa nor this agent has such a key".to_owned()
                }
            },
        });
    }
}

fn report_origin(key: &Key, source: &Source, findings: &mut Vec<Finding>) {
    let (severity, kind, message, fix) = match key.origin {
        Origin::Santa | Origin::Own => return,
        Origin::Deprecated(instead) => (
            Severity::Note,
            FindingKind::DeprecatedKey,
            "is an older name, still followed",
            format!("write {instead} instead"),
        ),
        Origin::Unsupported(instead) => (
            Severity::Warning,
            FindingKind::UnsupportedKey,
            "is not supported and has no effect",
            instead.to_owned(),
        ),
    };
    findings.push(Finding {
        severity,
        kind,
        key: Some(key.name.to_owned()),
        source: source.clone(),
        message: message.to_owned(),
        fix,
    });
}

/// Whether a value waits for the management system. Headers are checked all the
/// same, and the placeholders of `EventDetailURL` are Santa's.
fn holds_placeholder(key: &Key, value: &Value) -> bool {
    if key.kind == Kind::Headers || key.name == "EventDetailURL" {
        return false;
    }
    if let Some(text) = value.as_string() {
        let name = |part: &str| {
            part.len() > 2 && part.bytes().all(|b| b.is_ascii_alphabetic() || b == b'_')
        };
        let percents = text.matches('%').count();
        return is_placeholder(text) || (percents > 1 && text.split('%').skip(1).any(name));
    }
    let holds = |value: &Value| holds_placeholder(key, value);
    value.as_array().is_some_and(|array| array.iter().any(holds))
        || value.as_dictionary().is_some_and(|values| values.values().any(holds))
}

fn unfilled(key: &Key, source: &Source) -> Finding {
    Finding {
        severity: Severity::Note,
        kind: FindingKind::Placeholder,
        key: Some(key.name.to_owned()),
        source: source.clone(),
        message: "holds a placeholder and is not checked".to_owned(),
        fix: "nothing, if the management system fills it in".to_owned(),
    }
}

/// Whether Santa's domain names the relay as Santa's server.
fn leads_to_relay(layers: &[Layer]) -> bool {
    let text = |layer: &Layer, name: &str| {
        layer.values.get(name).and_then(Value::as_string).map(str::trim).map(str::to_owned)
    };
    let listen = layers.iter().find_map(|layer| text(layer, "RelayListen"));
    let listen = listen.and_then(|text| text.parse::<SocketAddr>().ok());
    let mut santas = layers.iter().filter(|layer| layer.is_santas());
    let url = santas.find_map(|layer| text(layer, "SyncBaseURL"));
    let url = url.and_then(|text| BaseUrl::parse(&text).ok());
    listen.zip(url).is_some_and(|(listen, url)| leads_to(&url, listen.port()))
}

/// Whether a layer sets a text that is not empty.
fn sets(layer: &Layer, name: &str) -> bool {
    let text = layer.values.get(name).and_then(Value::as_string);
    text.is_some_and(|text| !text.trim().is_empty())
}

/// What reaches one server must not go to another: neither its secrets nor its
/// proxy (CONF-1).
fn not_taken(key: &Key, source: &Source, because: &str) -> Finding {
    Finding {
        severity: Severity::Note,
        kind: FindingKind::NoEffect,
        key: Some(key.name.to_owned()),
        source: source.clone(),
        message: format!("is not taken from Santa's domain, because {because}"),
        fix: format!("to use it here too, set it in {}", Domain::Agent.name()),
    }
}

/// `config check` makes a warning of it: `santactl doctor` calls such a key
/// unknown.
fn misplaced(key: &Key, source: &Source) -> Finding {
    Finding {
        severity: Severity::Note,
        kind: FindingKind::Misplaced,
        key: Some(key.name.to_owned()),
        source: source.clone(),
        message: "is a key of this agent in Santa's domain: `santactl doctor` calls it unknown"
            .to_owned(),
        fix: format!("move it to a payload for {}", Domain::Agent.name()),
    }
}

fn exposed(key: &Key, source: &Source) -> Finding {
    Finding {
        severity: Severity::Warning,
        kind: FindingKind::Exposed,
        key: Some(key.name.to_owned()),
        source: source.clone(),
        message: "is a secret in a file that every user can read".to_owned(),
        fix: "chmod 0640 the file, owned by root and the agent's group".to_owned(),
    }
}
