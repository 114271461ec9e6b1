//! Imitations of real servers: what is known of each is found, and no more.

use insta::assert_snapshot;
use santa_sync::harness::{FakeServer, Preset, fixtures};

use super::{complaints, report};

fn found(preset: Preset) -> String {
    let rules = fixtures::rules(30, 1);
    let server = FakeServer::builder().preset(preset).rules(rules).page_size(10).start().unwrap();
    complaints(&report(&server, |conformance| conformance)).join("\n")
}

#[test]
fn moroz_takes_zlib_only_answers_500_and_knows_no_standalone_mode() {
    assert_snapshot!(found(Preset::Moroz), @r"
    HTTP-07 warning
    ENC-02 warning
    ENC-03 warning
    ENC-06 warning
    ENC-07 warning
    PRE-09 fail
    CLEAN-03 warning
    POST-04 warning
    ");
}

#[test]
fn rudolph_takes_no_compression_and_hands_out_no_token() {
    assert_snapshot!(found(Preset::Rudolph), @r"
    HTTP-07 warning
    ENC-01 fail
    ENC-03 warning
    ERR-04 warning
    ");
}

#[test]
fn zentral_takes_no_gzip() {
    assert_snapshot!(found(Preset::Zentral), @r"
    HTTP-07 warning
    ENC-03 warning
    ");
}

#[test]
fn the_other_manners_have_one_peculiarity_each() {
    let peculiar: Vec<_> = Preset::NAMES
        .into_iter()
        .filter(|(name, _)| !["plain", "moroz", "rudolph", "zentral"].contains(name))
        .map(|(name, preset)| {
            format!("{name}: {}", found(preset).replace('\n', ", ")).trim().to_owned()
        })
        .collect();
    assert_snapshot!(peculiar.join("\n"), @r"
    protobuf-gzip: HTTP-07 warning, ENC-01 fail, ENC-02 warning, ENC-03 warning
    cookie: HTTP-06 warning, RULE-07 warning, EVENT-11 fail
    numeric-cursor: PAGE-01 fail, PAGE-02 fail
    always-clean: CLEAN-04 fail
    remove-from-empty:
    memory-session:
    ");
}
