//! TLS against a server on each engine of this machine, by a client on rustls and plain sockets.

#![allow(
    clippy::unwrap_used,
    reason = "a test that meets the unexpected has failed"
)]

mod engines;

use ashlar_nbd_server::{Tls, tls_config};
use engines::on_each_engine;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

/// A certificate for localhost: what the server needs, and what its clients trust.
fn certificate() -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = made.signing_key.serialize_pem();
    let server = tls_config(made.cert.pem().as_bytes(), key.as_bytes(), None).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (server, Arc::new(client))
}

fn connect(port: u16) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    assert_eq!(receive(&mut stream, 18)[16..], [0, 3]);
    stream.write_all(&[0, 0, 0, 3]).unwrap();
    stream
}

fn receive(stream: &mut impl Read, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

fn send_option(stream: &mut impl Write, option: u32, data: &[u8]) {
    let mut bytes = b"IHAVEOPT".to_vec();
    bytes.extend(option.to_be_bytes());
    bytes.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
    bytes.extend(data);
    stream.write_all(&bytes).unwrap();
}

/// The kind of the last reply to an option.
fn outcome(stream: &mut (impl Read + Write), option: u32, data: &[u8]) -> u32 {
    send_option(stream, option, data);
    loop {
        let head = receive(stream, 20);
        let kind = u32::from_be_bytes(head[12..16].try_into().unwrap());
        let len = u32::from_be_bytes(head[16..20].try_into().unwrap());
        receive(stream, len as usize);
        if kind == 1 || kind >= 1 << 31 {
            return kind;
        }
    }
}

fn request(command: u16, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    let mut bytes = vec![0x25, 0x60, 0x95, 0x13, 0, 0];
    bytes.extend(command.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    bytes.extend(len.to_be_bytes());
    bytes
}

const GO_SECRET: &[u8] = b"\0\0\0\x06secret\0\0";

fn encrypt(
    mut stream: TcpStream,
    config: Arc<ClientConfig>,
) -> StreamOwned<ClientConnection, TcpStream> {
    assert_eq!(outcome(&mut stream, 5, &[]), 1);
    let name = ServerName::try_from("localhost").unwrap();
    StreamOwned::new(ClientConnection::new(config, name).unwrap(), stream)
}

#[test]
fn data_survives_encryption() {
    let (server, client) = certificate();
    on_each_engine(&Tls::Require(server.into()), move |port| {
        let mut stream = encrypt(connect(port), client.clone());
        assert_eq!(outcome(&mut stream, 5, &[]), (1 << 31) + 3, "TLS twice");
        assert_eq!(outcome(&mut stream, 7, GO_SECRET), 1);
        for len in [512u32, 4096, 65_536, 1 << 20, 32 << 20] {
            let data: Vec<u8> = (0..=250u8).cycle().take(len as usize).collect();
            stream.write_all(&request(1, 1, 4096, len)).unwrap();
            stream.write_all(&data).unwrap();
            assert_eq!(receive(&mut stream, 16)[4..8], [0; 4]);
            stream.write_all(&request(0, 2, 4096, len)).unwrap();
            assert_eq!(receive(&mut stream, 16)[4..8], [0; 4]);
            assert!(receive(&mut stream, len as usize) == data);
        }
        // Many small ones at once, the replies of which share records.
        let burst: Vec<u8> = (0..200)
            .flat_map(|cookie| request(0, cookie, 4096, 4096))
            .collect();
        stream.write_all(&burst).unwrap();
        receive(&mut stream, 200 * (16 + 4096));
        stream.write_all(&request(2, 0, 0, 0)).unwrap();
        let mut rest = Vec::new();
        assert_eq!(
            stream.read_to_end(&mut rest).unwrap(),
            0,
            "a clean good-bye"
        );
    });
}

#[test]
fn a_server_that_requires_tls_tells_nothing_without_it() {
    let (server, _) = certificate();
    on_each_engine(&Tls::Require(server.into()), |port| {
        let mut stream = connect(port);
        let required = (1 << 31) + 5;
        for (option, data) in [
            (3, &[][..]),
            (6, GO_SECRET),
            (7, GO_SECRET),
            (8, &[]),
            (99, &[]),
        ] {
            assert_eq!(outcome(&mut stream, option, data), required);
        }
        assert_eq!(outcome(&mut stream, 2, &[]), 1, "abort is allowed");
        let mut stream = connect(port);
        send_option(&mut stream, 1, b"secret");
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "closed");
    });
}

#[test]
fn a_server_that_allows_tls_serves_both_and_forgets_what_came_before() {
    let (server, client) = certificate();
    on_each_engine(&Tls::Allow(server.into()), move |port| {
        let mut stream = connect(port);
        assert_eq!(outcome(&mut stream, 7, GO_SECRET), 1);
        let mut stream = connect(port);
        assert_eq!(outcome(&mut stream, 8, &[]), 1);
        let allocation = b"\0\0\0\x06secret\0\0\0\x01\0\0\0\x0fbase:allocation";
        assert_eq!(outcome(&mut stream, 10, allocation), 1);
        let mut stream = encrypt(stream, client.clone());
        // Structured replies must be negotiated again: their dialect was forgotten.
        assert_eq!(outcome(&mut stream, 8, &[]), 1);
        assert_eq!(outcome(&mut stream, 7, GO_SECRET), 1);
        // So were the contexts: there is nothing to ask for.
        stream.write_all(&request(7, 1, 0, 4096)).unwrap();
        let chunk = receive(&mut stream, 24);
        assert_eq!(chunk[..8], [0x66, 0x8e, 0x33, 0xef, 0, 1, 0x80, 1]);
        assert_eq!(chunk[20..], [0, 0, 0, 22], "EINVAL");
    });
}

#[test]
fn plaintext_slipped_in_before_tls_ends_the_connection() {
    let (server, _) = certificate();
    on_each_engine(&Tls::Allow(server.into()), |port| {
        let mut stream = connect(port);
        let mut bytes = b"IHAVEOPT\0\0\0\x05\0\0\0\0".to_vec();
        bytes.extend(b"IHAVEOPT\0\0\0\x03\0\0\0\0");
        stream.write_all(&bytes).unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.is_empty(), "not even an acknowledgement");
        // Neither is nonsense in place of a TLS handshake taken for one.
        let mut stream = connect(port);
        assert_eq!(outcome(&mut stream, 5, &[]), 1);
        stream.write_all(&[0x42; 600]).unwrap();
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.len() < 100, "an alert at most");
    });
}
