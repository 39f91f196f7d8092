//! `ashlar conductor`: the conductor as a process of its own.

use anyhow::Context;
use ashlar_conductor::{Conductor, ConductorOptions, Timing};

use crate::args::ConductorArgs;
use crate::telemetry::{ConductorSource, Probe, Telemetry};
use crate::{etcd, signals};

/// Runs until SIGINT or SIGTERM.
pub fn run(args: ConductorArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let telemetry = Telemetry::start(runtime.handle(), &args.process, "conductor")?;
    runtime.block_on(async {
        let timing = Timing {
            rebuild_after: args.rebuild_after,
            owner_silence: args.owner_silence,
            ..Timing::default()
        };
        let conductor = match args.data {
            Some(data_dir) => {
                let listen = args.listen;
                Conductor::start_with(ConductorOptions { data_dir, listen }, timing).await
            }
            None => {
                let etcd = etcd::options(&args.etcd)?;
                let advertise = args.advertise;
                Conductor::start_on_etcd(&etcd, args.listen, advertise, timing).await
            }
        };
        let conductor = conductor.context("cannot start the conductor")?;
        tracing::info!(api = %format!("http://{}", conductor.address()), "conductor serves");
        observe(&telemetry, &conductor);
        telemetry.serves();
        signals::stop_requested().await?;
        telemetry.stops();
        tracing::info!("stopping");
        conductor.shutdown().await;
        Ok(())
    })
}

/// Has `telemetry` tell of the conductor: it is ready while somebody leads, and lives while its state can
/// be looked at.
pub fn observe(telemetry: &Telemetry, conductor: &Conductor) {
    let observer = conductor.observer();
    telemetry.add_source(ConductorSource::new(observer.clone()));
    let asked = observer.clone();
    telemetry.add_condition(move || asked.leader().err());
    let alive = Probe::of(move || {
        let observer = observer.clone();
        async move { drop(observer.leader()) }
    });
    telemetry.add_probe("conductor", alive);
}
