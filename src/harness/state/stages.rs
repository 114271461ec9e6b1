//! What the stages have in common, event upload, and postflight.

use super::host::HostDownload;
use super::{State, Uploads};
use crate::harness::fault::Fault;
use crate::harness::fixtures::AnyEvent;
use crate::harness::misbehaviour::Misbehaviour;
use crate::harness::reply::{self, Form, Refusal};
use crate::harness::style::Delivery;
use crate::model::{Now, Timestamp};
use crate::protocol::wire::{self, SyncType};

/// A request of a stage.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) machine_id: &'a str,
    pub(super) form: Form,
    pub(super) answer_form: Form,
    /// The number of its connection.
    pub(super) connection: u64,
    pub(super) at: Now,
    pub(super) fault: Option<&'a Fault>,
}

impl State {
    pub(super) fn event_upload(&mut self, call: Call<'_>, body: &[u8]) -> Result<Vec<u8>, Refusal> {
        let text = String::from_utf8_lossy(body);
        let mut refused = self.refused_events.iter();
        if let Some((words, status)) = refused.find(|(words, _)| text.contains(words.as_str())) {
            return Err(Refusal::new(*status, format!("the event with {words} is not acceptable")));
        }
        let count = if self.uploads == Uploads::Counted {
            reply::counted(call.form, body)?
        } else {
            let request: wire::EventUploadRequest = reply::read(call.form, body)?;
            self.compared(call.machine_id, &request.machine_id)?;
            self.misbehaviours.takes_upload(&request, self.settings.batch_size)?;
            self.checked_events(&request)?;
            self.taken(request)
        };
        self.events_received += count;
        if let Some(host) = self.hosts.get_mut(call.machine_id) {
            host.shown.event_uploads += 1;
            host.shown.events += count;
            if let (Some(open), Some(download)) = (host.open, host.download.as_mut())
                && self.misbehaviours.does(Misbehaviour::Event12Ends)
            {
                download.is_void |= open.connection != call.connection;
            }
        }
        if self.style.empty_responses {
            return Ok(Vec::new());
        }
        let event_upload_bundle_binaries = std::mem::take(&mut self.bundles);
        let extra = &self.style.event_upload_response;
        let response = wire::EventUploadResponse { event_upload_bundle_binaries };
        Ok(reply::written(&self.style, call.answer_form, &response, extra))
    }

    /// Checks events against those that came before, and requests the binaries of
    /// their bundles.
    fn checked_events(&mut self, request: &wire::EventUploadRequest) -> Result<(), Refusal> {
        let refuses_bundles = self.misbehaviours.does(Misbehaviour::Event13Refused);
        for event in &request.events {
            let bundle = &event.file_bundle_hash;
            let is_part = event.decision() == wire::Decision::BundleBinary;
            if refuses_bundles && is_part && self.requested_bundles.contains(bundle) {
                return Err(Refusal::new(400, "decision BUNDLE_BINARY is not known"));
            }
            if self.misbehaviours.does(Misbehaviour::Event09Conflict)
                && !self.former_events.insert(format!("{event:?}"))
            {
                return Err(Refusal::new(409, "this event is known"));
            }
            let requests = (self.style.requests_bundles || refuses_bundles) && !is_part;
            if requests && !bundle.is_empty() {
                let is_new = self.requested_bundles.insert(bundle.clone());
                if is_new || refuses_bundles {
                    self.bundles.push(bundle.clone());
                }
            }
        }
        Ok(())
    }

    /// Counts the events of an upload, and keeps them if requested.
    fn taken(&mut self, request: wire::EventUploadRequest) -> u64 {
        let count =
            request.events.len() + request.file_access_events.len() + request.audit_events.len();
        let drops = self.misbehaviours.does(Misbehaviour::Ops05Dropped);
        let is_full = self.events.len().saturating_add(count) > self.events_limit;
        if self.uploads != Uploads::Kept || drops || is_full {
            return count as u64;
        }
        self.events
            .extend(request.events.into_iter().map(|event| AnyEvent::Execution(Box::new(event))));
        if !self.misbehaviours.does(Misbehaviour::Ops05FileAccess) {
            self.events.extend(request.file_access_events.into_iter().map(AnyEvent::FileAccess));
        }
        self.audit_events.extend(request.audit_events);
        count as u64
    }

    pub(super) fn postflight(&mut self, call: Call<'_>, body: &[u8]) -> Result<Vec<u8>, Refusal> {
        let request: wire::PostflightRequest = reply::read(call.form, body)?;
        self.compared(call.machine_id, &request.machine_id)?;
        if let Some(host) = self.hosts.get_mut(call.machine_id) {
            let sent = host.download.as_ref().map_or(0, |download| download.rules.len());
            self.misbehaviours.takes_postflight(&request, &host.facts(), sent)?;
            host.shown.postflights += 1;
            let open = host.open.take();
            let never_asked = open.is_some_and(|open| open.pages == 0)
                && self.misbehaviours.does(Misbehaviour::Post04Counts);
            match host.download.take() {
                Some(download)
                    if never_asked || is_delivered(self.style.delivery, &download, &request) =>
                {
                    self.delivered(call.machine_id, &download, call.at.wall);
                }
                None if self.misbehaviours.does(Misbehaviour::Post03Clean) => host.seen = None,
                Some(_) | None => {}
            }
        }
        if let Some(host) = self.hosts.get_mut(call.machine_id) {
            host.shown.last_postflight = Some(request);
        }
        if self.style.empty_responses || call.answer_form == Form::Protobuf {
            return Ok(Vec::new());
        }
        Ok(self.style.postflight_response.to_string().into_bytes())
    }

    /// Records that a host has the rules of a sync.
    fn delivered(&mut self, machine_id: &str, download: &HostDownload, at: Timestamp) {
        let Some(host) = self.hosts.get_mut(machine_id) else { return };
        host.seen = Some(download.seen);
        host.owes_clean = false;
        let was_sent =
            download.is_sent_whole || !self.misbehaviours.does(Misbehaviour::Post04Counts);
        if is_clean(download.sync_type) {
            host.clean_syncs += 1;
            host.shown.clean_requested = false;
            host.holds = was_sent.then_some(download.total);
        } else if host.holds.is_some() {
            host.holds = Some(download.total);
        }
        if !self.misbehaviours.does(Misbehaviour::Ops05NoTime) {
            host.shown.last_sync = Some(at);
        }
        if self.misbehaviours.does(Misbehaviour::Iso04Postflight)
            || self.misbehaviours.does(Misbehaviour::Ops06First)
        {
            self.delivered_elsewhere(machine_id);
        }
    }

    /// Takes a host's postflight for others'.
    fn delivered_elsewhere(&mut self, machine_id: &str) {
        let ids: Vec<_> = self.hosts.keys().filter(|id| *id != machine_id).cloned().collect();
        for id in ids {
            let end = self.set_of(&id).log.len();
            let Some(other) = self.hosts.get_mut(&id) else { continue };
            if self.misbehaviours.does(Misbehaviour::Iso04Postflight)
                && let Some(sent) = other.download.as_ref().filter(|sent| sent.is_sent_whole)
            {
                other.seen = Some(sent.seen);
                other.holds = None;
                other.owes_clean = false;
            }
            if self.misbehaviours.does(Misbehaviour::Ops06First) && other.seen.is_some() {
                other.seen = Some(end);
            }
        }
    }

    pub(super) fn compared(&self, path: &str, body: &str) -> Result<(), Refusal> {
        if self.style.compares_machine_id && path != body {
            return Err(Refusal::new(400, format!("machine_id {body:?} is not that of the path")));
        }
        Ok(())
    }
}

/// Whether a postflight says that the rules sent have arrived.
fn is_delivered(
    delivery: Delivery,
    download: &HostDownload,
    request: &wire::PostflightRequest,
) -> bool {
    let sent = download.rules.len() as u64;
    let (received, processed) =
        (u64::from(request.rules_received), u64::from(request.rules_processed));
    let is_told = match delivery {
        Delivery::AnyPostflight => true,
        Delivery::Confirmed => {
            download.is_sent_whole && received >= sent && (processed > 0 || sent == 0)
        }
        Delivery::Exact => {
            processed == sent && is_clean(request.sync_type()) == is_clean(download.sync_type)
        }
    };
    is_told && !download.is_void
}

/// A client that requested `CLEAN_ALL` turns CLEAN into that.
const fn is_clean(sync_type: SyncType) -> bool {
    matches!(sync_type, SyncType::Clean | SyncType::CleanAll)
}
