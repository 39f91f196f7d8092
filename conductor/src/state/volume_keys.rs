//! Keys of volumes: who attaches one that has a key, or reads a snapshot of it, has to give it.
//!
//! Keys are made here and have 256 bits of randomness, so a plain hash of one tells nothing of it. It is
//! the hash that is compared, so the time that takes tells nothing either.

use ashlar_proto::VolumeId;

use super::{ClusterState, Plan};
use crate::refusal::{AccessRefusal, Refusal};
use crate::row::{AnyRow, Hidden, VolumeRow};

impl ClusterState {
    /// Gives a volume a key, or another one, or takes it away.
    pub(crate) fn plan_volume_key(
        &self,
        name: &str,
        hash: Option<Hidden>,
    ) -> Result<Plan<VolumeId>, Refusal> {
        let current = self.require(name)?;
        let answer = current.id;
        if current.key_hash == hash {
            return Ok(Plan::nothing(answer));
        }
        let row = VolumeRow {
            key_hash: hash,
            ..current.clone()
        };
        Ok(Plan {
            reads: Vec::new(),
            changes: vec![AnyRow::Volume(row).put()],
            answer,
        })
    }

    /// Refuses who does not give the key of a volume that has one. `given` is hashed as the row's is.
    pub(crate) fn check_volume_key(
        &self,
        name: &str,
        given: Option<&Hidden>,
    ) -> Result<(), AccessRefusal> {
        let wanted = self
            .volume_named(name)
            .and_then(|row| row.key_hash.as_ref());
        match wanted {
            Some(wanted) if Some(wanted) != given => Err(AccessRefusal::VolumeKey {
                volume: name.to_owned(),
            }),
            _ => Ok(()),
        }
    }
}
