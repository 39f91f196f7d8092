//! Bytes at an offset, of files and of memory.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// What an image is parsed from.
pub trait ReadAt: Send {
    /// How many bytes there are.
    ///
    /// # Errors
    /// When the system does not say.
    fn len_bytes(&self) -> io::Result<u64>;

    /// Fills `bytes` from `offset` on, as far as there is something; says how far.
    ///
    /// # Errors
    /// When reading fails; the end is no error.
    fn fill(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;
}

impl ReadAt for File {
    fn len_bytes(&self) -> io::Result<u64> {
        use std::io::{Seek, SeekFrom};
        // Also right for block devices, whose metadata have no length.
        let mut file = self;
        file.seek(SeekFrom::End(0))
    }

    fn fill(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < bytes.len() {
            match self.read_at(&mut bytes[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
}

impl ReadAt for Vec<u8> {
    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn fill(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = self.get(start..).unwrap_or(&[]);
        let count = rest.len().min(bytes.len());
        bytes[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }
}
