//! etcd that wants TLS, a certificate, a user and a password.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ashlar_conductor::meta::{Leadership, MetaError};
use ashlar_conductor::{EtcdError, EtcdOptions, EtcdStore, MetaStore};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};

use crate::members::elected;
use crate::suite::{committed, put, terms_are_kept_to, value};

/// How long a member may take to serve.
const READY_MAX: Duration = Duration::from_secs(30);

/// A member that answers only who shows a certificate of its authority, and the way there.
struct Secured {
    directory: tempfile::TempDir,
    port: u16,
    child: Option<Child>,
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Writes `name.pem` and `name.key`.
fn sign(by: &CertifiedIssuer<'static, KeyPair>, name: &str, directory: &Path) {
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // etcd shows its own to itself, as a client.
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, by).unwrap();
    std::fs::write(directory.join(format!("{name}.pem")), certificate.pem()).unwrap();
    std::fs::write(directory.join(format!("{name}.key")), key.serialize_pem()).unwrap();
}

impl Secured {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let ca = authority("etcd");
        std::fs::write(path.join("ca.pem"), ca.pem()).unwrap();
        sign(&ca, "server", path);
        sign(&ca, "client", path);
        let stranger = authority("stranger");
        std::fs::write(path.join("other-ca.pem"), stranger.pem()).unwrap();
        sign(&stranger, "other", path);
        let free = || {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap().port()
        };
        let (port, peer) = (free(), format!("http://127.0.0.1:{}", free()));
        let url = format!("https://127.0.0.1:{port}");
        let child = Command::new("etcd")
            .args(["--name", "m0", "--data-dir"])
            .arg(path.join("m0"))
            .args([
                "--listen-client-urls",
                &url,
                "--advertise-client-urls",
                &url,
            ])
            .args([
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &peer,
            ])
            .args([
                "--initial-cluster",
                &format!("m0={peer}"),
                "--client-cert-auth",
            ])
            .arg("--trusted-ca-file")
            .arg(path.join("ca.pem"))
            .arg("--cert-file")
            .arg(path.join("server.pem"))
            .arg("--key-file")
            .arg(path.join("server.key"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let child = child.expect("etcd starts: scripts/setup installs the package etcd-server");
        let it = Self {
            directory,
            port,
            child: Some(child),
        };
        let start = Instant::now();
        while !it.control(None, &["endpoint", "health"]) {
            assert!(start.elapsed() < READY_MAX, "etcd does not serve");
            std::thread::sleep(Duration::from_millis(100));
        }
        it
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Runs `etcdctl` as that user; says whether it succeeded.
    fn control(&self, user: Option<&str>, arguments: &[&str]) -> bool {
        let mut command = Command::new("etcdctl");
        command
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &format!("https://127.0.0.1:{}", self.port)])
            .arg("--cacert")
            .arg(self.file("ca.pem"))
            .arg("--cert")
            .arg(self.file("client.pem"))
            .arg("--key")
            .arg(self.file("client.key"));
        if let Some(user) = user {
            command.args(["--user", user]);
        }
        let output = command.args(arguments).output();
        output.expect("etcdctl starts").status.success()
    }

    /// A user who may do what the documents say a conductor needs, and no more.
    fn want_users(&self) {
        let root = Some("root:r");
        let deeds: [&[&str]; 7] = [
            &["user", "add", "root:r"],
            &["user", "grant-role", "root", "root"],
            &["user", "add", "ashlar:geheim"],
            &["role", "add", "conductor"],
            &[
                "role",
                "grant-permission",
                "conductor",
                "--prefix=true",
                "readwrite",
                "/ashlar/",
            ],
            &["user", "grant-role", "ashlar", "conductor"],
            &["auth", "enable"],
        ];
        for deed in deeds {
            assert!(self.control(None, deed), "{deed:?}");
        }
        assert!(self.control(root, &["user", "list"]));
    }

    fn options(&self, ca: &str, identity: Option<&str>, password: Option<&str>) -> EtcdOptions {
        let read = |name: String| std::fs::read(self.file(&name)).unwrap();
        EtcdOptions {
            endpoints: vec![format!("https://127.0.0.1:{}", self.port)],
            ca_pem: Some(read(ca.to_owned())),
            identity_pem: identity
                .map(|name| (read(format!("{name}.pem")), read(format!("{name}.key")))),
            user: password.map(|password| ("ashlar".to_owned(), password.to_owned())),
            root: String::new(),
            lease_seconds: None,
        }
    }
}

impl Drop for Secured {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

async fn refused(options: &EtcdOptions) -> EtcdError {
    match EtcdStore::open(options, None).await {
        Err(MetaError::Etcd(error)) => error,
        other => panic!("it should be refused: {other:?}"),
    }
}

#[tokio::test]
async fn with_certificates_a_user_and_a_password_it_is_as_without() {
    let etcd = Secured::start();
    etcd.want_users();
    let options = etcd.options("ca.pem", Some("client"), Some("geheim"));
    let first = EtcdStore::open(&options, Some("https://first".to_owned()))
        .await
        .unwrap();
    let term = elected(&first).await;
    terms_are_kept_to(&first, term).await;
    committed(&first, vec![put("a", "1")]).await;
    let second = EtcdStore::open(&options, Some("https://second".to_owned()))
        .await
        .unwrap();
    assert_eq!(value(&second, "a").await, Some("1".to_owned()));
    first.resign().await;
    assert!(elected(&second).await > term);
    assert!(matches!(first.leadership(), Leadership::Follows { .. }));
}

#[tokio::test]
async fn who_is_not_who_they_should_be_is_refused() {
    let etcd = Secured::start();
    let good = etcd.options("ca.pem", Some("client"), None);
    EtcdStore::open(&good, None).await.unwrap();
    // A server that another authority signed, a client that shows nothing, and one of a stranger's.
    for wrong in [
        etcd.options("other-ca.pem", Some("client"), None),
        etcd.options("ca.pem", None, None),
        etcd.options("ca.pem", Some("other"), None),
    ] {
        let error = refused(&wrong).await;
        assert!(matches!(error, EtcdError::Unavailable { .. }), "{error}");
    }
    etcd.want_users();
    let wrong = etcd.options("ca.pem", Some("client"), Some("falsch"));
    let error = refused(&wrong).await;
    assert!(matches!(error, EtcdError::Denied { .. }), "{error}");
    let elsewhere = EtcdOptions {
        root: "/other".to_owned(),
        ..etcd.options("ca.pem", Some("client"), Some("geheim"))
    };
    let error = refused(&elsewhere).await;
    assert!(matches!(error, EtcdError::Denied { .. }), "{error}");
}
