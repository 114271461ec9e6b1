//! `status`: how syncing stands, from files alone.

use std::process::ExitCode;
use std::time::Duration;

use super::{Global, output, setup};
use crate::clock::{Clock as _, SystemClock};
use crate::host::{self, SystemHost};
use crate::model::Timestamp;
use crate::store::StoreError;

mod report;

use report::Status;

/// Exit code if the last success is older than `--max-age`.
const EXIT_TOO_OLD: u8 = 1;

#[derive(Debug, Clone, clap::Args)]
pub(super) struct Args {
    /// Prints one JSON object
    #[arg(long)]
    json: bool,
    /// Fails if the last successful sync is older than this, for example 90m, 2h or 1d
    #[arg(long, value_name = "AGE", value_parser = parse_age)]
    max_age: Option<Duration>,
}

/// Runs the command.
pub(super) fn run(global: &Global, args: &Args) -> ExitCode {
    let setup = match setup::load(global) {
        Ok(setup) => setup,
        Err(code) => return code,
    };
    let now = SystemClock::new().now().wall;
    let machine_id = host::machine_id(&setup.config, &SystemHost);
    let status = match Status::read(&setup.config, &setup.state_dir, machine_id, now) {
        Ok(status) => status,
        Err(error) => {
            output::error(&error);
            return ExitCode::from(StoreError::EXIT_CODE);
        }
    };
    if args.json {
        output::json(&status);
    } else {
        status.show();
    }
    match args.max_age {
        Some(max_age) if too_old(status.last_success_at(), max_age, now) => {
            if !args.json {
                let secs = max_age.as_secs();
                output::error(match status.last_success_at() {
                    None => "no sync has ever succeeded".to_owned(),
                    Some(_) => format!("the last successful sync is older than {secs} s"),
                });
            }
            ExitCode::from(EXIT_TOO_OLD)
        }
        Some(_) | None => ExitCode::SUCCESS,
    }
}

fn too_old(success: Option<Timestamp>, max_age: Duration, now: Timestamp) -> bool {
    success.is_none_or(|at| now.since(at) > max_age)
}

/// A number and one of s, m, h, d.
fn parse_age(text: &str) -> Result<Duration, String> {
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
