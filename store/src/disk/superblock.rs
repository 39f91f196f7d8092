//! The superblock: who a disk is and how it is cut, in its first and its last MiB.
//!
//! Written at format and when the cluster is set, the first copy flushed before the second, so
//! that one of them is always whole.

use ashlar_proto::crc::crc32c;
use ashlar_proto::{BLOCK_BYTES, ClusterId, DiskId};

use crate::codec::{Decoder, Encoder};
use crate::disk::layout::Layout;

const MAGIC: &[u8; 8] = b"ASHLARSB";
/// The version of everything on the disk; raised with every change of any byte map.
pub(crate) const FORMAT_VERSION: u32 = 2;
const CRC_OFFSET: usize = 12;

/// What a superblock says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Superblock {
    /// The cluster that the disk belongs to, once it is known.
    pub(crate) cluster: Option<ClusterId>,
    pub(crate) disk: DiskId,
    /// Raised at each rewrite: of two valid copies the higher one is true.
    pub(crate) revision: u64,
    pub(crate) layout: Layout,
}

/// Why a block is not a superblock that this version can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SuperblockFault {
    /// It does not carry the magic: never formatted, or overwritten.
    Foreign,
    /// It carries the magic and a version that this build does not know.
    Version(u32),
    /// It carries the magic, and its checksum or a field is wrong.
    Damaged,
}

impl Superblock {
    /// The block as it lies on the disk.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        out.bytes(MAGIC).u32(FORMAT_VERSION).u32(0);
        out.u128(self.cluster.map_or(0, ClusterId::get));
        out.u128(self.disk.get()).u64(self.revision);
        out.u64(self.layout.size_bytes).u64(self.layout.lane_bytes);
        out.u64(self.layout.slot_bytes)
            .u32(self.layout.segment_blocks);
        out.u32(self.layout.segments).u16(self.layout.lanes);
        out.u64(self.layout.format);
        let mut block = out.finish();
        block.resize(BLOCK_BYTES, 0);
        let crc = crc32c(&block);
        block[CRC_OFFSET..CRC_OFFSET + 4].copy_from_slice(&crc.to_le_bytes());
        block
    }

    /// Reads a block.
    pub(crate) fn decode(block: &[u8]) -> Result<Self, SuperblockFault> {
        let mut input = Decoder::new(block);
        if input.bytes(8) != Some(MAGIC.as_slice()) {
            return Err(SuperblockFault::Foreign);
        }
        Self::decode_fields(block, &mut input).unwrap_or(Err(SuperblockFault::Damaged))
    }

    fn decode_fields(
        block: &[u8],
        input: &mut Decoder<'_>,
    ) -> Option<Result<Self, SuperblockFault>> {
        let version = input.u32()?;
        let crc = input.u32()?;
        let mut unsealed = block.get(..BLOCK_BYTES)?.to_vec();
        unsealed[CRC_OFFSET..CRC_OFFSET + 4].fill(0);
        if crc32c(&unsealed) != crc {
            return None;
        }
        if version != FORMAT_VERSION {
            return Some(Err(SuperblockFault::Version(version)));
        }
        let cluster = Some(input.u128()?)
            .filter(|&raw| raw != 0)
            .map(ClusterId::new);
        let disk = DiskId::new(input.u128()?);
        let revision = input.u64()?;
        let layout = Layout {
            size_bytes: input.u64()?,
            lane_bytes: input.u64()?,
            slot_bytes: input.u64()?,
            segment_blocks: input.u32()?,
            segments: input.u32()?,
            lanes: input.u16()?,
            format: input.u64()?,
        };
        layout.is_sound().then_some(Ok(Self {
            cluster,
            disk,
            revision,
            layout,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Superblock {
        Superblock {
            cluster: Some(ClusterId::new(0x1111)),
            disk: DiskId::new(0x2222),
            revision: 3,
            layout: Layout::plan(1 << 30, 2, None, 7).unwrap(),
        }
    }

    #[test]
    fn superblock_survives_the_disk() {
        let block = sample().encode();
        assert_eq!(Superblock::decode(&block), Ok(sample()));
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let block = sample().encode();
        for bit in 0..128 * 8 {
            let mut bad = block.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Superblock::decode(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn superblock_bytes_are_golden() {
        let block = sample().encode();
        assert_eq!(&block[..12], b"ASHLARSB\x02\0\0\0");
        assert_eq!(crc32c(&block), 2_123_798_626);
    }
}
