//! Whether the expression of a CEL rule parses. What it means, and whether the
//! host knows its names, is the authorizer's business.

use std::collections::HashMap;
use std::thread;

/// The longest expression that is looked at, in bytes. Servers hold them in
/// columns of a few KiB.
pub const EXPRESSION_MAX: usize = 16 * 1024;

/// Address space for parsing one expression. The parser descends far for
/// each bracket, and once for each operator of a chain such as `1+1+1`; measured, the worst chain of
/// [`EXPRESSION_MAX`] bytes touches under a quarter of it. Pages not touched
/// are not taken.
const STACK: usize = 128 << 20;

/// Checks that an expression parses.
///
/// # Errors
/// The parser's first complaint, or that the expression is longer than
/// [`EXPRESSION_MAX`].
pub fn check(expression: &str) -> Result<(), String> {
    if expression.len() > EXPRESSION_MAX {
        return Err(format!(
            "it is {} bytes long; at most {EXPRESSION_MAX} are looked at",
            expression.len()
        ));
    }
    // A thread of its own: the text decides how deep the parser goes, and a
    // panic in it must cost this expression alone.
    thread::scope(|scope| {
        let parse = || match cel::parser::Parser::default().parse(expression) {
            Ok(_) => Ok(()),
            Err(errors) => Err(first_line(&errors.to_string())),
        };
        let parser = thread::Builder::new().name("cel-check".to_owned()).stack_size(STACK);
        match parser.spawn_scoped(scope, parse) {
            Ok(running) => running.join().unwrap_or_else(|_| Err("the parser fails on it".into())),
            Err(error) => Err(format!("it cannot be checked: {error}")),
        }
    })
}

/// Expressions checked so far: servers put one and the same on many rules.
#[derive(Debug, Default)]
pub struct Checked(HashMap<String, Result<(), String>>);

impl Checked {
    /// How many expressions are remembered.
    const KEPT: usize = 256;

    /// [`check`], once for each expression that is remembered.
    ///
    /// # Errors
    /// As [`check`].
    pub fn check(&mut self, expression: &str) -> Result<(), String> {
        if let Some(known) = self.0.get(expression) {
            return known.clone();
        }
        let result = check(expression);
        if self.0.len() < Self::KEPT {
            self.0.insert(expression.to_owned(), result.clone());
        }
        result
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RULE-4: what Santa's documentation shows parses.
    #[test]
    fn rule_4_expressions_as_people_write_them_parse() {
        for good in [
            "target.signing_time >= timestamp('2025-05-31T00:00:00Z')",
            "euid == 0 ? REQUIRE_TOUCHID : ALLOWLIST",
            "args.exists(arg, arg == '--inspect') ? BLOCKLIST : ALLOWLIST",
            "!('--flag' in args) && envs['PATH'].startsWith(\"/usr\")",
            "true",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
    }

    /// RULE-4: what does not parse is told, in one line.
    #[test]
    fn rule_4_what_does_not_parse_is_told() {
        for bad in ["target.signing_time >=", "a b", "(1", "'", "}", "", "a ? b", "\u{0}"] {
            let error = check(bad).expect_err(bad);
            assert!(!error.is_empty() && !error.contains('\n'), "{error:?}");
        }
        let error = check(&"1".repeat(EXPRESSION_MAX + 1)).expect_err("too long");
        assert!(error.contains("16385 bytes long"), "{error}");
    }

    #[test]
    fn rule_4_a_remembered_expression_has_the_same_answer() {
        let mut checked = Checked::default();
        for _ in 0..2 {
            assert_eq!(checked.check("true"), Ok(()));
            assert_eq!(checked.check("1 +"), check("1 +"));
        }
        for n in 0..2 * Checked::KEPT {
            assert_eq!(checked.check(&format!("{n}")), Ok(()));
        }
        assert_eq!(checked.0.len(), Checked::KEPT);
    }

    /// A hostile expression costs its rule and nothing more, however deep.
    #[test]
    fn deep_expressions_are_bounded() {
        for (open, core, close) in [
            ("(", "1", ")"),
            ("[", "1", "]"),
            ("{1:", "1", "}"),
            ("!", "a", ""),
            ("-", "1", ""),
            ("a?b:", "c", ""),
            ("a?", "b", ":c"),
            ("f(", "1", ")"),
            ("a.map(b,", "b", ")"),
            ("", "1", "+1"),
            ("", "a", ".a"),
            ("", "a", "[0]"),
            ("", "a", "<a"),
            ("", "a", "&&a"),
            ("", "a", "||a"),
            ("", "a", " in a"),
            ("'", "", "'"),
            ("\\", "", ""),
        ] {
            let times = (EXPRESSION_MAX - core.len()) / (open.len() + close.len());
            let deep = format!("{}{core}{}", open.repeat(times), close.repeat(times));
            let _ = check(&deep);
            let unfinished = format!("{}{core}", open.repeat(times.min(500)));
            let _ = check(&unfinished);
            let times = (256 - core.len()) / (open.len() + close.len());
            let short = format!("{}{core}{}", open.repeat(times), close.repeat(times));
            let _ = check(&short);
        }
    }
}
