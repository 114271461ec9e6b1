//! The way to the server: which proxy, if any. There is one server, so this is
//! decided once, before anything is sent.

use std::net::IpAddr;

use percent_encoding::percent_decode_str;
use url::Url;

use crate::failure::{Failure, FailureKind};
use crate::model::{Proxy, ProxySettings, Secret, is_loopback, shown};

/// The proxy chosen for the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyRoute {
    /// `http`, `https`, `socks5` or `socks5h`, host and port; no credentials.
    pub url: Url,
    /// The user to log in as.
    pub user: Option<String>,
    /// The password of that user.
    pub password: Option<Secret>,
    /// Which key or variable named it.
    pub origin: &'static str,
}

/// The key of the configuration, for messages.
const CONFIGURATION_KEY: &str = "SyncProxyConfiguration";
/// The origin of a proxy that the system's network settings name.
pub const SYSTEM_SETTINGS: &str = "the system's network settings";

fn from_settings(
    server: &Url,
    settings: &ProxySettings,
    origin: &'static str,
) -> Result<Option<ProxyRoute>, Failure> {
    let host = bare_host(server);
    let simple = !host.contains(['.', ':']);
    if settings.exclude_simple_hostnames && simple
        || settings.exceptions.iter().any(|pattern| excepted(pattern, server, false))
    {
        return Ok(None);
    }
    let own = if server.scheme() == "https" { &settings.https } else { &settings.http };
    let (scheme, proxy) = match (own, &settings.socks) {
        (Some(proxy), _) => ("http", proxy),
        (None, Some(proxy)) => ("socks5h", proxy),
        (None, None) => return Ok(None),
    };
    let host = match proxy.host.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => format!("[{address}]"),
        _ => proxy.host.clone(),
    };
    let url = format!("{scheme}://{host}:{}", proxy.port);
    let url = Url::parse(&url).map_err(|error| malformed(origin, &error.to_string()))?;
    Ok(Some(ProxyRoute { url, user: proxy.user.clone(), password: proxy.password.clone(), origin }))
}

fn from_environment(
    server: &Url,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<ProxyRoute>, Failure> {
    let named = |names: [&'static str; 2]| {
        names.into_iter().find_map(|name| Some((name, variable(name).filter(|v| !v.is_empty())?)))
    };
    // Plain HTTP is for loopback hosts only, which another host cannot reach.
    if server.scheme() != "https" || is_loopback(server) {
        return Ok(None);
    }
    let Some((origin, value)) =
        named(["https_proxy", "HTTPS_PROXY"]).or_else(|| named(["all_proxy", "ALL_PROXY"]))
    else {
        return Ok(None);
    };
    if let Some((_, exceptions)) = named(["no_proxy", "NO_PROXY"])
        && exceptions.split([',', ' ']).any(|pattern| excepted(pattern, server, true))
    {
        return Ok(None);
    }
    let text = if value.contains("://") { value } else { format!("http://{value}") };
    let mut url = Url::parse(&text).map_err(|error| malformed(origin, &error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https" | "socks5" | "socks5h" | "socks4" | "socks4a") {
        return Err(malformed(origin, "it is of another kind than http, https and socks"));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(malformed(origin, "it names no host"));
    }
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let user = (!url.username().is_empty()).then(|| decoded(url.username()));
    let password = url.password().map(|password| Secret::new(decoded(password)));
    // Both fail only for URLs without a host.
    let _ = url.set_password(None);
    let _ = url.set_username("");
    Ok(Some(ProxyRoute { url, user, password, origin }))
}

fn malformed(origin: &str, reason: &str) -> Failure {
    let message = format!("the proxy of {origin} cannot be used ({reason})");
    Failure::new(FailureKind::MalformedUrl, message).fixed_by("write it as http://host:port")
}

impl ProxyRoute {
    /// The proxy on the way to `server`; `None` if it is reached directly.
    /// `variable` reads an environment variable.
    ///
    /// # Errors
    /// If the proxy named cannot be used.
    pub fn choose(
        proxy: &Proxy,
        server: &Url,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, Failure> {
        match proxy {
            Proxy::Direct => Ok(None),
            Proxy::Environment => from_environment(server, variable),
            Proxy::Configured(settings) => from_settings(server, settings, CONFIGURATION_KEY),
            Proxy::System(settings) => {
                let names = ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];
                if names.iter().any(|name| variable(name).is_some_and(|value| !value.is_empty())) {
                    from_environment(server, variable)
                } else if is_loopback(server) {
                    Ok(None)
                } else {
                    from_settings(server, settings, SYSTEM_SETTINGS)
                }
            }
        }
    }

    /// The proxy as it may be shown: without user and password.
    #[must_use]
    pub fn shown(&self) -> String {
        shown(&self.url).trim_end_matches('/').to_owned()
    }

    pub(super) fn to_reqwest(&self) -> reqwest::Result<reqwest::Proxy> {
        let proxy = reqwest::Proxy::all(self.url.clone())?;
        Ok(match &self.user {
            Some(user) => proxy.basic_auth(user, self.password.as_ref().map_or("", |p| p.expose())),
            None => proxy,
        })
    }
}

fn bare_host(url: &Url) -> &str {
    url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']')
}

/// Whether a pattern of an exception list covers the server: `*`, a name with
/// or without `*`, an address, a network as `10.0.0.0/8` or `10/8`, any of them
/// with a port. In the environment a name covers the names below it too.
fn excepted(pattern: &str, server: &Url, names_below: bool) -> bool {
    let pattern = pattern.trim().to_ascii_lowercase();
    let host = bare_host(server).to_ascii_lowercase();
    if pattern.is_empty() {
        return false;
    }
    if let Ok(address) = host.parse::<IpAddr>()
        && in_network(&pattern, address)
    {
        return true;
    }
    let (name, port) = match pattern.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') || name.ends_with(']') => (name, Some(port)),
        _ => (pattern.as_str(), None),
    };
    if port.is_some_and(|port| port.parse().ok() != server.port_or_known_default()) {
        return false;
    }
    let name = name.trim_start_matches('[').trim_end_matches(']');
    let suffix = name.strip_prefix('.').unwrap_or(name);
    let below = names_below || name.starts_with('.');
    fits(name, &host)
        || below && host.strip_suffix(suffix).is_some_and(|r| r.is_empty() || r.ends_with('.'))
}

fn in_network(pattern: &str, address: IpAddr) -> bool {
    let Some((network, bits)) = pattern.split_once('/') else {
        return pattern.parse() == Ok(address);
    };
    let Ok(bits) = bits.parse::<u32>() else { return false };
    match address {
        IpAddr::V4(address) => {
            // Apple's lists may leave trailing zeros out: 169.254/16.
            let octets = network.split('.').count();
            let network = format!("{network}{}", ".0".repeat(4_usize.saturating_sub(octets)));
            let Some(zeros) = 32_u32.checked_sub(bits) else { return false };
            let mask = u32::MAX.checked_shl(zeros).unwrap_or(0);
            network
                .parse::<std::net::Ipv4Addr>()
                .is_ok_and(|network| network.to_bits() & mask == address.to_bits() & mask)
        }
        IpAddr::V6(address) => {
            let Some(zeros) = 128_u32.checked_sub(bits) else { return false };
            let mask = u128::MAX.checked_shl(zeros).unwrap_or(0);
            network
                .parse::<std::net::Ipv6Addr>()
                .is_ok_and(|network| network.to_bits() & mask == address.to_bits() & mask)
        }
    }
}

/// Whether the text fits a pattern in which `*` stands for any run.
fn fits(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, tail)) => text.strip_prefix(head).is_some_and(|rest| {
            rest.char_indices()
                .map(|(at, _)| at)
                .chain([rest.len()])
                .any(|at| rest.get(at..).is_some_and(|rest| fits(tail, rest)))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ProxyServer;

    fn url(text: &str) -> Url {
        Url::parse(text).expect("a URL")
    }

    fn environment(
        server: &str,
        variables: &[(&str, &str)],
    ) -> Result<Option<ProxyRoute>, Failure> {
        ProxyRoute::choose(&Proxy::Environment, &url(server), |name| {
            variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned())
        })
    }

    fn shown_route(server: &str, variables: &[(&str, &str)]) -> Option<String> {
        environment(server, variables).expect("a usable proxy").map(|route| route.shown())
    }

    #[test]
    fn http_13_the_environment_names_the_proxy() {
        let https = ("HTTPS_PROXY", "http://p:3128");
        assert_eq!(shown_route("https://h/", &[https]).as_deref(), Some("http://p:3128"));
        assert_eq!(
            shown_route("https://h/", &[("https_proxy", "q:1"), https]).as_deref(),
            Some("http://q:1")
        );
        assert_eq!(
            shown_route("https://h/", &[("ALL_PROXY", "socks5h://p:1080")]).as_deref(),
            Some("socks5h://p:1080")
        );
        assert_eq!(shown_route("https://h/", &[("HTTPS_PROXY", "")]), None);
        assert_eq!(shown_route("https://h/", &[("HTTP_PROXY", "http://p:1")]), None);
    }

    #[test]
    fn http_13_loopback_hosts_never_go_through_a_proxy_of_the_environment() {
        let all = [("HTTPS_PROXY", "http://p:1"), ("http_proxy", "http://p:1")];
        for server in
            ["http://localhost:1/", "http://127.0.0.1/", "https://localhost/", "https://[::1]/"]
        {
            assert_eq!(shown_route(server, &all), None, "{server}");
        }
    }

    #[test]
    fn http_13_no_proxy_lists_are_kept_to() {
        let direct = |server: &str, list: &str| {
            shown_route(server, &[("HTTPS_PROXY", "http://p:1"), ("NO_PROXY", list)]).is_none()
        };
        assert!(direct("https://sync.example.com/", "a.b, example.com"));
        assert!(direct("https://sync.example.com/", ".example.com"));
        assert!(direct("https://sync.example.com/", "*"));
        assert!(direct("https://sync.example.com:8443/", "sync.example.com:8443"));
        assert!(direct("https://10.1.2.3/", "10.0.0.0/8"));
        assert!(direct("https://[fd00::1]/", "fd00::/8"));
        assert!(!direct("https://sync.example.com/", "xample.com"));
        assert!(!direct("https://sync.example.com/", "sync.example.com:8443"));
        assert!(!direct("https://11.1.2.3/", "10.0.0.0/8"));
        assert!(!direct("https://sync.example.com/", ""));
    }

    fn dictionary() -> ProxySettings {
        let server = |host: &str, port| {
            Some(ProxyServer { host: host.to_owned(), port, user: None, password: None })
        };
        ProxySettings {
            https: server("secure", 1),
            http: server("plain", 2),
            socks: server("::1", 3),
            ..ProxySettings::default()
        }
    }

    fn configured(server: &str, settings: &ProxySettings) -> Option<String> {
        ProxyRoute::choose(&Proxy::Configured(Box::new(settings.clone())), &url(server), |_| {
            Some("http://never:1".to_owned())
        })
        .expect("a usable proxy")
        .map(|route| route.shown())
    }

    #[test]
    fn http_13_the_dictionary_wins_over_the_environment() {
        let mut settings = dictionary();
        assert_eq!(configured("https://h/", &settings).as_deref(), Some("http://secure:1"));
        assert_eq!(configured("http://localhost/", &settings).as_deref(), Some("http://plain:2"));
        settings.https = None;
        assert_eq!(configured("https://h/", &settings).as_deref(), Some("socks5h://[::1]:3"));
        assert_eq!(configured("https://h/", &ProxySettings::default()), None);
    }

    /// HTTP-13: a daemon without variables goes the way that the system names.
    #[test]
    fn http_13_the_system_s_proxies_count_after_the_environment() {
        let system = Proxy::System(Box::new(dictionary()));
        let way = |server: &str, variable: &str| {
            let variable = |name: &str| (name == variable).then(|| "http://env:1".to_owned());
            let route = ProxyRoute::choose(&system, &url(server), variable).expect("usable");
            route.map(|route| format!("{} of {}", route.shown(), route.origin))
        };
        let of_system = "http://secure:1 of the system's network settings";
        assert_eq!(way("https://h/", "").as_deref(), Some(of_system));
        assert_eq!(
            way("https://h/", "HTTPS_PROXY").as_deref(),
            Some("http://env:1 of HTTPS_PROXY")
        );
        for loopback in ["https://localhost/", "http://127.0.0.1:917/"] {
            assert_eq!(way(loopback, ""), None, "{loopback}");
        }
    }

    #[test]
    fn http_13_exceptions_of_the_dictionary_are_reached_directly() {
        let settings = ProxySettings {
            exceptions: ["*.local", "exact.example.com", "169.254/16"].map(str::to_owned).into(),
            exclude_simple_hostnames: true,
            ..dictionary()
        };
        for direct in
            ["https://a.local/", "https://exact.example.com/", "https://169.254.9.9/", "https://h/"]
        {
            assert_eq!(configured(direct, &settings), None, "{direct}");
        }
        for proxied in
            ["https://sub.exact.example.com/", "https://169.253.9.9/", "https://[fd::1]/"]
        {
            assert!(configured(proxied, &settings).is_some(), "{proxied}");
        }
    }

    #[test]
    fn credentials_of_a_proxy_are_taken_apart_and_never_shown() {
        let route = environment("https://h/", &[("HTTPS_PROXY", "http://me:pa%4055@p:1")])
            .expect("usable")
            .expect("a proxy");
        assert_eq!(route.user.as_deref(), Some("me"));
        assert_eq!(route.password.as_ref().map(Secret::expose), Some("pa@55"));
        assert!(!format!("{route:?} {}", route.shown()).contains("55"));
        let error = environment("https://h/", &[("HTTPS_PROXY", "http://me:s3cret@p:x")])
            .expect_err("no port");
        assert!(!error.message.contains("s3cret"), "{error}");
        assert!(error.message.contains("HTTPS_PROXY"), "{error}");
        let error = environment("https://h/", &[("HTTPS_PROXY", "ftp://p")]).expect_err("no proxy");
        assert!(error.message.contains("another kind than http, https and socks"), "{error}");
    }
}
