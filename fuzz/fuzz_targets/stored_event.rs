//! The payload of a row of the event queue: archives of the existing daemon,
//! binary and XML, and our own form. What can be sent must store and read back,
//! and go into a body the short way as it does the long one.

#![no_main]

use libfuzzer_sys::fuzz_target;
use santa_sync::model::{EventRow, MachineId, Transfer};
use santa_sync::protocol::body::{self, EncodedBody};
use santa_sync::protocol::events::EventBatch;
use santa_sync::protocol::stored::{DecodedEvent, QueuedEvent, decode_row, encode, summarize};
use santa_sync::protocol::wire::EventUploadRequest;

fuzz_target!(|data: &[u8]| {
    let row = EventRow { id: 1, unique_id: String::new(), data: data.to_owned(), oversize: None };
    let host = MachineId::new("host").expect("an id");
    let batch = EventBatch::of_rows(vec![row], &host, Transfer::Json, EncodedBody::plain);
    let mut message = EventUploadRequest { machine_id: "host".into(), ..Default::default() };
    if let DecodedEvent::Sendable(event) = decode_row(data) {
        let _ = summarize(&event, false);
        // Compared as bytes: a NaN is unlike itself.
        let stored = encode(&event);
        let DecodedEvent::Sendable(again) = decode_row(&stored) else {
            panic!("what was stored cannot be read");
        };
        assert_eq!(encode(&again), stored);
        match event {
            QueuedEvent::Execution(event) => message.events.push(*event),
            QueuedEvent::FileAccess(event) => message.file_access_events.push(*event),
            QueuedEvent::Audit(event) => message.audit_events.push(event),
        }
        assert_eq!(batch.ids, [1]);
    } else {
        assert!(batch.ids.is_empty());
    }
    if !batch.ids.is_empty() {
        let whole = body::encode(Transfer::Json, &message).expect("a body");
        assert_eq!(batch.body.bytes, whole);
    }
});
