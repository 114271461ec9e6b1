use super::*;

/// EV-5: what cannot be read says why.
#[test]
fn what_is_no_event_is_undecodable_with_a_reason() {
    for (data, words) in [
        (&b""[..], "no payload"),
        (b"junk", "neither a property list"),
        (b"bplist00", "not a property list"),
        (b"<plist><array/></plist>", "no keyed archive"),
        (b"\xf5sse", "breaks off"),
        (b"\xf5sse\x09", "newer santa-sync"),
        (b"\xf5sse\x01\xff", "damaged"),
    ] {
        let Decoded::Undecodable { reason } = decode_row(data) else { panic!("{data:?} decodes") };
        assert!(reason.contains(words), "{reason}");
    }
}
