//! The sync of the `sync` command, made by the daemon of the state directory.

use std::io;
use std::path::Path;

use super::{Args, Reporter};
use crate::cli::{Global, by_daemon, output};
use crate::clock::{Clock as _, SystemClock};
use crate::control::client::Client;
use crate::control::message::{ControlErrorKind, ControlRequest, ControlResponse, SyncRequest};
use crate::model::{SyncRecord, SyncResult, SyncType};
use crate::sync::run::SyncOptions;

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
pub(super) fn sync(mut client: Client, wanted: SyncOptions, reporter: &Reporter) -> SyncRecord {
    let asked = SyncRequest { clean: wanted.clean, manual: true, wait: wanted.wait, attach: false };
    let began = SystemClock::new().now().wall;
    let not_begun = |result: SyncResult, message: String, fix: Option<String>| {
        let requested = wanted.clean.unwrap_or(SyncType::Normal);
        SyncRecord::not_begun(result, message, fix, wanted.trigger, began, requested)
    };
    let gone = |error: &io::Error| {
        let message = format!("the daemon does not respond ({error})");
        let fix = "look at its log, and at `santa-sync status`".to_owned();
        not_begun(SyncResult::DaemonNotReachable, message, Some(fix))
    };
    if let Err(error) = client.ask(&ControlRequest::Sync(asked)) {
        return gone(&error);
    }
    loop {
        match client.answer() {
            Ok(ControlResponse::Waiting) => reporter.waiting(),
            Ok(ControlResponse::Progress(step)) => reporter.step(&step),
            Ok(ControlResponse::Synced { record }) => return *record,
            Ok(ControlResponse::Error { kind, message }) => {
                let result = match kind {
                    ControlErrorKind::TooManySyncs => SyncResult::TooManySyncs,
                    ControlErrorKind::BadRequest
                    | ControlErrorKind::Forbidden
                    | ControlErrorKind::Busy
                    | ControlErrorKind::Stopping
                    | ControlErrorKind::Store
                    | ControlErrorKind::Internal => SyncResult::DaemonNotReachable,
                };
                return not_begun(result, message, None);
            }
            Ok(
                ControlResponse::Missed { .. }
                | ControlResponse::Status(_)
                | ControlResponse::EventsAdded { .. }
                | ControlResponse::Rule(_)
                | ControlResponse::BundleRequests { .. }
                | ControlResponse::Subscribed
                | ControlResponse::Notification { .. }
                | ControlResponse::Metrics { .. }
                | ControlResponse::Done,
            ) => {}
            Err(error) => return gone(&error),
        }
    }
}
