//! Responses with any status but 200.

use reqwest::header::{HeaderMap, LOCATION};

use super::failure::FailureContext;
use super::redaction::Redaction;
use super::retry_after;
use super::text;
use crate::failure::{Failure, FailureKind};
use crate::model::shown;
use crate::model::text::on_one_line;

/// Makes the failure of a status: kind, message with the server's own words,
/// and the wait it asks for.
pub(super) fn failure(
    context: &FailureContext<'_>,
    status: u16,
    headers: &HeaderMap,
    body: &[u8],
    redaction: &Redaction,
) -> Failure {
    let kind = FailureKind::of_status(status);
    let said = match text::of_body(&redaction.apply(&String::from_utf8_lossy(body))) {
        said if said.is_empty() => "with an empty body".to_owned(),
        said => format!("saying \"{said}\""),
    };
    let (what, fix) = if kind == FailureKind::Redirected {
        let target = location(context, headers);
        let target = on_one_line(&redaction.apply(&target), text::MAX_CHARS);
        let fix = if is_elsewhere(context, headers) {
            "a captive portal, a login page or a firewall may send it: ask whoever runs the server \
             before you trust another host"
        } else {
            "set SyncBaseURL to the address that serves the stage itself"
        };
        (
            format!("the server redirects to {target} (status {status}), which is never followed"),
            fix.to_owned(),
        )
    } else {
        let mut hint = hint(kind).to_owned();
        if context.resolver.was_asked() && context.resolver.identity.is_none() && status < 500 {
            hint.push_str(
                ", and set ClientAuthCertificateFile: the server also asked for a client \
                 certificate",
            );
        }
        (format!("the server returned {status} {said}"), hint)
    };
    let retry_after = matches!(status, 429 | 503).then(|| retry_after::wait(headers, context.now));
    Failure {
        http_status: Some(status),
        retry_after: retry_after.flatten(),
        ..context.fail(kind, what, fix)
    }
}

/// The next thing to try after a status of that kind.
fn hint(kind: FailureKind) -> &'static str {
    if kind == FailureKind::Unauthorized {
        "check the credentials in SyncExtraHeaders or SyncBaseURL"
    } else if kind == FailureKind::Forbidden {
        "check that the server knows this machine id and that its credentials are right"
    } else if kind == FailureKind::NotFound {
        "check the path of SyncBaseURL and that the server knows this machine id"
    } else if kind == FailureKind::MethodNotAllowed {
        "check the path of SyncBaseURL: what answers there takes no POST"
    } else if kind == FailureKind::PayloadTooLarge {
        "raise the server's limit for request bodies, or lower its batch_size"
    } else if kind == FailureKind::UnsupportedMediaType {
        "change SyncClientContentEncoding or SyncEnableProtoTransfer; `santa-sync doctor \
         --encodings` shows what the server accepts"
    } else if kind == FailureKind::ProxyCredentials {
        "set user and password: HTTPSUser and HTTPSPassword (for an http URL HTTPUser and \
         HTTPPassword) in SyncProxyConfiguration, or http://USER:PASSWORD@HOST:PORT in the proxy's \
         environment variable"
    } else if kind == FailureKind::TooManyRequests {
        "wait: the server is overloaded or limits this client, and the next attempt comes when it \
         asks for it"
    } else if kind == FailureKind::ClientError || kind == FailureKind::ServerError {
        "check the server's log; if it cannot read the body, change SyncClientContentEncoding or \
         SyncEnableProtoTransfer (`santa-sync doctor --encodings` shows what the server accepts)"
    } else if kind == FailureKind::NotImplemented || kind == FailureKind::UnexpectedStatus {
        "check that SyncBaseURL leads to a Santa sync server, which answers 200 when all is well"
    } else {
        "check the server's log"
    }
}

/// Whether a redirect leads to another host.
fn is_elsewhere(context: &FailureContext<'_>, headers: &HeaderMap) -> bool {
    let location = headers.get(LOCATION).map(|value| String::from_utf8_lossy(value.as_bytes()));
    let target = location.and_then(|location| context.target.join(&location).ok());
    target.is_some_and(|target| target.host_str() != context.target.host_str())
}

/// Where a redirect leads, resolved against the requested URL, secrets cut.
fn location(context: &FailureContext<'_>, headers: &HeaderMap) -> String {
    let Some(value) = headers.get(LOCATION) else { return "nowhere".to_owned() };
    let text = String::from_utf8_lossy(value.as_bytes());
    match context.target.join(&text) {
        Ok(url) => shown(&url),
        Err(_) => "an address that is no URL".to_owned(),
    }
}
