//! What stores have told of their disks for the check that is under way. Volatile.
//!
//! Invariants: an inventory counts only whole, under the number that was asked for, and of disks that are
//! the node's; what is kept of one is bounded; without a check nothing is kept.

use std::collections::{BTreeMap, BTreeSet};

use ashlar_proto::api::{
    FoundReplica, INVENTORY_OWNERS_MAX, INVENTORY_PAGE_MAX, INVENTORY_REPLICAS_MAX,
    INVENTORY_VERSION, InventoryPage,
};
use ashlar_proto::{DiskId, NodeId, VolumeId};

use crate::recovery::Found;
use crate::refusal::{InvalidRequest, NODE_DISKS_MAX};

/// What a node has told so far.
#[derive(Clone, Debug, Default)]
struct Told {
    pages: u32,
    done: bool,
    disks: BTreeSet<DiskId>,
    unregistered: BTreeSet<DiskId>,
    owned: BTreeSet<VolumeId>,
    replicas: Vec<FoundReplica>,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inventories {
    /// The number of the last check, and whether it is under way.
    number: u64,
    is_asking: bool,
    told: BTreeMap<NodeId, Told>,
}

impl Inventories {
    /// Begins a check, under a number above that of any other of this cluster: `now_ms`, by the clock.
    pub(crate) fn begin(&mut self, now_ms: u64) {
        self.number = self.number.saturating_add(1).max(now_ms);
        self.is_asking = true;
        self.told.clear();
    }

    /// What is asked of a node.
    pub(crate) fn asked(&self, node: NodeId) -> Option<u64> {
        let is_done = self.has_told(node);
        (self.is_asking && !is_done).then_some(self.number)
    }

    /// Whether a node has told all.
    pub(crate) fn has_told(&self, node: NodeId) -> bool {
        self.told.get(&node).is_some_and(|told| told.done)
    }

    /// Takes a page in, of a node that has these disks. Whether that was the last one.
    ///
    /// # Errors
    /// [`InvalidRequest::TooMany`], [`InvalidRequest::Inventory`].
    pub(crate) fn note(
        &mut self,
        node: NodeId,
        disks: &BTreeSet<DiskId>,
        page: InventoryPage,
    ) -> Result<bool, InvalidRequest> {
        refuse_large(&page)?;
        refuse_wild(&page)?;
        let is_known = page.version == INVENTORY_VERSION;
        if !self.is_asking || page.number != self.number || !is_known || self.has_told(node) {
            return Ok(false);
        }
        if page.page == 0 {
            // A store that begins anew was cut off.
            self.told.insert(node, Told::default());
        }
        let Some(told) = self.told.get_mut(&node) else {
            return Ok(false);
        };
        if told.pages != page.page
            || told.replicas.len() + page.replicas.len() > INVENTORY_REPLICAS_MAX
        {
            self.told.remove(&node);
            return Ok(false);
        }
        told.pages += 1;
        let all = page.disks.iter().copied();
        let (own, foreign): (Vec<DiskId>, Vec<DiskId>) = all.partition(|disk| disks.contains(disk));
        told.disks.extend(own);
        told.unregistered.extend(foreign);
        told.owned.extend(page.owned);
        let replicas = page.replicas.into_iter();
        let mut own: Vec<_> = replicas
            .filter(|it| told.disks.contains(&it.disk))
            .collect();
        told.replicas.append(&mut own);
        told.done = page.last;
        Ok(told.done)
    }

    /// Ends the check; gives what was told whole.
    pub(crate) fn end(&mut self) -> Found {
        self.is_asking = false;
        let mut found = Found::default();
        let done = std::mem::take(&mut self.told).into_values();
        for told in done.filter(|told| told.done) {
            found.disks.extend(told.disks);
            found.unregistered.extend(told.unregistered);
            found.owned.extend(told.owned);
            found.replicas.extend(told.replicas);
        }
        found
    }
}

fn refuse_large(page: &InventoryPage) -> Result<(), InvalidRequest> {
    let sizes = [
        ("replicas", page.replicas.len(), INVENTORY_PAGE_MAX),
        ("owned", page.owned.len(), INVENTORY_OWNERS_MAX),
        ("disks", page.disks.len(), NODE_DISKS_MAX),
    ];
    match sizes.into_iter().find(|(_, count, most)| count > most) {
        Some((field, _, most)) => Err(InvalidRequest::TooMany { field, most }),
        None => Ok(()),
    }
}

/// Refuses what no cluster comes to in its life, and what skips beyond it would not fit: one disk that is
/// damaged must not use up the numbers of all.
fn refuse_wild(page: &InventoryPage) -> Result<(), InvalidRequest> {
    const HALF: u32 = u32::MAX / 2;
    let wild = |it: &FoundReplica| {
        let numbers = [
            ("volume", it.volume.get(), u64::MAX / 2),
            ("replica", it.replica.get(), u64::MAX / 2),
            ("generation", it.generation.get().into(), HALF.into()),
            ("epoch", it.epoch.get().into(), HALF.into()),
            ("layer", it.top.get().into(), HALF.into()),
        ];
        let beyond = numbers.into_iter().find(|(_, number, most)| number > most);
        beyond.map(|(what, number, _)| (it.disk, what, number))
    };
    match page.replicas.iter().find_map(wild) {
        Some((disk, what, number)) => Err(InvalidRequest::Inventory { disk, what, number }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ashlar_proto::{BlockCount, Epoch, Generation, Layer, ReplicaId, ShardIndex, Window};

    const NODE: NodeId = NodeId::new(1);

    fn replica(disk: u128) -> FoundReplica {
        FoundReplica {
            disk: DiskId::new(disk),
            volume: VolumeId::new(1),
            shard: ShardIndex::new(0),
            replica: ReplicaId::new(1),
            blocks: BlockCount::new(1),
            generation: Generation::new(1),
            epoch: Epoch::new(1),
            window: Window::new(1),
            stable: 0,
            highest: 0,
            doubtful: false,
            top: Layer::new(1),
            layers: None,
        }
    }

    fn page(number: u64, page: u32, last: bool) -> InventoryPage {
        InventoryPage {
            version: INVENTORY_VERSION,
            number,
            page,
            last,
            disks: (page == 0).then(|| DiskId::new(1)).into_iter().collect(),
            owned: Vec::new(),
            replicas: vec![replica(1)],
        }
    }

    fn disks() -> BTreeSet<DiskId> {
        BTreeSet::from([DiskId::new(1)])
    }

    #[test]
    fn only_a_whole_inventory_counts() {
        let mut it = Inventories::default();
        it.begin(100);
        assert_eq!(it.asked(NODE), Some(100));
        assert_eq!(it.note(NODE, &disks(), page(100, 0, false)), Ok(false));
        assert_eq!(it.note(NODE, &disks(), page(100, 2, true)), Ok(false));
        assert!(!it.has_told(NODE), "a page is missing");
        for (number, last) in [(0, false), (1, true)] {
            it.note(NODE, &disks(), page(100, number, last)).unwrap();
        }
        assert_eq!(it.asked(NODE), None);
        let found = it.end();
        assert_eq!((found.disks, found.replicas.len()), (disks(), 2));
        assert_eq!(it.asked(NODE), None);
    }

    #[test]
    fn what_belongs_to_another_check_node_or_version_does_not_count() {
        let mut it = Inventories::default();
        it.begin(100);
        it.begin(100);
        let newer = InventoryPage {
            version: INVENTORY_VERSION + 1,
            ..page(101, 0, true)
        };
        for wrong in [page(100, 0, true), newer] {
            assert_eq!(it.note(NODE, &disks(), wrong), Ok(false));
        }
        let mut foreign = page(101, 0, true);
        foreign.disks.push(DiskId::new(2));
        foreign.replicas.push(replica(2));
        assert_eq!(it.note(NODE, &disks(), foreign), Ok(true));
        let found = it.end();
        assert_eq!((found.disks, found.replicas.len()), (disks(), 1));
        assert_eq!(found.unregistered, BTreeSet::from([DiskId::new(2)]));
    }

    #[test]
    fn numbers_that_no_cluster_comes_to_are_refused() {
        let mut it = Inventories::default();
        it.begin(1);
        let wild = [
            FoundReplica {
                generation: Generation::new(u32::MAX - 1),
                ..replica(1)
            },
            FoundReplica {
                epoch: Epoch::new(u32::MAX - 1),
                ..replica(1)
            },
            FoundReplica {
                replica: ReplicaId::new(u64::MAX - 1),
                ..replica(1)
            },
        ];
        for wild in wild {
            let mut page = page(1, 0, true);
            page.replicas.push(wild);
            let refused = it.note(NODE, &disks(), page);
            assert!(matches!(refused, Err(InvalidRequest::Inventory { .. })));
        }
        assert!(!it.has_told(NODE));
    }

    #[test]
    fn a_page_that_is_too_large_is_refused() {
        let mut it = Inventories::default();
        it.begin(1);
        let mut large = page(1, 0, true);
        large.replicas = vec![replica(1); INVENTORY_PAGE_MAX + 1];
        assert!(it.note(NODE, &disks(), large).is_err());
    }
}
