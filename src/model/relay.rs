//! How the relay speaks to the authorizer of this host.

use strum::{Display, EnumString, IntoStaticStr, VariantNames};

/// The authorizer whose sync client the relay serves (RELAY-13).
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    Default,
    Display,
    EnumString,
    IntoStaticStr,
    VariantNames,
)]
#[strum(serialize_all = "lowercase", ascii_case_insensitive)]
pub enum RelayManner {
    /// Santa: the whole protocol.
    #[default]
    Santa,
    /// Pedro: all rules on one page in every sync, without TLS.
    Pedro,
}

impl RelayManner {
    /// The name in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }
}
