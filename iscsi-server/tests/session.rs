//! Sessions: the order of commands, several connections, task management, reinstatement, logouts,
//! and the end of the server.

#![allow(
    clippy::unwrap_used,
    reason = "a test that meets the unexpected has failed"
)]

mod support;

use ashlar_iscsi_server::{IscsiOptions, Limits};
use std::time::Duration;
use support::initiator::{FINAL, HEAD, NO_TAG, ORDERED, READ, WRITE, read10, write10};
use support::{Bench, Client, DISK, Initiator, Login, MILLI};

const SECOND: Duration = Duration::from_secs(1);

/// Another connection of the session of `first`.
async fn joined(client: &Client, first: &Initiator, cid: u16) -> Result<Initiator, u16> {
    let initiator = client.connect_elsewhere().await;
    let login = Login::normal(DISK).joining(first.tsih.get(), cid, first.cmd_sn.get());
    initiator.log_in(&login).await?;
    // They share the numbers of the session.
    let mut initiator = initiator;
    initiator.cmd_sn = first.cmd_sn.clone();
    initiator.itt = first.itt.clone();
    Ok(initiator)
}

#[test]
fn commands_of_a_session_keep_their_order_over_its_connections() {
    let bench = Bench::new(1);
    let device = bench.device();
    bench.run(10, async move |client: Client| {
        let first = client.session(&[("MaxConnections", "3")]).await;
        let second = joined(&client, &first, 1).await.unwrap();
        let early = first.command_bhs(FINAL | WRITE, write10(0, 1), 512);
        let late = second.command_bhs(FINAL | WRITE, write10(1, 1), 512);
        let later = first.command_bhs(FINAL | WRITE, write10(2, 1), 512);
        device.log.borrow_mut().clear();
        first.send(later, &[3; 512]).await;
        second.send(late, &[2; 512]).await;
        client.reactor.sleep(SECOND).await;
        assert!(device.log.borrow().is_empty(), "one before them is missing");
        first.send(early, &[1; 512]).await;
        assert_eq!(first.expect(0x21).await.bhs[3], 0);
        assert_eq!(first.expect(0x21).await.bhs[3], 0);
        assert_eq!(second.expect(0x21).await.bhs[3], 0);
        assert_eq!(device.log.borrow()[0], "w 0");
        // What has been, or is not to come yet, is ignored.
        let outside = first.max_cmd_sn.get().wrapping_add(1);
        for number in [100, outside] {
            let mut bhs = first.command_bhs(FINAL | WRITE, write10(3, 1), 512);
            first.cmd_sn.set(first.cmd_sn.get() - 1);
            bhs[24..28].copy_from_slice(&number.to_be_bytes());
            first.send(bhs, &[4; 512]).await;
        }
        assert_eq!(
            first.read(0, 4).await[1024..],
            [[3; 512], [0; 512]].concat()
        );
        let _third = joined(&client, &first, 2).await.unwrap();
        assert_eq!(joined(&client, &first, 3).await.err(), Some(0x0206));
    });
}

#[test]
fn a_connection_that_fails_takes_its_session_with_it() {
    let bench = Bench::new(2);
    bench.run(10, async |client: Client| {
        let first = client.session(&[("MaxConnections", "2")]).await;
        let second = joined(&client, &first, 1).await.unwrap();
        second.stream.shutdown();
        assert!(first.is_closed().await);
        assert_eq!(joined(&client, &first, 1).await.err(), Some(0x020a));
    });
}

#[test]
fn connections_log_out_one_by_one_or_all_together() {
    let bench = Bench::new(3);
    bench.run(10, async |client: Client| {
        let first = client.session(&[("MaxConnections", "2")]).await;
        let second = joined(&client, &first, 1).await.unwrap();
        first.log_out(2, 1).await;
        assert_eq!(
            first.expect(0x26).await.bhs[2],
            2,
            "recovery is not supported"
        );
        first.log_out(1, 9).await;
        assert_eq!(first.expect(0x26).await.bhs[2], 1, "no such connection");
        second.log_out(1, 1).await;
        assert_eq!(second.expect(0x26).await.bhs[2], 0);
        assert!(second.is_closed().await);
        assert_eq!(first.test_unit_ready().await, 0, "the session goes on");
        let second = joined(&client, &first, 1).await.unwrap();
        first.log_out(1, 1).await;
        assert_eq!(first.expect(0x26).await.bhs[2], 0);
        assert!(second.is_closed().await);
        let second = joined(&client, &first, 1).await.unwrap();
        first.log_out(0, 0).await;
        assert_eq!(first.expect(0x26).await.bhs[2], 0);
        assert!(first.is_closed().await && second.is_closed().await);
        assert_eq!(joined(&client, &first, 1).await.err(), Some(0x020a));
    });
    assert_eq!(bench.server.connections(), 0);
}

#[test]
fn a_connection_of_the_same_number_takes_the_place_of_the_old() {
    let bench = Bench::new(4);
    let device = bench.device();
    bench.run(10, async move |client: Client| {
        let first = client.session(&[]).await;
        device.delay.set(SECOND);
        let write = write10(0, 1);
        first.command(FINAL | WRITE, write, 512, &[1; 512]).await;
        client.reactor.sleep(100 * MILLI).await;
        let second = joined(&client, &first, 0).await.unwrap();
        assert_eq!(device.now.get(), 0, "what ran has ended");
        assert!(first.is_closed().await);
        assert_eq!(second.tsih.get(), first.tsih.get());
        device.delay.set(Duration::ZERO);
        assert_eq!(second.test_unit_ready().await, 0);
    });
}

#[test]
fn a_second_login_of_a_port_ends_its_session_and_tasks_first() {
    let bench = Bench::new(5);
    let device = bench.device();
    bench.run(20, async move |client: Client| {
        let first = client.session(&[]).await;
        let other = client.session_of(2, &[]).await;
        device.delay.set(2 * SECOND);
        first
            .command(FINAL | WRITE, write10(0, 1), 512, &[1; 512])
            .await;
        first
            .command(FINAL | WRITE, write10(8, 16), 8192, &[])
            .await;
        first.expect(0x31).await;
        client.reactor.sleep(100 * MILLI).await;
        assert_eq!(device.now.get(), 1);
        let again = client.connect().await;
        again.log_in(&Login::normal(DISK)).await.unwrap();
        assert_eq!(
            device.now.get(),
            0,
            "what ran has ended before the login did"
        );
        assert_eq!(
            device
                .log
                .borrow()
                .iter()
                .filter(|line| line.starts_with('w'))
                .count(),
            1
        );
        assert!(first.is_closed().await, "no answer to what was aborted");
        device.delay.set(Duration::ZERO);
        again.make_ready().await;
        assert_eq!(other.test_unit_ready().await, 0, "another port's goes on");
    });
}

/// Function codes of task management.
const ABORT_TASK: u8 = 1;
const ABORT_TASK_SET: u8 = 2;
const CLEAR_TASK_SET: u8 = 4;
const UNIT_RESET: u8 = 5;
const COLD_RESET: u8 = 7;
const REASSIGN: u8 = 8;
const QUERY_TASK: u8 = 9;

#[test]
fn an_abort_is_answered_when_the_task_can_do_nothing_any_more() {
    let bench = Bench::new(6);
    let device = bench.device();
    bench.run(20, async move |client: Client| {
        let initiator = client.session(&[("iSCSIProtocolLevel", "2")]).await;
        device.delay.set(2 * SECOND);
        let running = initiator
            .command(FINAL | WRITE, write10(0, 1), 512, &[1; 512])
            .await;
        let waiting = initiator
            .command(FINAL | WRITE, write10(8, 16), 8192, &[])
            .await;
        let r2t = initiator.expect(0x31).await;
        client.reactor.sleep(100 * MILLI).await;
        for (function, tag, response) in [
            (QUERY_TASK, running, 7),
            (QUERY_TASK, 4711, 0),
            (REASSIGN, running, 4),
            (99, running, 5),
            (ABORT_TASK, waiting, 0),
            (ABORT_TASK, 4711, 1),
        ] {
            let itt = initiator.manage(function, tag).await;
            let pdu = initiator.expect(0x22).await;
            assert_eq!((pdu.itt(), pdu.bhs[2]), (itt, response), "{function} {tag}");
        }
        assert_eq!(device.now.get(), 1);
        initiator.manage(ABORT_TASK, running).await;
        assert_eq!(initiator.expect(0x22).await.bhs[2], 0);
        assert_eq!(device.now.get(), 0, "it had run to its end");
        // Data of what was aborted may still come.
        initiator.answer_r2t(&r2t, &[1; 8192], 4096).await;
        device.delay.set(Duration::ZERO);
        assert_eq!(initiator.test_unit_ready().await, 0);
        // A tag that nobody knows is another matter.
        let bhs = Initiator::data_out_bhs(4711, 3, 0, 0, true);
        initiator.send(bhs, &[1; 512]).await;
        assert_eq!(initiator.expect(0x3f).await.bhs[2], 9);
    });
    let log = bench.device().log.borrow().clone();
    assert!(
        !log.contains(&"w 4096".to_owned()),
        "what had not begun never did"
    );
}

#[test]
fn resets_end_the_tasks_of_all_sessions() {
    for function in [UNIT_RESET, CLEAR_TASK_SET, ABORT_TASK_SET, COLD_RESET] {
        let bench = Bench::new(7);
        let device = bench.device();
        bench.run(20, async move |client: Client| {
            let one = client.session(&[]).await;
            let other = client.session_of(2, &[]).await;
            device.delay.set(2 * SECOND);
            let mut tags = Vec::new();
            for initiator in [&one, &other] {
                tags.push(
                    initiator
                        .command(FINAL | READ, read10(0, 1), 512, &[])
                        .await,
                );
            }
            client.reactor.sleep(100 * MILLI).await;
            assert_eq!(device.now.get(), 2);
            one.manage(function, NO_TAG).await;
            let pdu = one.expect(0x22).await;
            assert_eq!(pdu.bhs[2], 0, "{function}");
            device.delay.set(Duration::ZERO);
            if function == ABORT_TASK_SET {
                let pdu = other.expect(0x25).await;
                assert_eq!(pdu.itt(), tags[1], "another session's tasks are left alone");
                return;
            }
            assert_eq!(device.now.get(), 0);
            if function == COLD_RESET {
                one.closed().await;
                assert_eq!(
                    other.expect(0x32).await.bhs[36],
                    3,
                    "the session is dropped"
                );
                assert!(other.is_closed().await);
                return;
            }
            other.make_ready().await;
            one.make_ready().await;
        });
    }
}

#[test]
fn ordered_commands_and_those_at_the_head_have_their_places() {
    let bench = Bench::new(8);
    let device = bench.device();
    bench.run(30, async move |client: Client| {
        let initiator = client.session(&[]).await;
        device.delay.set(SECOND);
        device.log.borrow_mut().clear();
        for (attribute, block) in [(0, 0), (0, 1), (ORDERED, 2), (0, 3), (HEAD, 4)] {
            let cdb = read10(block, 1);
            initiator
                .command(FINAL | READ | attribute, cdb, 512, &[])
                .await;
        }
        for _ in 0..5 {
            initiator.expect(0x25).await;
        }
        let log = device.log.borrow().clone();
        let at = |line: &str| log.iter().position(|other| other == line).unwrap();
        assert!(
            at("r 1024") > at("R 0") && at("r 1024") > at("R 512"),
            "{log:?}"
        );
        assert!(at("r 1536") > at("R 1024"), "{log:?}");
        assert!(at("r 2048") < at("R 0"), "{log:?}");
        assert_eq!(
            at("r 0").max(at("r 512")),
            1,
            "simple ones run together: {log:?}"
        );
    });
}

#[test]
fn pings_are_answered_and_dead_peers_found() {
    let bench = Bench::new(9);
    bench.run(300, async |client: Client| {
        let initiator = client.session(&[]).await;
        let mut bhs = [0; 48];
        (bhs[0], bhs[1]) = (0x40, 0x80);
        bhs[16..20].copy_from_slice(&5u32.to_be_bytes());
        bhs[20..24].copy_from_slice(&NO_TAG.to_be_bytes());
        initiator.send(bhs, b"are you there?").await;
        let pong = initiator.expect(0x20).await;
        assert_eq!(
            (pong.itt(), pong.u32(20), &*pong.data),
            (5, NO_TAG, &b"are you there?"[..])
        );
        // Idle for minutes, but it answers.
        for _ in 0..5 {
            let ping = initiator.expect(0x20).await;
            assert_eq!(ping.itt(), NO_TAG);
            let mut bhs = [0; 48];
            (bhs[0], bhs[1]) = (0x40, 0x80);
            bhs[16..20].copy_from_slice(&NO_TAG.to_be_bytes());
            bhs[20..24].copy_from_slice(&ping.bhs[20..24]);
            initiator.send(bhs, &[]).await;
        }
        assert_eq!(initiator.test_unit_ready().await, 0);
        initiator.closed().await;
    });
    assert_eq!(bench.server.connections(), 0);
}

#[test]
fn what_cannot_be_understood_is_rejected_with_its_reason() {
    Bench::new(10).run(10, async |client: Client| {
        let initiator = client.session(&[]).await;
        let reject = async |bhs: [u8; 48], reason: u8| {
            initiator.send(bhs, &[]).await;
            let pdu = initiator.expect(0x3f).await;
            assert_eq!((pdu.bhs[2], &pdu.data[..]), (reason, &bhs[..]));
        };
        let mut bhs = [0; 48];
        bhs[0] = 0x10;
        reject(bhs, 3).await;
        bhs[0] = 0x1f;
        reject(bhs, 5).await;
        let bhs = initiator.command_bhs(FINAL | 7, [0; 16], 0);
        reject(bhs, 9).await;
        assert_eq!(
            initiator.test_unit_ready().await,
            0,
            "its number was used up"
        );
        // A tag that is in use.
        initiator
            .command(FINAL | WRITE, write10(0, 1), 512, &[])
            .await;
        let r2t = initiator.expect(0x31).await;
        let mut bhs = initiator.command_bhs(FINAL, [0; 16], 0);
        bhs[16..20].copy_from_slice(&r2t.bhs[16..20]);
        reject(bhs, 7).await;
        initiator.answer_r2t(&r2t, &[1; 512], 512).await;
        assert_eq!(initiator.expect(0x21).await.bhs[3], 0);
        assert_eq!(initiator.test_unit_ready().await, 0);
        let mut bhs = Login::normal(DISK).bhs(1, None);
        bhs[4] = 0;
        initiator.send(bhs, &[]).await;
        assert_eq!(
            initiator.expect(0x3f).await.bhs[2],
            4,
            "a login after the login"
        );
        assert!(initiator.is_closed().await);
    });
}

#[test]
fn immediate_commands_are_bounded() {
    let bench = Bench::new(11);
    let device = bench.device();
    bench.run(10, async move |client: Client| {
        let initiator = client.session(&[]).await;
        device.delay.set(SECOND);
        for _ in 0..200 {
            let mut bhs = initiator.command_bhs(FINAL | READ, read10(0, 1), 512);
            initiator.cmd_sn.set(initiator.cmd_sn.get() - 1);
            bhs[0] |= 0x40;
            bhs[24..28].copy_from_slice(&initiator.cmd_sn.get().to_be_bytes());
            initiator.send(bhs, &[]).await;
        }
        let (mut carried_out, mut rejected) = (0, 0);
        while carried_out + rejected < 200 {
            let pdu = initiator.receive().await;
            match (pdu.opcode(), pdu.bhs[2]) {
                (0x25, _) => carried_out += 1,
                (0x3f, 6) => rejected += 1,
                _ => panic!("{pdu:?}"),
            }
        }
        assert!((1..=64).contains(&carried_out), "{carried_out}");
    });
}

#[test]
fn a_server_that_stops_asks_for_logouts_and_lets_commands_end() {
    let limits = Limits {
        drain: 5 * SECOND,
        ..Limits::default()
    };
    let bench = Bench::with(
        12,
        IscsiOptions {
            limits,
            ..IscsiOptions::default()
        },
    );
    let (device, server, reactor) = (bench.device(), bench.server.clone(), bench.reactor.clone());
    bench.run(30, async move |client: Client| {
        let polite = client.session(&[]).await;
        let deaf = client.session_of(2, &[]).await;
        device.delay.set(3 * SECOND);
        polite.command(FINAL | READ, read10(0, 1), 512, &[]).await;
        client.reactor.sleep(100 * MILLI).await;
        let began = client.reactor.now();
        reactor.spawn(async move { server.stop().await });
        let event = polite.expect(0x32).await;
        assert_eq!(
            (event.bhs[36], event.u16(42)),
            (1, 5),
            "log out within five seconds"
        );
        assert_eq!(polite.expect(0x25).await.bhs[3], 0, "what was begun ends");
        polite.log_out(0, 0).await;
        assert_eq!(polite.expect(0x26).await.bhs[2], 0);
        assert!(polite.is_closed().await);
        deaf.closed().await;
        assert!(client.reactor.now() - began < 10 * SECOND);
    });
    assert_eq!(bench.server.connections(), 0);
}

#[test]
fn initiators_are_asked_to_leave_a_target_that_is_gone() {
    let bench = Bench::new(13);
    let catalog = bench.catalog.clone();
    bench.run(120, async move |client: Client| {
        let initiator = client.session(&[("MaxConnections", "2")]).await;
        let second = joined(&client, &initiator, 1).await.unwrap();
        catalog.available.set(false);
        client.reactor.sleep(15 * SECOND).await;
        assert_eq!(
            initiator.test_unit_ready().await,
            0,
            "nothing is known: it goes on"
        );
        catalog.available.set(true);
        catalog.withdrawn.set(true);
        let event = initiator.expect(0x32).await;
        assert_eq!((event.bhs[36], event.u16(42)), (1, 10));
        assert_eq!(initiator.expect(0x32).await.bhs[36], 3, "it had its time");
        assert!(initiator.is_closed().await);
        second.closed().await;
        let again = client.connect().await;
        assert_eq!(again.log_in(&Login::normal(DISK)).await, Err(0x0203));
    });
}
