//! Newtypes for every id, counter and unit: no bare integer crosses a public boundary.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

use crate::limits::{BLOCK_BYTES_U64, SEQ_AHEAD_MAX};

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident($raw:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        #[serde(transparent)]
        pub struct $name($raw);

        impl $name {
            /// The value from its raw number.
            #[must_use]
            pub const fn new(raw: $raw) -> Self {
                Self(raw)
            }

            /// The raw number, for encoding and arithmetic.
            #[must_use]
            pub const fn get(self) -> $raw {
                self.0
            }

            /// The next one.
            ///
            /// # Panics
            /// When the counter is exhausted, which no run of the system reaches.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident($raw:ty, $digits:literal)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name($raw);

        impl $name {
            /// The id from its raw number.
            #[must_use]
            pub const fn new(raw: $raw) -> Self {
                Self(raw)
            }

            /// The raw number, for encoding.
            #[must_use]
            pub const fn get(self) -> $raw {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!("{:0", $digits, "x}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let hex = text.bytes().all(|b| b.is_ascii_hexdigit());
                if text.len() != $digits || !hex {
                    return Err(ParseIdError { digits: $digits });
                }
                let raw = <$raw>::from_str_radix(text, 16);
                raw.map(Self).map_err(|_| ParseIdError { digits: $digits })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

/// An id was not the expected number of hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an id is {digits} hexadecimal digits")]
pub struct ParseIdError {
    digits: usize,
}

hex_id! {
    /// A cluster: drawn at random when its metadata is made.
    ClusterId(u128, 32)
}
hex_id! {
    /// A disk: drawn at random when it is formatted, kept in its superblocks.
    DiskId(u128, 32)
}
hex_id! {
    /// A volume: given by the conductor, never used again.
    VolumeId(u64, 16)
}
hex_id! {
    /// One publication of a volume to a node: drawn at random, never used again.
    PublicationId(u64, 16)
}
hex_id! {
    /// One life of one copy of one shard on one disk; a wiped replica is a new one.
    ReplicaId(u64, 16)
}
counter! {
    /// A store node: given by the conductor when the node first registers.
    NodeId(u64)
}
counter! {
    /// The position of a shard in its volume, from 0.
    ShardIndex(u32)
}
counter! {
    /// A 4 KiB block within a shard, from 0.
    BlockIndex(u32)
}
counter! {
    /// A number of 4 KiB blocks.
    BlockCount(u32)
}
counter! {
    /// A number of bytes.
    ByteCount(u64)
}
counter! {
    /// Raised by the conductor at each attach of a volume; replicas refuse all below the highest
    /// they have durably seen.
    Generation(u32)
}
counter! {
    /// Raised at each change of a shard's in-sync set or acknowledgement rule.
    Epoch(u32)
}
counter! {
    /// The snapshot number of a write; the head of a new volume is layer 1.
    Layer(u32)
}
counter! {
    /// Snapshots of several volumes that are of one moment, and the hold that makes them so: given by
    /// the conductor, never used again.
    GroupId(u64)
}
counter! {
    /// The number of a batch in a lane's log, over all its streams.
    Lsn(u64)
}
counter! {
    /// One stay of one shard on one lane; made durable before its first entry, never used again.
    Handle(u32)
}
counter! {
    /// One run of a lane between two recoveries; rides on every reply.
    Incarnation(u32)
}
counter! {
    /// A lane of a disk, from 0.
    LaneIndex(u16)
}
counter! {
    /// A range of seqs that belongs to one generation: the high 24 bits of a [`Seq`].
    Window(u32)
}

impl BlockCount {
    /// The same length in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0 as u64 * BLOCK_BYTES_U64
    }
}

impl BlockIndex {
    /// The block `count` further on, or `None` past the end of the numbering.
    #[must_use]
    pub const fn checked_add(self, count: BlockCount) -> Option<Self> {
        match self.0.checked_add(count.0) {
            Some(raw) => Some(Self(raw)),
            None => None,
        }
    }
}

/// The version of a block: a 48-bit number that the owner gives to each write.
///
/// The high 24 bits are the [`Window`], the low 24 a number in it. Number `2²⁴ − 1` is given to
/// no write: it buries orphans. One (layer, block, seq) has one content. Seq 0 is "never written".
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Seq(u64);

impl Seq {
    /// The seq of what was never written.
    pub const NONE: Self = Self(0);
    /// The highest seq there is.
    pub const MAX: Self = Self((1 << 48) - 1);

    /// The seq from its raw number, or `None` beyond 48 bits.
    #[must_use]
    pub const fn from_raw(raw: u64) -> Option<Self> {
        if raw <= Self::MAX.0 {
            Some(Self(raw))
        } else {
            None
        }
    }

    /// The raw number, below 2⁴⁸.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The window it lies in.
    #[must_use]
    pub const fn window(self) -> Window {
        Window(low_24_bits(self.0 >> 24))
    }

    /// The number in its window.
    #[must_use]
    pub const fn number(self) -> u32 {
        low_24_bits(self.0)
    }

    /// Whether it is the last number of its window, which buries orphans.
    #[must_use]
    pub fn is_burial(self) -> bool {
        self == self.window().burial()
    }

    /// Whether zeroes under this seq say that there is nothing: an orphan is buried where nothing was
    /// ever written. What reads as zeroes there is buried under a block of data that holds zeroes.
    #[must_use]
    pub fn is_void(self) -> bool {
        self.is_burial()
    }

    /// The next number of the same window, or `None` where only the burial number is left.
    #[must_use]
    pub fn next_in_window(self) -> Option<Self> {
        let next = Self(self.0 + 1);
        (next.window() == self.window() && next != self.window().burial()).then_some(next)
    }

    /// How far `self` is ahead of `stable`, within what an owner may do.
    #[must_use]
    pub const fn within_reach_of(self, stable: Self) -> bool {
        self.0 < stable.0 + SEQ_AHEAD_MAX || self.0 <= stable.0
    }
}

const fn low_24_bits(raw: u64) -> u32 {
    (raw & 0xff_ffff) as u32
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.window().get(), self.number())
    }
}

impl Window {
    /// The highest window that a seq can name.
    pub const MAX: Self = Self((1 << 24) - 1);

    /// Number 0 of the window: given to no write, the start to count from.
    ///
    /// # Panics
    /// When the window is beyond 24 bits.
    #[must_use]
    pub fn start(self) -> Seq {
        assert!(self <= Self::MAX, "window {self} is beyond 24 bits");
        Seq(u64::from(self.0) << 24)
    }

    /// The last number of the window, which buries orphans.
    #[must_use]
    pub fn burial(self) -> Seq {
        Seq(self.start().0 | 0xff_ffff)
    }
}

/// The lane of a disk that serves a shard: owner and store compute it alike.
///
/// # Panics
/// When the disk has no lane.
#[must_use]
pub fn lane_of(volume: VolumeId, shard: ShardIndex, lanes: u16) -> LaneIndex {
    assert!(lanes > 0, "a disk has at least one lane");
    let mut hash = volume.get() ^ (u64::from(shard.get()) << 32 | u64::from(shard.get()));
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^= hash >> 31;
    LaneIndex(u16::try_from(hash % u64::from(lanes)).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seq_splits_into_window_and_number() {
        let seq = Window::new(3).start().next_in_window().unwrap();
        assert_eq!((seq.window(), seq.number()), (Window::new(3), 1));
        assert_eq!(Seq::from_raw(1 << 48), None);
        assert_eq!(Window::MAX.burial(), Seq::MAX);
    }

    #[test]
    fn burial_number_is_given_to_no_write() {
        let last = Seq::from_raw(Window::new(7).burial().get() - 1).unwrap();
        assert_eq!(last.next_in_window(), None);
    }

    #[test]
    fn ids_survive_text() {
        let id = VolumeId::new(0xabc);
        assert_eq!(id.to_string(), "0000000000000abc");
        assert_eq!(id.to_string().parse::<VolumeId>().unwrap(), id);
        assert!("abc".parse::<VolumeId>().is_err());
        assert!("+000000000000abc".parse::<VolumeId>().is_err());
        let text = serde_json::to_string(&id).unwrap();
        assert_eq!(serde_json::from_str::<VolumeId>(&text).unwrap(), id);
    }

    #[test]
    fn lanes_are_spread_and_stable() {
        let mut used = [0u32; 4];
        for shard in 0..1000 {
            let lane = lane_of(VolumeId::new(42), ShardIndex::new(shard), 4);
            used[usize::from(lane.get())] += 1;
        }
        assert!(used.iter().all(|&n| n > 150), "{used:?}");
    }
}
