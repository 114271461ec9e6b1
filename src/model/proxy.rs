//! The proxy on the way to the server, as it is configured.

use super::Secret;

/// Where the choice of a proxy comes from.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Proxy {
    /// `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, in either case. Loopback
    /// hosts are reached directly regardless of these.
    #[default]
    Environment,
    /// The same, and where no variable names a proxy, those of the system's
    /// network settings.
    System(Box<ProxySettings>),
    /// No proxy.
    Direct,
    /// The dictionary of the configuration, and no other source.
    Configured(Box<ProxySettings>),
}

/// A proxy dictionary of the configuration. Without any server it says that the
/// sync server is reached directly, regardless of the environment.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ProxySettings {
    /// The proxy for `https` URLs, spoken to in HTTP with CONNECT.
    pub https: Option<ProxyServer>,
    /// The proxy for `http` URLs.
    pub http: Option<ProxyServer>,
    /// The SOCKS 5 proxy for URLs that have no other. It resolves the names.
    pub socks: Option<ProxyServer>,
    /// Hosts to reach directly: names, `*.domain` patterns, addresses, or
    /// networks as `10.0.0.0/8`.
    pub exceptions: Vec<String>,
    /// Whether to reach names without a dot directly.
    pub exclude_simple_hostnames: bool,
}

/// A proxy and the credentials for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyServer {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// User name, if the proxy requires one.
    pub user: Option<String>,
    /// Password of that user.
    pub password: Option<Secret>,
}
