use crate::model::Transfer;
use prost::Message as _;
use prost::encoding::{encode_key, encode_varint};

use super::*;
use crate::protocol::body::{self, ResponseBody};
use crate::protocol::lenient::MAX_ELEMENTS;
use crate::protocol::wire;

fn read<M: prost::Message + Message>(body: &[u8]) -> Result<DecodedBody<M>, BodyError> {
    body::decode(ResponseBody::new(Transfer::Protobuf, body))
}

fn field(number: u32, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_key(number, WireType::LengthDelimited, &mut bytes);
    encode_varint(value.len() as u64, &mut bytes);
    bytes.extend_from_slice(value);
    bytes
}

fn number(number: u32, value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_key(number, WireType::Varint, &mut bytes);
    encode_varint(value, &mut bytes);
    bytes
}

/// A preflight response and its warnings as `field = value`.
fn odd(body: &[u8]) -> (wire::PreflightResponse, Vec<String>) {
    let DecodedBody { message, warnings } = read(body).expect("a response");
    let warnings = warnings.into_iter().map(|w| format!("{} = {}", w.field, w.value));
    (message, warnings.collect())
}

/// JSON-3: text that happens to be well-formed passes for no message.
#[test]
fn json_3_text_passes_for_no_message() {
    for text in
        ["Error", "Internal Server Error", "OK", "{}", "{\"a\":1}", "<html></html>", "not found"]
    {
        let text = text.as_bytes();
        let all = [
            read::<wire::PreflightResponse>(text).err(),
            read::<wire::EventUploadResponse>(text).err(),
            read::<wire::PostflightResponse>(text).err(),
        ];
        for error in all {
            assert!(matches!(error, Some(BodyError::NotProtobuf { .. })), "{text:?}: {error:?}");
        }
    }
    // A valid message, but one that the server calls text.
    let body = field(1, b"hash");
    assert!(read::<wire::EventUploadResponse>(&body).is_ok());
    let named = ResponseBody::new(Transfer::Protobuf, body).under(Some("text/plain"));
    let error = body::decode::<wire::EventUploadResponse>(named).expect_err("text").to_string();
    assert!(error.contains("its Content-Type is text/plain"), "{error}");
    // HTTP-7: nothing is every field absent, whatever it is called.
    let named = ResponseBody::new(Transfer::Protobuf, Vec::new()).under(Some("text/plain"));
    assert_eq!(body::decode::<wire::EventUploadResponse>(named), Ok(DecodedBody::default()));
}

/// JSON-3: unknown fields are passed over, beside known ones only.
#[test]
fn json_3_a_message_has_a_field_of_its_own() {
    let unknown = [number(900, 7), field(901, b"x")].concat();
    assert!(read::<wire::PreflightResponse>(&unknown).is_err());
    let (message, warnings) = odd(&[unknown, number(3, 20)].concat());
    assert_eq!((message.batch_size, warnings.len()), (20, 0));
}

/// JSON-3: a field of another wire type is an error, at every field and depth.
#[test]
fn json_3_a_field_of_another_wire_type_is_an_error() {
    for known in wire::PreflightResponse::FIELDS {
        let is_number = expected(&known.shape) == WireType::Varint;
        let wrong = if is_number { field(known.number, b"") } else { number(known.number, 1) };
        // A right one beside it does not help.
        let body = [number(3, 20), wrong].concat();
        let error = read::<wire::PreflightResponse>(&body).expect_err(known.name).to_string();
        assert!(error.contains(&format!("{} is of wire type", known.name)), "{error}");
    }
    for nested in [number(3, 1), field(3, &number(1, 1)), field(1, b"")] {
        let body = field(36, &nested);
        assert!(read::<wire::PreflightResponse>(&body).is_err(), "{nested:?}");
    }
    let cut = &field(11, b"a pattern")[..5];
    assert!(read::<wire::PreflightResponse>(cut).is_err());
}

/// JSON-1, JSON-3: what cannot be read is absent, alone, with a warning.
#[test]
fn json_3_what_cannot_be_read_counts_as_absent_and_is_a_warning() {
    let flags = [field(1, b"rdonly"), field(1, b"\xff"), field(1, b"noexec")].concat();
    let body = [
        number(1, 9),
        number(2, u64::MAX),
        number(3, 1 << 32),
        number(4, 2),
        field(11, b"a\xffb"),
        field(12, "ä".as_bytes()),
        field(26, &vec![b'x'; (64 << 10) + 1]),
        field(36, &field(3, &flags)),
        field(33, b"secret\xff"),
        number(8, 600),
    ]
    .concat();
    let (message, warnings) = odd(&body);
    assert_eq!(
        warnings,
        [
            "client_mode = 9",
            "sync_type = -1",
            "batch_size = 4294967296",
            "allowed_path_regex = a\u{fffd}b",
            &format!("event_detail_url = {}…", "x".repeat(63)),
            "removable_media_policy.remount.flags = \u{fffd}",
            "push_issuer_token = (secret)",
        ]
    );
    assert_eq!((message.client_mode, message.sync_type, message.batch_size), (0, Some(0), 0));
    assert_eq!((message.enable_bundles, message.allowed_path_regex), (Some(true), None));
    assert_eq!(message.blocked_path_regex.as_deref(), Some("ä"));
    assert_eq!(message.full_sync_interval_seconds, 600);
    let action = message.removable_media_policy.and_then(|policy| policy.action);
    let Some(wire::removable_media_policy::Action::Remount(policy)) = action else {
        panic!("{action:?}");
    };
    assert_eq!(policy.flags, ["rdonly", "noexec"]);
}

/// HTTP-8: many small elements are counted over the whole message.
#[test]
fn http_8_elements_are_bounded_however_they_are_spread() {
    let hashes = field(1, b"x").repeat(MAX_ELEMENTS + 1);
    let decoded = read::<wire::EventUploadResponse>(&hashes).expect("a response");
    assert_eq!(decoded.message.event_upload_bundle_binaries.len(), MAX_ELEMENTS);
    assert_eq!(decoded.warnings.len(), 1);

    let policy = field(36, &field(3, &field(1, b"").repeat(100)));
    let (message, warnings) = odd(&policy.repeat(200));
    let action = message.removable_media_policy.and_then(|policy| policy.action);
    let Some(wire::removable_media_policy::Action::Remount(policy)) = action else {
        panic!("{action:?}");
    };
    assert_eq!((policy.flags.len(), warnings.len()), (MAX_ELEMENTS, 1));
}

/// What prost writes comes out as it was.
#[test]
fn json_3_a_message_without_faults_is_read_as_prost_reads_it() {
    let form_values = [("key".to_owned(), "value".to_owned())].into_iter().collect();
    let signed_post = Some(wire::SignedPost { url: "u".into(), form_values });
    let sent = wire::PreflightResponse {
        client_mode: 2,
        sync_type: Some(3),
        enable_bundles: Some(false),
        allowed_path_regex: Some(String::new()),
        export_configuration: Some(wire::ExportConfiguration { signed_post }),
        push_token: "t".into(),
        ..Default::default()
    };
    assert_eq!(odd(&sent.encode_to_vec()), (sent, Vec::new()));
}
