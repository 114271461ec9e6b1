//! The sources of a configuration, read into layers: what each one sets.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use plist::{Dictionary, Value};

use super::finding::{Finding, FindingKind, Severity, Source};
use super::keys::{self, Key};
use super::profile::{self, Domain, DomainKeys};
use super::value::from_text;
use crate::files::{self, Obstacle};

/// The largest configuration file read, in bytes. Static rules in the thousands
/// take 1 MiB.
pub const MAX_FILE: u64 = 8 * 1024 * 1024;

/// Where macOS keeps managed preferences.
pub const MANAGED_PREFERENCES: &str = "/Library/Managed Preferences";

/// Where a configuration comes from, the strongest source first.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Sources {
    /// `Key=Value` texts of the command line; of a key given twice the last
    /// counts.
    pub sets: Vec<String>,
    /// The file named on the command line; it must be there.
    pub file: Option<PathBuf>,
    /// Files of the system, each of which may be missing; see
    /// [`system_files`].
    pub system: Vec<PathBuf>,
}

/// The files of this system, the strongest first: on macOS the managed
/// preferences of the device for each [`Domain`], elsewhere one file. What macOS
/// keeps for single users does not count: a user may install it without an
/// administrator, and this is root's daemon.
#[must_use]
pub fn system_files(macos: bool) -> Vec<PathBuf> {
    if !macos {
        return vec![PathBuf::from("/etc/santa-sync/config.plist")];
    }
    let root = Path::new(MANAGED_PREFERENCES);
    Domain::ALL.iter().map(|domain| root.join(format!("{}.plist", domain.name()))).collect()
}

/// What one source sets.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// Which source.
    pub source: Source,
    /// The domain of the keys; `None` outside profiles.
    pub domain: Option<Domain>,
    /// Its keys, known or not.
    pub values: Dictionary,
    /// Whether everyone may read the file, and the file is one whose mode is
    /// the administrator's to choose.
    pub exposed: bool,
}

impl Layer {
    /// Whether its keys are of one of Santa's domains.
    pub(super) fn is_santas(&self) -> bool {
        self.domain.is_some_and(Domain::is_santas)
    }
}

impl Sources {
    /// Every file that is or may come to be a source, to watch for changes.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        self.file.iter().chain(&self.system).cloned().collect()
    }

    /// Reads every source, the strongest first. A source that cannot be read
    /// is an error among the findings.
    pub(super) fn read(&self, findings: &mut Vec<Finding>) -> Vec<Layer> {
        let mut layers = Vec::new();
        if !self.sets.is_empty() {
            layers.push(Layer {
                source: Source::CommandLine,
                domain: None,
                values: read_sets(&self.sets, findings),
                exposed: false,
            });
        }
        if let Some(path) = &self.file {
            match read_file(path, findings) {
                Ok(read) => layers.extend(read),
                Err(problem) => findings.push(problem.finding(path)),
            }
        }
        let mut has_santas = false;
        for path in &self.system {
            let domain = domain_of(path);
            // A profile of the old domain is a left-over once there is one of
            // the new: mixing the two would bring back its stale keys.
            if domain == Some(Domain::Google) && has_santas {
                continue;
            }
            match read_file(path, findings) {
                Ok(read) => {
                    has_santas |= domain == Some(Domain::Santa);
                    layers.extend(
                        read.into_iter()
                            .map(|layer| Layer { domain: layer.domain.or(domain), ..layer }),
                    );
                }
                Err(FileProblem::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
                Err(problem) => findings.push(problem.finding(path)),
            }
        }
        layers
    }
}

/// The domain of a preference file, by its name.
fn domain_of(path: &Path) -> Option<Domain> {
    path.file_name()?.to_str()?.strip_suffix(".plist")?.parse().ok()
}

fn read_sets(sets: &[String], findings: &mut Vec<Finding>) -> Dictionary {
    let mut values = Dictionary::new();
    for set in sets {
        let Some((name, text)) = set.split_once('=') else {
            findings.push(Finding {
                severity: Severity::Error,
                kind: FindingKind::BadSet,
                key: None,
                source: Source::CommandLine,
                // The text may be a secret with its key forgotten.
                message: "a --set has no `=`".to_owned(),
                fix: "write --set Key=Value".to_owned(),
            });
            continue;
        };
        let name = name.trim();
        match keys::find(name).map(|key| (key, from_text(key, text))) {
            Some((_, Ok(value))) => {
                values.insert(name.to_owned(), value);
            }
            Some((key, Err(fix))) => findings.push(not_of_type(key, fix)),
            // Reported with the unknown keys of the files.
            None => {
                values.insert(name.to_owned(), Value::String(text.to_owned()));
            }
        }
    }
    values
}

fn not_of_type(key: &Key, fix: String) -> Finding {
    Finding {
        severity: if key.strict { Severity::Error } else { Severity::Warning },
        kind: FindingKind::WrongType,
        key: Some(key.name.to_owned()),
        source: Source::CommandLine,
        message: format!("the text is not {}", key.kind.phrase()),
        fix,
    }
}

enum FileProblem {
    Io(io::Error),
    NotAFile(String),
    TooLarge,
    Content(profile::ProfileError),
}

impl FileProblem {
    fn finding(self, path: &Path) -> Finding {
        let (kind, message, fix) = match self {
            Self::Io(error) if error.kind() == io::ErrorKind::PermissionDenied => (
                FindingKind::Unreadable,
                format!("cannot be read: {error}"),
                "run as the agent's user or as root",
            ),
            Self::Io(error) => (
                FindingKind::Unreadable,
                format!("cannot be read: {error}"),
                "check the path and its permissions",
            ),
            Self::NotAFile(what) => {
                (FindingKind::Unreadable, format!("is {what}"), "name a property list")
            }
            Self::TooLarge => (
                FindingKind::Malformed,
                "is larger than 8 MiB".to_owned(),
                "name a property list or a .mobileconfig",
            ),
            Self::Content(error) => (
                FindingKind::Malformed,
                error.to_string(),
                "write a property list or a .mobileconfig, and check it with `plutil -lint`",
            ),
        };
        Finding {
            severity: Severity::Error,
            kind,
            key: None,
            source: Source::File(path.to_owned()),
            message,
            fix: fix.to_owned(),
        }
    }
}

/// The layers in a file, one for each domain.
fn read_file(path: &Path, findings: &mut Vec<Finding>) -> Result<Vec<Layer>, FileProblem> {
    let bytes = files::read(path, MAX_FILE).map_err(|found| match found {
        Obstacle::Io(error) => FileProblem::Io(error),
        Obstacle::NotAFile(what) => FileProblem::NotAFile(what),
        Obstacle::TooLarge(_) => FileProblem::TooLarge,
    })?;
    let metadata = fs::metadata(path).map_err(FileProblem::Io)?;
    let mut domains = profile::read_domains(&bytes).map_err(FileProblem::Content)?;
    let managed = path.starts_with(MANAGED_PREFERENCES);
    let exposed = !managed && metadata.permissions().mode() & 0o004 != 0;
    let file = || Source::File(path.to_owned());
    let has = |domain| domains.iter().any(|of: &DomainKeys| of.domain == Some(domain));
    if has(Domain::Santa) && has(Domain::Google) {
        domains.retain(|of| of.domain != Some(Domain::Google));
        let (old, new) = (Domain::Google.name(), Domain::Santa.name());
        let message = format!("its payload for {old} has no effect beside the one for {new}");
        findings.push(warning(FindingKind::NoEffect, None, file(), message, "remove it"));
    }
    let single = domains.len() == 1;
    let mut layers = Vec::new();
    for DomainKeys { domain, keys, conflicts } in domains {
        let source = match domain {
            Some(domain) if !single => Source::Domain(path.to_owned(), domain),
            _ => file(),
        };
        for conflict in conflicts {
            let message = format!(
                "{} and {} set it to different values; the first counts here, and on a Mac it may \
                 be either",
                conflict.counts, conflict.ignored
            );
            let (kind, key) = (FindingKind::Conflict, Some(conflict.key));
            let fix = "set it in one payload only";
            findings.push(warning(kind, key, source.clone(), message, fix));
        }
        layers.push(Layer { source, domain, values: keys, exposed });
    }
    Ok(layers)
}

fn warning(
    kind: FindingKind,
    key: Option<String>,
    source: Source,
    message: String,
    fix: &str,
) -> Finding {
    let key = key.map(|key| key.chars().take(128).collect());
    Finding { severity: Severity::Warning, kind, key, source, message, fix: fix.to_owned() }
}
