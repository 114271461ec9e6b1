use super::*;
use crate::failure::Remedy as _;
use crate::protocol::wire;

fn read<M: prost::Message + json::Message>(body: &[u8]) -> Result<DecodedBody<M>, BodyError> {
    decode(ResponseBody::new(Transfer::Json, body))
}

fn preflight(body: &str) -> Result<wire::PreflightResponse, BodyError> {
    read(body.as_bytes()).map(|decoded| decoded.message)
}

/// A preflight response and its warnings as `field = value`.
fn odd(body: &[u8]) -> (wire::PreflightResponse, Vec<String>) {
    let DecodedBody { message, warnings } = read(body).expect("a response");
    let warnings = warnings.into_iter().map(|w| format!("{} = {}", w.field, w.value));
    (message, warnings.collect())
}

/// HTTP-6; cases 1 to 5.
#[test]
fn http_6_an_xssi_prefix_is_stripped_once() {
    assert_eq!(without_xssi_prefix(b")]}'\n\"a\""), b"\"a\"");
    assert_eq!(without_xssi_prefix(b"])}\"a\""), b"\"a\"");
    assert_eq!(without_xssi_prefix(b"])}"), b"");
    assert_eq!(without_xssi_prefix(b"\"a\""), b"\"a\"");
    assert_eq!(without_xssi_prefix(b"])}])}1"), b"])}1");
    assert_eq!(without_xssi_prefix(b"\xef\xbb\xbf)]}'\n{}"), b"{}");
    assert_eq!(preflight(")]}'\n{\"batch_size\":7}").map(|p| p.batch_size), Ok(7));
}

/// HTTP-7.
#[test]
fn http_7_an_empty_body_is_every_field_absent() {
    for empty in ["", "  \n", ")]}'\n", "])}"] {
        assert_eq!(preflight(empty), Ok(wire::PreflightResponse::default()), "{empty:?}");
    }
}

/// HTTP-6.
#[test]
fn http_6_html_is_called_html_and_its_start_is_shown_escaped() {
    let error = preflight("\n<html>\u{1b}[31m<title>Sign in</title>").expect_err("HTML");
    assert!(matches!(error, BodyError::Html(_)));
    let shown = error.with_fix();
    assert!(shown.contains("captive portal") && shown.contains("\\u{1b}"), "{shown}");
}

#[test]
fn http_6_what_is_no_json_object_is_an_error_that_stays_short() {
    assert!(matches!(preflight("[1]"), Err(BodyError::WrongShape { .. })));
    assert!(matches!(preflight("Service Unavailable"), Err(BodyError::NotJson { .. })));
    assert!(matches!(preflight("{\"batch_size\":"), Err(BodyError::CutShort(_))));
    assert!(matches!(preflight("{} {}"), Err(BodyError::NotJson { .. })));
    let long = "x".repeat(10_000);
    assert!(preflight(&long).expect_err("not JSON").to_string().len() < 400);
}

/// HTTP-15: the examples of the contract, and what else servers write.
#[test]
fn http_15_an_error_without_an_answer_is_an_error_at_every_stage() {
    let is_error = |body: &str| {
        let preflight = preflight(body).err();
        let upload = read::<wire::EventUploadResponse>(body.as_bytes()).err();
        let postflight = read::<wire::PostflightResponse>(body.as_bytes()).err();
        let error = [preflight, upload, postflight].map(|error| match error {
            Some(BodyError::ErrorInResponse { words, .. }) => Some(words),
            Some(other) => panic!("{body}: {other}"),
            None => None,
        });
        assert!(error.iter().all(|e| *e == error[0]), "{body}: {error:?}");
        error[0].clone()
    };
    for (body, words) in [
        (r#"{"errorMessage":"the function ran out of time"}"#, "the function ran out of time"),
        (r#"{"errors":[{"message":"x"}]}"#, r#"[{"message":"x"}]"#),
        (r#"{"error":"not now"}"#, "not now"),
        (r#"{"status":"failed","Error":{"code":7}}"#, r#"{"code":7}"#),
        (r#"{"ERR":true,"error_message":"second"}"#, "true"),
        (r#"{"error":null,"err":"a\nb"}"#, r"a\nb"),
        (r#"{"batch_size":null,"rules":null,"error":500}"#, "500"),
    ] {
        assert_eq!(is_error(body).as_deref(), Some(words), "{body}");
    }
    for success in [
        "{}",
        r#"{"Err":null}"#,
        r#"{"error":null}"#,
        r#"{"errors":[]}"#,
        r#"{"errors":[ ],"err":{ },"error":" ","errorMessage":""}"#,
        r#"{"error":false}"#,
        r#"{"error":0}"#,
        r#"{"status":"ok"}"#,
        r#"{"NoOp":{}}"#,
        r#"{"error_count":3}"#,
    ] {
        assert_eq!(is_error(success), None, "{success}");
    }
    let long = format!(r#"{{"error":"{}"}}"#, "\\u0007x".repeat(1 << 16));
    assert!(is_error(&long).expect("an error").len() < 2000);
}

/// HTTP-15: the fields of a stage count, and the error beside them is a warning.
#[test]
fn http_15_an_error_beside_an_answer_is_a_warning() {
    let (message, warnings) = odd(br#"{"batch_size":7,"error":"partial"}"#);
    assert_eq!((message.batch_size, warnings), (7, vec!["error = partial".to_owned()]));
}

/// JSON-1: each kind of value that cannot be read, alone.
#[test]
fn json_1_what_cannot_be_read_counts_as_absent_and_is_a_warning() {
    let (message, warnings) = odd(
        br#"{"client_mode":"Monitr","batchSize":"twenty","syncType":"CLEAN_SLATE",
            "enable_bundles":"perhaps","full_sync_interval":-1,"allowed_path_regex":{"a":1},
            "blocked_path_regex":7,"event_detail_url":["x"],"clean_sync":2,"fcm_full_sync_interval":1e999,
            "override_file_access_action":[],"remount_usb_mode":"rdonly","event_detail_text":"\ud800",
            "removable_media_policy":{"remount":{"flags":["rdonly",7,null,"noexec"]}},
            "encrypted_removable_media_policy":3,"export_configuration":{"signed_post":{"form_values":[]}},
            "enable_all_event_upload":true,"somebody_elses":[{"x":"y"}],"\udc00":1}"#,
    );
    assert_eq!(
        warnings,
        [
            "client_mode = Monitr",
            "batch_size = twenty",
            "sync_type = CLEAN_SLATE",
            "enable_bundles = perhaps",
            "full_sync_interval = -1",
            "allowed_path_regex = {\"a\":1}",
            "blocked_path_regex = 7",
            "event_detail_url = [\"x\"]",
            "clean_sync = 2",
            "fcm_full_sync_interval = 1e999",
            "override_file_access_action = []",
            "remount_usb_mode = rdonly",
            "event_detail_text = \\ud800",
            "removable_media_policy.remount.flags[1] = 7",
            "encrypted_removable_media_policy = 3",
            "export_configuration.signed_post.form_values = (secret)",
        ]
    );
    let flags = |flags: &[&str]| {
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let action = wire::removable_media_policy::Action::Remount(wire::RemountPolicy { flags });
        Some(wire::RemovableMediaPolicy { action: Some(action) })
    };
    let export = wire::ExportConfiguration { signed_post: Some(wire::SignedPost::default()) };
    let read = wire::PreflightResponse {
        sync_type: Some(0),
        removable_media_policy: flags(&["rdonly", "noexec"]),
        export_configuration: Some(export),
        enable_all_event_upload: Some(true),
        ..Default::default()
    };
    assert_eq!(message, read);
}

/// JSON-1: what is meant to be absent or zero is no warning.
#[test]
fn json_1_what_was_sent_as_absent_or_zero_is_no_warning() {
    for body in [
        r#"{"client_mode":null,"batch_size":null,"remount_usb_mode":null,"push_token":null}"#,
        r#"{"client_mode":0,"sync_type":"SYNC_TYPE_UNSPECIFIED","batch_size":0,"clean_sync":false}"#,
        r#"{"client_mode":"unknown_client_mode","batch_size":"20","batchSize":20.0,"sync_type":"1"}"#,
    ] {
        assert_eq!(odd(body.as_bytes()).1, Vec::<String>::new(), "{body}");
    }
}

/// JSON-3: one byte that is not UTF-8 costs its own setting.
#[expect(deprecated, reason = "an array of texts that servers still send")]
#[test]
fn json_3_a_setting_that_is_not_utf_8_counts_as_absent() {
    let body = b"{\"allowed_path_regex\":\"a\xffb\",\"x\xfe\":\"\xff\",\"client_mode\":\"MON\xc3\",\
        \"blocked_path_regex\":\"\xc3\xa4\",\"batch_size\":7,\"remount_usb_mode\":[\"\x80\",\"noexec\"]}";
    let (message, warnings) = odd(body);
    assert_eq!((message.allowed_path_regex, message.client_mode), (None, 0));
    assert_eq!((message.blocked_path_regex.as_deref(), message.batch_size), (Some("ä"), 7));
    assert_eq!(message.remount_usb_mode, ["noexec"]);
    let fields: Vec<_> = warnings.iter().map(|w| w.split(' ').next().unwrap_or_default()).collect();
    assert_eq!(fields, ["allowed_path_regex", "client_mode", "remount_usb_mode[0]"]);
    let owned: DecodedBody<wire::PreflightResponse> =
        decode(ResponseBody::new(Transfer::Json, body.to_vec())).expect("a response");
    assert_eq!(owned.message.batch_size, 7);
    assert!(matches!(preflight_bytes(b"{\xff}"), Err(BodyError::NotJson { .. })));
}

fn preflight_bytes(body: &[u8]) -> Result<DecodedBody<wire::PreflightResponse>, BodyError> {
    read(body)
}

/// HTTP-8: texts and arrays of settings have their lengths.
#[test]
fn http_8_a_setting_that_is_too_long_counts_as_absent() {
    let longest = "x".repeat(64 << 10);
    let body = |text: &str| format!(r#"{{"allowed_path_regex":"{text}","event_detail_url":"u"}}"#);
    let (message, warnings) = odd(body(&longest).as_bytes());
    assert_eq!((message.allowed_path_regex.as_deref(), warnings.len()), (Some(&*longest), 0));
    for longer in
        [format!("{longest}x"), "\\u0041".repeat((64 << 10) + 1), "\\u0041".repeat(1 << 20)]
    {
        let (message, warnings) = odd(body(&longer).as_bytes());
        assert_eq!((message.allowed_path_regex, warnings.len()), (None, 1));
        assert_eq!(message.event_detail_url.as_deref(), Some("u"));
    }
    let hashes = |count: usize| {
        let body =
            format!(r#"{{"event_upload_bundle_binaries":["x"{}]}}"#, ",\"x\"".repeat(count - 1));
        let decoded = read::<wire::EventUploadResponse>(body.as_bytes()).expect("a response");
        (decoded.message.event_upload_bundle_binaries.len(), decoded.warnings.len())
    };
    assert_eq!((hashes(10_000), hashes(10_001)), ((10_000, 0), (10_000, 1)));
}

/// JSON-3.
#[test]
fn json_3_binary_protobuf_goes_both_ways() {
    let sent = wire::PreflightResponse { batch_size: 7, ..Default::default() };
    let body = encode(Transfer::Protobuf, &sent).expect("encodes");
    let read = decode(ResponseBody::new(Transfer::Protobuf, body));
    assert_eq!(read, Ok(DecodedBody { message: sent, warnings: Vec::new() }));
}
