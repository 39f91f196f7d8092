//! Starting and stopping a conductor.
//!
//! Dropping a [`Conductor`] without [`Conductor::shutdown`] is a crash as far as the metadata are
//! concerned: nothing that was answered is lost.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use ashlar_identity::ConfigError;
use ashlar_proto::ClusterId;
use ashlar_proto::api::Revision;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use crate::access::AccessOptions;
use crate::access::gate::Gate;
use crate::audit_file::AuditFile;
use crate::cluster::{Cluster, ClusterError, ClusterOptions, Timing};
use crate::gauges::Observer;
use crate::http::identities::{follow_denials, take_over_denials};
use crate::http::listener::BoundedListener;
use crate::http::secure::ApiListener;
use crate::http::server::serve;
use crate::http::{Api, Hosts, Refusals, WATCHES_MAX, router};
use crate::meta::any_store::AnyStore;
use crate::meta::etcd_store::{EtcdOptions, EtcdStore};
use crate::meta::redb_store::RedbStore;
use crate::meta::{MetaError, MetaStore};
use crate::row::RowError;
use crate::runtime::TokioRuntime;
use crate::tls::ConductorTls;

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
    /// The file of the audit log cannot be opened.
    #[error("cannot open the audit file {path}: {source}")]
    AuditFile {
        /// The file.
        path: PathBuf,
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
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] ConfigError),
    /// The certificates are of another cluster than the metadata.
    #[error("the certificates are of cluster {certificates}, the metadata of {metadata}")]
    OtherCluster {
        /// Whose certificates.
        certificates: ClusterId,
        /// Whose metadata.
        metadata: ClusterId,
    },
    /// Others kept changing the metadata.
    #[error("the metadata change too fast to be read: try again")]
    Contended,
}

impl From<ClusterError> for StartError {
    fn from(error: ClusterError) -> Self {
        match error {
            ClusterError::Meta(error) => Self::Meta(error),
            ClusterError::Row(error) => Self::Row(error),
            ClusterError::Refused(_)
            | ClusterError::Contended
            | ClusterError::NotLeader { .. }
            | ClusterError::Stopping => Self::Contended,
        }
    }
}

/// A running conductor.
pub struct Conductor {
    address: SocketAddr,
    stopping: watch::Sender<bool>,
    cut: watch::Sender<bool>,
    /// Ends when the metadata are closed.
    metadata: watch::Receiver<Revision>,
    /// Gives the lead up, if it has it.
    resign: Option<Resign>,
    server: JoinHandle<()>,
    clock: JoinHandle<()>,
    observer: Observer,
}

type Resign = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Boxed by functions that are none of callers', so that all of the conductor is compiled with this crate
/// and not once more with each program that starts one.
type Starting<'a> = Pin<Box<dyn Future<Output = Result<Conductor, StartError>> + Send + 'a>>;

impl fmt::Debug for Conductor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Conductor");
        shown
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
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
        Self::start_guarded(options, timing, &AccessOptions::default()).await
    }

    /// As [`Conductor::start_with`], letting others in as told.
    ///
    /// # Errors
    /// [`StartError`] when the address, the data directory or the audit file cannot be had.
    pub async fn start_guarded(
        options: ConductorOptions,
        timing: Timing,
        access: &AccessOptions,
    ) -> Result<Self, StartError> {
        Self::start_secured(options, timing, access, None).await
    }

    /// As [`Conductor::start_guarded`]; with `tls` it speaks TLS, and lets in whom that says.
    ///
    /// # Errors
    /// [`StartError`] when the address, the data directory or the audit file cannot be had, or the
    /// certificates not used.
    pub async fn start_secured(
        options: ConductorOptions,
        timing: Timing,
        access: &AccessOptions,
        tls: Option<ConductorTls>,
    ) -> Result<Self, StartError> {
        Self::starting_on_file(options, timing, access, tls).await
    }

    #[inline(never)]
    fn starting_on_file(
        options: ConductorOptions,
        timing: Timing,
        access: &AccessOptions,
        tls: Option<ConductorTls>,
    ) -> Starting<'_> {
        Box::pin(async move {
            let ConductorOptions { data_dir, listen } = options;
            let bound = bind(listen).await?;
            let store = AnyStore::File(RedbStore::open(data_dir).await?);
            let hosts = Hosts::of(None);
            Self::serve(store, bound, hosts, timing, access, tls).await
        })
    }

    /// One of several conductors, on metadata in etcd. `advertise` is where its API is reached by those
    /// that others send here, as `http://HOST:PORT`; its own address where there is none.
    ///
    /// # Errors
    /// [`StartError`] when the address cannot be had or etcd does not answer.
    pub async fn start_on_etcd(
        etcd: &EtcdOptions,
        listen: SocketAddr,
        advertise: Option<String>,
        timing: Timing,
    ) -> Result<Self, StartError> {
        let access = AccessOptions::default();
        Self::start_secured_on_etcd(etcd, listen, advertise, timing, &access, None).await
    }

    /// As [`Conductor::start_on_etcd`], letting others in as told; with `tls` it speaks TLS, and lets in
    /// whom that says.
    ///
    /// # Errors
    /// [`StartError`] when the address or the audit file cannot be had, etcd does not answer, or the
    /// certificates cannot be used.
    pub async fn start_secured_on_etcd(
        etcd: &EtcdOptions,
        listen: SocketAddr,
        advertise: Option<String>,
        timing: Timing,
        access: &AccessOptions,
        tls: Option<ConductorTls>,
    ) -> Result<Self, StartError> {
        Self::starting_on_etcd(etcd, listen, advertise, timing, access, tls).await
    }

    #[inline(never)]
    fn starting_on_etcd<'a>(
        etcd: &'a EtcdOptions,
        listen: SocketAddr,
        advertise: Option<String>,
        timing: Timing,
        access: &'a AccessOptions,
        tls: Option<ConductorTls>,
    ) -> Starting<'a> {
        Box::pin(async move {
            let bound = bind(listen).await?;
            let (_, address) = bound;
            let scheme = if tls.is_some() { "https" } else { "http" };
            let api = advertise.unwrap_or_else(|| format!("{scheme}://{address}"));
            let hosts = Hosts::of(Some(&api));
            let store = AnyStore::Etcd(EtcdStore::open(etcd, Some(api)).await?);
            Self::serve(store, bound, hosts, timing, access, tls).await
        })
    }

    async fn serve(
        store: AnyStore,
        (listener, address): (TcpListener, SocketAddr),
        hosts: Hosts,
        timing: Timing,
        access: &AccessOptions,
        tls: Option<ConductorTls>,
    ) -> Result<Self, StartError> {
        let audit_file = open_audit_file(access)?;
        let metadata = store.revisions();
        let certified = tls.as_ref().map(|tls| tls.cluster);
        let fresh = certified.map_or_else(fresh_id, Ok)?;
        let options = ClusterOptions {
            timing,
            ..ClusterOptions::new(fresh)
        };
        let runtime = Arc::new(TokioRuntime::start());
        let cluster = Cluster::open(store.clone(), runtime, options).await?;
        refuse_other(certified, cluster.id())?;
        let resign: Resign = Box::pin(async move { store.resign().await });
        let stopping = watch::Sender::new(false);
        let clock = tokio::spawn(keep_time(Arc::clone(&cluster), stopping.subscribe()));
        let observer = Observer::of(&cluster);
        let api = Api {
            cluster,
            stopping: stopping.subscribe(),
            watches: Arc::new(Semaphore::new(WATCHES_MAX)),
            gate: Gate::new(access),
            hosts,
            audit_file,
            refusals: Refusals::default(),
            tls,
        };
        let api = Arc::new(api);
        let cut = watch::Sender::new(false);
        let listener = BoundedListener::new(listener, access.limits, cut.subscribe());
        let listener = secure(listener, address, api.tls.as_ref())?;
        if api.tls.is_some() {
            take_over_denials(&api);
            tokio::spawn(follow_denials(Arc::clone(&api)));
        }
        let (head_max, stop) = (access.limits.head, stopping.subscribe());
        let server = tokio::spawn(serve(listener, router(api), head_max, stop));
        Ok(Self {
            address,
            stopping,
            cut,
            metadata,
            resign: Some(resign),
            server,
            clock,
            observer,
        })
    }

    /// Where the API listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A view on it, as long as it runs.
    #[must_use]
    pub fn observer(&self) -> Observer {
        self.observer.clone()
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
        if let Some(resign) = self.resign.take() {
            resign.await;
        }
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

/// The file of the audit log, if there is one to be: opened anew at each SIGHUP.
fn open_audit_file(access: &AccessOptions) -> Result<Option<AuditFile>, StartError> {
    let Some(path) = access.audit_file.clone() else {
        return Ok(None);
    };
    let failed = |source| StartError::AuditFile {
        path: path.clone(),
        source,
    };
    let file = AuditFile::open(path.clone()).map_err(failed)?;
    let mut hangups = signal(SignalKind::hangup()).map_err(failed)?;
    let kept = file.clone();
    tokio::spawn(async move {
        while hangups.recv().await.is_some() {
            kept.open_anew();
        }
    });
    Ok(Some(file))
}

/// The listener with TLS on it, where that is wanted.
fn secure(
    listener: BoundedListener,
    address: SocketAddr,
    tls: Option<&ConductorTls>,
) -> Result<ApiListener, StartError> {
    let Some(tls) = tls else {
        return Ok(ApiListener::Plain(listener));
    };
    let secured = ApiListener::tls(listener, tls.server()?);
    secured.map_err(|source| StartError::Listen { address, source })
}

fn refuse_other(certificates: Option<ClusterId>, metadata: ClusterId) -> Result<(), StartError> {
    match certificates {
        Some(certificates) if certificates != metadata => Err(StartError::OtherCluster {
            certificates,
            metadata,
        }),
        _ => Ok(()),
    }
}

/// Listens; gives the address that it is.
async fn bind(listen: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let bound = TcpListener::bind(listen).await;
    let listener = bound.map_err(|source| match source.kind() {
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
    Ok((listener, address))
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
