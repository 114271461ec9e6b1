//! The metrics, in the Prometheus text format.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Write as _};
use std::io;
use std::path::Path;

use super::sync_process::summary::StoreSummary;
use crate::control::relay::RelayStatus;
use crate::control::status::DaemonStatus;
use crate::files::{self, Replacement};
use crate::model::text::escaped;
use crate::model::{Stage, SyncRecord, SyncResult};

/// What adds up over the life of a daemon.
#[derive(Clone, Debug, Default)]
pub(super) struct Counters {
    syncs: BTreeMap<&'static str, u64>,
    attempts: BTreeMap<(Stage, bool), u64>,
    stage_ms: BTreeMap<Stage, u64>,
    seconds: f64,
    last_seconds: Option<f64>,
}

impl Counters {
    /// Counts a sync that ended.
    pub(super) fn count(&mut self, record: &SyncRecord) {
        *self.syncs.entry(record.result.name()).or_default() += 1;
        let seconds = std::time::Duration::from_millis(record.duration_ms).as_secs_f64();
        self.seconds += seconds;
        self.last_seconds = Some(seconds);
        for stage in &record.stages {
            let failed_here = record.result != SyncResult::Success
                && record.error.as_ref().is_some_and(|e| e.stage == stage.stage.name());
            let succeeded = u64::from(stage.requests).saturating_sub(u64::from(failed_here));
            let failed = u64::from(stage.attempts).saturating_sub(succeeded);
            *self.attempts.entry((stage.stage, true)).or_default() += succeeded;
            *self.attempts.entry((stage.stage, false)).or_default() += failed;
            *self.stage_ms.entry(stage.stage).or_default() += stage.duration_ms;
        }
    }

    /// Renders all metrics.
    pub(super) fn render(&self, status: &DaemonStatus, summary: Option<&StoreSummary>) -> String {
        let mut out = MetricsText::default();
        let at = |t: crate::model::Timestamp| t.as_secs();
        out.family("santa_sync_info", "gauge", "The program's version.");
        out.sample("", &[("version", &status.version)], 1);
        out.gauge(
            "santa_sync_start_time_seconds",
            "When the daemon started.",
            at(status.started_at),
        );
        out.family("santa_sync_syncs_total", "counter", "Syncs by result.");
        for (result, n) in &self.syncs {
            out.sample("", &[("result", result)], n);
        }
        out.family("santa_sync_attempts_total", "counter", "HTTP attempts by stage and result.");
        for ((stage, success), n) in &self.attempts {
            let result = if *success { "success" } else { "failure" };
            out.sample("", &[("stage", stage.name()), ("result", result)], n);
        }
        out.family("santa_sync_stage_seconds_total", "counter", "Time spent, by stage.");
        for (stage, ms) in &self.stage_ms {
            let seconds = std::time::Duration::from_millis(*ms).as_secs_f64();
            out.sample("", &[("stage", stage.name())], seconds);
        }
        out.family("santa_sync_duration_seconds", "summary", "How long syncs took.");
        out.sample("_sum", &[], self.seconds);
        out.sample("_count", &[], self.syncs.values().sum::<u64>());
        if let Some(seconds) = self.last_seconds {
            out.gauge("santa_sync_last_duration_seconds", "How long the last sync took.", seconds);
        }
        out.gauge(
            "santa_sync_failures_in_a_row",
            "Syncs that failed since one succeeded.",
            status.failures_in_a_row,
        );
        out.gauge(
            "santa_sync_back_off_seconds",
            "The wait that stands in for the interval; 0 for none.",
            status.back_off.unwrap_or(0),
        );
        out.gauge(
            "santa_sync_interval_seconds",
            "Time between syncs that succeed.",
            status.full_sync_interval,
        );
        out.gauge(
            "santa_sync_configuration_refused",
            "1 if the configuration on disk is not the one in effect.",
            u8::from(status.configuration_refused.is_some()),
        );
        if let Some(summary) = summary {
            stores_of(&mut out, summary);
        }
        if let Some(relay) = &status.relay {
            relay_of(&mut out, relay);
        }
        out.0
    }
}

fn relay_of(out: &mut MetricsText, relay: &RelayStatus) {
    out.gauge(
        "santa_sync_relay_listening",
        "1 if the authorizer can reach the relay.",
        u8::from(relay.error.is_none()),
    );
    out.gauge(
        "santa_sync_relay_in_step",
        "1 if the authorizer has all rules and settings.",
        u8::from(relay.in_step),
    );
    if let Some(since) = relay.behind_since {
        out.gauge(
            "santa_sync_relay_behind_since_time_seconds",
            "Since when it has not.",
            since.as_secs(),
        );
    }
    if let Some(authorizer) = &relay.authorizer {
        out.gauge(
            "santa_sync_relay_last_preflight_time_seconds",
            "When the authorizer last began a sync.",
            authorizer.at.as_secs(),
        );
    }
    if let Some(acknowledged) = &relay.acknowledged {
        out.gauge(
            "santa_sync_relay_acknowledged_generation",
            "The generation of rules that the authorizer last acknowledged.",
            acknowledged.generation,
        );
        out.gauge(
            "santa_sync_relay_drift",
            "1 if its rules differ from that generation's all the same.",
            u8::from(acknowledged.drift),
        );
    }
    if let Some(newest) = relay.newest_generation {
        out.gauge("santa_sync_relay_newest_generation", "The newest generation.", newest);
    }
    out.family("santa_sync_relay_refused_total", "counter", "Requests refused, by reason.");
    for (reason, n) in &relay.refused {
        out.sample("", &[("reason", reason)], n);
    }
    out.family("santa_sync_relay_events_total", "counter", "Events the authorizer uploaded.");
    out.sample("", &[], relay.events);
    out.family("santa_sync_relay_rules_left_out", "gauge", "Rules it cannot take.");
    out.sample("", &[], relay.rules_left_out);
    if let Some(nudge) = &relay.nudge {
        out.gauge(
            "santa_sync_relay_nudge_failures_in_a_row",
            "Nudges that failed since one succeeded.",
            nudge.failures,
        );
    }
}

fn stores_of(out: &mut MetricsText, summary: &StoreSummary) {
    if let Some(success) = summary.last_success {
        out.gauge(
            "santa_sync_last_success_time_seconds",
            "When a sync last succeeded.",
            success.as_secs(),
        );
    }
    let counts = &summary.rules;
    out.family("santa_sync_rules", "gauge", "Rules stored, by type.");
    for (rule_type, n) in [
        ("binary", counts.binary),
        ("certificate", counts.certificate),
        ("teamid", counts.teamid),
        ("signingid", counts.signingid),
        ("cdhash", counts.cdhash),
    ] {
        out.sample("", &[("type", rule_type)], n);
    }
    out.gauge("santa_sync_events_pending", "Events queued.", summary.events_pending);
    if let Some(oldest) = summary.events_oldest {
        out.gauge(
            "santa_sync_events_oldest_time_seconds",
            "When the oldest of them came in.",
            oldest.as_secs(),
        );
    }
    out.family("santa_sync_events_dropped", "gauge", "Events that left the queue unsent.");
    out.sample("", &[("cause", "queue_full")], summary.events_dropped);
    out.sample("", &[("cause", "unsendable")], summary.events_unsendable.values().sum::<u64>());
    out.gauge("santa_sync_events_rejected", "Events set aside.", summary.events_rejected);
    if let Some(expires) = summary.certificate_expires {
        out.gauge(
            "santa_sync_client_certificate_expires_time_seconds",
            "When the client certificate expires.",
            expires.as_secs(),
        );
    }
}

/// Replaces the file whole, for everyone to read. A link, a device or anything
/// else in its place is left alone.
///
/// # Errors
/// If it cannot be written.
pub(super) fn write(path: &Path, text: &str) -> io::Result<()> {
    // The collector reads files that end in `.prom`; the temporary one does not.
    Ok(files::replace(path, text.as_bytes(), Replacement { mode: 0o644, durable: false })?)
}

/// The format. Writing to memory cannot fail.
#[derive(Default)]
struct MetricsText(String, String);

impl MetricsText {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        name.clone_into(&mut self.1);
    }

    fn sample(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        let _ = writeln!(self.0, "{}{suffix}{} {value}", self.1, Labels(labels));
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "gauge", help);
        self.sample("", &[], value);
    }
}

struct Labels<'a>(&'a [(&'a str, &'a str)]);

impl Display for Labels<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (name, value)) in self.0.iter().enumerate() {
            // The format has escapes for these three alone; what else is unsafe to
            // show stands there as the text of its escape.
            let value = value.split('\n').map(escaped).collect::<Vec<_>>().join("\n");
            let value = value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', "\\n");
            write!(f, "{}{name}=\"{value}\"", if i == 0 { "{" } else { "," })?;
        }
        if self.0.is_empty() { Ok(()) } else { f.write_str("}") }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _, symlink};

    use super::*;
    use crate::control::status::example;
    use crate::model::{ErrorRecord, StageRecord, SyncType, Timestamp, Trigger};

    fn record() -> SyncRecord {
        let stage = |stage, requests, attempts| StageRecord {
            stage,
            requests,
            attempts,
            duration_ms: 1500,
            http_status: Some(503),
            bytes_sent: 0,
            bytes_received: 0,
        };
        SyncRecord {
            result: SyncResult::RuleDownloadFailed,
            duration_ms: 4500,
            stages: vec![stage(Stage::Preflight, 1, 2), stage(Stage::RuleDownload, 3, 8)],
            error: Some(ErrorRecord {
                stage: "rule_download".to_owned(),
                kind: "server".to_owned(),
                message: String::new(),
                fix: None,
                http_status: Some(503),
                cause: None,
            }),
            ..SyncRecord::begun(
                "ab".to_owned(),
                Trigger::Timer,
                Timestamp::from_secs(1),
                SyncType::Normal,
            )
        }
    }

    #[test]
    fn attempts_are_counted_by_stage_and_result() {
        let mut counters = Counters::default();
        counters.count(&record());
        counters.count(&record());
        let summary = StoreSummary {
            last_success: Some(Timestamp::from_secs(7)),
            events_pending: 3,
            ..StoreSummary::default()
        };
        let text = counters.render(&example(), Some(&summary));
        for line in [
            "santa_sync_syncs_total{result=\"rule_download_failed\"} 2",
            "santa_sync_attempts_total{stage=\"preflight\",result=\"failure\"} 2",
            "santa_sync_attempts_total{stage=\"preflight\",result=\"success\"} 2",
            "santa_sync_attempts_total{stage=\"rule_download\",result=\"failure\"} 12",
            "santa_sync_attempts_total{stage=\"rule_download\",result=\"success\"} 4",
            "santa_sync_stage_seconds_total{stage=\"preflight\"} 3",
            "santa_sync_duration_seconds_sum 9",
            "santa_sync_duration_seconds_count 2",
            "santa_sync_last_success_time_seconds 7",
            "santa_sync_events_pending 3",
            "santa_sync_rules{type=\"binary\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("certificate_expires"));
    }

    /// Every sample follows the type of its family.
    #[test]
    fn the_text_is_in_the_format() {
        let mut counters = Counters::default();
        counters.count(&record());
        let text = counters.render(&example(), Some(&StoreSummary::default()));
        let mut family = String::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                rest.split(' ').next().unwrap_or_default().clone_into(&mut family);
            } else if !line.starts_with('#') {
                let (name, value) = line.rsplit_once(' ').expect("a value");
                assert!(name.starts_with(&family), "{line}");
                value.parse::<f64>().expect("a number");
            }
        }
        assert_eq!(Labels(&[("a", "q\"\\\n")]).to_string(), r#"{a="q\"\\\n"}"#);
        assert_eq!(Labels(&[("a", "\u{202e}\0")]).to_string(), r#"{a="\\u{202e}\\u{0}"}"#);
    }

    #[test]
    fn the_file_is_replaced_whole_and_for_everyone() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("santa.prom");
        write(&path, "a 1\n").expect("written");
        write(&path, "a 2\n").expect("written");
        assert_eq!(fs::read_to_string(&path).expect("read"), "a 2\n");
        assert_eq!(fs::metadata(&path).expect("file").permissions().mode() & 0o777, 0o644);
        assert!(write(&dir.path().join("no/such.prom"), "").is_err());
    }

    /// STATE-1: `MetricsFile` = /dev/null once cost the host its /dev/null.
    #[test]
    fn state_1_the_metrics_replace_nothing_but_a_regular_file() {
        let error = write(Path::new("/dev/null"), "a 1\n").expect_err("a device").to_string();
        assert_eq!(error, "it is a device, not a file");
        let kind = fs::metadata("/dev/null").expect("there").file_type();
        assert!(kind.is_char_device());
        let dir = tempfile::tempdir().expect("a directory");
        let (path, victim) = (dir.path().join("x.prom"), dir.path().join("victim"));
        fs::write(&victim, "untouched").expect("written");
        symlink(&victim, &path).expect("a link");
        write(&path, "a 1\n").expect_err("a link");
        assert_eq!(fs::read_to_string(&victim).expect("read"), "untouched");
        assert!(fs::symlink_metadata(&path).expect("there").is_symlink());
    }
}
