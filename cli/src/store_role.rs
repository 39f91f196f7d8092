//! `ashlar store`: a store as a process of its own.
//!
//! ```text
//! tokio thread             store agent ── HTTP ── conductor
//!                              │ bounded channels
//! first thread             accepts, routes, serves its lanes; repair owners
//!                              │ bounded channels
//! ashlar-io-1, -2, …       serve theirs
//! ```

use std::time::Duration;

use anyhow::Context;
use ashlar_client::RepairOwners;
use ashlar_proto::Address;
use ashlar_proto::api::DiskReport;
use ashlar_reactor::channel::remote;
use ashlar_reactor::future::{Either, race};
use ashlar_reactor::{DiskOptions, Reactor};
use ashlar_store::{StoreOptions, StoreService};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::args::{IdentityArgs, StoreArgs};
use crate::cluster_source::HttpClusterSource;
use crate::io_threads::IoThreads;
use crate::store_agent::{AgentOptions, StoreAgent};
use crate::telemetry::{StoreSource, Telemetry};
use crate::{discovery, host, identity, runtime, signals};
use ashlar_api_client::ApiClient;

/// Runs until SIGINT or SIGTERM.
pub fn run(args: StoreArgs, who: &IdentityArgs) -> anyhow::Result<()> {
    identity::refuse_open(who, "the data plane", &args.listen)?;
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("ashlar-control")
        .enable_all()
        .build()?;
    let telemetry = Telemetry::start(tokio.handle(), &args.process, "store")?;
    let stop = signals::stop_channel(tokio.handle())?;
    let name = args.name.clone().unwrap_or_else(host::name);
    identity::join(who, &name, &args.conductor, tokio.handle())?;
    let api = crate::credentials::client(&args.conductor).context("--conductor")?;
    let control = tokio.handle().clone();
    let options = runtime::options(&args.reactor);
    let threads = IoThreads::start(options, args.threads - 1)?;
    let served = runtime::run_with(options, |reactor| {
        serve(reactor, &args, &threads, (api, control, telemetry), stop)
    });
    tokio.shutdown_timeout(Duration::from_secs(1));
    // The lanes on them are closed.
    let stopped = threads.stop();
    served.and(stopped)
}

async fn serve(
    reactor: Reactor,
    args: &StoreArgs,
    threads: &IoThreads,
    (api, control, telemetry): (ApiClient, Handle, Telemetry),
    stop: remote::Receiver<()>,
) -> anyhow::Result<()> {
    telemetry.wait_for(NOT_REGISTERED);
    telemetry.add_reactor("0", reactor.remote());
    for (number, remote) in (1..).zip(threads.remotes()) {
        telemetry.add_reactor(&format!("{number}"), remote);
    }
    let disks = discovery::disks(&reactor, &args.disk, &args.filter).await?;
    let options = StoreOptions {
        disks: disks.iter().map(DiskOptions::new).collect(),
        listen: vec![args.listen.clone()],
        workers: threads.remotes(),
        maps: Some(args.map_cache.budget(1)),
        ..StoreOptions::default()
    };
    let store = StoreService::start(&reactor, options)
        .await
        .context("cannot start the store")?;
    for unreadable in store.unreadable() {
        tracing::error!("not served: {unreadable}");
    }
    let address = store
        .addresses()
        .first()
        .cloned()
        .unwrap_or(args.listen.clone());
    warn_if_unreachable(&address);
    warn_if_idle(args.threads, &store.control().report().await?);
    let agent = AgentOptions {
        name: args.name.clone().unwrap_or_else(host::name),
        address: address.clone(),
        labels: args.label.iter().cloned().collect(),
    };
    tracing::info!(name = agent.name, %address, disks = disks.len(), "store serves");
    telemetry.add_source(StoreSource::new(&agent.name, store.control()));
    let source = HttpClusterSource::new(api.clone(), &control);
    let (repairs, tasks) = RepairOwners::start(&reactor, source, &agent.name, Vec::new());
    let agent = StoreAgent::start(&control, api, agent, store.control(), tasks);
    telemetry.serves();
    control.spawn(tell_registered(agent.registered(), telemetry.clone()));
    match race(stop.recv(), threads.lost_one()).await {
        Either::First(_) => tracing::info!("stopping: draining requests, taking checkpoints"),
        Either::Second(()) => tracing::error!("a thread has ended: stopping the others"),
    }
    telemetry.stops();
    control.spawn(agent.stop());
    repairs.stop().await;
    if store.control().stop().await.is_ok() {
        store.stopped().await;
    }
    Ok(())
}

/// Why a store that has recovered is not ready yet.
const NOT_REGISTERED: &str = "no conductor has taken this store in yet";

/// Makes the store ready when it has registered.
async fn tell_registered(mut registered: watch::Receiver<bool>, telemetry: Telemetry) {
    if registered.wait_for(|registered| *registered).await.is_ok() {
        telemetry.is_there(NOT_REGISTERED);
    }
}

/// An address that means "every interface" is one that no owner can connect to.
fn warn_if_unreachable(address: &Address) {
    if let Address::Tcp(address) = address
        && address.ip().is_unspecified()
    {
        tracing::warn!(
            %address,
            "owners are told to reach this store at an address that is none: give --listen the \
             address of an interface"
        );
    }
}

/// A lane is served by one thread: there must be as many.
fn warn_if_idle(threads: u16, disks: &[DiskReport]) {
    let lanes: usize = disks.iter().map(|disk| usize::from(disk.lanes)).sum();
    if lanes < usize::from(threads) {
        tracing::warn!(
            lanes,
            threads,
            "some threads have nothing to do: their number is that of the lanes at most, see \
             `ashlar disk format --lanes`"
        );
    }
}
