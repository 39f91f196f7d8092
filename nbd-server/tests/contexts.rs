//! Metadata contexts on the wire: which are told of, which can be selected, and what they tell.

#![allow(
    clippy::unwrap_used,
    reason = "a test that meets the unexpected has failed"
)]

mod support;

use ashlar_nbd_server::NbdOptions;
use ashlar_proto::Address;
use ashlar_reactor::Reactor;
use std::time::Duration;
use support::{Bench, MIB, Peer, extended_request, info, meta};

const ACK: u32 = 1;
const ERR_INVALID: u32 = (1 << 31) + 3;
const ERR_UNKNOWN: u32 = (1 << 31) + 6;
const ERR_TOO_BIG: u32 = (1 << 31) + 9;
const ERROR: u16 = (1 << 15) + 1;

const ALL: &str = "qemu:dirty-bitmap:all";
const NONE: &str = "qemu:dirty-bitmap:none";
const GONE: &str = "qemu:dirty-bitmap:gone";

fn bench(seed: u64) -> Bench {
    Bench::new(seed, Duration::ZERO, NbdOptions::default())
}

/// A connection that haggles; structured replies or extended headers are negotiated.
async fn haggling(reactor: &Reactor, address: &Address, option: u32) -> Peer {
    let peer = Peer::connect(reactor, address).await;
    peer.greet(3).await;
    assert_eq!(peer.outcome(option, &[]).await, ACK);
    peer
}

/// What an option about contexts is answered: the contexts, each with its id, and the final reply.
async fn told(
    peer: &Peer,
    option: u32,
    export: &str,
    queries: &[&str],
) -> (Vec<(u32, String)>, u32) {
    let mut replies = peer.option(option, &meta(export, queries)).await;
    let outcome = replies.pop().unwrap().0;
    let contexts = replies.into_iter().map(|(kind, data)| {
        assert_eq!(kind, 4);
        let (id, name) = data.split_at(4);
        let id = u32::from_be_bytes(id.try_into().unwrap());
        (id, String::from_utf8(name.to_vec()).unwrap())
    });
    (contexts.collect(), outcome)
}

fn words(bytes: &[u8]) -> Vec<u32> {
    let words = bytes.chunks(4);
    words
        .map(|word| u32::from_be_bytes(word.try_into().unwrap()))
        .collect()
}

/// The chunks of one reply to a block status request, as words.
async fn status(peer: &Peer, cookie: u64) -> Vec<Vec<u32>> {
    let mut chunks = Vec::new();
    loop {
        let (flags, kind, of, payload) = peer.chunk().await;
        assert_eq!((kind, of), (5, cookie));
        chunks.push(words(&payload));
        if flags == 1 {
            return chunks;
        }
        assert_eq!(flags, 0);
    }
}

#[test]
fn bitmaps_are_listed_and_selected() {
    bench(21).run(5, async |reactor, address| {
        let peer = haggling(&reactor, &address, 8).await;
        let all = ["base:allocation", ALL, NONE, GONE];
        for (queries, expected) in [
            (&[][..], &all[..]),
            (&["base:", "qemu:"], &all[..]),
            (&["qemu:dirty-bitmap:"], &all[1..]),
            (&[NONE, "qemu:allocation-depth"], &all[2..3]),
            (&["qemu:dirty-bitmap:other", "qemu:dirty"], &[]),
        ] {
            let (listed, outcome) = told(&peer, 9, "disk", queries).await;
            assert_eq!(outcome, ACK);
            assert!(listed.iter().all(|(id, _)| *id == 0));
            assert!(
                listed.iter().map(|(_, name)| name).eq(expected),
                "{queries:?}"
            );
        }
        let queries = [
            NONE,
            "qemu:",
            "qemu:dirty-bitmap:",
            "x:y",
            "base:allocation",
            NONE,
            ALL,
        ];
        let (selected, outcome) = told(&peer, 10, "disk", &queries).await;
        assert_eq!(outcome, ACK);
        let expected = [(1, NONE), (2, "base:allocation"), (3, ALL)];
        assert_eq!(selected, expected.map(|(id, name)| (id, name.to_owned())));
        // Another export has others.
        let (selected, _) = told(&peer, 10, "locked", &[ALL, NONE]).await;
        assert_eq!(selected, [(1, NONE.to_owned())]);
        assert_eq!(told(&peer, 9, "other", &["qemu:"]).await.1, ERR_UNKNOWN);
        assert_eq!(told(&peer, 10, "other", &[ALL]).await.1, ERR_UNKNOWN);
    });
}

#[test]
fn each_selected_context_has_a_chunk() {
    bench(22).run(5, async |reactor, address| {
        let peer = haggling(&reactor, &address, 8).await;
        let (selected, _) = told(&peer, 10, "disk", &[ALL, "base:allocation", NONE]).await;
        assert_eq!(selected.len(), 3);
        assert_eq!(peer.outcome(7, &info("disk", &[])).await, ACK);
        assert_eq!(peer.write(8192, &[5; 8192]).await, 0);
        peer.request(0, 7, 1, 512, 1 << 20).await;
        let end = (1 << 20) + 512 - 16_384;
        let expected = [
            vec![1, 7680, 0, 8192, 1, end, 0],
            vec![2, 7680, 3, 8192, 0, end, 3],
            vec![3, 1 << 20, 0],
        ];
        assert_eq!(status(&peer, 1).await, expected);
        peer.request(1 << 3, 7, 2, 512, 1 << 20).await;
        let expected = [vec![1, 7680, 0], vec![2, 7680, 3], vec![3, 7680, 0]];
        assert_eq!(status(&peer, 2).await, expected);
    });
}

#[test]
fn payloads_name_the_contexts_that_are_told_of() {
    bench(23).run(5, async |reactor, address| {
        let peer = haggling(&reactor, &address, 11).await;
        told(&peer, 10, "disk", &["base:allocation", ALL, NONE]).await;
        assert_eq!(peer.outcome(7, &info("disk", &[])).await, ACK);
        let ask = async |len: u64, ids: &[u32]| {
            let payload_bytes = 8 + 4 * ids.len() as u64;
            let mut request = extended_request(1 << 5, 7, 9, 4096, payload_bytes);
            request.extend(len.to_be_bytes());
            request.extend(ids.iter().flat_map(|id| id.to_be_bytes()));
            peer.send(&request).await;
        };
        for (ids, expected) in [
            (&[3][..], &[(1, 3)][..]),
            (&[3, 1], &[(0, 1), (1, 3)]),
            (&[2, 1, 3], &[(0, 1), (0, 2), (1, 3)]),
        ] {
            ask(8192, ids).await;
            for (flags, id) in expected {
                let (got, kind, cookie, offset, payload) = peer.extended_chunk().await;
                assert_eq!((got, kind, cookie, offset), (*flags, 6, 9, 4096));
                let state = if *id == 1 { 3 } else { 0 };
                assert_eq!(words(&payload), [*id, 1, 0, 8192, 0, state]);
            }
        }
        // All of it is taken off the stream before it is refused.
        for ids in [&[][..], &[4], &[0], &[1, 1], &[1, 2, 3, 4], &[7; 3000]] {
            ask(8192, ids).await;
            let (flags, kind, cookie, _, payload) = peer.extended_chunk().await;
            assert_eq!((flags, kind, cookie), (1, ERROR, 9), "{} ids", ids.len());
            assert_eq!(payload[..4], [0, 0, 0, 22]);
        }
        // Without a payload, all are told of.
        peer.send(&extended_request(0, 7, 1, 0, 16 * MIB)).await;
        for flags in [0, 0, 1] {
            assert_eq!(peer.extended_chunk().await.0, flags);
        }
    });
}

#[test]
fn a_bitmap_that_is_gone_fails_its_requests_only() {
    bench(24).run(5, async |reactor, address| {
        let peer = haggling(&reactor, &address, 8).await;
        told(&peer, 10, "disk", &["base:allocation", GONE]).await;
        assert_eq!(peer.outcome(7, &info("disk", &[])).await, ACK);
        peer.request(0, 7, 1, 0, 4096).await;
        let (flags, kind, cookie, payload) = peer.chunk().await;
        assert_eq!((flags, kind, cookie), (1, ERROR, 1));
        assert_eq!(payload[..4], [0, 0, 0, 22]);
        assert_eq!(peer.write(0, &[1; 512]).await, 0);
    });
}

#[test]
fn what_was_selected_does_not_outlive_its_export() {
    bench(25).run(5, async |reactor, address| {
        let refused = async |peer: &Peer| {
            peer.request(0, 7, 5, 0, 4096).await;
            let (flags, kind, cookie, payload) = peer.chunk().await;
            assert_eq!((flags, kind, cookie), (1, ERROR, 5));
            assert_eq!(payload[..4], [0, 0, 0, 22]);
        };
        // Selected for another export than the one that is used.
        let peer = haggling(&reactor, &address, 8).await;
        told(&peer, 10, "disk", &[NONE]).await;
        assert_eq!(peer.outcome(7, &info("locked", &[])).await, ACK);
        refused(&peer).await;
        // Void by a selection that found nothing, was malformed, or too large.
        let names = (1..=8).map(|at| format!("qemu:dirty-bitmap:{at}"));
        let names: Vec<String> = names.collect();
        let mut many: Vec<&str> = names.iter().map(String::as_str).collect();
        let peer = haggling(&reactor, &address, 8).await;
        assert_eq!(told(&peer, 10, "locked", &many).await.0.len(), 8);
        many.push(NONE);
        for (data, outcome) in [
            (meta("disk", &["qemu:dirty-bitmap:other"]), ACK),
            (meta("disk", &[])[..7].to_vec(), ERR_INVALID),
            (meta("other", &[NONE]), ERR_UNKNOWN),
            (meta("locked", &many), ERR_TOO_BIG),
        ] {
            let peer = haggling(&reactor, &address, 8).await;
            told(&peer, 10, "disk", &[NONE]).await;
            assert_eq!(peer.outcome(10, &data).await, outcome);
            assert_eq!(peer.outcome(7, &info("disk", &[])).await, ACK);
            refused(&peer).await;
        }
        // The old way into transmission keeps what was selected for that name.
        let peer = haggling(&reactor, &address, 8).await;
        told(&peer, 10, "disk", &[NONE]).await;
        peer.send_option(1, b"disk").await;
        assert_eq!(peer.receive(10).await[..8], (16 * MIB).to_be_bytes());
        peer.request(0, 7, 6, 0, 4096).await;
        assert_eq!(status(&peer, 6).await, [vec![1, 4096, 0]]);
    });
}
