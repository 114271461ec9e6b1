//! Excerpts of exchanges.

use serde::Serialize;

use crate::harness::conformance::client::ProbeClient;
use crate::harness::conformance::exchange::ProbeExchange;
use crate::model::text::on_one_line;

/// How much of a body an excerpt shows, in characters.
const MAX_SHOWN_CHARS: usize = 400;

/// An excerpt of one exchange, secrets redacted.
#[derive(Clone, Debug, Serialize)]
pub struct Evidence {
    /// Its number in the run and in the transcript.
    pub exchange: u64,
    /// Method and path.
    pub request: String,
    /// The beginning of the request's body before compression; protobuf in hex.
    pub sent: String,
    /// The status; `None` if no response began.
    pub status: Option<u16>,
    /// The beginning of the response's body, or why there is none.
    pub received: String,
    /// How long it took.
    pub elapsed_ms: u64,
}

impl Evidence {
    pub(in crate::harness::conformance) fn of(
        exchange: &ProbeExchange,
        client: &ProbeClient,
    ) -> Self {
        let received = match &exchange.outcome {
            // Masked before it is cut, and before it is shown in hex.
            Ok(answer) => excerpt(&client.redact_body(answer)),
            Err(broken) => client.redact(&broken.what),
        };
        Self {
            exchange: exchange.number,
            request: format!("{} {}", exchange.method, exchange.path),
            sent: excerpt(&client.redact_bytes(&exchange.request_plain)),
            status: exchange.status(),
            received,
            elapsed_ms: u64::try_from(exchange.elapsed.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// The beginning of a body: as text if it is text, otherwise in hex.
fn excerpt(body: &[u8]) -> String {
    let start = &body[..body.len().min(4 * MAX_SHOWN_CHARS)];
    let is_binary = start.iter().any(|byte| *byte < 9 || (14..32).contains(byte));
    if !is_binary {
        return on_one_line(&String::from_utf8_lossy(start), MAX_SHOWN_CHARS);
    }
    let shown = &start[..start.len().min(MAX_SHOWN_CHARS / 2)];
    let more = if shown.len() < body.len() { "…" } else { "" };
    format!("{}{more}", crate::model::text::hex(shown))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_text_where_it_can_be_and_hex_otherwise() {
        assert_eq!(excerpt(b"{\"a\":\n 1}"), "{\"a\": 1}");
        assert_eq!(excerpt(b"\x0a\x03\x01ab"), "0a03016162");
        assert_eq!(excerpt(&[b'x'; 1000]).chars().count(), MAX_SHOWN_CHARS + 1);
    }
}
