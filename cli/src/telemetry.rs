//! What a process tells of itself: `/metrics`, `/healthz` and `/readyz`, and systemd's notifications.
//!
//! Invariants: all of it runs on the control side; a reactor is only asked how it is, and counts into
//! memory of its own ([`ashlar_reactor::meters`]). Nothing that is told names a secret. A process that
//! was not asked for metrics listens nowhere.
//!
//! ```text
//! reactors ── meters ──┐
//! store, owners, conductor ── sources ──▶ exposition ──▶ GET /metrics
//! readiness ──▶ GET /readyz, READY=1          pulse ──▶ GET /healthz, WATCHDOG=1
//! ```

mod conductor;
mod exposition;
mod io;
mod listener;
mod owners;
mod process;
mod pulse;
mod readiness;
mod service_manager;
mod store;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use ashlar_reactor::Remote;
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};

pub use conductor::ConductorSource;
use exposition::{Exposition, Family};
pub use owners::OwnersSource;
pub use pulse::Probe;
use pulse::Pulse;
use readiness::Readiness;
use service_manager::ServiceManager;
pub use store::StoreSource;

use crate::args::ProcessArgs;
use crate::{logging, settings};

/// Where families of metrics come from.
pub trait Source: Send + Sync + 'static {
    /// What it has to tell now. It ends soon, whatever it asks.
    fn collect(&self) -> Pin<Box<dyn Future<Output = Vec<Family>> + Send + '_>>;
}

/// A process's own word. Clones are the same.
#[derive(Clone)]
pub struct Telemetry(Arc<Inner>);

struct Inner {
    role: &'static str,
    control: Handle,
    reactors: Mutex<Vec<(String, Remote)>>,
    sources: Mutex<Vec<Arc<dyn Source>>>,
    readiness: Readiness,
    pulse: Pulse,
    manager: ServiceManager,
}

impl Telemetry {
    /// Listens where it is asked to, on `control`, and tells systemd if that wants to hear. The process
    /// is not ready yet.
    ///
    /// # Errors
    /// An address that cannot be listened at.
    pub fn start(control: &Handle, args: &ProcessArgs, role: &'static str) -> anyhow::Result<Self> {
        let telemetry = Self(Arc::new(Inner {
            role,
            control: control.clone(),
            reactors: Mutex::default(),
            sources: Mutex::default(),
            readiness: Readiness::starting(),
            pulse: Pulse::default(),
            manager: ServiceManager::from_environment(),
        }));
        if let Some(address) = args.metrics {
            telemetry.listen(address)?;
        }
        if let Some(config) = args.config.clone() {
            let _context = control.enter();
            let hang_up = signal(SignalKind::hangup())?;
            control.spawn(reload(telemetry.clone(), hang_up, config));
        }
        if let Some(period) = telemetry.0.manager.watchdog_period() {
            control.spawn(watch(telemetry.clone(), period));
        }
        Ok(telemetry)
    }

    fn listen(&self, address: SocketAddr) -> anyhow::Result<()> {
        let bound = std::net::TcpListener::bind(address);
        let listener = bound.with_context(|| format!("--metrics {address}"))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let _context = self.0.control.enter();
        let listener = tokio::net::TcpListener::from_std(listener)?;
        tracing::info!(metrics = %format!("http://{address}/metrics"), "metrics are served");
        self.0
            .control
            .spawn(listener::serve(listener, self.clone()));
        Ok(())
    }

    /// Counts what this reactor counts, and asks it whether it lives.
    pub fn add_reactor(&self, name: &str, reactor: Remote) {
        let probe = Probe::Reactor(reactor.clone());
        self.0.pulse.add(name, probe);
        lock(&self.0.reactors).push((name.to_owned(), reactor));
    }

    /// Asks this, too, whether it lives.
    pub fn add_probe(&self, name: &str, probe: Probe) {
        self.0.pulse.add(name, probe);
    }

    /// Tells what this has to tell, too.
    pub fn add_source(&self, source: impl Source) {
        lock(&self.0.sources).push(Arc::new(source));
    }

    /// Whether it is ready depends on this, too: it says why not, or nothing.
    pub fn add_condition(&self, condition: impl Fn() -> Option<String> + Send + Sync + 'static) {
        self.0.readiness.add(condition);
    }

    /// Waits for something else before it is ready.
    pub fn wait_for(&self, what: &'static str) {
        self.0.readiness.wait_for(what);
    }

    /// That is there. The service manager is told when nothing is waited for any more.
    pub fn is_there(&self, what: &'static str) {
        if self.0.readiness.is_there(what) {
            self.0.manager.ready();
        }
    }

    /// What was begun with is there: the process serves, as far as nothing else is waited for.
    pub fn serves(&self) {
        self.is_there(readiness::START);
    }

    /// The process ends: it is not ready any more.
    pub fn stops(&self) {
        self.0.readiness.stop();
        self.0.manager.stopping();
    }

    /// Everything, as Prometheus reads it.
    async fn expose(&self) -> String {
        let mut exposition = Exposition::default();
        let reactors = lock(&self.0.reactors).clone();
        for family in process::families(self.0.role)
            .into_iter()
            .chain(io::families(&reactors))
            .chain([self.readiness_family()])
        {
            exposition.add(family);
        }
        let sources = lock(&self.0.sources).clone();
        for source in sources {
            for family in source.collect().await {
                exposition.add(family);
            }
        }
        exposition.to_string()
    }

    fn readiness_family(&self) -> Family {
        let mut family = Family::gauge(
            "ashlar_ready",
            "Whether the process serves: 1, or 0 as /readyz says why.",
        );
        let is_ready = self.0.readiness.reasons().is_empty();
        family.push(&[], u64::from(is_ready));
        family
    }
}

/// Reads what can change while the process runs from its settings file, each time that it is told to.
async fn reload(telemetry: Telemetry, mut hang_up: Signal, config: PathBuf) {
    while hang_up.recv().await.is_some() {
        telemetry.0.manager.reloading();
        match settings::log_filter(&config) {
            Some(filter) => {
                logging::show(&filter);
                tracing::info!(filter, "what is logged was read anew");
            }
            None => tracing::info!(config = %config.display(), "nothing there that can change"),
        }
        telemetry.0.manager.ready();
    }
}

/// Tells the watchdog of systemd that the process lives, as long as all of it does.
async fn watch(telemetry: Telemetry, period: std::time::Duration) {
    loop {
        tokio::time::sleep(period / 2).await;
        match telemetry.0.pulse.feel(period / 4).await {
            Ok(()) => telemetry.0.manager.lives(),
            Err(silent) => tracing::error!("does not answer: {}", silent.join(", ")),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
