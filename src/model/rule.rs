//! Rules: what they name and what they do.

use std::fmt;
use std::ops::Add;

use serde::{Deserialize, Serialize};
use strum::{EnumString, IntoStaticStr, VariantArray};
use thiserror::Error;

use super::text::push_hex;

/// The longest button label, in characters; longer ones are cut.
pub const MAX_BUTTON_LABEL_CHARS: usize = 48;

/// What the identifier of a rule names.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    EnumString,
    IntoStaticStr,
    VariantArray,
    strum::VariantNames,
)]
#[serde(rename_all = "UPPERCASE")]
#[strum(serialize_all = "UPPERCASE", ascii_case_insensitive)]
pub enum RuleType {
    /// A code directory hash.
    Cdhash,
    /// The SHA-256 of a file.
    Binary,
    /// A team and a signing id.
    SigningId,
    /// The SHA-256 of a leaf certificate.
    Certificate,
    /// A developer team.
    TeamId,
}

impl RuleType {
    /// Every type, in the order of lookup precedence.
    pub const ALL: &'static [Self] = Self::VARIANTS;

    /// The protocol's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// The number in the `type` column of `rules.db`.
    #[must_use]
    pub const fn number(self) -> i32 {
        match self {
            Self::Cdhash => 500,
            Self::Binary => 1000,
            Self::SigningId => 2000,
            Self::Certificate => 3000,
            Self::TeamId => 4000,
        }
    }

    /// The type of that number.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Self> {
        Self::ALL.iter().copied().find(|t| t.number() == number)
    }
}

impl fmt::Display for RuleType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What a rule does, as a download, a rule file or the configuration says it.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    EnumString,
    IntoStaticStr,
    VariantArray,
    strum::VariantNames,
)]
#[strum(serialize_all = "SCREAMING_SNAKE_CASE")]
pub enum Policy {
    /// Allow.
    Allowlist,
    /// Allow, and allow what the executable writes.
    AllowlistCompiler,
    /// Block.
    Blocklist,
    /// Block without telling the user.
    SilentBlocklist,
    /// Block without a dialogue.
    SilentGuiBlocklist,
    /// Block without a line on the terminal.
    SilentTtyBlocklist,
    /// An expression decides.
    Cel,
    /// Allow; made by a user of the host. Not on the wire.
    AllowlistLocalBinary,
    /// Allow; made by a user of the host. Not on the wire.
    #[strum(serialize = "ALLOWLIST_LOCAL_SIGNINGID")]
    AllowlistLocalSigningId,
    /// Delete the rule of this identifier and type.
    Remove,
}

impl Policy {
    /// Every policy.
    pub const ALL: &'static [Self] = Self::VARIANTS;

    /// The protocol's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// The state the store keeps for it; `None` for the one that is not kept.
    #[must_use]
    pub const fn state(self) -> Option<RuleState> {
        Some(match self {
            Self::Allowlist => RuleState::Allow,
            Self::AllowlistCompiler => RuleState::AllowCompiler,
            Self::Blocklist => RuleState::Block,
            Self::SilentBlocklist => RuleState::SilentBlock,
            Self::SilentGuiBlocklist => RuleState::SilentBlockGui,
            Self::SilentTtyBlocklist => RuleState::SilentBlockTty,
            Self::Cel => RuleState::Cel,
            Self::AllowlistLocalBinary => RuleState::AllowLocalBinary,
            Self::AllowlistLocalSigningId => RuleState::AllowLocalSigningId,
            Self::Remove => return None,
        })
    }
}

/// What the `state` column of `rules.db` says of a stored rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, VariantArray)]
pub enum RuleState {
    /// 1
    Allow,
    /// 2
    Block,
    /// 3
    SilentBlock,
    /// 5
    AllowCompiler,
    /// 6: made by the host for what a compiler wrote.
    AllowTransitive,
    /// 7: made by a user of the host.
    AllowLocalBinary,
    /// 8: made by a user of the host.
    AllowLocalSigningId,
    /// 9
    Cel,
    /// 10: from sync v2.
    CelV2,
    /// 11: from sync v2.
    Seatbelt,
    /// 12
    SilentBlockGui,
    /// 13
    SilentBlockTty,
}

impl RuleState {
    /// Every state.
    pub const ALL: &'static [Self] = Self::VARIANTS;

    /// The number in the `state` column.
    #[must_use]
    pub const fn number(self) -> i32 {
        match self {
            Self::Allow => 1,
            Self::Block => 2,
            Self::SilentBlock => 3,
            Self::AllowCompiler => 5,
            Self::AllowTransitive => 6,
            Self::AllowLocalBinary => 7,
            Self::AllowLocalSigningId => 8,
            Self::Cel => 9,
            Self::CelV2 => 10,
            Self::Seatbelt => 11,
            Self::SilentBlockGui => 12,
            Self::SilentBlockTty => 13,
        }
    }

    /// The state of that number.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Self> {
        Self::ALL.iter().copied().find(|s| s.number() == number)
    }

    /// Which way a rule of this state decides.
    #[must_use]
    pub const fn side(self) -> RuleSide {
        match self {
            Self::Allow
            | Self::AllowCompiler
            | Self::AllowTransitive
            | Self::AllowLocalBinary
            | Self::AllowLocalSigningId => RuleSide::Allows,
            Self::Block | Self::SilentBlock | Self::SilentBlockGui | Self::SilentBlockTty => {
                RuleSide::Blocks
            }
            Self::Cel | Self::CelV2 | Self::Seatbelt => RuleSide::Depends,
        }
    }

    /// The name exports use: the protocol's where it has one.
    #[must_use]
    pub const fn policy_name(self) -> &'static str {
        match self {
            Self::Allow => "ALLOWLIST",
            Self::Block => "BLOCKLIST",
            Self::SilentBlock => "SILENT_BLOCKLIST",
            Self::AllowCompiler => "ALLOWLIST_COMPILER",
            Self::AllowTransitive => "ALLOWLIST_TRANSITIVE",
            Self::AllowLocalBinary => "ALLOWLIST_LOCAL_BINARY",
            Self::AllowLocalSigningId => "ALLOWLIST_LOCAL_SIGNINGID",
            Self::Cel | Self::CelV2 => "CEL",
            Self::Seatbelt => "SEATBELT",
            Self::SilentBlockGui => "SILENT_GUI_BLOCKLIST",
            Self::SilentBlockTty => "SILENT_TTY_BLOCKLIST",
        }
    }
}

/// Which way a stored rule decides, whatever the execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RuleSide {
    /// It lets what it names run.
    Allows,
    /// It keeps what it names from running.
    Blocks,
    /// An expression decides, or what it names runs in a sandbox.
    Depends,
}

/// What a rule names, normalised: hashes as bytes, teams in upper case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Identifier {
    /// A code directory hash.
    Cdhash([u8; 20]),
    /// The SHA-256 of a file.
    Binary([u8; 32]),
    /// `TEAMID:rest` or `platform:rest`.
    SigningId(Box<str>),
    /// The SHA-256 of a leaf certificate.
    Certificate([u8; 32]),
    /// Ten ASCII letters or digits.
    TeamId([u8; 10]),
}

/// Why a text cannot be the identifier of a rule of its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum IdentifierError {
    /// Neither `identifier` nor `sha256` was given.
    #[error("the identifier is missing")]
    Missing,
    /// BINARY, CERTIFICATE or CDHASH.
    #[error("a {0} identifier is {1} hex digits")]
    NotHex(RuleType, usize),
    /// TEAMID.
    #[error("a TEAMID identifier is 10 ASCII letters or digits")]
    NotTeam,
    /// SIGNINGID.
    #[error("a SIGNINGID identifier is TEAMID:name or platform:name")]
    NotSigningId,
}

impl Identifier {
    /// Checks a text and takes it as an identifier of that type, normalised.
    ///
    /// # Errors
    /// If the text is not an identifier of that type.
    pub fn parse(rule_type: RuleType, text: &str) -> Result<Self, IdentifierError> {
        use IdentifierError::NotHex;
        if text.is_empty() {
            return Err(IdentifierError::Missing);
        }
        match rule_type {
            RuleType::Cdhash => hex(text).map(Self::Cdhash).ok_or(NotHex(rule_type, 40)),
            RuleType::Binary => hex(text).map(Self::Binary).ok_or(NotHex(rule_type, 64)),
            RuleType::Certificate => hex(text).map(Self::Certificate).ok_or(NotHex(rule_type, 64)),
            RuleType::TeamId => team(text).map(Self::TeamId).ok_or(IdentifierError::NotTeam),
            RuleType::SigningId => signing_id(text).ok_or(IdentifierError::NotSigningId),
        }
    }

    /// Appends the stored form to a text.
    pub fn push_to(&self, text: &mut String) {
        match self {
            Self::Cdhash(bytes) => push_hex(bytes, text),
            Self::Binary(bytes) | Self::Certificate(bytes) => push_hex(bytes, text),
            Self::SigningId(id) => text.push_str(id),
            Self::TeamId(bytes) => text.extend(bytes.iter().copied().map(char::from)),
        }
    }

    /// The type of rule this is the identifier of.
    #[must_use]
    pub const fn rule_type(&self) -> RuleType {
        match self {
            Self::Cdhash(_) => RuleType::Cdhash,
            Self::Binary(_) => RuleType::Binary,
            Self::SigningId(_) => RuleType::SigningId,
            Self::Certificate(_) => RuleType::Certificate,
            Self::TeamId(_) => RuleType::TeamId,
        }
    }
}

/// The stored form: lower-case hex, or the text.
impl fmt::Display for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(64);
        self.push_to(&mut text);
        f.pad(&text)
    }
}

fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    const fn digit(c: u8) -> Option<u8> {
        match c {
            b'0'..=b'9' => Some(c - b'0'),
            b'a'..=b'f' => Some(c - b'a' + 10),
            b'A'..=b'F' => Some(c - b'A' + 10),
            _ => None,
        }
    }
    let text = text.as_bytes();
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let [high, low] = *pair else { return None };
        *byte = digit(high)? << 4 | digit(low)?;
    }
    Some(bytes)
}

fn team(text: &str) -> Option<[u8; 10]> {
    let bytes: [u8; 10] = text.as_bytes().try_into().ok()?;
    bytes.iter().all(u8::is_ascii_alphanumeric).then(|| bytes.map(|b| b.to_ascii_uppercase()))
}

fn signing_id(text: &str) -> Option<Identifier> {
    let (prefix, rest) = text.split_once(':')?;
    if rest.is_empty() {
        return None;
    }
    let prefix = if prefix.eq_ignore_ascii_case("platform") {
        "platform".to_owned()
    } else {
        team(prefix)?.map(char::from).iter().collect()
    };
    Some(Identifier::SigningId(format!("{prefix}:{rest}").into_boxed_str()))
}

/// The parts of a rule that few rules have.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct RuleDetails {
    /// Message of the block dialogue.
    pub custom_msg: String,
    /// Link of the block dialogue.
    pub custom_url: String,
    /// The expression of a CEL rule.
    pub cel_expr: String,
    /// Label of the dialogue's button, at most [`MAX_BUTTON_LABEL_CHARS`] characters.
    pub event_detail_button_label: String,
    /// Free text of whoever made the rule.
    pub comment: String,
    /// Application to tell users of when the rule has arrived.
    pub notification_app_name: String,
}

/// A checked rule of a download.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What it names, and so its type.
    pub identifier: Identifier,
    /// What it does.
    pub policy: Policy,
    /// `None` if all of them are empty.
    pub details: Option<Box<RuleDetails>>,
}

impl Rule {
    /// Whether it may let what it names run: it allows, or an expression or a
    /// sandbox decides.
    #[must_use]
    pub fn may_allow(&self) -> bool {
        self.policy.state().is_some_and(|state| state.side() != RuleSide::Blocks)
    }
}

/// How many rules the store holds, as preflight reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RuleCounts {
    /// Of type BINARY, transitive ones included.
    pub binary: u32,
    /// Of type CERTIFICATE.
    pub certificate: u32,
    /// Of state [`RuleState::AllowCompiler`], of any type.
    pub compiler: u32,
    /// Of state [`RuleState::AllowTransitive`].
    pub transitive: u32,
    /// Of type TEAMID.
    pub teamid: u32,
    /// Of type SIGNINGID.
    pub signingid: u32,
    /// Of type CDHASH.
    pub cdhash: u32,
}

impl RuleCounts {
    /// Adds `by` to the count of rules of a state and type, given as their numbers in
    /// `rules.db`.
    pub fn adjust(&mut self, state: i32, rule_type: i32, by: i32) {
        let of_type = match RuleType::from_number(rule_type) {
            Some(RuleType::Binary) => Some(&mut self.binary),
            Some(RuleType::Certificate) => Some(&mut self.certificate),
            Some(RuleType::TeamId) => Some(&mut self.teamid),
            Some(RuleType::SigningId) => Some(&mut self.signingid),
            Some(RuleType::Cdhash) => Some(&mut self.cdhash),
            None => None,
        };
        if let Some(count) = of_type {
            *count = count.saturating_add_signed(by);
        }
        if state == RuleState::AllowCompiler.number() {
            self.compiler = self.compiler.saturating_add_signed(by);
        } else if state == RuleState::AllowTransitive.number() {
            self.transitive = self.transitive.saturating_add_signed(by);
        }
    }
}

/// Writes the bytes of a rule that the hash of all rules covers, in place of what
/// `bytes` held: the stored identifier, the expression and the sandbox policy, then
/// the numbers of state and type in `rules.db`.
pub fn write_hashed_rule(
    [identifier, cel_expr, seatbelt]: [&[u8]; 3],
    state: i32,
    rule_type: i32,
    bytes: &mut Vec<u8>,
) {
    bytes.clear();
    bytes.extend_from_slice(identifier);
    bytes.extend_from_slice(cel_expr);
    bytes.extend_from_slice(seatbelt);
    bytes.extend_from_slice(&state.to_le_bytes());
    bytes.extend_from_slice(&rule_type.to_le_bytes());
}

impl Add for RuleCounts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            binary: self.binary.saturating_add(other.binary),
            certificate: self.certificate.saturating_add(other.certificate),
            compiler: self.compiler.saturating_add(other.compiler),
            transitive: self.transitive.saturating_add(other.transitive),
            teamid: self.teamid.saturating_add(other.teamid),
            signingid: self.signingid.saturating_add(other.signingid),
            cdhash: self.cdhash.saturating_add(other.cdhash),
        }
    }
}
