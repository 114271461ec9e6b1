//! The rules that an agent of ours has stored, in the form of Santa's table.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::santa::Row;

/// Every row in stored order, with all its columns.
pub(crate) fn rows(state_dir: &Path) -> Vec<Row> {
    let file = state_dir.join("rules.db");
    let store = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY).expect("open");
    let mut statement = store
        .prepare(
            "SELECT identifier, state, type, ifnull(custommsg, ''), ifnull(customurl, ''), \
             ifnull(cel_expr, ''), ifnull(seatbelt_policy, ''), \
             ifnull(event_detail_button_text, '') FROM execution_rules ORDER BY rowid",
        )
        .expect("the table");
    let rows = statement.query_map([], |row| {
        Ok(Row {
            identifier: row.get(0)?,
            state: row.get(1)?,
            rule_type: row.get(2)?,
            custom_msg: row.get(3)?,
            custom_url: row.get(4)?,
            cel_expr: row.get(5)?,
            seatbelt_policy: row.get(6)?,
            button_text: row.get(7)?,
        })
    });
    rows.expect("rows").collect::<Result<_, _>>().expect("rows")
}
