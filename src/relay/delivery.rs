//! The pages of a delivery, read from one moment of the store (RELAY-5,
//! RELAY-13, RELAY-15).

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::plan::{Content, Plan};
use super::release::Release;
use super::sessions::Position;
use crate::mapped_buffer::MappedBuffer;
use crate::model::{Policy, RelayManner, RuleState, RuleType, Transfer};
use crate::protocol::rules::{OutgoingRule, PageWriter};
use crate::store::{ChangesSince, RuleRow, RulesSnapshot, StoreError};

/// The most rules of a page (RELAY-5).
pub const PAGE_RULES: u64 = 50_000;
/// The most bytes of a page (RELAY-5), less what follows the rules.
const PAGE_BYTES: usize = (16 << 20) - 256;
/// Room for a page, and for the rule that would make it too long, in bytes. Unused room takes no
/// memory.
pub(super) const ROOM_FOR_PAGE: usize = 17 << 20;
/// The most rules for pedro, whose table has 65,536 places (RELAY-13).
const PEDRO_RULES: u64 = 65_000;
/// The most bytes for pedro, which reads 10 MB (RELAY-13).
const PEDRO_BYTES: usize = 9_000_000;

/// An identifier that no file has: its REMOVE makes a clean set that is empty
/// delete the authorizer's rules, which it does not if nothing comes.
const NO_FILE: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// What the pages of a delivery are read from. Deliveries of the same moment share a snapshot.
#[derive(Debug)]
pub struct Source {
    snapshot: Arc<Mutex<RulesSnapshot>>,
    changes: ChangesSince,
    release: Option<Release>,
    manner: RelayManner,
}

/// A page.
#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    /// The response's body.
    pub body: MappedBuffer,
    /// How many rules it has.
    pub rules: u64,
    /// Where the next one begins; `None` after the last.
    pub next: Option<Position>,
    /// Rules sent with another policy, because the authorizer does not know theirs.
    pub altered: u64,
    /// Rules that the authorizer cannot take.
    pub left_out: LeftOut,
}

/// Rules that an authorizer cannot take, by reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct LeftOut {
    /// Its release does not know their policy.
    pub release: u64,
    /// It enforces no rules of their type.
    pub rule_type: u64,
    /// It has no policy that comes near theirs.
    pub policy: u64,
    /// They exceed the number of rules or the bytes that it accepts.
    pub limit: u64,
}

impl LeftOut {
    /// Each reason, by its name in `--json`, and its rules.
    #[must_use]
    pub const fn by_reason(&self) -> [(&'static str, u64); 4] {
        [
            ("release", self.release),
            ("rule_type", self.rule_type),
            ("policy", self.policy),
            ("limit", self.limit),
        ]
    }

    /// All of them.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.release + self.rule_type + self.policy + self.limit
    }
}

impl Source {
    /// A source for an authorizer of this release.
    ///
    /// # Errors
    /// If the changes since the base cannot be read.
    pub fn new(
        snapshot: Arc<Mutex<RulesSnapshot>>,
        plan: Plan,
        release: Option<Release>,
        manner: RelayManner,
    ) -> Result<Self, StoreError> {
        let changes = match plan.content {
            Content::Changes { base } => lock(&snapshot).changes_since(base)?,
            Content::WholeBesideOthers => {
                let ChangesSince { removed, .. } = lock(&snapshot).changes_since(0)?;
                ChangesSince { removed, sent: Vec::new() }
            }
            Content::Nothing | Content::Whole => ChangesSince::default(),
        };
        Ok(Self { snapshot, changes, release, manner })
    }

    /// Reads the page that begins at a position into `body`. `token` names the delivery
    /// in its cursor.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn page(
        &self,
        plan: Plan,
        token: u64,
        position: Position,
        transfer: Transfer,
        body: MappedBuffer,
    ) -> Result<Page, StoreError> {
        let snapshot = lock(&self.snapshot);
        let mut page = Filling {
            writer: match self.manner {
                RelayManner::Santa => PageWriter::new(transfer, body),
                RelayManner::Pedro => PageWriter::plain(transfer, body),
            },
            release: self.release,
            altered: 0,
            left_out: LeftOut::default(),
        };
        let next = match self.manner {
            RelayManner::Pedro => page.for_pedro(&snapshot)?,
            RelayManner::Santa => match plan.content {
                Content::Whole => page.whole(&snapshot, position, Filling::add)?,
                Content::WholeBesideOthers => {
                    page.beside_others(&snapshot, &self.changes, position)?
                }
                Content::Nothing | Content::Changes { .. } => {
                    page.changes(&snapshot, &self.changes, position)?
                }
            },
        };
        let is_first = position == Position::first(plan.content);
        if plan.sync_type.is_clean() && is_first && next.is_none() && page.writer.rules() == 0 {
            page.writer.push(removal(NO_FILE, RuleType::Binary), PAGE_BYTES);
        }
        let rules = page.writer.rules();
        let cursor = next.map(|next| next.cursor(token));
        let body = page.writer.finish(cursor.as_deref());
        Ok(Page { body, rules, next, altered: page.altered, left_out: page.left_out })
    }
}

fn lock(snapshot: &Mutex<RulesSnapshot>) -> MutexGuard<'_, RulesSnapshot> {
    // Nothing is half done when a reader panics.
    snapshot.lock().unwrap_or_else(PoisonError::into_inner)
}

const fn removal(identifier: &str, rule_type: RuleType) -> OutgoingRule<'_> {
    OutgoingRule {
        identifier,
        rule_type,
        policy: Policy::Remove,
        custom_msg: "",
        custom_url: "",
        cel_expr: "",
        event_detail_button_label: "",
    }
}

/// The policy on the wire of a state; `None` if no server sends such a rule.
const fn policy(state: RuleState) -> Option<Policy> {
    Some(match state {
        RuleState::Allow => Policy::Allowlist,
        RuleState::Block => Policy::Blocklist,
        RuleState::SilentBlock => Policy::SilentBlocklist,
        RuleState::AllowCompiler => Policy::AllowlistCompiler,
        RuleState::Cel => Policy::Cel,
        RuleState::SilentBlockGui => Policy::SilentGuiBlocklist,
        RuleState::SilentBlockTty => Policy::SilentTtyBlocklist,
        RuleState::AllowTransitive
        | RuleState::AllowLocalBinary
        | RuleState::AllowLocalSigningId
        | RuleState::CelV2
        | RuleState::Seatbelt => return None,
    })
}

/// A page that is being filled.
struct Filling {
    writer: PageWriter,
    release: Option<Release>,
    altered: u64,
    left_out: LeftOut,
}

impl Filling {
    /// Adds a rule, or leaves it out. Returns false if the page is full.
    fn add(&mut self, rule: &RuleRow<'_>) -> bool {
        self.add_or(rule, |_| true)
    }

    /// Adds a rule that the authorizer may hold in an earlier form. One that is left
    /// out goes as a REMOVE, so that the earlier form does not stay.
    fn replace(&mut self, rule: &RuleRow<'_>) -> bool {
        self.add_or(rule, |writer| {
            writer.push(removal(rule.identifier, rule.rule_type), PAGE_BYTES)
        })
    }

    /// Adds a rule, or calls `leave_out` if the authorizer cannot take it. Returns false if the
    /// page is full.
    fn add_or(
        &mut self,
        rule: &RuleRow<'_>,
        leave_out: impl FnOnce(&mut PageWriter) -> bool,
    ) -> bool {
        if self.writer.rules() >= PAGE_RULES {
            return false;
        }
        let state = Release::sendable(self.release, rule.state);
        let Some((state, policy)) = state.and_then(|state| Some((state, policy(state)?))) else {
            let is_left_out = leave_out(&mut self.writer);
            self.left_out.release += u64::from(is_left_out);
            return is_left_out;
        };
        let added = self.writer.push(outgoing(rule, policy), PAGE_BYTES);
        self.altered += u64::from(added && state != rule.state);
        added
    }

    /// Adds all rules after a position, each with `add`.
    fn whole(
        &mut self,
        snapshot: &RulesSnapshot,
        position: Position,
        add: fn(&mut Self, &RuleRow<'_>) -> bool,
    ) -> Result<Option<Position>, StoreError> {
        let last = match position {
            Position::After(place) => place,
            Position::Removed(_) | Position::Sent(_) => i64::MIN,
        };
        let next = snapshot.visit_rules_after(last, &mut |rule| {
            if add(self, rule) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        Ok(next.map(|place| Position::After(place.saturating_sub(1))))
    }

    /// Adds REMOVEs first, then all rules.
    fn beside_others(
        &mut self,
        snapshot: &RulesSnapshot,
        changes: &ChangesSince,
        position: Position,
    ) -> Result<Option<Position>, StoreError> {
        if let Position::Removed(from) = position
            && let Some(next) = self.removals(snapshot, changes, from)?
        {
            return Ok(Some(next));
        }
        self.whole(snapshot, position, Self::replace)
    }

    /// Adds REMOVEs first, then the changed rules in stored order.
    fn changes(
        &mut self,
        snapshot: &RulesSnapshot,
        changes: &ChangesSince,
        position: Position,
    ) -> Result<Option<Position>, StoreError> {
        let sent = match position {
            Position::Removed(from) => match self.removals(snapshot, changes, from)? {
                Some(next) => return Ok(Some(next)),
                None => 0,
            },
            Position::Sent(from) => from,
            Position::After(_) => return Ok(None),
        };
        let (mut done, mut full) = (sent, false);
        snapshot.visit_rules_at(rest(&changes.sent, sent), &mut |rule| {
            full = !self.replace(rule);
            if full {
                return ControlFlow::Break(());
            }
            done += 1;
            ControlFlow::Continue(())
        })?;
        Ok(full.then_some(Position::Sent(done)))
    }

    /// Adds the REMOVEs from index `from` on. Returns where to continue if the page is full.
    fn removals(
        &mut self,
        snapshot: &RulesSnapshot,
        changes: &ChangesSince,
        from: u64,
    ) -> Result<Option<Position>, StoreError> {
        let (mut done, mut full) = (from, false);
        snapshot.visit_changes_at(rest(&changes.removed, from), &mut |identifier, rule_type| {
            full = self.writer.rules() >= PAGE_RULES
                || !self.writer.push(removal(identifier, rule_type), PAGE_BYTES);
            if full {
                return ControlFlow::Break(());
            }
            done += 1;
            ControlFlow::Continue(())
        })?;
        Ok(full.then_some(Position::Removed(done)))
    }

    /// Everything pedro can take, on one page: what blocks first, because what
    /// does not fit is not enforced.
    fn for_pedro(&mut self, snapshot: &RulesSnapshot) -> Result<Option<Position>, StoreError> {
        for blocking in [true, false] {
            snapshot.visit_rules_after(i64::MIN, &mut |rule| {
                let near = near_for_pedro(rule.state);
                let blocks = matches!(near, Some((Policy::Blocklist | Policy::SilentBlocklist, _)));
                if blocks != blocking {
                    return ControlFlow::Continue(());
                }
                let is_binary = rule.rule_type == RuleType::Binary;
                match near.filter(|_| is_binary) {
                    None if is_binary => self.left_out.policy += 1,
                    None => self.left_out.rule_type += 1,
                    Some((policy, is_same)) => {
                        let taken = self.writer.rules() < PEDRO_RULES
                            && self.writer.push(outgoing(rule, policy), PEDRO_BYTES);
                        self.left_out.limit += u64::from(!taken);
                        self.altered += u64::from(taken && !is_same);
                    }
                }
                ControlFlow::Continue(())
            })?;
        }
        Ok(None)
    }
}

/// The policy of pedro's that is nearest to a state, and whether it is the same;
/// `None` if none comes near.
const fn near_for_pedro(state: RuleState) -> Option<(Policy, bool)> {
    match state {
        RuleState::Block => Some((Policy::Blocklist, true)),
        RuleState::SilentBlockGui | RuleState::SilentBlockTty => Some((Policy::Blocklist, false)),
        RuleState::SilentBlock => Some((Policy::SilentBlocklist, true)),
        RuleState::Allow => Some((Policy::Allowlist, true)),
        // Pedro denies whatever is not just allowed, compilers too.
        RuleState::AllowCompiler => Some((Policy::Allowlist, false)),
        RuleState::AllowTransitive
        | RuleState::AllowLocalBinary
        | RuleState::AllowLocalSigningId
        | RuleState::Cel
        | RuleState::CelV2
        | RuleState::Seatbelt => None,
    }
}

fn rest<T>(all: &[T], from: u64) -> &[T] {
    usize::try_from(from).ok().and_then(|from| all.get(from..)).unwrap_or_default()
}

fn outgoing<'a>(rule: &'a RuleRow<'_>, policy: Policy) -> OutgoingRule<'a> {
    OutgoingRule {
        identifier: rule.identifier,
        rule_type: rule.rule_type,
        policy,
        custom_msg: &rule.custom_msg,
        custom_url: &rule.custom_url,
        cel_expr: &rule.cel_expr,
        event_detail_button_label: &rule.event_detail_button_label,
    }
}
