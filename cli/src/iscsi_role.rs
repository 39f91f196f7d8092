//! `ashlar iscsi`: the iSCSI server as a process of its own; and the same inside `ashlar up`.

use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use ashlar_client::VolumeOptions;
use ashlar_iscsi_server::{IscsiOptions, IscsiServer, Limits};
use ashlar_proto::Address;
use ashlar_reactor::channel::remote;
use ashlar_reactor::{NetError, Reactor};
use nix::errno::Errno;
use tokio::runtime::Handle;

use crate::args::{ISCSI_LISTEN, IdentityArgs, IscsiArgs, IscsiChoice};
use crate::catalog::VolumeCatalog;
use crate::cluster_source::HttpClusterSource;
use crate::target_catalog::ClusterTargets;
use crate::telemetry::{OwnersSource, Telemetry};
use crate::{host, identity, runtime, signals};
use ashlar_api_client::ApiClient;

/// How long a command waits for a conductor that does not answer, where its volume is not attached yet:
/// initiators give a command half a minute, and retry what becomes ready.
const CONDUCTOR_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs until SIGINT or SIGTERM.
pub fn run(args: IscsiArgs, who: &IdentityArgs) -> anyhow::Result<()> {
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("ashlar-control")
        .enable_all()
        .build()?;
    let telemetry = Telemetry::start(tokio.handle(), &args.process, "iscsi")?;
    let stop = signals::stop_channel(tokio.handle())?;
    let name = args.name.clone().unwrap_or_else(host::server_name);
    identity::join(who, &name, &args.conductor, tokio.handle())?;
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
    args: &IscsiArgs,
    (api, control, telemetry): (ApiClient, Handle, Telemetry),
    stop: remote::Receiver<()>,
) -> anyhow::Result<()> {
    let owner = host::owner("iscsi");
    let mut options = VolumeOptions::new(owner.clone());
    options.force = args.force_attach;
    options.conductor_timeout = CONDUCTOR_TIMEOUT;
    args.scrub.apply(&mut options);
    let source = HttpClusterSource::new(api, &control);
    let catalog = VolumeCatalog::new(&reactor, source.clone(), options);
    let targets = ClusterTargets::new(&reactor, source, catalog.clone(), args.all_volumes);
    telemetry.add_reactor("0", reactor.remote());
    telemetry.add_source(OwnersSource::new(&reactor, &catalog));
    let front = Front::start(&reactor, targets.clone(), &args.listen).await?;
    for address in front.addresses() {
        tracing::info!(%address, "iSCSI server serves");
    }
    let name = args.name.clone().unwrap_or_else(host::server_name);
    targets.take_part(&name, &owner, &args.portal, &front.addresses());
    telemetry.serves();
    stop.recv().await;
    telemetry.stops();
    tracing::info!("stopping: draining commands, detaching volumes");
    front.stop().await;
    catalog.detach_all().await;
    targets.leave(&owner).await;
    Ok(())
}

/// The iSCSI server at all its addresses.
pub struct Front {
    server: Option<IscsiServer>,
}

impl Front {
    /// Begins to serve `targets`.
    ///
    /// # Errors
    /// An address that cannot be listened at.
    pub async fn start(
        reactor: &Reactor,
        targets: ClusterTargets,
        addresses: &[Address],
    ) -> anyhow::Result<Self> {
        let server = listen(reactor, targets, addresses).await;
        let server = server.context("cannot serve iSCSI")?;
        Ok(Self {
            server: Some(server),
        })
    }

    /// The same for `ashlar up`: nowhere, where that was asked for; and not at the usual address if
    /// somebody else is there, but with a word on it.
    ///
    /// # Errors
    /// An address that was given and cannot be listened at.
    pub async fn choose(
        reactor: &Reactor,
        targets: ClusterTargets,
        choice: &IscsiChoice,
    ) -> anyhow::Result<Self> {
        match choice {
            IscsiChoice::Given(none) if none.is_empty() => Ok(Self { server: None }),
            IscsiChoice::Given(addresses) => Self::start(reactor, targets, addresses).await,
            IscsiChoice::Usual => {
                let usual = [ISCSI_LISTEN.parse()?];
                match listen(reactor, targets, &usual).await {
                    Err(error) if is_taken(&error) => {
                        tracing::warn!(
                            "iSCSI is not served: another program listens at {ISCSI_LISTEN}; give \
                             --iscsi IP:PORT for another address, or --iscsi none"
                        );
                        Ok(Self { server: None })
                    }
                    other => {
                        let server = Some(other.context("cannot serve iSCSI")?);
                        Ok(Self { server })
                    }
                }
            }
        }
    }

    /// Where it listens.
    pub fn addresses(&self) -> Vec<Address> {
        let server = self.server.as_ref();
        server.map_or_else(Vec::new, IscsiServer::local_addresses)
    }

    /// Ends all connections, after the commands in flight.
    pub async fn stop(self) {
        if let Some(server) = self.server {
            server.stop().await;
        }
    }
}

async fn listen(
    reactor: &Reactor,
    targets: ClusterTargets,
    addresses: &[Address],
) -> Result<IscsiServer, NetError> {
    let mut limits = Limits::default();
    // Of the process, however many addresses it listens at.
    limits.bytes_in_flight_all /= u64::try_from(addresses.len().max(1)).unwrap_or(u64::MAX);
    let options = IscsiOptions {
        limits,
        portals: Vec::new(),
    };
    IscsiServer::serve(reactor, addresses, Rc::new(targets), options).await
}

fn is_taken(error: &NetError) -> bool {
    let NetError::Listen { error, .. } = error else {
        return false;
    };
    Errno::from_raw(error.errno()) == Errno::EADDRINUSE
}
