//! How leniently a message is read, and the warnings that come of it.
//!
//! A producer's event is read strictly: a value of the wrong kind is an error.
//! In a server's response such a value costs its own field alone, and becomes a
//! [`Warning`]. Everything here is bounded, whatever the response holds.

use std::fmt::Write as _;

use crate::model::text;

/// The most bytes of one text of a response.
pub const MAX_TEXT_BYTES: usize = 64 << 10;
/// The most elements of all arrays of a response, rules aside.
pub const MAX_ELEMENTS: usize = 10_000;
/// The most bytes of all texts in arrays of a response.
pub const MAX_ARRAY_BYTES: usize = 4 << 20;
/// Warnings of one response that are listed; the others are counted.
pub const MAX_WARNINGS: usize = 50;
/// The most bytes of a rule's identifier.
pub const MAX_IDENTIFIER_BYTES: usize = 1 << 10;
/// The most bytes of a rule's other texts but the expression.
pub const MAX_RULE_TEXT_BYTES: usize = 16 << 10;
/// How much of a value a warning shows, in characters.
const MAX_VALUE_CHARS: usize = 64;

/// Fields whose values no log or record may show.
const SECRET_FIELDS: [&str; 3] = ["push_token", "push_issuer_token", "export_configuration"];

/// A part of a response that was read as absent or zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The field, as a path: `removable_media_policy.remount.flags[0]`.
    pub field: String,
    /// The value as sent, at most 64 characters of it.
    pub value: String,
    /// What was done about it.
    pub action: String,
}

impl Warning {
    /// An error that a response reports where nothing hangs on it.
    #[must_use]
    pub fn of_error(member: &str, words: &str) -> Self {
        Self {
            field: member.to_owned(),
            value: shown(words),
            action: "an error that the server reports; the sync counts as done".to_owned(),
        }
    }
}

/// How leniently values are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leniency {
    /// A value of the wrong kind is an error.
    Strict,
    /// A value that cannot be read counts as absent.
    Response,
    /// The same, but a text that is too long or not UTF-8 refuses the rule.
    Rule,
    /// As a response, with texts of any length: an uploaded event is bounded as a
    /// whole.
    Upload,
}

#[derive(Clone, Copy, Debug)]
enum PathStep {
    Field(&'static str),
    Element(usize),
}

/// What is known while a message is read.
#[derive(Debug)]
pub struct Notes {
    leniency: Leniency,
    /// Bytes that were not UTF-8 have been replaced by [`super::body::INVALID_BYTE_MARK`].
    marked: bool,
    path: Vec<PathStep>,
    present: bool,
    elements: usize,
    array_bytes: usize,
    too_long: bool,
    refused: Option<String>,
    warnings: Vec<Warning>,
    unlisted: u64,
}

impl Notes {
    const fn new(leniency: Leniency, marked: bool) -> Self {
        Self {
            leniency,
            marked,
            path: Vec::new(),
            present: false,
            elements: 0,
            array_bytes: 0,
            too_long: false,
            refused: None,
            warnings: Vec::new(),
            unlisted: 0,
        }
    }

    /// For a message in which every value must be of its field's kind.
    pub(super) const fn strict() -> Self {
        Self::new(Leniency::Strict, false)
    }

    /// For a response; `marked` if bytes that were not UTF-8 were replaced.
    pub(super) const fn response(marked: bool) -> Self {
        Self::new(Leniency::Response, marked)
    }

    /// For one rule of a response.
    pub(super) const fn rule(marked: bool) -> Self {
        Self::new(Leniency::Rule, marked)
    }

    /// For one event of an upload.
    pub(super) const fn upload(marked: bool) -> Self {
        Self::new(Leniency::Upload, marked)
    }

    pub(super) const fn is_strict(&self) -> bool {
        matches!(self.leniency, Leniency::Strict)
    }

    /// For reading the same message again.
    pub(super) const fn like(of: &Self) -> Self {
        Self::new(of.leniency, of.marked)
    }

    /// Nothing has been noted.
    pub(super) const fn is_clean(&self) -> bool {
        self.warnings.is_empty() && self.refused.is_none()
    }

    /// Whether a raw JSON value held a byte that was not UTF-8.
    pub(super) fn is_marked(&self, raw: &str) -> bool {
        self.marked && raw.contains(super::body::INVALID_BYTE_MARK)
    }

    /// A field of the message is there and not null.
    pub(super) const fn found_field(&mut self) {
        self.present = true;
    }

    pub(super) const fn has_field(&self) -> bool {
        self.present
    }

    pub(super) fn enter(&mut self, field: &'static str) {
        self.path.push(PathStep::Field(field));
    }

    pub(super) fn enter_element(&mut self, index: usize) {
        self.path.push(PathStep::Element(index));
    }

    pub(super) fn leave(&mut self) {
        self.path.pop();
    }

    /// Counts an element of an array and its bytes. Returns false, and warns
    /// once, if the response has more of them than are read.
    pub(super) fn count_element(&mut self, bytes: usize) -> bool {
        let bytes = self.array_bytes.saturating_add(bytes);
        if self.elements == MAX_ELEMENTS || bytes > MAX_ARRAY_BYTES {
            if !std::mem::replace(&mut self.too_long, true) {
                self.warn("", format!("too long; only {} elements are read", self.elements));
            }
            return false;
        }
        self.elements += 1;
        self.array_bytes = bytes;
        true
    }

    /// The most bytes of a text at the present path.
    pub(super) fn text_limit(&self) -> usize {
        let field = match self.path.last() {
            Some(PathStep::Field(field)) => field,
            Some(PathStep::Element(_)) | None => "",
        };
        match (self.leniency, field) {
            (Leniency::Strict | Leniency::Upload, _) => usize::MAX,
            (Leniency::Rule, "identifier" | "sha256") => MAX_IDENTIFIER_BYTES,
            (Leniency::Rule, "cel_expr") | (Leniency::Response, _) => MAX_TEXT_BYTES,
            (Leniency::Rule, _) => MAX_RULE_TEXT_BYTES,
        }
    }

    /// The value at the present path is read as absent or zero.
    pub(super) fn warn(&mut self, value: &str, action: impl Into<String>) {
        if self.warnings.len() == MAX_WARNINGS {
            self.unlisted += 1;
            return;
        }
        let secret = self
            .path
            .iter()
            .any(|step| matches!(step, PathStep::Field(f) if SECRET_FIELDS.contains(f)));
        let value = if secret { "(secret)".to_owned() } else { shown(value) };
        self.warnings.push(Warning { field: self.path(), value, action: action.into() });
    }

    /// The value at the present path is not of its field's kind.
    pub(super) fn unreadable(&mut self, value: &str) {
        self.warn(value, "cannot be read; treated as absent");
    }

    /// The text at the present path cannot be used.
    pub(super) fn refuse_text(&mut self, value: &str, why: &str) {
        if self.leniency == Leniency::Rule {
            let reason = format!("its {} {why}", self.path());
            self.refused.get_or_insert(reason);
        } else {
            self.warn(value, format!("{why}; treated as absent"));
        }
    }

    /// Why the rule that was read must be rejected.
    pub(super) const fn take_refusal(&mut self) -> Option<String> {
        self.refused.take()
    }

    /// Adds the warnings of an element of an array, which was read with notes of
    /// its own.
    pub(super) fn extend_from_element(&mut self, array: &str, index: u64, element: Self) {
        for warning in element.warnings {
            if self.warnings.len() == MAX_WARNINGS {
                self.unlisted += 1;
                continue;
            }
            let field = format!("{array}[{index}].{}", warning.field);
            self.warnings.push(Warning { field, ..warning });
        }
        self.unlisted += element.unlisted;
    }

    pub(super) fn into_warnings(mut self) -> Vec<Warning> {
        if self.unlisted > 0 {
            self.warnings.push(Warning {
                field: String::new(),
                value: String::new(),
                action: format!("{} more values were not read either", self.unlisted),
            });
        }
        self.warnings
    }

    fn path(&self) -> String {
        let mut path = String::new();
        for step in &self.path {
            match step {
                PathStep::Field(name) if path.is_empty() => path.push_str(name),
                PathStep::Field(name) => {
                    path.push('.');
                    path.push_str(name);
                }
                PathStep::Element(index) => {
                    // Writing to a string does not fail.
                    let _ = write!(path, "[{index}]");
                }
            }
        }
        path
    }
}

/// The start of a value, a JSON string without its quotation marks, safe to
/// show and no longer than [`MAX_VALUE_CHARS`] characters.
fn shown(value: &str) -> String {
    let value =
        value.strip_prefix('"').map_or(value, |inner| inner.strip_suffix('"').unwrap_or(inner));
    let mut shown = text::escaped_start(value, MAX_VALUE_CHARS);
    if let Some((cut, _)) = shown.char_indices().nth(MAX_VALUE_CHARS) {
        let last = shown[..cut].char_indices().next_back().map_or(0, |(at, _)| at);
        shown.truncate(last);
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_1_a_warning_shows_64_safe_characters_at_most() {
        assert_eq!(shown("\"Monitr\""), "Monitr");
        assert_eq!(shown("[1]"), "[1]");
        assert_eq!(shown(&"ä".repeat(64)), "ä".repeat(64));
        for long in ["ä".repeat(65), "\u{202e}".repeat(64), "\n".repeat(33)] {
            let shown = shown(&long);
            assert_eq!(shown.chars().count(), MAX_VALUE_CHARS, "{shown}");
            assert!(shown.ends_with('…') && !shown.contains(text::is_unsafe_to_show));
        }
    }

    #[test]
    fn json_1_the_warnings_of_a_response_are_bounded() {
        let mut notes = Notes::response(false);
        for index in 0..MAX_WARNINGS + 7 {
            notes.enter_element(index);
            notes.unreadable("x");
            notes.leave();
        }
        let warnings = notes.into_warnings();
        assert_eq!(warnings.len(), MAX_WARNINGS + 1);
        assert!(warnings[MAX_WARNINGS].action.starts_with("7 more"));
    }

    #[test]
    fn never_a_secret_shows_in_a_warning() {
        let mut notes = Notes::response(false);
        for secret in SECRET_FIELDS {
            notes.enter(secret);
            notes.unreadable("{\"key\":\"hunter2\"}");
            notes.leave();
        }
        assert!(notes.into_warnings().iter().all(|warning| warning.value == "(secret)"));
    }
}
