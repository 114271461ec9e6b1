//! The operator of a fake server, and the requirements that need one.

use std::sync::Arc;

use santa_sync::harness::conformance::{
    Conformance, Operator, OperatorReply, OperatorTask, Verdict, Waits,
};
use santa_sync::harness::fixtures::AnyEvent;
use santa_sync::harness::{FakeServer, fixtures};
use santa_sync::protocol::wire;

use super::complaints;

/// Does on the fake server what an operator does on a real one.
pub(super) struct Admin(pub(super) Arc<FakeServer>);

impl Admin {
    fn change_one_rule(&self) {
        let rules = self.0.rules();
        self.0.queue_changes(fixtures::changes(&rules, (1, 0, 0), 7));
    }
}

impl Operator for Admin {
    fn ask(&mut self, task: &OperatorTask) -> OperatorReply {
        let server = &self.0;
        match task {
            OperatorTask::ChangeRulesAndMode => {
                let added = fixtures::rules(1, server.rules().len() as u64 + 1000);
                self.change_one_rule();
                server.queue_changes(added.collect());
                server.change_settings(|settings| {
                    settings.set_client_mode(wire::ClientMode::Lockdown);
                });
            }
            OperatorTask::ChangeOneRule => self.change_one_rule(),
            OperatorTask::DeleteOneRule => {
                server.queue_changes(fixtures::changes(&server.rules(), (0, 1, 0), 8));
            }
            OperatorTask::RequestCleanSync { machine_id } => {
                assert!(server.request_clean_sync(machine_id));
            }
            OperatorTask::FindEvents { path, name, .. } => {
                let is_it = |event: &AnyEvent| match event {
                    AnyEvent::Execution(event) => {
                        event.file_path == *path && event.file_name.starts_with(name)
                    }
                    AnyEvent::FileAccess(_) => false,
                };
                if !server.events().iter().any(is_it) {
                    return OperatorReply::No;
                }
            }
            OperatorTask::FindSyncTime { machine_id } => {
                if server.host(machine_id).is_none_or(|host| host.last_sync.is_none()) {
                    return OperatorReply::No;
                }
            }
            other => panic!("what is {other:?}?"),
        }
        OperatorReply::Yes
    }
}

#[test]
fn with_an_operator_every_requirement_of_the_plain_server_is_tested() {
    let server = FakeServer::builder().rules(fixtures::rules(30, 1)).page_size(10).start().unwrap();
    let server = Arc::new(server);
    let report = Conformance::new(&server.url())
        .unwrap()
        .waits(Waits::none())
        .heavy()
        .operator(Admin(Arc::clone(&server)))
        .run_blocking()
        .unwrap()
        .report;
    assert_eq!(complaints(&report), [""; 0]);
    let untested: Vec<_> =
        report.results.iter().filter(|r| r.verdict == Verdict::NotTested).map(|r| r.id).collect();
    assert_eq!(untested, [""; 0]);
}
