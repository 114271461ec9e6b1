//! `SyncProxyConfiguration`: Apple's proxy dictionary, as far as one server can
//! be reached by it.

use percent_encoding::percent_decode_str;
use plist::{Dictionary, Value};

use super::value::type_name;
use crate::model::{ProxyServer, ProxySettings, Secret};

/// One thing wrong with a proxy dictionary: what, and what to do.
pub(super) struct ProxyProblem {
    pub(super) message: String,
    pub(super) fix: &'static str,
}

/// Reads the dictionary. What is wrong counts as not there and is reported.
pub(super) fn read(dictionary: &Dictionary, problems: &mut Vec<ProxyProblem>) -> ProxySettings {
    let mut reader = Reader { dictionary, problems };
    reader.check_names();
    let proxy = ProxySettings {
        http: reader.endpoint("HTTP", 80),
        https: reader.endpoint("HTTPS", 443),
        socks: reader.endpoint("SOCKS", 1080),
        exceptions: reader.exceptions(),
        exclude_simple_hostnames: reader.flag("ExcludeSimpleHostnames"),
    };
    if reader.flag("ProxyAutoConfigEnable") || reader.flag("ProxyAutoDiscoveryEnable") {
        reader.problem(
            "automatic proxy configuration is not supported".to_owned(),
            "name the proxy by HTTPSEnable, HTTPSProxy and HTTPSPort",
        );
    }
    proxy
}

const USERNAME_KEY: &str = "kCFProxyUsernameKey";
const PASSWORD_KEY: &str = "kCFProxyPasswordKey";

/// Keys that concern the whole dictionary.
const COMMON_KEYS: [&str; 9] = [
    "ExceptionsList",
    "ExcludeSimpleHostnames",
    "ProxyAutoConfigEnable",
    "ProxyAutoConfigURLString",
    "ProxyAutoConfigJavaScript",
    "ProxyAutoDiscoveryEnable",
    USERNAME_KEY,
    PASSWORD_KEY,
    "kCFProxyTypeKey",
];

/// Names that follow the protocol's.
const OF_PROTOCOL: [&str; 6] = ["Enable", "Proxy", "Port", "User", "Username", "Password"];

struct Reader<'a> {
    dictionary: &'a Dictionary,
    problems: &'a mut Vec<ProxyProblem>,
}

impl<'a> Reader<'a> {
    fn problem(&mut self, message: String, fix: &'static str) {
        self.problems.push(ProxyProblem { message, fix });
    }

    fn check_names(&mut self) {
        for name in self.dictionary.keys() {
            let of_protocol = ["HTTPS", "HTTP", "SOCKS"]
                .iter()
                .filter_map(|protocol| name.strip_prefix(protocol))
                .any(|rest| OF_PROTOCOL.contains(&rest));
            if !of_protocol && !COMMON_KEYS.contains(&name.as_str()) {
                self.problem(
                    format!("{name:?} is not a key of a proxy dictionary"),
                    "use HTTPSEnable, HTTPSProxy, HTTPSPort, HTTPSUser, HTTPSPassword and the like",
                );
            }
        }
    }

    fn get(&self, name: &str) -> Option<&'a Value> {
        self.dictionary.get(name)
    }

    fn flag(&mut self, name: &str) -> bool {
        match self.get(name) {
            None => false,
            Some(Value::Boolean(flag)) => *flag,
            Some(Value::Integer(n)) => n.as_signed() != Some(0),
            Some(other) => {
                let message = format!("{name} is {}", type_name(other));
                self.problem(message, "write it as the integer 1 or 0");
                false
            }
        }
    }

    fn text(&mut self, name: &str) -> Option<String> {
        let value = self.get(name)?;
        let Some(text) = value.as_string() else {
            let message = format!("{name} is {}", type_name(value));
            self.problem(message, "write it as a string");
            return None;
        };
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    fn endpoint(&mut self, protocol: &str, default_port: u16) -> Option<ProxyServer> {
        let host = self.text(&format!("{protocol}Proxy"));
        if !self.flag(&format!("{protocol}Enable")) {
            if host.is_some() {
                self.problem(
                    format!("{protocol}Proxy has no effect without {protocol}Enable"),
                    "set the Enable key to 1 or remove the host",
                );
            }
            return None;
        }
        let Some(host) = host else {
            self.problem(
                format!("{protocol}Enable is set and {protocol}Proxy is not"),
                "name the proxy's host",
            );
            return None;
        };
        let (host, inline) = self.split_credentials(protocol, host);
        let (host, in_name) = split_port(host);
        let port = match self.get(&format!("{protocol}Port")) {
            None => in_name.unwrap_or(default_port),
            Some(value) => {
                let number = value.as_unsigned_integer();
                let text = value.as_string().and_then(|text| text.trim().parse().ok());
                let port = number.and_then(|n| u16::try_from(n).ok()).or(text);
                let Some(port) = port.filter(|port| *port != 0) else {
                    self.problem(
                        format!("{protocol}Port is not a port"),
                        "write an integer from 1 to 65535",
                    );
                    return None;
                };
                port
            }
        };
        if in_name.is_some_and(|in_name| in_name != port) {
            self.problem(
                format!("{protocol}Proxy names another port than {protocol}Port, which counts"),
                "remove the port from the host",
            );
        }
        let user = self.first_text(&[
            &format!("{protocol}User"),
            &format!("{protocol}Username"),
            USERNAME_KEY,
        ]);
        let password = self.first_text(&[&format!("{protocol}Password"), PASSWORD_KEY]);
        let (inline_user, inline_password) = inline.unzip();
        let user = user.or(inline_user);
        let password = password.or(inline_password).map(Secret::new);
        Some(ProxyServer { host, port, user, password })
    }

    /// Takes user and password out of `user:password@host`, as other programs
    /// accept it, so that they are not taken for parts of the name.
    fn split_credentials(
        &mut self,
        protocol: &str,
        host: String,
    ) -> (String, Option<(String, String)>) {
        let Some((before, host)) = host.rsplit_once('@') else { return (host, None) };
        self.problem(
            format!("{protocol}Proxy holds a user or password"),
            "write them as HTTPSUser and HTTPSPassword, or the like of the protocol",
        );
        let before = before.rsplit_once("://").map_or(before, |(_, credentials)| credentials);
        let (user, password) = before.split_once(':').unwrap_or((before, ""));
        let decoded = |text| percent_decode_str(text).decode_utf8_lossy().into_owned();
        (host.to_owned(), Some((decoded(user), decoded(password))))
    }

    fn first_text(&mut self, names: &[&str]) -> Option<String> {
        names.iter().find_map(|name| self.text(name))
    }

    fn exceptions(&mut self) -> Vec<String> {
        let name = "ExceptionsList";
        let Some(value) = self.get(name) else { return Vec::new() };
        let texts: Option<Vec<String>> = value
            .as_array()
            .map(|array| array.iter().map(|v| v.as_string().map(str::to_owned)).collect())
            .unwrap_or_default();
        texts.unwrap_or_else(|| {
            self.problem(format!("{name} is not an array of strings"), "list the hosts as strings");
            Vec::new()
        })
    }
}

/// Splits `scheme://host:port/`, as other programs accept it; an address of
/// IPv6 has its brackets.
fn split_port(name: String) -> (String, Option<u16>) {
    let host = name.split_once("://").map_or(&*name, |(_, host)| host).trim_end_matches('/');
    match host.rsplit_once(':') {
        Some((before, port)) if !before.contains(':') || before.ends_with(']') => {
            match port.parse() {
                Ok(port) if port != 0 => (before.to_owned(), Some(port)),
                _ => (name, None),
            }
        }
        _ => (host.to_owned(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dictionary(entries: &[(&str, Value)]) -> Dictionary {
        entries.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect()
    }

    fn one(entries: &[(&str, Value)]) -> (ProxySettings, Vec<String>) {
        let mut problems = Vec::new();
        let proxy = read(&dictionary(entries), &mut problems);
        (proxy, problems.into_iter().map(|p| p.message).collect())
    }

    /// HTTP-13
    #[test]
    fn http_13_a_proxy_with_credentials_and_exceptions_is_read() {
        let (proxy, problems) = one(&[
            ("HTTPSEnable", Value::Integer(1.into())),
            ("HTTPSProxy", Value::from("proxy.example.com")),
            ("HTTPSPort", Value::Integer(8080.into())),
            (USERNAME_KEY, Value::from("agent")),
            (PASSWORD_KEY, Value::from("hunter2")),
            ("SOCKSEnable", Value::Boolean(false)),
            ("ExceptionsList", Value::Array(vec![Value::from("*.local")])),
            ("ExcludeSimpleHostnames", Value::Boolean(true)),
        ]);
        assert_eq!(problems, [""; 0]);
        let https = proxy.https.clone().expect("an endpoint");
        assert_eq!((https.host.as_str(), https.port), ("proxy.example.com", 8080));
        assert_eq!(https.user.as_deref(), Some("agent"));
        assert_eq!(https.password.as_ref().map(Secret::expose), Some("hunter2"));
        assert_eq!((proxy.http.is_none(), proxy.socks.is_none()), (true, true));
        assert_eq!(proxy.exceptions, ["*.local"]);
        assert!(proxy.exclude_simple_hostnames && !format!("{proxy:?}").contains("hunter2"));
    }

    #[test]
    fn http_14_user_and_password_in_a_proxys_name_are_taken_out_of_it() {
        for name in ["agent:p%40ss@proxy.example.com", "http://agent:p%40ss@proxy.example.com"] {
            let (proxy, problems) =
                one(&[("HTTPSEnable", Value::Boolean(true)), ("HTTPSProxy", Value::from(name))]);
            assert_eq!(problems, ["HTTPSProxy holds a user or password"]);
            assert!(!format!("{proxy:?}").contains("p%40ss"), "{proxy:?}");
            let https = proxy.https.expect("an endpoint");
            assert_eq!((&*https.host, https.user.as_deref()), ("proxy.example.com", Some("agent")));
            assert_eq!(https.password.as_ref().map(Secret::expose), Some("p@ss"));
        }
    }

    #[test]
    fn http_13_a_port_in_the_name_of_a_proxy_is_taken_as_others_take_it() {
        for (name, port, host, expected) in [
            ("proxy.example.com:3128", None, "proxy.example.com", 3128),
            ("http://proxy.example.com:3128/", None, "proxy.example.com", 3128),
            ("http://u:p@proxy.example.com:3128", None, "proxy.example.com", 3128),
            ("[::1]:3128", None, "[::1]", 3128),
            ("::1", None, "::1", 443),
            ("proxy.example.com:3128", Some(8080), "proxy.example.com", 8080),
        ] {
            let mut entries =
                vec![("HTTPSEnable", Value::Boolean(true)), ("HTTPSProxy", Value::from(name))];
            entries.extend(port.map(|port: i64| ("HTTPSPort", Value::Integer(port.into()))));
            let (proxy, problems) = one(&entries);
            let https = proxy.https.expect(name);
            assert_eq!((&*https.host, https.port), (host, expected), "{name}");
            let differs = "HTTPSProxy names another port than HTTPSPort, which counts".to_owned();
            assert_eq!(problems.contains(&differs), port.is_some(), "{problems:?}");
        }
    }

    #[test]
    fn http_13_what_has_no_effect_is_named() {
        let (proxy, problems) = one(&[
            ("HTTPProxy", Value::from("p")),
            ("HTTPSEnable", Value::Integer(1.into())),
            ("SOCKSEnable", Value::Integer(1.into())),
            ("SOCKSProxy", Value::from("s")),
            ("SOCKSPort", Value::Integer(70_000.into())),
            ("ProxyAutoConfigEnable", Value::Integer(1.into())),
            ("HttpsProxy", Value::from("p")),
            ("ExceptionsList", Value::from("a,b")),
        ]);
        assert_eq!(proxy, ProxySettings::default());
        assert_eq!(
            problems,
            [
                "\"HttpsProxy\" is not a key of a proxy dictionary",
                "HTTPProxy has no effect without HTTPEnable",
                "HTTPSEnable is set and HTTPSProxy is not",
                "SOCKSPort is not a port",
                "ExceptionsList is not an array of strings",
                "automatic proxy configuration is not supported",
            ]
        );
    }
}
