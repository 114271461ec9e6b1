//! A server's answers as JSON. The first byte chooses the stage.

#![no_main]

use santa_sync::model::Transfer;
use libfuzzer_sys::fuzz_target;
use santa_sync::protocol::body::{DecodedBody, ResponseBody, decode, encode};
use santa_sync::protocol::cel::CelBudget;
use santa_sync::protocol::{events, preflight, rules, wire};

fuzz_target!(|data: &[u8]| {
    let Some((stage, body)) = data.split_first() else { return };
    let received = ResponseBody::new(Transfer::Json, body);
    match stage % 4 {
        0 => {
            if let Ok(DecodedBody { message: response, .. }) = decode::<wire::PreflightResponse>(received) {
                // What was understood is written so that it is understood again.
                let written = encode(Transfer::Json, &response).expect("it has a JSON form");
                let again = decode(ResponseBody::new(Transfer::Json, written)).expect("our own JSON");
                assert_eq!(response, again.message);
                let _ = preflight::read(response);
            }
        }
        1 => {
            if let Ok(DecodedBody { message: response, .. }) = decode::<wire::EventUploadResponse>(received) {
                let _ = events::bundle_requests(response);
            }
        }
        2 => drop(rules::read_page(received, 1, &mut CelBudget::default(), &|| false)),
        _ => drop(decode::<wire::PostflightResponse>(received)),
    }
});
