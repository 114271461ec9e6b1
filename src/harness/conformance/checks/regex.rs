//! Path expressions. Clients compile them with ICU, for which there is no crate. So what is
//! certainly wrong is told apart from what only cannot be compiled here.

use crate::harness::conformance::exchange::beginning;
use crate::harness::conformance::verdict::Judgement;

/// Executables of every host: whoever blocks one of these did not mean it.
const ORDINARY: [&str; 3] = [
    "/usr/bin/true",
    "/System/Library/CoreServices/Finder.app/Contents/MacOS/Finder",
    "/Applications/Santa.app/Contents/MacOS/Santa",
];

/// Judges an expression; `blocks` says that what it matches is blocked.
pub(super) fn judge(name: &str, expression: &str, blocks: bool) -> Judgement {
    if expression.is_empty() {
        return Judgement::info(format!(
            "{name} is empty: clients drop the expression that they have; left out, it stays"
        ));
    }
    if let Some(why) = certainly_wrong(expression) {
        return Judgement::fail(format!("{name} does not compile: {why}"))
            .harms("the setting is silently ignored");
    }
    // Clients match from the beginning of the path.
    let compiled = match fancy_regex::Regex::new(&format!("^(?:{expression})")) {
        Ok(compiled) => compiled,
        Err(error) => {
            let shown = beginning(expression.as_bytes());
            return Judgement::info(format!("{name} {shown} cannot be checked here: {error}"));
        }
    };
    let matched = ORDINARY.iter().find(|path| compiled.is_match(path).unwrap_or(false));
    match matched {
        Some(path) if blocks => Judgement::warning(format!("{name} matches {path}"))
            .harms("hosts cannot run programs of the system"),
        Some(_) | None => Judgement::pass(),
    }
}

/// What no dialect of expressions accepts: unbalanced brackets, a lone backslash at the end,
/// nothing to repeat.
fn certainly_wrong(expression: &str) -> Option<&'static str> {
    let mut chars = expression.chars().peekable();
    let (mut groups, mut class) = (0_u32, 0_u32);
    let mut is_repeatable = false;
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                None => return Some("a backslash at the end"),
                // Everything up to \E stands for itself.
                Some('Q') => return None,
                Some(_) => is_repeatable = true,
            },
            '[' if class > 0 => class += 1,
            '[' => {
                class = 1;
                // A bracket in the first place stands for itself.
                chars.next_if_eq(&'^');
                chars.next_if_eq(&']');
            }
            ']' if class > 0 => {
                class -= 1;
                is_repeatable = true;
            }
            _ if class > 0 => {}
            '(' => {
                groups += 1;
                is_repeatable = false;
                if chars.next_if_eq(&'?').is_some() && chars.peek() == Some(&'#') {
                    return None;
                }
            }
            ')' if groups == 0 => return Some("a bracket ) without its ("),
            ')' => {
                groups -= 1;
                is_repeatable = true;
            }
            '|' => is_repeatable = false,
            '*' | '+' | '?' if !is_repeatable => return Some("nothing to repeat"),
            _ => is_repeatable = true,
        }
    }
    match (groups, class) {
        (0, 0) => None,
        (_, 0) => Some("a bracket ( without its )"),
        (_, _) => Some("a bracket [ without its ]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::conformance::verdict::Verdict;

    #[test]
    fn an_expression_has_the_verdict_that_a_client_would_give_it() {
        for (expression, verdict) in [
            ("^/private/tmp/", Verdict::Pass),
            ("(?!)", Verdict::Pass),
            ("/Users/[^/]+/Downloads/.*", Verdict::Pass),
            ("(?i)/tmp/.*\\.sh$", Verdict::Pass),
            ("(?<name>/a)\\k<name>", Verdict::Pass),
            ("[]a]+/b", Verdict::Pass),
            ("", Verdict::Info),
            (".*", Verdict::Warning),
            ("/usr/.*|/opt", Verdict::Warning),
            ("(/tmp", Verdict::Fail),
            ("/tmp)", Verdict::Fail),
            ("[a-z", Verdict::Fail),
            ("*.app", Verdict::Fail),
            ("/a|+", Verdict::Fail),
            ("/a\\", Verdict::Fail),
            ("/a\\\\", Verdict::Pass),
            ("\\Q(\\E", Verdict::Info),
        ] {
            let found = judge("blocked_path_regex", expression, true);
            assert_eq!(found.verdict, verdict, "{expression:?}: {}", found.said);
        }
        assert_eq!(judge("allowed_path_regex", ".*", false).verdict, Verdict::Pass);
    }
}
