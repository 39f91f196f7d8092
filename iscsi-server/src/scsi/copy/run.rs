//! Carries a copy operation out, piece by piece.

use super::super::execute::{Call, Done, Given};
use super::super::io::{Range, range_of};
use super::super::sense::{Code, Key, Refusal, Sense, code};
use super::super::target::Answer;
use super::super::unit::Unit;
use super::super::{NexusId, vpd};
use super::{Copy, Designator, Progress, Segment, THIS_UNIT, parse};
use crate::catalog::TargetCatalog;
use ashlar_client::{BlockDevice, ZeroMode};
use ashlar_reactor::{Buffer, Reactor, SharedBuffer};
use std::rc::Rc;

/// Bytes that are read and written at a time.
const PIECE_BYTES: u64 = 4 << 20;

/// OPERATION IN PROGRESS.
const IN_PROGRESS: Code = Code(0x00, 0x16);

impl<C: TargetCatalog> Call<'_, C> {
    pub(in crate::scsi) async fn extended_copy(&self, list: Given) -> Done {
        let list = list?;
        if list.is_empty() {
            return Ok(Answer::default());
        }
        let copy = parse(&list)?;
        if copy.keeps && !self.begin(&copy) {
            return Err(Sense::illegal(IN_PROGRESS).into());
        }
        let mut record = Record {
            unit: self.unit,
            nexus: self.nexus.id,
            list: copy.keeps.then_some(copy.list),
            progress: Progress::Failed,
        };
        for segment in &copy.segments {
            self.copy_segment(&copy, segment, &record).await?;
        }
        record.progress = Progress::Completed;
        Ok(Answer::default())
    }

    pub(in crate::scsi) fn copy_status(&self, list: u8) -> Result<Vec<u8>, Refusal> {
        let mut copies = self.unit.copies.borrow_mut();
        let status = copies.status(self.nexus.id, list);
        status.ok_or(Refusal::Check(Sense::cdb(2)))
    }

    fn begin(&self, copy: &Copy) -> bool {
        let mut copies = self.unit.copies.borrow_mut();
        copies.begin(self.nexus.id, copy.list)
    }

    async fn copy_segment(
        &self,
        copy: &Copy,
        segment: &Segment,
        record: &Record<'_, C>,
    ) -> Result<(), Refusal> {
        let source = self.resolve(copy, segment.source)?;
        let target = self.resolve(copy, segment.target)?;
        self.check_permits(&source, &target).await?;
        let from = open(&source, segment.source_lba, segment.blocks).await?;
        let to = open(&target, segment.target_lba, segment.blocks).await?;
        if target.write_protection().is_some() {
            return Err(aborted(code::COPY_TARGET_NOT_REACHABLE));
        }
        let backwards = Rc::ptr_eq(&source, &target)
            && from.1.offset < to.1.offset
            && to.1.offset < from.1.end();
        let mut done = 0;
        while done < from.1.len {
            let len = (from.1.len - done).min(PIECE_BYTES);
            let at = if backwards {
                from.1.len - done - len
            } else {
                done
            };
            let piece = |range: Range| Range {
                offset: range.offset + at,
                len,
            };
            let pieces = read(&source, &from.0, piece(from.1)).await?;
            write(&target, &to.0, piece(to.1), pieces).await?;
            done += len;
        }
        record.count(from.1.len);
        Ok(())
    }

    /// The unit that a CSCD descriptor names, of those of this target.
    fn resolve(&self, copy: &Copy, index: u16) -> Result<Rc<Unit<C>>, Refusal> {
        if index == THIS_UNIT {
            return Ok(Rc::clone(self.unit));
        }
        let named = copy.targets.get(usize::from(index));
        let units = self.target.units();
        let mut units = units.into_iter();
        let found = named.and_then(|named| units.find(|unit| is_named(unit.id(), named)));
        found.ok_or(aborted(code::COPY_TARGET_NOT_REACHABLE))
    }

    async fn check_permits(&self, source: &Unit<C>, target: &Unit<C>) -> Result<(), Refusal> {
        let reserved = [source, target].into_iter().any(|unit| {
            let holder = unit.reserved_by.get();
            holder.is_some_and(|holder| holder != self.nexus.id)
        });
        let may_read = source.permits(self.nexus).await?.read;
        let may_write = target.permits(self.nexus).await?.write;
        if reserved || !may_read || !may_write {
            return Err(Refusal::Conflict);
        }
        Ok(())
    }
}

fn is_named(id: u128, named: &Designator) -> bool {
    named.code_set == 1 && named.kind == 3 && named.bytes == vpd::naa(id)
}

fn aborted(code: Code) -> Refusal {
    Refusal::Check(Sense::new(Key::CopyAborted, code))
}

/// What goes wrong with a unit aborts the copy; that it is unavailable now may pass.
fn aborted_by(refusal: Refusal) -> Refusal {
    match refusal {
        Refusal::Check(sense) if sense.key != Key::NotReady => aborted(code::NONE),
        Refusal::Check(_) => aborted(code::COPY_TARGET_NOT_REACHABLE),
        other => other,
    }
}

async fn open<C: TargetCatalog>(
    unit: &Unit<C>,
    lba: u64,
    blocks: u64,
) -> Result<(C::Device, Range), Refusal> {
    let device = unit.device().await.map_err(aborted_by)?;
    let capacity = unit.blocks(&device.geometry());
    let range = range_of(lba, blocks, capacity).map_err(|_| aborted(code::NONE))?;
    Ok((device, range))
}

async fn read<C: TargetCatalog>(
    unit: &Unit<C>,
    device: &C::Device,
    range: Range,
) -> Result<Vec<SharedBuffer>, Refusal> {
    let _shared = unit.locks.share(range.offset, range.end()).await;
    let len = u32::try_from(range.len).unwrap_or(u32::MAX);
    let read = device.read(range.offset, len).await;
    read.map_err(|error| aborted_by(unit.refusal_of(error, false)))
}

/// What is zeroes at the source takes no space at the target.
async fn write<C: TargetCatalog>(
    unit: &Unit<C>,
    device: &C::Device,
    range: Range,
    pieces: Vec<SharedBuffer>,
) -> Result<(), Refusal> {
    let _shared = unit.locks.share(range.offset, range.end()).await;
    let durability = if unit.mode.get().write_cache {
        ashlar_client::Durability::Accepted
    } else {
        ashlar_client::Durability::Durable
    };
    let mut bytes = pieces.iter().flat_map(|piece| piece.iter());
    let written = if bytes.all(|&byte| byte == 0) {
        let (offset, len) = (range.offset, range.len);
        device
            .write_zeroes(offset, len, ZeroMode::Unmap, durability)
            .await
    } else {
        let buffer = gather(&unit.reactor, pieces);
        device.write(range.offset, buffer, durability).await
    };
    written.map_err(|error| aborted_by(unit.refusal_of(error, true)))
}

/// One buffer of them all: the one there is, where it can be had without a copy.
fn gather(reactor: &Reactor, mut pieces: Vec<SharedBuffer>) -> Buffer {
    if let [_] = &pieces[..]
        && let Some(piece) = pieces.pop()
    {
        match piece.try_thaw() {
            Ok(buffer) => return buffer,
            Err(piece) => pieces.push(piece),
        }
    }
    let mut buffer = reactor.buffer(pieces.iter().map(|piece| piece.len()).sum());
    let mut at = 0;
    for piece in &pieces {
        buffer[at..at + piece.len()].copy_from_slice(piece);
        at += piece.len();
    }
    buffer
}

/// The result of an operation, which is kept when it ends or is dropped.
struct Record<'a, C: TargetCatalog> {
    unit: &'a Unit<C>,
    nexus: NexusId,
    list: Option<u8>,
    progress: Progress,
}

impl<C: TargetCatalog> Record<'_, C> {
    fn count(&self, bytes: u64) {
        let mut copies = self.unit.copies.borrow_mut();
        let kept = self.list.and_then(|list| copies.find(self.nexus, list));
        if let Some(kept) = kept {
            kept.segments = kept.segments.saturating_add(1);
            kept.bytes = kept.bytes.saturating_add(bytes);
        }
    }
}

impl<C: TargetCatalog> Drop for Record<'_, C> {
    fn drop(&mut self) {
        let mut copies = self.unit.copies.borrow_mut();
        let kept = self.list.and_then(|list| copies.find(self.nexus, list));
        if let Some(kept) = kept {
            kept.progress = self.progress;
        }
    }
}
