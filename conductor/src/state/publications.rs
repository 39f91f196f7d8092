//! Plans for publications: which node a volume is for.
//!
//! Invariants: a volume is published to one node at a time; while it is, only who shows that publication
//! attaches it, or repairs it; who has it attached under a publication that ends has lost it, in the same
//! transaction. An id is drawn at random, so that none that was ever shown comes to be current again.

use ashlar_proto::api::{Publication, PublishVolume, UnpublishVolume, VolumeState};
use ashlar_proto::{PublicationId, VolumeId};

use super::clients::taken_away;
use super::{ClusterState, Plan};
use crate::refusal::{Refusal, VolumeRefusal, check_text};
use crate::row::{AnyRow, VolumeRow};

impl ClusterState {
    /// Gives a volume to a node, under this id unless it has it already. Who has it attached otherwise keeps
    /// it, and the node gets it once that one lets go.
    pub(crate) fn plan_publish(
        &self,
        name: &str,
        request: &PublishVolume,
        id: PublicationId,
    ) -> Result<Plan<VolumeId>, Refusal> {
        check_text("node", &request.node)?;
        let current = self.require_same(name, request.volume)?;
        self.refuse_held_back(name)?;
        let name = || name.to_owned();
        if current.state != VolumeState::Ready {
            let state = current.state;
            return Err(VolumeRefusal::NotReady {
                name: name(),
                state,
            }
            .into());
        }
        if let Some(known) = &current.publication {
            let (name, node, read_only) = (name(), known.node.clone(), known.read_only);
            return match (node == request.node, read_only == request.read_only) {
                (true, true) => Ok(Plan::nothing(current.id)),
                (true, false) => Err(VolumeRefusal::PublishedOtherwise {
                    name,
                    node,
                    read_only,
                }
                .into()),
                (false, _) => Err(VolumeRefusal::Published { name, node }.into()),
            };
        }
        let row = VolumeRow {
            publication: Some(Publication {
                id,
                node: request.node.clone(),
                read_only: request.read_only,
            }),
            ..current.clone()
        };
        Ok(Plan {
            reads: Vec::new(),
            answer: row.id,
            changes: vec![AnyRow::Volume(row).put()],
        })
    }

    /// Takes a volume from a node, and from who has it attached there. What is not published to it stays as
    /// it is.
    pub(crate) fn plan_unpublish(
        &self,
        name: &str,
        request: &UnpublishVolume,
    ) -> Result<Plan<VolumeId>, Refusal> {
        let current = self.require_same(name, request.volume)?;
        if self.ending(current, request).is_none() {
            return Ok(Plan::nothing(current.id));
        }
        let row = VolumeRow {
            publication: None,
            ..current.clone()
        };
        let change = if is_attached_under_it(current) {
            taken_away(&row)
        } else {
            AnyRow::Volume(row).put()
        };
        Ok(Plan {
            reads: Vec::new(),
            answer: current.id,
            changes: vec![change],
        })
    }

    /// Whether somebody has the volume attached under the publication that is to end.
    pub(crate) fn is_used_there(&self, name: &str, request: &UnpublishVolume) -> bool {
        let current = self.require_same(name, request.volume).ok();
        current.is_some_and(|current| {
            self.ending(current, request).is_some() && is_attached_under_it(current)
        })
    }

    /// The publication that a request ends.
    fn ending<'a>(
        &self,
        current: &'a VolumeRow,
        request: &UnpublishVolume,
    ) -> Option<&'a Publication> {
        let known = current.publication.as_ref()?;
        let is_meant = request.node.as_ref().is_none_or(|node| *node == known.node);
        is_meant.then_some(known)
    }
}

fn is_attached_under_it(row: &VolumeRow) -> bool {
    let id = row.publication.as_ref().map(|known| known.id);
    row.attached_by.is_some() && id.is_some() && row.attached_under == id
}

/// Refuses an attach that does not show the publication that the volume has.
pub(super) fn check_publication(
    current: &VolumeRow,
    shown: Option<PublicationId>,
) -> Result<(), VolumeRefusal> {
    let name = || current.name.clone();
    match (&current.publication, shown) {
        (None, None) => Ok(()),
        (Some(known), Some(shown)) if known.id == shown => Ok(()),
        (Some(known), None) => Err(VolumeRefusal::Published {
            name: name(),
            node: known.node.clone(),
        }),
        (known, Some(_)) => Err(VolumeRefusal::PublicationOver {
            name: name(),
            node: known.as_ref().map(|known| known.node.clone()),
        }),
    }
}
