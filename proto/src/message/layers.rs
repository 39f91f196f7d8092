//! Messages about layers: the table that an owner gives a replica, and what readers of snapshots
//! and of changes ask for.

use super::{MessageError, Reader, Writer};
use crate::ids::{BlockCount, Layer, ReplicaId};
use crate::layers::{DROPPED_MAX, INTERVALS_MAX, LayerRange, LayerTable};
use crate::limits::FRAME_META_BYTES_MAX;

const RANGE_BYTES: usize = 8;
const _: () = assert!((INTERVALS_MAX + DROPPED_MAX) * RANGE_BYTES + 16 <= FRAME_META_BYTES_MAX);

/// Has a replica go by this table from now on, if its version is higher than the one it has. Durable
/// before the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetLayers {
    /// The table.
    pub table: LayerTable,
}

impl SetLayers {
    /// The metadata of the frame.
    ///
    /// # Panics
    /// With a table that is not sound.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        assert!(self.table.is_sound(), "an owner gives sound tables only");
        let live = u32::try_from(self.table.live.len()).unwrap_or(u32::MAX);
        let mut writer = Writer::new()
            .put(&self.table.version.to_le_bytes())
            .put(&live.to_le_bytes());
        for run in self.table.live.iter().chain(&self.table.dropped) {
            writer = writer
                .put(&run.low.get().to_le_bytes())
                .put(&run.high.get().to_le_bytes());
        }
        writer.seal()
    }

    /// Reads it from opened metadata.
    ///
    /// # Errors
    /// [`MessageError`] when it is short or the table not sound.
    pub fn decode(meta: &[u8]) -> Result<Self, MessageError> {
        let mut reader = Reader(meta);
        let (version, live) = (reader.u32()?, reader.u32()?);
        let mut runs = Vec::with_capacity(meta.len() / RANGE_BYTES);
        while !reader.0.is_empty() {
            let (low, high) = (reader.u32()?, reader.u32()?);
            runs.push(LayerRange::new(Layer::new(low), Layer::new(high)));
        }
        let live = usize::try_from(live)
            .ok()
            .filter(|live| *live <= runs.len());
        let dropped = runs.split_off(live.ok_or(MessageError::Field("live"))?);
        let table = LayerTable {
            version,
            live: runs,
            dropped,
        };
        if table.is_sound() {
            Ok(Self { table })
        } else {
            Err(MessageError::Field("table"))
        }
    }
}

/// Which replica is asked for a snapshot: readers own nothing, so no generation tells one life of a
/// replica from the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotOf {
    /// The replica that the reader's map names.
    pub replica: ReplicaId,
    /// Of extents: only what lies above this layer counts, all else is absent; 0 for all.
    pub above: Layer,
}

impl SnapshotOf {
    /// The metadata of the frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        Writer::new()
            .put(&self.replica.get().to_le_bytes())
            .put(&self.above.get().to_le_bytes())
            .seal()
    }

    /// Reads it from opened metadata.
    ///
    /// # Errors
    /// [`MessageError::Short`].
    pub fn decode(meta: &[u8]) -> Result<Self, MessageError> {
        let mut reader = Reader(meta);
        Ok(Self {
            replica: ReplicaId::new(reader.u64()?),
            above: Layer::new(reader.u32()?),
        })
    }
}

/// The metadata of an owner's request for extents: only what lies above a layer counts.
#[must_use]
pub fn encode_above(above: Layer) -> Vec<u8> {
    Writer::new().put(&above.get().to_le_bytes()).seal()
}

/// Reads that from opened metadata; without any, everything counts.
///
/// # Errors
/// [`MessageError::Short`].
pub fn decode_above(meta: &[u8]) -> Result<Layer, MessageError> {
    if meta.is_empty() {
        return Ok(Layer::default());
    }
    Reader(meta).u32().map(Layer::new)
}

/// The metadata of the answer to a request to verify: the blocks of data that were read.
#[must_use]
pub fn encode_verified(blocks: BlockCount) -> Vec<u8> {
    Writer::new().put(&blocks.get().to_le_bytes()).seal()
}

/// Reads that from opened metadata.
///
/// # Errors
/// [`MessageError::Short`].
pub fn decode_verified(meta: &[u8]) -> Result<BlockCount, MessageError> {
    Reader(meta).u32().map(BlockCount::new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::open_meta;

    fn run(low: u32, high: u32) -> LayerRange {
        LayerRange::new(Layer::new(low), Layer::new(high))
    }

    #[test]
    fn tables_survive_the_wire_and_unsound_ones_are_refused() {
        let table = LayerTable {
            version: 7,
            live: vec![run(1, 2), run(3, 9)],
            dropped: vec![run(4, 4), run(6, 8)],
        };
        let set = SetLayers { table };
        let meta = set.encode();
        let open = open_meta(&meta).unwrap();
        assert_eq!(SetLayers::decode(open), Ok(set));
        for end in (0..open.len()).filter(|end| end % 4 != 0 || *end < 8) {
            assert!(SetLayers::decode(&open[..end]).is_err());
        }
        let mut bad = open.to_vec();
        bad[4] = 9;
        assert_eq!(SetLayers::decode(&bad), Err(MessageError::Field("live")));
        bad[4] = 4;
        assert_eq!(SetLayers::decode(&bad), Err(MessageError::Field("table")));
    }

    #[test]
    fn what_readers_ask_for_survives_the_wire() {
        let of = SnapshotOf {
            replica: ReplicaId::new(8),
            above: Layer::new(3),
        };
        let meta = of.encode();
        assert_eq!(SnapshotOf::decode(open_meta(&meta).unwrap()), Ok(of));
        let meta = encode_above(Layer::new(4));
        assert_eq!(decode_above(open_meta(&meta).unwrap()), Ok(Layer::new(4)));
        assert_eq!(decode_above(&[]), Ok(Layer::default()));
        let meta = encode_verified(BlockCount::new(5));
        let verified = decode_verified(open_meta(&meta).unwrap());
        assert_eq!(verified, Ok(BlockCount::new(5)));
        assert!(SnapshotOf::decode(&[0; 11]).is_err() && decode_above(&[1]).is_err());
    }
}
