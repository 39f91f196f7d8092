//! Plans for persistent reservations: kept for the front ends that serve a volume, replaced by who
//! has seen their last version, gone with the volume.

use ashlar_proto::api::{ReplaceReservations, VolumeReservations};

use super::{ClusterState, Plan};
use crate::refusal::{InvalidRequest, InvalidTarget, Refusal, ReservationsRefusal, VolumeRefusal};
use crate::row::{AnyRow, ReservationsRow, VolumeRow, volume_key};

impl ClusterState {
    /// Those of a volume.
    pub(crate) fn reservations_of(&self, name: &str) -> Result<VolumeReservations, VolumeRefusal> {
        let volume = self.require(name)?;
        let row = self.reservations.get(&volume.id);
        Ok(VolumeReservations {
            volume: volume.id,
            version: self.version_of(volume),
            reservations: row.map(|row| row.reservations.clone()).unwrap_or_default(),
        })
    }

    /// Replaces them, unless they have changed since they were seen.
    pub(crate) fn plan_reservations(
        &self,
        name: &str,
        request: &ReplaceReservations,
    ) -> Result<Plan<VolumeReservations>, Refusal> {
        let volume = self.require_same(name, request.volume)?;
        // Those of a volume that goes are deleted by who has seen them.
        self.require_ready(name)?;
        let checked = request.reservations.check();
        checked.map_err(|error| InvalidRequest::from(InvalidTarget::from(error)))?;
        let (seen, current) = (request.seen, self.version_of(volume));
        if seen != current {
            let volume = name.to_owned();
            return Err(ReservationsRefusal::Changed {
                volume,
                seen,
                current,
            }
            .into());
        }
        let row = ReservationsRow {
            volume: volume.id,
            version: current + 1,
            reservations: request.reservations.clone(),
        };
        let answer = VolumeReservations {
            volume: row.volume,
            version: row.version,
            reservations: row.reservations.clone(),
        };
        Ok(Plan {
            reads: vec![volume_key(volume.id)],
            changes: vec![AnyRow::Reservations(row).put()],
            answer,
        })
    }

    pub(super) fn version_of(&self, volume: &VolumeRow) -> u64 {
        self.reservations
            .get(&volume.id)
            .map_or(0, |row| row.version)
    }
}
