//! An image that is read: one of the formats, and what all of them can.

use std::fs::File;
use std::io::Read;

use crate::qcow2::{MAGIC, Qcow2Image};
use crate::raw::RawImage;
use crate::stream::StreamImage;
use crate::{ImageError, ReadAt};

/// How a file holds a disk's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Byte by byte.
    Raw,
    /// QEMU's format, version 2 or 3.
    Qcow2,
}

impl Format {
    /// Tells by a file's first bytes.
    #[must_use]
    pub fn of(first: &[u8]) -> Self {
        if first.starts_with(&MAGIC) {
            Self::Qcow2
        } else {
            Self::Raw
        }
    }
}

/// What a run of bytes is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunKind {
    /// Bytes to be read; they may be zeroes.
    Data,
    /// Zeroes that need not be read.
    Zeroes,
}

/// A run of bytes of one kind; the next one may be of the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// What it is.
    pub kind: RunKind,
    /// How many bytes, at least one.
    pub len: u64,
}

/// An image that is read.
pub enum Image {
    /// A raw file or block device.
    Raw(RawImage),
    /// A raw image whose bytes come in order.
    Stream(StreamImage),
    /// A qcow2 file.
    Qcow2(Box<Qcow2Image<File>>),
}

impl Image {
    /// An image in a file. Reads what a qcow2 image says of itself.
    ///
    /// # Errors
    /// Those of the file, and those of the format.
    pub fn open(file: File, format: Format) -> Result<Self, ImageError> {
        Ok(match format {
            Format::Raw => Self::Raw(RawImage::new(file)?),
            Format::Qcow2 => Self::Qcow2(Box::new(Qcow2Image::open(file)?)),
        })
    }

    /// A file's format, by its first bytes.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn probe(file: &File) -> Result<Format, ImageError> {
        let mut first = [0; MAGIC.len()];
        let count = file.fill(&mut first, 0)?;
        Ok(Format::of(&first[..count]))
    }

    /// A raw image that comes through a pipe. With `probe`, what looks like qcow2 is refused.
    ///
    /// # Errors
    /// [`ImageError::Qcow2Stream`], and those of the pipe.
    pub fn stream(pipe: impl Read + Send + 'static, probe: bool) -> Result<Self, ImageError> {
        let mut stream = StreamImage::new(Box::new(pipe));
        if probe && Format::of(stream.peek(MAGIC.len())?) == Format::Qcow2 {
            return Err(ImageError::Qcow2Stream);
        }
        Ok(Self::Stream(stream))
    }

    /// How many bytes the disk has; unknown of a pipe until its end.
    #[must_use]
    pub fn size_bytes(&self) -> Option<u64> {
        match self {
            Self::Raw(image) => Some(image.size_bytes()),
            Self::Stream(_) => None,
            Self::Qcow2(image) => Some(image.size_bytes()),
        }
    }

    /// The run that begins at `offset`; none at the end. It never goes beyond the end, but for a
    /// pipe, whose end is not known.
    ///
    /// # Errors
    /// Those of the file and of the format.
    pub fn run_at(&mut self, offset: u64) -> Result<Option<Run>, ImageError> {
        match self {
            Self::Raw(image) => image.run_at(offset),
            Self::Stream(_) => Ok(Some(Run {
                kind: RunKind::Data,
                len: u64::MAX,
            })),
            Self::Qcow2(image) => image.run_at(offset),
        }
    }

    /// Fills `bytes` from `offset` on, zeroes included; says how many, fewer only at the end. A pipe
    /// is read in order.
    ///
    /// # Errors
    /// Those of the file and of the format.
    pub fn read_at(&mut self, bytes: &mut [u8], offset: u64) -> Result<usize, ImageError> {
        match self {
            Self::Raw(image) => image.read_at(bytes, offset),
            Self::Stream(image) => Ok(image.read(bytes)?),
            Self::Qcow2(image) => image.read_at(bytes, offset),
        }
    }

    /// Looks at all that can be found wrong without reading the content.
    ///
    /// # Errors
    /// Those of the file and of the format.
    pub fn survey(&mut self) -> Result<(), ImageError> {
        let Self::Qcow2(image) = self else {
            return Ok(());
        };
        let mut at = 0;
        while let Some(run) = image.run_at(at)? {
            at += run.len;
        }
        Ok(())
    }
}
