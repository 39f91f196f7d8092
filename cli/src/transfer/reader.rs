//! The thread that reads an image: in order, hashing all of it, leaving out what is zero.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ashlar_image::{Image, ImageError, RunKind, zero};
use ashlar_reactor::channel::{Closed, remote};

use super::checksum::Sha256;
use super::journal::Mark;
use super::progress::Progress;
use super::{MarkClock, PIECES_MAX, REQUEST_BYTES_MAX};

/// Blocks of volumes: what is written has whole ones.
pub const BLOCK_BYTES: u64 = 4096;
const BLOCK_LEN: usize = 4096;

/// Most zeroes that are taken at once: between two looks at whether to stop.
const ZEROES_MAX: u64 = 64 << 20;

/// What comes out of an image.
pub enum Piece {
    /// Bytes, whole blocks: the last of an image is filled up with zeroes.
    Data {
        /// Where.
        offset: u64,
        /// What.
        bytes: Vec<u8>,
    },
    /// Zeroes, whole blocks.
    Zeroes {
        /// Where.
        offset: u64,
        /// How many.
        len: u64,
    },
    /// All before it came; it is worth noting when it is durable.
    Mark(Mark),
    /// All before it came, and it was asked to stop.
    Stopped(Mark),
    /// The image's end.
    End(Mark),
}

/// Why an image is not read on.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The image, or its file.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// What was imported already is not what the file has now.
    #[error(
        "the file is not what it was: the part that is imported already has changed; begin anew \
         with --restart"
    )]
    Changed,
    /// What was read is of no one time.
    #[error("the file has changed while it was imported: begin anew with --restart")]
    Changing,
    /// More came than the volume holds.
    #[error("the image is longer than the volume of {volume_bytes} bytes: give a larger --size")]
    TooLong {
        /// The volume's size.
        volume_bytes: u64,
    },
    /// Nobody wants it any more.
    #[error("reading was called off")]
    CalledOff,
}

impl From<Closed> for ReadError {
    fn from(_: Closed) -> Self {
        Self::CalledOff
    }
}

/// What to read.
pub struct Job {
    pub image: Image,
    /// What is imported already: to be hashed again, not to be given.
    pub done: Option<Mark>,
    pub volume_bytes: u64,
    pub stop: Arc<AtomicBool>,
    pub progress: Arc<Progress>,
}

/// Pieces in order; the last is an end or an error.
pub type Pieces = remote::Receiver<Result<Piece, ReadError>>;

/// Starts the thread; it ends when nobody receives any more.
///
/// # Errors
/// When there can be no more threads.
pub fn start(job: Job) -> std::io::Result<Pieces> {
    let (pieces, receiver) = remote::bounded(PIECES_MAX);
    std::thread::Builder::new()
        .name("ashlar-reader".to_owned())
        .spawn(move || {
            let mut reader = Reader {
                image: job.image,
                at: 0,
                hash: Sha256::new(),
                volume_bytes: job.volume_bytes,
                stop: job.stop,
                progress: job.progress,
                pieces: &pieces,
            };
            if let Err(error) = reader.run(job.done) {
                let _ = pieces.send_blocking(Err(error));
            }
        })?;
    Ok(receiver)
}

struct Reader<'a> {
    image: Image,
    at: u64,
    hash: Sha256,
    volume_bytes: u64,
    stop: Arc<AtomicBool>,
    progress: Arc<Progress>,
    pieces: &'a remote::Sender<Result<Piece, ReadError>>,
}

/// The next part of an image.
enum Step {
    Zeroes(u64),
    Data(Vec<u8>),
    End,
}

impl Reader<'_> {
    fn run(&mut self, done: Option<Mark>) -> Result<(), ReadError> {
        if let Some(done) = done {
            self.verify(&done)?;
        }
        let mut clock = MarkClock::default();
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return self.give(Piece::Stopped(self.mark()));
            }
            let offset = self.at;
            let (bytes, data) = match self.step(u64::MAX)? {
                Step::End => return self.give(Piece::End(self.mark())),
                Step::Zeroes(len) => {
                    self.check_end()?;
                    let len = len.next_multiple_of(BLOCK_BYTES);
                    self.give(Piece::Zeroes { offset, len })?;
                    (len, 0)
                }
                Step::Data(bytes) => {
                    self.check_end()?;
                    let len = bytes.len() as u64;
                    (len, self.give_data(bytes, offset)?)
                }
            };
            if clock.count(bytes, data) {
                self.give(Piece::Mark(self.mark()))?;
            }
        }
    }

    /// Reads and hashes what is imported already.
    fn verify(&mut self, done: &Mark) -> Result<(), ReadError> {
        while self.at < done.done_bytes {
            if self.stop.load(Ordering::Relaxed) {
                // It stays as far as it was.
                return self.give(Piece::Stopped(done.clone()));
            }
            if let Step::End = self.step(done.done_bytes)? {
                return Err(ReadError::Changed);
            }
            self.progress.reach(self.at);
        }
        if self.mark() == *done {
            Ok(())
        } else {
            Err(ReadError::Changed)
        }
    }

    fn mark(&self) -> Mark {
        Mark {
            done_bytes: self.at,
            sha256: self.hash.text(),
        }
    }

    fn check_end(&self) -> Result<(), ReadError> {
        let volume_bytes = self.volume_bytes;
        if self.at > volume_bytes {
            return Err(ReadError::TooLong { volume_bytes });
        }
        Ok(())
    }

    /// Takes and hashes what comes next, not beyond `limit`.
    fn step(&mut self, limit: u64) -> Result<Step, ReadError> {
        let Some(run) = self.image.run_at(self.at)? else {
            return Ok(Step::End);
        };
        let left = run.len.min(limit - self.at);
        if run.kind == RunKind::Zeroes {
            let ends = self.image.size_bytes() == Some(self.at + left);
            let len = left.min(ZEROES_MAX);
            // A block that is data in part is read.
            let len = if ends && len == left {
                len
            } else {
                len - len % BLOCK_BYTES
            };
            if len > 0 {
                self.hash.add_zeroes(len);
                self.at += len;
                return Ok(Step::Zeroes(len));
            }
        }
        let to_boundary = REQUEST_BYTES_MAX - self.at % REQUEST_BYTES_MAX;
        let wanted = left.min(to_boundary).next_multiple_of(BLOCK_BYTES);
        let wanted = wanted.min(limit - self.at);
        let mut bytes = vec![0; usize::try_from(wanted).unwrap_or(BLOCK_LEN)];
        let count = self.image.read_at(&mut bytes, self.at)?;
        if count == 0 {
            return Ok(Step::End);
        }
        bytes.truncate(count);
        self.hash.add(&bytes);
        self.at += count as u64;
        Ok(Step::Data(bytes))
    }

    /// Gives the blocks that hold something, and the zeroes between them; says how much data.
    fn give_data(&self, mut bytes: Vec<u8>, offset: u64) -> Result<u64, ReadError> {
        bytes.resize(bytes.len().next_multiple_of(BLOCK_LEN), 0);
        let runs: Vec<_> = zero::data_runs(&bytes, BLOCK_LEN).collect();
        if let [run] = &runs[..]
            && run.len() == bytes.len()
        {
            let len = bytes.len() as u64;
            self.give(Piece::Data { offset, bytes })?;
            return Ok(len);
        }
        let mut data = 0;
        let mut done = 0;
        for run in runs {
            self.give_zeroes(offset, done..run.start)?;
            done = run.end;
            data += run.len() as u64;
            let offset = offset + run.start as u64;
            let bytes = bytes[run].to_vec();
            self.give(Piece::Data { offset, bytes })?;
        }
        self.give_zeroes(offset, done..bytes.len())?;
        Ok(data)
    }

    fn give_zeroes(&self, offset: u64, range: std::ops::Range<usize>) -> Result<(), ReadError> {
        if range.is_empty() {
            return Ok(());
        }
        let (offset, len) = (offset + range.start as u64, range.len() as u64);
        self.give(Piece::Zeroes { offset, len })
    }

    fn give(&self, piece: Piece) -> Result<(), ReadError> {
        Ok(self.pieces.send_blocking(Ok(piece))?)
    }
}

#[cfg(test)]
mod tests;
