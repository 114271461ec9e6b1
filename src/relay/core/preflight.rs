//! Handles a preflight of the authorizer: stores what it reports, and begins its delivery.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, PoisonError};

use super::{Core, CoreError, Moment, REPORT_AGAIN, shown};
use crate::control::relay::{AuthorizerStatus, DeliveryStatus};
use crate::host::AuthorizerReport;
use crate::model::{DEFAULT_SYNC_INTERVAL_SECS, Now, RelayManner, Settings};
use crate::protocol::{preflight, wire};
use crate::relay::core::BATCH_SIZE;
use crate::relay::delivery::Source;
use crate::relay::leaving::leaving_since;
use crate::relay::messages::{self, Holding};
use crate::relay::plan::{
    self, Authorizer, Content, Counted, Plan, Shortfall, Situation, Surplus, Why,
};
use crate::relay::release::{Release, RuleForm};
use crate::relay::sessions::Delivery;
use crate::sync::progress::When;

impl Core {
    /// Returns the response to a preflight and begins its delivery.
    ///
    /// # Errors
    /// If there is nothing to hand out, or the store cannot be read.
    pub fn preflight(
        &mut self,
        connection: u64,
        authenticated: bool,
        request: &wire::PreflightRequest,
        has_v2_state: bool,
        now: Now,
    ) -> Result<wire::PreflightResponse, CoreError> {
        (self.status.other_machine_id, self.status.other_machine_id_at) = (None, None);
        let authorizer = messages::authorizer(request, has_v2_state);
        self.note_report(request, &authorizer, authenticated, now);
        let mut moment = match self.moment() {
            Ok(moment) => moment,
            Err(error) => {
                self.status.not_ready = Some(error.to_string());
                return Err(error);
            }
        };
        self.status.not_ready = None;
        if self.options.config.manner == RelayManner::Santa {
            self.show_as_sent(&mut moment, authorizer.release)?;
        }
        let in_force = messages::setting_names(&moment.settings);
        let withdrawn = self.state.withdrawn(&in_force, authorizer.release);
        let (plan, holding) = self.plan(&moment, &authorizer, !withdrawn.is_empty(), now)?;
        if self.options.config.manner == RelayManner::Santa {
            self.learn_surplus(&authorizer);
        }
        let (plan, source) = self.guarded(plan, &moment, &authorizer)?;
        let given = messages::settings_to_send(&moment.settings, plan, holding);
        let names = messages::setting_names(&given);
        self.hand_out(&names);
        let newest = moment.newest.number;
        let digest = messages::settings_digest(&given);
        let delivery = delivery(moment, plan, (names, digest), &authorizer);
        let token = token()?;
        self.at(When::Before, "begin_delivery");
        self.sessions.begin(connection, token, delivery, Arc::new(source), now.elapsed);
        self.at(When::After, "begin_delivery");
        self.status.withdrawn_settings = withdrawn;
        self.status.newest_generation = Some(newest);
        self.status.last_delivery = Some(DeliveryStatus {
            at: now.wall,
            sync_type: plan.sync_type,
            why: messages::reason(plan.why).to_owned(),
        });
        Ok(self.response(&given, plan))
    }

    /// Decides what to send to the authorizer. Also returns which rules it is known to hold.
    fn plan(
        &self,
        moment: &Moment,
        authorizer: &Authorizer,
        is_setting_withdrawn: bool,
        now: Now,
    ) -> Result<(Plan, Holding), CoreError> {
        if self.options.config.manner == RelayManner::Pedro {
            return Ok((Plan::whole_set(), Holding::Unknown));
        }
        let snapshot = moment.snapshot.lock().unwrap_or_else(PoisonError::into_inner);
        let situation = Situation {
            standing: &moment.standing,
            newest: &moment.newest,
            altered: moment.altered,
            acknowledged: self.state.acknowledged.as_ref(),
            sent: &self.state.sent,
            authorizer,
            is_setting_withdrawn,
            guard: self.options.guard,
            events_are_safe: self.options.keeps_events || self.sessions.is_flushed(now.elapsed),
        };
        let holding = match self.state.acknowledged {
            None => Holding::Never,
            Some(_) if plan::holds_ours(situation, &*snapshot)? => Holding::Known,
            Some(_) => Holding::Unknown,
        };
        Ok((plan::plan(situation, &*snapshot)?, holding))
    }

    /// Returns the plan and its source, or an empty plan if the guard stops the removals
    /// (RULE-11). Only [`Content::Changes`] is checked: the REMOVEs of
    /// [`Content::WholeBesideOthers`] are not known to remove anything.
    fn guarded(
        &self,
        plan: Plan,
        moment: &Moment,
        authorizer: &Authorizer,
    ) -> Result<(Plan, Source), CoreError> {
        let source = |plan| {
            let snapshot = Arc::clone(&moment.snapshot);
            Source::new(snapshot, plan, authorizer.release, self.options.config.manner)
        };
        if let (Some(_), Content::Changes { base }) = (self.options.guard, plan.content) {
            let last = self.number_here(moment)?;
            let snapshot = moment.snapshot.lock().unwrap_or_else(PoisonError::into_inner);
            let removed = i64::try_from(snapshot.removed_since(base)?).unwrap_or(i64::MAX);
            drop(snapshot);
            if moment.standing.unguarded <= last
                && plan::guard_stops(self.options.guard, &authorizer.counts, removed)
            {
                let plan = Plan { content: Content::Nothing, why: Why::Guarded, ..plan };
                return Ok((plan, source(plan)?));
            }
        }
        Ok((plan, source(plan)?))
    }

    fn response(&self, given: &Settings, plan: Plan) -> wire::PreflightResponse {
        let interval = match leaving_since(&self.options.state_dir) {
            // The authorizer keeps this interval when it syncs elsewhere.
            Some(_) => given.full_sync_interval.unwrap_or(DEFAULT_SYNC_INTERVAL_SECS),
            None => self.options.interval(),
        };
        match self.options.config.manner {
            RelayManner::Pedro => messages::preflight_for_pedro(given, interval),
            RelayManner::Santa => preflight::response(given, plan.sync_type, BATCH_SIZE, interval),
        }
    }

    /// Stores what the authorizer reported about its host (RELAY-10).
    fn note_report(
        &mut self,
        request: &wire::PreflightRequest,
        authorizer: &Authorizer,
        authenticated: bool,
        now: Now,
    ) {
        let report = AuthorizerReport {
            at: now.wall,
            client_mode: authorizer.mode,
            transitive: authorizer.counts.transitive,
            santa_version: request.santa_version.clone(),
            // Zeros are not written, so zero may also mean that the release does not report it.
            sip_status: Some(request.sip_status)
                .filter(|flags| *flags != 0 || Release::reports_sip(authorizer.release)),
            primary_user: request.primary_user.clone(),
            primary_user_groups: request.primary_user_groups.clone(),
            authenticated,
        };
        self.status.authorizer = Some(AuthorizerStatus {
            at: now.wall,
            version: report.santa_version.clone(),
            client_mode: report.client_mode,
            authenticated,
        });
        let stale = self.options.config.stale;
        self.has_returned |= self
            .report
            .as_ref()
            .zip(stale)
            .is_some_and(|(kept, stale)| now.wall.since(kept.at) > stale);
        self.release = authorizer.release;
        self.status.release_cannot = match self.options.config.manner {
            RelayManner::Santa => messages::limits(authorizer),
            // pedro's releases are not Santa's, so these limits do not apply.
            RelayManner::Pedro => Vec::new(),
        };
        let is_kept = self.report.as_ref().is_some_and(|kept| {
            let age = now.wall.since(kept.at);
            kept.at <= now.wall
                && age < REPORT_AGAIN
                && AuthorizerReport { at: kept.at, ..report.clone() } == *kept
        });
        if !is_kept {
            self.at(When::Before, "keep_report");
            let kept = report.keep(&self.options.state_dir).map_err(io::Error::from);
            self.at(When::After, "keep_report");
            match kept {
                Ok(()) => self.report = Some(report),
                Err(error) => self.cannot_write(&error),
            }
        }
    }

    /// Replaces the hash and the counts of the newest generation with those of the form in which
    /// this release gets it (RELAY-15).
    fn show_as_sent(
        &mut self,
        moment: &mut Moment,
        release: Option<Release>,
    ) -> Result<(), CoreError> {
        let to = RuleForm::of(release);
        if to == RuleForm::AsStored {
            return Ok(());
        }
        let digest = &moment.newest.digest;
        let kept = self.sent_form.as_ref().filter(|(of, form, _)| of == digest && *form == to);
        let form = if let Some((_, _, form)) = kept {
            form.clone()
        } else {
            let snapshot = moment.snapshot.lock().unwrap_or_else(PoisonError::into_inner);
            let form = snapshot.sent_form(&|state| Release::sendable(release, state))?;
            self.sent_form = Some((digest.clone(), to, form.clone()));
            form
        };
        moment.altered = form.rules_hash != moment.newest.rules_hash;
        (moment.newest.rules_hash, moment.newest.counts) = (form.rules_hash, form.counts);
        Ok(())
    }

    /// Records what an authorizer without a hash counts beyond our rules, or that it lacks
    /// some. The first preflight after an acknowledgement shows that.
    fn learn_surplus(&mut self, authorizer: &Authorizer) {
        let mut state = self.state.clone();
        let Some(known) = &mut state.acknowledged else { return };
        if authorizer.rules_hash.is_some() || known.rules_hash.is_some() {
            return;
        }
        let theirs = &authorizer.counts;
        let surplus = Surplus::of(theirs, &known.counts);
        match plan::counted(known, theirs) {
            Counted::Held => {
                (known.surplus, known.shortfall) = (Some(surplus), None);
                state.shortfall = None;
            }
            Counted::KnownShortfall => (known.surplus, known.drift) = (Some(surplus), true),
            Counted::Shortfall => state.shortfall = Some(Shortfall::of(theirs, &known.counts)),
            Counted::Others => {}
        }
        self.status.acknowledged = state.acknowledged.as_ref().map(shown);
        self.keep(state, "keep_surplus");
    }

    /// Records that the authorizer is about to get these settings: it may apply them even if the
    /// sync fails later.
    fn hand_out(&mut self, in_force: &BTreeSet<String>) {
        let mut state = self.state.clone();
        state.handed_out.extend(in_force.iter().cloned());
        self.keep(state, "keep_settings");
    }
}

/// The delivery of a plan. `settings` holds the names of the settings in the response, and their
/// digest.
fn delivery(
    moment: Moment,
    plan: Plan,
    settings: (BTreeSet<String>, String),
    authorizer: &Authorizer,
) -> Delivery {
    let (settings, settings_digest) = settings;
    Delivery {
        plan,
        generation: moment.newest.number,
        digest: moment.newest.digest,
        rules_hash: moment.newest.rules_hash,
        counts: moment.newest.counts,
        release: authorizer.release,
        altered: moment.altered,
        partial: !moment.standing.filled,
        settings,
        settings_digest,
        hash_before: authorizer.rules_hash.clone(),
        mode: authorizer.mode,
        wants_clean: authorizer.wants_clean,
        clears_v2: plan.sync_type.is_clean()
            && authorizer.has_v2_state
            && Release::clears_settings(authorizer.release),
    }
}

/// A number that nobody can guess.
fn token() -> Result<u64, CoreError> {
    getrandom::u64().map_err(|error| io::Error::other(error).into())
}
