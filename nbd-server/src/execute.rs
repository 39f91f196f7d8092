//! Carries one checked request out on a device.

use crate::catalog::{ChangesError, ExportDevice};
use crate::contexts::{CONTEXTS_MAX, Context, ContextIds, Contexts};
use crate::reply::{Answer, ContextStatus, StatusExtent, refusal_of};
use crate::request::{Command, Refusal, RequestHeader};
use crate::wire::Errno;
use ashlar_proto::message::Extent;
use ashlar_reactor::Buffer;

/// Most extents of one reply, of all its contexts together; well below the 2^20 of one that the
/// specification has.
const EXTENTS_MAX: usize = 4096;

const _: () = assert!(EXTENTS_MAX / CONTEXTS_MAX > 0);

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

/// Carries `job` out, for a client that selected these contexts.
pub(crate) async fn execute<D: ExportDevice>(device: D, contexts: Contexts, job: Job) -> Finished {
    let Job {
        header,
        command,
        payload,
        cost,
    } = job;
    let answer = match command {
        Ok(command) => run(&device, &contexts, header.offset, command, payload).await,
        Err(refusal) => Err(refusal),
    };
    Finished {
        header,
        answer: answer.unwrap_or_else(Answer::Failed),
        cost,
    }
}

async fn run<D: ExportDevice>(
    device: &D,
    selected: &Contexts,
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
        Command::BlockStatus { len, contexts, one } => {
            let range = (offset, len.min(STATUS_BYTES_MAX));
            let told = status(device, selected, contexts, range, one).await?;
            Ok(Answer::Status(told))
        }
        Command::BlockStatusPayload { .. } => {
            unreachable!("its payload was read and checked before")
        }
    }
}

/// What the contexts of these ids tell of a range.
async fn status<D: ExportDevice>(
    device: &D,
    selected: &Contexts,
    ids: ContextIds,
    (offset, len): (u64, u64),
    one: bool,
) -> Result<Vec<ContextStatus>, Refusal> {
    let of_each = EXTENTS_MAX / selected.of(ids).count().max(1);
    let extents_max = if one { 1 } else { of_each };
    let block = u64::from(device.geometry().block_bytes_preferred).max(1);
    let mut told = Vec::with_capacity(CONTEXTS_MAX);
    for (id, context) in selected.of(ids) {
        let extents = match context {
            Context::Allocation => {
                let extents = device.extents(offset, len, extents_max).await;
                extents.map_err(ChangesError::Device)
            }
            Context::Bitmap(bitmap) => device.changes(bitmap, offset, len, extents_max).await,
        };
        let extents = extents.map_err(refusal_of_changes)?;
        let extents = states_of(context, &extents, (offset, len), block, one);
        told.push(ContextStatus { id, extents });
    }
    Ok(told)
}

fn refusal_of_changes(error: ChangesError) -> Refusal {
    match error {
        ChangesError::NoBitmap => Refusal {
            errno: Errno::Inval,
            reason: "what the changes would be told since is gone: copy all of the export",
        },
        ChangesError::Device(error) => refusal_of(error, Errno::Inval),
    }
}

/// The states of `len` bytes from `offset` on; extents begin at the block that holds `offset`.
fn states_of(
    context: &Context,
    extents: &[Extent],
    (offset, len): (u64, u64),
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
        let (len, state) = (stop - start, context.state(extent.kind));
        match states.last_mut() {
            Some(last) if last.state == state => last.len += len,
            _ => states.push(StatusExtent { len, state }),
        }
    }
    if one {
        states.truncate(1);
    }
    if states.is_empty() {
        let state = context.state_unknown();
        states.push(StatusExtent { len, state });
    }
    states
}

#[cfg(test)]
mod tests {
    use super::*;
    use ashlar_proto::BlockCount;
    use ashlar_proto::message::BlockKind;

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
        let tell = |context: &Context, (offset, len), one| -> Vec<(u64, u32)> {
            let states = states_of(context, &extents, (offset, len), 4096, one);
            states.iter().map(|told| (told.len, told.state)).collect()
        };
        let bitmap = Context::Bitmap("mon".into());
        let told = tell(&Context::Allocation, (512, 20_480), false);
        assert_eq!(told, [(3584, 0), (12_288, 3), (4608, 0)]);
        let told = tell(&bitmap, (512, 20_480), false);
        assert_eq!(told, [(3584, 1), (8192, 0), (8704, 1)]);
        assert_eq!(tell(&Context::Allocation, (512, 512), true), [(512, 0)]);
        assert_eq!(tell(&bitmap, (512, 20_480), true), [(3584, 1)]);
    }

    #[test]
    fn what_is_not_known_is_data_and_changed() {
        for (context, state) in [(Context::Allocation, 0), (Context::Bitmap("mon".into()), 1)] {
            let states = states_of(&context, &[], (0, 4096), 4096, false);
            assert_eq!(states, [StatusExtent { len: 4096, state }]);
        }
    }
}
