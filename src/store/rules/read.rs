//! Reading rules: all in stored order, or the one that decides.

use std::ops::ControlFlow;

use rusqlite::types::{Null, ValueRef};
use rusqlite::{CachedStatement, Connection, Row, Statement, Transaction};

use super::row::{self, Sound};
use crate::model::{
    Executable, Match, RuleDetails, RuleOrigin, RuleState, RuleType, StaticRules, StoredRule,
};
use crate::store::{Store, StoreError};

/// Selects rules. An empty list selects all.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct RuleFilter {
    /// Of one of these types.
    pub rule_types: Vec<RuleType>,
    /// Of one of these states.
    pub states: Vec<RuleState>,
    /// With this text in the identifier, ignoring ASCII case.
    pub identifier: Option<String>,
}

impl RuleFilter {
    fn takes(&self, rule: &StoredRule) -> bool {
        let any_or = |listed: bool, empty: bool| empty || listed;
        any_or(self.rule_types.contains(&rule.rule_type), self.rule_types.is_empty())
            && any_or(self.states.contains(&rule.state), self.states.is_empty())
            && self.identifier.as_ref().is_none_or(|part| {
                rule.identifier.to_ascii_lowercase().contains(&part.to_ascii_lowercase())
            })
    }
}

/// The columns of [`read`], in its order.
macro_rules! columns {
    () => {
        "identifier, state, type, timestamp, custommsg, customurl, comment, cel_expr, \
         event_detail_button_text"
    };
}

/// One statement, so that all its parts see the same commit. They run lazily in
/// order of precedence (RULE-9), except for transitive rules. A missing
/// identifier is NULL and matches nothing.
const LOOKUP_SQL: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM execution_rules WHERE identifier = ?1 AND type = 500 UNION ALL SELECT ",
    columns!(),
    " FROM execution_rules WHERE identifier = ?2 AND type = 1000 UNION ALL SELECT ",
    columns!(),
    " FROM execution_rules WHERE identifier = ?3 AND type = 2000 UNION ALL SELECT ",
    columns!(),
    " FROM execution_rules WHERE identifier = ?4 AND type = 3000 UNION ALL SELECT ",
    columns!(),
    " FROM execution_rules WHERE identifier = ?5 AND type = 4000"
);

const LOOKING_UP: &str = "look a rule up";

/// Repeated lookups with one compiled statement, for an authorizer. With
/// [`Store::lookups`] each sees the newest rules; with [`Store::snapshot`] all
/// see those of one moment.
pub struct Lookups<'a> {
    store: &'a Store,
    statement: CachedStatement<'a>,
    // Must be the last field: it is dropped when nothing reads any more.
    _read: Option<Transaction<'a>>,
}

impl std::fmt::Debug for Lookups<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lookups").field("store", &self.store).finish_non_exhaustive()
    }
}

impl Lookups<'_> {
    /// As [`Store::find_rule`].
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn find_rule(&mut self, executable: &Executable) -> Result<Option<StoredRule>, StoreError> {
        let found = find(&mut self.statement, executable);
        found.map_err(|error| self.store.failed(LOOKING_UP)(error))
    }

    /// As [`Store::lookup`].
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn lookup(
        &mut self,
        executable: &Executable,
        static_rules: &StaticRules,
        transitive_enabled: bool,
    ) -> Result<Option<Match>, StoreError> {
        decide(executable, static_rules, transitive_enabled, || self.find_rule(executable))
    }
}

impl Store {
    /// Passes each rule that the filter selects to `visit`, in stored order,
    /// until it breaks. Skips foreign rows, and rules of a type or state that
    /// this program does not know.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn visit_rules(
        &self,
        filter: &RuleFilter,
        visit: &mut dyn FnMut(StoredRule) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        visit_all(&self.rules, filter, visit).map_err(self.failed("read the rules"))
    }

    /// Returns the stored rule of the highest precedence for an executable.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn find_rule(&self, executable: &Executable) -> Result<Option<StoredRule>, StoreError> {
        let found = self.rules.prepare_cached(LOOKUP_SQL);
        let found = found.and_then(|mut lookup| find(&mut lookup, executable));
        found.map_err(|error| self.failed(LOOKING_UP)(error))
    }

    /// Prepares repeated lookups, each of which sees the newest rules.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn lookups(&self) -> Result<Lookups<'_>, StoreError> {
        let statement = self.rules.prepare_cached(LOOKUP_SQL).map_err(self.failed(LOOKING_UP))?;
        Ok(Lookups { store: self, statement, _read: None })
    }

    /// Prepares repeated lookups that all see the rules as of the first one,
    /// whatever another process commits meanwhile.
    ///
    /// A separate lookup locks the database for reading, which takes half as
    /// long as the search; a snapshot does this once. It is meant for a burst
    /// of lookups and must be dropped afterwards: while it lives, later commits
    /// are invisible and the write-ahead log grows. Everything read through
    /// this `Store` meanwhile sees the same moment.
    ///
    /// # Errors
    /// If the database cannot be read, or while another snapshot of this
    /// `Store` lives.
    pub fn snapshot(&self) -> Result<Lookups<'_>, StoreError> {
        let lookups = self.lookups()?;
        let read = self.rules.unchecked_transaction().map_err(self.failed(LOOKING_UP))?;
        Ok(Lookups { _read: Some(read), ..lookups })
    }

    /// Returns the rule that decides about an executable: one of the
    /// configuration, else the stored rule of the highest precedence. While
    /// transitive rules are disabled, a transitive rule decides nothing and a
    /// compiler rule is a plain ALLOWLIST.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn lookup(
        &self,
        executable: &Executable,
        static_rules: &StaticRules,
        transitive_enabled: bool,
    ) -> Result<Option<Match>, StoreError> {
        decide(executable, static_rules, transitive_enabled, || self.find_rule(executable))
    }
}

fn decide(
    executable: &Executable,
    static_rules: &StaticRules,
    transitive_enabled: bool,
    stored: impl FnOnce() -> Result<Option<StoredRule>, StoreError>,
) -> Result<Option<Match>, StoreError> {
    let found = match static_rules.find(executable) {
        Some(rule) => Some((rule, RuleOrigin::Configuration)),
        None => stored()?.map(|rule| (rule, RuleOrigin::Store)),
    };
    Ok(found.and_then(|(rule, origin)| Match::new(rule, origin, transitive_enabled)))
}

fn visit_all(
    conn: &Connection,
    filter: &RuleFilter,
    visit: &mut dyn FnMut(StoredRule) -> ControlFlow<()>,
) -> rusqlite::Result<()> {
    let mut statement = conn.prepare_cached(concat!(
        "SELECT ",
        columns!(),
        " FROM execution_rules ORDER BY rowid"
    ))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        if let Some(rule) = read(row)?
            && filter.takes(&rule)
            && visit(rule).is_break()
        {
            break;
        }
    }
    Ok(())
}

fn find(
    statement: &mut Statement<'_>,
    executable: &Executable,
) -> rusqlite::Result<Option<StoredRule>> {
    let mut text = String::with_capacity(64);
    for (parameter, rule_type) in (1..).zip(RuleType::ALL.iter().copied()) {
        text.clear();
        if let Some(identifier) = executable.identifier(rule_type) {
            identifier.push_to(&mut text);
            statement.raw_bind_parameter(parameter, text.as_str())?;
        } else {
            statement.raw_bind_parameter(parameter, Null)?;
        }
    }
    let mut rows = statement.raw_query();
    let mut transitive = None;
    while let Some(row) = rows.next()? {
        // A row that is not a rule neither decides nor hides one that does.
        let Some(rule) = read(row)? else { continue };
        if rule.state != RuleState::AllowTransitive {
            return Ok(Some(rule));
        }
        transitive = transitive.or(Some(rule));
    }
    Ok(transitive)
}

/// Reads a row as a rule; `None` if it is foreign, or of an unknown type or
/// state.
pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Option<StoredRule>> {
    let Some(Sound { identifier, state, rule_type }) = Sound::read(row, 0)? else {
        return Ok(None);
    };
    let (Some(rule_type), Some(state)) =
        (RuleType::from_number(rule_type), RuleState::from_number(state))
    else {
        return Ok(None);
    };
    let text = |column| row.get_ref(column).map(row::lossy);
    Ok(Some(StoredRule {
        identifier: identifier.to_owned(),
        rule_type,
        state,
        timestamp: match row.get_ref(3)? {
            ValueRef::Integer(timestamp) => timestamp,
            ValueRef::Null | ValueRef::Real(_) | ValueRef::Text(_) | ValueRef::Blob(_) => 0,
        },
        details: RuleDetails {
            custom_msg: text(4)?,
            custom_url: text(5)?,
            comment: text(6)?,
            cel_expr: text(7)?,
            event_detail_button_label: text(8)?,
            notification_app_name: String::new(),
        },
    }))
}
