//! The thread that writes what is exported: in order, hashing all of it, noting how far it came.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use ashlar_image::{ImageError, Target};
use ashlar_reactor::channel::remote;

use super::checksum::Sha256;
use super::journal::{ExportJournal, JournalFile, Mark, sync_directory};
use super::progress::Progress;
use super::{MarkClock, PIECES_MAX};

/// What comes out of a volume, in order.
pub enum Piece {
    /// Bytes.
    Data {
        /// Where.
        offset: u64,
        /// What.
        bytes: Vec<u8>,
    },
    /// Zeroes.
    Hole {
        /// Where.
        offset: u64,
        /// How many.
        len: u64,
    },
    /// All has come.
    End,
}

/// The content is not what was exported before.
#[derive(Debug, thiserror::Error)]
#[error(
    "the volume was written to since the export began: what was exported is of another content; begin \
     anew with --restart"
)]
pub struct VolumeChanged;

/// Where the content goes.
pub struct Output {
    pub target: Target,
    /// The journal and what it says next; none where an export cannot be resumed.
    pub journal: Option<(JournalFile, ExportJournal)>,
    /// The partial file and the name that it gets.
    pub rename: Option<(PathBuf, PathBuf)>,
    /// Whether the name may be taken from another file.
    pub force: bool,
    /// What is there already and comes nevertheless: it is only hashed, and then compared.
    pub done: Option<Mark>,
    /// Where the first piece begins, and the digest of what is before it.
    pub from: u64,
    pub hash: Sha256,
    pub progress: Arc<Progress>,
}

/// What the thread has come to.
#[derive(Debug)]
pub struct Written {
    /// How far it came: to the end, or where the pieces ended.
    pub mark: Mark,
    pub data_bytes: u64,
    /// Whether it is finished.
    pub is_whole: bool,
}

/// The thread's outcome, as one message.
pub type Outcome = remote::Receiver<anyhow::Result<Written>>;

/// Starts the thread. Pieces that end without [`Piece::End`] make it stop as one can go on from.
///
/// # Errors
/// When there can be no more threads.
pub fn start(output: Output) -> std::io::Result<(remote::Sender<Piece>, Outcome)> {
    let (sender, pieces) = remote::bounded(PIECES_MAX);
    let (done, outcome) = remote::bounded(1);
    std::thread::Builder::new()
        .name("ashlar-writer".to_owned())
        .spawn(move || {
            let writer = Writer {
                at: output.from,
                data_bytes: 0,
                output,
            };
            // Closes the pieces before it tells: who sends sees it.
            let written = writer.run(pieces);
            let _ = done.try_send(written);
        })?;
    Ok((sender, outcome))
}

struct Writer {
    output: Output,
    at: u64,
    data_bytes: u64,
}

impl Writer {
    fn run(mut self, pieces: remote::Receiver<Piece>) -> anyhow::Result<Written> {
        let mut clock = MarkClock::default();
        while let Some(piece) = pieces.recv_blocking() {
            let before = self.at;
            let data_bytes = match piece {
                Piece::End => return self.finish(),
                Piece::Data { offset, bytes } => {
                    self.output.hash.add(&bytes);
                    if !self.is_there(offset) {
                        self.output.target.write(&bytes, offset).map_err(explain)?;
                        self.data_bytes += bytes.len() as u64;
                    }
                    self.at = offset + bytes.len() as u64;
                    bytes.len() as u64
                }
                Piece::Hole { offset, len } => {
                    self.output.hash.add_zeroes(len);
                    if !self.is_there(offset) {
                        self.output.target.zeroes(len, offset).map_err(explain)?;
                    }
                    self.at = offset + len;
                    0
                }
            };
            self.compare()?;
            self.output.progress.reach(self.at);
            if clock.count(self.at.saturating_sub(before), data_bytes) {
                self.note()?;
            }
        }
        self.note()?;
        Ok(self.written(false))
    }

    fn mark(&self) -> Mark {
        Mark {
            done_bytes: self.at,
            sha256: self.output.hash.text(),
        }
    }

    fn written(self, is_whole: bool) -> Written {
        Written {
            mark: self.mark(),
            data_bytes: self.data_bytes,
            is_whole,
        }
    }

    /// Whether what lies at `offset` was written by an earlier run.
    fn is_there(&self, offset: u64) -> bool {
        let done = self.output.done.as_ref();
        done.is_some_and(|done| offset < done.done_bytes)
    }

    /// What was exported by an earlier run must be what the volume holds now.
    fn compare(&self) -> Result<(), VolumeChanged> {
        match &self.output.done {
            Some(done) if done.done_bytes == self.at && *done != self.mark() => Err(VolumeChanged),
            _ => Ok(()),
        }
    }

    /// Makes it durable, and notes how far it is.
    fn note(&mut self) -> anyhow::Result<()> {
        // Before that, the journal is right as it is.
        if self.is_there(self.at) || self.at == 0 {
            return Ok(());
        }
        let next_cluster = self.output.target.checkpoint().map_err(explain)?;
        let mark = self.mark();
        if let Some((file, journal)) = &mut self.output.journal {
            journal.mark = mark;
            journal.next_cluster = next_cluster;
            file.save(journal)?;
        }
        Ok(())
    }

    fn finish(self) -> anyhow::Result<Written> {
        let mark = self.mark();
        let output = self.output;
        output.target.finish().map_err(explain)?;
        if let Some((partial, path)) = &output.rename {
            ensure!(
                output.force || !path.exists(),
                "{} has come to be meanwhile: move it away and give the same command again",
                path.display()
            );
            let renamed = fs::rename(partial, path).and_then(|()| sync_directory(path));
            renamed.with_context(|| format!("cannot rename to {}", path.display()))?;
        }
        if let Some((file, _)) = &output.journal {
            file.remove()?;
        }
        Ok(Written {
            mark,
            data_bytes: self.data_bytes,
            is_whole: true,
        })
    }
}

/// A closed pipe is no success here: the content did not go out.
fn explain(error: ImageError) -> anyhow::Error {
    match error {
        ImageError::Io(error) if error.kind() == ErrorKind::BrokenPipe => {
            anyhow::anyhow!("the reader of the pipe has closed it before the end")
        }
        error => anyhow::Error::new(error).context("writing the image failed"),
    }
}

/// Hashes the part of a partial file that is there.
///
/// # Errors
/// When it is not what was written.
pub fn check_partial(
    image: &mut ashlar_image::Image,
    done: &Mark,
    progress: &Progress,
) -> anyhow::Result<Sha256> {
    let mut hash = Sha256::new();
    let mut at = 0;
    let mut bytes = vec![0; 1 << 20];
    while at < done.done_bytes {
        let Some(run) = image.run_at(at)? else {
            break;
        };
        let left = run.len.min(done.done_bytes - at);
        let len = match run.kind {
            ashlar_image::RunKind::Zeroes => {
                let len = left.min(64 << 20);
                hash.add_zeroes(len);
                len
            }
            ashlar_image::RunKind::Data => {
                let len = usize::try_from(left).map_or(bytes.len(), |n| n.min(bytes.len()));
                let count = image.read_at(&mut bytes[..len], at)?;
                hash.add(&bytes[..count]);
                count as u64
            }
        };
        at += len;
        progress.reach(at);
    }
    if at != done.done_bytes || hash.text() != done.sha256 {
        bail!(ImageError::NotAsLeft {
            what: "its content differs",
        });
    }
    Ok(hash)
}
