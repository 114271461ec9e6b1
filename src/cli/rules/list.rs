//! `rules list`.

use std::cell::RefCell;
use std::ops::ControlFlow;

use serde::Serialize;
use serde::ser::{SerializeSeq as _, Serializer};

use super::{SCHEMA_VERSION, TypeArg, open, parse_policy};
use crate::cli::{Error, Global, output};
use crate::control::message::RuleForm;
use crate::model::{RuleCounts, RuleState, RuleType};
use crate::store::{ReadStore, RuleFilter, StoreError};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// List only rules of this type; may be repeated
    #[arg(long = "type", value_name = "TYPE", ignore_case = true)]
    rule_type: Vec<TypeArg>,
    /// List only rules with this policy; may be repeated
    #[arg(long, value_name = "POLICY", value_parser = parse_policy)]
    policy: Vec<String>,
    /// List only rules whose identifier contains this text
    #[arg(long, value_name = "TEXT")]
    identifier: Option<String>,
    /// List at most N rules
    #[arg(long, value_name = "N", default_value_t = usize::MAX, hide_default_value = true)]
    limit: usize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Lists the rules.
pub(super) fn run(global: &Global, args: &Args) -> Result<(), Error> {
    let (setup, store) = open(global)?;
    let named = |state: &RuleState| args.policy.iter().any(|name| name == state.policy_name());
    let filter = RuleFilter {
        rule_types: args.rule_type.iter().copied().map(RuleType::from).collect(),
        states: RuleState::ALL.iter().copied().filter(named).collect(),
        identifier: args.identifier.clone(),
    };
    if args.json {
        let rules =
            RuleArray { store: &store, filter: &filter, left: args.limit, failed: None.into() };
        setup.print_json(&ListedRules {
            schema_version: SCHEMA_VERSION,
            rules_hash: store.rules_hash()?,
            counts: store.rule_counts()?,
            rules: &rules,
        });
        return rules.failed.into_inner().map_or(Ok(()), |error| Err(error.into()));
    }
    let mut lines = output::Lines::new();
    let mut left = args.limit;
    store.visit_rules(&filter, &mut |rule| {
        if left == 0 {
            return ControlFlow::Break(());
        }
        left -= 1;
        let rule_type = rule.rule_type.name();
        let policy = rule.state.policy_name();
        let note = if rule.details.custom_msg.is_empty() {
            rule.details.cel_expr
        } else {
            rule.details.custom_msg
        };
        let line = format!("{rule_type:<11}  {policy:<20}  {}  {note}", rule.identifier);
        if lines.line(line.trim_end_matches(' ')) {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    })?;
    Ok(())
}

#[derive(Serialize)]
struct ListedRules<'a> {
    schema_version: u32,
    rules_hash: String,
    counts: RuleCounts,
    rules: &'a RuleArray<'a>,
}

/// The rules, read while they are written.
pub(super) struct RuleArray<'a> {
    pub(super) store: &'a ReadStore,
    pub(super) filter: &'a RuleFilter,
    pub(super) left: usize,
    /// Why reading ended early.
    pub(super) failed: RefCell<Option<StoreError>>,
}

impl Serialize for RuleArray<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        let mut written = Ok(());
        let mut left = self.left;
        let read = self.store.visit_rules(self.filter, &mut |rule| {
            if left == 0 {
                return ControlFlow::Break(());
            }
            left -= 1;
            written = list.serialize_element(&RuleForm::from(rule));
            if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        if let Err(error) = read {
            *self.failed.borrow_mut() = Some(error);
        }
        written?;
        list.end()
    }
}
