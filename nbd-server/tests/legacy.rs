//! A client from before `NBD_OPT_GO`, by the crate `nbd`: export by name, simple replies, one request
//! at a time.

#![allow(
    clippy::unwrap_used,
    reason = "a test that meets the unexpected has failed"
)]

mod engines;

use ashlar_nbd_server::Tls;
use engines::{SIZE, on_each_engine};
use nbd::client::{NbdClient, handshake};
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::TcpStream;

#[test]
fn a_client_that_knows_only_export_names_is_served() {
    on_each_engine(&Tls::Off, |port| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let export = handshake(&mut stream, b"secret").unwrap();
        assert_eq!(export.size, SIZE);
        let mut client = NbdClient::new(&mut stream, &export);
        for (offset, len) in [
            (0, 512),
            (4096, 4096),
            (1536, 10_240),
            (SIZE - 65_536, 65_536),
        ] {
            let data: Vec<u8> = (1..=253u8).cycle().take(len).collect();
            client.seek(SeekFrom::Start(offset)).unwrap();
            client.write_all(&data).unwrap();
            client.seek(SeekFrom::Start(offset)).unwrap();
            let mut read = vec![0; len];
            client.read_exact(&mut read).unwrap();
            assert!(read == data, "{len} bytes at {offset}");
        }
        client.flush().unwrap();
    });
}
