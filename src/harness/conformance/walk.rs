//! The pages of one rule download, as a client reads them.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::Value;

use super::exchange::ProbeExchange;
use crate::model::Rule;

/// The pages of a rule download.
#[derive(Clone, Debug, Default)]
pub(super) struct Walk {
    pub(super) pages: Vec<Arc<ProbeExchange>>,
    /// The rules that a client accepts.
    pub(super) rules: Vec<Rule>,
    /// Where each page ends in `rules`.
    pub(super) ends: Vec<usize>,
    /// The number of all rules, including those that a client drops.
    pub(super) received: u64,
    /// The cursor of the next page; `None` at the end.
    pub(super) cursor: Option<String>,
    /// Cursors with hashes of the pages that came with them.
    pub(super) seen: HashSet<(String, u64)>,
}

impl Walk {
    /// The bytes of all pages, decoded.
    pub(super) fn bytes(&self) -> usize {
        let answers = self.pages.iter().filter_map(|page| page.answer());
        answers
            .map(|answer| answer.body.as_ref().map_or(answer.wire.len(), bytes::Bytes::len))
            .sum()
    }

    /// Whether the last page's cursor is text, as the protocol has it.
    pub(super) fn last_cursor_is_text(&self) -> bool {
        let message = self.pages.last().and_then(|page| page.message().ok());
        message.is_some_and(|message| message.get("cursor").is_some_and(Value::is_string))
    }

    /// The rules of each page.
    fn rules_by_page(&self) -> impl Iterator<Item = &[Rule]> {
        self.ends.iter().scan(0, |start, end| {
            let page = self.rules.get(*start..*end);
            *start = *end;
            page
        })
    }

    /// Whether a rule stood first or last on a page, where another page follows or came before.
    pub(super) fn is_at_a_border(&self, rule: &Rule) -> bool {
        let is = |other: Option<&Rule>| other.is_some_and(|o| o.identifier == rule.identifier);
        let last = self.ends.len().saturating_sub(1);
        self.rules_by_page().enumerate().any(|(place, page)| {
            (place > 0 && is(page.first())) || (place < last && is(page.last()))
        })
    }

    /// How many rules come again on a later page.
    pub(super) fn repeated_on_later_pages(&self) -> usize {
        let mut earlier = HashSet::new();
        let mut repeated = 0;
        for page in self.rules_by_page() {
            repeated += page.iter().filter(|rule| earlier.contains(&rule.identifier)).count();
            earlier.extend(page.iter().map(|rule| &rule.identifier));
        }
        repeated
    }

    /// Lets cursors come once more: the walk goes back on purpose.
    pub(super) fn forget_cursors(&mut self) {
        self.seen.clear();
    }
}

/// Where the next page begins, as text even if the server wrote something else.
pub(super) fn cursor_of(message: &Value) -> Option<String> {
    match message.get("cursor") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => (!text.is_empty()).then(|| text.clone()),
        Some(other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_))) => {
            Some(other.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_cursor_is_followed_whatever_its_type_and_empty_ones_end_the_download() {
        for (message, expected) in [
            (json!({}), None),
            (json!({"cursor": null}), None),
            (json!({"cursor": ""}), None),
            (json!({"cursor": "{\"PK\":1}"}), Some("{\"PK\":1}")),
            (json!({"cursor": 17}), Some("17")),
        ] {
            assert_eq!(cursor_of(&message).as_deref(), expected, "{message}");
        }
    }
}
