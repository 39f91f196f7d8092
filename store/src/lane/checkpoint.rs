//! Checkpoints: copy in one turn, log the pages, flush, write the older slot, flush.
//!
//! ```text
//! (1) one turn: dirty root pages, tables, records, gaps, names, `from`
//! (2) log the pages ─▶ FLUSH      what the slot names is on the disk
//! (3) write the slot ─▶ FLUSH     now it is durable
//! ```
//!
//! Writes go on meanwhile. A segment is opened again only when the slot *after* the one that calls
//! it free is durable, so that either slot alone is enough.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use ashlar_proto::BLOCK_BYTES;
use ashlar_proto::crc::crc32c;
use ashlar_proto::limits::BLOCK_BYTES_U64;
use ashlar_proto::planted::{Planted, is_planted};
use ashlar_proto::{Handle, Layer};
use ashlar_reactor::future::race;

use crate::lane::batch::{Body, Entry};
use crate::lane::core::{Core, CoreRc};
use crate::lane::error::LaneError;
use crate::lane::page::Page;
use crate::lane::planted::Bug;
use crate::lane::reserve::SpaceRecord;
use crate::lane::shards::Place;
use crate::lane::signal::Reply;
use crate::lane::slot::{RootRef, Slot};
use crate::lane::state::State;
use crate::lane::stream::Item;

/// Pause after a checkpoint that failed.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// A root page that is to be written.
struct DirtyRoot {
    handle: Handle,
    label: Layer,
    index: u32,
    page: Page,
    place: Rc<Cell<u64>>,
    crc: Cell<u32>,
}

/// What one turn copied.
struct Copied {
    slot: Slot,
    dirty: Vec<DirtyRoot>,
}

impl State {
    /// Step 1, in one turn.
    fn copy_for_slot(&mut self, core: &Core, clean: bool) -> Copied {
        self.forget_stale();
        self.slot_number += 1;
        let number = self.slot_number;
        let from = self.slot_from_now(core);
        let mut gaps = self.lsns.gaps_for_slot(from);
        if core.has_bug(Bug::NoGaps) {
            gaps.clear();
        }
        let mut shards = Vec::new();
        let (mut roots, mut dirty, mut spaces) = (Vec::new(), Vec::new(), Vec::new());
        for handle in self.shards.handles() {
            let Some(shard) = self.shards.get_mut(handle) else {
                continue;
            };
            shard.dirty = false;
            let table = shard.layers.table().clone();
            shards.push((handle, shard.record.clone(), table));
            spaces.push(SpaceRecord {
                handle,
                reserve: shard.space.reserve,
                mapped: shard.space.mapped,
            });
            let head = shard.labels.keys().next_back().copied();
            for (&label, of_label) in &mut shard.labels {
                if head != Some(label) && is_planted(Planted::CheckpointForgetsLayer) {
                    continue;
                }
                for (&index, root) in &mut of_label.0 {
                    let highest = root.page.borrow().highest();
                    if root.dirty {
                        root.dirty = false;
                        dirty.push(DirtyRoot {
                            handle,
                            label,
                            index,
                            page: root.page.borrow().clone(),
                            place: Rc::new(Cell::new(0)),
                            crc: Cell::new(0),
                        });
                    }
                    let place = root.place.unwrap_or(Place { address: 0, crc: 0 });
                    roots.push(RootRef {
                        handle,
                        label,
                        index,
                        place,
                        highest,
                    });
                }
            }
        }
        self.dirty = false;
        let slot = Slot {
            number,
            from,
            next_lsn: self.lsns.next(),
            durable: self.lsns.durable(),
            next_order: self.segments.next_order,
            next_handle: self.shards.next_handle(),
            incarnation: self.incarnation,
            clean,
            gaps,
            segments: self.segments.rows().to_vec(),
            named: self.segments.names_for_slot(number),
            shards,
            roots,
            spaces,
        };
        Copied { slot, dirty }
    }

    fn slot_from_now(&self, core: &Core) -> ashlar_proto::Lsn {
        if core.has_bug(Bug::HorizonAtSlot) {
            return self.lsns.next();
        }
        if core.has_bug(Bug::SlotMissesInflight) {
            return self.overlay.oldest().unwrap_or(self.lsns.next());
        }
        self.replay_from()
    }

    /// The pages are logged: the roots lie there now.
    fn place_roots(&mut self, copied: &mut Copied) {
        for dirty in &copied.dirty {
            let place = Place {
                address: dirty.place.get(),
                crc: dirty.crc.get(),
            };
            let found = copied.slot.roots.iter_mut().find(|root| {
                (root.handle, root.label, root.index) == (dirty.handle, dirty.label, dirty.index)
            });
            if let Some(found) = found {
                found.place = place;
            }
            let shard = self.shards.get_mut(dirty.handle);
            let labels = shard.and_then(|shard| shard.labels.get_mut(&dirty.label));
            if let Some(root) = labels.and_then(|roots| roots.0.get_mut(&dirty.index)) {
                root.place = Some(place);
            }
        }
    }

    /// The pages were not logged: they are still to be written.
    fn redirty_roots(&mut self, copied: &Copied) {
        for dirty in &copied.dirty {
            let shard = self.shards.get_mut(dirty.handle);
            let labels = shard.and_then(|shard| shard.labels.get_mut(&dirty.label));
            if let Some(root) = labels.and_then(|roots| roots.0.get_mut(&dirty.index)) {
                root.dirty = true;
            }
        }
        self.dirty = true;
    }
}

impl Core {
    /// Takes checkpoints when they are asked for or due, for as long as the lane runs.
    pub(crate) async fn run_checkpoints(self: Rc<Self>) {
        let mut answered = 0;
        loop {
            let mark = self.events.checkpoint_wanted.mark();
            if self.is_closing() {
                return;
            }
            let asked = self.checkpoints_asked.get();
            if asked == answered {
                let wanted = self.events.checkpoint_wanted.after(mark);
                let due = self.reactor.sleep(self.options.checkpoint_interval);
                race(wanted, due).await;
                let dirty = self.state.borrow().dirty;
                if self.checkpoints_asked.get() == answered && !dirty {
                    continue;
                }
            }
            answered = self.checkpoints_asked.get();
            if self.is_closing() {
                return;
            }
            if self.checkpoint(false).await.is_err() {
                self.reactor.sleep(RETRY_PAUSE).await;
            }
        }
    }

    /// Takes one checkpoint. `clean`: nothing will be written after it.
    pub(crate) async fn checkpoint(self: &CoreRc, clean: bool) -> Result<(), LaneError> {
        let turn = self.checkpoints.enter().await;
        let mut copied = {
            let mut state = self.state.borrow_mut();
            state.checkpoint_at = state.log_blocks;
            state.copy_for_slot(self, clean)
        };
        let result = self.make_durable(&mut copied).await;
        if result.is_err() {
            self.state.borrow_mut().redirty_roots(&copied);
        }
        drop(turn);
        self.events.checkpoint_ended.raise();
        self.events.collect_wanted.raise();
        self.pump_all();
        result
    }

    async fn make_durable(self: &CoreRc, copied: &mut Copied) -> Result<(), LaneError> {
        self.log_roots(&copied.dirty).await?;
        self.state.borrow_mut().place_roots(copied);
        if !self.has_bug(Bug::NoFlushBeforeSlot) {
            self.flush().await?;
        }
        self.write_slot(&copied.slot).await?;
        if !self.has_bug(Bug::NoFlushAfterSlot) {
            self.flush().await?;
        }
        let slot = &copied.slot;
        let discards = {
            let mut state = self.state.borrow_mut();
            let state = &mut *state;
            state.slot_from = slot.from;
            state.stats.checkpoints += 1;
            state.lsns.gaps_recorded(&slot.gaps);
            if !self.volatile {
                let through = state.lsns.done_through();
                state.lsns.flushed_through(through);
            }
            state
                .segments
                .slot_is_durable(slot.number, &slot.segments, &slot.named)
        };
        self.discard(discards);
        Ok(())
    }

    /// Step 2: logs the copied root pages.
    async fn log_roots(self: &CoreRc, dirty: &[DirtyRoot]) -> Result<(), LaneError> {
        if dirty.is_empty() {
            return Ok(());
        }
        let (reply, waiter) = Reply::new();
        let items: Vec<Item> = dirty
            .iter()
            .map(|root| {
                let mut block = self.reactor.buffer(BLOCK_BYTES);
                root.page.encode(&mut block);
                let crc = crc32c(&block);
                root.crc.set(crc);
                let entry = Entry {
                    handle: root.handle,
                    label: root.label,
                    first: root.index,
                    count: 0,
                    seq: root.page.highest(),
                    check: 0,
                    body: Body::Root(crc),
                };
                let mut item = Item::new(entry, vec![block.freeze()], reply.part());
                item.place = Some(root.place.clone());
                item
            })
            .collect();
        drop(reply);
        self.enqueue_roots(items);
        waiter.wait().await
    }

    /// Step 3: writes the older of the two slots.
    async fn write_slot(&self, slot: &Slot) -> Result<(), LaneError> {
        let bytes = slot.encode();
        assert!(
            bytes.len() as u64 <= self.layout.slot_bytes,
            "a slot of {} bytes does not fit: admission bounds root pages",
            bytes.len()
        );
        let place = usize::from(slot.number % 2 == 1);
        let address = self.layout.slot_offsets[place] / BLOCK_BYTES_U64;
        self.write_blocks(address, vec![self.buffer_of(&bytes)])
            .await
    }

    /// Discards freed segments; each may be opened when its discard has completed.
    fn discard(self: &CoreRc, segments: Vec<u32>) {
        for segment in segments {
            let mut state = self.state.borrow_mut();
            let row = state.segments.row_mut(segment);
            row.discard_pending = false;
            if self.is_file {
                continue;
            }
            row.writes += 1;
            drop(state);
            let core = self.clone();
            drop(self.reactor.spawn(async move {
                let offset = core.layout.segment_address(segment) * BLOCK_BYTES_U64;
                let length = u64::from(core.layout.segment_blocks) * BLOCK_BYTES_U64;
                if let Err(error) = core.disk.discard(offset, length).await {
                    tracing::warn!(lane = %core.index, %error, "the device failed a discard");
                }
                core.state.borrow_mut().segments.row_mut(segment).writes -= 1;
                core.events.segment_wanted.raise();
            }));
        }
    }
}
