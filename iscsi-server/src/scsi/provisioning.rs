//! Thin provisioning: UNMAP, WRITE SAME and GET LBA STATUS (SBC-3 sections 4.7, 5.31, 5.41 to 5.43
//! and 5.5).
//!
//! What is unmapped reads as zeroes, all of it: parts of a physical block that cannot be given back
//! are zeroed, so that LBPRZ holds for every block that an initiator unmapped.

use super::capacity::{
    BLOCK_BYTES, UNMAP_BLOCKS_MAX, UNMAP_DESCRIPTORS_MAX, WRITE_SAME_BLOCKS_MAX,
};
use super::cdb::Blocks;
use super::execute::{Call, Done, Given};
use super::fields::{Reply, length, u16_at, u32_at, u64_at};
use super::io::{Range, range_of};
use super::sense::{Refusal, Sense, code};
use super::target::Answer;
use crate::catalog::TargetCatalog;
use ashlar_client::{BlockDevice, Durability, ZeroMode};
use ashlar_proto::message::{BlockKind, Extent};

/// Bytes that one write of a pattern writes.
const PATTERN_BYTES: u64 = 1 << 20;
/// Longest range that one GET LBA STATUS looks at: the initiator asks on from there.
const STATUS_BYTES_MAX: u64 = 64 << 30;
/// Most LBA status descriptors of a reply.
const STATUS_DESCRIPTORS_MAX: usize = 1024;
/// Bytes of the device's blocks, that extents count.
const EXTENT_BYTES: u64 = 4096;

impl<C: TargetCatalog> Call<'_, C> {
    pub(super) async fn unmap(&self, list: Given) -> Done {
        let start = Blocks { lba: 0, count: 0 };
        let (device, _) = self.media_to_write(start).await?;
        let capacity = self.unit.blocks(&device.geometry());
        let ranges = parse_unmap(&list?, capacity)?;
        for range in ranges.into_iter().filter(|range| range.len > 0) {
            self.zero(&device, range, ZeroMode::Unmap).await?;
        }
        Ok(Answer::default())
    }

    /// A number of 0 is all that is left to the end, within the limit that is stated.
    pub(super) async fn write_same(&self, blocks: Blocks, unmap: bool, data: Given) -> Done {
        let (device, mut range) = self.media_to_write(blocks).await?;
        if blocks.count == 0 {
            let capacity = self.unit.blocks(&device.geometry());
            let rest = capacity - blocks.lba;
            if rest > WRITE_SAME_BLOCKS_MAX.into() {
                return Err(Sense::illegal(code::INVALID_FIELD_IN_CDB).into());
            }
            range = range_of(blocks.lba, rest, capacity)?;
        }
        let pattern = data?;
        if range.len == 0 {
            return Ok(Answer::default());
        }
        if pattern.iter().all(|&byte| byte == 0) {
            let mode = if unmap {
                ZeroMode::Unmap
            } else {
                ZeroMode::Allocate
            };
            self.zero(&device, range, mode).await?;
        } else {
            self.fill(&device, range, &pattern).await?;
        }
        Ok(Answer::default())
    }

    async fn zero(&self, device: &C::Device, range: Range, mode: ZeroMode) -> Result<(), Refusal> {
        let _shared = self.unit.locks.share(range.offset, range.end()).await;
        let durability = self.durability(false);
        let zeroed = device
            .write_zeroes(range.offset, range.len, mode, durability)
            .await;
        zeroed.map_err(|error| self.unit.refusal_of(error, true))
    }

    async fn fill(&self, device: &C::Device, range: Range, block: &[u8]) -> Result<(), Refusal> {
        let _shared = self.unit.locks.share(range.offset, range.end()).await;
        let durability = self.durability(false);
        let filled = fill(&self.target.reactor, device, range, block, durability).await;
        filled.map_err(|error| self.unit.refusal_of(error, true))
    }

    pub(super) async fn lba_status(&self, lba: u64, allocation: u32) -> Done {
        let (device, range) = self.media(Blocks { lba, count: 1 }).await?;
        let size = device.geometry().size_bytes;
        let rest = Range {
            len: (size - range.offset).min(STATUS_BYTES_MAX),
            ..range
        };
        let wanted = length(allocation).saturating_sub(8) / 16;
        let most = wanted.clamp(1, STATUS_DESCRIPTORS_MAX);
        let told = device.extents(rest.offset, rest.len, 2 * most).await;
        let extents = told.map_err(|error| self.unit.refusal_of(error, false))?;
        Ok(self.reply(status_of(&extents, rest, most), allocation))
    }
}

/// Writes `block` over and over; its length divides that of the range and the pattern's.
pub(super) async fn fill<D: BlockDevice>(
    reactor: &ashlar_reactor::Reactor,
    device: &D,
    range: Range,
    block: &[u8],
    durability: Durability,
) -> Result<(), ashlar_client::BlockError> {
    let mut done = 0;
    while done < range.len {
        let len = (range.len - done).min(PATTERN_BYTES);
        let mut buffer = reactor.buffer(usize::try_from(len).unwrap_or(0));
        for target in buffer.chunks_mut(block.len()) {
            target.copy_from_slice(&block[..target.len()]);
        }
        device
            .write(range.offset + done, buffer, durability)
            .await?;
        done += len;
    }
    Ok(())
}

/// The ranges of an UNMAP parameter list, all of them within the device.
fn parse_unmap(list: &[u8], capacity: u64) -> Result<Vec<Range>, Sense> {
    if list.is_empty() {
        return Ok(Vec::new());
    }
    let described = usize::from(u16_at(list, 2));
    if list.len() < 8 || list.len() - 8 < described {
        return Err(Sense::list_length());
    }
    if described / 16 > length(UNMAP_DESCRIPTORS_MAX) {
        return Err(Sense::list(2));
    }
    let mut ranges = Vec::with_capacity(described / 16);
    let mut total = 0;
    for at in (8..).step_by(16).take(described / 16) {
        let (lba, count) = (u64_at(list, at), u64::from(u32_at(list, at + 8)));
        ranges.push(range_of(lba, count, capacity)?);
        total += count;
        if total > u64::from(UNMAP_BLOCKS_MAX) {
            return Err(Sense::list(at + 8));
        }
    }
    Ok(ranges)
}

/// The parameter data of GET LBA STATUS for a range, at most so many descriptors.
fn status_of(extents: &[Extent], range: Range, most: usize) -> Vec<u8> {
    let mut runs: Vec<(u64, bool)> = Vec::new();
    let mut at = range.offset / EXTENT_BYTES * EXTENT_BYTES;
    for extent in extents {
        let next = at.saturating_add(u64::from(extent.count.get()) * EXTENT_BYTES);
        let (first, end) = (at.max(range.offset), next.min(range.end()));
        at = next;
        if first >= end {
            continue;
        }
        let (len, mapped) = (end - first, extent.kind == BlockKind::Data);
        match runs.last_mut() {
            Some(last) if last.1 == mapped => last.0 += len,
            _ => runs.push((len, mapped)),
        }
    }
    if runs.is_empty() {
        runs.push((range.len.min(EXTENT_BYTES), true));
    }
    let mut reply = Reply::new();
    reply.zeroes(8);
    let mut lba = range.offset / BLOCK_BYTES;
    for (len, mapped) in runs.into_iter().take(most) {
        let blocks = len / BLOCK_BYTES;
        reply
            .u64(lba)
            .u32(u32::try_from(blocks).unwrap_or(u32::MAX));
        reply.u8(if mapped { 0 } else { 1 }).zeroes(3);
        lba += blocks;
    }
    reply.set_len32(0).finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ashlar_proto::BlockCount;
    use proptest::prelude::*;

    fn list(descriptors: &[(u64, u32)]) -> Vec<u8> {
        let mut list = Reply::new();
        let len = u16::try_from(16 * descriptors.len()).unwrap();
        list.u16(len + 6).u16(len).u32(0);
        for &(lba, count) in descriptors {
            list.u64(lba).u32(count).u32(0);
        }
        list.finish()
    }

    #[test]
    fn unmap_lists_are_checked() {
        let ranges = parse_unmap(&list(&[(1, 2), (10, 0)]), 10).unwrap();
        assert_eq!((ranges[0].offset, ranges[0].len), (512, 1024));
        assert_eq!(ranges.len(), 2);
        assert_eq!(parse_unmap(&[], 10), Ok(vec![]));
        assert_eq!(parse_unmap(&[0; 7], 10), Err(Sense::list_length()));
        let short = &list(&[(1, 2)])[..23];
        assert_eq!(parse_unmap(short, 10), Err(Sense::list_length()));
        assert!(parse_unmap(&list(&[(9, 2)]), 10).is_err());
        let many = list(&[(0, 0); 257]);
        assert_eq!(parse_unmap(&many, 10), Err(Sense::list(2)));
        let long = list(&[(0, 1 << 20), (0, 1)]);
        assert_eq!(parse_unmap(&long, 1 << 30), Err(Sense::list(32)));
    }

    #[test]
    fn status_begins_at_the_block_asked_for_and_joins_runs() {
        let extent = |count, kind| Extent {
            count: BlockCount::new(count),
            kind,
        };
        let extents = [
            extent(1, BlockKind::Data),
            extent(1, BlockKind::Zero),
            extent(1, BlockKind::Absent),
            extent(1, BlockKind::Data),
        ];
        let range = Range {
            offset: 512,
            len: 16_384 - 512,
        };
        let told = status_of(&extents, range, 2);
        let mut expected = vec![0, 0, 0, 36, 0, 0, 0, 0];
        expected.extend([0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0, 0]);
        expected.extend([0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 16, 1, 0, 0, 0]);
        assert_eq!(told, expected);
    }

    proptest! {
        #[test]
        fn no_unmap_list_panics(list: Vec<u8>, capacity: u64) {
            let _ = parse_unmap(&list, capacity % (1 << 50));
        }
    }
}
