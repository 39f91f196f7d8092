//! Attaching a volume for a transfer: stopped by a signal, taken from a run that was killed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow};
use ashlar_client::{AttachError, Snapshot, SourceError, Volume, VolumeOptions};
use ashlar_reactor::Reactor;
use ashlar_reactor::channel::{Notify, remote};

use crate::args::ReactorArgs;
use crate::cluster_source::HttpClusterSource;
use crate::exported::Exported;
use crate::{host, runtime, signals};

/// What owners that import, export and make smaller are called.
pub const IMPORT: &str = "import";
pub const EXPORT: &str = "export";
pub const SHRINK: &str = "shrink";

/// How long a front end may take to let go of a volume that its last client has left.
const LET_GO: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Which volume, and as whom.
pub struct Access<'a> {
    pub api: &'a str,
    pub name: &'a str,
    /// [`IMPORT`], [`EXPORT`] or [`SHRINK`].
    pub role: &'static str,
    pub reactor: &'a ReactorArgs,
}

/// Whether the transfer was asked to stop.
#[derive(Clone)]
pub struct Stop {
    requested: Arc<AtomicBool>,
    /// Raised on the reactor when it is.
    raised: Notify,
}

impl Stop {
    fn watch(reactor: &Reactor, signal: remote::Receiver<()>) -> Self {
        let stop = Self {
            requested: Arc::default(),
            raised: Notify::new(),
        };
        let watching = stop.clone();
        drop(reactor.spawn(async move {
            if signal.recv().await.is_some() {
                watching.requested.store(true, Ordering::Relaxed);
                watching.raised.notify_all();
            }
        }));
        stop
    }

    /// Whether it was.
    pub fn is_requested(&self) -> bool {
        self.requested.load(Ordering::Relaxed)
    }

    /// The same for another thread.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.requested)
    }

    /// Completes when it is.
    pub async fn requested(&self) {
        while !self.is_requested() {
            self.raised.notified().await;
        }
    }
}

/// Attaches a volume, works with it, and detaches it; a snapshot is only opened.
///
/// # Errors
/// Those of `work`; attaching fails as the conductor or the replicas say.
pub fn with_volume<T>(
    access: &Access<'_>,
    work: impl AsyncFnOnce(Reactor, Exported, Stop) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("ashlar-control")
        .enable_all()
        .build()?;
    let client =
        crate::credentials::client(access.api).with_context(|| format!("--api {}", access.api))?;
    let source = HttpClusterSource::new(client, tokio.handle());
    let signal = signals::stop_channel(tokio.handle())?;
    let result = runtime::run(access.reactor, async |reactor: Reactor| {
        let stop = Stop::watch(&reactor, signal);
        let opened = open(&reactor, source, access).await;
        let opened = opened.with_context(|| format!("cannot attach {}", access.name))?;
        let result = work(reactor, opened.clone(), stop).await;
        let detached = opened.let_go().await;
        // What went wrong before says more.
        let done = result?;
        detached.with_context(|| format!("cannot detach {}", access.name))?;
        Ok(done)
    });
    tokio.shutdown_timeout(Duration::from_secs(1));
    result
}

async fn open(
    reactor: &Reactor,
    source: HttpClusterSource,
    access: &Access<'_>,
) -> anyhow::Result<Exported> {
    let Some((volume, snapshot)) = access.name.split_once('@') else {
        return Ok(Exported::Volume(attach(reactor, source, access).await?));
    };
    let options = VolumeOptions::new(host::owner(access.role));
    let opened = Snapshot::open(reactor, source, volume, snapshot, options).await?;
    Ok(Exported::Snapshot(opened))
}

async fn attach(
    reactor: &Reactor,
    source: HttpClusterSource,
    access: &Access<'_>,
) -> Result<Volume, AttachError> {
    let mut options = VolumeOptions::new(host::owner(access.role));
    // Scrubs are for volumes that stay attached.
    options.scrub_interval = Duration::ZERO;
    let deadline = reactor.now() + LET_GO;
    loop {
        let attached = Volume::attach(reactor, source.clone(), access.name, options.clone()).await;
        let owner = match &attached {
            Err(AttachError::Source(SourceError::Attached { owner })) => owner.to_string(),
            _ => return attached,
        };
        if !options.force && is_gone(&owner) {
            tracing::info!(owner, "taking the volume from a run that is no more");
            options.force = true;
        } else if reactor.now() < deadline {
            reactor.sleep(LOOK_AGAIN).await;
        } else {
            return attached;
        }
    }
}

/// Whether `owner` is a transfer on this host whose process is no more: killed, it could not detach,
/// and until it has been silent for long the volume looks attached.
fn is_gone(owner: &str) -> bool {
    let at_host = format!("@{} pid ", host::name());
    let run = [IMPORT, EXPORT].iter().find_map(|role| {
        let rest = owner.strip_prefix(role)?;
        rest.strip_prefix(&at_host)
    });
    let pid = run
        .and_then(|rest| rest.split(' ').next())
        .and_then(|pid| pid.parse::<u32>().ok());
    pid.is_some_and(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists())
}

/// Does what blocks, on a thread of its own.
///
/// # Errors
/// Those of `work`.
pub async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let (sender, receiver) = remote::bounded(1);
    std::thread::Builder::new()
        .name("ashlar-files".to_owned())
        .spawn(move || {
            // Nobody waits for it any more: nobody needs it.
            let _ = sender.try_send(work());
        })?;
    let done = receiver.recv().await;
    done.unwrap_or_else(|| Err(anyhow!("the thread for files has ended")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_dead_runs_of_this_host_are_gone() {
        let own = host::owner(IMPORT);
        assert!(!is_gone(&own), "{own}");
        let dead = |role| format!("{role}@{} pid 4194399 17f", host::name());
        assert!(is_gone(&dead(IMPORT)) && is_gone(&dead(EXPORT)));
        assert!(!is_gone(&dead("nbd")));
        assert!(!is_gone("import@elsewhere pid 4194399 17f"));
        assert!(!is_gone("import@host pid x"));
    }
}
