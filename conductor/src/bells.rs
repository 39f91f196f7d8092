//! Wakes who waits for a change: all who wait for any, and those who wait for what one node is assigned apart,
//! so that a change costs as many wakes as it has readers, however many nodes there are.
//!
//! Invariant: who has taken hold of a bell before looking at the state misses no ring after that.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use ashlar_proto::NodeId;
use tokio::sync::Notify;

/// See the module. Each bell wakes in the order in which they came; a watch would in any.
#[derive(Debug, Default)]
pub(crate) struct Bells {
    all: Notify,
    nodes: Mutex<BTreeMap<NodeId, Arc<Notify>>>,
}

impl Bells {
    /// The bell for any change, but for those of assignments alone.
    pub(crate) fn of_all(&self) -> &Notify {
        &self.all
    }

    /// The bell for what a node is assigned.
    pub(crate) fn of_node(&self, node: NodeId) -> Arc<Notify> {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(nodes.entry(node).or_default())
    }

    /// Something has changed.
    pub(crate) fn ring(&self) {
        self.all.notify_waiters();
    }

    /// What these nodes are assigned has changed.
    pub(crate) fn ring_nodes(&self, changed: impl IntoIterator<Item = NodeId>) {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        for node in changed {
            let Some(bell) = nodes.get(&node) else {
                continue;
            };
            bell.notify_waiters();
            // Nobody has hold of it any more.
            if Arc::strong_count(bell) == 1 {
                nodes.remove(&node);
            }
        }
    }

    /// Whoever waits for anything is to look again.
    pub(crate) fn ring_everybody(&self) {
        let nodes: Vec<NodeId> = {
            let nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
            nodes.keys().copied().collect()
        };
        self.ring_nodes(nodes);
        self.ring();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_node_is_woken_by_what_concerns_it_or_all() {
        let bells = Bells::default();
        let (one, other) = (NodeId::new(1), NodeId::new(2));
        let bell = bells.of_node(one);
        let mut waits = Box::pin(bell.notified());
        waits.as_mut().enable();
        bells.ring();
        bells.ring_nodes([other]);
        tokio::select! {
            biased;
            () = &mut waits => panic!("woken by what concerns others"),
            () = tokio::task::yield_now() => {}
        }
        bells.ring_nodes([one]);
        waits.await;
        let mut waits = Box::pin(bell.notified());
        waits.as_mut().enable();
        bells.ring_everybody();
        waits.await;
    }

    #[test]
    fn bells_that_nobody_holds_are_not_kept() {
        let bells = Bells::default();
        for node in 0..10 {
            drop(bells.of_node(NodeId::new(node)));
        }
        let held = bells.of_node(NodeId::new(3));
        bells.ring_everybody();
        assert_eq!(bells.nodes.lock().unwrap().len(), 1);
        drop(held);
        bells.ring_nodes([NodeId::new(3)]);
        assert!(bells.nodes.lock().unwrap().is_empty());
    }
}
