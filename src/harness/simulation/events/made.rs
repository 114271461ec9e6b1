//! Events made from a number, the same each time.

use super::bundle::Bundle;
use crate::harness::fixtures::{self, AnyEvent, Random};
use crate::model::Timestamp;
use crate::protocol::stored::{QueuedEvent, is_denial};
use crate::protocol::wire;

/// The event of that seed: of about so many bytes or more, of something that was denied
/// or not, in a bundle or not.
pub(super) fn event(
    seed: u64,
    at: Timestamp,
    (bytes, denied): (u32, bool),
    bundle: Option<Bundle>,
) -> QueuedEvent {
    let any = match bundle {
        // File accesses are in none.
        Some(_) => AnyEvent::Execution(Box::new(execution(seed))),
        None => {
            fixtures::events(1, seed).next().unwrap_or_else(|| AnyEvent::Execution(Box::default()))
        }
    };
    let mut event = QueuedEvent::from(any);
    let is_as_made = is_denial(&event) == denied;
    match &mut event {
        QueuedEvent::FileAccess(event) => {
            event.access_time = seconds(at);
            if !is_as_made {
                event.set_decision(wire::FileAccessDecision::AuditOnly);
            }
        }
        QueuedEvent::Execution(event) => {
            event.execution_time = seconds(at);
            if !is_as_made {
                use wire::Decision::{AllowUnknown, BlockUnknown};
                event.set_decision(if denied { BlockUnknown } else { AllowUnknown });
            }
            if let Some(bundle) = bundle {
                event.file_bundle_hash = bundle.hash();
                event.file_bundle_binary_count = bundle.executables;
            }
            grow(event, bytes as usize, seed);
        }
        QueuedEvent::Audit(_) => {}
    }
    event
}

/// The event of an executable of a bundle.
pub(super) fn member(bundle: Bundle, index: u32, at: Timestamp) -> QueuedEvent {
    let mut event = execution(bundle.seed());
    let mut random = Random::new(bundle.seed() ^ (u64::from(index) + 1) << 16);
    event.file_sha256 = random.hex(32);
    event.cdhash = random.hex(20);
    event.file_name = format!("helper-{index}");
    event.execution_time = seconds(at);
    event.set_decision(wire::Decision::BundleBinary);
    event.file_bundle_hash = bundle.hash();
    event.file_bundle_binary_count = bundle.executables;
    QueuedEvent::Execution(Box::new(event))
}

/// The first execution of that seed.
fn execution(seed: u64) -> wire::Event {
    let executions = fixtures::events(usize::MAX, seed).find_map(|event| match event {
        AnyEvent::Execution(event) => Some(*event),
        AnyEvent::FileAccess(_) => None,
    });
    executions.unwrap_or_default()
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds of our era are exact")]
fn seconds(at: Timestamp) -> f64 {
    at.as_millis() as f64 / 1000.0
}

/// Adds entitlements, which are what makes real events large.
fn grow(event: &mut wire::Event, bytes: usize, seed: u64) {
    use prost::Message as _;
    let mut random = Random::new(seed);
    let mut left = bytes.saturating_sub(event.encoded_len());
    let mut entitlements = Vec::new();
    while left > 0 {
        let entitlement = wire::Entitlement {
            key: Some(format!("com.example.security.entitlement-{}", entitlements.len())),
            value: Some(random.hex(24)),
        };
        left = left.saturating_sub(entitlement.encoded_len() + 2);
        entitlements.push(entitlement);
    }
    if !entitlements.is_empty() {
        event.entitlement_info =
            Some(wire::EntitlementInfo { entitlements_filtered: None, entitlements });
    }
}
