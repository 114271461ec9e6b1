//! `tests/CONTRACT.md` against the tests: each id is pinned by one.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn rust_files(dir: &Path, into: &mut Vec<String>) {
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            rust_files(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(fs::read_to_string(&path).expect("a source file"));
        }
    }
}

/// The ids that stand in the documentation, the name or the body of a test.
fn ids_in_tests() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut texts = Vec::new();
    rust_files(&root.join("src"), &mut texts);
    rust_files(&root.join("tests"), &mut texts);
    let mut ids = BTreeSet::new();
    for text in texts {
        // A test's documentation stands right above its attribute; its name and
        // body below it, up to the closing brace of the same indentation.
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let attribute = line.trim_start();
            if !(attribute.starts_with("#[test]") || attribute.starts_with("#[tokio::test")) {
                continue;
            }
            let indent = line.len() - attribute.len();
            let above = lines[..at].iter().rev().take_while(|l| l.trim_start().starts_with("//"));
            let closing = format!("{}}}", " ".repeat(indent));
            let below = lines[at..].iter().take_while(|l| **l != closing);
            for line in above.chain(below) {
                ids.extend(ids_of(line));
            }
        }
    }
    ids
}

/// `RULE-4` and `rule_4_`, in a line.
fn ids_of(line: &str) -> Vec<String> {
    const AREAS: [&str; 11] =
        ["SYNC", "HTTP", "JSON", "PRE", "EV", "RULE", "STATE", "HOST", "CONF", "DAEMON", "RELAY"];
    let words = line.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_'));
    let mut found = Vec::new();
    for word in words {
        let upper = word.to_ascii_uppercase().replace('_', "-");
        let mut parts = upper.split('-');
        let (Some(area), Some(number)) = (parts.next(), parts.next()) else { continue };
        if AREAS.contains(&area) && number.parse::<u32>().is_ok() {
            found.push(format!("{area}-{number}"));
        }
    }
    found
}

#[test]
fn every_rule_of_the_contract_is_named_by_a_test() {
    let contract =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/CONTRACT.md"))
            .expect("the contract");
    let ids: Vec<&str> = contract
        .lines()
        .filter_map(|line| line.strip_prefix("- "))
        .filter_map(|line| line.split(':').next())
        .collect();
    assert!(ids.len() >= 60, "only {} ids were read", ids.len());
    let named = ids_in_tests();
    let missing: Vec<_> = ids.iter().filter(|id| !named.contains(**id)).collect();
    assert!(missing.is_empty(), "no test names {missing:?}");
}
