//! The agent that a command asks: the daemon's, or this process's.

use super::{Global, output, setup::Setup};
use crate::agent::{Agent, LocalAgent, RemoteAgent};
use crate::clock::SystemClock;

/// The agent of this process, with the command's configuration and clock.
pub(super) fn local(global: &Global, setup: &Setup) -> LocalAgent {
    LocalAgent::new(setup.state_dir.clone(), setup.config.clone())
        .with_clock(SystemClock::with_rate(global.clock_rate))
}

/// The daemon of the state directory, or, with a configuration of the command's
/// own, this process. Standard error says which.
pub(super) fn agent(global: &Global, setup: &Setup) -> Agent {
    let local = local(global, setup);
    if global.set.is_empty() && global.config.is_none() {
        return Agent::connect_or_local(local, output::note);
    }
    if RemoteAgent::connect(&setup.state_dir).is_ok_and(|daemon| daemon.is_some()) {
        output::note(
            "a daemon runs on this state directory; because of --set or --config this command \
             does the work itself, with that configuration",
        );
    }
    Agent::local(local)
}
