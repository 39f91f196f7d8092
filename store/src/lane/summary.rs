//! The summary of a segment: all entries of its batches again, in its last blocks.
//!
//! Written when the segment seals and its batches have completed. Recovery and the collector read
//! it instead of the headers; without one, or with a bad one, they scan. The last block of the
//! segment holds the summary's own header, so that it is found without knowing its length.

use ashlar_proto::crc::crc32c;
use ashlar_proto::{BLOCK_BYTES, Lsn};

use crate::codec::{Decoder, Encoder};
use crate::lane::batch::{Batch, Entry};

const MAGIC: &[u8; 8] = b"ASHLRSUM";
const HEAD_BYTES: usize = 40;
/// Bytes of a batch in a summary, without its entries.
const BATCH_BYTES: usize = 36;

/// Bytes that a batch with this many bytes of entries adds to a summary.
pub(crate) fn batch_bytes(entry_bytes: usize) -> usize {
    BATCH_BYTES + entry_bytes
}

/// Blocks of a summary of this many bytes of batches.
pub(crate) fn blocks_for(batch_bytes: usize) -> usize {
    1 + batch_bytes.div_ceil(BLOCK_BYTES)
}

/// Encodes the summary of a segment; its blocks end at the segment's end.
pub(crate) fn encode(nonce: u64, segment_address: u64, batches: &[Batch]) -> Vec<u8> {
    let mut body = Encoder::new();
    for batch in batches {
        body.u64(batch.address).u64(batch.lsn.get());
        body.u64(batch.durable.get()).u64(batch.slot);
        body.count(batch.entries.len());
        for entry in &batch.entries {
            entry.encode(&mut body);
        }
    }
    let mut body = body.finish();
    let length = body.len();
    body.resize(length.next_multiple_of(BLOCK_BYTES), 0);
    let mut head = Encoder::new();
    head.bytes(MAGIC).u64(nonce).u64(segment_address);
    head.count(length).count(batches.len()).u32(crc32c(&body));
    let mut head = head.finish();
    let crc = crc32c(&head);
    head.extend_from_slice(&crc.to_le_bytes());
    assert_eq!(head.len(), HEAD_BYTES);
    head.resize(BLOCK_BYTES, 0);
    body.extend_from_slice(&head);
    body
}

/// What the last block of a segment says of its summary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SummaryHead {
    length: usize,
    batches: usize,
    crc: u32,
}

impl SummaryHead {
    /// Reads the last block of a segment; `None` when no summary of this life ends there.
    pub(crate) fn decode(block: &[u8], nonce: u64, segment_address: u64) -> Option<Self> {
        let mut input = Decoder::new(block);
        let mine =
            input.bytes(8)? == MAGIC && input.u64()? == nonce && input.u64()? == segment_address;
        let head = Self {
            length: input.u32()? as usize,
            batches: input.u32()? as usize,
            crc: input.u32()?,
        };
        let sealed = crc32c(&block[..HEAD_BYTES - 4]) == input.u32()?;
        (mine && sealed).then_some(head)
    }

    /// Blocks in front of the last one.
    pub(crate) fn body_blocks(&self) -> usize {
        self.length.div_ceil(BLOCK_BYTES)
    }

    /// Reads the body, which is exactly [`Self::body_blocks`].
    pub(crate) fn batches(&self, nonce: u64, body: &[u8]) -> Option<Vec<Batch>> {
        if body.len() != self.body_blocks() * BLOCK_BYTES || crc32c(body) != self.crc {
            return None;
        }
        let mut input = Decoder::new(body.get(..self.length)?);
        let mut batches = Vec::new();
        for _ in 0..self.batches {
            let (address, lsn) = (input.u64()?, Lsn::new(input.u64()?));
            let (durable, slot) = (Lsn::new(input.u64()?), input.u64()?);
            let count = input.u32()?;
            let mut entries = Vec::new();
            for _ in 0..count {
                entries.push(Entry::decode(&mut input)?);
            }
            batches.push(Batch {
                nonce,
                address,
                lsn,
                durable,
                slot,
                entries,
            });
        }
        input.is_empty().then_some(batches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lane::batch::Body;
    use ashlar_proto::{Handle, Layer, Seq};

    #[test]
    fn summaries_survive_the_disk_and_show_damage() {
        let entry = Entry {
            handle: Handle::new(1),
            label: Layer::new(1),
            first: 0,
            count: 2,
            seq: Seq::from_raw(5).unwrap(),
            check: 0,
            body: Body::Data(vec![1, 2]),
        };
        let batch = |lsn| Batch {
            nonce: 7,
            address: 101 + lsn * 3,
            lsn: Lsn::new(lsn),
            durable: Lsn::new(0),
            slot: 1,
            entries: vec![entry.clone()],
        };
        let batches: Vec<Batch> = (0..200).map(batch).collect();
        let bytes = encode(7, 100, &batches);
        let sum: usize = batches
            .iter()
            .map(|b| batch_bytes(b.entries.iter().map(Entry::encoded_bytes).sum()))
            .sum();
        assert_eq!(bytes.len(), blocks_for(sum) * BLOCK_BYTES);
        let (body, last) = bytes.split_at(bytes.len() - BLOCK_BYTES);
        let head = SummaryHead::decode(last, 7, 100).unwrap();
        assert_eq!(head.batches(7, body), Some(batches));
        assert_eq!(SummaryHead::decode(last, 8, 100), None);
        let mut bad = body.to_vec();
        bad[4000] ^= 1;
        assert_eq!(head.batches(7, &bad), None);
    }
}
