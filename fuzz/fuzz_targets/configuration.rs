//! A configuration file: a property list or a profile, signed or not, through
//! every check to the typed configuration.

#![no_main]

use std::path::PathBuf;

use libfuzzer_sys::fuzz_target;
use santa_sync::config::{Config, DomainKeys, Layer, Source, read_domains};

fuzz_target!(|data: &[u8]| {
    if let Ok(domains) = read_domains(data) {
        let layers: Vec<_> = domains
            .into_iter()
            .map(|DomainKeys { domain, keys, .. }| {
                let source = Source::File(PathBuf::from("config.plist"));
                Layer { source, domain, values: keys, exposed: false }
            })
            .collect();
        let _ = Config::resolve(&layers);
    }
});
