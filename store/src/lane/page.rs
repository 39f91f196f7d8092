//! One page of the map: 256 entries of 16 bytes, used for leaves and for root pages alike.
//!
//! ```text
//! bits   0..40   address (block of the disk)       leaf: payload · root page: leaf
//!       40..44   kind: 0 absent, 1 zero, 2 data, 3 damaged
//!       44..48   check: the trust epoch of its shard in which it was written
//!       48..80   CRC32C of what lies at the address
//!       80..128  seq                               root page: highest seq in the leaf
//! ```
//!
//! A damaged entry has no address: its 40 + 24 bits hold the LSN up to which lower seqs cannot
//! replace it, so that a repair (a later LSN) wins and what was superseded before does not.

use ashlar_proto::{BLOCK_BYTES, Lsn, Seq};

/// Entries of a page: a leaf maps 1 MiB, a root page 256 MiB.
pub(crate) const PAGE_ENTRIES: usize = 256;
/// [`PAGE_ENTRIES`] for arithmetic on block numbers.
pub(crate) const PAGE_ENTRIES_U32: u32 = 256;
const ADDRESS_BITS: u32 = 40;
const ADDRESS_MASK: u128 = (1 << ADDRESS_BITS) - 1;

/// What an entry says of its block or leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Absent,
    Zero,
    Data,
    Damaged,
}

/// One entry, packed as it lies on the disk.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct PageEntry(u128);

impl PageEntry {
    pub(crate) const ABSENT: Self = Self(0);

    fn pack(address: u64, kind: u8, check: u8, crc: u32, seq: Seq) -> Self {
        assert!(u128::from(address) <= ADDRESS_MASK && check < 16);
        Self(
            u128::from(address)
                | u128::from(kind) << 40
                | u128::from(check) << 44
                | u128::from(crc) << 48
                | u128::from(seq.get()) << 80,
        )
    }

    pub(crate) fn data(address: u64, crc: u32, seq: Seq, check: u8) -> Self {
        Self::pack(address, 2, check, crc, seq)
    }

    pub(crate) fn zero(seq: Seq, check: u8) -> Self {
        Self::pack(0, 1, check, 0, seq)
    }

    pub(crate) fn damaged(seq: Seq, cut: Lsn, check: u8) -> Self {
        let raw = u128::from(cut.get());
        let low = u64::try_from(raw & ADDRESS_MASK).unwrap_or(0);
        let high = u32::try_from((raw >> ADDRESS_BITS) & 0xff_ffff).unwrap_or(0);
        Self::pack(low, 3, check, high, seq)
    }

    pub(crate) fn kind(self) -> Kind {
        match (self.0 >> 40) & 0xf {
            0 => Kind::Absent,
            1 => Kind::Zero,
            2 => Kind::Data,
            _ => Kind::Damaged,
        }
    }

    pub(crate) fn address(self) -> u64 {
        u64::try_from(self.0 & ADDRESS_MASK).unwrap_or(0)
    }

    pub(crate) fn check(self) -> u8 {
        u8::try_from((self.0 >> 44) & 0xf).unwrap_or(0)
    }

    pub(crate) fn crc(self) -> u32 {
        u32::try_from((self.0 >> 48) & 0xffff_ffff).unwrap_or(0)
    }

    pub(crate) fn seq(self) -> Seq {
        let raw = u64::try_from(self.0 >> 80).unwrap_or(0);
        Seq::from_raw(raw).unwrap_or(Seq::MAX)
    }

    /// Of a damaged entry: only a later LSN or a higher seq replaces it.
    pub(crate) fn cut(self) -> Lsn {
        Lsn::new(self.address() | u64::from(self.crc()) << ADDRESS_BITS)
    }

    pub(crate) fn is_absent(self) -> bool {
        self.kind() == Kind::Absent
    }

    /// What it shows: a void is zeroes that say that there is nothing.
    pub(crate) fn shown(self) -> Kind {
        match self.kind() {
            Kind::Zero if self.seq().is_void() => Kind::Absent,
            kind => kind,
        }
    }

    pub(crate) fn is_data(self) -> bool {
        self.kind() == Kind::Data
    }
}

impl std::fmt::Debug for PageEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:?}@{} seq {}",
            self.kind(),
            self.address(),
            self.seq().get()
        )
    }
}

/// A page in memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Page(Box<[PageEntry; PAGE_ENTRIES]>);

impl Default for Page {
    fn default() -> Self {
        Self(Box::new([PageEntry::ABSENT; PAGE_ENTRIES]))
    }
}

impl Page {
    pub(crate) fn filled(entry: PageEntry) -> Self {
        Self(Box::new([entry; PAGE_ENTRIES]))
    }

    pub(crate) fn get(&self, index: usize) -> PageEntry {
        self.0[index]
    }

    pub(crate) fn set(&mut self, index: usize, entry: PageEntry) {
        self.0[index] = entry;
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = PageEntry> + '_ {
        self.0.iter().copied()
    }

    pub(crate) fn highest(&self) -> Seq {
        self.iter().map(PageEntry::seq).max().unwrap_or_default()
    }

    /// Writes the page into a block.
    pub(crate) fn encode(&self, block: &mut [u8]) {
        assert_eq!(block.len(), BLOCK_BYTES);
        for (bytes, entry) in block.chunks_exact_mut(16).zip(self.iter()) {
            bytes.copy_from_slice(&entry.0.to_le_bytes());
        }
    }

    /// Reads a page from a block whose CRC was checked.
    pub(crate) fn decode(block: &[u8]) -> Self {
        assert_eq!(block.len(), BLOCK_BYTES);
        let mut page = Self::default();
        for (bytes, entry) in block.chunks_exact(16).zip(page.0.iter_mut()) {
            let bytes: [u8; 16] = bytes.try_into().unwrap_or([0; 16]);
            *entry = PageEntry(u128::from_le_bytes(bytes));
        }
        page
    }
}

const _: () = assert!(PAGE_ENTRIES * 16 == BLOCK_BYTES);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_keep_every_field() {
        let seq = Seq::from_raw(0x1234_5678_9abc).unwrap();
        let entry = PageEntry::data((1 << 40) - 1, 0xdead_beef, seq, 15);
        assert_eq!(entry.kind(), Kind::Data);
        assert_eq!(entry.address(), (1 << 40) - 1);
        assert_eq!(
            (entry.crc(), entry.seq(), entry.check()),
            (0xdead_beef, seq, 15)
        );
        let damaged = PageEntry::damaged(seq, Lsn::new(0x1234_5678_9abc_def0), 1);
        assert_eq!(damaged.kind(), Kind::Damaged);
        assert_eq!(damaged.cut().get(), 0x1234_5678_9abc_def0);
        assert_eq!(PageEntry::zero(seq, 0).kind(), Kind::Zero);
        assert!(PageEntry::default().is_absent());
    }

    #[test]
    fn page_bytes_are_golden() {
        let mut page = Page::default();
        let seq = Seq::from_raw(0x0102_0304_0506).unwrap();
        page.set(1, PageEntry::data(0x11_2233_4455, 0xa1b2_c3d4, seq, 0));
        let mut block = vec![0xff; BLOCK_BYTES];
        page.encode(&mut block);
        let golden = [
            0x55, 0x44, 0x33, 0x22, 0x11, 0x02, 0xd4, 0xc3, 0xb2, 0xa1, 6, 5, 4, 3, 2, 1,
        ];
        assert_eq!(block[16..32], golden);
        assert!(block[32..].iter().all(|&byte| byte == 0));
        assert_eq!(Page::decode(&block), page);
        assert_eq!(page.highest(), seq);
    }
}
