//! The layers of ARCHITECTURE.md, read off the `use` lines.

use std::fs;
use std::path::{Path, PathBuf};

/// A module and the modules of ours it may name. The longest prefix counts.
const MAY_USE: &[(&str, &[&str])] = &[
    ("model", &["model"]),
    ("plist_bounded", &["plist_bounded"]),
    ("files", &["files"]),
    ("protocol", &["model", "plist_bounded", "protocol"]),
    ("sync::machine", &["model", "protocol", "sync::machine", "sync::plan", "sync::retry"]),
    ("sync::plan", &["model", "protocol"]),
    ("sync::retry", &["model", "protocol"]),
    ("transport", &["files", "model", "protocol", "sync::retry", "transport"]),
    ("store", &["files", "model", "sync::retry", "store"]),
    ("config", &["files", "model", "plist_bounded", "config"]),
    ("host", &["files", "model", "plist_bounded", "config", "host"]),
    ("clock", &["clock", "model"]),
    (
        "sync",
        &["clock", "config", "files", "host", "model", "protocol", "store", "sync", "transport"],
    ),
    (
        "harness",
        &[
            "clock",
            "config",
            "files",
            "harness",
            "host",
            "model",
            "protocol",
            "store",
            "sync",
            "transport",
        ],
    ),
    ("ingest", &["ingest", "model", "protocol", "store"]),
    ("control", &["clock", "control", "files", "host", "model", "store", "sync"]),
    (
        "daemon",
        &[
            "clock",
            "config",
            "control",
            "daemon",
            "files",
            "host",
            "ingest",
            "model",
            "plist_bounded",
            "protocol",
            "store",
            "sync",
            "transport",
        ],
    ),
    ("cli", &[""]),
    ("lib", &[""]),
    ("main", &[""]),
];

/// A word and the only module that may write it.
const HOME: &[(&str, &str)] = &[
    ("reqwest", "transport"),
    ("rusqlite", "store"),
    ("println!", "cli"),
    ("stdout()", "cli"),
    ("Instant::now", "clock"),
    ("SystemTime::now", "clock"),
    ("clock_gettime", "clock"),
];

fn sources() -> Vec<(String, String)> {
    fn walk(dir: &Path, into: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).expect("a source directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                walk(&path, into);
            } else if path.extension().is_some_and(|e| e == "rs") {
                into.push(path);
            }
        }
    }
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    walk(&src, &mut files);
    assert!(files.len() > 30, "the sources were not found");
    files
        .into_iter()
        .map(|path| {
            let relative = path.strip_prefix(&src).expect("below src").with_extension("");
            let parts: Vec<_> =
                relative.iter().map(|p| p.to_str().expect("UTF-8").to_owned()).collect();
            (parts.join("::"), fs::read_to_string(&path).expect("a source file"))
        })
        .collect()
}

fn within(module: &str, layer: &str) -> bool {
    layer.is_empty() || module == layer || module.starts_with(&format!("{layer}::"))
}

/// The modules a source names: of `use crate::a::{b, c}` and `crate::a::b`,
/// the paths up to the first brace; relative `super` paths are resolved.
fn named(module: &str, text: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let code: String = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n");
    let mut names = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let path: String =
            rest.chars().take_while(|c| c.is_alphanumeric() || matches!(c, '_' | ':')).collect();
        names.push(path.trim_matches(':').to_owned());
    }
    for (at, _) in code.match_indices("super::") {
        let before = &code[..at];
        if before.ends_with("super::") || before.ends_with("in ") {
            continue;
        }
        let supers = code[at..].split("super::").take_while(|s| s.is_empty()).count();
        let parents: Vec<_> = module.split("::").collect();
        let kept = parents.len().saturating_sub(supers);
        let rest = &code[at + supers * "super::".len()..];
        let first: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let mut path = parents[..kept].to_vec();
        if first.chars().next().is_some_and(char::is_lowercase) {
            path.push(&first);
        }
        if !path.is_empty() {
            names.push(path.join("::"));
        }
    }
    names
}

#[test]
fn every_module_uses_only_the_layers_below_it() {
    let mut wrong = Vec::new();
    for (module, text) in sources() {
        if module.ends_with("tests") {
            continue;
        }
        let (_, allowed) = MAY_USE
            .iter()
            .filter(|(layer, _)| within(&module, layer))
            .max_by_key(|(layer, _)| layer.len())
            .unwrap_or_else(|| panic!("{module} belongs to no layer of this test"));
        for name in named(&module, &text) {
            // `sync::retry` from below is named in full.
            if !allowed.iter().any(|layer| within(&name, layer)) {
                wrong.push(format!("{module} uses {name}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn each_library_has_one_home() {
    let mut wrong = Vec::new();
    for (module, text) in sources() {
        for (word, home) in HOME {
            let written = text
                .lines()
                .any(|line| !line.trim_start().starts_with("//") && line.contains(word));
            if written && !within(&module, home) {
                wrong.push(format!("{word} in {module}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The machine sees every pair of state and event.
#[test]
fn the_machine_has_no_catch_all_arm() {
    let text =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/sync/machine.rs"))
            .expect("the machine");
    let handle = text.split("pub fn handle").nth(1).expect("handle");
    let handle = handle.split("\n    fn ").next().expect("its body");
    assert!(!handle.contains("_ =>") && handle.contains("State::Finished"), "{handle}");
}
