//! Four complete syncs of one machine, which several requirements look at: each syncs no more
//! than it has to.

use super::machine::{Broken, PreflightDone, ProbeMachine, Wish};
use super::probe::Probe;
use super::table::RuleTable;
use super::walk::Walk;

/// Which of the syncs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InSeries {
    /// The first one of a new machine, which requests a clean sync.
    Clean,
    /// The next, without a request.
    Normal,
    /// One more.
    SecondNormal,
    /// The last, which requests a clean sync again.
    CleanAgain,
}

impl InSeries {
    const ALL: [Self; 4] = [Self::Clean, Self::Normal, Self::SecondNormal, Self::CleanAgain];

    const fn wish(self) -> Wish {
        match self {
            Self::Clean | Self::CleanAgain => Wish::Clean,
            Self::Normal | Self::SecondNormal => Wish::Nothing,
        }
    }
}

/// What the machine then held, and the download that brought it.
#[derive(Clone, Debug)]
pub(super) struct Synced {
    pub(super) walk: Walk,
    pub(super) table: RuleTable,
}

/// The syncs as far as they succeeded.
#[derive(Debug)]
pub(super) struct SyncSeries {
    /// The machine, after its last sync.
    pub(super) machine_id: String,
    preflights: Vec<PreflightDone>,
    synced: Vec<Synced>,
    /// The step that ended the series early.
    broken: Option<Broken>,
}

impl SyncSeries {
    pub(super) async fn run(probe: &Probe, requirement: &'static str) -> Self {
        let mut machine = probe.machine(requirement);
        let mut series = Self {
            machine_id: machine.id.clone(),
            preflights: Vec::new(),
            synced: Vec::new(),
            broken: None,
        };
        for place in InSeries::ALL {
            if let Err(broken) = series.add(&mut machine, place).await {
                series.broken = Some(broken);
                break;
            }
        }
        series
    }

    async fn add(&mut self, machine: &mut ProbeMachine<'_>, place: InSeries) -> Result<(), Broken> {
        machine.forget_session();
        let preflight = machine.preflight(place.wish()).await?;
        let sync_type = preflight.sync_type;
        self.preflights.push(preflight);
        let walk = machine.walk().await?;
        machine.commit(sync_type, &walk);
        machine.postflight(sync_type, &walk).await?;
        self.synced.push(Synced { walk, table: machine.table.clone() });
        Ok(())
    }

    /// The preflight of a sync.
    ///
    /// # Errors
    /// If it, or a step before it, did not succeed.
    pub(super) fn preflight(&self, place: InSeries) -> Result<&PreflightDone, Broken> {
        self.preflights.get(place as usize).ok_or_else(|| self.broken())
    }

    /// A complete sync.
    ///
    /// # Errors
    /// If it, or a step before it, did not succeed.
    pub(super) fn synced(&self, place: InSeries) -> Result<&Synced, Broken> {
        self.synced.get(place as usize).ok_or_else(|| self.broken())
    }

    fn broken(&self) -> Broken {
        let nothing = || Broken { exchange: None, by: "HTTP-01", said: "not synced".to_owned() };
        self.broken.clone().unwrap_or_else(nothing)
    }
}
