//! The conductor's map of an attached volume: replicas that come, go for good, or move.
//!
//! A task follows the map; what has changed is taken over between two rounds of
//! [`crate::catch_up`], when nothing is under way for a replica that is not in sync. Invariants: a
//! slot changes hands only while its replica is in no set and nobody asks it anything; whoever is in
//! the set stays, whatever the map says, until the owner itself has proposed it away.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::time::Duration;

use ashlar_proto::api::{DiskLocation, Revision, Shard as ShardMap, VolumeMap};
use ashlar_proto::limits::SLOTS_MAX;
use ashlar_proto::{DiskId, ReplicaId, lane_of};

use crate::attach::reached_at;
use crate::hold;
use crate::peer::{LaneUser, Peer, PeerKey, PeerTimes};
use crate::quorum::{Mask, Slot};
use crate::shard::{Replica, Shard};
use crate::source::SourceError;
use crate::volume::Core;

/// The pause before a conductor that does not answer is asked again, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// The pause before the map is asked for again after news.
const NEWS_PAUSE: Duration = Duration::from_millis(25);

/// Follows the map for as long as the volume is attached.
pub(crate) async fn follow(core: Weak<Core>, mut after: Revision) {
    let mut pause = PAUSE_MIN;
    loop {
        let Some(strong) = core.upgrade().filter(|core| core.is_running()) else {
            return;
        };
        let (reactor, source) = (strong.reactor.clone(), Rc::clone(&strong.source));
        let name = strong.name.clone();
        // The wait is long: an owner that is dropped meanwhile is not held.
        drop(strong);
        let answer = source.map(&name, after).await;
        let Some(strong) = core.upgrade().filter(|core| core.is_running()) else {
            return;
        };
        match answer {
            Ok(map) if map.revision != after => {
                pause = PAUSE_MIN;
                after = map.revision;
                take_note(&strong, map);
                drop(strong);
                // Changes come in bursts: one round for all of them.
                reactor.sleep(NEWS_PAUSE).await;
            }
            // The wait ended without news.
            Ok(_) | Err(SourceError::Unchanged) => pause = PAUSE_MIN,
            // What it says of the volume is told at the next proposal. Not even that it knows none of
            // this name ends the service: it may be another conductor, for a slip of somebody's.
            Err(error) => {
                if !matches!(error, SourceError::Unreachable) {
                    tracing::warn!(volume = %strong.name, %error,
                        "the conductor does not give the map of an attached volume");
                }
                drop(strong);
                reactor.sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

pub(crate) fn take_note(core: &Core, map: VolumeMap) {
    if map.volume.id != core.id || map.volume.generation != core.generation {
        if map.volume.id != core.id || map.volume.generation > core.generation {
            core.fence();
        }
        return;
    }
    core.layers.note(&map.volume, core.reactor.now());
    hold::note(core, map.volume.hold);
    let nodes = map.disks.iter().map(|at| (at.disk, at.node)).collect();
    core.nodes.replace(nodes);
    core.growth.note(core, &map);
    core.flatten.note(&map.volume);
    core.note_settings(&map.volume.settings);
    core.news.replace(Some(map));
    core.lacking.raise();
}

/// Where each disk is.
type Disks<'a> = HashMap<DiskId, &'a DiskLocation>;

/// Takes over what the last map says that was heard.
pub(crate) fn apply(core: &Rc<Core>) {
    let Some(map) = core.news.take() else {
        return;
    };
    let disks: Disks<'_> = map.disks.iter().map(|disk| (disk.disk, disk)).collect();
    let mut is_complete = true;
    for (shard, told) in core.shards().iter().zip(&map.volume.shards) {
        is_complete &= apply_to(core, shard, told, &disks);
    }
    if !is_complete && core.news.borrow().is_none() {
        // Something is still under way: in the next round.
        core.news.replace(Some(map));
    }
}

/// Whether nothing is left to be done for the shard.
fn apply_to(core: &Rc<Core>, shard: &Rc<Shard>, told: &ShardMap, disks: &Disks<'_>) -> bool {
    let mut is_complete = true;
    let mut leaving = Mask::EMPTY;
    for (slot, replica) in shard.replicas() {
        let known = told.replicas.iter().find(|known| known.id == replica.id);
        let location = known.and_then(|known| disks.get(&known.disk).copied());
        let moved =
            location.is_some_and(|to| reached_at(to, &core.options) != replica.peer.key().address);
        if known.is_some_and(|known| known.leaving) {
            leaving = leaving.with(slot);
        }
        is_complete &= match (known, location) {
            (None, _) => vacate(core, shard, slot, &replica, true),
            (Some(_), Some(location)) if moved => relocate(core, shard, slot, &replica, location),
            _ => true,
        };
    }
    shard.leaving.set(leaving);
    for replica in &told.replicas {
        let is_known = shard.replicas().any(|(_, known)| known.id == replica.id);
        let location = disks.get(&replica.disk).copied();
        let free = (0..SLOTS_MAX).map(Slot::new);
        let free = free.filter(|slot| !shard.occupied().has(*slot)).min();
        match (location.filter(|to| to.lanes > 0), free) {
            _ if is_known => {}
            (Some(location), Some(slot)) => {
                tracing::info!(volume = %core.name, shard = %shard.index, replica = %replica.id,
                    disk = %location.disk, "replica to be caught up");
                occupy(core, shard, slot, replica.id, location);
            }
            _ => is_complete = false,
        }
    }
    is_complete
}

/// Empties a slot, if its replica is in no set and nobody asks it anything. With `is_gone` it never
/// comes back, and whatever it kept is gone with it.
fn vacate(
    core: &Rc<Core>,
    shard: &Rc<Shard>,
    slot: Slot,
    replica: &Rc<Replica>,
    is_gone: bool,
) -> bool {
    let mut log = shard.log.borrow_mut();
    let is_counted = log.quorum().targets().or(log.joining()).has(slot);
    let is_asked = shard.rising.get().or(shard.renewing.get()).has(slot);
    // Beside the slot and the caller somebody may hold it: a read under way, a repair.
    if is_counted || is_asked || Rc::strong_count(replica) > 2 {
        return false;
    }
    log.forget_all(slot);
    for pending in log.payloads_mut() {
        if is_gone {
            pending.sent.vacate(slot);
        } else {
            pending.sent.note_lost(slot);
        }
    }
    drop(log);
    shard.vacate(slot);
    leave(core, shard, slot, replica);
    tracing::info!(volume = %core.name, shard = %shard.index, replica = %replica.id, is_gone,
        "replica is elsewhere, or gone for good");
    if is_gone {
        shard.review(core);
    }
    true
}

/// Goes on with a replica where its disk is now. What it accepted elsewhere and no flush covered is
/// sent again.
fn relocate(
    core: &Rc<Core>,
    shard: &Rc<Shard>,
    slot: Slot,
    replica: &Rc<Replica>,
    to: &DiskLocation,
) -> bool {
    if vacate(core, shard, slot, replica, false) {
        occupy(core, shard, slot, replica.id, to);
        return true;
    }
    // Who brings it up where it was sees that it is elsewhere.
    if replica.peer.is_up() || shard.log.borrow().is_taking(slot) {
        return false;
    }
    shard.log.borrow_mut().forget(slot, replica.peer.durable());
    leave(core, shard, slot, replica);
    occupy(core, shard, slot, replica.id, to);
    true
}

fn occupy(core: &Core, shard: &Rc<Shard>, slot: Slot, id: ReplicaId, location: &DiskLocation) {
    let peer = peer_of(core, shard, location);
    peer.add_user(Rc::downgrade(shard) as Weak<dyn LaneUser>, slot);
    let address = location.address.clone();
    shard.set_slot(
        slot,
        Some(Rc::new(Replica {
            id,
            address,
            peer,
            table: Cell::new(0),
        })),
    );
}

/// Hears nothing more of a replica's lane; ends the session that nobody uses.
fn leave(core: &Core, shard: &Rc<Shard>, slot: Slot, replica: &Replica) {
    let user = Rc::downgrade(shard) as Weak<dyn LaneUser>;
    if !replica.peer.remove_user(&user, slot) {
        replica.peer.close();
        let mut peers = core.peers.borrow_mut();
        peers.retain(|peer| !Rc::ptr_eq(peer, &replica.peer));
    }
}

/// The session that reaches the shard's lane on a disk.
fn peer_of(core: &Core, shard: &Shard, location: &DiskLocation) -> Rc<Peer> {
    let key = PeerKey {
        address: reached_at(location, &core.options),
        node: location.node_name.clone(),
        disk: location.disk,
        lane: lane_of(core.id, shard.index, location.lanes),
    };
    let mut peers = core.peers.borrow_mut();
    if let Some(known) = peers.iter().find(|peer| *peer.key() == key) {
        return Rc::clone(known);
    }
    let times = PeerTimes::of(&core.options);
    let peer = Peer::new(&core.reactor, key, core.cluster, times);
    peers.push(Rc::clone(&peer));
    peer
}
