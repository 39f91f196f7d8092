//! The export's side on the reactor: finds out what holds data, and keeps many reads in flight.

use std::collections::VecDeque;
use std::ops::Range;

use anyhow::Context;
use ashlar_client::{BlockDevice, BlockError};
use ashlar_proto::message::{BlockKind, Extent};
use ashlar_reactor::channel::remote;
use ashlar_reactor::{Reactor, SharedBuffer, Task};

use super::reader::BLOCK_BYTES;
use super::session::Stop;
use super::writer::Piece;
use super::{IN_FLIGHT_BYTES_MAX, IN_FLIGHT_MAX, REQUEST_BYTES_MAX};

/// What is read is whole parts of this size, as clusters of qcow2 have it.
pub const PART_BYTES: u64 = 64 << 10;

/// Extents asked for at once.
const EXTENTS_MAX: usize = 1024;

/// The range that they are asked for.
const WINDOW_BYTES: u64 = 4 << 30;

/// A run of whole parts; the last of a device may be short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Parts {
    len: u64,
    is_data: bool,
}

/// The parts that `extents` describe, from the beginning of the first: those that hold data, even
/// some, and those that hold none. `left` bytes are left of the device. At least one part.
fn parts(extents: &[Extent], left: u64) -> Vec<Parts> {
    let blocks = |extent: &Extent| u64::from(extent.count.get()) * BLOCK_BYTES;
    let covered: u64 = extents.iter().map(blocks).sum();
    let known = if covered >= left {
        left
    } else {
        covered - covered % PART_BYTES
    };
    if known == 0 {
        let len = PART_BYTES.min(left);
        return vec![Parts { len, is_data: true }];
    }
    let mut runs: Vec<Parts> = Vec::new();
    let mut push = |len, is_data| match runs.last_mut() {
        Some(last) if last.is_data == is_data => last.len += len,
        _ => runs.push(Parts { len, is_data }),
    };
    let mut done = 0;
    let mut at = 0;
    for extent in extents {
        let end = (at + blocks(extent)).min(known);
        if extent.kind == BlockKind::Data && end > at.max(done) {
            let from = at - at % PART_BYTES;
            if from > done {
                push(from - done, false);
            }
            let to = end.next_multiple_of(PART_BYTES).min(known);
            push(to - from.max(done), true);
            done = to;
        }
        at = end;
    }
    if known > done {
        push(known - done, false);
    }
    runs
}

/// A piece on its way to the writer.
enum Pending {
    Hole {
        offset: u64,
        len: u64,
    },
    Read {
        offset: u64,
        len: u64,
        task: Task<Result<Vec<SharedBuffer>, BlockError>>,
    },
}

/// Whether all was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Given {
    /// The whole range.
    All,
    /// The writer has ended: it says why.
    WriterEnded,
    /// It was asked to stop.
    Stopped,
}

/// Gives the content of a device in order.
pub struct Giver<'a, D> {
    reactor: &'a Reactor,
    device: D,
    pieces: &'a remote::Sender<Piece>,
    stop: &'a Stop,
    queue: VecDeque<Pending>,
    bytes: u64,
}

impl<'a, D: BlockDevice> Giver<'a, D> {
    pub fn new(
        reactor: &'a Reactor,
        device: D,
        pieces: &'a remote::Sender<Piece>,
        stop: &'a Stop,
    ) -> Self {
        Self {
            reactor,
            device,
            pieces,
            stop,
            queue: VecDeque::new(),
            bytes: 0,
        }
    }

    /// Gives what lies in `range`, which begins with a part.
    ///
    /// # Errors
    /// When the device cannot be read.
    pub async fn give(&mut self, range: Range<u64>) -> anyhow::Result<Given> {
        let mut at = range.start;
        while at < range.end {
            let left = range.end - at;
            let extents = self.device.extents(at, left.min(WINDOW_BYTES), EXTENTS_MAX);
            let extents = extents.await;
            let extents = extents.with_context(|| format!("mapping the volume at byte {at}"))?;
            for run in parts(&extents, left) {
                let given = self.give_run(at, run).await?;
                if given != Given::All {
                    return Ok(given);
                }
                at += run.len;
            }
        }
        while !self.queue.is_empty() {
            if !self.settle().await? {
                return Ok(Given::WriterEnded);
            }
        }
        Ok(Given::All)
    }

    async fn give_run(&mut self, start: u64, run: Parts) -> anyhow::Result<Given> {
        let mut offset = start;
        let end = start + run.len;
        while offset < end {
            let len = if run.is_data {
                let to_boundary = REQUEST_BYTES_MAX - offset % REQUEST_BYTES_MAX;
                to_boundary.min(end - offset)
            } else {
                end - offset
            };
            self.queue.push_back(if run.is_data {
                self.bytes += len;
                let device = self.device.clone();
                let count = u32::try_from(len).unwrap_or(u32::MAX);
                let read = async move { device.read(offset, count).await };
                let task = self.reactor.spawn(read);
                Pending::Read { offset, len, task }
            } else {
                Pending::Hole { offset, len }
            });
            offset += len;
            while self.bytes > IN_FLIGHT_BYTES_MAX || self.queue.len() > IN_FLIGHT_MAX {
                if !self.settle().await? {
                    return Ok(Given::WriterEnded);
                }
            }
            if self.stop.is_requested() {
                return Ok(Given::Stopped);
            }
        }
        Ok(Given::All)
    }

    /// Passes the oldest piece on; false if the writer takes no more.
    async fn settle(&mut self) -> anyhow::Result<bool> {
        let piece = match self.queue.pop_front() {
            None => return Ok(true),
            Some(Pending::Hole { offset, len }) => Piece::Hole { offset, len },
            Some(Pending::Read { offset, len, task }) => {
                self.bytes -= len;
                let read = task.await;
                let read = read.with_context(|| format!("reading the volume at byte {offset}"))?;
                let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or(0));
                read.iter().for_each(|part| bytes.extend_from_slice(part));
                Piece::Data { offset, bytes }
            }
        };
        Ok(self.pieces.send(piece).await.is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ashlar_proto::BlockCount;

    fn extents(runs: &[(u32, BlockKind)]) -> Vec<Extent> {
        let extent = |&(count, kind)| Extent {
            count: BlockCount::new(count),
            kind,
        };
        runs.iter().map(extent).collect()
    }

    fn of(runs: &[(u32, BlockKind)], left: u64) -> Vec<(u64, bool)> {
        let parts = parts(&extents(runs), left);
        parts.iter().map(|run| (run.len, run.is_data)).collect()
    }

    #[test]
    fn parts_with_some_data_are_read_whole() {
        use BlockKind::{Absent, Data, Zero};
        const P: u64 = PART_BYTES;
        let far = 1 << 40;
        assert_eq!(of(&[(64, Absent)], far), [(4 * P, false)]);
        assert_eq!(of(&[(16, Data), (16, Zero)], far), [(P, true), (P, false)]);
        assert_eq!(
            of(&[(17, Absent), (1, Data), (30, Zero), (16, Absent)], far),
            [(P, false), (P, true), (2 * P, false)]
        );
        assert_eq!(
            of(&[(1, Data), (14, Zero), (2, Data), (15, Zero)], far),
            [(2 * P, true)]
        );
        assert_eq!(
            of(&[(20, Absent), (40, Data)], far),
            [(P, false), (2 * P, true)]
        );
        assert_eq!(of(&[(3, Absent)], far), [(P, true)]);
        assert_eq!(
            of(&[(3, Absent)], 3 * BLOCK_BYTES),
            [(3 * BLOCK_BYTES, false)]
        );
        assert_eq!(
            of(&[(16, Absent), (3, Data)], P + 3 * BLOCK_BYTES),
            [(P, false), (3 * BLOCK_BYTES, true)]
        );
        assert_eq!(of(&[(100, Data)], P), [(P, true)]);
    }
}
