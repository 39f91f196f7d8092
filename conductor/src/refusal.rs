//! Why the cluster refuses a request: what happened, to what, and what to do next.

mod access;
mod identities;
mod once;
mod servers;
mod targets;
mod tasks;

use std::collections::BTreeMap;

use ashlar_proto::api::VolumeState;
use ashlar_proto::api::{
    OWNER_STORES_MAX, OWNER_VOLUMES_MAX, OWNERS_SEEN_MAX, Observed, OwnerHeartbeat,
    PEERS_WATCHED_MAX,
};
use ashlar_proto::limits::{
    GROUP_VOLUMES_MAX, NAME_BYTES_MAX, REPLICAS_MAX, VOLUME_BYTES_MAX, VOLUME_BYTES_MIN,
};
use ashlar_proto::volume_name::{is_plain_name, is_volume_name};
use ashlar_proto::{
    Address, ByteCount, DiskId, Epoch, Generation, NodeId, ReplicaId, ShardIndex, VolumeId,
};

use crate::placement::PlacementError;
pub use access::AccessRefusal;
pub use identities::IdentityRefusal;
pub use once::ConditionRefusal;
pub use servers::ServerRefusal;
pub use targets::{InvalidTarget, ReservationsRefusal, TargetRefusal};
pub(crate) use targets::{check_alias, check_chap};
pub use tasks::TaskRefusal;

/// Most disks of one node.
pub(crate) const NODE_DISKS_MAX: usize = 256;

/// Most labels of one node, and most kinds of damage of one disk.
pub(crate) const MAP_ENTRIES_MAX: usize = 64;

/// Longest text for people, in bytes: an owner, a path, a reason.
pub(crate) const TEXT_BYTES_MAX: usize = 1024;

/// Owners that a refusal names.
const OWNERS_NAMED_MAX: usize = 5;

/// A field of a request is out of range.
#[expect(
    missing_docs,
    reason = "each message says what its variant and fields are"
)]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRequest {
    #[error(
        "`{name}` is no name: use 1 to {NAME_BYTES_MAX} of a-z 0-9 . _ -, beginning with a letter \
         or digit"
    )]
    Name { name: String },
    #[error(
        "size {size} is not possible: give a multiple of 4096 from {VOLUME_BYTES_MIN} (1 MiB) to \
         {VOLUME_BYTES_MAX} (4 PiB) bytes"
    )]
    Size { size: ByteCount },
    #[error(
        "a clone has at least the size of the snapshot, {least} bytes, and {asked} are asked for: clone \
         it with its size, and make the clone smaller with `ashlar volume resize --shrink`"
    )]
    CloneSize { asked: ByteCount, least: ByteCount },
    #[error("{replicas} replicas are not possible: give 1 to {REPLICAS_MAX}")]
    Replicas { replicas: u8 },
    #[error("`{field}` must be 1 to {TEXT_BYTES_MAX} bytes of text without control characters")]
    Text { field: &'static str },
    #[error("label `{label}` is not possible: names and values are 1 to {NAME_BYTES_MAX} bytes")]
    Label { label: String },
    #[error("`{field}` has too many entries: {most} are allowed")]
    TooMany { field: &'static str, most: usize },
    #[error(
        "disk {disk} is said to hold a replica with {what} {number}, which no cluster comes to: look at it with \
         `ashlar disk inspect`; if it is damaged, leave it out and say that it is gone (`--gone {disk}`)"
    )]
    Inventory {
        disk: DiskId,
        what: &'static str,
        number: u64,
    },
    #[error("disk {disk} is reported twice, or without lanes, or with id 0")]
    Disk { disk: DiskId },
    #[error("the in-sync set is empty or names a replica twice")]
    InSync,
    #[error("a group of {count} volumes is not possible: give 2 to {GROUP_VOLUMES_MAX}")]
    GroupSize { count: usize },
    #[error("{bytes} bytes cannot be reserved of {size}: give 1 to {size}, or all")]
    Reserve { bytes: ByteCount, size: ByteCount },
    #[error(
        "thresholds {soft} % and {hard} % are not possible: give 1 to 100, the soft one not above \
         the hard one"
    )]
    Thresholds { soft: u8, hard: u8 },
    #[error("{} times is less than there is: give 1 or more, or unlimited", ratio(*.percent))]
    OverCommit { percent: u32 },
    #[error("there is no setting `{name}`: see `ashlar config list`")]
    NoSetting { name: String },
    #[error("`{name}` is a setting of the cluster, not of a volume: leave --volume out")]
    NotOfVolumes { name: String },
    #[error(
        "`{name}` cannot be set for a pool: set it for the cluster or a volume (`ashlar config explain {name}`)"
    )]
    NotOfPools { name: String },
    #[error("this is the name of no pool: {problem}")]
    Pool { problem: String },
    #[error("{most} pools have settings, which is the most: unset those of another pool first")]
    TooManyPools { most: usize },
    #[error("{name}: {problem}")]
    Setting { name: String, problem: String },
    #[error(transparent)]
    Target(#[from] InvalidTarget),
}

/// A volume is not in the state that the request needs.
#[expect(
    missing_docs,
    reason = "each message says what its variant and fields are"
)]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VolumeRefusal {
    #[error("there is no volume `{name}`: see `ashlar volume list`")]
    NotFound { name: String },
    #[error("a volume `{name}` exists already: choose another name, or delete it first")]
    Exists { name: String },
    #[error(
        "volume `{name}` is attached by `{owner}`: detach it there, or use force to take it over"
    )]
    Attached { name: String, owner: String },
    #[error(
        "volume `{name}` is published to node `{node}`: unpublish it there first (`ashlar volume unpublish \
         {name} --node {node}`)"
    )]
    Published { name: String, node: String },
    #[error(
        "volume `{name}` is published to node `{node}` {}: unpublish it there first",
        if *.read_only { "read-only" } else { "for writing" }
    )]
    PublishedOtherwise {
        name: String,
        node: String,
        read_only: bool,
    },
    #[error(
        "this publication of volume `{name}` is over: {}",
        match .node {
            Some(node) => format!("it is published to node `{node}` anew"),
            None => "the volume was unpublished".to_owned(),
        }
    )]
    PublicationOver { name: String, node: Option<String> },
    #[error("volume `{name}` is {}: {}", state_word(*.state), advice(*.state))]
    NotReady { name: String, state: VolumeState },
    #[error(
        "volume `{name}` is held back: the metadata are to be compared with what stores hold; see `ashlar \
         meta check`, and `ashlar meta check --repair`"
    )]
    Recovering { name: String },
    #[error(
        "generation {given} of volume `{name}` is over, the current is {current}: somebody else \
         attached or it was detached; attach again"
    )]
    StaleGeneration {
        name: String,
        given: Generation,
        current: Generation,
    },
    #[error(
        "volume {given} is gone, `{name}` is the name of volume {current} now: its attach is over; \
         attach again"
    )]
    OtherVolume {
        name: String,
        given: VolumeId,
        current: VolumeId,
    },
    #[error(
        "shard {shard} of volume `{name}` is at epoch {current}, not at {given}: read it again"
    )]
    StaleEpoch {
        name: String,
        shard: ShardIndex,
        given: Epoch,
        current: Epoch,
    },
    #[error(
        "replica {replica} is not one of shard {shard} of volume `{name}` any more: this set was \
         not committed and never will be; read the shard again"
    )]
    ReplicaGone {
        name: String,
        shard: ShardIndex,
        replica: ReplicaId,
    },
    #[error("volume `{name}` has no shard {shard}")]
    NoSuchShard { name: String, shard: ShardIndex },
}

fn state_word(state: VolumeState) -> &'static str {
    match state {
        VolumeState::Creating => "still being created",
        VolumeState::Ready => "ready",
        VolumeState::Deleting => "being deleted",
    }
}

fn advice(state: VolumeState) -> &'static str {
    match state {
        VolumeState::Creating => {
            "wait until its stores have made its replicas (`ashlar node list`)"
        }
        VolumeState::Ready => "nothing to do",
        VolumeState::Deleting => "create it again once it is gone",
    }
}

/// A snapshot cannot be made, deleted, read or gone back to.
#[expect(
    missing_docs,
    reason = "each message says what its variant and fields are"
)]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotRefusal {
    #[error("volume `{volume}` has no snapshot `{snapshot}`: see `ashlar snapshot list {volume}`")]
    NotFound { volume: String, snapshot: String },
    #[error(
        "volume `{volume}` has a snapshot `{snapshot}` already: choose another name, or delete it \
         first"
    )]
    Exists { volume: String, snapshot: String },
    #[error(
        "snapshot `{volume}@{snapshot}` is still sealing: wait until all in-sync replicas hold its \
         last writes (`ashlar snapshot show {volume}@{snapshot}`)"
    )]
    NotReady { volume: String, snapshot: String },
    #[error(
        "snapshot `{volume}@{snapshot}` is not the newest, {} {}: delete newer ones first, or use \
         --delete-newer to delete them with this", names(.newest, *.newer),
        if *.newer == 1 { "is newer" } else { "are newer" }
    )]
    NotNewest {
        volume: String,
        snapshot: String,
        /// The newest few, newest first.
        newest: Vec<String>,
        newer: usize,
    },
    #[error(
        "volume `{volume}` has {most} snapshots, more are not possible: delete some that are needed \
         no more"
    )]
    TooMany { volume: String, most: usize },
    #[error(
        "volume `{volume}` has gone back {most} times since its snapshots were made, more is not \
         possible: copy it to a new volume"
    )]
    TooManyRuns { volume: String, most: usize },
    #[error(
        "snapshot `{volume}@{snapshot}` is what {} {} where nothing was written: flatten or delete {} \
         first, or delete the snapshot with --when-unused, which takes it out of sight until then",
        clones_named(.clones, *.count),
        if *.count == 1 { "shows" } else { "show" },
        if *.count == 1 { "that" } else { "those" }
    )]
    HasClones {
        volume: String,
        snapshot: String,
        /// All that may be named.
        clones: Vec<String>,
        count: usize,
    },
    #[error(
        "a clone of `{volume}@{snapshot}` would be the {most}th of a chain, and each costs a read of \
         what was never written one more step: flatten `{volume}` first, and clone a snapshot of it \
         that is made then"
    )]
    ChainTooLong {
        volume: String,
        snapshot: String,
        most: usize,
    },
    #[error("volume `{volume}` has used up all its layers: copy it to a new volume")]
    Exhausted { volume: String },
    #[error(
        "volume `{name}` has {}: delete {} first (`ashlar snapshot list {name}`), or use force to \
         delete all of it",
        if *.snapshots == 1 { "a snapshot".to_owned() } else { format!("{} snapshots", .snapshots) },
        if *.snapshots == 1 { "it" } else { "them" }
    )]
    OfVolume { name: String, snapshots: usize },
}

/// Snapshots of several volumes cannot be made as of one moment. None of them was made, or is left.
#[expect(
    missing_docs,
    reason = "each message says what its variant and fields are"
)]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupRefusal {
    #[error("volume `{volume}` is named twice: give each volume of the group once")]
    Twice { volume: String },
    #[error(
        "volume `{volume}` is in a group of snapshots that is being made: try again in a moment"
    )]
    InProgress { volume: String },
    #[error(
        "volume `{volume}` may still take writes of a client that was denied: try again once a store \
         has fenced that client, or another has attached the volume"
    )]
    Unfenced { volume: String },
    #[error(
        "no snapshot was made: no word in time that writes are held back came from the owner of {}; \
         see that its front end runs, reaches the conductor and is of this version, and try again",
        owners_of(.members)
    )]
    Silent {
        /// The volumes, and who has them attached.
        members: Vec<(String, String)>,
    },
    #[error(
        "no snapshot was made: volume `{volume}` was attached, detached, gone back or deleted while \
         the group was being made; try again"
    )]
    Changed { volume: String },
    #[error(
        "no snapshot was made: the owner of volume `{volume}` let writes go on before it knew that \
         all were held, since it was told too late; try again"
    )]
    Broken { volume: String },
    #[error("the group of snapshots is over: it was made, or it failed")]
    Over,
}

fn owners_of(members: &[(String, String)]) -> String {
    let named = |(volume, owner): &(String, String)| match owner.as_str() {
        "" => format!("volume `{volume}`"),
        owner => format!("volume `{volume}` (`{owner}`)"),
    };
    let named: Vec<String> = members.iter().take(OWNERS_NAMED_MAX).map(named).collect();
    let more = match members.len().saturating_sub(OWNERS_NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} others"),
    };
    format!("{}{more}", named.join(", "))
}

/// A volume cannot have the size that is asked for.
#[expect(
    missing_docs,
    reason = "each message says what its variant and fields are"
)]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResizeRefusal {
    #[error(
        "volume `{name}` is larger, {current} bytes: use --shrink to cut off what lies beyond {asked} \
         bytes"
    )]
    Smaller {
        name: String,
        asked: ByteCount,
        current: ByteCount,
    },
    #[error(
        "volume `{name}` is made smaller only by who has just looked at what lies beyond: give the \
         generation of that attach, as `ashlar volume resize {name} --shrink` does"
    )]
    Unseen { name: String },
    #[error(
        "volume `{name}` has {}, and a part of each would be cut off: delete {} first (`ashlar \
         snapshot list {name}`)",
        if *.snapshots == 1 { "a snapshot".to_owned() } else { format!("{} snapshots", .snapshots) },
        if *.snapshots == 1 { "it" } else { "them" }
    )]
    HasSnapshots { name: String, snapshots: usize },
}

/// Space cannot be promised or kept.
#[expect(
    missing_docs,
    reason = "each message says what its variant and fields are"
)]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpaceRefusal {
    #[error(
        "{more} bytes more cannot be promised: {provisioned} are provisioned of a capacity of \
         {capacity}, and at most {} times that is allowed: add disks, delete volumes, or raise it \
         with `ashlar space set --over-commit RATIO`", ratio(*.percent)
    )]
    OverCommitted {
        more: ByteCount,
        provisioned: ByteCount,
        capacity: ByteCount,
        percent: u32,
    },
    #[error(
        "{more} bytes more cannot be kept for volume `{name}` on disk {disk}, which can keep {free}: \
         reserve less, delete what is not needed there, or have other volumes give up theirs"
    )]
    NotKept {
        name: String,
        disk: DiskId,
        more: ByteCount,
        free: ByteCount,
    },
}

/// Percent as times: `20`, `1.5`.
pub(crate) fn ratio(percent: u32) -> String {
    match (percent / 100, percent % 100) {
        (0, 0) => "any".to_owned(),
        (whole, 0) => whole.to_string(),
        (whole, part) if part % 10 == 0 => format!("{whole}.{}", part / 10),
        (whole, part) => format!("{whole}.{part:02}"),
    }
}

/// Clones that a refusal names.
const CLONES_NAMED_MAX: usize = 5;

/// The first few of those that may be named, and how many more there are.
fn clones_named(some: &[String], all: usize) -> String {
    match some.get(..CLONES_NAMED_MAX).unwrap_or(some) {
        [] if all == 1 => "a clone of another project".to_owned(),
        [] => format!("{all} clones of other projects"),
        few => names(few, all),
    }
}

impl Refusal {
    /// Whether it names volumes beside the one that the request is about.
    pub(crate) fn names_volumes(&self) -> bool {
        matches!(self, Self::Snapshot(SnapshotRefusal::HasClones { .. }))
    }

    /// As one is told who sees the volumes of some names only: others are counted.
    #[must_use]
    pub(crate) fn seen_by(mut self, sees: impl Fn(&str) -> bool) -> Self {
        if let Self::Snapshot(SnapshotRefusal::HasClones { clones, .. }) = &mut self {
            // Of `NAME@SNAPSHOT` the volume's name counts.
            clones.retain(|clone| sees(clone.split('@').next().unwrap_or_default()));
        }
        self
    }
}

/// Some names, and how many there are beside them.
fn names(some: &[String], all: usize) -> String {
    let quoted: Vec<String> = some.iter().map(|name| format!("`{name}`")).collect();
    match all.saturating_sub(some.len()) {
        0 => quoted.join(", "),
        more => format!("{} and {more} others", quoted.join(", ")),
    }
}

/// A node cannot be what it says it is.
#[expect(
    missing_docs,
    reason = "each message says what its variant and fields are"
)]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeRefusal {
    #[error("there is no node {node}: register again")]
    NotFound { node: NodeId },
    #[error("there is no node `{node}`: see `ashlar node list`")]
    Unknown { node: String },
    #[error(
        "node `{name}` holds {}: drain it with `ashlar node drain {name}` and wait until it holds \
         none", count(*.replicas)
    )]
    InUse { name: String, replicas: usize },
    #[error("node `{name}` is up: stop its store first, else it would be back at once")]
    IsUp { name: String },
    #[error(
        "node name `{name}` is in use by another store at {address} that is up: give this one \
         another --name"
    )]
    NameTaken { name: String, address: Address },
    #[error(
        "disk {disk} is already served by node `{node}`, which is up: stop that store, or format \
         the copy of the disk"
    )]
    DiskElsewhere { disk: DiskId, node: String },
}

/// A disk cannot be removed.
#[expect(
    missing_docs,
    reason = "each message says what its variant and fields are"
)]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiskRefusal {
    #[error("there is no disk {disk}: see `ashlar disk list`")]
    NotFound { disk: DiskId },
    #[error(
        "disk {disk} holds {}: drain it with `ashlar disk drain {disk}` and wait until it holds \
         none", count(*.replicas)
    )]
    InUse { disk: DiskId, replicas: usize },
    #[error(
        "disk {disk} is served by node `{node}`: start its store without the disk first, else it \
         would be back at once"
    )]
    IsServed { disk: DiskId, node: String },
}

/// A client may not attach, or is not denied that.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientRefusal {
    #[error(
        "client `{owner}` may attach no volume{}: `ashlar client allow '{client}'` lets it again",
        because(.reason.as_deref())
    )]
    Denied {
        owner: String,
        client: String,
        reason: Option<String>,
    },
    #[error("client `{client}` is not denied: see `ashlar client list` for the texts that are")]
    NotDenied { client: String },
}

fn because(reason: Option<&str>) -> String {
    reason.map_or_else(String::new, |reason| format!(" ({reason})"))
}

fn count(replicas: usize) -> String {
    match replicas {
        1 => "1 replica".to_owned(),
        _ => format!("{replicas} replicas"),
    }
}

/// Any refusal.
#[expect(
    missing_docs,
    reason = "each message says what its variant and fields are"
)]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(transparent)]
    Invalid(#[from] InvalidRequest),
    #[error(transparent)]
    Volume(#[from] VolumeRefusal),
    #[error(transparent)]
    Snapshot(#[from] SnapshotRefusal),
    #[error(transparent)]
    Group(#[from] GroupRefusal),
    #[error(transparent)]
    Resize(#[from] ResizeRefusal),
    #[error(transparent)]
    Space(#[from] SpaceRefusal),
    #[error(transparent)]
    Placement(#[from] PlacementError),
    #[error(transparent)]
    Node(#[from] NodeRefusal),
    #[error(transparent)]
    Disk(#[from] DiskRefusal),
    #[error(transparent)]
    Client(#[from] ClientRefusal),
    #[error(transparent)]
    Target(#[from] TargetRefusal),
    #[error(transparent)]
    Server(#[from] ServerRefusal),
    #[error(transparent)]
    Reservations(#[from] ReservationsRefusal),
    #[error(transparent)]
    Access(#[from] AccessRefusal),
    /// As its name says.
    #[error(transparent)]
    Identity(#[from] IdentityRefusal),
    /// As its name says.
    #[error(transparent)]
    Condition(#[from] ConditionRefusal),
    #[error(transparent)]
    Task(#[from] TaskRefusal),
}

/// Checks the name of a snapshot, node, user or project.
pub(crate) fn check_name(name: &str) -> Result<(), InvalidRequest> {
    if is_plain_name(name) {
        return Ok(());
    }
    let name = name.chars().take(80).collect();
    Err(InvalidRequest::Name { name })
}

/// Checks the name of a volume, which may be that of a project before it.
pub(crate) fn check_volume_name(name: &str) -> Result<(), InvalidRequest> {
    if is_volume_name(name) {
        return Ok(());
    }
    let name = name.chars().take(140).collect();
    Err(InvalidRequest::Name { name })
}

/// Checks a text for people.
pub(crate) fn check_text(field: &'static str, text: &str) -> Result<(), InvalidRequest> {
    let fits = (1..=TEXT_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control);
    if fits {
        Ok(())
    } else {
        Err(InvalidRequest::Text { field })
    }
}

/// Checks labels of a node or a volume.
pub(crate) fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), InvalidRequest> {
    check_count("labels", labels.len(), MAP_ENTRIES_MAX)?;
    let fits = |text: &str| {
        (1..=NAME_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control)
    };
    match labels
        .iter()
        .find(|(name, value)| !fits(name) || !fits(value))
    {
        Some((name, value)) => {
            let label = format!("{name}={value}").chars().take(160).collect();
            Err(InvalidRequest::Label { label })
        }
        None => Ok(()),
    }
}

/// Checks what a store sees of others.
pub(crate) fn check_observed(seen: &Observed) -> Result<(), InvalidRequest> {
    check_count("peers", seen.peers.len(), PEERS_WATCHED_MAX)?;
    let owners = seen.owners.as_ref().map_or(0, Vec::len);
    check_count("owners", owners, OWNERS_SEEN_MAX)
}

/// Checks what an owner says of itself and of stores.
pub(crate) fn check_owner(heartbeat: &OwnerHeartbeat) -> Result<(), InvalidRequest> {
    check_text("owner", &heartbeat.owner)?;
    check_count("volumes", heartbeat.volumes.len(), OWNER_VOLUMES_MAX)?;
    check_count("stores", heartbeat.stores.len(), OWNER_STORES_MAX)
}

fn check_count(field: &'static str, count: usize, most: usize) -> Result<(), InvalidRequest> {
    if count > most {
        return Err(InvalidRequest::TooMany { field, most });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for name in ["a", "0", "data-1.b_c", &"x".repeat(63)] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in ["", "-a", ".", "..", "A", "a/b", "a b", "ä", &"x".repeat(64)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn percents_are_told_as_times() {
        let told = [0, 100, 150, 125, 2000].map(ratio);
        assert_eq!(told, ["any", "1", "1.5", "1.25", "20"]);
    }

    #[test]
    fn texts_are_checked() {
        assert!(check_text("owner", "nbd on host-a (127.0.0.1:10809)").is_ok());
        for text in ["", "a\nb", &"x".repeat(TEXT_BYTES_MAX + 1)] {
            assert!(check_text("owner", text).is_err());
        }
    }
}
