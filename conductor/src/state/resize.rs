//! Plans for volumes that change their size, and when one that grows has grown.
//!
//! ```text
//!            space, target ──▶ assignments ──▶ stores grow replicas, make those of new shards
//!  resize ──▶ grows_to ── every in-sync replica's node has applied ──▶ size ──▶ map ──▶ owner
//! ```
//!
//! Invariants: what the map says lies within what every in-sync replica has grown to, so an owner
//! never writes where a member of the set has no room; a replica never gets smaller; shards beyond the
//! size are told to stores, but to no owner, so giving up a growth loses nothing.
//!
//! A replica that is not in sync may have its former size still, as one whose node is down. Its store
//! refuses what lies beyond, so it counts for nothing there; it applies its assignments when it is
//! back, and catches up then.

use ashlar_proto::api::{Replica, Reserve, ResizeVolume};
use ashlar_proto::volume_name::project_of;
use ashlar_proto::{ByteCount, ShardIndex, VolumeId};

use super::owners::stale_generation;
use super::space::want;
use super::volumes::{check_size, new_shards, shard_wants};
use super::{ClusterState, Plan};
use crate::live::Live;
use crate::meta::Change;
use crate::placement::{Candidate, PlacementError, Want, place_by};
use crate::refusal::{Refusal, ResizeRefusal, VolumeRefusal};
use crate::row::{AnyRow, OriginRow, ShardRow, VolumeRow, project_key, shard_key};

/// What the replicas of a volume take, or are to take.
pub(super) fn space(volume: &VolumeRow) -> ByteCount {
    let target = volume.grows_to.unwrap_or_default();
    volume.size_bytes.max(target).max(volume.kept_bytes)
}

/// Shards of so many bytes of a volume.
pub(super) fn shard_count(volume: &VolumeRow, bytes: ByteCount) -> u32 {
    let count = bytes.get().div_ceil(volume.shard_bytes.get());
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Shards that a volume has, those that it grows by included.
pub(crate) fn shards_needed(volume: &VolumeRow) -> u32 {
    // Rows may be looked at that no conductor wrote.
    if volume.shard_bytes.get() == 0 {
        return 0;
    }
    shard_count(volume, space(volume))
}

/// Whether owners are told of a shard.
pub(super) fn is_served(volume: &VolumeRow, shard: ShardIndex) -> bool {
    shard.get() < shard_count(volume, volume.size_bytes)
}

impl ClusterState {
    /// The shards that owners are told of, in order.
    pub(super) fn served_shards(&self, volume: &VolumeRow) -> impl Iterator<Item = &ShardRow> {
        let count = shard_count(volume, volume.size_bytes) as usize;
        self.shards_of(volume.id).take(count)
    }

    /// Another size: a larger one once the stores have grown, a smaller one at once, the present one to
    /// give up a growth. Gives the volume and the size that it is to have.
    pub(crate) fn plan_resize(
        &self,
        live: &Live,
        name: &str,
        request: &ResizeVolume,
    ) -> Result<Plan<(VolumeId, ByteCount)>, Refusal> {
        check_size(request.size_bytes)?;
        let current = self.require_ready(name)?;
        let target = request.size_bytes;
        if target < current.size_bytes {
            self.check_shrink(current, request)?;
        }
        let is_stale = |generation: &_| *generation != current.generation;
        if let Some(generation) = request.generation.filter(is_stale) {
            return Err(stale_generation(current, generation).into());
        }
        let answer = (current.id, target);
        let is_growth = target > current.size_bytes;
        let grows_to = is_growth.then_some(target);
        if target == current.size_bytes && current.grows_to.is_none()
            || is_growth && current.grows_to == grows_to
        {
            return Ok(Plan::nothing(answer));
        }
        let shards = shard_count(current, target);
        let most = u64::from(shards).saturating_mul(current.shard_bytes.get());
        let row = VolumeRow {
            size_bytes: current.size_bytes.min(target),
            grows_to,
            kept_bytes: space(current).min(ByteCount::new(most)),
            reserve: match current.reserve {
                Reserve::Bytes(bytes) => Reserve::Bytes(bytes.min(target)),
                other => other,
            },
            // What is cut off does not come back when it grows again.
            origin: current.origin.map(|origin| OriginRow {
                bytes: origin.bytes.min(target),
                ..origin
            }),
            ..current.clone()
        };
        self.check_quota(&row.name, Some(current), &row)?;
        let beyond = self
            .shards_of(row.id)
            .filter(|shard| shard.index.get() >= shards);
        let mut changes: Vec<Change> = beyond
            .map(|shard| Change::Delete {
                key: shard_key(row.id, shard.index),
            })
            .collect();
        let mut reads = vec![project_key(project_of(&row.name))];
        if is_growth {
            let more = space(&row).get().saturating_sub(space(current).get());
            self.check_over_commit(live, more.saturating_mul(u64::from(row.replicas)))?;
            changes.extend(self.more_shards(live, current, &row)?);
            // The room for what they are to have was looked at where their replicas are.
            let old = self.shards_of(row.id).last();
            reads.extend(old.map(|shard| shard_key(row.id, shard.index)));
            reads.retain(|key| !changes.iter().any(|change| change.key() == key));
        }
        changes.push(AnyRow::Volume(row).put());
        Ok(Plan {
            reads,
            changes,
            answer,
        })
    }

    /// Whether a volume may be made smaller: nobody has it, and who had it last says so.
    fn check_shrink(&self, current: &VolumeRow, request: &ResizeVolume) -> Result<(), Refusal> {
        let name = || current.name.clone();
        if !request.shrink {
            let (asked, current) = (request.size_bytes, current.size_bytes);
            let name = name();
            return Err(ResizeRefusal::Smaller {
                name,
                asked,
                current,
            }
            .into());
        }
        let snapshots = self.snapshots.count(current.id);
        if snapshots > 0 {
            let name = name();
            return Err(ResizeRefusal::HasSnapshots { name, snapshots }.into());
        }
        if request.generation.is_none() {
            return Err(ResizeRefusal::Unseen { name: name() }.into());
        }
        match current.attached_by.clone() {
            Some(owner) => {
                let name = name();
                Err(VolumeRefusal::Attached { name, owner }.into())
            }
            None => Ok(()),
        }
    }

    /// The rows of the shards that a volume is to have beside those that it has, placed as those of a
    /// new volume.
    fn more_shards(
        &self,
        live: &Live,
        current: &VolumeRow,
        row: &VolumeRow,
    ) -> Result<Vec<Change>, Refusal> {
        let mut candidates = self.candidates(live);
        if let Some(last) = self.shards_of(row.id).last() {
            self.check_room(live, last, current, row, &mut candidates)?;
        }
        let first = shard_count(current, space(current));
        let lengths = shard_wants(row, first);
        if lengths.is_empty() {
            return Ok(Vec::new());
        }
        let mut cluster = self.cluster.clone();
        let (replicas, index) = (usize::from(row.replicas), ShardIndex::new(first));
        let rules = self.placement_rules(row.id);
        let placed = place_by(&rules, row.id, replicas, index, &lengths, &candidates)?;
        let mut changes = new_shards(&mut cluster, row.id, first, placed);
        changes.push(AnyRow::Cluster(cluster).put());
        Ok(changes)
    }

    /// Whether the disks of a shard have room for what it grows by, which is promised then.
    fn check_room(
        &self,
        live: &Live,
        shard: &ShardRow,
        before: &VolumeRow,
        after: &VolumeRow,
        candidates: &mut [Candidate],
    ) -> Result<(), PlacementError> {
        let (old, new) = (want(before, shard.index), want(after, shard.index));
        let rest = |new: ByteCount, old: ByteCount| new.get().saturating_sub(old.get());
        let more = Want {
            bytes: ByteCount::new(rest(new.bytes, old.bytes)),
            reserve: ByteCount::new(rest(new.reserve, old.reserve)),
        };
        if more == Want::default() {
            return Ok(());
        }
        let has_room = |replica: &&Replica| {
            let load = self.load(live, replica.disk);
            load.is_some_and(|load| load.has_room(more))
        };
        let in_sync = || shard.replicas.iter().filter(|replica| replica.in_sync);
        let with_room = in_sync().filter(has_room).count();
        if with_room < in_sync().count() {
            let replicas = usize::from(after.replicas);
            let up = self.nodes.values().filter(|node| node.up).count();
            return Err(PlacementError::TooLittleRoom {
                replicas,
                up,
                with_room,
                shard: shard.index,
                rules: self.space_rules(),
            });
        }
        let grown = |disk| shard.replicas.iter().any(|replica| replica.disk == disk);
        for candidate in candidates.iter_mut().filter(|c| grown(c.disk)) {
            candidate.load = candidate.load.with_want(more);
        }
        Ok(())
    }

    /// The row of a volume that has grown: all replicas that are in sync have their new size, and those
    /// of new shards are made.
    pub(super) fn grown(&self, live: &Live, volume: &VolumeRow) -> Option<Change> {
        let (target, since) = (volume.grows_to?, *self.growing.get(&volume.id)?);
        let has_grown = |at, replica: &Replica| {
            let held = self.holds.get(&replica.disk).and_then(|held| held.get(&at));
            held.is_some_and(|held| {
                live.applied(self.node_of(replica)) >= held.since.max(since)
                    && self.serves(replica.disk)
            })
        };
        let all = self.shards_of(volume.id).all(|shard| {
            let at = (volume.id, shard.index);
            let mut in_sync = shard.replicas.iter().filter(|replica| replica.in_sync);
            in_sync.all(|replica| has_grown(at, replica))
        });
        all.then(|| {
            AnyRow::Volume(VolumeRow {
                size_bytes: target,
                grows_to: None,
                ..volume.clone()
            })
            .put()
        })
    }
}
