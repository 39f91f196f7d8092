//! `ashlar conductor`: the conductor as a process of its own.

use anyhow::Context;
use ashlar_conductor::{Conductor, ConductorOptions, Timing};

use crate::args::ConductorArgs;
use crate::{etcd, gate, signals};

/// Runs until SIGINT or SIGTERM.
pub fn run(args: ConductorArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let timing = Timing {
            rebuild_after: args.rebuild_after,
            owner_silence: args.owner_silence,
            ..Timing::default()
        };
        let access = gate::options(&args.gate)?;
        gate::warn(&access, args.listen);
        let conductor = match args.data {
            Some(data_dir) => {
                let listen = args.listen;
                let options = ConductorOptions { data_dir, listen };
                Conductor::start_guarded(options, timing, &access).await
            }
            None => {
                let etcd = etcd::options(&args.etcd)?;
                let advertise = args.advertise;
                let listen = args.listen;
                Conductor::start_on_etcd_guarded(&etcd, listen, advertise, timing, &access).await
            }
        };
        let conductor = conductor.context("cannot start the conductor")?;
        tracing::info!(api = %format!("http://{}", conductor.address()), "conductor serves");
        signals::stop_requested().await?;
        tracing::info!("stopping");
        conductor.shutdown().await;
        Ok(())
    })
}
