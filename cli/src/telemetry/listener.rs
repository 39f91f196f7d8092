//! The listener for whoever watches a process: `/metrics`, `/healthz`, `/readyz`.
//!
//! It answers a GET, reads no body, and shows no more than a few requests at a time their answer.

use std::sync::Arc;
use std::time::Duration;

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
    let shared = Shared {
        telemetry,
        places: Arc::new(Semaphore::new(REQUESTS_MAX)),
    };
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(shared);
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "metrics are served no more");
    }
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
