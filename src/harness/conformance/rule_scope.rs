//! A control for checks that compare a machine's rules with those of the first machine.

use super::machine::Wish;
use super::probe::Probe;
use super::verdict::Judgement;

/// How many machines are tried.
const MACHINES: usize = 3;

/// Whether machines that just do clean syncs get the same rules.
#[derive(Debug)]
pub(super) enum RuleScope {
    /// As far as was seen.
    Same,
    /// A machine gets other rules than the first one, and the same ones each time.
    ByMachine,
    /// A machine gets other rules each time.
    Changing {
        /// How they differ.
        difference: String,
        /// The last page of the later sync.
        exchange: u64,
    },
}

impl RuleScope {
    /// Lets machines do two clean syncs each, until one gets rules that the first one did not.
    pub(super) async fn of(probe: &Probe) -> Self {
        let Ok(base) = probe.base() else { return Self::Same };
        for _ in 0..MACHINES {
            let mut machine = probe.machine("PAGE-03");
            if machine.sync(Wish::Clean).await.is_err() || !machine.table.has_others_than(&base.set)
            {
                continue;
            }
            let first = machine.table.clone();
            let Ok(again) = machine.sync(Wish::Clean).await else { continue };
            let Some(difference) = machine.table.difference(&first) else {
                return Self::ByMachine;
            };
            if base.walk.pages.len() > 1 {
                let exchange = again.walk.pages.last().map_or(0, |page| page.number);
                return Self::Changing { difference, exchange };
            }
        }
        Self::Same
    }

    /// What a judgement comes to that rests on such a comparison alone.
    pub(super) fn explain(&self, judgement: Judgement) -> Judgement {
        match self {
            Self::Same => judgement,
            Self::ByMachine => Judgement::not_tested(
                "this server gives machines different rules, and the check compares a machine \
                 with the first one: name machines that get the same rules (--machine-id)",
            ),
            Self::Changing { difference, exchange } => {
                let said = format!(
                    "of two clean syncs of one machine, one after the other, the second has \
                     {difference}: the order of the rules may change between pages"
                );
                Judgement::blocked("PAGE-03", said).at(*exchange)
            }
        }
    }
}
