//! Space of thin pools: what is promised and what is kept, from when on disks count as full, and
//! what the conductor has seen happen.

use serde::{Deserialize, Serialize};

use crate::ids::{ByteCount, ReplicaId};

/// What is kept for a volume on each disk that holds a replica of it, whatever others write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Reserve {
    /// Nothing: it shares what is free with all others.
    #[default]
    None,
    /// Its whole size, also when it grows.
    All,
    /// So many bytes of each copy, divided over its shards by their lengths.
    Bytes(ByteCount),
}

impl Reserve {
    /// Whether nothing is kept.
    pub(super) fn is_none(&self) -> bool {
        *self == Self::None
    }

    /// Bytes of `shard` that are kept, of a volume of `volume` bytes.
    #[must_use]
    pub fn of_shard(self, shard: ByteCount, volume: ByteCount) -> ByteCount {
        match self {
            Self::None => ByteCount::default(),
            Self::All => shard,
            Self::Bytes(bytes) => {
                let part = u128::from(bytes.get()) * u128::from(shard.get());
                let part = part.div_ceil(u128::from(volume.get().max(1)));
                let part = u64::try_from(part).unwrap_or(u64::MAX);
                ByteCount::new(part.min(shard.get()))
            }
        }
    }
}

/// `POST /v1/volumes/{name}/reserve`: changes what is kept for a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ReserveVolume {
    /// What is to be kept.
    pub reserve: Reserve,
}

/// What a replica takes of its disk: its blocks in all layers, and their part of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ReplicaUse {
    /// The replica.
    pub replica: ReplicaId,
    /// What it takes.
    pub used_bytes: ByteCount,
}

/// How space is given out. `GET /v1/space` answers with it, `POST /v1/space` changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SpaceRules {
    /// Bytes that may be promised to volumes, in percent of the bytes that there are; 0 for any.
    pub over_commit_percent: u32,
    /// A disk that is fuller gets replicas of new volumes only if no other has room.
    pub soft_percent: u8,
    /// A disk that is fuller gets no replicas, and some of it move away.
    pub hard_percent: u8,
}

impl Default for SpaceRules {
    /// 20 times is the default of OpenStack Cinder's `max_over_subscription_ratio`.
    fn default() -> Self {
        Self {
            over_commit_percent: 2000,
            soft_percent: 80,
            hard_percent: 90,
        }
    }
}

/// `POST /v1/space`: what is left out stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SetSpace {
    /// See [`SpaceRules::over_commit_percent`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over_commit_percent: Option<u32>,
    /// See [`SpaceRules::soft_percent`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soft_percent: Option<u8>,
    /// See [`SpaceRules::hard_percent`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hard_percent: Option<u8>,
}

/// The rules, and how the cluster stands by them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Space {
    /// The rules.
    #[serde(flatten)]
    pub rules: SpaceRules,
    /// Bytes that volumes can use, over all disks that have not failed and are not away for good.
    pub capacity_bytes: ByteCount,
    /// Bytes that they use there.
    pub used_bytes: ByteCount,
    /// Sizes of all volumes times their replicas, what they grow to included.
    pub provisioned_bytes: ByteCount,
    /// Bytes that are kept for volumes that have reservations.
    pub reserved_bytes: ByteCount,
    /// Of these, bytes that those volumes have not taken yet.
    pub unfilled_bytes: ByteCount,
}

/// How full a disk is, by the rules; the greater is the fuller.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum DiskLevel {
    /// Below the soft threshold.
    #[default]
    Ample,
    /// Above it.
    Soft,
    /// Above the hard threshold.
    Hard,
    /// It has refused writes for want of room.
    Full,
}

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// A disk has become fuller than the soft threshold.
    DiskAboveSoft,
    /// A disk has become fuller than the hard threshold.
    DiskAboveHard,
    /// A disk has refused writes for want of room.
    DiskFull,
    /// A disk is below the hard threshold again.
    DiskBelowHard,
    /// A disk is below the soft threshold again.
    DiskBelowSoft,
    /// More is promised than the rules allow: capacity was lost, or the ratio lowered.
    OverCommitted,
    /// What is promised is within the rules again.
    OverCommitEnded,
}

/// Something that has happened in the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Event {
    /// Later ones have greater numbers, also after the conductor was started again.
    pub id: u64,
    /// When: milliseconds since 1970-01-01 UTC.
    pub time_ms: u64,
    /// What.
    pub kind: EventKind,
    /// What it concerns: `disk ID`, `cluster`.
    pub subject: String,
    /// The same for people.
    pub text: String,
}

/// `GET /v1/events?after=ID&wait_ms=N`: the events after that one, the oldest first. Answers at once
/// where there are any, else when one comes or the wait ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Events {
    /// The events; the conductor keeps the last thousand, and forgets them when it stops.
    pub items: Vec<Event>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reservation_is_divided_by_length() {
        let of = |reserve: Reserve, shard, volume| {
            let (shard, volume) = (ByteCount::new(shard), ByteCount::new(volume));
            reserve.of_shard(shard, volume).get()
        };
        let ten = Reserve::Bytes(ByteCount::new(10));
        assert_eq!([of(ten, 40, 100), of(ten, 20, 100)], [4, 2]);
        assert_eq!(of(ten, 33, 100), 4, "rather too much than too little");
        assert_eq!(
            [of(Reserve::All, 40, 100), of(Reserve::None, 40, 100)],
            [40, 0]
        );
        assert_eq!(of(ten, 4, 4), 4);
    }

    #[test]
    fn reservations_are_words_or_numbers() {
        let text = |reserve: Reserve| serde_json::to_string(&reserve).unwrap();
        assert_eq!(text(Reserve::None), r#""none""#);
        assert_eq!(text(Reserve::All), r#""all""#);
        assert_eq!(text(Reserve::Bytes(ByteCount::new(5))), r#"{"bytes":5}"#);
    }
}
