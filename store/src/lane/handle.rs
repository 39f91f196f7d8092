//! The handle of a lane: what the replica service calls.

use std::rc::Rc;

use ashlar_proto::message::{Extent, ReadEntry, ShardState, Tail};
use ashlar_proto::{
    BLOCK_BYTES, BlockCount, BlockIndex, ByteCount, Epoch, Handle, Incarnation, LaneIndex, Layer,
    LayerTable, ReplicaId, RoomHint, Seq,
};
use ashlar_reactor::meters::{Measure, Operation, Stage};
use ashlar_reactor::{Reactor, SharedBuffer};

use crate::codec::Encoder;
use crate::lane::batch::{Body, Entry};
use crate::lane::core::{Core, CoreRc};
use crate::lane::error::LaneError;
use crate::lane::layers::{encode_table, table_bytes};
use crate::lane::leaf_cache::Use;
use crate::lane::lookup::View;
use crate::lane::shards::{ShardKey, ShardRecord, StateChange};
use crate::lane::signal::Reply;
use crate::lane::slot::ROOT_REF_BYTES;
use crate::lane::state::State;
use crate::lane::stats::LaneStats;
use crate::lane::stream::{Item, Stream, split_pieces};

/// Blocks of one item: a large write is logged in parts.
const ITEM_BLOCKS_MAX: u32 = 256;
/// Of a slot, what is kept for other things than references of root pages, at least.
const SLOT_OTHER_BYTES: u64 = 64 << 10;

/// How much a lane can hold, and holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneUsage {
    /// What the lane gives out.
    pub usable: ByteCount,
    /// What is taken: live data and pages of the map.
    pub used: ByteCount,
    /// What is kept for shards that have reservations.
    pub reserved: ByteCount,
    /// Of this, what they have not taken yet; not used.
    pub unfilled: ByteCount,
}

/// A lane that serves. Clones are the same lane.
#[derive(Clone, Debug)]
pub struct Lane(CoreRc);

impl Lane {
    pub(crate) fn over(core: CoreRc) -> Self {
        Self(core)
    }

    /// Its position on the disk.
    #[must_use]
    pub fn index(&self) -> LaneIndex {
        self.0.index
    }

    /// Whether the device loses completed writes at power loss unless they are flushed.
    #[must_use]
    pub fn has_volatile_cache(&self) -> bool {
        self.0.volatile
    }

    /// The reactor that it runs on.
    pub(crate) fn reactor(&self) -> &Reactor {
        &self.0.reactor
    }

    /// The run of the lane since its last recovery.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.0.state.borrow().incarnation
    }

    /// How full it is, as replies say it.
    #[must_use]
    pub fn room(&self) -> RoomHint {
        self.0.state.borrow().room()
    }

    /// How full it is, in bytes.
    #[must_use]
    pub fn usage(&self) -> LaneUsage {
        let state = self.0.state.borrow();
        let bytes = |blocks: u64| ByteCount::new(blocks * BLOCK_BYTES as u64);
        let (reserved, unfilled) = state.reservations();
        LaneUsage {
            usable: bytes(state.usable()),
            used: bytes(state.used()),
            reserved: bytes(reserved),
            unfilled: bytes(unfilled),
        }
    }

    /// What it has done and found.
    #[must_use]
    pub fn stats(&self) -> LaneStats {
        LaneStats {
            io: self.0.pace.counts(),
            ..self.0.state.borrow().snapshot()
        }
    }

    /// The shards that it holds, in order.
    #[must_use]
    pub fn shards(&self) -> Vec<(ShardKey, ReplicaId, BlockCount)> {
        let state = self.0.state.borrow();
        let present = state.shards.present();
        present
            .map(|(key, _, shard)| (key, shard.record.replica, shard.record.blocks))
            .collect()
    }

    /// What it knows of a shard, and the replica that it is.
    #[must_use]
    pub fn shard_state(&self, key: ShardKey) -> Option<(ReplicaId, ShardState)> {
        let state = self.0.state.borrow();
        let shard = state.shards.get(state.shards.handle_of(key)?)?;
        Some((shard.record.replica, shard.record.state()))
    }

    /// Takes shards in, each under a new handle; one that is there already stays as it is.
    /// Durable on return.
    ///
    /// # Errors
    /// [`LaneError`] when the device fails.
    pub async fn create_shards(
        &self,
        shards: &[(ShardKey, ReplicaId, BlockCount)],
    ) -> Result<(), LaneError> {
        let (reply, waiter) = Reply::new();
        for &(key, replica, blocks) in shards {
            let handle = {
                let mut state = self.0.state.borrow_mut();
                let present = state.shards.handle_of(key);
                let same = present.and_then(|handle| state.shards.get(handle));
                if same.is_some_and(|shard| shard.record.replica == replica) {
                    continue;
                }
                state.shards.allocate()
            };
            let record = ShardRecord::new(key, replica, blocks);
            self.0
                .enqueue_urgent(record_item(handle, &record, reply.part()));
        }
        drop(reply);
        waiter.wait().await?;
        self.0.flush().await
    }

    /// Makes shards larger; none gets smaller. What is new of them reads as absent. Durable on return.
    ///
    /// # Errors
    /// [`LaneError`] when a shard is not here or the device fails.
    pub async fn grow_shards(&self, shards: &[(ShardKey, BlockCount)]) -> Result<(), LaneError> {
        let (reply, waiter) = Reply::new();
        for &(key, blocks) in shards {
            let handle = self.handle(key)?;
            let mut record = {
                let state = self.0.state.borrow();
                let shard = state.shards.get(handle).ok_or(LaneError::NoSuchShard)?;
                shard.record.clone()
            };
            record.blocks = record.blocks.max(blocks);
            self.0
                .enqueue_urgent(record_item(handle, &record, reply.part()));
        }
        drop(reply);
        waiter.wait().await?;
        self.0.flush().await
    }

    /// Gives shards up. Durable on return; their space comes back by and by.
    ///
    /// # Errors
    /// [`LaneError`] when the device fails.
    pub async fn remove_shards(&self, keys: &[ShardKey]) -> Result<(), LaneError> {
        let (reply, waiter) = Reply::new();
        for &key in keys {
            let found = {
                let state = self.0.state.borrow();
                let handle = state.shards.handle_of(key);
                handle.and_then(|h| state.shards.get(h).map(|s| (h, s.record.clone())))
            };
            if let Some((handle, mut record)) = found {
                record.removed = true;
                self.0
                    .enqueue_urgent(record_item(handle, &record, reply.part()));
            }
        }
        drop(reply);
        waiter.wait().await?;
        self.0.flush().await?;
        self.0.events.purge_wanted.raise();
        Ok(())
    }

    fn handle(&self, key: ShardKey) -> Result<Handle, LaneError> {
        let state = self.0.state.borrow();
        state.shards.handle_of(key).ok_or(LaneError::NoSuchShard)
    }

    /// Raises what is known of a shard; each part only grows. Durable on return.
    ///
    /// # Errors
    /// [`LaneError`] when the shard is not here or the device fails.
    pub async fn advance_state(
        &self,
        key: ShardKey,
        change: StateChange,
    ) -> Result<ShardState, LaneError> {
        let handle = self.handle(key)?;
        let record = {
            let state = self.0.state.borrow();
            let shard = state.shards.get(handle).ok_or(LaneError::NoSuchShard)?;
            shard.record.changed_by(&change, state.incarnation)
        };
        self.0
            .log_urgent(|reply| record_item(handle, &record, reply))
            .await?;
        self.0.flush().await?;
        let state = self.0.state.borrow();
        let shard = state.shards.get(handle).ok_or(LaneError::NoSuchShard)?;
        Ok(shard.record.state())
    }

    /// Notes an epoch that an owner sent: kept by the next checkpoint.
    pub fn note_epoch(&self, key: ShardKey, epoch: Epoch) {
        self.note(key, |record| record.epoch = record.epoch.max(epoch));
    }

    /// Notes a stable that an owner sent: kept by the next checkpoint.
    pub fn note_stable(&self, key: ShardKey, stable: Seq) {
        self.note(key, |record| record.stable = record.stable.max(stable));
    }

    fn note(&self, key: ShardKey, change: impl FnOnce(&mut ShardRecord)) {
        let mut state = self.0.state.borrow_mut();
        let state = &mut *state;
        let handle = state.shards.handle_of(key);
        if let Some(shard) = handle.and_then(|handle| state.shards.get_mut(handle)) {
            change(&mut shard.record);
            shard.dirty = true;
            state.dirty = true;
        }
    }

    /// Gives a shard a new layer table, unless it has that one or a newer one. Durable before it is
    /// acted on, and on return.
    ///
    /// # Errors
    /// [`LaneError`] when the shard is not here, the table is not sound or too large for what a
    /// checkpoint holds beside it, or the device fails.
    pub async fn set_layers(&self, key: ShardKey, table: LayerTable) -> Result<(), LaneError> {
        if !table.is_sound() {
            return Err(LaneError::OutOfRange);
        }
        let handle = self.handle(key)?;
        {
            let state = self.0.state.borrow();
            let known = state.shards.get(handle).ok_or(LaneError::NoSuchShard)?;
            let known = known.layers.table();
            if known.version >= table.version {
                return Ok(());
            }
            let more = table_bytes(&table).saturating_sub(table_bytes(known));
            if state.tables_bytes() + more > state.segments.layout().slot_bytes / 4 {
                return Err(LaneError::NoSpace);
            }
        }
        let mut out = Encoder::new();
        encode_table(&table, &mut out);
        let body = Body::Layers(out.finish());
        self.0
            .log_urgent(|reply| Item::new(plain_entry(handle, body), Vec::new(), reply))
            .await?;
        self.0.flush().await?;
        self.0.events.purge_wanted.raise();
        Ok(())
    }

    /// The layer table of a shard.
    #[must_use]
    pub fn layers(&self, key: ShardKey) -> Option<LayerTable> {
        let state = self.0.state.borrow();
        let shard = state.shards.get(state.shards.handle_of(key)?)?;
        Some(shard.layers.table().clone())
    }

    /// Checks a range and gives what its entries carry.
    fn admit(
        &self,
        key: ShardKey,
        layer: Layer,
        block: BlockIndex,
        count: u32,
        seq: Seq,
    ) -> Result<(Handle, u8), LaneError> {
        let state = self.0.state.borrow();
        if state.closing {
            return Err(LaneError::Closing);
        }
        let handle = state.shards.handle_of(key).ok_or(LaneError::NoSuchShard)?;
        let shard = state.shards.get(handle).ok_or(LaneError::NoSuchShard)?;
        let end = block.get().checked_add(count);
        let fits = end.is_some_and(|end| end <= shard.record.blocks.get());
        if !fits || count == 0 || seq == Seq::NONE {
            return Err(LaneError::OutOfRange);
        }
        if !shard.layers.admits(layer) {
            return Err(LaneError::LayerDropped(layer));
        }
        Ok((handle, shard.record.check))
    }

    /// Writes blocks. Returns when the device has completed them: durable where completed means
    /// durable, else accepted.
    ///
    /// # Errors
    /// [`LaneError`]: nothing was kept with `NoSpace`; what was kept is unknown with `Device`.
    pub async fn write(
        &self,
        key: ShardKey,
        layer: Layer,
        block: BlockIndex,
        seq: Seq,
        data: Vec<SharedBuffer>,
        checksums: &[u32],
    ) -> Result<(), LaneError> {
        let bytes: usize = data.iter().map(|piece| piece.len()).sum();
        let measure = self.measure(Operation::Write, bytes as u64);
        let written = self.log(key, layer, block, seq, data, checksums);
        measure.end(written.await)
    }

    async fn log(
        &self,
        key: ShardKey,
        layer: Layer,
        block: BlockIndex,
        seq: Seq,
        data: Vec<SharedBuffer>,
        checksums: &[u32],
    ) -> Result<(), LaneError> {
        let bytes: usize = data.iter().map(|piece| piece.len()).sum();
        let count = u32::try_from(checksums.len()).map_err(|_| LaneError::OutOfRange)?;
        let whole = data.iter().all(|piece| piece.len() % BLOCK_BYTES == 0);
        if bytes != checksums.len() * BLOCK_BYTES || !whole {
            return Err(LaneError::OutOfRange);
        }
        let (shard, _) = self.admit(key, layer, block, count, seq)?;
        self.0.make_room(shard, u64::from(count)).await?;
        // Waiting for room may have taken long: the shard may have left.
        let admitted = self.admit(key, layer, block, count, seq);
        if !matches!(admitted, Ok((handle, _)) if handle == shard) {
            let mut state = self.0.state.borrow_mut();
            state.admission_over(shard, u64::from(count));
            return Err(admitted.err().unwrap_or(LaneError::NoSuchShard));
        }
        let (handle, check) = admitted?;
        let (reply, waiter) = Reply::new();
        let mut items = Vec::new();
        let mut data = data;
        for (part, crcs) in checksums.chunks(ITEM_BLOCKS_MAX as usize).enumerate() {
            let at = u32::try_from(part).unwrap_or(0) * ITEM_BLOCKS_MAX;
            let entry = Entry {
                handle,
                label: layer,
                first: block.get() + at,
                count: u32::try_from(crcs.len()).unwrap_or(0),
                seq,
                check,
                body: Body::Data(crcs.to_vec()),
            };
            let pieces = split_pieces(&mut data, crcs.len() * BLOCK_BYTES);
            let mut item = Item::new(entry, pieces, reply.part());
            item.admitted = crcs.len() as u64;
            items.push(item);
        }
        drop(reply);
        self.0.enqueue(Stream::Fresh, items);
        waiter.wait().await
    }

    /// Makes blocks read as zeroes. Works on a full lane, too.
    ///
    /// # Errors
    /// [`LaneError`]; never `NoSpace`.
    pub async fn zero(
        &self,
        key: ShardKey,
        layer: Layer,
        block: BlockIndex,
        count: BlockCount,
        seq: Seq,
    ) -> Result<(), LaneError> {
        let measure = self.measure(Operation::Discard, count.bytes());
        let (handle, check) = self.admit(key, layer, block, count.get(), seq)?;
        let entry = Entry {
            handle,
            label: layer,
            first: block.get(),
            count: count.get(),
            seq,
            check,
            body: Body::Zero,
        };
        let logged = self
            .0
            .log_urgent(|reply| Item::new(entry, Vec::new(), reply));
        measure.end(logged.await)
    }

    fn readable(
        &self,
        key: ShardKey,
        block: BlockIndex,
        count: BlockCount,
    ) -> Result<Handle, LaneError> {
        let handle = self.handle(key)?;
        let state = self.0.state.borrow();
        let shard = state.shards.get(handle).ok_or(LaneError::NoSuchShard)?;
        let end = block.checked_add(count).ok_or(LaneError::OutOfRange)?;
        if end.get() > shard.record.blocks.get() {
            return Err(LaneError::OutOfRange);
        }
        Ok(handle)
    }

    /// Reads blocks as they are seen at a layer: an entry for each, and the payload of those that
    /// hold data, in order, checked against its CRC.
    ///
    /// # Errors
    /// [`LaneError::Damaged`] when any of them is damaged here.
    pub async fn read(
        &self,
        key: ShardKey,
        layer: Layer,
        block: BlockIndex,
        count: BlockCount,
    ) -> Result<(Vec<ReadEntry>, Vec<SharedBuffer>), LaneError> {
        let measure = self.measure(Operation::Read, count.bytes());
        let handle = self.readable(key, block, count)?;
        let view = View::Layer(layer);
        let range = (block.get(), count.get());
        let read = self.0.read_range(handle, view, range, Use::Request);
        measure.end(read.await)
    }

    /// Reads every version of some blocks, of all layers, and checks it against its CRC. Gives how many
    /// blocks of data that were.
    ///
    /// # Errors
    /// [`LaneError::Damaged`] when any of them is damaged here.
    pub async fn verify(
        &self,
        key: ShardKey,
        block: BlockIndex,
        count: BlockCount,
    ) -> Result<BlockCount, LaneError> {
        let handle = self.readable(key, block, count)?;
        let versions = self.0.verify_range(handle, block.get(), count.get());
        versions.await.map(BlockCount::new)
    }

    /// Runs of equal kind from the start of a range, as seen from the second layer and above the
    /// first; at most `most`. What lies at or below the first is absent.
    ///
    /// # Errors
    /// [`LaneError`] when the range is not in a shard that is here, or one of the layers is not read
    /// any more.
    pub async fn extents(
        &self,
        key: ShardKey,
        (above, layer): (Layer, Layer),
        block: BlockIndex,
        count: BlockCount,
        most: usize,
    ) -> Result<Vec<Extent>, LaneError> {
        let handle = self.readable(key, block, count)?;
        let view = View::Between(above, layer);
        self.0
            .extents_of(handle, view, block.get(), count.get(), most)
            .await
    }

    /// Every version above a seq, from a block and layer on, ordered by them, at most `most`; of
    /// `count` blocks, or of all that follow where that is 0. All of it is cut by one layer table.
    ///
    /// # Errors
    /// [`LaneError::NoSuchShard`].
    pub async fn tail(
        &self,
        key: ShardKey,
        above: Seq,
        from: (BlockIndex, Layer),
        count: BlockCount,
        most: usize,
    ) -> Result<Tail, LaneError> {
        let handle = self.handle(key)?;
        let from = (from.0.get(), from.1);
        loop {
            let table = self.0.table_version(handle)?;
            let entries = self.0.tail_of(handle, above, from, count.get(), most);
            let entries = entries.await?;
            if self.0.table_version(handle)? == table {
                return Ok(Tail { table, entries });
            }
        }
    }

    /// Everything that completed before the call is durable when it returns.
    ///
    /// # Errors
    /// [`LaneError::Device`] when the device failed a flush, now or before: nothing is known to
    /// be durable then until the lane is recovered.
    pub async fn flush(&self) -> Result<(), LaneError> {
        let measure = self.measure(Operation::Flush, 0);
        measure.end(self.0.flush().await)
    }

    /// Takes a checkpoint now.
    ///
    /// # Errors
    /// [`LaneError::Device`].
    pub async fn checkpoint(&self) -> Result<(), LaneError> {
        self.0.checkpoint(false).await
    }

    fn measure(&self, operation: Operation, bytes: u64) -> Measure<'_> {
        self.0.reactor.measure(Stage::Log, operation, bytes)
    }

    pub(crate) fn core(&self) -> &CoreRc {
        &self.0
    }

    /// Takes a last checkpoint and stops. Requests that come later are refused.
    pub async fn close(self) {
        let core = self.0;
        core.state.borrow_mut().closing = true;
        core.wake_all();
        // What was admitted completes first, so that the checkpoint covers it.
        loop {
            let mark = core.events.completed.mark();
            let idle = {
                let state = core.state.borrow();
                state.lsns.in_flight() == 0 && state.is_drained()
            };
            if idle {
                break;
            }
            let completed = core.events.completed.after(mark);
            let waited = core
                .reactor
                .timeout(core.options.checkpoint_interval, completed);
            if waited.await.is_err() {
                break;
            }
        }
        if core.flush().await.is_ok() && core.checkpoint(true).await.is_err() {
            tracing::warn!(lane = %core.index, "the last checkpoint failed; recovery will replay");
        }
        core.stopped.set(true);
        core.wake_all();
    }
}

fn plain_entry(handle: Handle, body: Body) -> Entry {
    Entry {
        handle,
        label: Layer::new(0),
        first: 0,
        count: 0,
        seq: Seq::NONE,
        check: 0,
        body,
    }
}

fn record_item(handle: Handle, record: &ShardRecord, reply: Reply) -> Item {
    let entry = plain_entry(handle, Body::Shard(record.encoded()));
    Item::new(entry, Vec::new(), reply)
}

impl State {
    /// Whether the slots can hold references of some more root pages.
    fn has_room_for_roots(&self) -> bool {
        let layout = self.segments.layout();
        let table = u64::from(layout.segments) * 36 + SLOT_OTHER_BYTES + self.tables_bytes();
        let most = layout.slot_bytes.saturating_sub(table) / ROOT_REF_BYTES;
        self.root_pages < most * 3 / 4
    }

    /// Bytes that the layer tables of all shards take in a slot.
    fn tables_bytes(&self) -> u64 {
        self.tables_bytes
    }
}

impl Core {
    /// Admits a write, or refuses it before anything is kept. Estimates that are too high because
    /// deltas were not folded yet are put right first.
    async fn make_room(self: &CoreRc, handle: Handle, blocks: u64) -> Result<(), LaneError> {
        let mut folded = false;
        loop {
            let mark = self.events.sweep_ended.mark();
            let (room, crowded) = {
                let mut state = self.state.borrow_mut();
                let room = state.has_room_of(handle, blocks) && state.has_room_for_roots();
                let crowded = state.is_overlay_full();
                if room && !crowded {
                    state.admit(handle, blocks);
                    return Ok(());
                }
                (room, crowded)
            };
            if room && crowded {
                self.events.sweep_wanted.raise();
                self.events.sweep_ended.after(mark).await;
                continue;
            }
            if folded || self.state.borrow().overlay.is_empty() {
                self.state.borrow_mut().stats.refused += 1;
                return Err(LaneError::NoSpace);
            }
            self.fold_all().await;
            folded = true;
        }
    }

    fn wake_all(&self) {
        self.events.segment_wanted.raise();
        self.events.checkpoint_wanted.raise();
        self.events.checkpoint_ended.raise();
        self.events.sweep_wanted.raise();
        self.events.sweep_ended.raise();
        self.events.relief_wanted.raise();
        self.events.collect_wanted.raise();
        self.events.purge_wanted.raise();
        self.events.completed.raise();
    }

    /// After a while without work the lane logs what is durable, so that recovery can tell damage
    /// from a tail that was never durable.
    pub(crate) async fn run_idle_marks(self: Rc<Self>) {
        let mut marked = 0;
        loop {
            let mark = self.events.completed.mark();
            if self.is_closing() {
                return;
            }
            let due = {
                let state = self.state.borrow();
                state.lsns.durable().get() > marked && state.lsns.in_flight() == 0
            };
            if !due {
                self.events.completed.after(mark).await;
                continue;
            }
            self.reactor.sleep(self.options.idle_after).await;
            if self.events.completed.mark() != mark || self.is_closing() {
                continue;
            }
            let entry = plain_entry(Handle::new(0), Body::Zero);
            let logged = self
                .log_urgent(|reply| Item::new(entry, Vec::new(), reply))
                .await;
            marked = self.state.borrow().lsns.next().get();
            if logged.is_err() {
                return;
            }
        }
    }
}
