//! Every kind of request: what it answers, and what it answers to nonsense.

use super::*;

#[test]
fn versions_are_kept_and_shown() {
    let site = Site::new(1, 1, DiskSpec::new);
    site.owner(|reactor| async move {
        let owner = Owner::attach(&reactor, 0).await;
        assert!(owner.volatile_cache);
        assert_eq!(owner.write(10, 2, seq(1), 5).await, Status::Ok);
        assert_eq!(owner.write(11, 1, seq(2), 6).await, Status::Ok);
        // A version that comes late loses.
        assert_eq!(owner.write(11, 1, seq(1), 5).await, Status::Ok);
        let zeroed = owner.span(FrameKind::Zeroes, 12, 3, seq(3)).await;
        assert_eq!(zeroed.header.status, Status::Ok);
        assert_eq!(zeroed.header.room, RoomHint::Ample);
        assert_eq!(zeroed.header.incarnation(), owner.incarnation);
        let shown = owner.contents(9, 5).await;
        let expected = [
            (0, Seq::NONE),
            (5, seq(1)),
            (6, seq(2)),
            (0, seq(3)),
            (0, seq(3)),
        ];
        assert_eq!(shown, expected);
        let extents = owner.span(FrameKind::Extents, 0, BLOCKS, Seq::NONE).await;
        let extents = decode_extents(open_meta(&extents.meta).unwrap()).unwrap();
        let runs: Vec<_> = extents.iter().map(|e| (e.count.get(), e.kind)).collect();
        let expected = [
            (10, BlockKind::Absent),
            (2, BlockKind::Data),
            (3, BlockKind::Zero),
            (BLOCKS - 15, BlockKind::Absent),
        ];
        assert_eq!(runs, expected);
        let tail = owner.span(FrameKind::Tail, 0, 0, seq(1)).await;
        let tail = decode_tail(open_meta(&tail.meta).unwrap()).unwrap();
        let seqs: Vec<_> = tail
            .entries
            .iter()
            .map(|e| (e.block.get(), e.seq, e.kind))
            .collect();
        let zero = |block| (block, seq(3), TailKind::Zero);
        assert_eq!(
            seqs,
            [(11, seq(2), TailKind::Data), zero(12), zero(13), zero(14)]
        );
        let ping = owner.request(FrameKind::Ping);
        let ping = owner.call(ping, vec![], vec![]).await;
        assert_eq!(ping.header.status, Status::Ok);
    });
}

#[test]
fn an_owner_is_fenced_by_the_next_one() {
    let site = Site::new(2, 1, DiskSpec::new);
    site.owner(|reactor| async move {
        let old = Owner::connect(&reactor, 0).await;
        // Nothing goes before the shard is opened.
        assert_eq!(old.write(0, 1, seq(1), 1).await, Status::Fenced);
        old.open().await.unwrap();
        old.set_window(1).await;
        assert_eq!(old.write(0, 1, seq(1), 1).await, Status::Ok);
        let new = Owner::connect(&reactor, 0).await;
        new.generation.set(2);
        let state = new.open().await.unwrap();
        assert_eq!(state.generation, Generation::new(2));
        assert_eq!((state.window, state.highest), (window(1), seq(1)));
        for kind in [
            FrameKind::Write,
            FrameKind::Zeroes,
            FrameKind::Read,
            FrameKind::Tail,
            FrameKind::Extents,
            FrameKind::SetState,
            FrameKind::Close,
            FrameKind::Pull,
        ] {
            let reply = old.span(kind, 0, 1, seq(2)).await;
            assert_eq!(reply.header.status, Status::Fenced, "{kind:?}");
            assert_eq!(reply.header.generation, Generation::new(2));
        }
        assert_eq!(old.open().await, Err(Status::Fenced));
        assert_eq!(new.contents(0, 1).await, [(1, seq(1))]);
    });
}

#[test]
fn a_fence_is_durable_before_it_is_answered() {
    for seed in 0..8 {
        let mut site = Site::new(seed, 1, DiskSpec::new);
        site.owner(|reactor| async move {
            let owner = Owner::connect(&reactor, 0).await;
            owner.generation.set(7);
            owner.open().await.unwrap();
            owner.set_window(3).await;
        });
        site.lose_power();
        site.start();
        site.owner(|reactor| async move {
            let owner = Owner::connect(&reactor, 0).await;
            owner.generation.set(6);
            assert_eq!(owner.open().await, Err(Status::Fenced), "seed {seed}");
            owner.generation.set(7);
            assert_eq!(owner.open().await.unwrap().window, window(3));
        });
    }
}

#[test]
fn stale_epochs_are_refused_and_newer_ones_adopted() {
    let site = Site::new(3, 1, DiskSpec::new);
    site.owner(|reactor| async move {
        let owner = Owner::attach(&reactor, 0).await;
        owner.epoch.set(4);
        assert_eq!(owner.write(0, 1, seq(1), 1).await, Status::Ok);
        owner.epoch.set(3);
        let reply = owner.read(0, 1).await;
        assert_eq!(reply.header.status, Status::StaleEpoch);
        assert_eq!(reply.header.epoch, Epoch::new(4));
        assert_eq!(owner.open().await, Err(Status::StaleEpoch));
    });
}

#[test]
fn nonsense_is_answered_and_the_connection_lives() {
    let site = Site::new(4, 1, DiskSpec::new);
    site.owner(|reactor| async move {
        let owner = Owner::attach(&reactor, 0).await;
        let status = |frame: Frame| frame.header.status;
        let call = async |frame: Frame| owner.call(frame.header, frame.meta, frame.data).await;
        let good = || owner.write_frame(0, 2, seq(1), 1);
        let mut beyond = good();
        beyond.header.block = BlockIndex::new(BLOCKS - 1);
        assert_eq!(status(call(beyond).await), Status::Malformed);
        let mut short = good();
        short.header.count = BlockCount::new(3);
        assert_eq!(status(call(short).await), Status::Malformed);
        let mut checksums = good();
        checksums.meta = encode_checksums(&[1]);
        assert_eq!(status(call(checksums).await), Status::Malformed);
        let mut flipped = good();
        flipped.meta = encode_checksums(&[1, 2]);
        assert_eq!(status(call(flipped).await), Status::BadChecksum);
        let mut nowhere = good();
        nowhere.header.shard = ShardIndex::new(9);
        assert_eq!(status(call(nowhere).await), Status::NoSuchReplica);
        let mut far = good();
        far.header.seq = Seq::from_raw(window(2).start().get() + 1).unwrap();
        assert_eq!(status(call(far).await), Status::SeqOutOfWindow);
        let mut payload = good();
        payload.header.kind = FrameKind::Read;
        assert_eq!(status(call(payload).await), Status::Malformed);
        let again = owner.request(FrameKind::Hello);
        let again = owner.call(again, hello(0).encode(), vec![]).await;
        assert_eq!(status(again), Status::Malformed);
        let mut text = vec![0; 4];
        text.extend_from_slice(b"no message of any kind");
        seal_meta(&mut text);
        for kind in [FrameKind::Open, FrameKind::SetState, FrameKind::Close] {
            let header = owner.request(kind);
            let bad_window = owner.call(header, text.clone(), vec![]).await;
            assert_ne!(status(bad_window), Status::Ok, "{kind:?}");
            let empty = owner.request(kind);
            let empty = owner.call(empty, vec![], vec![]).await;
            assert_eq!(status(empty), Status::Malformed, "{kind:?}");
        }
        let stable = SetState {
            stable: window(2).burial(),
            ..SetState::default()
        };
        assert_eq!(owner.set_state(stable).await, Err(Status::SeqOutOfWindow));
        assert_eq!(owner.contents(0, 2).await, [(0, Seq::NONE); 2]);
        assert_eq!(owner.write(0, 2, seq(1), 1).await, Status::Ok);
    });
}

#[test]
fn random_headers_never_harm_the_store() {
    for seed in 0..6 {
        let site = Site::new(seed, 1, DiskSpec::new);
        site.owner(|reactor| async move {
            let owner = Owner::attach(&reactor, 0).await;
            assert_eq!(owner.write(0, 1, seq(1), 3).await, Status::Ok);
            let kinds = [
                FrameKind::Open,
                FrameKind::Tail,
                FrameKind::SetState,
                FrameKind::Write,
                FrameKind::Zeroes,
                FrameKind::Read,
                FrameKind::Flush,
                FrameKind::Extents,
                FrameKind::Ping,
                FrameKind::Close,
                FrameKind::Pull,
                FrameKind::Renew,
                FrameKind::Verify,
                FrameKind::ReadSnapshot,
                FrameKind::SnapshotExtents,
            ];
            let small = |most: u64| {
                let raw = reactor.random_u64();
                let value = if raw & 7 == 0 {
                    raw >> 8
                } else {
                    (raw >> 8) % most
                };
                u32::try_from(value & 0xffff_ffff).unwrap()
            };
            for _ in 0..400 {
                let kind = reactor.random_u64() % kinds.len() as u64;
                let kind = kinds[usize::try_from(kind).unwrap()];
                let blocks = u32::try_from(reactor.random_u64() % 4).unwrap();
                let mut meta = vec![0; (reactor.random_u64() % 40) as usize];
                meta.resize(4 + meta.len(), small(3).to_le_bytes()[0]);
                seal_meta(&mut meta);
                let header = FrameHeader {
                    block: BlockIndex::new(small(u64::from(BLOCKS) * 2)),
                    count: BlockCount::new(small(300)),
                    layer: Layer::new(small(3)),
                    // Never above 1, which would fence this owner for good.
                    generation: Generation::new(small(2).min(1)),
                    seq: Seq::from_raw(reactor.random_u64() >> (16 + small(30) % 40)).unwrap(),
                    stable: Seq::NONE,
                    ..owner.request(kind)
                };
                let data = match blocks {
                    0 => vec![],
                    n => vec![content(&reactor, n, 1)],
                };
                owner.call(header, meta, data).await;
            }
            let header = owner.read(0, 1).await.header;
            assert_eq!(header.status, Status::Ok);
        });
    }
}

#[test]
fn hello_is_checked() {
    let site = Site::new(5, 1, DiskSpec::new);
    site.owner(|reactor| async move {
        let good = hello(0);
        let refused = [
            (
                Hello {
                    cluster: ClusterId::new(1),
                    ..good
                },
                Status::NoSuchReplica,
            ),
            (
                Hello {
                    disk: DiskId::new(1),
                    ..good
                },
                Status::NoSuchReplica,
            ),
            (
                Hello {
                    lane: LaneIndex::new(LANES),
                    ..good
                },
                Status::NoSuchReplica,
            ),
            (
                Hello {
                    version_min: 9,
                    version_max: 9,
                    ..good
                },
                Status::Malformed,
            ),
        ];
        for (hello, status) in refused {
            let (link, reply) = greet(&reactor, hello).await;
            assert_eq!(reply.header.status, status);
            assert!(link.recv().await.is_err(), "the connection ends");
        }
        let address = "10.0.0.1:7000".parse().unwrap();
        let silent = link::connect(&reactor, &address).await.unwrap();
        let began = reactor.now();
        assert!(silent.recv().await.is_err(), "who says nothing is cut off");
        assert!(reactor.now() - began < HELLO_WITHIN * 2);
        let early = link::connect(&reactor, &address).await.unwrap();
        let ping = FrameHeader::request(FrameKind::Ping, 1);
        early.send(Frame::new(ping, vec![], vec![])).await.unwrap();
        let reply = early.recv().await.unwrap();
        assert_eq!(reply.header.status, Status::Malformed);
    });
}

#[test]
fn many_requests_are_answered_each_once() {
    let site = Site::new(6, 1, DiskSpec::new);
    site.owner(|reactor| async move {
        let owner = Owner::attach(&reactor, 0).await;
        let first = owner.tag.get() + 1;
        let frames: Vec<Frame> = (0..2000)
            .map(|n| owner.write_frame(n % 512, 1, seq(u64::from(n) + 1), u64::from(n)))
            .collect();
        let link = owner.link.clone();
        let sending = reactor.spawn(async move {
            for frame in frames {
                link.send(frame).await.unwrap();
            }
        });
        let mut tags: Vec<u32> = Vec::new();
        for _ in 0..2000 {
            let reply = owner.link.recv().await.unwrap();
            assert_eq!(reply.header.status, Status::Ok);
            tags.push(reply.header.tag);
        }
        sending.await;
        tags.sort_unstable();
        assert_eq!(tags, (first..first + 2000).collect::<Vec<_>>());
        for block in 0..512 {
            let newest = (0..2000).rev().find(|n| n % 512 == block).unwrap();
            let shown = owner.contents(block, 1).await;
            assert_eq!(shown, [(u64::from(newest), seq(u64::from(newest) + 1))]);
        }
    });
}
