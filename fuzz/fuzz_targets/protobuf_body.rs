//! A server's answers as binary protobuf. The first byte chooses the stage.

#![no_main]

use santa_sync::model::Transfer;
use libfuzzer_sys::fuzz_target;
use santa_sync::protocol::body::{DecodedBody, ResponseBody, decode};
use santa_sync::protocol::cel::CelBudget;
use santa_sync::protocol::{events, preflight, rules, wire};

fuzz_target!(|data: &[u8]| {
    let Some((stage, body)) = data.split_first() else { return };
    let received = ResponseBody::new(Transfer::Protobuf, body);
    match stage % 4 {
        0 => {
            if let Ok(DecodedBody { message: response, .. }) = decode::<wire::PreflightResponse>(received) {
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
