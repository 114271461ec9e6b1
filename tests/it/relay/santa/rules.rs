//! Santa's table of rules.

use std::collections::{BTreeMap, HashMap};

use santa_sync::model::SyncType;
use santa_sync::protocol::wire;
use xxhash_rust::xxh3::xxh3_128;

use super::age::Age;

pub(crate) const BINARY: i32 = 1000;
pub(crate) const TRANSITIVE: i32 = 6;
pub(crate) const LOCAL_BINARY: i32 = 7;
pub(crate) const LOCAL_SIGNING_ID: i32 = 8;
const REMOVE: i32 = 4;
const COMPILER: i32 = 5;
const CEL: i32 = 9;
const CEL_OF_V2: i32 = 10;

/// An expression that every parser takes and Santa does not compile.
pub(crate) const UNCOMPILABLE: &str = "target.no_such_field == 1";

/// A row, with every column that a download sets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Row {
    pub(crate) identifier: String,
    pub(crate) state: i32,
    pub(crate) rule_type: i32,
    pub(crate) custom_msg: String,
    pub(crate) custom_url: String,
    pub(crate) cel_expr: String,
    pub(crate) seatbelt_policy: String,
    pub(crate) button_text: String,
}

/// The table in stored order.
#[derive(Clone, Debug, Default)]
pub(crate) struct RuleTable {
    /// By row number.
    rows: BTreeMap<u64, Row>,
    /// The row number of each identifier and type.
    index: HashMap<(String, i32), u64>,
    last: u64,
}

/// How many there are, by the names of preflight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    pub(crate) binary: u32,
    pub(crate) certificate: u32,
    pub(crate) compiler: u32,
    pub(crate) transitive: u32,
    pub(crate) team_id: u32,
    pub(crate) signing_id: u32,
    pub(crate) cdhash: u32,
}

impl Counts {
    pub(crate) fn add(&mut self, row: &Row) {
        match row.rule_type {
            500 => self.cdhash += 1,
            BINARY => self.binary += 1,
            2000 => self.signing_id += 1,
            3000 => self.certificate += 1,
            4000 => self.team_id += 1,
            _ => {}
        }
        match row.state {
            COMPILER => self.compiler += 1,
            TRANSITIVE => self.transitive += 1,
            _ => {}
        }
    }
}

impl RuleTable {
    /// Inserts or replaces a row, which then is the last.
    pub(crate) fn put(&mut self, row: Row) {
        self.remove(&row.identifier, row.rule_type);
        self.last += 1;
        self.index.insert((row.identifier.clone(), row.rule_type), self.last);
        self.rows.insert(self.last, row);
    }

    pub(crate) fn remove(&mut self, identifier: &str, rule_type: i32) {
        if let Some(number) = self.index.remove(&(identifier.to_owned(), rule_type)) {
            self.rows.remove(&number);
        }
    }

    pub(crate) fn holds(&self, identifier: &str, rule_type: i32) -> bool {
        self.index.contains_key(&(identifier.to_owned(), rule_type))
    }

    fn retain(&mut self, keep: impl Fn(&Row) -> bool) {
        self.rows.retain(|_, row| keep(row));
        self.index.retain(|_, number| self.rows.contains_key(number));
    }

    /// Applies a download in one transaction.
    pub(crate) fn apply(&mut self, rules: Vec<Row>, sync_type: SyncType) {
        match sync_type {
            SyncType::Clean => self.retain(|row| row.state == TRANSITIVE),
            SyncType::CleanAll => self.retain(|_| false),
            SyncType::Normal
            | SyncType::CleanStandalone
            | SyncType::CleanRules
            | SyncType::CleanFileAccessRules => {}
        }
        for row in rules {
            if row.state == REMOVE {
                self.remove(&row.identifier, row.rule_type);
            } else if !matches!(row.state, CEL | CEL_OF_V2) || compiles(&row.cel_expr) {
                self.put(row);
            }
        }
    }

    pub(crate) fn rows(&self) -> Vec<Row> {
        self.rows.values().cloned().collect()
    }

    pub(crate) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        self.rows.values().for_each(|row| counts.add(row));
        counts
    }

    /// The hash that preflight reports.
    pub(crate) fn hash(&self) -> String {
        let mut bytes = Vec::new();
        for row in self.rows.values().filter(|row| row.state != TRANSITIVE) {
            for text in [&row.identifier, &row.cel_expr, &row.seatbelt_policy] {
                bytes.extend_from_slice(text.as_bytes());
            }
            bytes.extend_from_slice(&row.state.to_le_bytes());
            bytes.extend_from_slice(&row.rule_type.to_le_bytes());
        }
        format!("{:032x}", xxh3_128(&bytes))
    }

    /// The rows that a server can know of.
    pub(crate) fn server_rows(&self) -> Vec<Row> {
        let own = [TRANSITIVE, LOCAL_BINARY, LOCAL_SIGNING_ID];
        self.rows.values().filter(|row| !own.contains(&row.state)).cloned().collect()
    }
}

fn compiles(expression: &str) -> bool {
    expression != UNCOMPILABLE && cel::Program::compile(expression).is_ok()
}

/// The row of a downloaded rule; `None` if this release drops it.
#[expect(deprecated, reason = "Santa reads what servers of old send")]
pub(crate) fn row(rule: &wire::Rule, age: Age, is_v2: bool) -> Option<Row> {
    let policy = rule.policy();
    if !age.knows(policy) {
        return None;
    }
    let state = match policy {
        wire::Policy::Unknown => return None,
        wire::Policy::Allowlist => 1,
        wire::Policy::Blocklist => 2,
        wire::Policy::SilentBlocklist => 3,
        wire::Policy::Remove => REMOVE,
        wire::Policy::AllowlistCompiler => COMPILER,
        wire::Policy::Cel if is_v2 => CEL_OF_V2,
        wire::Policy::Cel => CEL,
        wire::Policy::SilentGuiBlocklist => 12,
        wire::Policy::SilentTtyBlocklist => 13,
    };
    let named = if rule.identifier.is_empty() { &rule.deprecated_sha256 } else { &rule.identifier };
    let (rule_type, identifier) = match rule.rule_type() {
        wire::RuleType::RuletypeUnknown => return None,
        wire::RuleType::Cdhash => (500, hex(named, 40)?),
        wire::RuleType::Binary => (BINARY, hex(named, 64)?),
        wire::RuleType::Signingid => (2000, signing_id(named)?),
        wire::RuleType::Certificate => (3000, hex(named, 64)?),
        wire::RuleType::Teamid => (4000, team_id(named)?),
    };
    let cel_expr =
        if matches!(state, CEL | CEL_OF_V2) { rule.cel_expr.clone() } else { String::new() };
    if matches!(state, CEL | CEL_OF_V2) && cel_expr.is_empty() {
        return None;
    }
    Some(Row {
        identifier,
        state,
        rule_type,
        custom_msg: rule.custom_msg.clone(),
        custom_url: rule.custom_url.clone(),
        cel_expr,
        seatbelt_policy: String::new(),
        button_text: rule.event_detail_button_label.chars().take(48).collect(),
    })
}

fn hex(text: &str, digits: usize) -> Option<String> {
    let is_hex = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex.then(|| text.to_ascii_lowercase())
}

fn team_id(text: &str) -> Option<String> {
    let is_team = text.len() == 10 && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_team.then(|| text.to_ascii_uppercase())
}

fn signing_id(text: &str) -> Option<String> {
    let (team, id) = text.split_once(':').filter(|(_, id)| !id.is_empty())?;
    let team =
        if team.eq_ignore_ascii_case("platform") { "platform".to_owned() } else { team_id(team)? };
    Some(format!("{team}:{id}"))
}
