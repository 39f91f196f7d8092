//! What a replica does with a request: one function for each kind, over the lane.
//!
//! Checksums are compared before anything is kept; what a reply says is durable is durable.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use ashlar_proto::crc::crc32c;
use ashlar_proto::frame::open_meta;
use ashlar_proto::message::{
    EXTENTS_MAX, Open, Pull, SetLayers, SetState, ShardState, SnapshotOf, TAIL_ENTRIES_MAX,
    decode_above, decode_checksums, encode_extents, encode_read, encode_tail, encode_verified,
};
use ashlar_proto::planted::{Planted, is_planted};
use ashlar_proto::{BLOCK_BYTES, BlockCount, FrameHeader, FrameKind, Incarnation, Layer, Status};
use ashlar_reactor::SharedBuffer;
use ashlar_reactor::channel::Notify;
use ashlar_reactor::link::Frame;

use crate::gate::{Admitted, Gate, Opening, check_stable};
use crate::health::DiskHealth;
use crate::lane::{Lane, LaneError, ShardKey, StateChange};
use crate::pull::Part;
use crate::worker::Plan;

/// Blocks that one extents request looks at: it must not hold up the lane's thread for long. The
/// owner asks on from where the answer ends.
const EXTENT_BLOCKS_AT_ONCE: BlockCount = BlockCount::new(1 << 16);

/// The replicas of one lane.
#[derive(Debug)]
pub(crate) struct Replicas {
    lane: Lane,
    health: Arc<DiskHealth>,
    gates: RefCell<HashMap<ShardKey, Rc<Gate>>>,
    /// Requests under way.
    active: Cell<u32>,
    idle: Notify,
    /// The lane is about to be closed: nothing is admitted any more.
    stopping: Cell<bool>,
}

/// A request that was admitted; counted until it is dropped.
#[derive(Debug)]
pub(crate) struct Request {
    replicas: Rc<Replicas>,
    work: Option<Work>,
    frame: Option<Frame>,
}

/// What a request came to: the payload of a reply.
#[derive(Debug, Default)]
struct Answer {
    meta: Vec<u8>,
    data: Vec<SharedBuffer>,
}

impl Answer {
    fn meta(meta: Vec<u8>) -> Self {
        Self {
            meta,
            data: Vec::new(),
        }
    }
}

/// A request that has passed its checks and waits for the lane.
#[derive(Debug)]
enum Work {
    Open(Opening),
    SetState(Admitted, SetState),
    SetLayers(Admitted, SetLayers),
    Write(Admitted, Vec<u32>),
    Zeroes(Admitted),
    Read(Admitted),
    Verify(Admitted),
    Extents(Admitted, Layer),
    Tail(Admitted),
    Pull(Rc<Gate>, Pull),
    Flush,
    Ping,
}

impl Replicas {
    pub(crate) fn new(lane: Lane, health: Arc<DiskHealth>) -> Rc<Self> {
        let replicas = Rc::new(Self {
            lane,
            health,
            gates: RefCell::default(),
            active: Cell::new(0),
            idle: Notify::new(),
            stopping: Cell::new(false),
        });
        replicas.refresh();
        replicas
    }

    pub(crate) fn lane(&self) -> &Lane {
        &self.lane
    }

    pub(crate) fn incarnation(&self) -> Incarnation {
        self.lane.incarnation()
    }

    /// Makes the gates those of the shards that the lane holds now.
    pub(crate) fn refresh(&self) {
        let mut gates = self.gates.borrow_mut();
        let mut present = HashMap::new();
        for (key, replica, blocks) in self.lane.shards() {
            let known = gates.remove(&key).filter(|gate| gate.replica() == replica);
            let known = known.inspect(|gate| gate.grow(blocks));
            let gate = known.or_else(|| {
                let (_, state) = self.lane.shard_state(key)?;
                Some(Gate::new(key, replica, blocks, state))
            });
            present.extend(gate.map(|gate| (key, gate)));
        }
        *gates = present;
    }

    pub(crate) fn gate(&self, key: ShardKey) -> Option<Rc<Gate>> {
        self.gates.borrow().get(&key).cloned()
    }

    /// Removes, creates and grows shards and changes what is kept for them, durably. The gates are to be refreshed afterwards, whatever
    /// the outcome.
    pub(crate) async fn change(&self, plan: &Plan) -> Result<(), LaneError> {
        let leaving: Vec<_> = plan
            .remove
            .iter()
            .filter_map(|&key| self.gate(key))
            .collect();
        for gate in &leaving {
            gate.shut().await;
        }
        let removed = self.lane.remove_shards(&plan.remove).await;
        if removed.is_err() {
            for gate in &leaving {
                gate.reopen();
            }
        }
        let mut changed = removed;
        if changed.is_ok() {
            changed = self.lane.create_shards(&plan.create).await;
        }
        if changed.is_ok() {
            changed = self.lane.grow_shards(&plan.grow).await;
        }
        if changed.is_ok() {
            changed = self.lane.reserve_shards(&plan.reserve).await;
        }
        if changed == Err(LaneError::Device) {
            self.health
                .fail("the device failed to record a change of its shards".into());
        }
        changed
    }

    /// Admits nothing any more and waits for what was admitted.
    pub(crate) async fn drain(&self) {
        self.stopping.set(true);
        while self.active.get() > 0 {
            self.idle.notified().await;
        }
    }

    /// Checks a request before it waits for anything; what it does to the gate, it does here.
    ///
    /// # Errors
    /// The reply to what cannot be carried out.
    pub(crate) fn begin(self: &Rc<Self>, frame: Frame) -> Result<Request, Frame> {
        match self.admit(&frame) {
            Ok(work) => {
                self.active.set(self.active.get() + 1);
                Ok(Request {
                    replicas: Rc::clone(self),
                    work: Some(work),
                    frame: Some(frame),
                })
            }
            Err(status) => Err(self.reply(&frame.header, Err(status))),
        }
    }

    fn admit(&self, frame: &Frame) -> Result<Work, Status> {
        let header = &frame.header;
        if self.stopping.get() {
            return Err(Status::Unavailable);
        }
        if self.health.has_failed() {
            return Err(Status::Device);
        }
        if header.kind != FrameKind::Write && !frame.data.is_empty() {
            return Err(Status::Malformed);
        }
        match header.kind {
            FrameKind::Ping => return Ok(Work::Ping),
            FrameKind::Flush => return Ok(Work::Flush),
            FrameKind::Hello => return Err(Status::Malformed),
            _ => {}
        }
        let key = ShardKey {
            volume: header.volume,
            shard: header.shard,
        };
        let gate = self.gate(key).ok_or(Status::NoSuchReplica)?;
        let meta = open_meta(&frame.meta).map_err(|_| Status::Malformed)?;
        if header.kind == FrameKind::Open {
            let open = Open::decode(meta).map_err(|_| Status::Malformed)?;
            return gate.begin_open(header, open.replica).map(Work::Open);
        }
        if let FrameKind::ReadSnapshot | FrameKind::SnapshotExtents = header.kind {
            let of = SnapshotOf::decode(meta).map_err(|_| Status::Malformed)?;
            let admitted = gate.admit_reader(header, of.replica)?;
            return Ok(if header.kind == FrameKind::ReadSnapshot {
                Work::Read(admitted)
            } else {
                Work::Extents(admitted, of.above)
            });
        }
        let admitted = gate.admit(header)?;
        let work = match header.kind {
            FrameKind::SetState | FrameKind::Close => {
                let set = SetState::decode(meta).map_err(|_| Status::Malformed)?;
                check_stable(set.stable, gate.state().window.max(set.window))?;
                Work::SetState(admitted, set)
            }
            FrameKind::Write => {
                let count = frame.header.count.get() as usize;
                let checksums = decode_checksums(meta, count).map_err(|_| Status::Malformed)?;
                if !matches(&frame.data, &checksums) {
                    return Err(Status::BadChecksum);
                }
                Work::Write(admitted, checksums)
            }
            FrameKind::Zeroes => Work::Zeroes(admitted),
            FrameKind::Read => Work::Read(admitted),
            FrameKind::Verify => Work::Verify(admitted),
            FrameKind::Extents => {
                let above = decode_above(meta).map_err(|_| Status::Malformed)?;
                Work::Extents(admitted, above)
            }
            FrameKind::SetLayers => {
                let set = SetLayers::decode(meta).map_err(|_| Status::Malformed)?;
                Work::SetLayers(admitted, set)
            }
            FrameKind::Tail => Work::Tail(admitted),
            FrameKind::Renew => Work::Ping,
            FrameKind::Pull => {
                let pull = Pull::decode(meta).map_err(|_| Status::Malformed)?;
                Work::Pull(Rc::clone(&gate), pull)
            }
            _ => return Err(Status::Malformed),
        };
        self.note(&gate, header);
        Ok(work)
    }

    fn note(&self, gate: &Gate, header: &FrameHeader) {
        let noted = gate.note(header);
        if noted.epoch {
            self.lane.note_epoch(gate.key(), header.epoch);
        }
        if noted.stable {
            self.lane.note_stable(gate.key(), header.stable);
        }
    }

    /// What most requests are is done in place; the rest apart, so that the future of each is no larger than
    /// what that takes.
    async fn run(&self, work: Work, frame: Frame) -> Result<Answer, Status> {
        let header = &frame.header;
        match work {
            Work::Ping => Ok(Answer::default()),
            Work::Write(admitted, checksums) => {
                let key = admitted.gate().key();
                let (layer, block, seq) = (header.layer, header.block, header.seq);
                let written = self
                    .lane
                    .write(key, layer, block, seq, frame.data, &checksums);
                self.changed(written.await).map(|()| Answer::default())
            }
            Work::Read(admitted) => {
                let key = admitted.gate().key();
                let read = self
                    .lane
                    .read(key, header.layer, header.block, header.count);
                let (entries, data) = read.await.map_err(LaneError::status)?;
                let meta = encode_read(&entries);
                Ok(Answer { meta, data })
            }
            rarer => Box::pin(self.run_rarer(rarer, header)).await,
        }
    }

    async fn run_rarer(&self, work: Work, header: &FrameHeader) -> Result<Answer, Status> {
        match work {
            Work::Ping | Work::Write(..) | Work::Read(_) => {
                unreachable!("done in place")
            }
            Work::Flush => self
                .changed(self.lane.flush().await)
                .map(|()| Answer::default()),
            Work::Open(opening) => self.open(opening, header).await,
            Work::SetState(admitted, set) => self.set_state(&admitted, header, set).await,
            Work::SetLayers(admitted, set) => {
                let told = self.lane.set_layers(admitted.gate().key(), set.table);
                self.changed(told.await).map(|()| Answer::default())
            }
            Work::Zeroes(admitted) => {
                let key = admitted.gate().key();
                let (layer, block, seq) = (header.layer, header.block, header.seq);
                let zeroed = self.lane.zero(key, layer, block, header.count, seq);
                self.changed(zeroed.await).map(|()| Answer::default())
            }
            Work::Verify(admitted) => {
                let key = admitted.gate().key();
                let verified = self.lane.verify(key, header.block, header.count);
                let versions = verified.await.map_err(LaneError::status)?;
                Ok(Answer::meta(encode_verified(versions)))
            }
            Work::Extents(admitted, above) => {
                let key = admitted.gate().key();
                let (layer, block) = (header.layer, header.block);
                let count = header.count.min(EXTENT_BLOCKS_AT_ONCE);
                let layers = (above, layer);
                let extents = self.lane.extents(key, layers, block, count, EXTENTS_MAX);
                let extents = extents.await.map_err(LaneError::status)?;
                Ok(Answer::meta(encode_extents(&extents)))
            }
            Work::Tail(admitted) => {
                let from = (header.block, header.layer);
                let key = admitted.gate().key();
                let (above, count) = (header.seq, header.count);
                let tail = self.lane.tail(key, above, from, count, TAIL_ENTRIES_MAX);
                let mut tail = tail.await.map_err(LaneError::status)?;
                if is_planted(Planted::ShortTail) {
                    tail.entries.retain(|entry| entry.block.get() % 2 == 0);
                }
                Ok(Answer::meta(encode_tail(tail.table, &tail.entries)))
            }
            Work::Pull(gate, pull) => {
                let part = Part {
                    reactor: self.lane.reactor().clone(),
                    lane: &self.lane,
                    gate,
                    request: *header,
                    pull,
                };
                let pulled = part.run().await;
                if pulled == Err(Status::Device) {
                    self.health
                        .fail("the device failed a write or a flush".into());
                }
                pulled.map(|pulled| Answer::meta(pulled.encode()))
            }
        }
    }

    /// Durable before the answer; nothing that an older owner sent ends after it.
    async fn open(&self, opening: Opening, header: &FrameHeader) -> Result<Answer, Status> {
        let admitted = opening.settled().await?;
        let change = StateChange {
            generation: (!is_planted(Planted::ForgetGeneration)).then_some(header.generation),
            epoch: Some(header.epoch),
            ..StateChange::default()
        };
        let state = self.advance(admitted.gate(), change).await?;
        opening.confirm()?;
        if is_planted(Planted::ForgetGeneration) {
            let generation = header.generation;
            let state = ShardState {
                generation,
                ..state
            };
            admitted.gate().learn(state);
        }
        Ok(Answer::meta(state.encode()))
    }

    async fn set_state(
        &self,
        admitted: &Admitted,
        header: &FrameHeader,
        set: SetState,
    ) -> Result<Answer, Status> {
        let change = StateChange {
            epoch: Some(header.epoch),
            window: Some(set.window),
            stable: Some(set.stable),
            settle: set.settle,
            caught_up: set.caught_up,
            ..StateChange::default()
        };
        let state = self.advance(admitted.gate(), change).await?;
        Ok(Answer::meta(state.encode()))
    }

    async fn advance(&self, gate: &Gate, change: StateChange) -> Result<ShardState, Status> {
        let advanced = self.lane.advance_state(gate.key(), change).await;
        let state = self.changed(advanced)?;
        gate.learn(state);
        Ok(state)
    }

    /// The outcome of a change. A device that fails one cannot be trusted with another.
    fn changed<T>(&self, outcome: Result<T, LaneError>) -> Result<T, Status> {
        if let Err(LaneError::Device) = outcome {
            self.health
                .fail("the device failed a write or a flush".into());
        }
        outcome.map_err(LaneError::status)
    }

    /// The reply to a request, with everything that every reply tells.
    fn reply(&self, request: &FrameHeader, outcome: Result<Answer, Status>) -> Frame {
        let (status, answer) = match outcome {
            Ok(answer) => (Status::Ok, answer),
            Err(status) => (status, Answer::default()),
        };
        let mut header = request.reply(status, self.lane.incarnation());
        let key = ShardKey {
            volume: request.volume,
            shard: request.shard,
        };
        header.room = self.lane.room_of(key);
        let gate = self.gate(key);
        if let Some(gate) = gate {
            header.generation = gate.generation();
            header.epoch = gate.state().epoch;
        }
        Frame::new(header, answer.meta, answer.data)
    }
}

/// Whether the blocks have these checksums.
fn matches(data: &[SharedBuffer], checksums: &[u32]) -> bool {
    let blocks = data
        .iter()
        .flat_map(|piece| piece.chunks_exact(BLOCK_BYTES));
    let mut expected = checksums.iter();
    let all = blocks.map(crc32c).all(|crc| expected.next() == Some(&crc));
    all && expected.next().is_none()
}

impl Request {
    /// Carries it out; gives the reply.
    pub(crate) async fn carry_out(mut self) -> Frame {
        let (work, frame) = (self.work.take(), self.frame.take());
        let (Some(work), Some(frame)) = (work, frame) else {
            unreachable!("a request is carried out once");
        };
        let header = frame.header;
        let outcome = self.replicas.run(work, frame).await;
        self.replicas.reply(&header, outcome)
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        // What it holds of its shard goes first: whoever waits for the lane finds it quiet.
        drop(self.work.take());
        let left = self.replicas.active.get() - 1;
        self.replicas.active.set(left);
        if left == 0 {
            self.replicas.idle.notify_all();
        }
    }
}
