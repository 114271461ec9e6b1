//! What commands have the daemon of the state directory do, if one runs.

use std::path::Path;
use std::time::Duration;

use super::{Global, output};
use crate::control::client::Client;
use crate::control::message::{ControlErrorKind, ControlRequest, ControlResponse};

/// How long the daemon may take for what it does at once. It answers `busy`
/// after 10 s.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the daemon may take to hear that events were queued.
const TELLING: Duration = Duration::from_secs(1);
/// How often a request is made again that the daemon is too busy for. It has
/// waited before it says so.
const REPEATS_WHEN_BUSY: u32 = 2;

/// The daemon of the state directory, unless there is none, this user may not
/// ask it, or the command has a configuration of its own. Tells which.
pub(super) fn find(global: &Global, state_dir: &Path) -> Option<Client> {
    let client = match Client::reach(state_dir) {
        Ok(client) => client?,
        Err(error) => {
            output::note(format_args!(
                "this user may not ask a daemon on this state directory ({error}); its files are \
                 used"
            ));
            return None;
        }
    };
    if !global.set.is_empty() || global.config.is_some() {
        output::note(
            "a daemon runs on this state directory; because of --set or --config this is done \
             here, with that configuration",
        );
        return None;
    }
    Some(client)
}

/// The same for a command whose answer is a line for each request.
pub(super) fn find_to_ask(global: &Global, state_dir: &Path) -> Option<Client> {
    let client = find(global, state_dir)?;
    client.wait_at_most(PATIENCE).ok()?;
    output::note("through the daemon that runs on this state directory");
    Some(client)
}

/// The daemon that was found before, on another connection: it ends one that is
/// silent for half a minute. Tells if it is gone.
pub(super) fn again(state_dir: &Path) -> Option<Client> {
    let client = Client::reach(state_dir).ok().flatten();
    let client = client.filter(|client| client.wait_at_most(PATIENCE).is_ok());
    if client.is_none() {
        output::note("the daemon is gone; this is done here from here on");
    }
    client
}

/// Tells the daemon, if there is one, that something that was denied has been
/// queued (EV-10). It loses nothing if it does not hear of it.
pub(super) fn upload_events(state_dir: &Path) {
    let Some(mut client) = Client::connect(state_dir) else { return };
    let told = client
        .wait_at_most(TELLING)
        .and_then(|()| client.ask(&ControlRequest::UploadEvents))
        .and_then(|()| client.answer());
    if let Err(error) = told {
        tracing::debug!(%error, "the daemon has not heard of the events");
    }
}

/// Asks for something that is answered by one line, and picks from it. `None`,
/// which has been told, if the daemon does not do it; an error if it cannot use
/// a store.
pub(super) fn ask<T>(
    client: &mut Client,
    request: &ControlRequest,
    pick: impl FnOnce(ControlResponse) -> Option<T>,
) -> Option<Result<T, String>> {
    let mut answer = client.ask(request).and_then(|()| client.answer());
    for _ in 0..REPEATS_WHEN_BUSY {
        if matches!(answer, Ok(ControlResponse::Error { kind: ControlErrorKind::Busy, .. })) {
            answer = client.ask(request).and_then(|()| client.answer());
        }
    }
    let why = match answer {
        Ok(ControlResponse::Error { kind: ControlErrorKind::Store, message }) => {
            return Some(Err(message));
        }
        Ok(ControlResponse::Error { message, .. }) => message,
        Ok(answer) => match pick(answer) {
            Some(picked) => return Some(Ok(picked)),
            None => "it answers something else; is it of another version?".to_owned(),
        },
        Err(error) => error.to_string(),
    };
    output::note(format_args!("not through the daemon after all: {}", output::printable(&why)));
    None
}
