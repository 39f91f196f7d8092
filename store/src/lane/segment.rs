//! Segments: the header block that opens one, and the table of what each is.
//!
//! ```text
//! free in slot k ──opened (named by the durable slot, k + 1 durable, unread, discarded)──▶ open
//!      ▲                                                                                    │
//!      └── slot k durable ── collected (nothing live, its moves completed) ◀── sealed ◀─────┘
//! ```

use ashlar_proto::crc::crc32c;
use ashlar_proto::{BLOCK_BYTES, Lsn};

use crate::codec::{Decoder, Encoder};

const MAGIC: &[u8; 8] = b"ASHLRSEG";
const CRC_OFFSET: usize = 8;

/// Block 0 of a segment: written, and completed, before its first batch is submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// Counts the openings of a lane.
    pub(crate) order: u64,
    /// Drawn at each opening: a batch of an earlier life does not carry it.
    pub(crate) nonce: u64,
    /// Address of this block.
    pub(crate) address: u64,
    /// The format of the disk that it belongs to.
    pub(crate) format: u64,
}

impl SegmentHeader {
    pub(crate) fn encode(&self, block: &mut [u8]) {
        assert_eq!(block.len(), BLOCK_BYTES);
        let mut out = Encoder::new();
        out.bytes(MAGIC).u64(0).u64(self.order).u64(self.nonce);
        out.u64(self.address).u64(self.format);
        let head = out.finish();
        block[..head.len()].copy_from_slice(&head);
        block[head.len()..].fill(0);
        let crc = crc32c(block);
        block[CRC_OFFSET..CRC_OFFSET + 4].copy_from_slice(&crc.to_le_bytes());
    }

    pub(crate) fn decode(block: &[u8], address: u64, format: u64) -> Option<Self> {
        let mut input = Decoder::new(block);
        if input.bytes(8)? != MAGIC {
            return None;
        }
        let crc = input.u32()?;
        let mut unsealed = block.get(..BLOCK_BYTES)?.to_vec();
        unsealed[CRC_OFFSET..CRC_OFFSET + 4].fill(0);
        input.u32()?;
        let header = Self {
            order: input.u64()?,
            nonce: input.u64()?,
            address: input.u64()?,
            format: input.u64()?,
        };
        let mine = header.address == address && header.format == format;
        (crc32c(&unsealed) == crc && mine).then_some(header)
    }
}

/// What a segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SegmentState {
    /// Nothing in it lives, since slot `k`; 0 for one never used.
    Free(u64),
    /// A stream appends to it, or is about to.
    Open,
    /// Full, or given up.
    Sealed,
    /// A scan found nothing live and its moves have completed: free in the next slot.
    Collected,
}

/// One row of the segment table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) state: SegmentState,
    pub(crate) order: u64,
    pub(crate) nonce: u64,
    /// Highest LSN in it.
    pub(crate) lsn_max: Lsn,
    /// Blocks in it that leaves of the map name: a hint for the collector.
    pub(crate) leaf_live: u32,
    /// Blocks of its earlier lives that leaves still name, because what superseded or moved them
    /// has not been folded yet.
    pub(crate) stale: u32,
    /// When everything below this LSN has been folded, nothing stale is named any more.
    pub(crate) stale_until: Lsn,
    /// Blocks in it that the overlay names: a hint, not kept on disk.
    pub(crate) overlay_live: u32,
    /// Reads that hold it.
    pub(crate) reads: u32,
    /// Batches and summaries in flight to it.
    pub(crate) writes: u32,
    /// Its discard is in flight, or has not been issued yet.
    pub(crate) discard_pending: bool,
    /// A file's segment has been filled with zeroes once.
    pub(crate) filled: bool,
    /// Its summary has completed: a bad one is damage and not the trace of a crash.
    pub(crate) summarised: bool,
}

impl Segment {
    pub(crate) const NEVER_USED: Self = Self {
        state: SegmentState::Free(0),
        order: 0,
        nonce: 0,
        lsn_max: Lsn::new(0),
        leaf_live: 0,
        stale: 0,
        stale_until: Lsn::new(0),
        overlay_live: 0,
        reads: 0,
        writes: 0,
        discard_pending: false,
        filled: false,
        summarised: false,
    };

    /// Blocks that are thought to live in it.
    pub(crate) fn live(&self) -> u32 {
        self.leaf_live.saturating_add(self.overlay_live)
    }

    /// Blocks that leaves name, of this life or an earlier one.
    pub(crate) fn named_by_leaves(&self) -> u32 {
        self.leaf_live.saturating_add(self.stale)
    }

    /// Its life ends, or begins: what leaves name until now, they name in vain.
    pub(crate) fn end_life(&mut self, next_lsn: Lsn) {
        self.stale = self.named_by_leaves();
        self.stale_until = next_lsn;
        self.leaf_live = 0;
        self.overlay_live = 0;
    }

    /// The row as a slot keeps it (32 bytes). A collected segment is free in that slot.
    pub(crate) fn encode(&self, slot: u64, out: &mut Encoder) {
        let (code, word) = match self.state {
            SegmentState::Free(k) => (0u8, k),
            SegmentState::Open => (1, self.lsn_max.get()),
            SegmentState::Sealed => (2, self.lsn_max.get()),
            SegmentState::Collected => (0, slot),
        };
        let flags = u8::from(self.filled) | u8::from(self.summarised) << 1;
        out.u8(code).u8(flags).u16(0);
        out.u32(self.named_by_leaves())
            .u64(self.order)
            .u64(self.nonce)
            .u64(word);
    }

    pub(crate) fn decode(input: &mut Decoder<'_>) -> Option<Self> {
        let code = input.u8()?;
        let flags = input.u8()?;
        input.u16()?;
        let named = input.u32()?;
        let (order, nonce, word) = (input.u64()?, input.u64()?, input.u64()?);
        let (state, lsn_max) = match code {
            0 => (SegmentState::Free(word), 0),
            1 => (SegmentState::Open, word),
            2 => (SegmentState::Sealed, word),
            _ => return None,
        };
        let is_free = matches!(state, SegmentState::Free(_));
        Some(Self {
            state,
            order,
            nonce,
            lsn_max: Lsn::new(lsn_max),
            leaf_live: if is_free { 0 } else { named },
            stale: if is_free { named } else { 0 },
            filled: flags & 1 != 0,
            summarised: flags & 2 != 0,
            ..Self::NEVER_USED
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_survives_the_disk_and_shows_damage() {
        let header = SegmentHeader {
            order: 5,
            nonce: 0xabcd,
            address: 1000,
            format: 77,
        };
        let mut block = vec![0xff; BLOCK_BYTES];
        header.encode(&mut block);
        assert_eq!(SegmentHeader::decode(&block, 1000, 77), Some(header));
        assert_eq!(SegmentHeader::decode(&block, 1001, 77), None);
        assert_eq!(crc32c(&block), 135_775_727);
        block[17] ^= 1;
        assert_eq!(SegmentHeader::decode(&block, 1000, 77), None);
    }

    #[test]
    fn collected_is_free_in_the_slot_that_says_so() {
        let row = Segment {
            state: SegmentState::Collected,
            order: 4,
            filled: true,
            ..Segment::NEVER_USED
        };
        let mut out = Encoder::new();
        row.encode(9, &mut out);
        let bytes = out.finish();
        assert_eq!(bytes.len(), 32);
        let back = Segment::decode(&mut Decoder::new(&bytes)).unwrap();
        assert_eq!(back.state, SegmentState::Free(9));
        assert!(back.filled && back.order == 4);
    }
}
