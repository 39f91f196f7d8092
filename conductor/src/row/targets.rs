//! The rows of iSCSI targets, and of the persistent reservations of volumes.

use ashlar_proto::api::{ChapLogin, InitiatorSecret, PersistentReservations};
use ashlar_proto::{InitiatorPattern, IscsiName, Lun, VolumeId};
use serde::{Deserialize, Serialize};

use crate::meta::Key;

/// A target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TargetRow {
    pub(crate) name: IscsiName,
    pub(crate) alias: Option<String>,
    /// By number, none twice, no volume twice.
    pub(crate) units: Vec<UnitRow>,
    /// Who may log in, in the order in which they were allowed, none twice.
    pub(crate) initiators: Vec<InitiatorPattern>,
    /// None twice of the same name and initiator.
    pub(crate) chap: Vec<InitiatorSecret>,
    pub(crate) mutual: Option<ChapLogin>,
}

/// What initiators have to know for discovery sessions, and what servers show them; not there until
/// somebody has set it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DiscoveryRow {
    /// As [`TargetRow::chap`].
    pub(crate) chap: Vec<InitiatorSecret>,
    pub(crate) mutual: Option<ChapLogin>,
}

/// A logical unit of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UnitRow {
    pub(crate) lun: Lun,
    pub(crate) volume: VolumeId,
    pub(crate) read_only: bool,
}

/// The persistent reservations of a volume; not there until somebody has registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReservationsRow {
    pub(crate) volume: VolumeId,
    /// Counts the changes, from 1 on.
    pub(crate) version: u64,
    pub(crate) reservations: PersistentReservations,
}

pub(crate) fn target_key(name: &IscsiName) -> Key {
    Key::new(format!("target/{name}"))
}

pub(crate) fn discovery_key() -> Key {
    Key::new("discovery")
}

pub(crate) fn reservations_key(volume: VolumeId) -> Key {
    Key::new(format!("reservations/{volume}"))
}
