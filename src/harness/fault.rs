//! What goes wrong, and when.

use std::str::FromStr;
use std::time::Duration;

use serde_json::Value;
use strum::{EnumString, IntoStaticStr, VariantNames};
use thiserror::Error;

use super::Route;
use super::fixtures::Random;
use super::parsed::matches;

/// Which requests of a route a fault strikes. Requests are counted as they
/// arrive, including retries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occurrences {
    from: u64,
    to: u64,
    machine_id: Option<String>,
    /// How probably it strikes, in millionths.
    chance: u32,
}

/// The n-th request, from 1.
#[must_use]
pub const fn nth(n: u64) -> Occurrences {
    Occurrences { from: n, to: n, machine_id: None, chance: Occurrences::CERTAIN }
}

/// The first n requests.
#[must_use]
pub const fn first(n: u64) -> Occurrences {
    Occurrences { from: 1, to: n, machine_id: None, chance: Occurrences::CERTAIN }
}

/// The n-th request, from 1, and all later ones.
#[must_use]
pub const fn from(n: u64) -> Occurrences {
    Occurrences { from: n, to: u64::MAX, machine_id: None, chance: Occurrences::CERTAIN }
}

/// Every request.
#[must_use]
pub const fn every() -> Occurrences {
    from(1)
}

/// Every request of that host.
#[must_use]
pub fn when(machine_id: &str) -> Occurrences {
    every().of(machine_id)
}

impl Occurrences {
    /// The chance of what always happens, in millionths.
    pub const CERTAIN: u32 = 1_000_000;

    /// Makes it strike with this probability only, in millionths. The same seed and
    /// requests lead to the same strikes.
    #[must_use]
    pub const fn with_chance(mut self, millionths: u32) -> Self {
        self.chance = millionths;
        self
    }

    /// Whether it strikes this time.
    pub(super) const fn happens(&self, random: &mut Random) -> bool {
        self.chance >= Self::CERTAIN || random.below(Self::CERTAIN) < self.chance
    }

    /// Restricts it to requests of that host, or of those that a pattern with `*`
    /// for any text fits. Requests of each host are counted alone.
    #[must_use]
    pub fn of(mut self, machine_id: &str) -> Self {
        self.machine_id = Some(machine_id.to_owned());
        self
    }

    /// Whether it applies to request number `of_all` of the route, which is
    /// number `of_host` of its host.
    pub(super) fn strikes(&self, machine_id: &str, of_all: u64, of_host: u64) -> bool {
        let number = match &self.machine_id {
            Some(wanted) if matches(wanted, machine_id) => of_host,
            Some(_) => return false,
            None => of_all,
        };
        (self.from..=self.to).contains(&number)
    }
}

/// What goes wrong. Faults of the first group replace the server's work: the
/// request only appears in the transcript. With the others the server does its
/// work (accepts events, hands out pages) and the response is damaged or late.
#[derive(Clone, Debug, PartialEq, EnumString, IntoStaticStr, VariantNames)]
#[strum(serialize_all = "kebab-case")]
pub enum Fault {
    /// This status, with these headers and this body.
    Status(u16, Vec<(String, String)>, String),
    /// 302 to that location.
    Redirect(String),
    /// 200 with a page of HTML, as a captive portal sends.
    Html,
    /// 200 with text that is not JSON.
    NotJson,
    /// 200 without a body.
    EmptyBody,
    /// 200 with this JSON.
    WrongShape(Value),
    /// 200 with a gzip body that decodes to that many bytes.
    GzipBomb(u64),
    /// A header that never ends.
    EndlessHeader,
    /// Rules that never end, on one page.
    EndlessBody,
    /// Bytes that are not HTTP.
    NotHttp,
    /// No response for as long as the client waits.
    Stall,

    /// Half of the body announced by `Content-Length`, then a close.
    Truncate,
    /// Half of a chunk, then a close.
    TruncateChunked,
    /// Half of a body that is delimited by the close alone.
    TruncateWithoutLength,
    /// A close instead of a response.
    #[strum(serialize = "close")]
    CloseBeforeResponse,
    /// The whole body, delimited by the close alone. Legal.
    CloseWithoutLength,
    /// The body one byte at a time, this far apart.
    SlowBytes(Duration),
    /// A gzip body with a flipped bit in its middle.
    CorruptGzip,
    /// `Content-Encoding: br`, which was not requested.
    UnknownEncoding,
    /// A page's cursor equals the one in the request.
    RepeatCursor,
    /// Every page has a next one.
    EndlessCursor,
    /// The rule at this index of the page is not a rule.
    BrokenRule(usize),
    /// An unknown enum value: the client mode of preflight, the policy of a
    /// page's first rule.
    UnknownEnum,
    /// The response is this much later. Legal.
    Delay(Duration),
    /// The response is held until [`super::FakeServer::release`]. Legal.
    Hold,
}

impl Fault {
    /// That status with a line of text.
    #[must_use]
    pub fn status(code: u16) -> Self {
        Self::Status(code, Vec::new(), format!("scripted status {code}\n"))
    }

    /// That status with a `Retry-After`, in seconds or as an HTTP date.
    #[must_use]
    pub fn retry_after(code: u16, value: &str) -> Self {
        let headers = vec![("Retry-After".to_owned(), value.to_owned())];
        Self::Status(code, headers, format!("scripted status {code}\n"))
    }

    /// The name in transcripts and on the command line.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.into()
    }
}

/// A fault, with the requests it applies to.
#[derive(Clone, Debug, PartialEq)]
pub struct Scripted {
    /// The route it applies to.
    pub route: Route,
    /// The requests of that route it applies to.
    pub when: Occurrences,
    /// What goes wrong.
    pub fault: Fault,
}

/// Why a text is not a fault.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FaultSyntaxError {
    /// There is no `=`.
    #[error("{0:?} is not ROUTE[:WHICH]=FAULT[:VALUE], as in rule_download:2=truncate")]
    Form(String),
    /// The route is unknown.
    #[error(
        "{0:?} is not a route; give preflight, event_upload, rule_download, postflight or xsrf"
    )]
    Route(String),
    /// The requests are not given as a number or range.
    #[error("{0:?} does not say which requests; give N, N- (from it on), -N (the first) or *")]
    Which(String),
    /// The fault is unknown.
    #[error("{0:?} is not a fault; give one of {names}", names = Fault::VARIANTS.join(", "))]
    Fault(String),
    /// The fault's value is missing or wrong.
    #[error("{fault} needs {needs}, as in {fault}:{example}; {value:?} is not one")]
    Value {
        /// The fault.
        fault: &'static str,
        /// What its value means.
        needs: &'static str,
        /// An example of a valid one.
        example: &'static str,
        /// What was given.
        value: String,
    },
}

/// Reads `ROUTE[:WHICH]=FAULT[:VALUE]`.
impl FromStr for Scripted {
    type Err = FaultSyntaxError;

    fn from_str(text: &str) -> Result<Self, FaultSyntaxError> {
        let (place, fault) =
            text.split_once('=').ok_or_else(|| FaultSyntaxError::Form(text.to_owned()))?;
        let (route, which) = place.split_once(':').unwrap_or((place, "*"));
        let route = Route::ALL
            .into_iter()
            .find(|r| r.name() == route || r.segment() == route)
            .ok_or_else(|| FaultSyntaxError::Route(route.to_owned()))?;
        Ok(Self { route, when: which_from(which)?, fault: fault_from(fault)? })
    }
}

/// Reads which requests are meant.
pub(super) fn which_from(text: &str) -> Result<Occurrences, FaultSyntaxError> {
    let number = |n: &str| {
        n.parse::<u64>()
            .ok()
            .filter(|n| *n > 0)
            .ok_or_else(|| FaultSyntaxError::Which(text.to_owned()))
    };
    if text == "*" {
        Ok(every())
    } else if let Some(n) = text.strip_suffix('-') {
        number(n).map(from)
    } else if let Some(n) = text.strip_prefix('-') {
        number(n).map(first)
    } else {
        number(text).map(nth)
    }
}

/// Reads `FAULT[:VALUE]`.
pub(super) fn fault_from(text: &str) -> Result<Fault, FaultSyntaxError> {
    let (name, value) = text.split_once(':').unwrap_or((text, ""));
    let mut fault: Fault = name.parse().map_err(|_| FaultSyntaxError::Fault(name.to_owned()))?;
    let fault_name = fault.name();
    let wrong = |needs, example| FaultSyntaxError::Value {
        fault: fault_name,
        needs,
        example,
        value: value.to_owned(),
    };
    if let Fault::Status(..) = fault {
        let (code, retry_after) = value.split_once(',').unwrap_or((value, ""));
        let code = code.parse().ok().filter(|code| (200..=599).contains(code));
        let code =
            code.ok_or_else(|| wrong("a status, with a Retry-After if you like", "503,2"))?;
        return Ok(match retry_after {
            "" => Fault::status(code),
            retry_after => Fault::retry_after(code, retry_after),
        });
    }
    if let Fault::Redirect(location) = &mut fault {
        if value.is_empty() {
            return Err(wrong("a location", "https://example.com/"));
        }
        value.clone_into(location);
    }
    if let Fault::WrongShape(json) = &mut fault {
        *json = serde_json::from_str(value).map_err(|_| wrong("JSON", r#"{"rules":{}}"#))?;
    }
    if let Fault::GzipBomb(bytes) = &mut fault {
        *bytes = value.parse().map_err(|_| wrong("a number of bytes", "1073741824"))?;
    }
    if let Fault::BrokenRule(index) = &mut fault {
        *index = value.parse().map_err(|_| wrong("an index on the page", "0"))?;
    }
    if let Fault::SlowBytes(time) | Fault::Delay(time) = &mut fault {
        let millis = value.trim_end_matches("ms").parse();
        *time = millis
            .map(Duration::from_millis)
            .map_err(|_| wrong("a number of milliseconds", "500ms"))?;
    }
    Ok(fault)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Stage;

    #[test]
    fn a_fault_is_read_from_the_command_line() {
        let read = |text: &str| text.parse::<Scripted>().unwrap();
        let of = |route: Route, when, fault| Scripted { route, when, fault };
        let rules = Route::from(Stage::RuleDownload);
        assert_eq!(read("rule_download:2=truncate"), of(rules, nth(2), Fault::Truncate));
        assert_eq!(read("ruledownload:3-=stall"), of(rules, from(3), Fault::Stall));
        assert_eq!(read("xsrf=status:500"), of(Route::Xsrf, every(), Fault::status(500)));
        assert_eq!(
            read("preflight:-2=status:503,7"),
            of(Stage::Preflight.into(), first(2), Fault::retry_after(503, "7"))
        );
        assert_eq!(
            read("postflight:*=delay:250ms"),
            of(Stage::Postflight.into(), every(), Fault::Delay(Duration::from_millis(250)))
        );
        assert_eq!(
            read(r#"rule_download=wrong-shape:{"rules":{}}"#),
            of(rules, every(), Fault::WrongShape(serde_json::json!({"rules": {}})))
        );
    }

    #[test]
    fn a_wrong_fault_is_answered_with_what_to_give() {
        let say = |text: &str| text.parse::<Scripted>().unwrap_err().to_string();
        assert!(say("truncate").contains("as in rule_download:2=truncate"));
        assert!(say("rules=truncate").contains("give preflight, event_upload"));
        assert!(say("preflight:0=truncate").contains("N- (from it on)"));
        assert!(say("preflight=trunkate").contains("truncate-chunked"));
        assert!(say("preflight=status:99").contains("as in status:503,2"));
        assert!(say("preflight=delay:soon").contains("a number of milliseconds"));
    }

    #[test]
    fn every_name_is_that_of_the_fault_it_reads_as() {
        for name in Fault::VARIANTS.iter().copied() {
            let value = match name {
                "status" => ":503",
                "redirect" => ":/elsewhere",
                "wrong-shape" => ":[]",
                "gzip-bomb" | "broken-rule" | "slow-bytes" | "delay" => ":1",
                _ => "",
            };
            let fault = fault_from(&format!("{name}{value}")).unwrap();
            assert_eq!(fault.name(), name);
        }
    }

    #[test]
    fn a_fault_of_one_host_counts_its_requests_alone() {
        let when = nth(2).of("A");
        assert!(when.strikes("A", 9, 2));
        assert!(!when.strikes("A", 2, 1));
        assert!(!when.strikes("B", 2, 2));
        assert!(from(2).strikes("B", 7, 1) && !first(2).strikes("B", 3, 1));
    }
}
