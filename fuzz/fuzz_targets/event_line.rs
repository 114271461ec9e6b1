//! A line of `events add`. What is taken in must store and read back.

#![no_main]

use libfuzzer_sys::fuzz_target;
use santa_sync::protocol::events::{IngestPolicy, read_line};
use santa_sync::protocol::stored::{DecodedEvent, decode_row, encode};

fuzz_target!(|data: &[u8]| {
    if let Ok(incoming) = read_line(data) {
        assert!(!incoming.summary.unique_id.is_empty());
        let _ = IngestPolicy::default().admits(&incoming.event, incoming.audited);
        let DecodedEvent::Sendable(again) = decode_row(&encode(&incoming.event)) else {
            panic!("what was stored cannot be read");
        };
        assert_eq!(again, incoming.event);
    }
});
