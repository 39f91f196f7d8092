//! SANITIZE (SBC-3 sections 4.11 and 5.26): the whole medium is erased, or overwritten.
//!
//! An operation that has begun goes on to its end, whatever becomes of its task or its nexus, and
//! keeps other commands out meanwhile.

use super::cdb::{Blocks, SanitizeKind};
use super::execute::{Call, Done, Given};
use super::fields::u16_at;
use super::io::Range;
use super::provisioning::fill;
use super::sense::{Refusal, Sense, code};
use super::target::Answer;
use super::unit::Unit;
use crate::catalog::TargetCatalog;
use ashlar_client::{BlockDevice, BlockError, Durability, ZeroMode};
use std::rc::Rc;
use tracing::warn;

/// Bytes after which the progress is told anew.
const STEP_BYTES: u64 = 64 << 20;

/// What an overwrite writes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Overwrite {
    /// A logical block of the pattern.
    block: Vec<u8>,
    passes: u8,
    /// Whether the pattern is inverted from pass to pass.
    invert: bool,
}

impl<C: TargetCatalog> Call<'_, C> {
    pub(super) async fn sanitize(&self, kind: SanitizeKind, immediate: bool, list: Given) -> Done {
        let start = Blocks { lba: 0, count: 0 };
        let overwrite = match kind {
            SanitizeKind::ExitFailureMode => return Ok(Answer::default()),
            SanitizeKind::BlockErase => None,
            SanitizeKind::Overwrite { .. } => Some(parse(&list?)?),
        };
        let (device, _) = self.media_to_write(start).await?;
        let size = device.geometry().size_bytes;
        self.unit.sanitizing.set(Some(0));
        let unit = Rc::clone(self.unit);
        let task = self.target.reactor.spawn(async move {
            let _done = Sanitizing(&unit);
            let _alone = unit.locks.alone(0, size).await;
            let done = match &overwrite {
                None => erase(&device, size).await,
                Some(overwrite) => self::overwrite(&unit, &device, size, overwrite).await,
            };
            done.map_err(|error| {
                warn!(volume = %unit.info().volume, %error, "sanitize failed");
                unit.refusal_of(error, true)
            })
        });
        if !immediate {
            let done: Result<(), Refusal> = task.await;
            done?;
        }
        Ok(Answer::default())
    }
}

struct Sanitizing<'a, C: TargetCatalog>(&'a Unit<C>);

impl<C: TargetCatalog> Drop for Sanitizing<'_, C> {
    fn drop(&mut self) {
        self.0.sanitizing.set(None);
    }
}

async fn erase<D: BlockDevice>(device: &D, size: u64) -> Result<(), BlockError> {
    let (mode, durability) = (ZeroMode::Unmap, Durability::Durable);
    device.write_zeroes(0, size, mode, durability).await
}

async fn overwrite<C: TargetCatalog>(
    unit: &Unit<C>,
    device: &C::Device,
    size: u64,
    asked: &Overwrite,
) -> Result<(), BlockError> {
    let total = size * u64::from(asked.passes);
    let mut block = asked.block.clone();
    for pass in 0..asked.passes {
        let mut offset = 0;
        while offset < size {
            let len = (size - offset).min(STEP_BYTES);
            let range = Range { offset, len };
            fill(&unit.reactor, device, range, &block, Durability::Accepted).await?;
            offset += len;
            let done = u128::from(size * u64::from(pass) + offset) << 16;
            let part = u16::try_from(done / u128::from(total)).unwrap_or(u16::MAX);
            unit.sanitizing.set(Some(part));
        }
        if asked.invert {
            block.iter_mut().for_each(|byte| *byte = !*byte);
        }
    }
    device.flush().await
}

/// The overwrite parameter list (SBC-3 table 94); its length was checked with the CDB.
fn parse(list: &[u8]) -> Result<Overwrite, Sense> {
    let passes = super::fields::byte_at(list, 0) & 0x1f;
    let len = usize::from(u16_at(list, 2));
    if passes == 0 {
        return Err(Sense::list(0));
    }
    if len == 0 || len > 512 || list.len() < 4 {
        return Err(Sense::list(2));
    }
    let Some(pattern) = list.get(4..4 + len) else {
        return Err(Sense::illegal(code::INVALID_FIELD_IN_LIST));
    };
    Ok(Overwrite {
        block: pattern.iter().copied().cycle().take(512).collect(),
        passes,
        invert: list[0] & 0x80 != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_repeated_to_a_block() {
        let asked = parse(&[0x82, 0, 0, 3, 1, 2, 3]).unwrap();
        assert_eq!(asked.block.len(), 512);
        assert_eq!(asked.block[..7], [1, 2, 3, 1, 2, 3, 1]);
        assert!(asked.invert && asked.passes == 2);
    }

    #[test]
    fn wrong_lists_are_refused() {
        assert_eq!(parse(&[0, 0, 0, 1, 1]), Err(Sense::list(0)));
        assert_eq!(parse(&[1, 0, 0, 0, 1]), Err(Sense::list(2)));
        assert_eq!(parse(&[1, 0, 2, 1, 1]), Err(Sense::list(2)));
        assert!(parse(&[1, 0, 0, 9, 1]).is_err());
        assert!(parse(&[]).is_err());
    }
}
