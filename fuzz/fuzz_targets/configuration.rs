//! A configuration file: a property list or a profile, signed or not, through
//! every check to the typed configuration.

#![no_main]

use std::path::PathBuf;

use libfuzzer_sys::fuzz_target;
use santa_sync::config::{Config, Layer, Source, read_keys};

fuzz_target!(|data: &[u8]| {
    if let Ok(values) = read_keys(data) {
        let source = Source::File(PathBuf::from("config.plist"));
        let _ = Config::resolve(&[Layer { source, values, exposed: false }]);
    }
});
