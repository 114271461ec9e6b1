//! The plain fake server, in each form.

use santa_sync::harness::conformance::{Expectation, Form, Verdict};
use santa_sync::harness::{FakeServer, Misbehaviour, fixtures};

use super::{complaints, report};

#[test]
fn the_plain_server_meets_every_requirement_in_each_form() {
    for form in Form::ALL {
        let server =
            FakeServer::builder().rules(fixtures::rules(30, 1)).page_size(10).start().unwrap();
        let report = report(&server, |conformance| conformance.form(form));
        assert_eq!(report.form, Some(form));
        assert_eq!(complaints(&report), [""; 0], "{form}");
    }
}

/// A job for that form must not stay green untested, whatever it chooses.
#[test]
fn a_form_that_was_asked_for_and_is_refused_fails_unless_that_is_pinned() {
    for (misbehaviour, form, id) in [
        (Misbehaviour::Enc04NoProtobuf, "protobuf-gzip", "ENC-04"),
        (Misbehaviour::Enc03NoGzip, "json-gzip", "ENC-03"),
        (Misbehaviour::Enc02NoIdentity, "json-none", "ENC-02"),
        (Misbehaviour::Enc01NoDeflate, "json-deflate", "ENC-01"),
    ] {
        let rules = fixtures::rules(5, 1);
        let server = FakeServer::builder().rules(rules).misbehave(misbehaviour).start().unwrap();
        let mut report =
            report(&server, |conformance| conformance.form(form.parse().unwrap()).only(["CLEAN"]));
        assert_eq!(complaints(&report), [format!("{id} fail")]);
        let said = report.result(id).unwrap().summary.clone();
        assert!(said.starts_with(&format!("the run was to work in {form}: 415 to a ")), "{said}");
        assert_eq!(report.result("CLEAN-04").unwrap().verdict, Verdict::Pass);
        assert!(!report.is_met(false));
        report.expect(&Expectation::parse(&format!("{id} fail")).unwrap());
        assert!(report.is_met(true));
    }
}

#[test]
fn a_refused_form_is_named_with_what_is_likely_to_read_it_first() {
    let said = |misbehaviour, id| {
        let server = FakeServer::builder().misbehave(misbehaviour).start().unwrap();
        let report = report(&server, |conformance| conformance.only([id]));
        report.result(id).unwrap().summary.clone()
    };
    let deflate = said(Misbehaviour::Enc01NoDeflate, "ENC-01");
    let gzip = said(Misbehaviour::Enc03NoGzip, "ENC-03");
    for (said, body) in [(&deflate, "a deflate body with its zlib wrapper"), (&gzip, "a gzip body")]
    {
        assert!(said.starts_with(&format!("415 to {body}; the same message is")), "{said}");
        assert!(said.ends_with("before the application, does not decompress it"), "{said}");
    }
    let plain = said(Misbehaviour::Enc02NoIdentity, "ENC-02");
    assert!(plain.contains("decompresses it whatever its Content-Encoding"), "{plain}");
}

/// That JSON is accepted without compression says nothing of protobuf.
#[test]
fn a_refused_form_of_protobuf_is_compared_with_protobuf() {
    let form = "protobuf-gzip".parse().unwrap();
    let rules = fixtures::rules(5, 1);
    let misbehaviour = Misbehaviour::Enc04NoProtobuf;
    let server = FakeServer::builder().rules(rules).misbehave(misbehaviour).start().unwrap();
    let report = report(&server, |conformance| conformance.form(form).only(["ENC-04"]));
    let expected = "the run was to work in protobuf-gzip: 415 to a gzip body; \
                    no protobuf body is accepted, whatever its Content-Encoding";
    assert_eq!(report.result("ENC-04").unwrap().summary, expected);
}
