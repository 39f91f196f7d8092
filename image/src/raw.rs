//! A raw image in a file or on a block device; holes of a file are zeroes.

use std::fs::File;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use crate::image::{Run, RunKind};
use crate::{ImageError, ReadAt};

/// See the module.
pub struct RawImage {
    file: File,
    size_bytes: u64,
    /// Whether the file system tells holes from data.
    tells_holes: bool,
}

impl RawImage {
    /// The image in `file`.
    ///
    /// # Errors
    /// When its length cannot be had.
    pub fn new(file: File) -> Result<Self, ImageError> {
        let size_bytes = file.len_bytes()?;
        Ok(Self {
            file,
            size_bytes,
            tells_holes: true,
        })
    }

    /// Its size.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The run at `offset`, none at the end.
    ///
    /// # Errors
    /// When the file cannot be looked into.
    pub fn run_at(&mut self, offset: u64) -> Result<Option<Run>, ImageError> {
        if offset >= self.size_bytes {
            return Ok(None);
        }
        let run = |kind, end: u64| {
            Ok(Some(Run {
                kind,
                len: end.min(self.size_bytes) - offset,
            }))
        };
        if !self.tells_holes {
            return run(RunKind::Data, self.size_bytes);
        }
        match self.seek(offset, Whence::SeekData) {
            Ok(data) if data > offset => run(RunKind::Zeroes, data),
            // The kernel says so where no data follow.
            Err(Errno::ENXIO) => run(RunKind::Zeroes, self.size_bytes),
            Ok(_) => match self.seek(offset, Whence::SeekHole) {
                Ok(hole) if hole > offset => run(RunKind::Data, hole),
                _ => run(RunKind::Data, self.size_bytes),
            },
            Err(_) => {
                self.tells_holes = false;
                run(RunKind::Data, self.size_bytes)
            }
        }
    }

    /// As [`crate::Image::read_at`].
    ///
    /// # Errors
    /// When the file cannot be read, or has become shorter.
    pub fn read_at(&mut self, bytes: &mut [u8], offset: u64) -> Result<usize, ImageError> {
        let rest = self.size_bytes.saturating_sub(offset);
        let wanted = usize::try_from(rest).map_or(bytes.len(), |rest| rest.min(bytes.len()));
        let count = self.file.fill(&mut bytes[..wanted], offset)?;
        if count < wanted {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
        Ok(count)
    }

    fn seek(&self, offset: u64, whence: Whence) -> nix::Result<u64> {
        let offset = i64::try_from(offset).map_err(|_| Errno::EOVERFLOW)?;
        let found = lseek(&self.file, offset, whence)?;
        u64::try_from(found).map_err(|_| Errno::EOVERFLOW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn runs_cover_the_file_and_bytes_are_its() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(10 << 20).unwrap();
        file.write_all_at(&[7; 4096], 4 << 20).unwrap();
        file.write_all_at(&[8; 10], (10 << 20) + 5).unwrap();
        let size = (10 << 20) + 15;
        let mut image = RawImage::new(file).unwrap();
        assert_eq!(image.size_bytes(), size);
        let (mut at, mut data) = (0, 0);
        while let Some(run) = image.run_at(at).unwrap() {
            assert!(run.len > 0);
            let mut bytes = vec![1; usize::try_from(run.len).unwrap()];
            let count = image.read_at(&mut bytes, at).unwrap();
            assert_eq!(count, bytes.len());
            if run.kind == RunKind::Zeroes {
                assert!(crate::zero::is_zero(&bytes));
            }
            data += bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
            at += run.len;
        }
        assert_eq!((at, data), (size, 7 * 4096 + 8 * 10));
        let mut past = [0; 20];
        assert_eq!(image.read_at(&mut past, size - 10).unwrap(), 10);
        assert_eq!(image.read_at(&mut past, size + 10).unwrap(), 0);
    }
}
