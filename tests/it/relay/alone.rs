//! The fake authorizers against the fake server, without a relay: what they do is
//! what is known of the real ones, or no test that uses them means anything.

mod events;
mod pedro;
mod requests;
mod rules;
mod settings;

use santa_sync::harness::FakeServer;
use santa_sync::harness::fixtures::{self, AnyEvent};
use santa_sync::model::Stage;
use santa_sync::protocol::wire;

use super::link::Loss;
use super::santa::{Act, Age, Row, Step, row};

const SHA: &str = "84de9c61777ca36b13228e2446d53e966096e78db7a72c632b5c185b2ffe68a6";
const OTHER: &str = "1111e3fd640c5f211c89b02c2c6122f78ce322aa5c56eb0bb54bc422a8f8b111";

fn rule(identifier: &str, rule_type: wire::RuleType, policy: wire::Policy) -> wire::Rule {
    wire::Rule {
        identifier: identifier.to_owned(),
        rule_type: rule_type.into(),
        policy: policy.into(),
        ..wire::Rule::default()
    }
}

fn team(identifier: &str, policy: wire::Policy) -> wire::Rule {
    rule(identifier, wire::RuleType::Teamid, policy)
}

/// The rows of the server's set, as far as a release knows the policies.
fn rows_of(server: &FakeServer, age: Age) -> Vec<Row> {
    server.rules().iter().filter_map(|rule| row(rule, age, false)).collect()
}

fn blocked(number: u64) -> AnyEvent {
    let mut event = fixtures::events(50, number).find_map(|event| match event {
        AnyEvent::Execution(event) => Some(event),
        AnyEvent::FileAccess(_) => None,
    });
    let mut event = event.take().unwrap();
    event.set_decision(wire::Decision::BlockUnknown);
    AnyEvent::Execution(event)
}

fn allowed(number: u64) -> AnyEvent {
    let AnyEvent::Execution(mut event) = blocked(number) else { unreachable!() };
    event.set_decision(wire::Decision::AllowUnknown);
    AnyEvent::Execution(event)
}

fn lose(stage: Stage, loss: Loss) -> impl FnMut(Step) -> Act {
    move |step| {
        let strikes = matches!(step, Step::Attempt { stage: of, .. } if of == stage);
        if strikes { Act::Lose(loss) } else { Act::Go }
    }
}
