//! Reading a qcow2 image: where each cluster of the disk is, and its bytes.
//!
//! Invariants: one L2 table and one unpacked cluster are kept, whatever the file says; every offset
//! is checked before it is used; runs make progress, so a walk over the disk ends.

use super::header::Header;
use super::{COMPRESSED, OFFSET_MASK, ZERO, compressed, word};
use crate::image::{Run, RunKind};
use crate::{ImageError, ReadAt};

/// Where a cluster of the disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cluster {
    Zeroes,
    At(u64),
    Packed { offset: u64, bytes: usize },
}

/// A qcow2 image in `F`.
pub struct Qcow2Image<F> {
    file: F,
    file_bytes: u64,
    header: Header,
    l1: Vec<u8>,
    /// The L2 table at hand, by its index in L1; none where L1 has no table.
    l2: Option<(usize, Option<Vec<u8>>)>,
    /// The compressed cluster unpacked last, by its number.
    unpacked: Option<(u64, Vec<u8>)>,
}

impl<F: ReadAt> Qcow2Image<F> {
    /// Reads header and L1 table.
    ///
    /// # Errors
    /// What is wrong with them, or not read here.
    pub fn open(file: F) -> Result<Self, ImageError> {
        let header = Header::read(&file)?;
        let file_bytes = file.len_bytes()?;
        let mut l1 = vec![0; header.l1_entries * 8];
        let count = file.fill(&mut l1, header.l1_offset)?;
        if count < l1.len() {
            return Err(ImageError::Truncated {
                what: "its L1 table",
                offset: header.l1_offset,
                file_bytes,
            });
        }
        Ok(Self {
            file,
            file_bytes,
            header,
            l1,
            l2: None,
            unpacked: None,
        })
    }

    /// The disk's size.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.header.size_bytes
    }

    /// The run at `offset`, none at the end.
    ///
    /// # Errors
    /// What is wrong with the tables that say it.
    pub fn run_at(&mut self, offset: u64) -> Result<Option<Run>, ImageError> {
        let size = self.size_bytes();
        if offset >= size {
            return Ok(None);
        }
        let covers = self.header.l2_covers();
        let table_end = (offset / covers + 1).saturating_mul(covers).min(size);
        let found = self.cluster(offset)?;
        let is_zero = found == Cluster::Zeroes;
        let mut end = if self.l2_table(offset)?.is_none() {
            table_end
        } else {
            self.cluster_end(offset)
        };
        while end < table_end && (self.cluster(end)? == Cluster::Zeroes) == is_zero {
            end = self.cluster_end(end);
        }
        let kind = if is_zero {
            RunKind::Zeroes
        } else {
            RunKind::Data
        };
        let len = end.min(table_end) - offset;
        Ok(Some(Run { kind, len }))
    }

    /// As [`crate::Image::read_at`].
    ///
    /// # Errors
    /// What is wrong with the image, and what the file cannot do.
    pub fn read_at(&mut self, bytes: &mut [u8], offset: u64) -> Result<usize, ImageError> {
        let rest = self.size_bytes().saturating_sub(offset);
        let wanted = usize::try_from(rest).map_or(bytes.len(), |rest| rest.min(bytes.len()));
        let mut done = 0;
        while done < wanted {
            let at = offset + done as u64;
            let in_cluster = at % self.header.cluster_bytes();
            let left = usize::try_from(self.header.cluster_bytes() - in_cluster);
            let len = (wanted - done).min(left.unwrap_or(usize::MAX));
            let piece = &mut bytes[done..done + len];
            match self.cluster(at)? {
                Cluster::Zeroes => piece.fill(0),
                Cluster::At(host) => {
                    // The last cluster of a file need not be whole: what is missing is zeroes.
                    let count = self.file.fill(piece, host + in_cluster)?;
                    piece[count..].fill(0);
                }
                Cluster::Packed { offset, bytes } => {
                    let number = at / self.header.cluster_bytes();
                    let start = usize::try_from(in_cluster).unwrap_or(usize::MAX);
                    let cluster = self.unpack(number, offset, bytes)?;
                    piece.copy_from_slice(&cluster[start..start + len]);
                }
            }
            done += len;
        }
        Ok(done)
    }

    fn cluster_end(&self, offset: u64) -> u64 {
        let cluster = self.header.cluster_bytes();
        (offset / cluster + 1).saturating_mul(cluster)
    }

    /// Where the cluster of the disk that holds `offset` is.
    fn cluster(&mut self, offset: u64) -> Result<Cluster, ImageError> {
        let entries = self.header.cluster_bytes() / 8;
        let index = offset / self.header.cluster_bytes() % entries;
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        let Some(table) = self.l2_table(offset)? else {
            return Ok(Cluster::Zeroes);
        };
        let entry = word(table, index * 8);
        if entry & COMPRESSED != 0 {
            return self.packed(entry);
        }
        if self.header.version >= 3 && entry & ZERO != 0 {
            return Ok(Cluster::Zeroes);
        }
        match entry & OFFSET_MASK {
            0 => Ok(Cluster::Zeroes),
            host => {
                self.check_host(host, "a cluster of data")?;
                Ok(Cluster::At(host))
            }
        }
    }

    /// Where the bytes of a compressed cluster are: it begins anywhere, and ends with a sector.
    fn packed(&self, entry: u64) -> Result<Cluster, ImageError> {
        let sectors_at = 62 - (self.header.cluster_bits - 8);
        let offset = entry & ((1 << sectors_at) - 1);
        let sectors = ((entry & (COMPRESSED - 1)) >> sectors_at) + 1;
        if offset >= self.file_bytes {
            return Err(self.truncated("a compressed cluster", offset));
        }
        // The last sector of a file need not be whole.
        let bytes = (sectors * 512 - offset % 512).min(self.file_bytes - offset);
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        Ok(Cluster::Packed { offset, bytes })
    }

    fn unpack(&mut self, number: u64, offset: u64, bytes: usize) -> Result<&[u8], ImageError> {
        if self.unpacked.as_ref().is_none_or(|(at, _)| *at != number) {
            let cluster = usize::try_from(self.header.cluster_bytes()).unwrap_or(0);
            let taken = self.unpacked.take();
            let mut plain = taken.map_or_else(|| vec![0; cluster], |(_, bytes)| bytes);
            let mut packed = vec![0; bytes];
            let count = self.file.fill(&mut packed, offset)?;
            if !compressed::unpack(self.header.compression, &packed[..count], &mut plain) {
                let what = "a compressed cluster that cannot be unpacked";
                return Err(ImageError::Damaged { what, offset });
            }
            self.unpacked = Some((number, plain));
        }
        Ok(self.unpacked.as_ref().map_or(&[], |(_, plain)| plain))
    }

    /// The L2 table for `offset`, read if it is another one than the last.
    fn l2_table(&mut self, offset: u64) -> Result<Option<&[u8]>, ImageError> {
        let index = usize::try_from(offset / self.header.l2_covers()).unwrap_or(usize::MAX);
        if self.l2.as_ref().is_none_or(|(at, _)| *at != index) {
            let table = match word(&self.l1, index * 8) & OFFSET_MASK {
                0 => None,
                host => Some(self.read_table(host)?),
            };
            self.l2 = Some((index, table));
        }
        Ok(self.l2.as_ref().and_then(|(_, table)| table.as_deref()))
    }

    fn read_table(&self, host: u64) -> Result<Vec<u8>, ImageError> {
        self.check_host(host, "an L2 table")?;
        let mut table = vec![0; usize::try_from(self.header.cluster_bytes()).unwrap_or(0)];
        let count = self.file.fill(&mut table, host)?;
        if count < table.len() {
            return Err(self.truncated("an L2 table", host));
        }
        Ok(table)
    }

    fn check_host(&self, host: u64, what: &'static str) -> Result<(), ImageError> {
        if !host.is_multiple_of(self.header.cluster_bytes()) {
            let what = "a reference to what is not aligned";
            return Err(ImageError::Damaged { what, offset: host });
        }
        if host >= self.file_bytes {
            return Err(self.truncated(what, host));
        }
        Ok(())
    }

    fn truncated(&self, what: &'static str, offset: u64) -> ImageError {
        ImageError::Truncated {
            what,
            offset,
            file_bytes: self.file_bytes,
        }
    }
}

#[cfg(test)]
mod tests;
