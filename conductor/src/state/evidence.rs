//! What follows from what stores and owners say of each other: who serves although the conductor does
//! not hear it, who does not although it does, and which owners are gone.
//!
//! Invariants: those who are missed are the fewer of all nodes, and judged by the others: where the
//! network falls apart nobody can say which part is the cluster. An owner is gone only where neither the conductor has heard it for its silence, nor so
//! many replicas of each shard that the rest could not acknowledge a write: whoever serves anybody
//! is not taken for gone, however the network is cut. Nothing is lost where that errs: who comes back
//! is fenced.

use std::collections::{BTreeMap, BTreeSet};

use ashlar_proto::api::{PeerSeen, PeerTarget, VolumeState, repair_owner};
use ashlar_proto::{DiskId, Generation, NodeId, VolumeId};

use super::ClusterState;
use crate::evidence::{Evidence, Sighting, Weight, Witness};
use crate::live::Live;
use crate::membership::Moment;
use crate::row::{DiskRow, ShardRow, VolumeRow};

/// Stores that each store watches: the next ones by id, so that each is watched by as many.
const PEERS_WATCHED: usize = 3;

const _: () = assert!(PEERS_WATCHED <= ashlar_proto::api::PEERS_WATCHED_MAX);

/// What the evidence says at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Judgment {
    /// What is said of each node, where anything is.
    weights: BTreeMap<NodeId, Weight>,
    /// Nodes that those who should use them mostly do not reach.
    missed: BTreeSet<NodeId>,
    /// Attached volumes whose owner is gone.
    gone: BTreeSet<(VolumeId, Generation)>,
}

impl Judgment {
    /// What is said of a node.
    pub(crate) fn weight(&self, node: NodeId) -> Weight {
        self.weights.get(&node).copied().unwrap_or_default()
    }

    /// Whether those who should use a node mostly do not reach it.
    pub(crate) fn is_missed(&self, node: NodeId) -> bool {
        self.missed.contains(&node)
    }

    /// Whether the owner that was granted that generation is gone.
    pub(crate) fn is_owner_gone(&self, volume: VolumeId, generation: Generation) -> bool {
        self.gone.contains(&(volume, generation))
    }
}

impl ClusterState {
    /// What follows from the evidence now.
    pub(crate) fn judge(&self, evidence: &Evidence, now: Moment) -> Judgment {
        let mut weights = evidence.weights(now, &BTreeSet::new());
        weights.retain(|node, _| self.nodes.contains_key(node));
        // Who is missed is no witness against others.
        let suspects = self.missed_of(&weights);
        let missed = if suspects.is_empty() {
            suspects
        } else {
            &self.missed_of(&evidence.weights(now, &suspects)) & &suspects
        };
        let gone = self.attached_volumes();
        let gone = gone.filter(|volume| self.has_lost_owner(evidence, now, volume));
        Judgment {
            weights,
            missed,
            gone: gone.map(|volume| (volume.id, volume.generation)).collect(),
        }
    }

    /// The nodes that are missed, where they are fewer than the others that are up.
    fn missed_of(&self, weights: &BTreeMap<NodeId, Weight>) -> BTreeSet<NodeId> {
        let missed = weights.iter().filter(|(_, weight)| weight.is_missed());
        let missed: BTreeSet<NodeId> = missed.map(|(node, _)| *node).collect();
        let others = self.nodes.values().filter(|node| node.up);
        let others = others.filter(|node| !missed.contains(&node.id)).count();
        if others > missed.len() {
            missed
        } else {
            BTreeSet::new()
        }
    }

    /// Who says what an owner says: a repair owner speaks for its node.
    pub(crate) fn witness(&self, owner: &str) -> Witness {
        let mut nodes = self.nodes.values();
        let of_node = nodes.find(|node| repair_owner(&node.name) == owner);
        of_node.map_or_else(
            || Witness::Owner(owner.to_owned()),
            |node| Witness::Node(node.id),
        )
    }

    /// The disks that do not serve: their nodes are heard neither by the conductor nor by anybody
    /// else, or are heard by the conductor only, or they have failed.
    pub(crate) fn disks_away(&self, live: &Live) -> BTreeSet<DiskId> {
        let away = self.disks.iter().filter(|(_, row)| {
            let weight = live.judgment.weight(row.node);
            let is_up = self.is_up(row.node);
            let is_cut_off = if is_up {
                live.judgment.is_missed(row.node)
            } else {
                !weight.is_reached()
            };
            row.report.failed.is_some() || !self.nodes.contains_key(&row.node) || is_cut_off
        });
        away.map(|(disk, _)| *disk).collect()
    }

    /// Whether those who should use a disk mostly do not reach its node.
    pub(super) fn is_missed(&self, live: &Live, disk: DiskId) -> bool {
        let row = self.disks.get(&disk);
        row.is_some_and(|row| live.judgment.is_missed(row.node))
    }

    /// Whether a volume is attached to an owner that is gone: it was at the last look, and still is.
    pub(super) fn is_orphaned(&self, live: &Live, now: Moment, volume: &VolumeRow) -> bool {
        let was_gone = live.judgment.is_owner_gone(volume.id, volume.generation);
        was_gone && self.has_lost_owner(&live.evidence, now, volume)
    }

    /// The volumes that are attached to users, and with which generation.
    pub(crate) fn attached(&self) -> Vec<(VolumeId, Generation)> {
        let used = self.attached_volumes();
        let used = used.filter(|row| !row.attached_for_repair);
        used.map(|row| (row.id, row.generation)).collect()
    }

    /// The stores that a node's store is to watch.
    pub(crate) fn peers_of(&self, node: NodeId) -> Vec<PeerTarget> {
        let others = self.nodes.range(node..).chain(self.nodes.range(..node));
        let targets = others
            .filter(|(id, _)| **id != node)
            .filter_map(|(id, row)| {
                let of_node = |(_, disk): &(&DiskId, &DiskRow)| {
                    disk.node == *id && disk.report.failed.is_none()
                };
                let disk = self.disks.iter().find(of_node)?;
                Some(PeerTarget {
                    node: *id,
                    node_name: Some(row.name.clone()),
                    address: row.address.clone(),
                    disk: *disk.0,
                })
            });
        targets.take(PEERS_WATCHED).collect()
    }

    /// Whether an owner was the last to be granted a generation.
    pub(crate) fn has_attached(
        &self,
        volume: VolumeId,
        generation: Generation,
        owner: &str,
    ) -> bool {
        let row = self.volumes.get(&volume);
        row.is_some_and(|row| {
            row.generation == generation && row.attached_by.as_deref() == Some(owner)
        })
    }

    /// What is said of nodes that there are.
    pub(crate) fn known(&self, stores: &[PeerSeen]) -> Vec<PeerSeen> {
        let known = stores
            .iter()
            .filter(|seen| self.nodes.contains_key(&seen.node));
        known.copied().collect()
    }

    fn has_lost_owner(&self, evidence: &Evidence, now: Moment, volume: &VolumeRow) -> bool {
        let is_used = volume.attached_by.is_some() && !volume.attached_for_repair;
        is_used
            && volume.state == VolumeState::Ready
            && evidence.is_silent(now, volume.id, volume.generation)
            && self
                .shards_of(volume.id)
                .all(|row| self.is_deserted(evidence, now, volume, row))
    }

    /// Whether no owner of the volume's generation can be acknowledging writes of a shard.
    fn is_deserted(
        &self,
        evidence: &Evidence,
        now: Moment,
        volume: &VolumeRow,
        row: &ShardRow,
    ) -> bool {
        let in_sync: Vec<_> = row.replicas.iter().filter(|r| r.in_sync).collect();
        let mut unknown = 0;
        for replica in &in_sync {
            let node = self.node_of(replica);
            match evidence.sighting(now, node, volume.id, volume.generation) {
                Sighting::Seen => return false,
                Sighting::NotSeen => {}
                Sighting::Unknown => unknown += 1,
            }
        }
        unknown < volume.ack.ack_count(in_sync.len())
    }
}
