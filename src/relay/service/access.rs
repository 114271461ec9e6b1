//! Decides which requests come from the authorizer (RELAY-12).

use hyper::header::HeaderValue;
use rustix::process::geteuid;
use subtle::ConstantTimeEq as _;

use crate::config::RelayConfig;
use crate::host::{self, SystemHost};
use crate::model::Secret;
use crate::relay::refusals;
use crate::serve::{Head, Peer};

/// Who may change anything (RELAY-12).
#[derive(Clone, Debug)]
pub struct Access {
    secret: Option<Secret>,
    /// Users whose connections count as the authorizer's; `None` where the
    /// system does not tell.
    users: Option<Vec<u32>>,
    certificate: bool,
}

impl Access {
    /// Reads the configuration. Users that do not exist are left out, with a warning.
    #[must_use]
    pub fn new(config: &RelayConfig) -> Self {
        let users = cfg!(target_os = "linux").then(|| {
            if config.peer_users.is_empty() {
                return vec![0, geteuid().as_raw()];
            }
            let of = |name: &String| {
                let user = host::user_id(name, &SystemHost);
                if user.is_none() {
                    tracing::warn!(name, "RelayPeerUsers names a user that does not exist");
                }
                user
            };
            config.peer_users.iter().filter_map(of).collect()
        });
        let (secret, certificate) = (config.secret.clone(), config.client_certificate);
        Self { secret, users, certificate }
    }

    /// Whether clients are authenticated at all.
    #[must_use]
    pub const fn checks_peers(&self) -> bool {
        self.certificate || self.users.is_some()
    }

    /// Whether the users that own connections must be looked up.
    pub(super) const fn knows_users(&self) -> bool {
        self.users.is_some()
    }

    /// Whether a connection is the authorizer's.
    pub(super) fn is_authorizer(&self, peer: &Peer) -> bool {
        let is_user = || {
            let users = self.users.as_deref().unwrap_or_default();
            peer.user.is_some_and(|user| users.contains(&user))
        };
        peer.certificate || is_user()
    }

    /// The message to a client that is refused.
    pub(super) fn demand(&self, user: Option<u32>) -> String {
        match (self.certificate, user) {
            (true, _) => "only holders of the relay's client certificate are served".to_owned(),
            (false, Some(user)) => format!(
                "only the authorizer of this host is served, and RelayPeerUsers does not name user \
                 {user}, whose connection this is"
            ),
            (false, None) => {
                "only the authorizer of this host is served, and whose connection this \
                              is cannot be found out"
                    .to_owned()
            }
        }
    }

    /// What to do about a client that was refused.
    pub(super) const fn remedy(&self) -> &'static str {
        if self.certificate { refusals::CERTIFICATE_FIX } else { refusals::USER_FIX }
    }

    /// Whether a request carries the secret. Takes the same time whatever it
    /// carries.
    pub(super) fn has_secret(&self, head: &Head) -> bool {
        let Some(secret) = &self.secret else { return true };
        let given = head.headers.get(RelayConfig::SECRET_HEADER);
        let given = given.map_or(&[][..], HeaderValue::as_bytes);
        given.ct_eq(secret.expose().as_bytes()).into()
    }
}
