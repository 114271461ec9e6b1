//! The layers of this host: nothing here uses the network.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use super::super::config::in_use;
use super::{Layer, Line};
use crate::clock::Clock;
use crate::config::{Finding, FindingKind, Loaded, Severity, Source};
use crate::host::{HostReport, HostSource};
use crate::model::{SyncResult, Timestamp};
use crate::store::{EventStore, StateLock, Store, StoreError};

pub(super) fn configuration(loaded: &Loaded, clock: &dyn Clock) -> Vec<Line> {
    let layer = Layer::Configuration;
    let mut findings = loaded.findings.clone();
    findings.extend(in_use(loaded, clock.now().wall));
    let line = |finding: &Finding| {
        let key = finding.key.as_ref().map(|key| format!("{key}: ")).unwrap_or_default();
        let source = match &finding.source {
            Source::Default => String::new(),
            source @ (Source::CommandLine | Source::File(_)) => format!(" (in {source})"),
        };
        let message = format!("{key}{}{source}", finding.message);
        if finding.kind == FindingKind::MissingUrl {
            // A warning where the configuration is only read; no sync gets by.
            let result = SyncResult::MissingSyncBaseUrl;
            return Some(Line {
                kind: Some(result.name()),
                exit_code: result.exit_code(),
                ..Line::problem(layer, message, &finding.fix)
            });
        }
        match finding.severity {
            Severity::Error => Some(Line::problem(layer, message, &finding.fix)),
            Severity::Warning => Some(Line::warning(layer, message, &finding.fix)),
            Severity::Note => None,
        }
    };
    let lines: Vec<_> = findings.iter().filter_map(line).collect();
    if !lines.is_empty() {
        return lines;
    }
    let sources: Vec<_> = loaded.sources.iter().map(ToString::to_string).collect();
    vec![Line::ok(
        layer,
        format!("{} keys from {}", loaded.effective.iter().count(), sources.join(", ")),
    )]
}

pub(super) fn identity(report: &HostReport) -> Vec<Line> {
    let layer = Layer::Identity;
    let mut lines = vec![match &report.machine_id {
        Ok((id, source)) => Line::ok(layer, format!("machine id {id} ({source})")),
        Err(problem) => Line::of_error(layer, &problem.to_string(), "set MachineID"),
    }];
    let warnings = report.problems.iter();
    let fix = "`santa-sync whoami` shows what stands in for it";
    lines.extend(warnings.map(|problem| Line::warning(layer, problem, fix)));
    lines
}

pub(super) fn state_directory(dir: &Path) -> Vec<Line> {
    let layer = Layer::StateDirectory;
    let shown = dir.display();
    let metadata = match std::fs::metadata(dir) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return vec![missing_directory(dir)];
        }
        Err(error) => {
            let fix = "run as the agent's user or as root";
            return vec![Line::problem(
                layer,
                format!("{shown} cannot be looked at: {error}"),
                fix,
            )];
        }
    };
    if !metadata.is_dir() {
        let fix = "name another with --state-dir or StateDirectory";
        return vec![Line::problem(layer, format!("{shown} is not a directory"), fix)];
    }
    let mut lines = Vec::new();
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o022 != 0 {
        let message = format!("{shown} can be written by others (mode {mode:o})");
        lines.push(Line::problem(layer, message, format!("chmod 0700 {shown}")));
    } else if mode & 0o077 != 0 {
        let message = format!("{shown} can be read by others (mode {mode:o})");
        lines.push(Line::warning(layer, message, format!("chmod 0700 {shown}")));
    }
    let me = rustix::process::geteuid();
    let access =
        rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    if rustix::fs::access(dir, access).is_err() {
        let message = format!(
            "{shown} belongs to user {} and this is user {}, who may not write there",
            metadata.uid(),
            me.as_raw()
        );
        let fix = "run as the agent's user or as root, or name another with --state-dir";
        lines.push(Line::problem(layer, message, fix));
    }
    if lines.is_empty() {
        lines.push(Line::ok(layer, format!("{shown} is there and private")));
    }
    lines
}

/// The first sync makes the directory, if it may.
fn missing_directory(dir: &Path) -> Line {
    let layer = Layer::StateDirectory;
    let shown = dir.display();
    let parent = dir.ancestors().skip(1).find(|parent| parent.is_dir());
    let writable = parent
        .is_some_and(|parent| rustix::fs::access(parent, rustix::fs::Access::WRITE_OK).is_ok());
    if writable {
        Line::ok(layer, format!("{shown} does not exist yet; the first sync makes it"))
    } else {
        let fix = "run as root once, or name another with --state-dir or StateDirectory";
        Line::problem(layer, format!("{shown} does not exist and cannot be made"), fix)
    }
}

pub(super) fn stores(dir: &Path) -> Vec<Line> {
    let layer = Layer::Stores;
    if !dir.is_dir() {
        return vec![Line::skipped(layer, "there is no state directory yet")];
    }
    let mut lines = Vec::new();
    let found = Store::open_read_only(dir).and_then(|store| {
        let complete = store.rules_complete()?;
        Ok((store.rule_counts()?, store.rules_hash()?, complete))
    });
    lines.push(match found {
        Ok((counts, hash, complete)) => {
            let rules = u64::from(counts.binary)
                + u64::from(counts.certificate)
                + u64::from(counts.teamid)
                + u64::from(counts.signingid)
                + u64::from(counts.cdhash);
            if complete {
                Line::ok(layer, format!("rules.db holds {rules} rules, hash {hash}"))
            } else {
                let message = "rules.db has not seen a complete rule download, so LOCKDOWN is \
                               held back";
                Line::warning(layer, message, "let one sync succeed: `santa-sync sync`")
            }
        }
        Err(StoreError::Missing { .. }) => {
            Line::skipped(layer, "rules.db does not exist; the first sync creates it")
        }
        Err(error) => Line::of_error(layer, &error.to_string(), "see the log of the last sync"),
    });
    let found = EventStore::open_read_only(dir)
        .and_then(|events| Ok((events.pending()?, events.oldest()?)));
    lines.push(match found {
        Ok((0, _)) => Line::ok(layer, "events.db holds no event"),
        Ok((pending, oldest)) => {
            let since = oldest.map(|oldest| format!(", the oldest since {oldest}"));
            let since = since.unwrap_or_default();
            Line::ok(layer, format!("events.db holds {pending} events to send{since}"))
        }
        Err(StoreError::Missing { .. }) => {
            Line::skipped(layer, "events.db does not exist; the first sync creates it")
        }
        Err(error) => Line::of_error(layer, &error.to_string(), "see the log of the last sync"),
    });
    if StateLock::is_held(dir) {
        lines.push(Line::ok(layer, "a sync is running just now"));
    }
    lines
}

/// The name of the service with systemd and with launchd.
const UNIT: &str = "santa-sync.service";
const LABEL: &str = "com.northpolesec.santa-sync";

pub(super) fn service(host: &dyn HostSource) -> Line {
    let layer = Layer::Service;
    let install = "`santa-sync service install`";
    if host.uname().is_macos() {
        let target = format!("system/{LABEL}");
        return match host.run("/bin/launchctl", &["print", &target]) {
            Ok(output) if String::from_utf8_lossy(&output).contains("state = running") => {
                Line::ok(layer, format!("launchd runs {LABEL}"))
            }
            Ok(_) => Line::warning(
                layer,
                format!("launchd knows {LABEL}, and it is not running"),
                format!("`launchctl kickstart {target}`, and see its log"),
            ),
            Err(_) => {
                let message = format!("launchd knows no {LABEL}, so nothing syncs by itself");
                Line::warning(layer, message, install)
            }
        };
    }
    let properties = ["show", "--property=LoadState,ActiveState", UNIT];
    let output = ["/usr/bin/systemctl", "/bin/systemctl"]
        .iter()
        .find_map(|program| host.run(program, &properties).ok());
    let Some(output) = output else {
        return Line::skipped(layer, "there is no systemd to ask");
    };
    let text = String::from_utf8_lossy(&output).into_owned();
    let value = |name: &str| {
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default()
    };
    match (value("LoadState"), value("ActiveState")) {
        (_, "active") => Line::ok(layer, format!("systemd runs {UNIT}")),
        ("loaded", state) => Line::warning(
            layer,
            format!("systemd knows {UNIT}, and it is {state}"),
            format!("`systemctl restart {UNIT}`, and see `journalctl -u {UNIT}`"),
        ),
        ("", _) => Line::skipped(layer, "systemd does not answer"),
        _ => {
            let message = format!("systemd knows no {UNIT}, so nothing syncs by itself");
            Line::warning(layer, message, install)
        }
    }
}

/// A success longer ago than this is worth a warning: a day holds 144 syncs of
/// the default interval.
const STALE: Duration = Duration::from_hours(24);

pub(super) fn history(dir: &Path, clock: &dyn Clock) -> Vec<Line> {
    let layer = Layer::History;
    let now = clock.now().wall;
    let read = Store::open_read_only(dir).and_then(|store| {
        Ok((store.history(5)?, store.full_sync_last_success()?, store.wishes()?))
    });
    let (records, success, wishes) = match read {
        Ok(read) => read,
        Err(StoreError::Missing { .. }) => {
            return vec![Line::skipped(layer, "no sync has run yet")];
        }
        Err(_) => return vec![Line::skipped(layer, "the store cannot be read")],
    };
    let mut lines = Vec::new();
    match success {
        Some(at) if now.since(at) > STALE => lines.push(Line::warning(
            layer,
            format!("the last success was {} ago, at {at}", age(now, at)),
            "mend the problems above, then `santa-sync sync`",
        )),
        Some(at) => {
            lines.push(Line::ok(
                layer,
                format!("the last success was {} ago, at {at}", age(now, at)),
            ));
        }
        None => lines.push(Line::warning(
            layer,
            "no sync has succeeded yet",
            "mend the problems above, then `santa-sync sync`",
        )),
    }
    if let Some(last) = records.first().filter(|record| record.result != SyncResult::Success) {
        let why = last.error.as_ref().map_or("no reason was kept", |error| error.message.as_str());
        let message =
            format!("the last sync, at {}, ended in {}", last.started_at, last.result.name());
        lines.push(Line::warning(layer, message, why));
    }
    if let Some(wish) = wishes.first() {
        let what = wish.sync_type.name();
        let reason = serde_json::to_value(wish.reason).ok();
        let reason = reason.as_ref().and_then(|r| r.as_str()).unwrap_or_default().replace('_', " ");
        let message = format!("a {what} sync is wished for since {} ({reason})", wish.since);
        lines.push(Line::ok(layer, message));
    }
    lines
}

fn age(now: Timestamp, then: Timestamp) -> String {
    let secs = now.since(then).as_secs();
    match secs {
        0..120 => format!("{secs} s"),
        120..7_200 => format!("{} min", secs / 60),
        7_200..172_800 => format!("{} h", secs / 3_600),
        _ => format!("{} days", secs / 86_400),
    }
}
