//! Generated rules and events for tests and measurements: plausible, and the
//! same for the same seed on every machine.

use serde_json::{Value, json};

use crate::protocol::stored::QueuedEvent;
use crate::protocol::wire;

/// 2025-01-01 00:00 UTC in seconds since 1970, the first generated time.
const EPOCH: u32 = 1_735_689_600;

/// The `SplitMix64` generator: small, fast, and good enough for test data.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence of that seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 if the bound is 0.
    pub const fn below(&mut self, bound: u32) -> u32 {
        // The product of two 32-bit numbers, so its upper half is one too.
        (((self.next() & 0xffff_ffff) * bound as u64) >> 32) as u32
    }

    /// Hex digits of that many random bytes.
    pub fn hex(&mut self, bytes: usize) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = String::with_capacity(2 * bytes);
        let mut word = 0;
        for digit in 0..2 * bytes {
            if digit % 16 == 0 {
                word = self.next();
            }
            text.push(char::from(DIGITS[usize::from((word & 15) as u8)]));
            word >>= 4;
        }
        text
    }

    /// One of the items. There must be at least one.
    fn pick<'a, T: ?Sized>(&mut self, items: &[&'a T]) -> &'a T {
        items[self.below(u32::try_from(items.len()).unwrap_or(u32::MAX)) as usize]
    }

    /// A developer team.
    fn team(&mut self) -> String {
        const LETTERS: &[u8; 36] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
        (0..10).map(|_| char::from(LETTERS[self.below(36) as usize])).collect()
    }
}

const VENDORS: [&str; 8] =
    ["Acme", "Borealis", "Cobalt", "Dunlin", "Ember", "Fathom", "Gneiss", "Halyard"];
const APPS: [&str; 8] =
    ["Notes", "Player", "Sketch", "Ledger", "Terminal", "Courier", "Atlas", "Beacon"];
const CEL: [&str; 3] = [
    "target.signing_time >= timestamp('2025-01-01T00:00:00Z')",
    "'--inspect' in args ? BLOCKLIST : ALLOWLIST",
    "args.size() > 1",
];

/// That many rules of every type and policy but REMOVE, each of another
/// identifier. Most are BINARY and SIGNINGID allow rules, as in the field.
pub fn rules(count: usize, seed: u64) -> impl Iterator<Item = wire::Rule> + Clone {
    let mut random = Random::new(seed);
    (0..count).map(move |index| rule(&mut random, index))
}

fn rule(random: &mut Random, index: usize) -> wire::Rule {
    use wire::{Policy, RuleType};
    let rule_type = match random.below(100) {
        0..55 => RuleType::Binary,
        55..80 => RuleType::Signingid,
        80..90 => RuleType::Cdhash,
        90..96 => RuleType::Certificate,
        _ => RuleType::Teamid,
    };
    let policy = match random.below(100) {
        0..70 => Policy::Allowlist,
        70..75 => Policy::AllowlistCompiler,
        75..90 => Policy::Blocklist,
        90..94 => Policy::SilentBlocklist,
        94..96 => Policy::SilentGuiBlocklist,
        96..97 => Policy::SilentTtyBlocklist,
        _ => Policy::Cel,
    };
    let vendor = random.pick(&VENDORS);
    let app = random.pick(&APPS);
    let identifier = match rule_type {
        RuleType::Cdhash => random.hex(20),
        RuleType::Signingid => {
            let name = format!("com.{}.{}.{index}", vendor.to_lowercase(), app.to_lowercase());
            format!("{}:{name}", random.team())
        }
        RuleType::Teamid => random.team(),
        RuleType::Binary | RuleType::Certificate | RuleType::RuletypeUnknown => random.hex(32),
    };
    let mut rule = wire::Rule {
        identifier,
        policy: policy.into(),
        rule_type: rule_type.into(),
        ..wire::Rule::default()
    };
    if policy == Policy::Cel {
        random.pick(&CEL).clone_into(&mut rule.cel_expr);
    }
    let blocks = matches!(policy, Policy::Blocklist | Policy::SilentTtyBlocklist);
    if blocks && random.below(3) == 0 {
        rule.custom_msg = format!("{vendor} {app} is not approved on this host");
        rule.custom_url = format!("https://help.example.com/{}", app.to_lowercase());
        "Ask for it".clone_into(&mut rule.event_detail_button_label);
    }
    if policy == Policy::Allowlist && random.below(200) == 0 {
        rule.notification_app_name = format!("{vendor} {app}");
    }
    rule
}

/// A change to a set of rules: `changed` of them with another policy,
/// `removed` of them as REMOVE, and `added` new ones. Deterministic, and no
/// rule is named twice.
pub fn changes(
    of: &[wire::Rule],
    (changed, removed, added): (usize, usize, usize),
    seed: u64,
) -> Vec<wire::Rule> {
    use wire::Policy;
    // Both parts are spread over the whole set, and do not meet.
    let step = of.len().checked_div(changed + removed).unwrap_or(1).max(1);
    let chosen = of.iter().step_by(step).take(changed + removed);
    let mut out: Vec<_> = chosen
        .enumerate()
        .map(|(place, rule)| {
            let policy = match rule.policy() {
                _ if place >= changed => Policy::Remove,
                Policy::Blocklist => Policy::Allowlist,
                Policy::Unknown
                | Policy::Allowlist
                | Policy::AllowlistCompiler
                | Policy::SilentBlocklist
                | Policy::Remove
                | Policy::Cel
                | Policy::SilentGuiBlocklist
                | Policy::SilentTtyBlocklist => Policy::Blocklist,
            };
            wire::Rule {
                identifier: rule.identifier.clone(),
                rule_type: rule.rule_type,
                policy: policy.into(),
                ..wire::Rule::default()
            }
        })
        .collect();
    out.extend(rules(added, seed ^ 0x00ad_ded0));
    out
}

/// An event of either kind that a host queues.
#[derive(Clone, Debug, PartialEq)]
pub enum AnyEvent {
    /// An execution.
    Execution(Box<wire::Event>),
    /// An access to a watched file.
    FileAccess(wire::FileAccessEvent),
}

impl AnyEvent {
    /// The format that `events add` reads, one per line.
    #[must_use]
    pub fn to_json(&self) -> Value {
        match self {
            Self::Execution(event) => json!(event),
            Self::FileAccess(event) => json!({ "file_access_event": event }),
        }
    }
}

impl From<AnyEvent> for QueuedEvent {
    fn from(event: AnyEvent) -> Self {
        match event {
            AnyEvent::Execution(event) => Self::Execution(event),
            AnyEvent::FileAccess(event) => Self::FileAccess(Box::new(event)),
        }
    }
}

/// `count` events in chronological order; about one in eight is a file access.
pub fn events(count: usize, seed: u64) -> impl Iterator<Item = AnyEvent> + Clone {
    let mut random = Random::new(seed);
    (0..count).map(move |index| {
        // 1970 plus a 32-bit number of seconds: exact in a double.
        let at = f64::from(EPOCH.saturating_add(u32::try_from(index).unwrap_or(u32::MAX))) + 0.25;
        if random.below(8) == 0 {
            AnyEvent::FileAccess(file_access(&mut random, at))
        } else {
            AnyEvent::Execution(Box::new(execution(&mut random, at)))
        }
    })
}

fn certificates(random: &mut Random, vendor: &str, team: &str) -> Vec<wire::Certificate> {
    let leaf = format!("Developer ID Application: {vendor} ({team})");
    [(leaf.as_str(), team), ("Example Developer Authority", ""), ("Example Root", "")]
        .into_iter()
        .map(|(cn, ou)| wire::Certificate {
            sha256: random.hex(32),
            cn: cn.to_owned(),
            org: vendor.to_owned(),
            ou: ou.to_owned(),
            valid_from: EPOCH - 31_536_000,
            valid_until: EPOCH + 126_144_000,
        })
        .collect()
}

fn execution(random: &mut Random, at: f64) -> wire::Event {
    use wire::{Decision, SigningStatus};
    let vendor = random.pick(&VENDORS);
    let app = random.pick(&APPS);
    let team = random.team();
    let decision = match random.below(10) {
        0..5 => Decision::BlockUnknown,
        5..7 => Decision::AllowUnknown,
        7 => Decision::BlockBinary,
        8 => Decision::BlockSigningid,
        _ => Decision::AllowTeamid,
    };
    let bundle = format!("/Applications/{app}.app");
    wire::Event {
        file_sha256: random.hex(32),
        file_path: format!("{bundle}/Contents/MacOS"),
        file_name: app.to_owned(),
        executing_user: "jdoe".to_owned(),
        execution_time: at,
        logged_in_users: vec!["jdoe".to_owned()],
        current_sessions: vec!["jdoe@console".to_owned()],
        decision: decision.into(),
        file_bundle_id: format!("com.{}.{}", vendor.to_lowercase(), app.to_lowercase()),
        file_bundle_path: bundle,
        file_bundle_name: app.to_owned(),
        file_bundle_version: "1.4.2".to_owned(),
        file_bundle_version_string: "1.4".to_owned(),
        pid: 1000 + random.below(60_000).cast_signed(),
        ppid: 1,
        parent_name: "launchd".to_owned(),
        signing_id: format!("{team}:com.{}.{}", vendor.to_lowercase(), app.to_lowercase()),
        cdhash: random.hex(20),
        signing_chain: certificates(random, vendor, &team),
        signing_status: SigningStatus::Production.into(),
        team_id: team,
        ..wire::Event::default()
    }
}

fn file_access(random: &mut Random, at: f64) -> wire::FileAccessEvent {
    let vendor = random.pick(&VENDORS);
    let app = random.pick(&APPS);
    let team = random.team();
    let process = wire::Process {
        file_path: format!("/Applications/{app}.app/Contents/MacOS/{app}"),
        cdhash: random.hex(20),
        file_sha256: random.hex(32),
        signing_id: format!("com.{}.{}", vendor.to_lowercase(), app.to_lowercase()),
        pid: 1000 + random.below(60_000).cast_signed(),
        signing_chain: certificates(random, vendor, &team),
        team_id: team,
    };
    let launchd = wire::Process {
        file_path: "/sbin/launchd".to_owned(),
        cdhash: random.hex(20),
        file_sha256: random.hex(32),
        signing_id: "com.apple.xpc.launchd".to_owned(),
        pid: 1,
        ..wire::Process::default()
    };
    wire::FileAccessEvent {
        rule_version: "2025.1".to_owned(),
        rule_name: "browser-cookies".to_owned(),
        target: "/Users/jdoe/Library/Cookies/Cookies.binarycookies".to_owned(),
        process_chain: vec![process, launchd],
        access_time: at,
        decision: wire::FileAccessDecision::Denied.into(),
    }
}
