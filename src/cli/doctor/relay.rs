//! The relay and the authorizer that syncs with it: what the configuration, the
//! daemon, Santa's own profile and the files for Santa say.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use super::super::relay::program_rule;
use super::{Layer, Line, Status};
use crate::config::{Config, RelayConfig, SantaProfile};
use crate::control::relay::RelayStatus;
use crate::failure::Remedy as _;
use crate::host::{self, HostSource};
use crate::model::{ClientMode, RelayManner, Timestamp};
use crate::relay::certificates::{self, CA_FILE, CLIENT_FILE};
use crate::relay::profiles::ProgramRule;
use crate::relay::refusals;

const LAYER: Layer = Layer::Relay;

/// An authorizer that has not come for so many of its intervals is missed.
const MISSED_INTERVALS: u32 = 3;

/// The reason of requests that came before there was anything to hand out.
const NOT_READY: &str = "not_ready";

/// Santa's own programs, which no rule can block.
const SANTAS_PROGRAMS: [&str; 2] = ["/usr/local/bin/santactl", "/Applications/Santa.app/"];

/// What is known.
struct Facts<'a> {
    config: &'a Config,
    relay: &'a RelayConfig,
    /// How the daemon's relay stands; `None` if no daemon says.
    status: Option<&'a RelayStatus>,
    /// Whether this system can have a Santa with a profile.
    is_macos: bool,
    now: Timestamp,
}

/// Looks at the relay, if one is configured.
pub(super) fn examine(
    config: &Config,
    state_dir: &Path,
    status: Option<&RelayStatus>,
    host: &dyn HostSource,
    now: Timestamp,
) -> Vec<Line> {
    let Some(relay) = &config.relay else {
        let elsewhere = status.map(|status| {
            let url = &status.url;
            let message = format!("the daemon runs one at {url}, which this configuration lacks");
            Line::skipped(LAYER, message)
        });
        return elsewhere.into_iter().collect();
    };
    let is_macos = host.uname().is_macos();
    let facts = Facts { config, relay, status, is_macos, now };
    let mut lines = facts.standing();
    if relay.tls {
        lines.extend(directory(relay, host));
        lines.extend(keys(state_dir, now));
    }
    lines.extend(facts.profile());
    lines.extend(allowed(&facts, host));
    facts.with_fine(lines)
}

impl Facts<'_> {
    /// The lines, and one for a relay without a fault.
    fn with_fine(&self, mut lines: Vec<Line>) -> Vec<Line> {
        if lines.iter().all(|line| line.status == Status::Ok) {
            lines.insert(0, self.fine());
        }
        lines
    }

    /// One line for a relay without a fault.
    fn fine(&self) -> Line {
        let Some(status) = self.status else {
            let message = format!("{}; no daemon says how it stands", self.relay.url());
            return Line::skipped(LAYER, message);
        };
        let version = status.authorizer.as_ref().map_or("", |last| &last.version);
        let version =
            if version.is_empty() { String::new() } else { format!(" (version {version})") };
        let held = match &status.acknowledged {
            // Its first sync is there for it to upload its events.
            None => "has no rules of this agent yet: its next sync brings them".to_owned(),
            Some(held) if status.in_step => format!("has generation {}", held.generation),
            Some(held) => {
                let newest = status.newest_generation.unwrap_or(held.generation);
                format!(
                    "has generation {} of rules; the newest is {newest}, and its next sync brings \
                     what it lacks",
                    held.generation
                )
            }
        };
        let url = self.relay.url();
        Line::ok(LAYER, format!("{url} serves the authorizer{version}, which {held}"))
    }

    /// What the daemon says of the relay and of its visitor.
    fn standing(&self) -> Vec<Line> {
        let Some(status) = self.status else { return Vec::new() };
        if let Some(error) = &status.error {
            let message = format!("nothing listens at {}: {error}", self.relay.listen);
            let fix = status.error_fix.as_deref().unwrap_or("see the daemon's log");
            return vec![Line::problem(LAYER, message, fix)];
        }
        let mut lines = Vec::new();
        let mut warn = |message: String, fix: &str| lines.push(Line::warning(LAYER, message, fix));
        if let Some(reason) = &status.not_ready {
            warn(format!("nothing can be handed out yet: {reason}"), "`santa-sync sync`");
        }
        if let Some(id) = status.other_machine_id(self.now) {
            warn(
                format!(
                    "a request came for the machine id {id:?}, and this one is {:?}",
                    status.machine_id
                ),
                "set RelayMachineID to the authorizer's id, or the same MachineID on both sides",
            );
        }
        match &status.authorizer {
            None => warn(
                format!("the authorizer has not synced with {} yet", self.relay.url()),
                self.have_it_sync(),
            ),
            Some(last) => {
                let missed = Duration::from_secs(status.interval.into()) * MISSED_INTERVALS;
                if self.now.since(last.at) > missed {
                    let message = format!(
                        "the authorizer has not come since {}, which is more than \
                         {MISSED_INTERVALS} of its intervals of {} s",
                        last.at, status.interval
                    );
                    warn(message, self.have_it_sync());
                }
                if status.checks_peers && !last.authenticated {
                    warn(
                        format!("the sync at {} was not authenticated", last.at),
                        "see that the authorizer's sync client has the client certificate, or \
                         runs as one of RelayPeerUsers",
                    );
                }
            }
        }
        if let Some(failed) = &status.not_acknowledged {
            let message = format!(
                "the authorizer has not taken what was sent at {} ({} times in a row): {}",
                failed.at, failed.times, failed.reason
            );
            warn(message, "see the authorizer's own log, and `santa-sync status`");
        }
        let unlike = status.unlike_words();
        // What is left out or altered for it accounts for the difference.
        if let Some(words) = status.drift_words().filter(|_| unlike.is_none()) {
            warn(
                format!("the authorizer is out of step: {words}"),
                "compare both sides' counts: its own status, and `santa-sync status`",
            );
        }
        if !status.withdrawn_settings.is_empty() {
            let names = status.withdrawn_settings.join(", ");
            warn(
                format!(
                    "the server no longer sets {names}, and the authorizer keeps it until a clean \
                     sync"
                ),
                "nothing: its next sync is a clean one",
            );
        }
        for limit in &status.release_cannot {
            warn(format!("the release of the authorizer cannot {limit}"), "update it");
        }
        if let Some(nudge) = status.nudge.as_ref().filter(|nudge| nudge.failures > 0) {
            let result = nudge.result.as_deref().unwrap_or("it still runs");
            let message = format!("the nudge failed {} times in a row: {result}", nudge.failures);
            warn(message, "run RelayNudge's command by hand");
        }
        if let Some(words) = unlike {
            let message = format!("of the server's rules, as last sent whole: {words}");
            lines.push(Line::ok(LAYER, message));
        }
        lines.extend(refused(status));
        lines
    }

    const fn have_it_sync(&self) -> &'static str {
        match self.relay.manner {
            RelayManner::Santa if self.is_macos => {
                "`santactl sync --debug` says why; see `santa-sync relay show`"
            }
            RelayManner::Santa => {
                "see its own log, and its server's URL with `santa-sync relay show`"
            }
            RelayManner::Pedro => {
                "see pedro's log, and its --sync-endpoint with `santa-sync relay show`"
            }
        }
    }

    /// What Santa's own profile says.
    fn profile(&self) -> Vec<Line> {
        let Some(profile) = &self.config.santa_profile else {
            let is_missing = self.is_macos && self.relay.manner == RelayManner::Santa;
            let message = "Santa has no profile that leads it to the relay";
            let fix = "`santa-sync relay setup` writes one";
            return is_missing.then(|| Line::warning(LAYER, message, fix)).into_iter().collect();
        };
        if !profile.points_to(self.relay) {
            return vec![self.elsewhere(profile)];
        }
        let mut lines = Vec::new();
        let fix = "install the profile that `santa-sync relay setup` writes";
        let is_https = profile.sync_base_url.as_ref().map(|url| url.as_url().scheme() == "https");
        if is_https.is_some_and(|https| https != self.relay.tls) {
            let message = format!("Santa's profile does not lead to {}", self.relay.url());
            lines.push(Line::problem(LAYER, message, fix));
        }
        let expected = |name| self.relay.directory.join(name);
        if self.relay.tls && profile.roots_file.as_ref() != Some(&expected(CA_FILE)) {
            let message = format!(
                "ServerAuthRootsFile of Santa's profile is not {}",
                expected(CA_FILE).display()
            );
            lines.push(Line::problem(LAYER, message, fix));
        }
        if self.relay.client_certificate
            && (profile.client_file.as_ref() != Some(&expected(CLIENT_FILE))
                || profile.client_password.is_none())
        {
            let message = format!(
                "Santa's profile has no ClientAuthCertificateFile {} with its password",
                expected(CLIENT_FILE).display()
            );
            lines.push(Line::problem(LAYER, message, fix));
        }
        if self.relay.secret.is_some() && profile.relay_secret != self.relay.secret {
            let message = "Santa's profile does not send RelaySecret in SyncExtraHeaders";
            lines.push(Line::problem(LAYER, message, fix));
        }
        for (is_wrong, message) in [
            (
                !profile.clean_sync_event_upload,
                "Santa's profile lacks SyncEnableCleanSyncEventUpload, so Santa deletes queued \
                 events unsent in clean syncs",
            ),
            (
                profile.has_proxy,
                "Santa's profile has SyncProxyConfiguration, which holds for the relay, too",
            ),
            (
                profile.has_push,
                "Santa's profile has keys of Firebase push notifications, which the relay does \
                 not send",
            ),
        ] {
            lines.extend(is_wrong.then(|| Line::warning(LAYER, message, fix)));
        }
        lines
    }

    /// A profile that leads Santa past the relay.
    fn elsewhere(&self, profile: &SantaProfile) -> Line {
        let fix = "install the profile that `santa-sync relay setup` writes for Santa";
        let url = self.config.sync_base_url.as_ref();
        match &profile.sync_base_url {
            Some(santas) if Some(santas) == url => {
                let message = format!(
                    "Santa syncs with {santas} itself, as the same host as this agent: each takes \
                     the other's rules and clean syncs for its own"
                );
                Line::problem(LAYER, message, fix)
            }
            Some(santas) => {
                let message = format!("Santa's profile leads to {santas}, not to the relay");
                Line::warning(LAYER, message, fix)
            }
            None => Line::warning(LAYER, "Santa's profile has no usable SyncBaseURL", fix),
        }
    }

    /// The mode that Santa is in, as far as it is known.
    fn is_lockdown(&self, profile: &SantaProfile) -> bool {
        let said = self.status.and_then(|status| status.authorizer.as_ref()?.client_mode);
        said.or(profile.client_mode) == Some(ClientMode::Lockdown)
    }
}

/// Requests that were refused, and whose they were.
fn refused(status: &RelayStatus) -> Vec<Line> {
    let mut lines = Vec::new();
    // Until there are rules every request is refused, which is said elsewhere.
    let is_listed =
        |reason: &str| reason == NOT_READY || reason == "peer" && !status.refused_peers.is_empty();
    let refused = status.refused.iter().filter(|(reason, _)| !is_listed(reason));
    let refused: Vec<_> = refused.map(|(reason, times)| format!("{reason} {times}")).collect();
    if !refused.is_empty() {
        let message =
            format!("requests were refused since the daemon started: {}", refused.join(", "));
        let fix = "see the daemon's log for the first of each kind";
        lines.push(Line::warning(LAYER, message, fix));
    }
    let fix =
        if status.client_certificate { refusals::CERTIFICATE_FIX } else { refusals::USER_FIX };
    lines.extend(status.refused_peers.iter().map(|peer| {
        let message = format!(
            "{peer} was refused {}: only {} are served",
            peer.times_words(),
            status.clients_words()
        );
        Line::warning(LAYER, message, fix)
    }));
    lines
}

/// What Santa's rules of the profile do not allow, in LOCKDOWN.
fn allowed(facts: &Facts<'_>, host: &dyn HostSource) -> Vec<Line> {
    let Some(profile) = &facts.config.santa_profile else { return Vec::new() };
    if !facts.is_lockdown(profile) {
        return Vec::new();
    }
    let own = std::env::current_exe().ok();
    let nudge = facts.relay.nudge.as_ref().and_then(|words| words.first()).map(Path::new);
    let nudge = nudge.filter(|path| !SANTAS_PROGRAMS.iter().any(|own| path.starts_with(own)));
    let programs = own.as_deref().into_iter().chain(nudge);
    let rules = programs.filter_map(|path| Some((path, program_rule(path, host).ok()?)));
    rules.filter_map(|(path, rule)| not_allowed(path, &rule, profile)).collect()
}

fn not_allowed(path: &Path, rule: &ProgramRule, profile: &SantaProfile) -> Option<Line> {
    (!rule.is_allowed_by(&profile.static_rules)).then(|| {
        let message = format!(
            "no static rule of Santa's profile allows {}: if no rule of the server does, LOCKDOWN \
             blocks it, and its updates",
            path.display()
        );
        Line::warning(
            LAYER,
            message,
            "add a StaticRules entry; `relay setup` writes one for this program",
        )
    })
}

/// What keeps `nobody`, as whom Santa's sync service runs, from the files it needs.
fn directory(relay: &RelayConfig, host: &dyn HostSource) -> Vec<Line> {
    let nobody = host::nobody_id(host);
    let fix = "`santa-sync relay setup`, as root, makes them as they should be";
    let mut lines = Vec::new();
    let closed = relay
        .directory
        .ancestors()
        .find(|dir| dir.metadata().is_ok_and(|found| !is_open(&found, nobody, 0o1)));
    if let Some(closed) = closed {
        let message = format!("the authorizer cannot enter {}", closed.display());
        let fix = format!("chmod a+x {}", closed.display());
        return vec![Line::problem(LAYER, message, fix)];
    }
    let client = relay.client_certificate.then_some(CLIENT_FILE);
    for name in std::iter::once(CA_FILE).chain(client) {
        let path = relay.directory.join(name);
        let message = match path.metadata() {
            Err(error) => format!("{} cannot be looked at: {error}", path.display()),
            Ok(found) if !is_open(&found, nobody, 0o4) => {
                format!("the authorizer (user {nobody}) cannot read {}", path.display())
            }
            Ok(found) if name == CLIENT_FILE && found.mode() & 0o077 != 0 => {
                format!("every user of this host can read {}", path.display())
            }
            Ok(_) => continue,
        };
        lines.push(Line::problem(LAYER, message, fix));
    }
    lines
}

/// Whether a user without groups has a right (4 to read, 1 to enter).
fn is_open(found: &Metadata, user: u32, right: u32) -> bool {
    let shift = if found.uid() == user { 6 } else { 0 };
    found.mode() >> shift & right == right
}

/// What is wrong with the relay's own certificates. The daemon renews them.
fn keys(state_dir: &Path, now: Timestamp) -> Option<Line> {
    let fix = "`santa-sync relay setup`, as root, makes them";
    match certificates::inspect(state_dir) {
        Err(error) => {
            let fix = error.fix().unwrap_or(fix.into());
            Some(Line::warning(LAYER, error.to_string(), fix))
        }
        Ok(None) => Some(Line::problem(LAYER, "the relay has no certificates", fix)),
        Ok(Some(made)) if made.server_expires() < now => {
            let message = format!("the relay's certificate expired at {}", made.server_expires());
            Some(Line::problem(LAYER, message, "start the daemon, which renews it"))
        }
        Ok(Some(_)) => None,
    }
}

#[cfg(test)]
mod tests;
