//! What a comparison may find: codes that keep their meaning, and what to do.

use ashlar_proto::api::FindingKind;
use ashlar_proto::{DiskId, Epoch, Generation, Layer, ReplicaId};

/// Something that rows and disks do not agree on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Code {
    #[error(
        "nobody told what disk {disk} holds: start its store, of this version or a newer one, or remove the \
         disk if it is gone for good"
    )]
    DiskUnheard { disk: DiskId, recovering: bool },
    #[error("the counter of {what} stands at {next}, but {used} is in use: a repair raises it")]
    CounterBehind {
        what: &'static str,
        next: u64,
        used: u64,
    },
    #[error(
        "disk {disk} has replica {replica}, which no row names: it was replaced or its volume deleted, \
         and its store removes it"
    )]
    ReplicaUnnamed { replica: ReplicaId, disk: DiskId },
    #[error(
        "replica {replica} is not on disk {disk}, which was looked at: the cluster makes it elsewhere"
    )]
    ReplicaNotHeld { replica: ReplicaId, disk: DiskId },
    #[error("replica {replica} is on disk {found}, not on {said}: a repair says so")]
    ReplicaElsewhere {
        replica: ReplicaId,
        said: DiskId,
        found: DiskId,
    },
    #[error(
        "the row is of epoch {said}, a disk has seen {seen}: the set changed since, and a repair makes it \
         the {members} replicas that hold every write"
    )]
    ShardBehind {
        said: Epoch,
        seen: Epoch,
        members: usize,
    },
    #[error(
        "its row is not there: a repair makes it of the {members} replicas that hold every write"
    )]
    ShardRowLost { members: usize },
    #[error(
        "its row is not there, and no disk holds a replica of it: start the stores that are down, or restore \
         a backup that has it"
    )]
    ShardLost,
    #[error(
        "no member of its set is on a disk that was looked at: start the stores that are down, or restore \
         a newer backup"
    )]
    NoMemberHeld,
    #[error(
        "its owner is connected to a store: stop it, and check again; who holds every write can only be said \
         of a volume that nobody writes to"
    )]
    Owned,
    #[error(
        "its last owner did not leave it cleanly, so which of its {found} replicas hold every write cannot be \
         told: start the stores that are down; if none of them was being brought up then, `--accept` the volume"
    )]
    Unclean { found: usize },
    #[error(
        "{members} of {wanted} replicas agree, and some disks were not looked at, which may hold newer ones: \
         start their stores, and check again"
    )]
    TooFew { members: usize, wanted: usize },
    #[error(
        "its generation stands at {said}, a disk has seen {seen}: a repair raises it above, and the next owner \
         fences all earlier ones"
    )]
    GenerationBehind { said: Generation, seen: Generation },
    #[error(
        "its head is layer {said}, a disk has {seen}: snapshots were made since; a repair goes on from there, \
         their names are lost"
    )]
    LayersBehind { said: Layer, seen: Layer },
    #[error(
        "its layers were changed since in a way that its snapshots' rows do not fit, or that stores do not \
         tell: restore a newer backup"
    )]
    LayersUnknown,
    #[error("disks hold shards beyond its size: it grew since; restore a newer backup")]
    BeyondEnd,
    #[error("no row knows the volume: it was deleted, and stores remove its replicas")]
    VolumeDeleted,
    #[error(
        "no row knows the volume: a repair makes it anew as `{name}`, as large as its replicas are; its \
         settings, key and labels are lost, and if it was a clone, what it had not written itself"
    )]
    VolumeRowLost { name: String },
    #[error(
        "no row knows the volume, and its replicas do not suffice to make it anew ({why}): restore a newer \
         backup"
    )]
    VolumeUnknown { why: &'static str },
}

impl Code {
    /// The code.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::DiskUnheard { .. } => "disk-unheard",
            Self::CounterBehind { .. } => "counter-behind",
            Self::ReplicaUnnamed { .. } => "replica-unnamed",
            Self::ReplicaNotHeld { .. } => "replica-not-held",
            Self::ReplicaElsewhere { .. } => "replica-elsewhere",
            Self::ShardBehind { .. } => "shard-behind",
            Self::ShardRowLost { .. } => "shard-row-lost",
            Self::ShardLost => "shard-lost",
            Self::NoMemberHeld => "no-member-held",
            Self::Owned => "volume-owned",
            Self::Unclean { .. } => "shard-unclean",
            Self::TooFew { .. } => "too-few-replicas",
            Self::GenerationBehind { .. } => "generation-behind",
            Self::LayersBehind { .. } => "layers-behind",
            Self::LayersUnknown => "layers-unknown",
            Self::BeyondEnd => "beyond-end",
            Self::VolumeDeleted => "volume-deleted",
            Self::VolumeRowLost { .. } => "volume-row-lost",
            Self::VolumeUnknown { .. } => "volume-unknown",
        }
    }

    /// How much it matters.
    pub(crate) fn kind(&self) -> FindingKind {
        match self {
            // Without a recovery a store that is down is no matter of the metadata.
            Self::DiskUnheard {
                recovering: false, ..
            }
            | Self::ReplicaUnnamed { .. }
            | Self::VolumeDeleted => FindingKind::Note,
            Self::ReplicaNotHeld { .. } => FindingKind::Heals,
            Self::CounterBehind { .. }
            | Self::ReplicaElsewhere { .. }
            | Self::ShardBehind { .. }
            | Self::ShardRowLost { .. }
            | Self::GenerationBehind { .. }
            | Self::LayersBehind { .. }
            | Self::VolumeRowLost { .. } => FindingKind::Repairable,
            Self::DiskUnheard { .. }
            | Self::ShardLost
            | Self::NoMemberHeld
            | Self::Owned
            | Self::Unclean { .. }
            | Self::TooFew { .. }
            | Self::LayersUnknown
            | Self::BeyondEnd
            | Self::VolumeUnknown { .. } => FindingKind::Undecided,
        }
    }
}
