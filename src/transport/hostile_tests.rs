//! Whatever a server sends, the pure parts of the transport take it without a
//! panic and within their bounds.

use proptest::prelude::*;
use url::Url;

use super::cookies::Jar;
use super::encoding::{DecodeError, Decoder};
use super::text;
use crate::model::Timestamp;
use crate::model::text::is_unsafe_to_show;

/// Bytes that are compressed data more often than chance would have it.
fn bodies() -> impl Strategy<Value = Vec<u8>> {
    let starts = prop_oneof![
        Just(Vec::new()),
        Just(vec![0x1f, 0x8b, 8, 0]),
        Just(vec![0x1f, 0x8b, 8, 0x1f]),
        Just(vec![0x78, 0x9c]),
    ];
    (starts, prop::collection::vec(any::<u8>(), 0..300))
        .prop_map(|(start, rest)| [start, rest].concat())
}

proptest! {
    /// HTTP-8: no body decodes to more than the limit.
    #[test]
    fn http_8_any_bytes_decode_or_fail_within_the_limit(
        body in bodies(),
        encoding in "gzip|deflate|identity|[a-z, ]{0,12}",
        step in 1_usize..50,
    ) {
        let limit = 100;
        if let Ok(mut decoder) = Decoder::new([encoding.as_str()].into_iter(), None, limit) {
            let pushed = body.chunks(step).try_for_each(|piece| {
                decoder.push(piece)?;
                while decoder.step()? {}
                Ok::<_, DecodeError>(())
            });
            prop_assert!(decoder.so_far().len() <= limit);
            if pushed.is_ok() && let Ok(decoded) = decoder.finish() {
                prop_assert!(decoded.len() <= limit);
            }
        }
    }

    #[test]
    fn any_text_can_be_shown(body in prop::collection::vec(any::<u8>(), 0..500)) {
        let shown = text::of_body(&String::from_utf8_lossy(&body));
        prop_assert!(shown.chars().count() <= text::MAX_CHARS + 1);
        prop_assert!(!shown.contains(is_unsafe_to_show));
    }

    /// HTTP-10: any cookie is kept or not.
    #[test]
    fn http_10_any_cookie_header_is_taken_or_left(
        header in "[ -~]{0,60}|[a-z]{1,3}=[a-z]{0,3}(; ?(path|domain|max-age|expires|secure)=?[ -~]{0,20}){0,3}",
    ) {
        let url = Url::parse("https://sync.example.com/santa/preflight/ID").expect("a URL");
        let mut jar = Jar::default();
        jar.set(&header, &url, Timestamp::from_secs(0));
        if let Some(sent) = jar.header(&url) {
            prop_assert!(sent.contains('='), "{sent}");
        }
    }
}
