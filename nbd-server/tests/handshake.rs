//! The handshake, option by option, against a server in a simulated world.

mod support;

use ashlar_nbd_server::{Limits, NbdOptions};
use std::time::Duration;
use support::{Bench, Peer, info, meta};

const ACK: u32 = 1;
const ERR_UNSUP: u32 = (1 << 31) + 1;
const ERR_POLICY: u32 = (1 << 31) + 2;
const ERR_INVALID: u32 = (1 << 31) + 3;
const ERR_UNKNOWN: u32 = (1 << 31) + 6;
const ERR_TOO_BIG: u32 = (1 << 31) + 9;
const ERR_EXT_HEADER_REQD: u32 = (1 << 31) + 10;

fn bench(seed: u64) -> Bench {
    Bench::new(seed, Duration::ZERO, NbdOptions::default())
}

#[test]
fn export_name_enters_transmission_with_and_without_zeroes() {
    bench(1).run(5, async |reactor, address| {
        for (flags, len) in [(1, 134), (3, 10), (0, 134), (2, 10)] {
            let peer = Peer::connect(&reactor, &address).await;
            peer.greet(flags).await;
            peer.send_option(1, b"disk").await;
            let reply = peer.receive(len).await;
            assert_eq!(reply[..8], (16u64 << 20).to_be_bytes());
            assert_eq!(reply[8..10], [0x0d, 0x6d], "flags");
            assert!(reply[10..].iter().all(|&byte| byte == 0));
            assert_eq!(peer.write(4096, &[7; 512]).await, 0);
            assert_eq!(peer.read(4096, 512).await.unwrap(), [7; 512]);
        }
    });
}

#[test]
fn unknown_export_ends_export_name_and_errors_go() {
    bench(2).run(5, async |reactor, address| {
        let peer = Peer::connect(&reactor, &address).await;
        peer.greet(3).await;
        peer.send_option(1, b"none").await;
        assert!(peer.is_closed().await);
        let peer = Peer::connect(&reactor, &address).await;
        peer.greet(3).await;
        assert_eq!(peer.outcome(7, &info("none", &[])).await, ERR_UNKNOWN);
        assert_eq!(peer.outcome(6, &info("none", &[])).await, ERR_UNKNOWN);
        // Two exports: there is no default one.
        assert_eq!(peer.outcome(7, &info("", &[])).await, ERR_UNKNOWN);
        assert_eq!(peer.outcome(7, &info("disk", &[])).await, ACK);
        assert_eq!(peer.write(0, &[1; 512]).await, 0);
    });
}

#[test]
fn list_names_all_exports() {
    bench(3).run(5, async |reactor, address| {
        let peer = Peer::connect(&reactor, &address).await;
        peer.greet(3).await;
        let replies = peer.option(3, &[]).await;
        assert_eq!(replies.len(), 3);
        assert_eq!(replies[0], (2, b"\0\0\0\x04disk".to_vec()));
        assert_eq!(
            replies[1],
            (2, b"\0\0\0\x06lockedmay not be written".to_vec())
        );
        assert_eq!(peer.outcome(3, b"x").await, ERR_INVALID);
        assert_eq!(peer.outcome(2, b"ignored").await, ACK);
        assert!(peer.is_closed().await);
    });
}

#[test]
fn info_tells_what_go_will() {
    bench(4).run(5, async |reactor, address| {
        let peer = Peer::connect(&reactor, &address).await;
        peer.greet(3).await;
        let told = peer.option(6, &info("locked", &[1, 2, 3])).await;
        assert_eq!(told.len(), 5);
        let mut export = vec![0, 0];
        export.extend((1u64 << 20).to_be_bytes());
        export.extend([0x0d, 0x6f]);
        assert_eq!(told[0], (3, export));
        assert_eq!(
            told[1],
            (3, vec![0, 3, 0, 0, 2, 0, 0, 0, 0x10, 0, 2, 0, 0, 0])
        );
        assert_eq!(told[2], (3, b"\0\x01locked".to_vec()));
        assert_eq!(told[3], (3, b"\0\x02may not be written".to_vec()));
        assert_eq!(peer.option(7, &info("locked", &[1, 2, 3])).await, told);
        assert_eq!(peer.write(0, &[1; 512]).await, 1, "EPERM");
    });
}

#[test]
fn options_out_of_place_are_refused_and_haggling_goes_on() {
    bench(5).run(5, async |reactor, address| {
        let peer = Peer::connect(&reactor, &address).await;
        peer.greet(3).await;
        assert_eq!(peer.outcome(99, &[0; 300]).await, ERR_UNSUP);
        assert_eq!(peer.outcome(5, &[]).await, ERR_POLICY);
        let selects = meta("disk", &["base:allocation"]);
        assert_eq!(peer.outcome(10, &selects).await, ERR_INVALID);
        assert_eq!(peer.outcome(8, b"x").await, ERR_INVALID);
        assert_eq!(peer.outcome(8, &[]).await, ACK);
        assert_eq!(peer.outcome(8, &[]).await, ERR_INVALID);
        assert_eq!(peer.outcome(11, &[]).await, ACK);
        assert_eq!(peer.outcome(11, &[]).await, ERR_INVALID);
        assert_eq!(peer.outcome(8, &[]).await, ERR_EXT_HEADER_REQD);
        assert_eq!(peer.outcome(7, b"\0\0\0\x09disk").await, ERR_INVALID);
        assert_eq!(peer.outcome(9, b"\0\0\0").await, ERR_INVALID);
        assert_eq!(peer.outcome(9, &meta("none", &[])).await, ERR_UNKNOWN);
        assert_eq!(peer.outcome(3, &vec![0; 100 << 10]).await, ERR_TOO_BIG);
        assert_eq!(peer.outcome(7, &info("disk", &[])).await, ACK);
    });
}

#[test]
fn contexts_are_listed_and_selected() {
    bench(6).run(5, async |reactor, address| {
        let peer = Peer::connect(&reactor, &address).await;
        peer.greet(3).await;
        assert_eq!(peer.outcome(8, &[]).await, ACK);
        let listed = (4, b"\0\0\0\0base:allocation".to_vec());
        let selected = (4, b"\0\0\0\x01base:allocation".to_vec());
        for query in [&["base:"][..], &["x-a:b", "base:allocation"]] {
            let replies = peer.option(9, &meta("disk", query)).await;
            assert_eq!(&replies[..replies.len() - 1], std::slice::from_ref(&listed));
        }
        for query in [&[][..], &["base:"], &["qemu:allocation-depth"]] {
            assert_eq!(peer.option(10, &meta("disk", query)).await.len(), 1);
        }
        let replies = peer.option(10, &meta("locked", &["base:allocation"])).await;
        assert_eq!(replies[0], selected);
        // It was selected for another export than the one that is used.
        assert_eq!(peer.outcome(7, &info("disk", &[])).await, ACK);
        peer.request(0, 7, 5, 0, 4096).await;
        let (flags, kind, cookie, payload) = peer.chunk().await;
        assert_eq!((flags, kind, cookie), (1, (1 << 15) + 1, 5));
        assert_eq!(payload[..4], [0, 0, 0, 22]);
    });
}

#[test]
fn nonsense_ends_the_connection_at_once() {
    bench(7).run(5, async |reactor, address| {
        for client_flags in [4, 1 << 31, 0x4745_5420] {
            let peer = Peer::connect(&reactor, &address).await;
            peer.greet(client_flags).await;
            assert!(peer.is_closed().await);
        }
        let peer = Peer::connect(&reactor, &address).await;
        peer.greet(3).await;
        peer.send(&[0x55; 16]).await;
        assert!(peer.is_closed().await);
        // An option that announces gigabytes.
        let peer = Peer::connect(&reactor, &address).await;
        peer.greet(3).await;
        let mut option = support::IHAVEOPT.to_be_bytes().to_vec();
        option.extend([0, 0, 0, 7, 0xff, 0xff, 0xff, 0xff]);
        peer.send(&option).await;
        assert!(peer.is_closed().await);
        // Extended headers and NBD_OPT_EXPORT_NAME exclude each other.
        let peer = Peer::connect(&reactor, &address).await;
        peer.greet(3).await;
        assert_eq!(peer.outcome(11, &[]).await, ACK);
        peer.send_option(1, b"disk").await;
        assert!(peer.is_closed().await);
    });
}

/// A client that sends a byte a second, and one that sends nothing: both are gone after the time
/// that a handshake may take, and a third is served meanwhile as if they were not there.
#[test]
fn slow_and_idle_handshakes_end_in_time_and_harm_nobody() {
    let bench = bench(8);
    bench.run(60, async |reactor, address| {
        let idle = Peer::connect(&reactor, &address).await;
        let slow = Peer::connect(&reactor, &address).await;
        let good = Peer::ready(&reactor, &address, "disk", 0).await;
        let began = reactor.now();
        let dripping = reactor.spawn({
            let reactor = reactor.clone();
            async move {
                let bytes = support::IHAVEOPT.to_be_bytes();
                for byte in [0, 0, 0, 3].iter().chain(bytes.iter().cycle()) {
                    if slow.try_send(&[*byte]).await.is_err() {
                        break;
                    }
                    reactor.sleep(Duration::from_secs(1)).await;
                }
                reactor.now() - began
            }
        });
        let waiting = reactor.spawn({
            let reactor = reactor.clone();
            async move {
                assert_eq!(idle.receive(18).await.len(), 18);
                assert!(idle.is_closed().await);
                reactor.now() - began
            }
        });
        for round in 0..100u32 {
            assert_eq!(good.write(0, &round.to_be_bytes().repeat(128)).await, 0);
            reactor.sleep(Duration::from_millis(150)).await;
        }
        assert!(dripping.await < Duration::from_secs(13));
        assert!(waiting.await < Duration::from_secs(11));
        // Once in transmission, a client may be silent for as long as it likes.
        reactor.sleep(Duration::from_secs(30)).await;
        assert_eq!(good.write(0, &[1; 512]).await, 0);
    });
    assert_eq!(bench.server.connections(), 1);
}

#[test]
fn connections_beyond_the_limit_are_closed() {
    let limits = Limits {
        connections_max: 3,
        ..Limits::default()
    };
    let options = NbdOptions {
        limits,
        ..NbdOptions::default()
    };
    Bench::new(9, Duration::ZERO, options).run(5, async |reactor, address| {
        let mut peers = Vec::new();
        for _ in 0..3 {
            peers.push(Peer::ready(&reactor, &address, "disk", 0).await);
        }
        let refused = Peer::connect(&reactor, &address).await;
        assert!(refused.is_closed().await);
        assert_eq!(peers[0].write(0, &[1; 512]).await, 0);
        peers.pop().unwrap().request(0, 2, 0, 0, 0).await;
        reactor.sleep(Duration::from_millis(10)).await;
        let again = Peer::ready(&reactor, &address, "disk", 0).await;
        assert_eq!(again.read(0, 512).await.unwrap(), [1; 512]);
    });
}

/// An attach that takes longer than a handshake may: the client waits for it and is served. One
/// whose client has gone, or whose server is stopped, runs to its end all the same.
#[test]
fn slow_opens_run_to_their_end() {
    let bench = bench(10);
    bench.opening.set(Duration::from_secs(15));
    let (server, other) = (bench.server.clone(), bench.reactor.clone());
    bench.run(120, async move |reactor, address| {
        let peer = Peer::ready(&reactor, &address, "disk", 0).await;
        assert_eq!(peer.write(0, &[1; 512]).await, 0);
        for _ in 0..2 {
            let gone = Peer::connect(&reactor, &address).await;
            gone.greet(3).await;
            gone.send_option(7, &info("disk", &[])).await;
            reactor.sleep(Duration::from_secs(1)).await;
            gone.stream.shutdown();
        }
        other.spawn(async move { server.stop().await }).await;
        reactor.sleep(Duration::from_secs(20)).await;
    });
    assert_eq!(bench.opened.get(), 3);
}
