//! The authorizer comes into step with the server, and stays there.

use santa_sync::harness::{FakeServer, fixtures};
use santa_sync::model::{ClientMode, SyncType, Transfer};
use santa_sync::protocol::wire;

use super::chain::{Chain, MACHINE_ID, wait};
use super::santa::{Age, Row, Santa, Status};
use super::stored;

fn santa(chain: &Chain, age: Age, transfer: Transfer) -> Santa {
    Santa::new(age, &chain.url()).with(|profile| {
        profile.transfer = transfer;
        MACHINE_ID.clone_into(&mut profile.machine_id);
    })
}

fn server(rules: usize) -> FakeServer {
    let rules: Vec<_> = fixtures::rules(rules, 3).collect();
    FakeServer::builder()
        .rules(rules)
        .client_mode(wire::ClientMode::Lockdown)
        .start()
        .expect("a server")
}

/// Our rules, as a release takes them.
fn ours(chain: &Chain, age: Age) -> Vec<Row> {
    let rows = stored::rows(&chain.state_dir()).into_iter();
    rows.filter_map(|row| taken(age, row)).collect()
}

/// RELAY-15: a row as a release has it that does not know every policy.
fn taken(age: Age, row: Row) -> Option<Row> {
    match row.state {
        9 => Some(row).filter(|_| age.knows(wire::Policy::Cel)),
        12 | 13 if !age.knows(wire::Policy::SilentGuiBlocklist) => Some(Row { state: 3, ..row }),
        _ => Some(row),
    }
}

/// RELAY-3 to RELAY-7: from nothing, and through changes of every kind, every
/// release comes to hold the server's rules and settings in at most two syncs;
/// the next one carries nothing.
#[test]
fn relay_6_every_release_comes_into_step() {
    for age in Age::ALL {
        for transfer in [Transfer::Json, Transfer::Protobuf] {
            let chain = Chain::new(server(200));
            let santa = santa(&chain, age, transfer);
            assert_eq!(santa.sync().http_status, Some(503), "nothing to hand out yet");
            for round in 0..6_u64 {
                let clean = (round == 3).then_some(SyncType::CleanAll);
                chain.sync_as(clean);
                for _ in 0..2 {
                    let synced = santa.sync();
                    assert_eq!(synced.status, Status::Success, "{age:?} {round} {synced:?}");
                }
                assert_eq!(santa.rows(), ours(&chain, age), "{age:?} {transfer:?} {round}");
                let again = santa.sync();
                assert_eq!((again.received, again.sync_type), (0, SyncType::Normal), "{round}");
                assert_eq!(santa.client_mode(), ClientMode::Lockdown);
                assert!(wait(|| chain.status().in_step), "{:?}", chain.status());
                let changes = fixtures::changes(&chain.upstream.rules(), (7, 5, 9), round);
                chain.upstream.queue_changes(changes);
            }
        }
    }
}

/// RELAY-4: a host that has no rules of the server yet is not put into LOCKDOWN by
/// the sync in which it only uploads its events.
#[test]
fn relay_4_the_mode_comes_with_the_rules() {
    let chain = Chain::new(server(50));
    let santa = santa(&chain, Age::Y2026M7, Transfer::Json);
    chain.sync_as(None);
    let first = santa.sync();
    assert_eq!((first.received, first.sync_type), (0, SyncType::Normal), "events first");
    assert_eq!(santa.client_mode(), ClientMode::Monitor);
    let second = santa.sync();
    assert_eq!((second.received, second.sync_type), (50, SyncType::CleanAll));
    assert_eq!(santa.client_mode(), ClientMode::Lockdown);
}
