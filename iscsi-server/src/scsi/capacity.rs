//! READ CAPACITY (SBC-3 sections 5.15 and 5.16), and the figures that a logical unit states of
//! itself.

use super::fields::Reply;

/// Bytes of a logical block.
pub(crate) const BLOCK_BYTES: u64 = 512;
/// The power of two of logical blocks in a physical one: 4096 bytes.
pub(crate) const BLOCKS_PER_PHYSICAL_EXPONENT: u8 = 3;
/// Logical blocks in a physical one: what is unmapped is unmapped in units of it.
pub(crate) const PHYSICAL_BLOCKS: u32 = 1 << BLOCKS_PER_PHYSICAL_EXPONENT;
/// Most blocks of one read or write: 32 MiB, as a device takes them.
pub(crate) const TRANSFER_BLOCKS_MAX: u32 = 65_536;
/// Blocks of a transfer that goes best: 1 MiB.
pub(crate) const TRANSFER_BLOCKS_OPTIMAL: u32 = 2048;
/// Most blocks of COMPARE AND WRITE: what its field holds.
pub(crate) const COMPARE_BLOCKS_MAX: u8 = 255;
/// Most blocks that one UNMAP gives back: 512 MiB.
pub(crate) const UNMAP_BLOCKS_MAX: u32 = 1 << 20;
/// Most descriptors of one UNMAP.
pub(crate) const UNMAP_DESCRIPTORS_MAX: u32 = 256;
/// Most blocks of one WRITE SAME: 512 MiB.
pub(crate) const WRITE_SAME_BLOCKS_MAX: u32 = 1 << 20;

const _: () = assert!(TRANSFER_BLOCKS_MAX as u64 * BLOCK_BYTES == 32 << 20);
const _: () = assert!(BLOCK_BYTES << BLOCKS_PER_PHYSICAL_EXPONENT == 4096);

/// The parameter data of READ CAPACITY(10); `blocks` is the capacity, at least 1.
pub(crate) fn read_capacity_10(blocks: u64) -> Vec<u8> {
    let last = u32::try_from(blocks.saturating_sub(1)).unwrap_or(u32::MAX);
    let mut reply = Reply::new();
    reply.u32(last).u32(512).finish()
}

/// The parameter data of READ CAPACITY(16): thin provisioned, unmapped blocks read as zeroes.
pub(crate) fn read_capacity_16(blocks: u64) -> Vec<u8> {
    let mut reply = Reply::new();
    reply.u64(blocks.saturating_sub(1)).u32(512);
    reply.u8(0).u8(BLOCKS_PER_PHYSICAL_EXPONENT);
    reply.u16(0xc000).zeroes_up_to(32).finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacity_of_ten_bytes_saturates() {
        assert_eq!(read_capacity_10(2048), [0, 0, 7, 0xff, 0, 0, 2, 0]);
        let large = [0xff, 0xff, 0xff, 0xff, 0, 0, 2, 0];
        assert_eq!(read_capacity_10(1 << 33), large);
    }

    #[test]
    fn capacity_of_sixteen_bytes_tells_of_provisioning() {
        let mut expected = [0; 32];
        expected[..16].copy_from_slice(&[
            0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0, 0, 2, 0, 0, 3, 0xc0, 0,
        ]);
        assert_eq!(read_capacity_16(2 << 32), expected);
    }
}
