//! The plain fake server, in each form.

use insta::assert_snapshot;
use santa_sync::harness::conformance::{Conformance, Expectation, Form, Verdict};
use santa_sync::harness::{AcceptedForms, Encoding, FakeServer, Misbehaviour, fixtures};

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
        assert!(said.starts_with(&format!("the run was asked to use {form}: 415 to a ")), "{said}");
        assert_eq!(report.result("CLEAN-04").unwrap().verdict, Verdict::Pass);
        assert!(!report.is_met(false));
        report.expect(&Expectation::parse(&format!("{id} fail")).unwrap());
        assert!(report.is_met(true));
    }
}

#[test]
fn a_refused_form_is_reported_with_the_likely_cause() {
    let said = |misbehaviour, id| {
        let server = FakeServer::builder().misbehave(misbehaviour).start().unwrap();
        let report = report(&server, |conformance| conformance.only([id]));
        report.result(id).unwrap().summary.clone()
    };
    let deflate = said(Misbehaviour::Enc01NoDeflate, "ENC-01");
    let gzip = said(Misbehaviour::Enc03NoGzip, "ENC-03");
    for (said, body) in [(&deflate, "a deflate body with its zlib wrapper"), (&gzip, "a gzip body")]
    {
        assert!(said.starts_with(&format!("415 to {body} in JSON; the same message is")), "{said}");
        assert!(said.contains("in front of the application, does not decompress it"), "{said}");
    }
    let plain = said(Misbehaviour::Enc02NoIdentity, "ENC-02");
    assert!(plain.contains("seems to decompress it whatever its Content-Encoding"), "{plain}");
}

/// The results for a server that accepts few forms: `ENC-01` to `ENC-04`, and other complaints.
fn of_server_that_takes(transfer: AcceptedForms, encodings: &[Encoding]) -> String {
    let server = FakeServer::builder().rules(fixtures::rules(30, 1)).page_size(10).style(|style| {
        style.transfer = transfer;
        style.request_encodings = encodings.to_vec();
    });
    let server = server.start().unwrap();
    let report = report(&server, Conformance::without_slow);
    let mut lines = vec![format!("works in {}", report.form.unwrap())];
    for result in &report.results {
        if result.id < "ENC-05" && result.id > "ENC" || result.verdict.is_complaint() {
            let said = format!("{} {}: {}", result.id, result.verdict, result.summary);
            lines.push(said.trim_end_matches(": ").to_owned());
        }
    }
    lines.join("\n")
}

#[test]
fn the_results_for_a_server_with_few_forms_name_the_refused_and_the_accepted_ones() {
    use AcceptedForms::{Any, Json, Protobuf};
    use Encoding::{Deflate, Gzip, Identity};
    let said = [
        ("JSON only", Json, &[Deflate, Gzip, Identity][..]),
        ("protobuf only", Protobuf, &[Deflate, Gzip, Identity]),
        ("zlib only", Any, &[Deflate]),
        ("gzip only", Any, &[Gzip]),
        ("identity only", Any, &[Identity]),
        ("protobuf in gzip only", Protobuf, &[Gzip]),
        ("JSON in gzip only", Json, &[Gzip]),
    ]
    .map(|(name, transfer, encodings)| {
        format!("## {name}\n{}", of_server_that_takes(transfer, encodings))
    });
    assert_snapshot!(said.join("\n"), @r"
    ## JSON only
    works in json-deflate
    ENC-01 pass
    ENC-02 pass
    ENC-03 pass
    ENC-04 info: preflight in protobuf: 415
    ## protobuf only
    works in protobuf-gzip
    HTTP-07 warning: POST preflight/santactl-doctor-test with an empty body: 415
    ENC-01 fail: 415 to a deflate body with its zlib wrapper in JSON; no JSON body is accepted, whatever its Content-Encoding; accepted: protobuf-gzip (agents need SyncEnableProtoTransfer = true and SyncClientContentEncoding = gzip), protobuf-deflate, protobuf-none
    ENC-02 warning: 415 to a body without Content-Encoding in JSON; no JSON body is accepted, whatever its Content-Encoding; accepted: protobuf-gzip, protobuf-deflate, protobuf-none
    ENC-03 warning: 415 to a gzip body in JSON; no JSON body is accepted, whatever its Content-Encoding; accepted: protobuf-gzip, protobuf-deflate, protobuf-none
    ENC-04 pass
    ## zlib only
    works in json-deflate
    HTTP-07 warning: POST preflight/santactl-doctor-test with an empty body: 415
    ENC-01 pass
    ENC-02 warning: 415 to a body without Content-Encoding in JSON; the same message is accepted compressed: the component that reads the body seems to decompress it whatever its Content-Encoding; accepted: json-deflate, protobuf-deflate
    ENC-03 warning: 415 to a gzip body in JSON; accepted: json-deflate, protobuf-deflate
    ENC-04 pass
    ## gzip only
    works in json-gzip
    HTTP-07 warning: POST preflight/santactl-doctor-test with an empty body: 415
    ENC-01 fail: 415 to a deflate body with its zlib wrapper in JSON; accepted: json-gzip (agents need SyncClientContentEncoding = gzip), protobuf-gzip
    ENC-02 warning: 415 to a body without Content-Encoding in JSON; the same message is accepted compressed: the component that reads the body seems to decompress it whatever its Content-Encoding; accepted: json-gzip, protobuf-gzip
    ENC-03 pass
    ENC-04 pass
    ## identity only
    works in json-none
    ENC-01 fail: 415 to a deflate body with its zlib wrapper in JSON; the same message is accepted uncompressed: the component that reads the body, often a body parser or a proxy in front of the application, does not decompress it; accepted: json-none (agents need SyncClientContentEncoding = none), protobuf-none
    ENC-02 pass
    ENC-03 warning: 415 to a gzip body in JSON; the same message is accepted uncompressed: the component that reads the body, often a body parser or a proxy in front of the application, does not decompress it; accepted: json-none, protobuf-none
    ENC-04 pass
    ## protobuf in gzip only
    works in protobuf-gzip
    HTTP-07 warning: POST preflight/santactl-doctor-test with an empty body: 415
    ENC-01 fail: 415 to a deflate body with its zlib wrapper in JSON; no JSON body is accepted, whatever its Content-Encoding; accepted: protobuf-gzip (agents need SyncEnableProtoTransfer = true and SyncClientContentEncoding = gzip)
    ENC-02 warning: 415 to a body without Content-Encoding in JSON; no JSON body is accepted, whatever its Content-Encoding; accepted: protobuf-gzip
    ENC-03 warning: 415 to a gzip body in JSON; no JSON body is accepted, whatever its Content-Encoding; accepted: protobuf-gzip
    ENC-04 pass
    ## JSON in gzip only
    works in json-gzip
    HTTP-07 warning: POST preflight/santactl-doctor-test with an empty body: 415
    ENC-01 fail: 415 to a deflate body with its zlib wrapper in JSON; accepted: json-gzip (agents need SyncClientContentEncoding = gzip)
    ENC-02 warning: 415 to a body without Content-Encoding in JSON; the same message is accepted compressed: the component that reads the body seems to decompress it whatever its Content-Encoding; accepted: json-gzip
    ENC-03 pass
    ENC-04 info: preflight in protobuf: 415
    ");
}

/// Uncompressed JSON being accepted says nothing about protobuf.
#[test]
fn a_refused_form_of_protobuf_is_compared_with_protobuf() {
    let form = "protobuf-gzip".parse().unwrap();
    let rules = fixtures::rules(5, 1);
    let misbehaviour = Misbehaviour::Enc04NoProtobuf;
    let server = FakeServer::builder().rules(rules).misbehave(misbehaviour).start().unwrap();
    let report = report(&server, |conformance| conformance.form(form).only(["ENC-04"]));
    let expected = "the run was asked to use protobuf-gzip: 415 to a gzip body in protobuf; \
                    no protobuf body is accepted, whatever its Content-Encoding; \
                    accepted: json-deflate, json-none, json-gzip";
    assert_eq!(report.result("ENC-04").unwrap().summary, expected);
}
