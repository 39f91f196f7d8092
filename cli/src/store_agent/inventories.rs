//! What a store holds, told to the conductor when that asks: page by page, each inventory once.

use ashlar_proto::NodeId;
use ashlar_proto::api::{
    INVENTORY_OWNERS_MAX, INVENTORY_PAGE_MAX, INVENTORY_REPLICAS_MAX, INVENTORY_VERSION,
    InventoryPage,
};
use ashlar_store::Inventory;
use tokio::sync::watch;

use super::{Agent, Broken, Store};

/// Notes what the answer to a heartbeat asks for; one that asks for nothing takes nothing back.
pub(super) fn want(wanted: &watch::Sender<Option<u64>>, asked: Option<u64>) {
    wanted.send_if_modified(|now| {
        let is_new = asked.is_some() && *now != asked;
        if is_new {
            *now = asked;
        }
        is_new
    });
}

/// Tells each inventory that is asked for, until the exchange breaks off.
pub(super) async fn tell<S: Store>(
    agent: &Agent<S>,
    node: NodeId,
    mut asked: watch::Receiver<Option<u64>>,
) -> Broken {
    loop {
        if asked.changed().await.is_err() {
            // Its sender lives as long as the heartbeats, which end this, too.
            std::future::pending::<()>().await;
        }
        let Some(number) = *asked.borrow_and_update() else {
            continue;
        };
        let inventory = match agent.store.inventory().await {
            Ok(Some(inventory)) => inventory,
            Ok(None) => continue,
            Err(error) => return error.into(),
        };
        let Some(pages) = pages(number, inventory) else {
            tracing::error!("this store holds too many replicas to tell of them all");
            continue;
        };
        for page in &pages {
            // Somebody who checks the metadata learns that this node was not heard.
            if let Err(error) = agent.client.tell_inventory(node, page).await {
                tracing::warn!(%error, "the conductor does not take the inventory");
                break;
            }
        }
    }
}

/// The pages of an inventory; nothing where it is too large.
fn pages(number: u64, inventory: Inventory) -> Option<Vec<InventoryPage>> {
    let Inventory {
        disks,
        owned,
        replicas,
    } = inventory;
    if replicas.len() > INVENTORY_REPLICAS_MAX || owned.len() > INVENTORY_OWNERS_MAX {
        return None;
    }
    let mut chunks: Vec<_> = replicas.chunks(INVENTORY_PAGE_MAX).collect();
    if chunks.is_empty() {
        chunks.push(&[]);
    }
    let last = chunks.len() - 1;
    let page = |(at, chunk): (usize, &[_])| {
        Some(InventoryPage {
            version: INVENTORY_VERSION,
            number,
            page: u32::try_from(at).ok()?,
            last: at == last,
            disks: if at == 0 { disks.clone() } else { Vec::new() },
            owned: if at == 0 { owned.clone() } else { Vec::new() },
            replicas: chunk.to_vec(),
        })
    };
    chunks.into_iter().enumerate().map(page).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ashlar_proto::api::FoundReplica;
    use ashlar_proto::{
        BlockCount, DiskId, Epoch, Generation, Layer, ReplicaId, ShardIndex, VolumeId, Window,
    };

    fn found(replica: usize) -> FoundReplica {
        FoundReplica {
            disk: DiskId::new(1),
            volume: VolumeId::new(1),
            shard: ShardIndex::new(0),
            replica: ReplicaId::new(replica as u64),
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

    fn held(count: usize) -> Inventory {
        Inventory {
            disks: vec![DiskId::new(1)],
            owned: vec![VolumeId::new(1)],
            replicas: (0..count).map(found).collect(),
        }
    }

    #[test]
    fn an_inventory_is_told_in_pages_of_which_the_first_names_the_disks() {
        let pages = pages(7, held(INVENTORY_PAGE_MAX + 1)).unwrap();
        let shape: Vec<_> = pages
            .iter()
            .map(|p| {
                (
                    p.page,
                    p.last,
                    p.disks.len(),
                    p.owned.len(),
                    p.replicas.len(),
                )
            })
            .collect();
        assert_eq!(
            shape,
            [(0, false, 1, 1, INVENTORY_PAGE_MAX), (1, true, 0, 0, 1)]
        );
        assert!(pages.iter().all(|page| page.number == 7));
    }

    #[test]
    fn a_store_that_holds_nothing_says_so() {
        let pages = pages(1, held(0)).unwrap();
        assert_eq!((pages.len(), pages[0].last), (1, true));
        assert_eq!(pages[0].disks, [DiskId::new(1)]);
    }

    #[test]
    fn each_inventory_is_wanted_once() {
        let (wanted, mut asked) = watch::channel(None);
        for answer in [Some(1), None, Some(1)] {
            want(&wanted, answer);
        }
        assert!(asked.has_changed().unwrap());
        assert_eq!(*asked.borrow_and_update(), Some(1));
        want(&wanted, Some(1));
        assert!(!asked.has_changed().unwrap());
        want(&wanted, Some(2));
        assert!(asked.has_changed().unwrap());
    }
}
