//! Which request encodings and transfers the server takes: one preflight each.

use super::probe::{self, Outcome, Probe};
use super::{Layer, Line, ReportLines};
use crate::clock::Clock;
use crate::model::{ContentEncoding, Transfer};
use crate::transport::{Transport, TransportOptions};

/// One way to send a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct BodyForm {
    encoding: ContentEncoding,
    transfer: Transfer,
}

impl BodyForm {
    const fn transfer(self) -> &'static str {
        match self.transfer {
            Transfer::Json => "JSON",
            Transfer::Protobuf => "protobuf",
        }
    }
}

/// How many ways there are.
pub(super) const BODY_FORMS: usize = 6;

/// Tries each transfer with each encoding. `first` is the outcome of the probe
/// that was sent already, in the way that is configured.
pub(super) async fn examine(
    options: &TransportOptions,
    probe: &Probe,
    first: Result<(), Untaken>,
    clock: &dyn Clock,
    lines: &mut ReportLines,
) {
    let layer = Layer::Encodings;
    let configured = BodyForm { encoding: options.content_encoding, transfer: options.transfer };
    let encodings = [ContentEncoding::Deflate, ContentEncoding::Gzip, ContentEncoding::None];
    let mut taken = Vec::new();
    let mut first = Some(first);
    for transfer in [Transfer::Json, Transfer::Protobuf] {
        for encoding in encodings {
            let way = BodyForm { encoding, transfer };
            let outcome = match first.take_if(|_| way == configured) {
                Some(first) => first,
                None => attempt(options, way, probe, clock).await,
            };
            let name = format!("{} with {}", way.transfer(), way.encoding);
            lines.add(match outcome {
                Ok(()) => {
                    taken.push(way);
                    Line::ok(layer, format!("the server takes {name}"))
                }
                Err(Untaken::Refused(why)) => {
                    Line::refused(layer, format!("the server refuses {name}: {why}"))
                }
                Err(Untaken::NoResponse(why)) => {
                    Line::skipped(layer, format!("no response to {name}: {why}"))
                }
            });
        }
    }
    // The way that changes the fewest settings first.
    taken.sort_by_key(|way| {
        (way.transfer != configured.transfer, way.encoding != configured.encoding)
    });
    if taken.contains(&configured) {
        return;
    }
    let message = format!(
        "the server does not take what is configured, {} with {}",
        configured.transfer(),
        configured.encoding
    );
    lines.add(match taken.first() {
        Some(way) => {
            let proto = way.transfer == Transfer::Protobuf;
            let fix = format!(
                "set SyncClientContentEncoding to {} and SyncEnableProtoTransfer to {proto}",
                way.encoding
            );
            Line::problem(layer, message, fix)
        }
        None => Line::problem(layer, message, "fix the problems above first"),
    });
}

/// Why a way is not known to be taken.
#[derive(Debug)]
pub(super) enum Untaken {
    /// The server said no, or something that is not a preflight response.
    Refused(String),
    /// It did not say anything.
    NoResponse(String),
}

async fn attempt(
    options: &TransportOptions,
    way: BodyForm,
    probe: &Probe,
    clock: &dyn Clock,
) -> Result<(), Untaken> {
    let options = TransportOptions {
        content_encoding: way.encoding,
        transfer: way.transfer,
        ..options.clone()
    };
    let transport = Transport::new(options.clone())
        .map_err(|failure| Untaken::NoResponse(failure.to_string()))?;
    outcome(&options, &transport, &probe.send(&transport, &options, clock).await)
}

/// What the outcome of a probe says of the way it was sent in.
pub(super) fn outcome(
    options: &TransportOptions,
    transport: &Transport,
    outcome: &Outcome,
) -> Result<(), Untaken> {
    match (&outcome.answer, outcome.http_status) {
        (Ok(answer), _) => match probe::read(options, answer) {
            Ok(_) => Ok(()),
            Err(error) => Err(Untaken::Refused(transport.redact(&error.to_string()))),
        },
        (Err(_), Some(status)) => Err(Untaken::Refused(format!("status {status}"))),
        (Err(failure), None) => Err(Untaken::NoResponse(failure.kind.name().replace('_', " "))),
    }
}
