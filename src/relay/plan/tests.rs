//! RELAY-6 as a table: each rule of it alone, and which of two comes first.

use std::convert::Infallible;

use super::*;
use crate::model::Timestamp;

/// The newest generation of these tests.
const NEWEST: i64 = 9;

fn generation(number: i64) -> Generation {
    Generation {
        number,
        digest: format!("digest-{number}"),
        rules_hash: format!("hash-{number}"),
        counts: RuleCounts { binary: 200, ..RuleCounts::default() },
        ..Generation::none()
    }
}

/// What lies between: the same for every base that is kept.
#[derive(Clone, Default)]
struct Past {
    /// Generations before it are not kept.
    oldest: i64,
    same: bool,
    incomplete: bool,
    clean: Vec<SyncType>,
    /// The store replaced the one whose generation 5 is acknowledged, and its own generation 5
    /// has other rules.
    replaced: bool,
}

impl History for Past {
    type Error = Infallible;

    fn since(&self, base: i64) -> Result<Option<RulesSince>, Infallible> {
        Ok((base >= self.oldest).then(|| RulesSince {
            newest: generation(NEWEST),
            same: self.same || base == NEWEST,
            complete: !self.incomplete,
            clean: self.clean.clone(),
        }))
    }

    fn digest(&self, number: i64) -> Result<Option<String>, Infallible> {
        let name = if self.replaced { "other" } else { "digest" };
        Ok((number >= self.oldest).then(|| format!("{name}-{number}")))
    }
}

/// A host whose authorizer acknowledged generation 5 and still holds it.
#[derive(Clone)]
struct Case {
    standing: RulesStanding,
    acknowledged: Option<Acknowledgement>,
    sent: Vec<SentGeneration>,
    authorizer: Authorizer,
    past: Past,
    altered: bool,
    is_setting_withdrawn: bool,
    guard: Option<u8>,
    events_are_safe: bool,
}

impl Default for Case {
    fn default() -> Self {
        Self {
            standing: RulesStanding { complete: true, filled: true, ..RulesStanding::default() },
            acknowledged: Some(Acknowledgement {
                generation: 5,
                digest: "digest-5".to_owned(),
                counts: RuleCounts { binary: 100, ..RuleCounts::default() },
                form: RuleForm::AsStored,
                altered: false,
                surplus: None,
                shortfall: None,
                rules_hash: Some("hash-5".to_owned()),
                drift: false,
                rules_received: 100,
                rules_processed: 100,
                sync_type: SyncType::Clean,
                partial: false,
                at: Timestamp::from_secs(0),
            }),
            sent: Vec::new(),
            authorizer: Authorizer {
                release: Release::parse("2026.7"),
                rules_hash: Some("hash-5".to_owned()),
                counts: RuleCounts { binary: 100, ..RuleCounts::default() },
                mode: Some(ClientMode::Monitor),
                ..Authorizer::default()
            },
            past: Past::default(),
            altered: false,
            is_setting_withdrawn: false,
            guard: None,
            events_are_safe: true,
        }
    }
}

impl Case {
    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn acknowledged(self, change: impl FnOnce(&mut Acknowledgement)) -> Self {
        self.with(|case| change(case.acknowledged.as_mut().expect("one")))
    }

    fn plan(&self) -> (SyncType, Content, Why) {
        let newest = generation(NEWEST);
        let situation = Situation {
            standing: &self.standing,
            newest: &newest,
            altered: self.altered,
            acknowledged: self.acknowledged.as_ref(),
            sent: &self.sent,
            authorizer: &self.authorizer,
            is_setting_withdrawn: self.is_setting_withdrawn,
            guard: self.guard,
            events_are_safe: self.events_are_safe,
        };
        let Ok(Plan { sync_type, content, why }) = plan(situation, &self.past);
        (sync_type, content, why)
    }
}

/// A generation that was sent as it is stored, with that hash.
fn sent(generation: i64, hash: &str) -> SentGeneration {
    SentGeneration {
        generation,
        digest: format!("digest-{generation}"),
        rules_hash: hash.to_owned(),
        form: RuleForm::AsStored,
        altered: false,
    }
}

fn case(change: impl FnOnce(&mut Case)) -> Case {
    Case::default().with(change)
}

const CHANGES: (SyncType, Content, Why) =
    (SyncType::Normal, Content::Changes { base: 5 }, Why::Changed);

fn clean(why: Why) -> (SyncType, Content, Why) {
    (SyncType::Clean, Content::Whole, why)
}

/// RELAY-6: which generation the authorizer holds.
#[test]
fn relay_6_the_base_is_found_by_hash_count_or_word() {
    assert_eq!(case(|_| {}).plan(), CHANGES);

    let hash = |text: &str| Some(text.to_owned());
    // The reference is what was reported, also if our rules have another hash.
    let drift = Case::default().acknowledged(|known| known.rules_hash = hash("theirs"));
    assert_eq!(drift.clone().with(|c| c.authorizer.rules_hash = hash("theirs")).plan(), CHANGES);
    assert_eq!(drift.plan(), clean(Why::NoBase));

    // Users' own rules alter the hash.
    let users = case(|case| {
        case.authorizer.rules_hash = hash("users");
        case.authorizer.mode = Some(ClientMode::Standalone);
    });
    assert_eq!(users.plan(), CHANGES);

    // Without a hash the counts decide; transitive rules come and go.
    let without_hash = Case::default().acknowledged(|known| known.rules_hash = None);
    let before = without_hash.clone().with(|case| {
        case.authorizer.rules_hash = None;
        case.authorizer.counts.binary = 112;
        case.authorizer.counts.transitive = 2;
        case.authorizer.counts.teamid = 1;
    });
    assert_eq!(before.plan(), CHANGES, "the first one tells the surplus");
    let surplus = Surplus::of(
        &before.authorizer.counts,
        &RuleCounts { binary: 100, ..RuleCounts::default() },
    );
    let known = before.acknowledged(|known| known.surplus = Some(surplus));
    assert_eq!(known.plan(), CHANGES);
    let more_transitive = known.clone().with(|case| {
        case.authorizer.counts.binary += 40;
        case.authorizer.counts.transitive += 40;
    });
    assert_eq!(more_transitive.plan(), CHANGES);
    let other = known.with(|case| case.authorizer.counts.teamid = 2);
    assert_eq!(other.plan(), clean(Why::NoBase));
    // It could say the hash before.
    let silent = case(|case| case.authorizer.rules_hash = None);
    assert_eq!(silent.plan(), clean(Why::NoBase));
    assert_eq!(case(|case| case.acknowledged = None).plan(), clean(Why::NoBase));
}

/// RELAY-6: after a lost postflight the authorizer holds a generation that it was sent. Rules
/// that were changed on the host, so that they have the hash of a later generation, are not that
/// generation if it was never sent: texts are not in the hash.
#[test]
fn relay_6_a_later_generation_counts_only_if_it_was_sent() {
    let holds = |hash: &str, generations: Vec<SentGeneration>| {
        case(|case| {
            case.authorizer.rules_hash = Some(hash.to_owned());
            case.sent = generations;
        })
    };
    let lost = holds("hash-7", vec![sent(6, "hash-6"), sent(7, "hash-7"), sent(8, "hash-7")]);
    assert_eq!(lost.plan().1, Content::Changes { base: 7 }, "the oldest one");
    for never_sent in [7, NEWEST] {
        let changed = holds(&format!("hash-{never_sent}"), vec![sent(6, "hash-6")]);
        assert_eq!(changed.plan(), clean(Why::NoBase), "{never_sent}");
    }
    let older = holds("hash-3", vec![sent(3, "hash-3")]);
    assert_eq!(older.plan(), clean(Why::NoBase));
    // What it reported with its acknowledgement was drift, and that is gone.
    let mended = holds("hash-5", vec![sent(5, "hash-5")]);
    let mended = mended.acknowledged(|known| known.rules_hash = Some("theirs".to_owned()));
    assert_eq!(mended.plan(), CHANGES);

    // What was sent to another release may not be what this one gets.
    let of = |form, altered| {
        holds("hash-7", vec![SentGeneration { form, altered, ..sent(7, "hash-7") }])
    };
    assert_eq!(of(RuleForm::WithoutCel, false).plan().1, Content::Changes { base: 7 });
    assert_eq!(of(RuleForm::WithoutCel, true).plan(), clean(Why::NoBase));
    assert_eq!(of(RuleForm::AsStored, true).plan().1, Content::Changes { base: 7 });
    let altered_now = of(RuleForm::WithoutCel, false).with(|case| case.altered = true);
    assert_eq!(altered_now.plan(), clean(Why::NoBase));
}

/// RELAY-15: after an upgrade or a downgrade, the authorizer holds none of our sets if the old
/// or the new form differs from the stored rules.
#[test]
fn relay_15_another_form_of_the_rules_is_another_set() {
    let of = |form, altered| {
        Case::default().acknowledged(|known| (known.form, known.altered) = (form, altered))
    };
    let upgraded = |altered| of(RuleForm::WithoutCel, altered);
    assert_eq!(upgraded(true).plan(), clean(Why::OtherForm));
    assert_eq!(upgraded(false).plan(), CHANGES, "no rule is altered");
    assert_eq!(of(RuleForm::AsStored, true).plan(), CHANGES, "the form is the same");
    let downgraded = case(|case| case.authorizer.release = Release::parse("2026.3"));
    assert_eq!(downgraded.plan(), CHANGES);
    let altered = downgraded.with(|case| case.altered = true);
    assert_eq!(altered.plan(), clean(Why::OtherForm));
    let part = altered.with(|case| case.standing.filled = false);
    assert_eq!(part.plan(), (SyncType::Normal, Content::WholeBesideOthers, Why::NotFilled));
}

/// RELAY-6: without a hash, an authorizer that counts fewer rules than it was sent does
/// not hold them; one that still does after a clean sync stores less than it is sent.
#[test]
fn relay_6_an_authorizer_that_lacks_rules_is_not_in_step() {
    let counts = |binary| RuleCounts { binary, ..RuleCounts::default() };
    let counting = |binary| {
        let mut case = Case::default().acknowledged(|known| known.rules_hash = None);
        case.authorizer.rules_hash = None;
        case.authorizer.counts = counts(binary);
        case
    };
    for binary in [100, 103] {
        assert_eq!(counting(binary).plan(), CHANGES, "{binary}");
    }
    for binary in [0, 40, 99] {
        assert_eq!(counting(binary).plan(), clean(Why::NoBase), "{binary}");
        let known = counting(binary).acknowledged(|known| {
            known.surplus = Some(Surplus::of(&counts(100), &counts(100)));
        });
        assert_eq!(known.plan(), clean(Why::NoBase), "{binary}, not from the beginning on");
    }
    // Rules of the profile do not make up for another type's.
    let mixed = counting(90).with(|case| case.authorizer.counts.teamid = 30);
    assert_eq!(mixed.plan(), clean(Why::NoBase));

    // It lacked ten before the clean sync, and lacks as many after it.
    let after = |sent: u32, binary| {
        counting(binary).acknowledged(|known| {
            known.counts.binary = sent;
            known.shortfall = Some(Shortfall::of(&counts(90), &counts(100)));
        })
    };
    assert_eq!(after(100, 90).plan(), CHANGES, "it stores no more");
    assert_eq!(after(120, 110).plan(), CHANGES, "nor of later ones");
    assert_eq!(after(120, 90).plan(), CHANGES, "it does not count");
    assert_eq!(after(100, 0).plan(), clean(Why::NoBase));
    assert_eq!(after(100, 89).plan(), clean(Why::NoBase));
}

/// RELAY-6: each reason for a clean sync.
#[test]
fn relay_6_each_reason_for_a_clean_sync() {
    let all = (SyncType::CleanAll, Content::Whole, Why::CleanAll);
    assert_eq!(case(|case| case.standing.clean_all = Some(6)).plan(), all);
    assert_eq!(case(|case| case.standing.clean_all = Some(5)).plan(), CHANGES, "it has had it");
    let never = case(|case| {
        case.standing.clean_all = Some(2);
        case.acknowledged = None;
    });
    assert_eq!(never.plan(), all);
    let asked = case(|case| case.authorizer.wants_clean = true);
    assert_eq!(asked.plan(), clean(Why::Asked));
    let both = asked.with(|case| case.standing.clean_all = Some(6));
    assert_eq!(both.plan(), all, "the stronger one first");

    let replaced = case(|case| case.past.clean = vec![SyncType::Clean]);
    assert_eq!(replaced.plan(), clean(Why::ServerReplaced));
    let alike = replaced.with(|case| case.past.same = true);
    assert_eq!(alike.plan(), (SyncType::Normal, Content::Nothing, Why::InStep));

    let pruned = case(|case| case.past.oldest = 6);
    assert_eq!(pruned.plan(), clean(Why::ChangesNotKept));
    let not_kept = case(|case| case.past.incomplete = true);
    assert_eq!(not_kept.plan(), clean(Why::ChangesNotKept));
    // A store that was rebuilt has the same rules under other numbers.
    let rebuilt = pruned.acknowledged(|known| known.digest = format!("digest-{NEWEST}"));
    assert_eq!(rebuilt.plan(), (SyncType::Normal, Content::Nothing, Why::InStep));

    let partial = Case::default().acknowledged(|known| known.partial = true);
    assert_eq!(partial.plan(), clean(Why::FilledSince));
    let withdrawn = case(|case| case.is_setting_withdrawn = true);
    assert_eq!(withdrawn.plan(), clean(Why::SettingWithdrawn));
    assert_eq!(case(|case| case.authorizer.has_v2_state = true).plan(), clean(Why::LeftOfV2));

    let in_step = Case::default().acknowledged(|known| {
        known.generation = NEWEST;
        known.digest = "digest-9".to_owned();
        known.rules_hash = Some("hash-9".to_owned());
    });
    let in_step = in_step.with(|case| case.authorizer.rules_hash = Some("hash-9".to_owned()));
    assert_eq!(in_step.plan(), (SyncType::Normal, Content::Changes { base: 9 }, Why::InStep));
}

/// RELAY-3: until a clean sync has filled our store, nothing is deleted on the
/// word of a server that sent a part.
#[test]
fn relay_3_before_our_store_is_full_every_sync_is_normal() {
    let part = |change: fn(&mut Case)| {
        case(|case| {
            case.standing.filled = false;
            change(case);
        })
        .plan()
    };
    let whole = (SyncType::Normal, Content::WholeBesideOthers, Why::NotFilled);
    assert_eq!(part(|case| case.acknowledged = None), whole);
    assert_eq!(part(|_| {}), CHANGES, "once");
    assert_eq!(part(|case| case.authorizer.wants_clean = true), CHANGES);
    assert_eq!(part(|case| case.authorizer.rules_hash = None), whole, "it told one before");
    assert_eq!(part(|case| case.authorizer.rules_hash = Some("other".to_owned())), whole);
    assert_eq!(part(|case| case.past.clean = vec![SyncType::CleanStandalone]), whole);
    assert_eq!(part(|case| case.past.incomplete = true), whole);
}

/// RELAY-6: before a clean sync the authorizer uploads its events, and the guard
/// holds for its own counts.
#[test]
fn relay_6_a_clean_sync_waits_for_events_and_guard() {
    let held = |why| (SyncType::Normal, Content::Nothing, why);
    let unsafe_events = case(|case| {
        case.events_are_safe = false;
        case.authorizer.wants_clean = true;
    });
    assert_eq!(unsafe_events.plan(), held(Why::EventsFirst));
    assert_eq!(case(|case| case.events_are_safe = false).plan(), CHANGES, "a NORMAL one does not");

    let many = case(|case| {
        case.acknowledged = None;
        case.guard = Some(50);
        case.authorizer.counts.binary = 401;
    });
    assert_eq!(many.plan(), held(Why::Guarded), "201 of 401 would go");
    let half = many.clone().with(|case| case.authorizer.counts.binary = 400);
    assert_eq!(half.plan(), clean(Why::NoBase));
    let transitive = many.clone().with(|case| case.authorizer.counts.transitive = 1);
    assert_eq!(transitive.plan(), clean(Why::NoBase), "transitive ones do not count");
    let few = many.clone().with(|case| case.guard = None);
    assert_eq!(few.plan(), clean(Why::NoBase));
    let passed = many.with(|case| case.standing.unguarded = Some(NEWEST));
    assert_eq!(passed.plan(), clean(Why::NoBase), "the operator let the commit pass");
    assert!(!guard_stops(Some(1), &RuleCounts { binary: 99, ..RuleCounts::default() }, 99));
}

/// RELAY-6: an acknowledged generation of a replaced store is not mistaken for the generation
/// with the same number in the new store.
#[test]
fn relay_6_a_generation_of_a_replaced_store_is_known_by_its_digest() {
    let replaced = case(|case| case.past.replaced = true);
    assert_eq!(replaced.plan(), clean(Why::ChangesNotKept));
    // The new store has not reached that number yet.
    let ahead = Case::default().acknowledged(|known| known.generation = NEWEST + 1);
    assert_eq!(ahead.plan(), clean(Why::ChangesNotKept));
    let newest = replaced.clone().acknowledged(|known| known.generation = NEWEST);
    assert_eq!(newest.plan(), clean(Why::ChangesNotKept));
    let same = replaced.clone().acknowledged(|known| known.digest = format!("digest-{NEWEST}"));
    assert_eq!(same.plan(), (SyncType::Normal, Content::Nothing, Why::InStep));

    // Neither is a generation that was sent.
    let lost = |case: &mut Case| {
        case.sent = vec![sent(7, "hash-7")];
        case.authorizer.rules_hash = Some("hash-7".to_owned());
    };
    assert_eq!(replaced.clone().with(lost).plan(), clean(Why::NoBase));
    let later = case(|case| case.past.oldest = 8).with(lost);
    assert_eq!(later.plan(), clean(Why::NoBase), "it is not kept");
    assert_eq!(case(|case| case.past.oldest = 6).with(lost).plan().1, Content::Changes { base: 7 });
    assert_eq!(case(lost).plan().1, Content::Changes { base: 7 });

    // In the new store, every CLEAN_ALL and every unguarded commit came later.
    let wanted = replaced.clone().with(|case| case.standing.clean_all = Some(2));
    assert_eq!(wanted.plan(), (SyncType::CleanAll, Content::Whole, Why::CleanAll));
    assert_eq!(case(|case| case.standing.clean_all = Some(2)).plan(), CHANGES);
    let guarded = replaced.with(|case| {
        case.guard = Some(50);
        case.authorizer.counts.binary = 1_000;
    });
    assert_eq!(guarded.plan().2, Why::Guarded);
    let passed = guarded.with(|case| case.standing.unguarded = Some(2));
    assert_eq!(passed.plan(), clean(Why::ChangesNotKept));
}
