//! What a run did and saw: every operation with its moments, every attach, every flush.
//!
//! Moments are positions in one order over the whole run. A sector's value is the number of the
//! operation that wrote it, 0 for zeroes; blocks carry it as their pattern, with the block's own
//! number beside it, so that data from a wrong place is seen at once.

use std::ops::Range;

use ashlar_reactor::sim::{SECTOR_BYTES, pattern, pattern_of};

/// Sectors in a block.
pub const SECTORS_PER_BLOCK: u64 = 8;
const BLOCK_BYTES: usize = 4096;

/// An operation of the run, from 1.
pub type OpId = u32;
/// A life of the volume: one successful attach, from 1.
pub type Life = u32;
/// A position in the order of the run.
pub type Moment = u32;

/// What an operation did.
#[derive(Clone, Debug)]
pub enum OpKind {
    /// Wrote its own number.
    Write,
    /// Wrote zeroes.
    Zero,
    /// Read, and saw these values, one a sector.
    Read(Vec<u32>),
    /// Made the volume what it was at a snapshot, which showed these values.
    Restore(Vec<u32>),
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Not before its owner was gone.
    Never,
    /// Done.
    Done(Moment),
    /// Failed, and may have taken effect.
    Maybe,
    /// Failed, and took no effect.
    Refused(Moment),
}

/// One operation on a range of sectors.
#[derive(Clone, Debug)]
pub struct Op {
    /// The life it belongs to.
    pub life: Life,
    /// What it did.
    pub kind: OpKind,
    /// The sectors it touched.
    pub sectors: Range<u64>,
    /// When it began.
    pub invoked: Moment,
    /// Whether it was to be durable on completion.
    pub durable: bool,
    /// How it ended.
    pub ending: Ending,
}

/// A flush that completed.
#[derive(Clone, Copy, Debug)]
pub struct Flush {
    /// When it was issued: it covers what had completed before.
    pub invoked: Moment,
    /// When it completed.
    pub done: Moment,
}

/// A moment from which a new owner served.
#[derive(Clone, Copy, Debug)]
pub struct Serve {
    /// Its life.
    pub life: Life,
    /// When.
    pub at: Moment,
    /// Whether enough caches were lost before that unflushed writes may be gone.
    pub lossy: bool,
}

/// What a snapshot showed when it was read first: the volume at some moment.
#[derive(Clone, Debug)]
pub struct Picture {
    /// When it was asked for.
    pub requested: Moment,
    /// When it was known to be ready.
    pub ready: Moment,
    /// One a sector.
    pub values: Vec<u32>,
}

/// The life of an operation that belongs to no owner.
const NO_LIFE: Life = Life::MAX;

/// All that happened to one volume.
#[derive(Clone, Debug, Default)]
pub struct History {
    ops: Vec<Op>,
    /// Flushes that completed.
    pub flushes: Vec<Flush>,
    /// The lives of the volume.
    pub serves: Vec<Serve>,
    /// Its snapshots, as they were read.
    pub pictures: Vec<Picture>,
    now: Moment,
}

/// A read showed something that nobody wrote there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongData {
    /// The sector.
    pub sector: u64,
    /// What stood there: a pattern's numbers, or nothing readable.
    pub found: Option<(u64, u64)>,
}

impl History {
    /// The next moment.
    pub fn tick(&mut self) -> Moment {
        self.now += 1;
        self.now
    }

    /// A new owner serves from now on.
    pub fn serve(&mut self, lossy: bool) -> Life {
        let at = self.tick();
        let life = Life::try_from(self.serves.len() + 1).unwrap_or(Life::MAX);
        self.serves.push(Serve { life, at, lossy });
        life
    }

    /// An operation begins.
    pub fn begin(&mut self, life: Life, kind: OpKind, sectors: Range<u64>, durable: bool) -> OpId {
        let invoked = self.tick();
        self.ops.push(Op {
            life,
            kind,
            sectors,
            invoked,
            durable,
            ending: Ending::Never,
        });
        OpId::try_from(self.ops.len()).unwrap_or(OpId::MAX)
    }

    /// An operation ends.
    pub fn end(&mut self, id: OpId, ending: impl FnOnce(Moment) -> Ending) {
        let now = self.tick();
        self.op_mut(id).ending = ending(now);
    }

    /// A read ends with what it saw.
    ///
    /// # Errors
    /// [`WrongData`]: a sector holds what was never written to it.
    pub fn end_read(&mut self, id: OpId, data: &[u8]) -> Result<(), WrongData> {
        let values = self.values(self.op(id).sectors.start, data)?;
        self.op_mut(id).kind = OpKind::Read(values);
        self.end(id, Ending::Done);
        Ok(())
    }

    /// What sectors show, the first of which is `first`.
    ///
    /// # Errors
    /// [`WrongData`]: a sector holds what was never written to it.
    pub fn values(&self, first: u64, data: &[u8]) -> Result<Vec<u32>, WrongData> {
        let mut values = Vec::with_capacity(data.len() / SECTOR_BYTES);
        for (sector, bytes) in (first..).zip(data.chunks(SECTOR_BYTES)) {
            let found = pattern_of(bytes);
            let wrong = || WrongData { sector, found };
            let (number, block) = found.ok_or_else(wrong)?;
            if number != 0 {
                let known = u32::try_from(number)
                    .ok()
                    .filter(|&n| self.wrote(n, sector));
                if known.is_none() || block != sector / SECTORS_PER_BLOCK {
                    return Err(wrong());
                }
            }
            values.push(u32::try_from(number).unwrap_or(0));
        }
        Ok(values)
    }

    /// A snapshot was read: the volume looked so at some moment between two.
    pub fn show(&mut self, picture: Picture) {
        let Picture {
            requested,
            ready,
            values,
        } = picture.clone();
        self.ops.push(Op {
            life: NO_LIFE,
            sectors: 0..values.len() as u64,
            kind: OpKind::Read(values),
            invoked: requested,
            durable: false,
            ending: Ending::Done(ready),
        });
        self.pictures.push(picture);
    }

    /// The volume is about to be what a snapshot shows.
    pub fn restore(&mut self, values: Vec<u32>) -> OpId {
        let sectors = 0..values.len() as u64;
        self.begin(NO_LIFE, OpKind::Restore(values), sectors, true)
    }

    fn wrote(&self, id: OpId, sector: u64) -> bool {
        let op = id
            .checked_sub(1)
            .and_then(|index| self.ops.get(index as usize));
        op.is_some_and(|op| matches!(op.kind, OpKind::Write) && op.sectors.contains(&sector))
    }

    /// An operation by its number.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn op(&self, id: OpId) -> &Op {
        &self.ops[id as usize - 1]
    }

    fn op_mut(&mut self, id: OpId) -> &mut Op {
        &mut self.ops[id as usize - 1]
    }

    /// All operations with their numbers.
    pub fn ops(&self) -> impl Iterator<Item = (OpId, &Op)> {
        (1..).zip(&self.ops)
    }
}

/// Fills the payload of a write: each of its sectors says which operation and which block.
pub fn fill(id: OpId, first_sector: u64, target: &mut [u8]) {
    let mut rest = target;
    let mut sector = first_sector;
    while !rest.is_empty() {
        let in_block = SECTORS_PER_BLOCK - sector % SECTORS_PER_BLOCK;
        let bytes = usize::try_from(in_block).unwrap_or(8) * SECTOR_BYTES;
        let len = bytes.min(BLOCK_BYTES).min(rest.len());
        let (head, tail) = rest.split_at_mut(len);
        pattern(head, u64::from(id), sector / SECTORS_PER_BLOCK);
        sector += in_block;
        rest = tail;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_name_their_writers_and_strangers_are_refused() {
        let mut history = History::default();
        let life = history.serve(false);
        let write = history.begin(life, OpKind::Write, 4..20, false);
        let mut data = vec![0; 16 * SECTOR_BYTES];
        fill(write, 4, &mut data);
        let read = history.begin(life, OpKind::Read(Vec::new()), 4..20, false);
        history.end_read(read, &data).unwrap();
        let OpKind::Read(values) = &history.op(read).kind else {
            panic!("it is a read");
        };
        assert_eq!(values, &vec![write; 16]);
        let elsewhere = history.begin(life, OpKind::Read(Vec::new()), 12..28, false);
        let error = history.end_read(elsewhere, &data).unwrap_err();
        assert_eq!(error.sector, 12);
        data[1] ^= 1;
        let again = history.begin(life, OpKind::Read(Vec::new()), 4..20, false);
        assert_eq!(history.end_read(again, &data).unwrap_err().found, None);
    }
}
