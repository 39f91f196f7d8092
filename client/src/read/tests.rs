//! What a reply must show to be believed.

use super::*;
use ashlar_proto::{FrameHeader, FrameKind, Incarnation, Window};
use ashlar_reactor::BufferPool;

fn reply(entries: &[ReadEntry], blocks: &[u8]) -> Frame {
    let pool = BufferPool::new();
    let data = blocks.iter().map(|&byte| {
        let mut buffer = pool.buffer(BLOCK_BYTES);
        buffer.fill(byte);
        buffer.freeze()
    });
    let request = FrameHeader::request(FrameKind::Read, 1);
    let header = request.reply(Status::Ok, Incarnation::new(1));
    Frame::new(header, message::encode_read(entries), data.collect())
}

fn data_entry(byte: u8, seq: Seq) -> ReadEntry {
    ReadEntry {
        kind: BlockKind::Data,
        seq,
        crc: crc32c(&[byte; BLOCK_BYTES]),
    }
}

const ABSENT: ReadEntry = ReadEntry {
    kind: BlockKind::Absent,
    seq: Seq::NONE,
    crc: 0,
};

#[test]
fn only_what_matches_in_every_part_is_shown() {
    let seq = Window::new(3).start().next_in_window().unwrap();
    let earlier = Window::new(3).start();
    let count = BlockCount::new(2);
    let entries = [ABSENT, data_entry(7, seq)];
    assert!(verify(reply(&entries, &[7]), count, seq).is_some());
    assert!(
        verify(reply(&entries, &[8]), count, seq).is_none(),
        "checksum"
    );
    assert!(
        verify(reply(&entries, &[]), count, seq).is_none(),
        "payload missing"
    );
    assert!(
        verify(reply(&entries, &[7, 7]), count, seq).is_none(),
        "payload left"
    );
    assert!(
        verify(reply(&entries, &[7]), count, earlier).is_none(),
        "from the future"
    );
    let three = BlockCount::new(3);
    assert!(
        verify(reply(&entries, &[7]), three, seq).is_none(),
        "too few entries"
    );
    let mut torn = reply(&entries, &[7]);
    torn.meta[6] ^= 1;
    assert!(verify(torn, count, seq).is_none(), "metadata");
}

#[test]
fn ranges_are_cut_to_the_byte() {
    let pool = BufferPool::new();
    let pieces: Vec<SharedBuffer> = (0..3u8)
        .map(|byte| {
            let mut buffer = pool.buffer(BLOCK_BYTES);
            buffer.fill(byte);
            buffer.freeze()
        })
        .collect();
    let lens = |pieces: Vec<SharedBuffer>| pieces.iter().map(|p| p.len()).collect::<Vec<_>>();
    assert_eq!(lens(cut(pieces.clone(), 0, 3 * 4096)), [4096, 4096, 4096]);
    assert_eq!(lens(cut(pieces.clone(), 512, 4096)), [3584, 512]);
    assert_eq!(lens(cut(pieces, 4096 + 512, 512)), [512]);
}
