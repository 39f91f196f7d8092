//! Catch-up: a replica fetches from another, its source, what it lacks.
//!
//! The owner drives it with one [`Pull`] after another, each a bounded part of the shard, and sends
//! all newer writes itself meanwhile. Each part asks the source for its tail, compares it with the
//! replica's own ([`plan`]), and fetches or buries what differs.
//!
//! Invariants: nothing is held while the source is waited for: a new owner's open does not wait for
//! an old one's pull, and every version passes the gate when it is stored. What arrives is checked
//! against its checksums and its seq. A part that fails has changed nothing that must be undone:
//! each version it stored is the source's.

mod plan;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use ashlar_proto::crc::crc32c;
use ashlar_proto::frame::{PROTOCOL_VERSION, open_meta};
use ashlar_proto::message::{
    BlockKind, Hello, Pull, Pulled, ReadEntry, TAIL_ENTRIES_MAX, Tail, TailEntry, decode_read,
    decode_tail,
};
use ashlar_proto::{
    BLOCK_BYTES, BlockCount, BlockIndex, FrameHeader, FrameKind, Layer, Seq, Status,
};
use ashlar_reactor::future::join_all;
use ashlar_reactor::link::{self, Frame, Link};
use ashlar_reactor::{Reactor, SharedBuffer};

use crate::gate::Gate;
use crate::lane::Lane;

use plan::{Action, Bounds, Step};

/// How long the source may take to answer anything.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// Blocks of data that one part fetches: 4 MiB, so that its answer does not wait for long.
const PART_BLOCKS: u32 = 1024;
/// Blocks of one read.
const READ_BLOCKS: u32 = 64;
/// Reads of the source at once.
const READS_AT_ONCE: usize = 8;

/// One part of a catch-up.
pub(crate) struct Part<'a> {
    pub(crate) reactor: Reactor,
    pub(crate) lane: &'a Lane,
    pub(crate) gate: Rc<Gate>,
    pub(crate) request: FrameHeader,
    pub(crate) pull: Pull,
}

/// A run of blocks that the source has of one seq, or that go over one orphan.
#[derive(Clone, Copy, Debug)]
struct Span {
    block: BlockIndex,
    count: BlockCount,
    layer: Layer,
    action: Action,
}

/// What the source shows of some blocks.
struct Shown {
    entries: Vec<ReadEntry>,
    data: Vec<SharedBuffer>,
}

impl Part<'_> {
    /// Carries it out.
    ///
    /// # Errors
    /// [`Status::Unavailable`] when the source does not answer as it should,
    /// [`Status::Damaged`] when it cannot give a block that is needed, and what the gate and the
    /// lane say of the versions that are stored.
    pub(crate) async fn run(&self) -> Result<Pulled, Status> {
        let mut source = self.connect().await?;
        let theirs = source.tail(self).await?;
        let (from, all) = ((self.request.block, Layer::new(0)), BlockCount::new(0));
        let (key, above) = (self.gate.key(), self.pull.above);
        let own = self.lane.tail(key, above, from, all, TAIL_ENTRIES_MAX);
        let own = own.await.map_err(crate::lane::LaneError::status)?;
        if own.table != theirs.table {
            // What is one interval here is two there: what each lacks of the other is not seen.
            tracing::debug!(source = %self.pull.address, own = own.table, theirs = theirs.table,
                "the source goes by another layer table");
            return Err(Status::Unavailable);
        }
        let (theirs, their_end) = page(theirs.entries)?;
        let (own, own_end) = page(own.entries)?;
        let end = match (their_end, own_end) {
            (Some(theirs), Some(own)) => Some(theirs.min(own)),
            (end, None) | (None, end) => end,
        };
        let within = |list: Vec<TailEntry>| -> Vec<TailEntry> {
            let is_within = |entry: &TailEntry| end.is_none_or(|end| entry.block < end);
            list.into_iter().filter(is_within).collect()
        };
        let bounds = Bounds {
            upto: self.request.seq,
            window: self.pull.window,
        };
        let steps = plan::compare(&within(theirs), &within(own), bounds);
        let steps = steps.map_err(|plan::SourceDamaged(block)| {
            tracing::warn!(source = %self.pull.address, %block,
                "the source of a catch-up is damaged");
            Status::Damaged
        })?;
        let (spans, stopped_at) = spans(&steps);
        let mut pulled = Pulled {
            next: stopped_at.or(end),
            ..Pulled::default()
        };
        for some in spans.chunks(READS_AT_ONCE) {
            self.make_equal(&mut source, some, &mut pulled).await?;
        }
        Ok(pulled)
    }

    async fn connect(&self) -> Result<Source, Status> {
        let connecting = async {
            let link = link::connect(&self.reactor, &self.pull.address)
                .await
                .ok()?;
            let hello = Hello {
                version_min: PROTOCOL_VERSION,
                version_max: PROTOCOL_VERSION,
                lane: self.pull.lane,
                cluster: self.pull.cluster,
                disk: self.pull.disk,
            };
            let header = FrameHeader::request(FrameKind::Hello, 0);
            let mut source = Source {
                reactor: self.reactor.clone(),
                link,
                tag: 0,
            };
            source.send(header, hello.encode()).await.ok()?;
            let reply = source.receive().await.ok()?;
            (reply.header.status == Status::Ok).then_some(source)
        };
        let connected = self.reactor.timeout(ANSWER_WITHIN, connecting).await;
        connected.ok().flatten().ok_or(Status::Unavailable)
    }

    async fn make_equal(
        &self,
        source: &mut Source,
        spans: &[Span],
        pulled: &mut Pulled,
    ) -> Result<(), Status> {
        let mut asked = BTreeMap::new();
        for &span in spans {
            if !matches!(span.action, Action::Zero(_)) {
                asked.insert(source.read(self, span).await?, span);
            }
        }
        let mut stored = Vec::new();
        while !asked.is_empty() {
            let reply = source.receive().await?;
            let span = asked.remove(&reply.header.tag).ok_or(Status::Unavailable)?;
            let shown = verify(reply, span.count)?;
            stored.push(async move { self.store_shown(span, shown).await });
        }
        let zeroed = spans.iter().map(|span| async move {
            match span.action {
                Action::Zero(seq) => self.zero(*span, seq).await,
                _ => Ok(()),
            }
        });
        for outcome in join_all(zeroed).await {
            outcome?;
        }
        for outcome in join_all(stored).await {
            outcome?;
        }
        for span in spans {
            let counter = match span.action {
                Action::Copy(_) => &mut pulled.fetched,
                Action::Zero(_) => &mut pulled.zeroed,
                Action::Bury(_) => &mut pulled.buried,
            };
            *counter += span.count.get();
        }
        Ok(())
    }

    /// Stores what the source shows of a span, block by block where it is not all one version.
    async fn store_shown(&self, span: Span, shown: Shown) -> Result<(), Status> {
        if let Action::Copy(seq) = span.action
            && shown
                .entries
                .iter()
                .all(|e| (e.seq, e.kind) == (seq, BlockKind::Data))
        {
            let checksums: Vec<u32> = shown.entries.iter().map(|entry| entry.crc).collect();
            return self.write(span, seq, shown.data, &checksums).await;
        }
        let mut blocks = shown.data.iter().flat_map(split);
        for (at, entry) in (0..).zip(&shown.entries) {
            let one = Span {
                block: BlockIndex::new(span.block.get() + at),
                count: BlockCount::new(1),
                ..span
            };
            let data = (entry.kind == BlockKind::Data)
                .then(|| blocks.next())
                .flatten();
            // Overwritten meanwhile: the owner has sent that here, too.
            if entry.seq > self.request.seq {
                continue;
            }
            let seq = match span.action {
                Action::Copy(seq) | Action::Zero(seq) if entry.seq == seq => seq,
                // Neither the version of the tail nor one that the owner has sent since.
                Action::Copy(_) | Action::Zero(_) => return Err(Status::Unavailable),
                Action::Bury(orphan) if entry.seq > orphan => entry.seq,
                Action::Bury(orphan) => self.grave_of(one, orphan, entry).await?,
            };
            match data {
                Some(block) => self.write(one, seq, vec![block], &[entry.crc]).await?,
                // Zeroes under such a seq say that there is nothing.
                None if entry.kind == BlockKind::Zero && seq.is_void() => {
                    let mut block = self.reactor.buffer(BLOCK_BYTES);
                    block.fill(0);
                    let zeroes = block.freeze();
                    self.write(one, seq, vec![zeroes], &[zeroes_crc()]).await?;
                }
                None => self.zero(one, seq).await?,
            }
        }
        Ok(())
    }

    /// The seq under which an orphan is buried: the last one of its window. An orphan that has it
    /// itself was put there by an owner that came no further, and may stay if it says the same.
    async fn grave_of(&self, span: Span, orphan: Seq, shown: &ReadEntry) -> Result<Seq, Status> {
        let grave = orphan.window().burial();
        if orphan < grave {
            return Ok(grave);
        }
        let own = self
            .lane
            .read(self.gate.key(), span.layer, span.block, span.count);
        let (own, _) = own.await.map_err(crate::lane::LaneError::status)?;
        let content = |entry: &ReadEntry| match entry.kind {
            BlockKind::Data => Some(entry.crc),
            BlockKind::Zero => Some(zeroes_crc()),
            BlockKind::Absent => None,
        };
        if own.iter().all(|own| content(own) == content(shown)) {
            return Ok(grave);
        }
        tracing::error!(shard = %self.gate.key().shard, block = %span.block, seq = %orphan,
            "a block cannot be caught up: it holds another content under a seq that no other \
             may outrank; replace this replica");
        Err(Status::Damaged)
    }

    async fn write(
        &self,
        span: Span,
        seq: Seq,
        data: Vec<SharedBuffer>,
        checksums: &[u32],
    ) -> Result<(), Status> {
        let blocks = u16::try_from(span.count.get()).unwrap_or(u16::MAX);
        let header = self.stamped(FrameKind::Write, span, seq, blocks);
        let admitted = self.gate.admit(&header)?;
        let key = admitted.gate().key();
        let written = self
            .lane
            .write(key, span.layer, span.block, seq, data, checksums);
        written.await.map_err(crate::lane::LaneError::status)
    }

    async fn zero(&self, span: Span, seq: Seq) -> Result<(), Status> {
        let header = self.stamped(FrameKind::Zeroes, span, seq, 0);
        let admitted = self.gate.admit(&header)?;
        let key = admitted.gate().key();
        let zeroed = self.lane.zero(key, span.layer, span.block, span.count, seq);
        zeroed.await.map_err(crate::lane::LaneError::status)
    }

    /// A request for a span in the name of the owner that drives the catch-up.
    fn stamped(&self, kind: FrameKind, span: Span, seq: Seq, data_blocks: u16) -> FrameHeader {
        FrameHeader {
            kind,
            block: span.block,
            count: span.count,
            layer: span.layer,
            seq,
            data_blocks,
            meta_words: 0,
            ..self.request
        }
    }
}

/// The checksum of a block of zeroes.
fn zeroes_crc() -> u32 {
    crc32c(&[0; BLOCK_BYTES])
}

/// The connection to the source.
struct Source {
    reactor: Reactor,
    link: Link,
    tag: u32,
}

impl Source {
    async fn send(&mut self, header: FrameHeader, meta: Vec<u8>) -> Result<u32, Status> {
        self.tag += 1;
        let header = FrameHeader {
            tag: self.tag,
            meta_words: u16::try_from(meta.len() / 4).unwrap_or(u16::MAX),
            ..header
        };
        let sent = self.link.send(Frame::new(header, meta, Vec::new())).await;
        sent.map_err(|_| Status::Unavailable)?;
        Ok(self.tag)
    }

    async fn receive(&self) -> Result<Frame, Status> {
        let reply = self.reactor.timeout(ANSWER_WITHIN, self.link.recv()).await;
        let reply = reply.map_err(|_| Status::Unavailable)?;
        let reply = reply.map_err(|_| Status::Unavailable)?;
        match reply.header.status {
            Status::Ok if reply.header.is_reply => Ok(reply),
            Status::Damaged => Err(Status::Damaged),
            status => {
                tracing::debug!(source = self.link.peer(), ?status, "the source refuses");
                Err(Status::Unavailable)
            }
        }
    }

    async fn tail(&mut self, part: &Part<'_>) -> Result<Tail, Status> {
        let header = FrameHeader {
            kind: FrameKind::Tail,
            seq: part.pull.above,
            stable: Seq::NONE,
            ..part.request
        };
        self.send(header, Vec::new()).await?;
        let reply = self.receive().await?;
        let meta = open_meta(&reply.meta).map_err(|_| Status::Unavailable)?;
        decode_tail(meta).map_err(|_| Status::Unavailable)
    }

    async fn read(&mut self, part: &Part<'_>, span: Span) -> Result<u32, Status> {
        let header = part.stamped(FrameKind::Read, span, Seq::NONE, 0);
        let header = FrameHeader {
            stable: Seq::NONE,
            ..header
        };
        self.send(header, Vec::new()).await
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.link.close();
    }
}

/// A page of a tail, and from which block on it says nothing; `None` for the last one.
fn page(mut entries: Vec<TailEntry>) -> Result<(Vec<TailEntry>, Option<BlockIndex>), Status> {
    if entries.len() < TAIL_ENTRIES_MAX {
        return Ok((entries, None));
    }
    // The last block may have more layers on the next page.
    let end = entries.last().map(|entry| entry.block);
    entries.retain(|entry| Some(entry.block) < end);
    if entries.is_empty() {
        return Err(Status::Unavailable);
    }
    Ok((entries, end))
}

/// Runs of equal steps, as many as one part fetches, and the block where it stops before the end.
fn spans(steps: &[Step]) -> (Vec<Span>, Option<BlockIndex>) {
    let mut spans: Vec<Span> = Vec::new();
    let mut blocks = 0;
    for step in steps {
        // Never within a block: what is left of it would be compared from its first layer again.
        let is_new_block = spans
            .last()
            .is_none_or(|last| last.block.get() + last.count.get() <= step.block.get());
        if blocks >= PART_BLOCKS && is_new_block {
            return (spans, Some(step.block));
        }
        blocks += u32::from(!matches!(step.action, Action::Zero(_)));
        let continues = |last: &&mut Span| {
            (last.layer, last.action) == (step.layer, step.action)
                && last.block.get() + last.count.get() == step.block.get()
                && last.count.get() < READ_BLOCKS
        };
        match spans.last_mut().filter(continues) {
            Some(last) => last.count = last.count.next(),
            None => spans.push(Span {
                block: step.block,
                count: BlockCount::new(1),
                layer: step.layer,
                action: step.action,
            }),
        }
    }
    (spans, None)
}

/// What a reply shows, if all of it holds.
fn verify(reply: Frame, count: BlockCount) -> Result<Shown, Status> {
    let meta = open_meta(&reply.meta).map_err(|_| Status::Unavailable)?;
    let entries = decode_read(meta, count.get() as usize).map_err(|_| Status::Unavailable)?;
    let mut blocks = reply
        .data
        .iter()
        .flat_map(|piece| piece.chunks_exact(BLOCK_BYTES));
    let with_data = entries.iter().filter(|entry| entry.kind == BlockKind::Data);
    let mut all = with_data.map(|entry| (blocks.next(), entry.crc));
    let matches = all.all(|(block, crc)| block.is_some_and(|block| crc32c(block) == crc));
    drop(all);
    if !matches || blocks.next().is_some() {
        return Err(Status::Unavailable);
    }
    Ok(Shown {
        entries,
        data: reply.data,
    })
}

/// The blocks of a piece.
fn split(piece: &SharedBuffer) -> impl Iterator<Item = SharedBuffer> + '_ {
    (0..piece.len() / BLOCK_BYTES).map(|at| piece.slice(at * BLOCK_BYTES..(at + 1) * BLOCK_BYTES))
}
