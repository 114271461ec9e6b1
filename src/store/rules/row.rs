//! Reading a row of the rules, whoever wrote it.
//!
//! SQLite stores any type of value in any column. A row whose identifier is not
//! text, or whose state or type is not a number of 32 bits, is **foreign**:
//! lookups, lists, hash and counts skip it, a clean sync deletes it, and `rules
//! verify` names it.

use rusqlite::Row;
use rusqlite::types::ValueRef;

/// The identifying columns of a row that is not foreign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sound<'a> {
    pub(super) identifier: &'a str,
    pub(super) state: i32,
    pub(super) rule_type: i32,
}

impl<'a> Sound<'a> {
    /// Reads `identifier`, `state` and `type`, which are the columns from
    /// `first` on; `None` if the row is foreign.
    pub(super) fn read(row: &'a Row<'_>, first: usize) -> rusqlite::Result<Option<Self>> {
        let identifier = text(row.get_ref(first)?);
        let state = number(row.get_ref(first + 1)?);
        let rule_type = number(row.get_ref(first + 2)?);
        Ok(match (identifier, state, rule_type) {
            (Some(identifier), Some(state), Some(rule_type)) => {
                Some(Self { identifier, state, rule_type })
            }
            _ => None,
        })
    }
}

/// Returns the value as text; `None` if it is not UTF-8 text.
pub(super) fn text(value: ValueRef<'_>) -> Option<&str> {
    match value {
        ValueRef::Text(bytes) => str::from_utf8(bytes).ok(),
        ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) | ValueRef::Blob(_) => None,
    }
}

/// Returns the value as a number; `None` if it is not a 32-bit integer.
pub(super) fn number(value: ValueRef<'_>) -> Option<i32> {
    match value {
        ValueRef::Integer(number) => number.try_into().ok(),
        ValueRef::Null | ValueRef::Real(_) | ValueRef::Text(_) | ValueRef::Blob(_) => None,
    }
}

/// Returns the text of a column that decides nothing: of a text or BLOB with
/// invalid UTF-8 replaced, empty for any other value.
pub(in crate::store) fn lossy(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
            String::from_utf8_lossy(bytes).into_owned()
        }
        ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => String::new(),
    }
}

/// Returns the bytes of a text for the hash; also those of a BLOB, which the
/// reference reads as text.
pub(super) fn bytes(value: ValueRef<'_>) -> &[u8] {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes,
        ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => &[],
    }
}
