//! The daemon of this state directory: whether it lives, and what it sees that
//! this process does not.

use std::path::Path;
use std::time::Duration;

use super::super::service::{LABEL, UNIT};
use super::{Layer, Line, Status};
use crate::config::{Finding, Loaded, Severity};
use crate::control::client::Client;
use crate::control::configuration::{ConfigurationReport, ConfiguredFile};
use crate::control::message::{ControlRequest, ControlResponse};
use crate::control::moment::Moment;
use crate::control::relay::RelayStatus;
use crate::control::status::{DaemonStatus, Liveness};
use crate::host::HostSource;

const LAYER: Layer = Layer::Daemon;

/// How long a daemon may take to say how it is.
const DAEMON_TIMEOUT: Duration = Duration::from_secs(3);

/// What the daemon is found to be.
pub(super) struct Found {
    pub(super) lines: Vec<Line>,
    /// Its view of the configuration, if it lives.
    pub(super) configuration: Option<ConfigurationReport>,
    /// How its relay stands, if it lives and has one.
    pub(super) relay: Option<RelayStatus>,
}

/// Asks the daemon how it is and what it sees, and compares that with `own`,
/// the view of this process. `service` is what the service manager says, if the
/// service is the daemon of this directory.
pub(super) fn examine(
    dir: &Path,
    loaded: &Loaded,
    own: &ConfigurationReport,
    service: Option<&Line>,
    host: &dyn HostSource,
) -> Found {
    let restart = if host.uname().is_macos() {
        format!("`launchctl kickstart -k system/{LABEL}`, and see its log")
    } else {
        format!("`systemctl restart {UNIT}`, and see `journalctl -u {UNIT}`")
    };
    let only = |line| Found { lines: vec![line], configuration: None, relay: None };
    let runs = crate::control::is_daemon_running(dir);
    if let Some(waiting) = service.and_then(|line| waiting(runs, line, &loaded.findings)) {
        return only(waiting);
    }
    let answer = if runs { ask(dir) } else { Answer::None };
    let status = match &answer {
        Answer::Status(status) => Some((**status).clone()),
        Answer::None | Answer::Silent | Answer::Forbidden(_) => DaemonStatus::read(dir),
    };
    let Some(status) = status else {
        return only(if runs {
            Line::problem(LAYER, "a daemon runs here, but reports no status", restart)
        } else {
            Line::skipped(LAYER, "no daemon has run on this state directory")
        });
    };
    let seen = Moment::read(host);
    let (pid, version) = (status.pid, &status.version);
    if let Answer::Silent = answer {
        let seconds = DAEMON_TIMEOUT.as_secs();
        let message =
            format!("the daemon (process {pid}) is stuck: no response within {seconds} s");
        return only(Line::problem(LAYER, message, restart));
    }
    match status.liveness(runs, &seen, loaded.config.sync_deadline) {
        Liveness::Dead => {
            let message = format!(
                "the daemon (process {pid}) is dead: it ended without saying so, after {}",
                status.beat_at
            );
            return only(Line::problem(LAYER, message, restart));
        }
        Liveness::Stopped => {
            let message =
                format!("the daemon was stopped at {}, so nothing syncs by itself", status.beat_at);
            return only(Line::warning(LAYER, message, restart));
        }
        Liveness::Stuck => {
            let message = format!(
                "the daemon (process {pid}) is stuck: the sync that it announced is overdue"
            );
            return only(Line::problem(LAYER, message, restart));
        }
        Liveness::Alive => {}
    }
    let mut lines = vec![Line::ok(
        LAYER,
        format!(
            "process {pid} of version {version} is alive, as user {}",
            status.configuration.user_id
        ),
    )];
    if let Answer::Forbidden(error) = &answer {
        let message = format!("this user may not ask the daemon ({error})");
        lines.push(Line::warning(LAYER, message, "run as root (sudo) to see what the daemon sees"));
    }
    if let Some(refused) = &status.configuration_refused {
        let message = format!(
            "the daemon refuses the configuration it finds, and keeps the previous one: {refused}"
        );
        let fix = "`santa-sync config check` names each mistake and its fix";
        lines.push(Line::problem(LAYER, message, fix));
    }
    lines.extend(compare(&status.configuration, own, status.configuration_refused.is_some()));
    Found { lines, configuration: Some(status.configuration), relay: status.relay }
}

/// A daemon that the service manager has started and that found no configuration it
/// can use waits for one (DAEMON-5). It has not opened the state directory.
fn waiting(runs: bool, service: &Line, findings: &[Finding]) -> Option<Line> {
    let refused = findings.iter().any(|finding| finding.severity == Severity::Error);
    if runs || service.status != Status::Ok || !refused {
        return None;
    }
    let message = "the daemon waits for a configuration that it can use; nothing syncs by itself";
    let fix = "correct the configuration as said above; the daemon goes on as soon as it changes";
    Some(Line::problem(LAYER, message, fix))
}

enum Answer {
    /// There is no daemon to ask.
    None,
    Status(Box<DaemonStatus>),
    /// It does not respond in time.
    Silent,
    /// It is not this user's to ask; why.
    Forbidden(String),
}

fn ask(dir: &Path) -> Answer {
    let mut client = match Client::reach(dir) {
        Ok(Some(client)) => client,
        Ok(None) => return Answer::None,
        Err(error) => return Answer::Forbidden(error.to_string()),
    };
    let asked = client
        .wait_at_most(Some(DAEMON_TIMEOUT))
        .and_then(|()| client.ask(&ControlRequest::Status))
        .and_then(|()| client.answer());
    match asked {
        Ok(ControlResponse::Status(status)) => Answer::Status(status),
        Ok(ControlResponse::Error { message, .. }) => Answer::Forbidden(message),
        Ok(_) | Err(_) => Answer::Silent,
    }
}

/// What the daemon sees otherwise than this process, and what it cannot use. A daemon
/// that has `refused` a configuration has another one than its files say, of course.
fn compare(daemon: &ConfigurationReport, own: &ConfigurationReport, refused: bool) -> Vec<Line> {
    let mut lines = Vec::new();
    for ConfiguredFile { key, path, error } in &daemon.files {
        let Some(error) = error else { continue };
        let message = format!("the daemon cannot use {key} {path}: {error}");
        // The same user can use it outside of the service's sandbox.
        let sandboxed = daemon.user_id == own.user_id
            && own.files.iter().any(|of| of.error.is_none() && of.path == *path);
        let fix = if sandboxed {
            "`santa-sync service install` again: it gives the service the rights that the \
             configuration needs"
                .to_owned()
        } else {
            format!("let user {} use it, or name another file", daemon.user_id)
        };
        lines.push(Line::problem(LAYER, message, fix));
    }
    if daemon.user_id != own.user_id {
        let (of, this) = (daemon.user_id, own.user_id);
        let message = format!("the daemon runs as user {of}, and this is user {this}");
        let fix =
            format!("run doctor as that user to see the same: sudo -u '#{of}' santa-sync doctor");
        lines.push(Line::warning(LAYER, message, fix));
    }
    if daemon.digest != own.digest && !refused {
        let message = format!(
            "the daemon has another configuration than this command: {}; this command: {}",
            words(daemon),
            words(own)
        );
        let fix = "run doctor without --set and --config, or with those of the daemon; what \
                   follows holds for this command's configuration";
        lines.push(Line::warning(LAYER, message, fix));
    }
    if let Some(error) = &daemon.proxy_error {
        lines.push(Line::problem(
            LAYER,
            format!("the daemon cannot use its proxy: {error}"),
            PROXY_FIX,
        ));
    } else if daemon.digest == own.digest && daemon.proxy != own.proxy {
        let of = |report: &ConfigurationReport| match (&report.proxy, &report.proxy_origin) {
            (Some(proxy), Some(origin)) => format!("{proxy} ({origin})"),
            (Some(proxy), None) => proxy.clone(),
            (None, _) => "none".to_owned(),
        };
        let message = format!("the daemon's proxy is {}, and this shell's {}", of(daemon), of(own));
        lines.push(Line::warning(LAYER, message, PROXY_FIX));
    }
    lines
}

const PROXY_FIX: &str = "set SyncProxyConfiguration: a daemon does not have the shell's variables";

fn words(report: &ConfigurationReport) -> String {
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".to_owned());
    let sources =
        if report.sources.is_empty() { "no source".to_owned() } else { report.sources.join(", ") };
    format!(
        "server {}, machine id {}, from {sources}",
        or_none(&report.server),
        or_none(&report.machine_id)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{FindingKind, Source};

    /// CONF-3: what one user can read, another may not; so whose view it is is said.
    #[test]
    fn conf_3_a_daemon_of_another_user_is_told_from_this_one() {
        let own = ConfigurationReport { user_id: 501, ..ConfigurationReport::default() };
        assert_eq!(compare(&own, &own, false), []);
        let file = ConfiguredFile {
            key: "ClientAuthCertificateFile".to_owned(),
            path: "/etc/santa-sync/client.p12".to_owned(),
            error: Some("permission denied".to_owned()),
        };
        let daemon = ConfigurationReport { user_id: 0, files: vec![file.clone()], ..own.clone() };
        assert_eq!(
            compare(&daemon, &own, false),
            [
                Line::problem(
                    LAYER,
                    "the daemon cannot use ClientAuthCertificateFile /etc/santa-sync/client.p12: \
                     permission denied",
                    "let user 0 use it, or name another file",
                ),
                Line::warning(
                    LAYER,
                    "the daemon runs as user 0, and this is user 501",
                    "run doctor as that user to see the same: sudo -u '#0' santa-sync doctor",
                ),
            ]
        );
        let own = ConfigurationReport {
            user_id: 0,
            files: vec![ConfiguredFile { error: None, ..file }],
            ..own
        };
        let [line] = &compare(&daemon, &own, false)[..] else { panic!("one line") };
        let fix = line.fix.as_deref().expect("a fix");
        assert!(fix.starts_with("`santa-sync service install` again"), "{fix}");
        let other = ConfigurationReport { digest: "other".to_owned(), ..own.clone() };
        assert_eq!(compare(&other, &own, false).len(), 1);
        assert_eq!(compare(&other, &own, true), [], "it has been said that it is another one");
    }

    /// DAEMON-5: a service whose daemon waits for its first usable configuration runs,
    /// as far as the service manager knows.
    #[test]
    fn daemon_5_a_daemon_that_waits_for_a_configuration_is_found() {
        let error = Finding {
            severity: Severity::Error,
            kind: FindingKind::BadValue,
            key: Some("SyncBaseURL".to_owned()),
            source: Source::Default,
            message: "is wrong".to_owned(),
            fix: "correct it".to_owned(),
        };
        let note = Finding { severity: Severity::Warning, ..error.clone() };
        let (refused, fine) = ([note.clone(), error], [note]);
        let active = Line::ok(Layer::Service, "systemd runs santa-sync.service");
        let failed = Line::warning(Layer::Service, "systemd has it, but it is failed", "see");
        let found = waiting(false, &active, &refused).expect("it waits");
        assert_eq!(found.status, Status::Problem);
        assert!(found.message.contains("waits for a configuration"), "{}", found.message);
        assert_eq!(waiting(true, &active, &refused), None, "it has one, as it runs");
        assert_eq!(waiting(false, &failed, &refused), None);
        assert_eq!(waiting(false, &active, &fine), None);
    }
}
