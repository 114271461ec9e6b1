//! Checks the commands in the documentation and the samples.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use crate::program::program;

/// The help of each command, by the command's words; `None` if the command does not exist.
#[derive(Default)]
struct Helps(HashMap<Vec<String>, Option<String>>);

impl Helps {
    fn of(&mut self, command: &[String]) -> Option<&str> {
        let help = self.0.entry(command.to_vec()).or_insert_with(|| {
            let output = program().args(command).arg("--help").output().unwrap();
            output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
        });
        help.as_deref()
    }
}

fn texts() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all: Vec<_> = ["", "docs", "benches"].into_iter().map(|name| root.join(name)).collect();
    all.extend(fs::read_dir(root.join("fixtures")).unwrap().map(|entry| entry.unwrap().path()));
    let files =
        all.iter().filter(|path| path.is_dir()).flat_map(|path| fs::read_dir(path).unwrap());
    files
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|name| name == "md" || name == "yaml"))
        .collect()
}

/// The lines of code in a file. A line that begins with an option continues the line before.
fn lines_of_code(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    let is_code = path.extension().is_some_and(|name| name == "yaml");
    let blocks: Vec<_> =
        if is_code { vec![text.as_str()] } else { text.split("```").skip(1).step_by(2).collect() };
    let mut lines: Vec<String> = Vec::new();
    let all = blocks.into_iter().flat_map(str::lines).map(str::trim);
    for line in all.filter(|line| !line.starts_with('#')) {
        let goes_on = lines.last().is_some_and(|last| last.ends_with('\\'));
        match lines.last_mut().filter(|_| goes_on || line.starts_with("--")) {
            Some(last) => *last = format!("{} {line}", last.trim_end_matches('\\')),
            None => lines.push(line.to_owned()),
        }
    }
    lines
}

/// The arguments after the program's name, up to the end of the command.
fn arguments(line: &str) -> Option<&str> {
    let (before, after) = line.split_once("santa-sync ")?;
    let path = before.rsplit(' ').next().unwrap_or_default();
    let is_run = path.is_empty() || (path.ends_with('/') && !path.contains('='));
    is_run.then(|| after.split(['|', ';', '&', ')', '<', '>', '#']).next().unwrap_or_default())
}

#[test]
fn documented_commands_accept_the_options_that_they_are_shown_with() {
    let mut helps = Helps::default();
    let (mut commands, mut wrong) = (0, Vec::new());
    for path in texts() {
        for line in lines_of_code(&path) {
            let Some(arguments) = arguments(&line) else { continue };
            let words: Vec<_> = arguments.split_whitespace().map(str::to_owned).collect();
            let mut end = 0;
            while words
                .get(end)
                .is_some_and(|word| word.starts_with(|c: char| c.is_ascii_lowercase()))
                && helps.of(&words[..=end]).is_some()
            {
                end += 1;
            }
            if end == 0 {
                // Otherwise it is not a command, but a file name, a version or a lone option.
                if words
                    .first()
                    .is_some_and(|word| word.starts_with(|c: char| c.is_ascii_lowercase()))
                {
                    wrong.push(format!("{}: no such command: {line}", path.display()));
                }
                continue;
            }
            commands += 1;
            let help = helps.of(&words[..end]).unwrap();
            let known: BTreeSet<_> =
                help.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).collect();
            let options = words.iter().filter(|word| word.starts_with("--"));
            for option in options.map(|word| word.split('=').next().unwrap_or_default()) {
                if !known.contains(option) {
                    wrong.push(format!("{}: {option} in {line}", path.display()));
                }
            }
        }
    }
    assert_eq!(wrong, [""; 0]);
    assert!(commands >= 40, "only {commands} commands were found");
}

#[test]
fn a_command_is_found_with_all_of_its_options() {
    let found = |line| arguments(line).map(str::trim);
    assert_eq!(found("exec santa-sync harness serve --quiet; }"), Some("harness serve --quiet"));
    assert_eq!(found("sudo /usr/local/bin/santa-sync status | jq ."), Some("status"));
    assert_eq!(found("mkdir x-santa-sync y"), None);
    assert_eq!(found("SANTA_SYNC=target/debug/santa-sync python3"), None);
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/kubernetes/simulation.yaml");
    let lines = lines_of_code(&sample);
    let simulate = lines.iter().find(|line| line.contains("harness simulate")).unwrap();
    assert!(simulate.contains("--i-own-this-server") && simulate.contains("--save"), "{simulate}");
}
