//! A batch: one gather write of header blocks and payload, whole or absent.
//!
//! The header names what each payload block is and its CRC32C, so that a torn batch is seen.
//! Byte map in `docs/format.md`.

use ashlar_proto::crc::crc32c;
use ashlar_proto::{BLOCK_BYTES, Handle, Layer, Lsn, Seq};

use crate::codec::{Decoder, Encoder};

const MAGIC: u32 = u32::from_le_bytes(*b"ASHB");
const CRC_OFFSET: usize = 4;
const FIXED_BYTES: usize = 64;
/// Bytes of an entry without its checksums or inline record.
pub(crate) const ENTRY_BYTES: usize = 24;
/// Most header blocks of a batch.
pub(crate) const HEADER_BLOCKS_MAX: usize = 4;
/// Most payload blocks of a batch (2 MiB): beyond it a larger write gains nothing.
pub(crate) const PAYLOAD_BLOCKS_MAX: usize = 512;
/// Most bytes of entries that a batch carries.
pub(crate) const ENTRIES_BYTES_MAX: usize = HEADER_BLOCKS_MAX * BLOCK_BYTES - FIXED_BYTES;

// A batch of single blocks, the least compact kind, fills its payload before its header.
const _: () = assert!(PAYLOAD_BLOCKS_MAX * (ENTRY_BYTES + 4) <= ENTRIES_BYTES_MAX);

/// What an entry records, with what belongs to its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// Blocks of data: one checksum each, payload in order.
    Data(Vec<u32>),
    /// Blocks of zeroes, without payload.
    Zero,
    /// Blocks whose data was lost on this disk; a later LSN of the same seq repairs them.
    Damaged,
    /// A leaf of the map, with the CRC of its page; `first` is its index.
    Leaf(u32),
    /// A root page, with the CRC of its page; `first` is its index.
    Root(u32),
    /// The record of a shard.
    Shard(Vec<u8>),
    /// The layer table of a shard.
    Layers(Vec<u8>),
}

/// One entry of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) handle: Handle,
    pub(crate) label: Layer,
    /// First block, or index of the page.
    pub(crate) first: u32,
    /// Blocks that it concerns.
    pub(crate) count: u32,
    pub(crate) seq: Seq,
    /// Trust epoch of the shard when it was written (see `shards`).
    pub(crate) check: u8,
    pub(crate) body: Body,
}

impl Entry {
    /// Payload blocks that belong to it.
    pub(crate) fn payload_blocks(&self) -> u32 {
        match self.body {
            Body::Data(_) => self.count,
            Body::Leaf(_) | Body::Root(_) => 1,
            Body::Zero | Body::Damaged | Body::Shard(_) | Body::Layers(_) => 0,
        }
    }

    /// Bytes that it takes in a header or a summary.
    pub(crate) fn encoded_bytes(&self) -> usize {
        ENTRY_BYTES
            + match &self.body {
                Body::Data(crcs) => 4 * crcs.len(),
                Body::Leaf(_) | Body::Root(_) => 4,
                Body::Zero | Body::Damaged => 0,
                Body::Shard(bytes) | Body::Layers(bytes) => 4 + bytes.len().next_multiple_of(4),
            }
    }

    /// Checksums of its payload blocks, in order.
    pub(crate) fn checksums(&self) -> &[u32] {
        match &self.body {
            Body::Data(crcs) => crcs,
            Body::Leaf(crc) | Body::Root(crc) => std::slice::from_ref(crc),
            _ => &[],
        }
    }

    fn kind_code(&self) -> u64 {
        match self.body {
            Body::Data(_) => 1,
            Body::Zero => 2,
            Body::Damaged => 3,
            Body::Leaf(_) => 4,
            Body::Root(_) => 5,
            Body::Shard(_) => 6,
            Body::Layers(_) => 7,
        }
    }

    pub(crate) fn encode(&self, out: &mut Encoder) {
        out.u64(self.seq.get() | self.kind_code() << 48 | u64::from(self.check) << 56);
        out.u32(self.count)
            .u32(self.handle.get())
            .u32(self.label.get());
        out.u32(self.first);
        match &self.body {
            Body::Data(_) | Body::Leaf(_) | Body::Root(_) => {
                for &crc in self.checksums() {
                    out.u32(crc);
                }
            }
            Body::Zero | Body::Damaged => {}
            Body::Shard(bytes) | Body::Layers(bytes) => {
                let padding = bytes.len().next_multiple_of(4) - bytes.len();
                out.count(bytes.len())
                    .bytes(bytes)
                    .bytes(&[0; 3][..padding]);
            }
        }
    }

    pub(crate) fn decode(input: &mut Decoder<'_>) -> Option<Self> {
        let word = input.u64()?;
        let seq = Seq::from_raw(word & ((1 << 48) - 1))?;
        let check = u8::try_from(word >> 56).ok().filter(|&check| check < 16)?;
        let count = input.u32()?;
        let handle = Handle::new(input.u32()?);
        let label = Layer::new(input.u32()?);
        let first = input.u32()?;
        first.checked_add(count)?;
        let body = match (word >> 48) & 0xff {
            1 => Body::Data(Self::decode_checksums(input, count)?),
            2 => Body::Zero,
            3 => Body::Damaged,
            4 => Body::Leaf(input.u32()?),
            5 => Body::Root(input.u32()?),
            6 => Body::Shard(Self::decode_record(input)?),
            7 => Body::Layers(Self::decode_record(input)?),
            _ => return None,
        };
        Some(Self {
            handle,
            label,
            first,
            count,
            seq,
            check,
            body,
        })
    }

    fn decode_checksums(input: &mut Decoder<'_>, count: u32) -> Option<Vec<u32>> {
        let bytes = input.bytes((count as usize).checked_mul(4)?)?;
        let crc = |four: &[u8]| u32::from_le_bytes(four.try_into().unwrap_or([0; 4]));
        Some(bytes.chunks_exact(4).map(crc).collect())
    }

    fn decode_record(input: &mut Decoder<'_>) -> Option<Vec<u8>> {
        let length = input.u32()? as usize;
        let bytes = input.bytes(length.checked_next_multiple_of(4)?)?;
        bytes.get(..length).map(<[u8]>::to_vec)
    }
}

/// The header of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    /// Nonce of the segment that it lies in.
    pub(crate) nonce: u64,
    /// Its own address (block of the disk).
    pub(crate) address: u64,
    pub(crate) lsn: Lsn,
    /// Every LSN up to this one is completed and flushed.
    pub(crate) durable: Lsn,
    /// The newest durable slot when it was submitted.
    pub(crate) slot: u64,
    pub(crate) entries: Vec<Entry>,
}

impl Batch {
    /// Blocks of a header that carries this many bytes of entries.
    pub(crate) fn header_blocks_for(entry_bytes: usize) -> usize {
        (FIXED_BYTES + entry_bytes).div_ceil(BLOCK_BYTES)
    }

    pub(crate) fn header_blocks(&self) -> usize {
        Self::header_blocks_for(self.entries.iter().map(Entry::encoded_bytes).sum())
    }

    pub(crate) fn payload_blocks(&self) -> u32 {
        self.entries.iter().map(Entry::payload_blocks).sum()
    }

    /// Header and payload.
    pub(crate) fn total_blocks(&self) -> u32 {
        self.payload_blocks() + u32::try_from(self.header_blocks()).unwrap_or(u32::MAX)
    }

    /// Writes the header over `out`, which is exactly its blocks.
    pub(crate) fn encode(&self, out: &mut [u8]) {
        let header_blocks = self.header_blocks();
        assert_eq!(out.len(), header_blocks * BLOCK_BYTES);
        assert!(header_blocks <= HEADER_BLOCKS_MAX);
        let mut body = Encoder::new();
        for entry in &self.entries {
            entry.encode(&mut body);
        }
        let mut head = Encoder::new();
        head.u32(MAGIC).u32(0).u64(self.nonce).u64(self.address);
        head.u64(self.lsn.get())
            .u64(self.durable.get())
            .u64(self.slot);
        head.count(header_blocks).u32(self.total_blocks());
        head.count(self.entries.len()).count(body.len());
        let body = body.finish();
        out[..FIXED_BYTES].copy_from_slice(&head.finish());
        out[FIXED_BYTES..FIXED_BYTES + body.len()].copy_from_slice(&body);
        out[FIXED_BYTES + body.len()..].fill(0);
        let crc = crc32c(out);
        out[CRC_OFFSET..CRC_OFFSET + 4].copy_from_slice(&crc.to_le_bytes());
    }

    /// How many blocks the header that starts in `block` has, if it is one of this segment's at
    /// this address: a cheap look before the checksum.
    pub(crate) fn peek(block: &[u8], nonce: u64, address: u64) -> Option<usize> {
        let mut input = Decoder::new(block);
        let magic = input.u32()?;
        input.u32()?;
        let fits = magic == MAGIC && input.u64()? == nonce && input.u64()? == address;
        input.bytes(24)?;
        let blocks = input.u32()? as usize;
        (fits && (1..=HEADER_BLOCKS_MAX).contains(&blocks)).then_some(blocks)
    }

    /// Reads a header that begins these blocks, whatever the segment's nonce: for where the segment's
    /// own header is bad.
    pub(crate) fn decode_any(blocks: &[u8], address: u64) -> Option<Self> {
        let mut input = Decoder::new(blocks);
        input.bytes(8)?;
        let nonce = input.u64()?;
        let header = Self::peek(blocks, nonce, address)? * BLOCK_BYTES;
        Self::decode(blocks.get(..header)?, nonce, address)
    }

    /// Reads a header from exactly its blocks; `None` for a stale, foreign or torn one.
    pub(crate) fn decode(header: &[u8], nonce: u64, address: u64) -> Option<Self> {
        let blocks = Self::peek(header, nonce, address)?;
        if header.len() != blocks * BLOCK_BYTES {
            return None;
        }
        let mut input = Decoder::new(header);
        input.u32()?;
        let crc = input.u32()?;
        let mut unsealed = header.to_vec();
        unsealed[CRC_OFFSET..CRC_OFFSET + 4].fill(0);
        if crc32c(&unsealed) != crc {
            return None;
        }
        input.bytes(16)?;
        let (lsn, durable, slot) = (input.u64()?, input.u64()?, input.u64()?);
        input.u32()?;
        let total = input.u32()?;
        let count = input.count(0)?;
        let length = input.u32()? as usize;
        let mut body = Decoder::new(input.bytes(length)?);
        let mut entries = Vec::with_capacity(count.min(PAYLOAD_BLOCKS_MAX));
        for _ in 0..count {
            entries.push(Entry::decode(&mut body)?);
        }
        let batch = Self {
            nonce,
            address,
            lsn: Lsn::new(lsn),
            durable: Lsn::new(durable),
            slot,
            entries,
        };
        let mut payload = batch.entries.iter().map(Entry::payload_blocks);
        let whole = payload.try_fold(u32::try_from(blocks).ok()?, u32::checked_add)?;
        (body.is_empty() && whole == total).then_some(batch)
    }

    /// Each entry with the address of its first payload block.
    pub(crate) fn placed(&self) -> impl Iterator<Item = (&Entry, u64)> {
        let mut next = self.address + self.header_blocks() as u64;
        self.entries.iter().map(move |entry| {
            let at = next;
            next += u64::from(entry.payload_blocks());
            (entry, at)
        })
    }

    /// Whether `payload`, the blocks behind the header, has the checksums that it must.
    pub(crate) fn payload_is_whole(&self, payload: &[u8]) -> bool {
        let crcs = self.entries.iter().flat_map(Entry::checksums);
        let blocks = payload.chunks_exact(BLOCK_BYTES);
        blocks.len() == self.payload_blocks() as usize
            && crcs.zip(blocks).all(|(&crc, block)| crc32c(block) == crc)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Batch {
        let entry = |count, body| Entry {
            handle: Handle::new(3),
            label: Layer::new(1),
            first: 77,
            count,
            seq: Seq::from_raw(0x1_0000_0042).unwrap(),
            check: 0,
            body,
        };
        Batch {
            nonce: 0x1122_3344_5566_7788,
            address: 513,
            lsn: Lsn::new(9),
            durable: Lsn::new(7),
            slot: 2,
            entries: vec![
                entry(2, Body::Data(vec![0xaaaa_aaaa, 0xbbbb_bbbb])),
                entry(1 << 20, Body::Zero),
                entry(1, Body::Damaged),
                entry(256, Body::Leaf(5)),
                entry(256, Body::Root(6)),
                entry(0, Body::Shard(vec![1, 2, 3])),
                entry(0, Body::Layers(vec![])),
            ],
        }
    }

    fn encoded(batch: &Batch) -> Vec<u8> {
        let mut header = vec![0xee; batch.header_blocks() * BLOCK_BYTES];
        batch.encode(&mut header);
        header
    }

    #[test]
    fn batches_survive_the_disk() {
        let batch = sample();
        let header = encoded(&batch);
        assert_eq!(
            Batch::decode(&header, batch.nonce, 513).as_ref(),
            Some(&batch)
        );
        assert_eq!(batch.total_blocks(), 1 + 4);
        let places: Vec<u64> = batch.placed().map(|(_, at)| at).collect();
        assert_eq!(places[..4], [514, 516, 516, 516]);
        assert_eq!(places[4], 517);
    }

    #[test]
    fn stale_foreign_and_torn_headers_are_refused() {
        let batch = sample();
        let header = encoded(&batch);
        assert_eq!(Batch::decode(&header, batch.nonce + 1, 513), None);
        assert_eq!(Batch::decode(&header, batch.nonce, 514), None);
        for bit in 0..400 * 8 {
            let mut bad = header.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Batch::decode(&bad, batch.nonce, 513), None, "bit {bit}");
        }
    }

    #[test]
    fn long_headers_take_several_blocks() {
        let mut batch = sample();
        batch.entries = vec![batch.entries[1].clone(); 400];
        assert_eq!(batch.header_blocks(), 3);
        let header = encoded(&batch);
        assert_eq!(Batch::peek(&header, batch.nonce, 513), Some(3));
        assert_eq!(Batch::decode(&header, batch.nonce, 513), Some(batch));
    }

    #[test]
    fn batch_bytes_are_golden() {
        let header = encoded(&sample());
        assert_eq!(&header[..4], b"ASHB");
        assert_eq!(header[24], 9, "lsn");
        assert_eq!(crc32c(&header), 1_086_930_949);
    }
}
