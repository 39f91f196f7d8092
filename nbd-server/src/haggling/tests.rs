//! Cases of `haggling`: what clients send, and what they must not.

use super::*;

fn info(name: &[u8], requests: &[u16]) -> Vec<u8> {
    let mut data = u32::try_from(name.len()).unwrap().to_be_bytes().to_vec();
    data.extend(name);
    data.extend(u16::try_from(requests.len()).unwrap().to_be_bytes());
    for request in requests {
        data.extend(request.to_be_bytes());
    }
    data
}

fn meta(name: &[u8], queries: &[&str]) -> Vec<u8> {
    let mut data = u32::try_from(name.len()).unwrap().to_be_bytes().to_vec();
    data.extend(name);
    data.extend(u32::try_from(queries.len()).unwrap().to_be_bytes());
    for query in queries {
        data.extend(u32::try_from(query.len()).unwrap().to_be_bytes());
        data.extend(query.as_bytes());
    }
    data
}

#[test]
fn info_request_is_parsed() {
    let data = info(b"disk", &[3, 1, 77, 2]);
    let request = InfoRequest::parse(&data).unwrap();
    assert_eq!(request.name, "disk");
    assert!(request.wants_name && request.wants_description);
    let data = info("Größe".as_bytes(), &[]);
    assert_eq!(InfoRequest::parse(&data).unwrap().name, "Größe");
}

#[test]
fn malformed_info_requests_are_refused() {
    let good = info(b"disk", &[3, 1]);
    for len in 0..good.len() {
        assert_eq!(InfoRequest::parse(&good[..len]), None, "{len}");
    }
    let mut longer = good.clone();
    longer.push(0);
    assert_eq!(InfoRequest::parse(&longer), None);
    let mut huge = good;
    huge[..4].copy_from_slice(&u32::MAX.to_be_bytes());
    assert_eq!(InfoRequest::parse(&huge), None);
    for name in [&b"a\0b"[..], b"\xff\xfe", &[b'x'; 4097]] {
        assert_eq!(InfoRequest::parse(&info(name, &[])), None);
    }
}

#[test]
fn meta_request_is_parsed() {
    let data = meta(b"disk", &["base:", "", "qemu:dirty-bitmap:x"]);
    let request = MetaRequest::parse(&data).unwrap();
    assert_eq!(request.name, "disk");
    assert_eq!(request.queries, ["base:", "", "qemu:dirty-bitmap:x"]);
    let data = meta(b"", &[]);
    assert_eq!(MetaRequest::parse(&data).unwrap().queries, [""; 0]);
}

#[test]
fn malformed_meta_requests_are_refused() {
    let good = meta(b"disk", &["base:", "base:allocation"]);
    assert!(MetaRequest::parse(&good).is_some());
    for len in 0..good.len() {
        assert_eq!(MetaRequest::parse(&good[..len]), None, "{len}");
    }
    // A count that no data backs must not make it allocate.
    let mut many = meta(b"disk", &[]);
    many[8..12].copy_from_slice(&u32::MAX.to_be_bytes());
    assert_eq!(MetaRequest::parse(&many), None);
}

#[test]
fn replies_to_options_are_as_specified() {
    let mut replies = OptionReplies::to(7);
    let geometry = Geometry {
        size_bytes: 1 << 40,
        block_bytes_min: 512,
        block_bytes_preferred: 4096,
        request_bytes_max: 32 << 20,
        read_only: true,
    };
    let flags = transmission_flags(&geometry, Dialect::Extended, true);
    assert_eq!(flags, 0b1_1101_1110_1111);
    replies.export(&geometry, flags);
    let bytes = replies.ack();
    let head = [0, 3, 0xe8, 0x89, 4, 0x55, 0x65, 0xa9, 0, 0, 0, 7];
    let mut expected = head.to_vec();
    expected.extend([0, 0, 0, 3, 0, 0, 0, 12, 0, 0]);
    expected.extend((1u64 << 40).to_be_bytes());
    expected.extend([0x1d, 0xef]);
    expected.extend(head);
    expected.extend([0, 0, 0, 3, 0, 0, 0, 14, 0, 3]);
    expected.extend([0, 0, 2, 0, 0, 0, 0x10, 0, 2, 0, 0, 0]);
    expected.extend(head);
    expected.extend([0, 0, 0, 1, 0, 0, 0, 0]);
    assert_eq!(bytes, expected);
}

#[test]
fn contexts_are_told_with_their_ids() {
    let mut replies = OptionReplies::to(10);
    replies.context(1, &Context::Allocation);
    replies.context(2, &Context::Bitmap("mon".into()));
    let head = [0, 3, 0xe8, 0x89, 4, 0x55, 0x65, 0xa9, 0, 0, 0, 10];
    let mut expected = head.to_vec();
    expected.extend(b"\0\0\0\x04\0\0\0\x13\0\0\0\x01base:allocation");
    expected.extend(head);
    expected.extend(b"\0\0\0\x04\0\0\0\x19\0\0\0\x02qemu:dirty-bitmap:mon");
    expected.extend(head);
    expected.extend([0, 0, 0, 1, 0, 0, 0, 0]);
    assert_eq!(replies.ack(), expected);
}

#[test]
fn flags_follow_what_was_negotiated() {
    let geometry = ExportInfo::new("disk", 1 << 20).geometry;
    let simple = transmission_flags(&geometry, Dialect::Simple, false);
    assert_eq!(simple & transmission::SEND_DF, 0);
    assert_eq!(simple & transmission::READ_ONLY, 0);
    let structured = transmission_flags(&geometry, Dialect::Structured, true);
    assert_eq!(structured ^ simple, transmission::SEND_DF);
    let extended = transmission_flags(&geometry, Dialect::Extended, true);
    assert_eq!(extended ^ structured, transmission::BLOCK_STATUS_PAYLOAD);
}
