//! Which request encodings and transfers the server takes: one preflight each.

use super::probe::{self, Outcome, Probe};
use super::{Layer, Line, Lines};
use crate::clock::Clock;
use crate::transport::{ContentEncoding, Transfer, Transport, TransportOptions};

/// One way to send a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Way {
    encoding: ContentEncoding,
    transfer: Transfer,
}

impl Way {
    const fn encoding(self) -> &'static str {
        match self.encoding {
            ContentEncoding::Deflate => "deflate",
            ContentEncoding::Gzip => "gzip",
            ContentEncoding::None => "none",
        }
    }

    const fn transfer(self) -> &'static str {
        match self.transfer {
            Transfer::Json => "JSON",
            Transfer::Protobuf => "protobuf",
        }
    }
}

/// Tries each encoding with JSON, and protobuf with the configured one.
pub(super) async fn examine(
    options: &TransportOptions,
    probe: &Probe,
    clock: &dyn Clock,
    lines: &mut Lines,
) {
    let layer = Layer::Encodings;
    let configured = Way { encoding: options.content_encoding, transfer: options.transfer };
    let json = |encoding| Way { encoding, transfer: Transfer::Json };
    let ways = [
        json(ContentEncoding::Deflate),
        json(ContentEncoding::Gzip),
        json(ContentEncoding::None),
        Way { encoding: configured.encoding, transfer: Transfer::Protobuf },
    ];
    let mut taken = Vec::new();
    for way in ways {
        let name = format!("{} with {}", way.transfer(), way.encoding());
        match attempt(options, way, probe, clock).await {
            Ok(()) => {
                taken.push(way);
                lines.add(Line::ok(layer, format!("the server takes {name}")));
            }
            Err(why) => {
                lines.add(Line::skipped(layer, format!("the server does not take {name}: {why}")));
            }
        }
    }
    if taken.contains(&configured) {
        return;
    }
    let message = format!(
        "the server does not take what is configured, {} with {}",
        configured.transfer(),
        configured.encoding()
    );
    lines.add(match taken.first() {
        Some(way) => {
            let proto = way.transfer == Transfer::Protobuf;
            let fix = format!(
                "set SyncClientContentEncoding to {} and SyncEnableProtoTransfer to {proto}",
                way.encoding()
            );
            Line::problem(layer, message, fix)
        }
        None => Line::problem(layer, message, "mend the problems above first"),
    });
}

async fn attempt(
    options: &TransportOptions,
    way: Way,
    probe: &Probe,
    clock: &dyn Clock,
) -> Result<(), String> {
    let options = TransportOptions {
        content_encoding: way.encoding,
        transfer: way.transfer,
        ..options.clone()
    };
    let transport = Transport::new(options.clone()).map_err(|failure| failure.to_string())?;
    let Outcome { answer, http_status, .. } = probe.send(&transport, &options, clock).await;
    match (answer, http_status) {
        (Ok(answer), _) => match probe::read(&options, &answer) {
            Ok(_) => Ok(()),
            Err(error) => Err(transport.redact(&error.to_string())),
        },
        (Err(_), Some(status)) => Err(format!("status {status}")),
        (Err(failure), None) => Err(failure.kind.name().replace('_', " ")),
    }
}
