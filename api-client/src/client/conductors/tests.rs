//! Conductors that lead, follow, are gone, or do not answer.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::ApiClient;

const LEADS: &str = r#"{"leads":true,"term":1}"#;
const STATUS_OK: &str = "HTTP/1.1 204 No Content\r\n\r\n";

fn problem(status: &str, code: &str, more: &str) -> String {
    let body = format!(
        r#"{{"type":"","title":"","status":{},"detail":"{code}","code":"{code}"}}"#,
        &status[..3]
    );
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\n{more}Connection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

/// Answers each connection with that text, or with silence where there is none; counts them.
async fn server(answer: Option<String>) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut silent = Vec::new();
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::Relaxed);
            let Some(answer) = answer.clone() else {
                silent.push(socket);
                continue;
            };
            let mut request = [0; 4096];
            let _ = socket.read(&mut request).await;
            let _ = socket.write_all(answer.as_bytes()).await;
        }
    });
    (address, asked)
}

/// Answers requests of one path only; counts all connections.
async fn server_at(path: &'static str, body: &'static str) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut silent = Vec::new();
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::Relaxed);
            let mut request = [0; 4096];
            let length = socket.read(&mut request).await.unwrap();
            let line = format!("GET {path} ");
            if request[..length].starts_with(line.as_bytes()) {
                let length = body.len();
                let head = format!(
                    "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
                );
                let _ = socket.write_all((head + body).as_bytes()).await;
            } else {
                silent.push(socket);
            }
        }
    });
    (address, asked)
}

async fn free() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

fn follower(leader: &str) -> String {
    let location = format!("Location: {leader}/v1/clients/allow\r\n");
    problem("307 Temporary Redirect", "not-leader", &location)
}

async fn allow(addresses: &[&str]) -> Result<(), ApiError> {
    let client = ApiClient::new(&addresses.join(",")).unwrap();
    client.allow_client("a").await
}

async fn hand_over(addresses: &[&str]) -> Result<(), ApiError> {
    let client = ApiClient::new(&addresses.join(",")).unwrap();
    let request = ashlar_proto::api::HandOver {
        volume: ashlar_proto::VolumeId::new(1),
        generation: ashlar_proto::Generation::new(1),
        to: ashlar_proto::PortalGroup::FIRST,
    };
    client.hand_over("v", &request).await
}

async fn detach(addresses: &[&str]) -> Result<(), ApiError> {
    let client = ApiClient::new(&addresses.join(",")).unwrap();
    let request = ashlar_proto::api::DetachRequest {
        volume: ashlar_proto::VolumeId::new(1),
        generation: ashlar_proto::Generation::new(1),
        served: false,
        settled: false,
    };
    client.detach("v", &request).await
}

#[tokio::test]
async fn a_follower_sends_on_to_the_leader_which_is_remembered() {
    let (leader, _) = server(Some(STATUS_OK.to_owned())).await;
    let (other, asked) = server(Some(follower(&leader))).await;
    let client = ApiClient::new(&other).unwrap();
    client.allow_client("a").await.unwrap();
    client.allow_client("a").await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn one_that_is_gone_or_leaves_is_passed_over() {
    let (leader, _) = server(Some(STATUS_OK.to_owned())).await;
    let (other, _) = server(Some(problem("503 Service Unavailable", "no-leader", ""))).await;
    let gone = free().await;
    allow(&[&gone, &other, &leader]).await.unwrap();
}

#[tokio::test]
async fn what_may_have_been_done_is_repeated_only_where_that_is_harmless() {
    let (silent, _) = server(None).await;
    let (leader, asked) = server(Some(STATUS_OK.to_owned())).await;
    detach(&[&silent, &leader]).await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    // It says that it leads, and falls silent when it is asked to do something.
    let (hangs, knocked) = server_at("/v1/leader", LEADS).await;
    let error = hand_over(&[&hangs, &leader]).await.unwrap_err();
    assert!(matches!(error, ApiError::NoAnswer { .. }), "{error}");
    assert_eq!(knocked.load(Ordering::Relaxed), 2);
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn one_that_hangs_is_not_trusted_with_what_may_not_be_repeated() {
    let (silent, asked) = server(None).await;
    let (leader, _) = server(Some(STATUS_OK.to_owned())).await;
    allow(&[&silent, &leader]).await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    // It has a key, by which a conductor knows it again.
    allow(&[&silent, &leader]).await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

/// Takes two requests in, answers the second, and gives the keys of both.
async fn keys_of_two(listener: TcpListener) -> [Option<String>; 2] {
    let mut keys = [None, None];
    for (index, key) in keys.iter_mut().enumerate() {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 4096];
        let length = socket.read(&mut request).await.unwrap();
        let text = String::from_utf8_lossy(&request[..length]).into_owned();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("idempotency-key: "));
        *key = line.map(str::to_owned);
        if index == 1 {
            socket.write_all(STATUS_OK.as_bytes()).await.unwrap();
        }
    }
    keys
}

#[tokio::test]
async fn an_answer_that_is_lost_is_asked_for_again_with_the_same_key() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let keys = tokio::spawn(keys_of_two(listener));
    allow(&[&address]).await.unwrap();
    let [first, second] = keys.await.unwrap();
    assert!(first.is_some(), "no key");
    assert_eq!(first, second);
}

#[tokio::test]
async fn a_refusal_of_the_leader_is_the_answer() {
    let (leader, _) = server(Some(problem("404 Not Found", "client-not-denied", ""))).await;
    let (other, asked) = server(Some(STATUS_OK.to_owned())).await;
    let error = allow(&[&leader, &other]).await.unwrap_err();
    assert_eq!(error.http_status(), Some(404));
    assert_eq!(asked.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn conductors_that_send_in_circles_are_left() {
    let (a, asked) = server(Some(follower("http://127.0.0.1:1"))).await;
    let error = allow(&[&a]).await.unwrap_err();
    assert!(error.is_unreachable(), "{error}");
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_read_does_not_wait_for_one_that_hangs() {
    let (silent, asked) = server(None).await;
    let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 25\r\n\r\n";
    let (other, _) = server(Some(format!("{head}{{\"revision\":1,\"items\":[]}}"))).await;
    let client = ApiClient::new(&format!("{silent},{other}")).unwrap();
    client.denied_clients().await.unwrap();
    // Who answered is asked first from then on.
    client.denied_clients().await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_leader_that_nobody_named_is_found_behind_one_that_hangs() {
    let (silent, knocked) = server(None).await;
    let (leader, _) = server_at("/v1/leader", LEADS).await;
    let says = format!(r#"{{"leads":false,"term":1,"leader":"{leader}"}}"#);
    let (follows, _) = server_at("/v1/leader", says.leak()).await;
    let error = hand_over(&[&silent, &follows]).await.unwrap_err();
    // It leads, and answers nothing else.
    assert!(
        matches!(&error, ApiError::NoAnswer { url, .. } if url.as_str().starts_with(&leader)),
        "{error}"
    );
    assert_eq!(knocked.load(Ordering::Relaxed), 1);
}

#[test]
fn who_waits_for_a_change_asks_one() {
    let url: Url = "http://a/v1/volumes".parse().unwrap();
    let request = |method, time: Option<Duration>| {
        let mut request = Request::new(method, url.clone());
        *request.timeout_mut() = time;
        request
    };
    assert!(may_be_hedged(&request(Method::GET, None)));
    assert!(may_be_hedged(&request(Method::GET, Some(ANSWER_MAX))));
    let waiting = Some(ANSWER_MAX + super::super::POLL_MAX);
    assert!(!may_be_hedged(&request(Method::GET, waiting)));
    assert!(!may_be_hedged(&request(Method::POST, None)));
}
