//! `rules log`: what each commit did to the rules.

use std::cell::{Cell, RefCell};
use std::ops::ControlFlow;
use std::time::Duration;

use serde::Serialize;
use serde::ser::{SerializeSeq as _, Serializer};

use super::{SCHEMA_VERSION, open};
use crate::cli::status::parse_age;
use crate::cli::{Error, Global, output};
use crate::clock::{Clock as _, SystemClock};
use crate::model::{SyncType, Timestamp};
use crate::store::{Generation, GenerationSource, LoggedRule, ReadStore, StoreError};

/// How many changes of a commit are shown to people.
const CHANGES_SHOWN: u64 = 20;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only changes of rules with this text in their identifier
    #[arg(long, value_name = "TEXT")]
    identifier: Option<String>,
    /// Only commits since this time or day in UTC, for example 2025-08-12T12:00:00Z or
    /// 2025-08-12, or in the last 90m, 2h or 1d
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    since: Option<Since>,
    /// Show at most so many commits, the newest ones; 0: all
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Since {
    Time(Timestamp),
    Age(Duration),
}

fn parse_since(text: &str) -> Result<Since, String> {
    // A day begins at its midnight.
    let time = Timestamp::parse(text).or_else(|| Timestamp::parse(&format!("{text}T00:00:00Z")));
    time.map(Since::Time).or_else(|| parse_age(text).ok().map(Since::Age)).ok_or_else(|| {
        format!(
            "{text:?} is neither a time, a day nor an age; write 2025-08-12T12:00:00Z, 2025-08-12, \
             or a number and s, m, h or d"
        )
    })
}

/// Lists the commits, newest first.
pub(super) fn run(global: &Global, args: &Args) -> Result<(), Error> {
    let (setup, store) = open(global)?;
    // All that follows sees one moment, whatever a sync commits meanwhile.
    let _moment = store.snapshot()?;
    let since = match args.since {
        None => Timestamp::from_millis(i64::MIN),
        Some(Since::Time(time)) => time,
        Some(Since::Age(age)) => {
            let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
            Timestamp::from_millis(SystemClock::new().now().wall.as_millis().saturating_sub(age))
        }
    };
    let log = ChangeLog {
        store: &store,
        identifier: args.identifier.as_deref(),
        since,
        limit: if args.limit == 0 { u64::MAX } else { args.limit },
        is_cut: false.into(),
        failed: None.into(),
    };
    if args.json {
        setup.print_json(&PrintedGenerations {
            schema_version: SCHEMA_VERSION,
            generations: &log,
            truncated: CutMark(&log),
        });
        return log.failed.into_inner().map_or(Ok(()), |error| Err(error.into()));
    }
    let mut lines = output::Lines::new();
    log.visit(&mut |generation| {
        let more =
            lines.line(headline(&generation)) && log.print_changes(&generation, &mut lines)?;
        Ok(if more { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    if log.is_cut.get() {
        let shown = args.limit;
        output::note(format_args!(
            "these are the newest {shown}; --limit 0 shows all, and --limit N as many"
        ));
    }
    Ok(())
}

fn headline(generation: &Generation) -> String {
    let by = match (generation.source, &generation.sync) {
        (GenerationSource::Found, _) => "found in the store".to_owned(),
        (GenerationSource::Import, _) => "import".to_owned(),
        (GenerationSource::Sync, None) => "sync".to_owned(),
        (GenerationSource::Sync, Some(id)) => format!("sync {}", output::printable(id)),
    };
    let sync_type = generation.sync_type.map_or("", SyncType::name);
    let counts = [
        (generation.added, "added"),
        (generation.replaced, "replaced"),
        (generation.reworded, "reworded"),
        (generation.sent_again, "sent again"),
        (generation.removed, "removed"),
        (generation.missed, "missed"),
    ];
    let counts: Vec<_> = counts
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    let Generation { number, committed_at, .. } = generation;
    let line = format!("{number}  {committed_at}  {by}  {sync_type}  {}", counts.join(", "));
    line.trim_end().to_owned()
}

/// The commits that are asked for.
struct ChangeLog<'a> {
    store: &'a ReadStore,
    identifier: Option<&'a str>,
    since: Timestamp,
    /// The most commits that are shown.
    limit: u64,
    /// There are more.
    is_cut: Cell<bool>,
    /// Why reading ended early.
    failed: RefCell<Option<StoreError>>,
}

impl ChangeLog<'_> {
    /// Shows the generations to `visit`, newest first, until it breaks.
    fn visit(
        &self,
        visit: &mut dyn FnMut(Generation) -> Result<ControlFlow<()>, StoreError>,
    ) -> Result<(), StoreError> {
        let (mut result, mut shown) = (Ok(()), 0);
        self.store.visit_generations(self.since, &mut |generation| {
            let number = generation.number;
            let visited = self.concerns(number).and_then(|concerns| {
                if !concerns {
                    return Ok(ControlFlow::Continue(()));
                }
                if shown == self.limit {
                    self.is_cut.set(true);
                    return Ok(ControlFlow::Break(()));
                }
                shown += 1;
                visit(generation)
            });
            visited.unwrap_or_else(|error| {
                result = Err(error);
                ControlFlow::Break(())
            })
        })?;
        result
    }

    /// Whether a generation has a change that is asked for.
    fn concerns(&self, generation: i64) -> Result<bool, StoreError> {
        let mut found = self.identifier.is_none();
        if !found {
            self.visit_changes(generation, &mut |_| {
                found = true;
                ControlFlow::Break(())
            })?;
        }
        Ok(found)
    }

    fn visit_changes(
        &self,
        generation: i64,
        visit: &mut dyn FnMut(LoggedRule) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.store.visit_changes(generation, self.identifier.unwrap_or_default(), visit)
    }

    /// Prints the first changes of a generation, or all that were asked for.
    /// Returns false once the reader has gone away.
    fn print_changes(
        &self,
        generation: &Generation,
        lines: &mut output::Lines,
    ) -> Result<bool, StoreError> {
        let (mut shown, mut more) = (0, true);
        self.visit_changes(generation.number, &mut |rule| {
            if shown == CHANGES_SHOWN && self.identifier.is_none() {
                more = lines.line("    and more: --identifier or --json lists them");
                return ControlFlow::Break(());
            }
            shown += 1;
            let LoggedRule { change, identifier, rule_type, before, after } = rule;
            let policies = match (before, after) {
                (Some(before), Some(after)) if before != after => format!("{before} -> {after}"),
                (_, Some(policy)) | (Some(policy), None) => policy.to_owned(),
                (None, None) => String::new(),
            };
            let (change, rule_type) = (change.name(), rule_type.map_or("", |known| known.name()));
            let identifier = output::printable(&identifier);
            let line = format!("    {change:<10}  {rule_type:<11}  {identifier}  {policies}");
            more = lines.line(line.trim_end());
            if more { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        if more && !generation.complete {
            more = lines.line("    its changes are not kept");
        }
        Ok(more)
    }
}

#[derive(Serialize)]
struct PrintedGenerations<'a> {
    schema_version: u32,
    generations: &'a ChangeLog<'a>,
    /// Whether there are more than `--limit`. It is known once the list is written.
    truncated: CutMark<'a>,
}

/// Whether a log was cut.
struct CutMark<'a>(&'a ChangeLog<'a>);

impl Serialize for CutMark<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bool(self.0.is_cut.get())
    }
}

/// Reads the generations while they are written.
impl Serialize for ChangeLog<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        let mut written = Ok(());
        let read = self.visit(&mut |generation| {
            let changes = GenerationChanges { log: self, generation: generation.number };
            written = list.serialize_element(&PrintedGeneration { generation, changes });
            let go_on = written.is_ok() && self.failed.borrow().is_none();
            Ok(if go_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        });
        if let Err(error) = read {
            *self.failed.borrow_mut() = Some(error);
        }
        written?;
        list.end()
    }
}

#[derive(Serialize)]
struct PrintedGeneration<'a> {
    #[serde(flatten)]
    generation: Generation,
    changes: GenerationChanges<'a>,
}

/// The changes of one generation.
struct GenerationChanges<'a> {
    log: &'a ChangeLog<'a>,
    generation: i64,
}

impl Serialize for GenerationChanges<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        let written = Cell::new(Ok(()));
        let read = self.log.visit_changes(self.generation, &mut |rule| {
            let element = list.serialize_element(&rule);
            let go_on = element.is_ok();
            written.set(element);
            if go_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        if let Err(error) = read {
            *self.log.failed.borrow_mut() = Some(error);
        }
        written.into_inner()?;
        list.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_time_or_an_age() {
        let time = Timestamp::from_secs(1_755_000_000);
        assert_eq!(parse_since("2025-08-12T12:00:00Z"), Ok(Since::Time(time)));
        assert_eq!(parse_since("2h"), Ok(Since::Age(Duration::from_hours(2))));
        let midnight = Timestamp::parse("2025-08-12T00:00:00Z").expect("a time");
        assert_eq!(parse_since("2025-08-12"), Ok(Since::Time(midnight)));
        for wrong in ["", "2", "yesterday", "2025-08", "2025-13-12"] {
            assert!(parse_since(wrong).is_err(), "{wrong}");
        }
    }
}
