//! Data in both directions: immediate, unsolicited and asked for, digests, residuals, and
//! initiators that break the rules.

#![allow(
    clippy::unwrap_used,
    reason = "a test that meets the unexpected has failed"
)]

mod support;

use ashlar_iscsi_server::{IscsiOptions, Limits};
use std::time::Duration;
use support::initiator::{FINAL, NO_TAG, READ, WRITE, read10, write10};
use support::{Bench, Client, Initiator, MIB, MILLI};

fn pattern(len: usize) -> Vec<u8> {
    (0..=250)
        .flat_map(|byte| [byte; 7])
        .cycle()
        .take(len)
        .collect()
}

const FAST: [(&str, &str); 4] = [
    ("InitialR2T", "No"),
    ("MaxBurstLength", "16384"),
    ("FirstBurstLength", "8192"),
    ("MaxOutstandingR2T", "2"),
];

#[test]
fn data_comes_with_the_command_after_it_and_when_asked_for() {
    let bench = Bench::new(1);
    for digests in ["None", "CRC32C"] {
        bench.run(5, async move |client: Client| {
            let mut keys = FAST.to_vec();
            keys.extend([("HeaderDigest", digests), ("DataDigest", digests)]);
            let initiator = client.session(&keys).await;
            let data = pattern(65_536);
            let itt = initiator
                .command(WRITE, write10(8, 128), 65_536, &data[..3000])
                .await;
            let bhs = Initiator::data_out_bhs(itt, NO_TAG, 0, 3000, false);
            initiator.send(bhs, &data[3000..5001]).await;
            let bhs = Initiator::data_out_bhs(itt, NO_TAG, 1, 5001, true);
            initiator.send(bhs, &data[5001..8192]).await;
            // Two at a time, in order.
            let first = initiator.expect(0x31).await;
            assert_eq!(
                (first.u32(36), first.u32(40), first.u32(44)),
                (0, 8192, 16_384)
            );
            let second = initiator.expect(0x31).await;
            assert_eq!(
                (second.u32(36), second.u32(40), second.u32(44)),
                (1, 24_576, 16_384)
            );
            initiator.answer_r2t(&first, &data, 5000).await;
            let third = initiator.expect(0x31).await;
            assert_eq!((third.u32(36), third.u32(40)), (2, 40_960));
            initiator.answer_r2t(&second, &data, 16_384).await;
            let fourth = initiator.expect(0x31).await;
            assert_eq!((fourth.u32(40), fourth.u32(44)), (57_344, 8192));
            initiator.answer_r2t(&third, &data, 1).await;
            initiator.answer_r2t(&fourth, &data, 8192).await;
            let response = initiator.expect(0x21).await;
            assert_eq!(
                (response.bhs[1], response.bhs[3], response.u32(36)),
                (0x80, 0, 4)
            );
            assert_eq!(initiator.read(8, 128).await, data);
        });
    }
    let log = bench.device().log.borrow().clone();
    assert_eq!(
        log.iter().filter(|line| line.starts_with('w')).count(),
        2,
        "one write each"
    );
}

#[test]
fn reads_come_in_pieces_that_the_initiator_takes() {
    Bench::new(2).run(5, async |client: Client| {
        let keys = [
            ("MaxRecvDataSegmentLength", "1000"),
            ("MaxBurstLength", "2500"),
        ];
        let initiator = client.session(&keys).await;
        let data = pattern(5120);
        assert_eq!(initiator.write(0, &data).await.bhs[3], 0);
        initiator
            .command(FINAL | READ, read10(0, 10), 5120, &[])
            .await;
        let mut read = Vec::new();
        let ends = [
            (1000, 0),
            (2000, 0),
            (2500, 0x80),
            (3500, 0),
            (4500, 0),
            (5000, 0x80),
            (5120, 0x81),
        ];
        for (sn, (end, flags)) in (0..).zip(ends) {
            let pdu = initiator.expect(0x25).await;
            assert_eq!(
                (pdu.bhs[1], pdu.u32(36), pdu.u32(40) as usize),
                (flags, sn, read.len())
            );
            read.extend(pdu.data);
            assert_eq!(read.len(), end);
        }
        assert_eq!(read, data);
    });
}

#[test]
fn residuals_tell_what_was_not_moved() {
    Bench::new(3).run(5, async |client: Client| {
        let initiator = client.session(&[]).await;
        assert_eq!(initiator.write(0, &pattern(1024)).await.bhs[3], 0);
        // Room for more than there is.
        initiator
            .command(FINAL | READ, read10(0, 1), 1024, &[])
            .await;
        let pdu = initiator.expect(0x25).await;
        assert_eq!((pdu.bhs[1], pdu.data.len(), pdu.u32(44)), (0x83, 512, 512));
        // Room for less.
        initiator
            .command(FINAL | READ, read10(0, 2), 700, &[])
            .await;
        let pdu = initiator.expect(0x25).await;
        assert_eq!((pdu.bhs[1], pdu.data.len(), pdu.u32(44)), (0x85, 700, 324));
        // No room at all.
        initiator.command(FINAL, read10(0, 2), 0, &[]).await;
        let pdu = initiator.expect(0x21).await;
        assert_eq!((pdu.bhs[1], pdu.bhs[3], pdu.u32(44)), (0x84, 0, 1024));
        // More to write than the command takes: only that is asked for.
        initiator
            .command(FINAL | WRITE, write10(0, 1), 2048, &[])
            .await;
        let r2t = initiator.expect(0x31).await;
        assert_eq!((r2t.u32(40), r2t.u32(44)), (0, 512));
        initiator.answer_r2t(&r2t, &[9; 512], 512).await;
        let pdu = initiator.expect(0x21).await;
        assert_eq!((pdu.bhs[1], pdu.bhs[3], pdu.u32(44)), (0x82, 0, 1536));
        assert_eq!(initiator.read(0, 1).await, [9; 512]);
        // A command that fails.
        initiator.command(FINAL | READ, [0xff; 16], 512, &[]).await;
        let pdu = initiator.expect(0x21).await;
        assert_eq!((pdu.bhs[1], pdu.bhs[3], pdu.u32(44)), (0x82, 2, 512));
        assert_eq!(pdu.sense().0, 5);
    });
}

#[test]
fn damaged_data_is_rejected_and_its_command_fails() {
    let bench = Bench::new(4);
    bench.run(5, async |client: Client| {
        let initiator = client.session(&[("DataDigest", "CRC32C")]).await;
        let damaged = |mut bytes: Vec<u8>| {
            let at = bytes.len() - 6;
            bytes[at] ^= 1;
            bytes
        };
        initiator
            .command(FINAL | WRITE, write10(0, 16), 8192, &[])
            .await;
        let r2t = initiator.expect(0x31).await;
        let bhs = Initiator::data_out_bhs(r2t.itt(), r2t.u32(20), 0, 0, true);
        let bytes = damaged(initiator.frame(bhs, &[1; 8192]));
        initiator.try_send(&bytes).await.unwrap();
        let reject = initiator.expect(0x3f).await;
        assert_eq!((reject.bhs[2], &reject.data[16..20]), (2, &bhs[16..20]));
        let response = initiator.expect(0x21).await;
        assert_eq!((response.bhs[3], response.sense()), (2, (0x0b, 0x47, 0x05)));
        // Immediate data.
        let bhs = initiator.command_bhs(FINAL | WRITE, write10(0, 1), 512);
        let bytes = damaged(initiator.frame(bhs, &[1; 512]));
        initiator.try_send(&bytes).await.unwrap();
        assert_eq!(initiator.expect(0x3f).await.bhs[2], 2);
        assert_eq!(initiator.expect(0x21).await.sense(), (0x0b, 0x47, 0x05));
        assert_eq!(initiator.read(0, 16).await, [0; 8192]);
    });
    assert!(
        !bench
            .device()
            .log
            .borrow()
            .iter()
            .any(|line| line.starts_with('w'))
    );
}

#[test]
fn damaged_headers_end_the_connection() {
    let bench = Bench::new(5);
    bench.run(5, async |client: Client| {
        let other = client.session_of(2, &[]).await;
        let initiator = client.session(&[("HeaderDigest", "CRC32C")]).await;
        let bhs = initiator.command_bhs(FINAL, [0; 16], 0);
        let mut bytes = initiator.frame(bhs, &[]);
        bytes[40] ^= 1;
        initiator.try_send(&bytes).await.unwrap();
        assert!(initiator.is_closed().await);
        assert_eq!(other.test_unit_ready().await, 0, "others are unharmed");
    });
}

/// What breaks the rules of the data of a write.
type Breach = fn(u32, u32) -> ([u8; 48], usize);

#[test]
fn data_that_breaks_the_rules_ends_the_session_and_no_other() {
    let breaches: [Breach; 7] = [
        |itt, ttt| (Initiator::data_out_bhs(itt, ttt + 1, 0, 0, true), 8192),
        |itt, ttt| (Initiator::data_out_bhs(itt, ttt, 0, 512, true), 8192),
        |itt, ttt| (Initiator::data_out_bhs(itt, ttt, 0, 0, true), 8193),
        |itt, ttt| (Initiator::data_out_bhs(itt, ttt, 0, 0, true), 8191),
        |itt, ttt| (Initiator::data_out_bhs(itt, ttt, 0, 0, false), 8192),
        |itt, _| (Initiator::data_out_bhs(itt, NO_TAG, 0, 0, true), 8192),
        |itt, ttt| (Initiator::data_out_bhs(itt, ttt, 0, u32::MAX, true), 8192),
    ];
    let bench = Bench::new(6);
    bench.run(20, async move |client: Client| {
        let other = client.session_of(2, &[]).await;
        for (number, breach) in breaches.into_iter().enumerate() {
            let initiator = client.session(&[]).await;
            initiator
                .command(FINAL | WRITE, write10(0, 16), 8192, &[])
                .await;
            let r2t = initiator.expect(0x31).await;
            let (bhs, len) = breach(r2t.itt(), r2t.u32(20));
            initiator.send(bhs, &vec![1; len]).await;
            assert!(initiator.is_closed().await, "{number}");
            assert_eq!(other.read(0, 1).await, [0; 512]);
        }
        // Unsolicited data that was not agreed on.
        let initiator = client.session(&[]).await;
        initiator.command(WRITE, write10(0, 16), 8192, &[]).await;
        assert!(initiator.is_closed().await);
        let initiator = client.session(&[("ImmediateData", "No")]).await;
        initiator
            .command(FINAL | WRITE, write10(0, 1), 512, &[1; 512])
            .await;
        assert!(initiator.is_closed().await);
        // Twice what was declared.
        let initiator = client.session(&[]).await;
        let mut bhs = initiator.command_bhs(FINAL | WRITE, write10(0, 1), 512);
        bhs[5] = 8;
        initiator.try_send(&bhs).await.unwrap();
        assert!(initiator.is_closed().await);
    });
    assert!(
        !bench
            .device()
            .log
            .borrow()
            .iter()
            .any(|line| line.starts_with('w'))
    );
}

#[test]
fn commands_that_cannot_be_carried_out_have_their_data_taken_off() {
    Bench::new(7).run(5, async |client: Client| {
        let initiator = client.session(&FAST).await;
        // Both directions, with data announced.
        let itt = initiator
            .command(READ | WRITE, write10(0, 8), 4096, &[1; 512])
            .await;
        let bhs = Initiator::data_out_bhs(itt, NO_TAG, 0, 512, true);
        initiator.send(bhs, &[1; 3584]).await;
        let response = initiator.expect(0x21).await;
        assert_eq!(
            (response.itt(), response.bhs[3], response.sense().0),
            (itt, 2, 5)
        );
        // A read that announces data.
        let itt = initiator
            .command(WRITE, read10(0, 8), 4096, &[1; 512])
            .await;
        let bhs = Initiator::data_out_bhs(itt, NO_TAG, 0, 512, true);
        initiator.send(bhs, &[1; 3584]).await;
        assert_eq!(initiator.expect(0x21).await.itt(), itt);
        // An attribute that there is not.
        initiator.command(FINAL | 4, [0; 16], 0, &[]).await;
        assert_eq!(initiator.expect(0x21).await.sense().0, 0x0b);
        assert_eq!(initiator.read(0, 8).await, [0; 4096]);
    });
}

#[test]
fn data_out_of_sequence_ends_its_command_only() {
    let bench = Bench::new(11);
    bench.run(5, async |client: Client| {
        let initiator = client.session(&[]).await;
        initiator
            .command(FINAL | WRITE, write10(0, 16), 8192, &[])
            .await;
        let r2t = initiator.expect(0x31).await;
        for (sn, offset) in [(1, 4096), (0, 0)] {
            let bhs = Initiator::data_out_bhs(r2t.itt(), r2t.u32(20), sn, offset, offset == 4096);
            initiator.send(bhs, &[1; 4096]).await;
        }
        let response = initiator.expect(0x21).await;
        assert_eq!((response.bhs[3], response.sense()), (2, (0x0b, 0x4b, 0)));
        assert_eq!(initiator.read(0, 16).await, [0; 8192]);
    });
}

fn scarce() -> Bench {
    let limits = Limits {
        connections_max: 4,
        bytes_in_flight_max: MIB,
        bytes_in_flight_all: 4 * MIB,
        ..Limits::default()
    };
    Bench::with(
        8,
        IscsiOptions {
            limits,
            ..IscsiOptions::default()
        },
    )
}

#[test]
fn memory_is_granted_in_turn_and_never_more_than_there_is() {
    let bench = scarce();
    bench.device().delay.set(MILLI);
    bench.run(60, async |client: Client| {
        let keys = [("MaxBurstLength", "262144")];
        let mut sessions = Vec::new();
        for port in 1..=4 {
            sessions.push(client.session_of(port, &keys).await);
        }
        // 32 writes of 256 KiB each, all at once: eight times what there is.
        let data = vec![5; 256 << 10];
        for initiator in &sessions {
            for block in 0..32 {
                initiator
                    .command(FINAL | WRITE, write10(block * 512, 512), 256 << 10, &[])
                    .await;
            }
        }
        for initiator in sessions {
            let mut answered = 0;
            while answered < 32 {
                let pdu = initiator.receive().await;
                match pdu.opcode() {
                    0x31 => initiator.answer_r2t(&pdu, &data, 64 << 10).await,
                    0x21 => {
                        assert_eq!(pdu.bhs[3], 0);
                        answered += 1;
                    }
                    _ => panic!("{pdu:?}"),
                }
            }
        }
    });
    let most = bench.device().most_bytes.get();
    assert!(most <= 4 * MIB, "{most} bytes at once");
}

#[test]
fn data_for_which_there_is_no_memory_is_refused_for_now() {
    scarce().run(60, async |client: Client| {
        let initiator = client.session(&[]).await;
        // One that takes it all and waits for its data.
        initiator
            .command(FINAL | WRITE, write10(0, 2048), 1 << 20, &[])
            .await;
        let r2t = initiator.expect(0x31).await;
        let itt = initiator
            .command(FINAL | WRITE, write10(0, 16), 8192, &[1; 8192])
            .await;
        let refused = initiator.expect(0x21).await;
        assert_eq!(
            (refused.itt(), refused.bhs[3]),
            (itt, 0x28),
            "task set full"
        );
        let data = vec![7; 1 << 20];
        let mut r2t = r2t;
        loop {
            initiator.answer_r2t(&r2t, &data, 8192).await;
            let next = initiator.receive().await;
            if next.opcode() == 0x21 {
                assert_eq!(next.bhs[3], 0);
                break;
            }
            r2t = next;
        }
        let itt = initiator
            .command(FINAL | WRITE, write10(0, 16), 8192, &[1; 8192])
            .await;
        let response = initiator.expect(0x21).await;
        assert_eq!((response.itt(), response.bhs[3]), (itt, 0));
    });
}

#[test]
fn reads_that_nobody_takes_are_not_carried_out() {
    let bench = scarce();
    let device = bench.device();
    bench.run(60, async move |client: Client| {
        let initiator = client
            .session(&[("MaxRecvDataSegmentLength", "262144")])
            .await;
        let sender = initiator.clone();
        // All that the window holds, and nothing of the answers is read.
        for _ in 0..200 {
            let bhs = sender.command_bhs(FINAL | READ, read10(0, 128), 65_536);
            let bytes = sender.frame(bhs, &[]);
            let sent = client
                .reactor
                .timeout(Duration::from_secs(1), sender.try_send(&bytes));
            if sent.await.is_err() {
                break;
            }
        }
        client.reactor.sleep(Duration::from_secs(5)).await;
        let reads = device
            .log
            .borrow()
            .iter()
            .filter(|line| line.starts_with('r'))
            .count();
        assert!(reads < 64, "{reads} reads for nobody");
        let mut read = 0;
        while read < 200 {
            read += usize::from(initiator.expect(0x25).await.bhs[1] & 1);
        }
    });
}

#[test]
fn who_does_not_send_what_was_asked_for_is_dropped() {
    let bench = Bench::new(10);
    bench.run(300, async |client: Client| {
        let initiator = client.session(&[]).await;
        initiator
            .command(FINAL | WRITE, write10(0, 16), 8192, &[])
            .await;
        initiator.expect(0x31).await;
        let keeping = initiator.clone();
        let alive = client.reactor.spawn(async move {
            // It answers pings and sends commands, but not the data.
            loop {
                let bhs = keeping.command_bhs(FINAL, [0; 16], 0);
                if keeping.try_send(&keeping.frame(bhs, &[])).await.is_err() {
                    return;
                }
                keeping.reactor.sleep(Duration::from_secs(3)).await;
            }
        });
        initiator.closed().await;
        drop(alive);
        // And one that stops within a PDU.
        let initiator = client.session(&[]).await;
        let bhs = initiator.command_bhs(FINAL | WRITE, write10(0, 16), 8192);
        let bytes = initiator.frame(bhs, &[1; 8192]);
        initiator.try_send(&bytes[..5000]).await.unwrap();
        initiator.closed().await;
    });
    assert_eq!(bench.server.connections(), 0);
}
