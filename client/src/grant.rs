//! A grant of the conductor, given back unless the volume comes to be served under it: else the
//! volume would be shown as attached by nobody who lives.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use ashlar_proto::api::{DetachRequest, Volume};
use ashlar_reactor::Reactor;

use crate::signal::Promise;
use crate::source::{ClusterSource, SourceError};

/// How long the conductor is asked to take a grant back. A later attach can do without.
const GIVE_BACK: Duration = Duration::from_secs(3);

const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// See the module. Dropped, it is given back by a task of its own.
pub(crate) struct Grant<C: ClusterSource> {
    reactor: Reactor,
    source: Rc<C>,
    name: String,
    request: DetachRequest,
    is_served: Cell<bool>,
    given_back: Promise<()>,
}

impl<C: ClusterSource> Grant<C> {
    /// The grant that the conductor's answer told of.
    pub(crate) fn new(reactor: &Reactor, source: Rc<C>, name: &str, volume: &Volume) -> Self {
        Self {
            reactor: reactor.clone(),
            source,
            name: name.to_owned(),
            request: DetachRequest {
                volume: volume.id,
                generation: volume.generation,
                served: false,
                settled: false,
            },
            is_served: Cell::new(false),
            given_back: Promise::new(),
        }
    }

    /// The volume is served: an owner detaches it one day.
    pub(crate) fn keep(self) {
        self.is_served.set(true);
    }

    /// Gives it back; waits no longer than is worth it.
    pub(crate) async fn give_back(self) {
        let given_back = self.given_back.clone();
        drop(self);
        given_back.kept().await;
    }
}

impl<C: ClusterSource> Drop for Grant<C> {
    fn drop(&mut self) {
        if self.is_served.get() {
            return;
        }
        let (reactor, source) = (self.reactor.clone(), Rc::clone(&self.source));
        let (name, request) = (std::mem::take(&mut self.name), self.request.clone());
        let given_back = self.given_back.clone();
        drop(self.reactor.spawn(async move {
            let detached = detach(&reactor, &*source, &name, &request);
            if reactor.timeout(GIVE_BACK, detached).await.is_err() {
                tracing::warn!(volume = %name, generation = %request.generation,
                    "the conductor did not take the grant of a failed attach back: the volume \
                     shows as attached until it is attached again by force");
            }
            given_back.keep(());
        }));
    }
}

async fn detach(
    reactor: &Reactor,
    source: &impl ClusterSource,
    name: &str,
    request: &DetachRequest,
) {
    while let Err(SourceError::Unreachable) = source.detach(name, request).await {
        reactor.sleep(RETRY_PAUSE).await;
    }
}
