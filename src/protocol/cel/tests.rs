use std::cell::Cell;

use super::*;

fn syntax(expression: &str) -> String {
    match check(expression) {
        Err(CelError::Syntax(reason)) => reason,
        other => panic!("{expression:?}: {other:?}"),
    }
}

/// RULE-4: what Santa's documentation shows parses.
#[test]
fn rule_4_expressions_as_people_write_them_parse() {
    for good in [
        "target.signing_time >= timestamp('2025-05-31T00:00:00Z')",
        "euid == 0 ? BLOCKLIST : ALLOWLIST",
        "args.exists(arg, arg == '--inspect') ? BLOCKLIST : ALLOWLIST",
        "!('--flag' in args) && envs['PATH'].startsWith(\"/usr\")",
        "true",
        "  // why\n a ? b : c ? d : e // at the end",
        "santa.Target{signing_time: 1, b: 2,}.x[-9223372036854775808]",
        r#"[r'\d', b"\x00", '''a
            'b' \u00e4''', """"x""", 0x1Fu, .5, 1e-3, -.5e1]"#,
        "has(a.b) && [1,].all(x, x > 0) || {'a': {}}.map(k, true, k).size() == - -1",
        "a\u{0c}==\r\n\tnull",
        "as.while{a: 1}",
    ] {
        assert_eq!(check(good), Ok(()), "{good}");
    }
}

/// RULE-4: what does not parse is reported in one line that shows where.
#[test]
fn rule_4_what_does_not_parse_is_reported_with_its_place() {
    for (bad, reason) in [
        ("target.signing_time >=", "an operand is missing, at byte 22"),
        ("a b", "b is not expected there, at byte 2"),
        ("(1", "it breaks off"),
        ("'", "a string that does not end, at byte 0"),
        ("'a\nb'", "a string that does not end, at byte 0"),
        ("}", "an operand is missing, at byte 0"),
        ("", "an operand is missing, at byte 0"),
        ("a ? b", "it breaks off"),
        ("a ? b ? c : d : e", "? is not expected there, at byte 6"),
        ("a == \u{0}", "a character that no expression has outside a string, at byte 5"),
        ("a = 1", "a character that no expression has outside a string, at byte 2"),
        ("ä", "a character that no expression has outside a string, at byte 0"),
        ("while", "while is a reserved word, at byte 5"),
        ("has(a)", "the argument of has() is not a field, at byte 6"),
        ("l.all(1, true)", "the first argument of all() is not a name, at byte 14"),
        ("'\\q'", "an unknown escape in a string, at byte 0"),
        ("'\\ud800'", "an unknown escape in a string, at byte 0"),
        ("9223372036854775808", "a number out of range, at byte 0"),
        ("1e999", "a number out of range, at byte 0"),
    ] {
        assert_eq!(syntax(bad), reason, "{bad:?}");
    }
    for bad in [
        "[,1]",
        "[1,,]",
        "f(1,)",
        "a.b{c}",
        "f(){a: 1}",
        "!-a",
        "-!a",
        "a.",
        "a..b",
        "1x",
        "as.b",
        "as(1)",
        "as[0]",
    ] {
        let reason = syntax(bad);
        assert!(!reason.is_empty() && !reason.contains('\n'), "{reason:?}");
    }
}

/// RULE-4, case 141: results of protocol version 2 are refused, and only those.
#[test]
fn rule_4_touch_id_results_are_refused_as_the_reference_refuses_them() {
    for name in ["REQUIRE_TOUCHID", "REQUIRE_TOUCHID_ONLY"] {
        let refused = Err(CelError::TouchId(name.to_owned()));
        assert_eq!(check(&format!("euid == 0 ? {name} : ALLOWLIST")), refused);
        assert_eq!(check(&format!("[a, {name}][1]")), refused);
    }
    let call = check("require_touchid_with_cooldown_minutes(10)");
    assert!(matches!(call, Err(CelError::TouchId(_))), "{call:?}");
    for good in ["'REQUIRE_TOUCHID' in args", "a.REQUIRE_TOUCHID", "NOT_REQUIRE_TOUCHID"] {
        assert_eq!(check(good), Ok(()), "{good}");
    }
}

/// HTTP-8: 64 KiB are taken, and not a byte more.
#[test]
fn http_8_an_expression_of_64_kib_is_taken() {
    let strings = format!("target.cdhash in ['{}']", "a".repeat(MAX_EXPRESSION_BYTES));
    let (longest, rest) = strings.split_at(MAX_EXPRESSION_BYTES - 2);
    assert_eq!(check(&format!("{longest}']")), Ok(()));
    assert!(!rest.is_empty());
    let error = check(&"1".repeat(MAX_EXPRESSION_BYTES + 1)).expect_err("too long");
    assert_eq!(error.to_string(), "is 65537 bytes long; at most 65536 are taken");
}

thread_local! {
    static TIME: Cell<u64> = const { Cell::new(0) };
}

/// A clock by which each expression takes a second.
fn a_second_each() -> Duration {
    Duration::from_secs(TIME.replace(TIME.get() + 1))
}

/// SYNC-6: beyond 10 s in all, expressions are refused unread; those that are
/// known stay known.
#[test]
fn sync_6_expressions_beyond_ten_seconds_of_a_sync_are_too_costly() {
    let mut budget = CelBudget::new(a_second_each);
    for n in 0..10 {
        assert_eq!(budget.check(&format!("{n}")), Ok(()), "{n}");
    }
    let refused = budget.check("10");
    assert_eq!(refused, Err(CelError::TooCostly));
    assert!(refused.expect_err("refused").to_string().contains("too_costly"));
    assert_eq!(budget.check("3"), Ok(()));
    assert_eq!(CelBudget::new(a_second_each).check("10"), Ok(()));
}

#[test]
fn rule_4_a_remembered_expression_has_the_same_answer_and_few_are_remembered() {
    let mut budget = CelBudget::default();
    for _ in 0..2 {
        assert_eq!(budget.check("true"), Ok(()));
        assert_eq!(budget.check("1 +"), check("1 +"));
    }
    let long = format!("'{}'", "x".repeat(CelBudget::MAX_KNOWN_EXPRESSION_BYTES));
    assert_eq!(budget.check(&long), Ok(()));
    assert!(!budget.checked.contains_key(&long));
    for n in 0..2 * CelBudget::MAX_KNOWN_EXPRESSIONS {
        assert_eq!(budget.check(&format!("{n}")), Ok(()));
    }
    assert_eq!(budget.checked.len(), CelBudget::MAX_KNOWN_EXPRESSIONS);
}

/// SYNC-6: a hostile expression costs its rule and nothing more, however deep
/// and long. Each of these has the full length; reading them all on the small
/// stack of a test takes moments.
#[test]
fn sync_6_an_expression_takes_time_by_its_length_and_no_stack() {
    for (open, core, close) in [
        ("(", "1", ")"),
        ("[", "1", "]"),
        ("{1:", "1", "}"),
        ("!", "a", ""),
        ("-", "a", ""),
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
        ("\u{7f}", "", ""),
        ("#@", "", ""),
        ("a{", "", "}"),
        ("''''", "", ""),
        ("//\n", "a", ""),
    ] {
        let times = (MAX_EXPRESSION_BYTES - core.len()) / (open.len() + close.len());
        let deep = format!("{}{core}{}", open.repeat(times), close.repeat(times));
        let flat = matches!(open, "" | "!" | "-" | "a?b:" | "//\n");
        assert_eq!(check(&deep).is_ok(), flat, "{open}{core}{close}");
        let _ = check(&open.repeat(times));
        let times = MAX_DEPTH - 1;
        let nested = format!("{}{core}{}", open.repeat(times), close.repeat(times));
        let brackets = matches!(open, "(" | "[" | "{1:" | "f(" | "a.map(b,");
        assert_eq!(check(&nested).is_ok(), flat || brackets, "{open}{core}{close}");
    }
}

/// Against another parser of the language, which shares nothing with this one.
mod differential {
    use proptest::prelude::*;

    use super::*;

    fn word() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec![
            "a", "b", "all", "has", "map", "as", "in", "true", "null", "0", "7u", "1.5", ".5", "-",
            "!", "(", ")", "[", "]", "{", "}", ",", ":", "?", ".", "==", "<", "+", "%", "&&", "||",
            "'x'", "b\"y\"", "r'\\'", "\"\\n\"", "'''z'''", "`q`", " ", "//c\n", "has(a.b)",
            "a.all(b,", "(a)", "[1,2]", "{a:1}", "f(a)", "a.b", "a[0]", "1 + 2", "0x1f",
        ])
    }

    fn theirs(expression: &str) -> bool {
        let expression = expression.to_owned();
        let parse = move || cel::parser::Parser::default().parse(&expression).is_ok();
        // It may panic, and descends far.
        let parser = std::thread::Builder::new().stack_size(64 << 20).spawn(parse);
        parser.expect("a thread").join().unwrap_or(false)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

        #[test]
        fn rule_4_both_parsers_take_the_same_expressions(
            words in prop::collection::vec(word(), 1..9)
        ) {
            let expression = words.concat();
            prop_assert_eq!(check(&expression).is_ok(), theirs(&expression), "{:?}: {:?}", expression, check(&expression));
        }
    }
}
