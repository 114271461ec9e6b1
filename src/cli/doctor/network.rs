//! The layers between this host and its server.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use url::Url;

use super::probe::{self, Outcome, Probe};
use super::{Args, Layer, Line, ReportLines, encodings};
use crate::clock::Clock;
use crate::config::{Loaded, RelayConfig};
use crate::control::configuration::ConfigurationReport;
use crate::failure::{Failure, FailureKind};
use crate::host::{self, HostReport, SystemHost};
use crate::model::{Proxy, Stage, Timestamp};
use crate::protocol::body::DecodedBody;
use crate::protocol::lenient::Warning;
use crate::store::ReadStore;
use crate::sync::kind_of_body_error;
use crate::sync::run::transport_options;
use crate::transport::{
    CertificateFacts, ProxyRoute, Response, Roots, SYSTEM_SETTINGS, Transport, TransportOptions,
};

/// How long DNS and TCP may take, each: the connect timeout of HTTP-9.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What decides how the server is reached.
pub(super) struct ProbeTarget<'a> {
    pub(super) loaded: &'a Loaded,
    pub(super) report: &'a HostReport,
    /// How a daemon of the same configuration sees it.
    pub(super) daemon: Option<&'a ConfigurationReport>,
}

/// Looks at every layer, as far as those before it hold.
pub(super) async fn examine(
    args: &Args,
    way: &ProbeTarget<'_>,
    rules: Option<&ReadStore>,
    clock: &dyn Clock,
    lines: &mut ReportLines,
) {
    let ProbeTarget { loaded, report, daemon } = way;
    let config = &loaded.config;
    let (Some(url), Ok((machine_id, _))) = (&config.sync_base_url, &report.machine_id) else {
        let missing = if config.sync_base_url.is_none() { "SyncBaseURL" } else { "machine id" };
        skip_from(Layer::Dns, &format!("there is no usable {missing}"), lines);
        return;
    };
    let santa = &report.facts.santa_version;
    let mut options = transport_options(config, url.clone(), machine_id.clone(), santa);
    // The way to the server is the daemon's, which lacks the shell's variables.
    options.proxy = host::with_system_proxies(&options.proxy, &SystemHost);
    options.proxy = match (daemon, options.proxy) {
        (Some(daemon), Proxy::Environment | Proxy::System(_)) if daemon.proxy.is_none() => {
            Proxy::Direct
        }
        (Some(daemon), Proxy::System(settings))
            if daemon.proxy_origin.as_deref() == Some(SYSTEM_SETTINGS) =>
        {
            Proxy::Configured(settings)
        }
        (_, proxy) => proxy,
    };
    let transport = match Transport::new(options.clone()) {
        Ok(transport) => transport,
        Err(failure) => {
            lines.add(of_failure(layer_of(failure.kind), &failure));
            skip_from(Layer::Http, "no connection is possible", lines);
            return;
        }
    };
    let peer = Peer::of(url.as_url(), transport.route());
    let unreached = "the server is not reached";
    let Some(addresses) = dns(&peer, lines).await else {
        skip_from(Layer::Connection, unreached, lines);
        return;
    };
    if let Some(line) = to_the_relay(&peer, &addresses, config.relay.as_ref()) {
        lines.add(line);
        skip_from(Layer::Connection, "the server is this host's own relay", lines);
        return;
    }
    if !connect(&peer, &addresses, lines).await {
        skip_from(Layer::Tls, unreached, lines);
        return;
    }
    if args.no_probe {
        skip_from(Layer::Tls, "--no-probe: nothing is sent to the server", lines);
        return;
    }
    let probe = Probe::new(config, report, rules);
    tracing::info!(
        url = transport.url(Stage::Preflight),
        "sending one preflight in this host's name"
    );
    let count = if args.encodings { encodings::BODY_FORMS } else { 1 };
    let preflights =
        if count == 1 { "one preflight".to_owned() } else { format!("{count} preflights") };
    super::super::output::note(format_args!(
        "sending {preflights} as {machine_id} to {}; a server may count each as a sync: it may enrol \
         this host, or take an administrator's request for a clean sync as done",
        transport.url(Stage::Preflight)
    ));
    let outcome = probe.send(&transport, &options, clock).await;
    let now = clock.now().wall;
    if url.as_url().scheme() == "https" {
        tls(&transport, &options, &outcome, now, lines);
        client_certificate(&transport, &options, &outcome, now, lines);
    } else {
        let why = "plain http, to this host itself";
        lines.add(Line::skipped(Layer::Tls, why));
        lines.add(Line::skipped(Layer::ClientCertificate, why));
    }
    if let Some(answer) = http(&transport, &outcome, lines) {
        body(&transport, &options, answer, lines);
        clock_skew(answer.server_date, now, lines);
    } else {
        skip_from(Layer::Body, "there is no response", lines);
    }
    if args.encodings {
        let first = encodings::outcome(&options, &transport, &outcome);
        encodings::examine(&options, &probe, first, clock, lines).await;
    }
}

/// Says of this layer and those behind it that they are not looked at.
fn skip_from(first: Layer, why: &str, lines: &mut ReportLines) {
    const LAYERS: [Layer; 7] = [
        Layer::Dns,
        Layer::Connection,
        Layer::Tls,
        Layer::ClientCertificate,
        Layer::Http,
        Layer::Body,
        Layer::Clock,
    ];
    let rest = LAYERS.iter().skip_while(|layer| **layer != first);
    lines.extend(rest.map(|layer| Line::skipped(*layer, why)));
}

/// The layer a failure to prepare a connection belongs to.
const fn layer_of(kind: FailureKind) -> Layer {
    if is_of_client_certificate(kind) {
        Layer::ClientCertificate
    } else if is_of_tls(kind) {
        Layer::Tls
    } else {
        Layer::Connection
    }
}

/// Who is connected to: the server, or the proxy on the way to it.
struct Peer {
    host: String,
    port: u16,
    proxy: Option<String>,
}

impl Peer {
    fn of(server: &Url, route: Option<&ProxyRoute>) -> Self {
        let url = route.map_or(server, |route| &route.url);
        let default = match url.scheme() {
            "socks5" | "socks5h" | "socks4" | "socks4a" => 1080,
            _ => url.port_or_known_default().unwrap_or_default(),
        };
        Self {
            host: url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned(),
            port: url.port().unwrap_or(default),
            proxy: route.map(|route| format!("{} of {}", route.shown(), route.origin)),
        }
    }

    fn name(&self) -> String {
        match &self.proxy {
            Some(proxy) => format!("the proxy {proxy}"),
            None => format!("{}:{}", self.host, self.port),
        }
    }
}

async fn dns(peer: &Peer, lines: &mut ReportLines) -> Option<Vec<SocketAddr>> {
    let layer = Layer::Dns;
    let host = &peer.host;
    if host.parse::<IpAddr>().is_ok() {
        lines.add(Line::ok(layer, format!("{host} is an address, not a name")));
    }
    let fix = "check the name and this host's name servers";
    let found = timeout(CONNECT_TIMEOUT, lookup_host((host.as_str(), peer.port))).await;
    let addresses: Vec<_> = match found {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(error)) => {
            lines.add(Line::problem(layer, format!("{host} cannot be resolved: {error}"), fix));
            return None;
        }
        Err(_) => {
            let message = format!("the name servers do not respond for {host} within 10 s");
            lines.add(Line::problem(layer, message, fix));
            return None;
        }
    };
    if addresses.is_empty() {
        lines.add(Line::problem(layer, format!("{host} has no address"), fix));
        return None;
    }
    let shown: Vec<_> = addresses.iter().map(|a| a.ip().to_string()).collect();
    if host.parse::<IpAddr>().is_err() {
        lines.add(Line::ok(layer, format!("{host} is {}", shown.join(", "))));
    }
    Some(addresses)
}

/// A name that leads to this host's own relay (RELAY-1). Addresses and `localhost` the
/// configuration refuses by itself, without asking name servers.
fn to_the_relay(
    peer: &Peer,
    addresses: &[SocketAddr],
    relay: Option<&RelayConfig>,
) -> Option<Line> {
    let relay = relay.filter(|_| peer.proxy.is_none())?;
    let is_here = addresses.iter().any(|address| address.ip().to_canonical().is_loopback());
    (is_here && peer.port == relay.listen.port()).then(|| {
        let message = format!(
            "{} is this host, and the relay listens at that port: the agent would sync with itself",
            peer.host
        );
        Line::problem(Layer::Dns, message, "set SyncBaseURL to the real server's URL")
    })
}

async fn connect(peer: &Peer, addresses: &[SocketAddr], lines: &mut ReportLines) -> bool {
    let layer = Layer::Connection;
    let mut reasons = Vec::new();
    for address in addresses {
        match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(_)) => {
                lines.add(Line::ok(layer, format!("{} answers at {address}", peer.name())));
                return true;
            }
            Ok(Err(error)) => reasons.push(format!("{address}: {error}")),
            Err(_) => reasons.push(format!("{address}: no response within 10 s")),
        }
    }
    let message = format!("{} cannot be reached ({})", peer.name(), reasons.join("; "));
    let fix = match peer.proxy {
        Some(_) => "check SyncProxyConfiguration, or the proxy variables of the environment",
        None => {
            "check that the server runs and no firewall is in between; behind a proxy, set \
                 SyncProxyConfiguration"
        }
    };
    lines.add(Line::problem(layer, message, fix));
    false
}

const fn is_of_tls(kind: FailureKind) -> bool {
    matches!(
        kind,
        FailureKind::CertificateUntrusted
            | FailureKind::CertificateExpired
            | FailureKind::CertificateWrongName
            | FailureKind::TlsHandshake
            | FailureKind::RootsUnreadable
    )
}

const fn is_of_client_certificate(kind: FailureKind) -> bool {
    matches!(
        kind,
        FailureKind::ClientCertificateRequired
            | FailureKind::ClientCertificateRejected
            | FailureKind::ClientCertificateExpired
            | FailureKind::ClientCertificateUnreadable
            | FailureKind::ClientCertificatePassword
    )
}

/// A certificate that ends within this time is worth a warning.
const EXPIRES_SOON: Duration = Duration::from_hours(30 * 24);

fn tls(
    transport: &Transport,
    options: &TransportOptions,
    outcome: &Outcome,
    now: Timestamp,
    lines: &mut ReportLines,
) {
    let layer = Layer::Tls;
    let roots = match &options.roots {
        Roots::Platform => "the system's roots".to_owned(),
        Roots::File(file) => format!("the roots in {}", file.display()),
        Roots::Data(_) => "the roots in ServerAuthRootsData".to_owned(),
    };
    let chain = transport.server_chain();
    let shown = chain.first().map(|leaf| {
        let issuers: Vec<_> = chain.iter().map(|c| c.issuer.as_str()).collect();
        format!("{:?}, signed by {}", leaf.subject, issuers.join(", "))
    });
    match (&outcome.answer, chain.first()) {
        (Err(failure), _) if is_of_tls(failure.kind) => {
            if let Some(shown) = shown {
                lines.add(Line::warning(
                    layer,
                    format!("the server shows {shown}; compared with {roots}"),
                    "compare with the certificate the server is meant to have: a firewall that \
                     looks into TLS shows its own",
                ));
            }
            lines.add(of_failure(layer, failure));
        }
        (_, None) => {
            lines
                .add(Line::skipped(layer, "no connection came as far as the server's certificate"));
        }
        (_, Some(leaf)) => {
            let message = format!(
                "the server shows {}, good until {} ({}), by {roots}",
                shown.unwrap_or_default(),
                leaf.not_after,
                days_left(leaf, now)
            );
            lines.add(if leaf.not_after.since(now) < EXPIRES_SOON {
                Line::warning(layer, message, "have the server's certificate renewed")
            } else {
                Line::ok(layer, message)
            });
        }
    }
}

fn days_left(certificate: &CertificateFacts, now: Timestamp) -> String {
    format!("{} days left", certificate.not_after.since(now).as_secs() / 86_400)
}

fn client_certificate(
    transport: &Transport,
    options: &TransportOptions,
    outcome: &Outcome,
    now: Timestamp,
    lines: &mut ReportLines,
) {
    let layer = Layer::ClientCertificate;
    if let Err(failure) = &outcome.answer
        && is_of_client_certificate(failure.kind)
    {
        lines.add(of_failure(layer, failure));
        return;
    }
    if outcome.answer.as_ref().is_err_and(|failure| is_of_tls(failure.kind))
        || transport.server_chain().is_empty()
    {
        lines.add(Line::skipped(layer, "no connection came so far that the server could ask"));
        return;
    }
    let asked = if transport.client_certificate_asked() {
        "the server asked for one"
    } else {
        "the server did not ask for one"
    };
    let Some(facts) = transport.client_certificate() else {
        lines.add(Line::ok(layer, format!("none is configured; {asked}")));
        return;
    };
    let file = options.client_certificate.as_ref().map(|c| c.file.display().to_string());
    lines.add(certificate_line(facts, &file.unwrap_or_default(), asked, now));
}

/// The client certificate, and whether it is valid at this time: a server that
/// does not check that today may check it tomorrow.
pub(super) fn certificate_line(
    facts: &CertificateFacts,
    file: &str,
    asked: &str,
    now: Timestamp,
) -> Line {
    let layer = Layer::ClientCertificate;
    let named = format!("{:?} by {:?} from {file}", facts.subject, facts.issuer);
    let renew = "renew it and replace the file; the next sync takes it up";
    if now < facts.not_before {
        let message = format!("{named} is not valid before {}; {asked}", facts.not_before);
        let kind = Some(FailureKind::ClientCertificateExpired.name());
        let fix = "check this host's clock, or wait until the certificate is valid";
        return Line { kind, ..Line::problem(layer, message, fix) };
    }
    if facts.not_after < now {
        let message = format!("{named} expired at {}; {asked}", facts.not_after);
        let kind = Some(FailureKind::ClientCertificateExpired.name());
        return Line { kind, ..Line::problem(layer, message, renew) };
    }
    let (end, left) = (facts.not_after, days_left(facts, now));
    let message = format!("{named}, good until {end} ({left}); {asked}");
    if facts.not_after.since(now) < EXPIRES_SOON {
        Line::warning(layer, message, renew)
    } else {
        Line::ok(layer, message)
    }
}

fn http<'a>(
    transport: &Transport,
    outcome: &'a Outcome,
    lines: &mut ReportLines,
) -> Option<&'a Response> {
    let layer = Layer::Http;
    match &outcome.answer {
        Ok(answer) => {
            let token = if outcome.token_fetched { ", after an XSRF token" } else { "" };
            let url = transport.url(Stage::Preflight);
            lines.add(Line::ok(layer, format!("{url} answers 200 over {}{token}", answer.version)));
            Some(answer)
        }
        // Told in its own layer.
        Err(failure) if is_of_tls(failure.kind) || is_of_client_certificate(failure.kind) => {
            lines.add(Line::skipped(layer, "there is no connection"));
            None
        }
        Err(failure) => {
            lines.add(of_failure(layer, failure));
            None
        }
    }
}

fn body(
    transport: &Transport,
    options: &TransportOptions,
    answer: &Response,
    lines: &mut ReportLines,
) {
    let layer = Layer::Body;
    match probe::read(options, answer) {
        Ok(_) if answer.body.is_empty() => {
            let message = "the response is empty, which means the defaults";
            lines.add(Line::warning(layer, message, "check that the URL is the sync server's"));
        }
        Ok(DecodedBody { message: read, warnings }) => {
            let mode = read.settings.client_mode.map_or("no client mode", |mode| mode.name());
            let sync_type = read.sync_type.map_or("no sync type", |t| t.name());
            let message = format!(
                "a preflight response: {mode}, {sync_type}, batch size {}",
                read.batch_size
            );
            lines.add(Line::ok(layer, message));
            for Warning { field, value, action } in warnings {
                let fix = "correct it on the server";
                let value = transport.redact(&value);
                lines.add(Line::warning(layer, format!("{field} {value:?}: {action}"), fix));
            }
        }
        Err(error) => {
            let fix = "check SyncBaseURL and SyncEnableProtoTransfer with whoever runs the server";
            let line = Line::problem(layer, transport.redact(&error.to_string()), fix);
            lines.add(Line { kind: Some(kind_of_body_error(&error).name()), ..line });
        }
    }
}

/// Beyond this the times in records and events mislead.
const SKEW_WARNING: Duration = Duration::from_mins(1);
/// Beyond this tokens and short-lived certificates fail.
const SKEW_PROBLEM: Duration = Duration::from_mins(5);

pub(super) fn clock_skew(server: Option<Timestamp>, now: Timestamp, lines: &mut ReportLines) {
    let layer = Layer::Clock;
    let Some(server) = server else {
        lines.add(Line::skipped(layer, "the server does not report its time"));
        return;
    };
    let (ahead, behind) = (now.since(server), server.since(now));
    let skew = ahead.max(behind);
    let way = if ahead > behind { "ahead of" } else { "behind" };
    let message = format!("this host's clock is {} s {way} the server's", skew.as_secs());
    let fix = "set this host's clock by a time server";
    lines.add(if skew > SKEW_PROBLEM {
        Line::problem(layer, message, fix)
    } else if skew > SKEW_WARNING {
        Line::warning(layer, message, fix)
    } else {
        Line::ok(
            layer,
            format!("this host and the server agree within {} s", skew.as_secs().max(1)),
        )
    });
}

/// A failure of the transport, whose text ends in what to do.
pub(super) fn of_failure(layer: Layer, failure: &Failure) -> Line {
    let line = Line::of_error(layer, failure, "see the server's log");
    Line { kind: Some(failure.kind.name()), ..line }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Layer as ConfigLayer, Source};

    /// RELAY-1: what the configuration cannot know, where a name leads, doctor finds.
    #[test]
    fn relay_1_a_name_that_leads_to_the_relay_is_found() {
        let values = [("RelayListen".to_owned(), plist::Value::from("127.0.0.1:917"))];
        let layer = ConfigLayer {
            source: Source::File("/c".into()),
            domain: None,
            values: values.into_iter().collect(),
            exposed: false,
        };
        let loaded = Config::resolve(&[layer]);
        let relay = loaded.config.relay.as_ref();
        let found = |port, address: &str, proxy: Option<&str>| {
            let peer = Peer {
                host: "santa.example.com".to_owned(),
                port,
                proxy: proxy.map(str::to_owned),
            };
            let address = SocketAddr::new(address.parse().expect("an address"), port);
            to_the_relay(&peer, &[address], relay)
        };
        for here in ["127.0.0.1", "127.0.1.1", "::1", "::ffff:127.0.0.1"] {
            let line = found(917, here, None).expect("it leads here");
            assert!(line.message.contains("sync with itself"), "{}", line.message);
        }
        assert_eq!(found(443, "127.0.0.1", None), None);
        assert_eq!(found(917, "192.0.2.1", None), None);
        assert_eq!(found(917, "127.0.0.1", Some("proxy")), None, "the proxy knows the name");
    }
}
