//! The daemon of this state directory: whether it lives, and what it sees that
//! this process does not.

use std::path::Path;
use std::time::Duration;

use super::super::service::{LABEL, UNIT};
use super::{Layer, Line};
use crate::config::Loaded;
use crate::control::client::Client;
use crate::control::configuration::{ConfigurationReport, ConfiguredFile};
use crate::control::message::{ControlRequest, ControlResponse};
use crate::control::moment::Moment;
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
}

/// Asks the daemon how it is and what it sees, and compares that with `own`,
/// the view of this process.
pub(super) fn examine(
    dir: &Path,
    loaded: &Loaded,
    own: &ConfigurationReport,
    host: &dyn HostSource,
) -> Found {
    let restart = if host.uname().is_macos() {
        format!("`launchctl kickstart -k system/{LABEL}`, and see its log")
    } else {
        format!("`systemctl restart {UNIT}`, and see `journalctl -u {UNIT}`")
    };
    let only = |line| Found { lines: vec![line], configuration: None };
    let runs = crate::control::is_daemon_running(dir);
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
    lines.extend(compare(&status.configuration, own));
    Found { lines, configuration: Some(status.configuration) }
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

/// What the daemon sees otherwise than this process, and what it cannot use.
pub(super) fn compare(daemon: &ConfigurationReport, own: &ConfigurationReport) -> Vec<Line> {
    let mut lines = Vec::new();
    for ConfiguredFile { key, path, error } in &daemon.files {
        let Some(error) = error else { continue };
        let message = format!("the daemon cannot use {key} {path}: {error}");
        let fix = format!("let user {} use it, or name another file", daemon.user_id);
        lines.push(Line::problem(LAYER, message, fix));
    }
    if daemon.user_id != own.user_id {
        let (of, this) = (daemon.user_id, own.user_id);
        let message = format!("the daemon runs as user {of}, and this is user {this}");
        let fix =
            format!("run doctor as that user to see the same: sudo -u '#{of}' santa-sync doctor");
        lines.push(Line::warning(LAYER, message, fix));
    }
    if daemon.digest != own.digest {
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

    /// CONF-3: what one user can read, another may not; so whose view it is is said.
    #[test]
    fn conf_3_a_daemon_of_another_user_is_told_from_this_one() {
        let own = ConfigurationReport { user_id: 501, ..ConfigurationReport::default() };
        assert_eq!(compare(&own, &own), []);
        let file = ConfiguredFile {
            key: "ClientAuthCertificateFile".to_owned(),
            path: "/etc/santa-sync/client.p12".to_owned(),
            error: Some("permission denied".to_owned()),
        };
        let daemon = ConfigurationReport { user_id: 0, files: vec![file], ..own.clone() };
        assert_eq!(
            compare(&daemon, &own),
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
    }
}
