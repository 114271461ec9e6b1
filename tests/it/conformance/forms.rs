//! The plain fake server, in each form.

use santa_sync::harness::conformance::Form;
use santa_sync::harness::{FakeServer, fixtures};

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
