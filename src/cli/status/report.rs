//! How `status` shows what it read.

use crate::agent::{
    AgentStatus, ConditionReport, DaemonReport, DaemonView, LastSuccess, SyncInterval,
};
use crate::cli::output::{self, brief};
use crate::control::relay::{
    AcknowledgedStatus, AuthorizerStatus, DeliveryStatus, NotAcknowledged, NudgeStatus, RelayStatus,
};
use crate::control::status::{Activity, Liveness, PromptUpload};
use crate::model::{ClientMode, SyncReason, SyncType, Timestamp};
use crate::sync::upload::UploadResult;

/// In the form `santactl status` has.
pub(super) fn show(view: &AgentStatus, now: Timestamp) {
    let unset = || "None".to_owned();
    heading("Sync");
    row("Server", view.server.as_deref().unwrap_or("None (SyncBaseURL is not set)"));
    match (&view.machine_id, &view.machine_id_error) {
        (Some(id), _) => row("Machine ID", id),
        (None, Some(error)) => whole_row("Machine ID", &error.to_string()),
        (None, None) => row("Machine ID", "None"),
    }
    row("State Directory", &view.state_dir);
    row("Mode", view.client_mode);
    if let Some(held) = &view.client_mode_held {
        row("Mode held back", held);
    }
    for ConditionReport { message, fix, .. } in &view.warnings {
        whole_row("Warning", message);
        whole_row("", fix);
    }
    row("Last Successful Full Sync", &words_of(view.last_success.as_ref(), "Never"));
    row(
        "Last Successful Rule Sync",
        &view.last_rule_sync.map_or_else(|| "Never".to_owned(), |at| at.to_string()),
    );
    if let Some(attempt) = &view.last_attempt {
        row("Last Attempt", &format!("{} {}", attempt.at, attempt.result.name()));
        if let Some(error) = &attempt.error {
            whole_row("Last Error", &error.line());
            row("Failures In A Row", &view.failures_in_a_row.to_string());
        }
    }
    if let Some(warning) = view.last_attempt.as_ref().and_then(|a| a.warnings.first()) {
        let more = view.last_attempt.as_ref().map_or(0, |a| a.warnings.len()) - 1;
        let more = if more == 0 { String::new() } else { format!(" (and {more} more)") };
        whole_row("Last Warning", &format!("{warning}{more}"));
    }
    let SyncInterval { seconds, origin } = &view.full_sync_interval;
    row("Full Sync Interval", &format!("{seconds} s ({origin})"));
    for request in &view.clean_sync_requests {
        let answer = request.last_answer.map_or("nothing yet", SyncType::name);
        row(
            "Clean Sync Requested",
            &format!(
                "{} ({} since {}; the server answered {answer})",
                request.sync_type.name(),
                request.reason.words(),
                request.since
            ),
        );
    }
    if let Some(authorizer) = &view.authorizer {
        let at = authorizer.last_report.map_or_else(|| "Never".to_owned(), |at| at.to_string());
        row("Authorizer Last Seen", &format!("{at} ({})", authorizer.state));
        for text in [authorizer.message, authorizer.fix].into_iter().flatten() {
            whole_row("", text);
        }
    }
    if let Some(daemon) = &view.daemon {
        show_daemon(daemon, now);
    }
    heading("Rules");
    let counts = &view.rules.counts;
    for (name, count) in [
        ("Binary Rules", counts.binary),
        ("Certificate Rules", counts.certificate),
        ("TeamID Rules", counts.teamid),
        ("SigningID Rules", counts.signingid),
        ("CDHash Rules", counts.cdhash),
        ("Compiler Rules", counts.compiler),
        ("Transitive Rules", counts.transitive),
    ] {
        row(name, &count.to_string());
    }
    row("Rules Hash", &view.rules.hash);
    row("Complete", if view.rules.complete { "Yes" } else { "No (no rule download yet)" });
    heading("Events");
    row("Events Pending Upload", &view.events.pending.to_string());
    row("Oldest", &view.events.oldest.map_or_else(unset, |at| at.to_string()));
    row("Dropped (Queue Full)", &view.events.dropped_queue_full.to_string());
    for (kind, count) in &view.events.dropped_unsendable {
        row(&format!("Dropped ({kind})"), &count.to_string());
    }
    row("Set Aside", &view.events.rejected.to_string());
    if let Some(certificate) = &view.client_certificate {
        heading("Client Certificate");
        row("File", &certificate.file);
        if let Some(error) = &certificate.error {
            whole_row("Error", error);
        }
        if let (Some(subject), Some(until)) = (&certificate.subject, certificate.not_after) {
            row("Subject", subject);
            let days = certificate.days_left.unwrap_or_default();
            row("Valid Until", &format!("{until} ({days} days left)"));
        }
    }
    heading("Settings From The Server");
    for (name, value) in &view.settings {
        row(name, value);
    }
}

/// Shows a user who may not read the state directory what the daemon reports.
pub(super) fn show_report(view: &DaemonReport, now: Timestamp) {
    heading("Sync");
    row("Server", view.server.as_deref().unwrap_or("None (SyncBaseURL is not set)"));
    row("State Directory", &view.state_dir);
    row(
        "Last Successful Full Sync",
        &words_of(view.last_success.as_ref(), "None since the daemon's start"),
    );
    if let Some(last) = &view.daemon.status.last_sync {
        row("Last Attempt", &format!("{} {}", last.at, last.result.name()));
        if let Some(error) = &last.error {
            whole_row("Last Error", error);
        }
    }
    show_daemon(&view.daemon, now);
}

fn show_daemon(view: &DaemonView, now: Timestamp) {
    let status = &view.status;
    heading("Daemon");
    row(
        "State",
        match view.liveness {
            Liveness::Alive => "Alive",
            Liveness::Stuck => "Stuck (what it announced is overdue; restart the service)",
            Liveness::Stopped => "Stopped",
            Liveness::Dead => "Dead (it ended without saying so; look at its log)",
        },
    );
    row("Process", &format!("{} (version {})", status.pid, status.version));
    if let Some(uptime) = view.uptime_seconds {
        row("Uptime", &age(uptime));
    }
    row("Heartbeat", &format!("{} ago", age(view.heartbeat_age_seconds)));
    match (status.sync_began_at, status.next_sync_at) {
        (Some(began), _) if status.doing == Activity::Waiting => {
            row("Sync Waiting Since", &format!("{began} (for one of another process)"));
        }
        (Some(began), _) => row("Sync Running Since", &began.to_string()),
        (None, Some(next)) => {
            let why = status
                .next_sync_why
                .map_or_else(String::new, |why| format!(" ({})", why_words(why)));
            row("Next Sync", &format!("{next}{why}"));
        }
        (None, None) => {}
    }
    if let Some(wait) = status.back_off {
        row("Back-off", &format!("{wait} s after {} failures", status.failures_in_a_row));
    }
    if let Some(PromptUpload { at, report }) = &status.prompt_upload {
        let words = match (report.result, &report.error) {
            (UploadResult::Uploaded, _) => format!("{at} {} events", report.events),
            (UploadResult::NotYet, _) => format!("{at} left to the next sync, the first one"),
            (UploadResult::Busy, _) => format!("{at} put off: another process syncs"),
            (UploadResult::Failed, error) => {
                let error = error.as_deref().unwrap_or("no reason was reported");
                format!("{at} failed, left to the next sync: {error}")
            }
        };
        whole_row("Prompt Upload", &words);
    }
    for (name, incident) in [("Last Panic", &status.last_panic), ("Last Hang", &status.last_hang)] {
        if let Some(incident) = incident {
            whole_row(name, &format!("{} {}", incident.at, incident.message));
        }
    }
    if let Some(refused) = &status.configuration_refused {
        whole_row("Configuration Refused", refused);
    }
    if let Some(relay) = &status.relay {
        show_relay(relay, now);
    }
}

/// RELAY-11.
fn show_relay(relay: &RelayStatus, now: Timestamp) {
    heading("Relay");
    match &relay.error {
        None => row("Listens At", &relay.url),
        Some(error) => {
            whole_row("Does Not Listen", &format!("{} ({error})", relay.url));
            relay.error_fix.iter().for_each(|fix| whole_row("", fix));
        }
    }
    let clients = relay.clients_words();
    whole_row("Serves", &format!("{clients}, under machine id {}", relay.machine_id));
    row("RelaySecret", if relay.secret { "Set" } else { "Not set" });
    if let Some(other) = relay.other_machine_id(now) {
        let at = relay.other_machine_id_at.map_or_else(String::new, |at| format!("{at} "));
        whole_row("Asked For", &format!("{at}machine id {other}, which is not served"));
    }
    match &relay.authorizer {
        None => row("Authorizer", "has not come yet"),
        Some(AuthorizerStatus { at, version, client_mode, .. }) => {
            let version = if version.is_empty() { "names no version" } else { version };
            row("Authorizer", version);
            let mode = client_mode.map_or("no mode", ClientMode::name);
            let known = relay.authentication_words();
            whole_row("Last Preflight", &format!("{at} in {mode}, {known}"));
        }
    }
    let in_step = match (relay.in_step, relay.behind_since) {
        (true, _) => "Yes".to_owned(),
        (false, Some(since)) => format!("No, since {since}"),
        (false, None) => "No".to_owned(),
    };
    row("In Step", &in_step);
    if let Some(why) = &relay.not_ready {
        whole_row("Nothing To Hand Out", why);
    }
    if let Some(newest) = relay.newest_generation {
        row("Newest Generation", &newest.to_string());
    }
    if let Some(AcknowledgedStatus { generation, at, .. }) = &relay.acknowledged {
        row("Acknowledged Generation", &format!("{generation} at {at}"));
        relay.drift_words().into_iter().for_each(|words| whole_row("Drift", words));
    }
    if let Some(DeliveryStatus { at, sync_type, why }) = &relay.last_delivery {
        whole_row("Last Delivery", &format!("{at} {}: {why}", sync_type.name()));
    }
    if let Some(NotAcknowledged { at, reason, times }) = &relay.not_acknowledged {
        whole_row("Not Acknowledged", &format!("{at} {reason} ({times} in a row)"));
    }
    if !relay.withdrawn_settings.is_empty() {
        let names = relay.withdrawn_settings.join(", ");
        whole_row("Settings Withdrawn", &format!("{names} (a clean sync takes them back)"));
    }
    if let Some(words) = relay.unlike_words() {
        whole_row("Rules Not Sent As They Are", &words);
    }
    for limit in &relay.release_cannot {
        whole_row("Its Release Cannot", limit);
    }
    if let Some(NudgeStatus { at, result, failures }) = &relay.nudge {
        let result = result.as_deref().unwrap_or("runs");
        let failures =
            if *failures > 0 { format!(", {failures} failures in a row") } else { String::new() };
        whole_row("Last Nudge", &format!("{at} {result}{failures}"));
    }
    row("Events Taken", &relay.events.to_string());
    for (reason, times) in &relay.refused {
        row("Requests Refused", &format!("{times} ({reason})"));
    }
    for peer in &relay.refused_peers {
        let words = format!("{peer}: {}", peer.times_words());
        whole_row("Refused Because Of Its User", &words);
    }
}

fn words_of(success: Option<&LastSuccess>, none: &str) -> String {
    success.map_or_else(
        || none.to_owned(),
        |success| format!("{} ({} ago)", success.at, age(success.age_seconds)),
    )
}

const fn why_words(why: SyncReason) -> &'static str {
    match why {
        SyncReason::Start => "the first since the daemon's start",
        SyncReason::Interval => "by the interval",
        SyncReason::BackOff => "by the back-off",
        SyncReason::Network => "the network has changed since the last failure",
        SyncReason::Asked => "requested",
    }
}

fn heading(text: &str) {
    output::line(format!(">>> {text}"));
}

/// A value that must not be cut: records bound it.
fn whole_row(name: &str, value: &str) {
    output::line(format!("  {name:<26} | {}", output::printable(value)));
}

fn row(name: &str, value: &str) {
    output::line(format!("  {name:<26} | {}", brief(value)));
}

/// An age in its largest whole unit and the next.
fn age(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, m) => format!("{m} min {} s", seconds % 60),
        (0, h, m) => format!("{h} h {m} min"),
        (d, h, _) => format!("{d} d {h} h"),
    }
}
