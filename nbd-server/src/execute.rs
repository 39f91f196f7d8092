//! Carries one checked request out on a device.

use crate::reply::{Answer, StatusExtent, refusal_of};
use crate::request::{Command, Refusal, RequestHeader};
use crate::wire::Errno;
use ashlar_client::BlockDevice;
use ashlar_proto::message::{BlockKind, Extent};
use ashlar_reactor::Buffer;

/// Most extents of one reply, well below the 2^20 of the specification.
const EXTENTS_MAX: usize = 4096;
/// Longest range that one block status request looks at: the client asks on from there.
const STATUS_BYTES_MAX: u64 = 64 << 30;

/// A request and what it needs to be carried out.
pub(crate) struct Job {
    pub(crate) header: RequestHeader,
    pub(crate) command: Result<Command, Refusal>,
    /// What a write writes.
    pub(crate) payload: Option<Buffer>,
    /// What it takes of the connection's bytes in flight.
    pub(crate) cost: u64,
}

/// A job and its outcome.
pub(crate) struct Finished {
    pub(crate) header: RequestHeader,
    pub(crate) answer: Answer,
    pub(crate) cost: u64,
}

/// Carries `job` out.
pub(crate) async fn execute<D: BlockDevice>(device: D, job: Job) -> Finished {
    let Job {
        header,
        command,
        payload,
        cost,
    } = job;
    let answer = match command {
        Ok(command) => run(&device, header.offset, command, payload).await,
        Err(refusal) => Err(refusal),
    };
    Finished {
        header,
        answer: answer.unwrap_or_else(Answer::Failed),
        cost,
    }
}

async fn run<D: BlockDevice>(
    device: &D,
    offset: u64,
    command: Command,
    payload: Option<Buffer>,
) -> Result<Answer, Refusal> {
    let read = |error| refusal_of(error, Errno::Inval);
    let write = |error| refusal_of(error, Errno::NoSpace);
    match command {
        Command::Read { len, fragment } => {
            let pieces = device.read(offset, len).await.map_err(read)?;
            Ok(Answer::Data { pieces, fragment })
        }
        Command::Write { durability, .. } => {
            let payload = payload.expect("a checked write has its payload");
            let written = device.write(offset, payload, durability).await;
            written.map(|()| Answer::Done).map_err(write)
        }
        Command::Flush => device.flush().await.map(|()| Answer::Done).map_err(read),
        Command::Trim { len, durability } => {
            let trimmed = device.trim(offset, len, durability).await;
            trimmed.map(|()| Answer::Done).map_err(read)
        }
        Command::WriteZeroes {
            len,
            mode,
            durability,
        } => {
            let zeroed = device.write_zeroes(offset, len, mode, durability).await;
            zeroed.map(|()| Answer::Done).map_err(write)
        }
        // A hint, and there is no cache to warm.
        Command::Cache => Ok(Answer::Done),
        Command::BlockStatus { len, one } => {
            let extents_max = if one { 1 } else { EXTENTS_MAX };
            let block = u64::from(device.geometry().block_bytes_preferred).max(1);
            let looked_at = len.min(STATUS_BYTES_MAX);
            let extents = device.extents(offset, looked_at, extents_max).await;
            let extents = extents.map_err(read)?;
            Ok(Answer::Status(states_of(
                &extents, offset, looked_at, block, one,
            )))
        }
        Command::BlockStatusPayload { .. } => {
            unreachable!("its payload was read and checked before")
        }
    }
}

/// The states of `len` bytes from `offset` on; extents begin at the block that holds `offset`.
fn states_of(
    extents: &[Extent],
    offset: u64,
    len: u64,
    block: u64,
    one: bool,
) -> Vec<StatusExtent> {
    let mut states: Vec<StatusExtent> = Vec::with_capacity(extents.len());
    let end = offset + len;
    let mut at = offset / block * block;
    for extent in extents {
        let next = at.saturating_add(u64::from(extent.count.get()).saturating_mul(block));
        let (start, stop) = (at.max(offset), next.min(end));
        at = next;
        if start >= stop {
            continue;
        }
        let state = match extent.kind {
            BlockKind::Absent | BlockKind::Zero => StatusExtent::hole(stop - start),
            BlockKind::Data => StatusExtent::data(stop - start),
        };
        match states.last_mut() {
            Some(last) if last.state == state.state => last.len += state.len,
            _ => states.push(state),
        }
    }
    if one {
        states.truncate(1);
    }
    if states.is_empty() {
        // No more is known than that it may be data: always right.
        states.push(StatusExtent::data(len));
    }
    states
}

#[cfg(test)]
mod tests {
    use super::*;
    use ashlar_proto::BlockCount;

    #[test]
    fn states_are_cut_to_the_range_and_joined() {
        let extent = |count, kind| Extent {
            count: BlockCount::new(count),
            kind,
        };
        let extents = [
            extent(1, BlockKind::Data),
            extent(2, BlockKind::Absent),
            extent(1, BlockKind::Zero),
            extent(4, BlockKind::Data),
        ];
        let states = states_of(&extents, 512, 20_480, 4096, false);
        assert_eq!(
            states,
            [
                StatusExtent::data(3584),
                StatusExtent::hole(12_288),
                StatusExtent::data(4608)
            ]
        );
        let one = states_of(&extents, 512, 512, 4096, true);
        assert_eq!(one, [StatusExtent::data(512)]);
        assert_eq!(
            states_of(&[], 0, 4096, 4096, false),
            [StatusExtent::data(4096)]
        );
    }
}
