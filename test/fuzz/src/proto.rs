//! Headers of frames and the messages behind them.
//!
//! The first byte of an input says which; the rest is what came over the wire. What is accepted
//! must survive being encoded again.

use ashlar_proto::frame::{open_meta, seal_meta};
use ashlar_proto::message::{
    Hello, HelloReply, Open, Pull, Pulled, SetLayers, SetState, ShardState, SnapshotOf,
    decode_checksums, decode_extents, decode_read, decode_tail, encode_checksums, encode_extents,
    encode_read, encode_tail,
};
use ashlar_proto::{FRAME_HEADER_BYTES, FrameHeader};

/// Kinds of messages, by the first byte of an input.
const KINDS: u8 = 14;

/// Inputs of every kind: zeroes, which most decoders take, and short ones.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for kind in 0..KINDS {
        for len in [0, 4, 12, 24, 64, 128] {
            let mut seed = vec![kind];
            seed.resize(1 + len, u8::from(kind == 1));
            seeds.push(seed);
        }
    }
    seeds
}

/// Runs one input.
pub(crate) fn run(input: &[u8]) -> u64 {
    let Some((&kind, bytes)) = input.split_first() else {
        return 0;
    };
    let kind = kind % KINDS;
    let accepted = match kind {
        0 => header(bytes),
        1 => open_meta(bytes).is_ok(),
        2 => message(bytes, |m| Hello::decode(m).ok(), Hello::encode),
        3 => message(bytes, |m| HelloReply::decode(m).ok(), HelloReply::encode),
        4 => message(bytes, |m| Open::decode(m).ok(), Open::encode),
        5 => message(bytes, |m| SetState::decode(m).ok(), SetState::encode),
        6 => message(bytes, |m| ShardState::decode(m).ok(), ShardState::encode),
        7 => message(
            bytes,
            |m| decode_tail(m).ok(),
            |tail| encode_tail(tail.table, &tail.entries),
        ),
        8 => {
            let crcs = bytes.len() / 4;
            message(
                bytes,
                |m| decode_checksums(m, crcs).ok(),
                |crcs| encode_checksums(crcs),
            ) | message(
                bytes,
                |m| decode_read(m, bytes.len() / 12).ok(),
                |entries| encode_read(entries),
            )
        }
        9 => message(bytes, |m| decode_extents(m).ok(), |all| encode_extents(all)),
        10 => message(bytes, |m| Pull::decode(m).ok(), Pull::encode),
        11 => message(bytes, |m| SetLayers::decode(m).ok(), SetLayers::encode),
        12 => message(bytes, |m| SnapshotOf::decode(m).ok(), SnapshotOf::encode),
        _ => message(bytes, |m| Pulled::decode(m).ok(), Pulled::encode),
    };
    u64::from(kind) << 32 | u64::from(accepted) << 16 | (bytes.len() as u64).min(64)
}

/// A header with a checksum that fits, and one without.
fn header(bytes: &[u8]) -> bool {
    let mut raw = [0; FRAME_HEADER_BYTES];
    let len = bytes.len().min(FRAME_HEADER_BYTES);
    raw[..len].copy_from_slice(&bytes[..len]);
    let as_it_came = FrameHeader::decode(&raw);
    // The checksum is the last field: all else is what it covers.
    let crc = ashlar_proto::crc::crc32c(&raw[..FRAME_HEADER_BYTES - 4]);
    raw[FRAME_HEADER_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
    let sealed = FrameHeader::decode(&raw);
    for header in [as_it_came, sealed].into_iter().flatten() {
        assert_eq!(FrameHeader::decode(&header.encode()), Ok(header));
    }
    sealed.is_ok()
}

/// Decodes `bytes`; what is accepted is encoded and decoded again.
fn message<T: PartialEq + std::fmt::Debug>(
    bytes: &[u8],
    decode: impl Fn(&[u8]) -> Option<T>,
    encode: impl Fn(&T) -> Vec<u8>,
) -> bool {
    let mut sealed = vec![0; 4];
    sealed.extend_from_slice(bytes);
    seal_meta(&mut sealed);
    let opened = open_meta(&sealed).expect("it was sealed just now");
    assert!(opened.starts_with(bytes), "sealing keeps the bytes");
    let Some(message) = decode(opened) else {
        return false;
    };
    let encoded = encode(&message);
    let again = open_meta(&encoded).expect("messages are sealed when encoded");
    assert_eq!(decode(again), Some(message));
    true
}
