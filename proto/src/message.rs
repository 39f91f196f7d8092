//! What frames carry as metadata: hello, shard state, tails, checksums, versions, extents.
//!
//! Every message is fixed little-endian fields behind the checksum of [`crate::frame::seal_meta`].
//! Decoders take what [`crate::frame::open_meta`] gave, check every length, and never panic.

mod layers;

use crate::address::Address;
use crate::frame::seal_meta;
use crate::ids::{
    BlockCount, BlockIndex, ClusterId, DiskId, Epoch, Generation, LaneIndex, Layer, ReplicaId, Seq,
    Window,
};
use crate::limits::FRAME_META_BYTES_MAX;

pub use layers::{
    SetLayers, SnapshotOf, decode_above, decode_verified, encode_above, encode_verified,
};

/// Metadata was shorter than its message, or a field of it out of range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The metadata ended early.
    #[error("message ends early: {0} bytes missing")]
    Short(usize),
    /// A field holds a value that the protocol does not allow.
    #[error("message field `{0}` is out of range")]
    Field(&'static str),
}

/// Builds metadata field by field.
#[derive(Debug)]
struct Writer(Vec<u8>);

impl Writer {
    fn new() -> Self {
        Self(vec![0; 4])
    }

    fn put(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn seal(mut self) -> Vec<u8> {
        seal_meta(&mut self.0);
        assert!(
            self.0.len() <= FRAME_META_BYTES_MAX,
            "a message fits a frame"
        );
        self.0
    }
}

/// Reads metadata field by field.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], MessageError> {
        let short = N.saturating_sub(self.0.len());
        let (head, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(MessageError::Short(short))?;
        self.0 = rest;
        Ok(*head)
    }

    fn u16(&mut self) -> Result<u16, MessageError> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, MessageError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, MessageError> {
        self.array().map(u64::from_le_bytes)
    }

    fn u128(&mut self) -> Result<u128, MessageError> {
        self.array().map(u128::from_le_bytes)
    }

    fn seq(&mut self, field: &'static str) -> Result<Seq, MessageError> {
        Seq::from_raw(self.u64()?).ok_or(MessageError::Field(field))
    }
}

/// Opens a connection to one lane of one disk; answered by [`HelloReply`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Lowest protocol version that the owner speaks.
    pub version_min: u8,
    /// Highest protocol version that the owner speaks.
    pub version_max: u8,
    /// The lane that every request on this connection is for.
    pub lane: LaneIndex,
    /// The cluster that the owner belongs to.
    pub cluster: ClusterId,
    /// The disk.
    pub disk: DiskId,
}

impl Hello {
    /// The metadata of the frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        Writer::new()
            .put(&[self.version_min, self.version_max])
            .put(&self.lane.get().to_le_bytes())
            .put(&self.cluster.get().to_le_bytes())
            .put(&self.disk.get().to_le_bytes())
            .seal()
    }

    /// Reads it from opened metadata.
    ///
    /// # Errors
    /// [`MessageError`] when it is short or its version range is empty.
    pub fn decode(meta: &[u8]) -> Result<Self, MessageError> {
        let mut reader = Reader(meta);
        let [version_min, version_max] = reader.array()?;
        if version_min > version_max || version_min == 0 {
            return Err(MessageError::Field("version"));
        }
        let lane = LaneIndex::new(reader.u16()?);
        let cluster = ClusterId::new(reader.u128()?);
        Ok(Self {
            version_min,
            version_max,
            lane,
            cluster,
            disk: DiskId::new(reader.u128()?),
        })
    }
}

/// The answer to [`Hello`]; the reply's header carries the lane's incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HelloReply {
    /// The version that both sides speak from here on.
    pub version: u8,
    /// Whether the device loses completed writes at power loss unless they are flushed.
    pub volatile_cache: bool,
}

impl HelloReply {
    /// The metadata of the frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        Writer::new()
            .put(&[self.version, u8::from(self.volatile_cache), 0, 0])
            .seal()
    }

    /// Reads it from opened metadata.
    ///
    /// # Errors
    /// [`MessageError`] when it is short or a flag is neither 0 nor 1.
    pub fn decode(meta: &[u8]) -> Result<Self, MessageError> {
        let [version, volatile, _, _] = Reader(meta).array()?;
        if volatile > 1 {
            return Err(MessageError::Field("volatile_cache"));
        }
        Ok(Self {
            version,
            volatile_cache: volatile == 1,
        })
    }
}

/// Fences a shard: the replica stores the header's generation durably before it answers.
///
/// Names the replica's life, so that a wiped or replaced one never answers for the old.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// The replica that the owner's map names.
    pub replica: ReplicaId,
}

impl Open {
    /// The metadata of the frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        Writer::new().put(&self.replica.get().to_le_bytes()).seal()
    }

    /// Reads it from opened metadata.
    ///
    /// # Errors
    /// [`MessageError::Short`].
    pub fn decode(meta: &[u8]) -> Result<Self, MessageError> {
        Reader(meta).u64().map(|raw| Self {
            replica: ReplicaId::new(raw),
        })
    }
}

/// What a replica durably knows of its shard: the answer to [`FrameKind::Open`] and
/// [`FrameKind::SetState`].
///
/// [`FrameKind::Open`]: crate::FrameKind::Open
/// [`FrameKind::SetState`]: crate::FrameKind::SetState
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardState {
    /// Highest generation seen.
    pub generation: Generation,
    /// Highest epoch seen.
    pub epoch: Epoch,
    /// Highest window recorded.
    pub window: Window,
    /// The horizon: the last stable recorded. Up to it the replica is complete and settled.
    pub stable: Seq,
    /// Highest seq of any block here.
    pub highest: Seq,
    /// A restart may have cost unflushed writes, and no owner has settled it yet.
    pub may_have_lost: bool,
    /// Recovery found that something is missing that was durable, and no owner has settled it yet:
    /// what is above the horizon may not be all that was accepted.
    pub damaged: bool,
    /// For what was missing once, blocks are refused here that may be good elsewhere: it is to be
    /// caught up from the first block on.
    pub suspect: bool,
}

impl ShardState {
    /// The metadata of the frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let flags = u32::from(self.may_have_lost)
            | u32::from(self.damaged) << 1
            | u32::from(self.suspect) << 2;
        Writer::new()
            .put(&self.generation.get().to_le_bytes())
            .put(&self.epoch.get().to_le_bytes())
            .put(&self.window.get().to_le_bytes())
            .put(&flags.to_le_bytes())
            .put(&self.stable.get().to_le_bytes())
            .put(&self.highest.get().to_le_bytes())
            .seal()
    }

    /// Reads it from opened metadata.
    ///
    /// # Errors
    /// [`MessageError`] when it is short or a field out of range.
    pub fn decode(meta: &[u8]) -> Result<Self, MessageError> {
        let mut reader = Reader(meta);
        let generation = Generation::new(reader.u32()?);
        let epoch = Epoch::new(reader.u32()?);
        let window = Window::new(reader.u32()?);
        let flags = reader.u32()?;
        if window > Window::MAX {
            return Err(MessageError::Field("window"));
        }
        if flags > 7 {
            return Err(MessageError::Field("flags"));
        }
        let (stable, highest) = (reader.seq("stable")?, reader.seq("highest")?);
        let is_set = |bit: u32| flags & bit != 0;
        Ok(Self {
            generation,
            epoch,
            window,
            stable,
            highest,
            may_have_lost: is_set(1),
            damaged: is_set(2),
            suspect: is_set(4),
        })
    }
}

/// Records, durably before the answer, each of its fields that is above what the replica knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetState {
    /// The window from which the owner will give seqs.
    pub window: Window,
    /// The new horizon.
    pub stable: Seq,
    /// Clears the marks of what a restart or damage may have cost.
    pub settle: bool,
    /// Every block has been compared with a replica in sync: what is absent here is absent.
    pub caught_up: bool,
}

impl SetState {
    /// The metadata of the frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        Writer::new()
            .put(&self.window.get().to_le_bytes())
            .put(&(u32::from(self.settle) | u32::from(self.caught_up) << 1).to_le_bytes())
            .put(&self.stable.get().to_le_bytes())
            .seal()
    }

    /// Reads it from opened metadata.
    ///
    /// # Errors
    /// [`MessageError`] when it is short or a field out of range.
    pub fn decode(meta: &[u8]) -> Result<Self, MessageError> {
        let mut reader = Reader(meta);
        let window = Window::new(reader.u32()?);
        let flags = reader.u32()?;
        if window > Window::MAX || flags > 3 {
            return Err(MessageError::Field("window"));
        }
        Ok(Self {
            window,
            settle: flags & 1 == 1,
            caught_up: flags & 2 == 2,
            stable: reader.seq("stable")?,
        })
    }
}

/// What a tail tells of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TailKind {
    /// It has data.
    Data,
    /// It reads as zeroes.
    Zero,
    /// The replica cannot tell: the version is this one or an older one, and not readable here.
    Damaged,
}

/// One version of one block, in a tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TailEntry {
    /// The block.
    pub block: BlockIndex,
    /// The layer that wrote it.
    pub layer: Layer,
    /// Its seq; of a damaged one, the highest that it may have.
    pub seq: Seq,
    /// What it is.
    pub kind: TailKind,
}

/// Most entries that one tail reply carries; fewer mean that it was the last page.
///
/// A request names in `block` and `layer` where to start (inclusive, ordered by block and then
/// layer) and in `seq` above which seq entries count; `count` blocks are looked at, all that follow
/// where it is 0.
pub const TAIL_ENTRIES_MAX: usize = 8192;
const TAIL_ENTRY_BYTES: usize = 16;
const _: () = assert!(TAIL_ENTRIES_MAX * TAIL_ENTRY_BYTES + 8 <= FRAME_META_BYTES_MAX);
const ZERO_FLAG: u64 = 1 << 63;
const DAMAGED_FLAG: u64 = 1 << 62;

/// A page of a tail.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tail {
    /// The version of the layer table that it was cut by: pages of different versions cannot be
    /// compared.
    pub table: u32,
    /// The versions, ordered by block and layer.
    pub entries: Vec<TailEntry>,
}

/// The metadata of a tail reply.
///
/// # Panics
/// With more than [`TAIL_ENTRIES_MAX`] entries.
#[must_use]
pub fn encode_tail(table: u32, entries: &[TailEntry]) -> Vec<u8> {
    assert!(
        entries.len() <= TAIL_ENTRIES_MAX,
        "a tail page has at most {TAIL_ENTRIES_MAX}"
    );
    let mut writer = Writer::new().put(&table.to_le_bytes());
    for entry in entries {
        let flag = match entry.kind {
            TailKind::Data => 0,
            TailKind::Zero => ZERO_FLAG,
            TailKind::Damaged => DAMAGED_FLAG,
        };
        writer = writer
            .put(&entry.block.get().to_le_bytes())
            .put(&entry.layer.get().to_le_bytes())
            .put(&(entry.seq.get() | flag).to_le_bytes());
    }
    writer.seal()
}

/// Reads a tail page from opened metadata.
///
/// # Errors
/// [`MessageError`] when an entry is cut or out of range.
pub fn decode_tail(meta: &[u8]) -> Result<Tail, MessageError> {
    let mut reader = Reader(meta);
    let table = reader.u32()?;
    let mut entries = Vec::with_capacity(meta.len() / TAIL_ENTRY_BYTES);
    while !reader.0.is_empty() {
        let (block, layer) = (BlockIndex::new(reader.u32()?), Layer::new(reader.u32()?));
        let raw = reader.u64()?;
        let kind = match raw & (ZERO_FLAG | DAMAGED_FLAG) {
            0 => TailKind::Data,
            ZERO_FLAG => TailKind::Zero,
            DAMAGED_FLAG => TailKind::Damaged,
            _ => return Err(MessageError::Field("kind")),
        };
        let seq = raw & !(ZERO_FLAG | DAMAGED_FLAG);
        let seq = Seq::from_raw(seq).ok_or(MessageError::Field("seq"))?;
        entries.push(TailEntry {
            block,
            layer,
            seq,
            kind,
        });
    }
    Ok(Tail { table, entries })
}

/// Has a replica fetch from another, its source, what it lacks: every version above `above` and up
/// to the header's seq, from the header's block on. Answered by [`Pulled`].
///
/// What only the replica has of the owner's predecessors, and the source does not, is buried under
/// what the source shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pull {
    /// What the source and the replica both have up to here is not looked at.
    pub above: Seq,
    /// The first window of the owner's generation: older ones are its predecessors'.
    pub window: Window,
    /// The cluster of both.
    pub cluster: ClusterId,
    /// The source's disk.
    pub disk: DiskId,
    /// The lane of that disk that has the shard.
    pub lane: LaneIndex,
    /// Where the source's store listens.
    pub address: Address,
}

/// Longest address that a [`Pull`] carries, as text.
const ADDRESS_BYTES_MAX: usize = 255;

impl Pull {
    /// The metadata of the frame.
    ///
    /// # Panics
    /// With an address of more than 255 bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut address = self.address.to_string().into_bytes();
        assert!(address.len() <= ADDRESS_BYTES_MAX, "an address is short");
        address.resize(address.len().next_multiple_of(4), 0);
        Writer::new()
            .put(&self.above.get().to_le_bytes())
            .put(&self.window.get().to_le_bytes())
            .put(&self.cluster.get().to_le_bytes())
            .put(&self.disk.get().to_le_bytes())
            .put(&self.lane.get().to_le_bytes())
            .put(&[0; 2])
            .put(&address)
            .seal()
    }

    /// Reads it from opened metadata.
    ///
    /// # Errors
    /// [`MessageError`] when it is short or a field is out of range.
    pub fn decode(meta: &[u8]) -> Result<Self, MessageError> {
        let mut reader = Reader(meta);
        let above = reader.seq("above")?;
        let window = Window::new(reader.u32()?);
        if window > Window::MAX {
            return Err(MessageError::Field("window"));
        }
        let cluster = ClusterId::new(reader.u128()?);
        let disk = DiskId::new(reader.u128()?);
        let lane = LaneIndex::new(reader.u16()?);
        reader.u16()?;
        let end = reader.0.iter().position(|&byte| byte == 0);
        let text = &reader.0[..end.unwrap_or(reader.0.len())];
        let address = std::str::from_utf8(text).ok();
        let address = address.filter(|text| text.len() <= ADDRESS_BYTES_MAX);
        let address = address.and_then(|text| text.parse().ok());
        Ok(Self {
            above,
            window,
            cluster,
            disk,
            lane,
            address: address.ok_or(MessageError::Field("address"))?,
        })
    }
}

/// How far a [`Pull`] came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pulled {
    /// Where to go on; `None` when the shard is done.
    pub next: Option<BlockIndex>,
    /// Blocks of data that were fetched.
    pub fetched: u32,
    /// Blocks that were made equal without data: zeroes.
    pub zeroed: u32,
    /// Blocks of which the replica had a version that the source does not have.
    pub buried: u32,
}

impl Pulled {
    /// The metadata of the frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let next = self.next.map_or(u64::MAX, |block| u64::from(block.get()));
        Writer::new()
            .put(&next.to_le_bytes())
            .put(&self.fetched.to_le_bytes())
            .put(&self.zeroed.to_le_bytes())
            .put(&self.buried.to_le_bytes())
            .seal()
    }

    /// Reads it from opened metadata.
    ///
    /// # Errors
    /// [`MessageError`] when it is short or a field is out of range.
    pub fn decode(meta: &[u8]) -> Result<Self, MessageError> {
        let mut reader = Reader(meta);
        let next = match reader.u64()? {
            u64::MAX => None,
            block => Some(u32::try_from(block).map_err(|_| MessageError::Field("next"))?),
        };
        Ok(Self {
            next: next.map(BlockIndex::new),
            fetched: reader.u32()?,
            zeroed: reader.u32()?,
            buried: reader.u32()?,
        })
    }
}

/// The metadata of a write: one CRC-32C for each of its blocks.
#[must_use]
pub fn encode_checksums(checksums: &[u32]) -> Vec<u8> {
    let mut writer = Writer(Vec::with_capacity(4 + 4 * checksums.len()));
    writer = writer.put(&[0; 4]);
    for checksum in checksums {
        writer = writer.put(&checksum.to_le_bytes());
    }
    writer.seal()
}

/// Reads `count` checksums from opened metadata.
///
/// # Errors
/// [`MessageError`] when there are fewer or more.
pub fn decode_checksums(meta: &[u8], count: usize) -> Result<Vec<u32>, MessageError> {
    if meta.len() != count * 4 {
        return Err(MessageError::Field("checksums"));
    }
    let mut reader = Reader(meta);
    (0..count).map(|_| reader.u32()).collect()
}

/// What a block of a read reply or of an extent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BlockKind {
    /// Never written in this view: reads as zeroes, or as what lies below the whole volume. Seq 0, but
    /// for a void, see [`Seq::is_void`].
    Absent,
    /// Written as zeroes: no payload.
    Zero,
    /// Holds 4 KiB of data, which the reply carries.
    Data,
}

impl BlockKind {
    fn code(self) -> u64 {
        match self {
            Self::Absent => 0,
            Self::Zero => 1,
            Self::Data => 2,
        }
    }

    fn from_code(code: u64) -> Result<Self, MessageError> {
        match code {
            0 => Ok(Self::Absent),
            1 => Ok(Self::Zero),
            2 => Ok(Self::Data),
            _ => Err(MessageError::Field("kind")),
        }
    }
}

/// One block of a read reply. The payloads of all [`BlockKind::Data`] blocks follow in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadEntry {
    /// What it is.
    pub kind: BlockKind,
    /// The seq of the version returned.
    pub seq: Seq,
    /// CRC-32C of the payload; 0 where there is none.
    pub crc: u32,
}

/// The metadata of a read reply, 12 bytes a block: seq and kind (48 + 2 bits), then checksum.
#[must_use]
pub fn encode_read(entries: &[ReadEntry]) -> Vec<u8> {
    let mut writer = Writer(Vec::with_capacity(4 + 12 * entries.len())).put(&[0; 4]);
    for entry in entries {
        let word = entry.seq.get() | entry.kind.code() << 56;
        writer = writer
            .put(&word.to_le_bytes())
            .put(&entry.crc.to_le_bytes());
    }
    writer.seal()
}

/// Reads the `count` entries of a read reply from opened metadata.
///
/// # Errors
/// [`MessageError`] when there are fewer or more, or one is out of range.
pub fn decode_read(meta: &[u8], count: usize) -> Result<Vec<ReadEntry>, MessageError> {
    if meta.len() != count * 12 {
        return Err(MessageError::Field("entries"));
    }
    let mut reader = Reader(meta);
    let entry = |_| {
        let word = reader.u64()?;
        let kind = BlockKind::from_code(word >> 56)?;
        let seq = Seq::from_raw(word & !(0xff << 56)).ok_or(MessageError::Field("seq"))?;
        Ok(ReadEntry {
            kind,
            seq,
            crc: reader.u32()?,
        })
    };
    (0..count).map(entry).collect()
}

/// A run of blocks of one kind. A reply covers the range asked for from its start, in order,
/// without gaps, and may end early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Blocks in the run.
    pub count: BlockCount,
    /// What they are.
    pub kind: BlockKind,
}

/// Most runs that one extents reply carries.
pub const EXTENTS_MAX: usize = 8192;
const _: () = assert!(EXTENTS_MAX * 8 + 4 <= FRAME_META_BYTES_MAX);

/// The metadata of an extents reply.
///
/// # Panics
/// With more than [`EXTENTS_MAX`] runs.
#[must_use]
pub fn encode_extents(extents: &[Extent]) -> Vec<u8> {
    assert!(
        extents.len() <= EXTENTS_MAX,
        "an extents reply has at most {EXTENTS_MAX}"
    );
    let mut writer = Writer::new();
    for extent in extents {
        let word = u64::from(extent.count.get()) | extent.kind.code() << 32;
        writer = writer.put(&word.to_le_bytes());
    }
    writer.seal()
}

/// Reads the runs of an extents reply from opened metadata.
///
/// # Errors
/// [`MessageError`] when a run is cut, empty or of an unknown kind.
pub fn decode_extents(meta: &[u8]) -> Result<Vec<Extent>, MessageError> {
    let mut reader = Reader(meta);
    let mut extents = Vec::with_capacity(meta.len() / 8);
    while !reader.0.is_empty() {
        let count = BlockCount::new(reader.u32()?);
        let kind = BlockKind::from_code(u64::from(reader.u32()?))?;
        if count.get() == 0 {
            return Err(MessageError::Field("count"));
        }
        extents.push(Extent { count, kind });
    }
    Ok(extents)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::open_meta;

    #[test]
    fn messages_survive_the_wire() {
        let hello = Hello {
            version_min: 1,
            version_max: 2,
            lane: LaneIndex::new(3),
            cluster: ClusterId::new(4),
            disk: DiskId::new(5),
        };
        assert_eq!(
            Hello::decode(open_meta(&hello.encode()).unwrap()).unwrap(),
            hello
        );
        let state = ShardState {
            generation: Generation::new(1),
            epoch: Epoch::new(2),
            window: Window::new(3),
            stable: Window::new(2).burial(),
            highest: Window::new(3).start(),
            may_have_lost: true,
            damaged: false,
            suspect: true,
        };
        assert_eq!(
            ShardState::decode(open_meta(&state.encode()).unwrap()).unwrap(),
            state
        );
        let set = SetState {
            window: Window::new(9),
            stable: Seq::MAX,
            settle: true,
            caught_up: false,
        };
        assert_eq!(
            SetState::decode(open_meta(&set.encode()).unwrap()).unwrap(),
            set
        );
        let reply = HelloReply {
            version: 1,
            volatile_cache: true,
        };
        assert_eq!(
            HelloReply::decode(open_meta(&reply.encode()).unwrap()).unwrap(),
            reply
        );
        for address in ["10.0.0.1:7000", "[::1]:7001", "unix:/run/a.sock"] {
            let pull = Pull {
                above: Window::new(2).burial(),
                window: Window::new(3),
                cluster: ClusterId::new(4),
                disk: DiskId::new(5),
                lane: LaneIndex::new(6),
                address: address.parse().unwrap(),
            };
            assert_eq!(Pull::decode(open_meta(&pull.encode()).unwrap()), Ok(pull));
        }
        for next in [None, Some(BlockIndex::new(u32::MAX))] {
            let pulled = Pulled {
                next,
                fetched: 1,
                zeroed: 2,
                buried: 3,
            };
            let meta = pulled.encode();
            assert_eq!(Pulled::decode(open_meta(&meta).unwrap()), Ok(pulled));
        }
        let open = Open {
            replica: ReplicaId::new(8),
        };
        assert_eq!(
            Open::decode(open_meta(&open.encode()).unwrap()).unwrap(),
            open
        );
    }

    #[test]
    fn lists_survive_the_wire() {
        let seq = Seq::from_raw(0x1234_5678_9abc).unwrap();
        let tail = [
            TailEntry {
                block: BlockIndex::new(1),
                layer: Layer::new(1),
                seq,
                kind: TailKind::Data,
            },
            TailEntry {
                block: BlockIndex::new(2),
                layer: Layer::new(1),
                seq,
                kind: TailKind::Zero,
            },
            TailEntry {
                block: BlockIndex::new(3),
                layer: Layer::new(2),
                seq,
                kind: TailKind::Damaged,
            },
        ];
        assert_eq!(
            decode_tail(open_meta(&encode_tail(3, &tail)).unwrap()).unwrap(),
            Tail {
                table: 3,
                entries: tail.to_vec()
            }
        );
        let entries = [
            ReadEntry {
                kind: BlockKind::Data,
                seq,
                crc: 7,
            },
            ReadEntry {
                kind: BlockKind::Absent,
                seq: Seq::NONE,
                crc: 0,
            },
        ];
        assert_eq!(
            decode_read(open_meta(&encode_read(&entries)).unwrap(), 2).unwrap(),
            entries
        );
        assert!(decode_read(open_meta(&encode_read(&entries)).unwrap(), 3).is_err());
        let extents = [Extent {
            count: BlockCount::new(70_000),
            kind: BlockKind::Zero,
        }];
        assert_eq!(
            decode_extents(open_meta(&encode_extents(&extents)).unwrap()).unwrap(),
            extents
        );
        assert_eq!(
            decode_checksums(open_meta(&encode_checksums(&[1, 2])).unwrap(), 2).unwrap(),
            [1, 2]
        );
    }

    #[test]
    fn cut_messages_are_refused() {
        let meta = ShardState::default().encode();
        for end in 0..meta.len() - 4 {
            assert!(ShardState::decode(&meta[4..4 + end]).is_err());
        }
        assert!(decode_tail(&[0; 19]).is_err() && decode_tail(&[0; 3]).is_err());
        assert!(decode_extents(&[0; 8]).is_err());
    }
}
