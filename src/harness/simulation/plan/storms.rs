//! The storms and outages of a plan, which affect many hosts at once.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::mix::parse_percent;
use super::times::{Shown, millis, parse_duration};

/// What many hosts do at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Storm {
    /// What they do.
    pub kind: StormKind,
    /// When, from the start.
    #[serde(rename = "at_ms", with = "millis")]
    pub at: Duration,
    /// The percentage of the hosts that have started.
    pub percent: u8,
}

/// What the hosts of a [`Storm`] do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StormKind {
    /// They request a clean sync, at their next sync.
    Clean,
    /// They sync at once, as if an operator had told all of them to.
    Sync,
    /// They reboot: a running sync breaks off, and the first one comes 15 to 30 s
    /// after the start, as the agent's does.
    Reboot,
}

impl StormKind {
    /// The name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Sync => "sync",
            Self::Reboot => "reboot",
        }
    }
}

/// `clean@10m`, `reboot@20m:50%`.
impl FromStr for Storm {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "write KIND@TIME or KIND@TIME:SHARE%, for example clean@10m or \
                                reboot@20m:50%; the kinds are clean, sync and reboot";
        let (kind, when) = text.split_once('@').ok_or(EXPECTED)?;
        let kind = [StormKind::Clean, StormKind::Sync, StormKind::Reboot]
            .into_iter()
            .find(|known| known.name() == kind)
            .ok_or(EXPECTED)?;
        let (at, percent) = when.split_once(':').unwrap_or((when, "100%"));
        let percent = parse_percent(percent).filter(|percent| *percent > 0).ok_or(EXPECTED)?;
        Ok(Self { kind, at: parse_duration(at).ok_or(EXPECTED)?, percent })
    }
}

impl fmt::Display for Storm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.kind.name(), Shown(self.at))?;
        if self.percent < 100 { write!(f, ":{}%", self.percent) } else { Ok(()) }
    }
}

/// A time in which the simulator refuses every connection of its hosts and cuts
/// those there are, as if the server were gone. The server itself sees silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outage {
    /// When it begins, from the start.
    #[serde(rename = "at_ms", with = "millis")]
    pub at: Duration,
    /// How long it lasts.
    #[serde(rename = "lasting_ms", with = "millis")]
    pub lasting: Duration,
}

/// `20m:5m`.
impl FromStr for Outage {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "write TIME:LENGTH, for example 20m:5m";
        let (at, lasting) = text.split_once(':').ok_or(EXPECTED)?;
        let at = parse_duration(at).ok_or(EXPECTED)?;
        let lasting = parse_duration(lasting).filter(|length| !length.is_zero());
        Ok(Self { at, lasting: lasting.ok_or(EXPECTED)? })
    }
}

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", Shown(self.at), Shown(self.lasting))
    }
}
