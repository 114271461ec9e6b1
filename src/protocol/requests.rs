//! Requests of the sync protocol, read as a server reads them: leniently, like
//! responses, and within bounds whatever a client sends.

mod upload;

use thiserror::Error;

pub use upload::{EventUpload, MAX_UPLOADED_EVENTS, read_upload};

use super::body::{self, BodyError, DecodedBody, ResponseBody};
use super::json;
use crate::model::Transfer;

/// Why a body is not the request it should be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RequestError {
    /// It is not the message.
    #[error("the body is not a valid {message}: {reason}")]
    Unreadable {
        /// The message's name in the schema.
        message: &'static str,
        /// What is wrong; safe to show.
        reason: String,
    },
    /// More events than one request may carry.
    #[error("the request has more than {MAX_UPLOADED_EVENTS} events")]
    TooManyEvents,
}

impl RequestError {
    /// The status of the response: repeating the request does not help.
    #[must_use]
    pub const fn http_status(&self) -> u16 {
        match self {
            Self::Unreadable { .. } => 400,
            Self::TooManyEvents => 413,
        }
    }

    fn of(message: &'static str, error: BodyError) -> Self {
        let reason = match error {
            BodyError::CutShort(bytes) => format!("the JSON breaks off after {bytes} bytes"),
            BodyError::Html(start) => format!("it is HTML and begins \"{start}\""),
            BodyError::NotJson { reason, start } => {
                format!("it is not JSON ({reason}) and begins \"{start}\"")
            }
            BodyError::WrongShape { path, reason, .. } => format!("at {path}: {reason}"),
            BodyError::NotProtobuf { reason, .. } => {
                format!("it is not binary protobuf ({reason})")
            }
            BodyError::ErrorInResponse { member, .. } => {
                format!("it has the member {member} and none of the message's fields")
            }
            other @ (BodyError::CursorTooLong(_)
            | BodyError::GivenUp
            | BodyError::TooManyRules(_)) => other.to_string(),
        };
        Self::Unreadable { message, reason }
    }
}

/// Reads the request of a stage other than `event_upload`; an empty body is the
/// message with every field absent.
///
/// # Errors
/// If the body is not the message.
pub fn read<M>(transfer: Transfer, body: &[u8]) -> Result<DecodedBody<M>, RequestError>
where
    M: prost::Message + json::Message,
{
    body::decode(ResponseBody::new(transfer, body))
        .map_err(|error| RequestError::of(M::NAME, error))
}

#[cfg(test)]
mod tests;
