//! What to do after a failure: repeat the request, fetch a token, or give up
//! (HTTP-3, HTTP-4).

use super::FailureKind;

/// What to do after an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Disposition {
    /// Repeat the request after a wait, if it has repeats left.
    Retry,
    /// Fetch a fresh XSRF token and repeat the request at once, once a sync.
    RefreshToken,
    /// The request fails permanently: repeating it cannot help.
    Final,
}

impl FailureKind {
    /// What to do after an attempt failed this way.
    #[must_use]
    pub const fn disposition(self) -> Disposition {
        match self {
            Self::NameNotResolved
            | Self::Refused
            | Self::Unreachable
            | Self::ConnectTimeout
            | Self::IdleTimeout
            | Self::TotalTimeout
            | Self::ConnectionLost
            | Self::Truncated
            | Self::Http11Required
            | Self::NotHttp
            | Self::ProxyRefused
            | Self::RequestTimeout
            | Self::TooManyRequests
            | Self::ServerError
            | Self::ErrorInResponse
            | Self::SimulatorMemory
            | Self::UnexpectedStatus => Disposition::Retry,
            Self::Forbidden => Disposition::RefreshToken,
            Self::HeaderTooLarge
            | Self::ProxyCredentials
            | Self::CertificateUntrusted
            | Self::CertificateExpired
            | Self::CertificateWrongName
            | Self::TlsHandshake
            | Self::ClientCertificateRequired
            | Self::ClientCertificateRejected
            | Self::ClientCertificateExpired
            | Self::ClientCertificateUnreadable
            | Self::ClientCertificatePassword
            | Self::RootsUnreadable
            | Self::Redirected
            | Self::Unauthorized
            | Self::NotFound
            | Self::MethodNotAllowed
            | Self::PayloadTooLarge
            | Self::UnsupportedMediaType
            | Self::ClientError
            | Self::NotImplemented
            | Self::Html
            | Self::NotJson
            | Self::WrongShape
            | Self::NotProtobuf
            | Self::BadEncoding
            | Self::TooLarge
            | Self::EmptyBody
            | Self::CursorNotAdvancing
            | Self::TooManyPages
            | Self::TooManyRules
            | Self::NoUsableRules
            | Self::Guarded
            | Self::MalformedUrl
            | Self::Deadline
            | Self::Cancelled
            | Self::DiskFull
            | Self::Store => Disposition::Final,
        }
    }

    /// The kind a status other than 200 stands for.
    #[must_use]
    pub const fn of_status(status: u16) -> Self {
        match status {
            300..=399 => Self::Redirected,
            401 => Self::Unauthorized,
            403 => Self::Forbidden,
            404 => Self::NotFound,
            405 => Self::MethodNotAllowed,
            407 => Self::ProxyCredentials,
            408 => Self::RequestTimeout,
            413 => Self::PayloadTooLarge,
            415 => Self::UnsupportedMediaType,
            // 425 asks for a repeat as 429 does.
            425 | 429 => Self::TooManyRequests,
            400..=499 => Self::ClientError,
            501 => Self::NotImplemented,
            500..=599 => Self::ServerError,
            _ => Self::UnexpectedStatus,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// HTTP-3: every status there is, in one table.
    #[test]
    fn http_3_statuses_are_retried_or_final_as_the_contract_says() {
        for status in 100..=599_u16 {
            let expected = match status {
                200 => continue,
                403 => Disposition::RefreshToken,
                408 | 425 | 429 => Disposition::Retry,
                501 | 300..=499 => Disposition::Final,
                _ => Disposition::Retry,
            };
            assert_eq!(FailureKind::of_status(status).disposition(), expected, "{status}");
        }
    }
}
