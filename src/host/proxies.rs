//! The system's own proxy settings, which a launchd daemon uses for want of
//! proxy variables in its environment.

use super::source::HostSource;
use crate::model::{Proxy, ProxyServer, ProxySettings};

/// The most lines of `scutil --proxy` that are read, and the most exceptions.
const MAX_LINES: usize = 4096;

/// The proxies in the network settings of a Mac.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct SystemProxies {
    /// The proxies that are named.
    pub settings: ProxySettings,
    /// Whether the proxy is to be found by a script (PAC) or by discovery.
    pub automatic: bool,
}

impl SystemProxies {
    /// Reads the settings of this host; `None` if it has none that can be read.
    #[must_use]
    pub fn read(host: &dyn HostSource) -> Option<Self> {
        if !host.uname().is_macos() {
            return None;
        }
        let output = host.run("/usr/sbin/scutil", &["--proxy"]).ok()?;
        Some(parse(&String::from_utf8_lossy(&output)))
    }

    fn names_any(&self) -> bool {
        let ProxySettings { https, http, socks, .. } = &self.settings;
        https.is_some() || http.is_some() || socks.is_some()
    }
}

/// Completes a proxy that the environment decides on with those of the system.
#[must_use]
pub fn with_system_proxies(proxy: &Proxy, host: &dyn HostSource) -> Proxy {
    if *proxy == Proxy::Environment
        && let Some(system) = SystemProxies::read(host)
        && system.names_any()
    {
        return Proxy::System(Box::new(system.settings));
    }
    proxy.clone()
}

/// Reads the output of `scutil --proxy`: `<dictionary> {`, a line `Key : value`
/// for each key, and `}`. Arrays and the settings of single interfaces are
/// dictionaries in it, indented further.
fn parse(output: &str) -> SystemProxies {
    let mut keys: Vec<(&str, &str)> = Vec::new();
    let mut exceptions = Vec::new();
    // The names of the dictionaries that a line is in, outermost first.
    let mut inside: Vec<&str> = Vec::new();
    for line in output.lines().take(MAX_LINES).map(str::trim) {
        let entry = line.split_once(" : ");
        if line.ends_with('{') {
            inside.push(entry.map_or("", |(key, _)| key));
        } else if line == "}" {
            inside.pop();
        } else if let Some((key, value)) = entry {
            match &*inside {
                [_] => keys.push((key, value)),
                [_, "ExceptionsList"] => exceptions.push(value.to_owned()),
                _ => {}
            }
        }
    }
    let value = |name: &str| keys.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
    let is_on = |name: &str| value(name) == Some("1");
    let server = |kind: &str| {
        let host = value(&format!("{kind}Proxy")).filter(|host| is_host(host))?;
        let port = value(&format!("{kind}Port"))?.parse().ok().filter(|port| *port != 0)?;
        // The password is in a keychain that no daemon can read.
        let server = ProxyServer { host: host.to_owned(), port, user: None, password: None };
        is_on(&format!("{kind}Enable")).then_some(server)
    };
    let settings = ProxySettings {
        https: server("HTTPS"),
        http: server("HTTP"),
        socks: server("SOCKS"),
        exceptions,
        exclude_simple_hostnames: is_on("ExcludeSimpleHostnames"),
    };
    let automatic = is_on("ProxyAutoConfigEnable") || is_on("ProxyAutoDiscoveryEnable");
    SystemProxies { settings, automatic }
}

fn is_host(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
    (1..=255).contains(&text.len()) && text.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::host::RecordedHost;

    fn recorded(case: &str) -> RecordedHost {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/host");
        RecordedHost::new(root.join(case))
    }

    fn server(host: &str, port: u16) -> ProxyServer {
        ProxyServer { host: host.to_owned(), port, user: None, password: None }
    }

    #[test]
    fn http_13_the_proxies_of_a_mac_are_read() {
        let read = |case| SystemProxies::read(&recorded(case)).expect("settings");
        let intel = read("macos-intel");
        assert_eq!(intel.settings.https, Some(server("proxy.example.com", 3129)), "not en0's own");
        assert_eq!(intel.settings.http, Some(server("proxy.example.com", 3128)));
        assert_eq!(intel.settings.socks, None);
        let exceptions = ["*.local", "169.254/16", "intranet.example.com"];
        assert_eq!(intel.settings.exceptions, exceptions);
        assert!(intel.settings.exclude_simple_hostnames && !intel.automatic);

        let pac = read("macos-vm");
        assert!(pac.automatic && !pac.names_any());
        let none = read("macos-laptop");
        assert!(!none.automatic && !none.names_any());
        assert_eq!(read("macos-26-older-sdk"), SystemProxies::default());
        assert_eq!(SystemProxies::read(&recorded("macos-hanging")), None);
        assert_eq!(SystemProxies::read(&recorded("linux-server")), None);
    }

    #[test]
    fn http_13_the_system_s_proxies_count_where_the_environment_decides() {
        let intel = recorded("macos-intel");
        let chosen = with_system_proxies(&Proxy::Environment, &intel);
        assert!(matches!(chosen, Proxy::System(_)), "{chosen:?}");
        assert_eq!(with_system_proxies(&Proxy::Direct, &intel), Proxy::Direct);
        let configured = Proxy::Configured(Box::default());
        assert_eq!(with_system_proxies(&configured, &intel), configured);
        for case in ["macos-vm", "macos-laptop", "macos-hanging", "linux-server"] {
            let chosen = with_system_proxies(&Proxy::Environment, &recorded(case));
            assert_eq!(chosen, Proxy::Environment, "{case}");
        }
    }

    #[test]
    fn http_13_output_cut_off_or_strange_names_no_wrong_proxy() {
        let whole =
            "<dictionary> {\n  HTTPSEnable : 1\n  HTTPSPort : 3129\n  HTTPSProxy : p.example\n}\n";
        assert_eq!(parse(whole).settings.https, Some(server("p.example", 3129)));
        let cut = whole.find("HTTPSProxy").expect("there");
        for length in 0..cut {
            assert!(!parse(&whole[..length]).names_any(), "at {length}");
        }
        for (from, to) in [
            ("HTTPSEnable : 1", "HTTPSEnable : 0"),
            ("HTTPSEnable : 1", "HTTPSEnable : TRUE"),
            ("3129", "0"),
            ("3129", "70000"),
            ("p.example", "p/../x"),
            ("p.example", "<NULL>"),
            ("  HTTPSProxy", "  en0 : <dictionary> {\n  HTTPSProxy"),
        ] {
            assert!(!parse(&whole.replace(from, to)).names_any(), "{to}");
        }
        let deep = "<dictionary> {\n".repeat(100_000);
        assert_eq!(parse(&deep), SystemProxies::default());
        assert_eq!(parse("}\n}\n : \n"), SystemProxies::default());
    }
}
