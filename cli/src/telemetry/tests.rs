//! What metrics look like, and when a process is ready.

use super::*;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    tokio::time::timeout(Duration::from_secs(10), read)
        .await
        .unwrap()
        .unwrap();
    answer
}

#[test]
fn a_process_says_why_it_is_not_ready_and_then_that_it_is() {
    let tokio = runtime();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let args = ProcessArgs {
        metrics: Some(address),
        ..ProcessArgs::default()
    };
    let telemetry = Telemetry::start(tokio.handle(), &args, "test").unwrap();
    telemetry.wait_for("no conductor has been heard");
    tokio.block_on(async {
        let answer = get(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.contains("no conductor has been heard"), "{answer}");
        telemetry.serves();
        telemetry.is_there("no conductor has been heard");
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200 "));
        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200 "));
        let metrics = get(address, "/metrics").await;
        assert!(metrics.contains("ashlar_ready 1"), "{metrics}");
        assert!(
            metrics.contains("ashlar_build_info{role=\"test\""),
            "{metrics}"
        );
        telemetry.stops();
        assert!(get(address, "/readyz").await.contains("it stops"));
        assert!(get(address, "/nothing").await.starts_with("HTTP/1.1 404 "));
    });
}

#[test]
fn an_address_that_is_taken_is_named() {
    let tokio = runtime();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let args = ProcessArgs {
        metrics: Some(address),
        ..ProcessArgs::default()
    };
    let Err(error) = Telemetry::start(tokio.handle(), &args, "test") else {
        panic!("{address} was taken");
    };
    assert_eq!(error.to_string(), format!("--metrics {address}"));
}
