//! The databases: do they open, are they sound, what do they hold.

use std::path::Path;
use std::time::Duration;

use super::{Layer, Line, Status};
use crate::clock::{Clock as _, SystemClock};
use crate::config::Config;
use crate::model::ClientMode;
use crate::store::{
    EVENTS_FILE, EventStore, FileCheck, ModeHeldBack, RULES_FILE, ReadStore, SUSPECT_SUFFIX,
    StateLock, Store, StoreError,
};
use crate::sync::run;

const LAYER: Layer = Layer::Stores;

/// How long the check of one database may take. Reading all of a million rules
/// takes a fraction of it.
const CHECK_TIMEOUT: Duration = Duration::from_secs(3);

/// The rule store as the layers behind this one may use it.
pub(super) enum RuleStoreFound {
    /// It can be read.
    Open(ReadStore),
    /// No sync has been here.
    Empty,
    /// It cannot be read, or is damaged.
    Unusable,
}

impl RuleStoreFound {
    pub(super) const fn open(&self) -> Option<&ReadStore> {
        match self {
            Self::Open(store) => Some(store),
            Self::Empty | Self::Unusable => None,
        }
    }
}

/// Opens both databases to read and checks them.
pub(super) fn examine(
    dir: &Path,
    configured: Option<ClientMode>,
    clock: SystemClock,
    lines: &mut Vec<Line>,
) -> RuleStoreFound {
    match std::fs::read_dir(dir) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            lines.push(Line::skipped(LAYER, "there is no state directory yet"));
            return RuleStoreFound::Empty;
        }
        Err(_) => {
            lines.push(Line::skipped(LAYER, "the state directory cannot be used"));
            return RuleStoreFound::Unusable;
        }
    }
    let rules = rules(dir, configured, clock, lines);
    events(dir, clock, lines);
    if StateLock::is_held(dir) {
        lines.push(Line::ok(LAYER, "a sync is running just now"));
    }
    rules
}

fn rules(
    dir: &Path,
    configured: Option<ClientMode>,
    clock: SystemClock,
    lines: &mut Vec<Line>,
) -> RuleStoreFound {
    let mut store = match Store::open_read_only(dir) {
        Ok(store) => store,
        Err(error) => {
            lines.push(unopened(RULES_FILE, &error));
            let empty =
                matches!(error, StoreError::Missing { .. } | StoreError::NeverFilled { .. });
            return if empty { RuleStoreFound::Empty } else { RuleStoreFound::Unusable };
        }
    };
    let fix = "`santa-sync rules verify`, which marks the file for the next sync to set aside \
               (never deleted); that sync fetches every rule again";
    let checked = store.check_file(deadline(clock));
    if let Some(line) = unsound(RULES_FILE, checked, "`santa-sync rules verify`", fix) {
        let damaged = line.status == Status::Problem;
        lines.push(line);
        if damaged {
            return RuleStoreFound::Unusable;
        }
    }
    let read = || Ok((store.rule_counts()?, store.rules_hash()?, store.lockdown_held_back()?));
    let mode = store.applied_settings().ok().and_then(|settings| settings.client_mode);
    let held = match mode.or(configured) {
        Some(ClientMode::Lockdown) => ", so LOCKDOWN is held back",
        Some(ClientMode::Monitor | ClientMode::Standalone) | None => "",
    };
    lines.push(match read() {
        Ok((counts, hash, None)) => {
            let rules =
                [counts.binary, counts.certificate, counts.teamid, counts.signingid, counts.cdhash]
                    .map(u64::from);
            let rules: u64 = rules.iter().sum();
            Line::ok(LAYER, format!("rules.db holds {rules} rules, hash {hash}"))
        }
        Ok((_, _, Some(ModeHeldBack::NoRuleDownload))) => {
            let message = format!("rules.db has not seen a complete rule download yet{held}");
            Line::warning(LAYER, message, "let one sync succeed: `santa-sync sync`")
        }
        Ok((_, _, Some(ModeHeldBack::RulesRecreated))) => {
            let message = format!("rules.db was recreated and has not been refilled yet{held}");
            let fix =
                "have the server respond with a clean sync, and let it succeed: `santa-sync sync`";
            Line::warning(LAYER, message, fix)
        }
        Err(error) => {
            lines.push(unopened(RULES_FILE, &error));
            return RuleStoreFound::Unusable;
        }
    });
    RuleStoreFound::Open(store)
}

/// Warnings about the state of the rule store.
pub(super) fn standing(rules: &RuleStoreFound, config: &Config) -> Vec<Line> {
    let Some(store) = rules.open() else { return Vec::new() };
    match run::standing(store, config) {
        Ok(standing) => standing
            .iter()
            .map(|standing| Line::warning(LAYER, standing.to_string(), standing.fix()))
            .collect(),
        Err(error) => vec![unopened(RULES_FILE, &error)],
    }
}

fn events(dir: &Path, clock: SystemClock, lines: &mut Vec<Line>) {
    let mut store = match EventStore::open_read_only(dir) {
        Ok(store) => store,
        Err(error) => return lines.push(unopened(EVENTS_FILE, &error)),
    };
    let mark = dir.join(format!("{EVENTS_FILE}{SUSPECT_SUFFIX}"));
    let mark = format!(
        "`touch {}`, which has the next sync check all of the file and, if it is damaged, set it \
         aside (never deleted) and begin an empty queue",
        mark.display()
    );
    let checked = store.check_file(deadline(clock));
    if let Some(line) = unsound(EVENTS_FILE, checked, &mark, &mark) {
        let damaged = line.status == Status::Problem;
        lines.push(line);
        if damaged {
            return;
        }
    }
    lines.push(match store.pending().and_then(|pending| Ok((pending, store.oldest()?))) {
        Ok((0, _)) => Line::ok(LAYER, "events.db holds no event"),
        Ok((pending, oldest)) => {
            let since = oldest.map(|oldest| format!(", the oldest since {oldest}"));
            let events = if pending == 1 { "event" } else { "events" };
            let since = since.unwrap_or_default();
            Line::ok(LAYER, format!("events.db holds {pending} {events} to send{since}"))
        }
        Err(error) => unopened(EVENTS_FILE, &error),
    });
}

/// Says when the patience with a check is over.
fn deadline(clock: SystemClock) -> impl FnMut() -> bool + Send + 'static {
    let end = clock.now().elapsed + CHECK_TIMEOUT;
    move || clock.now().elapsed > end
}

/// The line for a check that did not find the file intact.
fn unsound(
    name: &str,
    checked: Result<FileCheck, StoreError>,
    instead: &str,
    fix: &str,
) -> Option<Line> {
    match checked {
        Ok(FileCheck::Sound) => None,
        Ok(FileCheck::Damaged(found)) => {
            let message = format!("{name} is damaged ({})", found.join("; "));
            Some(Line::problem(LAYER, message, fix))
        }
        Ok(FileCheck::GivenUp) => {
            let seconds = CHECK_TIMEOUT.as_secs();
            let message = format!("{name} cannot be checked within {seconds} s; see {instead}");
            Some(Line::skipped(LAYER, message))
        }
        Err(error) => Some(unopened(name, &error)),
    }
}

/// Why a database cannot be read; what the next sync fixes by itself is no
/// problem.
fn unopened(name: &str, error: &StoreError) -> Line {
    if matches!(error, StoreError::Missing { .. }) {
        let message = format!("{name} does not exist yet; the first sync creates it");
        return Line::skipped(LAYER, message);
    }
    let line = Line::of_error(LAYER, error, "see the log of the last sync");
    let fixed_by_a_sync =
        matches!(error, StoreError::NeverFilled { .. } | StoreError::TooOld { .. });
    if fixed_by_a_sync { Line { status: Status::Warning, ..line } } else { line }
}
