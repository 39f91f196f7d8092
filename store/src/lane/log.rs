//! The log: group commit. A write that finds few batches in flight goes at once; the others form
//! the next batch.

use std::rc::Rc;

use ashlar_proto::limits::BLOCK_BYTES_U64;
use ashlar_proto::{BLOCK_BYTES, RoomHint};

use crate::lane::batch::Batch;
use crate::lane::core::{Core, CoreRc};
use crate::lane::error::LaneError;
use crate::lane::planted::Bug;
use crate::lane::segment::{SegmentHeader, SegmentState};
use crate::lane::signal::{Reply, Waiter};
use crate::lane::stream::{Building, Built, Item, OpenSegment, Stream};
use crate::lane::summary;

/// Segments that are prepared ahead of use.
const READY_AHEAD: usize = 2;
/// Bytes that one write of zeroes fills.
const FILL_BYTES: usize = 1 << 20;

impl Core {
    /// Queues an item and submits what can be submitted.
    pub(crate) fn enqueue(self: &CoreRc, stream: Stream, items: impl IntoIterator<Item = Item>) {
        self.state.borrow_mut().queues[stream.index()].extend(items);
        self.pump(stream);
    }

    /// Queues something that goes before data: a trim, a record, a table.
    pub(crate) fn enqueue_urgent(self: &CoreRc, item: Item) {
        self.state.borrow_mut().urgent[Stream::Fresh.index()].push_back(item);
        self.pump(Stream::Fresh);
    }

    /// Queues the root pages of a checkpoint in front of all leaves.
    pub(crate) fn enqueue_roots(self: &CoreRc, items: Vec<Item>) {
        let mut state = self.state.borrow_mut();
        let urgent = &mut state.urgent[Stream::Map.index()];
        for item in items.into_iter().rev() {
            urgent.push_front(item);
        }
        drop(state);
        self.pump(Stream::Map);
    }

    /// Logs one item and waits until it has completed.
    pub(crate) async fn log_urgent(
        self: &CoreRc,
        make: impl FnOnce(Reply) -> Item,
    ) -> Result<(), LaneError> {
        let (reply, waiter): (Reply, Waiter) = Reply::new();
        self.enqueue_urgent(make(reply));
        waiter.wait().await
    }

    /// Submits batches of a stream while few enough are in flight.
    pub(crate) fn pump(self: &CoreRc, stream: Stream) {
        loop {
            let mut sealed = Vec::new();
            let (building, opened) = {
                let mut state = self.state.borrow_mut();
                if state.in_flight[stream.index()] >= self.options.batches_in_flight {
                    return;
                }
                let ready = state.segments.ready.len();
                let building = state.build(stream, &mut sealed);
                (building, state.segments.ready.len() < ready)
            };
            if opened {
                // The next one is prepared before it is needed.
                self.events.segment_wanted.raise();
            }
            for segment in sealed {
                self.finish_segment(segment);
            }
            match building {
                Building::Built(built) => self.submit(built),
                Building::NoSegment => {
                    self.ask_for_names();
                    self.events.segment_wanted.raise();
                    self.events.collect_wanted.raise();
                    return;
                }
                Building::Empty => return,
            }
        }
    }

    /// Submits for every stream: a segment has become ready.
    pub(crate) fn pump_all(self: &CoreRc) {
        for stream in [Stream::Map, Stream::Moves, Stream::Fresh] {
            self.pump(stream);
        }
    }

    fn submit(self: &CoreRc, mut built: Built) {
        let blocks = built.batch.header_blocks();
        let mut header = self.reactor.buffer(blocks * BLOCK_BYTES);
        built.batch.encode(&mut header);
        let mut data = vec![header.freeze()];
        data.append(&mut built.data);
        {
            let mut state = self.state.borrow_mut();
            state.stats.batches += 1;
            state.stats.blocks_logged += u64::from(built.batch.total_blocks());
            if state.log_blocks - state.checkpoint_at >= self.checkpoint_blocks() {
                state.checkpoint_at = state.log_blocks;
                drop(state);
                self.ask_checkpoint();
            }
        }
        let core = self.clone();
        drop(self.reactor.spawn(async move {
            let offset = built.batch.address * BLOCK_BYTES_U64;
            let timed = core.pace.begin(&core.reactor);
            let result = core.disk.write(offset, data).await;
            drop(timed);
            let result = result.map_err(|error| core.write_failed(&error));
            core.completed(built, result);
        }));
    }

    /// A batch has completed, in whatever order.
    fn completed(self: &CoreRc, built: Built, result: Result<(), LaneError>) {
        {
            let mut state = self.state.borrow_mut();
            let state = &mut *state;
            state.in_flight[built.stream.index()] -= 1;
            for &(handle, blocks) in &built.admitted {
                state.admission_over(handle, blocks);
            }
            state.segments.row_mut(built.segment).writes -= 1;
            match result {
                Ok(()) => {
                    state.lsns.complete(built.batch.lsn);
                    if !self.volatile {
                        let through = state.lsns.done_through();
                        state.lsns.flushed_through(through);
                    }
                    state.apply(&built.batch, built.moved, false, self.planted);
                    if state.room() >= RoomHint::Soft {
                        self.events.relief_wanted.raise();
                    }
                }
                Err(_) => state.lsns.fail(built.batch.lsn),
            }
        }
        for reply in built.replies {
            reply.finish(result);
        }
        if result.is_err() {
            self.give_up_segment(built.stream, built.segment);
            self.ask_checkpoint();
        }
        self.events.completed.raise();
        if self.is_sweep_due() {
            self.events.sweep_wanted.raise();
        }
        self.pump(built.stream);
    }

    /// A write to it failed: nothing more is written there.
    fn give_up_segment(self: &CoreRc, stream: Stream, segment: u32) {
        let mut state = self.state.borrow_mut();
        let current = state.streams[stream.index()]
            .as_ref()
            .map(|open| open.index);
        if current == Some(segment) {
            // No summary: what lies there is found by a scan or not at all.
            drop(state.seal_stream(stream));
        }
    }

    /// Writes the summary of a sealed segment when its batches have completed.
    pub(crate) fn finish_segment(self: &CoreRc, open: OpenSegment) {
        // A segment further on, something may have aged out of the sweep's window.
        self.events.sweep_wanted.raise();
        if !open.wants_summary() {
            return;
        }
        let core = self.clone();
        drop(self.reactor.spawn(async move {
            while core.state.borrow().segments.row(open.index).writes > 0 {
                let mark = core.events.completed.mark();
                core.events.completed.after(mark).await;
            }
            core.write_summary(&open).await;
        }));
    }

    async fn write_summary(self: &CoreRc, open: &OpenSegment) {
        let start = self.layout.segment_address(open.index);
        let (nonce, order) = {
            let mut state = self.state.borrow_mut();
            let row = state.segments.row_mut(open.index);
            row.writes += 1;
            (row.nonce, row.order)
        };
        let batches: Vec<Batch> = open.batches.iter().map(|b| Batch::clone(b)).collect();
        let bytes = summary::encode(nonce, start, &batches);
        let blocks = (bytes.len() / BLOCK_BYTES) as u64;
        let address = start + u64::from(self.layout.segment_blocks) - blocks;
        // Without its summary a segment is scanned: an error costs nothing but time.
        let result = self
            .write_blocks(address, vec![self.buffer_of(&bytes)])
            .await;
        let mut state = self.state.borrow_mut();
        let row = state.segments.row_mut(open.index);
        assert_eq!(row.order, order, "a segment waits for its summary");
        row.writes -= 1;
        row.summarised = result.is_ok();
        drop(state);
        if result.is_ok() {
            self.events.collect_wanted.raise();
        }
    }

    /// Keeps a few segments open ahead of use, for as long as the lane runs.
    pub(crate) async fn run_opener(self: Rc<Self>) {
        loop {
            let mark = self.events.segment_wanted.mark();
            let checkpoint = self.events.checkpoint_ended.mark();
            if self.stopped.get() {
                return;
            }
            let taken = {
                let mut state = self.state.borrow_mut();
                if state.segments.ready.len() >= READY_AHEAD {
                    None
                } else {
                    let taken = state.segments.take_named();
                    drop(state);
                    if taken.is_none() {
                        self.ask_for_names();
                    }
                    taken
                }
            };
            let Some(segment) = taken else {
                let wanted = self.events.segment_wanted.after(mark);
                let named = self.events.checkpoint_ended.after(checkpoint);
                ashlar_reactor::future::race(wanted, named).await;
                continue;
            };
            self.open_segment(segment).await;
        }
    }

    /// Most that the durable slot names are open: the next one names more, if any are free.
    fn ask_for_names(&self) {
        // A checkpoint that runs looks again when it ends.
        if self.checkpoints.is_held() {
            return;
        }
        let starved = {
            let state = self.state.borrow();
            state.is_short_of_names() && state.segments.slots_bring_more()
        };
        if starved {
            self.ask_checkpoint();
        }
    }

    /// Prepares a segment: zeroes once in a file, then its header, completed before any batch.
    async fn open_segment(self: &CoreRc, segment: u32) {
        let start = self.layout.segment_address(segment);
        let header = {
            let mut state = self.state.borrow_mut();
            let order = state.segments.next_order;
            state.segments.next_order += 1;
            let nonce = if self.has_bug(Bug::NoNonce) {
                7
            } else {
                self.reactor.random_u64() | 1
            };
            let next_lsn = state.lsns.next();
            let row = state.segments.row_mut(segment);
            row.end_life(next_lsn);
            row.state = SegmentState::Open;
            row.order = order;
            row.nonce = nonce;
            row.lsn_max = ashlar_proto::Lsn::new(0);
            row.summarised = false;
            row.writes += 1;
            let keep = 2 * self.window_blocks();
            state.note_history(keep);
            SegmentHeader {
                order,
                nonce,
                address: start,
                format: self.layout.format,
            }
        };
        if self.is_file && !self.state.borrow().segments.row(segment).filled {
            self.fill(segment).await;
        }
        let mut block = self.reactor.buffer(BLOCK_BYTES);
        header.encode(&mut block);
        let data = vec![block.freeze()];
        if self.has_bug(Bug::HeaderInFlight) {
            let core = self.clone();
            drop(self.reactor.spawn(async move {
                #[cfg(test)]
                core.pause(core.options.header_pause).await;
                let _unordered = core.write_blocks(start, data).await;
            }));
            self.segment_opened(segment, Ok(()));
            return;
        }
        #[cfg(test)]
        self.pause(self.options.header_pause).await;
        let result = self.write_blocks(start, data).await;
        self.segment_opened(segment, result);
    }

    fn segment_opened(self: &CoreRc, segment: u32, result: Result<(), LaneError>) {
        {
            let mut state = self.state.borrow_mut();
            let row = state.segments.row_mut(segment);
            row.writes -= 1;
            if result.is_ok() {
                state.segments.ready.push_back(segment);
            } else {
                row.state = SegmentState::Sealed;
            }
        }
        self.events.segment_ready.raise();
        self.pump_all();
    }

    /// Writes zeroes over a file's segment, so that later writes change no metadata of the file.
    async fn fill(self: &CoreRc, segment: u32) {
        let start = self.layout.segment_address(segment) * BLOCK_BYTES_U64;
        let whole = crate::codec::to_usize(u64::from(self.layout.segment_blocks) * BLOCK_BYTES_U64);
        let zeroes = self.buffer_of(&vec![0; FILL_BYTES.min(whole)]);
        let mut at = 0;
        while at < whole {
            let piece = zeroes.slice(..zeroes.len().min(whole - at));
            at += piece.len();
            let offset = start + (at - piece.len()) as u64;
            if let Err(error) = self.disk.write(offset, vec![piece]).await {
                self.write_failed(&error);
                return;
            }
        }
        self.state.borrow_mut().segments.row_mut(segment).filled = true;
    }
}
