//! A conductor that renews its certificate while it is spoken with.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use ashlar_conductor::{AccessOptions, Conductor, ConductorOptions, Timing};
use ashlar_identity::{Admission, Denied, Identity, Presented, client_config};
use ashlar_proto::ClusterId;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConnection, StreamOwned};
use tokio::task::spawn_blocking;

use super::*;

const ID: ClusterId = ClusterId::new(7);

/// Due for the first time after half of it.
const TTL: Duration = Duration::from_secs(6);

/// The identity of a conductor in a directory, with the authority.
fn identity(path: &Path) -> IdentityDir {
    let dir = IdentityDir::at(path);
    let (authority, key) = Authority::create(ID, SystemTime::now()).unwrap();
    let subject = Subject {
        identity: Identity {
            cluster: ID,
            role: NodeRole::Conductor,
            name: "c1".to_owned(),
        },
        hosts: vec!["127.0.0.1".to_owned()],
        ttl: TTL,
    };
    let (node_key, certificate) = authority.issue(&subject, SystemTime::now()).unwrap();
    dir.keep_authority(&authority, &key).unwrap();
    dir.keep_key(&node_key).unwrap();
    let authority_pem = authority.certificate_pem();
    dir.keep_certificate(&certificate, authority_pem).unwrap();
    dir
}

type Open = StreamOwned<ClientConnection, TcpStream>;

fn connect(address: SocketAddr, authority_pem: &str) -> Open {
    let admission = Admission {
        cluster: Some(ID),
        roles: vec![NodeRole::Conductor],
        denied: Denied::nobody(),
    };
    let config = client_config(None, authority_pem, admission).unwrap();
    let name = ServerName::try_from("node.invalid").unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    StreamOwned::new(connection, stream)
}

/// Asks whether the conductor lives; gives the serial number that the connection was opened with.
fn ask(mut open: Open) -> (Open, String) {
    open.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .unwrap();
    let (mut answer, mut byte) = (Vec::new(), [0]);
    while !answer.ends_with(b"ok\n") {
        open.read_exact(&mut byte).unwrap();
        answer.extend(byte);
    }
    assert!(answer.starts_with(b"HTTP/1.1 200"));
    let shown = open.conn.peer_certificates().unwrap()[0].clone();
    (open, Presented::read(&shown).unwrap().serial)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conductor_renews_its_certificate_and_drops_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let dir = identity(&directory.path().join("identity"));
    let args = IdentityArgs {
        identity_dir: Some(dir.path().to_owned()),
        join_token_file: None,
        ca: None,
        tls_loopback: false,
        insecure: false,
    };
    let conducting = conduct(&args, TTL).unwrap().unwrap();
    let options = ConductorOptions {
        data_dir: directory.path().join("meta"),
        listen: "127.0.0.1:0".parse().unwrap(),
    };
    let (tls, access) = (conducting.tls.clone(), AccessOptions::default());
    let credentials = tls.credentials.clone();
    let conductor = Conductor::start_secured(options, Timing::default(), &access, Some(tls));
    let conductor = conductor.await.unwrap();
    let (address, pem) = (conductor.address(), dir.authority_pem().unwrap().unwrap());
    let asked = pem.clone();
    let first = spawn_blocking(move || ask(connect(address, &asked)));
    let (open, before) = first.await.unwrap();
    let keeping = tokio::spawn(conducting.keep());
    let renewed = async {
        while credentials.presented().serial == before {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let patience = Duration::from_secs(60);
    tokio::time::timeout(patience, renewed)
        .await
        .expect("it is renewed before it ends");
    let second = spawn_blocking(move || {
        let (_, same) = ask(open);
        let (_, fresh) = ask(connect(address, &pem));
        (same, fresh)
    });
    let (same, fresh) = second.await.unwrap();
    assert_eq!(same, before, "the connection of before goes on");
    assert_ne!(fresh, before);
    let (kept, _) = dir.certificate_and_key().unwrap().unwrap();
    let kept = CertificateDer::from_pem_slice(kept.as_bytes()).unwrap();
    assert_ne!(Presented::read(&kept).unwrap().serial, before);
    keeping.abort();
    conductor.shutdown().await;
}
