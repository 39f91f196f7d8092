//! `ashlar up`: conductor, stores, NBD and iSCSI server in one process.
//!
//! ```text
//! tokio threads     conductor ── HTTP ── store agents, cluster source
//!                                              │ bounded channels
//! this thread       NBD, iSCSI ── owners ── local: links ── stores ── disks     (one reactor)
//!                                 repair owners ──┘
//! ```
//!
//! Order of the end: the servers drain, volumes are detached, agents and repair owners end,
//! stores checkpoint.
//! The conductor stops last, for detaching needs it.

use std::fs::{File, TryLockError};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use ashlar_client::{RepairOwners, RepairTasks, VolumeOptions};
use ashlar_conductor::{Conductor, ConductorOptions, Timing};
use ashlar_proto::Address;
use ashlar_proto::api::Secret;
use ashlar_reactor::channel::remote;
use ashlar_reactor::future::join_all;
use ashlar_reactor::{DiskOptions, Reactor};
use ashlar_store::{StoreHandle, StoreOptions, StoreService};
use tokio::runtime::Handle;

use crate::args::{IdentityArgs, IscsiChoice, UpArgs};
use crate::catalog::VolumeCatalog;
use crate::cluster_source::HttpClusterSource;
use crate::conductor_role::observe;
use crate::nbd_role::Front;
use crate::output::print_text;
use crate::store_agent::{AgentOptions, StoreAgent};
use crate::target_catalog::ClusterTargets;
use crate::telemetry::{OwnersSource, StoreSource, Telemetry};
use crate::{credentials, disk, gate, host, identity, iscsi_role, runtime, signals};
use ashlar_api_client::{ApiClient, Token};

/// The name of a store's disk in its directory.
const DISK_FILE: &str = "disk";

/// Runs until SIGINT or SIGTERM.
pub fn run(args: UpArgs, who: &IdentityArgs) -> anyhow::Result<()> {
    if !who.insecure {
        // Its processes are one: there is nobody else to show an identity to.
        let nobody = IdentityArgs::default();
        identity::refuse_open(&nobody, "the API of `ashlar up`", &Address::Tcp(args.api))?;
    }
    let data = match &args.data {
        Some(data) => data.clone(),
        None => default_data_dir()?,
    };
    let _lock = lock_data_dir(&data)?;
    let disks = disks(&args, &data)?;
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("ashlar-control")
        .enable_all()
        .build()?;
    let options = ConductorOptions {
        data_dir: data.join("conductor"),
        listen: args.api,
    };
    let timing = Timing {
        rebuild_after: args.rebuild_after,
        owner_silence: args.owner_silence,
        ..Timing::default()
    };
    let telemetry = Telemetry::start(tokio.handle(), &args.process, "up")?;
    let secret = process_secret()?;
    let mut access = gate::options(&args.gate)?;
    access.process_secret = Some(secret.clone());
    gate::warn(&access, args.api);
    let conductor = Conductor::start_guarded(options, timing, &access);
    let conductor = tokio.block_on(conductor).context("--api")?;
    observe(&telemetry, &conductor);
    let stop = signals::stop_channel(tokio.handle())?;
    let cluster = Cluster {
        telemetry,
        api: credentials::client_showing(
            &format!("http://{}", conductor.address()),
            Token::fixed(secret),
        )?,
        api_url: format!("http://{}", conductor.address()),
        control: tokio.handle().clone(),
        disks,
        args: &args,
    };
    let served = runtime::run(&args.reactor, |reactor| cluster.serve(reactor, stop));
    tokio.block_on(conductor.shutdown());
    served
}

/// By which the other roles of this process are let in: known to it alone.
fn process_secret() -> anyhow::Result<Secret> {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| anyhow!("the system gives no randomness"))?;
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Secret::new(digits))
}

/// Where everything is kept unless told otherwise.
fn default_data_dir() -> anyhow::Result<PathBuf> {
    let var = |name: &str| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    var("XDG_DATA_HOME")
        .or_else(|| var("HOME").map(|home| home.join(".local/share")))
        .map(|base| base.join("ashlar"))
        .context("neither HOME nor XDG_DATA_HOME is set: give --data DIR")
}

/// Makes the directory and takes it for this process alone.
fn lock_data_dir(dir: &Path) -> anyhow::Result<File> {
    // The metadata in there have secrets.
    let mut builder = std::fs::DirBuilder::new();
    let made = builder.recursive(true).mode(0o700).create(dir);
    made.with_context(|| format!("cannot make {}", dir.display()))?;
    let path = dir.join("lock");
    let lock = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => bail!(
            "{} is in use by another `ashlar up`: stop it, or give another --data DIR",
            dir.display()
        ),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}

/// A store to run.
struct StorePlan {
    name: String,
    disk: PathBuf,
    /// Whether the disk is a file that this command may make.
    own: bool,
}

/// One store for each disk given, else one for each directory in `data` and as many as asked for.
fn disks(args: &UpArgs, data: &Path) -> anyhow::Result<Vec<StorePlan>> {
    if !args.disk.is_empty() {
        let plan = |(index, disk): (usize, &PathBuf)| StorePlan {
            name: format!("store-{}", index + 1),
            disk: disk.clone(),
            own: false,
        };
        return Ok(args.disk.iter().enumerate().map(plan).collect());
    }
    let name = |number: u16| format!("store-{number}");
    let path = |number: u16| data.join(name(number)).join(DISK_FILE);
    let present = (1..=u16::MAX)
        .take_while(|&number| path(number).exists())
        .count();
    let count = args.stores.max(u16::try_from(present)?);
    Ok((1..=count)
        .map(|n| StorePlan {
            name: name(n),
            disk: path(n),
            own: true,
        })
        .collect())
}

/// Everything but the conductor, about to run on one reactor.
struct Cluster<'a> {
    telemetry: Telemetry,
    api: ApiClient,
    api_url: String,
    control: Handle,
    disks: Vec<StorePlan>,
    args: &'a UpArgs,
}

impl Cluster<'_> {
    async fn serve(&self, reactor: Reactor, stop: remote::Receiver<()>) -> anyhow::Result<()> {
        self.telemetry.add_reactor("0", reactor.remote());
        let mut stores = Vec::new();
        for plan in &self.disks {
            let store = self.start_store(&reactor, plan).await?;
            let source = StoreSource::new(&plan.name, store.handle.control());
            self.telemetry.add_source(source);
            stores.push(store);
        }
        let local: Vec<(Address, Address)> = stores
            .iter()
            .map(|s| (s.address.clone(), s.local.clone()))
            .collect();
        let source = HttpClusterSource::new(self.api.clone(), &self.control);
        let (mut agents, mut repairs) = (Vec::new(), Vec::new());
        for (plan, store) in self.disks.iter().zip(&stores) {
            let (source, local) = (source.clone(), local.clone());
            let (owners, tasks) = RepairOwners::start(&reactor, source, &plan.name, local);
            agents.push(self.start_agent(plan, &store.handle, tasks));
            repairs.push(owners);
        }
        let owner = host::owner("up");
        let mut options = VolumeOptions::new(owner.clone());
        // What this directory's last run had attached is this run's to take: the lock on the
        // directory shows that it has ended.
        options.force = true;
        options.local = local;
        self.args.scrub.apply(&mut options);
        let catalog = VolumeCatalog::new(&reactor, source.clone(), options);
        self.telemetry
            .add_source(OwnersSource::new(&reactor, &catalog));
        let front = Front::start(&reactor, &catalog, &self.args.nbd, &self.args.tls).await?;
        let targets = ClusterTargets::new(&reactor, source, catalog.clone(), true);
        let choice = IscsiChoice::of(&self.args.iscsi);
        let iscsi = iscsi_role::Front::choose(&reactor, targets.clone(), &choice).await?;
        let (nbd_at, iscsi_at) = (front.addresses(), iscsi.addresses());
        if !iscsi_at.is_empty() {
            let name = format!("up-{}", host::server_name());
            targets.take_part(&name, &owner, &[], &iscsi_at);
        }
        self.announce(&reactor, &nbd_at, &iscsi_at, &stop).await?;
        self.telemetry.serves();
        stop.recv().await;
        self.telemetry.stops();
        tracing::info!("stopping: draining requests, detaching volumes, checkpointing stores");
        let stops: [Pin<Box<dyn Future<Output = ()>>>; 2] =
            [Box::pin(front.stop()), Box::pin(iscsi.stop())];
        join_all(stops).await;
        catalog.detach_all().await;
        targets.leave(&owner).await;
        for agent in agents {
            self.control.spawn(agent.stop());
        }
        join_all(repairs.into_iter().map(RepairOwners::stop)).await;
        for store in stores {
            if store.handle.control().stop().await.is_ok() {
                store.handle.stopped().await;
            }
        }
        Ok(())
    }

    async fn start_store(&self, reactor: &Reactor, plan: &StorePlan) -> anyhow::Result<Running> {
        if plan.own && !plan.disk.exists() {
            disk::make(reactor, &plan.disk, self.args.disk_size).await?;
        }
        let local = Address::Local(plan.name.clone());
        let loopback: Address = "127.0.0.1:0".parse()?;
        let options = StoreOptions {
            disks: vec![DiskOptions::new(&plan.disk)],
            listen: vec![local.clone(), loopback],
            maps: Some(self.args.map_cache.budget(self.disks.len())),
            ..StoreOptions::default()
        };
        let started = StoreService::start(reactor, options).await;
        let handle = started.with_context(|| format!("cannot start {}", plan.name))?;
        let address = handle
            .addresses()
            .iter()
            .find(|a| matches!(a, Address::Tcp(_)))
            .cloned();
        let address = address.context("the store listens at no TCP port")?;
        Ok(Running {
            handle,
            address,
            local,
        })
    }

    fn start_agent(
        &self,
        plan: &StorePlan,
        store: &StoreHandle,
        repairs: RepairTasks,
    ) -> StoreAgent {
        let address = store
            .addresses()
            .iter()
            .find(|a| matches!(a, Address::Tcp(_)));
        let options = AgentOptions {
            name: plan.name.clone(),
            address: address
                .cloned()
                .unwrap_or(Address::Local(plan.name.clone())),
            labels: std::collections::BTreeMap::new(),
        };
        let (api, control) = (self.api.clone(), store.control());
        StoreAgent::start(&self.control, api, options, control, repairs)
    }

    /// Waits until the stores have registered, then says where everything is.
    async fn announce(
        &self,
        reactor: &Reactor,
        nbd: &[Address],
        iscsi: &[Address],
        stop: &remote::Receiver<()>,
    ) -> anyhow::Result<()> {
        let deadline = reactor.now() + Duration::from_secs(30);
        while self.stores_up().await? < self.disks.len() {
            if stop.is_closed() {
                return Ok(());
            }
            ensure!(
                reactor.now() < deadline,
                "the stores do not register: see the log above"
            );
            reactor.sleep(Duration::from_millis(20)).await;
        }
        let list = |addresses: &[Address]| {
            let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            texts.join(", ")
        };
        let iscsi = match iscsi {
            [] => String::new(),
            addresses => format!("iSCSI {}, ", list(addresses)),
        };
        print_text(&format!(
            "ashlar is up: API {}, NBD {}, {iscsi}{} stores. Ctrl-C stops it.",
            self.api_url,
            list(nbd),
            self.disks.len()
        ))
    }

    async fn stores_up(&self) -> anyhow::Result<usize> {
        let (answer, answers) = remote::bounded(1);
        let api = self.api.clone();
        self.control.spawn(async move {
            let status = api.status().await;
            let _ = answer.try_send(status);
        });
        let status = answers
            .recv()
            .await
            .context("the control threads have ended")??;
        Ok(usize::try_from(status.nodes_up)?)
    }
}

/// A store that runs.
struct Running {
    handle: StoreHandle,
    /// Where other processes reach it.
    address: Address,
    /// Where owners on this reactor reach it.
    local: Address,
}
