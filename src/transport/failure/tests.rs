use rustls::AlertDescription;

use super::*;

#[test]
fn an_io_error_does_not_hide_its_cause() {
    let tls = rustls::Error::AlertReceived(AlertDescription::UnknownCA);
    let wrapped = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, tls));
    let found = causes(&wrapped).iter().find_map(|cause| cause.downcast_ref::<rustls::Error>());
    assert!(matches!(found, Some(rustls::Error::AlertReceived(AlertDescription::UnknownCA))));
    assert!(innermost(&causes(&wrapped)).contains("UnknownCA"));
}

#[test]
fn durations_read_as_people_write_them() {
    assert_eq!(seconds(std::time::Duration::from_secs(30)), "30");
    assert_eq!(seconds(std::time::Duration::from_millis(300)), "0.3");
}
