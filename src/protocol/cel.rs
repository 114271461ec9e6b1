//! Whether the expression of a CEL rule parses. What it means, and whether the
//! host knows its names, is the authorizer's business.
//!
//! An expression comes from a server, so reading one takes time in proportion
//! to its length, memory in proportion to its depth, which is bounded, and no
//! thread. `tokens` splits it, `grammar` decides.

mod grammar;
#[cfg(test)]
mod tests;
mod tokens;

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use thiserror::Error;

/// The most bytes of an expression.
pub const MAX_EXPRESSION_BYTES: usize = 64 << 10;
/// The most levels of nesting in an expression, as in the authorizer.
pub const MAX_DEPTH: usize = 250;
/// How long the expressions of one sync may take to parse, all together.
pub const MAX_CHECK_TIME: Duration = Duration::from_secs(10);

/// Why the expression of a rule is refused. Reads on from "the expression".
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CelError {
    /// It is longer than [`MAX_EXPRESSION_BYTES`].
    #[error("is {0} bytes long; at most {MAX_EXPRESSION_BYTES} are taken")]
    TooLong(usize),
    /// It is not CEL.
    #[error("does not parse: {0}")]
    Syntax(String),
    /// It has a result that version 1 of the protocol lacks; the existing
    /// client refuses such a rule, too.
    #[error("uses {0}, which only version 2 of the sync protocol has")]
    TouchId(String),
    /// The time for the expressions of a sync is used up.
    #[error(
        "is too_costly: parsing the expressions before it has taken {} s of this sync",
        MAX_CHECK_TIME.as_secs()
    )]
    TooCostly,
}

/// Checks that an expression parses.
///
/// # Errors
/// The first reason to refuse it.
pub fn check(expression: &str) -> Result<(), CelError> {
    if expression.len() > MAX_EXPRESSION_BYTES {
        return Err(CelError::TooLong(expression.len()));
    }
    grammar::check(expression)
}

/// Checks the expressions of one sync within [`MAX_CHECK_TIME`]. Servers put one and
/// the same expression on many rules: the first ones are remembered.
pub struct CelBudget {
    /// Reads a clock that stands still while this thread does not run.
    elapsed: fn() -> Duration,
    spent: Duration,
    checked: HashMap<String, Result<(), CelError>>,
}

impl CelBudget {
    /// How many expressions are remembered.
    const MAX_KNOWN_EXPRESSIONS: usize = 256;
    /// The longest expression that is remembered, in bytes.
    const MAX_KNOWN_EXPRESSION_BYTES: usize = 4 << 10;

    /// The budget of a sync; `elapsed` reads a clock, best one of the time that
    /// this thread has computed.
    #[must_use]
    pub fn new(elapsed: fn() -> Duration) -> Self {
        Self { elapsed, spent: Duration::ZERO, checked: HashMap::new() }
    }

    /// [`check`], unless the time is used up.
    ///
    /// # Errors
    /// As [`check`], and [`CelError::TooCostly`].
    pub fn check(&mut self, expression: &str) -> Result<(), CelError> {
        if let Some(known) = self.checked.get(expression) {
            return known.clone();
        }
        if self.spent >= MAX_CHECK_TIME {
            return Err(CelError::TooCostly);
        }
        let began = (self.elapsed)();
        let result = check(expression);
        self.spent += (self.elapsed)().saturating_sub(began);
        if self.checked.len() < Self::MAX_KNOWN_EXPRESSIONS
            && expression.len() <= Self::MAX_KNOWN_EXPRESSION_BYTES
        {
            self.checked.insert(expression.to_owned(), result.clone());
        }
        result
    }
}

/// A budget without a clock, which never runs out.
impl Default for CelBudget {
    fn default() -> Self {
        Self::new(|| Duration::ZERO)
    }
}

impl fmt::Debug for CelBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CelBudget").field("spent", &self.spent).finish_non_exhaustive()
    }
}
