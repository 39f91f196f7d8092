//! Disks that are going bad: what a store says of one, and what becomes of it.

use serde::{Deserialize, Serialize};

/// One occasion on which a store found that a disk ails: another one, another number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct Incident(pub u32);

/// A store's word that a disk is going bad, though it serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Ailing {
    /// What the store counted, for people.
    pub reason: String,
    /// The occasion.
    pub incident: Incident,
}

/// What becomes of a disk that ails: nobody has asked for it, unlike for [`Schedulable`](super::Schedulable).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Evacuation {
    /// It does not ail.
    #[default]
    None,
    /// Its replicas move away, and it takes no new ones.
    Moving,
    /// It takes no new replicas; its own move once other disks that ail are empty.
    Waiting,
    /// It takes no new replicas and holds none.
    Done,
    /// So many disks ail that the cause may lie elsewhere: nothing is done.
    Withheld,
    /// Somebody has said that it is to be used all the same.
    Cleared,
}

/// `POST /v1/disks/{id}/clear`: an empty object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ClearDisk {}
