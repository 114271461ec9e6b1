//! Which rule decides about an executable, as the authorizer would have it.

use std::collections::HashMap;
use std::fmt;

use super::{Identifier, Rule, RuleDetails, RuleState, RuleType, Timestamp};

/// What is known of an executable; at most one identifier of each type.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Executable {
    /// By [`RuleType::ALL`].
    identifiers: [Option<Identifier>; 5],
}

impl Executable {
    /// Adds an identifier, or puts it in the place of the one of its type.
    #[must_use]
    pub fn with(mut self, identifier: Identifier) -> Self {
        for (rule_type, place) in RuleType::ALL.iter().zip(&mut self.identifiers) {
            if *rule_type == identifier.rule_type() {
                *place = Some(identifier);
                return self;
            }
        }
        self
    }

    /// The identifier of that type, if it is known.
    #[must_use]
    pub fn identifier(&self, rule_type: RuleType) -> Option<&Identifier> {
        let place = RuleType::ALL.iter().position(|t| *t == rule_type)?;
        self.identifiers.get(place)?.as_ref()
    }

    /// What is known, in the order of lookup precedence.
    pub fn identifiers(&self) -> impl Iterator<Item = &Identifier> {
        self.identifiers.iter().flatten()
    }

    /// Whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.identifiers().next().is_none()
    }
}

/// A rule of the store, whoever put it there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRule {
    /// The identifier as stored.
    pub identifier: String,
    /// What it names.
    pub rule_type: RuleType,
    /// What the rule does.
    pub state: RuleState,
    /// When a transitive rule was last used, in seconds since 2001-01-01 UTC;
    /// 0 for the others.
    pub timestamp: i64,
    /// The other columns; no application name, which is not stored.
    pub details: RuleDetails,
}

/// Seconds from 1970-01-01 to 2001-01-01, both UTC.
const REFERENCE_EPOCH: i64 = 978_307_200;

impl StoredRule {
    /// When a transitive rule was made or last used; `None` for every other
    /// rule, and if the store does not say.
    #[must_use]
    pub fn last_used(&self) -> Option<Timestamp> {
        let known = self.state == RuleState::AllowTransitive && self.timestamp > 0;
        let secs = self.timestamp.checked_add(REFERENCE_EPOCH)?;
        known.then(|| Timestamp::from_secs(secs))
    }

    /// The rule as `santactl` words it: `Allowed (Binary)`.
    #[must_use]
    pub fn wording(&self) -> String {
        let kind = match self.rule_type {
            RuleType::Cdhash => "CDHash",
            RuleType::Binary => "Binary",
            RuleType::SigningId => "SigningID",
            RuleType::Certificate => "Certificate",
            RuleType::TeamId => "TeamID",
        };
        let (verdict, manner) = match self.state {
            RuleState::Allow => ("Allowed", ""),
            RuleState::AllowCompiler => ("Allowed", ", Compiler"),
            RuleState::AllowTransitive => ("Allowed", ", Transitive"),
            RuleState::AllowLocalBinary | RuleState::AllowLocalSigningId => ("Allowed", ", Local"),
            RuleState::Block => ("Blocked", ""),
            RuleState::SilentBlock => ("Blocked", ", Silent"),
            RuleState::SilentBlockGui => ("Blocked", ", Silent GUI"),
            RuleState::SilentBlockTty => ("Blocked", ", Silent TTY"),
            RuleState::Cel | RuleState::CelV2 => ("Decided by CEL", ""),
            RuleState::Seatbelt => ("Sandboxed", ""),
        };
        format!("{verdict} ({kind}{manner})")
    }
}

/// The rules of the configuration, which come before those of the store.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct StaticRules(HashMap<Identifier, Rule>);

impl StaticRules {
    /// Takes rules in; a later one replaces an earlier one of its identifier
    /// and type, and REMOVE ones say nothing here.
    #[must_use]
    pub fn new(rules: impl IntoIterator<Item = Rule>) -> Self {
        let stored = rules.into_iter().filter(|rule| rule.policy.state().is_some());
        Self(stored.map(|rule| (rule.identifier.clone(), rule)).collect())
    }

    /// Returns whether no identifier is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The rules, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.0.values()
    }

    /// The one that decides about an executable, in the form of a stored one.
    #[must_use]
    pub fn find(&self, executable: &Executable) -> Option<StoredRule> {
        let rule = executable.identifiers().find_map(|identifier| self.0.get(identifier))?;
        Some(StoredRule {
            identifier: rule.identifier.to_string(),
            rule_type: rule.identifier.rule_type(),
            state: rule.policy.state()?,
            timestamp: 0,
            details: rule.details.as_deref().cloned().unwrap_or_default(),
        })
    }
}

/// Where a rule was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleOrigin {
    /// `StaticRules` of the configuration.
    Configuration,
    /// `rules.db`.
    Store,
}

/// The rule that decides about an executable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// The rule; its state is the one in effect, which is a plain ALLOWLIST for
    /// a compiler rule while transitive rules are disabled.
    pub rule: StoredRule,
    /// Where it was found.
    pub origin: RuleOrigin,
    /// The stored state is that of a compiler.
    pub compiler_disabled: bool,
}

impl Match {
    /// What a rule found means while transitive rules are enabled or not. A
    /// transitive rule decides nothing while they are disabled.
    #[must_use]
    pub fn new(mut rule: StoredRule, origin: RuleOrigin, transitive_enabled: bool) -> Option<Self> {
        let mut compiler_disabled = false;
        if !transitive_enabled {
            match rule.state {
                RuleState::AllowTransitive => return None,
                RuleState::AllowCompiler => {
                    rule.state = RuleState::Allow;
                    compiler_disabled = true;
                }
                RuleState::Allow
                | RuleState::Block
                | RuleState::SilentBlock
                | RuleState::AllowLocalBinary
                | RuleState::AllowLocalSigningId
                | RuleState::Cel
                | RuleState::CelV2
                | RuleState::Seatbelt
                | RuleState::SilentBlockGui
                | RuleState::SilentBlockTty => {}
            }
        }
        Some(Self { rule, origin, compiler_disabled })
    }
}

/// Why this rule decides, in one sentence.
impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let StoredRule { identifier, rule_type, state, .. } = &self.rule;
        let origin = match self.origin {
            RuleOrigin::Configuration => {
                "the configuration (StaticRules), which comes before the store"
            }
            RuleOrigin::Store => "the store",
        };
        write!(f, "the {rule_type} rule for {identifier} in {origin}")?;
        if self.compiler_disabled {
            f.write_str("; a compiler rule counts as ALLOWLIST while transitive rules are disabled")
        } else if *state == RuleState::AllowTransitive {
            f.write_str("; no other rule covers what a compiler wrote")
        } else {
            Ok(())
        }
    }
}
