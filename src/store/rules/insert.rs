//! The one statement that stores a rule.

use rusqlite::{Statement, Transaction, params};

use crate::model::{RuleRef, RuleState};

/// Names every column, so that no default of the table applies.
const INSERT_SQL: &str = "INSERT INTO execution_rules (identifier, state, type, custommsg, timestamp, \
     customurl, comment, cel_expr, rule_id, seatbelt_policy, event_detail_button_text) \
     VALUES (?1, ?2, ?3, ?4, 0, ?5, ?6, ?7, 0, NULL, ?8)";

/// Stores a missing text as NULL, as the reference does.
fn or_null(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// Appends rules to the table.
pub(super) struct Insert<'tx>(Statement<'tx>);

impl<'tx> Insert<'tx> {
    pub(super) fn prepare(tx: &'tx Transaction<'_>) -> rusqlite::Result<Self> {
        tx.prepare(INSERT_SQL).map(Self)
    }

    /// Stores a rule and returns its rowid; `identifier` is the text of its
    /// identifier.
    pub(super) fn execute(
        &mut self,
        identifier: &str,
        state: RuleState,
        rule: &RuleRef<'_>,
    ) -> rusqlite::Result<i64> {
        let details = &rule.details;
        self.0.insert(params![
            identifier,
            state.number(),
            rule.identifier.rule_type().number(),
            or_null(details.custom_msg),
            or_null(details.custom_url),
            or_null(details.comment),
            or_null(details.cel_expr),
            or_null(details.event_detail_button_label),
        ])
    }
}
