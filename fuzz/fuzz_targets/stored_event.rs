//! The payload of a row of the event queue: archives of the existing daemon,
//! binary and XML, and our own form. What can be sent must store and read back.

#![no_main]

use libfuzzer_sys::fuzz_target;
use santa_sync::protocol::stored::{Decoded, decode_row, encode, summarize};

fuzz_target!(|data: &[u8]| {
    if let Decoded::Sendable(event) = decode_row(data) {
        let _ = summarize(&event, false);
        // Compared as bytes: a NaN is unlike itself.
        let stored = encode(&event);
        let Decoded::Sendable(again) = decode_row(&stored) else {
            panic!("what was stored cannot be read");
        };
        assert_eq!(encode(&again), stored);
    }
});
