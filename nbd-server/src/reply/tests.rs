//! Cases of `reply`: the bytes of every reply, in every dialect.

use super::*;
use ashlar_reactor::Reactor;
use ashlar_reactor::sim::World;

fn reactor() -> Reactor {
    let world = World::new(1);
    let process = world.process("server", "10.0.0.1".parse().unwrap());
    process.reactor().clone()
}

const HEADER: RequestHeader = RequestHeader {
    flags: 0,
    command: command::READ,
    cookie: 0x0102_0304_0506_0708,
    offset: 4096,
    length: 4096,
};

fn bytes_of(dialect: Dialect, header: RequestHeader, answer: Answer) -> Vec<u8> {
    let reactor = reactor();
    let mut outbox = Outbox::new(&reactor);
    Replies { dialect }.put(&mut outbox, &header, answer);
    let mut bytes = Vec::new();
    while !outbox.is_empty() {
        for piece in outbox.take().0 {
            bytes.extend_from_slice(&piece);
        }
    }
    bytes
}

fn shared(reactor: &Reactor, bytes: &[u8]) -> SharedBuffer {
    let mut buffer = reactor.buffer(bytes.len());
    buffer.copy_from_slice(bytes);
    buffer.freeze()
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn of_context(id: u32, extents: &[(u64, u32)]) -> ContextStatus {
    let extents = extents.iter();
    ContextStatus {
        id,
        extents: extents
            .map(|&(len, state)| StatusExtent { len, state })
            .collect(),
    }
}

const FAILED: Answer = Answer::Failed(Refusal {
    errno: Errno::NoSpace,
    reason: "full",
});

#[test]
fn simple_replies_are_as_specified() {
    let done = bytes_of(Dialect::Simple, HEADER, Answer::Done);
    assert_eq!(done, hex("67446698 00000000 0102030405060708"));
    let failed = bytes_of(Dialect::Simple, HEADER, FAILED);
    assert_eq!(failed, hex("67446698 0000001c 0102030405060708"));
    let data = Answer::Data {
        pieces: vec![shared(&reactor(), &[0xab; 4])],
        fragment: false,
    };
    let data = bytes_of(Dialect::Simple, HEADER, data);
    assert_eq!(data, hex("67446698 00000000 0102030405060708 abababab"));
}

#[test]
fn structured_replies_are_as_specified() {
    let written = RequestHeader {
        command: command::WRITE,
        ..HEADER
    };
    let done = bytes_of(Dialect::Structured, written, Answer::Done);
    assert_eq!(done, hex("67446698 00000000 0102030405060708"));
    let failed = bytes_of(Dialect::Structured, written, FAILED);
    let expected = "668e33ef 0001 8001 0102030405060708 0000000a 0000001c 0004 66756c6c";
    assert_eq!(failed, hex(expected));
    let data = Answer::Data {
        pieces: vec![shared(&reactor(), &[0xab; 4])],
        fragment: true,
    };
    let data = bytes_of(Dialect::Structured, HEADER, data);
    let expected = "668e33ef 0001 0001 0102030405060708 0000000c 0000000000001000 abababab";
    assert_eq!(data, hex(expected));
    let contexts = vec![of_context(1, &[(512, 0), (1024, 3)])];
    let status = bytes_of(Dialect::Structured, HEADER, Answer::Status(contexts));
    let expected = "668e33ef 0001 0005 0102030405060708 00000014 00000001 \
                    00000200 00000000 00000400 00000003";
    assert_eq!(status, hex(expected));
}

#[test]
fn extended_replies_are_as_specified() {
    let done = bytes_of(Dialect::Extended, HEADER, Answer::Done);
    let expected = "6e8a278c 0001 0000 0102030405060708 0000000000001000 0000000000000000";
    assert_eq!(done, hex(expected));
    let failed = bytes_of(Dialect::Extended, HEADER, FAILED);
    let expected = "6e8a278c 0001 8001 0102030405060708 0000000000001000 000000000000000a \
                    0000001c 0004 66756c6c";
    assert_eq!(failed, hex(expected));
    let contexts = vec![of_context(1, &[(1 << 40, 3)])];
    let status = bytes_of(Dialect::Extended, HEADER, Answer::Status(contexts));
    let expected = "6e8a278c 0001 0006 0102030405060708 0000000000001000 0000000000000018 \
                    00000001 00000001 0000010000000000 0000000000000003";
    assert_eq!(status, hex(expected));
}

#[test]
fn each_context_has_a_chunk_and_the_last_ends_the_reply() {
    let contexts = vec![
        of_context(1, &[(512, 0), (1024, 3)]),
        of_context(3, &[(1536, 1)]),
        of_context(4, &[(512, 1), (512, 0)]),
    ];
    let status = bytes_of(
        Dialect::Structured,
        HEADER,
        Answer::Status(contexts.clone()),
    );
    let expected = "668e33ef 0000 0005 0102030405060708 00000014 00000001 \
                    00000200 00000000 00000400 00000003 \
                    668e33ef 0000 0005 0102030405060708 0000000c 00000003 \
                    00000600 00000001 \
                    668e33ef 0001 0005 0102030405060708 00000014 00000004 \
                    00000200 00000001 00000200 00000000";
    assert_eq!(status, hex(expected));
    let status = bytes_of(Dialect::Extended, HEADER, Answer::Status(contexts));
    let expected = "6e8a278c 0000 0006 0102030405060708 0000000000001000 0000000000000028 \
                    00000001 00000002 0000000000000200 0000000000000000 \
                    0000000000000400 0000000000000003 \
                    6e8a278c 0000 0006 0102030405060708 0000000000001000 0000000000000018 \
                    00000003 00000001 0000000000000600 0000000000000001 \
                    6e8a278c 0001 0006 0102030405060708 0000000000001000 0000000000000028 \
                    00000004 00000002 0000000000000200 0000000000000001 \
                    0000000000000200 0000000000000000";
    assert_eq!(status, hex(expected));
}

#[test]
fn all_zeroes_are_one_hole() {
    let data = Answer::Data {
        pieces: vec![shared(&reactor(), &[0; 8192])],
        fragment: true,
    };
    let reply = bytes_of(Dialect::Structured, HEADER, data);
    let expected = "668e33ef 0001 0002 0102030405060708 0000000c 0000000000001000 00002000";
    assert_eq!(reply, hex(expected));
}

#[test]
fn short_zeroes_are_sent_and_long_ones_left_out() {
    let reactor = reactor();
    let mut bytes = vec![0; 96 << 10];
    bytes[5] = 1; // block 0: data, then 7 blocks of zeroes
    bytes[40_000] = 1; // block 9: data, after one more
    bytes[44_000] = 1; // block 10: data, then zeroes to block 21
    bytes[90_000] = 1; // block 21: data, then 2 blocks of zeroes
    for cut in [96 << 10, 64 << 10, 8192, 4096] {
        let pieces: Vec<_> = bytes
            .chunks(cut)
            .map(|part| shared(&reactor, part))
            .collect();
        let runs: Vec<_> = runs_of(&pieces, true)
            .iter()
            .map(|run| (run.len / 4096, run.zero))
            .collect();
        let expected = [(1, false), (8, true), (2, false), (10, true), (3, false)];
        assert_eq!(runs, expected);
        assert_eq!(runs_of(&pieces, false).len(), 1);
    }
}

#[test]
fn chunks_of_a_read_cover_it() {
    let reactor = reactor();
    let mut bytes: Vec<u8> = (1..=251u8).cycle().take(200_000).collect();
    bytes[8192..65_536].fill(0);
    bytes[100_000..131_072].fill(0);
    let pieces: Vec<_> = bytes
        .chunks(12_288)
        .map(|part| shared(&reactor, part))
        .collect();
    let answer = Answer::Data {
        pieces,
        fragment: true,
    };
    let reply = bytes_of(Dialect::Structured, HEADER, answer);
    let mut rest = &reply[..];
    let mut rebuilt = vec![0xee; bytes.len()];
    let mut last = 0;
    while !rest.is_empty() {
        assert_eq!(rest[..4], STRUCTURED_REPLY_MAGIC.to_be_bytes());
        last = u16::from_be_bytes([rest[4], rest[5]]);
        let kind = u16::from_be_bytes([rest[6], rest[7]]);
        let len = u32::from_be_bytes(rest[16..20].try_into().unwrap()) as usize;
        let payload = &rest[20..20 + len];
        let at =
            usize::try_from(u64::from_be_bytes(payload[..8].try_into().unwrap())).unwrap() - 4096;
        if kind == chunk::OFFSET_DATA {
            rebuilt[at..at + len - 8].copy_from_slice(&payload[8..]);
        } else {
            let hole = u32::from_be_bytes(payload[8..12].try_into().unwrap()) as usize;
            rebuilt[at..at + hole].fill(0);
        }
        rest = &rest[20 + len..];
    }
    assert_eq!(last, chunk::FLAG_DONE);
    assert!(rebuilt == bytes);
}
