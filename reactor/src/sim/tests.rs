//! Worlds that run, crash, lose power, and do all of it again from the same seed.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::time::Duration;

use super::*;
use crate::{Disk, DiskError, DiskOptions, NetError, Reactor, SharedBuffer};

const HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
const LIMIT: Duration = Duration::from_secs(3600);

fn block(reactor: &Reactor, first: u64, second: u64) -> SharedBuffer {
    let mut buffer = reactor.buffer(PAGE_BYTES);
    pattern(&mut buffer, first, second);
    buffer.freeze()
}

async fn first_of(reactor: &Reactor, disk: &Disk, offset: u64) -> u64 {
    let (buffer, result) = disk.read(offset, reactor.buffer(PAGE_BYTES)).await;
    result.unwrap();
    pattern_of(&buffer).expect("a pattern or zeroes").0
}

#[test]
fn time_jumps_and_sleeps_end_in_order() {
    let world = World::new(1);
    let process = world.process("sleeper", HOST);
    let reactor = process.reactor().clone();
    let task = process.reactor().spawn(async move {
        let start = reactor.now();
        reactor.sleep(Duration::from_secs(1000)).await;
        let short = reactor.sleep(Duration::from_secs(1));
        let late = reactor.timeout(Duration::from_millis(1), short).await;
        assert!(late.is_err());
        reactor.now() - start
    });
    let slept = world.run(LIMIT, task).unwrap();
    assert!(slept >= Duration::from_millis(1_000_001) && slept < Duration::from_secs(1001));
}

#[test]
fn a_world_without_work_is_stuck() {
    let world = World::new(2);
    let never = std::future::pending::<()>();
    assert_eq!(world.run(LIMIT, never), Err(SimError::Stuck));
    let process = world.process("waker", HOST);
    let reactor = process.reactor().clone();
    drop(process.reactor().spawn(async move {
        loop {
            reactor.sleep(Duration::from_secs(10)).await;
        }
    }));
    let never = std::future::pending::<()>();
    assert_eq!(world.run(LIMIT, never), Err(SimError::TimedOut));
}

/// Writes, crashes in the middle and looks at what is left.
fn crash_run(seed: u64, power: bool) -> (Vec<u64>, u64) {
    let world = World::new(seed);
    world.add_disk(HOST, "/disk", DiskSpec::new(1 << 30));
    let process = world.process("writer", HOST);
    let flushed = Rc::new(Cell::new(0));
    let (reactor, progress) = (process.reactor().clone(), Rc::clone(&flushed));
    drop(process.reactor().spawn(async move {
        let disk = reactor.open_disk(DiskOptions::new("/disk")).await.unwrap();
        for n in 1..=100 {
            let offset = (n % 4) * 4096;
            disk.write(offset, vec![block(&reactor, n, 0)])
                .await
                .unwrap();
            if n % 10 == 0 {
                disk.flush().await.unwrap();
                progress.set(n);
            }
        }
    }));
    world.run_steps(300 + seed % 100);
    let before = flushed.get();
    assert!(before > 0, "the run got somewhere");
    if power {
        world.power_loss(HOST);
    } else {
        process.crash();
    }
    assert!(!process.is_alive());
    let after = world.process("reader", HOST);
    let reactor = after.reactor().clone();
    let reads = after.reactor().spawn(async move {
        let disk = reactor.open_disk(DiskOptions::new("/disk")).await.unwrap();
        let mut seen = Vec::new();
        for page in 0..4 {
            seen.push(first_of(&reactor, &disk, page * 4096).await);
        }
        seen
    });
    let seen = world.run(LIMIT, reads).unwrap();
    for (page, &n) in (0..).zip(&seen) {
        let last_flushed = (0..=before).rev().find(|n| n % 4 == page).unwrap_or(0);
        assert!(
            n >= last_flushed,
            "seed {seed}: page {page} shows {n}, flushed {last_flushed}"
        );
    }
    (seen, world.trace_hash())
}

#[test]
fn flushed_writes_survive_every_crash_and_a_seed_repeats() {
    let mut hashes = std::collections::BTreeSet::new();
    for seed in 0..60 {
        let power = seed % 2 == 0;
        // A torn page is no pattern: `first_of` would panic, so tearing shows as such.
        let run = std::panic::catch_unwind(|| crash_run(seed, power));
        let again = std::panic::catch_unwind(|| crash_run(seed, power));
        match (run, again) {
            (Ok(first), Ok(second)) => {
                assert_eq!(first, second, "seed {seed} repeats");
                hashes.insert(first.1);
            }
            (first, second) => assert_eq!(first.is_err(), second.is_err()),
        }
    }
    assert!(hashes.len() > 30, "seeds differ: {}", hashes.len());
}

#[test]
fn a_disk_has_one_writer_until_it_dies() {
    let world = World::new(3);
    world.add_disk(HOST, "/disk", DiskSpec::write_through(1 << 20));
    let (one, two) = (world.process("one", HOST), world.process("two", HOST));
    let open = |process: &Process| {
        let reactor = process.reactor().clone();
        process
            .reactor()
            .spawn(async move { reactor.open_disk(DiskOptions::new("/disk")).await })
    };
    let held = world.run(LIMIT, open(&one)).unwrap().unwrap();
    assert!(!held.geometry().volatile_cache);
    let refused = world.run(LIMIT, open(&two)).unwrap();
    assert!(matches!(refused, Err(DiskError::InUse { .. })));
    one.crash();
    assert!(world.run(LIMIT, open(&two)).unwrap().is_ok());
}

#[test]
fn streams_carry_bytes_and_die_with_their_process() {
    let world = World::new(4);
    let (server, client) = (
        world.process("server", HOST),
        world.process("client", OTHER),
    );
    let reactor = server.reactor().clone();
    drop(server.reactor().spawn(async move {
        let address = "10.0.0.1:7000".parse().unwrap();
        let listener = reactor.listen(&address).await.unwrap();
        let stream = listener.accept().await.unwrap();
        loop {
            let (buffer, got) = stream.recv(reactor.buffer(1000)).await;
            let len = got.unwrap();
            if len == 0 {
                return;
            }
            stream
                .send(vec![buffer.freeze().slice(..len)])
                .await
                .unwrap();
        }
    }));
    world.run_for(Duration::from_millis(1));
    let reactor = client.reactor().clone();
    let echo = client.reactor().spawn(async move {
        let nobody = reactor.connect(&"10.0.0.1:7001".parse().unwrap()).await;
        assert!(matches!(nobody, Err(NetError::Connect { .. })));
        let stream = reactor
            .connect(&"10.0.0.1:7000".parse().unwrap())
            .await
            .unwrap();
        let mut message = reactor.buffer(100_000);
        for (n, byte) in message.iter_mut().enumerate() {
            *byte = n.to_le_bytes()[0];
        }
        let message = message.freeze();
        let (sender, copy) = (stream.clone(), message.clone());
        let sending = reactor.spawn(async move { sender.send(vec![copy]).await });
        let mut back = Vec::new();
        while back.len() < message.len() {
            let (buffer, got) = stream.recv(reactor.buffer(4096)).await;
            back.extend_from_slice(&buffer[..got.unwrap()]);
        }
        sending.await.unwrap();
        assert!(back[..] == message[..]);
        stream
    });
    let stream = world.run(LIMIT, echo).unwrap();
    server.crash();
    let reactor = client.reactor().clone();
    let last = client
        .reactor()
        .spawn(async move { stream.recv(reactor.buffer(10)).await.1 });
    assert_eq!(world.run(LIMIT, last).unwrap(), Err(NetError::Reset));
}

#[test]
fn a_partition_holds_and_a_dark_host_is_silent() {
    let world = World::new(5);
    let (server, client) = (
        world.process("server", HOST),
        world.process("client", OTHER),
    );
    let reactor = server.reactor().clone();
    drop(server.reactor().spawn(async move {
        let listener = reactor
            .listen(&"10.0.0.1:7000".parse().unwrap())
            .await
            .unwrap();
        let stream = listener.accept().await.unwrap();
        stream.send(vec![reactor.buffer(1).freeze()]).await.unwrap();
        std::future::pending::<()>().await;
    }));
    world.run_for(Duration::from_millis(1));
    let reactor = client.reactor().clone();
    let connecting = client.reactor().spawn(async move {
        reactor
            .connect(&"10.0.0.1:7000".parse().unwrap())
            .await
            .unwrap()
    });
    let stream = world.run(LIMIT, connecting).unwrap();
    world.cut(HOST, OTHER);
    let receive = |wait: Duration| {
        let (reactor, stream) = (client.reactor().clone(), stream.clone());
        client.reactor().spawn(async move {
            let receiving = async { stream.recv(reactor.buffer(10)).await.1 };
            reactor.timeout(wait, receiving).await
        })
    };
    let held = world.run(LIMIT, receive(Duration::from_secs(60))).unwrap();
    if held.is_err() {
        world.heal();
        let arrived = world.run(LIMIT, receive(Duration::from_secs(60))).unwrap();
        assert_eq!(arrived.unwrap(), Ok(1));
    }
    world.power_loss(HOST);
    let silent = world.run(LIMIT, receive(Duration::from_secs(60))).unwrap();
    assert!(silent.is_err(), "{silent:?}");
}

#[test]
fn a_world_ends_with_its_last_handle() {
    let alive = Rc::new(Cell::new(()));
    let world = World::new(6);
    let process = world.process("sleeper", HOST);
    let (reactor, held) = (process.reactor().clone(), Rc::clone(&alive));
    drop(process.reactor().spawn(async move {
        loop {
            reactor.sleep(Duration::from_secs(1)).await;
            held.set(());
        }
    }));
    world.run_for(Duration::from_secs(3));
    assert_eq!(Rc::strong_count(&alive), 2);
    drop(process);
    drop(world);
    assert_eq!(Rc::strong_count(&alive), 1);
}

#[test]
fn a_stalled_process_does_nothing_and_its_clock_goes_on() {
    let world = World::new(5);
    let process = world.process("sleeper", HOST);
    let reactor = process.reactor().clone();
    let task = process.reactor().spawn(async move {
        let start = reactor.now();
        reactor.sleep(Duration::from_secs(1)).await;
        reactor.now() - start
    });
    process.stall(Duration::from_secs(7));
    let slept = world.run(LIMIT, task).unwrap();
    assert!(
        slept < Duration::from_secs(2),
        "it began only then: {slept:?}"
    );
    assert!(world.now() >= crate::Instant::EPOCH + Duration::from_secs(8));
}
