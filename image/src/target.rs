//! An image that is written, in order: one of the kinds of targets, and what all of them can.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;

use crate::qcow2::Qcow2Target;
use crate::{ImageError, ReadAt, zero};

/// What is written to a device or a pipe at once where there are zeroes.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];
/// Blocks of zeroes of this size become holes.
const HOLE_BYTES: usize = 4096;

/// An image that is written.
pub enum Target {
    /// A raw file, sparse.
    Raw(RawTarget),
    /// A block device, written whole.
    Device(DeviceTarget),
    /// A pipe.
    Stream(StreamTarget),
    /// A qcow2 file.
    Qcow2(Box<Qcow2Target>),
}

impl Target {
    /// Writes `bytes` at `offset`, which goes on where the last call ended. Offsets are multiples of
    /// 64 KiB, and lengths too but at the end.
    ///
    /// # Errors
    /// Those of the file.
    pub fn write(&mut self, bytes: &[u8], offset: u64) -> Result<(), ImageError> {
        match self {
            Self::Raw(target) => target.write(bytes, offset),
            Self::Device(target) => Ok(target.0.write_all_at(bytes, offset)?),
            Self::Stream(target) => Ok(target.0.write_all(bytes)?),
            Self::Qcow2(target) => target.write(bytes, offset),
        }
    }

    /// The same with `len` zeroes.
    ///
    /// # Errors
    /// Those of the file.
    pub fn zeroes(&mut self, len: u64, offset: u64) -> Result<(), ImageError> {
        if matches!(self, Self::Raw(_) | Self::Qcow2(_)) {
            return Ok(());
        }
        let mut done = 0;
        while done < len {
            let count = usize::try_from(len - done).map_or(ZEROES.len(), |n| n.min(ZEROES.len()));
            self.write(&ZEROES[..count], offset + done)?;
            done += count as u64;
        }
        Ok(())
    }

    /// Makes what was written durable; gives a qcow2 file's next free cluster, to go on from here.
    ///
    /// # Errors
    /// Those of the file.
    pub fn checkpoint(&mut self) -> Result<Option<u64>, ImageError> {
        match self {
            Self::Raw(RawTarget { file }) | Self::Device(DeviceTarget(file)) => file.sync_data()?,
            Self::Stream(target) => target.0.flush()?,
            Self::Qcow2(target) => return target.checkpoint().map(Some),
        }
        Ok(None)
    }

    /// Ends it: on return it is whole and durable.
    ///
    /// # Errors
    /// Those of the file.
    pub fn finish(self) -> Result<(), ImageError> {
        match self {
            Self::Raw(RawTarget { file }) | Self::Device(DeviceTarget(file)) => file.sync_all()?,
            Self::Stream(mut target) => target.0.flush()?,
            Self::Qcow2(target) => target.finish()?,
        }
        Ok(())
    }
}

/// See [`Target::Raw`].
pub struct RawTarget {
    file: File,
}

impl RawTarget {
    /// A sparse file of `size_bytes`, of which the first `done_bytes` stay as they are.
    ///
    /// # Errors
    /// [`ImageError::NotAsLeft`], and those of the file.
    pub fn new(file: File, size_bytes: u64, done_bytes: u64) -> Result<Self, ImageError> {
        if file.len_bytes()? < done_bytes {
            let what = "it is shorter";
            return Err(ImageError::NotAsLeft { what });
        }
        file.set_len(done_bytes)?;
        file.set_len(size_bytes)?;
        Ok(Self { file })
    }

    fn write(&mut self, bytes: &[u8], offset: u64) -> Result<(), ImageError> {
        for run in zero::data_runs(bytes, HOLE_BYTES) {
            let at = offset + run.start as u64;
            self.file.write_all_at(&bytes[run], at)?;
        }
        Ok(())
    }
}

/// See [`Target::Device`].
pub struct DeviceTarget(File);

impl DeviceTarget {
    /// The device that `file` is.
    ///
    /// # Errors
    /// [`ImageError::DeviceTooSmall`], and those of the device.
    pub fn new(file: File, needed_bytes: u64) -> Result<Self, ImageError> {
        let device_bytes = file.len_bytes()?;
        if device_bytes < needed_bytes {
            return Err(ImageError::DeviceTooSmall {
                device_bytes,
                needed_bytes,
            });
        }
        Ok(Self(file))
    }
}

/// See [`Target::Stream`].
pub struct StreamTarget(Box<dyn Write + Send>);

impl StreamTarget {
    /// What goes into `pipe`.
    #[must_use]
    pub fn new(pipe: Box<dyn Write + Send>) -> Self {
        Self(pipe)
    }
}
