//! The row of a recovery: metadata that are behind what stores hold, or may be.

use std::collections::BTreeSet;

use ashlar_proto::VolumeId;
use serde::{Deserialize, Serialize};

use crate::meta::Key;

/// There while the metadata have to be compared with what stores hold. A build that does not know of it
/// does not start on it: it would have stores remove what the metadata lack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RecoveryRow {
    /// Why.
    pub(crate) cause: RecoveryCause,
    /// By how much the epochs of all shards were raised when it began.
    #[serde(default)]
    pub(crate) epochs_skipped: u32,
    /// The metadata were compared, and what could be decided was.
    #[serde(default)]
    pub(crate) compared: bool,
    /// Volumes that could not be decided. Before the comparison that is none yet.
    #[serde(default)]
    pub(crate) undecided: BTreeSet<VolumeId>,
}

impl RecoveryRow {
    /// One that begins.
    pub(crate) fn begun(cause: RecoveryCause, epochs_skipped: u32) -> Self {
        Self {
            cause,
            epochs_skipped,
            compared: false,
            undecided: BTreeSet::new(),
        }
    }

    /// Whether what the rows say of that volume may be behind.
    pub(crate) fn holds_back(&self, volume: VolumeId) -> bool {
        !self.compared || self.undecided.contains(&volume)
    }
}

/// Why a recovery began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RecoveryCause {
    /// The rows are those of a backup.
    Restored,
    /// Rows are missing, or were removed because they could not be read.
    RowsLost,
}

pub(crate) fn recovery_key() -> Key {
    Key::new("recovery")
}
