//! The import's side on the reactor: many writes in flight, flushed at marks.

use std::collections::VecDeque;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use ashlar_client::{BlockDevice, BlockError, Durability, ZeroMode};
use ashlar_reactor::future::{Either, race};
use ashlar_reactor::{Reactor, Task};

use super::file::Identity;
use super::journal::{ImportJournal, JournalFile, Mark};
use super::progress::Progress;
use super::reader::{Piece, Pieces, ReadError};
use super::session::{Stop, aside};
use super::{IN_FLIGHT_BYTES_MAX, IN_FLIGHT_MAX, Interrupted};

/// How long a reader that was asked to stop may take to say how far it came: one that waits for a pipe
/// never does.
const STOP_PATIENCE: Duration = Duration::from_secs(3);

/// Most zeroes of one request.
const ZEROES_MAX: u64 = 1 << 30;

/// A volume that is filled.
pub struct Filling<D> {
    pub reactor: Reactor,
    pub device: D,
    pub stop: Stop,
    pub progress: Arc<Progress>,
    pub journal: Option<(JournalFile, ImportJournal)>,
    /// Whether zeroes are written: the volume may hold something.
    pub write_zeroes: bool,
    /// The file that is read, and what it was when that began.
    pub source: Option<(PathBuf, Identity)>,
    /// For messages.
    pub total: u64,
}

/// What a filling has come to.
#[derive(Debug)]
pub struct Filled {
    /// The whole image.
    pub mark: Mark,
    /// Written by this run.
    pub data_bytes: u64,
}

impl<D: BlockDevice> Filling<D> {
    /// Writes what the reader gives, to the end.
    ///
    /// # Errors
    /// Those of the image and of the volume; [`Interrupted`]. The journal then says how far it came.
    pub async fn run(mut self, pieces: Pieces) -> anyhow::Result<Filled> {
        let mut writes = Writes::new(&self.reactor, &self.device);
        let mut data_bytes = 0;
        let mut done = self.journal.as_ref().map_or(0, |(_, j)| j.mark.done_bytes);
        let mut begun = false;
        loop {
            let Some(piece) = self.next(&pieces).await? else {
                return Err(self.interrupted(done));
            };
            if !begun {
                self.progress.begin("importing", done);
                begun = true;
            }
            match piece {
                Piece::Data { offset, bytes } => {
                    data_bytes += bytes.len() as u64;
                    writes.data(offset, &bytes).await?;
                    self.progress.reach(offset + bytes.len() as u64);
                }
                Piece::Zeroes { offset, len } => {
                    if self.write_zeroes {
                        writes.zeroes(offset, len).await?;
                    }
                    self.progress.reach(offset + len);
                }
                Piece::Mark(mark) => {
                    done = mark.done_bytes;
                    self.note(&mut writes, mark).await?;
                }
                Piece::Stopped(mark) => {
                    done = mark.done_bytes;
                    self.note(&mut writes, mark).await?;
                    return Err(self.interrupted(done));
                }
                Piece::End(mark) => {
                    if self.write_zeroes {
                        let rest = mark.done_bytes.next_multiple_of(4096);
                        let len = self.device.geometry().size_bytes.saturating_sub(rest);
                        writes.zeroes(rest, len).await?;
                    }
                    writes.flush().await?;
                    self.check_source().await?;
                    if let Some((file, _)) = self.journal.take() {
                        aside(move || file.remove()).await?;
                    }
                    return Ok(Filled { mark, data_bytes });
                }
            }
        }
    }

    /// A file that is written to while it is read is read as it never was.
    async fn check_source(&mut self) -> anyhow::Result<()> {
        let Some((path, identity)) = self.source.take() else {
            return Ok(());
        };
        aside(move || {
            let now = File::open(&path).and_then(|file| Identity::of(&file));
            ensure!(
                now.is_ok_and(|now| now == Some(identity)),
                ReadError::Changing
            );
            Ok(())
        })
        .await
    }

    fn interrupted(&self, done: u64) -> anyhow::Error {
        let total = self.total;
        Interrupted { done, total }.into()
    }

    /// The next piece; none when it was asked to stop and the reader hangs.
    async fn next(&self, pieces: &Pieces) -> anyhow::Result<Option<Piece>> {
        if !self.stop.is_requested()
            && let Either::First(piece) = race(pieces.recv(), self.stop.requested()).await
        {
            return Ok(Some(piece.unwrap_or(Err(ReadError::CalledOff))?));
        }
        match self.reactor.timeout(STOP_PATIENCE, pieces.recv()).await {
            Ok(piece) => Ok(Some(piece.unwrap_or(Err(ReadError::CalledOff))?)),
            Err(_) => Ok(None),
        }
    }

    /// Makes all writes durable, and then notes it.
    async fn note(&mut self, writes: &mut Writes<D>, mark: Mark) -> anyhow::Result<()> {
        writes.flush().await?;
        if let Some((file, journal)) = &mut self.journal {
            journal.mark = mark;
            let (file, journal) = (file.clone(), journal.clone());
            aside(move || file.save(&journal)).await?;
        }
        Ok(())
    }
}

/// A write under way.
struct Write {
    offset: u64,
    bytes: u64,
    task: Task<Result<(), BlockError>>,
}

/// Writes in flight, bounded.
struct Writes<D> {
    reactor: Reactor,
    device: D,
    queue: VecDeque<Write>,
    bytes: u64,
}

impl<D: BlockDevice> Writes<D> {
    fn new(reactor: &Reactor, device: &D) -> Self {
        Self {
            reactor: reactor.clone(),
            device: device.clone(),
            queue: VecDeque::new(),
            bytes: 0,
        }
    }

    async fn data(&mut self, offset: u64, bytes: &[u8]) -> anyhow::Result<()> {
        let mut buffer = self.reactor.buffer(bytes.len());
        buffer.copy_from_slice(bytes);
        let device = self.device.clone();
        let write = async move { device.write(offset, buffer, Durability::Accepted).await };
        let task = self.reactor.spawn(write);
        self.push(offset, bytes.len() as u64, task).await
    }

    async fn zeroes(&mut self, offset: u64, len: u64) -> anyhow::Result<()> {
        let mut done = 0;
        while done < len {
            let (at, count) = (offset + done, (len - done).min(ZEROES_MAX));
            let device = self.device.clone();
            let zero = async move {
                let (mode, durability) = (ZeroMode::Unmap, Durability::Accepted);
                device.write_zeroes(at, count, mode, durability).await
            };
            let task = self.reactor.spawn(zero);
            self.push(at, 0, task).await?;
            done += count;
        }
        Ok(())
    }

    async fn push(
        &mut self,
        offset: u64,
        bytes: u64,
        task: Task<Result<(), BlockError>>,
    ) -> anyhow::Result<()> {
        self.bytes += bytes;
        self.queue.push_back(Write {
            offset,
            bytes,
            task,
        });
        while self.bytes > IN_FLIGHT_BYTES_MAX || self.queue.len() > IN_FLIGHT_MAX {
            self.settle().await?;
        }
        Ok(())
    }

    /// Waits for the oldest.
    async fn settle(&mut self) -> anyhow::Result<()> {
        let Some(write) = self.queue.pop_front() else {
            return Ok(());
        };
        self.bytes -= write.bytes;
        let written = write.task.await;
        written.with_context(|| format!("writing to the volume at byte {} failed", write.offset))
    }

    /// Waits for all, and makes them durable.
    async fn flush(&mut self) -> anyhow::Result<()> {
        while !self.queue.is_empty() {
            self.settle().await?;
        }
        let flushed = self.device.flush().await;
        flushed.map_err(|error| anyhow!(error).context("flushing the volume failed"))
    }
}
