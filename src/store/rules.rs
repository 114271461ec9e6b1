//! `rules.db`: the rules, their hash, their counts and the log of their
//! changes.
//!
//! Tables, column order and version are the reference's, so that its tools can
//! read our store; tables `agent_*` are ours.

mod bulk;
mod change_log;
mod commit;
mod compact;
mod generations;
#[cfg(test)]
mod generations_tests;
mod guard;
#[cfg(test)]
mod guard_tests;
mod insert;
mod meta;
#[cfg(test)]
mod migration_tests;
#[cfg(test)]
mod model_test;
mod names;
#[cfg(test)]
mod others_tests;
mod preview;
mod progress;
mod read;
mod row;
mod rules_hash;
mod snapshot;
#[cfg(test)]
mod tests;
mod verify;
mod xxh3;

pub use change_log::LoggedChange;
pub use commit::{CommitError, RuleCommit, RulesCommitted};
pub use generations::{Generation, GenerationSource, LoggedRule, RuleSince, RulesSince};
pub use guard::{RuleGuard, RulesGuarded};
pub(super) use meta::any_allowing;
pub use preview::{RuleChange, RuleChangeKind, RulesPreview};
pub use read::{Lookups, RuleFilter};
pub(super) use row::lossy;
pub use rules_hash::SentForm;
#[cfg(feature = "harness")]
pub use rules_hash::hash_and_counts;
pub use snapshot::{ChangesSince, RuleRow, RulesSnapshot, RulesStanding};
pub use verify::RulesVerified;

use super::db::Database;

/// The file and its schema. Migrations are never edited once released.
pub(super) const DATABASE: Database = Database {
    file: super::RULES_FILE,
    tables: &[
        (1, include_str!("schema/rules/001_rules.sql")),
        (2, include_str!("schema/rules/002_drop_views.sql")),
        (3, include_str!("schema/rules/003_timestamp.sql")),
        (4, include_str!("schema/rules/004_identifier.sql")),
        (5, include_str!("schema/rules/005_type_numbers.sql")),
        (6, include_str!("schema/rules/006_letter_case.sql")),
        (7, include_str!("schema/rules/007_custom_url.sql")),
        (8, include_str!("schema/rules/008_comment.sql")),
        (9, include_str!("schema/rules/009_cel.sql")),
        (10, include_str!("schema/rules/010_execution_rules.sql")),
        (11, include_str!("schema/rules/011_rule_id.sql")),
        (12, include_str!("schema/rules/012_seatbelt_policy.sql")),
        (13, include_str!("schema/rules/013_network_flow_rules.sql")),
        (14, include_str!("schema/rules/014_network_flow_rule_ids.sql")),
        (15, include_str!("schema/rules/015_signal_rules.sql")),
        (16, include_str!("schema/rules/016_button_text.sql")),
    ],
    agent: &[
        (1, include_str!("schema/agent_rules/001_meta.sql")),
        (2, include_str!("schema/agent_rules/002_syncs.sql")),
        (3, include_str!("schema/agent_rules/003_rules_hash.sql")),
        (4, include_str!("schema/agent_rules/004_generations.sql")),
    ],
    shared: false,
};
