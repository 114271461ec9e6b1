//! The rules of one download, small enough to hold a million of them.

use std::fmt;

use xxhash_rust::xxh3::xxh3_64;

use super::{Identifier, Policy, RejectedRule, Rule, RuleDetails, RuleType};

/// The rules of one download in the order received, page by page.
///
/// A rule takes one byte and its identifier (33 bytes for a hash), and eight
/// bytes more for each text it has, beside the text. A text that the rules
/// shortly before have, too, is kept once.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct RuleSet {
    pages: Vec<PackedRule>,
    len: usize,
    text_bytes: u64,
    rejected_total: u64,
    rejected: Vec<RejectedRule>,
}

/// Packed rules and their texts.
#[derive(Clone, PartialEq, Eq)]
struct PackedRule {
    rules: Box<[u8]>,
    texts: Box<[u8]>,
}

/// The rules of one page while they are read: packed at once, so that many
/// small rules take little more memory than their texts.
#[derive(Clone, Default)]
pub struct RulePage {
    /// For each rule: a byte, the identifier (a signing id with its length
    /// before it), and if there are texts, a byte with a bit for each field and
    /// the places of the texts. Numbers are of 32 bits.
    rules: Vec<u8>,
    /// Texts, each with its length before it.
    texts: Vec<u8>,
    len: usize,
    text_bytes: u64,
    /// Places of texts by their hash.
    recent: Vec<u32>,
}

/// A rule of a [`RuleSet`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleRef<'a> {
    /// What it names, and so its type.
    pub identifier: Identifier,
    /// What it does.
    pub policy: Policy,
    /// Its other parts, empty where it has none.
    pub details: DetailsRef<'a>,
}

/// The parts of a rule that few rules have; see [`RuleDetails`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "as in RuleDetails")]
pub struct DetailsRef<'a> {
    pub custom_msg: &'a str,
    pub custom_url: &'a str,
    pub cel_expr: &'a str,
    pub event_detail_button_label: &'a str,
    pub comment: &'a str,
    pub notification_app_name: &'a str,
}

impl RuleSet {
    /// How many rejected rules are kept; the others are only counted.
    pub const MAX_REJECTED_LISTED: usize = 100;

    /// Adds a page: its accepted rules and the rejected ones.
    pub fn push_page(&mut self, rules: impl Into<RulePage>, rejected: Vec<RejectedRule>) {
        let page = rules.into();
        self.len += page.len;
        self.text_bytes += page.text_bytes;
        self.rejected_total += rejected.len() as u64;
        let room = Self::MAX_REJECTED_LISTED.saturating_sub(self.rejected.len());
        self.rejected.extend(rejected.into_iter().take(room));
        self.pages.push(PackedRule {
            rules: page.rules.into_boxed_slice(),
            texts: page.texts.into_boxed_slice(),
        });
    }

    /// Counts rejected rules that are not listed.
    pub const fn count_unlisted(&mut self, rejected: u64) {
        self.rejected_total += rejected;
    }

    /// The accepted rules in the order received.
    pub fn iter(&self) -> impl Iterator<Item = RuleRef<'_>> {
        self.pages.iter().flat_map(|page| Unpack { packed: &page.rules, texts: &page.texts })
    }

    /// Bytes of all identifiers and texts, each as often as it was sent; hashes
    /// in their binary form.
    #[must_use]
    pub const fn text_bytes(&self) -> u64 {
        self.text_bytes
    }

    /// How many rules were accepted.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether no rule was accepted.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many pages were added.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.pages.len()
    }

    /// How many rules the server sent, rejected ones included.
    #[must_use]
    pub const fn received(&self) -> u64 {
        self.len as u64 + self.rejected_total
    }

    /// How many were rejected.
    #[must_use]
    pub const fn rejected_total(&self) -> u64 {
        self.rejected_total
    }

    /// The first [`Self::MAX_REJECTED_LISTED`] rejected ones.
    #[must_use]
    pub fn rejected(&self) -> &[RejectedRule] {
        &self.rejected
    }
}

impl fmt::Debug for RuleSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RuleSet")
            .field("rules", &self.iter().collect::<Vec<_>>())
            .field("rejected_total", &self.rejected_total)
            .field("rejected", &self.rejected)
            .finish_non_exhaustive()
    }
}

impl From<RuleRef<'_>> for Rule {
    fn from(rule: RuleRef<'_>) -> Self {
        let details = RuleDetails::from(rule.details);
        let details = (details != RuleDetails::default()).then(|| Box::new(details));
        Self { identifier: rule.identifier, policy: rule.policy, details }
    }
}

impl From<DetailsRef<'_>> for RuleDetails {
    fn from(details: DetailsRef<'_>) -> Self {
        Self {
            custom_msg: details.custom_msg.to_owned(),
            custom_url: details.custom_url.to_owned(),
            cel_expr: details.cel_expr.to_owned(),
            event_detail_button_label: details.event_detail_button_label.to_owned(),
            comment: details.comment.to_owned(),
            notification_app_name: details.notification_app_name.to_owned(),
        }
    }
}

/// The bit of a packed rule's first byte that says that texts follow. Below it
/// are the places in [`Policy::ALL`] (4 bits) and [`RuleType::ALL`] (3 bits).
const HAS_TEXTS: u8 = 0x80;

impl RulePage {
    /// How many texts are looked for before another one is kept.
    const RECENT: usize = 4096;
    /// The place of no text.
    const NOWHERE: u32 = u32::MAX;

    /// How many rules there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no rule.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that a [`RuleSet`] takes for it.
    #[cfg(feature = "harness")]
    #[must_use]
    pub const fn packed_bytes(&self) -> usize {
        self.rules.len() + self.texts.len()
    }

    /// Bytes of all identifiers and texts, see [`RuleSet::text_bytes`].
    #[must_use]
    pub const fn text_bytes(&self) -> u64 {
        self.text_bytes
    }

    /// The rules in the order received.
    pub fn iter(&self) -> impl Iterator<Item = RuleRef<'_>> {
        Unpack { packed: &self.rules, texts: &self.texts }
    }

    /// Adds a rule.
    pub fn push(&mut self, rule: Rule) {
        let rule_type = rule.identifier.rule_type();
        let type_place = RuleType::ALL.iter().zip(0..).find(|(t, _)| **t == rule_type);
        let policy_place = Policy::ALL.iter().zip(0..).find(|(p, _)| **p == rule.policy);
        let first = type_place.map_or(0, |(_, n): (_, u8)| n << 4)
            | policy_place.map_or(0, |(_, n): (_, u8)| n)
            | if rule.details.is_some() { HAS_TEXTS } else { 0 };
        self.len += 1;
        self.rules.push(first);
        let identifier: &[u8] = match &rule.identifier {
            Identifier::Cdhash(bytes) => bytes,
            Identifier::Binary(bytes) | Identifier::Certificate(bytes) => bytes,
            Identifier::TeamId(bytes) => bytes,
            Identifier::SigningId(text) => {
                self.rules.extend_from_slice(&number(text.len()));
                text.as_bytes()
            }
        };
        self.rules.extend_from_slice(identifier);
        self.text_bytes += identifier.len() as u64;
        let Some(details) = rule.details else { return };
        let fields = fields_of(*details);
        self.rules.push(
            (0..)
                .zip(&fields)
                .fold(0, |mask, (bit, text)| mask | (u8::from(!text.is_empty()) << bit)),
        );
        for text in fields.iter().filter(|text| !text.is_empty()) {
            self.text_bytes += text.len() as u64;
            let place = self.keep_text(text);
            self.rules.extend_from_slice(&place.to_le_bytes());
        }
    }

    /// The place of a text, which is kept unless a recent one is the same.
    fn keep_text(&mut self, text: &str) -> u32 {
        if self.recent.is_empty() {
            self.recent = vec![Self::NOWHERE; Self::RECENT];
        }
        #[expect(clippy::cast_possible_truncation, reason = "any bits of a hash will do")]
        let slot = xxh3_64(text.as_bytes()) as usize % Self::RECENT;
        let known = self.recent.get(slot).copied().unwrap_or(Self::NOWHERE);
        if text_at(&self.texts, known) == Some(text.as_bytes()) {
            return known;
        }
        let place = u32::try_from(self.texts.len()).unwrap_or(Self::NOWHERE);
        self.texts.extend_from_slice(&number(text.len()));
        self.texts.extend_from_slice(text.as_bytes());
        if let Some(recent) = self.recent.get_mut(slot) {
            *recent = place;
        }
        place
    }
}

impl From<Vec<Rule>> for RulePage {
    fn from(rules: Vec<Rule>) -> Self {
        rules.into_iter().collect()
    }
}

impl FromIterator<Rule> for RulePage {
    fn from_iter<I: IntoIterator<Item = Rule>>(rules: I) -> Self {
        let mut page = Self::default();
        rules.into_iter().for_each(|rule| page.push(rule));
        page
    }
}

impl PartialEq for RulePage {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl Eq for RulePage {}

impl fmt::Debug for RulePage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

fn number(n: usize) -> [u8; 4] {
    // A text comes out of a response, and those are bounded far below 4 GiB.
    u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes()
}

fn text_at(texts: &[u8], place: u32) -> Option<&[u8]> {
    let text = texts.get(usize::try_from(place).ok()?..)?;
    let (length, text) = text.split_first_chunk()?;
    text.get(..usize::try_from(u32::from_le_bytes(*length)).ok()?)
}

fn fields_of(details: RuleDetails) -> [String; 6] {
    let RuleDetails {
        custom_msg,
        custom_url,
        cel_expr,
        event_detail_button_label,
        comment,
        notification_app_name,
    } = details;
    [custom_msg, custom_url, cel_expr, event_detail_button_label, comment, notification_app_name]
}

/// Reads back what [`RulePage::push`] wrote. What it could not have written ends the
/// reading; nothing else makes these bytes.
struct Unpack<'a> {
    packed: &'a [u8],
    texts: &'a [u8],
}

impl<'a> Unpack<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.packed.split_first_chunk()?;
        self.packed = rest;
        Some(*taken)
    }

    fn text(&mut self) -> Option<&'a str> {
        let place = u32::from_le_bytes(self.take()?);
        str::from_utf8(text_at(self.texts, place)?).ok()
    }

    fn signing_id(&mut self) -> Option<Identifier> {
        let len = usize::try_from(u32::from_le_bytes(self.take()?)).ok()?;
        let (text, rest) = self.packed.split_at_checked(len)?;
        self.packed = rest;
        Some(Identifier::SigningId(str::from_utf8(text).ok()?.into()))
    }

    fn details(&mut self) -> Option<DetailsRef<'a>> {
        let [mask] = self.take()?;
        let mut field = |bit: u8| if mask & (1 << bit) == 0 { Some("") } else { self.text() };
        Some(DetailsRef {
            custom_msg: field(0)?,
            custom_url: field(1)?,
            cel_expr: field(2)?,
            event_detail_button_label: field(3)?,
            comment: field(4)?,
            notification_app_name: field(5)?,
        })
    }
}

impl<'a> Iterator for Unpack<'a> {
    type Item = RuleRef<'a>;

    fn next(&mut self) -> Option<RuleRef<'a>> {
        let [first] = self.take()?;
        let policy = *Policy::ALL.get(usize::from(first & 0x0f))?;
        let identifier = match RuleType::ALL.get(usize::from((first & !HAS_TEXTS) >> 4))? {
            RuleType::Cdhash => Identifier::Cdhash(self.take()?),
            RuleType::Binary => Identifier::Binary(self.take()?),
            RuleType::Certificate => Identifier::Certificate(self.take()?),
            RuleType::TeamId => Identifier::TeamId(self.take()?),
            RuleType::SigningId => self.signing_id()?,
        };
        let details = if first & HAS_TEXTS == 0 { DetailsRef::default() } else { self.details()? };
        Some(RuleRef { identifier, policy, details })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_rule() -> impl Strategy<Value = Rule> {
        let identifier = prop_oneof![
            any::<[u8; 20]>().prop_map(Identifier::Cdhash),
            any::<[u8; 32]>().prop_map(Identifier::Binary),
            any::<[u8; 32]>().prop_map(Identifier::Certificate),
            any::<[u8; 10]>().prop_map(Identifier::TeamId),
            "\\PC{1,40}".prop_map(|text| Identifier::SigningId(text.into())),
        ];
        let text = || prop_oneof![Just(String::new()), "\\PC{0,3}"];
        let details = [(); 6].map(|()| text());
        (identifier, prop::sample::select(Policy::ALL.to_vec()), details).prop_map(
            |(identifier, policy, [a, b, c, d, e, f])| {
                let details = RuleDetails {
                    custom_msg: a,
                    custom_url: b,
                    cel_expr: c,
                    event_detail_button_label: d,
                    comment: e,
                    notification_app_name: f,
                };
                let details = (details != RuleDetails::default()).then(|| Box::new(details));
                Rule { identifier, policy, details }
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_packed_comes_out_as_it_was(
            pages in prop::collection::vec(prop::collection::vec(any_rule(), 0..20), 0..4)
        ) {
            let mut set = RuleSet::default();
            for page in &pages {
                set.push_page(page.clone(), Vec::new());
            }
            let out: Vec<Rule> = set.iter().map(Rule::from).collect();
            prop_assert_eq!(set.len(), out.len());
            prop_assert_eq!(out, pages.concat());
        }
    }

    #[test]
    fn a_hash_rule_takes_33_bytes() {
        let rules = (0..100).map(|n| Rule {
            identifier: Identifier::Binary([n; 32]),
            policy: Policy::Allowlist,
            details: None,
        });
        let page: RulePage = rules.collect();
        assert_eq!((page.rules.len(), page.text_bytes()), (3300, 3200));
    }

    /// HTTP-8: what a rule takes beside its texts.
    #[test]
    fn http_8_a_rule_takes_64_bytes_beside_its_texts_and_shared_ones_are_kept_once() {
        let rule = |n: u32, message: String| Rule {
            identifier: Identifier::SigningId(format!("platform:{n}").into_boxed_str()),
            policy: Policy::Cel,
            details: Some(Box::new(RuleDetails {
                custom_msg: message,
                custom_url: format!("u{n}"),
                cel_expr: format!("{n}"),
                event_detail_button_label: format!("l{n}"),
                notification_app_name: format!("a{n}"),
                ..RuleDetails::default()
            })),
        };
        let size = |page: &RulePage| (page.rules.len() + page.texts.len()) as u64;
        let own: RulePage = (0..1000).map(|n| rule(n, format!("m{n}"))).collect();
        assert!(size(&own) <= own.text_bytes() + 64 * 1000, "{}", size(&own));
        let shared: RulePage = (0..1000).map(|n| rule(n, "m".repeat(5000))).collect();
        assert!(size(&shared) <= 100_000, "{}", size(&shared));
        assert!(shared.text_bytes() > 5_000_000);
    }

    #[test]
    fn rejected_rules_are_counted_and_the_first_kept() {
        let rejected = |index| RejectedRule {
            page: 1,
            index,
            identifier: String::new(),
            reason: String::new(),
        };
        let mut set = RuleSet::default();
        set.push_page(Vec::new(), (0..70).map(rejected).collect());
        set.push_page(Vec::new(), (0..70).map(rejected).collect());
        assert_eq!((set.received(), set.rejected_total(), set.len()), (140, 140, 0));
        assert_eq!(set.rejected().len(), RuleSet::MAX_REJECTED_LISTED);
    }
}
