//! Request headers: the extra ones of the configuration, those that win over
//! them, and the XSRF token.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use reqwest::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
    InvalidHeaderValue, USER_AGENT,
};

use super::TransportOptions;
use super::redaction::Redaction;
use crate::model::{HeaderProblem, Secret, Timestamp, start_of_secret};

/// The header an XSRF token comes in, and goes in unless the server names
/// another one.
const XSRF_TOKEN: &str = "x-xsrf-token";
/// The header that names the header the token goes in.
const XSRF_TOKEN_HEADER: &str = "x-xsrf-token-header";
/// A longer token is not kept.
const MAX_XSRF_TOKEN_BYTES: usize = 8192;

/// A token that the server wants to see with every request of the sync.
#[derive(Clone, PartialEq, Eq)]
pub struct XsrfToken {
    name: HeaderName,
    value: HeaderValue,
}

impl XsrfToken {
    pub(super) fn add_to(&self, headers: &mut HeaderMap) {
        headers.insert(self.name.clone(), self.value.clone());
    }

    /// The token itself; empty if it is not text.
    pub(super) fn value(&self) -> &str {
        self.value.to_str().unwrap_or_default()
    }
}

impl fmt::Debug for XsrfToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "XsrfToken({}: {})", self.name, Secret::MASK)
    }
}

/// The headers of every request: the extra ones, then those that win over them.
pub(super) fn of_every_request(options: &TransportOptions, redaction: &mut Redaction) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static(options.transfer.content_type()));
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip, deflate"));
    let url = options.base_url.as_url();
    if !url.username().is_empty() || url.password().is_some() {
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let password = decoded(url.password().unwrap_or_default());
        redaction.add(&password);
        let pair = format!("{}:{password}", decoded(url.username()));
        let basic = STANDARD.encode(pair);
        redaction.add(&basic);
        if let Ok(value) = sensitive(&format!("Basic {basic}")) {
            headers.insert(AUTHORIZATION, value);
        }
    }
    for (name, value) in &options.extra_headers {
        let value = value.expose();
        if let Some(problem) = HeaderProblem::of(name, value) {
            // What is not a name may be a header and its value in one text.
            let cut = matches!(problem, HeaderProblem::Name).then(|| start_of_secret(name));
            let name = cut.as_deref().unwrap_or(name);
            tracing::warn!(header = ?name, "extra header dropped: it {}", problem.what());
            continue;
        }
        redaction.add(value.trim());
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name.trim().as_bytes()), sensitive(value.trim()))
        {
            headers.insert(name, value);
        }
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(options.transfer.content_type()));
    if let Ok(agent) = HeaderValue::from_str(&options.user_agent) {
        headers.insert(USER_AGENT, agent);
    }
    headers
}

/// A header value that shows itself in no debug output.
pub(super) fn sensitive(text: &str) -> Result<HeaderValue, InvalidHeaderValue> {
    let mut value = HeaderValue::from_str(text)?;
    value.set_sensitive(true);
    Ok(value)
}

/// The time of a header that holds an HTTP date.
pub(super) fn date_of(headers: &HeaderMap, name: HeaderName) -> Option<Timestamp> {
    timestamp(httpdate::parse_http_date(headers.get(name)?.to_str().ok()?.trim()).ok()?)
}

/// The time of an HTTP date.
pub(super) fn timestamp(time: SystemTime) -> Option<Timestamp> {
    let since = time.duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(since.as_millis()).ok().map(Timestamp::from_millis)
}

/// The token in a response of the XSRF endpoint.
pub(super) fn token(headers: &HeaderMap) -> Option<XsrfToken> {
    let mut value = headers.get(XSRF_TOKEN)?.clone();
    if value.is_empty() || value.len() > MAX_XSRF_TOKEN_BYTES {
        return None;
    }
    value.set_sensitive(true);
    let named = headers.get(XSRF_TOKEN_HEADER).and_then(|name| {
        let name = name.to_str().ok()?.trim();
        let usable = HeaderProblem::of(name, "").is_none();
        usable.then(|| HeaderName::from_bytes(name.as_bytes()).ok()).flatten()
    });
    Some(XsrfToken { name: named.unwrap_or(HeaderName::from_static(XSRF_TOKEN)), value })
}
