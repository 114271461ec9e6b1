//! A rule download as the machine holds it: its pages so far, and why a page or
//! the whole must be refused.

use std::collections::HashSet;

use super::{MAX_PAGES, MAX_TEXT, Machine};
use crate::failure::{Failure, FailureKind};
use crate::model::{Cursor, RuleSet, SyncType, text};
use crate::protocol::rules::{MAX_RULES_PER_SYNC, Page};
use crate::sync::plan::Plan;

/// How many reasons the error of a download without a usable rule names.
const MAX_REASONS_NAMED: usize = 3;

/// A rule download under way.
#[derive(Debug, Default)]
pub(super) struct Download {
    pub(super) rules: RuleSet,
    pub(super) asked: Option<Cursor>,
    /// Fingerprints of the cursors of this sync, 96 bits each.
    pub(super) cursors: HashSet<u128>,
}

impl Machine {
    /// RULE-2: why the rules of a complete download must not be committed. A
    /// clean sync would delete every stored rule for rules of which not one can
    /// be used; a store without a complete download would pass for a complete
    /// one.
    pub(super) fn no_usable_rules(&self, plan: Plan, rules: &RuleSet) -> Option<Failure> {
        let matters = plan.sync_type != SyncType::Normal || !self.inputs.rules_complete;
        if !matters || !rules.is_empty() || rules.received() == 0 {
            return None;
        }
        let reasons: Vec<String> = rules
            .rejected()
            .iter()
            .take(MAX_REASONS_NAMED)
            .map(|rule| format!("{:?}: {}", text::escaped_start(&rule.identifier, 64), rule.reason))
            .collect();
        let message = format!(
            "not one of the {} rules of this {} sync can be used, so nothing was deleted or \
             changed ({})",
            rules.received(),
            plan.sync_type.name(),
            reasons.join("; ")
        );
        let failure = Failure::new(FailureKind::NoUsableRules, message);
        Some(failure.fixed_by("fix the rules on the server"))
    }
}

pub(super) fn next_page(download: &Download) -> u32 {
    u32::try_from(download.rules.pages()).map_or(u32::MAX, |pages| pages.saturating_add(1))
}

/// Returns why a page must be refused, if it must.
pub(super) fn check_page(
    plan: Plan,
    url: &str,
    download: &Download,
    page: &Page,
) -> Option<Failure> {
    let number = next_page(download);
    let received = download.rules.received() + page.rules.len() as u64 + page.rejected.len() as u64;
    let (kind, message, fix) = if page.without_body && plan.sync_type != SyncType::Normal {
        (
            FailureKind::EmptyBody,
            format!("page {number} of a {} sync has no body", plan.sync_type.name()),
            "for an empty set of rules the server must send {}, or in protobuf the Content-Type \
             application/x-protobuf",
        )
    } else if let Some(cursor) = &page.cursor
        && download.cursors.contains(&fingerprint(cursor))
    {
        (
            FailureKind::CursorNotAdvancing,
            format!(
                "page {number} from {url} came with a cursor that this sync has used already \
                 (\"{}\")",
                text::escaped_start(cursor.as_str(), 64)
            ),
            "the server's paging does not advance: each page must name the next one's cursor",
        )
    } else if page.cursor.is_some() && download.rules.pages() + 1 >= MAX_PAGES {
        (
            FailureKind::TooManyPages,
            format!("the server has more than {MAX_PAGES} pages of rules"),
            "the server must send larger pages",
        )
    } else if download.rules.text_bytes() + page.rules.text_bytes() > MAX_TEXT {
        let message = format!("the rules' texts are longer than {MAX_TEXT} bytes");
        (FailureKind::TooLarge, message, "shorten or remove texts of rules on the server")
    } else if received > MAX_RULES_PER_SYNC {
        (
            FailureKind::TooManyRules,
            format!("the server sent more than {MAX_RULES_PER_SYNC} rules"),
            "remove rules on the server",
        )
    } else {
        return None;
    };
    Some(Failure::new(kind, message).fixed_by(fix))
}

/// Stands for a cursor in the set of those used, in 96 bits.
pub(super) fn fingerprint(cursor: &Cursor) -> u128 {
    xxhash_rust::xxh3::xxh3_128(cursor.as_str().as_bytes()) >> 32
}
