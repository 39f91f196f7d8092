//! Starting and stopping a conductor.
//!
//! Dropping a [`Conductor`] without [`Conductor::shutdown`] is a crash as far as the metadata are
//! concerned: nothing that was answered is lost.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ashlar_proto::ClusterId;
use ashlar_proto::api::Revision;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use crate::cluster::{Cluster, ClusterError, ClusterOptions, Timing};
use crate::http::listener::BoundedListener;
use crate::http::{Api, WATCHES_MAX, router};
use crate::meta::redb_store::RedbStore;
use crate::meta::{MetaError, MetaStore};
use crate::row::RowError;
use crate::runtime::TokioRuntime;

/// How long a stop waits for requests in progress before it cuts their connections, and then for
/// what they began.
const STOP_WAIT: Duration = Duration::from_secs(3);

/// What a conductor needs to know.
#[derive(Clone, Debug)]
pub struct ConductorOptions {
    /// The directory of its metadata; made where it is missing.
    pub data_dir: PathBuf,
    /// Where the API listens; port 0 takes a free one.
    pub listen: SocketAddr,
}

/// A conductor cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is taken.
    #[error(
        "{address} is in use: another conductor or program listens there; stop it or choose \
         another address"
    )]
    AddressInUse {
        /// The address.
        address: SocketAddr,
    },
    /// The address cannot be listened at.
    #[error("cannot listen at {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The metadata cannot be opened.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// The metadata cannot be understood.
    #[error(transparent)]
    Row(#[from] RowError),
    /// The system gives no random numbers for a new cluster's id.
    #[error("no randomness for the cluster's id: {0}")]
    Random(getrandom::Error),
    /// Others kept changing the metadata.
    #[error("the metadata change too fast to be read: try again")]
    Contended,
}

impl From<ClusterError> for StartError {
    fn from(error: ClusterError) -> Self {
        match error {
            ClusterError::Meta(error) => Self::Meta(error),
            ClusterError::Row(error) => Self::Row(error),
            ClusterError::Refused(_) | ClusterError::Contended | ClusterError::Stopping => {
                Self::Contended
            }
        }
    }
}

/// A running conductor.
#[derive(Debug)]
pub struct Conductor {
    address: SocketAddr,
    stopping: watch::Sender<bool>,
    cut: watch::Sender<bool>,
    /// Ends when the metadata are closed.
    metadata: watch::Receiver<Revision>,
    server: JoinHandle<()>,
    clock: JoinHandle<()>,
}

impl Conductor {
    /// Opens the metadata, listens and serves. To be called in a tokio runtime.
    ///
    /// # Errors
    /// [`StartError`] when the address or the data directory cannot be had.
    pub async fn start(options: ConductorOptions) -> Result<Self, StartError> {
        Self::start_with(options, Timing::default()).await
    }

    /// As [`Conductor::start`], with other times than usual.
    ///
    /// # Errors
    /// [`StartError`] when the address or the data directory cannot be had.
    pub async fn start_with(options: ConductorOptions, timing: Timing) -> Result<Self, StartError> {
        let ConductorOptions { data_dir, listen } = options;
        let listener = TcpListener::bind(listen)
            .await
            .map_err(|source| match source.kind() {
                io::ErrorKind::AddrInUse => StartError::AddressInUse { address: listen },
                _ => StartError::Listen {
                    address: listen,
                    source,
                },
            })?;
        let local = listener.local_addr();
        let address = local.map_err(|source| StartError::Listen {
            address: listen,
            source,
        })?;
        let store = RedbStore::open(data_dir).await?;
        let metadata = store.revisions();
        let options = ClusterOptions {
            timing,
            ..ClusterOptions::new(fresh_id()?)
        };
        let runtime = Arc::new(TokioRuntime::start());
        let cluster = Cluster::open(store, runtime, options).await?;
        let stopping = watch::Sender::new(false);
        let clock = tokio::spawn(keep_time(Arc::clone(&cluster), stopping.subscribe()));
        let api = Api {
            cluster,
            stopping: stopping.subscribe(),
            watches: Arc::new(Semaphore::new(WATCHES_MAX)),
        };
        let mut stop = stopping.subscribe();
        let cut = watch::Sender::new(false);
        let listener = BoundedListener::new(listener, cut.subscribe());
        let server = axum::serve(listener, router(api)).with_graceful_shutdown(async move {
            let _ = stop.wait_for(|stopping| *stopping).await;
        });
        let server = tokio::spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(%error, "the API has stopped");
            }
        });
        Ok(Self {
            address,
            stopping,
            cut,
            metadata,
            server,
            clock,
        })
    }

    /// Where the API listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends watches and waits, finishes what is in progress, and closes the metadata.
    pub async fn shutdown(mut self) {
        self.stopping.send_replace(true);
        if tokio::time::timeout(STOP_WAIT, &mut self.server)
            .await
            .is_err()
        {
            tracing::info!("cutting connections that are idle in the middle of a request");
        }
        self.cut.send_replace(true);
        let closed = async { while self.metadata.changed().await.is_ok() {} };
        self.server.abort();
        if tokio::time::timeout(STOP_WAIT, closed).await.is_err() {
            tracing::warn!("the metadata are still in use: some request does not end");
        }
    }
}

impl Drop for Conductor {
    fn drop(&mut self) {
        self.stopping.send_replace(true);
        self.cut.send_replace(true);
        self.server.abort();
        self.clock.abort();
    }
}

fn fresh_id() -> Result<ClusterId, StartError> {
    loop {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(StartError::Random)?;
        let id = ClusterId::new(u128::from_le_bytes(bytes));
        if id != ClusterId::default() {
            return Ok(id);
        }
    }
}

/// Looks for silent nodes until the conductor stops.
async fn keep_time<M: MetaStore>(cluster: Arc<Cluster<M>>, mut stopping: watch::Receiver<bool>) {
    tokio::select! {
        () = cluster.keep_time() => {}
        _ = stopping.wait_for(|stopping| *stopping) => {}
    }
}
