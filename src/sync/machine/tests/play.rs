//! Plays the driver for the machine's tests.

use std::collections::VecDeque;

use crate::model::{
    ClientMode, Cursor, HostFacts, Identifier, MachineId, Policy, RejectedRule, Rule, RuleCounts,
    RuleType, Timestamp, Trigger, UploadMemory,
};
use crate::protocol::preflight::PreflightFacts;
use crate::sync::machine::*;

/// Plays the driver: a script of what comes of each attempt, and a list of the
/// effects in words.
pub(super) struct Play {
    machine: Machine,
    now: Duration,
    /// What comes of the attempts, in order; afterwards everything is answered
    /// with an empty 200.
    attempts: VecDeque<AttemptResult>,
    batches: VecDeque<EventBatch>,
    /// The store effect that fails, in words.
    broken: &'static str,
    /// How many times the disk has no room for settings.
    full: u32,
    /// What comes of the waits, in order; afterwards each is sat through.
    waits: VecDeque<AttemptResult>,
    pub(super) token: bool,
    /// Whether a refused event is set aside.
    pub(super) set_aside: bool,
    effects: Vec<String>,
}

pub(super) fn inputs() -> Inputs {
    Inputs {
        clean_request: None,
        rules_url: "https://sync.example.com/ruledownload/host".to_owned(),
        machine_id: MachineId::new("id").expect("an id"),
        facts: PreflightFacts {
            host: HostFacts::default(),
            client_mode: ClientMode::Monitor,
            rule_counts: RuleCounts::default(),
            rules_hash: "before".into(),
        },
        requested: SyncType::Normal,
        hold_back_events_in_clean: false,
        events_pending: 1,
        upload_memory: UploadMemory::default(),
        rules_complete: true,
        former_settings: false,
        events_only: None,
        dry_run: false,
        trigger: Trigger::Manual,
        jitter: 0.0,
        deadline: Duration::from_hours(1),
        warnings: Vec::new(),
    }
}

pub(super) fn play(attempts: impl IntoIterator<Item = AttemptResult>) -> Play {
    Play {
        machine: Machine::new(inputs()),
        now: Duration::from_secs(1000),
        attempts: attempts.into_iter().collect(),
        batches: VecDeque::from([batch(&[7])]),
        broken: "",
        full: 0,
        waits: VecDeque::new(),
        token: true,
        set_aside: false,
        effects: Vec::new(),
    }
}

impl Play {
    pub(super) fn with(mut self, change: impl FnOnce(&mut Inputs)) -> Self {
        let mut inputs = inputs();
        change(&mut inputs);
        self.machine = Machine::new(inputs);
        self
    }

    pub(super) fn batches(mut self, batches: impl IntoIterator<Item = EventBatch>) -> Self {
        self.batches = batches.into_iter().collect();
        self
    }

    pub(super) fn breaking(mut self, effect: &'static str) -> Self {
        self.broken = effect;
        self
    }

    pub(super) fn full(mut self, times: u32) -> Self {
        self.full = times;
        self
    }

    /// What comes of the waits and then of the attempt after them: the last
    /// exchange comes of the wait itself if there are no others.
    pub(super) fn then(mut self, waits: Vec<AttemptResult>, last: AttemptResult) -> Self {
        if waits.is_empty() {
            self.waits.push_back(last);
        } else {
            self.waits.extend(waits);
            self.attempts.push_back(last);
        }
        self
    }

    pub(super) fn run(mut self) -> (Vec<String>, SyncOutcome) {
        let mut event = SyncEvent::Started;
        for _ in 0..100_000 {
            let now = Now { wall: Timestamp::default(), elapsed: self.now };
            let effect = self.machine.handle(event, now);
            let words = words(&effect);
            self.effects.push(words.clone());
            if let Effect::Finish(outcome) = effect {
                return (self.effects, *outcome);
            }
            event = if self.full > 0 && words == "stage settings" {
                self.full -= 1;
                SyncEvent::StoreFailed(Failure::new(FailureKind::DiskFull, "no room left".into()))
            } else if !self.broken.is_empty() && words.starts_with(self.broken) {
                SyncEvent::StoreFailed(Failure::new(FailureKind::Store, "disk full".into()))
            } else {
                self.act(effect)
            };
        }
        panic!("the machine does not come to an end: {:?}", &self.effects[..20]);
    }

    fn act(&mut self, effect: Effect) -> SyncEvent {
        self.now += Duration::from_millis(10);
        match effect {
            Effect::Send { request, .. } => SyncEvent::Attempt(
                self.attempts.pop_front().unwrap_or_else(|| answered(empty_answer(&request))),
            ),
            Effect::FetchToken { .. } => {
                SyncEvent::Attempt(AttemptResult::TokenFetched(self.token))
            }
            Effect::Wait { duration, .. } => {
                self.now += duration;
                SyncEvent::Attempt(self.waits.pop_front().unwrap_or(AttemptResult::Waited))
            }
            Effect::Store(StoreEffect::StageSettings { .. }) => SyncEvent::SettingsStaged,
            Effect::Store(StoreEffect::ReadEvents { .. }) => {
                SyncEvent::EventsRead(Box::new(self.batches.pop_front().unwrap_or_default()))
            }
            Effect::Store(StoreEffect::SettleEvents(_)) => SyncEvent::EventsSettled,
            Effect::Store(StoreEffect::NoteRefusal { at_once, .. }) => {
                SyncEvent::RefusalNoted { set_aside: at_once || self.set_aside }
            }
            Effect::Store(StoreEffect::NoteUploads(_)) => SyncEvent::UploadsNoted,
            Effect::Store(StoreEffect::CommitRules { rules, .. }) => {
                SyncEvent::RulesCommitted(Committed {
                    processed: rules.len() as u64,
                    rules_hash: "after".into(),
                    ..Committed::default()
                })
            }
            Effect::Store(StoreEffect::ApplySettings { .. }) => {
                SyncEvent::SettingsApplied(vec![change()])
            }
            Effect::Store(StoreEffect::DropStaged) => SyncEvent::StagedDropped(vec![change()]),
            Effect::Finish(_) => unreachable!("handled by run"),
        }
    }
}

pub(super) fn change() -> SettingChange {
    SettingChange { setting: "client_mode".into(), before: None, after: Some("LOCKDOWN".into()) }
}

pub(super) fn words(effect: &Effect) -> String {
    match effect {
        Effect::Send { request, attempt } => match &**request {
            StageRequest::RuleDownload { message, page } => {
                format!("send rule_download page {page} {:?} #{attempt}", message.cursor)
            }
            StageRequest::Preflight(_)
            | StageRequest::EventUpload(_)
            | StageRequest::Postflight(_) => {
                format!("send {} #{attempt}", request.stage())
            }
        },
        Effect::FetchToken { stage } => format!("fetch token for {stage}"),
        Effect::Wait { duration, .. } => format!("wait {}", duration.as_secs()),
        Effect::Store(StoreEffect::StageSettings { .. }) => "stage settings".into(),
        Effect::Store(StoreEffect::ReadEvents { limit }) => format!("read {limit} events"),
        Effect::Store(StoreEffect::SettleEvents(s)) => {
            format!("settle {:?} {} {}", s.delivered, s.dropped.len(), s.rejected.len())
        }
        Effect::Store(StoreEffect::NoteRefusal { ids, .. }) => format!("note refusal of {ids:?}"),
        Effect::Store(StoreEffect::NoteUploads(memory)) => {
            format!("note ceiling {:?} refused {}", memory.ceiling, memory.refused_syncs)
        }
        Effect::Store(StoreEffect::CommitRules { rules, sync_type }) => {
            format!("commit {} rules {}", rules.len(), sync_type.name())
        }
        Effect::Store(StoreEffect::ApplySettings { clear, succeeded }) => {
            format!("apply settings clear={clear} succeeded={}", succeeded.is_some())
        }
        Effect::Store(StoreEffect::DropStaged) => "drop staged".into(),
        Effect::Finish(outcome) => format!("finish {}", outcome.result.name()),
    }
}

pub(super) fn batch(ids: &[i64]) -> EventBatch {
    EventBatch { ids: ids.to_vec(), ..EventBatch::default() }
}

pub(super) fn traffic() -> Traffic {
    Traffic { http_status: Some(200), bytes_sent: 10, bytes_received: 20, ..Traffic::default() }
}

pub(super) fn answered(answer: StageResponse) -> AttemptResult {
    AttemptResult::Answered(answer, traffic())
}

pub(super) fn empty_answer(request: &StageRequest) -> StageResponse {
    match request.stage() {
        Stage::Preflight => StageResponse::Preflight(Box::default()),
        Stage::EventUpload => StageResponse::EventUpload(wire::EventUploadResponse::default()),
        Stage::RuleDownload => StageResponse::RuleDownload(Page::default()),
        Stage::Postflight => StageResponse::Postflight,
    }
}

pub(super) fn preflight_ok(response: wire::PreflightResponse) -> AttemptResult {
    answered(StageResponse::Preflight(Box::new(response)))
}

pub(super) fn preflight_of(sync_type: wire::SyncType) -> AttemptResult {
    preflight_ok(wire::PreflightResponse {
        sync_type: Some(sync_type.into()),
        ..Default::default()
    })
}

pub(super) fn upload_ok() -> AttemptResult {
    answered(StageResponse::EventUpload(wire::EventUploadResponse::default()))
}

pub(super) fn page_of(teams: &[&str], cursor: &str) -> AttemptResult {
    let rules = teams
        .iter()
        .map(|team| Rule {
            identifier: Identifier::parse(RuleType::TeamId, team).expect("a team"),
            policy: Policy::Allowlist,
            details: None,
        })
        .collect();
    let cursor = Cursor::new(cursor.to_owned());
    answered(StageResponse::RuleDownload(Page { rules, cursor, ..Page::default() }))
}

/// The last page, of rules that were all rejected.
pub(super) fn page_of_rejected(count: usize) -> AttemptResult {
    let rejected = (0..count).map(|index| RejectedRule {
        page: 1,
        index: u32::try_from(index).expect("few"),
        identifier: format!("rule {index}\u{202e}"),
        reason: "the policy is missing or unknown".to_owned(),
    });
    answered(StageResponse::RuleDownload(Page { rejected: rejected.collect(), ..Page::default() }))
}

pub(super) fn status(status: u16) -> AttemptResult {
    status_saying(status, &format!("status {status}"))
}

pub(super) fn status_saying(status: u16, words: &str) -> AttemptResult {
    let failure = Failure {
        http_status: Some(status),
        ..Failure::new(FailureKind::of_status(status), words.to_owned())
    };
    AttemptResult::Failed(failure, Traffic { http_status: Some(status), ..Traffic::default() })
}

pub(super) fn times(n: usize, exchange: &AttemptResult) -> Vec<AttemptResult> {
    vec![exchange.clone(); n]
}

/// What leads up to each stage, all of it going well.
pub(super) fn before(stage: Stage) -> Vec<AttemptResult> {
    let preflight = preflight_of(wire::SyncType::Normal);
    match stage {
        Stage::Preflight => vec![],
        Stage::EventUpload => vec![preflight],
        Stage::RuleDownload => vec![preflight, upload_ok()],
        Stage::Postflight => vec![preflight, upload_ok(), page_of(&["AAAAAAAAAA"], "")],
    }
}
