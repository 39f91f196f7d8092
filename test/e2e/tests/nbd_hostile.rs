//! Clients that mean harm or are broken: they cost little, and others are served as before.

use anyhow::{Result, ensure};
use ashlar_e2e::nbd::{Command, NbdClient};
use ashlar_e2e::{Cluster, ClusterOptions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
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

/// Each announces the longest write there is and sends almost all of it, which takes memory that is
/// really there.
#[test]
fn unfinished_writes_take_bounded_memory() -> Result<()> {
    const CONNECTIONS: usize = 80;
    const LEN: u32 = 32 << 20;
    let mut cluster = Cluster::start(ClusterOptions {
        separate: true,
        disk_size: "1GiB".to_owned(),
        ..ClusterOptions::default()
    })?;
    cluster.create_volume("data", "64MiB", 3)?;
    let port = cluster.nbd_port();
    let before = cluster.service("nbd").resident_bytes()?;
    let part: Arc<[u8]> = vec![0x55; LEN as usize - 1].into();
    let senders: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let part = Arc::clone(&part);
            std::thread::spawn(move || {
                let mut client = NbdClient::connect(port, "data")?;
                client.submit(Command::Write, 1, 0, LEN, &[])?;
                // It ends when the server drops it, or does not read on.
                let _ = client.stream().write_all(&part);
                anyhow::Ok(client)
            })
        })
        .collect();
    let mut good = NbdClient::connect(port, "data")?;
    let mut most = 0;
    let end = Instant::now() + Duration::from_secs(8);
    while Instant::now() < end {
        let start = Instant::now();
        ensure!(good.call(Command::Write, 0, 4096, &[7; 4096])? == 0);
        ensure!(start.elapsed() < Duration::from_secs(2), "a write hung");
        most = most.max(cluster.service("nbd").resident_bytes()? - before);
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("{} MiB at most", most >> 20);
    ensure!(most > 256 << 20, "hardly any was admitted: {most}");
    ensure!(most < 1200 << 20, "{most} bytes are resident");
    ensure!(good.read(0, 4096)? == [7; 4096]);
    // Its clients hang on, which is no reason not to end.
    cluster.stop()?;
    for sender in senders {
        drop(sender.join().expect("a sender does not panic")?);
    }
    Ok(())
}
