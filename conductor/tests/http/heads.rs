//! How long the head of a request may take.

use std::time::Duration;

use ashlar_conductor::{AccessOptions, Conductor, ConductorOptions, ConnectionLimits, Timing};
use ashlar_proto::api::{Volume, WatchEvent};
use reqwest::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::support::Bench;
use super::watch::Lines;

/// Long enough for whoever sends a head at once, on a machine that is busy.
const HEAD_MAX: Duration = Duration::from_secs(2);

/// What a test waits at most.
const PATIENCE: Duration = Duration::from_secs(60);

async fn bench(directory: &std::path::Path) -> Bench {
    let options = ConductorOptions {
        data_dir: directory.to_path_buf(),
        listen: "127.0.0.1:0".parse().unwrap(),
    };
    let timing = Timing {
        bookmark: Duration::from_millis(100),
        ..Timing::default()
    };
    let access = AccessOptions {
        limits: ConnectionLimits {
            head: HEAD_MAX,
            ..ConnectionLimits::default()
        },
        ..AccessOptions::default()
    };
    let conductor = Conductor::start_guarded(options, timing, &access).await;
    Bench::of(conductor.unwrap()).await
}

/// Sends byte after byte of a head that never ends, until the other end has had enough.
async fn drip(stream: TcpStream) {
    let (mut reader, mut writer) = stream.into_split();
    let dripping = async {
        loop {
            for byte in b"x-more: of it\r\n" {
                if writer.write_all(&[*byte]).await.is_err() {
                    return;
                }
                sleep(Duration::from_millis(20)).await;
            }
        }
    };
    let mut answer = Vec::new();
    let ended = async {
        // An error is an end, too: what was sent last met a socket that was closed.
        let _ = reader.read_to_end(&mut answer).await;
    };
    tokio::select! {
        () = dripping => {}
        () = ended => {}
    }
    assert!(!String::from_utf8_lossy(&answer).contains("200 OK"));
}

#[tokio::test]
async fn a_head_that_drips_ends_its_connection_and_nobody_elses() {
    let directory = tempfile::tempdir().unwrap();
    let bench = bench(directory.path()).await;
    let path = bench.url("/v1/volumes?watch=true");
    let mut watch = Lines::of(bench.http.get(path).send().await.unwrap());
    let began = Instant::now();
    let first = async {
        let mut stream = TcpStream::connect(bench.conductor.address()).await.unwrap();
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\n")
            .await
            .unwrap();
        drip(stream).await;
    };
    // The second request of a connection, whose first one was whole.
    let second = async {
        let mut stream = TcpStream::connect(bench.conductor.address()).await.unwrap();
        let whole = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
        stream.write_all(whole).await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        while stream.read_u8().await.unwrap() != b'k' {}
        stream.read_u8().await.unwrap();
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\n")
            .await
            .unwrap();
        drip(stream).await;
    };
    let both = async { tokio::join!(first, second) };
    timeout(PATIENCE, both).await.expect("they are cut off");
    assert!(began.elapsed() >= HEAD_MAX, "each has its time");
    let live = bench.http.get(bench.url("/healthz")).send().await.unwrap();
    assert_eq!(live.status(), StatusCode::OK);
    // An answer may take longer than a head: the watch that was opened before goes on.
    for _ in 0..3 {
        let line = watch.next::<Volume>().await.expect("the watch goes on");
        assert!(matches!(line, WatchEvent::Bookmark { .. }), "{line:?}");
    }
    bench.conductor.shutdown().await;
}
