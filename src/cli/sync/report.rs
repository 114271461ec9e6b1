//! What a person sees of a sync: a moving line on a terminal, plain lines
//! elsewhere, and a summary at the end.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::output::{self, brief, line, printable};
use crate::model::{SettingChange, SyncRecord, SyncResult, SyncType};
use crate::store::{RuleChangeKind, RulesPreview};
use crate::sync::progress::SyncStep;
use crate::sync::progress::{Observer, SyncProgress};

/// How many rejected rules the summary lists.
const REJECTED_SHOWN: usize = 10;

/// Shows a sync as it runs.
#[derive(Debug)]
pub(crate) struct Reporter {
    bar: Option<ProgressBar>,
    lines: bool,
    preview: Option<RulesPreview>,
}

impl Reporter {
    /// Shows the sync on standard output, or, without `shown`, nothing.
    pub(crate) fn new(shown: bool) -> Self {
        let bar = (shown && output::is_terminal()).then(|| {
            let bar = ProgressBar::new_spinner();
            bar.set_style(ProgressStyle::default_spinner());
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self { lines: shown && bar.is_none(), bar, preview: None }
    }

    /// Clears the terminal's line. Answers what a dry run found.
    pub(crate) fn finish(self) -> Option<RulesPreview> {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
        self.preview
    }

    /// Shows progress that replaces itself on a terminal; prints nothing elsewhere.
    fn moving(&self, text: impl FnOnce() -> String) {
        if let Some(bar) = &self.bar {
            bar.set_message(printable(&text()));
        }
    }

    /// Prints a line that stays.
    fn lasting(&self, text: impl FnOnce() -> String) {
        if let Some(bar) = &self.bar {
            bar.println(printable(&text()));
        } else if self.lines {
            line(text());
        }
    }
}

impl Observer for Reporter {
    fn progress(&mut self, progress: &SyncProgress<'_>) {
        if let SyncProgress::Compared(preview) = progress {
            self.preview = Some((*preview).clone());
        }
        if let SyncProgress::InLine { behind } = progress
            && (self.lines || self.bar.is_some())
        {
            // On standard error: it is not part of the result.
            match &self.bar {
                Some(bar) => bar.suspend(|| in_line(*behind)),
                None => in_line(*behind),
            }
        }
        if let Some(step) = SyncStep::of(progress) {
            self.step(&step);
        }
    }
}

impl Reporter {
    /// Shows what happened, here or in the daemon.
    pub(crate) fn step(&self, step: &SyncStep) {
        match step {
            SyncStep::Attempt { stage, attempt } => self.moving(|| match attempt {
                1 => stage.to_string(),
                n => format!("{stage}, attempt {n}"),
            }),
            SyncStep::Retry { stage, wait_ms, next_attempt, message } => self.lasting(|| {
                format!(
                    "{stage}: {message}; attempt {next_attempt} in {:.1} s",
                    Duration::from_millis(*wait_ms).as_secs_f64()
                )
            }),
            SyncStep::Negotiated { sync_type } => {
                self.lasting(|| format!("preflight: a {} sync", sync_type.name()));
            }
            SyncStep::Uploaded { total, of } => {
                self.moving(|| format!("event_upload: {total} of {of} events"));
            }
            SyncStep::Page { page, rules } => {
                self.moving(|| format!("rule_download: page {page}, {rules} rules"));
            }
            SyncStep::Committing { rules } => {
                self.moving(|| format!("rule_download: committing {rules} rules"));
            }
            SyncStep::Committed { added, replaced, removed, kept_transitive } => self.lasting(|| {
                format!(
                    "rule_download: removed {removed}, kept {kept_transitive} transitive, added \
                     {added}, replaced {replaced}"
                )
            }),
        }
    }
}

/// Says that another process holds the state directory.
pub(crate) fn in_line(behind: Option<u32>) {
    let process = behind.map_or_else(String::new, |id| format!(" (process {id})"));
    output::note(format_args!(
        "another sync or import is using this state directory{process}; waiting for it to finish"
    ));
}

/// Prints the result of a sync.
pub(crate) fn summary(record: &SyncRecord, preview: Option<&RulesPreview>) {
    let seconds = Duration::from_millis(record.duration_ms).as_secs_f64();
    let kind = if record.dry_run { "dry run" } else { "sync" };
    match &record.error {
        None => {
            let sync_type = record.sync_type.map_or("", SyncType::name);
            line(format!("{kind} succeeded in {seconds:.2} s ({sync_type})"));
        }
        Some(error) => {
            line(format!("{kind} failed after {seconds:.2} s: {}", record.result.name()));
            line(format!("  {}", printable(&error.line())));
        }
    }
    stages("  ", record);
    if let Some(preview) = preview {
        return compared(record, preview);
    }
    if record.stages.len() > 1 {
        line(format!(
            "  rules          received {}, processed {}, rejected {}",
            record.rules_received, record.rules_processed, record.rules_rejected_total
        ));
    }
    if record.stages.len() > 1 || record.result == SyncResult::AuthorizerStale {
        line(format!(
            "  events         uploaded {}, pending {}, rejected {}",
            record.events_uploaded, record.events_pending, record.events_rejected
        ));
    }
    rejected(record);
    warnings("  warning        ", record);
    settings("  setting       ", &record.settings_applied);
    for SettingChange { setting, before, after } in &record.settings_reverted {
        let (before, after) = (shown(before.as_ref()), shown(after.as_ref()));
        line(format!("  not applied    {setting}: {after}; {before} stays in effect"));
    }
    if !record.rules_hash.is_empty() {
        line(format!("  rules hash     {}", record.rules_hash));
    }
}

/// Prints the cost of each stage, indented.
pub(crate) fn stages(indent: &str, record: &SyncRecord) {
    for stage in &record.stages {
        line(format!(
            "{indent}{:<14} requests {}, attempts {}, {} ms, {} B sent, {} B received",
            stage.stage.name(),
            stage.requests,
            stage.attempts,
            stage.duration_ms,
            stage.bytes_sent,
            stage.bytes_received
        ));
    }
}

fn rejected(record: &SyncRecord) {
    for rule in record.rules_rejected.iter().take(REJECTED_SHOWN) {
        line(format!(
            "  rejected       page {} rule {} {:?}: {}",
            rule.page, rule.index, rule.identifier, rule.reason
        ));
    }
    let more = record.rules_rejected_total.saturating_sub(REJECTED_SHOWN as u64);
    if more > 0 {
        line(format!("  rejected       {more} more; see `santa-sync history --json`"));
    }
}

/// Prints the values of the server's responses that were not used as sent.
pub(crate) fn warnings(label: &str, record: &SyncRecord) {
    for warning in &record.warnings {
        line(format!("{label}{}", printable(&warning.to_string())));
    }
}

fn settings(label: &str, changes: &[SettingChange]) {
    for change in changes {
        line(format!(
            "{label} {}: {} -> {}",
            change.setting,
            shown(change.before.as_ref()),
            shown(change.after.as_ref())
        ));
    }
}

fn shown(value: Option<&String>) -> String {
    value.map_or_else(|| "unset".to_owned(), |value| brief(value))
}

fn compared(record: &SyncRecord, preview: &RulesPreview) {
    for change in &preview.changes {
        let (sign, policy) = match change.change {
            RuleChangeKind::Added => ("+", change.after.unwrap_or_default().to_owned()),
            RuleChangeKind::Removed => ("-", change.before.unwrap_or_default().to_owned()),
            RuleChangeKind::Replaced => (
                "~",
                format!(
                    "{} -> {}",
                    change.before.unwrap_or_default(),
                    change.after.unwrap_or_default()
                ),
            ),
        };
        line(format!("{sign} {:<11} {} {policy}", change.rule_type, change.identifier));
    }
    if preview.truncated {
        line("  (further changes are not listed)");
    }
    line(format!(
        "  rules          would add {}, replace {}, remove {}; {} of those sent are stored already; \
         {} transitive kept",
        preview.added,
        preview.replaced,
        preview.removed,
        preview.unchanged,
        preview.kept_transitive
    ));
    rejected(record);
    warnings("  warning        ", record);
    settings("  setting       ", &record.settings_applied);
    line("  nothing was changed; the server saw a preflight and a rule download");
}
