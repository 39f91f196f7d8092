//! Cases of `request`: every command against every rule that the specification names.

use super::*;

const MIB: u64 = 1 << 20;

fn rules(dialect: Dialect) -> Rules {
    Rules {
        dialect,
        geometry: Geometry {
            size_bytes: 64 * MIB,
            block_bytes_min: 512,
            block_bytes_preferred: 4096,
            request_bytes_max: 32 << 20,
            read_only: false,
        },
        contexts: ContextIds::first(1),
    }
}

fn header(command: u16, flags: u16, offset: u64, length: u64) -> RequestHeader {
    RequestHeader {
        flags,
        command,
        cookie: 7,
        offset,
        length,
    }
}

fn refused(rules: &Rules, header: RequestHeader) -> Errno {
    match rules.check(&header) {
        Ok(command) => panic!("{header:?} was taken for {command:?}"),
        Err(refusal) => refusal.errno,
    }
}

#[test]
fn compact_request_is_parsed_from_its_bytes() {
    let bytes = [
        0x25, 0x60, 0x95, 0x13, // magic
        0x00, 0x01, // FUA
        0x00, 0x01, // write
        0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, // cookie
        0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x02, 0x00, // offset
        0x00, 0x00, 0x10, 0x00, // length
    ];
    let parsed = RequestHeader::parse(Dialect::Simple, &bytes).unwrap();
    let expected = RequestHeader {
        flags: flag::FUA,
        command: command::WRITE,
        cookie: 0x1122_3344_5566_7788,
        offset: 0x1_0000_0200,
        length: 4096,
    };
    assert_eq!(parsed, expected);
    assert_eq!(parsed.payload_bytes(Dialect::Simple), 4096);
    assert_eq!(RequestHeader::parse(Dialect::Extended, &bytes), None);
    assert_eq!(RequestHeader::parse(Dialect::Simple, &bytes[..27]), None);
}

#[test]
fn extended_request_is_parsed_from_its_bytes() {
    let bytes = [
        0x21, 0xe4, 0x1c, 0x71, // magic
        0x00, 0x00, // flags
        0x00, 0x06, // write zeroes
        0, 0, 0, 0, 0, 0, 0, 9, // cookie
        0, 0, 0, 0, 0, 0, 0x10, 0, // offset
        0, 0, 0, 0x20, 0, 0, 0, 0, // length: 128 GiB
    ];
    let parsed = RequestHeader::parse(Dialect::Extended, &bytes).unwrap();
    assert_eq!(parsed, header(6, 0, 4096, 128 << 30).with_cookie(9));
    assert_eq!(parsed.payload_bytes(Dialect::Extended), 0);
}

impl RequestHeader {
    fn with_cookie(self, cookie: u64) -> Self {
        Self { cookie, ..self }
    }
}

#[test]
fn only_writes_and_flagged_requests_have_a_payload() {
    let read = header(command::READ, 0, 0, 512);
    let write = header(command::WRITE, 0, 0, 512);
    let status = header(command::BLOCK_STATUS, flag::PAYLOAD_LEN, 0, 12);
    let unknown = header(99, flag::PAYLOAD_LEN, 0, 100);
    for dialect in [Dialect::Simple, Dialect::Structured] {
        assert_eq!(read.payload_bytes(dialect), 0);
        assert_eq!(write.payload_bytes(dialect), 512);
        assert_eq!(unknown.payload_bytes(dialect), 0);
    }
    assert_eq!(read.payload_bytes(Dialect::Extended), 0);
    assert_eq!(write.payload_bytes(Dialect::Extended), 512);
    assert_eq!(status.payload_bytes(Dialect::Extended), 12);
    assert_eq!(unknown.payload_bytes(Dialect::Extended), 100);
}

#[test]
fn ranges_beyond_the_end_have_the_errno_of_their_command() {
    let rules = rules(Dialect::Structured);
    for (command, errno) in [
        (command::READ, Errno::Inval),
        (command::WRITE, Errno::NoSpace),
        (command::TRIM, Errno::Inval),
        (command::WRITE_ZEROES, Errno::NoSpace),
        (command::CACHE, Errno::Inval),
        (command::BLOCK_STATUS, Errno::Inval),
    ] {
        for (offset, length) in [
            (64 * MIB, 512),
            (64 * MIB - 512, 1024),
            (u64::MAX - 511, 512),
            (u64::MAX, u64::MAX),
        ] {
            assert_eq!(refused(&rules, header(command, 0, offset, length)), errno);
        }
        assert!(
            rules
                .check(&header(command, 0, 64 * MIB - 512, 512))
                .is_ok()
        );
    }
}

#[test]
fn empty_and_unaligned_ranges_are_invalid() {
    let rules = rules(Dialect::Structured);
    for command in [
        command::READ,
        command::WRITE,
        command::TRIM,
        command::WRITE_ZEROES,
    ] {
        for (offset, length) in [(0, 0), (1, 512), (0, 511), (512, 100)] {
            assert_eq!(
                refused(&rules, header(command, 0, offset, length)),
                Errno::Inval
            );
        }
    }
    assert_eq!(
        refused(&rules, header(command::FLUSH, 0, 0, 512)),
        Errno::Inval
    );
    assert_eq!(refused(&rules, header(99, 0, 0, 512)), Errno::Inval);
}

#[test]
fn flags_belong_to_their_commands() {
    let all = flag::FUA
        | flag::NO_HOLE
        | flag::DF
        | flag::REQ_ONE
        | flag::FAST_ZERO
        | flag::PAYLOAD_LEN
        | (1 << 6);
    for dialect in [Dialect::Simple, Dialect::Structured, Dialect::Extended] {
        let rules = rules(dialect);
        let chunked = if dialect == Dialect::Simple {
            0
        } else {
            flag::DF
        };
        let extended = if dialect == Dialect::Extended {
            flag::PAYLOAD_LEN
        } else {
            0
        };
        for (command, own, length) in [
            (command::READ, chunked, 4096),
            (command::WRITE, extended, 4096),
            (command::TRIM, 0, 4096),
            (command::CACHE, 0, 4096),
            (command::FLUSH, 0, 0),
            (command::WRITE_ZEROES, flag::NO_HOLE | flag::FAST_ZERO, 4096),
            (command::BLOCK_STATUS, flag::REQ_ONE, 4096),
        ] {
            for bit in (0..16).map(|bit| 1u16 << bit).filter(|bit| all & bit != 0) {
                let checked = rules.check(&header(command, bit, 0, length));
                let allowed = bit == flag::FUA || own & bit != 0;
                match checked {
                    Ok(_) => assert!(allowed, "{dialect:?} {command} {bit:#x}"),
                    Err(refusal) => assert!(
                        !allowed
                            || refusal.errno == Errno::NotSupported
                            || command == command::BLOCK_STATUS,
                        "{dialect:?} {command} {bit:#x}: {refusal:?}"
                    ),
                }
            }
        }
    }
}

#[test]
fn read_only_exports_refuse_what_changes_them() {
    let mut rules = rules(Dialect::Simple);
    rules.geometry.read_only = true;
    for command in [command::WRITE, command::TRIM, command::WRITE_ZEROES] {
        assert_eq!(refused(&rules, header(command, 0, 0, 512)), Errno::Perm);
    }
    assert!(rules.check(&header(command::READ, 0, 0, 512)).is_ok());
    assert!(rules.check(&header(command::FLUSH, 0, 0, 0)).is_ok());
}

#[test]
fn too_long_reads_overflow_where_the_reply_is_structured() {
    let read = header(command::READ, 0, 0, 33 << 20);
    assert_eq!(refused(&rules(Dialect::Simple), read), Errno::Inval);
    assert_eq!(refused(&rules(Dialect::Structured), read), Errno::Overflow);
    let unfragmented = header(command::READ, flag::DF, 0, 33 << 20);
    assert_eq!(
        refused(&rules(Dialect::Structured), unfragmented),
        Errno::Overflow
    );
    let write = header(command::WRITE, 0, 0, 33 << 20);
    assert_eq!(refused(&rules(Dialect::Simple), write), Errno::Inval);
    let zeroes = header(command::WRITE_ZEROES, 0, 0, 64 << 20);
    assert!(rules(Dialect::Simple).check(&zeroes).is_ok());
}

#[test]
fn fast_zero_is_for_ranges_with_a_whole_block_that_may_become_a_hole() {
    let rules = rules(Dialect::Structured);
    let check = |flags, offset, length| {
        rules
            .check(&header(
                command::WRITE_ZEROES,
                flags | flag::FAST_ZERO,
                offset,
                length,
            ))
            .map(drop)
            .map_err(|refusal| refusal.errno)
    };
    assert_eq!(check(0, 4096, 4096), Ok(()));
    assert_eq!(check(0, 512, 8192), Ok(()));
    assert_eq!(check(0, 512, 4096), Err(Errno::NotSupported));
    assert_eq!(check(0, 0, 512), Err(Errno::NotSupported));
    assert_eq!(check(flag::NO_HOLE, 0, 4096), Err(Errno::NotSupported));
}

#[test]
fn block_status_needs_a_context() {
    let mut without = rules(Dialect::Structured);
    without.contexts = ContextIds::default();
    let status = header(command::BLOCK_STATUS, flag::REQ_ONE, 512, 4096);
    assert_eq!(refused(&without, status), Errno::Inval);
    let mut rules = rules(Dialect::Structured);
    rules.contexts = ContextIds::first(3);
    assert_eq!(
        rules.check(&status),
        Ok(Command::BlockStatus {
            len: 4096,
            contexts: rules.contexts,
            one: true
        })
    );
}

#[test]
fn block_status_payload_names_length_and_contexts() {
    let mut rules = rules(Dialect::Extended);
    rules.contexts = ContextIds::first(3);
    for payload_bytes in [12, 16, 20] {
        let status = header(command::BLOCK_STATUS, flag::PAYLOAD_LEN, 512, payload_bytes);
        assert_eq!(
            rules.check(&status),
            Ok(Command::BlockStatusPayload {
                payload_bytes: u32::try_from(payload_bytes).unwrap(),
                one: false
            })
        );
    }
    for payload_bytes in [21, 24, 1 << 40] {
        let wrong = header(command::BLOCK_STATUS, flag::PAYLOAD_LEN, 512, payload_bytes);
        assert_eq!(refused(&rules, wrong), Errno::Inval);
    }
    let payload = |len: u64, ids: &[u32]| {
        let mut bytes = len.to_be_bytes().to_vec();
        bytes.extend(ids.iter().flat_map(|id| id.to_be_bytes()));
        rules
            .check_status_payload(512, false, &bytes)
            .map_err(|refusal| refusal.errno)
    };
    for ids in [&[1][..], &[3], &[3, 1], &[2, 3, 1]] {
        let contexts = ids
            .iter()
            .fold(ContextIds::default(), |set, &id| set.with(id));
        let expected = Command::BlockStatus {
            len: 4096,
            contexts,
            one: false,
        };
        assert_eq!(payload(4096, ids), Ok(expected));
    }
    for ids in [&[][..], &[0], &[4], &[1, 4], &[2, 2], &[257], &[u32::MAX]] {
        assert_eq!(payload(4096, ids), Err(Errno::Inval), "{ids:?}");
    }
    for len in [0, 100, 65 * MIB, u64::MAX] {
        assert_eq!(payload(len, &[1]), Err(Errno::Inval), "{len}");
    }
    for len in [0, 7, 8, 9, 11, 13, 19] {
        let refusal = rules.check_status_payload(512, false, &[0; 20][..len]);
        assert_eq!(refusal.unwrap_err().errno, Errno::Inval, "{len}");
    }
}
