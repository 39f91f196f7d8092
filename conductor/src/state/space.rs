//! Space: what is promised, what is kept, and the rules by which both are given out.
//!
//! Invariants: what is promised, over all and of each disk, stays within the rules when a volume is
//! made or grows; capacity that is lost later takes nothing back. A reservation is given only where
//! the disk has that much free beside what is kept for others, below the hard threshold.

use std::collections::BTreeMap;

use ashlar_proto::api::{EventKind, Replica, Reserve, ReserveVolume, SetSpace, Space, SpaceRules};
use ashlar_proto::limits::BLOCK_BYTES_U64;
use ashlar_proto::{BlockCount, ByteCount, DiskId, ShardIndex, VolumeId, reserved_blocks};

use super::resize::space;
use super::{At, ClusterState, Plan, blocks, shard_bytes};
use crate::live::Live;
use crate::placement::{Load, Want};
use crate::refusal::{InvalidRequest, Refusal, SpaceRefusal};
use crate::row::{AnyRow, SpaceRow, VolumeRow};

/// Blocks of a shard that are kept for it on each disk that has it.
pub(super) fn reserve_blocks(volume: &VolumeRow, shard: ShardIndex) -> u32 {
    let bytes = ByteCount::new(shard_bytes(volume, shard));
    let kept = volume.reserve.of_shard(bytes, space(volume)).get();
    let kept = u32::try_from(kept.div_ceil(BLOCK_BYTES_U64)).unwrap_or(u32::MAX);
    kept.min(blocks(volume, shard))
}

/// Bytes that this takes of a disk, with its part of the map.
pub(super) fn reserved_bytes(volume: &VolumeRow, shard: ShardIndex) -> ByteCount {
    let reserve = BlockCount::new(reserve_blocks(volume, shard));
    let all = BlockCount::new(blocks(volume, shard));
    ByteCount::new(reserved_blocks(reserve, all) * BLOCK_BYTES_U64)
}

/// What a replica of a shard wants of a disk.
pub(super) fn want(volume: &VolumeRow, shard: ShardIndex) -> Want {
    Want {
        bytes: ByteCount::new(shard_bytes(volume, shard)),
        reserve: reserved_bytes(volume, shard),
    }
}

/// Whether a volume may have such a reservation.
pub(super) fn check_reserve(reserve: Reserve, size: ByteCount) -> Result<(), InvalidRequest> {
    match reserve {
        Reserve::Bytes(bytes) if bytes > size || bytes == ByteCount::default() => {
            Err(InvalidRequest::Reserve { bytes, size })
        }
        _ => Ok(()),
    }
}

impl ClusterState {
    /// The rules of space.
    pub(crate) fn space_rules(&self) -> SpaceRules {
        self.space.rules
    }

    /// Changes the rules.
    pub(crate) fn plan_space(&self, request: &SetSpace) -> Result<Plan<()>, Refusal> {
        let now = self.space.rules;
        let rules = SpaceRules {
            over_commit_percent: request
                .over_commit_percent
                .unwrap_or(now.over_commit_percent),
            soft_percent: request.soft_percent.unwrap_or(now.soft_percent),
            hard_percent: request.hard_percent.unwrap_or(now.hard_percent),
        };
        let ordered = 0 < rules.soft_percent
            && rules.soft_percent <= rules.hard_percent
            && rules.hard_percent <= 100;
        if !ordered {
            let (soft, hard) = (rules.soft_percent, rules.hard_percent);
            return Err(InvalidRequest::Thresholds { soft, hard }.into());
        }
        if (1..100).contains(&rules.over_commit_percent) {
            let percent = rules.over_commit_percent;
            return Err(InvalidRequest::OverCommit { percent }.into());
        }
        if rules == now {
            return Ok(Plan::nothing(()));
        }
        Ok(Plan {
            reads: Vec::new(),
            changes: vec![AnyRow::Space(SpaceRow { rules }).put()],
            answer: (),
        })
    }

    /// How the cluster stands by the rules.
    pub(crate) fn show_space(&self, live: &Live) -> Space {
        let mut shown = Space {
            rules: self.space.rules,
            provisioned_bytes: ByteCount::new(self.totals.provisioned()),
            ..Space::default()
        };
        let add = |sum: &mut ByteCount, bytes: ByteCount| {
            *sum = ByteCount::new(sum.get().saturating_add(bytes.get()));
        };
        for (disk, row) in &self.disks {
            let report = live.report(row);
            if report.failed.is_some() || live.absence.is_over(*disk) {
                continue;
            }
            add(&mut shown.capacity_bytes, report.usable_bytes);
            add(&mut shown.used_bytes, report.used_bytes);
            add(&mut shown.reserved_bytes, report.reserved_bytes);
            add(&mut shown.unfilled_bytes, report.unfilled_bytes);
        }
        shown
    }

    /// Whether so many bytes more may be promised.
    pub(super) fn check_over_commit(&self, live: &Live, more: u64) -> Result<(), SpaceRefusal> {
        let shown = self.show_space(live);
        let provisioned = shown.provisioned_bytes.get();
        let percent = shown.rules.over_commit_percent;
        let most = u128::from(shown.capacity_bytes.get()) * u128::from(percent) / 100;
        // Where there is no disk at all, placement has the better word.
        if more > 0 && most == 0
            || percent == 0
            || u128::from(provisioned) + u128::from(more) <= most
        {
            return Ok(());
        }
        Err(SpaceRefusal::OverCommitted {
            more: ByteCount::new(more),
            provisioned: shown.provisioned_bytes,
            capacity: shown.capacity_bytes,
            percent,
        })
    }

    /// What lies on a disk, as placement weighs it.
    pub(super) fn load(&self, live: &Live, disk: DiskId) -> Option<Load> {
        let row = self.disks.get(&disk)?;
        let report = live.report(row);
        // Of reservations that its store has not told of yet, nothing is taken.
        let untold = self
            .totals
            .reserved(disk)
            .saturating_sub(report.reserved_bytes.get());
        Some(Load {
            usable: report.usable_bytes,
            used: report.used_bytes,
            kept: ByteCount::new(report.unfilled_bytes.get().saturating_add(untold)),
            promised: ByteCount::new(self.totals.promised(disk)),
            level: live.levels.of(disk),
            rules: self.space.rules,
        })
    }

    /// What a replica of a shard wants of a disk.
    pub(super) fn want_of(&self, at: At) -> Want {
        let volume = self.volumes.get(&at.0);
        volume.map_or_else(Want::default, |row| want(row, at.1))
    }

    /// Another reservation for a volume.
    pub(crate) fn plan_reserve(
        &self,
        live: &Live,
        name: &str,
        request: &ReserveVolume,
    ) -> Result<Plan<VolumeId>, Refusal> {
        let current = self.require_ready(name)?;
        check_reserve(request.reserve, space(current))?;
        if current.reserve == request.reserve {
            return Ok(Plan::nothing(current.id));
        }
        let row = VolumeRow {
            reserve: request.reserve,
            ..current.clone()
        };
        let mut more: BTreeMap<DiskId, u64> = BTreeMap::new();
        for shard in self.shards_of(row.id) {
            let before = reserved_bytes(current, shard.index).get();
            let after = reserved_bytes(&row, shard.index).get();
            for replica in &shard.replicas {
                // What it has taken already, it has.
                let taken = self.used_by(live, replica).unwrap_or(0);
                *more.entry(replica.disk).or_default() += after.saturating_sub(before.max(taken));
            }
        }
        for (disk, more) in more.into_iter().filter(|(_, more)| *more > 0) {
            self.check_kept(live, name, disk, ByteCount::new(more))?;
        }
        let reads = self.shards_of(row.id);
        let reads = reads.map(|shard| crate::row::shard_key(row.id, shard.index));
        Ok(Plan {
            reads: reads.collect(),
            answer: row.id,
            changes: vec![AnyRow::Volume(row).put()],
        })
    }

    /// Whether a disk can keep more for a volume.
    fn check_kept(
        &self,
        live: &Live,
        name: &str,
        disk: DiskId,
        more: ByteCount,
    ) -> Result<(), SpaceRefusal> {
        let load = self.load(live, disk).unwrap_or_default();
        if load.can_keep(more) {
            return Ok(());
        }
        Err(SpaceRefusal::NotKept {
            name: name.to_owned(),
            disk,
            more,
            free: load.keepable(),
        })
    }

    /// What a replica takes of its disk, if its store has told.
    pub(super) fn used_by(&self, live: &Live, replica: &Replica) -> Option<u64> {
        let report = live.report(self.disks.get(&replica.disk)?);
        let of = report.largest.iter().find(|of| of.replica == replica.id);
        of.map(|of| of.used_bytes.get())
    }

    /// Looks how full disks are and how much is promised, and notes what has happened. Whether
    /// anything has.
    pub(crate) fn note_space(&self, live: &mut Live, now_ms: u64) -> bool {
        let rules = self.space.rules;
        let mut news = Vec::new();
        for (disk, row) in &self.disks {
            let report = live.report(row).clone();
            if report.failed.is_some() || !self.serves(*disk) {
                continue;
            }
            let node = self.nodes.get(&row.node).map(|node| node.name.clone());
            let node = node.unwrap_or_default();
            for kind in live.levels.look(&report, &rules) {
                let text = disk_text(kind, *disk, &node, &report, &rules);
                news.push((kind, format!("disk {disk}"), text));
            }
        }
        live.levels.retain(|disk| self.disks.contains_key(&disk));
        let is_over = self.check_over_commit(live, 0).is_err();
        if is_over != std::mem::replace(&mut live.over_committed, is_over) {
            let shown = self.show_space(live);
            let kind = if is_over {
                EventKind::OverCommitted
            } else {
                EventKind::OverCommitEnded
            };
            news.push((
                kind,
                "cluster".to_owned(),
                over_commit_text(is_over, &shown),
            ));
        }
        let has_news = !news.is_empty();
        for (kind, subject, text) in news {
            live.events.note(now_ms, kind, subject, text);
        }
        has_news
    }
}

fn disk_text(
    kind: EventKind,
    disk: DiskId,
    node: &str,
    report: &ashlar_proto::api::DiskReport,
    rules: &SpaceRules,
) -> String {
    let usable = u128::from(report.usable_bytes.get()).max(1);
    let percent = u128::from(report.used_bytes.get()) * 100 / usable;
    let (soft, hard) = (rules.soft_percent, rules.hard_percent);
    let disk = format!("disk {disk} of node {node}");
    match kind {
        EventKind::DiskAboveSoft => format!(
            "{disk} is {percent} % full, above the soft threshold of {soft} %: volumes are placed \
             elsewhere where others have room"
        ),
        EventKind::DiskAboveHard => format!(
            "{disk} is {percent} % full, above the hard threshold of {hard} %: it gets no replicas, \
             and some move to disks with room; add disks, or delete what is not needed"
        ),
        EventKind::DiskFull => format!(
            "{disk} has no room for new blocks, at {percent} % used: writes to volumes without a \
             reservation there fail or go on without it; add disks, or delete what is not needed"
        ),
        EventKind::DiskBelowHard => {
            format!("{disk} is {percent} % full, below the hard threshold of {hard} % again")
        }
        _ => format!("{disk} is {percent} % full, below the soft threshold of {soft} % again"),
    }
}

fn over_commit_text(is_over: bool, shown: &Space) -> String {
    let (provisioned, capacity) = (shown.provisioned_bytes, shown.capacity_bytes);
    let ratio = crate::refusal::ratio(shown.rules.over_commit_percent);
    if is_over {
        format!(
            "{provisioned} bytes are provisioned of a capacity of {capacity}, more than {ratio} \
             times: no volume can be made or grow until disks were added or volumes deleted"
        )
    } else {
        format!(
            "{provisioned} bytes are provisioned of a capacity of {capacity}, at most {ratio} times \
             again"
        )
    }
}
