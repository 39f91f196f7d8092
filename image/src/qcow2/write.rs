//! Writing a qcow2 image of version 3 in order, with clusters of 64 KiB.
//!
//! ```text
//! header │ refcount table │ L1 table │ data and L2 tables as they come … │ refcount blocks
//!          └── as long as the disk can ever need ──┘                       └ at the end
//! ```
//!
//! Every cluster of the file is used, once, so each refcount is 1. One L2 table is kept at a time.
//! Until it is finished the header says that refcounts are not to be trusted (the dirty bit).

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::header::MAGIC;
use super::{COPIED, OFFSET_MASK, word};
use crate::{ImageError, ReadAt, zero};

/// QEMU's default.
const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
const CLUSTER_LEN: usize = 1 << CLUSTER_BITS;
/// Entries of a table of one cluster.
const TABLE_ENTRIES: u64 = CLUSTER / 8;
/// Refcounts of 16 bits in a block of one cluster.
const BLOCK_COUNTS: u64 = CLUSTER / 2;
/// Bytes of the disk that one L2 table covers.
const L2_COVERS: u64 = CLUSTER * TABLE_ENTRIES;

const HEADER_BYTES: u32 = 112;
const REFCOUNT_ORDER: u32 = 4;
const DIRTY: u64 = 1;

/// Where the parts before the data are, in clusters.
#[derive(Clone, Copy, Debug)]
struct Layout {
    size_bytes: u64,
    refcount_table_clusters: u64,
    l1_entries: u64,
    l1_clusters: u64,
}

impl Layout {
    fn of(size_bytes: u64) -> Self {
        let data = size_bytes.div_ceil(CLUSTER);
        let l1_entries = size_bytes.div_ceil(L2_COVERS);
        let l1_clusters = l1_entries.div_ceil(TABLE_ENTRIES).max(1);
        // The blocks count themselves and the table, too: a 2^-15th and less, thus two more are
        // enough beside a 2^-14th.
        let others = 1 + l1_clusters + l1_entries + data;
        let blocks = others.div_ceil(BLOCK_COUNTS) + others.div_ceil(BLOCK_COUNTS * 16) + 2;
        Self {
            size_bytes,
            refcount_table_clusters: blocks.div_ceil(TABLE_ENTRIES),
            l1_entries,
            l1_clusters,
        }
    }

    fn l1_at(&self) -> u64 {
        (1 + self.refcount_table_clusters) * CLUSTER
    }

    fn first_free(&self) -> u64 {
        1 + self.refcount_table_clusters + self.l1_clusters
    }

    fn header(&self, incompatible: u64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(CLUSTER_LEN);
        let halves = |bytes: &mut Vec<u8>, words: &[u32]| {
            bytes.extend(words.iter().flat_map(|word| word.to_be_bytes()));
        };
        let words = |bytes: &mut Vec<u8>, words: &[u64]| {
            bytes.extend(words.iter().flat_map(|word| word.to_be_bytes()));
        };
        bytes.extend(MAGIC);
        halves(&mut bytes, &[3]);
        words(&mut bytes, &[0]); // no backing file
        halves(&mut bytes, &[0, CLUSTER_BITS]);
        words(&mut bytes, &[self.size_bytes]);
        let l1_entries = u32::try_from(self.l1_entries).unwrap_or(u32::MAX);
        halves(&mut bytes, &[0, l1_entries]); // not encrypted
        words(&mut bytes, &[self.l1_at(), CLUSTER]);
        let table = u32::try_from(self.refcount_table_clusters).unwrap_or(u32::MAX);
        halves(&mut bytes, &[table, 0]); // no snapshots
        words(&mut bytes, &[0, incompatible, 0, 0]);
        halves(&mut bytes, &[REFCOUNT_ORDER, HEADER_BYTES]);
        bytes.resize(CLUSTER_LEN, 0);
        bytes
    }
}

/// A qcow2 file that is written in order.
pub struct Qcow2Target {
    file: File,
    layout: Layout,
    l1: Vec<u64>,
    /// The L2 table at hand: its index in L1, where it lies, its entries.
    l2: Option<(u64, u64, Vec<u64>)>,
    next_cluster: u64,
}

impl Qcow2Target {
    /// Begins an empty image for a disk of `size_bytes` in an empty file.
    ///
    /// # Errors
    /// Those of the file.
    pub fn create(file: File, size_bytes: u64) -> Result<Self, ImageError> {
        let layout = Layout::of(size_bytes);
        file.set_len(layout.first_free() * CLUSTER)?;
        file.write_all_at(&layout.header(DIRTY), 0)?;
        Ok(Self {
            file,
            layout,
            l1: vec![0; usize::try_from(layout.l1_entries).unwrap_or(0)],
            l2: None,
            next_cluster: layout.first_free(),
        })
    }

    /// Goes on with an image of which `done_bytes` of the disk were written when its next free cluster
    /// was `next_cluster`: all that came after it is taken away.
    ///
    /// # Errors
    /// [`ImageError::NotAsLeft`], and those of the file.
    pub fn resume(
        file: File,
        size_bytes: u64,
        next_cluster: u64,
        done_bytes: u64,
    ) -> Result<Self, ImageError> {
        let layout = Layout::of(size_bytes);
        let not_as_left = |what| ImageError::NotAsLeft { what };
        let bytes = next_cluster.checked_mul(CLUSTER);
        if bytes.is_none_or(|bytes| file.len_bytes().is_ok_and(|len| len < bytes)) {
            return Err(not_as_left("it is shorter"));
        }
        let mut header = vec![0; CLUSTER_LEN];
        file.fill(&mut header, 0)?;
        if header != layout.header(DIRTY) {
            return Err(not_as_left("its header is another one"));
        }
        let mut l1 = read_table(&file, layout.l1_at(), layout.l1_entries)?;
        let in_file = |entry: &u64| entry & OFFSET_MASK < next_cluster * CLUSTER;
        // What was entered after that is not there: whole tables, and maybe the one at hand.
        for (index, entry) in (0u64..).zip(&mut l1) {
            let is_later = index * L2_COVERS >= done_bytes;
            let is_at_hand = index == done_bytes / L2_COVERS;
            if is_later || (is_at_hand && !in_file(entry)) {
                *entry = 0;
            }
        }
        if !l1.iter().all(in_file) {
            return Err(not_as_left("its tables refer to what is not there"));
        }
        let mut target = Self {
            file,
            layout,
            l1,
            l2: None,
            next_cluster,
        };
        target.file.set_len(next_cluster * CLUSTER)?;
        if !done_bytes.is_multiple_of(L2_COVERS) {
            target.take_up_table(done_bytes)?;
        }
        Ok(target)
    }

    /// The table that was not full yet, without what was entered after `done_bytes`.
    fn take_up_table(&mut self, done_bytes: u64) -> Result<(), ImageError> {
        let index = done_bytes / L2_COVERS;
        let at = self.l1_entry(index) & OFFSET_MASK;
        if at == 0 {
            return Ok(());
        }
        let mut table = read_table(&self.file, at, TABLE_ENTRIES)?;
        let entries_done = (done_bytes % L2_COVERS).div_ceil(CLUSTER);
        for entry in table
            .iter_mut()
            .skip(usize::try_from(entries_done).unwrap_or(0))
        {
            *entry = 0;
        }
        self.l2 = Some((index, at, table));
        Ok(())
    }

    fn l1_entry(&self, index: u64) -> u64 {
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        self.l1.get(index).copied().unwrap_or(0)
    }

    /// Writes `bytes` at `offset` of the disk, a multiple of 64 KiB as their count is but at the end;
    /// clusters of zeroes are left out.
    ///
    /// # Errors
    /// Those of the file.
    ///
    /// # Panics
    /// If the offset is not aligned, or the bytes go beyond the end of the disk.
    pub fn write(&mut self, bytes: &[u8], offset: u64) -> Result<(), ImageError> {
        assert!(offset.is_multiple_of(CLUSTER), "clusters are written whole");
        let end = offset + bytes.len() as u64;
        assert!(end <= self.layout.size_bytes, "beyond the end of the disk");
        for run in zero::data_runs(bytes, CLUSTER_LEN) {
            let mut at = run.start;
            while at < run.end {
                let place = offset + at as u64;
                let table_end = (place / L2_COVERS + 1) * L2_COVERS;
                let fits = usize::try_from(table_end - place).unwrap_or(usize::MAX);
                let len = fits.min(run.end - at);
                self.write_run(&bytes[at..at + len], place)?;
                at += len;
            }
        }
        Ok(())
    }

    /// Data clusters that one L2 table covers: they come to lie one after another.
    fn write_run(&mut self, bytes: &[u8], offset: u64) -> Result<(), ImageError> {
        self.open_table(offset / L2_COVERS)?;
        let clusters = (bytes.len() as u64).div_ceil(CLUSTER);
        let host = self.next_cluster * CLUSTER;
        self.next_cluster += clusters;
        self.file.write_all_at(bytes, host)?;
        let whole = self.next_cluster * CLUSTER;
        if host + (bytes.len() as u64) < whole {
            self.file.set_len(whole)?;
        }
        let first = usize::try_from(offset % L2_COVERS / CLUSTER).unwrap_or(usize::MAX);
        if let Some((_, _, table)) = &mut self.l2 {
            for (index, entry) in (0..clusters).zip(&mut table[first..]) {
                *entry = (host + index * CLUSTER) | COPIED;
            }
        }
        Ok(())
    }

    /// Makes the L2 table `index` the one at hand.
    fn open_table(&mut self, index: u64) -> Result<(), ImageError> {
        if self.l2.as_ref().is_some_and(|(at, _, _)| *at == index) {
            return Ok(());
        }
        self.save_table()?;
        let at = self.next_cluster * CLUSTER;
        self.next_cluster += 1;
        self.l1[usize::try_from(index).unwrap_or(usize::MAX)] = at | COPIED;
        self.l2 = Some((index, at, vec![0; CLUSTER_LEN / 8]));
        Ok(())
    }

    fn save_table(&mut self) -> Result<(), ImageError> {
        if let Some((_, at, table)) = &self.l2 {
            self.file.write_all_at(&to_bytes(table), *at)?;
        }
        Ok(())
    }

    /// Makes all that was written durable; gives the next free cluster, to go on from here.
    ///
    /// # Errors
    /// Those of the file.
    pub fn checkpoint(&mut self) -> Result<u64, ImageError> {
        self.save_table()?;
        self.file
            .write_all_at(&to_bytes(&self.l1), self.layout.l1_at())?;
        let whole = self.next_cluster * CLUSTER;
        if self.file.len_bytes()? < whole {
            self.file.set_len(whole)?;
        }
        self.file.sync_data()?;
        Ok(self.next_cluster)
    }

    /// Writes refcounts and header: the image is whole, and durable.
    ///
    /// # Errors
    /// Those of the file.
    pub fn finish(mut self) -> Result<(), ImageError> {
        self.checkpoint()?;
        let used = self.next_cluster;
        let mut blocks = used.div_ceil(BLOCK_COUNTS);
        while blocks * BLOCK_COUNTS < used + blocks {
            blocks += 1;
        }
        assert!(
            blocks <= self.layout.refcount_table_clusters * TABLE_ENTRIES,
            "the refcount table was made for the whole disk"
        );
        let all = used + blocks;
        for block in 0..blocks {
            let counted = (all - block * BLOCK_COUNTS).min(BLOCK_COUNTS);
            let mut counts = vec![0; CLUSTER_LEN];
            for count in counts
                .chunks_exact_mut(2)
                .take(usize::try_from(counted).unwrap_or(0))
            {
                count.copy_from_slice(&1u16.to_be_bytes());
            }
            self.file.write_all_at(&counts, (used + block) * CLUSTER)?;
        }
        let table: Vec<u64> = (used..all).map(|cluster| cluster * CLUSTER).collect();
        self.file.write_all_at(&to_bytes(&table), CLUSTER)?;
        self.file.sync_data()?;
        self.file.write_all_at(&self.layout.header(0), 0)?;
        self.file.sync_all()?;
        Ok(())
    }
}

fn to_bytes(table: &[u64]) -> Vec<u8> {
    table.iter().flat_map(|entry| entry.to_be_bytes()).collect()
}

fn read_table(file: &File, at: u64, entries: u64) -> Result<Vec<u64>, ImageError> {
    let entries = usize::try_from(entries).unwrap_or(0);
    let mut bytes = vec![0; entries * 8];
    if file.fill(&mut bytes, at)? < bytes.len() {
        let what = "its tables are not there";
        return Err(ImageError::NotAsLeft { what });
    }
    Ok((0..entries).map(|index| word(&bytes, index * 8)).collect())
}

#[cfg(test)]
mod tests;
