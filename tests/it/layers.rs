//! The layers of ARCHITECTURE.md, read off the items of every source file.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the syntax has many kinds of items, and the test looks at some"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};

/// The layers from the ground up. None uses one above itself. `serve`, `relay`
/// and the facade `agent` are part of the design before they are written.
const ORDER: &[&str] = &[
    "model",
    "plist_bounded",
    "mapped_buffer",
    "failure",
    "protocol",
    "clock",
    "files",
    "transport",
    "store",
    "ingest",
    "config",
    "host",
    "sync",
    "control",
    "agent",
    "serve",
    "relay",
    "daemon",
    "harness",
    "cli",
];

/// A module and what it may use besides itself; the longest name that fits a
/// file counts. A grant that no file uses fails, too.
const MAY_USE: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("plist_bounded", &[]),
    ("mapped_buffer", &[]),
    ("files", &[]),
    ("failure", &["model"]),
    ("protocol", &["failure", "mapped_buffer", "model", "plist_bounded"]),
    ("sync::machine", &["failure", "model", "protocol", "sync::plan", "sync::retry"]),
    ("sync::plan", &["model", "protocol"]),
    ("sync::retry", &["model"]),
    ("sync::schedule", &["model"]),
    ("transport", &["failure", "files", "model", "protocol"]),
    ("store", &["failure", "files", "model"]),
    ("config", &["failure", "files", "model", "plist_bounded"]),
    ("host", &["failure", "files", "model", "plist_bounded", "config"]),
    ("clock", &["model"]),
    ("sync", &["clock", "config", "failure", "files", "model", "protocol", "store", "transport"]),
    (
        "harness::simulation",
        &[
            "clock",
            "config",
            "failure",
            "harness::fixtures",
            "harness::html",
            "harness::toml_file",
            "model",
            "protocol",
            "store",
            "sync",
            "transport",
        ],
    ),
    ("harness", &["clock", "failure", "files", "model", "protocol", "serve"]),
    (
        "harness::conformance",
        &[
            "clock",
            "config",
            "failure",
            "harness",
            "model",
            "protocol",
            "store",
            "sync",
            "transport",
        ],
    ),
    ("ingest", &["model", "protocol", "store"]),
    ("serve", &["failure", "mapped_buffer"]),
    (
        "control",
        &[
            "clock",
            "config",
            "failure",
            "files",
            "host",
            "ingest",
            "model",
            "store",
            "sync",
            "transport",
        ],
    ),
    (
        "agent",
        &[
            "clock",
            "config",
            "control",
            "failure",
            "host",
            "ingest",
            "model",
            "protocol",
            "store",
            "sync",
            "transport",
        ],
    ),
    (
        "relay",
        &[
            "clock",
            "config",
            "control",
            "failure",
            "files",
            "host",
            "ingest",
            "mapped_buffer",
            "model",
            "protocol",
            "serve",
            "store",
            "sync",
        ],
    ),
    (
        "daemon",
        &[
            "agent",
            "clock",
            "config",
            "control",
            "failure",
            "files",
            "host",
            "ingest",
            "model",
            "plist_bounded",
            "relay",
            "store",
            "sync",
            "transport",
        ],
    ),
];

/// A library or function, and the only module that names it.
const HOME: &[(&str, &str)] = &[
    ("memmap2", "mapped_buffer"),
    ("reqwest", "transport"),
    ("rusqlite", "store"),
    ("service_sockets", "daemon"),
    ("println", "cli"),
    ("io::stdout", "cli"),
    ("Instant::now", "clock"),
    ("SystemTime::now", "clock"),
    ("clock_gettime", "clock"),
];

/// Words with which statements of SQL begin.
const SQL: &[&str] =
    &["SELECT ", "INSERT ", "UPDATE ", "DELETE FROM ", "CREATE TABLE ", "PRAGMA ", "ATTACH "];

/// What a module's code, its tests aside, is made of.
#[derive(Default)]
struct Names {
    /// The module that is being read.
    module: Vec<String>,
    /// Paths of this crate, from its root.
    own: BTreeSet<String>,
    /// Every other path, and the names of macros.
    others: BTreeSet<String>,
    texts: Vec<String>,
}

impl Names {
    fn add(&mut self, segments: &[String]) {
        let mut path = match segments.first().map(String::as_str) {
            Some("crate") => Vec::new(),
            Some("self" | "super") => self.module.clone(),
            _ => {
                self.others.insert(segments.join("::"));
                return;
            }
        };
        for segment in segments {
            match segment.as_str() {
                "crate" | "self" => {}
                "super" => drop(path.pop()),
                name => path.push(name.to_owned()),
            }
        }
        self.own.insert(path.join("::"));
    }

    fn add_use(&mut self, tree: &syn::UseTree, before: &mut Vec<String>) {
        match tree {
            syn::UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.add_use(&path.tree, before);
                before.pop();
            }
            syn::UseTree::Name(syn::UseName { ident })
            | syn::UseTree::Rename(syn::UseRename { ident, .. }) => {
                before.push(ident.to_string());
                self.add(before);
                before.pop();
            }
            syn::UseTree::Glob(_) => self.add(before),
            syn::UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.add_use(tree, before));
            }
        }
    }

    /// The arguments of a macro are not parsed; the paths in them are read all
    /// the same.
    fn add_tokens(&mut self, tokens: &str) {
        let mut path: Vec<String> = Vec::new();
        let mut is_open = false;
        for token in tokens.split_whitespace() {
            let is_name = token.starts_with(|c: char| c.is_alphabetic() || c == '_');
            if token == "::" {
                is_open = true;
            } else if is_name && is_open {
                path.push(token.to_owned());
                is_open = false;
            } else {
                self.add(&path);
                path = if is_name { vec![token.to_owned()] } else { Vec::new() };
                is_open = false;
            }
        }
        self.add(&path);
        self.texts.push(tokens.to_owned());
    }
}

/// Whether an item is for tests alone.
fn is_for_tests(attrs: &[syn::Attribute]) -> bool {
    attrs.iter().any(|attr| match &attr.meta {
        syn::Meta::List(list) if list.path.is_ident("cfg") => {
            let words = list.tokens.to_string();
            words.split(|c: char| !c.is_alphanumeric()).any(|word| word == "test")
                && !words.contains("not (test)")
        }
        syn::Meta::Path(path) => path.is_ident("test"),
        _ => false,
    })
}

impl Visit<'_> for Names {
    fn visit_item(&mut self, item: &syn::Item) {
        let attrs: &[syn::Attribute] = match item {
            syn::Item::Const(item) => &item.attrs,
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            syn::Item::Mod(item) => &item.attrs,
            syn::Item::Static(item) => &item.attrs,
            syn::Item::Struct(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            _ => &[],
        };
        if !is_for_tests(attrs) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &syn::ImplItemFn) {
        if !is_for_tests(&item.attrs) {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &syn::ItemMod) {
        self.module.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &syn::ItemUse) {
        self.add_use(&item.tree, &mut Vec::new());
    }

    /// `pub(in path)` uses nothing.
    fn visit_visibility(&mut self, _: &syn::Visibility) {}

    /// Comments use nothing, and `serde(with = "..")` names functions beside it.
    fn visit_attribute(&mut self, _: &syn::Attribute) {}

    fn visit_path(&mut self, path: &syn::Path) {
        let names: Vec<_> = path.segments.iter().map(|part| part.ident.to_string()).collect();
        self.add(&names);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &syn::Macro) {
        visit::visit_macro(self, call);
        self.add_tokens(&call.tokens.to_string());
    }

    fn visit_lit_str(&mut self, text: &syn::LitStr) {
        self.texts.push(text.value());
    }
}

/// Every module of the program with what its code names.
fn modules() -> Vec<(String, Names)> {
    fn walk(dir: &Path, into: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).expect("a source directory") {
            let path = entry.expect("an entry").path();
            // A package of its own is no module.
            if path.is_dir() && !path.join("Cargo.toml").exists() {
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
    let parsed = files.iter().map(|path| {
        let relative = path.strip_prefix(&src).expect("below src").with_extension("");
        let module = relative.iter().map(|part| part.to_str().expect("UTF-8").to_owned()).collect();
        let text = fs::read_to_string(path).expect("a source file");
        let file =
            syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut names = Names { module, ..Names::default() };
        names.visit_file(&file);
        (names.module.join("::"), names)
    });
    let is_test = |name: &str| name.ends_with("tests") || name.contains("tests::");
    parsed.filter(|(module, _)| !is_test(module) && !module.ends_with("_test")).collect()
}

fn within(module: &str, layer: &str) -> bool {
    module == layer || module.strip_prefix(layer).is_some_and(|rest| rest.starts_with("::"))
}

fn top(module: &str) -> &str {
    module.split_once("::").map_or(module, |(first, _)| first)
}

#[test]
fn every_module_uses_only_the_layers_it_may() {
    let place = |layer: &str| {
        ORDER.iter().position(|name| *name == layer).unwrap_or_else(|| panic!("{layer}: no layer"))
    };
    let mut wrong = Vec::new();
    let mut unused: BTreeSet<(&str, &str)> = BTreeSet::new();
    for (layer, grants) in MAY_USE {
        for grant in *grants {
            let (height, other) = (place(top(layer)), place(top(grant)));
            if height < other && !layer.contains("::") && !grant.contains("::") {
                wrong.push(format!("{layer} stands below {grant}"));
            }
            unused.insert((layer, grant));
        }
    }
    for (module, names) in modules() {
        // The crate itself and the top layer use everything.
        if matches!(top(&module), "lib" | "main" | "cli") {
            continue;
        }
        let (layer, grants) = MAY_USE
            .iter()
            .filter(|(layer, _)| within(&module, layer))
            .max_by_key(|(layer, _)| layer.len())
            .unwrap_or_else(|| panic!("{module} belongs to no layer of this test"));
        for name in &names.own {
            match grants.iter().find(|grant| within(name, grant)) {
                Some(grant) => drop(unused.remove(&(layer, grant))),
                None if within(name, layer) => {}
                None => wrong.push(format!("{module} uses {name}")),
            }
        }
    }
    wrong.extend(unused.iter().map(|(layer, grant)| format!("no module of {layer} uses {grant}")));
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn each_library_has_one_home() {
    let mut wrong = Vec::new();
    for (module, names) in modules() {
        for (word, home) in HOME {
            let is_named = |path: &String| {
                path == word
                    || path.starts_with(&format!("{word}::"))
                    || path.ends_with(&format!("::{word}"))
            };
            if names.others.iter().any(is_named) && !within(&module, home) {
                wrong.push(format!("{word} in {module}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn sql_is_written_in_the_store_only() {
    let is_sql = |text: &String| SQL.iter().any(|word| text.contains(word));
    let wrong: Vec<_> = modules()
        .into_iter()
        .filter(|(module, _)| !within(module, "store"))
        .filter_map(|(module, names)| Some((module, names.texts.into_iter().find(is_sql)?)))
        .collect();
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
