//! A server's answers as JSON. The first byte chooses the stage.

#![no_main]

use libfuzzer_sys::fuzz_target;
use santa_sync::protocol::body::{Transfer, decode, encode};
use santa_sync::protocol::{events, preflight, rules, wire};

fuzz_target!(|data: &[u8]| {
    let Some((stage, body)) = data.split_first() else { return };
    match stage % 4 {
        0 => {
            if let Ok(response) = decode::<wire::PreflightResponse>(Transfer::Json, body) {
                // What was understood is written so that it is understood again.
                let written = encode(Transfer::Json, &response).expect("it has a JSON form");
                let again = decode(Transfer::Json, &written).expect("our own JSON");
                assert_eq!(response, again);
                let _ = preflight::read(response);
            }
        }
        1 => {
            if let Ok(response) = decode::<wire::EventUploadResponse>(Transfer::Json, body) {
                let _ = events::bundle_requests(response);
            }
        }
        2 => drop(rules::read_page(Transfer::Json, body, 1)),
        _ => drop(decode::<wire::PostflightResponse>(Transfer::Json, body)),
    }
});
