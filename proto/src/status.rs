//! What a replica answers: one stable code each, and how full its disk is.

/// The outcome of a request, as it stands in a reply's header (low 12 bits of the status field).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Status {
    /// Done; what the request's documentation says of durability holds.
    Ok,
    /// The request's generation is below the highest that the replica has durably seen.
    Fenced,
    /// The request's epoch is below the replica's own.
    StaleEpoch,
    /// The disk does not hold this shard.
    NoSuchReplica,
    /// The lane is out of space: nothing of the request was kept.
    NoSpace,
    /// A checksum of the payload did not match on arrival: nothing of the request was kept.
    BadChecksum,
    /// The blocks are damaged on this replica: ask another.
    Damaged,
    /// The device failed the request.
    Device,
    /// The request does not follow the protocol: a field out of range, or an unknown kind.
    Malformed,
    /// The replica cannot serve now (starting or stopping): try again.
    Unavailable,
    /// The write's seq runs too far ahead of the replica's stable, or lies in no recorded window.
    SeqOutOfWindow,
}

impl Status {
    const ALL: [Self; 11] = [
        Self::Ok,
        Self::Fenced,
        Self::StaleEpoch,
        Self::NoSuchReplica,
        Self::NoSpace,
        Self::BadChecksum,
        Self::Damaged,
        Self::Device,
        Self::Malformed,
        Self::Unavailable,
        Self::SeqOutOfWindow,
    ];

    /// The code on the wire, below 4096.
    #[must_use]
    pub fn code(self) -> u16 {
        let position = Self::ALL.iter().position(|&status| status == self);
        u16::try_from(position.unwrap_or(0)).unwrap_or(0)
    }

    /// The status of a code, or `None` for one that this version does not know.
    #[must_use]
    pub fn from_code(code: u16) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

/// How full the lane behind a reply is (high 4 bits of the status field).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RoomHint {
    /// Well below the soft mark.
    #[default]
    Ample,
    /// Near the soft mark: the owner keeps little in flight that may take room, so that what still
    /// comes when the mark is passed fits above it.
    Scarce,
    /// Above the soft mark (88 %): the owner admits no new blocks, overwrites go on.
    Soft,
    /// The lane refuses writes that would grow it.
    Full,
}

impl RoomHint {
    /// The two bits on the wire.
    #[must_use]
    pub fn bits(self) -> u16 {
        match self {
            Self::Ample => 0,
            Self::Soft => 1,
            Self::Full => 2,
            Self::Scarce => 3,
        }
    }

    /// The hint of two bits, or `None` where others are set, too.
    #[must_use]
    pub fn from_bits(bits: u16) -> Option<Self> {
        [Self::Ample, Self::Soft, Self::Full, Self::Scarce]
            .get(usize::from(bits))
            .copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_stable() {
        let codes: Vec<u16> = Status::ALL.iter().map(|s| s.code()).collect();
        assert_eq!(codes, (0..11).collect::<Vec<_>>());
        assert_eq!(Status::from_code(1), Some(Status::Fenced));
        assert_eq!(Status::from_code(11), None);
    }

    #[test]
    fn room_survives_the_wire_and_the_fullest_is_the_highest() {
        let hints = [
            RoomHint::Ample,
            RoomHint::Scarce,
            RoomHint::Soft,
            RoomHint::Full,
        ];
        assert!(hints.is_sorted());
        assert_eq!(hints.map(RoomHint::bits), [0, 3, 1, 2]);
        for hint in hints {
            assert_eq!(RoomHint::from_bits(hint.bits()), Some(hint));
        }
        assert_eq!(RoomHint::from_bits(4), None);
    }
}
