//! Starting reactors for roles and commands.

use std::future::Future;
use std::time::Duration;

use anyhow::Context;
use ashlar_client::{Snapshot, Volume, VolumeOptions};
use ashlar_reactor::{Engine, Reactor, RuntimeOptions, probe_engine};

use crate::args::{EngineArg, ReactorArgs, SnapshotName};
use crate::cluster_source::HttpClusterSource;
use crate::{host, identity};

/// Reactor options from the command line; warns where the preferred engine is not to be had.
pub fn options(args: &ReactorArgs) -> RuntimeOptions {
    let requested = args.engine.map(|engine| match engine {
        EngineArg::IoUring => Engine::IoUring,
        EngineArg::Aio => Engine::Aio,
    });
    let (engine, warning) = probe_engine(requested);
    if let Some(warning) = warning {
        tracing::warn!("{warning}");
    }
    RuntimeOptions {
        spin: Duration::from_micros(args.spin_us),
        ..RuntimeOptions::new(engine)
    }
}

/// Runs `main` on a reactor of this thread.
///
/// # Errors
/// Those of `main`, and the engine's refusal.
pub fn run<T, F: Future<Output = anyhow::Result<T>>>(
    args: &ReactorArgs,
    main: impl FnOnce(Reactor) -> F,
) -> anyhow::Result<T> {
    run_with(options(args), main)
}

/// The same with options that [`options`] has given, for a role of several threads.
///
/// # Errors
/// Those of `main`, and the engine's refusal.
pub fn run_with<T, F: Future<Output = anyhow::Result<T>>>(
    options: RuntimeOptions,
    main: impl FnOnce(Reactor) -> F,
) -> anyhow::Result<T> {
    let secured = |reactor: Reactor| {
        identity::secure(&reactor);
        main(reactor)
    };
    ashlar_reactor::run(options, secured)
        .with_context(|| format!("cannot start the {} engine", options.engine))?
}

/// Attaches a volume, works with it, and detaches it.
///
/// # Errors
/// Those of `work`; attaching fails as the conductor or the replicas say.
pub fn with_volume<T, F: Future<Output = anyhow::Result<T>>>(
    api: &str,
    name: &str,
    args: &ReactorArgs,
    work: impl FnOnce(Reactor, Volume) -> F,
) -> anyhow::Result<T> {
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("ashlar-control")
        .enable_all()
        .build()?;
    let client = crate::credentials::client(api).with_context(|| format!("--api {api}"))?;
    let source = HttpClusterSource::new(client, tokio.handle());
    let result = run(args, async |reactor: Reactor| {
        let options = VolumeOptions::new(host::owner("bench"));
        let volume = Volume::attach(&reactor, source, name, options).await;
        let volume = volume.with_context(|| format!("cannot attach {name}"))?;
        let result = work(reactor, volume.clone()).await;
        volume
            .detach()
            .await
            .with_context(|| format!("cannot detach {name}"))?;
        result
    });
    tokio.shutdown_timeout(Duration::from_secs(1));
    result
}

/// Opens a snapshot and works with it.
///
/// # Errors
/// Those of `work`; opening fails as the conductor says.
pub fn with_snapshot<T>(
    api: &str,
    name: &SnapshotName,
    args: &ReactorArgs,
    work: impl AsyncFnOnce(Reactor, Snapshot) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("ashlar-control")
        .enable_all()
        .build()?;
    let client = crate::credentials::client(api).with_context(|| format!("--api {api}"))?;
    let source = HttpClusterSource::new(client, tokio.handle());
    let result = run(args, async |reactor: Reactor| {
        let options = VolumeOptions::new(host::owner("snapshot"));
        let (volume, snapshot) = (&name.volume, &name.snapshot);
        let opened = Snapshot::open(&reactor, source, volume, snapshot, options).await;
        let opened = opened.with_context(|| format!("cannot open {name}"))?;
        work(reactor, opened).await
    });
    tokio.shutdown_timeout(Duration::from_secs(1));
    result
}
