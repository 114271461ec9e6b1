//! What the relay does with each request, apart from HTTP: reads the store,
//! keeps what the authorizer says, hands out deliveries. Everything here may
//! block, so it runs in threads.

mod preflight;

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use thiserror::Error;

use super::delivery::{Page, ROOM_FOR_PAGE, Source};
use super::messages;
use super::plan::{self, Content, Plan, Why};
use super::release::{Release, RuleForm};
use super::sessions::{Outcome, PageOf, Position, Sessions};
use super::state::{Acknowledgement, RelayState, SentGeneration};
use crate::config::RelayConfig;
use crate::control::relay::{AcknowledgedStatus, AuthorizerStatus, NotAcknowledged, RelayStatus};
use crate::host::AuthorizerReport;
use crate::mapped_buffer::MappedBuffer;
use crate::model::{MachineId, Now, RelayManner, Settings, Transfer};
use crate::protocol::wire;
use crate::store::{Generation, RulesSnapshot, RulesStanding, SentForm, StoreError};
use crate::sync::progress::When;

/// Events that the authorizer sends in a request (RELAY-4).
pub(super) const BATCH_SIZE: u32 = 100;
/// Seconds between the authorizer's syncs if nothing nudges it (RELAY-4).
const INTERVAL: u32 = 60;
/// Seconds between its syncs if something does (RELAY-4).
const NUDGED_INTERVAL: u32 = 600;
/// How often what the authorizer said is written again though nothing in it has
/// changed. It counts for a day.
const REPORT_AGAIN: Duration = Duration::from_mins(10);

/// Called before and after each effect, for tests that kill the process there.
pub type Checkpoint = Arc<dyn Fn(When, &'static str) + Send + Sync>;

/// What a relay runs on.
#[derive(Clone)]
pub struct RelayOptions {
    /// Where the stores are.
    pub state_dir: PathBuf,
    /// The configuration.
    pub config: RelayConfig,
    /// The id that the authorizer must use.
    pub machine_id: MachineId,
    /// The command that has the authorizer sync; empty: none.
    pub nudge: Vec<String>,
    /// `GuardRemovedPercent`.
    pub guard: Option<u8>,
    /// The most events that the queue keeps.
    pub event_limit: u64,
    /// Whether the authorizer keeps its queued events in clean syncs: its profile
    /// has `SyncEnableCleanSyncEventUpload`.
    pub keeps_events: bool,
    /// See [`Checkpoint`].
    pub checkpoint: Checkpoint,
}

impl std::fmt::Debug for RelayOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RelayOptions").field("config", &self.config).finish_non_exhaustive()
    }
}

impl RelayOptions {
    /// Seconds between the authorizer's syncs, as it is told.
    #[must_use]
    pub fn interval(&self) -> u32 {
        let default = if self.nudge.is_empty() { INTERVAL } else { NUDGED_INTERVAL };
        self.config.interval.unwrap_or(default)
    }
}

/// Why a request fails. The client tries again.
#[derive(Debug, Error)]
pub enum CoreError {
    /// There is nothing to hand out yet (RELAY-3).
    #[error("{0}")]
    NotReady(&'static str),
    /// The delivery has ended and cannot be served any more.
    #[error("the cursor belongs to a delivery that has ended; begin a new sync")]
    Gone,
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system provides no random numbers, so the delivery cannot have an unguessable token.
    #[error("cannot make a delivery's token: {0}")]
    Token(#[from] io::Error),
}

/// What a page of a delivery is read from, and where.
#[derive(Debug)]
pub struct Located {
    pub(super) token: u64,
    pub(super) position: Position,
    pub(super) plan: Plan,
    pub(super) source: Arc<Source>,
}

impl Located {
    /// Reads the page.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn read(&self, transfer: Transfer) -> Result<Page, StoreError> {
        self.read_into(MappedBuffer::new(ROOM_FOR_PAGE), transfer)
    }

    /// Reads the page into a buffer in place of what it holds.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub(super) fn read_into(
        &self,
        body: MappedBuffer,
        transfer: Transfer,
    ) -> Result<Page, StoreError> {
        self.source.page(self.plan, self.token, self.position, transfer, body)
    }

    /// Another page of the same delivery.
    #[must_use]
    pub fn at(&self, position: Position) -> Self {
        Self { position, source: Arc::clone(&self.source), ..*self }
    }
}

/// One moment of the store.
struct Moment {
    snapshot: Arc<Mutex<RulesSnapshot>>,
    standing: RulesStanding,
    newest: Generation,
    /// Whether the form in which the authorizer gets these rules differs from the stored one.
    altered: bool,
    settings: Settings,
}

/// The relay's state.
pub struct Core {
    options: RelayOptions,
    state: RelayState,
    /// Whether the file holds the current `state`.
    is_on_disk: bool,
    sessions: Sessions<Arc<Source>>,
    /// The last snapshot, if a delivery still reads it, with the number and the digest of its
    /// newest generation.
    last: Option<(Weak<Mutex<RulesSnapshot>>, i64, String)>,
    report: Option<AuthorizerReport>,
    release: Option<Release>,
    /// The last conversion of rules to the form of an older release: the digest of the stored
    /// rules, the form, and the hash and counts in that form.
    sent_form: Option<(String, RuleForm, SentForm)>,
    /// Whether the authorizer has come back after a silence during which upstream syncs only
    /// uploaded events.
    has_returned: bool,
    status: RelayStatus,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").field("status", &self.status).finish_non_exhaustive()
    }
}

impl Core {
    /// A relay that goes on where the last one on this state directory ended.
    #[must_use]
    pub fn new(options: RelayOptions) -> Self {
        let read = RelayState::read(&options.state_dir);
        let state = read.clone().of(options.config.manner, &options.machine_id);
        let interval = if options.nudge.is_empty() {
            Duration::from_secs(options.interval().into())
        } else {
            Duration::ZERO
        };
        let report = AuthorizerReport::read(&options.state_dir);
        let config = &options.config;
        let status = RelayStatus {
            machine_id: options.machine_id.as_str().to_owned(),
            manner: config.manner.name().to_owned(),
            client_certificate: config.client_certificate,
            directory: config.directory.display().to_string(),
            secret: config.secret.is_some(),
            stale_after: config.stale.map(|stale| stale.as_secs()),
            interval: options.interval(),
            authorizer: report.as_ref().map(|report| AuthorizerStatus {
                at: report.at,
                version: report.santa_version.clone(),
                client_mode: report.client_mode,
                authenticated: report.authenticated,
            }),
            acknowledged: state.acknowledged.as_ref().map(shown),
            ..RelayStatus::default()
        };
        let release = report.as_ref().and_then(|report| Release::parse(&report.santa_version));
        let sessions = Sessions::new(interval);
        Self {
            options,
            is_on_disk: state == read,
            state,
            sessions,
            last: None,
            report,
            release,
            sent_form: None,
            has_returned: false,
            status,
        }
    }

    /// How it stands.
    #[must_use]
    pub const fn status(&self) -> &RelayStatus {
        &self.status
    }

    /// How it stands, to be completed by who runs it.
    pub const fn status_mut(&mut self) -> &mut RelayStatus {
        &mut self.status
    }

    /// Whether the authorizer has just come back after [`RelayConfig::stale`], so that
    /// the server should hear of it.
    pub const fn take_return(&mut self) -> bool {
        std::mem::replace(&mut self.has_returned, false)
    }

    /// Forgets deliveries that are too old.
    pub fn expire(&mut self, now: Duration) {
        self.sessions.expire(now);
    }

    /// Notes that all connections have ended: later ones are numbered from 1 again.
    pub fn connections_ended(&mut self) {
        self.sessions.connections_ended();
    }

    /// When the next delivery is too old.
    #[must_use]
    pub fn expires(&self) -> Option<Duration> {
        self.sessions.expires()
    }

    fn at(&self, when: When, effect: &'static str) {
        (self.options.checkpoint)(when, effect);
    }

    /// Reads the store as it is now.
    fn moment(&mut self) -> Result<Moment, CoreError> {
        const NEVER: CoreError = CoreError::NotReady("no sync with the server has succeeded yet");
        let snapshot = match RulesSnapshot::open(&self.options.state_dir) {
            Ok(snapshot) => snapshot,
            Err(error) if error.is_unused() => return Err(NEVER),
            Err(error) => return Err(error.into()),
        };
        let standing = snapshot.rules_standing()?;
        if !standing.complete {
            return Err(NEVER);
        }
        if standing.to_be_replaced {
            return Err(CoreError::NotReady("a clean sync with the server has to come first"));
        }
        if standing.unrecorded {
            return Err(CoreError::NotReady(
                "another program has changed the rules; the next sync with the server records that",
            ));
        }
        let newest = snapshot.newest_generation()?.unwrap_or_else(Generation::none);
        let settings = snapshot.applied_settings()?;
        let known = self
            .last
            .as_ref()
            .filter(|(_, number, digest)| (*number, digest) == (newest.number, &newest.digest));
        let snapshot = match known.and_then(|(last, ..)| last.upgrade()) {
            // The rules are the same, and one snapshot costs less than two.
            Some(last) => last,
            None => Arc::new(Mutex::new(snapshot)),
        };
        self.last = Some((Arc::downgrade(&snapshot), newest.number, newest.digest.clone()));
        let sent = self
            .sent_form
            .as_ref()
            .filter(|(of, form, _)| *of == newest.digest && *form == RuleForm::of(self.release));
        let altered = sent.is_some_and(|(.., form)| form.rules_hash != newest.rules_hash);
        Ok(Moment { snapshot, standing, newest, altered, settings })
    }

    /// [`plan::number_here`] for the acknowledged generation.
    fn number_here(&self, moment: &Moment) -> Result<Option<i64>, CoreError> {
        let snapshot = moment.snapshot.lock().unwrap_or_else(PoisonError::into_inner);
        let acknowledged = self.state.acknowledged.as_ref();
        Ok(plan::number_here(acknowledged, &moment.newest, &*snapshot)?)
    }

    /// Writes down when the authorizer last came, because nothing else knows it once the
    /// relay has ended.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn keep_last_report(&mut self) -> Result<(), CoreError> {
        let (Some(kept), Some(last)) = (&mut self.report, &self.status.authorizer) else {
            return Ok(());
        };
        if kept.at < last.at {
            kept.at = last.at;
            kept.keep(&self.options.state_dir).map_err(io::Error::from)?;
        }
        Ok(())
    }

    /// Replaces the state, in memory and on disk. If it cannot be written, it stays in memory and
    /// is written with the next change: a full disk must not block the delivery of rules.
    fn keep(&mut self, mut state: RelayState, effect: &'static str) {
        if state == self.state && self.is_on_disk {
            return;
        }
        self.at(When::Before, effect);
        let written = state.write(&self.options.state_dir);
        self.at(When::After, effect);
        if let Err(error) = &written {
            self.cannot_write(error);
        }
        (self.state, self.is_on_disk) = (state, written.is_ok());
    }

    /// Logs that the authorizer's state or report cannot be written.
    fn cannot_write(&self, error: &io::Error) {
        let dir = self.options.state_dir.display();
        tracing::warn!(
            %error,
            fix = "free disk space, and make the directory writable for its owner",
            "the authorizer's state cannot be written to {dir}; it will be lost when the relay \
             restarts"
        );
    }

    /// Where the page that a request wants is to be read; `None` if there was no
    /// preflight, so that the page is empty.
    ///
    /// # Errors
    /// If there is nothing to hand out, or the delivery has ended.
    pub fn locate(
        &mut self,
        connection: u64,
        cursor: &str,
        now: Now,
    ) -> Result<Option<Located>, CoreError> {
        match self.sessions.page(connection, cursor, now.elapsed) {
            PageOf::Page { token, position, plan, source } => {
                Ok(Some(Located { token, position, plan, source: Arc::clone(source) }))
            }
            PageOf::Gone => Err(CoreError::Gone),
            PageOf::Empty => self.moment().map(|_| None),
        }
    }

    /// A page is about to be sent. If it is the last one, that is recorded first.
    pub fn served(&mut self, located: &Located, page: &Page) {
        let Located { token, position, .. } = *located;
        let whole = self.sessions.served(token, position, page.rules, page.next);
        if let Some(delivery) = whole
            && self.options.config.manner == RelayManner::Santa
        {
            let sent = SentGeneration {
                generation: delivery.generation,
                digest: delivery.digest.clone(),
                rules_hash: delivery.rules_hash.clone(),
                form: RuleForm::of(delivery.release),
                altered: delivery.altered,
            };
            let state = self.state.with_sent(sent);
            self.keep(state, "keep_sent");
        }
        if matches!(located.plan.content, Content::Whole | Content::WholeBesideOthers) {
            let is_first = located.position == Position::first(located.plan.content);
            if is_first {
                self.status.rules_altered = 0;
                self.status.rules_left_out = 0;
                self.status.rules_left_out_why.clear();
            }
            self.status.rules_altered += page.altered;
            self.status.rules_left_out += page.left_out.total();
            for (reason, rules) in page.left_out.by_reason() {
                if rules > 0 {
                    *self.status.rules_left_out_why.entry(reason.to_owned()).or_default() += rules;
                }
            }
        }
    }

    /// Events were not taken.
    pub fn upload_refused(&mut self) {
        self.sessions.upload_refused();
    }

    /// Handles a postflight. Returns whether the authorizer should sync again at
    /// once.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn postflight(
        &mut self,
        connection: u64,
        request: &wire::PostflightRequest,
        now: Now,
    ) -> Result<bool, CoreError> {
        let report = messages::report(request);
        match self.sessions.postflight(connection, &report, now.elapsed, now.wall) {
            Outcome::NoDelivery => Ok(false),
            Outcome::Nothing { why, settings } => {
                let state = self.state.with_settings(settings.1);
                self.keep(state, "keep_acknowledgement");
                Ok(why == Why::EventsFirst)
            }
            Outcome::NotTaken { reason, settings } => {
                let last = self.status.not_acknowledged.as_ref();
                if last.is_none_or(|last| last.reason != reason) {
                    tracing::warn!(reason, "the authorizer did not take its rules");
                } else {
                    tracing::debug!(reason, "the authorizer did not take its rules again");
                }
                let times = last.map_or(0, |last| last.times) + 1;
                let state = self.state.with_settings(settings.1);
                self.keep(state, "keep_acknowledgement");
                self.status.not_acknowledged =
                    Some(NotAcknowledged { at: now.wall, reason, times });
                Ok(false)
            }
            Outcome::Acknowledged { acknowledgement, settings, clean, clears_settings } => {
                self.acknowledge(*acknowledgement, settings, clean, clears_settings);
                self.compare(now)?;
                Ok(false)
            }
        }
    }

    fn acknowledge(
        &mut self,
        mut acknowledgement: Acknowledgement,
        (names, digest): (BTreeSet<String>, String),
        clean: bool,
        clears_settings: bool,
    ) {
        let known = self.state.acknowledged.as_ref();
        let same = known.filter(|known| {
            !clean
                && known.generation == acknowledgement.generation
                && known.digest == acknowledgement.digest
        });
        if let Some(known) = same {
            acknowledgement.surplus = known.surplus;
        }
        // All rules were sent once more, so a shortfall that remains is not fixed by that.
        let lacking = self.state.shortfall.filter(|_| clean);
        acknowledgement.shortfall = lacking.or_else(|| known.and_then(|known| known.shortfall));
        self.status.acknowledged = Some(shown(&acknowledgement));
        self.status.not_acknowledged = None;
        let mut state = self.state.clone();
        state.settings = digest;
        state.sent.retain(|sent| {
            sent.generation == acknowledgement.generation && sent.digest == acknowledgement.digest
        });
        if clean {
            state.note_clean_sync(names, clears_settings);
        }
        let is_news = known.is_none_or(|known| {
            let as_kept = Acknowledgement {
                at: known.at,
                rules_received: known.rules_received,
                rules_processed: known.rules_processed,
                sync_type: known.sync_type,
                ..acknowledgement.clone()
            };
            as_kept != *known
        });
        if is_news || clean {
            state.acknowledged = Some(acknowledgement);
        }
        self.keep(state, "keep_acknowledgement");
    }

    /// Finds out whether the authorizer lacks anything. Returns whether it does.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn compare(&mut self, now: Now) -> Result<bool, CoreError> {
        let moment = match self.moment() {
            Ok(moment) => moment,
            Err(CoreError::NotReady(why)) => {
                self.status.not_ready = Some(why.to_owned());
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        self.status.not_ready = None;
        self.status.newest_generation = Some(moment.newest.number);
        let in_force = messages::setting_names(&moment.settings);
        let withdrawn = self.state.withdrawn(&in_force, self.release);
        let is_santa = self.options.config.manner == RelayManner::Santa;
        let last = self.number_here(&moment)?;
        let lacks_rules = self.state.acknowledged.as_ref().is_none_or(|known| {
            known.digest != moment.newest.digest
                || is_santa && moment.standing.clean_all > last
                || is_santa && known.partial && moment.standing.filled
                || is_santa
                    && known.form != RuleForm::of(self.release)
                    && (known.altered || moment.altered)
        });
        let lacks_settings = self.state.settings != messages::settings_digest(&moment.settings)
            || is_santa && moment.standing.filled && !withdrawn.is_empty();
        self.status.withdrawn_settings = withdrawn;
        self.status.in_step = !lacks_rules && !lacks_settings;
        self.status.behind_since = match (self.status.in_step, self.status.behind_since) {
            (true, _) => None,
            (false, Some(since)) => Some(since),
            (false, None) => Some(now.wall),
        };
        Ok(!self.status.in_step)
    }
}

fn shown(acknowledged: &Acknowledgement) -> AcknowledgedStatus {
    let Acknowledgement { generation, at, drift, .. } = *acknowledged;
    AcknowledgedStatus { generation, at, drift }
}
