//! `ashlar csi`: the driver of the Container Storage Interface.

use std::sync::Arc;

use anyhow::{Context, bail};
use ashlar_csi::{
    Attach, Attacher, ByWay, ControllerOptions, DRIVER_NAME, DriverOptions, FuseLoop, Iscsi,
    NbdKernel, NbdServer, NodeLabels, NodeName, NodeOptions, NodeTopology, serve,
};

use crate::args::{AttacherArg, CsiArgs, CsiMode, IdentityArgs};
use crate::block_maps::StoreMaps;
use crate::telemetry::{Probe, Telemetry};
use crate::{host, identity, signals};

/// Runs until SIGINT or SIGTERM.
pub fn run(args: CsiArgs, who: &IdentityArgs) -> anyhow::Result<()> {
    let node = node(&args)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    identity::join(who, &host::server_name(), &args.conductor, runtime.handle())?;
    let api = crate::credentials::client(&args.conductor).context("--conductor")?;
    let controller = match args.mode {
        CsiMode::Node => None,
        CsiMode::Controller | CsiMode::All => Some(ControllerOptions {
            maps: Arc::new(StoreMaps::start(api.clone(), runtime.handle())?),
            api,
        }),
    };
    let telemetry = Telemetry::start(runtime.handle(), &args.process, "csi")?;
    runtime.block_on(async {
        let options = DriverOptions {
            socket: args.endpoint,
            controller,
            node,
        };
        tracing::info!(driver = DRIVER_NAME, socket = %options.socket.display(), "CSI driver serves");
        telemetry.add_probe("control", Probe::of(async || {}));
        telemetry.serves();
        let stop = async {
            if let Err(error) = signals::stop_requested().await {
                tracing::error!(%error, "signals cannot be waited for: stopping");
            }
            telemetry.stops();
        };
        serve(options, stop).await.context("cannot serve CSI")
    })
}

/// One way to attach, and the class of volumes that it is for.
fn attacher(args: &CsiArgs, one: AttacherArg) -> anyhow::Result<(Attach, Arc<dyn Attacher>)> {
    let server = NbdServer(args.nbd.clone());
    Ok(match one {
        AttacherArg::Nbd => {
            let kernel = NbdKernel::new(server, args.nbd_timeout);
            let kernel = kernel.context("NBD devices cannot be watched")?;
            (Attach::Nbd, Arc::new(kernel))
        }
        AttacherArg::Iscsi => (Attach::Iscsi, Arc::new(Iscsi::new(args.iscsi.clone()))),
        AttacherArg::FuseLoop => {
            let fuse_loop = FuseLoop::new(server, args.state.clone());
            (Attach::Nbd, Arc::new(fuse_loop))
        }
    })
}

/// The node service that is asked for, if any.
fn node(args: &CsiArgs) -> anyhow::Result<Option<NodeOptions>> {
    if args.mode == CsiMode::Controller {
        return Ok(None);
    }
    let ways = args.attacher.iter().map(|one| attacher(args, *one));
    let ways = ways.collect::<anyhow::Result<Vec<_>>>()?;
    if ways.is_empty() {
        bail!("--attacher is needed: say how this node attaches volumes");
    }
    let attacher = Arc::new(ByWay::new(ways));
    let name = match &args.node_id {
        Some(name) => name.clone(),
        None => host::name()
            .parse::<NodeName>()
            .context("--node-id is needed: the host's name is none")?,
    };
    let pairs = |given: &[(String, String)]| given.iter().cloned().collect();
    let of_node = match args.topology_of_node.as_slice() {
        [] => None,
        keys => Some(NodeLabels::of_pod(pairs(keys)).context("--topology-of-node")?),
    };
    let topology = NodeTopology {
        labels: pairs(&args.topology),
        of_node,
    };
    let state = args.state.clone();
    Ok(Some(NodeOptions {
        name,
        attacher,
        topology,
        state,
    }))
}
