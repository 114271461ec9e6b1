//! What a run has left on the server: the machines and events of requests that got a 2xx.

use std::sync::Arc;

use super::exchange::ProbeExchange;
use super::probe_events::ProbeEvent;
use crate::model::Stage;

/// Whether the server may have stored something from this exchange.
fn is_taken(exchange: &ProbeExchange) -> bool {
    exchange.stage.is_some() && matches!(exchange.status(), Some(200..=299))
}

/// The machines that had a request accepted.
pub(super) fn machine_ids(mut ids: Vec<String>, exchanges: &[Arc<ProbeExchange>]) -> Vec<String> {
    ids.retain(|id| exchanges.iter().any(|e| e.machine_id == *id && is_taken(e)));
    ids
}

/// The events of uploads that the server accepted.
pub(super) fn events(
    mut events: Vec<ProbeEvent>,
    exchanges: &[Arc<ProbeExchange>],
) -> Vec<ProbeEvent> {
    let is_upload = |e: &&Arc<ProbeExchange>| e.stage == Some(Stage::EventUpload) && is_taken(e);
    let uploads: Vec<_> = exchanges
        .iter()
        .filter(is_upload)
        .map(|upload| String::from_utf8_lossy(&upload.request_plain))
        .collect();
    // Some events are sent without their name or their hash.
    events.retain(|event| {
        let is_in = |upload: &str| {
            upload.contains(&event.file_sha256) || has_name(upload, &event.file_name)
        };
        uploads.iter().any(|upload| is_in(upload))
    });
    events
}

/// Whether the text has this name, and not only a longer one that begins with it.
fn has_name(text: &str, name: &str) -> bool {
    text.match_indices(name)
        .any(|(at, _)| !text[at + name.len()..].starts_with(|next: char| next.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_not_found_in_a_longer_one() {
        assert!(has_name(r#"{"file_name":"probe-AB-1"}"#, "probe-AB-1"));
        assert!(has_name(r#"{"file_name":"probe-AB-1 \u0001"}"#, "probe-AB-1"));
        assert!(!has_name(r#"{"file_name":"probe-AB-12"}"#, "probe-AB-1"));
    }
}
