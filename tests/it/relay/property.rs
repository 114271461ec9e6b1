//! Whatever happens, and in whatever order: once it is quiet, two syncs each leave
//! Santa in step with the agent.

use std::time::Duration;

use proptest::prelude::*;
use santa_sync::harness::fixtures::{self, AnyEvent};
use santa_sync::model::{Stage, SyncType};
use santa_sync::protocol::wire::{self, removable_media_policy::Action};

use super::link::Loss;
use super::santa::{Act, Age, Row, Status, Step};
use super::world::World;

/// Something that happens.
#[derive(Clone, Debug)]
enum Op {
    /// The server's rules change.
    Change(Vec<Change>),
    /// The server has other rules altogether, none if empty.
    Replace(Vec<Change>),
    /// The server's settings change.
    Set(Setting),
    /// The agent syncs with the server.
    Pull,
    /// The server has it do a clean sync of that kind.
    PullAs(wire::SyncType),
    /// The agent syncs, and a stage fails for good. If a type is given, the server has it do a
    /// clean sync of that kind.
    PullFails(Stage, Option<wire::SyncType>),
    /// The agent is configured for another server, which has these rules.
    Move(Vec<Change>),
    /// The agent's sync with the server is killed there.
    PullKilled(&'static str),
    /// Santa syncs with the relay, with that trouble.
    Push(Trouble),
    /// Santa stores an event: blocked, or allowed.
    Event(u8, bool),
    /// A compiler of the host writes a file.
    Transitive(u8),
    /// Santa's rules change behind every server's back.
    Drift(Drift),
    /// Somebody runs `santactl sync --clean` or `--clean-all` later.
    Require(SyncType),
    /// Santa's machine starts anew.
    Restart,
    /// Santa is upgraded or downgraded.
    Release(Age),
    /// Santa loses its sync state, or its rules.
    Lose(Lost),
    /// The agent is killed and comes back.
    KillAgent,
    /// The agent loses its rules; the flag says whether the relay runs meanwhile.
    Rebuild(bool),
    /// Somebody copies the agent's rules.
    Copy,
    /// The copy replaces the agent's rules.
    Restore,
    /// This many minutes pass.
    Pass(u8),
}

#[derive(Clone, Debug)]
enum Change {
    /// A rule is added or replaced: identifier, policy, text.
    Put(u8, wire::Policy, u8),
    /// It is sent again as it is, if there is one.
    Again(u8),
    /// It is removed, if there is one or not.
    Remove(u8),
}

#[derive(Clone, Debug)]
enum Setting {
    Mode(wire::ClientMode),
    Bundles(Option<bool>),
    Unknown(Option<bool>),
    Transitive(Option<bool>),
    Regex(Option<&'static str>),
    Text(Option<&'static str>),
    Media(Option<Action>),
    Encrypted(Option<Action>),
    Override(Option<wire::FileAccessAction>),
    /// Whatever was set is no longer given.
    Nothing,
}

#[derive(Clone, Copy, Debug)]
enum Trouble {
    None,
    /// The first attempts of a stage are lost.
    Lose(Stage, Loss, u32),
    /// Every attempt is.
    LoseAll(Stage, Loss),
    /// The sync service dies at its n-th point.
    Killed(u8),
    /// The agent dies at the n-th effect of the relay, and is not back before the
    /// sync has ended.
    AgentDies(u8),
    /// The server's change is pulled while Santa is at its n-th point.
    PulledAt(u8),
}

#[derive(Clone, Copy, Debug)]
enum Drift {
    Remove(u8),
    Reorder(u8),
    Alter(u8),
    Add,
}

#[derive(Clone, Copy, Debug)]
enum Lost {
    State,
    Rules,
}

fn policies() -> impl Strategy<Value = wire::Policy> {
    prop::sample::select(vec![
        wire::Policy::Allowlist,
        wire::Policy::Allowlist,
        wire::Policy::Blocklist,
        wire::Policy::AllowlistCompiler,
        wire::Policy::SilentBlocklist,
        wire::Policy::SilentGuiBlocklist,
        wire::Policy::SilentTtyBlocklist,
        wire::Policy::Cel,
    ])
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = prop_oneof![
        4 => (0..12_u8, policies(), 0..3_u8).prop_map(|(n, policy, text)| Change::Put(n, policy, text)),
        3 => (0..12_u8).prop_map(Change::Again),
        2 => (0..14_u8).prop_map(Change::Remove),
    ];
    prop::collection::vec(change, 0..5)
}

fn settings() -> impl Strategy<Value = Setting> {
    let flag = || prop::sample::select(vec![None, Some(true), Some(false)]);
    let text = || prop::sample::select(vec![None, Some(""), Some("one"), Some("two")]);
    let action = || {
        let remount = |flags: &[&str]| {
            let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
            Some(Action::Remount(wire::RemountPolicy { flags }))
        };
        prop::sample::select(vec![
            None,
            Some(Action::Allow(true)),
            Some(Action::Block(true)),
            remount(&["rdonly"]),
            remount(&["rdonly", "noexec"]),
        ])
    };
    let modes = vec![
        wire::ClientMode::UnknownClientMode,
        wire::ClientMode::Monitor,
        wire::ClientMode::Lockdown,
    ];
    let overrides = vec![
        None,
        Some(wire::FileAccessAction::None),
        Some(wire::FileAccessAction::AuditOnly),
        Some(wire::FileAccessAction::Disable),
    ];
    prop_oneof![
        prop::sample::select(modes).prop_map(Setting::Mode),
        flag().prop_map(Setting::Bundles),
        flag().prop_map(Setting::Unknown),
        flag().prop_map(Setting::Transitive),
        text().prop_map(Setting::Regex),
        text().prop_map(Setting::Text),
        action().prop_map(Setting::Media),
        action().prop_map(Setting::Encrypted),
        prop::sample::select(overrides).prop_map(Setting::Override),
        Just(Setting::Nothing),
    ]
}

fn troubles() -> impl Strategy<Value = Trouble> {
    let stages =
        || prop::sample::select(vec![Stage::Preflight, Stage::RuleDownload, Stage::Postflight]);
    let every = || {
        let all =
            vec![Stage::Preflight, Stage::EventUpload, Stage::RuleDownload, Stage::Postflight];
        prop::sample::select(all)
    };
    let losses = || prop::sample::select(vec![Loss::Request, Loss::Response]);
    prop_oneof![
        6 => Just(Trouble::None),
        2 => (every(), losses(), 1..4_u32).prop_map(|(s, l, n)| Trouble::Lose(s, l, n)),
        2 => (stages(), losses()).prop_map(|(s, l)| Trouble::LoseAll(s, l)),
        1 => stages().prop_map(|s| Trouble::Lose(s, Loss::HalfOfBody, 1)),
        2 => (0..16_u8).prop_map(Trouble::Killed),
        2 => (0..12_u8).prop_map(Trouble::AgentDies),
        2 => (0..12_u8).prop_map(Trouble::PulledAt),
    ]
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let kinds = vec![
        wire::SyncType::Clean,
        wire::SyncType::Clean,
        wire::SyncType::CleanAll,
        wire::SyncType::CleanStandalone,
        wire::SyncType::CleanRules,
        wire::SyncType::CleanFileAccessRules,
    ];
    let places = vec![
        "before:stage_settings",
        "after:stage_settings",
        "before:commit_rules",
        "after:commit_rules",
        "before:apply_settings",
        "after:apply_settings",
    ];
    let stages = prop::sample::select(vec![
        Stage::Preflight,
        Stage::EventUpload,
        Stage::RuleDownload,
        Stage::Postflight,
    ]);
    let drifts = prop_oneof![
        (0..12_u8).prop_map(Drift::Remove),
        (0..12_u8).prop_map(Drift::Reorder),
        (0..12_u8).prop_map(Drift::Alter),
        Just(Drift::Add),
    ];
    let op = prop_oneof![
        8 => changes().prop_map(Op::Change),
        2 => changes().prop_map(Op::Replace),
        4 => settings().prop_map(Op::Set),
        8 => Just(Op::Pull),
        3 => prop::sample::select(kinds.clone()).prop_map(Op::PullAs),
        2 => (stages, prop::option::of(prop::sample::select(kinds)))
            .prop_map(|(stage, kind)| Op::PullFails(stage, kind)),
        1 => changes().prop_map(Op::Move),
        1 => prop::sample::select(places).prop_map(Op::PullKilled),
        12 => troubles().prop_map(Op::Push),
        4 => (any::<u8>(), any::<bool>()).prop_map(|(n, blocked)| Op::Event(n, blocked)),
        2 => (0..4_u8).prop_map(Op::Transitive),
        2 => drifts.prop_map(Op::Drift),
        1 => prop::sample::select(vec![SyncType::Clean, SyncType::CleanAll]).prop_map(Op::Require),
        1 => Just(Op::Restart),
        1 => prop::sample::select(Age::ALL.to_vec()).prop_map(Op::Release),
        1 => prop::sample::select(vec![Lost::State, Lost::Rules]).prop_map(Op::Lose),
        2 => Just(Op::KillAgent),
        1 => any::<bool>().prop_map(Op::Rebuild),
        1 => Just(Op::Copy),
        1 => Just(Op::Restore),
        3 => (0..15_u8).prop_map(Op::Pass),
    ];
    prop::collection::vec(op, 1..30)
}

fn rule(number: u8) -> wire::Rule {
    let (rule_type, identifier) = match number % 4 {
        0 => (wire::RuleType::Teamid, format!("TEAM{number:06}")),
        1 => (wire::RuleType::Signingid, format!("platform:com.example.{number}")),
        2 => (wire::RuleType::Cdhash, format!("{number:040x}")),
        _ => (wire::RuleType::Binary, format!("{number:064x}")),
    };
    wire::Rule { identifier, rule_type: rule_type.into(), ..wire::Rule::default() }
}

impl Change {
    /// The change as the server sends it; `None` if it has nothing to send again.
    fn rule(&self, known: &[wire::Rule]) -> Option<wire::Rule> {
        match *self {
            Self::Put(number, policy, text) => {
                let mut rule = rule(number);
                rule.set_policy(policy);
                if policy == wire::Policy::Cel {
                    let seconds = u32::from(text) + 1;
                    rule.cel_expr = format!("target.signing_time > timestamp({seconds})");
                }
                if text > 0 {
                    rule.custom_msg = format!("message {text}");
                    rule.custom_url = format!("https://example.com/{text}");
                    rule.event_detail_button_label = format!("label {text}");
                }
                Some(rule)
            }
            Self::Again(number) => {
                let named = rule(number).identifier;
                known.iter().find(|rule| rule.identifier == named).cloned()
            }
            Self::Remove(number) => {
                let mut rule = rule(number);
                rule.set_policy(wire::Policy::Remove);
                Some(rule)
            }
        }
    }
}

/// The rules that these changes leave of none.
fn rule_set(changes: &[Change]) -> Vec<wire::Rule> {
    let mut rules: Vec<wire::Rule> = Vec::new();
    for rule in changes.iter().filter_map(|change| change.rule(&[])) {
        rules.retain(|known| known.identifier != rule.identifier);
        rules.extend(Some(rule).filter(|rule| rule.policy() != wire::Policy::Remove));
    }
    rules
}

fn event(number: u8, blocked: bool) -> AnyEvent {
    let mut event = fixtures::events(20, u64::from(number)).find_map(|event| match event {
        AnyEvent::Execution(event) => Some(*event),
        AnyEvent::FileAccess(_) => None,
    });
    let mut event = event.take().expect("an execution");
    event.set_decision(if blocked {
        wire::Decision::BlockUnknown
    } else {
        wire::Decision::AllowUnknown
    });
    AnyEvent::Execution(Box::new(event))
}

impl Setting {
    fn apply(self, settings: &mut wire::PreflightResponse) {
        let media = |action: Option<Action>| {
            action.map(|action| wire::RemovableMediaPolicy { action: Some(action) })
        };
        match self {
            Self::Mode(mode) => settings.set_client_mode(mode),
            Self::Bundles(on) => settings.enable_bundles = on,
            Self::Unknown(on) => settings.disable_unknown_event_upload = on,
            Self::Transitive(on) => settings.enable_transitive_rules = on,
            Self::Regex(text) => settings.allowed_path_regex = text.map(str::to_owned),
            Self::Text(text) => settings.event_detail_text = text.map(str::to_owned),
            Self::Media(action) => settings.removable_media_policy = media(action),
            Self::Encrypted(action) => settings.encrypted_removable_media_policy = media(action),
            Self::Override(action) => {
                settings.override_file_access_action = action.map(Into::into);
            }
            Self::Nothing => *settings = wire::PreflightResponse::default(),
        }
    }
}

impl World {
    fn happen(&mut self, op: Op) {
        match op {
            Op::Change(changes) => {
                let known = self.server.rules();
                let changes: Vec<_> = changes.iter().filter_map(|c| c.rule(&known)).collect();
                self.server.queue_changes(changes);
            }
            Op::Replace(changes) => self.server.set_rules(rule_set(&changes)),
            Op::Set(setting) => self.server.change_settings(|settings| setting.apply(settings)),
            Op::Pull => drop(self.pull()),
            Op::PullAs(kind) => drop(self.pull_as(kind)),
            Op::PullFails(stage, kind) => self.pull_without(stage, kind),
            Op::Move(changes) => self.move_to_another_server(rule_set(&changes)),
            Op::PullKilled(place) => {
                self.relay.kill();
                self.agent.run(&["sync", "--kill-at", place]);
                self.is_new_to_server = false;
                self.relay.restart();
            }
            Op::Push(trouble) => self.push_in(trouble),
            Op::Event(number, blocked) => self.observe(&event(number, blocked)),
            Op::Transitive(number) => {
                self.add_transitive(&format!("{:064x}", 1000 + u32::from(number)));
            }
            Op::Drift(drift) => self.drift_by(drift),
            Op::Require(kind) => self.santa.require(kind),
            Op::Restart => {
                self.santa.restart();
            }
            Op::Release(age) => {
                self.santa.restart();
                self.santa.profile.age = age;
            }
            Op::Lose(Lost::State) => self.santa.lose_state(),
            Op::Lose(Lost::Rules) => self.lose_rules(),
            Op::KillAgent => self.relay.restart(),
            Op::Rebuild(relay_runs) => self.rebuild(relay_runs),
            Op::Copy => self.copy_rules(),
            Op::Restore => self.restore_rules(),
            Op::Pass(minutes) => self.relay.pass(Duration::from_mins(minutes.into())),
        }
    }

    fn push_in(&mut self, trouble: Trouble) {
        match trouble {
            Trouble::None => {
                self.push();
            }
            // A preflight that broke off leaves a release that does not report the
            // type of its sync in a state that no later request shows.
            Trouble::Lose(Stage::Preflight, Loss::HalfOfBody, _)
                if !self.santa.profile.age.reports_type() => {}
            Trouble::Lose(stage, loss, times) => {
                self.push_with(&mut |step| {
                    let strikes = matches!(step, Step::Attempt { stage: of, attempt, .. }
                        if of == stage && attempt <= times);
                    if strikes { Act::Lose(loss) } else { Act::Go }
                });
            }
            Trouble::LoseAll(stage, loss) => {
                self.push_with(&mut |step| {
                    let strikes = matches!(step, Step::Attempt { stage: of, .. } if of == stage);
                    if strikes { Act::Lose(loss) } else { Act::Go }
                });
            }
            Trouble::Killed(point) => {
                let mut left = u32::from(point);
                let done = self.push_with(&mut |_| {
                    let act = if left == 0 { Act::Kill } else { Act::Go };
                    left = left.saturating_sub(1);
                    act
                });
                assert!(matches!(
                    done.status,
                    Status::Killed
                        | Status::Success
                        | Status::PreflightFailed
                        | Status::RuleDownloadFailed
                ));
            }
            Trouble::AgentDies(effect) => {
                self.relay.die_at(effect.into());
                self.push();
                self.relay.restart();
            }
            Trouble::PulledAt(point) => self.push_and_pull(point),
        }
    }

    fn drift_by(&mut self, drift: Drift) {
        if !self.santa.profile.age.reports_hash() {
            // Only counts show it, and only beside those of the first preflight after
            // an acknowledgement: one sync for the events, one with the rules, and that.
            if !matches!(drift, Drift::Remove(_)) {
                return;
            }
            for _ in 0..3 {
                self.push();
            }
        }
        let rows = self.santa.server_rows();
        let chosen =
            |number: u8| (!rows.is_empty()).then(|| rows[usize::from(number) % rows.len()].clone());
        self.santa.drift(|table| match drift {
            Drift::Remove(number) => {
                if let Some(row) = chosen(number) {
                    table.remove(&row.identifier, row.rule_type);
                }
            }
            Drift::Reorder(number) => {
                if let Some(row) = chosen(number) {
                    table.put(row);
                }
            }
            Drift::Alter(number) => {
                if let Some(row) = chosen(number) {
                    let state = if row.state == 2 { 1 } else { 2 };
                    table.put(Row { state, cel_expr: String::new(), ..row });
                }
            }
            Drift::Add => table.put(Row {
                identifier: format!("{:064x}", 5000),
                state: 2,
                rule_type: 1000,
                ..Row::default()
            }),
        });
    }
}

/// 20; more by `SANTA_SYNC_RELAY_CASES`.
fn cases() -> u32 {
    std::env::var("SANTA_SYNC_RELAY_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(20)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    /// RELAY-5, RELAY-6, RELAY-7: any interleaving of what can happen, with each
    /// release, in either form.
    #[test]
    fn relay_6_whatever_happens_two_quiet_syncs_leave_the_authorizer_in_step(
        age in prop::sample::select(Age::ALL.to_vec()),
        protobuf in any::<bool>(),
        keeps_events in prop::bool::weighted(0.2),
        rules in prop::collection::btree_set(0..12_u8, 0..9),
        ops in ops(),
    ) {
        let mut world = World::with(age, keeps_events);
        if protobuf {
            world.santa.profile.transfer = santa_sync::model::Transfer::Protobuf;
        }
        let put = |number| Change::Put(number, wire::Policy::Allowlist, number % 3);
        world.happen(Op::Replace(rules.into_iter().map(put).collect()));
        // Before a clean sync has filled the agent's store nothing is deleted.
        world.pull();
        world.push();
        world.push();
        for op in ops {
            world.happen(op);
        }
        if !world.relay.is_alive() {
            world.relay.restart();
        }
        world.settle();
    }
}
