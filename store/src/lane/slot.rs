//! A checkpoint slot: all that recovery starts from, in one of two places.
//!
//! The number and a CRC stand in the first and in the last block, so that a slot that was cut
//! short is not taken for a whole one. Byte map in `docs/format.md`.

use ashlar_proto::crc::crc32c;
use ashlar_proto::{BLOCK_BYTES, BlockCount, Handle, Incarnation, Layer, LayerTable, Lsn, Seq};

use crate::codec::{Decoder, Encoder};
use crate::lane::layers::{decode_table, encode_table};
use crate::lane::lsn::Gap;
use crate::lane::reserve::SpaceRecord;
use crate::lane::segment::Segment;
use crate::lane::shards::{Place, ShardRecord};

const MAGIC: &[u8; 8] = b"ASHLSLOT";
const HEAD_BYTES: usize = 36;
/// Bytes of a root page's reference.
pub(crate) const ROOT_REF_BYTES: u64 = 32;

/// Where a root page lies, as a slot names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RootRef {
    pub(crate) handle: Handle,
    pub(crate) label: Layer,
    pub(crate) index: u32,
    pub(crate) place: Place,
    /// Highest seq under it.
    pub(crate) highest: Seq,
}

/// What a slot holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) number: u64,
    /// The lowest LSN that recovery must replay.
    pub(crate) from: Lsn,
    pub(crate) next_lsn: Lsn,
    pub(crate) durable: Lsn,
    pub(crate) next_order: u64,
    pub(crate) next_handle: u32,
    pub(crate) incarnation: Incarnation,
    /// Nothing was written after it: the lane was closed.
    pub(crate) clean: bool,
    pub(crate) gaps: Vec<Gap>,
    pub(crate) segments: Vec<Segment>,
    /// The only segments that may be opened while it is the newest durable slot.
    pub(crate) named: Vec<u32>,
    pub(crate) shards: Vec<(Handle, ShardRecord, LayerTable)>,
    pub(crate) roots: Vec<RootRef>,
    /// What each shard takes, and what is kept for it. Builds that knew nothing of that left it out.
    pub(crate) spaces: Vec<SpaceRecord>,
}

impl Slot {
    fn encode_body(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        out.u64(self.from.get()).u64(self.next_lsn.get());
        out.u64(self.durable.get()).u64(self.next_order);
        out.u32(self.next_handle).u32(self.incarnation.get());
        out.u32(u32::from(self.clean)).count(self.gaps.len());
        for gap in &self.gaps {
            out.u64(gap.first).u64(gap.last);
        }
        out.count(self.segments.len());
        for segment in &self.segments {
            segment.encode(self.number, &mut out);
        }
        out.count(self.named.len());
        for &segment in &self.named {
            out.u32(segment);
        }
        out.count(self.shards.len());
        for (handle, record, table) in &self.shards {
            out.u32(handle.get());
            record.encode(&mut out);
            encode_table(table, &mut out);
        }
        out.count(self.roots.len());
        for root in &self.roots {
            out.u32(root.handle.get()).u32(root.label.get());
            out.u32(root.index).u32(root.place.crc);
            out.u64(root.place.address).u64(root.highest.get());
        }
        if !self.spaces.is_empty() {
            out.count(self.spaces.len());
            for space in &self.spaces {
                out.u32(space.handle.get()).u32(space.reserve.get());
                out.u64(space.mapped);
            }
        }
        out.finish()
    }

    /// All blocks of the slot.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = self.encode_body();
        let length = body.len();
        body.resize(length.next_multiple_of(BLOCK_BYTES), 0);
        let mut head = Encoder::new();
        head.bytes(MAGIC)
            .u64(self.number)
            .u64(length as u64)
            .u32(crc32c(&body));
        head.u32(0);
        let mut head = head.finish();
        let crc = crc32c(&head);
        head.extend_from_slice(&crc.to_le_bytes());
        assert_eq!(head.len(), HEAD_BYTES);
        head.resize(BLOCK_BYTES, 0);
        let mut blocks = head.clone();
        blocks.extend_from_slice(&body);
        blocks.extend_from_slice(&head);
        blocks
    }

    fn decode_body(number: u64, body: &[u8]) -> Option<Self> {
        let mut input = Decoder::new(body);
        let (from, next_lsn) = (Lsn::new(input.u64()?), Lsn::new(input.u64()?));
        let (durable, next_order) = (Lsn::new(input.u64()?), input.u64()?);
        let (next_handle, incarnation) = (input.u32()?, Incarnation::new(input.u32()?));
        let clean = input.u32()? == 1;
        let gaps = repeat(&mut input, 16, |input| {
            let (first, last) = (input.u64()?, input.u64()?);
            (first <= last).then_some(Gap { first, last })
        })?;
        let segments = repeat(&mut input, 32, Segment::decode)?;
        let named = repeat(&mut input, 4, |input| input.u32())?;
        let shards = repeat(&mut input, 64, |input| {
            let handle = Handle::new(input.u32()?);
            let record = ShardRecord::decode(input)?;
            Some((handle, record, decode_table(input)?))
        })?;
        let roots = repeat(&mut input, 32, |input| {
            let (handle, label) = (Handle::new(input.u32()?), Layer::new(input.u32()?));
            let (index, crc) = (input.u32()?, input.u32()?);
            let (address, highest) = (input.u64()?, Seq::from_raw(input.u64()?)?);
            let place = Place { address, crc };
            Some(RootRef {
                handle,
                label,
                index,
                place,
                highest,
            })
        })?;
        let spaces = if input.is_empty() {
            Vec::new()
        } else {
            repeat(&mut input, 16, |input| {
                Some(SpaceRecord {
                    handle: Handle::new(input.u32()?),
                    reserve: BlockCount::new(input.u32()?),
                    mapped: input.u64()?,
                })
            })?
        };
        input.is_empty().then_some(Self {
            number,
            from,
            next_lsn,
            durable,
            next_order,
            next_handle,
            incarnation,
            clean,
            gaps,
            segments,
            named,
            shards,
            roots,
            spaces,
        })
    }
}

fn repeat<T>(
    input: &mut Decoder<'_>,
    least: usize,
    mut one: impl FnMut(&mut Decoder<'_>) -> Option<T>,
) -> Option<Vec<T>> {
    let count = input.count(least)?;
    (0..count).map(|_| one(input)).collect()
}

/// What the first block of a slot says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotHead {
    pub(crate) number: u64,
    length: u64,
    crc: u32,
}

impl SlotHead {
    pub(crate) fn decode(block: &[u8]) -> Option<Self> {
        let mut input = Decoder::new(block);
        if input.bytes(8)? != MAGIC {
            return None;
        }
        let head = Self {
            number: input.u64()?,
            length: input.u64()?,
            crc: input.u32()?,
        };
        input.u32()?;
        (crc32c(&block[..HEAD_BYTES - 4]) == input.u32()?).then_some(head)
    }

    /// Bytes behind the first block: body and last block.
    pub(crate) fn rest_bytes(&self) -> u64 {
        self.length.next_multiple_of(BLOCK_BYTES as u64) + BLOCK_BYTES as u64
    }

    /// Reads the slot from what lies behind its first block.
    pub(crate) fn slot(&self, rest: &[u8]) -> Option<Slot> {
        let (body, last) = rest.split_at_checked(rest.len().checked_sub(BLOCK_BYTES)?)?;
        if Self::decode(last) != Some(*self) || crc32c(body) != self.crc {
            return None;
        }
        Slot::decode_body(self.number, body.get(..usize::try_from(self.length).ok()?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lane::shards::ShardKey;
    use ashlar_proto::{ReplicaId, ShardIndex, VolumeId};

    fn sample() -> Slot {
        let key = ShardKey {
            volume: VolumeId::new(1),
            shard: ShardIndex::new(0),
        };
        let record = ShardRecord::new(key, ReplicaId::new(3), BlockCount::new(100));
        Slot {
            number: 12,
            from: Lsn::new(5),
            next_lsn: Lsn::new(50),
            durable: Lsn::new(40),
            next_order: 9,
            next_handle: 2,
            incarnation: Incarnation::new(4),
            clean: false,
            gaps: vec![Gap { first: 6, last: 7 }],
            segments: vec![Segment::NEVER_USED; 300],
            named: (0..300).collect(),
            shards: vec![(Handle::new(1), record, LayerTable::default())],
            roots: vec![RootRef {
                handle: Handle::new(1),
                label: Layer::new(1),
                index: 0,
                place: Place {
                    address: 600,
                    crc: 5,
                },
                highest: Seq::from_raw(8).unwrap(),
            }],
            spaces: Vec::new(),
        }
    }

    #[test]
    fn slots_survive_the_disk_and_show_damage() {
        let mut slot = sample();
        slot.spaces = vec![SpaceRecord {
            handle: Handle::new(1),
            reserve: BlockCount::new(50),
            mapped: 77,
        }];
        let blocks = slot.encode();
        let (first, rest) = blocks.split_at(BLOCK_BYTES);
        let head = SlotHead::decode(first).unwrap();
        assert_eq!(head.rest_bytes(), rest.len() as u64);
        assert_eq!(head.slot(rest), Some(slot));
        for byte in [0, 5000, rest.len() - BLOCK_BYTES + 9] {
            let mut bad = rest.to_vec();
            bad[byte] ^= 1;
            assert_eq!(head.slot(&bad), None, "byte {byte}");
        }
    }

    /// As builds wrote it that knew no reservations.
    #[test]
    fn slot_bytes_are_golden() {
        let blocks = sample().encode();
        assert_eq!(&blocks[..9], b"ASHLSLOT\x0c");
        assert_eq!(crc32c(&blocks), 102_538_833);
    }
}
