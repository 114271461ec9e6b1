use std::path::PathBuf;

use rcgen::{CertificateParams, DnType, Issuer, KeyPair};

use super::*;
use crate::failure::Remedy as _;
use crate::model::Secret;

/// A client's certificate with its key, its CA's, and where files go.
struct Files {
    directory: tempfile::TempDir,
    chain: String,
    key: String,
    key_der: Vec<u8>,
    leaf_der: Vec<u8>,
}

fn files() -> Files {
    let ca_key = KeyPair::generate().expect("a key");
    let mut ca = CertificateParams::new(Vec::new()).expect("parameters");
    ca.distinguished_name.push(DnType::CommonName, "Test CA");
    let ca_pem = ca.self_signed(&ca_key).expect("a CA").pem();
    let key = KeyPair::generate().expect("a key");
    let mut leaf = CertificateParams::new(Vec::new()).expect("parameters");
    leaf.distinguished_name.push(DnType::CommonName, "host-1");
    leaf.not_before = rcgen::date_time_ymd(2020, 1, 1);
    leaf.not_after = rcgen::date_time_ymd(2040, 1, 1);
    let leaf = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).expect("a certificate");
    Files {
        directory: tempfile::tempdir().expect("a directory"),
        chain: format!("{ca_pem}{}", leaf.pem()),
        key: key.serialize_pem(),
        key_der: key.serialize_der(),
        leaf_der: leaf.der().to_vec(),
    }
}

impl Files {
    fn with(&self, content: impl AsRef<[u8]>, password: Option<&str>) -> ClientCertificate {
        let file = self.directory.path().join("client");
        std::fs::write(&file, content).expect("write");
        ClientCertificate { file, password: password.map(|text| Secret::new(text.to_owned())) }
    }
}

fn kind(certificate: &ClientCertificate) -> (FailureKind, String) {
    let failure = inspect_client_certificate(certificate).expect_err("unusable");
    (failure.kind, failure.with_fix())
}

#[test]
fn http_12_a_pem_file_is_read_whatever_the_order_of_its_parts() {
    let files = files();
    for content in
        [format!("{}{}", files.chain, files.key), format!("{}\n{}", files.key, files.chain)]
    {
        let certificate = files.with(content, None);
        let identity = load_identity(&certificate).expect("an identity");
        assert_eq!(identity.key.cert.len(), 2, "the leaf and its CA");
        assert_eq!(identity.key.cert[0].as_ref(), files.leaf_der);
        assert_eq!(identity.facts.subject, "host-1");
        assert_eq!(identity.facts.issuer, "Test CA");
        assert_eq!(identity.facts.not_before.to_string(), "2020-01-01T00:00:00Z");
        assert_eq!(identity.facts.not_after.to_string(), "2040-01-01T00:00:00Z");
        assert_eq!(identity.facts.sha256.len(), 64);
    }
}

/// HTTP-12: a CA that was renewed with a new key has two certificates of one
/// name, and the older one comes first.
#[test]
fn http_12_the_chain_follows_the_issuer_s_key_and_not_its_name_alone() {
    let ca = |with_id: bool| {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, "Test CA");
        // Only a CA's certificate has a key id.
        if with_id {
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        }
        let key = KeyPair::generate().expect("a key");
        (params.self_signed(&key).expect("a CA"), Issuer::new(params, key))
    };
    for with_id in [true, false] {
        let (older, newer) = (ca(with_id), ca(with_id));
        let key = KeyPair::generate().expect("a key");
        let mut leaf = CertificateParams::new(Vec::new()).expect("parameters");
        leaf.use_authority_key_identifier_extension = with_id;
        let leaf = leaf.signed_by(&key, &newer.1).expect("a certificate");
        let files = files();
        let content = [older.0.pem(), newer.0.pem(), leaf.pem(), key.serialize_pem()].concat();
        let identity = load_identity(&files.with(content, None)).expect("an identity");
        let chain: Vec<_> = identity.key.cert.iter().map(|der| der.to_vec()).collect();
        assert_eq!(chain, [leaf.der().to_vec(), newer.0.der().to_vec()], "ids: {with_id}");
    }
}

#[test]
fn http_12_both_ends_of_the_validity_belong_to_it() {
    let files = files();
    let certificate = files.with(format!("{}{}", files.chain, files.key), None);
    let facts = inspect_client_certificate(&certificate).expect("facts");
    assert!(facts.valid_at(facts.not_before) && facts.valid_at(facts.not_after));
    assert!(!facts.valid_at(facts.not_after.after(std::time::Duration::from_secs(1))));
    assert!(!facts.valid_at(Timestamp::from_secs(facts.not_before.as_secs() - 1)));
}

#[test]
fn http_12_an_encrypted_pem_key_is_opened_with_the_password() {
    let files = files();
    let encrypted = encrypted_pem(&files.key_der, "pa55");
    let content = format!("{}{encrypted}", files.chain);
    let facts = inspect_client_certificate(&files.with(&content, Some("pa55"))).expect("facts");
    assert_eq!(facts.subject, "host-1");
    let (kind_of, message) = kind(&files.with(&content, Some("wrong")));
    assert_eq!(kind_of, FailureKind::ClientCertificatePassword);
    assert!(message.contains("check ClientAuthCertificatePassword"), "{message}");
    let (kind_of, message) = kind(&files.with(&content, None));
    assert_eq!(kind_of, FailureKind::ClientCertificatePassword);
    assert!(message.contains("set ClientAuthCertificatePassword"), "{message}");
}

fn encrypted_pem(key: &[u8], password: &str) -> String {
    let parameters = pkcs8::pkcs5::pbes2::Parameters::generate_pbkdf2_sha256_aes256cbc(
        1000,
        b"saltsalt",
        [7; 16],
    )
    .expect("parameters");
    let der = pkcs8::PrivateKeyInfoRef::try_from(key)
        .expect("PKCS#8")
        .encrypt_with_params(parameters, password)
        .expect("encrypted");
    let base64 = base64::engine::general_purpose::STANDARD.encode(der.as_bytes());
    format!(
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\n{base64}\n-----END ENCRYPTED PRIVATE KEY-----\n"
    )
}

#[test]
fn http_12_a_pkcs12_file_is_opened_with_the_password() {
    let files = files();
    let content = pkcs12(&files, "pa55");
    let certificate = files.with(&content, Some("pa55"));
    let identity = load_identity(&certificate).expect("an identity");
    assert_eq!(identity.facts.subject, "host-1");
    assert_eq!(identity.key.cert[0].as_ref(), files.leaf_der);
    for password in [Some("wrong"), None] {
        let (kind, message) = kind(&files.with(&content, password));
        assert_eq!(kind, FailureKind::ClientCertificatePassword, "{message}");
        assert!(message.contains("ClientAuthCertificatePassword"), "{message}");
    }
}

fn pkcs12(files: &Files, password: &str) -> Vec<u8> {
    use p12_keystore::{
        Certificate, KeyStore, KeyStoreEntry, LocalKeyId, PrivateKey, PrivateKeyChain,
    };
    let key = PrivateKey::from_der(&files.key_der).expect("a key");
    let leaf = Certificate::from_der(&files.leaf_der).expect("a certificate");
    let mut store = KeyStore::new();
    let chain = PrivateKeyChain::new(LocalKeyId(vec![1]), key, [leaf]);
    store.add_entry("client", KeyStoreEntry::PrivateKeyChain(chain));
    store.writer(password).write().expect("PKCS#12")
}

#[test]
fn http_12_what_cannot_be_used_is_named_with_its_file() {
    let files = files();
    let other = KeyPair::generate().expect("a key").serialize_pem();
    for (content, words) in [
        (files.chain.clone(), "contains no private key"),
        (files.key.clone(), "contains no certificate"),
        (format!("{}{other}", files.chain), "no certificate belongs to the private key"),
        ("hello".to_owned(), "neither PEM nor readable PKCS#12"),
        (String::new(), "neither PEM nor readable PKCS#12"),
        ("-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n".to_owned(), "damaged"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n".to_owned(), "damaged"),
        (
            format!("{}-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n", files.chain),
            "the old PEM form",
        ),
    ] {
        let certificate = files.with(&content, None);
        let (kind, message) = kind(&certificate);
        assert_eq!(kind, FailureKind::ClientCertificateUnreadable, "{words}");
        assert!(message.contains(words), "{words}: {message}");
        assert!(message.contains(&certificate.file.display().to_string()), "{message}");
    }
    let missing = ClientCertificate { file: PathBuf::from("/nonexistent/c.pem"), password: None };
    let (kind, message) = kind(&missing);
    assert_eq!(kind, FailureKind::ClientCertificateUnreadable);
    assert!(message.contains("/nonexistent/c.pem"), "{message}");
    assert!(message.contains("check ClientAuthCertificateFile"), "{message}");
}

#[test]
fn http_12_roots_that_cannot_be_used_are_an_error() {
    let files = files();
    for content in ["", "hello", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let failure = inspect_roots(&Roots::Data(content.into())).expect_err("no roots");
        assert_eq!(failure.kind, FailureKind::RootsUnreadable);
        assert!(failure.with_fix().contains("ServerAuthRootsData"), "{failure}");
    }
    let failure = inspect_roots(&Roots::Data(files.key.clone().into())).expect_err("only a key");
    assert_eq!(failure.kind, FailureKind::RootsUnreadable);
    let failure = inspect_roots(&Roots::File("/nonexistent/roots.pem".into())).expect_err("none");
    assert_eq!(failure.kind, FailureKind::RootsUnreadable);
    assert!(failure.with_fix().contains("/nonexistent/roots.pem"), "{failure}");
}

#[test]
fn http_12_roots_are_read_as_pem_bundle_or_der() {
    let files = files();
    let subjects = |roots: &Roots| -> Vec<String> {
        inspect_roots(roots).expect("roots").into_iter().map(|facts| facts.subject).collect()
    };
    assert_eq!(subjects(&Roots::Data(files.chain.clone().into())), ["Test CA", "host-1"]);
    assert_eq!(subjects(&Roots::Data(files.leaf_der.clone())), ["host-1"]);
    assert_eq!(subjects(&Roots::Platform), [""; 0]);
    let file = files.directory.path().join("roots.pem");
    std::fs::write(&file, &files.chain).expect("write");
    assert_eq!(subjects(&Roots::File(file)).len(), 2);
}

/// HTTP-12: files as OpenSSL writes them, old ciphers included.
#[test]
fn http_12_what_openssl_writes_is_read() {
    for (name, password, subject) in [
        ("modern.p12", Some("fixture"), "fixture-host"),
        ("legacy.p12", Some("fixture"), "fixture-host"),
        ("no-mac.p12", Some("fixture"), "fixture-host"),
        ("empty-password.p12", None, "fixture-host"),
        ("encrypted.pem", Some("fixture"), "fixture-host"),
        ("encrypted-3des.pem", Some("fixture"), "fixture-host"),
        ("sec1.pem", None, "fixture-host"),
        ("pkcs1.pem", None, "fixture-rsa"),
        ("version-1.pem", None, "fixture-host"),
    ] {
        let facts = inspect_client_certificate(&fixture(name, password));
        assert_eq!(facts.map(|facts| facts.subject), Ok(subject.to_owned()), "{name}");
        if password.is_some() {
            let (kind, message) = kind(&fixture(name, Some("wrong")));
            assert_eq!(kind, FailureKind::ClientCertificatePassword, "{name}: {message}");
        }
    }
    let (kind, message) = kind(&fixture("old-encrypted.pem", Some("fixture")));
    assert_eq!(kind, FailureKind::ClientCertificateUnreadable);
    assert!(message.contains("openssl pkcs8 -topk8"), "{message}");
}

fn fixture(name: &str, password: Option<&str>) -> ClientCertificate {
    ClientCertificate {
        file: format!("{}/fixtures/certificates/{name}", env!("CARGO_MANIFEST_DIR")).into(),
        password: password.map(|text| Secret::new(text.to_owned())),
    }
}
