//! Links in a simulated world: whole frames, hostile bytes, stalls, hand-over.

mod secured;

use super::*;
use crate::sim::World;
use crate::{Buffer, Task};
use ashlar_proto::frame::seal_meta;
use ashlar_proto::{BlockCount, FRAME_HEADER_BYTES, FrameKind};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

const HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
const LIMIT: Duration = Duration::from_secs(3600);

fn address() -> Address {
    "10.0.0.1:7000".parse().unwrap()
}

fn pattern(reactor: &Reactor, blocks: usize, salt: u32) -> SharedBuffer {
    let mut buffer = reactor.buffer(blocks * PAGE_BYTES);
    for (n, byte) in (salt..).zip(buffer.iter_mut()) {
        *byte = n.wrapping_mul(0x9e37_79b9).to_le_bytes()[3];
    }
    buffer.freeze()
}

fn frame(reactor: &Reactor, tag: u32, meta: &[u8], blocks: usize) -> Frame {
    let mut sealed = Vec::new();
    if !meta.is_empty() {
        sealed = vec![0; 4];
        sealed.extend_from_slice(meta);
        seal_meta(&mut sealed);
    }
    let data = match blocks {
        0 => Vec::new(),
        1 => vec![pattern(reactor, 1, tag)],
        n => vec![
            pattern(reactor, 1, tag),
            pattern(reactor, n - 1, tag.wrapping_add(4096)),
        ],
    };
    let header = FrameHeader {
        count: BlockCount::new(u32::try_from(blocks).unwrap()),
        ..FrameHeader::request(FrameKind::Write, tag)
    };
    Frame::new(header, sealed, data)
}

fn assert_same(got: &Frame, expected: &Frame) {
    assert_eq!(got.header, expected.header);
    assert_eq!(got.meta, expected.meta);
    let bytes = |frame: &Frame| -> Vec<u8> {
        frame
            .data
            .iter()
            .flat_map(|piece| piece.iter().copied())
            .collect()
    };
    assert!(got.data.iter().all(SharedBuffer::is_aligned));
    assert!(bytes(got) == bytes(expected), "data of {}", got.header.tag);
}

/// The mixture of frames that tests send.
fn frames(reactor: &Reactor) -> Vec<Frame> {
    let shapes = [
        (0, 0),
        (8, 1),
        (4, 0),
        (1024, 256),
        (0, 0),
        (200_000, 3),
        (8, 1),
        (8, 2),
    ];
    (0..)
        .zip(shapes.iter().cycle().take(200))
        .map(|(tag, &(meta, blocks))| frame(reactor, tag, &vec![7; meta], blocks))
        .collect()
}

/// A server that hands its first link to `serve`.
fn serve<F: Future<Output = T> + 'static, T: 'static>(
    reactor: &Reactor,
    serve: impl FnOnce(Reactor, Link) -> F + 'static,
) -> Task<T> {
    let here = reactor.clone();
    reactor.spawn(async move {
        let listener = listen(&here, &address()).await.unwrap();
        let link = listener.accept().await.unwrap();
        serve(here, link).await
    })
}

#[test]
fn frames_arrive_whole_and_in_order() {
    for seed in 0..6 {
        let world = World::new(seed);
        let (server, client) = (world.process("s", HOST), world.process("c", OTHER));
        let echo = serve(server.reactor(), |_, link| async move {
            for _ in 0..200 {
                let frame = link.recv().await.unwrap();
                link.send(frame).await.unwrap();
            }
            assert_eq!(link.recv().await.unwrap_err(), LinkError::Closed);
        });
        world.run_for(Duration::from_millis(1));
        let here = client.reactor().clone();
        let exchange = client.reactor().spawn(async move {
            let link = connect(&here, &address()).await.unwrap();
            let (sender, reactor) = (link.clone(), here.clone());
            drop(here.spawn(async move {
                for frame in frames(&reactor) {
                    sender.send(frame).await.unwrap();
                }
            }));
            for expected in frames(&here) {
                // A receive that is given up loses nothing.
                let given_up = here.timeout(Duration::from_micros(20), link.recv()).await;
                let got = match given_up {
                    Ok(got) => got,
                    Err(_) => link.recv().await,
                };
                assert_same(&got.unwrap(), &expected);
            }
        });
        world.run(LIMIT, exchange).unwrap();
        world.run(LIMIT, echo).unwrap();
    }
}

/// What a server's link answers to raw bytes after which the client goes silent or closes.
fn verdict(bytes: impl Fn(&Reactor) -> Vec<u8> + 'static, close: bool) -> LinkError {
    let world = World::new(11);
    let (server, client) = (world.process("s", HOST), world.process("c", OTHER));
    let served = serve(server.reactor(), |_, link| async move {
        loop {
            if let Err(error) = link.recv().await {
                assert_eq!(
                    link.recv().await.unwrap_err(),
                    error,
                    "the first error stays"
                );
                let frame = Frame::new(FrameHeader::request(FrameKind::Ping, 0), vec![], vec![]);
                assert_eq!(link.send(frame).await, Err(error.clone()));
                return error;
            }
        }
    });
    world.run_for(Duration::from_millis(1));
    let here = client.reactor().clone();
    drop(client.reactor().spawn(async move {
        let stream = here.connect(&address()).await.unwrap();
        let bytes = bytes(&here);
        let mut buffer: Buffer = here.buffer(bytes.len());
        buffer.copy_from_slice(&bytes);
        stream.send(vec![buffer.freeze()]).await.unwrap();
        if !close {
            std::future::pending::<()>().await;
        }
    }));
    world.run(LIMIT, served).unwrap()
}

fn encoded(frame: &Frame) -> Vec<u8> {
    let mut bytes = frame.header.encode().to_vec();
    bytes.extend_from_slice(&frame.meta);
    for piece in &frame.data {
        bytes.extend_from_slice(piece);
    }
    bytes
}

#[test]
fn bytes_that_are_no_frame_end_the_link() {
    let garbage = verdict(|_| vec![0x55; 100], false);
    assert!(matches!(
        garbage,
        LinkError::Frame(FrameError::Magic { .. })
    ));
    let flipped = verdict(
        |reactor| {
            let mut bytes = encoded(&frame(reactor, 1, b"meta", 1));
            bytes[20] ^= 1;
            bytes
        },
        false,
    );
    assert!(matches!(flipped, LinkError::Frame(FrameError::Crc { .. })));
    let meta = verdict(
        |reactor| {
            let mut bytes = encoded(&frame(reactor, 1, b"meta", 1));
            bytes[FRAME_HEADER_BYTES + 5] ^= 1;
            bytes
        },
        false,
    );
    assert_eq!(meta, LinkError::Frame(FrameError::Meta));
    let oversize = verdict(
        |reactor| {
            let mut header = frame(reactor, 1, b"", 1).header;
            header.data_blocks = 257;
            header.encode().to_vec()
        },
        false,
    );
    let expected = FrameError::TooLarge { blocks: 257 };
    assert_eq!(oversize, LinkError::Frame(expected));
}

/// Frames of which a few bytes were changed, cut out or repeated: the link ends with a reason or
/// gives sound frames, whatever they are.
#[test]
fn mangled_bytes_never_harm_the_receiver() {
    let mut rng = crate::sim::Rng::new(5);
    for round in 0..300 {
        let mut changes: Vec<(u64, u64)> = Vec::new();
        for _ in 0..=rng.below(4) {
            changes.push((rng.next_u64(), rng.next_u64()));
        }
        let mangled = move |reactor: &Reactor| {
            let shapes = [(0, 0), (8, 1), (100, 0), (8, 3), (0, 0)];
            let mut bytes: Vec<u8> = (0..)
                .zip(shapes)
                .flat_map(|(tag, (meta, blocks))| {
                    encoded(&frame(reactor, tag, &vec![1; meta], blocks))
                })
                .collect();
            for &(kind, place) in &changes {
                let at = usize::try_from(place >> 8).unwrap() % bytes.len();
                match kind % 4 {
                    0 => bytes.truncate(at.max(1)),
                    1 => drop(bytes.drain(at..bytes.len().min(at + 7))),
                    2 => bytes.insert(at, place.to_le_bytes()[0]),
                    _ => bytes[at] ^= place.to_le_bytes()[0],
                }
                if bytes.is_empty() {
                    bytes.push(0);
                }
            }
            bytes
        };
        let error = verdict(mangled, true);
        assert_ne!(error, LinkError::Shutdown, "round {round}");
    }
}

#[test]
fn cut_frames_and_stalled_peers_end_the_link() {
    for keep in [1, FRAME_HEADER_BYTES, FRAME_HEADER_BYTES + 3, 3000] {
        let start =
            move |reactor: &Reactor| encoded(&frame(reactor, 1, b"meta", 2))[..keep].to_vec();
        assert_eq!(verdict(start, true), LinkError::Truncated, "{keep}");
        assert_eq!(verdict(start, false), LinkError::Stalled, "{keep}");
    }
    let whole = |reactor: &Reactor| encoded(&frame(reactor, 1, b"meta", 2));
    assert_eq!(verdict(whole, true), LinkError::Closed);
}

#[test]
fn a_peer_that_does_not_read_is_given_up_and_memory_stays_bounded() {
    let world = World::new(12);
    let (server, client) = (world.process("s", HOST), world.process("c", OTHER));
    let served = serve(server.reactor(), |reactor, link| async move {
        let mut sent = 0;
        loop {
            match link.send(frame(&reactor, sent, b"", 256)).await {
                Ok(()) => sent += 1,
                Err(error) => return (sent, error),
            }
        }
    });
    world.run_for(Duration::from_millis(1));
    let here = client.reactor().clone();
    drop(client.reactor().spawn(async move {
        let _stream = here.connect(&address()).await.unwrap();
        std::future::pending::<()>().await;
    }));
    let (sent, error) = world.run(LIMIT, served).unwrap();
    assert_eq!(error, LinkError::Stalled);
    assert!(sent < 64, "{sent} MiB were queued");
}

#[test]
fn closing_wakes_who_waits_and_dropping_delivers_first() {
    let world = World::new(13);
    let (server, client) = (world.process("s", HOST), world.process("c", OTHER));
    let served = serve(server.reactor(), |reactor, link| async move {
        let waiting = link.clone();
        let receiver = reactor.spawn(async move { waiting.recv().await.map(|_| ()) });
        reactor.sleep(Duration::from_millis(5)).await;
        for tag in 0..10 {
            link.send(frame(&reactor, tag, b"late", 200)).await.unwrap();
        }
        link.drained().await;
        link.close();
        receiver.await
    });
    world.run_for(Duration::from_millis(1));
    let here = client.reactor().clone();
    let received = client.reactor().spawn(async move {
        let link = connect(&here, &address()).await.unwrap();
        let mut count = 0;
        while link.recv().await.is_ok() {
            count += 1;
        }
        count
    });
    assert_eq!(world.run(LIMIT, received).unwrap(), 10);
    assert_eq!(world.run(LIMIT, served).unwrap(), Err(LinkError::Shutdown));
}

#[test]
fn a_detached_link_goes_on_with_what_it_had_received() {
    let world = World::new(14);
    let (server, client) = (world.process("s", HOST), world.process("c", OTHER));
    let served = serve(server.reactor(), |reactor, link| async move {
        let first = link.recv().await.unwrap();
        assert_eq!(first.header.tag, 0);
        let other = link.clone();
        let link = Link::adopt(&reactor, link.detach().unwrap());
        assert_eq!(other.recv().await.unwrap_err(), LinkError::Shutdown);
        for tag in 1..20 {
            let frame = link.recv().await.unwrap();
            assert_eq!(frame.header.tag, tag);
            link.send(frame).await.unwrap();
        }
        link.drained().await;
    });
    world.run_for(Duration::from_millis(1));
    let here = client.reactor().clone();
    let exchange = client.reactor().spawn(async move {
        let link = connect(&here, &address()).await.unwrap();
        for tag in 0..20 {
            link.send(frame(&here, tag, b"x", 1)).await.unwrap();
        }
        for tag in 1..20 {
            assert_same(&link.recv().await.unwrap(), &frame(&here, tag, b"x", 1));
        }
    });
    world.run(LIMIT, exchange).unwrap();
    world.run(LIMIT, served).unwrap();
}

#[test]
fn local_frames_pass_by_pointer() {
    let world = World::new(15);
    let process = world.process("both", HOST);
    let here = process.reactor().clone();
    let exchange = process.reactor().spawn(async move {
        let address: Address = "local:store-0".parse().unwrap();
        let refused = connect(&here, &address).await;
        assert!(matches!(
            refused,
            Err(LinkError::Net(NetError::Connect { .. }))
        ));
        let listener = listen(&here, &address).await.unwrap();
        let near = connect(&here, &address).await.unwrap();
        let far = listener.accept().await.unwrap();
        assert!(near.is_local() && far.is_local());
        let sent = frame(&here, 1, b"x", 1);
        let memory = sent.data[0].as_ptr();
        near.send(sent).await.unwrap();
        let got = far.recv().await.unwrap();
        assert_eq!(got.data[0].as_ptr(), memory);
        let waiting = far.clone();
        let receiver = here.spawn(async move { waiting.recv().await.map(|_| ()) });
        here.yield_now().await;
        near.close();
        assert_eq!(near.recv().await.map(|_| ()), Err(LinkError::Shutdown));
        assert_eq!(receiver.await, Err(LinkError::Closed));
        assert_eq!(far.send(got).await, Err(LinkError::Closed));
    });
    world.run(LIMIT, exchange).unwrap();
}
