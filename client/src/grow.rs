//! An attached volume that grows: its new shards are taken over as at attach, then its new size is
//! served.
//!
//! ```text
//! map with a larger size ─▶ open, window, table on the new shards ─▶ commit who answered ─▶ settle
//!                                 ▲                                                           │
//!                                 └── failed, or window or table are others by now ───────────┤
//!                                                                     in one turn: serve ◀────┘
//! ```
//!
//! Invariants: no request reaches a block before the shard that it lies in is served; when a shard is
//! served, its replicas know the window that writes carry, the one that comes next if it is being
//! recorded, and the layer table that the others go by. The last shard needs nothing: the conductor
//! tells a size once all of every set have grown to it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::time::Duration;

use ashlar_proto::Seq;
use ashlar_proto::api::{Attachment, Revision, VolumeMap};

use crate::attach::{self, AttachError, Unserved};
use crate::block_device::Geometry;
use crate::map;
use crate::peer::{Peer, PeerKey};
use crate::signal::Signal;
use crate::source::SourceError;
use crate::takeover::{Takeover, TakeoverError};
use crate::volume::{Core, Phase};

/// The pause before another try, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// The last map with a size that is not served yet.
#[derive(Default)]
pub(crate) struct Growth {
    map: RefCell<Option<VolumeMap>>,
    /// Raised when there is one.
    wanted: Signal,
}

/// Why new shards are not served yet.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Map(#[from] AttachError),
    #[error("the new shards cannot be taken over yet: {0:?}")]
    Takeover(TakeoverError),
    #[error("window or layers have changed meanwhile")]
    Moved,
    #[error("the volume is let go")]
    Left,
}

impl Growth {
    /// Takes in what the conductor says of the volume.
    pub(crate) fn note(&self, core: &Core, map: &VolumeMap) {
        if map.volume.size_bytes.get() > core.geometry.get().size_bytes {
            self.map.replace(Some(map.clone()));
            self.wanted.raise();
        }
    }
}

/// Serves what a volume grows by for as long as it is attached.
pub(crate) async fn run(core: Weak<Core>) {
    let mut pause = PAUSE_MIN;
    loop {
        let Some(strong) = core.upgrade().filter(|core| core.is_running()) else {
            return;
        };
        let (reactor, growth) = (strong.reactor.clone(), Rc::clone(&strong.growth));
        let moment = growth.wanted.moment();
        let Some(map) = growth.map.take() else {
            drop(strong);
            growth.wanted.raised_since(moment).await;
            continue;
        };
        match adopt(&strong, map).await {
            Ok(()) => pause = PAUSE_MIN,
            Err(failure) => {
                tracing::info!(volume = %strong.name, %failure, "new size is not served yet");
                drop(strong);
                let _elapsed = reactor
                    .timeout(pause, growth.wanted.raised_since(moment))
                    .await;
                pause = (pause * 2).min(PAUSE_MAX);
                look_again(&core).await;
            }
        }
    }
}

/// Asks for the map as it stands: after a try that failed, sets and epochs may be others.
async fn look_again(core: &Weak<Core>) {
    loop {
        let Some(strong) = core.upgrade().filter(|core| core.is_running()) else {
            return;
        };
        let (reactor, source) = (strong.reactor.clone(), Rc::clone(&strong.source));
        let name = strong.name.clone();
        drop(strong);
        match source.map(&name, Revision::default()).await {
            Ok(map) => {
                if let Some(strong) = core.upgrade().filter(|core| core.is_running()) {
                    map::take_note(&strong, map);
                }
                return;
            }
            Err(SourceError::Unchanged) => {}
            Err(_) => reactor.sleep(PAUSE_MAX).await,
        }
    }
}

/// Takes the new shards of a map over and serves its size.
async fn adopt(core: &Rc<Core>, map: VolumeMap) -> Result<(), Failure> {
    let mut grant = Attachment {
        cluster: core.cluster,
        volume: map.volume.clone(),
        disks: map.disks.clone(),
        revision: map.revision,
    };
    attach::layout(&grant)?;
    grant.volume.shards.drain(..core.shards().len());
    let known = core.peers.borrow().clone();
    let mut peers: BTreeMap<PeerKey, Rc<Peer>> = known
        .iter()
        .map(|peer| (peer.key().clone(), Rc::clone(peer)))
        .collect();
    let mut candidates = attach::candidates(&core.reactor, &grant, &core.options, &mut peers)?;
    let is_known = |peer: &Rc<Peer>| known.iter().any(|known| Rc::ptr_eq(known, peer));
    let new: Vec<Rc<Peer>> = peers.into_values().filter(|peer| !is_known(peer)).collect();
    let mut unserved = Unserved(new.clone());
    let window = core.seqs.borrow().window_ahead();
    let takeover = Takeover {
        reactor: core.reactor.clone(),
        source: Rc::clone(&core.source),
        name: core.name.clone(),
        volume: core.id,
        generation: core.generation,
        table: (*core.layers.table()).clone(),
        window: Some(window),
        patience: core.options.attach_patience,
        deadline: core.reactor.now() + core.options.attach_timeout,
        peers: Vec::new(),
    };
    if !candidates.is_empty() {
        let taken = takeover.run(&mut candidates).await;
        taken.map_err(Failure::Takeover)?;
    }
    // From here in one turn: no window begins, and no table is told, without the new shards.
    if core.phase.get() != Phase::Serving {
        return Err(Failure::Left);
    }
    let is_same_table = core.layers.table().version == takeover.table.version;
    if core.seqs.borrow().window_ahead() != window || !is_same_table {
        return Err(Failure::Moved);
    }
    unserved.0.clear();
    core.peers.borrow_mut().extend(new);
    attach::take_in(core, candidates, Seq::NONE);
    let size_bytes = map.volume.size_bytes.get();
    core.geometry.set(Geometry {
        size_bytes,
        ..core.geometry.get()
    });
    // What came of the new shards meanwhile was for nobody.
    if core.news.borrow().is_none() {
        core.news.replace(Some(map));
    }
    core.lacking.raise();
    tracing::info!(volume = %core.name, size_bytes, "volume has grown");
    Ok(())
}
