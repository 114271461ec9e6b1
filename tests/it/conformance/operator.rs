//! The operator of a fake server, and the requirements that need one.

use std::io::Write as _;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use santa_sync::harness::conformance::{
    Conformance, Operator, OperatorReply, OperatorTask, RequirementResult, Verdict, Waits,
};
use santa_sync::harness::fixtures::AnyEvent;
use santa_sync::harness::{FakeServer, Fault, fixtures, nth};
use santa_sync::model::Stage;
use santa_sync::protocol::wire;

use super::complaints;
use crate::program::program;

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
            OperatorTask::ChangeRules => {
                let added = fixtures::rules(1, server.rules().len() as u64 + 1000);
                self.change_one_rule();
                server.queue_changes(added.collect());
            }
            OperatorTask::ChangeMode => server.change_settings(|settings| {
                settings.set_client_mode(wire::ClientMode::Lockdown);
            }),
            OperatorTask::ChangeOneRule => self.change_one_rule(),
            OperatorTask::DeleteOneRule => {
                server.queue_changes(fixtures::changes(&server.rules(), (0, 1, 0), 8));
            }
            OperatorTask::RestartServer => server.restart(),
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
            OperatorTask::FindFileAccessEvent { rule_name, .. } => {
                let is_it = |event: &AnyEvent| match event {
                    AnyEvent::FileAccess(event) => event.rule_name.starts_with(rule_name),
                    AnyEvent::Execution(_) => false,
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

/// A run with this operator against a server with three pages of rules.
fn operated<O: Operator + 'static>(operator: impl FnOnce(Admin) -> O) -> Conformance {
    let server = FakeServer::builder().rules(fixtures::rules(30, 1)).page_size(10).start().unwrap();
    let conformance = Conformance::new(&server.url()).unwrap().waits(Waits::none());
    conformance.operator(operator(Admin(Arc::new(server))))
}

#[test]
fn with_an_operator_every_requirement_of_the_plain_server_is_tested() {
    let report = operated(|admin| admin).heavy().run_blocking().unwrap().report;
    assert_eq!(complaints(&report), [""; 0]);
    let untested: Vec<_> =
        report.results.iter().filter(|r| r.verdict == Verdict::NotTested).map(|r| r.id).collect();
    assert_eq!(untested, [""; 0]);
}

/// An operator whose server does this to the first preflight after its restart.
struct Restarts(Admin, Fault);

impl Operator for Restarts {
    fn ask(&mut self, task: &OperatorTask) -> OperatorReply {
        if *task == OperatorTask::RestartServer {
            let server = &self.0.0;
            let next = server.count(Stage::Preflight) + 1;
            server.fault(Stage::Preflight, nth(next), self.1.clone());
        }
        self.0.ask(task)
    }
}

fn restarted(fault: Fault) -> RequirementResult {
    let conformance = operated(|admin| Restarts(admin, fault)).only(["OPS-03"]);
    conformance.run_blocking().unwrap().report.result("OPS-03").unwrap().clone()
}

#[test]
fn the_sync_after_a_restart_has_to_make_up_for_the_one_that_broke() {
    let result = restarted(Fault::status(500));
    assert_eq!(result.verdict, Verdict::Fail);
    let said = &result.summary;
    assert_eq!(said, "the first sync after a restart of the server: preflight: status 500");
}

/// Cannot restart anything.
struct NoRestart(Admin);

impl Operator for NoRestart {
    fn ask(&mut self, task: &OperatorTask) -> OperatorReply {
        if *task == OperatorTask::RestartServer {
            return OperatorReply::Skip;
        }
        self.0.ask(task)
    }
}

#[test]
fn a_server_that_cannot_be_restarted_is_tested_all_the_same() {
    let report = operated(NoRestart).only(["OPS-03"]).run_blocking().unwrap().report;
    assert_eq!(report.result("OPS-03").unwrap().verdict, Verdict::Pass);
}

struct Clumsy;

impl Operator for Clumsy {
    fn ask(&mut self, _task: &OperatorTask) -> OperatorReply {
        panic!("the operator has tripped");
    }
}

#[test]
#[should_panic(expected = "the operator has tripped")]
fn an_operator_who_panics_ends_the_run() {
    let server = FakeServer::builder().rules(fixtures::rules(5, 1)).start().unwrap();
    let conformance = Conformance::new(&server.url()).unwrap().waits(Waits::none());
    let _ = conformance.only(["OPS-02"]).operator(Clumsy).run_blocking();
}

/// Its mode is fixed.
struct FixedMode(Admin);

impl Operator for FixedMode {
    fn ask(&mut self, task: &OperatorTask) -> OperatorReply {
        if *task == OperatorTask::ChangeMode {
            return OperatorReply::Skip;
        }
        self.0.ask(task)
    }
}

#[test]
fn a_server_whose_mode_is_fixed_is_asked_for_rules_all_the_same() {
    let conformance = operated(FixedMode).only(["OPS-01"]);
    assert_eq!(conformance.operator_tasks(), 2);
    let report = conformance.run_blocking().unwrap().report;
    let result = report.result("OPS-01").unwrap();
    let said = "tested with rules; the client mode was not changed";
    assert_eq!((result.verdict, &*result.summary), (Verdict::Pass, said));
}

/// Counts what it is asked.
struct Counting(Admin, Arc<AtomicUsize>);

impl Operator for Counting {
    fn ask(&mut self, task: &OperatorTask) -> OperatorReply {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.ask(task)
    }
}

#[test]
fn the_tasks_are_as_many_as_was_said() {
    for id in ["OPS-01", "OPS-02", "OPS-03", "OPS-04", "OPS-05", "OPS-06"] {
        let asked = Arc::new(AtomicUsize::new(0));
        let conformance = operated(|admin| Counting(admin, Arc::clone(&asked))).only([id]);
        let expected = conformance.operator_tasks();
        conformance.run_blocking().unwrap();
        assert_eq!(asked.load(Ordering::Relaxed), expected, "{id}");
    }
}

/// Answers on the standard input of the command.
#[test]
fn questions_are_numbered_and_the_possible_answers_are_said_once() {
    let server = FakeServer::builder().rules(fixtures::rules(5, 1)).start().unwrap();
    let mut child = program()
        .args(["harness", "conformance", &server.url(), "--no-slow", "--operator"])
        .args(["--only", "OPS-01,OPS-02,OPS-04"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"\n\nperhaps\ns\n\ns\nS\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    for part in ["question 1 of about 4: On", "question 2 of about 4: On", "question 3 of about 4"]
    {
        assert_eq!(said.matches(part).count(), 1, "{part}: {said}");
    }
    assert_eq!(said.matches("answer y (done").count(), 1, "{said}");
    assert_eq!(said.matches("y, n or s?").count(), 1, "{said}");
}
