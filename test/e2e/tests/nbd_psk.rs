//! NBD over TLS with pre-shared keys: stock clients get in by their names' keys, nobody else does.

use anyhow::{Result, ensure};
use ashlar_e2e::process::wait_for;
use ashlar_e2e::tool::Finished;
use ashlar_e2e::{Cluster, ClusterOptions, Tool};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const ALICE: &str = "b2b96f1e7a9be2a1a0a4f5ae33e3f95e7b8dd0a4ad0b4a3a9c1a8c5f3e2d1c0b";
const BOB: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";
const OTHER: &str = "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff";

/// Files of keys, for the server and for clients of several kinds.
struct Keys {
    directory: tempfile::TempDir,
}

impl Keys {
    fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let made = Self { directory };
        made.write("server", &format!("alice:{ALICE}\nbob:{BOB}\n"))?;
        made.write("alice", &format!("alice:{ALICE}\n"))?;
        made.write("bob", &format!("bob:{BOB}\n"))?;
        made.write("wrong", &format!("alice:{OTHER}\n"))?;
        made.write("mallory", &format!("mallory:{OTHER}\n"))?;
        made.write("carol", &format!("carol:{OTHER}\n"))?;
        Ok(made)
    }

    /// The file of keys of `whose`; QEMU wants each in a directory of its own, as `keys.psk`.
    fn path(&self, whose: &str) -> PathBuf {
        self.directory.path().join(whose).join("keys.psk")
    }

    fn write(&self, whose: &str, text: &str) -> Result<()> {
        let path = self.path(whose);
        fs::create_dir_all(path.parent().expect("it is in a directory"))?;
        let beside = path.with_extension("new");
        fs::write(&beside, text)?;
        fs::set_permissions(&beside, fs::Permissions::from_mode(0o600))?;
        Ok(fs::rename(beside, path)?)
    }

    /// The URI of the volume for a client.
    fn uri(&self, cluster: &Cluster, user: &str, whose: &str) -> String {
        let uri = cluster
            .uri("data")
            .replace("nbd://", &format!("nbds://{user}@"));
        format!("{uri}?tls-psk-file={}", self.path(whose).display())
    }

    /// What makes a tool of QEMU's come as `user`.
    fn credentials(&self, user: &str, whose: &str) -> String {
        let path = self.path(whose);
        let directory = path.parent().unwrap_or(Path::new("/")).display();
        format!("tls-creds-psk,id=tls,endpoint=client,username={user},dir={directory}")
    }
}

fn start(keys: &Keys, flags: &[&str]) -> Result<Cluster> {
    let path = keys.path("server").display().to_string();
    let mut arguments = vec!["--tls-psk".to_owned(), path];
    arguments.extend(flags.iter().map(|&flag| flag.to_owned()));
    let cluster = Cluster::start(ClusterOptions {
        separate: true,
        disk_size: "1GiB".to_owned(),
        nbd_arguments: arguments,
        ..ClusterOptions::default()
    })?;
    cluster.create_volume("data", "64MiB", 3)?;
    Ok(cluster)
}

fn nbdinfo(uri: &str) -> Result<Finished> {
    Tool::new("nbdinfo").args(["--size", uri]).run()
}

fn image(cluster: &Cluster) -> String {
    format!(
        "driver=nbd,host=127.0.0.1,port={},export=data,tls-creds=tls",
        cluster.nbd_port()
    )
}

/// Copies data in and out with libnbd's client, and reads and writes with QEMU's.
fn copies(cluster: &Cluster, keys: &Keys, user: &str) -> Result<()> {
    let (source, copy) = (cluster.path().join("in"), cluster.path().join("out"));
    let bytes: Vec<u8> = (0..16_u32 << 20)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0])
        .collect();
    fs::write(&source, &bytes)?;
    let uri = keys.uri(cluster, user, user);
    let nbdcopy = |from: &str, to: &str| Tool::new("nbdcopy").args(["--flush", from, to]).check();
    nbdcopy(&source.display().to_string(), &uri)?;
    nbdcopy(&uri, &copy.display().to_string())?;
    let read = fs::read(&copy)?;
    ensure!(read[..bytes.len()] == bytes, "the bytes changed");

    fs::remove_file(&copy)?;
    let credentials = keys.credentials(user, user);
    let image = image(cluster);
    let convert = Tool::new("qemu-img").args(["convert", "--object", &credentials]);
    let convert = convert
        .args(["--image-opts", &image, "-O", "raw"])
        .arg(&copy);
    convert.check()?;
    let read = fs::read(&copy)?;
    ensure!(read[..bytes.len()] == bytes, "the bytes changed for QEMU");
    let io = ["write -P 7 20M 3M", "read -P 7 20M 3M", "flush"];
    let tool = Tool::new("qemu-io").args(["--object", &credentials, "--image-opts", &image]);
    let done = io
        .iter()
        .fold(tool, |tool, &command| tool.args(["-c", command]))
        .check()?;
    ensure!(!done.contains("Pattern verification failed"), "{done}");
    Ok(())
}

fn is_refused(finished: &Finished) -> Result<()> {
    ensure!(!finished.status.success(), "let in: {finished:?}");
    Ok(())
}

fn is_logged(cluster: &mut Cluster, text: &str) -> Result<()> {
    wait_for("a line in the log", Duration::from_secs(10), || {
        let log = cluster.service("nbd").log();
        ensure!(log.contains(text), "`{text}` is not logged:\n{log}");
        Ok(())
    })
}

#[test]
fn only_clients_with_the_keys_of_their_names_get_in() -> Result<()> {
    let keys = Keys::new()?;
    let mut cluster = start(&keys, &["--tls-require"])?;
    copies(&cluster, &keys, "alice")?;
    is_logged(&mut cluster, "client=\"alice\"")?;
    ensure!(nbdinfo(&keys.uri(&cluster, "bob", "bob"))?.stdout.trim() == "67108864");

    // Who has another key or no name hears the same.
    let wrong = nbdinfo(&keys.uri(&cluster, "alice", "wrong"))?;
    let unknown = nbdinfo(&keys.uri(&cluster, "mallory", "mallory"))?;
    is_refused(&wrong)?;
    is_refused(&unknown)?;
    let told = |finished: &Finished| {
        let (_, reason) = finished.stderr.rsplit_once("gnutls").unwrap_or_default();
        reason.to_owned()
    };
    ensure!(
        !told(&wrong).is_empty() && told(&wrong) == told(&unknown),
        "{wrong:?}\n{unknown:?}"
    );
    is_logged(
        &mut cluster,
        "client `alice` does not have the pre-shared key",
    )?;
    is_logged(&mut cluster, "no client `mallory` is in the file")?;
    let credentials = keys.credentials("alice", "wrong");
    let qemu = Tool::new("qemu-img").args(["info", "--object", &credentials, "--image-opts"]);
    is_refused(&qemu.arg(image(&cluster)).run()?)?;

    // Neither does who does not encrypt, nor who has certificates alone.
    let plain = nbdinfo(&cluster.uri("data"))?;
    is_refused(&plain)?;
    ensure!(plain.stderr.contains("TLS"), "{plain:?}");
    let certificates = cluster.uri("data").replace("nbd://", "nbds://");
    is_refused(&nbdinfo(&certificates)?)?;
    is_logged(&mut cluster, "handshake for a pre-shared key failed")?;

    let log = cluster.service("nbd").log();
    for key in [ALICE, BOB, OTHER] {
        ensure!(!log.contains(&key[..16]), "a key is in the log");
    }
    copies(&cluster, &keys, "alice")?;
    cluster.stop()
}

#[test]
fn a_changed_file_counts_from_the_next_connection_on() -> Result<()> {
    let keys = Keys::new()?;
    let mut cluster = start(&keys, &[])?;
    // Without --tls-require plain clients are let in, too.
    ensure!(nbdinfo(&cluster.uri("data"))?.stdout.trim() == "67108864");
    ensure!(
        nbdinfo(&keys.uri(&cluster, "alice", "alice"))?
            .status
            .success()
    );
    is_refused(&nbdinfo(&keys.uri(&cluster, "carol", "carol"))?)?;

    keys.write("server", &format!("carol:{OTHER}\n"))?;
    ensure!(
        nbdinfo(&keys.uri(&cluster, "carol", "carol"))?
            .status
            .success()
    );
    is_refused(&nbdinfo(&keys.uri(&cluster, "alice", "alice"))?)?;
    is_logged(&mut cluster, "pre-shared keys read anew")?;

    // A file that others may read is not read, and what was read before is good.
    keys.write("server", &format!("alice:{ALICE}\n"))?;
    fs::set_permissions(keys.path("server"), fs::Permissions::from_mode(0o644))?;
    ensure!(
        nbdinfo(&keys.uri(&cluster, "carol", "carol"))?
            .status
            .success()
    );
    is_logged(&mut cluster, "pre-shared keys cannot be read")?;
    cluster.stop()
}

/// Begins TLS as a client does, and sends something else in its place.
fn nonsense(port: u16, bytes: &[u8]) -> Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.read_exact(&mut [0; 18])?;
    stream.write_all(b"\0\0\0\x03IHAVEOPT\0\0\0\x05\0\0\0\0")?;
    stream.read_exact(&mut [0; 20])?;
    let _ = stream.write_all(bytes);
    let mut rest = Vec::new();
    // It is closed, with an alert or without one; what was not read makes that a reset.
    match stream.read_to_end(&mut rest) {
        Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => Err(error.into()),
        _ => Ok(()),
    }
}

#[test]
fn nonsense_in_the_handshake_ends_that_connection_alone() -> Result<()> {
    let keys = Keys::new()?;
    let mut cluster = start(&keys, &["--tls-require"])?;
    let port = cluster.nbd_port();
    let hello = [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        &[7; 32],
    ]
    .concat();
    for bytes in [
        &[0; 64][..],
        &[0xff; 4096],
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\xff\xff\x01\xff\xff\xff",
        b"\x17\x03\x03\x00\x20aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        b"\x15\x03\x03\x00\x02\x02\x28",
        // The beginning of a hello that goes on with zeroes.
        &[&hello[..], &[0; 600]].concat(),
    ] {
        nonsense(port, bytes)?;
    }
    // Half a hello, and no more: the time of the handshake ends it, others are served meanwhile.
    let mut half = TcpStream::connect(("127.0.0.1", port))?;
    half.set_read_timeout(Some(Duration::from_secs(30)))?;
    half.read_exact(&mut [0; 18])?;
    half.write_all(b"\0\0\0\x03IHAVEOPT\0\0\0\x05\0\0\0\0")?;
    half.read_exact(&mut [0; 20])?;
    half.write_all(&hello)?;
    copies(&cluster, &keys, "bob")?;
    let mut rest = Vec::new();
    half.read_to_end(&mut rest)?;
    cluster.stop()
}

#[test]
fn a_server_without_proper_keys_does_not_start() -> Result<()> {
    let keys = Keys::new()?;
    let path = keys.path("server").display().to_string();
    let refused = |flags: &[&str], reason: &str| -> Result<()> {
        let finished = Tool::new(ashlar_e2e::binary::ashlar())
            .args(["nbd", "--conductor", "http://127.0.0.1:1"])
            .args(["--listen", "127.0.0.1:0"])
            .args(flags.iter().copied())
            .run()?;
        ensure!(!finished.status.success(), "{finished:?}");
        ensure!(finished.stderr.contains(reason), "{finished:?}");
        Ok(())
    };
    refused(
        &["--tls-psk", &path, "--tls-certificates", "/tmp"],
        "cannot be used with",
    )?;
    refused(
        &["--tls-psk", &path, "--tls-verify-peer"],
        "cannot be used with",
    )?;
    keys.write("server", "alice:00\n")?;
    refused(
        &["--tls-psk", &path],
        "line 1: the key must have 16 to 256 bytes",
    )?;
    keys.write("server", &format!("alice:{ALICE}\n"))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640))?;
    refused(&["--tls-psk", &path], "chmod 600")?;
    fs::remove_file(&path)?;
    refused(&["--tls-psk", &path], "No such file")
}
