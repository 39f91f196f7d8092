//! Hands arbitrary bytes to the decoders of everything on a disk, with the magics and checksums
//! put right: for the fuzzer, which would never guess them.
//!
//! The first byte of an input says which structure the rest is meant for.

use ashlar_proto::crc::crc32c;
use ashlar_proto::{BLOCK_BYTES, Handle, Layer, Seq};

use crate::codec::{Decoder, Encoder};
use crate::disk::Superblock;
use crate::lane::batch::{Batch, Body, Entry, HEADER_BLOCKS_MAX};
use crate::lane::layers::decode_table;
use crate::lane::page::Page;
use crate::lane::segment::SegmentHeader;
use crate::lane::shards::ShardRecord;
use crate::lane::slot::SlotHead;
use crate::lane::summary::SummaryHead;

/// Which decoders there are.
pub const KINDS: u8 = 8;

const NONCE: u64 = 7;
const ADDRESS: u64 = 4242;
const SUPERBLOCK_CRC: usize = 12;
const SEGMENT_CRC: usize = 8;
const BATCH_CRC: usize = 4;

/// What the bytes of a batch's entries look like.
#[must_use]
pub fn sample_entries() -> Vec<u8> {
    let entry = |seq, body| Entry {
        handle: Handle::new(3),
        label: Layer::new(1),
        first: 40,
        count: 2,
        seq: Seq::from_raw(seq).unwrap_or_default(),
        check: 1,
        body,
    };
    let mut out = Encoder::new();
    for (seq, body) in [
        Body::Data(vec![0x1234, 0x5678]),
        Body::Zero,
        Body::Damaged,
        Body::Leaf(9),
        Body::Root(10),
        Body::Shard(vec![1; 21]),
        Body::Layers(vec![0; 12]),
    ]
    .into_iter()
    .enumerate()
    {
        entry(seq as u64 + 1, body).encode(&mut out);
    }
    out.finish()
}

/// Decodes `input`; the number tells the decoder and whether it took the bytes.
///
/// # Panics
/// Never, if the decoders are right.
#[must_use]
pub fn decode(input: &[u8]) -> u64 {
    let Some((&kind, bytes)) = input.split_first() else {
        return 0;
    };
    let kind = kind % KINDS;
    let taken = match kind {
        0 => Superblock::decode(&block(b"ASHLARSB", bytes, SUPERBLOCK_CRC)).is_ok(),
        1 => {
            let block = block(b"ASHLRSEG", bytes, SEGMENT_CRC);
            let mut fields = Decoder::new(&block);
            fields.bytes(32);
            let (address, format) = (fields.u64().unwrap_or(0), fields.u64().unwrap_or(0));
            SegmentHeader::decode(&block, address, format).is_some()
        }
        2 => batch(bytes),
        3 => slot(bytes),
        4 => summary(bytes),
        5 => ShardRecord::decode(&mut Decoder::new(bytes)).is_some(),
        6 => {
            let table = decode_table(&mut Decoder::new(bytes));
            table.is_some_and(|table| table.is_sound())
        }
        _ => page(bytes),
    };
    u64::from(kind) << 1 | u64::from(taken)
}

/// A block that begins with `magic` and carries its own checksum at `crc_at`.
fn block(magic: &[u8; 8], bytes: &[u8], crc_at: usize) -> Vec<u8> {
    let mut block = magic.to_vec();
    block.extend_from_slice(bytes);
    block.resize(BLOCK_BYTES, 0);
    seal(&mut block, crc_at);
    block
}

fn seal(bytes: &mut [u8], crc_at: usize) {
    bytes[crc_at..crc_at + 4].fill(0);
    let crc = crc32c(bytes);
    bytes[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
}

/// A batch's header: count and total as the first bytes say, then its entries.
fn batch(bytes: &[u8]) -> bool {
    let mut fields = Decoder::new(bytes);
    let (count, total) = (fields.u8().unwrap_or(0), fields.u16().unwrap_or(0));
    let entries = bytes.get(3..).unwrap_or_default();
    let room = HEADER_BLOCKS_MAX * BLOCK_BYTES - 64;
    let entries = &entries[..entries.len().min(room)];
    let blocks = (64 + entries.len()).div_ceil(BLOCK_BYTES);
    let mut out = Encoder::new();
    out.bytes(b"ASHB").u32(0).u64(NONCE).u64(ADDRESS);
    out.u64(5).u64(4).u64(1).count(blocks);
    out.u32(u32::from(total)).u32(u32::from(count));
    out.count(entries.len()).bytes(entries);
    let mut header = out.finish();
    header.resize(blocks * BLOCK_BYTES, 0);
    seal(&mut header, BATCH_CRC);
    Batch::decode(&header, NONCE, ADDRESS).is_some()
}

/// A slot with any body.
fn slot(body: &[u8]) -> bool {
    let mut padded = body.to_vec();
    padded.resize(body.len().next_multiple_of(BLOCK_BYTES), 0);
    let mut out = Encoder::new();
    out.bytes(b"ASHLSLOT").u64(3).u64(body.len() as u64);
    out.u32(crc32c(&padded)).u32(0);
    let mut head = out.finish();
    head.extend_from_slice(&crc32c(&head).to_le_bytes());
    head.resize(BLOCK_BYTES, 0);
    padded.extend_from_slice(&head);
    SlotHead::decode(&head).is_some_and(|head| head.slot(&padded).is_some())
}

/// A summary with any body; its first byte counts the batches.
fn summary(bytes: &[u8]) -> bool {
    let (batches, body) = bytes
        .split_first()
        .map_or((0, bytes), |(&n, rest)| (n, rest));
    let mut padded = body.to_vec();
    padded.resize(body.len().next_multiple_of(BLOCK_BYTES), 0);
    let mut out = Encoder::new();
    out.bytes(b"ASHLRSUM").u64(NONCE).u64(ADDRESS);
    out.count(body.len())
        .u32(u32::from(batches))
        .u32(crc32c(&padded));
    let mut head = out.finish();
    head.extend_from_slice(&crc32c(&head).to_le_bytes());
    head.resize(BLOCK_BYTES, 0);
    SummaryHead::decode(&head, NONCE, ADDRESS)
        .is_some_and(|head| head.batches(NONCE, &padded).is_some())
}

/// A page of the map: every entry's fields are read.
fn page(bytes: &[u8]) -> bool {
    let mut block = bytes.to_vec();
    block.resize(BLOCK_BYTES, 0);
    let page = Page::decode(&block);
    let mut again = vec![0; BLOCK_BYTES];
    page.encode(&mut again);
    assert!(again == block, "a page keeps its bytes");
    page.highest() > Seq::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_structure_can_be_told_from_its_bytes() {
        let entries = sample_entries();
        // 7 entries and 4 payload blocks behind one header block: data 2, leaf, root.
        let mut batch = vec![2, 7, 5, 0];
        batch.extend_from_slice(&entries);
        assert_eq!(decode(&batch), 5, "batch");
        let mut slot = vec![3];
        slot.extend([0; 64]);
        assert_eq!(decode(&slot), 7, "slot");
        let mut summary = vec![4, 1];
        summary.extend([0; 32]);
        summary.extend(7u32.to_le_bytes());
        summary.extend_from_slice(&entries);
        assert_eq!(decode(&summary), 9, "summary");
        assert_eq!(decode(&[1; 60]), 3, "segment");
    }
}
