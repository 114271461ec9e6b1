//! The wait that a server asks for on 429 and 503 (HTTP-3).

use std::time::Duration;

use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};

use super::headers::date_of;
use crate::model::Timestamp;

/// The longest wait that `Retry-After` can ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_mins(5);
/// The shortest wait that `Retry-After` can ask for.
const RETRY_AFTER_MIN: Duration = Duration::from_secs(1);

/// The wait of `Retry-After`, in seconds or as a date, within its bounds. A date
/// is measured by the clock that it was made by: the `Date` of the same response,
/// or, if there is none, this host's.
pub(super) fn wait(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
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

    fn waited(value: &'static str, sent: Option<&'static str>, now: i64) -> Option<u64> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_static(value));
        if let Some(sent) = sent {
            headers.insert(DATE, HeaderValue::from_static(sent));
        }
        super::wait(&headers, Timestamp::from_secs(now)).map(|wait| wait.as_secs())
    }

    #[test]
    fn http_3_retry_after_is_read_as_seconds_or_date_within_1_s_and_5_minutes() {
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(waited("7", None, 0), Some(7));
        assert_eq!(waited("0", None, 0), Some(1));
        assert_eq!(waited("3600", None, 0), Some(300));
        assert_eq!(waited("99999999999999999999999", None, 0), Some(300));
        assert_eq!(waited(date, None, DATE_1994 - 30), Some(30));
        assert_eq!(waited(date, None, DATE_1994 + 30), Some(1));
        assert_eq!(waited(date, None, DATE_1994 - 86_400), Some(300));
        assert_eq!(waited("soon", None, 0), None);
        assert_eq!(waited("-3", None, 0), None);
        assert_eq!(waited("", None, 0), None);
        assert_eq!(super::wait(&HeaderMap::new(), Timestamp::from_secs(0)), None);
    }

    /// HTTP-3: a host whose clock is a day off waits as long as any other.
    #[test]
    fn http_3_retry_after_as_a_date_is_measured_by_the_date_of_the_answer() {
        let (date, sent) = ("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:48:57 GMT");
        for off in [-86_400, 0, 86_400] {
            assert_eq!(waited(date, Some(sent), DATE_1994 + off), Some(40), "{off}");
        }
        assert_eq!(waited(date, Some("yesterday"), DATE_1994 - 9), Some(9), "no date at all");
        assert_eq!(waited(sent, Some(date), 0), Some(1), "a date that has passed");
    }
}
