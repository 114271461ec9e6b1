//! The sync of the `sync` command, made by the daemon of the state directory.

use std::io;
use std::path::Path;

use super::{Args, Reporter};
use crate::cli::{Global, by_daemon, output};
use crate::clock::{Clock as _, SystemClock};
use crate::daemon::client::Client;
use crate::daemon::message::{Answer, ErrorKind, Request, Sync};
use crate::model::{SyncRecord, SyncResult, SyncType};
use crate::sync::job::Wanted;

/// The daemon that is to make the sync, if there is one and it can. With a
/// configuration of its own, past the guard, or to be looked at closely, a sync is
/// made here.
pub(super) fn find(global: &Global, args: &Args, state_dir: &Path) -> Option<Client> {
    let here = args.dry_run || args.debug || args.past_guard || args.hooks.is_set();
    if here || global.clock_rate != 1 {
        return None;
    }
    let client = by_daemon::find(global, state_dir)?;
    output::note("the daemon that runs on this state directory makes the sync");
    Some(client)
}

/// Has the daemon make a sync, and shows it.
pub(super) fn sync(mut client: Client, wanted: Wanted, reporter: &Reporter) -> SyncRecord {
    let asked = Sync { clean: wanted.clean, manual: true, wait: wanted.wait, attach: false };
    let began = SystemClock::new().now().wall;
    let not_begun = |result: SyncResult, message: String| {
        let requested = wanted.clean.unwrap_or(SyncType::Normal);
        SyncRecord::not_begun(result, message, wanted.trigger, began, requested)
    };
    let gone = |error: &io::Error| {
        let message = format!(
            "the daemon does not answer ({error}); look at its log, and at `santa-sync status`"
        );
        not_begun(SyncResult::DaemonNotReachable, message)
    };
    if let Err(error) = client.ask(&Request::Sync(asked)) {
        return gone(&error);
    }
    loop {
        match client.answer() {
            Ok(Answer::Waiting) => reporter.waiting(),
            Ok(Answer::Progress(step)) => reporter.step(&step),
            Ok(Answer::Synced { record }) => return *record,
            Ok(Answer::Error { kind, message }) => {
                let result = match kind {
                    ErrorKind::TooManySyncs => SyncResult::TooManySyncs,
                    ErrorKind::BadRequest
                    | ErrorKind::Forbidden
                    | ErrorKind::Busy
                    | ErrorKind::Stopping
                    | ErrorKind::Store
                    | ErrorKind::Internal => SyncResult::DaemonNotReachable,
                };
                return not_begun(result, message);
            }
            Ok(
                Answer::Missed { .. }
                | Answer::Status(_)
                | Answer::EventsAdded { .. }
                | Answer::Rule(_)
                | Answer::BundleRequests { .. }
                | Answer::Subscribed
                | Answer::Notification { .. }
                | Answer::Metrics { .. }
                | Answer::Done,
            ) => {}
            Err(error) => return gone(&error),
        }
    }
}
