//! Rule download: pages and cursors.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use super::State;
use super::host::{CursorTarget, HostDownload};
use super::stages::Call;
use crate::harness::fault::Fault;
use crate::harness::fixtures::Random;
use crate::harness::misbehaviour::{Contents, Misbehaviour, Misbehaviours, SyncPlan};
use crate::harness::reply::{self, Form, Refusal, RefusalReason};
use crate::harness::rules::PageSpec;
use crate::harness::style::CursorStyle;
use crate::protocol::wire::{self, SyncType};

/// What [`Misbehaviour::Page02Long`] adds to a cursor.
const LONG_CURSOR: usize = 5 << 10;

impl State {
    pub(super) fn rule_download(&mut self, call: Call<'_>, body: &[u8]) -> Result<Bytes, Refusal> {
        let request: wire::RuleDownloadRequest = reply::read(call.form, body)?;
        self.compared(call.machine_id, &request.machine_id)?;
        self.begin_outside_sync(call.machine_id);
        let style = self.cursor_style();
        let Some(host) = self.hosts.get_mut(call.machine_id) else { return Ok(Bytes::new()) };
        let Some(download) = host.download.as_mut() else { return Ok(Bytes::new()) };
        let cursor_time = self.style.cursor_time.or(self.misbehaviours.cursor_time());
        let start = match request.cursor.as_str() {
            _ if download.is_void => download.rules.len(),
            "" => 0,
            cursor => target(&self.misbehaviours, download, cursor, call, cursor_time)?,
        };
        if self.style.cursor == CursorStyle::Fresh && !request.cursor.is_empty() {
            host.shown.acknowledged.push(request.cursor.clone());
        }
        host.shown.pages += 1;

        let all = download.rules.len();
        let size = if self.style.one_page || self.page_size == 0 { all } else { self.page_size };
        let end = all.min(start.saturating_add(size));
        let follows = end < all || (self.style.cursor_after_last_page && start < end);
        let (mut next, leads_to) = match call.fault {
            Some(Fault::RepeatCursor) if !request.cursor.is_empty() => (request.cursor, start),
            Some(Fault::RepeatCursor | Fault::EndlessCursor) => (eight(&mut self.random), start),
            _ if follows => (cursor(style, end, &mut self.random), end),
            _ if self.style.repeats_last_cursor && !request.cursor.is_empty() => {
                (request.cursor, start)
            }
            _ if self.misbehaviours.does(Misbehaviour::Page02Endless) => {
                let same = (!request.cursor.is_empty()).then_some(request.cursor);
                (same.unwrap_or_else(|| cursor(style, start, &mut self.random)), start)
            }
            _ => (String::new(), end),
        };
        if !next.is_empty() {
            if self.misbehaviours.does(Misbehaviour::Page02Long) && next.len() < LONG_CURSOR {
                next.push_str(&"x".repeat(LONG_CURSOR));
            }
            let (connection, at) = (call.connection, call.at.elapsed);
            let target = CursorTarget { start: leads_to, connection, at };
            download.cursors.insert(next.clone(), target);
        }
        let is_new = download.sent.insert(start);
        let is_withheld = self.misbehaviours.withholds(start, !is_new);
        download.is_sent_whole |= end == all;
        host.had_last_page |= end == all;
        if end == all && self.misbehaviours.delivers_when_sent(download.sync_type) {
            host.seen = Some(download.seen);
            host.holds = None;
            host.owes_clean = false;
        }

        let range = if is_withheld { start..start } else { start..end };
        let as_number = style == CursorStyle::Number && next.parse::<u64>().is_ok();
        let rules = &download.rules;
        let page =
            PageSpec { range, size, spelling: self.style.spelling, cursor: &next, as_number };
        let spoilt = match (call.answer_form, call.fault) {
            (form, Some(Fault::BrokenRule(_) | Fault::UnknownEnum)) => {
                let rules = rules.decoded(page.range);
                self.spoilt_rules(form, rules, call.fault)
            }
            (Form::Protobuf, _) => return Ok(rules.protobuf(&page)),
            (Form::Json, _) if page.range.is_empty() && self.style.null_rules => {
                b"{\"rules\":null".to_vec()
            }
            (Form::Json, _) => return Ok(rules.json(&page)),
        };
        Ok(reply::page_end(call.answer_form, spoilt, &next, as_number).into())
    }

    fn cursor_style(&self) -> CursorStyle {
        if self.misbehaviours.does(Misbehaviour::Page01Number) {
            CursorStyle::Number
        } else {
            self.style.cursor
        }
    }

    /// Fixes the rules of a download that no preflight began.
    fn begin_outside_sync(&mut self, machine_id: &str) {
        let Some(host) = self.hosts.get(machine_id) else { return };
        if host.download.is_some() {
            return;
        }
        let contents = if host.seen.is_some() { Contents::Changes } else { Contents::Whole };
        let plan = SyncPlan { sync_type: SyncType::Normal, contents };
        let set = self.set_of(machine_id);
        let download = HostDownload {
            sync_type: SyncType::Normal,
            rules: self.rules_of(set, host, plan),
            seen: set.log.len(),
            total: set.rules.len(),
            cursors: HashMap::new(),
            sent: HashSet::new(),
            is_sent_whole: false,
            is_void: false,
        };
        if let Some(host) = self.hosts.get_mut(machine_id) {
            host.shown.acknowledged.clear();
            host.download = Some(download);
        }
    }

    /// The beginning of a page with one invalid rule, or one with an unknown
    /// policy.
    fn spoilt_rules(
        &self,
        form: Form,
        mut rules: Vec<wire::Rule>,
        fault: Option<&Fault>,
    ) -> Vec<u8> {
        let unknown_enum = matches!(fault, Some(Fault::UnknownEnum));
        if let Some(Fault::BrokenRule(index)) = fault
            && let Some(rule) = rules.get_mut(*index)
        {
            "not an identifier".clone_into(&mut rule.identifier);
            rule.set_rule_type(wire::RuleType::Binary);
        }
        if form == Form::Protobuf {
            if unknown_enum && let Some(rule) = rules.first_mut() {
                rule.policy = 99;
            }
            return reply::written(
                &self.style,
                form,
                &wire::RuleDownloadResponse { rules, cursor: String::new() },
                &Value::Null,
            );
        }
        let mut array = json!(rules);
        if unknown_enum && let Some(rule) = array.get_mut(0) {
            rule["policy"] = json!("SOME_LATER_POLICY");
        }
        let mut page = reply::json_text(&self.style, json!({ "rules": array }), &Value::Null);
        page.pop();
        page
    }
}

/// The index of the rule a cursor leads to.
fn target(
    misbehaviours: &Misbehaviours,
    download: &HostDownload,
    cursor: &str,
    call: Call<'_>,
    cursor_time: Option<Duration>,
) -> Result<usize, Refusal> {
    let known = download.cursors.get(cursor).filter(|target| {
        let age = call.at.elapsed.saturating_sub(target.at);
        misbehaviours.shares_cursor(target.connection == call.connection)
            && cursor_time.is_none_or(|time| age < time)
    });
    match known {
        Some(target) => Ok(target.start),
        None if misbehaviours.does(Misbehaviour::Page06Restart) => Ok(0),
        None => Err(Refusal::new(400, format!("cursor {cursor:?} was not given in this sync"))
            .because(RefusalReason::Cursor)),
    }
}

/// A cursor that leads to the rule at this index.
pub(super) fn cursor(style: CursorStyle, to: usize, random: &mut Random) -> String {
    match style {
        CursorStyle::Opaque => eight(&mut Random::new(to as u64)),
        CursorStyle::Fresh => eight(random),
        CursorStyle::JsonText => {
            json!({"PK": "Rule#Global", "SK": format!("Binary#{to:08}")}).to_string()
        }
        CursorStyle::Number => to.to_string(),
    }
}

fn eight(random: &mut Random) -> String {
    const LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    (0..8).map(|_| char::from(LETTERS[random.below(36) as usize])).collect()
}
