//! `doctor --report`: one text to send to whoever helps, without secrets.

use super::super::config::shown_with_origins;
use super::super::output;
use super::super::service::{LAUNCHD_TARGET, UNIT};
use super::DoctorReport;
use crate::config::Loaded;
use crate::host::{HostReport, HostSource};
use crate::model::{Secret, Timestamp};

/// The most bytes kept of what a program writes.
const MAX_OUTPUT: usize = 64 * 1024;

/// What the report is made of.
pub(super) struct Parts<'a> {
    pub(super) report: &'a DoctorReport,
    pub(super) loaded: &'a Loaded,
    pub(super) facts: &'a HostReport,
    pub(super) host: &'a dyn HostSource,
    pub(super) now: Timestamp,
}

impl Parts<'_> {
    /// Returns the report as Markdown.
    pub(super) fn text(&self) -> String {
        let version = env!("CARGO_PKG_VERSION");
        let uname = self.host.uname();
        let mut text = format!("# santa-sync {version}, {}\n", self.now);
        let system = [&*uname.sysname, &*uname.release, &*uname.machine].join(" ");
        section(&mut text, "System", &system);
        let lines: Vec<_> = self.report.lines.iter().map(super::Line::text).collect();
        section(&mut text, "Doctor", &output::joined(&lines));
        section(&mut text, "Host", &self.host_facts());
        section(&mut text, "Configuration", &shown_with_origins(self.loaded));
        for (program, args) in commands(uname.is_macos()) {
            let title = format!("{program} {}", args.join(" "));
            let said = match self.host.run(program, &args) {
                Ok(output) => {
                    let output = output.get(..MAX_OUTPUT).unwrap_or(&output);
                    without_secrets(&String::from_utf8_lossy(output))
                }
                Err(error) => error.to_string(),
            };
            section(&mut text, title.trim(), &said);
        }
        text
    }

    fn host_facts(&self) -> String {
        let id = match &self.facts.machine_id {
            Ok((id, source)) => format!("machine_id = {id} ({source})"),
            Err(problem) => format!("machine_id: {problem}"),
        };
        let facts = self.facts.sources.iter();
        let facts = facts.map(|(name, fact)| format!("{name} = {} ({})", fact.value, fact.source));
        let problems = self.facts.problems.iter().map(|problem| format!("problem: {problem}"));
        let lines: Vec<_> = std::iter::once(id).chain(facts).chain(problems).collect();
        output::joined(&lines)
    }
}

/// The commands whose output says most about a host that does not sync.
fn commands(is_macos: bool) -> Vec<(&'static str, Vec<&'static str>)> {
    if is_macos {
        vec![
            ("/usr/bin/sw_vers", vec![]),
            ("/usr/bin/csrutil", vec!["status"]),
            ("/usr/sbin/scutil", vec!["--proxy"]),
            ("/bin/launchctl", vec!["print", LAUNCHD_TARGET]),
            ("/bin/ls", vec!["-le", "/Library/Managed Preferences"]),
            ("/bin/ls", vec!["-le", "/var/db/santa-sync"]),
            ("/bin/ls", vec!["-le", "/var/log/santa-sync.log"]),
        ]
    } else {
        vec![("/usr/bin/systemctl", vec!["show", "--property=LoadState,ActiveState,Result", UNIT])]
    }
}

fn section(text: &mut String, title: &str, content: &str) {
    // A line of three backticks would end the block.
    let content = content.replace("```", "'''");
    for part in ["\n## ", title, "\n\n```\n", content.trim_end(), "\n```\n"] {
        text.push_str(part);
    }
}

/// Masks what may be a secret in the output of a program: values of environment
/// variables and of arguments `Key=Value`, and all of a URL but its scheme and
/// its host.
fn without_secrets(output: &str) -> String {
    let line = |line: &str| {
        if let Some((name, _)) = line.split_once(" => ")
            && !matches!(name.trim(), "PATH" | "XPC_SERVICE_NAME" | "OSLogRateLimit")
        {
            return format!("{name} => {}", Secret::MASK);
        }
        let is_assignment = |(key, _): &(&str, &str)| {
            !key.trim_start().is_empty() && !key.trim_start().contains(' ')
        };
        if let Some((key, _)) = line.split_once('=').filter(is_assignment)
            && !is_of_systemd(key)
        {
            return format!("{key}={}", Secret::MASK);
        }
        without_url_secrets(line)
    };
    let lines: Vec<_> = output.lines().map(line).collect();
    lines.join("\n")
}

fn is_of_systemd(key: &str) -> bool {
    matches!(key, "LoadState" | "ActiveState" | "Result")
}

fn without_url_secrets(line: &str) -> String {
    let Some((scheme, rest)) = line.split_once("://") else { return line.to_owned() };
    let end = rest.find(|c: char| c.is_whitespace() || c == '"').unwrap_or(rest.len());
    let (url, after) = rest.split_at(end);
    // A password may hold any of these but `@`, and the path may hold that.
    let host = url.rsplit('@').next().unwrap_or_default();
    let host = host.split(['/', '?', '#']).next().unwrap_or_default();
    let shown = if host.len() == url.len() { url.to_owned() } else { format!("{host}/…") };
    let shown = if url.contains('@') { format!("{}@…", Secret::MASK) } else { shown };
    format!("{scheme}://{shown}{}", without_url_secrets(after))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use plist::{Dictionary, Value};

    use super::*;
    use crate::cli::doctor::{Layer, Line};
    use crate::config::{Config, Source};
    use crate::host::{self, RecordedHost};

    /// HTTP-14: secrets of the configuration, of the job's environment and
    /// arguments, and of the system's proxies do not get into the report.
    #[test]
    fn http_14_a_report_has_no_secrets() {
        let dir = tempfile::tempdir().expect("a directory");
        let commands = dir.path().join("commands");
        fs::create_dir(&commands).expect("made");
        fs::write(dir.path().join("uname"), "Darwin\nm.local\n25.5.0\narm64\n").expect("written");
        let job = "system/com.santa-sync.daemon = {\n\tstate = running\n\targuments = {\n\
            \t\t/usr/local/bin/santa-sync\n\t\t--set\n\t\tSyncBaseURL=https://h/planted1/\n\
            \t\tClientAuthCertificatePassword=planted2\n\t}\n\tenvironment = {\n\
            \t\tHTTPS_PROXY => http://kim:planted3@p:1\n\t\tMY_TOKEN => planted4\n\
            \t\tPATH => /usr/bin:/bin\n\t}\n\tpid = 512\n```\nplain text\n}\n";
        fs::write(commands.join("launchctl"), job).expect("written");
        let proxies = "<dictionary> {\n  ProxyAutoConfigEnable : 1\n  ProxyAutoConfigURLString : \
            http://kim:planted/5@wpad.example.com/planted6.pac?planted7#planted8 http://a/planted9\n}\n";
        fs::write(commands.join("scutil"), proxies).expect("written");
        let host = RecordedHost::new(dir.path());

        let mut headers = Dictionary::new();
        headers.insert("Authorization".to_owned(), "Bearer planted10".into());
        let mut proxy = Dictionary::new();
        proxy.insert("HTTPSEnable".to_owned(), true.into());
        proxy.insert("HTTPSPassword".to_owned(), "planted11".into());
        let values = [
            ("SyncBaseURL", Value::from("https://kim:planted12@sync.example.com/?key=planted13")),
            ("SyncExtraHeaders", headers.into()),
            ("SyncProxyConfiguration", proxy.into()),
            ("ClientAuthCertificatePassword", "planted14".into()),
            ("MachineID", "asset-1".into()),
        ];
        let loaded = Config::resolve(&[crate::config::Layer {
            source: Source::File("/c.plist".into()),
            domain: None,
            values: values.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
            exposed: false,
        }]);
        let facts = host::facts(&loaded.config, &host);
        let report = DoctorReport::new(vec![Line::ok(Layer::Dns, "the name resolves")]);
        let now = Timestamp::from_secs(1_800_000_000);
        let parts = Parts { report: &report, loaded: &loaded, facts: &facts, host: &host, now };
        let text = parts.text();
        assert!(!text.contains("planted"), "{text}");
        for needed in [
            "asset-1",
            "the name resolves",
            "sync.example.com",
            "Authorization",
            "state = running",
            "pid = 512",
            "PATH => /usr/bin:/bin",
            "HTTPS_PROXY",
            "ProxyAutoConfigEnable : 1",
            "/c.plist",
            "/usr/bin/sw_vers cannot be run",
        ] {
            assert!(text.contains(needed), "{needed} is missing:\n{text}");
        }
        let fences = text.lines().filter(|line| line.starts_with("```")).count();
        assert_eq!(fences, 2 * text.lines().filter(|line| line.starts_with("## ")).count());
    }

    #[test]
    fn urls_in_outputs_keep_their_host_alone() {
        for (line, shown) in [
            ("no url", "no url"),
            ("a : http://h:1", "a : http://h:1"),
            ("a : http://h/x?y", "a : http://h/…"),
            ("\"https://u:p@h/x\" b", "\"https://(secret)@…\" b"),
            ("x://", "x://"),
        ] {
            assert_eq!(without_url_secrets(line), shown);
        }
    }
}
