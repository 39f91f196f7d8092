//! What PERSISTENT RESERVE OUT asks for, and what becomes of others by it.

use super::state::{InitiatorPort, ReservationType, TargetPort};
use crate::scsi::NexusId;
use crate::scsi::sense::Code;

/// How a nexus registers (SPC-4 section 5.13.7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Register {
    /// The key it says it has; none: whatever it has (REGISTER AND IGNORE EXISTING KEY).
    pub(crate) key: Option<u64>,
    /// The key it wants; 0: none any more.
    pub(crate) new_key: u64,
    /// APTPL.
    pub(crate) persist: bool,
    /// ALL_TG_PT.
    pub(crate) all_ports: bool,
    /// Other initiator ports to register (SPEC_I_PT).
    pub(crate) others: Vec<InitiatorPort>,
}

/// A service action, with its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Register(Register),
    Reserve {
        key: u64,
        kind: ReservationType,
    },
    Release {
        key: u64,
        kind: ReservationType,
    },
    Clear {
        key: u64,
    },
    Preempt {
        key: u64,
        victim: u64,
        kind: ReservationType,
        abort: bool,
    },
    Move {
        key: u64,
        new_key: u64,
        persist: bool,
        unregister: bool,
        to: InitiatorPort,
        through: TargetPort,
    },
}

/// What becomes of other nexuses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Effects {
    /// Unit attentions to raise.
    pub(crate) attentions: Vec<(NexusId, Code)>,
    /// Whose tasks end.
    pub(crate) aborts: Vec<NexusId>,
}
