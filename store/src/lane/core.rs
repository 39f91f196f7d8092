//! The heart that all parts of a lane share: its device, its memory, its events.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use ashlar_proto::limits::BLOCK_BYTES_U64;
use ashlar_proto::planted::{Planted as Rule, is_planted};
use ashlar_proto::{BLOCK_BYTES, LaneIndex};
use ashlar_reactor::{Buffer, Disk, Reactor, SharedBuffer};

use crate::disk::layout::LaneLayout;
use crate::lane::error::LaneError;
use crate::lane::options::LaneOptions;
use crate::lane::pace::Pace;
use crate::lane::planted::{Bug, Planted};
use crate::lane::signal::{Event, Turnstile};
use crate::lane::state::State;

/// What wakes the parts of a lane.
#[derive(Debug, Default)]
pub(crate) struct Events {
    /// A stream waits for a segment.
    pub(crate) segment_wanted: Event,
    /// A segment can be taken.
    pub(crate) segment_ready: Event,
    /// A checkpoint is wanted.
    pub(crate) checkpoint_wanted: Event,
    /// A checkpoint ended.
    pub(crate) checkpoint_ended: Event,
    /// Deltas are to be folded.
    pub(crate) sweep_wanted: Event,
    /// Deltas were folded.
    pub(crate) sweep_ended: Event,
    /// The lane is above its soft mark, by its count.
    pub(crate) relief_wanted: Event,
    /// Segments are short.
    pub(crate) collect_wanted: Event,
    /// A shard or a label died.
    pub(crate) purge_wanted: Event,
    /// A batch completed.
    pub(crate) completed: Event,
    /// A flush ended.
    pub(crate) flushed: Event,
}

/// Flushes that callers share.
#[derive(Debug, Default)]
pub(crate) struct FlushTurns {
    pub(crate) running: Cell<bool>,
    pub(crate) started: Cell<u64>,
    pub(crate) finished: Cell<u64>,
}

/// One lane.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) index: LaneIndex,
    pub(crate) reactor: Reactor,
    pub(crate) disk: Disk,
    pub(crate) layout: LaneLayout,
    pub(crate) options: LaneOptions,
    pub(crate) planted: Planted,
    pub(crate) volatile: bool,
    /// Freed segments are discarded (block devices), or files filled with zeroes once.
    pub(crate) is_file: bool,
    pub(crate) state: RefCell<State>,
    pub(crate) pace: Pace,
    pub(crate) events: Events,
    pub(crate) flushes: FlushTurns,
    /// One checkpoint at a time.
    pub(crate) checkpoints: Turnstile,
    /// Everything up to this LSN is to be folded, as soon as it can be.
    pub(crate) fold_through: Cell<u64>,
    /// Checkpoints asked for.
    pub(crate) checkpoints_asked: Cell<u64>,
    /// The last checkpoint has been taken: no segment is opened any more.
    pub(crate) stopped: Cell<bool>,
}

/// A shared lane.
pub(crate) type CoreRc = Rc<Core>;

impl Core {
    /// Reads blocks; `None` when the device fails.
    pub(crate) async fn read_blocks(&self, address: u64, blocks: usize) -> Option<Buffer> {
        let buffer = self.reactor.buffer(blocks * BLOCK_BYTES);
        let timed = self.pace.begin(&self.reactor);
        let (buffer, result) = self.disk.read(address * BLOCK_BYTES_U64, buffer).await;
        drop(timed);
        match result {
            Ok(()) => Some(buffer),
            Err(error) => {
                tracing::warn!(lane = %self.index, %error, "the device failed a read");
                self.state.borrow_mut().stats.read_errors += 1;
                None
            }
        }
    }

    /// Writes blocks outside the log's batches.
    pub(crate) async fn write_blocks(
        &self,
        address: u64,
        data: Vec<SharedBuffer>,
    ) -> Result<(), LaneError> {
        let bytes: usize = data.iter().map(|piece| piece.len()).sum();
        self.state.borrow_mut().stats.blocks_logged += (bytes / BLOCK_BYTES) as u64;
        let timed = self.pace.begin(&self.reactor);
        let written = self.disk.write(address * BLOCK_BYTES_U64, data).await;
        drop(timed);
        written.map_err(|error| self.write_failed(&error))
    }

    pub(crate) fn write_failed(&self, error: &dyn std::fmt::Display) -> LaneError {
        tracing::error!(lane = %self.index, %error, "the device failed a write");
        self.state.borrow_mut().stats.write_errors += 1;
        LaneError::Device
    }

    /// A buffer with these bytes, padded to whole blocks.
    pub(crate) fn buffer_of(&self, bytes: &[u8]) -> SharedBuffer {
        let mut buffer = self
            .reactor
            .buffer(bytes.len().next_multiple_of(BLOCK_BYTES));
        buffer[..bytes.len()].copy_from_slice(bytes);
        buffer[bytes.len()..].fill(0);
        buffer.freeze()
    }

    /// Everything that completed before the call is durable when it returns.
    pub(crate) async fn flush(self: &CoreRc) -> Result<(), LaneError> {
        if !self.volatile {
            return Ok(());
        }
        // A flush that is under way was issued before this call: it does not count.
        let wanted = self.flushes.started.get() + 1;
        while self.flushes.finished.get() < wanted {
            let mark = self.events.flushed.mark();
            if !self.flushes.running.get() {
                self.start_flush();
            }
            self.events.flushed.after(mark).await;
        }
        if self.state.borrow().flush_failed {
            return Err(LaneError::Device);
        }
        Ok(())
    }

    /// Runs as a task of its own: a caller that gives up must not take it along.
    fn start_flush(self: &CoreRc) {
        self.flushes.running.set(true);
        self.flushes.started.set(self.flushes.started.get() + 1);
        let through = self.state.borrow().lsns.done_through();
        #[cfg(test)]
        let above = self.state.borrow().lsns.done_above();
        let core = self.clone();
        drop(self.reactor.spawn(async move {
            let result = if is_planted(Rule::FlushNothing) {
                Ok(())
            } else {
                let _timed = core.pace.begin(&core.reactor);
                core.disk.flush().await
            };
            {
                let mut state = core.state.borrow_mut();
                #[cfg(test)]
                state.lsns.flushed.extend(above);
                match result {
                    Ok(()) if !state.flush_failed => state.lsns.flushed_through(through),
                    Ok(()) => {}
                    Err(error) => {
                        tracing::error!(lane = %core.index, %error, "the device failed a flush");
                        state.stats.write_errors += 1;
                        state.flush_failed = true;
                    }
                }
            }
            core.flushes.running.set(false);
            core.flushes.finished.set(core.flushes.started.get());
            core.events.flushed.raise();
        }));
    }

    /// Asks the checkpoint task for one that begins after this call.
    pub(crate) fn ask_checkpoint(&self) {
        self.checkpoints_asked.set(self.checkpoints_asked.get() + 1);
        self.events.checkpoint_wanted.raise();
    }

    /// Takes some time, as a slow device or a busy thread would.
    #[cfg(test)]
    pub(crate) async fn pause(&self, most: std::time::Duration) {
        let most = u64::try_from(most.as_nanos()).unwrap_or(0);
        if most > 0 {
            let pause = std::time::Duration::from_nanos(self.reactor.random_u64() % most);
            self.reactor.sleep(pause).await;
        }
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.state.borrow().closing
    }

    pub(crate) fn has_bug(&self, bug: Bug) -> bool {
        self.planted.has(bug)
    }

    /// Blocks of log between two checkpoints.
    pub(crate) fn checkpoint_blocks(&self) -> u64 {
        let by_size = (self.disk.geometry().size_bytes / 4096).max(256 << 20);
        let bytes = self.options.checkpoint_bytes.unwrap_or(by_size);
        bytes.min(self.layout.lane_bytes / 8).max(1 << 16) / BLOCK_BYTES_U64
    }

    /// Blocks of log after which a delta is folded: the part of a lane that recovery replays.
    pub(crate) fn window_blocks(&self) -> u64 {
        let most = 128u64 << 30;
        (self.layout.lane_bytes / 32).min(most).max(1 << 18) / BLOCK_BYTES_U64
    }
}
