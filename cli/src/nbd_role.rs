//! `ashlar nbd`: the NBD server as a process of its own; and the same inside `ashlar up`.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use ashlar_client::VolumeOptions;
use ashlar_nbd_server::{Limits, NbdOptions, NbdServer, PskServer, Tls, TlsServer, tls_config};
use ashlar_proto::Address;
use ashlar_reactor::Reactor;
use ashlar_reactor::channel::remote;
use rustls::ServerConfig;
use tokio::runtime::Handle;

use crate::args::{IdentityArgs, NbdArgs, TlsArgs};
use crate::catalog::VolumeCatalog;
use crate::cluster_source::HttpClusterSource;
use crate::psk_file::PskFile;
use crate::telemetry::{OwnersSource, Telemetry};
use crate::{host, identity, runtime, signals};
use ashlar_api_client::ApiClient;

/// Runs until SIGINT or SIGTERM.
pub fn run(args: NbdArgs, who: &IdentityArgs) -> anyhow::Result<()> {
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("ashlar-control")
        .enable_all()
        .build()?;
    let telemetry = Telemetry::start(tokio.handle(), &args.process, "nbd")?;
    let stop = signals::stop_channel(tokio.handle())?;
    identity::join(who, &host::server_name(), &args.conductor, tokio.handle())?;
    let api = crate::credentials::client(&args.conductor).context("--conductor")?;
    let control = tokio.handle().clone();
    let served = runtime::run(&args.reactor, |reactor| {
        serve(reactor, &args, (api, control, telemetry), stop)
    });
    tokio.shutdown_timeout(Duration::from_secs(1));
    served
}

async fn serve(
    reactor: Reactor,
    args: &NbdArgs,
    (api, control, telemetry): (ApiClient, Handle, Telemetry),
    stop: remote::Receiver<()>,
) -> anyhow::Result<()> {
    let mut options = VolumeOptions::new(host::owner("nbd"));
    options.force = args.force_attach;
    args.scrub.apply(&mut options);
    let source = HttpClusterSource::new(api, &control);
    let catalog = VolumeCatalog::new(&reactor, source, options);
    telemetry.add_reactor("0", reactor.remote());
    telemetry.add_source(OwnersSource::new(&reactor, &catalog));
    let front = Front::start(&reactor, &catalog, &args.listen, &args.tls).await?;
    for address in front.addresses() {
        tracing::info!(%address, "NBD server serves");
    }
    telemetry.serves();
    stop.recv().await;
    telemetry.stops();
    tracing::info!("stopping: draining requests, detaching volumes");
    front.stop().await;
    catalog.detach_all().await;
    Ok(())
}

/// The NBD server at all its addresses.
pub struct Front {
    servers: Vec<NbdServer>,
}

impl Front {
    /// Begins to serve the volumes of `catalog`.
    ///
    /// # Errors
    /// An address that cannot be listened at; certificates that cannot be used.
    pub async fn start(
        reactor: &Reactor,
        catalog: &VolumeCatalog,
        addresses: &[Address],
        tls: &TlsArgs,
    ) -> anyhow::Result<Self> {
        let mut limits = Limits::default();
        // Of the process, however many addresses it listens at.
        limits.bytes_in_flight_all /= u64::try_from(addresses.len().max(1))?;
        let options = NbdOptions {
            tls: tls_mode(tls)?,
            limits,
        };
        let catalog = Rc::new(catalog.clone());
        let mut servers = Vec::new();
        for address in addresses {
            let server = NbdServer::serve(reactor, address, Rc::clone(&catalog), options.clone());
            servers.push(
                server
                    .await
                    .with_context(|| format!("cannot serve NBD at {address}"))?,
            );
        }
        Ok(Self { servers })
    }

    /// Where it listens.
    pub fn addresses(&self) -> Vec<Address> {
        self.servers.iter().map(NbdServer::local_address).collect()
    }

    /// Ends all connections, after the requests in flight.
    pub async fn stop(self) {
        for server in self.servers {
            server.stop().await;
        }
    }
}

/// How the server uses TLS, by its arguments.
///
/// # Errors
/// Certificates or keys that cannot be used.
pub fn tls_mode(args: &TlsArgs) -> anyhow::Result<Tls> {
    let server = match (&args.tls_certificates, &args.tls_psk) {
        (Some(dir), _) => TlsServer::Certificates(certificates(dir, args.tls_verify_peer)?),
        (None, Some(path)) => {
            let name = || format!("--tls-psk {}", path.display());
            let file = PskFile::open(path).with_context(name)?;
            let server = PskServer::new(Arc::new(file)).with_context(name)?;
            TlsServer::PreSharedKeys(Arc::new(server))
        }
        (None, None) => return Ok(Tls::Off),
    };
    Ok(if args.tls_require {
        Tls::Require(server)
    } else {
        Tls::Allow(server)
    })
}

fn certificates(dir: &Path, verify_peer: bool) -> anyhow::Result<Arc<ServerConfig>> {
    let read = |name: &str| {
        let path = dir.join(name);
        std::fs::read(&path).with_context(|| format!("--tls-certificates: {}", path.display()))
    };
    let authority = verify_peer.then(|| read("ca-cert.pem")).transpose()?;
    let (certificates, key) = (read("server-cert.pem")?, read("server-key.pem")?);
    let config = tls_config(&certificates, &key, authority.as_deref());
    config.with_context(|| format!("--tls-certificates {}", dir.display()))
}
