//! A placement that is not made: where each replica would lie, and why not elsewhere.
//!
//! Pure; it asks the same code that places.

use std::collections::BTreeMap;

use ashlar_proto::api::{CreateVolume, ExplainedDisk, ExplainedPlacement, Schedulable, Verdict};
use ashlar_proto::{ByteCount, DiskId, NodeId, ShardIndex, VolumeId};

use super::ClusterState;
use super::labels::labels_of_place;
use super::volumes::check_create;
use crate::live::Live;
use crate::placement::{Candidate, Rules, Want, place_by};
use crate::refusal::{Refusal, VolumeRefusal};
use crate::row::DiskRow;

impl ClusterState {
    /// Where a volume would lie if it were created now.
    ///
    /// # Errors
    /// What is wrong with the request itself.
    pub(crate) fn explain(
        &self,
        live: &Live,
        request: &CreateVolume,
        shard_bytes: ByteCount,
    ) -> Result<ExplainedPlacement, Refusal> {
        check_create(request)?;
        let (_, rules) = self.settings_of_new(&request.settings)?;
        let wants = wants(request, shard_bytes);
        let candidates = self.candidates(live);
        // The id that it would get: ties go by it.
        let volume = VolumeId::new(self.cluster.next_volume);
        let (replicas, first) = (usize::from(request.replicas), ShardIndex::new(0));
        let placed = place_by(&rules, volume, replicas, first, &wants, &candidates);
        let problem = self.problem(
            live,
            request,
            placed.as_ref().err().map(ToString::to_string),
        );
        let mut given: BTreeMap<DiskId, u32> = BTreeMap::new();
        for (_, disk) in placed.iter().flatten().flatten() {
            *given.entry(*disk).or_default() += 1;
        }
        let largest = wants.first().copied().unwrap_or_default();
        let disks = self.disks.iter().map(|(id, row)| {
            let candidate = candidates.iter().find(|candidate| candidate.disk == *id);
            let replicas = given.get(id).copied().unwrap_or(0);
            self.explain_disk(live, (*id, row), candidate, (&rules, largest), replicas)
        });
        Ok(ExplainedPlacement {
            possible: problem.is_none(),
            problem,
            shards: u32::try_from(wants.len()).unwrap_or(u32::MAX),
            disks: disks.collect(),
        })
    }

    fn problem(
        &self,
        live: &Live,
        request: &CreateVolume,
        placement: Option<String>,
    ) -> Option<String> {
        let name = &request.name;
        if self.names.contains_key(name) {
            let exists = VolumeRefusal::Exists { name: name.clone() };
            return Some(exists.to_string());
        }
        let copies = u64::from(request.replicas);
        let promised = request.size_bytes.get().saturating_mul(copies);
        let over = self.check_over_commit(live, promised).err();
        over.map(|refusal| Refusal::from(refusal).to_string())
            .or(placement)
    }

    fn explain_disk(
        &self,
        live: &Live,
        (disk, row): (DiskId, &DiskRow),
        candidate: Option<&Candidate>,
        (rules, want): (&Rules, Want),
        replicas: u32,
    ) -> ExplainedDisk {
        let node = self.nodes.get(&row.node);
        let labels = node.map(|node| labels_of_place(node, Some(row)).into_owned());
        let labels = labels.unwrap_or_default();
        let mut reasons = match candidate {
            Some(candidate) => no_room(candidate, want),
            None => self.unusable(live, disk, row),
        };
        reasons.extend(rules.check_node(&labels).err().map(|why| why.to_string()));
        let verdict = match (replicas, reasons.is_empty()) {
            (1.., _) => Verdict::Chosen,
            (0, true) => Verdict::Possible,
            (0, false) => Verdict::Refused,
        };
        if let Some(candidate) = candidate {
            let fill = candidate.load.fill().permille();
            reasons.push(format!("{}.{} % full or promised", fill / 10, fill % 10));
        }
        ExplainedDisk {
            disk,
            node: row.node,
            node_name: node.map(|node| node.name.clone()).unwrap_or_default(),
            labels,
            verdict,
            replicas,
            reasons,
        }
    }

    /// Why a disk takes no replicas at all.
    fn unusable(&self, live: &Live, disk: DiskId, row: &DiskRow) -> Vec<String> {
        let mut reasons = Vec::new();
        let is_up = |node: NodeId| self.nodes.get(&node).is_some_and(|node| node.up);
        if !is_up(row.node) {
            reasons.push("its node is down".to_owned());
        }
        if let Some(why) = &live.report(row).failed {
            reasons.push(format!("it has failed: {why}"));
        }
        match self.schedulable(disk) {
            Schedulable::Open => {}
            Schedulable::Cordoned => reasons.push("it or its node is cordoned".to_owned()),
            Schedulable::Draining => {
                reasons.push("it or its node is drained, or it ails".to_owned());
            }
        }
        if self.is_missed(live, disk) {
            reasons.push("owners do not reach its node".to_owned());
        }
        if reasons.is_empty() {
            reasons.push("its store has not said how full it is".to_owned());
        }
        reasons
    }
}

fn no_room(candidate: &Candidate, want: Want) -> Vec<String> {
    if candidate.load.has_room(want) {
        return Vec::new();
    }
    vec!["it has no room for a shard by the rules of space: `ashlar space`".to_owned()]
}

/// What each shard would want.
fn wants(request: &CreateVolume, shard_bytes: ByteCount) -> Vec<Want> {
    let (size, shard) = (request.size_bytes.get(), shard_bytes.get().max(1));
    let bytes = (0..size.div_ceil(shard)).map(|index| shard.min(size - index * shard));
    bytes
        .map(|bytes| {
            let bytes = ByteCount::new(bytes);
            let reserve = request.reserve.of_shard(bytes, request.size_bytes);
            Want { bytes, reserve }
        })
        .collect()
}
