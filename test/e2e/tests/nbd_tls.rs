//! NBD over TLS as the command line sets it up: who gets in, who does not and is told why.

use anyhow::{Result, ensure};
use ashlar_e2e::tool::Finished;
use ashlar_e2e::{Cluster, ClusterOptions, Tool};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use std::fs;
use std::path::{Path, PathBuf};

/// A certificate authority and what it signs.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        Ok(Self(CertifiedIssuer::self_signed(params, key)?))
    }

    /// Makes `directory` with the authority's certificate, as clients and servers look for it.
    fn trusted_in(&self, directory: &Path) -> Result<()> {
        fs::create_dir_all(directory)?;
        fs::write(directory.join("ca-cert.pem"), self.0.pem())?;
        Ok(())
    }

    /// Writes a certificate and its key for a `server` or a `client` into `directory`.
    fn sign(&self, role: &str, directory: &Path) -> Result<()> {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, role);
        // QEMU wants the second one even where the key is of a kind that cannot encipher.
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        params.extended_key_usages = vec![match role {
            "server" => ExtendedKeyUsagePurpose::ServerAuth,
            _ => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.0)?;
        fs::write(
            directory.join(format!("{role}-cert.pem")),
            certificate.pem(),
        )?;
        let key_path = directory.join(format!("{role}-key.pem"));
        fs::write(key_path, key.serialize_pem())?;
        Ok(())
    }
}

/// Directories of certificates, for the server and for clients of several kinds.
struct Certificates {
    directory: tempfile::TempDir,
}

impl Certificates {
    fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let ours = Authority::new("authority")?;
        // It takes our name: clients show a certificate only if a server asks for its issuer.
        let other = Authority::new("authority")?;
        let made = Self { directory };
        ours.trusted_in(&made.of("server"))?;
        ours.sign("server", &made.of("server"))?;
        ours.trusted_in(&made.of("good"))?;
        ours.sign("client", &made.of("good"))?;
        // Trusts the server and has nothing to show.
        ours.trusted_in(&made.of("anonymous"))?;
        // Trusts the server and shows what another authority has signed.
        ours.trusted_in(&made.of("foreign"))?;
        other.sign("client", &made.of("foreign"))?;
        // Does not trust the server, which would trust it.
        other.trusted_in(&made.of("wary"))?;
        ours.sign("client", &made.of("wary"))?;
        Ok(made)
    }

    fn of(&self, whose: &str) -> PathBuf {
        self.directory.path().join(whose)
    }

    /// The flags of a server that uses them.
    fn flags(&self, more: &[&str]) -> Vec<String> {
        let directory = self.of("server").display().to_string();
        let more = more.iter().map(|&flag| flag.to_owned());
        ["--tls-certificates".to_owned(), directory]
            .into_iter()
            .chain(more)
            .collect()
    }

    /// The URI of a volume for a client of this kind.
    fn uri(&self, cluster: &Cluster, whose: &str) -> String {
        let uri = cluster.uri("data").replace("nbd://", "nbds://");
        format!("{uri}?tls-certificates={}", self.of(whose).display())
    }
}

fn up(certificates: &Certificates, flags: &[&str]) -> Result<Cluster> {
    let cluster = Cluster::start(ClusterOptions {
        disk_size: "1GiB".to_owned(),
        up_arguments: certificates.flags(flags),
        ..ClusterOptions::default()
    })?;
    cluster.create_volume("data", "64MiB", 3)?;
    Ok(cluster)
}

fn nbdinfo(uri: &str) -> Result<Finished> {
    Tool::new("nbdinfo").args(["--size", uri]).run()
}

fn is_refused(finished: &Finished, reason: &str) -> Result<()> {
    ensure!(!finished.status.success(), "let in: {finished:?}");
    ensure!(finished.stderr.contains(reason), "{finished:?}");
    Ok(())
}

/// Copies data in and out with libnbd's and with QEMU's client.
fn copies(cluster: &Cluster, certificates: &Certificates, whose: &str) -> Result<()> {
    let (source, copy) = (cluster.path().join("in"), cluster.path().join("out"));
    let bytes: Vec<u8> = (0..16_u32 << 20)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0])
        .collect();
    fs::write(&source, &bytes)?;
    let uri = certificates.uri(cluster, whose);
    let nbdcopy = |from: &str, to: &str| Tool::new("nbdcopy").args(["--flush", from, to]).check();
    nbdcopy(&source.display().to_string(), &uri)?;
    nbdcopy(&uri, &copy.display().to_string())?;
    let read = fs::read(&copy)?;
    ensure!(read[..bytes.len()] == bytes, "the bytes changed");

    let credentials = format!(
        "tls-creds-x509,id=tls,endpoint=client,dir={}",
        certificates.of(whose).display()
    );
    let image = format!(
        "driver=nbd,host=127.0.0.1,port={},export=data,tls-creds=tls",
        cluster.nbd_port()
    );
    fs::remove_file(&copy)?;
    Tool::new("qemu-img")
        .args(["convert", "--object", &credentials, "--image-opts", &image])
        .args(["-O", "raw"])
        .arg(&copy)
        .check()?;
    let read = fs::read(&copy)?;
    ensure!(read[..bytes.len()] == bytes, "the bytes changed for QEMU");
    Ok(())
}

#[test]
fn with_tls_required_only_encrypted_clients_get_in() -> Result<()> {
    let certificates = Certificates::new()?;
    let cluster = up(&certificates, &["--tls-require"])?;
    copies(&cluster, &certificates, "anonymous")?;

    is_refused(&nbdinfo(&cluster.uri("data"))?, "TLS")?;
    let plain = Tool::new("qemu-img")
        .args(["info", &cluster.uri("data")])
        .run()?;
    is_refused(&plain, "this server requires TLS")?;
    let list = Tool::new("nbdinfo")
        .args(["--list", &cluster.uri("")])
        .run()?;
    ensure!(!list.status.success(), "the list was told: {list:?}");
    ensure!(!list.stdout.contains("data"), "a name was told: {list:?}");

    // A client that trusts another authority finds out that this is not its server.
    let wary = nbdinfo(&certificates.uri(&cluster, "wary"))?;
    is_refused(&wary, "certificate")?;
    copies(&cluster, &certificates, "good")
}

#[test]
fn with_peers_verified_only_known_clients_get_in() -> Result<()> {
    let certificates = Certificates::new()?;
    let mut cluster = Cluster::start(ClusterOptions {
        separate: true,
        disk_size: "1GiB".to_owned(),
        nbd_arguments: certificates.flags(&["--tls-require", "--tls-verify-peer"]),
        ..ClusterOptions::default()
    })?;
    cluster.create_volume("data", "64MiB", 3)?;
    copies(&cluster, &certificates, "good")?;
    for (whose, reason) in [
        ("anonymous", "peer sent no certificates"),
        ("foreign", "invalid peer certificate"),
    ] {
        let refused = nbdinfo(&certificates.uri(&cluster, whose))?;
        ensure!(!refused.status.success(), "{whose} was let in: {refused:?}");
        let log = cluster.service("nbd").log();
        ensure!(log.contains(reason), "{whose}: {log}");
    }
    is_refused(&nbdinfo(&cluster.uri("data"))?, "TLS")?;
    copies(&cluster, &certificates, "good")?;
    cluster.stop()
}

#[test]
fn with_tls_allowed_both_get_in() -> Result<()> {
    let certificates = Certificates::new()?;
    let cluster = up(&certificates, &[])?;
    copies(&cluster, &certificates, "anonymous")?;
    ensure!(nbdinfo(&cluster.uri("data"))?.stdout.trim() == "67108864");
    Ok(())
}

#[test]
fn a_server_without_its_certificates_does_not_start() -> Result<()> {
    let certificates = Certificates::new()?;
    let server = certificates.of("server");
    let start = |flags: &[&str]| {
        Tool::new(ashlar_e2e::binary::ashlar())
            .args(["nbd", "--conductor", "http://127.0.0.1:1"])
            .args(["--listen", "127.0.0.1:0"])
            .args(flags.iter().copied())
            .run()
    };
    for flag in ["--tls-require", "--tls-verify-peer"] {
        let refused = start(&[flag])?;
        ensure!(refused.code() == Some(2), "{refused:?}");
        is_refused(&refused, "--tls-certificates")?;
    }
    let directory = server.display().to_string();
    fs::write(server.join("server-key.pem"), "no key")?;
    let refused = start(&["--tls-certificates", &directory])?;
    is_refused(&refused, "no PEM private key")?;
    fs::remove_file(server.join("server-key.pem"))?;
    let refused = start(&["--tls-certificates", &directory])?;
    is_refused(&refused, "server-key.pem")?;
    fs::remove_file(server.join("ca-cert.pem"))?;
    let refused = start(&["--tls-certificates", &directory, "--tls-verify-peer"])?;
    is_refused(&refused, "ca-cert.pem")
}
