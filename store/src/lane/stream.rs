//! Streams: fresh writes, moves of the collector and pages of the map go to segments of their own.
//!
//! Everything that is to be logged is an [`Item`] in a stream's queue; the next batch takes as many
//! as fit. A large write is cut where its segment ends, so that nothing of a segment is wasted.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

use ashlar_proto::Handle;
use ashlar_proto::limits::BLOCK_BYTES;
use ashlar_reactor::SharedBuffer;

use crate::lane::batch::{Batch, Body, ENTRIES_BYTES_MAX, ENTRY_BYTES, Entry, PAYLOAD_BLOCKS_MAX};
use crate::lane::segment::SegmentState;
use crate::lane::signal::Reply;
use crate::lane::state::{RESERVE_SEGMENTS, State};
use crate::lane::summary;

/// Streams of a lane.
pub(crate) const STREAMS: usize = 3;
/// Segments that a victim's moves and leaves may take: none of them finds the open one empty.
const VICTIM_SEGMENTS: usize = 4;
/// Of a segment, the part that a summary may take before the segment does without one.
const SUMMARY_PART: usize = 16;

/// Who writes to a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Fresh,
    Moves,
    Map,
}

impl Stream {
    pub(crate) const fn index(self) -> usize {
        match self {
            Self::Fresh => 0,
            Self::Moves => 1,
            Self::Map => 2,
        }
    }
}

/// Something to be logged.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) entry: Entry,
    /// Its payload: whole blocks, in order.
    pub(crate) data: Vec<SharedBuffer>,
    pub(crate) reply: Reply,
    /// Blocks that it was admitted with.
    pub(crate) admitted: u64,
    /// Told where the payload lies.
    pub(crate) place: Option<Rc<Cell<u64>>>,
    /// A move: it takes the place of a block that is counted already.
    pub(crate) moved: bool,
}

impl Item {
    pub(crate) fn new(entry: Entry, data: Vec<SharedBuffer>, reply: Reply) -> Self {
        Self {
            entry,
            data,
            reply,
            admitted: 0,
            place: None,
            moved: false,
        }
    }

    /// Cuts the first `count` blocks off an item of data.
    fn split_off_front(&mut self, count: u32) -> Self {
        let Body::Data(crcs) = &mut self.entry.body else {
            unreachable!("only data is cut");
        };
        let rest = crcs.split_off(count as usize);
        let front_crcs = std::mem::replace(crcs, rest);
        let front_entry = Entry {
            count,
            body: Body::Data(front_crcs),
            ..self.entry.clone()
        };
        self.entry.first += count;
        self.entry.count -= count;
        let admitted = self.admitted.min(u64::from(count));
        self.admitted -= admitted;
        Self {
            entry: front_entry,
            data: split_pieces(&mut self.data, count as usize * BLOCK_BYTES),
            reply: self.reply.part(),
            admitted,
            place: None,
            moved: self.moved,
        }
    }
}

/// Adds what an item was admitted with to what its shard was.
fn note_admitted(admitted: &mut Vec<(Handle, u64)>, handle: Handle, blocks: u64) {
    match admitted.last_mut() {
        _ if blocks == 0 => {}
        Some((last, sum)) if *last == handle => *sum += blocks,
        _ => admitted.push((handle, blocks)),
    }
}

/// Takes the first `bytes` of a run of pieces.
pub(crate) fn split_pieces(pieces: &mut Vec<SharedBuffer>, bytes: usize) -> Vec<SharedBuffer> {
    let mut front = Vec::new();
    let mut left = bytes;
    let mut rest = Vec::with_capacity(pieces.len());
    for piece in pieces.drain(..) {
        if left == 0 {
            rest.push(piece);
        } else if piece.len() <= left {
            left -= piece.len();
            front.push(piece);
        } else {
            front.push(piece.slice(..left));
            rest.push(piece.slice(left..));
            left = 0;
        }
    }
    *pieces = rest;
    front
}

/// The segment that a stream appends to.
#[derive(Debug)]
pub(crate) struct OpenSegment {
    pub(crate) index: u32,
    /// Next free block in it.
    next: u32,
    /// Bytes of batches that its summary will hold; none when it does without.
    summary_bytes: Option<usize>,
    pub(crate) batches: Vec<Rc<Batch>>,
}

impl OpenSegment {
    pub(crate) fn new(index: u32) -> Self {
        Self {
            index,
            next: 1,
            summary_bytes: Some(0),
            batches: Vec::new(),
        }
    }

    pub(crate) fn wants_summary(&self) -> bool {
        self.summary_bytes.is_some() && !self.batches.is_empty()
    }

    /// Whether a batch of this size can still be added, with the summary behind it.
    fn fits(&self, blocks: u32, payload: usize, entry_bytes: usize) -> bool {
        if payload > PAYLOAD_BLOCKS_MAX || entry_bytes > ENTRIES_BYTES_MAX {
            return false;
        }
        let used = self.next as usize + payload + Batch::header_blocks_for(entry_bytes);
        used + self.summary_blocks_with(blocks, entry_bytes) <= blocks as usize
    }

    fn summary_bytes_with(&self, blocks: u32, entry_bytes: usize) -> Option<usize> {
        let most = blocks as usize * BLOCK_BYTES / SUMMARY_PART;
        self.summary_bytes
            .map(|bytes| bytes + summary::batch_bytes(entry_bytes))
            .filter(|&bytes| bytes <= most)
    }

    fn summary_blocks_with(&self, blocks: u32, entry_bytes: usize) -> usize {
        self.summary_bytes_with(blocks, entry_bytes)
            .map_or(0, summary::blocks_for)
    }
}

/// A batch that has its LSN and its place, ready to be written.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) stream: Stream,
    pub(crate) segment: u32,
    pub(crate) batch: Rc<Batch>,
    pub(crate) data: Vec<SharedBuffer>,
    pub(crate) replies: Vec<Reply>,
    /// Blocks that it was admitted with, shard by shard.
    pub(crate) admitted: Vec<(Handle, u64)>,
    /// For each entry, whether it is a move.
    pub(crate) moved: bool,
}

/// What came of building a batch.
#[derive(Debug)]
pub(crate) enum Building {
    Built(Built),
    /// The stream waits for a segment.
    NoSegment,
    Empty,
}

impl State {
    /// Takes a prepared segment for a stream if the reserve allows it.
    ///
    /// Whoever gives space back goes further than who takes it: the sweep, so that `from` moves
    /// on, further than fresh writes; the collector further than the sweep, so that it can always
    /// end what it began; and the root pages of a checkpoint furthest, for without checkpoints no
    /// segment would ever be named again.
    fn open_stream(&mut self, stream: Stream) -> bool {
        let urgent = !self.urgent[stream.index()].is_empty();
        let leave = match stream {
            Stream::Fresh if !urgent => RESERVE_SEGMENTS,
            Stream::Fresh => RESERVE_SEGMENTS / 2,
            Stream::Map if !urgent => RESERVE_SEGMENTS / 2,
            Stream::Moves | Stream::Map => 0,
        };
        if self.segments.free_count() <= leave {
            return false;
        }
        let head = self.next_item(stream);
        let is_root = head.is_some_and(|item| matches!(item.entry.body, Body::Root(_)));
        if !is_root && self.is_short_of_names() {
            return false;
        }
        let Some(segment) = self.segments.ready.pop_front() else {
            return false;
        };
        self.streams[stream.index()] = Some(OpenSegment::new(segment));
        true
    }

    /// Whether what the durable slot names is only just enough for the pages of the next one.
    pub(crate) fn is_short_of_names(&self) -> bool {
        self.segments.openable_count() <= self.checkpoint_segments()
    }

    /// Whether what can be opened may not do for the moves out of one more victim, its leaves and
    /// the next checkpoint.
    pub(crate) fn is_short_for_moves(&self) -> bool {
        self.segments.openable_count() <= self.checkpoint_segments() + VICTIM_SEGMENTS
    }

    /// Gives up the segment of a stream. Its summary is written when its batches have completed.
    pub(crate) fn seal_stream(&mut self, stream: Stream) -> Option<OpenSegment> {
        let sealed = self.streams[stream.index()].take()?;
        self.segments.row_mut(sealed.index).state = SegmentState::Sealed;
        Some(sealed)
    }

    fn next_item(&mut self, stream: Stream) -> Option<&mut Item> {
        let urgent = self.urgent[stream.index()].front_mut();
        urgent.or_else(|| self.queues[stream.index()].front_mut())
    }

    fn pop_item(&mut self, stream: Stream) -> Option<Item> {
        let urgent = self.urgent[stream.index()].pop_front();
        urgent.or_else(|| self.queues[stream.index()].pop_front())
    }

    /// Whether nothing waits to be logged.
    pub(crate) fn is_drained(&self) -> bool {
        let mut queues = self.urgent.iter().chain(&self.queues);
        queues.all(VecDeque::is_empty)
    }

    /// Builds the next batch of a stream. Segments that it had to seal are handed out.
    pub(crate) fn build(&mut self, stream: Stream, sealed: &mut Vec<OpenSegment>) -> Building {
        loop {
            if self.next_item(stream).is_none() {
                return Building::Empty;
            }
            if self.streams[stream.index()].is_none() && !self.open_stream(stream) {
                return Building::NoSegment;
            }
            let items = self.gather(stream);
            if items.is_empty() {
                sealed.extend(self.seal_stream(stream));
                continue;
            }
            return Building::Built(self.place(stream, items));
        }
    }

    /// Takes items from the queue as long as they fit the open segment.
    fn gather(&mut self, stream: Stream) -> Vec<Item> {
        let blocks = self.segments.layout().segment_blocks;
        let open = self.streams[stream.index()]
            .take()
            .expect("the stream has a segment");
        let (mut payload, mut bytes) = (0usize, 0usize);
        let mut items = Vec::new();
        while let Some(item) = self.next_item(stream) {
            let more = item.entry.payload_blocks() as usize;
            let entry_bytes = item.entry.encoded_bytes();
            if open.fits(blocks, payload + more, bytes + entry_bytes) {
                payload += more;
                bytes += entry_bytes;
                items.extend(self.pop_item(stream));
                continue;
            }
            // The first one may be cut to fill what is left of the segment.
            if items.is_empty() && matches!(item.entry.body, Body::Data(_)) {
                let fit = (1..more)
                    .rev()
                    .find(|&n| open.fits(blocks, n, ENTRY_BYTES + 4 * n));
                if let Some(count) = fit.and_then(|n| u32::try_from(n).ok()) {
                    items.push(item.split_off_front(count));
                }
            }
            break;
        }
        self.streams[stream.index()] = Some(open);
        items
    }

    /// Gives the items an LSN and addresses.
    fn place(&mut self, stream: Stream, items: Vec<Item>) -> Built {
        let layout = *self.segments.layout();
        let lsn = self.lsns.issue();
        let durable = self.lsns.durable();
        let slot = self.segments.slot_durable;
        let open = self.streams[stream.index()]
            .as_mut()
            .expect("the stream has a segment");
        let row = self.segments.row_mut(open.index);
        let (mut data, mut replies, mut entries) = (Vec::new(), Vec::new(), Vec::new());
        let (mut admitted, mut places, mut moved) = (Vec::new(), Vec::new(), false);
        for item in items {
            note_admitted(&mut admitted, item.entry.handle, item.admitted);
            entries.push(item.entry);
            data.extend(item.data);
            replies.push(item.reply);
            places.push(item.place);
            moved |= item.moved;
        }
        let batch = Batch {
            nonce: row.nonce,
            address: layout.segment_address(open.index) + u64::from(open.next),
            lsn,
            durable,
            slot,
            entries,
        };
        for (place, (_, address)) in places.iter().zip(batch.placed()) {
            if let Some(place) = place {
                place.set(address);
            }
        }
        let entry_bytes = batch.entries.iter().map(Entry::encoded_bytes).sum();
        open.summary_bytes = open.summary_bytes_with(layout.segment_blocks, entry_bytes);
        open.next += batch.total_blocks();
        let batch = Rc::new(batch);
        open.batches.push(batch.clone());
        row.lsn_max = row.lsn_max.max(lsn);
        row.writes += 1;
        self.log_blocks += u64::from(batch.total_blocks());
        self.in_flight[stream.index()] += 1;
        self.durable_logged = durable;
        self.dirty = true;
        Built {
            stream,
            segment: open.index,
            batch,
            data,
            replies,
            admitted,
            moved,
        }
    }
}
