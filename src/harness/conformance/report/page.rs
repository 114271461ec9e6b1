//! The report as a page: the result first, then what to look at, then everything.

use std::fmt::Write as _;
use std::time::Duration;

use super::untested::{self, UntestedGroup};
use super::{Evidence, Report, RequirementResult};
use crate::harness::conformance::catalogue::Section;
use crate::harness::conformance::probe_events::PROBE_PATH;
use crate::harness::conformance::verdict::Verdict;
use crate::harness::html::{Escaped, HtmlPage, HtmlTable};
use crate::model::text::counted;

/// Styles of this page alone.
const PAGE_STYLE: &str = "
.finding{border-left:4px solid var(--line);padding:.1rem 0 .1rem .9rem;margin:1.4rem 0}
.finding h3{margin:.2rem 0}.finding p{margin:.3rem 0}
.finding.is-fail{border-color:var(--fail)}.finding.is-warn{border-color:var(--warn)}
.verdict{font-weight:600}
dl.exchange{display:grid;grid-template-columns:max-content 1fr;gap:.1rem .9rem;margin:.5rem 0}
dl.exchange dt{color:var(--faint)}dl.exchange dd{margin:0;min-width:0}
@media(max-width:40rem){dl.exchange{grid-template-columns:1fr}}
";

impl Report {
    /// The report as a self-contained HTML page.
    #[must_use]
    pub fn html(&self) -> HtmlPage {
        let mut body = String::new();
        cards(self, &mut body);
        notes(self, &mut body);
        findings(self, &mut body);
        not_tested(self, &mut body);
        body.push_str("<h2>Every requirement</h2>\n");
        for section in Section::ALL {
            requirements(self, section, &mut body);
        }
        leftovers(self, &mut body);
        let form = self.form.map_or("no form that the server accepts", |form| form.name());
        HtmlPage {
            title: format!("Conformance of {}", self.url),
            lead: format!(
                "{}, {} in {:.1} s as {form}, started {}, run {}, santa-sync {}",
                counted(self.results.len() as u64, "requirement"),
                counted(self.requests, "request"),
                Duration::from_millis(self.duration_ms).as_secs_f64(),
                self.started_at,
                self.run_id,
                self.version
            ),
            style: PAGE_STYLE.to_owned(),
            body,
        }
    }
}

/// The class that colours a verdict.
const fn class(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "pass",
        Verdict::Fail | Verdict::Unstable => "fail",
        Verdict::Warning => "warn",
        Verdict::Info => "info",
        Verdict::NotTested | Verdict::NotApplicable => "faint",
    }
}

fn cards(report: &Report, body: &mut String) {
    body.push_str("<ul class=\"cards\">");
    for verdict in Verdict::ALL.iter().rev().filter(|verdict| report.count(**verdict) > 0) {
        let _ = write!(
            body,
            "<li><b class=\"{}\">{}</b><span>{}</span></li>",
            class(*verdict),
            report.count(*verdict),
            verdict.words()
        );
    }
    if let Some(rules) = &report.rules {
        let _ = write!(
            body,
            "<li><b>{}</b><span>{} on {}</span></li>",
            rules.rules,
            if rules.rules == 1 { "rule" } else { "rules" },
            counted(rules.pages, "page")
        );
    }
    body.push_str("</ul>\n");
}

fn notes(report: &Report, body: &mut String) {
    if let Some(end) = &report.ended_early {
        let _ = writeln!(
            body,
            "<p class=\"fail\"><strong>Ended early.</strong> {}; {} not run.</p>",
            Escaped(&end.cause),
            counted(end.not_run, "requirement")
        );
    }
    match &report.deviations {
        Some(deviations) if deviations.is_empty() => {
            body.push_str("<p class=\"pass\">As expected: no deviation is new or gone.</p>\n");
        }
        Some(deviations) => {
            let _ = writeln!(
                body,
                "<p class=\"fail\"><strong>Not as expected.</strong> {}</p>",
                Escaped(&deviations.to_string())
            );
        }
        None => {}
    }
    let known = report.known();
    if known > 0 {
        let _ = writeln!(body, "<p>Pinned as known: {}.</p>", counted(known, "deviation"));
    }
    for note in &report.notes {
        let _ = writeln!(body, "<p><strong>Note.</strong> {}</p>", Escaped(note));
    }
}

/// Every requirement that is not met, with its evidence.
fn findings(report: &Report, body: &mut String) {
    body.push_str("<h2>What to look at</h2>\n");
    let mut complaints: Vec<_> = report.complaints().collect();
    if complaints.is_empty() {
        body.push_str("<p class=\"pass\">No requirement failed, and none has a warning.</p>\n");
        return;
    }
    complaints.sort_by_key(|result| std::cmp::Reverse(result.verdict));
    for result in complaints {
        finding(result, body);
    }
}

fn finding(result: &RequirementResult, body: &mut String) {
    let class = class(result.verdict);
    let _ = write!(
        body,
        "<article class=\"finding is-{class}\" id=\"{id}\">\n\
         <h3><span class=\"verdict {class}\">{verdict}</span> {id}: {title}{pinned}</h3>\n",
        id = Escaped(result.id),
        verdict = result.verdict.words(),
        title = Escaped(result.title),
        pinned = pinned(result),
    );
    if !result.summary.is_empty() {
        let _ = writeln!(body, "<p><strong>Observed:</strong> {}</p>", Escaped(&result.summary));
    }
    if let Some(by) = result.blocked_by {
        let _ = writeln!(body, "<p>Blocked by {}.</p>", Escaped(by));
    }
    if !result.runs.is_empty() {
        body.push_str("<ol>");
        for run in &result.runs {
            let _ = write!(body, "<li>{}: {}</li>", run.verdict.words(), Escaped(&run.summary));
        }
        body.push_str("</ol>\n");
    }
    let _ =
        writeln!(body, "<p><strong>It matters because:</strong> {}</p>", Escaped(result.breaks));
    exchanges(&result.evidence, body);
    body.push_str("</article>\n");
}

/// How the verdict relates to the one that is pinned, in brackets.
fn pinned(result: &RequirementResult) -> String {
    match result.pinned {
        None => String::new(),
        Some(pinned) if pinned == result.verdict => " (pinned)".to_owned(),
        Some(pinned) => format!(" (pinned as {})", pinned.words()),
    }
}

fn exchanges(evidence: &[Evidence], body: &mut String) {
    if evidence.is_empty() {
        return;
    }
    let shown = match evidence.len() {
        1 => "The exchange that shows it".to_owned(),
        n => format!("{n} exchanges that show it"),
    };
    let _ = writeln!(body, "<details><summary>{shown}</summary>");
    for Evidence { exchange, request, sent, status, received, elapsed_ms } in evidence {
        let status = status.map_or_else(|| "no status".to_owned(), |status| status.to_string());
        let _ = writeln!(
            body,
            "<dl class=\"exchange\"><dt>exchange {exchange}</dt><dd><code>{}</code></dd>\
             <dt>sent</dt><dd><code>{}</code></dd>\
             <dt>response</dt><dd>{status} in {elapsed_ms} ms</dd>\
             <dt>received</dt><dd><code>{}</code></dd></dl>",
            Escaped(request),
            Escaped(sent),
            Escaped(received),
        );
    }
    body.push_str("</details>\n");
}

fn requirements(report: &Report, section: Section, body: &mut String) {
    let results: Vec<_> = report.results.iter().filter(|r| r.section == section).collect();
    if results.is_empty() {
        return;
    }
    let groups = untested::groups(report);
    let shared: Vec<_> =
        groups.iter().filter(|group| group.is_shared()).flat_map(|group| &group.ids).collect();
    let rows = results.into_iter().map(|result| {
        let observed = match result.blocked_by {
            // Those that share the reason are listed with it.
            _ if shared.contains(&&result.id) => String::new(),
            Some(by) => format!("blocked by {by}: {}", result.summary),
            None => result.summary.clone(),
        };
        let verdict = format!("{}{}", result.verdict.words(), pinned(result));
        vec![result.id.to_owned(), verdict, result.title.to_owned(), observed]
    });
    let table = HtmlTable {
        caption: section.title().to_owned(),
        columns: ["Id", "Verdict", "What the server has to do", "Observed"]
            .map(str::to_owned)
            .into(),
        numbers: Vec::new(),
        rows: rows.collect(),
    };
    let _ = writeln!(body, "{table}");
}

/// The reasons for which requirements were not tested, each once.
fn not_tested(report: &Report, body: &mut String) {
    let groups = untested::groups(report);
    if groups.is_empty() {
        return;
    }
    body.push_str("<h2>Not tested</h2>\n<ul>");
    for UntestedGroup { reason, ids } in groups {
        let count = counted(ids.len() as u64, "requirement");
        let reason = Escaped(&reason);
        let _ = write!(body, "<li>{count}: {reason} <small>({})</small></li>", ids.join(", "));
    }
    body.push_str("</ul>\n");
}

/// What the run left on the server, for deleting it.
fn leftovers(report: &Report, body: &mut String) {
    let _ = write!(
        body,
        "<h2>Left on the server</h2>\n<p>{}, and {} with the path \
         <code>{PROBE_PATH}</code>.</p>\n<details><summary>Every id and hash</summary>\n<ul>",
        counted(report.machine_ids.len() as u64, "machine"),
        counted(report.events.len() as u64, "event")
    );
    for id in &report.machine_ids {
        let _ = write!(body, "<li><code>{}</code></li>", Escaped(id));
    }
    body.push_str("</ul>\n");
    if !report.events.is_empty() {
        let row = |event: &crate::harness::conformance::ProbeEvent| {
            vec![event.file_name.clone(), event.file_sha256.clone()]
        };
        let table = HtmlTable {
            caption: "Events".to_owned(),
            columns: ["File name", "SHA-256"].map(str::to_owned).into(),
            numbers: Vec::new(),
            rows: report.events.iter().map(row).collect(),
        };
        let _ = writeln!(body, "{table}");
    }
    body.push_str("</details>\n");
}
