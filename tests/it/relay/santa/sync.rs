//! A sync of Santa's, and the attempts of its requests.

use std::collections::BTreeMap;

use santa_sync::model::{ContentEncoding, Stage, SyncType};
use santa_sync::protocol::wire;

use super::rules::row;
use super::settings::Given;
use super::upload::Uploaded;
use super::{Row, Santa};
use crate::relay::link::{Link, Loss, Post, pause};
use crate::relay::messages;

/// A point of a sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// An attempt is about to be made; both numbers count from 1.
    Attempt { stage: Stage, request: u32, attempt: u32 },
    /// The response has been read, and nothing done with it.
    Answered { stage: Stage, request: u32 },
    /// Events have been deleted.
    Deleted,
    /// The rules have been committed.
    Committed,
    /// The settings have been applied.
    Applied,
}

/// What the test does at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Go,
    /// The sync service dies.
    Kill,
    /// The attempt goes wrong.
    Lose(Loss),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Success,
    PreflightFailed,
    RuleDownloadFailed,
    Killed,
}

/// What a sync did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Synced {
    pub(crate) status: Status,
    /// The type done.
    pub(crate) sync_type: SyncType,
    /// Rules on the pages, and those it took to its daemon.
    pub(crate) received: u32,
    pub(crate) processed: u32,
    pub(crate) pages: u32,
    /// Events that got a 200, and events deleted without having been sent.
    pub(crate) uploaded: u32,
    pub(crate) deleted_unsent: u32,
    pub(crate) connections: u32,
    /// The status of the last response, if there was one.
    pub(crate) http_status: Option<u16>,
    /// Whether preflight brought push tokens, which could turn Santa to sync v2.
    pub(crate) push_tokens: bool,
}

/// Why a request has no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Killed,
    Failed,
}

/// Attempts of a request, and the waits before all but the first.
const ATTEMPTS: u32 = 5;
const WAITS: [u32; 4] = [4, 8, 16, 32];
/// Events of a request while no preflight has said otherwise.
pub(super) const DEFAULT_BATCH: u32 = 50;

/// A session: one sync, or one upload outside a sync.
pub(super) struct Session<'a> {
    santa: &'a Santa,
    link: Link,
    act: &'a mut dyn FnMut(Step) -> Act,
    /// The token of the xsrf stage and the header it goes in.
    token: Option<(String, String)>,
    requests: BTreeMap<&'static str, u32>,
    pub(super) last_status: Option<u16>,
    is_v2: bool,
}

impl Santa {
    /// Makes a sync without trouble.
    pub(crate) fn sync(&self) -> Synced {
        self.sync_with(&mut |_| Act::Go)
    }

    /// Makes a sync; `act` is asked at every point.
    pub(crate) fn sync_with(&self, act: &mut dyn FnMut(Step) -> Act) -> Synced {
        let mut done = Synced {
            status: Status::Success,
            sync_type: SyncType::Normal,
            received: 0,
            processed: 0,
            pages: 0,
            uploaded: 0,
            deleted_unsent: 0,
            connections: 0,
            http_status: None,
            push_tokens: false,
        };
        let mut session = Session::new(self, act);
        let ended = session.run(&mut done);
        if ended == Err(Ended::Killed) {
            self.kill_service();
            done.status = Status::Killed;
        }
        done.connections = session.link.connections;
        done.http_status = session.last_status;
        done
    }
}

impl<'a> Session<'a> {
    pub(super) fn new(santa: &'a Santa, act: &'a mut dyn FnMut(Step) -> Act) -> Self {
        Self {
            santa,
            link: Link::new(&santa.profile.base_url, santa.profile.tls.clone())
                .directly(santa.profile.direct.clone()),
            act,
            token: None,
            requests: BTreeMap::new(),
            last_status: None,
            is_v2: santa.speaks_v2(),
        }
    }

    fn run(&mut self, done: &mut Synced) -> Result<(), Ended> {
        let Some(given) = self.preflight(done)? else {
            done.status = Status::PreflightFailed;
            return Ok(());
        };
        // This stage always reports success.
        self.event_stage(done)?;
        if !self.rule_download(done)? {
            done.status = Status::RuleDownloadFailed;
            return Ok(());
        }
        self.postflight(done, &given)
    }

    fn preflight(&mut self, done: &mut Synced) -> Result<Option<Given>, Ended> {
        let santa = self.santa;
        let required = santa.required();
        let request = santa.preflight();
        // The hashes of what only sync v2 has; empty sets have this one. How they
        // are numbered in protobuf is not known here: JSON alone has them.
        let nothing = "99aa06d3014798d86001c324468d497f";
        let of_v2 = [("fileAccessRulesHash", nothing), ("network_flow_rules_hash", nothing)];
        let more: &[_] = if self.is_v2 { &of_v2 } else { &[] };
        let answer = self.message::<_, wire::PreflightResponse>(
            Stage::Preflight,
            ("PreflightRequest", "PreflightResponse"),
            &request,
            more,
        )?;
        let Some(response) = answer else { return Ok(None) };
        done.sync_type = negotiated(&response, required);
        done.push_tokens =
            !response.push_token.is_empty() || !response.push_issuer_token.is_empty();
        let batch = if response.batch_size == 0 { DEFAULT_BATCH } else { response.batch_size };
        santa.service.lock().expect("unpoisoned").batch_size = Some(batch);
        Ok(Some(Given::read(&response, santa.profile.age)))
    }

    fn event_stage(&mut self, done: &mut Synced) -> Result<(), Ended> {
        let santa = self.santa;
        let pending = santa.disk().events.pending();
        if done.sync_type != SyncType::Normal && !santa.profile.clean_sync_event_upload {
            if !pending.is_empty() {
                let keys: Vec<_> = pending.iter().map(|(key, _)| *key).collect();
                santa.disk().events.delete(&keys);
                done.deleted_unsent += u32::try_from(keys.len()).expect("few");
                self.at(Step::Deleted)?;
            }
            return Ok(());
        }
        let mut uploaded = Uploaded::default();
        let ended = self.upload(&pending, &mut uploaded);
        done.uploaded += uploaded.sent;
        if ended == Err(Ended::Killed) { ended } else { Ok(()) }
    }

    /// Whether it succeeded.
    fn rule_download(&mut self, done: &mut Synced) -> Result<bool, Ended> {
        let santa = self.santa;
        let mut rules: Vec<Row> = Vec::new();
        let mut cursor = String::new();
        loop {
            let request =
                wire::RuleDownloadRequest { cursor, machine_id: santa.profile.machine_id.clone() };
            let page = self.message::<_, wire::RuleDownloadResponse>(
                Stage::RuleDownload,
                ("RuleDownloadRequest", "RuleDownloadResponse"),
                &request,
                &[],
            )?;
            let Some(page) = page else { return Ok(false) };
            done.pages += 1;
            // Assumed: a rule that is dropped counts as received, not as processed.
            done.received += u32::try_from(page.rules.len()).expect("few");
            let (age, is_v2) = (santa.profile.age, self.is_v2);
            rules.extend(page.rules.iter().filter_map(|rule| row(rule, age, is_v2)));
            cursor = page.cursor;
            if cursor.is_empty() {
                break;
            }
        }
        done.processed = u32::try_from(rules.len()).expect("few");
        // Nothing is deleted for the sake of an empty set.
        if !rules.is_empty() {
            santa.disk().rules.apply(rules, done.sync_type);
            self.at(Step::Committed)?;
        }
        Ok(true)
    }

    /// The response is not looked at: what preflight gave applies whatever it is.
    fn postflight(&mut self, done: &Synced, given: &Given) -> Result<(), Ended> {
        let santa = self.santa;
        let age = santa.profile.age;
        let sync_type = match done.sync_type {
            _ if !age.reports_type() => wire::SyncType::Unspecified,
            SyncType::Clean => wire::SyncType::Clean,
            SyncType::CleanAll => wire::SyncType::CleanAll,
            SyncType::Normal
            | SyncType::CleanStandalone
            | SyncType::CleanRules
            | SyncType::CleanFileAccessRules => wire::SyncType::Normal,
        };
        let request = wire::PostflightRequest {
            rules_received: done.received,
            rules_processed: done.processed,
            machine_id: santa.profile.machine_id.clone(),
            sync_type: sync_type.into(),
            rules_hash: if age.reports_hash() { santa.rules_hash() } else { String::new() },
        };
        let body = messages::write(santa.profile.transfer, "PostflightRequest", &request, &[]);
        match self.request(Stage::Postflight, &body) {
            Ok(_) | Err(Ended::Failed) => {}
            Err(Ended::Killed) => return Err(Ended::Killed),
        }
        santa.disk().state.finish(given, done.sync_type, age);
        self.at(Step::Applied)
    }

    fn at(&mut self, step: Step) -> Result<(), Ended> {
        if (self.act)(step) == Act::Kill { Err(Ended::Killed) } else { Ok(()) }
    }

    /// A request and its response as messages; `None` if it failed or could not be
    /// read.
    pub(super) fn message<Q, A>(
        &mut self,
        stage: Stage,
        (asked, answered): (&str, &str),
        request: &Q,
        more: &[(&str, &str)],
    ) -> Result<Option<A>, Ended>
    where
        Q: prost::Message,
        A: prost::Message + Default,
    {
        let transfer = self.santa.profile.transfer;
        let body = messages::write(transfer, asked, request, more);
        match self.request(stage, &body) {
            Ok(body) => Ok(messages::read(transfer, answered, &body)),
            Err(Ended::Failed) => Ok(None),
            Err(Ended::Killed) => Err(Ended::Killed),
        }
    }

    /// A request with its repetitions; returns the body of its 200.
    fn request(&mut self, stage: Stage, body: &[u8]) -> Result<Vec<u8>, Ended> {
        let profile = &self.santa.profile;
        let number = self.requests.entry(stage.segment()).or_default();
        *number += 1;
        let request = *number;
        let path = format!("{}/{}", stage.segment(), segment(&profile.machine_id));
        for attempt in 1..=ATTEMPTS {
            if attempt > 1 {
                pause(profile.pace.second * WAITS[attempt as usize - 2]);
            }
            let loss = match (self.act)(Step::Attempt { stage, request, attempt }) {
                Act::Kill => return Err(Ended::Killed),
                Act::Lose(loss) => loss,
                Act::Go => Loss::Nothing,
            };
            let mut headers = profile.headers.clone();
            headers.extend(self.token.clone());
            let post = Post {
                path: &path,
                headers: &headers,
                content_type: profile.transfer.content_type(),
                encoding: profile.encoding,
                body,
            };
            let Ok(answer) = self.link.post(&post, profile.pace.attempt, loss) else { continue };
            self.last_status = Some(answer.status);
            match answer.status {
                // A body that broke off counts as an empty one, in every release up to
                // 2026.7.
                200 => {
                    self.at(Step::Answered { stage, request })?;
                    return Ok(answer.body);
                }
                // Assumed: the repetition with the token is one of the five attempts.
                403 if self.fetch_token() => {}
                408 | 429 | 300..400 | 500.. => {}
                _ if profile.age.repeats_4xx() => {}
                _ => return Err(Ended::Failed),
            }
        }
        Err(Ended::Failed)
    }

    /// Whether the xsrf stage returned 200.
    fn fetch_token(&mut self) -> bool {
        let profile = &self.santa.profile;
        let path = format!("xsrf/{}", segment(&profile.machine_id));
        let post = Post {
            path: &path,
            headers: &profile.headers,
            content_type: "",
            encoding: ContentEncoding::None,
            body: &[],
        };
        let Ok(answer) = self.link.post(&post, profile.pace.attempt, Loss::Nothing) else {
            return false;
        };
        if let Some(token) = answer.headers.get("x-xsrf-token") {
            let header = answer.headers.get("x-xsrf-token-header");
            let header = header.map_or("X-XSRF-TOKEN", String::as_str);
            self.token = Some((header.to_owned(), token.clone()));
        }
        answer.status == 200
    }

    pub(super) fn deleted(&mut self, keys: &[u32]) -> Result<(), Ended> {
        self.santa.disk().events.delete(keys);
        self.at(Step::Deleted)
    }

    pub(super) const fn santa(&self) -> &'a Santa {
        self.santa
    }
}

/// The type a sync is of, by the answer and by what was asked for.
fn negotiated(response: &wire::PreflightResponse, required: SyncType) -> SyncType {
    let raised = if required == SyncType::CleanAll { SyncType::CleanAll } else { SyncType::Clean };
    match response.sync_type() {
        wire::SyncType::Clean => raised,
        wire::SyncType::CleanAll => SyncType::CleanAll,
        wire::SyncType::Unspecified if response.deprecated_clean_sync() => raised,
        wire::SyncType::Unspecified
        | wire::SyncType::Normal
        | wire::SyncType::CleanStandalone
        | wire::SyncType::CleanRules
        | wire::SyncType::CleanFileAccessRules => SyncType::Normal,
    }
}

/// A segment of a path.
fn segment(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC)
        .to_string()
        .replace("%2D", "-")
}
