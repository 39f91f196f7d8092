//! What a comparison may find: codes that keep their meaning, and what to do.

use ashlar_proto::api::{FindingKind, MetadataFinding};
use ashlar_proto::{ByteCount, DiskId, Epoch, Generation, Layer, ReplicaId, ShardIndex, VolumeId};

/// Something that rows and disks do not agree on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Code {
    #[error(
        "nobody told what disk {disk} holds: start its store, of this version or a newer one; if the disk is \
         gone for good, say so with `--gone {disk}`"
    )]
    DiskUnheard { disk: DiskId, recovering: bool },
    #[error(
        "a store has disk {disk}, which no row knows or another node has: start that store anew, so that it \
         registers the disk, and check again"
    )]
    DiskUnregistered { disk: DiskId, recovering: bool },
    #[error(
        "all {count} disks that the metadata know were looked at; if the cluster has no others, also none that \
         was added since the backup, say so with `--repair --all-disks`: the recovery ends, and stores remove \
         what no row names"
    )]
    DisksNotVouched { count: usize },
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
        "its {found} replicas hold no write, though owners had them: if nothing was ever written here, \
         `--accept` the volume; if disks are missing, start their stores"
    )]
    Empty { found: usize },
    #[error(
        "{members} of {wanted} replicas are found, and newer ones may be on disks that were not looked at: \
         start all stores, also those added since, and say so with `--all-disks`"
    )]
    TooFew { members: usize, wanted: usize },
    #[error(
        "{held} of the {members} members of its restored set were found, and a newer set may be on disks that \
         were not looked at: start all stores, also those added since, and say so with `--all-disks`"
    )]
    Unwitnessed { held: usize, members: usize },
    #[error(
        "it was still being made when the backup was taken, and was used since: restore a newer backup"
    )]
    Unfinished,
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
        "no row knows the volume: a repair makes it anew as `{name}`, of {size} bytes in {shards} shards; its \
         settings, key and labels are lost, and if it was a clone, what it had not written itself{}",
        ask_for_size(*.accepted)
    )]
    VolumeRowLost {
        name: String,
        size: ByteCount,
        shards: usize,
        accepted: bool,
    },
    #[error(
        "no row knows the volume, of which {found} replicas were found: start all stores, also those added since, \
         and say so with `--all-disks`"
    )]
    VolumeRowLostOfSome { found: usize },
    #[error(
        "no row knows the volume, and its replicas do not suffice to make it anew ({why}): restore a newer \
         backup"
    )]
    VolumeUnknown { why: &'static str },
}

fn ask_for_size(accepted: bool) -> &'static str {
    match accepted {
        true => "",
        false => {
            ". Shards at its end of which no disk holds a replica are not known of: `--accept` the volume if \
             that is its size"
        }
    }
}

impl Code {
    /// What is told of it.
    pub(super) fn finding(
        &self,
        volume: Option<VolumeId>,
        shard: Option<ShardIndex>,
    ) -> MetadataFinding {
        MetadataFinding {
            code: self.word().to_owned(),
            kind: self.kind(),
            volume,
            shard,
            detail: self.to_string(),
        }
    }

    /// The code.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::DiskUnheard { .. } => "disk-unheard",
            Self::DiskUnregistered { .. } => "disk-unregistered",
            Self::DisksNotVouched { .. } => "disks-not-vouched",
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
            Self::Empty { .. } => "shard-empty",
            Self::TooFew { .. } => "too-few-replicas",
            Self::Unwitnessed { .. } => "set-unwitnessed",
            Self::Unfinished => "volume-unfinished",
            Self::GenerationBehind { .. } => "generation-behind",
            Self::LayersBehind { .. } => "layers-behind",
            Self::LayersUnknown => "layers-unknown",
            Self::BeyondEnd => "beyond-end",
            Self::VolumeDeleted => "volume-deleted",
            Self::VolumeRowLost { .. } | Self::VolumeRowLostOfSome { .. } => "volume-row-lost",
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
            | Self::DiskUnregistered {
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
            | Self::VolumeRowLost { accepted: true, .. } => FindingKind::Repairable,
            Self::DiskUnheard { .. }
            | Self::DiskUnregistered { .. }
            | Self::DisksNotVouched { .. }
            | Self::Empty { .. }
            | Self::Unwitnessed { .. }
            | Self::Unfinished
            | Self::VolumeRowLost { .. }
            | Self::VolumeRowLostOfSome { .. }
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
