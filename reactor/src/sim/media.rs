//! What lies on a simulated disk: pages of 4 KiB, packed, so that hours of overwrites fit memory.
//!
//! A page of zeroes costs nothing, a page that repeats 16 bytes costs them, any other page costs
//! its bytes up to the last 16 that are not zero. Tests that write much fill blocks with a 16-byte
//! pattern (see [`pattern`]).

use std::rc::Rc;

/// Bytes of a page: the unit of the device's map.
pub const PAGE_BYTES: usize = 4096;
/// Bytes of a sector: what a device writes whole or not at all.
pub const SECTOR_BYTES: usize = 512;

const PATTERN_BYTES: usize = 16;
const CHUNK_PAGES: usize = 256;
const SECTORS_PER_PAGE: usize = PAGE_BYTES / SECTOR_BYTES;

/// One packed page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Page {
    /// All zeroes.
    #[default]
    Zero,
    /// Sixteen bytes, repeated.
    Pattern([u8; PATTERN_BYTES]),
    /// The bytes up to the last 16 that are not zero.
    Bytes(Rc<[u8]>),
}

impl Page {
    /// Packs 4 KiB.
    pub fn pack(bytes: &[u8]) -> Self {
        assert_eq!(bytes.len(), PAGE_BYTES, "a page is whole");
        let (head, rest) = bytes.split_at(PATTERN_BYTES);
        if *rest == bytes[..rest.len()] {
            let pattern: [u8; PATTERN_BYTES] = std::array::from_fn(|at| head[at]);
            return if pattern == [0; PATTERN_BYTES] {
                Self::Zero
            } else {
                Self::Pattern(pattern)
            };
        }
        let words = bytes.rchunks_exact(PATTERN_BYTES);
        let blank = words
            .take_while(|word| **word == [0; PATTERN_BYTES])
            .count();
        Self::Bytes(bytes[..PAGE_BYTES - blank * PATTERN_BYTES].into())
    }

    /// Writes the 4 KiB out.
    pub fn unpack(&self, target: &mut [u8]) {
        assert_eq!(target.len(), PAGE_BYTES, "a page is whole");
        match self {
            Self::Zero => target.fill(0),
            Self::Pattern(pattern) => {
                for piece in target.chunks_exact_mut(PATTERN_BYTES) {
                    piece.copy_from_slice(pattern);
                }
            }
            Self::Bytes(bytes) => {
                let (head, rest) = target.split_at_mut(bytes.len());
                head.copy_from_slice(bytes);
                rest.fill(0);
            }
        }
    }

    /// This page with those sectors of `newer` whose bit is set in `sectors`.
    pub fn merged(&self, newer: &Self, sectors: u8) -> Self {
        match sectors {
            0 => self.clone(),
            u8::MAX => newer.clone(),
            _ => {
                let (mut bytes, mut above) = ([0; PAGE_BYTES], [0; PAGE_BYTES]);
                self.unpack(&mut bytes);
                newer.unpack(&mut above);
                for sector in (0..SECTORS_PER_PAGE).filter(|bit| sectors >> bit & 1 == 1) {
                    let range = sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES;
                    bytes[range.clone()].copy_from_slice(&above[range]);
                }
                Self::pack(&bytes)
            }
        }
    }

    /// This page with one bit flipped.
    pub fn flipped(&self, bit: usize) -> Self {
        let mut bytes = [0; PAGE_BYTES];
        self.unpack(&mut bytes);
        bytes[bit / 8 % PAGE_BYTES] ^= 1 << (bit % 8);
        Self::pack(&bytes)
    }
}

/// A sparse array of pages.
#[derive(Debug, Default)]
pub(super) struct Media {
    chunks: Vec<Option<Box<[Page; CHUNK_PAGES]>>>,
}

impl Media {
    /// The page at an index; zero where nothing was written.
    pub fn page(&self, index: u64) -> Page {
        let (chunk, place) = split(index);
        match self.chunks.get(chunk) {
            Some(Some(pages)) => pages[place].clone(),
            _ => Page::Zero,
        }
    }

    /// Stores a page and gives the one that was there.
    pub fn replace(&mut self, index: u64, page: Page) -> Page {
        let (chunk, place) = split(index);
        if self.chunks.len() <= chunk {
            self.chunks.resize_with(chunk + 1, || None);
        }
        let empty = || Box::new(std::array::from_fn(|_| Page::Zero));
        let pages = self.chunks[chunk].get_or_insert_with(empty);
        std::mem::replace(&mut pages[place], page)
    }
}

fn split(index: u64) -> (usize, usize) {
    let index = usize::try_from(index).unwrap_or(usize::MAX);
    (index / CHUNK_PAGES, index % CHUNK_PAGES)
}

/// Fills a block with the pattern of two numbers, which a simulated disk stores in 16 bytes.
pub fn pattern(target: &mut [u8], first: u64, second: u64) {
    let mut unit = [0; PATTERN_BYTES];
    unit[..8].copy_from_slice(&first.to_le_bytes());
    unit[8..].copy_from_slice(&second.to_le_bytes());
    for piece in target.chunks_mut(PATTERN_BYTES) {
        piece.copy_from_slice(&unit[..piece.len()]);
    }
}

/// The two numbers of a block that [`pattern`] filled; `(0, 0)` for zeroes, `None` for others.
#[must_use]
pub fn pattern_of(block: &[u8]) -> Option<(u64, u64)> {
    let head = *block.first_chunk::<PATTERN_BYTES>()?;
    if block[PATTERN_BYTES..] != block[..block.len() - PATTERN_BYTES] {
        return None;
    }
    let wide = u128::from_le_bytes(head);
    let low = u64::try_from(wide & u128::from(u64::MAX)).ok()?;
    Some((low, u64::try_from(wide >> 64).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unpacked(page: &Page) -> Vec<u8> {
        let mut bytes = vec![0xee; PAGE_BYTES];
        page.unpack(&mut bytes);
        bytes
    }

    #[test]
    fn pages_survive_packing() {
        let mut patterned = vec![0; PAGE_BYTES];
        pattern(&mut patterned, 77, 88);
        let mut ragged = vec![0; PAGE_BYTES];
        ragged[100] = 9;
        let dense: Vec<u8> = (0..PAGE_BYTES).map(|n| n.to_le_bytes()[0] | 1).collect();
        for bytes in [vec![0; PAGE_BYTES], patterned.clone(), ragged, dense] {
            assert_eq!(unpacked(&Page::pack(&bytes)), bytes);
        }
        assert!(matches!(Page::pack(&patterned), Page::Pattern(_)));
        assert_eq!(pattern_of(&patterned), Some((77, 88)));
        assert_eq!(pattern_of(&unpacked(&Page::Zero)), Some((0, 0)));
    }

    #[test]
    fn a_torn_page_mixes_whole_sectors() {
        let (old, new) = (Page::pack(&[1; PAGE_BYTES]), Page::pack(&[2; PAGE_BYTES]));
        let torn = unpacked(&old.merged(&new, 0b0000_0101));
        for (sector, bytes) in torn.chunks(SECTOR_BYTES).enumerate() {
            let expected = if sector == 0 || sector == 2 { 2 } else { 1 };
            assert!(bytes.iter().all(|&b| b == expected), "sector {sector}");
        }
        assert_eq!(old.merged(&new, 0), old);
        assert_eq!(old.merged(&new, 0xff), new);
    }

    #[test]
    fn media_is_sparse_and_zero() {
        let mut media = Media::default();
        assert_eq!(media.page(1 << 30), Page::Zero);
        assert_eq!(media.replace(70_000, Page::Pattern([3; 16])), Page::Zero);
        assert_eq!(media.page(70_000), Page::Pattern([3; 16]));
        assert_eq!(media.page(69_999), Page::Zero);
    }

    #[test]
    fn a_flip_changes_one_bit() {
        let page = Page::pack(&[0; PAGE_BYTES]).flipped(13);
        let bytes = unpacked(&page);
        assert_eq!(bytes[1], 1 << 5);
        assert_eq!(bytes.iter().filter(|&&b| b != 0).count(), 1);
    }
}
