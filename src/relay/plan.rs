//! What the authorizer is to be sent: which set of ours it holds, and by which
//! type of sync it comes to the newest one (RELAY-6). Pure decisions; what
//! happened between two generations is asked of a [`History`].

use serde::{Deserialize, Serialize};

use super::release::{Release, RuleForm};
use super::state::{Acknowledgement, SentGeneration};
use crate::model::{ClientMode, RuleCounts, SyncType};
use crate::store::{Generation, RulesSince, RulesSnapshot, RulesStanding, StoreError};

/// A guard applies to authorizers of at least this many rules, as in the store
/// (RULE-11).
const MIN_GUARDED_RULES: i64 = 100;

/// What a preflight of the authorizer says about it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Authorizer {
    /// Its release; `None` if its version is not one of Santa's.
    pub release: Option<Release>,
    /// The hash of its rules; `None` from releases before 2025.7.
    pub rules_hash: Option<String>,
    /// Its rules by type. Those of its profile are among them.
    pub counts: RuleCounts,
    /// The mode in force there.
    pub mode: Option<ClientMode>,
    /// Whether it asks for a clean sync.
    pub wants_clean: bool,
    /// Whether it shows signs of version 2 of the protocol.
    pub has_v2_state: bool,
}

/// Rules of the authorizer beyond those it had of us, by type. Transitive ones,
/// which come and go by themselves, do not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Surplus([i64; 6]);

impl Surplus {
    /// What `theirs` has more than `ours`.
    #[must_use]
    pub fn of(theirs: &RuleCounts, ours: &RuleCounts) -> Self {
        let (theirs, ours) = (by_type(theirs), by_type(ours));
        Self(std::array::from_fn(|n| theirs[n] - ours[n]))
    }

    /// Whether there are fewer rules of a type than it was sent.
    fn lacks(self) -> bool {
        self.0.iter().any(|more| *more < 0)
    }
}

fn by_type(counts: &RuleCounts) -> [i64; 6] {
    [
        i64::from(counts.binary) - i64::from(counts.transitive),
        i64::from(counts.certificate),
        i64::from(counts.compiler),
        i64::from(counts.teamid),
        i64::from(counts.signingid),
        i64::from(counts.cdhash),
    ]
}

/// What an authorizer without a hash counted when it lacked rules that it had
/// acknowledged. It is sent all of them once more. If it counts the same
/// afterwards, it does not store all that it is sent, or counts none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shortfall {
    surplus: Surplus,
    counts: [i64; 6],
}

impl Shortfall {
    /// What it counts, where it was sent `ours`.
    #[must_use]
    pub fn of(theirs: &RuleCounts, ours: &RuleCounts) -> Self {
        Self { surplus: Surplus::of(theirs, ours), counts: by_type(theirs) }
    }

    /// Whether it counts as before: as many as then, or as many fewer than it was
    /// sent.
    fn is_like(self, before: Self) -> bool {
        self.surplus == before.surplus || self.counts == before.counts
    }
}

/// What the counts of an authorizer without a hash say about the rules that it
/// acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// It may still hold them.
    Held,
    /// It holds others.
    Others,
    /// It lacks some, as it did after it had been sent them all once more.
    KnownShortfall,
    /// It lacks some.
    Shortfall,
}

/// Compares the counts of an authorizer without a hash with what it acknowledged. The
/// first ones after the acknowledgement tell its surplus, which rules of its profile
/// explain; no profile explains that it has fewer than it was sent.
#[must_use]
pub fn counted(acknowledged: &Acknowledgement, theirs: &RuleCounts) -> Counted {
    let now = Shortfall::of(theirs, &acknowledged.counts);
    match acknowledged.surplus {
        Some(surplus) if surplus == now.surplus => Counted::Held,
        None if !now.surplus.lacks() => Counted::Held,
        Some(_) | None if now.surplus.lacks() => match acknowledged.shortfall {
            Some(before) if now.is_like(before) => Counted::KnownShortfall,
            Some(_) | None => Counted::Shortfall,
        },
        Some(_) | None => Counted::Others,
    }
}

/// Rules of all types without transitive ones.
fn total(counts: &RuleCounts) -> i64 {
    i64::from(counts.binary) - i64::from(counts.transitive)
        + i64::from(counts.certificate)
        + i64::from(counts.teamid)
        + i64::from(counts.signingid)
        + i64::from(counts.cdhash)
}

/// What happened between generations.
pub trait History {
    /// Why it cannot be read.
    type Error;

    /// What happened between a generation and the newest; `None` if that generation is not
    /// kept.
    ///
    /// # Errors
    /// If it cannot be read.
    fn since(&self, base: i64) -> Result<Option<RulesSince>, Self::Error>;

    /// The digest of a generation's rules; `None` if the generation is not kept.
    ///
    /// # Errors
    /// If the history cannot be read.
    fn digest(&self, number: i64) -> Result<Option<String>, Self::Error>;
}

impl History for RulesSnapshot {
    type Error = StoreError;

    fn since(&self, base: i64) -> Result<Option<RulesSince>, StoreError> {
        self.rules_since(base)
    }

    fn digest(&self, number: i64) -> Result<Option<String>, StoreError> {
        Ok(self.generation(number)?.map(|generation| generation.digest))
    }
}

/// The number of the acknowledged generation, if it is one of this store. `None` if nothing is
/// acknowledged, or if the generation is of a store that this one replaced: then this store has
/// not reached that number, or has given it to other rules.
///
/// # Errors
/// If the history cannot be read.
pub fn number_here<H: History>(
    acknowledged: Option<&Acknowledgement>,
    newest: &Generation,
    history: &H,
) -> Result<Option<i64>, H::Error> {
    let Some(known) = acknowledged else { return Ok(None) };
    let kept = kept_digest(known.generation, newest, history)?;
    let is_here =
        known.generation <= newest.number && kept.is_none_or(|digest| digest == known.digest);
    Ok(is_here.then_some(known.generation))
}

/// The digest of a generation of this store; `None` if it is not kept.
fn kept_digest<H: History>(
    number: i64,
    newest: &Generation,
    history: &H,
) -> Result<Option<String>, H::Error> {
    if number == newest.number { Ok(Some(newest.digest.clone())) } else { history.digest(number) }
}

/// Everything a plan depends on besides history.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// Where our rules stand.
    pub standing: &'a RulesStanding,
    /// Our newest generation, with hash and counts of the form in which the
    /// authorizer is sent it.
    pub newest: &'a Generation,
    /// Whether that form alters or leaves out rules of the newest generation.
    pub altered: bool,
    /// What the authorizer last acknowledged.
    pub acknowledged: Option<&'a Acknowledgement>,
    /// What it was sent since then, and may hold.
    pub sent: &'a [SentGeneration],
    /// What it reports in its preflight.
    pub authorizer: &'a Authorizer,
    /// Whether a setting it was given since its last clean sync is no longer in
    /// force.
    pub is_setting_withdrawn: bool,
    /// `GuardRemovedPercent`.
    pub guard: Option<u8>,
    /// Whether it keeps its queued events in clean syncs, or has just uploaded
    /// them all.
    pub events_are_safe: bool,
}

/// What a delivery contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// No rules.
    Nothing,
    /// What has changed since this generation.
    Changes {
        /// The generation that the authorizer holds.
        base: i64,
    },
    /// All rules; they replace what the authorizer has.
    Whole,
    /// Every stored REMOVE and all rules. Other rules of the authorizer stay.
    WholeBesideOthers,
}

/// Why a delivery is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// It holds the newest rules.
    InStep,
    /// Rules have changed.
    Changed,
    /// The server or the operator wanted all rules replaced, transitive ones too.
    CleanAll,
    /// The authorizer asks for a clean sync.
    Asked,
    /// Which rules it holds is not known.
    NoBase,
    /// It was upgraded or downgraded since it acknowledged its rules, and its new release takes
    /// some in another form.
    OtherForm,
    /// The changes since its rules are no longer kept.
    ChangesNotKept,
    /// The server replaced its rules.
    ServerReplaced,
    /// It has rules from elsewhere, and ours are now all there are.
    FilledSince,
    /// A setting it was given is no longer in force.
    SettingWithdrawn,
    /// It still has state of version 2 of the protocol.
    LeftOfV2,
    /// No clean sync has filled our store yet, so nothing may be deleted.
    NotFilled,
    /// It has to upload its events before the clean sync that is due.
    EventsFirst,
    /// The guard holds back a delivery that would delete too many rules.
    Guarded,
    /// It takes only whole sets.
    WholeSets,
}

/// A delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The sync type in the response to preflight.
    pub sync_type: SyncType,
    /// Which rules are sent.
    pub content: Content,
    /// Why.
    pub why: Why,
}

impl Plan {
    const fn nothing(why: Why) -> Self {
        Self { sync_type: SyncType::Normal, content: Content::Nothing, why }
    }

    /// Everything in every sync, for an authorizer that deletes what it is not
    /// sent (RELAY-13).
    #[must_use]
    pub const fn whole_set() -> Self {
        Self { sync_type: SyncType::Normal, content: Content::Whole, why: Why::WholeSets }
    }
}

/// Whether rules that were sent in that form, which altered them or not, are in another form than
/// the authorizer's release is sent now: it was upgraded or downgraded.
fn is_other_form(
    Situation { authorizer, altered, .. }: Situation<'_>,
    sent: (RuleForm, bool),
) -> bool {
    let (form, was_altered) = sent;
    form != RuleForm::of(authorizer.release) && (was_altered || altered)
}

/// Whether that is so for the rules that it acknowledged.
fn has_other_form(situation: Situation<'_>) -> bool {
    situation
        .acknowledged
        .is_some_and(|known| is_other_form(situation, (known.form, known.altered)))
}

/// The generation whose rules the authorizer holds; `None` if it is not known. `here` is
/// [`number_here`]. A generation after the acknowledged one is recognized by its hash only if it was
/// sent whole: the hash does not cover a rule's texts, so rules that were changed on the host may have
/// the hash of a generation that never came there.
fn base<H: History>(
    situation: Situation<'_>,
    here: Option<i64>,
    history: &H,
) -> Result<Option<i64>, H::Error> {
    let Situation { acknowledged, authorizer, newest, .. } = situation;
    let Some(acknowledged) = acknowledged.filter(|_| !has_other_form(situation)) else {
        return Ok(None);
    };
    let number = acknowledged.generation;
    let Some(hash) = &authorizer.rules_hash else {
        // If it had reported a hash when it acknowledged, counts are not enough.
        let is_known = acknowledged.rules_hash.is_none()
            && match counted(acknowledged, &authorizer.counts) {
                Counted::Held | Counted::KnownShortfall => true,
                Counted::Others | Counted::Shortfall => false,
            };
        return Ok(is_known.then_some(number));
    };
    if acknowledged.rules_hash.as_ref() == Some(hash) {
        return Ok(Some(number));
    }
    let by_users = (authorizer.mode == Some(ClientMode::Standalone)).then_some(number);
    let Some(here) = here else { return Ok(by_users) };
    // Its postflight may have been lost. The oldest comes first.
    for sent in situation.sent {
        if sent.generation >= here
            && sent.rules_hash == *hash
            && !is_other_form(situation, (sent.form, sent.altered))
            && kept_digest(sent.generation, newest, history)?.as_ref() == Some(&sent.digest)
        {
            return Ok(Some(sent.generation));
        }
    }
    Ok(by_users)
}

/// Whether the authorizer is known to hold a set of ours.
///
/// # Errors
/// If the history cannot be read.
pub fn holds_ours<H: History>(situation: Situation<'_>, history: &H) -> Result<bool, H::Error> {
    let last = number_here(situation.acknowledged, situation.newest, history)?;
    Ok(base(situation, last, history)?.is_some())
}

/// The history of a store that was rebuilt: no changes, if its newest rules are the acknowledged
/// ones; `None` if they differ.
fn rebuilt(Situation { acknowledged, newest, .. }: Situation<'_>) -> Option<RulesSince> {
    let same = acknowledged.is_some_and(|known| known.digest == newest.digest);
    let newest = newest.clone();
    same.then_some(RulesSince { newest, same, complete: false, clean: Vec::new() })
}

/// Decides what a delivery contains, and its sync type.
///
/// # Errors
/// If the history cannot be read.
pub fn plan<H: History>(situation: Situation<'_>, history: &H) -> Result<Plan, H::Error> {
    let Situation { standing, acknowledged, newest, .. } = situation;
    let last = number_here(acknowledged, newest, history)?;
    let base = base(situation, last, history)?;
    let since = match (base, last) {
        (Some(base), Some(_)) => history.since(base)?.or_else(|| rebuilt(situation)),
        (Some(_), None) => rebuilt(situation),
        (None, _) => None,
    };
    let changes = |base: i64, since: &RulesSince| {
        if since.complete && since.clean.is_empty() {
            Some(Content::Changes { base })
        } else {
            since.same.then_some(Content::Nothing)
        }
    };
    let known = base.zip(since.as_ref()).and_then(|(base, since)| changes(base, since));
    let why = match known {
        Some(Content::Nothing) => Why::InStep,
        Some(Content::Changes { base }) if base == newest.number => Why::InStep,
        Some(_) | None => Why::Changed,
    };
    if !standing.filled {
        let content = known.unwrap_or(Content::WholeBesideOthers);
        let why = if known.is_some() { why } else { Why::NotFilled };
        return Ok(Plan { sync_type: SyncType::Normal, content, why });
    }
    let Some((sync_type, why)) = clean(situation, [last, base], since.as_ref()) else {
        let content = known.unwrap_or(Content::Nothing);
        return Ok(Plan { sync_type: SyncType::Normal, content, why });
    };
    let passed = standing.unguarded > last;
    if !passed && is_guarded(situation) {
        return Ok(Plan::nothing(Why::Guarded));
    }
    if !situation.events_are_safe {
        return Ok(Plan::nothing(Why::EventsFirst));
    }
    Ok(Plan { sync_type, content: Content::Whole, why })
}

/// The type of clean sync that is due, and why; `None` if a NORMAL sync is enough. `last` is
/// [`number_here`].
fn clean(
    situation: Situation<'_>,
    [last, base]: [Option<i64>; 2],
    since: Option<&RulesSince>,
) -> Option<(SyncType, Why)> {
    let Situation { standing, acknowledged, authorizer, .. } = situation;
    let due = |why| Some((SyncType::Clean, why));
    if standing.clean_all > last {
        return Some((SyncType::CleanAll, Why::CleanAll));
    }
    if authorizer.wants_clean {
        return due(Why::Asked);
    }
    if base.is_none() {
        return due(if has_other_form(situation) { Why::OtherForm } else { Why::NoBase });
    }
    let Some(since) = since else { return due(Why::ChangesNotKept) };
    if !since.same && !since.clean.is_empty() {
        return due(Why::ServerReplaced);
    }
    if !since.same && !since.complete {
        return due(Why::ChangesNotKept);
    }
    if acknowledged.is_some_and(|known| known.partial) {
        return due(Why::FilledSince);
    }
    if situation.is_setting_withdrawn {
        return due(Why::SettingWithdrawn);
    }
    // Elsewhere no sync clears it, and one after the other would be clean.
    if authorizer.has_v2_state && Release::clears_settings(authorizer.release) {
        return due(Why::LeftOfV2);
    }
    None
}

/// Whether a clean sync would leave the authorizer with too few of its rules.
fn is_guarded(Situation { authorizer, newest, guard, .. }: Situation<'_>) -> bool {
    let lost = total(&authorizer.counts) - total(&newest.counts);
    guard_stops(guard, &authorizer.counts, lost)
}

/// Whether the guard stops a delivery that deletes this many of the authorizer's
/// rules (RULE-11).
#[must_use]
pub fn guard_stops(guard: Option<u8>, theirs: &RuleCounts, lost: i64) -> bool {
    let theirs = total(theirs);
    guard.is_some_and(|percent| {
        theirs >= MIN_GUARDED_RULES && lost.saturating_mul(100) > theirs * i64::from(percent)
    })
}

#[cfg(test)]
mod tests;
