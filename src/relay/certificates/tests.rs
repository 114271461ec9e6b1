use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown, symlink};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, ServerConnection};
use tempfile::TempDir;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::issue::{self, Authority};
use super::keys::Pair;
use super::*;

const DAY: Duration = Duration::from_hours(24);

struct Host {
    dir: TempDir,
}

impl Host {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("state")).expect("a state directory");
        Self { dir }
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn public(&self) -> PathBuf {
        self.dir.path().join("etc/relay")
    }

    fn try_at(
        &self,
        client: bool,
        hardware: &str,
        now: Timestamp,
    ) -> Result<RelayCertificates, CertificateError> {
        let user = rustix::process::geteuid().as_raw();
        let client = client.then_some(ClientReader { user, password: None });
        let (state_dir, directory) = (self.state(), self.public());
        let places = Places { state_dir: &state_dir, directory: &directory, client };
        ensure(&places, Some(hardware), now)
    }

    fn at(&self, now: Timestamp) -> RelayCertificates {
        self.try_at(true, "UUID-1", now).expect("certificates")
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.public().join(name)).expect(name)
    }
}

fn now() -> Timestamp {
    let now = crate::clock::SystemClock::new();
    crate::clock::Clock::now(&now).wall
}

fn parsed<T>(pair: &Pair, look: impl FnOnce(&X509Certificate<'_>) -> T) -> T {
    let der = pair.der();
    let (_, certificate) = X509Certificate::from_der(&der).expect("a certificate");
    look(&certificate)
}

fn usages(pair: &Pair) -> (bool, bool) {
    parsed(pair, |certificate| {
        let usage = certificate.extended_key_usage().expect("well-formed").expect("there");
        (usage.value.server_auth, usage.value.client_auth)
    })
}

fn life(pair: &Pair) -> Duration {
    pair.not_after.since(pair.not_before)
}

/// Shakes hands in memory.
fn handshake(
    server: &RelayCertificates,
    client_certificate: bool,
    host: &str,
    roots: &[CertificateDer<'static>],
    identity: Option<&Pair>,
) -> Result<Option<usize>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(roots.iter().cloned());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(store);
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            let key = pair.private_key().expect("a key");
            builder.with_client_auth_cert(vec![pair.der()], key)?
        }
    };
    let name = ServerName::from(host.parse::<IpAddr>().expect("an address"));
    let mut client = ClientConnection::new(config.into(), name)?;
    let config = server.server_config(client_certificate).expect("a configuration");
    let mut server = ServerConnection::new(config)?;
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).expect("a buffer");
        server.read_tls(&mut wire.as_slice()).expect("a buffer");
        server.process_new_packets()?;
        wire.clear();
        server.write_tls(&mut wire).expect("a buffer");
        client.read_tls(&mut wire.as_slice()).expect("a buffer");
        client.process_new_packets()?;
    }
    Ok(server.peer_certificates().map(<[_]>::len))
}

#[test]
fn relay_1_the_ca_can_vouch_for_this_host_only() {
    let host = Host::new();
    let made = host.at(now());
    parsed(&made.keys.ca, |ca| {
        assert!(ca.verify_signature(None).is_ok(), "self-signed");
        let basic = ca.basic_constraints().expect("well-formed").expect("there");
        assert!(basic.critical && basic.value.ca && basic.value.path_len_constraint == Some(0));
        let constraints = ca.name_constraints().expect("well-formed").expect("there");
        assert!(constraints.critical);
        let permitted = constraints.value.permitted_subtrees.as_ref().expect("some");
        let names: Vec<_> = permitted.iter().map(|tree| tree.base.clone()).collect();
        let v4 = [127, 0, 0, 1, 255, 255, 255, 255];
        let v6 = [[0; 15].as_slice(), &[1], &[255; 16]].concat();
        let expected = [
            GeneralName::IPAddress(&v4),
            GeneralName::IPAddress(&v6),
            GeneralName::DNSName("localhost"),
        ];
        assert_eq!(names, expected);
        let curve = &ca.public_key().algorithm.parameters;
        let p_256 = curve.as_ref().and_then(|curve| curve.as_oid().ok()).expect("a curve");
        assert_eq!(p_256.to_id_string(), "1.2.840.10045.3.1.7");
    });
    // A certificate for elsewhere, made with the stolen key, is refused.
    let ca = made.keys.ca.der();
    let params = |names: &[&str]| {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = rcgen::CertificateParams::new(names).expect("names");
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
        params
    };
    for elsewhere in ["192.0.2.1", "127.0.0.2"] {
        let key = fs::read_to_string(host.state().join(KEYS_FILE)).expect("keys");
        let key: serde_json::Value = serde_json::from_str(&key).expect("JSON");
        let key = rcgen::KeyPair::from_pem(key["ca"]["key"].as_str().expect("a key")).expect("PEM");
        let issuer = rcgen::Issuer::from_ca_cert_der(&ca, key).expect("a CA");
        let leaf_key = rcgen::KeyPair::generate().expect("a key");
        let leaf = params(&[elsewhere]).signed_by(&leaf_key, &issuer).expect("a certificate");
        let mut forged = host.at(now());
        forged.keys.server = Pair::of(leaf.pem(), leaf_key.serialize_pem()).expect("a pair");
        let error = handshake(&forged, false, elsewhere, std::slice::from_ref(&ca), None);
        let text = error.expect_err("outside of the constraint").to_string();
        assert!(text.contains("NameConstraint"), "{text}");
    }
}

#[test]
fn relay_1_the_servers_certificate_is_one_that_macos_takes() {
    let at = now();
    let made = Host::new().at(at);
    let server = &made.keys.server;
    assert_eq!(usages(server), (true, false));
    assert!(life(server) <= 825 * DAY, "{:?}", life(server));
    assert_eq!(at.since(server.not_before).as_secs() / 3600, 24, "a day back");
    assert_eq!(usages(made.keys.client.as_ref().expect("one")), (false, true));
    parsed(server, |server| {
        let names = server.subject_alternative_name().expect("well-formed").expect("there");
        let v6 = [[0; 15].as_slice(), &[1]].concat();
        let expected = [GeneralName::IPAddress(&[127, 0, 0, 1]), GeneralName::IPAddress(&v6)];
        assert_eq!(names.value.general_names, expected);
        let has_key_id = server.extensions().iter().any(|extension| {
            matches!(extension.parsed_extension(), ParsedExtension::AuthorityKeyIdentifier(_))
        });
        assert!(has_key_id);
    });
    assert!(server.renew_at() < server.not_after && made.renew_at() == server.renew_at());
    assert_eq!(made.server_expires(), server.not_after);
}

#[test]
fn relay_1_a_client_that_trusts_the_published_ca_reaches_the_relay() {
    let host = Host::new();
    let made = host.at(now());
    let published = CertificateDer::from_pem(&host.read(CA_FILE));
    for address in ["127.0.0.1", "::1"] {
        assert_eq!(handshake(&made, false, address, &published, None), Ok(None));
    }
    let other = Host::new().at(now());
    assert!(handshake(&made, false, "127.0.0.2", &published, None).is_err());
    assert!(handshake(&other, false, "127.0.0.1", &published, None).is_err());
}

/// Only what the relay has issued itself gets in.
#[test]
fn relay_12_with_a_client_certificate_nobody_else_is_served() {
    let host = Host::new();
    let made = host.at(now());
    let published = CertificateDer::from_pem(&host.read(CA_FILE));
    let attempt = |identity: Option<&Pair>| {
        handshake(&made, true, "127.0.0.1", &published, identity).ok().flatten()
    };
    assert_eq!(attempt(made.keys.client.as_ref()), Some(1));
    assert_eq!(attempt(None), None);
    // Neither another CA's nor the server's own.
    assert_eq!(attempt(Host::new().at(now()).keys.client.as_ref()), None);
    assert_eq!(attempt(Some(&made.keys.server)), None);
}

trait FromPem: Sized {
    fn from_pem(pem: &[u8]) -> Vec<Self>;
}

impl FromPem for CertificateDer<'static> {
    fn from_pem(pem: &[u8]) -> Vec<Self> {
        use rustls::pki_types::pem::PemObject as _;
        Self::pem_slice_iter(pem).collect::<Result<_, _>>().expect("PEM")
    }
}

#[test]
fn relay_1_doing_it_twice_is_doing_it_once() {
    let host = Host::new();
    let first = host.at(now());
    assert_eq!(first.made_because(), Some("there were none"));
    let files = || {
        let inode = |path: PathBuf| {
            let metadata = fs::metadata(&path).expect("a file");
            (metadata.ino(), metadata.mode() & 0o7777, metadata.uid())
        };
        [
            inode(host.state().join(KEYS_FILE)),
            inode(host.public()),
            inode(host.public().join(CA_FILE)),
            inode(host.public().join(CLIENT_FILE)),
        ]
    };
    let before = files();
    assert_eq!(before.map(|(_, mode, _)| mode), [0o600, 0o755, 0o644, 0o400]);
    let second = host.at(now().after(DAY));
    assert_eq!(second.made_because(), None);
    assert_eq!(files(), before, "nothing is written again");
    assert_eq!(second.ca_sha256(), first.ca_sha256());
    let seen = inspect(&host.state()).expect("readable").expect("keys");
    assert_eq!(seen.ca_sha256(), first.ca_sha256());
    assert_eq!(seen.client_password(), first.client_password());
    assert!(!format!("{seen:?}").contains("PRIVATE"), "{seen:?}");
}

#[test]
fn relay_1_what_is_half_through_its_life_is_renewed_under_the_same_ca() {
    let host = Host::new();
    // So long ago that the renewed ones are valid at present.
    let begin = Timestamp::from_secs(now().as_secs() - 220 * 86_400);
    let first = host.at(begin);
    let client_file = host.read(CLIENT_FILE);
    let second = host.at(first.renew_at().after(Duration::from_secs(1)));
    assert_eq!(second.made_because(), None);
    assert_eq!(second.ca_sha256(), first.ca_sha256());
    assert_eq!(host.read(CA_FILE), first.keys.ca.pem().as_bytes());
    assert_ne!(second.keys.server.sha256(), first.keys.server.sha256());
    assert_ne!(host.read(CLIENT_FILE), client_file);
    assert_eq!(second.client_password(), first.client_password(), "it is in a profile");
    // The former client certificate is good until its own end.
    let roots = [first.keys.ca.der()];
    let both = handshake(&second, true, "127.0.0.1", &roots, first.keys.client.as_ref());
    assert_eq!(both, Ok(Some(1)));
    let much_later = host.at(second.keys.ca.renew_at());
    assert!(much_later.made_because().expect("a reason").contains("the CA is valid from"));
}

/// A client certificate without a reader is dropped, so its renewal is never due.
#[test]
fn relay_1_a_client_certificate_without_a_reader_is_never_due() {
    let host = Host::new();
    let begin = Timestamp::from_secs(now().as_secs() - 220 * 86_400);
    let first = host.at(begin);
    assert_eq!(first.valid_from(), Timestamp::from_secs(begin.as_secs() - 86_400));
    let later = first.renew_at().after(Duration::from_secs(1));
    let without = host.try_at(false, "UUID-1", later).expect("certificates");
    assert!(without.renew_at() > later.after(100 * DAY), "{}", without.renew_at());
    let again = host.at(later);
    assert_eq!(again.client_password(), first.client_password(), "it is in a profile");
    assert!(again.renew_at() > later && again.valid_from() < later);
}

/// A clock that was wrong when they were made, or is now.
#[test]
fn relay_1_certificates_that_are_not_valid_at_this_time_are_made_anew() {
    let host = Host::new();
    let real = now();
    for (clock, is_new_ca) in [
        (Timestamp::from_secs(0), true),
        (real, true),
        (real.after(500 * DAY), false),
        (Timestamp::from_secs(4_102_444_800), true),
        (Timestamp::from_millis(i64::MAX), true),
        (real, true),
    ] {
        let made = host.at(clock);
        assert_eq!(made.made_because().is_some(), is_new_ca, "{clock}");
        let holds = |pair: &Pair| pair.not_before <= clock && clock <= pair.not_after;
        let is_valid = [&made.keys.ca, &made.keys.server].into_iter().all(holds);
        // No certificate names a time as late as the last clock.
        assert!(is_valid || clock.as_millis() == i64::MAX, "{clock}");
    }
}

#[test]
fn relay_1_other_hardware_gets_other_keys() {
    let host = Host::new();
    let at = now();
    let first = host.at(at);
    let copied = host.try_at(true, "UUID-2", at).expect("certificates");
    assert_eq!(copied.made_because(), Some("they were made on another hardware"));
    assert_ne!(copied.ca_sha256(), first.ca_sha256());
    assert_eq!(copied.client_password(), first.client_password(), "the profile fits");
    assert_eq!(host.read(CA_FILE), copied.keys.ca.pem().as_bytes());
    // A UUID that cannot be read at one time says nothing.
    let (state_dir, directory) = (host.state(), host.public());
    let places = Places { state_dir: &state_dir, directory: &directory, client: None };
    let unknown = ensure(&places, None, at).expect("certificates");
    assert_eq!(unknown.ca_sha256(), copied.ca_sha256());
    let again = host.try_at(true, "UUID-2", at).expect("certificates");
    assert_eq!(again.ca_sha256(), copied.ca_sha256());
}

#[test]
fn relay_1_keys_cut_short_or_mixed_up_are_made_anew() {
    let host = Host::new();
    let at = now();
    let first = host.at(at);
    let path = host.state().join(KEYS_FILE);
    let whole = fs::read_to_string(&path).expect("keys");
    let other = Host::new();
    other.at(at);
    let others = fs::read_to_string(other.state().join(KEYS_FILE)).expect("keys");
    let with = |change: &dyn Fn(&mut serde_json::Value, &serde_json::Value)| {
        let mut keys = serde_json::from_str(&whole).expect("JSON");
        change(&mut keys, &serde_json::from_str(&others).expect("JSON"));
        keys.to_string()
    };
    let mut damaged: Vec<String> =
        (0..whole.len() - 1).step_by(97).map(|end| whole[..end].to_owned()).collect();
    damaged.extend([
        with(&|keys, _| keys["version"] = 2.into()),
        with(&|keys, others| keys["ca"]["key"] = others["ca"]["key"].clone()),
        with(&|keys, others| keys["server"]["key"] = others["server"]["key"].clone()),
        " ".repeat(100_000),
    ]);
    for text in damaged {
        fs::write(&path, &text).expect("written");
        let made = host.at(at);
        assert!(made.made_because().is_some(), "{text}");
        assert_ne!(made.ca_sha256(), first.ca_sha256());
    }
    // Sound, but not of this CA: renewed under it.
    fs::write(&path, with(&|keys, others| keys["server"] = others["server"].clone())).expect("ok");
    let made = host.at(at);
    assert_eq!((made.made_because(), made.ca_sha256()), (None, first.ca_sha256()));
    let roots = [first.keys.ca.der()];
    assert_eq!(handshake(&made, false, "127.0.0.1", &roots, None), Ok(None));
}

#[test]
fn relay_1_what_the_authorizer_reads_is_put_right() {
    let host = Host::new();
    let at = now();
    host.at(at);
    let (ca, client) = (host.public().join(CA_FILE), host.public().join(CLIENT_FILE));
    let ca_bytes = host.read(CA_FILE);
    fs::write(&ca, "another").expect("written");
    fs::set_permissions(&ca, fs::Permissions::from_mode(0o600)).expect("a mode");
    fs::set_permissions(&client, fs::Permissions::from_mode(0o644)).expect("a mode");
    host.at(at);
    assert_eq!(host.read(CA_FILE), ca_bytes);
    let mode = |path: &Path| fs::metadata(path).expect("a file").mode() & 0o7777;
    assert_eq!((mode(&ca), mode(&client)), (0o644, 0o400));
    for path in [&ca, &client] {
        let bytes = fs::read(path).expect("a file");
        fs::remove_file(path).expect("removed");
        fs::write(path, &bytes[..bytes.len() / 2]).expect("torn");
        host.at(at);
        let is_whole = fs::read(path).expect("a file").len() > bytes.len() / 2;
        assert!(is_whole, "{}", path.display());
    }
    // Neither followed nor replaced.
    let elsewhere = host.dir.path().join("elsewhere");
    fs::write(&elsewhere, "precious").expect("written");
    fs::remove_file(&ca).expect("removed");
    symlink(&elsewhere, &ca).expect("a link");
    let error = host.try_at(true, "UUID-1", at).expect_err("a link").to_string();
    assert!(error.contains("ca.pem") && error.contains("a link to"), "{error}");
    assert_eq!(fs::read(&elsewhere).expect("there"), b"precious");
}

#[test]
fn relay_1_a_directory_that_others_may_write_to_or_that_is_closed_for_a_reason_is_refused() {
    let host = Host::new();
    let parent = host.dir.path().join("etc");
    fs::create_dir(&parent).expect("a directory");
    let set = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
    };
    set(&parent, 0o777);
    let error = host.try_at(false, "UUID-1", now()).expect_err("others may write");
    assert!(error.to_string().contains("others may write"), "{error}");
    assert!(error.fix().expect("a fix").starts_with("run chmod go-w"));
    set(&parent, 0o755);
    fs::create_dir(host.public()).expect("a directory");
    set(&host.public(), 0o700);
    fs::write(host.public().join("rules.db"), "").expect("written");
    let error = host.try_at(false, "UUID-1", now()).expect_err("closed").to_string();
    assert!(error.contains("others cannot read it (mode 0700)"), "{error}");
    assert_eq!(fs::metadata(host.public()).expect("there").mode() & 0o7777, 0o700);
    // One that a crash left behind is opened.
    fs::remove_file(host.public().join("rules.db")).expect("removed");
    host.try_at(false, "UUID-1", now()).expect("certificates");
    assert_eq!(fs::metadata(host.public()).expect("there").mode() & 0o7777, 0o755);
}

/// Only root can give a file away.
#[test]
fn relay_1_files_of_the_wrong_owner_are_refused_or_given_to_the_right_one() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let host = Host::new();
    let at = now();
    host.at(at);
    let keys = host.state().join(KEYS_FILE);
    lchown(&keys, Some(4242), None).expect("given away");
    let error = host.try_at(true, "UUID-1", at).expect_err("another user's").to_string();
    assert!(error.contains(KEYS_FILE) && error.contains("a file of user 4242"), "{error}");
    lchown(&keys, Some(0), None).expect("given back");

    let (state_dir, directory) = (host.state(), host.public());
    let give_to = |user| {
        let client = Some(ClientReader { user, password: None });
        let places = Places { state_dir: &state_dir, directory: &directory, client };
        ensure(&places, Some("UUID-1"), at).expect("certificates");
        let metadata = fs::metadata(directory.join(CLIENT_FILE)).expect("a file");
        (metadata.uid(), metadata.mode() & 0o7777)
    };
    assert_eq!(give_to(65_534), (65_534, 0o400));
    let before = host.read(CLIENT_FILE);
    assert_eq!(give_to(65_533), (65_533, 0o400));
    assert_eq!(host.read(CLIENT_FILE), before, "it changes hands as it is");
}

#[test]
fn relay_14_the_client_file_is_one_that_every_macos_reads() {
    let host = Host::new();
    let at = now();
    let made = host.at(at);
    let file = host.read(CLIENT_FILE);
    let has = |oid: &[u8]| file.windows(oid.len()).any(|window| window == oid);
    let [triple_des, sha_1, pbes2, sha_256]: [&[u8]; 4] = [
        b"\x2a\x86\x48\x86\xf7\x0d\x01\x0c\x01\x03",
        b"\x06\x05\x2b\x0e\x03\x02\x1a",
        b"\x2a\x86\x48\x86\xf7\x0d\x01\x05\x0d",
        b"\x60\x86\x48\x01\x65\x03\x04\x02\x01",
    ];
    assert!(has(triple_des) && has(sha_1) && !has(pbes2) && !has(sha_256));
    let password = made.client_password().expect("a password").expose();
    assert!(password.len() >= 24 && password.chars().all(|c| c.is_ascii_alphanumeric()));
    let archive = |password: &str| p12_keystore::Pkcs12Archive::from_pkcs12(&file, password);
    assert!(archive("").is_err() && archive("wrong").is_err());
    let archive = archive(password).expect("it opens");
    assert_eq!((archive.certs.len(), archive.keys.len()), (1, 1));

    // A profile for many hosts brings its own password.
    let given = Secret::new("of-the-profile".to_owned());
    let (state_dir, directory) = (host.state(), host.public());
    let user = rustix::process::geteuid().as_raw();
    let client = Some(ClientReader { user, password: Some(&given) });
    let places = Places { state_dir: &state_dir, directory: &directory, client };
    let renewed = ensure(&places, Some("UUID-1"), at).expect("certificates");
    assert_eq!(renewed.client_password(), Some(&given));
    let file = host.read(CLIENT_FILE);
    assert!(p12_keystore::Pkcs12Archive::from_pkcs12(&file, given.expose()).is_ok());
}

#[test]
fn relay_14_removal_takes_what_was_made_and_nothing_else() {
    let host = Host::new();
    host.at(now());
    let (note, rules) = (host.public().join("note"), host.state().join("rules.db"));
    fs::write(&note, "").expect("written");
    fs::write(&rules, "").expect("written");
    remove(&host.state(), &host.public()).expect("removed");
    let left = |dir: PathBuf| {
        let entries = fs::read_dir(dir).expect("a directory");
        entries.map(|entry| entry.expect("one").file_name()).collect::<Vec<_>>()
    };
    assert_eq!(left(host.public()), ["note"]);
    assert_eq!(left(host.state()), ["rules.db"]);
    fs::remove_file(&note).expect("removed");
    remove(&host.state(), &host.public()).expect("removed twice");
    assert!(!host.public().exists());
}

/// Two at once, as a setup by hand beside the daemon.
#[test]
fn relay_1_whoever_comes_at_once_gets_the_same_certificates() {
    let host = Host::new();
    let at = now();
    let all: Vec<String> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..4).map(|_| scope.spawn(|| host.at(at).ca_sha256())).collect();
        all.into_iter().map(|one| one.join().expect("no panic")).collect()
    });
    assert!(all.iter().all(|one| *one == all[0]), "{all:?}");
}

#[test]
fn a_time_that_no_certificate_can_name_is_no_panic() {
    for millis in [i64::MIN, -1, 0, i64::MAX] {
        let at = Timestamp::from_millis(millis);
        let ca = issue::ca(at).expect("a certificate");
        let ca = Pair::of(ca.certificate, ca.key).expect("a pair");
        let key = ca.private_key().expect("a key");
        assert!(!key.secret_der().is_empty());
        let _ = Authority { certificate: &ca.der(), key: "" };
    }
}
