//! A server's answers as binary protobuf. The first byte chooses the stage.

#![no_main]

use libfuzzer_sys::fuzz_target;
use santa_sync::protocol::body::{Transfer, decode};
use santa_sync::protocol::{events, preflight, rules, wire};

fuzz_target!(|data: &[u8]| {
    let Some((stage, body)) = data.split_first() else { return };
    match stage % 4 {
        0 => {
            if let Ok(response) = decode::<wire::PreflightResponse>(Transfer::Protobuf, body) {
                let _ = preflight::read(response);
            }
        }
        1 => {
            if let Ok(response) = decode::<wire::EventUploadResponse>(Transfer::Protobuf, body) {
                let _ = events::bundle_requests(response);
            }
        }
        2 => drop(rules::read_page(Transfer::Protobuf, body, 1)),
        _ => drop(decode::<wire::PostflightResponse>(Transfer::Protobuf, body)),
    }
});
