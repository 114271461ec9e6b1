//! Requests and their responses, as the transcript records them.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::model::Stage;

/// What a request is for: a stage, or the XSRF token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Route {
    /// A stage of a sync.
    Stage(Stage),
    /// `POST xsrf/<machine id>`.
    Xsrf,
}

impl Route {
    /// Every route.
    pub const ALL: [Self; 5] = [
        Self::Stage(Stage::Preflight),
        Self::Stage(Stage::EventUpload),
        Self::Stage(Stage::RuleDownload),
        Self::Stage(Stage::Postflight),
        Self::Xsrf,
    ];

    /// The name in transcripts and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Stage(stage) => stage.name(),
            Self::Xsrf => "xsrf",
        }
    }

    /// The segment of the URL.
    #[must_use]
    pub const fn segment(self) -> &'static str {
        match self {
            Self::Stage(stage) => stage.segment(),
            Self::Xsrf => "xsrf",
        }
    }

    /// The stage, if it is one.
    #[must_use]
    pub const fn stage(self) -> Option<Stage> {
        match self {
            Self::Stage(stage) => Some(stage),
            Self::Xsrf => None,
        }
    }

    /// Its place in [`Self::ALL`].
    pub(in crate::harness) fn place(self) -> usize {
        Self::ALL.iter().position(|route| *route == self).unwrap_or(0)
    }
}

impl From<Stage> for Route {
    fn from(stage: Stage) -> Self {
        Self::Stage(stage)
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Serialize for Route {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// One request and its response.
#[derive(Clone, Debug, Serialize)]
pub struct Exchange {
    /// Number of the request since the server started, from 1.
    pub number: u64,
    /// The route; `None` for an unknown path.
    pub route: Option<Route>,
    /// Number of the request on that route, from 1.
    pub occurrence: u64,
    /// The machine id of the path, decoded.
    pub machine_id: String,
    /// The method.
    pub method: String,
    /// Path and query, as received.
    pub path: String,
    /// The headers, with names in lower case and with secrets.
    pub headers: BTreeMap<String, String>,
    /// Size of the body on the wire, in bytes.
    pub body_bytes: u64,
    /// The body as JSON; a protobuf message as its JSON form. Null if it was
    /// empty, not readable, or not kept.
    pub body: Value,
    /// A JSON body as text, after decoding; empty for protobuf.
    #[serde(skip)]
    pub text: String,
    /// The status of the response; `None` if there was none.
    pub status: Option<u16>,
    /// Size of the response body on the wire, in bytes.
    pub response_bytes: u64,
    /// The fault that struck, or why the request was refused.
    pub note: String,
}

/// One line for people: `preflight ABC 200 512 B in, 64 B out`.
impl fmt::Display for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.route {
            Some(route) => write!(f, "{route} {}", self.machine_id)?,
            None => write!(f, "{} {}", self.method, self.path)?,
        }
        match self.status {
            Some(status) => write!(f, " {status}")?,
            None => f.write_str(" -")?,
        }
        write!(f, " {} B in, {} B out", self.body_bytes, self.response_bytes)?;
        if !self.note.is_empty() {
            write!(f, " ({})", self.note)?;
        }
        Ok(())
    }
}
