//! What the checks of one run share: the client, the ids and events used, the form to work
//! in, and the rules that a complete download brings.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{OnceCell, oneshot};

use super::client::{ProbeClient, lock};
use super::ending::EarlyEnd;
use super::exchange::ProbeExchange;
use super::form::Form;
use super::lanes::Lanes;
use super::machine::ProbeMachine;
use super::operator::{Operator, OperatorReply, OperatorTask, OperatorTime};
use super::options::{Options, WalkLimits};
use super::probe_events::{EventMaker, ProbeEvent};
use super::rule_scope::RuleScope;
use super::series::SyncSeries;
use super::table::RuleTable;
use super::verdict::{Judgement, Verdict};
use super::walk::Walk;
use crate::harness::fixtures::Random;
use crate::model::SyncType;
use crate::model::text::counted;
use crate::protocol::wire;

/// The beginning of every machine id that a run makes up.
pub(super) const OWN_IDS: &str = "5A17A000-";

/// The result of a check: both sides are verdicts, the right one ends the check early.
pub(super) type Checked = Result<Judgement, Judgement>;

/// The first complete sync, which the others are compared with.
#[derive(Clone, Debug)]
pub(super) struct BaseSync {
    /// The rules of this server for the machines of the run.
    pub(super) set: RuleTable,
    /// The download that brought them.
    pub(super) walk: Walk,
    /// The type that the server announced.
    pub(super) sync_type: SyncType,
}

/// How the preflight of one form ended.
#[derive(Clone, Debug)]
pub(super) struct FormTrial {
    pub(super) form: Form,
    pub(super) exchange: Arc<ProbeExchange>,
    /// It was answered with a preflight response of the form.
    pub(super) accepted: bool,
}

/// The verdicts of a requirement's check: one, or two where it was repeated.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub(super) judgement: Judgement,
    /// Both judgements of a check that did not come to the same twice.
    pub(super) runs: Vec<Judgement>,
}

impl From<Judgement> for Outcome {
    fn from(judgement: Judgement) -> Self {
        Self { judgement, runs: Vec::new() }
    }
}

struct State {
    random: Random,
    ids: Vec<String>,
    events: EventMaker,
    form: Form,
    asks_for_tokens: bool,
    base: Option<Result<Arc<BaseSync>, Judgement>>,
    /// The first rule download as far as it came.
    first_walk: Option<Arc<Walk>>,
    /// Why no preflight succeeds.
    preflight_broken: Option<Judgement>,
    /// Why no event upload succeeds.
    uploads_broken: Option<Judgement>,
    trials: Vec<FormTrial>,
    takes_lower_case: bool,
    outcomes: BTreeMap<&'static str, Outcome>,
    early_end: Option<EarlyEnd>,
    operator: Option<Box<dyn Operator>>,
    operator_time: OperatorTime,
    /// The first verdicts of checks that are run again.
    first_tries: BTreeMap<&'static str, Judgement>,
    /// What checks found that are about to make sure of it.
    unconfirmed: BTreeMap<&'static str, Judgement>,
    /// The given machine ids that the run uses; empty if ids are made up.
    machines: Vec<String>,
    /// The index in `machines` for each check that waits, by requirement; other checks use the
    /// first machine.
    places: BTreeMap<&'static str, usize>,
    /// Given machine ids that the server refused, each with the outcome of its preflight.
    refused_machines: Vec<(String, String)>,
    /// Of first tries, and of second ones.
    series: [Option<Arc<SyncSeries>>; 2],
}

/// One run.
pub(super) struct Probe {
    pub(super) client: ProbeClient,
    pub(super) options: Options,
    pub(super) run_id: String,
    pub(super) has_operator: bool,
    rule_scope: OnceCell<RuleScope>,
    state: Mutex<State>,
}

impl Probe {
    pub(super) fn new(
        client: ProbeClient,
        options: Options,
        seed: u64,
        operator: Option<Box<dyn Operator>>,
    ) -> Self {
        let mut random = Random::new(seed);
        let has_operator = operator.is_some();
        let run_id = random.hex(4).to_ascii_uppercase();
        let state = State {
            random,
            ids: Vec::new(),
            events: EventMaker::new(run_id.clone()),
            form: options.form.unwrap_or(Form::DEFAULT),
            asks_for_tokens: true,
            base: None,
            first_walk: None,
            preflight_broken: None,
            uploads_broken: None,
            trials: Vec::new(),
            takes_lower_case: false,
            outcomes: BTreeMap::new(),
            early_end: None,
            operator,
            operator_time: OperatorTime::default(),
            first_tries: BTreeMap::new(),
            unconfirmed: BTreeMap::new(),
            machines: options.machine_ids.clone(),
            places: BTreeMap::new(),
            refused_machines: Vec::new(),
            series: [None, None],
        };
        Self {
            client,
            options,
            run_id,
            has_operator,
            rule_scope: OnceCell::new(),
            state: Mutex::new(state),
        }
    }

    /// Whether machines get the same rules. The first call finds out.
    pub(super) async fn rule_scope(&self) -> &RuleScope {
        self.rule_scope.get_or_init(|| Box::pin(RuleScope::of(self))).await
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Has the operator do a task, on a thread of its own: people take their time, and the run
    /// may have to end meanwhile. `None` if there is no operator, or none any more.
    pub(super) async fn ask(&self, task: OperatorTask) -> Option<OperatorReply> {
        let mut operator = self.state().operator.take()?;
        self.state().operator_time.begin(self.client.elapsed());
        let (sender, reply) = oneshot::channel();
        let asked = std::thread::Builder::new().name("operator".to_owned()).spawn(move || {
            let reply = operator.ask(&task);
            // The run may have ended.
            let _ = sender.send((operator, reply));
        });
        let replied = match asked {
            Ok(thread) => match reply.await {
                Ok(replied) => Some(replied),
                // It panicked, and so does who asked.
                Err(_) => match thread.join() {
                    Ok(()) => None,
                    Err(panic) => std::panic::resume_unwind(panic),
                },
            },
            Err(_) => None,
        };
        let now = self.client.elapsed();
        let mut state = self.state();
        state.operator_time.end(now);
        let (operator, reply) = replied?;
        state.operator = Some(operator);
        Some(reply)
    }

    /// How much of the time until `now` was the operator's.
    pub(super) fn time_of_operator(&self, now: Duration) -> Duration {
        self.state().operator_time.until(now)
    }

    /// Notes that the check of a requirement is run again, and what it found.
    pub(super) fn begin_second_try(&self, id: &'static str, first: &Judgement) {
        self.state().first_tries.insert(id, first.clone());
    }

    /// What checks found that were run again.
    pub(super) fn first_tries(&self) -> BTreeMap<&'static str, Judgement> {
        self.state().first_tries.clone()
    }

    /// Keeps what a check found while it makes sure of it, in case the run ends meanwhile.
    pub(super) fn keep_unconfirmed(&self, id: &'static str, found: &Judgement) {
        self.state().unconfirmed.insert(id, found.clone());
    }

    pub(super) fn take_unconfirmed(&self, id: &str) {
        self.state().unconfirmed.remove(id);
    }

    /// What checks found that were making sure of it when the run ended.
    pub(super) fn unconfirmed(&self) -> BTreeMap<&'static str, Judgement> {
        self.state().unconfirmed.clone()
    }

    /// Syncs of one machine that several checks look at; those of second tries at others.
    pub(super) async fn series(&self, id: &'static str) -> Arc<SyncSeries> {
        let place = usize::from(self.state().first_tries.contains_key(id));
        let known = self.state().series[place].clone();
        if let Some(known) = known {
            return known;
        }
        let series = Arc::new(SyncSeries::run(self, id).await);
        self.state().series[place] = Some(Arc::clone(&series));
        series
    }

    pub(super) fn keep_early_end(&self, end: EarlyEnd) {
        self.state().early_end = Some(end);
    }

    /// Why the run ended early, if it did.
    pub(super) fn early_end(&self) -> Option<EarlyEnd> {
        self.state().early_end.clone()
    }

    /// The form that the checks work in.
    pub(super) fn form(&self) -> Form {
        self.state().form
    }

    pub(super) fn work_in(&self, form: Form) {
        self.state().form = form;
    }

    pub(super) fn trials(&self) -> Vec<FormTrial> {
        self.state().trials.clone()
    }

    /// Whether this requirement is to be checked: it was chosen, or is about the form that was
    /// asked for, which the server refuses.
    pub(super) fn chooses(&self, id: &str) -> bool {
        let is_refused = |form: Form| {
            form.requirement() == id
                && self.state().trials.iter().any(|trial| trial.form == form && !trial.accepted)
        };
        self.options.chooses(id) || self.options.form.is_some_and(is_refused)
    }

    pub(super) fn keep_trials(&self, trials: Vec<FormTrial>) {
        self.state().trials = trials;
    }

    /// How far a rule download is followed.
    pub(super) const fn walk_limits(&self) -> WalkLimits {
        self.options.walk
    }

    /// Whether a 403 may be for want of a token.
    pub(super) fn hands_out_tokens(&self) -> bool {
        self.state().asks_for_tokens
    }

    /// Whether the server handed out a token, and refuses preflight with it.
    pub(super) fn met_a_useless_token(&self) -> bool {
        let trials = self.trials_of_the_machine();
        self.hands_out_tokens()
            && !trials.is_empty()
            && trials.iter().all(|trial| trial.exchange.is(403))
    }

    /// The trials that may tell of the machine: not those of a form that the server does not
    /// read. It says so by 415, or by 400 where it ended others in another way.
    pub(super) fn trials_of_the_machine(&self) -> Vec<FormTrial> {
        let mut trials = self.trials();
        trials.retain(|trial| !trial.exchange.is(415));
        if !trials.iter().all(|trial| trial.exchange.is(400)) {
            trials.retain(|trial| !trial.exchange.is(400));
        }
        trials
    }

    /// Whether the server refuses the machine, in every form that it reads.
    pub(super) fn refuses_the_machine(&self) -> bool {
        let trials = self.trials_of_the_machine();
        let refused = |trial: &FormTrial| matches!(trial.exchange.status(), Some(401 | 403 | 404));
        !trials.is_empty() && trials.iter().all(refused)
    }

    /// Notes that the server accepts a machine id in lower case, after it refused upper case.
    pub(super) fn keep_takes_lower_case(&self) {
        self.state().takes_lower_case = true;
    }

    /// Whether the server accepts machine ids in lower case, and refuses upper case.
    pub(super) fn takes_lower_case(&self) -> bool {
        self.state().takes_lower_case
    }

    /// Notes that the xsrf endpoint is of no use.
    pub(super) fn has_no_tokens(&self) {
        self.state().asks_for_tokens = false;
    }

    /// A machine id of the run's own that no server has seen: upper case, version 4, with a
    /// first group by which it can be found.
    pub(super) fn fresh_id(&self) -> String {
        let mut state = self.state();
        let digits = state.random.hex(14).to_ascii_uppercase();
        let variant = ["8", "9", "A", "B"][state.random.below(4) as usize];
        let id = format!(
            "{OWN_IDS}{}-4{}-{variant}{}-{}",
            &digits[..4],
            &digits[4..7],
            &digits[7..10],
            &digits[10..22]
        );
        state.ids.push(id.clone());
        id
    }

    /// Notes an id of another form that is used.
    pub(super) fn note_id(&self, id: &str) {
        let mut state = self.state();
        if !state.ids.iter().any(|known| known == id) {
            state.ids.push(id.to_owned());
        }
    }

    fn noted(&self, id: String) -> String {
        self.note_id(&id);
        id
    }

    /// Every machine id used, in order of first use.
    pub(super) fn ids(&self) -> Vec<String> {
        self.state().ids.clone()
    }

    /// Sets which of the given machine ids the run uses.
    pub(super) fn work_with(&self, machines: Vec<String>) {
        self.state().machines = machines;
    }

    /// The number of given machine ids that the run uses.
    pub(super) fn given_machines(&self) -> usize {
        self.state().machines.len()
    }

    /// Assigns a given machine to each lane's checks.
    pub(super) fn share_machines(&self, lanes: &Lanes) {
        self.state().places = lanes.places().collect();
    }

    /// Records that the server refused a given machine; `ended` is the outcome of its preflight.
    pub(super) fn keep_refused_machine(&self, id: &str, ended: String) {
        self.state().refused_machines.push((id.to_owned(), ended));
    }

    /// The given machine ids that the server refused, each with the outcome of its preflight.
    pub(super) fn refused_machines(&self) -> Vec<(String, String)> {
        self.state().refused_machines.clone()
    }

    /// A machine to check this requirement with: a new one, or one of those given.
    pub(super) fn machine(&self, requirement: &'static str) -> ProbeMachine<'_> {
        let given = {
            let state = self.state();
            let place = state.places.get(requirement).copied().unwrap_or_default();
            state.machines.get(place).cloned()
        };
        let id = given.map_or_else(|| self.fresh_id(), |id| self.noted(id));
        ProbeMachine::new(self, requirement, id)
    }

    /// Another machine than [`Self::machine`] returns.
    ///
    /// # Errors
    /// If only one id was given.
    pub(super) fn second_machine(
        &self,
        requirement: &'static str,
    ) -> Result<ProbeMachine<'_>, Judgement> {
        let (given, second) = {
            let state = self.state();
            (state.machines.len(), state.machines.get(1).cloned())
        };
        let id = match second {
            Some(second) => self.noted(second),
            None if given == 0 => self.fresh_id(),
            None => return Err(Judgement::not_tested("needs a second machine id (--machine-id)")),
        };
        Ok(ProbeMachine::new(self, requirement, id))
    }

    /// A machine that the server has never seen.
    ///
    /// # Errors
    /// If the run has to do with given ids.
    pub(super) fn new_machine(
        &self,
        requirement: &'static str,
    ) -> Result<ProbeMachine<'_>, Judgement> {
        if !self.options.machine_ids.is_empty() {
            return Err(Judgement::not_tested("needs a machine id that the server has never seen"));
        }
        Ok(ProbeMachine::new(self, requirement, self.fresh_id()))
    }

    /// A random number below `bound`.
    pub(super) fn random_below(&self, bound: u32) -> u32 {
        self.state().random.below(bound)
    }

    /// Makes an event of this run; the closure is given the time of now.
    pub(super) fn event<T>(&self, make: impl FnOnce(&mut EventMaker, f64) -> T) -> T {
        let millis = u32::try_from(self.client.now().as_millis() % 1000).unwrap_or_default();
        let seconds = u32::try_from(self.client.now().as_secs()).unwrap_or(u32::MAX);
        // A part of a second, as hosts send it; exact in a double.
        let at = f64::from(seconds) + f64::from(millis / 125 * 125 + 1) / 1000.0;
        make(&mut self.state().events, at)
    }

    pub(super) fn small_event(&self) -> wire::Event {
        self.event(EventMaker::small)
    }

    /// The events uploaded so far.
    pub(super) fn events(&self) -> Vec<ProbeEvent> {
        self.state().events.made().to_vec()
    }

    pub(super) fn keep_preflight_broken(&self, judgement: Option<Judgement>) {
        self.state().preflight_broken = judgement;
    }

    pub(super) fn keep_uploads_broken(&self, judgement: Option<Judgement>) {
        self.state().uploads_broken = judgement;
    }

    /// Goes on only if the first preflight succeeded.
    ///
    /// # Errors
    /// If it did not: then nothing can be told of other preflights.
    pub(super) fn unless_preflight_broken(&self) -> Result<(), Judgement> {
        self.state().preflight_broken.clone().map_or(Ok(()), Err)
    }

    pub(super) fn keep_base(&self, base: Result<BaseSync, Judgement>) {
        self.state().base = Some(base.map(Arc::new));
    }

    /// Keeps the first rule download that brought a page; a later one if it is complete.
    pub(super) fn keep_first_walk(&self, walk: &Walk, is_complete: bool) {
        let mut state = self.state();
        if !walk.pages.is_empty() && (is_complete || state.first_walk.is_none()) {
            state.first_walk = Some(Arc::new(walk.clone()));
        }
    }

    /// The first rule download as far as it came, if it brought a page: for what no more than
    /// single pages show.
    pub(super) fn first_walk(&self) -> Option<Arc<Walk>> {
        self.state().first_walk.clone()
    }

    /// The first complete sync.
    ///
    /// # Errors
    /// If there was none; then nothing can be compared.
    pub(super) fn base(&self) -> Result<Arc<BaseSync>, Judgement> {
        let base = self.state().base.clone();
        base.unwrap_or_else(|| Err(Judgement::not_tested("no sync has succeeded")))
    }

    /// [`Self::base`], where the machine has rules.
    pub(super) fn base_with_rules(&self) -> Result<Arc<BaseSync>, Judgement> {
        let base = self.base()?;
        if base.set.is_empty() {
            return Err(Judgement::not_tested("needs at least one rule for this machine"));
        }
        Ok(base)
    }

    /// Goes on if rule pages came, be it in a download that does not end.
    ///
    /// # Errors
    /// Why none came.
    pub(super) fn unless_without_pages(&self) -> Result<(), Judgement> {
        match self.base() {
            Err(blocked) if self.first_walk().is_none() => Err(blocked),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// The first rule download as far as it came, where rules were sent, be they usable or not.
    ///
    /// # Errors
    /// If no page came, or no rule.
    pub(super) fn rules_sent(&self) -> Result<Arc<Walk>, Judgement> {
        let Some(walk) = self.first_walk() else {
            self.base()?;
            return Err(Judgement::not_tested("no rule page was answered"));
        };
        if walk.received == 0 {
            return Err(Judgement::not_tested("needs at least one rule for this machine"));
        }
        Ok(walk)
    }

    /// [`Self::base`], where the rules came on several pages.
    pub(super) fn base_with_pages(&self) -> Result<Arc<BaseSync>, Judgement> {
        let base = self.base_with_rules()?;
        if base.walk.pages.len() < 2 {
            let rules = counted(base.walk.received, "rule");
            let said = format!("needs two pages; there was one, with {rules}");
            return Err(Judgement::not_tested(said));
        }
        Ok(base)
    }

    pub(super) fn keep_outcome(&self, id: &'static str, outcome: impl Into<Outcome>) {
        self.state().outcomes.insert(id, outcome.into());
    }

    pub(super) fn take_outcome(&self, id: &str) {
        self.state().outcomes.remove(id);
    }

    pub(super) fn outcomes(&self) -> BTreeMap<&'static str, Outcome> {
        self.state().outcomes.clone()
    }

    /// The verdict on a requirement, once it is there.
    pub(super) fn verdict(&self, id: &str) -> Option<Verdict> {
        self.state().outcomes.get(id).map(|outcome| outcome.judgement.verdict)
    }

    /// Goes on only if that requirement was not found broken.
    ///
    /// # Errors
    /// If it was.
    pub(super) fn unless_broken(&self, id: &'static str) -> Result<(), Judgement> {
        match self.verdict(id) {
            Some(verdict) if verdict.is_complaint() => {
                Err(Judgement::blocked(id, format!("{id} is not met")))
            }
            _ => Ok(()),
        }
    }

    /// Goes on only if the run may upload events, and the first upload succeeded.
    ///
    /// # Errors
    /// If it may not, or did not.
    pub(super) fn unless_without_events(&self) -> Result<(), Judgement> {
        if !self.options.events {
            let said = "uploads events, and --no-events is set";
            return Err(Judgement::not_tested(said));
        }
        self.state().uploads_broken.clone().map_or(Ok(()), Err)
    }

    /// Waits.
    pub(super) async fn sleep(&self, duration: Duration) {
        self.client.sleep(duration).await;
    }
}
