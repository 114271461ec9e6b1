//! The rules, their generations and the settings of one moment: what the relay
//! hands out (RELAY-5).

use std::borrow::Cow;
use std::ops::{ControlFlow, Deref};
use std::path::Path;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction};

use super::commit::RuleCommit;
use super::generations::GenerationSource;
use super::meta;
use super::row::{self, Sound};
use super::rules_hash::SentForm;
use crate::model::{CleanSyncReason, RuleState, RuleType, SyncType};
use crate::store::settings::read_requests;
use crate::store::{ReadStore, Store, StoreError, agent_meta};

/// The generation of the last `CLEAN_ALL` that the server or the operator wanted.
const CLEAN_ALL_KEY: &str = "clean_all_generation";
/// The generation of the last commit that no guard limited.
const UNGUARDED_KEY: &str = "unguarded_generation";
/// 1 once a `CLEAN` or `CLEAN_ALL` sync has filled the store.
const FILLED_KEY: &str = "rules_filled_by_clean";

const READ: &str = "read the rules for the relay";

/// Everything in `rules.db` as it was at one moment, whatever is committed
/// afterwards. While it lives, the write-ahead log cannot be shortened.
#[derive(Debug)]
pub struct RulesSnapshot(ReadStore);

impl Deref for RulesSnapshot {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.0
    }
}

/// Where the rules stand in relation to the server, for somebody who passes
/// them on.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a question of its own")]
pub struct RulesStanding {
    /// Whether a rule download was ever completed.
    pub complete: bool,
    /// Whether a `CLEAN` or `CLEAN_ALL` sync has filled the store, so that it
    /// holds all of the server's rules and no others.
    pub filled: bool,
    /// Whether a clean sync is still to replace rules of another server or
    /// machine id, or to fill a store that was rebuilt.
    pub to_be_replaced: bool,
    /// Whether another program has changed the rules, which the next sync will
    /// record as a generation.
    pub unrecorded: bool,
    /// The generation of the last `CLEAN_ALL` that the server itself, or the
    /// operator, wanted.
    pub clean_all: Option<i64>,
    /// The generation of the last commit that no guard limited (RULE-11).
    pub unguarded: Option<i64>,
}

/// A stored rule as it is read; its texts are valid until the next one.
#[derive(Clone, Debug)]
pub struct RuleRow<'a> {
    /// Its identifier.
    pub identifier: &'a str,
    /// What the identifier names.
    pub rule_type: RuleType,
    /// What it does.
    pub state: RuleState,
    /// Text of the dialogue.
    pub custom_msg: Cow<'a, str>,
    /// Link of the dialogue.
    pub custom_url: Cow<'a, str>,
    /// The expression.
    pub cel_expr: Cow<'a, str>,
    /// Label of the link.
    pub event_detail_button_label: Cow<'a, str>,
}

/// The columns of [`RuleRow::read`]. Most rules have no texts: one column that says so
/// is read in less time than four without a value.
macro_rules! select {
    ($condition:literal) => {
        concat!(
            "SELECT rowid, identifier, state, type, \
             coalesce(custommsg, customurl, cel_expr, event_detail_button_text), \
             custommsg, customurl, cel_expr, event_detail_button_text \
             FROM execution_rules WHERE ",
            $condition
        )
    };
}

impl<'a> RuleRow<'a> {
    /// `None` if the row is foreign, or a transitive rule, which is the host's own.
    fn read(row: &'a Row<'_>) -> rusqlite::Result<Option<Self>> {
        let Some(Sound { identifier, state, rule_type }) = Sound::read(row, 1)? else {
            return Ok(None);
        };
        let (Some(rule_type), Some(state)) =
            (RuleType::from_number(rule_type), RuleState::from_number(state))
        else {
            return Ok(None);
        };
        if state == RuleState::AllowTransitive {
            return Ok(None);
        }
        let has_texts = row.get_ref(4)? != ValueRef::Null;
        let text = |column| {
            let text = has_texts.then(|| row.get_ref(column).map(lossy));
            text.unwrap_or(Ok(Cow::Borrowed("")))
        };
        Ok(Some(Self {
            identifier,
            rule_type,
            state,
            custom_msg: text(5)?,
            custom_url: text(6)?,
            cel_expr: text(7)?,
            event_detail_button_label: text(8)?,
        }))
    }
}

fn lossy(value: ValueRef<'_>) -> Cow<'_, str> {
    String::from_utf8_lossy(row::bytes(value))
}

/// Which changes lie between a generation and a snapshot, as places to read them
/// from: few bytes each.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ChangesSince {
    /// Rules removed, or to be removed, that do not exist: the generation and
    /// the place in its log.
    pub removed: Vec<(i64, i64)>,
    /// The places of rules added, replaced, reworded or sent again, in stored
    /// order.
    pub sent: Vec<i64>,
}

impl RulesSnapshot {
    /// Opens the store of a state directory as it is now.
    ///
    /// # Errors
    /// As [`Store::open_read_only`].
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let store = Store::open_read_only(dir)?;
        // Mapped pages would stay in memory; those of a large store are many.
        store
            .rules
            .execute_batch("PRAGMA mmap_size = 0; PRAGMA cache_size = -1024; BEGIN")
            .map_err(store.failed(READ))?;
        // SQLite fixes the moment with the first reading.
        store.newest_generation()?;
        Ok(Self(store))
    }

    /// Where the rules stand.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn rules_standing(&self) -> Result<RulesStanding, StoreError> {
        standing(&self.rules).map_err(self.failed(READ))
    }

    /// Returns hash and counts of the rules as a program holds them that was sent
    /// each in the state that `sent` returns for its own. Reads all rules.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn sent_form(
        &self,
        sent: &dyn Fn(RuleState) -> Option<RuleState>,
    ) -> Result<SentForm, StoreError> {
        SentForm::of(&self.rules, sent).map_err(self.failed(READ))
    }

    /// Shows each rule after a place to `visit`, in stored order, until it
    /// breaks. Returns the place of the rule at which it did. Places are higher than
    /// those of all rules before.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn visit_rules_after(
        &self,
        place: i64,
        visit: &mut dyn FnMut(&RuleRow<'_>) -> ControlFlow<()>,
    ) -> Result<Option<i64>, StoreError> {
        let mut read = || {
            let mut statement = self.rules.prepare_cached(select!("rowid > ?1 ORDER BY rowid"))?;
            let mut rows = statement.query([place])?;
            while let Some(row) = rows.next()? {
                if let Some(rule) = RuleRow::read(row)?
                    && visit(&rule).is_break()
                {
                    return row.get(0).map(Some);
                }
            }
            Ok(None)
        };
        read().map_err(self.failed(READ))
    }

    /// Shows the rules at these places to `visit`, in this order, until it
    /// breaks.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn visit_rules_at(
        &self,
        places: &[i64],
        visit: &mut dyn FnMut(&RuleRow<'_>) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let mut read = || {
            let mut statement = self.rules.prepare_cached(select!("rowid = ?1"))?;
            for place in places {
                let mut rows = statement.query([place])?;
                if let Some(row) = rows.next()?
                    && let Some(rule) = RuleRow::read(row)?
                    && visit(&rule).is_break()
                {
                    break;
                }
            }
            Ok(())
        };
        read().map_err(self.failed(READ))
    }

    /// Where to find what has changed since a generation. All of it if
    /// [`super::RulesSince::complete`] says so and [`super::RulesSince::clean`]
    /// is empty.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn changes_since(&self, base: i64) -> Result<ChangesSince, StoreError> {
        let read = || {
            let mut removed = self.rules.prepare_cached(
                "SELECT c.generation, c.place FROM agent_rule_changes AS c \
                 WHERE c.generation > ?1 AND c.change IN ('removed', 'missed') AND NOT EXISTS \
                 (SELECT 1 FROM execution_rules AS r \
                  WHERE r.identifier = c.identifier AND r.type = c.type) \
                 GROUP BY c.identifier, c.type ORDER BY c.generation, c.place",
            )?;
            let removed = removed.query_map([base], |row| Ok((row.get(0)?, row.get(1)?)))?;
            let removed = removed.collect::<rusqlite::Result<_>>()?;
            let mut sent = self.rules.prepare_cached(
                "SELECT DISTINCT r.rowid FROM agent_rule_changes AS c \
                 CROSS JOIN execution_rules AS r \
                 ON r.identifier = c.identifier AND r.type = c.type \
                 WHERE c.generation > ?1 \
                 AND c.change IN ('added', 'replaced', 'reworded', 'sent_again') \
                 AND r.state IS NOT 6 ORDER BY r.rowid",
            )?;
            let sent = sent.query_map([base], |row| row.get(0))?;
            Ok(ChangesSince { removed, sent: sent.collect::<rusqlite::Result<_>>()? })
        };
        read().map_err(self.failed(READ))
    }

    /// How many rules of generation `base` have been removed since and are not stored again.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn removed_since(&self, base: i64) -> Result<u64, StoreError> {
        let read = || {
            // A rule has at most one change in a generation. `before` of its first change since
            // `base` shows whether `base` had the rule.
            self.rules
                .prepare_cached(
                    "SELECT count(*) FROM (SELECT identifier, type, before, min(generation) \
                      FROM agent_rule_changes WHERE generation > ?1 GROUP BY identifier, type) AS c \
                     WHERE c.before IS NOT NULL AND NOT EXISTS \
                     (SELECT 1 FROM execution_rules AS r \
                      WHERE r.identifier = c.identifier AND r.type = c.type)",
                )?
                .query_row([base], |row| row.get(0))
        };
        read().map_err(self.failed(READ))
    }

    /// Shows identifier and type of these changes to `visit`, in this order,
    /// until it breaks.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn visit_changes_at(
        &self,
        changes: &[(i64, i64)],
        visit: &mut dyn FnMut(&str, RuleType) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let mut read = || {
            let mut statement = self.rules.prepare_cached(
                "SELECT identifier, type FROM agent_rule_changes \
                 WHERE generation = ?1 AND place = ?2",
            )?;
            for change in changes {
                let mut rows = statement.query(*change)?;
                let Some(row) = rows.next()? else { continue };
                let identifier = row::text(row.get_ref(0)?);
                let rule_type = row::number(row.get_ref(1)?).and_then(RuleType::from_number);
                if let Some((identifier, rule_type)) = identifier.zip(rule_type)
                    && visit(identifier, rule_type).is_break()
                {
                    break;
                }
            }
            Ok(())
        };
        read().map_err(self.failed(READ))
    }
}

fn standing(conn: &Connection) -> rusqlite::Result<RulesStanding> {
    let requests = read_requests(conn)?;
    Ok(RulesStanding {
        complete: meta::is_complete(conn)?,
        filled: match agent_meta::get(conn, FILLED_KEY)? {
            Some(filled) => filled,
            None => was_filled(conn)?,
        },
        to_be_replaced: requests.iter().any(|request| match request.reason {
            CleanSyncReason::RulesRecreated
            | CleanSyncReason::ServerChanged
            | CleanSyncReason::MachineIdChanged => true,
            CleanSyncReason::NewState
            | CleanSyncReason::Operator
            | CleanSyncReason::SettingsUnreadable
            | CleanSyncReason::Other => false,
        }),
        unrecorded: meta::kept_digest(conn)?.is_none(),
        clean_all: agent_meta::get(conn, CLEAN_ALL_KEY)?,
        unguarded: agent_meta::get(conn, UNGUARDED_KEY)?,
    })
}

/// Whether a clean sync filled the store before there was a record of it.
fn was_filled(conn: &Connection) -> rusqlite::Result<bool> {
    conn.query_row(
        "SELECT 1 FROM agent_generations WHERE source = 'sync' \
         AND sync_type IN ('CLEAN', 'CLEAN_ALL') LIMIT 1",
        [],
        |_| Ok(()),
    )
    .optional()
    .map(|found| found.is_some())
}

/// Whether a `CLEAN_ALL` is the server's own or the operator's, and not one that
/// this agent requested because of its state.
pub(super) fn is_wanted_clean_all(
    tx: &Transaction<'_>,
    sync_type: SyncType,
) -> rusqlite::Result<bool> {
    if sync_type != SyncType::CleanAll {
        return Ok(false);
    }
    let requests = read_requests(tx)?;
    let mut all = requests.iter().filter(|request| request.sync_type == SyncType::CleanAll);
    Ok(all.clone().next().is_none()
        || all.any(|request| request.reason == CleanSyncReason::Operator))
}

/// Notes what [`standing`] reads about a commit that made `generation`. `wanted`
/// is what [`is_wanted_clean_all`] said.
pub(super) fn note(
    tx: &Transaction<'_>,
    commit: &RuleCommit,
    generation: Option<i64>,
    wanted: bool,
) -> rusqlite::Result<()> {
    if commit.source == GenerationSource::Sync && commit.sync_type.is_clean() {
        agent_meta::put(tx, FILLED_KEY, &true)?;
    }
    let Some(generation) = generation else { return Ok(()) };
    if wanted {
        agent_meta::put(tx, CLEAN_ALL_KEY, &generation)?;
    }
    if commit.guard.is_none() {
        agent_meta::put(tx, UNGUARDED_KEY, &generation)?;
    }
    Ok(())
}
