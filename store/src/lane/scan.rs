//! Reading a lane without changing it: slots, segments, root pages. Recovery and the inspector
//! stand on it.

use ashlar_proto::limits::BLOCK_BYTES_U64;
use ashlar_proto::{BLOCK_BYTES, Lsn};
use ashlar_reactor::{Buffer, Disk, Reactor};

use crate::disk::layout::LaneLayout;
use crate::lane::batch::{Batch, HEADER_BLOCKS_MAX};
use crate::lane::segment::SegmentHeader;
use crate::lane::slot::{Slot, SlotHead};
use crate::lane::summary::SummaryHead;

/// Blocks that a scan reads at once.
const SCAN_BLOCKS: u32 = 256;

/// A lane's part of a disk, to be read.
#[derive(Clone, Debug)]
pub(crate) struct Device {
    pub(crate) reactor: Reactor,
    pub(crate) disk: Disk,
    pub(crate) layout: LaneLayout,
}

/// What is in one place for a slot.
#[derive(Debug)]
pub(crate) enum SlotFound {
    Valid(Box<Slot>),
    /// Nothing was ever written there.
    Empty,
    Damaged,
}

/// What a segment begins with.
#[derive(Debug)]
pub(crate) struct SegmentStart {
    /// Its header, of whatever life.
    pub(crate) header: Option<SegmentHeader>,
    /// The batch right behind it, of whatever life.
    pub(crate) batch: Option<Batch>,
    /// The device can read one of them at least.
    pub(crate) is_readable: bool,
}

/// What was found in a segment.
#[derive(Debug, Default)]
pub(crate) struct SegmentFound {
    pub(crate) batches: Vec<Batch>,
    /// Its entries come from the summary: headers and payload were not looked at.
    pub(crate) from_summary: bool,
    /// Where the device could not read what may be a batch.
    pub(crate) holes: Vec<Hole>,
    /// The highest LSN in it, when it was sealed before the slot.
    pub(crate) last: Option<Lsn>,
}

/// Blocks that the device cannot read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hole {
    /// Where it begins.
    pub(crate) address: u64,
    /// LSN of the batch before it in the segment.
    pub(crate) before: Option<Lsn>,
    /// LSN of the batch behind it in the segment.
    pub(crate) after: Option<Lsn>,
}

/// What a batch is like when all of it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wholeness {
    Whole,
    /// Some of it is not what was written.
    Torn,
    /// The device cannot read some of it.
    Unreadable,
}

impl SegmentFound {
    fn note_batch(&mut self, batch: Batch) {
        if let Some(hole) = self.holes.last_mut() {
            hole.after.get_or_insert(batch.lsn);
        }
        self.batches.push(batch);
    }

    /// A block that cannot be read; those in a row are one hole.
    fn note_hole(&mut self, address: u64) {
        let before = self.batches.last().map(|batch| batch.lsn);
        let is_new = self.holes.last().is_none_or(|hole| hole.before != before);
        if is_new {
            self.holes.push(Hole {
                address,
                before,
                after: None,
            });
        }
    }

    pub(crate) fn lsn_max(&self) -> Lsn {
        let lsns = self.batches.iter().map(|batch| batch.lsn);
        lsns.max().unwrap_or_default()
    }
}

impl Device {
    pub(crate) async fn read(&self, address: u64, blocks: usize) -> Option<Buffer> {
        let buffer = self.reactor.buffer(blocks * BLOCK_BYTES);
        let (buffer, result) = self.disk.read(address * BLOCK_BYTES_U64, buffer).await;
        result.ok().map(|()| buffer)
    }

    /// Reads one of the two slots.
    pub(crate) async fn slot(&self, place: usize) -> SlotFound {
        let address = self.layout.slot_offsets[place] / BLOCK_BYTES_U64;
        let Some(first) = self.read(address, 1).await else {
            return SlotFound::Damaged;
        };
        let Some(head) = SlotHead::decode(&first) else {
            let empty = first.iter().all(|&byte| byte == 0);
            return if empty {
                SlotFound::Empty
            } else {
                SlotFound::Damaged
            };
        };
        if head.rest_bytes() > self.layout.slot_bytes - BLOCK_BYTES_U64 {
            return SlotFound::Damaged;
        }
        let blocks = crate::codec::to_usize(head.rest_bytes() / BLOCK_BYTES_U64);
        let Some(rest) = self.read(address + 1, blocks).await else {
            return SlotFound::Damaged;
        };
        match head.slot(&rest) {
            Some(slot) if slot.segments.len() == self.layout.segments as usize => {
                SlotFound::Valid(Box::new(slot))
            }
            _ => SlotFound::Damaged,
        }
    }

    /// Reads block 0 of a segment and the batch behind it.
    pub(crate) async fn segment_start(&self, segment: u32) -> SegmentStart {
        let address = self.layout.segment_address(segment);
        let (head, rest) = match self.read(address, 1 + HEADER_BLOCKS_MAX).await {
            Some(blocks) => {
                let (head, rest) = blocks.split_at(BLOCK_BYTES);
                (Some(head.to_vec()), Some(rest.to_vec()))
            }
            // One of them is bad: the other may be enough.
            None => (
                self.read(address, 1).await.map(|block| block.to_vec()),
                self.read_header(address + 1).await,
            ),
        };
        let format = self.layout.format;
        SegmentStart {
            is_readable: head.is_some() || rest.is_some(),
            header: head.and_then(|block| SegmentHeader::decode(&block, address, format)),
            batch: rest.and_then(|blocks| Batch::decode_any(&blocks, address + 1)),
        }
    }

    /// Reads a block, and as many behind it as a batch's header may have; fewer where the device
    /// cannot read those.
    async fn read_header(&self, address: u64) -> Option<Vec<u8>> {
        let mut blocks = self.read(address, 1).await?.to_vec();
        for next in (address + 1..).take(HEADER_BLOCKS_MAX - 1) {
            match self.read(next, 1).await {
                Some(block) => blocks.extend_from_slice(&block),
                None => break,
            }
        }
        Some(blocks)
    }

    /// Finds the batches of a segment: by its summary, else by a scan.
    pub(crate) async fn segment(
        &self,
        segment: u32,
        nonce: u64,
        stop_at_torn: bool,
    ) -> SegmentFound {
        if let Some(batches) = self.summary(segment, nonce).await {
            return SegmentFound {
                batches,
                from_summary: true,
                ..SegmentFound::default()
            };
        }
        self.scan(segment, nonce, stop_at_torn).await
    }

    async fn summary(&self, segment: u32, nonce: u64) -> Option<Vec<Batch>> {
        let start = self.layout.segment_address(segment);
        let last = start + u64::from(self.layout.segment_blocks) - 1;
        let block = self.read(last, 1).await?;
        let head = SummaryHead::decode(&block, nonce, start)?;
        let blocks = head.body_blocks();
        if blocks + 2 > self.layout.segment_blocks as usize {
            return None;
        }
        let body = self.read(last - blocks as u64, blocks).await?;
        head.batches(nonce, &body)
    }

    /// Goes through a segment block by block. A bad batch ends nothing.
    async fn scan(&self, segment: u32, nonce: u64, stop_at_torn: bool) -> SegmentFound {
        let start = self.layout.segment_address(segment);
        let blocks = self.layout.segment_blocks;
        let mut found = SegmentFound::default();
        let mut window: Option<(u32, Buffer)> = None;
        let mut at = 1;
        while at < blocks {
            let covered = window.as_ref().is_some_and(|(first, buffer)| {
                let end = first + u32::try_from(buffer.len() / BLOCK_BYTES).unwrap_or(0);
                // A header may take several blocks.
                *first <= at && (at + 4 <= end || end == blocks)
            });
            if !covered {
                let count = SCAN_BLOCKS.min(blocks - at);
                match self.read(start + u64::from(at), count as usize).await {
                    Some(buffer) => window = Some((at, buffer)),
                    None => match self.read_header(start + u64::from(at)).await {
                        // The device cannot read some of it: a few blocks at a time.
                        Some(few) => window = Some((at, self.buffer_of(&few))),
                        None => {
                            found.note_hole(start + u64::from(at));
                            at += 1;
                            continue;
                        }
                    },
                }
            }
            let Some((first, buffer)) = &window else {
                break;
            };
            let offset = (at - first) as usize * BLOCK_BYTES;
            match header_at(&buffer[offset..], nonce, start + u64::from(at)) {
                Some(batch) => {
                    let whole = !stop_at_torn || self.wholeness(&batch).await == Wholeness::Whole;
                    if !whole {
                        break;
                    }
                    at += batch.total_blocks().max(1);
                    found.note_batch(batch);
                }
                None if stop_at_torn => break,
                None => at += 1,
            }
        }
        found
    }

    fn buffer_of(&self, bytes: &[u8]) -> Buffer {
        let mut buffer = self.reactor.buffer(bytes.len());
        buffer.copy_from_slice(bytes);
        buffer
    }

    /// Whether header and payload of a batch are as they were written.
    pub(crate) async fn wholeness(&self, batch: &Batch) -> Wholeness {
        let Some(blocks) = self
            .read(batch.address, batch.total_blocks() as usize)
            .await
        else {
            return Wholeness::Unreadable;
        };
        let (header, payload) = blocks.split_at(batch.header_blocks() * BLOCK_BYTES);
        let is_whole = Batch::decode(header, batch.nonce, batch.address)
            .is_some_and(|found| found.lsn == batch.lsn)
            && batch.payload_is_whole(payload);
        if is_whole {
            Wholeness::Whole
        } else {
            Wholeness::Torn
        }
    }
}

/// The batch whose header starts here.
fn header_at(bytes: &[u8], nonce: u64, address: u64) -> Option<Batch> {
    let blocks = Batch::peek(bytes, nonce, address)?;
    Batch::decode(bytes.get(..blocks * BLOCK_BYTES)?, nonce, address)
}
