use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use proptest::prelude::*;

use super::*;
use crate::model::text::hex;

#[test]
fn secrets_are_struck_out_with_and_without_their_scheme() {
    let mut redaction = Redaction::default();
    redaction.add("Bearer abc123");
    redaction.add("abc123-and-more");
    redaction.add("session=s3ss10n-id; theme=dark");
    redaction.add("no");
    redaction.add_rotating("c00kie");
    assert_eq!(
        redaction.apply(
            "Bearer abc123, then abc123, then abc123-and-more, no c00kie, s3ss10n-id is dark"
        ),
        "(secret), then (secret), then (secret), no (secret), (secret) is dark"
    );
    assert!(!format!("{redaction:?}").contains("abc123"));
}

#[test]
fn a_secret_that_a_cut_divides_is_struck_out_as_well() {
    let mut redaction = Redaction::default();
    redaction.add("t0ken-of-the-host");
    assert_eq!(redaction.apply("it begins \"t0ken-of…\""), "it begins \"(secret)…\"");
    assert_eq!(redaction.apply("t0ken-of-the-host t0ken-o"), "(secret) (secret)");
    assert_eq!(redaction.apply("t0ke… token…"), "t0ke… token…");
    redaction.add("a/b/c/d/e/f/g");
    for cut in ["a%2Fb%2Fc", "a%2fb%2Fc%", "a\\/b\\/c\\u00", "A%2FB%2FC%2", "YS9iL2MvZC9l"] {
        assert_eq!(redaction.apply(&format!("<{cut}…")), "<(secret)…", "{cut}");
    }
}

#[test]
fn secrets_that_come_and_go_do_not_pile_up() {
    let mut redaction = Redaction::default();
    for number in 10_000..20_000 {
        redaction.add_rotating(&number.to_string());
    }
    assert_eq!(redaction.rotating.len(), MAX_ROTATING_SECRETS);
    assert_eq!(redaction.apply("19999 and 10000"), "(secret) and 10000");
}

#[test]
fn the_parts_of_a_base64_pair_are_found_in_it() {
    let mut redaction = Redaction::default();
    redaction.add("p4ssw0rd/+?");
    for user in ["u", "us", "use", "user", "someone@example.com"] {
        let pair = format!("{user}:p4ssw0rd/+?");
        for text in [STANDARD.encode(&pair), URL_SAFE_NO_PAD.encode(&pair)] {
            assert_eq!(redaction.apply(&format!("Basic {text};")), "Basic (secret);", "{text}");
        }
    }
}

#[test]
fn what_is_around_a_secret_stays_byte_for_byte() {
    let mut redaction = Redaction::default();
    redaction.add("s3cret-t0ken");
    let bytes = b"\x0a\x0e\xff\x00s3cret-t0ken\xfe\x80 %zz";
    assert_eq!(&*redaction.apply_to_bytes(bytes), b"\x0a\x0e\xff\x00(secret)\xfe\x80 %zz");
    let without = b"\x0a\x0e\xff\x00s3cret-t0kem\xfe\x80 %2f";
    assert!(matches!(redaction.apply_to_bytes(without), Cow::Borrowed(_)));
}

/// How one character may be repeated. Those that begin an escape are escaped themselves, as
/// whoever escapes anything does.
fn escaped(byte: u8, form: u8) -> String {
    let form = if matches!(byte, b'%' | b'\\' | b'&') { form % 5 } else { form };
    match form {
        0 => format!("%{byte:02x}"),
        1 => format!("%{byte:02X}"),
        2 => format!("\\u{byte:04x}"),
        3 => format!("&#x{byte:X};"),
        4 => format!("&#{byte};"),
        5 | 6 if matches!(byte, b'/' | b'"') => format!("\\{}", char::from(byte)),
        7 => char::from(byte.to_ascii_uppercase()).to_string(),
        8 => char::from(byte.to_ascii_lowercase()).to_string(),
        _ => char::from(byte).to_string(),
    }
}

/// A secret as a whole, in a form that a client sends or a server may make of it.
fn encoded(secret: &str, form: u8, before: &str, behind: &str) -> String {
    let inside = format!("{before}{secret}{behind}");
    match form {
        0 => STANDARD.encode(&inside),
        1 => URL_SAFE.encode(&inside),
        2 => STANDARD_NO_PAD.encode(&inside),
        3 => STANDARD.encode(&inside).replace('/', "%2F").replace('+', "%2b"),
        4 => STANDARD.encode(&inside).to_ascii_uppercase(),
        5 => hex(secret.as_bytes()),
        6 => hex(secret.as_bytes()).to_ascii_uppercase(),
        7 => percent(&percent(secret)),
        _ => secret.to_owned(),
    }
}

fn percent(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// What headers, paths and cookies may hold.
const SECRET: &str = "[!-~]{8,40}";

proptest! {
    #[test]
    fn no_form_of_a_secret_is_left(
        secret in SECRET,
        forms in proptest::collection::vec(0_u8..16, 40),
        before in proptest::collection::vec(any::<u8>(), 0..30),
        behind in proptest::collection::vec(any::<u8>(), 0..30),
    ) {
        let mut redaction = Redaction::default();
        redaction.add(&secret);
        let form: String =
            secret.bytes().zip(&forms).map(|(byte, form)| escaped(byte, *form)).collect();
        // Nothing that would change the first escape, or lengthen the last one.
        let bytes = [&before[..], b"\n", form.as_bytes(), b"\n", &behind].concat();
        let masked = redaction.apply_to_bytes(&bytes);
        let shown = String::from_utf8_lossy(&masked).into_owned();
        prop_assert!(!masked.windows(form.len()).any(|part| part == form.as_bytes()), "{shown}");
        prop_assert!(shown.contains("\n(secret)\n"), "{form} in {shown}");
        prop_assert!(masked.starts_with(&before), "{before:?}");
        prop_assert!(masked.ends_with(&behind), "{behind:?}");
    }

    #[test]
    fn no_encoding_of_a_secret_is_left(
        secret in SECRET,
        form in 0_u8..9,
        before in "[a-z:@]{0,9}",
        behind in "[a-z:@]{0,9}",
    ) {
        let mut redaction = Redaction::default();
        redaction.add(&secret);
        let encoded = encoded(&secret, form, &before, &behind);
        let shown = redaction.apply(&format!("<{encoded}>"));
        prop_assert_eq!(shown, "<(secret)>", "{}", encoded);
    }

    #[test]
    fn what_has_no_secret_stays_as_it_is(
        secret in "[0-9]{8,40}",
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut redaction = Redaction::default();
        redaction.add(&secret);
        // A random secret of digits is in no random bytes, but for a chance below 2^-40.
        prop_assert_eq!(&*redaction.apply_to_bytes(&bytes), &bytes[..]);
    }

    #[test]
    fn a_text_never_grows_out_of_hand(text in ".{0,200}", secret in SECRET) {
        let mut redaction = Redaction::default();
        redaction.add(&secret);
        let shown = redaction.apply(&text);
        prop_assert!(shown.len() <= text.len() + Secret::MASK.len() * (text.len() / 5 + 1));
    }
}
