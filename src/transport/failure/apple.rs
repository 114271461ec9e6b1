//! The verdicts of Apple's TLS verifier. `rustls-platform-verifier` maps a few of
//! them to `rustls`'s; any other comes as text in the system's language, which
//! ends with the code (an `OSStatus` of `SecBase.h`).

use rustls::CertificateError;

/// A verdict that comes as a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AppleVerdict {
    Expired,
    NotValidYet,
    Revoked,
    NotTrusted,
    /// Valid for longer than Apple accepts, from any CA.
    ValidForTooLong,
    /// Against another of Apple's rules.
    NotCompliant,
}

impl AppleVerdict {
    /// Returns the verdict in an error of the platform's verifier; `None` if it
    /// has no code or one that is not known.
    pub(super) fn of(error: &CertificateError) -> Option<Self> {
        let CertificateError::Other(text) = error else { return None };
        let text = text.to_string();
        let (_, code) = text.rsplit_once(": ")?;
        Some(match code.parse::<i32>().ok()? {
            -67_818 => Self::Expired,
            -67_819 => Self::NotValidYet,
            -67_820 => Self::Revoked,
            -67_843 => Self::NotTrusted,
            -67_901 => Self::ValidForTooLong,
            -67_825 => Self::NotCompliant,
            _ => return None,
        })
    }

    /// Returns the verdict as an error of `rustls`, where it has one.
    pub(super) fn as_certificate_error(self) -> Option<CertificateError> {
        Some(match self {
            Self::Expired => CertificateError::Expired,
            Self::NotValidYet => CertificateError::NotValidYet,
            Self::Revoked => CertificateError::Revoked,
            Self::NotTrusted => CertificateError::UnknownIssuer,
            Self::ValidForTooLong | Self::NotCompliant => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::OtherError;

    use super::*;

    #[test]
    fn http_12_a_code_counts_at_the_end_of_the_text_alone() {
        let of = |text: &str| {
            let error: Box<dyn std::error::Error + Send + Sync> = text.into();
            AppleVerdict::of(&CertificateError::Other(OtherError(Arc::from(error))))
        };
        assert_eq!(of("“h” certificate is expired: -67818"), Some(AppleVerdict::Expired));
        assert_eq!(of("„h“-Zertifikat ist abgelaufen: -67818"), Some(AppleVerdict::Expired));
        // The name in the text is the certificate's, and anyone can write one.
        assert_eq!(of("“a: -67843” certificate is broken: -1"), None);
        for other in ["", "-67818", ": ", ": -", "x: 67818", "x: -67818 y", "x: -99999999999"] {
            assert_eq!(of(other), None, "{other:?}");
        }
        assert_eq!(AppleVerdict::of(&CertificateError::Expired), None);
    }
}
