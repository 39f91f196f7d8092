//! Requests gone wrong: each gets a problem with its code, and harms nobody.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::json;

use super::support::{Bench, problem, registration, report, start, volume};

async fn code(bench: &Bench, path: &str, body: serde_json::Value) -> String {
    problem(bench.post(path, &body).await).await.code
}

#[tokio::test]
async fn unknown_routes_and_methods_are_problems() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    for path in [
        "/",
        "/v1",
        "/v2/volumes",
        "/v1/volumes/a/b/c",
        "/v1/volumes/",
    ] {
        let refused = bench.send(Method::GET, path).await;
        assert_eq!(refused.status(), StatusCode::NOT_FOUND, "{path}");
        assert_eq!(problem(refused).await.code, "route-not-found", "{path}");
    }
    for (method, path) in [
        (Method::PUT, "/v1/volumes"),
        (Method::POST, "/v1/status"),
        (Method::PATCH, "/v1/volumes/a"),
        (Method::GET, "/v1/volumes/a/attach"),
        (Method::DELETE, "/v1/nodes/register"),
    ] {
        let refused = bench.send(method, path).await;
        assert_eq!(refused.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
        assert!(refused.headers().contains_key("allow"), "{path}");
        assert_eq!(problem(refused).await.code, "method-not-allowed");
    }
    let health = bench.send(Method::GET, "/healthz").await;
    assert_eq!(health.status(), StatusCode::OK);
}

#[tokio::test]
async fn bodies_and_queries_that_cannot_be_read_are_problems() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    for body in ["", "{", "[]", "null", "{\"name\":1}", "\u{0}"] {
        let post = bench.http.post(bench.url("/v1/volumes")).body(body);
        let refused = post
            .header("content-type", "application/json")
            .send()
            .await
            .unwrap();
        assert_eq!(refused.status(), StatusCode::BAD_REQUEST, "{body}");
        assert_eq!(problem(refused).await.code, "malformed-request", "{body}");
    }
    let unknown = json!({"name": "a", "size_bytes": 1 << 20, "replicas": 1, "sise": 1});
    assert_eq!(
        code(&bench, "/v1/volumes", unknown).await,
        "malformed-request"
    );
    let post = bench.http.post(bench.url("/v1/volumes")).body("{}");
    let plain = post
        .header("content-type", "text/plain")
        .send()
        .await
        .unwrap();
    assert_eq!(plain.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(problem(plain).await.code, "not-json");
    for path in [
        "/v1/volumes?watch=maybe",
        "/v1/volumes?after=-1",
        "/v1/volumes?unknown=1",
        "/v1/nodes/abc/assignments",
        "/v1/nodes/1/assignments?wait_ms=x",
    ] {
        let refused = bench.send(Method::GET, path).await;
        assert_eq!(problem(refused).await.code, "malformed-request", "{path}");
    }
    let large = vec![b' '; (4 << 20) + 1];
    let post = bench.http.post(bench.url("/v1/volumes")).body(large);
    let refused = post
        .header("content-type", "application/json")
        .send()
        .await
        .unwrap();
    assert_eq!(problem(refused).await.code, "body-too-large");
}

#[tokio::test]
async fn fields_out_of_range_are_problems() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    for (name, size, replicas) in [
        ("../a", 1 << 20, 1),
        ("", 1 << 20, 1),
        ("a", (1 << 20) + 1, 1),
        ("a", 4096, 1),
        ("a", 1 << 53, 1),
        ("a", u64::MAX, 1),
        ("a", 1 << 20, 0),
        ("a", 1 << 20, 4),
    ] {
        let body = json!({"name": name, "size_bytes": size, "replicas": replicas});
        let refused = bench.post("/v1/volumes", &body).await;
        assert_eq!(refused.status(), StatusCode::UNPROCESSABLE_ENTITY, "{body}");
        assert_eq!(problem(refused).await.code, "invalid-request", "{body}");
    }
    let mut twice = registration(1);
    twice.disks.push(report(1));
    let mut laneless = registration(1);
    laneless.disks[0].lanes = 0;
    let mut label = registration(1);
    label.labels.insert("zone".to_owned(), String::new());
    for request in [twice, laneless, label] {
        let refused = bench.post("/v1/nodes/register", &request).await;
        assert_eq!(
            problem(refused).await.code,
            "invalid-request",
            "{request:?}"
        );
    }
    let beat = json!({"disks": [], "applied": 0});
    assert_eq!(
        code(&bench, "/v1/nodes/7/heartbeat", beat).await,
        "node-not-found"
    );
    let attach = json!({"owner": "me"});
    assert_eq!(
        code(&bench, "/v1/volumes/none/attach", attach).await,
        "volume-not-found"
    );
}

/// Sends bytes as they are and reads the first of what comes.
async fn raw(bench: &Bench, bytes: &'static [u8]) -> String {
    let address = bench.conductor.address();
    let exchange = move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        stream.write_all(bytes).unwrap();
        let mut answer = [0; 512];
        let read = stream.read(&mut answer).unwrap();
        String::from_utf8_lossy(&answer[..read]).into_owned()
    };
    tokio::task::spawn_blocking(exchange).await.unwrap()
}

#[tokio::test]
async fn what_is_no_http_harms_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let bench = start(directory.path()).await;
    for bytes in [
        b"\x00\x01\x02\xff\xfe\r\n\r\n".as_slice(),
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/volumes HTTP/1.1\r\nHost: a\r\nContent-Length: nine\r\n\r\n",
    ] {
        assert!(
            raw(&bench, bytes).await.starts_with("HTTP/1.1 400"),
            "{bytes:?}"
        );
    }
    let half_open = || {
        let mut stream = TcpStream::connect(bench.conductor.address()).unwrap();
        stream
            .write_all(b"POST /v1/volumes HTTP/1.1\r\nContent-Le")
            .unwrap();
        stream
    };
    let _half_open: Vec<TcpStream> = (0..50).map(|_| half_open()).collect();
    let refused = bench.post("/v1/volumes", &volume("a", 1)).await;
    assert_eq!(problem(refused).await.code, "no-placement");
    let stop = tokio::time::timeout(Duration::from_secs(8), bench.conductor.shutdown());
    stop.await
        .expect("half-open connections do not hold up a stop");
}
