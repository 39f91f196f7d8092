//! Requests and replies against a server in a simulated world.

#![allow(
    clippy::unwrap_used,
    reason = "a test that meets the unexpected has failed"
)]

mod support;

use ashlar_client::BlockError;
use ashlar_nbd_server::{Limits, NbdOptions};
use std::collections::HashMap;
use std::time::Duration;
use support::{Bench, MIB, Peer, extended_request, request};

const MILLI: Duration = Duration::from_millis(1);

fn bench(seed: u64, delay: Duration) -> Bench {
    Bench::new(seed, delay, NbdOptions::default())
}

#[test]
fn errors_are_those_of_the_specification() {
    let bench = bench(1, Duration::ZERO);
    bench.run(10, async |reactor, address| {
        let peer = Peer::ready(&reactor, &address, "disk", 0).await;
        assert_eq!(peer.write(16 * MIB, &[1; 512]).await, 28, "ENOSPC");
        assert_eq!(peer.write(16 * MIB - 512, &[1; 1024]).await, 28);
        assert_eq!(peer.read(16 * MIB, 512).await, Err(22), "EINVAL");
        assert_eq!(peer.read(100, 512).await, Err(22));
        assert_eq!(peer.read(0, 0).await, Err(22));
        assert_eq!(peer.write(0, &[1; 100]).await, 22);
        peer.request(0, 42, 3, 0, 512).await;
        assert_eq!(peer.simple().await, (3, 22), "unknown command");
        peer.request(1 << 9, 0, 4, 0, 512).await;
        assert_eq!(peer.simple().await, (4, 22), "unknown flag");
        // A refused write has its payload taken off the stream, however long.
        assert_eq!(peer.write(0, &vec![1; 33 << 20]).await, 28);
        assert_eq!(peer.write(0, &[2; 4096]).await, 0);
        assert_eq!(peer.read(0, 4096).await.unwrap(), [2; 4096]);
    });
    for (fault, errno) in [
        (BlockError::NoSpace, 28),
        (BlockError::Fenced, 108),
        (BlockError::Detached, 108),
        (BlockError::Unavailable, 5),
        (BlockError::Corrupt, 5),
        (BlockError::ReadOnly, 1),
    ] {
        bench.device.fault.set(Some(fault));
        bench.run(5, async move |reactor, address| {
            let peer = Peer::ready(&reactor, &address, "disk", 0).await;
            assert_eq!(peer.read(0, 512).await, Err(errno), "{fault:?}");
        });
    }
}

#[test]
fn a_payload_of_gigabytes_ends_the_connection() {
    bench(2, Duration::ZERO).run(5, async |reactor, address| {
        let peer = Peer::ready(&reactor, &address, "disk", 0).await;
        peer.request(0, 1, 1, 0, u32::MAX).await;
        assert!(peer.is_closed().await);
        let peer = Peer::ready(&reactor, &address, "disk", 2).await;
        peer.send(&extended_request(1 << 5, 1, 1, 0, 1 << 40)).await;
        assert!(peer.is_closed().await);
        let peer = Peer::ready(&reactor, &address, "disk", 0).await;
        peer.send(&[0x25; 28]).await;
        assert!(peer.is_closed().await, "no magic");
    });
}

#[test]
fn structured_reads_leave_holes_out_unless_told_otherwise() {
    bench(3, Duration::ZERO).run(5, async |reactor, address| {
        let peer = Peer::ready(&reactor, &address, "disk", 1).await;
        assert_eq!(peer.write(65_536, &[5; 4096]).await, 0);
        peer.request(0, 0, 1, 0, 131_072).await;
        let (flags, kind, cookie, payload) = peer.chunk().await;
        assert_eq!((flags, kind, cookie), (0, 2, 1));
        assert_eq!(payload, [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]);
        let (flags, kind, _, payload) = peer.chunk().await;
        assert_eq!((flags, kind, payload.len()), (0, 1, 4104));
        assert_eq!(payload[..9], [0, 0, 0, 0, 0, 1, 0, 0, 5]);
        let (flags, kind, _, payload) = peer.chunk().await;
        assert_eq!((flags, kind), (1, 2));
        assert_eq!(payload, [0, 0, 0, 0, 0, 1, 0x10, 0, 0, 0, 0xf0, 0]);
        peer.request(1 << 2, 0, 2, 0, 131_072).await;
        let (flags, kind, cookie, payload) = peer.chunk().await;
        assert_eq!((flags, kind, cookie, payload.len()), (1, 1, 2, 131_080));
        peer.request(1 << 2, 0, 3, 0, 33 << 20).await;
        let (flags, kind, cookie, payload) = peer.chunk().await;
        assert_eq!((flags, kind, cookie), (1, (1 << 15) + 1, 3));
        assert_eq!(payload[..4], [0, 0, 0, 22], "beyond the end comes first");
    });
}

#[test]
fn block_status_tells_holes_and_data() {
    bench(4, Duration::ZERO).run(5, async |reactor, address| {
        let peer = Peer::ready(&reactor, &address, "disk", 1).await;
        assert_eq!(peer.write(8192, &[5; 8192]).await, 0);
        peer.request(0, 7, 1, 512, 1 << 20).await;
        let (flags, kind, cookie, payload) = peer.chunk().await;
        assert_eq!((flags, kind, cookie), (1, 5, 1));
        let words: Vec<u32> = payload
            .chunks(4)
            .map(|word| u32::from_be_bytes(word.try_into().unwrap()))
            .collect();
        let end = (1 << 20) + 512 - 16_384;
        assert_eq!(words, [1, 7680, 3, 8192, 0, end, 3]);
        peer.request(1 << 3, 7, 2, 0, 512).await;
        let (_, _, _, payload) = peer.chunk().await;
        assert_eq!(payload, [0, 0, 0, 1, 0, 0, 2, 0, 0, 0, 0, 3]);
    });
}

#[test]
fn extended_headers_carry_every_command() {
    bench(5, Duration::ZERO).run(5, async |reactor, address| {
        let peer = Peer::ready(&reactor, &address, "disk", 2).await;
        let mut write = extended_request((1 << 5) | 1, 1, 1, 8192, 4096);
        write.extend([9; 4096]);
        peer.send(&write).await;
        assert_eq!(peer.extended_chunk().await, (1, 0, 1, 8192, vec![]));
        // qemu 10 leaves the flag out.
        let mut write = extended_request(0, 1, 2, 4096, 512);
        write.extend([8; 512]);
        peer.send(&write).await;
        assert_eq!(peer.extended_chunk().await, (1, 0, 2, 4096, vec![]));
        peer.send(&extended_request(0, 0, 3, 8192, 512)).await;
        let (flags, kind, cookie, offset, payload) = peer.extended_chunk().await;
        assert_eq!((flags, kind, cookie, offset), (1, 1, 3, 8192));
        assert_eq!(payload[8..], [9; 512]);
        peer.send(&extended_request(0, 7, 4, 0, 16 * MIB)).await;
        let (flags, kind, cookie, _, payload) = peer.extended_chunk().await;
        assert_eq!((flags, kind, cookie), (1, 6, 4));
        assert_eq!(payload[..8], [0, 0, 0, 1, 0, 0, 0, 3]);
        let mut status = extended_request(1 << 5, 7, 5, 0, 12);
        status.extend(4096u64.to_be_bytes());
        status.extend([0, 0, 0, 1]);
        peer.send(&status).await;
        let (_, kind, cookie, _, payload) = peer.extended_chunk().await;
        assert_eq!((kind, cookie, payload.len()), (6, 5, 24));
        // Payloads where none is expected are taken off the stream.
        for (command, length) in [(0, 600), (3, 64), (7, 16), (77, 100_000)] {
            let mut odd = extended_request(1 << 5, command, 6, 0, length);
            odd.extend(vec![0x21; usize::try_from(length).unwrap()]);
            peer.send(&odd).await;
            let (_, kind, cookie, _, payload) = peer.extended_chunk().await;
            assert_eq!((kind, cookie), ((1 << 15) + 1, 6));
            assert_eq!(payload[..4], [0, 0, 0, 22]);
        }
        for (command, offset, length) in
            [(6, 0, 16 * MIB), (4, 0, 16 * MIB), (3, 0, 0), (5, 0, 512)]
        {
            peer.send(&extended_request(1, command, 7, offset, length))
                .await;
            assert_eq!(peer.extended_chunk().await, (1, 0, 7, offset, vec![]));
        }
    });
}

/// Many requests at once on several connections, in random order of completion: every reply has
/// its request's cookie and its request's data.
#[test]
fn pipelined_requests_complete_in_any_order_with_their_own_data() {
    for seed in 10..20 {
        let bench = bench(seed, MILLI);
        let most = bench.device.most.clone();
        bench.run(60, async |reactor, address| {
            let mut clients = Vec::new();
            for client in 0..4u64 {
                let peer = Peer::ready(&reactor, &address, "disk", 0).await;
                clients.push(reactor.spawn(async move { pipeline(&peer, client).await }));
            }
            let mut reordered = false;
            for client in clients {
                reordered |= client.await;
            }
            assert!(reordered, "replies come as requests complete");
        });
        assert!(most.get() > 100, "requests overlap: {}", most.get());
    }
}

async fn pipeline(peer: &Peer, client: u64) -> bool {
    let base = client * 4 * MIB;
    let block = |index: u64| {
        vec![
            u8::try_from(index % 250 + 1).unwrap();
            512 + 512 * usize::try_from(index % 40).unwrap()
        ]
    };
    let mut burst = Vec::new();
    for index in 0..150u64 {
        let data = block(index);
        let len = u32::try_from(data.len()).unwrap();
        burst.extend(request(0, 1, index, base + index * 20_480, len));
        burst.extend(data);
    }
    peer.send(&burst).await;
    let mut order = Vec::new();
    for _ in 0..150 {
        let (cookie, error) = peer.simple().await;
        assert_eq!(error, 0);
        order.push(cookie);
    }
    let reordered = !order.is_sorted();
    order.sort_unstable();
    assert!(order.iter().copied().eq(0..150));
    let mut burst = Vec::new();
    let mut expected = HashMap::new();
    for index in 0..150u64 {
        let data = block(index);
        let len = u32::try_from(data.len()).unwrap();
        burst.extend(request(0, 0, 1000 + index, base + index * 20_480, len));
        expected.insert(1000 + index, data);
    }
    peer.send(&burst).await;
    while !expected.is_empty() {
        let (cookie, error) = peer.simple().await;
        assert_eq!(error, 0);
        let data = expected.remove(&cookie).expect("answered once");
        assert!(peer.receive(data.len()).await == data);
    }
    reordered
}

/// A client that asks and asks and reads nothing: the server stops reading it, holds no more than
/// its limits, and serves others; when the client reads again, it gets all.
#[test]
fn a_client_that_does_not_read_is_not_read() {
    let limits = Limits {
        requests_in_flight_max: 16,
        bytes_in_flight_max: 1 << 20,
        ..Limits::default()
    };
    let options = NbdOptions {
        limits,
        ..NbdOptions::default()
    };
    let bench = Bench::new(30, MILLI, options);
    let most = bench.device.most.clone();
    let most_bytes = bench.device.most_bytes.clone();
    bench.run(120, async |reactor, address| {
        let greedy = Peer::ready(&reactor, &address, "disk", 0).await;
        let asking = reactor.spawn({
            let greedy = greedy.clone();
            async move {
                for cookie in 0..500 {
                    greedy.request(0, 0, cookie, 0, 256 << 10).await;
                }
            }
        });
        let good = Peer::ready(&reactor, &address, "disk", 0).await;
        for _ in 0..50 {
            assert_eq!(good.write(0, &[3; 4096]).await, 0);
        }
        for _ in 0..500 {
            assert_eq!(greedy.simple().await.1, 0);
            greedy.receive(256 << 10).await;
        }
        asking.await;
        // One request above the limit of bytes is let through alone.
        assert_eq!(
            good.read(0, 8 << 20).await.map(|data| data.len()),
            Ok(8 << 20)
        );
    });
    assert!(most.get() <= 17, "{}", most.get());
    assert!(most_bytes.get() <= 8 << 20, "{}", most_bytes.get());
}

/// The story: each connection had one request of any length let through, so a thousand of them that
/// announced the longest write and sent nothing more held 32 GiB.
///
/// Now they hold what there is for all; small requests of others go on, and a long one gets its
/// turn when those that keep the memory have been dropped for it.
#[test]
fn many_announced_writes_hold_bounded_memory_and_harm_nobody() {
    const CONNECTIONS: usize = 200;
    const LEN: u32 = 8 << 20;
    let limits = Limits {
        bytes_in_flight_all: 64 * MIB,
        ..Limits::default()
    };
    let options = NbdOptions {
        limits,
        ..NbdOptions::default()
    };
    let bench = Bench::new(31, MILLI, options);
    let pool = bench.reactor.buffer_pool().clone();
    bench.run(2000, async move |reactor, address| {
        let before = pool.mapped_bytes();
        let mut hostile = Vec::new();
        for _ in 0..CONNECTIONS {
            let peer = Peer::ready(&reactor, &address, "disk", 0).await;
            peer.request(0, 1, 1, 0, LEN).await;
            peer.send(&[7; 100]).await;
            hostile.push(peer);
        }
        reactor.sleep(Duration::from_secs(5)).await;
        let held = (pool.mapped_bytes() - before) as u64;
        assert!(held > 16 * MIB, "some were admitted: {held}");
        // What each receives into comes beside it.
        let receiving = CONNECTIONS as u64 * (16 << 10);
        assert!(held < 64 * MIB + receiving, "{held} bytes are mapped");
        let good = Peer::ready(&reactor, &address, "disk", 0).await;
        let start = reactor.now();
        for _ in 0..50 {
            assert_eq!(good.write(0, &[3; 4096]).await, 0);
        }
        assert!(reactor.now() - start < Duration::from_secs(1));
        // Long requests come after all the hostile ones, three of which are let through at a time
        // and dropped within twice the limit. Waiting is no reason to be dropped.
        let long = vec![9; LEN as usize];
        assert_eq!(good.write(0, &long).await, 0);
        assert!(good.read(0, LEN).await == Ok(long));
        let rounds = u32::try_from(CONNECTIONS).unwrap() / 3 + 1;
        assert!(reactor.now() - start < 2 * limits.stall * rounds);
        // The last few keep what nobody needs any more.
        for peer in &hostile[..CONNECTIONS - 4] {
            assert!(peer.is_closed().await, "it kept what others needed");
        }
    });
}

/// A client that stops reading keeps its memory as long as nobody else needs it.
#[test]
fn a_pause_of_a_client_alone_is_none_of_the_servers_business() {
    let limits = Limits {
        bytes_in_flight_all: 16 * MIB,
        ..Limits::default()
    };
    let options = NbdOptions {
        limits,
        ..NbdOptions::default()
    };
    Bench::new(32, MILLI, options).run(1000, async |reactor, address| {
        let paused = Peer::ready(&reactor, &address, "disk", 0).await;
        let half = vec![5; 1 << 20];
        paused.request(0, 1, 7, 0, 2 << 20).await;
        paused.send(&half).await;
        let busy = Peer::ready(&reactor, &address, "disk", 0).await;
        for _ in 0..20 {
            assert_eq!(busy.write(8 * MIB, &half).await, 0);
            reactor.sleep(Duration::from_secs(30)).await;
        }
        paused.send(&half).await;
        assert_eq!(paused.simple().await, (7, 0));
    });
}

#[test]
fn flush_on_one_connection_covers_writes_of_another() {
    let bench = bench(40, MILLI);
    bench.run(5, async |reactor, address| {
        let one = Peer::ready(&reactor, &address, "disk", 0).await;
        let other = Peer::ready(&reactor, &address, "disk", 0).await;
        assert_eq!(one.write(0, &[1; 4096]).await, 0);
        other.request(0, 3, 9, 0, 0).await;
        assert_eq!(other.simple().await, (9, 0));
        assert_eq!(other.read(0, 4096).await.unwrap(), [1; 4096]);
    });
    assert_eq!(bench.device.inner.flushes(), 1, "one device for both");
}

#[test]
fn disconnect_waits_for_requests_in_flight() {
    bench(41, MILLI).run(5, async |reactor, address| {
        let peer = Peer::ready(&reactor, &address, "disk", 0).await;
        let mut burst = Vec::new();
        for cookie in 0..50 {
            burst.extend(request(0, 0, cookie, 0, 512));
        }
        burst.extend(request(0, 2, 0, 0, 0));
        peer.send(&burst).await;
        let all = peer.receive_up_to(50 * (16 + 512) + 1).await;
        assert_eq!(all.len(), 50 * (16 + 512));
    });
}

/// Stop while requests are in flight: those end, later ones get `NBD_ESHUTDOWN`, the listener is
/// gone, and all of it in time even though a client in its handshake says nothing.
#[test]
fn stop_ends_what_is_in_flight_and_refuses_the_rest() {
    let bench = bench(42, MILLI * 100);
    let (server, other) = (bench.server.clone(), bench.reactor.clone());
    bench.run(20, async move |reactor, address| {
        let idle = Peer::connect(&reactor, &address).await;
        let peer = Peer::ready(&reactor, &address, "disk", 0).await;
        let mut burst = Vec::new();
        for cookie in 0..20 {
            burst.extend(request(0, 0, cookie, 0, 512));
        }
        peer.send(&burst).await;
        reactor.sleep(MILLI * 5).await;
        let stopping = other.spawn(async move { server.stop().await });
        reactor.sleep(MILLI * 5).await;
        let _ = peer.try_send(&request(0, 3, 99, 0, 0)).await;
        let mut answered = 0;
        loop {
            let head = peer.receive_up_to(16).await;
            if head.len() < 16 {
                break;
            }
            match u32::from_be_bytes(head[4..8].try_into().unwrap()) {
                0 => {
                    peer.receive(512).await;
                    answered += 1;
                }
                108 => assert_eq!(head[8..], 99u64.to_be_bytes()),
                errno => panic!("{errno}"),
            }
        }
        assert_eq!(answered, 20);
        stopping.await;
        idle.receive_up_to(18).await;
        assert!(idle.is_closed().await);
        assert!(reactor.connect(&address).await.is_err());
    });
    assert_eq!(bench.server.connections(), 0);
}

/// Clients that vanish in the middle of anything leave nothing behind.
#[test]
fn vanished_clients_leave_nothing_behind() {
    let bench = bench(43, MILLI);
    bench.run(60, async |reactor, address| {
        let mut whole = 3u32.to_be_bytes().to_vec();
        let data = support::info("disk", &[3]);
        whole.extend(support::IHAVEOPT.to_be_bytes());
        whole.extend(7u32.to_be_bytes());
        whole.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
        whole.extend(data);
        for cookie in 0..4 {
            whole.extend(request(0, 1, cookie, 4096 * cookie, 4096));
            whole.extend([1; 4096]);
        }
        for cut in (0..whole.len()).step_by(97) {
            let peer = Peer::connect(&reactor, &address).await;
            peer.send(&whole[..cut.max(1)]).await;
            peer.stream.shutdown();
        }
        reactor.sleep(Duration::from_secs(12)).await;
    });
    assert_eq!(bench.server.connections(), 0);
    assert_eq!(bench.device.now.get(), 0);
}
