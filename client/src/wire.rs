//! The frames that an owner sends, built in one place.

use ashlar_proto::frame::open_meta;
use ashlar_proto::message::{self, Open, Pull, SetLayers, SetState, ShardState};
use ashlar_proto::{
    BlockCount, BlockIndex, Epoch, FrameHeader, FrameKind, Generation, Layer, LayerTable,
    ReplicaId, Seq, ShardIndex, VolumeId,
};
use ashlar_reactor::SharedBuffer;
use ashlar_reactor::link::Frame;

use crate::write_log::Span;

/// What every request of one owner about one shard says of itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp {
    /// The volume.
    pub(crate) volume: VolumeId,
    /// The shard.
    pub(crate) shard: ShardIndex,
    /// The owner's generation.
    pub(crate) generation: Generation,
    /// The shard's epoch.
    pub(crate) epoch: Epoch,
    /// Up to where the shard is settled.
    pub(crate) stable: Seq,
}

impl Stamp {
    /// The same for a replica that is not in sync, or may not be by the time it is told: its horizon
    /// must not move.
    pub(crate) fn without_stable(self) -> Self {
        Self {
            stable: Seq::NONE,
            ..self
        }
    }

    fn header(&self, kind: FrameKind) -> FrameHeader {
        FrameHeader {
            volume: self.volume,
            shard: self.shard,
            generation: self.generation,
            epoch: self.epoch,
            stable: self.stable,
            ..FrameHeader::request(kind, 0)
        }
    }

    fn spanned(&self, kind: FrameKind, layer: Layer, span: Span) -> FrameHeader {
        FrameHeader {
            layer,
            block: span.block,
            count: span.count,
            ..self.header(kind)
        }
    }

    /// Has a replica fetch what it lacks, from a block on and up to a seq.
    pub(crate) fn pull(&self, pull: &Pull, from: BlockIndex, upto: Seq) -> Frame {
        let header = FrameHeader {
            block: from,
            seq: upto,
            ..self.without_stable().header(FrameKind::Pull)
        };
        frame(header, pull.encode())
    }

    /// Fences the shard on a replica.
    pub(crate) fn open(&self, replica: ReplicaId) -> Frame {
        frame(self.header(FrameKind::Open), Open { replica }.encode())
    }

    /// Asks for a page of the tail above `above`, from (`block`, `layer`) on.
    pub(crate) fn tail(&self, above: Seq, block: BlockIndex, layer: Layer) -> Frame {
        let span = Span {
            block,
            count: BlockCount::new(0),
        };
        self.tail_of(above, span, layer)
    }

    /// The same of so many blocks only.
    pub(crate) fn tail_of(&self, above: Seq, span: Span, layer: Layer) -> Frame {
        let header = FrameHeader {
            seq: above,
            ..self.spanned(FrameKind::Tail, layer, span)
        };
        frame(header, Vec::new())
    }

    /// Records a window and a stable.
    pub(crate) fn set_state(&self, state: SetState) -> Frame {
        frame(self.header(FrameKind::SetState), state.encode())
    }

    /// Gives a layer table.
    pub(crate) fn set_layers(&self, table: &LayerTable) -> Frame {
        let table = table.clone();
        frame(
            self.header(FrameKind::SetLayers),
            SetLayers { table }.encode(),
        )
    }

    /// Ends the use of the shard.
    pub(crate) fn close(&self, state: SetState) -> Frame {
        frame(self.header(FrameKind::Close), state.encode())
    }

    /// Reads blocks.
    pub(crate) fn read(&self, layer: Layer, span: Span) -> Frame {
        let stamp = self.without_stable();
        frame(stamp.spanned(FrameKind::Read, layer, span), Vec::new())
    }

    /// Asks whether the shard is still the owner's.
    pub(crate) fn renew(&self) -> Frame {
        frame(self.header(FrameKind::Renew), Vec::new())
    }

    /// Has a replica compare all versions of blocks with their checksums.
    pub(crate) fn verify(&self, layer: Layer, span: Span) -> Frame {
        let stamp = self.without_stable();
        frame(stamp.spanned(FrameKind::Verify, layer, span), Vec::new())
    }

    /// Asks which blocks hold data, of what lies above a layer.
    pub(crate) fn extents(&self, (above, layer): (Layer, Layer), span: Span) -> Frame {
        let stamp = self.without_stable();
        let header = stamp.spanned(FrameKind::Extents, layer, span);
        if above == Layer::default() {
            return frame(header, Vec::new());
        }
        frame(header, message::encode_above(above))
    }

    /// Writes a version of some blocks.
    pub(crate) fn version(&self, layer: Layer, span: Span, seq: Seq, body: &Body) -> Frame {
        match body {
            Body::Zeroes => {
                let header = FrameHeader {
                    seq,
                    ..self.spanned(FrameKind::Zeroes, layer, span)
                };
                frame(header, Vec::new())
            }
            Body::Data { checksums, data } => {
                let header = FrameHeader {
                    seq,
                    data_blocks: u16::try_from(span.count.get()).unwrap_or(u16::MAX),
                    ..self.spanned(FrameKind::Write, layer, span)
                };
                Frame {
                    data: data.clone(),
                    ..frame(header, checksums.to_vec())
                }
            }
        }
    }
}

/// The content of a version.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    /// The blocks read as zeroes.
    Zeroes,
    /// The blocks hold data.
    Data {
        /// The sealed checksums, one for each block.
        checksums: std::rc::Rc<[u8]>,
        /// The blocks.
        data: Vec<SharedBuffer>,
    },
}

impl Body {
    /// Data with checksums that are known already.
    pub(crate) fn with_checksums(checksums: &[u32], data: Vec<SharedBuffer>) -> Self {
        Self::Data {
            checksums: message::encode_checksums(checksums).into(),
            data,
        }
    }

    /// Bytes that it keeps in memory.
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Self::Zeroes => 0,
            Self::Data { data, .. } => data.iter().map(|piece| piece.len() as u64).sum(),
        }
    }
}

/// Makes everything durable that a lane has accepted.
pub(crate) fn flush(generation: Generation) -> Frame {
    let header = FrameHeader {
        generation,
        ..FrameHeader::request(FrameKind::Flush, 0)
    };
    frame(header, Vec::new())
}

/// A frame without payload.
pub(crate) fn frame(header: FrameHeader, meta: Vec<u8>) -> Frame {
    let header = FrameHeader {
        meta_words: u16::try_from(meta.len() / 4).unwrap_or(u16::MAX),
        ..header
    };
    Frame {
        header,
        meta,
        data: Vec::new(),
    }
}

/// Whether a reply repeats all of its request that replies repeat, but for the tag.
pub(crate) fn is_answer(reply: &FrameHeader, request: &FrameHeader) -> bool {
    reply.is_reply
        && reply.kind == request.kind
        && reply.volume == request.volume
        && reply.shard == request.shard
        && reply.block == request.block
        && reply.count == request.count
        && reply.seq == request.seq
}

/// What a frame is about, for people.
pub(crate) fn place_of(header: &FrameHeader) -> impl std::fmt::Display {
    let header = *header;
    std::fmt::from_fn(move |f| {
        write!(
            f,
            "{:?} volume {} shard {} block {} count {} seq {}",
            header.kind, header.volume, header.shard, header.block, header.count, header.seq
        )
    })
}

/// The opened metadata of a reply, or `None` where its checksum does not match.
pub(crate) fn meta_of(reply: &Frame) -> Option<&[u8]> {
    open_meta(&reply.meta).ok()
}

/// The shard state that a reply carries.
pub(crate) fn state_of(reply: &Frame) -> Option<ShardState> {
    ShardState::decode(meta_of(reply)?).ok()
}
