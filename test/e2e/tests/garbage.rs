//! Garbage at each listener of each role, all at once: every process lives on and serves, its memory
//! stays bounded, and when the senders are gone its sockets are gone, too.

use anyhow::{Context, Result, ensure};
use ashlar_e2e::cluster::free_port;
use ashlar_e2e::csi::{Driver, protocol as csi};
use ashlar_e2e::garbage::{Target, bombard};
use ashlar_e2e::iscsi::Initiator;
use ashlar_e2e::nbd::{Command, NbdClient};
use ashlar_e2e::process::wait_for;
use ashlar_e2e::{Cluster, ClusterOptions, Secured, Service, Tool};
use std::fs;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

const SEED: u64 = 20_261_123;
/// What a process may hold more than before: buffers that were made once and are kept.
const MORE_BYTES_MAX: u64 = 96 << 20;
/// Sockets that come and go by themselves between two looks: heartbeats, watches, and what clients of the
/// API keep open for the next request. Fewer than what the garbage leaves open at one listener.
const MORE_FILES_MAX: usize = 16;
const KEY: &str = "b2b96f1e7a9be2a1a0a4f5ae33e3f95e7b8dd0a4ad0b4a3a9c1a8c5f3e2d1c0b";

/// A process before the garbage came.
struct Before {
    name: String,
    pid: u32,
    files: usize,
    bytes: u64,
}

impl Before {
    fn of(name: &str, service: &Service) -> Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            pid: service.pid(),
            files: service.open_files()?,
            bytes: service.resident_bytes()?,
        })
    }

    /// What was left open is there: the garbage has come to where it should.
    fn has_more(&self, service: &Service) -> Result<()> {
        let files = service.open_files()?;
        let (name, before) = (&self.name, self.files);
        ensure!(
            files >= before + 20,
            "{name}: only {files} open, {before} before"
        );
        Ok(())
    }

    /// The same process, with bounded memory.
    fn lives_in(&self, service: &mut Service) -> Result<()> {
        let name = &self.name;
        ensure!(
            service.is_running(),
            "{name} has ended:\n{}",
            service.log_tail()
        );
        ensure!(service.pid() == self.pid, "{name} is another process");
        let bytes = service.resident_bytes()?;
        let limit = self.bytes + MORE_BYTES_MAX;
        ensure!(
            bytes <= limit,
            "{name}: {bytes} bytes resident, {} before",
            self.bytes
        );
        let log = service.log();
        ensure!(!log.contains("panicked"), "{name} panicked:\n{log}");
        Ok(())
    }

    /// Its sockets are gone.
    fn is_rid_of_all(&self, service: &Service) -> Result<()> {
        wait_for("sockets to close", Duration::from_secs(20), || {
            let files = service.open_files()?;
            let (name, before) = (&self.name, self.files);
            ensure!(
                files <= before + MORE_FILES_MAX,
                "{name}: {files} open, {before} before"
            );
            Ok(())
        })
    }
}

fn nbd_writes_and_reads(port: u16, volume: &str, round: u8) -> Result<()> {
    let mut client = NbdClient::connect(port, volume)?;
    for block in 0..32_u8 {
        let offset = u64::from(block) * 4096;
        let bytes = [block ^ round; 4096];
        ensure!(
            client.call(Command::WriteFua, offset, 4096, &bytes)? == 0,
            "write"
        );
        ensure!(client.read(offset, 4096)? == bytes, "block {block} changed");
    }
    client.disconnect()
}

/// CRC-32C, bit by bit: written apart from the one under test.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0x82f6_3b78 * (crc & 1))
        })
    })
}

/// A header of the data plane (docs/protocol.md) whose checksum is right.
fn frame(kind: u8, meta_words: u16, blocks: u16) -> Vec<u8> {
    let mut header = b"ASHL\x01".to_vec();
    header.extend([kind, 0, 0, 1, 0, 0, 0]);
    header.extend(meta_words.to_le_bytes());
    header.extend(blocks.to_le_bytes());
    header.resize(60, 0);
    header.extend(crc32c(&header).to_le_bytes());
    header
}

fn frames() -> Vec<Vec<u8>> {
    let mut hello = frame(1, 12, 0);
    let body = [1; 44];
    hello.extend(crc32c(&body).to_le_bytes());
    hello.extend(body);
    let long = [frame(1, u16::MAX, 0), vec![7; 4096]].concat();
    let write = [frame(5, 257, 256), vec![7; 4096]].concat();
    vec![hello, long, write, frame(10, 0, 0)]
}

fn http(path: &str) -> Vec<Vec<u8>> {
    let get = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
    let post = |how: &str| {
        let kind = "Content-Type: application/json";
        format!("POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{kind}\r\n{how}\r\n\r\n{{\"name\":[[[[")
    };
    vec![
        get.into_bytes(),
        post("Content-Length: 18446744073709551615").into_bytes(),
        post("Transfer-Encoding: chunked").into_bytes(),
        format!("GET /{} HTTP/1.1\r\n", "a".repeat(1 << 20)).into_bytes(),
    ]
}

/// HTTP/2 (RFC 9113): its preface, and frames of a request.
fn grpc() -> Vec<Vec<u8>> {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let headers = b"\0\0\x05\x01\x04\0\0\0\x01\x83\x86\x84\x41\x8a";
    let data = b"\xff\xff\xff\0\0\0\0\0\x01\0\xff\xff\xff\xff";
    vec![[&preface[..], headers, data].concat(), preface.to_vec()]
}

const NBD_GO: &[u8] = b"\0\0\0\x03IHAVEOPT\0\0\0\x07\0\0\0\x0d\0\0\0\x07scratch\0\0";
const NBD_EXPORT: &[u8] = b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\x07scratch";
const NBD_TLS: &[u8] = b"\0\0\0\x03IHAVEOPT\0\0\0\x05\0\0\0\0";

fn nbd_requests() -> Vec<Vec<u8>> {
    let request = |command: u8, len: u32| {
        let mut bytes = vec![0x25, 0x60, 0x95, 0x13, 0, 0, 0, command];
        bytes.extend([9; 8]);
        bytes.extend(0_u64.to_be_bytes());
        bytes.extend(len.to_be_bytes());
        bytes
    };
    vec![
        [request(1, 4096), vec![5; 4096]].concat(),
        request(0, 4096),
        request(1, 32 << 20),
        request(6, u32::MAX),
    ]
}

/// A login (RFC 7143 section 11.12), whole and with all lengths as large as they can be.
fn iscsi() -> Vec<Vec<u8>> {
    let text = b"InitiatorName=iqn.2026-01.test:garbage\0SessionType=Discovery\0\0";
    let mut login = vec![0x43, 0x87, 0, 0, 0, 0, 0, 64, 0x80];
    login.resize(48, 0);
    login.extend(text);
    login.resize(48 + 64, 0);
    let mut long = login.clone();
    long[4..8].fill(0xff);
    vec![login, long]
}

/// The first bytes that `openssl s_client` sends.
fn client_hello(more: &[&str]) -> Result<Vec<u8>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    let tool = Tool::new("openssl").args(["s_client", "-connect", &address]);
    let tool = tool.args(more).limit(Duration::from_secs(20));
    let client = std::thread::spawn(move || tool.run());
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut bytes = vec![0; 16 << 10];
    let len = stream.read(&mut bytes)?;
    bytes.truncate(len);
    drop(stream);
    client.join().expect("a tool's thread does not panic")?;
    ensure!(bytes.starts_with(b"\x16\x03"), "no handshake");
    Ok(bytes)
}

/// The driver answers a call.
fn csi_serves(driver: &Driver) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let socket = format!("unix://{}", driver.socket().display());
    runtime.block_on(async {
        let endpoint = tonic::transport::Endpoint::from_shared(socket)?;
        let channel = endpoint.timeout(Duration::from_secs(20)).connect().await?;
        let mut identity = csi::identity_client::IdentityClient::new(channel);
        identity.probe(csi::ProbeRequest {}).await?;
        anyhow::Ok(())
    })
}

fn all_serve(cluster: &mut Cluster, driver: &Driver, round: u8) -> Result<()> {
    nbd_writes_and_reads(cluster.nbd_port(), "data", round).context("NBD")?;
    let target = "iqn.2026-11.io.ashlar:disk";
    let name = "iqn.2026-01.test:good";
    let mut initiator = Initiator::login(&cluster.iscsi_address(), name, 1, target)?;
    ensure!(initiator.write_first(round)? == 0, "iSCSI write");
    ensure!(initiator.read_first()? == [round; 512], "iSCSI read");
    csi_serves(driver).context("CSI")?;
    for role in ["conductor", "store-0", "nbd", "iscsi"] {
        let url = format!("http://{}/healthz", cluster.metrics_address(role)?);
        let curl = Tool::new("curl").args(["--silent", "--fail", "--max-time", "20", &url]);
        ensure!(curl.check()? == "ok\n", "{role} is not healthy");
    }
    let status = cluster.json(["status"])?;
    ensure!(
        status["nodes_up"] == 3 && status["health"] == "healthy",
        "{status}"
    );
    Ok(())
}

#[test]
fn garbage_at_every_plain_listener_harms_nobody() -> Result<()> {
    let sockets = tempfile::tempdir()?;
    let socket = sockets.path().join("nbd.sock");
    let mut cluster = Cluster::start(ClusterOptions {
        separate: true,
        disk_size: "1GiB".to_owned(),
        metrics: true,
        nbd_arguments: vec!["--listen".to_owned(), format!("unix:{}", socket.display())],
        iscsi_arguments: vec!["--all-volumes".to_owned()],
        ..ClusterOptions::default()
    })?;
    for volume in ["data", "disk", "scratch"] {
        cluster.create_volume(volume, "16MiB", 3)?;
    }
    cluster.start_service("iscsi")?;
    let address = cluster.iscsi_address();
    wait_for("the iSCSI server", Duration::from_secs(30), || {
        Ok(TcpStream::connect(&address)?)
    })?;
    let mut driver = Driver::start(&cluster)?;
    all_serve(&mut cluster, &driver, 1)?;
    nbd_writes_and_reads(cluster.nbd_port(), "scratch", 1)?;

    let greeted = || vec![(Vec::new(), 18)];
    let nbd = cluster.nbd_address();
    let mut targets = vec![
        Target::tcp(cluster.api_address(), http("/v1/volumes")),
        Target::tcp(cluster.store_address(0), frames()),
        Target::tcp(&nbd, vec![NBD_GO.to_vec(), NBD_EXPORT.to_vec()]).after(greeted()),
        // Beyond its handshake: the requests go to a volume that nobody else uses.
        Target::tcp(&nbd, nbd_requests())
            .after([greeted(), vec![(NBD_EXPORT.to_vec(), 10)]].concat()),
        Target::unix(&socket, vec![NBD_GO.to_vec()]).after(greeted()),
        Target::tcp(cluster.iscsi_address(), iscsi()),
        Target::unix(driver.socket(), grpc()),
    ];
    let roles = ["conductor", "store-0", "nbd", "iscsi"];
    for role in roles {
        targets.push(Target::tcp(
            cluster.metrics_address(role)?,
            http("/metrics"),
        ));
    }
    let mut before = Vec::new();
    for role in roles {
        before.push(Before::of(role, cluster.service(role))?);
    }
    let driver_before = Before::of("csi", driver.service())?;

    let open = bombard(&targets, SEED);
    let count: usize = open.iter().map(ashlar_e2e::garbage::Open::count).sum();
    ensure!(
        count > targets.len() * 20,
        "only {count} connections were let in"
    );
    for before in &before {
        before.has_more(cluster.service(&before.name))?;
    }
    driver_before.has_more(driver.service())?;
    all_serve(&mut cluster, &driver, 2).context("while connections are left open")?;
    drop(open);
    for before in &before {
        before.is_rid_of_all(cluster.service(&before.name))?;
        before.lives_in(cluster.service(&before.name))?;
    }
    driver_before.is_rid_of_all(driver.service())?;
    driver_before.lives_in(driver.service())?;
    all_serve(&mut cluster, &driver, 3).context("after it")?;
    nbd_writes_and_reads(cluster.nbd_port(), "scratch", 3)
}

/// Copies bytes to an export and back with libnbd's client.
fn copies(directory: &Path, uri: &str) -> Result<()> {
    let (source, copy) = (directory.join("in"), directory.join("out"));
    let bytes: Vec<u8> = (0..1_u32 << 20)
        .map(|at| (at >> 9).to_le_bytes()[0])
        .collect();
    fs::write(&source, &bytes)?;
    let nbdcopy = |from: &str, to: &str| Tool::new("nbdcopy").args(["--flush", from, to]).check();
    nbdcopy(&source.display().to_string(), uri)?;
    nbdcopy(uri, &copy.display().to_string())?;
    ensure!(
        fs::read(&copy)?[..bytes.len()] == bytes,
        "the bytes changed"
    );
    Ok(())
}

/// Starts NBD servers of their own that speak TLS by a certificate and by a pre-shared key; gives
/// their ports and what clients open.
fn tls_servers(cluster: &mut Secured) -> Result<Vec<(&'static str, u16, String)>> {
    let directory = cluster.path("tls");
    fs::create_dir_all(&directory)?;
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
    fs::write(directory.join("server-cert.pem"), made.cert.pem())?;
    fs::write(directory.join("ca-cert.pem"), made.cert.pem())?;
    fs::write(
        directory.join("server-key.pem"),
        made.signing_key.serialize_pem(),
    )?;
    let keys = cluster.path("keys.psk");
    fs::write(&keys, format!("alice:{KEY}\n"))?;
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o600))?;
    let (directory, keys) = (directory.display().to_string(), keys.display().to_string());
    let api = cluster.api();
    let mut servers = Vec::new();
    for (name, flag, value, user, query) in [
        (
            "nbd-x509",
            "--tls-certificates",
            &directory,
            "",
            "tls-certificates",
        ),
        ("nbd-psk", "--tls-psk", &keys, "alice@", "tls-psk-file"),
    ] {
        let port = free_port()?;
        let listen = format!("127.0.0.1:{port}");
        let identity = format!("{name}.identity");
        cluster.issue("ca", "front-end", name, "24h", &identity)?;
        let line = [
            "nbd",
            "--conductor",
            &api,
            "--listen",
            &listen,
            "--tls-require",
            flag,
            value,
        ];
        cluster.run(name, &identity, &line)?;
        wait_for("an NBD server", Duration::from_secs(30), || {
            Ok(TcpStream::connect(&listen)?)
        })?;
        servers.push((
            name,
            port,
            format!("nbds://{user}{listen}/{name}?{query}={value}"),
        ));
    }
    Ok(servers)
}

#[test]
fn garbage_at_every_encrypted_listener_harms_nobody() -> Result<()> {
    let mut cluster = Secured::start("24h")?;
    for volume in ["data", "nbd-x509", "nbd-psk"] {
        cluster.json(&["volume", "create", volume, "--size", "16MiB"])?;
    }
    let servers = tls_servers(&mut cluster)?;
    let all_serve = |cluster: &mut Secured, round: u8| -> Result<()> {
        nbd_writes_and_reads(cluster.nbd, "data", round)?;
        for (name, _, uri) in &servers {
            copies(&cluster.path(""), uri).with_context(|| (*name).to_owned())?;
        }
        let status = cluster.json(&["status"])?;
        ensure!(
            status["nodes_up"] == 3 && status["health"] == "healthy",
            "{status}"
        );
        Ok(())
    };
    all_serve(&mut cluster, 1)?;

    let hello = client_hello(&["-tls1_3"])?;
    let old = client_hello(&["-tls1_2"])?;
    let key = ["-tls1_3", "-psk_identity", "alice", "-psk", KEY];
    let hellos = vec![hello, old, client_hello(&key)?];
    let address = |port: u16| format!("127.0.0.1:{port}");
    let mut targets = vec![
        Target::tcp(address(cluster.api_port()), hellos.clone()),
        Target::tcp(address(cluster.stores[0]), hellos.clone()),
        Target::tcp(address(cluster.stores[0]), frames()),
        Target::tcp(address(cluster.api_port()), http("/v1/volumes")),
    ];
    for (_, port, _) in &servers {
        let begun = vec![(Vec::new(), 18), (NBD_TLS.to_vec(), 20)];
        targets.push(Target::tcp(address(*port), hellos.clone()).after(begun));
    }
    let mut before = Vec::new();
    for name in ["conductor", "store-0", "nbd-x509", "nbd-psk"] {
        before.push(Before::of(name, cluster.service(name))?);
    }
    let open = bombard(&targets, SEED);
    let count: usize = open.iter().map(ashlar_e2e::garbage::Open::count).sum();
    ensure!(
        count > targets.len() * 20,
        "only {count} connections were let in"
    );
    for before in &before {
        before.has_more(cluster.service(&before.name))?;
    }
    all_serve(&mut cluster, 2).context("while connections are left open")?;
    drop(open);
    for before in &before {
        before.is_rid_of_all(cluster.service(&before.name))?;
        before.lives_in(cluster.service(&before.name))?;
    }
    all_serve(&mut cluster, 3).context("after it")
}
