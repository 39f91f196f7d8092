//! Which disks get the replicas of a new volume, and which one a replica that is replaced.
//!
//! Pure and deterministic. Rules, in this order:
//! 1. replicas of a shard lie on distinct nodes: without that there is no placement;
//! 2. and as the volume's own rules have it ([`Rules`]); then in distinct failure domains (labels `zone`,
//!    then `rack`) as far as there are any;
//! 3. shards of the volume are spread over disks in proportion to their weights, by the method of
//!    highest averages (D'Hondt): the disk with the least (shards given + 1) / weight is next;
//! 4. ties go by a hash, so that equal disks get equal shares over many volumes.
//!
//! The weight of a disk is its free space, shared with what was promised but is not written yet:
//! `free · usable / (usable + promised − used)`, see [`Load`]. Volumes are thin, so promises may
//! exceed the space, as far as the rules of space allow. What is kept for reservations counts as
//! used. A disk above the hard threshold gets nothing; one above the soft threshold is taken only
//! where no other of equal failure domains has room.

mod fill;
mod rules;

use std::collections::BTreeMap;

use ashlar_proto::api::SpaceRules;
use ashlar_proto::{DiskId, NodeId, ShardIndex, VolumeId};

pub use fill::{Fill, Load, Want, Written};
pub use rules::{Broken, Rules};

use crate::refusal::ratio;

/// Labels that name failure domains, the widest first.
pub const DOMAIN_LABELS: [&str; 2] = ["zone", "rack"];

/// A disk that may get replicas: of a node that is up, and not failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The disk.
    pub disk: DiskId,
    /// Its node.
    pub node: NodeId,
    /// Its labels, and those of its node that it does not have itself.
    pub labels: BTreeMap<String, String>,
    /// What lies on it.
    pub load: Load,
}

/// A replica of the shard that stays, or is not to be met again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Its node.
    pub node: NodeId,
    /// Its labels, and those of its node that it does not have itself.
    pub labels: BTreeMap<String, String>,
}

/// A volume cannot be placed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    /// Too few nodes answer.
    #[error(
        "{} with room, {up} {} up: start or uncordon more stores, or ask for fewer replicas",
        need(*.replicas), are(*.up)
    )]
    TooFewNodes {
        /// Replicas asked for.
        replicas: usize,
        /// Nodes with a working disk that answer.
        up: usize,
    },
    /// Enough nodes answer, but the volume's own rules leave too few places.
    #[error(
        "{} in places that the volume's rules allow, and shard {shard} finds {found}: add nodes with the \
         labels that the rules ask for, or change the rules (`ashlar config list --volume NAME`)",
        need(*.replicas)
    )]
    Rules {
        /// Replicas asked for.
        replicas: usize,
        /// Places found for the shard.
        found: usize,
        /// The first shard that found too few.
        shard: ShardIndex,
    },
    /// Enough nodes answer, but their disks are full or promised away.
    #[error(
        "{} with room, {up} {} up and {with_room} {} room for shard {shard}: add or uncordon disks, \
         delete volumes, or reserve less (a disk takes replicas until {} % of it are used or reserved, \
         or it is promised {} times; see `ashlar space`)",
        need(*.replicas), are(*.up), has(*.with_room), .rules.hard_percent,
        ratio(.rules.over_commit_percent)
    )]
    TooLittleRoom {
        /// Replicas asked for.
        replicas: usize,
        /// Nodes with a working disk that answer.
        up: usize,
        /// Nodes with room for the shard.
        with_room: usize,
        /// The first shard that found no room.
        shard: ShardIndex,
        /// The rules of space.
        rules: SpaceRules,
    },
}

fn need(count: usize) -> String {
    match count {
        1 => "1 replica needs 1 node".to_owned(),
        _ => format!("{count} replicas need {count} nodes"),
    }
}

fn are(count: usize) -> &'static str {
    if count == 1 { "is" } else { "are" }
}

fn has(count: usize) -> &'static str {
    if count == 1 { "has" } else { "have" }
}

/// A candidate with what this placement has given it.
#[derive(Clone)]
struct Bin<'a> {
    candidate: &'a Candidate,
    weight: u128,
    load: Load,
    given: u64,
}

impl<'a> Bin<'a> {
    fn new(candidate: &'a Candidate) -> Self {
        Self {
            candidate,
            weight: candidate.load.weight(),
            load: candidate.load,
            given: 0,
        }
    }

    fn has_room(&self, want: Want) -> bool {
        self.load.has_room(want)
    }

    fn overlap(&self, rules: &Rules, chosen: &[&BTreeMap<String, String>]) -> u32 {
        rules.overlap(&self.candidate.labels, chosen)
    }

    fn is_allowed(&self, rules: &Rules, chosen: &[&BTreeMap<String, String>]) -> bool {
        rules.check(&self.candidate.labels, chosen).is_ok()
    }
}

/// Domain labels that a node shares with any of the others, the widest counting most.
#[must_use]
pub fn overlap(labels: &BTreeMap<String, String>, others: &[&BTreeMap<String, String>]) -> u32 {
    let shares = |label: &str| {
        let own = labels.get(label);
        own.is_some() && others.iter().any(|other| other.get(label) == own)
    };
    DOMAIN_LABELS
        .iter()
        .fold(0, |sum, label| sum * 2 + u32::from(shares(label)))
}

/// Chooses `replicas` disks for each shard of a volume from `first` on, by its rules.
///
/// # Errors
/// [`PlacementError`] that says what is missing.
pub fn place_by(
    rules: &Rules,
    volume: VolumeId,
    replicas: usize,
    first: ShardIndex,
    shards: &[Want],
    candidates: &[Candidate],
) -> Result<Vec<Vec<(NodeId, DiskId)>>, PlacementError> {
    let up = count_nodes(candidates.iter());
    if up < replicas {
        return Err(PlacementError::TooFewNodes { replicas, up });
    }
    let mut bins: Vec<Bin<'_>> = candidates.iter().map(Bin::new).collect();
    let mut placed = Vec::with_capacity(shards.len());
    for (index, want) in (first.get()..).zip(shards) {
        let shard = ShardIndex::new(index);
        let chosen = place_shard(rules, (volume, shard), replicas, *want, &mut bins);
        let Ok(chosen) = chosen else {
            // Without the rules there would be places: it is for them that there is none.
            let mut free = bins.clone();
            let none = Rules::default();
            if place_shard(&none, (volume, shard), replicas, *want, &mut free).is_ok() {
                let found = chosen.err().unwrap_or_default();
                return Err(PlacementError::Rules {
                    replicas,
                    found,
                    shard,
                });
            }
            let room = bins.iter().filter(|bin| bin.has_room(*want));
            let with_room = count_nodes(room.map(|bin| bin.candidate));
            let rules = candidates.first().map(|first| first.load.rules);
            return Err(PlacementError::TooLittleRoom {
                replicas,
                up,
                with_room,
                shard,
                rules: rules.unwrap_or_default(),
            });
        };
        placed.push(chosen);
    }
    Ok(placed)
}

/// Chooses a disk for one more replica of a shard beside `others`, by the same rules.
#[must_use]
pub fn place_beside(
    rules: &Rules,
    volume: VolumeId,
    shard: ShardIndex,
    want: Want,
    others: &[Neighbour],
    candidates: &[&Candidate],
) -> Option<(NodeId, DiskId)> {
    let bins: Vec<Bin<'_>> = candidates.iter().copied().map(Bin::new).collect();
    let nodes: Vec<NodeId> = others.iter().map(|other| other.node).collect();
    let labels: Vec<_> = others.iter().map(|other| &other.labels).collect();
    let best = best_bin(rules, (volume, shard), want, (&nodes, &labels), &bins)?;
    let chosen = bins[best].candidate;
    Some((chosen.node, chosen.disk))
}

fn count_nodes<'a>(candidates: impl Iterator<Item = &'a Candidate>) -> usize {
    candidates
        .map(|c| c.node)
        .collect::<std::collections::BTreeSet<_>>()
        .len()
}

/// The places of a shard's replicas; how many were found, where they are too few.
fn place_shard<'a>(
    rules: &Rules,
    at: (VolumeId, ShardIndex),
    replicas: usize,
    want: Want,
    bins: &mut [Bin<'a>],
) -> Result<Vec<(NodeId, DiskId)>, usize> {
    let (mut nodes, mut labels) = (Vec::new(), Vec::new());
    let mut picks = Vec::with_capacity(replicas);
    while picks.len() < replicas {
        let best = best_bin(rules, at, want, (&nodes, &labels), bins);
        let best = best.ok_or(picks.len())?;
        nodes.push(bins[best].candidate.node);
        labels.push(&bins[best].candidate.labels);
        picks.push(best);
    }
    for &pick in &picks {
        bins[pick].given += 1;
        bins[pick].load = bins[pick].load.with_want(want);
    }
    Ok(picks
        .iter()
        .map(|&i| (bins[i].candidate.node, bins[i].candidate.disk))
        .collect())
}

/// The best of the bins that have room, lie on none of the nodes, and break no rule.
fn best_bin(
    rules: &Rules,
    (volume, shard): (VolumeId, ShardIndex),
    want: Want,
    (nodes, labels): (&[NodeId], &[&BTreeMap<String, String>]),
    bins: &[Bin<'_>],
) -> Option<usize> {
    let tie = |bin: &Bin<'_>| tie_break(volume, shard, bin.candidate.disk);
    let by_load = |a: &Bin<'_>, b: &Bin<'_>| {
        let load_a = u128::from(a.given + 1).saturating_mul(b.weight);
        let load_b = u128::from(b.given + 1).saturating_mul(a.weight);
        load_a.cmp(&load_b).then_with(|| tie(a).cmp(&tie(b)))
    };
    let mut best: Option<(usize, (u32, bool))> = None;
    for (index, bin) in bins.iter().enumerate() {
        let is_free = !nodes.contains(&bin.candidate.node) && bin.has_room(want);
        if !is_free || !bin.is_allowed(rules, labels) {
            continue;
        }
        // Of a thousand disks this is found once each, and not for each comparison.
        let is_high = bin.load.with_want(want).is_above_soft();
        let place = (bin.overlap(rules, labels), is_high);
        let is_better = best.is_none_or(|(known, of_known)| {
            let order = place.cmp(&of_known);
            order.then_with(|| by_load(bin, &bins[known])).is_lt()
        });
        if is_better {
            best = Some((index, place));
        }
    }
    best.map(|(index, _)| index)
}

/// A stable mix of the three, so that no disk is everybody's first.
fn tie_break(volume: VolumeId, shard: ShardIndex, disk: DiskId) -> u64 {
    let fold = disk.get() ^ (disk.get() >> 64);
    let low = u64::try_from(fold & u128::from(u64::MAX)).unwrap_or_default();
    let mut hash = low ^ volume.get().wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^= u64::from(shard.get()).wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests;
