//! What the four stages do.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::{HostDownload, State, Uploads};
use crate::harness::fault::Fault;
use crate::harness::fixtures::{AnyEvent, Random};
use crate::harness::reply::{self, Form, Refusal};
use crate::harness::style::{CursorStyle, SyncTypePolicy};
use crate::protocol::wire::{self, SyncType};

impl State {
    pub(super) fn preflight(
        &mut self,
        machine_id: &str,
        form: Form,
        body: &[u8],
        fault: Option<&Fault>,
    ) -> Result<Vec<u8>, Refusal> {
        let request: wire::PreflightRequest = reply::read(form, body)?;
        self.compared(machine_id, &request.machine_id)?;
        if self.style.refuses_standalone && request.client_mode() == wire::ClientMode::Standalone {
            return Err(Refusal::new(500, "client mode STANDALONE is not known here"));
        }
        if self.style.demands_host_facts {
            host_facts_told(&request)?;
        }

        let mut settings = self.settings.clone();
        let done = self.sync_type(&request, &mut settings);
        self.begin(machine_id, done);
        if let Some(host) = self.hosts.get_mut(machine_id) {
            host.shown.preflights += 1;
            host.shown.last_preflight = Some(request);
        }

        let unknown_enum = matches!(fault, Some(Fault::UnknownEnum));
        if form == Form::Protobuf {
            if unknown_enum {
                settings.client_mode = 99;
            }
            return Ok(reply::written(&self.style, form, &settings, &Value::Null));
        }
        let mut object = json!(settings);
        if unknown_enum {
            object["clientMode"] = json!("SOME_LATER_MODE");
        }
        if self.style.lower_case_sync_type
            && let Some(Value::String(name)) = object.get_mut("syncType")
        {
            name.make_ascii_lowercase();
        }
        Ok(reply::json_text(&self.style, object, &self.style.preflight_extra))
    }

    /// Sets the sync type in the settings according to the policy, unless they
    /// have one. Returns the type the client will derive from it.
    #[expect(deprecated, reason = "servers without sync_type say clean_sync")]
    fn sync_type(
        &self,
        request: &wire::PreflightRequest,
        settings: &mut wire::PreflightResponse,
    ) -> SyncType {
        let requested = request.request_clean_sync;
        let empty = request.binary_rule_count
            + request.certificate_rule_count
            + request.compiler_rule_count
            + request.transitive_rule_count
            == 0;
        let clean_if = |clean| if clean { SyncType::Clean } else { SyncType::Normal };
        if settings.sync_type.is_none() && settings.deprecated_clean_sync.is_none() {
            match self.style.sync_type {
                SyncTypePolicy::AsRequested => settings.set_sync_type(clean_if(requested)),
                SyncTypePolicy::CleanWhenEmpty => {
                    settings.set_sync_type(clean_if(requested || empty));
                }
                SyncTypePolicy::Always(sync_type) => settings.set_sync_type(sync_type),
                SyncTypePolicy::LegacyFlag => settings.deprecated_clean_sync = Some(requested),
                SyncTypePolicy::Silent => {}
            }
        }
        let said = settings.sync_type();
        if said == SyncType::Unspecified {
            return clean_if(settings.deprecated_clean_sync());
        }
        said
    }

    /// Fixes the rules that a sync of this type sends to the host.
    fn begin(&mut self, machine_id: &str, sync_type: SyncType) {
        let Some(host) = self.hosts.get_mut(machine_id) else { return };
        let changes = host.seen.and_then(|seen| self.log.get(seen..));
        let rules = match (sync_type, changes) {
            (SyncType::Normal, Some(changes)) => Arc::new(changes.iter().cloned().collect()),
            (_, _) => Arc::clone(&self.rules),
        };
        host.shown.sync_type = sync_type;
        host.shown.acknowledged.clear();
        host.download = Some(HostDownload { rules, seen: self.log.len(), cursors: HashMap::new() });
    }

    pub(super) fn event_upload(
        &mut self,
        machine_id: &str,
        form: Form,
        body: &[u8],
    ) -> Result<Vec<u8>, Refusal> {
        let text = String::from_utf8_lossy(body);
        let mut refused = self.refused_events.iter();
        if let Some((words, status)) = refused.find(|(words, _)| text.contains(words.as_str())) {
            return Err(Refusal::new(*status, format!("the event with {words} is not acceptable")));
        }
        let count = if self.uploads == Uploads::Counted {
            reply::counted(form, body)?
        } else {
            let request: wire::EventUploadRequest = reply::read(form, body)?;
            self.compared(machine_id, &request.machine_id)?;
            self.taken(request)
        };
        self.events_received += count;
        if let Some(host) = self.hosts.get_mut(machine_id) {
            host.shown.event_uploads += 1;
            host.shown.events += count;
        }
        if self.style.empty_responses {
            return Ok(Vec::new());
        }
        let event_upload_bundle_binaries = std::mem::take(&mut self.bundles);
        let extra = &self.style.event_upload_response;
        let response = wire::EventUploadResponse { event_upload_bundle_binaries };
        Ok(reply::written(&self.style, form, &response, extra))
    }

    /// Counts the events of an upload, and keeps them if requested.
    fn taken(&mut self, request: wire::EventUploadRequest) -> u64 {
        let count =
            request.events.len() + request.file_access_events.len() + request.audit_events.len();
        if self.uploads != Uploads::Kept {
            return count as u64;
        }
        self.events
            .extend(request.events.into_iter().map(|event| AnyEvent::Execution(Box::new(event))));
        self.events.extend(request.file_access_events.into_iter().map(AnyEvent::FileAccess));
        self.audit_events.extend(request.audit_events);
        count as u64
    }

    pub(super) fn rule_download(
        &mut self,
        machine_id: &str,
        form: Form,
        body: &[u8],
        fault: Option<&Fault>,
    ) -> Result<Vec<u8>, Refusal> {
        let request: wire::RuleDownloadRequest = reply::read(form, body)?;
        self.compared(machine_id, &request.machine_id)?;
        if self.hosts.get(machine_id).is_none_or(|host| host.download.is_none()) {
            self.begin(machine_id, SyncType::Normal);
        }
        let Some(host) = self.hosts.get_mut(machine_id) else { return Ok(Vec::new()) };
        let Some(download) = host.download.as_mut() else { return Ok(Vec::new()) };
        let start = match request.cursor.as_str() {
            "" => 0,
            cursor => *download.cursors.get(cursor).ok_or_else(|| {
                Refusal::new(400, format!("cursor {cursor:?} was not given in this sync"))
            })?,
        };
        if self.style.cursor == CursorStyle::Fresh && !request.cursor.is_empty() {
            host.shown.acknowledged.push(request.cursor.clone());
        }
        host.shown.pages += 1;

        let all = download.rules.len();
        let size = if self.style.one_page || self.page_size == 0 { all } else { self.page_size };
        let end = all.min(start.saturating_add(size));
        let follows = end < all || (self.style.cursor_after_last_page && start < end);
        let (next, leads_to) = match fault {
            Some(Fault::RepeatCursor) if !request.cursor.is_empty() => (request.cursor, start),
            Some(Fault::RepeatCursor | Fault::EndlessCursor) => (eight(&mut self.random), start),
            _ if follows => (cursor(self.style.cursor, end, &mut self.random), end),
            _ => (String::new(), end),
        };
        if !next.is_empty() {
            download.cursors.insert(next.clone(), leads_to);
        }

        let range = start..end;
        let page = match (form, fault) {
            (_, Some(Fault::BrokenRule(_) | Fault::UnknownEnum)) => {
                let rules = download.rules.decoded(range);
                self.spoilt_rules(form, rules, fault)
            }
            (Form::Protobuf, _) => download.rules.protobuf(range),
            (Form::Json, _) if range.is_empty() && self.style.null_rules => {
                b"{\"rules\":null".to_vec()
            }
            (Form::Json, _) => {
                let array = download.rules.json(range, size, self.style.spelling);
                let mut page = Vec::with_capacity(array.len() + 64);
                page.extend_from_slice(b"{\"rules\":");
                page.extend_from_slice(&array);
                page
            }
        };
        let as_number = self.style.cursor == CursorStyle::Number && next.parse::<u64>().is_ok();
        Ok(reply::page_end(form, page, &next, as_number))
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

    pub(super) fn postflight(
        &mut self,
        machine_id: &str,
        form: Form,
        body: &[u8],
    ) -> Result<Vec<u8>, Refusal> {
        let request: wire::PostflightRequest = reply::read(form, body)?;
        self.compared(machine_id, &request.machine_id)?;
        if let Some(host) = self.hosts.get_mut(machine_id) {
            host.shown.postflights += 1;
            if let Some(download) = host.download.take() {
                let exact = u64::from(request.rules_processed) == download.rules.len() as u64
                    && is_clean(request.sync_type()) == is_clean(host.shown.sync_type);
                if exact || !self.style.commits_if_exact {
                    host.seen = Some(download.seen);
                }
            }
            host.shown.last_postflight = Some(request);
        }
        if self.style.empty_responses || form == Form::Protobuf {
            return Ok(Vec::new());
        }
        Ok(self.style.postflight_response.to_string().into_bytes())
    }

    fn compared(&self, path: &str, body: &str) -> Result<(), Refusal> {
        if self.style.compares_machine_id && path != body {
            return Err(Refusal::new(400, format!("machine_id {body:?} is not that of the path")));
        }
        Ok(())
    }
}

/// A client that requested `CLEAN_ALL` turns CLEAN into that.
const fn is_clean(sync_type: SyncType) -> bool {
    matches!(sync_type, SyncType::Clean | SyncType::CleanAll)
}

/// A cursor that leads to the rule at this index.
fn cursor(style: CursorStyle, to: usize, random: &mut Random) -> String {
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

/// Checks that the host facts are complete.
fn host_facts_told(request: &wire::PreflightRequest) -> Result<(), Refusal> {
    let told = [
        ("serial_num", !request.serial_number.is_empty()),
        ("hostname", !request.hostname.is_empty()),
        ("os_version", dotted(&request.os_version)),
        ("os_build", !request.os_build.is_empty()),
        ("santa_version", dotted(&request.santa_version)),
    ];
    match told.into_iter().find(|(_, good)| !good) {
        Some((name, _)) => Err(Refusal::new(400, format!("{name} is empty or malformed"))),
        None => Ok(()),
    }
}

fn dotted(version: &str) -> bool {
    version.split('.').all(|part| part.parse::<u32>().is_ok())
}
