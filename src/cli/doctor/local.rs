//! The layers of this host: nothing here uses the network.

use std::time::Duration;

use super::super::config::in_use;
use super::super::error;
use super::super::service::{LABEL, LAUNCHD_TARGET, UNIT, launchd_value};
use super::stores::RuleStoreFound;
use super::{Layer, Line};
use crate::clock::Clock;
use crate::config::{Finding, FindingKind, Loaded, Severity, Source};
use crate::host::{CommandError, HostReport, HostSource, SystemProxies};
use crate::model::{ErrorRecord, Proxy, SyncResult, Timestamp};
use crate::store::StoreError;

pub(super) fn configuration(loaded: &Loaded, clock: &dyn Clock) -> Vec<Line> {
    let layer = Layer::Configuration;
    let line = |finding: &Finding| {
        let what = &finding.message;
        let message = match (&finding.key, &finding.source) {
            (Some(key), Source::Default) => format!("{key}: {what}"),
            (Some(key), source) => format!("{key}: {what} (in {source})"),
            (None, Source::Default) => what.clone(),
            (None, source) => format!("{source}: {what}"),
        };
        if finding.kind == FindingKind::MissingUrl {
            // A warning where the configuration is only read; no sync gets by.
            let kind = Some(SyncResult::MissingSyncBaseUrl.name());
            return Some(Line { kind, ..Line::problem(layer, message, &finding.fix) });
        }
        match finding.severity {
            Severity::Error => Some(Line::problem(layer, message, &finding.fix)),
            Severity::Warning => Some(Line::warning(layer, message, &finding.fix)),
            Severity::Note => None,
        }
    };
    let exit_code = error::exit_of(&loaded.findings);
    let refused = |line: Line| {
        let exit_code = if exit_code == 0 { line.exit_code } else { exit_code };
        Line { exit_code, ..line }
    };
    let mut lines: Vec<_> = loaded.findings.iter().filter_map(line).map(refused).collect();
    // With these a configuration is taken, and the sync fails later.
    for finding in in_use(loaded, clock.now().wall) {
        let result = match (finding.key.as_deref(), finding.kind) {
            (_, FindingKind::MissingUrl) => SyncResult::MissingSyncBaseUrl,
            (Some("MachineID"), _) => SyncResult::MissingMachineId,
            _ => SyncResult::PreflightFailed,
        };
        lines.extend(line(&finding).map(|line| Line { exit_code: result.exit_code(), ..line }));
    }
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
        Err(problem) => Line::of_error(layer, problem, "set MachineID"),
    }];
    let warnings = report.problems.iter();
    let fix = "`santa-sync whoami` shows what stands in for it";
    lines.extend(warnings.map(|problem| Line::warning(layer, problem, fix)));
    lines
}

/// A proxy of the system that this agent cannot find. Santa can.
pub(super) fn proxies(proxy: &Proxy, host: &dyn HostSource) -> Option<Line> {
    if *proxy != Proxy::Environment || !SystemProxies::read(host)?.automatic {
        return None;
    }
    Some(Line::warning(
        Layer::Configuration,
        "the system's network settings have proxies found automatically (by a PAC file or by \
         discovery), which is not supported",
        "name the proxy in SyncProxyConfiguration; an empty dictionary means that the server is \
         reached directly",
    ))
}

/// The exit code of `launchctl print` for a job that it does not know.
const NO_SUCH_JOB: i32 = 113;

pub(super) fn service(host: &dyn HostSource) -> Line {
    let layer = Layer::Service;
    let install = "`santa-sync service install`";
    if host.uname().is_macos() {
        let output = match host.run("/bin/launchctl", &["print", LAUNCHD_TARGET]) {
            Ok(output) => output,
            Err(CommandError::Failed { code: Some(NO_SUCH_JOB), .. }) => {
                let message = format!("launchd has no {LABEL}, so nothing syncs by itself");
                return Line::warning(layer, message, install);
            }
            Err(error) => {
                let message = format!("launchd cannot be asked for {LABEL}: {error}");
                return Line::warning(layer, message, "`sudo santa-sync service status`");
            }
        };
        let output = String::from_utf8_lossy(&output).into_owned();
        let state = launchd_value(&output, "state").unwrap_or("unknown");
        if state == "running" {
            return Line::ok(layer, format!("launchd runs {LABEL}"));
        }
        let code = launchd_value(&output, "last exit code").unwrap_or("unknown");
        return Line::warning(
            layer,
            format!("launchd has {LABEL}, but its state is {state:?} (last exit code {code:?})"),
            format!("`launchctl kickstart {LAUNCHD_TARGET}`, and see its log"),
        );
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
            format!("systemd has {UNIT}, but it is {state}"),
            format!("`systemctl restart {UNIT}`, and see `journalctl -u {UNIT}`"),
        ),
        ("", _) => Line::skipped(layer, "systemd does not respond"),
        _ => {
            let message = format!("systemd has no {UNIT}, so nothing syncs by itself");
            Line::warning(layer, message, install)
        }
    }
}

/// A success longer ago than this is worth a warning: a day holds 144 syncs of
/// the default interval.
const STALE_AFTER: Duration = Duration::from_hours(24);

pub(super) fn history(rules: &RuleStoreFound, clock: &dyn Clock) -> Vec<Line> {
    let layer = Layer::History;
    let now = clock.now().wall;
    let store = match rules {
        RuleStoreFound::Open(store) => store,
        RuleStoreFound::Empty => return vec![Line::skipped(layer, "no sync has run yet")],
        RuleStoreFound::Unusable => return vec![Line::skipped(layer, "rules.db cannot be read")],
    };
    let read =
        || Ok((store.history(1)?, store.full_sync_last_success()?, store.clean_sync_requests()?));
    let (records, success, requests) = match read() {
        Ok(read) => read,
        Err(error) => {
            let error: StoreError = error;
            return vec![Line::of_error(layer, &error, "`santa-sync rules verify`")];
        }
    };
    let mut lines = Vec::new();
    match success {
        Some(at) if now.since(at) > STALE_AFTER => lines.push(Line::warning(
            layer,
            format!("the last success was {} ago, at {at}", age(now, at)),
            "fix any problem above, then `santa-sync sync`",
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
            "fix any problem above, then `santa-sync sync`",
        )),
    }
    if let Some(last) = records.first().filter(|record| record.result != SyncResult::Success) {
        let why = last.error.as_ref().map_or("no reason was recorded", |error| &error.message);
        let fix = last.error.as_ref().and_then(|error| error.fix.as_deref());
        let fix = fix.unwrap_or("see the log of that sync");
        let (at, result) = (last.started_at, last.result.name());
        let cause = last.error.as_ref().map(ErrorRecord::cause_in_brackets).unwrap_or_default();
        let message = format!("the last sync, at {at}, ended in {result}: {why}{cause}");
        lines.push(Line::warning(layer, message, fix));
    }
    if let Some(request) = requests.first() {
        let what = request.sync_type.name();
        let reason = serde_json::to_value(request.reason).ok();
        let reason = reason.as_ref().and_then(|r| r.as_str()).unwrap_or_default().replace('_', " ");
        let message = format!("a {what} sync is requested since {} ({reason})", request.since);
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
