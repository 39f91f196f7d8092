//! `ashlar conductor`: the conductor as a process of its own.

use anyhow::Context;
use ashlar_conductor::{Conductor, ConductorOptions, Timing};
use ashlar_proto::Address;

use crate::args::{ConductorArgs, IdentityArgs};
use crate::telemetry::{ConductorSource, Probe, Telemetry};
use crate::{etcd, gate, identity, signals};

/// Runs until SIGINT or SIGTERM.
pub fn run(args: ConductorArgs, who: &IdentityArgs) -> anyhow::Result<()> {
    identity::refuse_open(who, "the API", &Address::Tcp(args.listen))?;
    let conducting = identity::conduct(who, args.authority.certificate_ttl)?;
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
        let access = gate::options(&args.gate)?;
        gate::warn(&access, args.listen);
        let tls = conducting.as_ref().map(|conducting| conducting.tls.clone());
        let scheme = if tls.is_some() { "https" } else { "http" };
        let conductor = match args.data {
            Some(data_dir) => {
                let listen = args.listen;
                let options = ConductorOptions { data_dir, listen };
                Conductor::start_secured(options, timing, &access, tls).await
            }
            None => {
                let etcd = etcd::options(&args.etcd)?;
                let advertise = args.advertise;
                let listen = args.listen;
                Conductor::start_secured_on_etcd(&etcd, listen, advertise, timing, &access, tls)
                    .await
            }
        };
        let conductor = conductor.context("cannot start the conductor")?;
        if let Some(conducting) = conducting {
            tokio::spawn(conducting.keep());
        }
        tracing::info!(api = %format!("{scheme}://{}", conductor.address()), "conductor serves");
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
