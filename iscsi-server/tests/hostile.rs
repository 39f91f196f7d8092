//! Initiators that send anything, and many that do as they should at once: the server stands, keeps
//! its promises to the others, and forgets who has gone.

#![allow(
    clippy::unwrap_used,
    reason = "a test that meets the unexpected has failed"
)]

mod support;

use ashlar_iscsi_server::{IscsiOptions, Limits};
use ashlar_reactor::Reactor;
use std::collections::HashMap;
use std::time::Duration;
use support::initiator::{FINAL, READ, WRITE, read10, write10};
use support::{Bench, Client, DISK, Initiator, Login, MIB, MILLI};

fn below(reactor: &Reactor, bound: u64) -> u64 {
    reactor.random_u64() % bound
}

/// A header of plausible fields in implausible places.
fn header(initiator: &Initiator) -> [u8; 48] {
    const CODES: [u8; 9] = [0x00, 0x01, 0x02, 0x04, 0x05, 0x06, 0x10, 0x1c, 0x25];
    const FLAGS: [u8; 8] = [0x80, 0xc0, 0xa0, 0x20, 0x00, 0x40, 0x81, 0x85];
    let random = |bound| below(&initiator.reactor, bound);
    let mut bhs = [0; 48];
    let pick = |bound| usize::try_from(random(bound)).unwrap();
    bhs[0] = CODES[pick(9)] | [0, 0x40][pick(2)];
    bhs[1] = FLAGS[pick(8)];
    for (at, values) in [
        (16, [1, 2, 3, u32::MAX]),
        (20, [u32::MAX, 0, 512, 65_536]),
        (
            24,
            [initiator.cmd_sn.get(), initiator.cmd_sn.get() + 1, 0, 101],
        ),
        (36, [0, 1, 2, u32::MAX]),
        (40, [0, 512, 8192, u32::MAX]),
    ] {
        bhs[at..at + 4].copy_from_slice(&values[pick(4)].to_be_bytes());
    }
    if bhs[0] & 0x3f == 1 {
        let cdbs = [read10(0, 8), write10(0, 8), write10(0, 128), [0; 16]];
        bhs[32..48].copy_from_slice(&cdbs[pick(4)]);
    }
    if bhs[24..28] == initiator.cmd_sn.get().to_be_bytes() && bhs[0] < 0x40 {
        initiator.next_cmd_sn();
    }
    bhs
}

async fn pester(client: &Client) {
    let initiator = client.connect().await;
    let keys = [("InitialR2T", "No"), ("MaxConnections", "2")];
    let login = Login::normal(DISK).with(&keys).isid(9);
    initiator.log_in(&login).await.unwrap();
    let reader = initiator.clone();
    let reading = client.reactor.spawn(async move { reader.closed().await });
    for _ in 0..60 {
        let bhs = header(&initiator);
        let lengths = [0, 0, 0, 4, 512, 4096, 8191];
        let len = lengths[usize::try_from(below(&client.reactor, 7)).unwrap()];
        let mut bytes = initiator.frame(bhs, &vec![7; len]);
        if below(&client.reactor, 40) == 0 {
            bytes[4] = 3;
        }
        if initiator.try_send(&bytes).await.is_err() {
            break;
        }
        client.reactor.sleep(MILLI / 4).await;
    }
    drop(reading);
    initiator.stream.shutdown();
}

#[test]
fn anything_may_be_sent_and_others_are_served() {
    for seed in 0..60 {
        let bench = Bench::new(seed);
        bench.device().delay.set(MILLI);
        bench.run(200, async |client: Client| {
            let other = client.session_of(2, &[]).await;
            for _ in 0..8 {
                pester(&client).await;
                // Resets by others are told first.
                let mut status = other.test_unit_ready().await;
                for _ in 0..8 {
                    if status == 0 {
                        break;
                    }
                    status = other.test_unit_ready().await;
                }
                assert_eq!(status, 0);
            }
            other.log_out(0, 0).await;
            other.closed().await;
            client.reactor.sleep(Duration::from_secs(90)).await;
        });
        assert_eq!(bench.server.connections(), 0, "seed {seed}");
        assert_eq!(bench.device().now.get(), 0, "seed {seed}");
    }
}

#[test]
fn bytes_without_any_sense_are_survived() {
    for seed in 0..60 {
        let bench = Bench::new(1000 + seed);
        bench.run(200, async |client: Client| {
            for logged_in in [false, true] {
                let initiator = client.connect().await;
                if logged_in {
                    initiator.log_in(&Login::normal(DISK)).await.unwrap();
                }
                for _ in 0..20 {
                    let words = (0..40).map(|_| client.reactor.random_u64().to_be_bytes());
                    let mut bytes = words.collect::<Vec<_>>().concat();
                    // Lengths that are not absurd let more of it be looked at.
                    (bytes[4], bytes[5], bytes[6]) = (0, 0, 0);
                    if initiator.try_send(&bytes).await.is_err() {
                        break;
                    }
                }
                initiator.stream.shutdown();
            }
            client.reactor.sleep(Duration::from_secs(90)).await;
        });
        assert_eq!(bench.server.connections(), 0, "seed {seed}");
    }
}

/// Writes, reads, aborts and verifies on 64 blocks of its own, with many commands in flight.
async fn work(client: Client, port: u8) {
    let on = |chance| below(&client.reactor, chance) == 0;
    let digest = if on(2) { "CRC32C" } else { "None" };
    let keys = [
        ("DataDigest", digest),
        ("HeaderDigest", digest),
        ("InitialR2T", if on(2) { "No" } else { "Yes" }),
        ("MaxBurstLength", if on(2) { "4096" } else { "65536" }),
        ("MaxOutstandingR2T", "4"),
        ("MaxRecvDataSegmentLength", "2048"),
    ];
    let initiator = client.session_of(port, &keys).await;
    let base = u32::from(port) * 64;
    for round in 0..6u8 {
        let value = port.wrapping_mul(16) + round;
        let mut writes = HashMap::new();
        for block in (0..64).step_by(8) {
            let cdb = write10(base + block, 8);
            let now = usize::try_from(below(&client.reactor, 3)).unwrap() * 512;
            let itt = initiator
                .command(FINAL | WRITE, cdb, 4096, &vec![value; now])
                .await;
            writes.insert(itt, block);
        }
        let aborted = if on(2) {
            let victim = *writes.keys().min().unwrap();
            Some((initiator.manage(1, victim).await, victim))
        } else {
            None
        };
        let mut manage = aborted;
        while !writes.is_empty() || manage.is_some() {
            let pdu = initiator.receive().await;
            match pdu.opcode() {
                0x31 => initiator.answer_r2t(&pdu, &[value; 4096], 1024).await,
                0x21 => {
                    let block = writes.remove(&pdu.itt()).unwrap();
                    // No memory for what came with it: once more, without that.
                    if pdu.bhs[3] == 0x28 {
                        let cdb = write10(base + block, 8);
                        let itt = initiator.command(FINAL | WRITE, cdb, 4096, &[]).await;
                        writes.insert(itt, block);
                        continue;
                    }
                    assert_eq!(pdu.bhs[3], 0, "{pdu:?}");
                }
                0x22 => {
                    let (itt, victim) = manage.take().unwrap();
                    assert_eq!(pdu.itt(), itt);
                    // Answered before, or never to be.
                    match pdu.bhs[2] {
                        0 => drop(writes.remove(&victim)),
                        1 => assert!(!writes.contains_key(&victim)),
                        other => panic!("{other}"),
                    }
                }
                _ => panic!("{pdu:?}"),
            }
        }
        let skip = if aborted.is_some() { 8 } else { 0 };
        let read = initiator
            .read(base + skip, u16::try_from(64 - skip).unwrap())
            .await;
        assert!(
            read.iter().all(|&byte| byte == value),
            "port {port} round {round}"
        );
    }
    initiator.log_out(0, 0).await;
    assert_eq!(initiator.expect(0x26).await.bhs[2], 0);
}

#[test]
fn many_initiators_at_once_read_what_they_wrote() {
    for seed in 0..40 {
        let limits = Limits {
            connections_max: 16,
            bytes_in_flight_max: 64 << 10,
            bytes_in_flight_all: MIB,
            ..Limits::default()
        };
        let bench = Bench::with(
            2000 + seed,
            IscsiOptions {
                limits,
                ..IscsiOptions::default()
            },
        );
        bench.device().delay.set(MILLI);
        bench.run(100, async |client: Client| {
            let tasks: Vec<_> = (1..=12)
                .map(|port| client.reactor.spawn(work(client.clone(), port)))
                .collect();
            for task in tasks {
                task.await;
            }
            let one = client.session_of(99, &[]).await;
            one.command(FINAL | READ, read10(0, 1), 512, &[]).await;
            one.expect(0x25).await;
        });
        assert!(bench.device().most_bytes.get() <= MIB, "seed {seed}");
    }
}
