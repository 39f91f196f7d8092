//! The frame of the data plane: one fixed 64-byte little-endian header, then metadata, then blocks.
//!
//! ```text
//!  0 magic u32 "ASHL"   4 version u8   5 kind u8     6 status u16 (code 12, room 2)
//!  8 tag u32           12 meta_words u16            14 data_blocks u16
//! 16 volume u64        24 shard u32                 28 layer u32 | reply: incarnation
//! 32 generation u32    36 epoch u32                 40 block u32      44 count u32
//! 48 seq u48           54 stable u48                60 crc u32 (CRC-32C of bytes 0..60)
//! ```
//!
//! Metadata is `4 × meta_words` bytes; where there is any, its first four bytes are the CRC-32C of
//! the rest. Then come `data_blocks` blocks of 4 KiB, each covered by a checksum in the metadata.
//! Every field is checked on receipt; a header that fails ends the connection, for the stream can
//! no longer be trusted to be in step.

use crate::ids::{
    BlockCount, BlockIndex, Epoch, Generation, Incarnation, Layer, Seq, ShardIndex, VolumeId,
};
use crate::limits::{BLOCK_BYTES, FRAME_DATA_BLOCKS_MAX};
use crate::status::{RoomHint, Status};

/// Bytes of a frame's header.
pub const FRAME_HEADER_BYTES: usize = 64;

/// The version of header and messages that this build speaks; negotiated at hello.
pub const PROTOCOL_VERSION: u8 = 1;

const MAGIC: u32 = u32::from_le_bytes(*b"ASHL");
const REPLY_BIT: u8 = 0x80;

/// What a frame asks for or answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FrameKind {
    /// First frame of a connection: versions, cluster, disk, lane.
    Hello,
    /// Fences a shard by generation and asks for its state.
    Open,
    /// Asks for a page of the (layer, block, seq) above a given seq.
    Tail,
    /// Records a window and a stable, durably.
    SetState,
    /// Writes blocks.
    Write,
    /// Makes blocks read as zeroes.
    Zeroes,
    /// Reads blocks with their seqs and checksums.
    Read,
    /// Makes all accepted writes durable.
    Flush,
    /// Asks which blocks hold data.
    Extents,
    /// Asks for nothing: shows that the other side lives.
    Ping,
    /// Ends the owner's use of a shard cleanly.
    Close,
    /// Has a replica fetch from another what it lacks, a bounded part at a time.
    Pull,
    /// Asks a replica whether the shard is still the owner's: renews the read lease.
    Renew,
    /// Has a replica read every version of blocks, of all layers, compare it with its checksum, and
    /// send none.
    Verify,
    /// Gives a replica a layer table, durably.
    SetLayers,
    /// Reads blocks of a snapshot, for whoever asks: it names the replica instead of a generation.
    ReadSnapshot,
    /// Asks which blocks of a snapshot hold data, likewise; or which have changed since another.
    SnapshotExtents,
}

impl FrameKind {
    const ALL: [Self; 17] = [
        Self::Hello,
        Self::Open,
        Self::Tail,
        Self::SetState,
        Self::Write,
        Self::Zeroes,
        Self::Read,
        Self::Flush,
        Self::Extents,
        Self::Ping,
        Self::Close,
        Self::Pull,
        Self::Renew,
        Self::Verify,
        Self::SetLayers,
        Self::ReadSnapshot,
        Self::SnapshotExtents,
    ];

    /// The code on the wire, from 1.
    #[must_use]
    pub fn code(self) -> u8 {
        let position = Self::ALL.iter().position(|&kind| kind == self).unwrap_or(0);
        u8::try_from(position + 1).unwrap_or(0)
    }

    /// The kind of a code, or `None` for one that this version does not know.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        usize::from(code)
            .checked_sub(1)
            .and_then(|i| Self::ALL.get(i))
            .copied()
    }
}

/// A frame's header, decoded and checked.
///
/// Fields that a kind does not use are zero. In a reply `layer` carries the incarnation: use
/// [`FrameHeader::incarnation`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// What it asks for or answers.
    pub kind: FrameKind,
    /// Whether this is the answer.
    pub is_reply: bool,
    /// The outcome; [`Status::Ok`] in requests.
    pub status: Status,
    /// How full the answering lane is; [`RoomHint::Ample`] in requests.
    pub room: RoomHint,
    /// Pairs a reply with its request; unique among those in flight on the connection.
    pub tag: u32,
    /// Metadata that follows, in units of 4 bytes.
    pub meta_words: u16,
    /// 4 KiB blocks that follow the metadata.
    pub data_blocks: u16,
    /// The volume.
    pub volume: VolumeId,
    /// The shard.
    pub shard: ShardIndex,
    /// The layer of a write or the layer to read at; the incarnation in replies.
    pub layer: Layer,
    /// The owner's generation; in replies the highest that the replica has seen.
    pub generation: Generation,
    /// The owner's epoch; in replies the replica's.
    pub epoch: Epoch,
    /// The first block.
    pub block: BlockIndex,
    /// The number of blocks.
    pub count: BlockCount,
    /// The seq of a write.
    pub seq: Seq,
    /// Up to here every in-sync replica holds every write durably.
    pub stable: Seq,
}

/// A header that cannot be trusted. The connection that carried it is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The first four bytes are not a frame's.
    #[error("not a frame: magic {found:#010x}")]
    Magic {
        /// What stood there.
        found: u32,
    },
    /// The header's checksum does not match.
    #[error("frame header is corrupt: CRC {found:#010x}, computed {computed:#010x}")]
    Crc {
        /// What stood there.
        found: u32,
        /// What it should have been.
        computed: u32,
    },
    /// The other side speaks a version that was not agreed at hello.
    #[error("frame version {found} was not agreed")]
    Version {
        /// What stood there.
        found: u8,
    },
    /// A kind that this version does not know.
    #[error("unknown frame kind {found:#04x}")]
    Kind {
        /// What stood there.
        found: u8,
    },
    /// A status or room hint that this version does not know.
    #[error("unknown frame status {found:#06x}")]
    Status {
        /// What stood there.
        found: u16,
    },
    /// More payload than a frame may carry.
    #[error("frame of {blocks} blocks exceeds the limit")]
    TooLarge {
        /// The blocks announced.
        blocks: u16,
    },
    /// The metadata's checksum does not match.
    #[error("frame metadata is corrupt")]
    Meta,
}

impl FrameHeader {
    /// A request with all fields but the kind and the tag at zero.
    #[must_use]
    pub fn request(kind: FrameKind, tag: u32) -> Self {
        Self {
            kind,
            is_reply: false,
            status: Status::Ok,
            room: RoomHint::Ample,
            tag,
            meta_words: 0,
            data_blocks: 0,
            volume: VolumeId::new(0),
            shard: ShardIndex::new(0),
            layer: Layer::new(0),
            generation: Generation::new(0),
            epoch: Epoch::new(0),
            block: BlockIndex::new(0),
            count: BlockCount::new(0),
            seq: Seq::NONE,
            stable: Seq::NONE,
        }
    }

    /// The answer to `self`: same kind, tag, place and seq, no payload yet.
    #[must_use]
    pub fn reply(&self, status: Status, incarnation: Incarnation) -> Self {
        Self {
            is_reply: true,
            status,
            meta_words: 0,
            data_blocks: 0,
            layer: Layer::new(incarnation.get()),
            ..*self
        }
    }

    /// The incarnation of the lane that gave this reply.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        Incarnation::new(self.layer.get())
    }

    /// Bytes of metadata after the header.
    #[must_use]
    pub fn meta_bytes(&self) -> usize {
        usize::from(self.meta_words) * 4
    }

    /// Bytes of blocks after the metadata.
    #[must_use]
    pub fn data_bytes(&self) -> usize {
        usize::from(self.data_blocks) * BLOCK_BYTES
    }

    /// The 64 bytes on the wire.
    #[must_use]
    pub fn encode(&self) -> [u8; FRAME_HEADER_BYTES] {
        let mut bytes = [0u8; FRAME_HEADER_BYTES];
        let reply = if self.is_reply { REPLY_BIT } else { 0 };
        let status = self.status.code() | self.room.bits() << 12;
        bytes[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4] = PROTOCOL_VERSION;
        bytes[5] = self.kind.code() | reply;
        bytes[6..8].copy_from_slice(&status.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.tag.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.meta_words.to_le_bytes());
        bytes[14..16].copy_from_slice(&self.data_blocks.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.volume.get().to_le_bytes());
        bytes[24..28].copy_from_slice(&self.shard.get().to_le_bytes());
        bytes[28..32].copy_from_slice(&self.layer.get().to_le_bytes());
        bytes[32..36].copy_from_slice(&self.generation.get().to_le_bytes());
        bytes[36..40].copy_from_slice(&self.epoch.get().to_le_bytes());
        bytes[40..44].copy_from_slice(&self.block.get().to_le_bytes());
        bytes[44..48].copy_from_slice(&self.count.get().to_le_bytes());
        bytes[48..54].copy_from_slice(&self.seq.get().to_le_bytes()[..6]);
        bytes[54..60].copy_from_slice(&self.stable.get().to_le_bytes()[..6]);
        let crc = crate::crc::crc32c(&bytes[..60]);
        bytes[60..64].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads and checks the 64 bytes.
    ///
    /// # Errors
    /// [`FrameError`] for the first check that fails; the connection must then be closed.
    pub fn decode(bytes: &[u8; FRAME_HEADER_BYTES]) -> Result<Self, FrameError> {
        let magic = u32_at(bytes, 0);
        if magic != MAGIC {
            return Err(FrameError::Magic { found: magic });
        }
        let (found, computed) = (u32_at(bytes, 60), crate::crc::crc32c(&bytes[..60]));
        if found != computed {
            return Err(FrameError::Crc { found, computed });
        }
        if bytes[4] != PROTOCOL_VERSION {
            return Err(FrameError::Version { found: bytes[4] });
        }
        let kind = FrameKind::from_code(bytes[5] & !REPLY_BIT);
        let kind = kind.ok_or(FrameError::Kind { found: bytes[5] })?;
        let raw_status = u16_at(bytes, 6);
        let status = Status::from_code(raw_status & 0xfff);
        let room = RoomHint::from_bits(raw_status >> 12);
        let (Some(status), Some(room)) = (status, room) else {
            return Err(FrameError::Status { found: raw_status });
        };
        let data_blocks = u16_at(bytes, 14);
        if data_blocks > FRAME_DATA_BLOCKS_MAX {
            return Err(FrameError::TooLarge {
                blocks: data_blocks,
            });
        }
        Ok(Self {
            kind,
            is_reply: bytes[5] & REPLY_BIT != 0,
            status,
            room,
            tag: u32_at(bytes, 8),
            meta_words: u16_at(bytes, 12),
            data_blocks,
            volume: VolumeId::new(u64_at(bytes, 16)),
            shard: ShardIndex::new(u32_at(bytes, 24)),
            layer: Layer::new(u32_at(bytes, 28)),
            generation: Generation::new(u32_at(bytes, 32)),
            epoch: Epoch::new(u32_at(bytes, 36)),
            block: BlockIndex::new(u32_at(bytes, 40)),
            count: BlockCount::new(u32_at(bytes, 44)),
            seq: seq_at(bytes, 48),
            stable: seq_at(bytes, 54),
        })
    }
}

/// Puts the checksum in front of `meta` (whose first four bytes are reserved for it) and pads it
/// to whole words.
///
/// # Panics
/// When `meta` is shorter than the reserved four bytes.
pub fn seal_meta(meta: &mut Vec<u8>) {
    assert!(
        meta.len() >= 4,
        "metadata begins with room for its checksum"
    );
    meta.resize(meta.len().next_multiple_of(4), 0);
    let crc = crate::crc::crc32c(&meta[4..]);
    meta[..4].copy_from_slice(&crc.to_le_bytes());
}

/// Checks the checksum in front of `meta` and gives what follows it; empty metadata is good.
///
/// # Errors
/// [`FrameError::Meta`] when it does not match.
pub fn open_meta(meta: &[u8]) -> Result<&[u8], FrameError> {
    let Some((crc, rest)) = meta.split_first_chunk::<4>() else {
        return if meta.is_empty() {
            Ok(meta)
        } else {
            Err(FrameError::Meta)
        };
    };
    let matches = u32::from_le_bytes(*crc) == crate::crc::crc32c(rest);
    if matches {
        Ok(rest)
    } else {
        Err(FrameError::Meta)
    }
}

fn u16_at(bytes: &[u8; FRAME_HEADER_BYTES], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8; FRAME_HEADER_BYTES], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8; FRAME_HEADER_BYTES], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

fn seq_at(bytes: &[u8; FRAME_HEADER_BYTES], at: usize) -> Seq {
    let raw = u64::from(u32_at(bytes, at)) | u64::from(u16_at(bytes, at + 4)) << 32;
    Seq::from_raw(raw).unwrap_or(Seq::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Window;

    fn sample() -> FrameHeader {
        FrameHeader {
            meta_words: 5,
            data_blocks: 2,
            volume: VolumeId::new(0x0102_0304_0506_0708),
            shard: ShardIndex::new(9),
            layer: Layer::new(1),
            generation: Generation::new(17),
            epoch: Epoch::new(4),
            block: BlockIndex::new(0x000a_bcde),
            count: BlockCount::new(2),
            seq: Window::new(6).start().next_in_window().unwrap(),
            stable: Window::new(5).burial(),
            ..FrameHeader::request(FrameKind::Write, 0xdead_beef)
        }
    }

    /// The bytes of version 1. A change here is a change of the protocol: raise its version.
    #[test]
    fn golden_write_header() {
        let golden = include_str!("../golden/frame-write-v1.hex");
        let hex: String = sample()
            .encode()
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        assert_eq!(hex, golden.trim());
    }

    #[test]
    fn header_survives_the_wire() {
        for header in [
            sample(),
            sample().reply(Status::NoSpace, Incarnation::new(77)),
        ] {
            assert_eq!(FrameHeader::decode(&header.encode()).unwrap(), header);
        }
    }

    #[test]
    fn each_flipped_bit_is_refused() {
        let good = sample().encode();
        for bit in 0..FRAME_HEADER_BYTES * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(FrameHeader::decode(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn oversized_payload_is_refused() {
        let header = FrameHeader {
            data_blocks: FRAME_DATA_BLOCKS_MAX + 1,
            ..sample()
        };
        let error = FrameHeader::decode(&header.encode()).unwrap_err();
        assert_eq!(
            error,
            FrameError::TooLarge {
                blocks: FRAME_DATA_BLOCKS_MAX + 1
            }
        );
    }

    #[test]
    fn meta_checksum_guards_its_text() {
        let mut meta = vec![0; 4];
        meta.extend_from_slice(b"hello");
        seal_meta(&mut meta);
        assert_eq!(open_meta(&meta).unwrap(), b"hello\0\0\0");
        meta[5] ^= 1;
        assert_eq!(open_meta(&meta), Err(FrameError::Meta));
        assert_eq!(open_meta(&[]).unwrap(), b"");
        assert_eq!(open_meta(&[1]), Err(FrameError::Meta));
    }
}
