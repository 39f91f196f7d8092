//! Which node each volume is published to, as far as this process knows.
//!
//! The conductor has no place for it yet: an attach is granted to an owner, which is a front end, when
//! that opens the volume. So this is lost when the process ends, and COs publish again what they find
//! missing; meanwhile only the exclusive attach keeps two front ends apart.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ashlar_proto::VolumeId;
use tonic::Status;

use crate::node_id::NodeName;

/// A volume on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Publication {
    /// The node.
    pub node: NodeName,
    /// Nobody is to write there.
    pub read_only: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Publications {
    by_volume: Mutex<HashMap<VolumeId, Publication>>,
}

impl Publications {
    /// Publishes a volume; the same again changes nothing.
    ///
    /// # Errors
    /// ALREADY_EXISTS where it is published to that node otherwise, FAILED_PRECONDITION where it is to
    /// another node.
    pub fn publish(&self, volume: VolumeId, wanted: Publication) -> Result<(), Status> {
        match self.lock().entry(volume) {
            Entry::Vacant(free) => {
                free.insert(wanted);
                Ok(())
            }
            Entry::Occupied(known) if *known.get() == wanted => Ok(()),
            Entry::Occupied(known) if known.get().node == wanted.node => {
                Err(Status::already_exists(format!(
                    "volume {volume} is published to {} {}: unpublish it first",
                    wanted.node,
                    if wanted.read_only {
                        "for writing"
                    } else {
                        "read-only"
                    }
                )))
            }
            Entry::Occupied(known) => Err(Status::failed_precondition(format!(
                "volume {volume} is published to {}, and it is one node's at a time: unpublish it there \
                 first",
                known.get().node
            ))),
        }
    }

    /// Takes a volume from a node, or from whichever has it.
    pub fn unpublish(&self, volume: VolumeId, node: Option<&NodeName>) {
        let mut known = self.lock();
        if node.is_none_or(|node| known.get(&volume).is_some_and(|one| one.node == *node)) {
            known.remove(&volume);
        }
    }

    /// Where a volume is.
    pub fn of(&self, volume: VolumeId) -> Option<Publication> {
        self.lock().get(&volume).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<VolumeId, Publication>> {
        self.by_volume
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(node: &str, read_only: bool) -> Publication {
        let node = node.parse().unwrap();
        Publication { node, read_only }
    }

    #[test]
    fn a_volume_is_one_nodes_at_a_time() {
        let (known, volume) = (Publications::default(), VolumeId::new(1));
        known.publish(volume, on("a", false)).unwrap();
        known.publish(volume, on("a", false)).unwrap();
        let code = |publication| known.publish(volume, publication).unwrap_err().code();
        assert_eq!(code(on("a", true)), tonic::Code::AlreadyExists);
        assert_eq!(code(on("b", false)), tonic::Code::FailedPrecondition);
        known.unpublish(volume, Some(&on("b", false).node));
        assert_eq!(
            known.of(volume),
            Some(on("a", false)),
            "another node's call"
        );
        known.unpublish(volume, None);
        known.publish(volume, on("b", true)).unwrap();
    }
}
