//! Clients that mean harm or are broken: they cost little, and others are served as before.

use anyhow::{Result, ensure};
use ashlar_e2e::nbd::{Command, NbdClient};
use ashlar_e2e::{Cluster, ClusterOptions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Half-open connections, made and left.
const IDLE: usize = 300;

fn connect(port: u16) -> Result<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    Ok(stream)
}

/// Whether the server closes the connection, whatever it says before.
fn is_closed(mut stream: TcpStream) -> bool {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

#[test]
fn idle_and_nonsensical_connections_harm_nobody() -> Result<()> {
    let cluster = Cluster::start(ClusterOptions {
        disk_size: "1GiB".to_owned(),
        ..ClusterOptions::default()
    })?;
    cluster.create_volume("data", "64MiB", 3)?;
    let port = cluster.nbd_port();
    let mut good = NbdClient::connect(port, "data")?;
    let began = Instant::now();
    let idle: Vec<TcpStream> = (0..IDLE).map(|_| connect(port)).collect::<Result<_>>()?;

    let mut odd: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\nHost: ashlar\r\n\r\n".to_vec(),
        vec![0; 4096],
        vec![0xff; 4096],
        b"\0\0\0\x03IHAVEOPT\0\0\0\x07\xff\xff\xff\xff".to_vec(),
        b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\x04none".to_vec(),
    ];
    odd.push(
        [
            &b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\x04data"[..],
            &[0x11; 64],
        ]
        .concat(),
    );
    for bytes in odd {
        let mut stream = connect(port)?;
        // The server may close while this is being sent.
        let _ = stream.write_all(&bytes);
        ensure!(is_closed(stream), "it outlived {bytes:02x?}");
    }

    // Meanwhile the good client is served, and quickly.
    let mut slowest = Duration::ZERO;
    for block in 0..200 {
        let asked = Instant::now();
        let error = good.call(Command::Write, 4096 * block, 4096, &[7; 4096])?;
        ensure!(error == 0, "error {error}");
        slowest = slowest.max(asked.elapsed());
    }
    ensure!(slowest < Duration::from_secs(5), "{slowest:?}");

    for stream in idle {
        ensure!(is_closed(stream), "a silent client is still there");
    }
    let passed = began.elapsed();
    ensure!(passed < Duration::from_secs(40), "after {passed:?}");
    Ok(())
}
