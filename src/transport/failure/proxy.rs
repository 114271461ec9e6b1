//! Failures of the connection to the proxy.

use std::error::Error;
use std::io;

use super::{FailureContext, innermost};
use crate::failure::{Failure, FailureKind};
use crate::transport::proxy::{ProxyRoute, SYSTEM_SETTINGS};

impl FailureContext<'_> {
    /// Classifies failures to reach the proxy or to get through it. `None` if the proxy made the
    /// connection and the failure is beyond it.
    pub(super) fn proxy(
        &self,
        route: &ProxyRoute,
        error: &reqwest::Error,
        causes: &[&(dyn Error + 'static)],
        io: Option<&io::Error>,
    ) -> Option<Failure> {
        if self.resolver.legs.server_reached() {
            return None;
        }
        let proxy = named(route);
        let refused = |what: String| {
            self.fail(
                FailureKind::ProxyRefused,
                what,
                format!("check the proxy's address and that it allows {}", self.server),
            )
        };
        // Neither client library exports these error types, so their messages are matched.
        let said = |phrase: &str| causes.iter().any(|cause| cause.to_string().contains(phrase));
        let credentials = |what: &str| {
            let verb = if route.user.is_some() { "check" } else { "set" };
            let origin = route.origin;
            let fix = match origin.strip_prefix("SyncProxyConfiguration") {
                Some(_) => format!(
                    "{verb} the proxy's user and password in SyncProxyConfiguration (HTTPSUser and \
                     HTTPSPassword, and so on for HTTP and SOCKS)"
                ),
                None if origin == SYSTEM_SETTINGS => {
                    "name this proxy with a user and password in SyncProxyConfiguration: those of \
                     the system's network settings are in a keychain"
                        .to_owned()
                }
                None => format!(
                    "{verb} the proxy's user and password in {origin}, as \
                     http://USER:PASSWORD@HOST:PORT"
                ),
            };
            Some(self.fail(FailureKind::ProxyCredentials, format!("{proxy} {what}"), fix))
        };
        if said("proxy authorization required") || said("credentials not accepted") {
            return credentials(if route.user.is_some() {
                "did not accept its user and password"
            } else {
                "wants a user and password"
            });
        }
        if said("does not support user/pass authentication") {
            return credentials("accepts none of the ways to log in that are offered");
        }
        if said("tunnel error: unsuccessful") {
            return Some(refused(format!("{proxy} refused to connect to {}", self.server)));
        }
        if said("tunnel error:") || said("SOCKS error:") {
            let socks = causes.iter().find_map(|cause| {
                cause.to_string().strip_prefix("SOCKS error: ").map(str::to_owned)
            });
            let reason = socks.unwrap_or_else(|| innermost(causes));
            return Some(refused(format!("{proxy} did not connect us ({reason})")));
        }
        if error.is_dns() {
            return Some(refused(format!("the name of {proxy} has no address")));
        }
        if error.is_timeout() {
            return Some(self.connect_timeout(&format!("{} by {proxy}", self.server)));
        }
        // The server's own connection errors come as the proxy's words; what is
        // left is the way to the proxy.
        io.filter(|io| io.kind() != io::ErrorKind::UnexpectedEof)
            .map(|io| refused(format!("{proxy} does not answer ({io})")))
    }
}

/// Names the proxy and where it was configured.
pub(super) fn named(route: &ProxyRoute) -> String {
    format!("the proxy {} ({})", route.shown(), route.origin)
}
