//! The listener for whoever watches a process: `/metrics`, `/healthz`, `/readyz`.
//!
//! It answers a GET, reads no body, and shows no more than a few requests at a time their answer. Nobody needs to
//! say who he is, so connections are few, and one on which no request comes ends soon.

use std::sync::Arc;
use std::time::Duration;

use ashlar_conductor::{ConnectionLimits, serve_plain};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::Telemetry;
use super::exposition::CONTENT_TYPE;

/// Requests that are answered at a time; others are told to come again.
const REQUESTS_MAX: usize = 8;

/// For some that watch, each with a connection or two; who has closed none for long makes room by [`HEAD_MAX`].
const CONNECTIONS_MAX: usize = 64;

/// Of one address: others have places whatever it does.
const OF_ADDRESS_MAX: usize = 16;

/// How long a request's head may take, and a connection may be idle. Who asks less often connects anew.
const HEAD_MAX: Duration = Duration::from_secs(20);

/// How long the process has to show that it lives.
const PULSE_MAX: Duration = Duration::from_secs(5);

/// How long metrics may take to gather.
const GATHER_MAX: Duration = Duration::from_secs(9);

#[derive(Clone)]
struct Shared {
    telemetry: Telemetry,
    places: Arc<Semaphore>,
}

/// Answers until the process ends.
pub async fn serve(listener: TcpListener, telemetry: Telemetry) {
    let limits = ConnectionLimits {
        connections: CONNECTIONS_MAX,
        of_address: OF_ADDRESS_MAX,
        head: HEAD_MAX,
    };
    serve_plain(listener, router(telemetry), limits).await;
}

fn router(telemetry: Telemetry) -> Router {
    let shared = Shared {
        telemetry,
        places: Arc::new(Semaphore::new(REQUESTS_MAX)),
    };
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(shared)
}

async fn metrics(State(shared): State<Shared>) -> Response {
    let Ok(_place) = shared.places.try_acquire() else {
        return busy();
    };
    let gathered = tokio::time::timeout(GATHER_MAX, shared.telemetry.expose());
    match gathered.await {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(_) => {
            let text = "the metrics could not be gathered in time\n";
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
    }
}

async fn healthz(State(shared): State<Shared>) -> Response {
    let Ok(_place) = shared.places.try_acquire() else {
        return busy();
    };
    match shared.telemetry.0.pulse.feel(PULSE_MAX).await {
        Ok(()) => "ok\n".into_response(),
        Err(silent) => {
            let text = format!("does not answer: {}\n", silent.join(", "));
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
    }
}

async fn readyz(State(shared): State<Shared>) -> Response {
    let reasons = shared.telemetry.0.readiness.reasons();
    if reasons.is_empty() {
        return "ready\n".into_response();
    }
    let text = format!("not ready: {}\n", reasons.join("; "));
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

fn busy() -> Response {
    let text = "too many requests at a time\n";
    (StatusCode::TOO_MANY_REQUESTS, text).into_response()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Instant;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::args::ProcessArgs;

    /// Long enough for whoever sends a head at once, on a machine that is busy.
    const HEAD: Duration = Duration::from_secs(2);

    const PATIENCE: Duration = Duration::from_secs(60);

    async fn serving() -> SocketAddr {
        let (control, args) = (tokio::runtime::Handle::current(), ProcessArgs::default());
        let telemetry = Telemetry::start(&control, &args, "test").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let limits = ConnectionLimits {
            connections: 2,
            of_address: 2,
            head: HEAD,
        };
        tokio::spawn(serve_plain(listener, router(telemetry), limits));
        address
    }

    async fn get(address: SocketAddr) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = b"GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// Sends byte after byte of a head that never ends, until the other end has had enough.
    async fn drip(address: SocketAddr) -> Vec<u8> {
        let stream = TcpStream::connect(address).await.unwrap();
        let (mut reader, mut writer) = stream.into_split();
        let dripping = async {
            let more = b"of it ".iter().cycle();
            for byte in b"GET /metrics HTTP/1.1\r\nx: ".iter().chain(more) {
                if writer.write_all(&[*byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let mut answer = Vec::new();
        tokio::select! {
            () = dripping => {}
            // An error is an end, too: what was sent last met a socket that was closed.
            _ = reader.read_to_end(&mut answer) => {}
        }
        answer
    }

    /// Two that never end a head have all the places: who comes then waits until their time is over, no longer.
    #[tokio::test]
    async fn who_never_ends_a_head_makes_room_for_others() {
        let address = serving().await;
        let began = Instant::now();
        let drips = [(); 2].map(|()| tokio::spawn(drip(address)));
        tokio::time::sleep(HEAD / 4).await;
        let waiting = tokio::time::timeout(PATIENCE, get(address));
        let answer = waiting.await.expect("there is room again");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(began.elapsed() >= HEAD, "there were places for two");
        for drip in drips {
            let answer = tokio::time::timeout(PATIENCE, drip).await.unwrap().unwrap();
            assert!(!String::from_utf8_lossy(&answer).contains("200 OK"));
        }
        assert!(get(address).await.contains("ashlar_build_info"));
    }
}
