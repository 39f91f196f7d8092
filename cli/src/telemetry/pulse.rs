//! Whether a process lives: each of its reactors is sent a word and answers it.
//!
//! A timer that says "alive" proves that the timer is. An answer that a reactor gave in its loop proves
//! that its tasks get their turns.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ashlar_reactor::Remote;
use tokio::sync::oneshot;

use super::lock;

type Ask = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// What is asked whether it lives.
#[derive(Clone)]
pub enum Probe {
    /// A reactor.
    Reactor(Remote),
    /// Anything else: it lives if this ends.
    Future(Ask),
}

impl Probe {
    /// Of what lives if the future ends.
    pub fn of<F: Future<Output = ()> + Send + 'static>(
        ask: impl Fn() -> F + Send + Sync + 'static,
    ) -> Self {
        Self::Future(Arc::new(move || Box::pin(ask())))
    }

    /// Whether it answers.
    async fn answers(&self) -> bool {
        match self {
            Self::Reactor(reactor) => {
                let (answer, answered) = oneshot::channel();
                let sent = reactor.spawn(Box::new(move |_| {
                    let _ = answer.send(());
                }));
                sent.is_ok() && answered.await.is_ok()
            }
            Self::Future(ask) => {
                ask().await;
                true
            }
        }
    }
}

/// See the module.
#[derive(Default)]
pub struct Pulse {
    probes: Mutex<Vec<(String, Probe)>>,
}

impl Pulse {
    /// Asks this, too.
    pub fn add(&self, name: &str, probe: Probe) {
        lock(&self.probes).push((name.to_owned(), probe));
    }

    /// Asks all, within `limit` together.
    ///
    /// # Errors
    /// The names of those that did not answer.
    pub async fn feel(&self, limit: Duration) -> Result<(), Vec<String>> {
        let probes = lock(&self.probes).clone();
        let deadline = tokio::time::Instant::now() + limit;
        let mut asked = Vec::new();
        for (name, probe) in probes {
            asked.push((name, tokio::spawn(async move { probe.answers().await })));
        }
        let mut silent = Vec::new();
        for (name, mut answer) in asked {
            let answered = tokio::time::timeout_at(deadline, &mut answer).await;
            if !matches!(answered, Ok(Ok(true))) {
                answer.abort();
                silent.push(name);
            }
        }
        if silent.is_empty() {
            Ok(())
        } else {
            Err(silent)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ashlar_reactor::{Engine, RuntimeOptions};

    fn limit() -> Duration {
        Duration::from_millis(200)
    }

    #[test]
    fn a_reactor_that_is_stuck_has_no_pulse() {
        let tokio = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let pulse = Arc::new(Pulse::default());
        let options = RuntimeOptions::new(Engine::Aio);
        ashlar_reactor::run(options, async |reactor| {
            pulse.add("reactor", Probe::Reactor(reactor.remote()));
            let (answer, answers) = ashlar_reactor::channel::remote::bounded(1);
            let felt = Arc::clone(&pulse);
            tokio.spawn(async move {
                let _ = answer.try_send(felt.feel(Duration::from_secs(10)).await);
            });
            assert_eq!(answers.recv().await, Some(Ok(())));
            // This blocks the thread, and with it the reactor.
            let felt = tokio.block_on(pulse.feel(limit()));
            assert_eq!(felt, Err(vec!["reactor".to_owned()]));
        })
        .unwrap();
        // It has stopped.
        let felt = tokio.block_on(pulse.feel(limit()));
        assert_eq!(felt, Err(vec!["reactor".to_owned()]));
    }

    #[tokio::test]
    async fn what_never_ends_does_not_live() {
        let pulse = Pulse::default();
        pulse.add("conductor", Probe::of(async || {}));
        assert_eq!(pulse.feel(limit()).await, Ok(()));
        pulse.add("clock", Probe::of(std::future::pending));
        assert_eq!(pulse.feel(limit()).await, Err(vec!["clock".to_owned()]));
    }
}
