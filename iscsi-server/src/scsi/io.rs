//! Reading, writing and verifying blocks (SBC-3 sections 5.8 to 5.11, 5.20 to 5.40).

use super::capacity::BLOCK_BYTES;
use super::cdb::{Blocks, ByteCheck};
use super::execute::{Call, Done, Given};
use super::sense::{Refusal, Sense, code};
use super::target::Answer;
use crate::catalog::TargetCatalog;
use ashlar_client::{BlockDevice, Durability};
use ashlar_reactor::SharedBuffer;
use std::rc::Rc;
use tracing::warn;

/// Bytes that are compared at a time.
const COMPARE_BYTES: u32 = 1 << 20;

/// Where blocks are, in bytes of the device; they are within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) offset: u64,
    pub(super) len: u64,
}

impl Range {
    pub(super) fn end(self) -> u64 {
        self.offset + self.len
    }
}

impl<C: TargetCatalog> Call<'_, C> {
    /// The device, and where on it the blocks are.
    pub(super) async fn media(&self, blocks: Blocks) -> Result<(C::Device, Range), Refusal> {
        let device = self.unit.device().await?;
        let capacity = self.unit.blocks(&device.geometry());
        let range = range_of(blocks.lba, blocks.count.into(), capacity)?;
        Ok((device, range))
    }

    /// As [`Call::media`], to write there.
    pub(super) async fn media_to_write(
        &self,
        blocks: Blocks,
    ) -> Result<(C::Device, Range), Refusal> {
        let device = self.unit.device().await?;
        if let Some(protected) = self.unit.write_protection() {
            return Err(protected.into());
        }
        let capacity = self.unit.blocks(&device.geometry());
        let range = range_of(blocks.lba, blocks.count.into(), capacity)?;
        Ok((device, range))
    }

    /// Whether a write is to be durable: asked for, or there is no cache.
    pub(super) fn durability(&self, durable: bool) -> Durability {
        if durable || !self.unit.mode.get().write_cache {
            Durability::Durable
        } else {
            Durability::Accepted
        }
    }

    pub(super) async fn read(&self, blocks: Blocks) -> Done {
        let (device, range) = self.media(blocks).await?;
        if range.len == 0 {
            return Ok(Answer::default());
        }
        let _shared = self.unit.locks.share(range.offset, range.end()).await;
        let data_in = self.read_range(&device, range).await?;
        Ok(Answer {
            data_in,
            ..Answer::default()
        })
    }

    async fn read_range(
        &self,
        device: &C::Device,
        range: Range,
    ) -> Result<Vec<SharedBuffer>, Refusal> {
        let len = u32::try_from(range.len).map_err(|_| Sense::illegal(code::OUT_OF_RANGE))?;
        let read = device.read(range.offset, len).await;
        read.map_err(|error| self.unit.refusal_of(error, false))
    }

    pub(super) async fn write(&self, blocks: Blocks, durable: bool, data: Given) -> Done {
        let (device, range) = self.media_to_write(blocks).await?;
        if let Some(buffer) = data?.into_buffer() {
            let _shared = self.unit.locks.share(range.offset, range.end()).await;
            let durability = self.durability(durable);
            let written = device.write(range.offset, buffer, durability).await;
            written.map_err(|error| self.unit.refusal_of(error, true))?;
        }
        Ok(Answer::default())
    }

    /// What is verified is what was written: it is read back before others may write there.
    pub(super) async fn write_and_verify(
        &self,
        blocks: Blocks,
        check: ByteCheck,
        data: Given,
    ) -> Done {
        let (device, mut range) = self.media_to_write(blocks).await?;
        let Some(buffer) = data?.into_buffer() else {
            return Ok(Answer::default());
        };
        range.len = buffer.len() as u64;
        let _alone = self.unit.locks.alone(range.offset, range.end()).await;
        let mut copy = self.target.reactor.buffer(buffer.len());
        copy.copy_from_slice(&buffer);
        let written = device
            .write(range.offset, buffer, Durability::Durable)
            .await;
        written.map_err(|error| self.unit.refusal_of(error, true))?;
        self.compare(&device, range, check, &copy).await?;
        Ok(Answer::default())
    }

    pub(super) async fn verify(&self, blocks: Blocks, check: ByteCheck, data: Given) -> Done {
        let (device, range) = self.media(blocks).await?;
        let data = data?;
        let _shared = self.unit.locks.share(range.offset, range.end()).await;
        self.compare(&device, range, check, &data).await?;
        Ok(Answer::default())
    }

    /// Reads a range, and compares it as `check` says.
    async fn compare(
        &self,
        device: &C::Device,
        range: Range,
        check: ByteCheck,
        data: &[u8],
    ) -> Result<(), Refusal> {
        let mut done = 0;
        while done < range.len {
            let len = (range.len - done).min(COMPARE_BYTES.into());
            let offset = range.offset + done;
            let pieces = self.read_range(device, Range { offset, len }).await?;
            let start = usize::try_from(done).unwrap_or(usize::MAX);
            let differs = match check {
                ByteCheck::Medium => None,
                ByteCheck::Data => first_difference(&pieces, data.get(start..).unwrap_or_default()),
                ByteCheck::OneBlock => first_unlike(&pieces, data),
            };
            if let Some(at) = differs {
                return Err(Sense::miscompare(done + at).into());
            }
            done += len;
        }
        Ok(())
    }

    /// There is no cache to read into: GOOD says that not all of it fits (SBC-3 section 5.8).
    pub(super) async fn pre_fetch(&self, blocks: Blocks) -> Done {
        self.media(blocks).await?;
        Ok(Answer::default())
    }

    /// Everything is flushed, whatever the range.
    pub(super) async fn synchronize(&self, blocks: Blocks, immediate: bool) -> Done {
        let (device, _) = self.media(blocks).await?;
        if immediate {
            let unit = Rc::clone(self.unit);
            let flush = async move {
                if let Err(error) = device.flush().await {
                    warn!(volume = %unit.info().volume, %error, "flush failed after its status");
                }
            };
            drop(self.target.reactor.spawn(flush));
            return Ok(Answer::default());
        }
        self.flush(&device).await
    }

    async fn flush(&self, device: &C::Device) -> Done {
        let flushed = device.flush().await;
        flushed.map_err(|error| self.unit.refusal_of(error, true))?;
        Ok(Answer::default())
    }

    /// A unit that several hosts share is not stopped for one of them; its cache is flushed.
    pub(super) async fn start_stop(&self, start: bool, no_flush: bool) -> Done {
        let device = self.unit.device().await?;
        if start || no_flush {
            return Ok(Answer::default());
        }
        self.flush(&device).await
    }
}

/// Blocks of a device of this capacity, in bytes.
pub(super) fn range_of(lba: u64, count: u64, capacity: u64) -> Result<Range, Sense> {
    if lba > capacity || count > capacity - lba {
        return Err(Sense::illegal(code::OUT_OF_RANGE));
    }
    Ok(Range {
        offset: lba * BLOCK_BYTES,
        len: count * BLOCK_BYTES,
    })
}

/// Where the pieces first differ from as many bytes of `data`.
pub(super) fn first_difference(pieces: &[SharedBuffer], data: &[u8]) -> Option<u64> {
    let mut done = 0;
    for piece in pieces {
        let expected = data.get(done..).unwrap_or_default();
        let same = piece.len() <= expected.len() && piece[..] == expected[..piece.len()];
        if !same {
            let mut pairs = piece.iter().zip(expected);
            let at = pairs.position(|(one, other)| one != other);
            return Some((done + at.unwrap_or(expected.len())) as u64);
        }
        done += piece.len();
    }
    None
}

/// Where the pieces first differ from `block`, over and over.
fn first_unlike(pieces: &[SharedBuffer], block: &[u8]) -> Option<u64> {
    let bytes = pieces.iter().flat_map(|piece| piece.iter());
    let mut pairs = bytes.zip(block.iter().cycle());
    let at = pairs.position(|(one, other)| one != other);
    at.map(|at| at as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_within_the_capacity() {
        let range = range_of(2, 3, 5).unwrap();
        assert_eq!((range.offset, range.len), (1024, 1536));
        assert!(range_of(5, 0, 5).is_ok());
        assert!(range_of(6, 0, 5).is_err());
        assert!(range_of(2, 4, 5).is_err());
        assert!(range_of(u64::MAX, u64::MAX, 5).is_err());
    }
}
