//! ISO-01 to ISO-04.

use super::{failed, same_as_set};
use crate::harness::conformance::machine::{Broken, ProbeMachine, Wish};
use crate::harness::conformance::probe::{Checked, Probe};
use crate::harness::conformance::table::RuleTable;
use crate::harness::conformance::verdict::{Judgement, Verdict};
use crate::harness::conformance::walk::Walk;

const IN_TURN: &str = "the syncs of two machines in turn";

/// ISO-01.
pub(super) async fn in_turn(probe: &Probe, id: &'static str) -> Checked {
    let base = probe.base_with_rules()?;
    let mut a = probe.machine(id);
    let mut b = probe.second_machine(id)?;
    let done: Result<_, Broken> = async {
        let of_a = a.preflight(Wish::Clean).await?;
        let of_b = b.preflight(Wish::Clean).await?;
        let walk_a = a.first_page().await?;
        let walk_b = b.first_page().await?;
        let walk_a = a.rest(walk_a).await?;
        let walk_b = b.rest(walk_b).await?;
        a.commit(of_a.sync_type, &walk_a);
        b.commit(of_b.sync_type, &walk_b);
        a.postflight(of_a.sync_type, &walk_a).await?;
        b.postflight(of_b.sync_type, &walk_b).await?;
        Ok((of_a, walk_a, walk_b))
    }
    .await;
    let (of_a, walk_a, walk_b) = match done {
        Ok(done) => done,
        Err(broken) => return Ok(failed(probe, "two machines in turn", &broken)),
    };
    let judgement = same_as_set(IN_TURN, &a.table, &base.set, &walk_a)
        .and(same_as_set(IN_TURN, &b.table, &base.set, &walk_b));
    if judgement.verdict != Verdict::Pass
        || !of_a.is_clean()
        || probe.unless_broken("CLEAN-04").is_err()
    {
        return Ok(judgement);
    }
    for machine in [&mut a, &mut b] {
        machine.forget_session();
        let next = match machine.preflight(Wish::Nothing).await {
            Ok(next) => next,
            Err(broken) => {
                next_sync_of_one(probe, id).await?;
                return Ok(failed(probe, "after two machines in turn", &broken));
            }
        };
        if next.is_clean() {
            let said = "after two machines in turn, the next sync of one is clean again";
            return Ok(Judgement::fail(said).at(next.exchange.number));
        }
    }
    Ok(judgement)
}

/// The preflight after a clean sync of a machine that has no other beside it: what breaks here
/// is not for another machine.
async fn next_sync_of_one(probe: &Probe, id: &'static str) -> Result<(), Broken> {
    let mut machine = probe.machine(id);
    machine.sync(Wish::Clean).await?;
    machine.forget_session();
    machine.preflight(Wish::Nothing).await?;
    Ok(())
}

/// ISO-02.
pub(super) async fn same_counts(probe: &Probe, id: &'static str) -> Checked {
    probe.unless_broken("ISO-01")?;
    let base = probe.base_with_rules()?;
    let mut f = probe.new_machine(id)?;
    // It reports what a synced machine does, though it holds nothing of this server.
    f.table = base.set.clone();
    let preflight = f.preflight(Wish::Nothing).await?;
    let walk = f.walk().await?;
    f.table = RuleTable::default();
    f.commit(preflight.sync_type, &walk);
    Ok(same_as_set(
        "the first sync of a new machine that reports the rule counts of another",
        &f.table,
        &base.set,
        &walk,
    ))
}

/// ISO-03.
pub(super) async fn at_once(probe: &Probe, id: &'static str) -> Checked {
    probe.unless_broken("ISO-01")?;
    let base = probe.base()?;
    let mut machines = Vec::new();
    for _ in 0..4 {
        machines.push(probe.new_machine(id)?);
    }
    let [Some(a), Some(b), Some(c), Some(d)] =
        [machines.pop(), machines.pop(), machines.pop(), machines.pop()]
    else {
        return Ok(Judgement::pass());
    };
    let (a, b, c, d) = tokio::join!(whole(a), whole(b), whole(c), whole(d));
    let mut judgement = Judgement::pass();
    for done in [a, b, c, d] {
        let found = match done {
            Ok((table, walk)) => {
                same_as_set("clean syncs of four machines at once", &table, &base.set, &walk)
            }
            Err(broken) => failed(probe, "one of four machines that sync at once", &broken),
        };
        judgement = judgement.and(found);
    }
    Ok(judgement)
}

async fn whole(mut machine: ProbeMachine<'_>) -> Result<(RuleTable, Walk), Broken> {
    let done = machine.sync(Wish::Clean).await?;
    Ok((machine.table, done.walk))
}

/// ISO-04.
pub(super) async fn pending_work(probe: &Probe, id: &'static str) -> Checked {
    probe.unless_broken("ISO-01")?;
    let base = probe.base_with_rules()?;
    let mut a = probe.machine(id);
    let mut b = probe.second_machine(id)?;
    a.sync(Wish::Clean).await?;

    b.preflight(Wish::Clean).await?;
    b.walk().await?;
    a.sync(Wish::Nothing).await?;
    b.forget_session();
    let preflight = b.preflight(Wish::Nothing).await?;
    let walk = b.walk().await?;
    b.commit(preflight.sync_type, &walk);
    let unconfirmed =
        same_as_set("a sync of another machine between two of its own", &b.table, &base.set, &walk);
    if unconfirmed.verdict != Verdict::Pass && probe.unless_broken("RULE-06").is_ok() {
        return Ok(unconfirmed);
    }

    let mut b = probe.second_machine(id)?;
    let preflight = b.preflight(Wish::Clean).await?;
    let first = b.first_page().await?;
    a.sync(Wish::Nothing).await?;
    let rest: Result<_, Broken> = async {
        let walk = b.rest(first).await?;
        b.commit(preflight.sync_type, &walk);
        b.postflight(preflight.sync_type, &walk).await?;
        Ok(walk)
    }
    .await;
    Ok(match rest {
        Ok(walk) => same_as_set(
            "a sync of another machine in the middle of its own",
            &b.table,
            &base.set,
            &walk,
        ),
        Err(broken) => failed(probe, "after another machine's sync", &broken),
    })
}
