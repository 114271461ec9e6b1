//! The authorizer's syncs with us: which delivery a request belongs to, which
//! pages of it were served, and whether a postflight acknowledges it (RELAY-5,
//! RELAY-7). No I/O: time is an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::plan::{Content, Plan, Why};
use super::release::{Release, RuleForm};
use super::state::Acknowledgement;
use crate::model::{ClientMode, RuleCounts, SyncType, Timestamp};

/// How long a delivery can be fetched and acknowledged.
pub const SESSION_LIFE: Duration = Duration::from_mins(10);
/// The most deliveries kept. Each connection has at most one.
const MAX_SESSIONS: usize = 64;
/// How long uploads count as just made, before a clean sync that deletes events.
const FLUSH_LIFE: Duration = Duration::from_mins(1);

/// Where in a delivery a page begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Position {
    /// The removed rule of that number.
    Removed(u64),
    /// The changed rule of that number.
    Sent(u64),
    /// The rule after that place in the store.
    After(i64),
}

impl Position {
    /// The first page of such a delivery.
    #[must_use]
    pub const fn first(content: Content) -> Self {
        match content {
            Content::Nothing | Content::Changes { .. } | Content::WholeBesideOthers => {
                Self::Removed(0)
            }
            Content::Whole => Self::After(i64::MIN),
        }
    }

    /// The cursor that leads to it.
    #[must_use]
    pub fn cursor(self, token: u64) -> String {
        match self {
            Self::Removed(number) => format!("{token:016x}-r{number}"),
            Self::Sent(number) => format!("{token:016x}-s{number}"),
            Self::After(place) => format!("{token:016x}-a{place}"),
        }
    }

    /// Reads a cursor: the delivery's token and the position.
    fn parse(cursor: &str) -> Option<(u64, Self)> {
        let (token, position) = cursor.split_once('-')?;
        let token = u64::from_str_radix(token, 16).ok()?;
        let (kind, number) = position.split_at_checked(1)?;
        Some((
            token,
            match kind {
                "r" => Self::Removed(number.parse().ok()?),
                "s" => Self::Sent(number.parse().ok()?),
                "a" => Self::After(number.parse().ok()?),
                _ => return None,
            },
        ))
    }
}

/// The contents of a delivery, and the preflight that it responds to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a question of its own")]
pub struct Delivery {
    /// What is delivered.
    pub plan: Plan,
    /// The number of the generation.
    pub generation: i64,
    /// The generation's digest over all columns, in order.
    pub digest: String,
    /// The hash of these rules in the form in which they are sent, as the authorizer computes it.
    pub rules_hash: String,
    /// The counts of these rules in that form.
    pub counts: RuleCounts,
    /// The authorizer's release, which determines that form.
    pub release: Option<Release>,
    /// Whether that form alters rules or leaves rules out.
    pub altered: bool,
    /// Whether our store may lack rules of the server.
    pub partial: bool,
    /// The names of the settings in the response.
    pub settings: BTreeSet<String>,
    /// A digest of these settings.
    pub settings_digest: String,
    /// The hash in the preflight.
    pub hash_before: Option<String>,
    /// The mode in the preflight.
    pub mode: Option<ClientMode>,
    /// Whether the preflight asked for a clean sync.
    pub wants_clean: bool,
    /// Whether this sync clears state of version 2 of the protocol that it still
    /// runs with.
    pub clears_v2: bool,
}

#[derive(Debug)]
struct Session<T> {
    token: u64,
    /// The number of its connection; `None` once a later connection may have the same number.
    connection: Option<u64>,
    begun: Duration,
    delivery: Delivery,
    /// What the pages are read from.
    source: T,
    /// The rules of each page that was served, and where the next begins.
    pages: BTreeMap<Position, (u64, Option<Position>)>,
    /// Uploads that were not accepted since it began.
    refused_uploads: bool,
    /// Whether its first page was asked for on the connection of its preflight. If
    /// not, that connection may have broken before the answer was read.
    is_answer_read: bool,
}

/// What to answer to a request for a page.
#[derive(Debug, PartialEq, Eq)]
pub enum PageOf<'a, T> {
    /// The page of a delivery at a position.
    Page {
        /// Names the delivery.
        token: u64,
        /// Where it begins.
        position: Position,
        /// What is delivered.
        plan: Plan,
        /// What it is read from.
        source: &'a T,
    },
    /// A page without rules: there was no preflight.
    Empty,
    /// The delivery cannot be served any more.
    Gone,
}

/// What a postflight says.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Report {
    /// Rules received.
    pub rules_received: u64,
    /// Rules processed.
    pub rules_processed: u64,
    /// The type of the sync; `None` from releases before 2025.1.
    pub sync_type: Option<SyncType>,
    /// The hash afterwards; `None` from releases before 2025.7.
    pub rules_hash: Option<String>,
}

/// What follows from a postflight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There is no delivery it could be about.
    NoDelivery,
    /// A delivery without rules that acknowledges nothing.
    Nothing {
        /// Why there was nothing.
        why: Why,
        /// The settings that it took.
        settings: (BTreeSet<String>, String),
    },
    /// The delivery was not taken completely.
    NotTaken {
        /// Why.
        reason: String,
        /// The settings, which the authorizer took anyway.
        settings: (BTreeSet<String>, String),
    },
    /// The delivery was taken.
    Acknowledged {
        /// What to keep.
        acknowledgement: Box<Acknowledgement>,
        /// The settings that it took.
        settings: (BTreeSet<String>, String),
        /// Whether the sync was a clean one.
        clean: bool,
        /// Whether a clean sync of the authorizer's release clears earlier settings.
        clears_settings: bool,
    },
}

/// All deliveries that can still be fetched, oldest first. `T` is what their
/// pages are read from.
#[derive(Debug)]
pub struct Sessions<T> {
    kept: Vec<Session<T>>,
    /// When a sync ended in which the authorizer could upload all its events.
    flushed: Option<Duration>,
    /// How much longer than [`FLUSH_LIFE`] its next sync may be away.
    interval: Duration,
}

impl<T> Sessions<T> {
    /// Without deliveries. `interval` is how long the authorizer waits between
    /// syncs if nothing nudges it.
    #[must_use]
    pub const fn new(interval: Duration) -> Self {
        Self { kept: Vec::new(), flushed: None, interval }
    }

    /// Whether the authorizer has just uploaded all its queued events.
    #[must_use]
    pub fn is_flushed(&self, now: Duration) -> bool {
        self.flushed.is_some_and(|at| now.saturating_sub(at) < FLUSH_LIFE + self.interval)
    }

    /// Forgets deliveries that are too old.
    pub fn expire(&mut self, now: Duration) {
        self.kept.retain(|session| now.saturating_sub(session.begun) < SESSION_LIFE);
    }

    /// When the oldest delivery expires.
    #[must_use]
    pub fn expires(&self) -> Option<Duration> {
        self.kept.iter().map(|session| session.begun + SESSION_LIFE).min()
    }

    /// Begins a delivery, in the place of the one that this connection had.
    /// `token` must be one that nobody can guess.
    pub fn begin(
        &mut self,
        connection: u64,
        token: u64,
        delivery: Delivery,
        source: T,
        now: Duration,
    ) {
        self.expire(now);
        self.kept.retain(|session| session.connection != Some(connection));
        if self.kept.len() >= MAX_SESSIONS {
            self.kept.remove(0);
        }
        self.kept.push(Session {
            token,
            connection: Some(connection),
            begun: now,
            delivery,
            source,
            pages: BTreeMap::new(),
            refused_uploads: false,
            is_answer_read: false,
        });
    }

    /// Notes that all connections have ended: later ones are numbered from 1 again.
    pub fn connections_ended(&mut self) {
        for session in &mut self.kept {
            session.connection = None;
        }
    }

    /// The delivery that a request on this connection is about: its own, else
    /// the last one.
    fn of(&self, connection: u64) -> Option<usize> {
        let own = self.kept.iter().position(|session| session.connection == Some(connection));
        own.or_else(|| self.kept.len().checked_sub(1))
    }

    /// What to answer to a request for a page.
    pub fn page(&mut self, connection: u64, cursor: &str, now: Duration) -> PageOf<'_, T> {
        self.expire(now);
        let found = if cursor.is_empty() {
            self.of(connection).map(|at| {
                let session = &mut self.kept[at];
                session.is_answer_read |= session.connection == Some(connection);
                (&*session, Position::first(session.delivery.plan.content))
            })
        } else {
            let Some((token, position)) = Position::parse(cursor) else { return PageOf::Gone };
            let session = self.kept.iter().find(|session| session.token == token);
            let was_given = |session: &&Session<T>| {
                session.pages.values().any(|(_, next)| *next == Some(position))
            };
            let Some(session) = session.filter(was_given) else { return PageOf::Gone };
            Some((session, position))
        };
        match found {
            None => PageOf::Empty,
            Some((session, position)) => PageOf::Page {
                token: session.token,
                position,
                plan: session.delivery.plan,
                source: &session.source,
            },
        }
    }

    /// A page of so many rules is about to be sent. Returns the delivery if it is the last page
    /// of one that has rules.
    pub fn served(
        &mut self,
        token: u64,
        position: Position,
        rules: u64,
        next: Option<Position>,
    ) -> Option<&Delivery> {
        let session = self.kept.iter_mut().find(|session| session.token == token)?;
        session.pages.insert(position, (rules, next));
        let is_whole = next.is_none() && session.delivery.plan.content != Content::Nothing;
        is_whole.then_some(&session.delivery)
    }

    /// Events were not accepted.
    pub fn upload_refused(&mut self) {
        self.flushed = None;
        for session in &mut self.kept {
            session.refused_uploads = true;
        }
    }

    /// A postflight has come. It ends the delivery.
    pub fn postflight(
        &mut self,
        connection: u64,
        report: &Report,
        now: Duration,
        wall: Timestamp,
    ) -> Outcome {
        self.expire(now);
        let Some(at) = self.of(connection) else { return Outcome::NoDelivery };
        let session = self.kept.remove(at);
        let Delivery { plan, .. } = session.delivery;
        let settings =
            (session.delivery.settings.clone(), session.delivery.settings_digest.clone());
        self.flushed = (!session.refused_uploads).then_some(now);
        match plan.why {
            Why::EventsFirst | Why::Guarded => return Outcome::Nothing { why: plan.why, settings },
            Why::InStep
            | Why::Changed
            | Why::CleanAll
            | Why::Asked
            | Why::NoBase
            | Why::OtherForm
            | Why::ChangesNotKept
            | Why::ServerReplaced
            | Why::FilledSince
            | Why::SettingWithdrawn
            | Why::LeftOfV2
            | Why::NotFilled
            | Why::WholeSets => {}
        }
        match session.verdict(report) {
            Ok(sent) => Outcome::Acknowledged {
                clears_settings: Release::clears_settings(session.delivery.release),
                acknowledgement: Box::new(session.acknowledgement(report, sent, wall)),
                settings,
                clean: plan.sync_type.is_clean(),
            },
            Err(reason) => Outcome::NotTaken { reason, settings },
        }
    }
}

impl<T> Session<T> {
    /// The rules of all pages; `None` if the last one was not fetched.
    fn sent(&self) -> Option<u64> {
        let mut position = Position::first(self.delivery.plan.content);
        let mut sent = 0;
        // A page leads forwards only.
        for _ in 0..=self.pages.len() {
            let (rules, next) = self.pages.get(&position)?;
            sent += rules;
            match next {
                Some(next) => position = *next,
                None => return Some(sent),
            }
        }
        None
    }

    /// Whether the delivery was taken as it was sent: how many rules it had.
    fn verdict(&self, report: &Report) -> Result<u64, String> {
        if self.delivery.clears_v2 {
            // It has stored CEL rules as those of version 2.
            return Err("it has cleared its state of version 2 of the protocol".to_owned());
        }
        let Delivery { plan, wants_clean, .. } = &self.delivery;
        if report.sync_type.is_none() && plan.sync_type.is_clean() && !self.is_answer_read {
            return Err("it may not have read that the sync is to be clean".to_owned());
        }
        let Some(sent) = self.sent() else {
            return Err("it did not fetch all pages".to_owned());
        };
        // The client raises a CLEAN to what it asked for itself.
        let raised = *wants_clean && plan.sync_type == SyncType::Clean;
        if let Some(done) = report.sync_type
            && done != plan.sync_type
            && !(raised && done == SyncType::CleanAll)
            && plan.why != Why::WholeSets
        {
            let (done, sent) = (done.name(), plan.sync_type.name());
            return Err(format!("it made a {done} sync instead of a {sent} one"));
        }
        if report.rules_received != sent && plan.why != Why::WholeSets {
            let received = report.rules_received;
            return Err(format!("it received {received} of {sent} rules"));
        }
        Ok(sent)
    }

    fn acknowledgement(self, report: &Report, sent: u64, at: Timestamp) -> Acknowledgement {
        let delivery = self.delivery;
        // A sync without rules changes none: if the hash differs all the same,
        // somebody else has changed them, and the next preflight is to show it.
        let untouched = sent == 0 && delivery.mode != Some(ClientMode::Standalone);
        let before = delivery.hash_before.filter(|_| untouched);
        let rules_hash = before.or_else(|| report.rules_hash.clone());
        Acknowledgement {
            generation: delivery.generation,
            digest: delivery.digest,
            counts: delivery.counts,
            form: RuleForm::of(delivery.release),
            altered: delivery.altered,
            surplus: None,
            shortfall: None,
            drift: rules_hash.as_ref().is_some_and(|hash| *hash != delivery.rules_hash),
            rules_hash,
            rules_received: report.rules_received,
            rules_processed: report.rules_processed,
            sync_type: delivery.plan.sync_type,
            partial: delivery.partial,
            at,
        }
    }
}

#[cfg(test)]
mod tests;
