//! Commands that read, decide and write back as one: COMPARE AND WRITE and ORWRITE (SBC-3 sections
//! 5.2 and 5.7).
//!
//! Each is alone on its blocks among all commands of this process, and runs to its end even where
//! its task is aborted: no other command sees it half done.

use super::cdb::Blocks;
use super::execute::{Call, Done, Given};
use super::io::{Range, first_difference};
use super::sense::{Refusal, Sense, code};
use super::target::Answer;
use super::unit::Unit;
use crate::catalog::TargetCatalog;
use ashlar_client::{BlockDevice, Durability};
use ashlar_reactor::{Buffer, SharedBuffer};
use std::rc::Rc;

impl<C: TargetCatalog> Call<'_, C> {
    pub(super) async fn compare_and_write(
        &self,
        blocks: Blocks,
        durable: bool,
        data: Given,
    ) -> Done {
        let (device, range) = self.media_to_write(blocks).await?;
        let data = data?;
        if range.len == 0 {
            return Ok(Answer::default());
        }
        let half = data.len() / 2;
        let mut new = self.target.reactor.buffer(half);
        new.copy_from_slice(&data[half..]);
        let alone = self.unit.locks.alone(range.offset, range.end()).await;
        let durability = self.durability(durable);
        let unit = Rc::clone(self.unit);
        let task = self.target.reactor.spawn(async move {
            let _alone = alone;
            let pieces = read(&unit, &device, range).await?;
            if let Some(at) = first_difference(&pieces, &data[..half]) {
                return Err(Sense::miscompare(at).into());
            }
            write(&unit, &device, range, new, durability).await
        });
        task.await
    }

    pub(super) async fn or_write(&self, blocks: Blocks, durable: bool, data: Given) -> Done {
        let (device, range) = self.media_to_write(blocks).await?;
        let Some(mut buffer) = data?.into_buffer() else {
            return Ok(Answer::default());
        };
        let alone = self.unit.locks.alone(range.offset, range.end()).await;
        let durability = self.durability(durable);
        let unit = Rc::clone(self.unit);
        let task = self.target.reactor.spawn(async move {
            let _alone = alone;
            let pieces = read(&unit, &device, range).await?;
            let held = pieces.iter().flat_map(|piece| piece.iter());
            for (new, held) in buffer.iter_mut().zip(held) {
                *new |= held;
            }
            write(&unit, &device, range, buffer, durability).await
        });
        task.await
    }
}

async fn read<C: TargetCatalog>(
    unit: &Unit<C>,
    device: &C::Device,
    range: Range,
) -> Result<Vec<SharedBuffer>, Refusal> {
    let len = u32::try_from(range.len).map_err(|_| Sense::illegal(code::OUT_OF_RANGE))?;
    let read = device.read(range.offset, len).await;
    read.map_err(|error| unit.refusal_of(error, false))
}

async fn write<C: TargetCatalog>(
    unit: &Unit<C>,
    device: &C::Device,
    range: Range,
    buffer: Buffer,
    durability: Durability,
) -> Done {
    let written = device.write(range.offset, buffer, durability).await;
    written.map_err(|error| unit.refusal_of(error, true))?;
    Ok(Answer::default())
}
