//! `status`: the sync status, from files alone; for a user who may not read them,
//! from the daemon.

use std::path::Path;
use std::time::Duration;
use std::{fs, io};

use super::error::{EXIT_TOO_OLD, Error};
use super::{Global, connect, output, setup};
use crate::agent::{DaemonReport, RemoteAgent};
use crate::clock::{Clock as _, SystemClock};
use crate::control::status::DaemonStatus;
use crate::model::Timestamp;

mod report;

use report::{show, show_report};

#[derive(Debug, Clone, clap::Args)]
pub(super) struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Fail if the last successful sync is older than this, for example 90m, 2h or 1d
    #[arg(long, value_name = "AGE", value_parser = parse_age)]
    max_age: Option<Duration>,
}

/// Runs the command.
pub(super) fn run(global: &Global, args: &Args) -> Result<(), Error> {
    let setup = setup::load_to_read(global)?;
    let now = SystemClock::new().now().wall;
    // To a user who may not look into it, an empty directory is one that is full.
    let closed = is_closed(&setup.state_dir);
    let status = closed.then(|| by_daemon(&setup.state_dir)).flatten();
    if closed && status.is_none() {
        let dir = setup.state_dir.display();
        return Err(Error::unusable(format!("this user may not read {dir}")).with_fix(
            "run `sudo santa-sync status`, or set SocketGroup to a group of this user and ask the \
             daemon",
        ));
    }
    let never = match status {
        // What was before, it has not heard of.
        Some(_) => "no sync has succeeded since the daemon's start",
        None => "no sync has ever succeeded",
    };
    let success = if let Some(status) = status {
        let success = status.last_success;
        let report = DaemonReport::new(&setup.config, &setup.state_dir, status, now);
        if args.json {
            setup.print_json(&report);
        } else {
            show_report(&report, now);
        }
        success
    } else {
        let mut status = connect::local(global, &setup).status()?;
        if global.set.is_empty() && global.config.is_none() {
            status.use_daemons_configuration();
        }
        if args.json {
            setup.print_json(&status);
        } else {
            show(&status, now);
        }
        status.last_success_at()
    };
    match args.max_age {
        Some(max_age) if too_old(success, max_age, now) => {
            let secs = max_age.as_secs();
            let what = match success {
                None => never.to_owned(),
                Some(_) => format!("the last successful sync is older than {secs} s"),
            };
            Err(Error::new(EXIT_TOO_OLD, what))
        }
        Some(_) | None => Ok(()),
    }
}

/// Whether this user may not look into the state directory.
fn is_closed(state_dir: &Path) -> bool {
    fs::read_dir(state_dir).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

/// Asks the daemon for its status, which more users may read than its files.
fn by_daemon(state_dir: &Path) -> Option<DaemonStatus> {
    let mut daemon = RemoteAgent::connect(state_dir).ok()??;
    let asked = daemon.status();
    asked.inspect_err(|error| output::note(error)).ok()
}

fn too_old(success: Option<Timestamp>, max_age: Duration, now: Timestamp) -> bool {
    success.is_none_or(|at| now.since(at) > max_age)
}

/// A number and one of s, m, h, d.
pub(super) fn parse_age(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not an age; write a number and s, m, h or d, as in 2h");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 60 * 60,
        'd' => 24 * 60 * 60,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - unit.len_utf8()].parse().map_err(|_| wrong())?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_a_number_and_a_unit() {
        for (text, secs) in [("90s", 90), ("90m", 5400), ("2h", 7200), ("1d", 86400)] {
            assert_eq!(parse_age(text).map(|age| age.as_secs()), Ok(secs));
        }
        for wrong in ["", "2", "h", "2 h", "-1h", "2ä", "99999999999999999999d"] {
            assert!(parse_age(wrong).is_err(), "{wrong:?}");
        }
    }

    /// DAEMON-4: what the daemon tells a member of its group says when a sync
    /// last succeeded and when the next one comes.
    #[test]
    fn daemon_4_what_the_daemon_tells_is_enough_to_act_on() {
        let at = Timestamp::from_secs(1_800_000_000);
        let status = serde_json::json!({
            "schema_version": 1, "pid": 1, "version": "0.1.0", "started_at": at, "beat_at": at,
            "doing": "idle", "sync_began_at": null, "sync_waiting": false,
            "next_sync_at": at.after(Duration::from_mins(1)), "next_sync_why": "network",
            "full_sync_interval": 600, "failures_in_a_row": 3, "back_off": 240, "syncs": 9,
            "last_sync": null, "last_success": at, "last_panic": null, "last_hang": null,
            "configuration_refused": null, "log_level": "info",
        });
        let status: DaemonStatus = serde_json::from_value(status).expect("a status");
        let config = crate::config::Config::resolve(&[]).config;
        let now = at.after(Duration::from_secs(30));
        let report = DaemonReport::new(&config, Path::new("/state"), status, now);
        let report = serde_json::to_value(&report).expect("JSON");
        assert_eq!(report["last_success"]["age_seconds"], 30);
        let daemon = &report["daemon"];
        assert_eq!(
            (&daemon["liveness"], &daemon["next_sync_why"]),
            (&"alive".into(), &"network".into())
        );
        assert!(!is_closed(Path::new("/nowhere")), "it is not there, which is another matter");
    }

    #[test]
    fn a_sync_that_never_succeeded_is_too_old_for_any_age() {
        let now = Timestamp::from_secs(10_000);
        let age = Duration::from_mins(1);
        assert!(too_old(None, age, now));
        assert!(too_old(Some(Timestamp::from_secs(9_939)), age, now));
        assert!(!too_old(Some(Timestamp::from_secs(9_940)), age, now));
        assert!(!too_old(Some(Timestamp::from_secs(20_000)), age, now));
    }
}
