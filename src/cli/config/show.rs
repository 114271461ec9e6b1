//! `config show`

use std::process::ExitCode;

use serde::Serialize;

use super::super::{Global, error, output, setup};
use super::SCHEMA_VERSION;
use crate::config::keys::{self, KEYS};
use crate::config::{Config, Effective, Source, revealed, shown};

#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(super) struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Show where each value comes from and what it overrides
    #[arg(long)]
    origin: bool,
    /// Include keys that are not set, with their defaults
    #[arg(long)]
    all: bool,
    /// Show SyncBaseURL in full, including what may be a secret
    #[arg(long)]
    reveal: bool,
}

/// The values that hold.
#[derive(Debug, Serialize)]
pub(crate) struct ShowReport {
    schema_version: u32,
    keys: Vec<KeyForm>,
}

#[derive(Debug, Serialize)]
struct KeyForm {
    key: &'static str,
    /// `null` where the default, in words, holds.
    value: serde_json::Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    default: Option<&'static str>,
    source: Source,
    overrides: Vec<Overridden>,
    server_may_override: bool,
}

#[derive(Debug, Serialize)]
struct Overridden {
    value: serde_json::Value,
    source: Source,
}

pub(super) fn run(global: &Global, args: &Args) -> ExitCode {
    let loaded = Config::examine(&setup::sources(global));
    let shown = if args.reveal { revealed } else { shown };
    let report = ShowReport::new(&loaded.effective, args.all, shown);
    if args.json {
        output::json(&report);
    } else {
        output::lines(report.text(args.origin));
    }
    let code = error::exit_of(&loaded.findings);
    if code != 0 {
        setup::warn_of(&loaded.findings);
        output::note("the configuration is refused; `santa-sync config check` says why");
    }
    ExitCode::from(code)
}

impl ShowReport {
    pub(crate) fn new(
        effective: &Effective,
        all: bool,
        shown: fn(&keys::Key, &plist::Value) -> serde_json::Value,
    ) -> Self {
        let form = |key: &'static keys::Key| match effective.get(key.name) {
            Some(chosen) => Some(KeyForm {
                key: key.name,
                value: shown(key, &chosen.value),
                default: None,
                source: chosen.source.clone(),
                overrides: chosen
                    .overridden
                    .iter()
                    .map(|(source, value)| Overridden {
                        value: shown(key, value),
                        source: source.clone(),
                    })
                    .collect(),
                server_may_override: key.server_wins,
            }),
            None if all && matches!(key.origin, keys::Origin::Santa | keys::Origin::Own) => {
                Some(KeyForm {
                    key: key.name,
                    value: serde_json::Value::Null,
                    default: Some(key.default),
                    source: Source::Default,
                    overrides: Vec::new(),
                    server_may_override: key.server_wins,
                })
            }
            None => None,
        };
        Self { schema_version: SCHEMA_VERSION, keys: KEYS.iter().filter_map(form).collect() }
    }

    pub(crate) fn text(&self, origin: bool) -> String {
        let mut lines = Vec::new();
        for key in &self.keys {
            let value = match key.default {
                Some(default) => format!("({default})"),
                None => one_line(&key.value),
            };
            lines.push(format!("{} = {value}", key.key));
            if !origin {
                continue;
            }
            lines.push(format!("    from {}", key.source));
            for overridden in &key.overrides {
                let value = one_line(&overridden.value);
                lines.push(format!("    over {value} from {}", overridden.source));
            }
            if key.server_may_override {
                lines.push("    the server's setting wins".to_owned());
            }
        }
        if lines.is_empty() {
            lines.push("Nothing is configured; --all shows the defaults.".to_owned());
        }
        output::joined(&lines)
    }
}

fn one_line(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), output::printable)
}
