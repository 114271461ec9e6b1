//! A request of the probe.

use percent_encoding::utf8_percent_encode;

use crate::harness::conformance::exchange::Intent;
use crate::harness::conformance::form::Form;
use crate::model::Stage;

/// All but RFC 3986's unreserved characters.
const UNRESERVED_ONLY: &percent_encoding::AsciiSet =
    &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// How a request shows who it is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(in crate::harness::conformance) enum Credentials {
    /// As configured.
    #[default]
    Given,
    /// Without headers, user or client certificate of the configuration.
    Left,
    /// With one character of each secret header, or of the secret in the path, changed, and the
    /// client certificate of a stranger.
    Altered,
}

/// A request to send.
#[derive(Clone, Debug)]
pub(in crate::harness::conformance) struct ProbeRequest {
    pub(in crate::harness::conformance) requirement: &'static str,
    pub(in crate::harness::conformance) stage: Option<Stage>,
    pub(in crate::harness::conformance) intent: Intent,
    pub(in crate::harness::conformance) form: Form,
    pub(in crate::harness::conformance) method: &'static str,
    /// The path below the base URL, such as `preflight/` and the encoded machine id.
    pub(in crate::harness::conformance) path: String,
    pub(in crate::harness::conformance) machine_id: String,
    /// `None` sends no `Content-Type`.
    pub(in crate::harness::conformance) content_type: Option<String>,
    pub(in crate::harness::conformance) content_encoding: Option<String>,
    pub(in crate::harness::conformance) cookies: Option<String>,
    /// More headers, which win over others.
    pub(in crate::harness::conformance) headers: Vec<(String, String)>,
    pub(in crate::harness::conformance) plain: Vec<u8>,
    pub(in crate::harness::conformance) wire: Vec<u8>,
    pub(in crate::harness::conformance) credentials: Credentials,
}

impl ProbeRequest {
    /// A request without a body.
    pub(in crate::harness::conformance) fn empty(
        requirement: &'static str,
        stage: Option<Stage>,
        form: Form,
        path: String,
    ) -> Self {
        Self {
            requirement,
            stage,
            intent: Intent::WellFormed,
            form,
            method: "POST",
            path,
            machine_id: String::new(),
            content_type: Some(form.transfer.content_type().to_owned()),
            content_encoding: None,
            cookies: None,
            headers: Vec::new(),
            plain: Vec::new(),
            wire: Vec::new(),
            credentials: Credentials::Given,
        }
    }
}

/// The path of a machine's stage below the base URL.
pub(in crate::harness::conformance) fn stage_path(segment: &str, machine_id: &str) -> String {
    format!("{segment}/{}", utf8_percent_encode(machine_id, UNRESERVED_ONLY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_id_is_one_segment_of_the_path() {
        assert_eq!(stage_path("preflight", "Büro 1/2"), "preflight/B%C3%BCro%201%2F2");
    }
}
