//! Answers that are not the success they could be: every status but 200.

use std::time::Duration;

use reqwest::header::{DATE, HeaderMap, LOCATION, RETRY_AFTER};

use super::failure::FailureContext;
use super::headers::date_of;
use super::redaction::Redaction;
use super::text;
use crate::failure::{Failure, FailureKind};
use crate::model::text::on_one_line;
use crate::model::{Timestamp, shown};

/// The longest wait that `Retry-After` can ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_mins(5);
/// The shortest wait that `Retry-After` can ask for.
const RETRY_AFTER_MIN: Duration = Duration::from_secs(1);

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
    let retry_after = matches!(status, 429 | 503).then(|| retry_after(headers, context.now));
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

/// The wait of `Retry-After`, in seconds or as a date, within its bounds. A date
/// is measured by the clock that it was made by: the `Date` of the same answer,
/// or, if there is none, this host's.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        Duration::from_secs(text.parse().unwrap_or(u64::MAX))
    } else {
        date_of(headers, RETRY_AFTER)?.since(date_of(headers, DATE).unwrap_or(now))
    };
    Some(wait.clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    const DATE_1994: i64 = 784_111_777;

    fn wait(value: &'static str, sent: Option<&'static str>, now: i64) -> Option<u64> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_static(value));
        if let Some(sent) = sent {
            headers.insert(DATE, HeaderValue::from_static(sent));
        }
        retry_after(&headers, Timestamp::from_secs(now)).map(|wait| wait.as_secs())
    }

    #[test]
    fn http_3_retry_after_is_read_as_seconds_or_date_within_1_s_and_5_minutes() {
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(wait("7", None, 0), Some(7));
        assert_eq!(wait("0", None, 0), Some(1));
        assert_eq!(wait("3600", None, 0), Some(300));
        assert_eq!(wait("99999999999999999999999", None, 0), Some(300));
        assert_eq!(wait(date, None, DATE_1994 - 30), Some(30));
        assert_eq!(wait(date, None, DATE_1994 + 30), Some(1));
        assert_eq!(wait(date, None, DATE_1994 - 86_400), Some(300));
        assert_eq!(wait("soon", None, 0), None);
        assert_eq!(wait("-3", None, 0), None);
        assert_eq!(wait("", None, 0), None);
        assert_eq!(retry_after(&HeaderMap::new(), Timestamp::from_secs(0)), None);
    }

    /// HTTP-3: a host whose clock is a day off waits as long as any other.
    #[test]
    fn http_3_retry_after_as_a_date_is_measured_by_the_date_of_the_answer() {
        let (date, sent) = ("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:48:57 GMT");
        for off in [-86_400, 0, 86_400] {
            assert_eq!(wait(date, Some(sent), DATE_1994 + off), Some(40), "{off}");
        }
        assert_eq!(wait(date, Some("yesterday"), DATE_1994 - 9), Some(9), "no date at all");
        assert_eq!(wait(sent, Some(date), 0), Some(1), "a date that has passed");
    }
}
