//! `ashlar csi`: the driver of the Container Storage Interface.

use std::sync::Arc;

use anyhow::Context;
use ashlar_csi::{
    Attacher, DRIVER_NAME, DriverOptions, FuseLoop, NbdKernel, NbdServer, NodeName, NodeOptions, serve,
};

use crate::args::{AttacherArg, CsiArgs, CsiMode, IdentityArgs};
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
    let telemetry = Telemetry::start(runtime.handle(), &args.process, "csi")?;
    runtime.block_on(async {
        let options = DriverOptions {
            socket: args.endpoint,
            controller: (args.mode != CsiMode::Node).then_some(api),
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

/// The node service that is asked for, if any.
fn node(args: &CsiArgs) -> anyhow::Result<Option<NodeOptions>> {
    if args.mode == CsiMode::Controller {
        return Ok(None);
    }
    let attacher = args
        .attacher
        .context("--attacher is needed: say how this node attaches volumes")?;
    let attacher: Arc<dyn Attacher> = match attacher {
        AttacherArg::Nbd => Arc::new(
            NbdKernel::new(NbdServer(args.nbd.clone()), args.nbd_timeout)
                .context("NBD devices cannot be watched")?,
        ),
        AttacherArg::FuseLoop => Arc::new(FuseLoop::new(
            NbdServer(args.nbd.clone()),
            args.state.clone(),
        )),
    };
    let name = match &args.node_id {
        Some(name) => name.clone(),
        None => host::name()
            .parse::<NodeName>()
            .context("--node-id is needed: the host's name is none")?,
    };
    let state = args.state.clone();
    Ok(Some(NodeOptions {
        name,
        attacher,
        state,
    }))
}
