//! An owner's heartbeats: the conductor learns that it lives, and which stores it reaches.
//!
//! One is due every [`PERIOD`], whatever becomes of those before: what it says is evidence among
//! other evidence, and nothing waits for it.

use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::time::Duration;

use ashlar_proto::api::{OwnerBeat, OwnerHeartbeat, PeerSeen};
use ashlar_proto::{Address, DiskId, NodeId};

use crate::volume::Core;

/// How often an owner is heard.
const PERIOD: Duration = Duration::from_secs(2);

/// A store that has answered anything within this time is reached, whatever it answered.
const REACHED_WITHIN: Duration = Duration::from_secs(15);

/// Where each disk is.
pub(crate) type Nodes = BTreeMap<DiskId, NodeId>;

/// Sends heartbeats for as long as the volume is attached.
pub(crate) async fn run(core: Weak<Core>) {
    loop {
        let Some(strong) = core.upgrade().filter(|core| core.is_running()) else {
            return;
        };
        let (reactor, source) = (strong.reactor.clone(), Rc::clone(&strong.source));
        let beat = compose(&strong);
        // An owner that is dropped meanwhile is not held.
        drop(strong);
        let sent = reactor.timeout(PERIOD, source.heartbeat(&beat)).await;
        if let Ok(Err(error)) = sent {
            tracing::debug!(%error, "the conductor does not hear this owner");
        }
        reactor.sleep(PERIOD).await;
    }
}

fn compose(core: &Core) -> OwnerHeartbeat {
    let since = core.reactor.now() - REACHED_WITHIN;
    let nodes = core.nodes.borrow();
    let mut stores: BTreeMap<NodeId, bool> = BTreeMap::new();
    for peer in core.peers.borrow().iter() {
        // That it reaches its own host says nothing of the way to it.
        let is_elsewhere = !is_here(&peer.key().address);
        if let Some(&node) = nodes.get(&peer.key().disk).filter(|_| is_elsewhere) {
            // One lane that answers shows that the others could.
            *stores.entry(node).or_default() |= peer.answered_since(since);
        }
    }
    let stores = stores.into_iter();
    OwnerHeartbeat {
        owner: core.options.owner.clone(),
        volumes: vec![OwnerBeat {
            volume: core.id,
            generation: core.generation,
        }],
        stores: stores
            .map(|(node, reached)| PeerSeen { node, reached })
            .collect(),
    }
}

/// Whether an address is surely on this host.
fn is_here(address: &Address) -> bool {
    match address {
        Address::Tcp(address) => address.ip().is_loopback(),
        Address::Unix(_) | Address::Local(_) => true,
    }
}
