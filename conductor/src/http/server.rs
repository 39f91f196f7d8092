//! Serves HTTP/1.1 on the connections of the API's listener.
//!
//! Invariants: a request's head is there within a limit of time after its connection was made or the last answer
//! on it had gone, however many bytes drip in meanwhile, else the connection ends; one that is served buffers
//! [`BUFFER_BYTES_MAX`] at most; once the conductor stops none is accepted, and each ends with the answer that
//! is under way.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::connect_info::ConnectInfo;
use axum::serve::Listener;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tower_service::Service;

use super::listener::{BoundedListener, ConnectionLimits};
use super::secure::{ApiListener, Connection};

/// What one connection reads in advance, or keeps of an answer that is not taken: a head fits, whatever it says.
const BUFFER_BYTES_MAX: usize = 64 << 10;

/// Serves until `stop` is true and all connections have ended.
pub(crate) async fn serve(
    mut listener: ApiListener,
    router: Router,
    head_max: Duration,
    stop: watch::Receiver<bool>,
) {
    // Nothing is sent: its end is that of the last connection.
    let (alive, mut all_ended) = mpsc::channel::<Infallible>(1);
    loop {
        let (connection, address) = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped(stop.clone()) => break,
        };
        let served = serve_one(connection, address, router.clone(), head_max, stop.clone());
        let alive = alive.clone();
        tokio::spawn(async move {
            served.await;
            drop(alive);
        });
    }
    drop((listener, alive));
    let _ = all_ended.recv().await;
}

/// Serves a router that is no API on a listener without TLS, bounded as the API's own is, for as long as it is
/// polled.
pub async fn serve_plain(listener: TcpListener, router: Router, limits: ConnectionLimits) {
    // Their ends would be those of all connections: they are kept until nobody polls this.
    let (_cut, cut) = watch::channel(false);
    let (_stop, stop) = watch::channel(false);
    let listener = BoundedListener::new(listener, limits, cut);
    serve(ApiListener::Plain(listener), router, limits.head, stop).await;
}

async fn serve_one(
    connection: Connection,
    address: SocketAddr,
    router: Router,
    head_max: Duration,
    stop: watch::Receiver<bool>,
) {
    let peer = connection.peer(address);
    let answer = service_fn(move |mut request: http::Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer.clone()));
        router.clone().call(request.map(Body::new))
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(head_max)
        .max_buf_size(BUFFER_BYTES_MAX);
    let mut serving = pin!(http.serve_connection(TokioIo::new(connection), answer));
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stopped(stop) => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%address, %error, "a connection has ended");
    }
}

/// Comes back once it is to stop; the sender's end is that, too.
async fn stopped(mut stop: watch::Receiver<bool>) {
    drop(stop.wait_for(|stop| *stop).await);
}
