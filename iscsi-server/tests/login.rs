//! Logins, right and wrong, and discovery.

#![allow(
    clippy::unwrap_used,
    reason = "a test that meets the unexpected has failed"
)]

mod support;

use ashlar_iscsi_server::{IscsiOptions, Limits, Portal};
use aws_lc_rs::digest;
use md5::Digest as _;
use std::time::Duration;
use support::initiator::NO_TAG;
use support::{ALICE, Bench, Client, DENIED, DISK, Initiator, Login, SECRET, TARGET, secrets};

#[test]
fn what_is_asked_for_is_negotiated() {
    Bench::new(1).run(5, async |client: Client| {
        let keys = [
            ("HeaderDigest", "CRC32C,None"),
            ("DataDigest", "None"),
            ("MaxConnections", "2"),
            ("InitialR2T", "No"),
            ("MaxBurstLength", "65536"),
            ("FirstBurstLength", "1000000"),
            ("ErrorRecoveryLevel", "2"),
            ("X-test", "1"),
        ];
        let initiator = client.session(&keys).await;
        for (key, value) in [
            ("HeaderDigest", "CRC32C"),
            ("DataDigest", "None"),
            ("MaxConnections", "2"),
            ("InitialR2T", "No"),
            ("MaxBurstLength", "65536"),
            ("ErrorRecoveryLevel", "0"),
            ("MaxRecvDataSegmentLength", "262144"),
            ("TargetPortalGroupTag", "1"),
            ("X-test", "NotUnderstood"),
        ] {
            assert_eq!(initiator.agreed(key), value, "{key}");
        }
        assert_ne!(initiator.tsih.get(), 0);
        assert_eq!(initiator.write(3, &[7; 1024]).await.bhs[3], 0);
        assert_eq!(initiator.read(3, 2).await, [7; 1024]);
    });
}

#[test]
fn refusals_have_the_status_that_fits() {
    let bench = Bench::new(2);
    bench.run(20, async |client: Client| {
        let disk = || Login::normal(DISK);
        let mut old = disk();
        old.version = 1;
        for (login, status) in [
            (disk().without("InitiatorName"), 0x0207),
            (disk().without("TargetName"), 0x0207),
            (Login::normal("iqn.2026-01.test:other"), 0x0203),
            (Login::normal(DENIED), 0x0202),
            (Login::normal(SECRET), 0x0201),
            (
                disk()
                    .without("SessionType")
                    .with(&[("SessionType", "Odd")]),
                0x0209,
            ),
            (disk().joining(77, 1, 100), 0x020a),
            (
                disk().with(&[("MaxConnections", "1"), ("MaxConnections", "1")]),
                0x0200,
            ),
            (old, 0x0205),
        ] {
            let initiator = client.connect().await;
            assert_eq!(initiator.log_in(&login).await, Err(status), "{login:?}");
            assert!(initiator.is_closed().await);
        }
        let initiator = client.connect().await;
        let backwards = disk().bhs(1, Some(0));
        let keys: Vec<_> = disk().keys;
        let keys: Vec<_> = keys.iter().map(|(key, value)| (&**key, &**value)).collect();
        assert_eq!(initiator.login_step(backwards, &keys).await.u16(36), 0x020b);
    });
    bench.catalog.available.set(false);
    bench.run(5, async |client: Client| {
        let initiator = client.connect().await;
        assert_eq!(initiator.log_in(&Login::normal(DISK)).await, Err(0x0301));
    });
}

#[test]
fn what_is_no_login_is_cut_off() {
    let options = IscsiOptions {
        limits: Limits {
            handshake: Duration::from_secs(2),
            ..Limits::default()
        },
        ..IscsiOptions::default()
    };
    let bench = Bench::with(3, options);
    bench.run(30, async |client: Client| {
        let initiator = client.connect().await;
        initiator.command(0x80, [0; 16], 0, &[]).await;
        assert!(initiator.is_closed().await, "a command");
        let initiator = client.connect().await;
        initiator.try_send(&[0x43; 48]).await.unwrap();
        assert!(initiator.is_closed().await, "a segment of megabytes");
        // One byte every second, for ever.
        let initiator = client.connect().await;
        let began = client.reactor.now();
        let bytes = Login::normal(DISK).bhs(1, None);
        for byte in bytes {
            if initiator.try_send(&[byte]).await.is_err() {
                break;
            }
            client.reactor.sleep(Duration::from_secs(1)).await;
            if client.reactor.now() - began > Duration::from_secs(5) {
                break;
            }
        }
        assert!(initiator.is_closed().await, "too slow");
        // Requests without end.
        let initiator = client.connect().await;
        let mut bhs = Login::normal(DISK).bhs(1, None);
        bhs[1] |= 0x40;
        let mut answers = 0;
        while initiator
            .try_send(&initiator.frame(bhs, b"X-a="))
            .await
            .is_ok()
        {
            match initiator.try_receive().await {
                Some(_) => answers += 1,
                None => break,
            }
        }
        assert!(answers < 100, "{answers}");
    });
    assert_eq!(bench.server.connections(), 0);
}

#[test]
fn text_may_be_cut_anywhere_between_requests() {
    Bench::new(4).run(5, async |client: Client| {
        let initiator = client.connect().await;
        let login = Login::normal(DISK);
        let text = Login::text(&login.keys);
        let mut bhs = login.bhs(1, None);
        bhs[1] |= 0x40;
        for piece in text.chunks(10).collect::<Vec<_>>() {
            initiator.send(bhs, piece).await;
            let response = initiator.expect(0x23).await;
            assert_eq!(
                (response.u16(36), response.bhs[1], response.data.len()),
                (0, 4, 0)
            );
        }
        let response = initiator.login_step(login.bhs(1, Some(3)), &[]).await;
        assert_eq!((response.u16(36), response.bhs[1]), (0, 0x87));
        initiator.enter(&login, &response);
        initiator.make_ready().await;
    });
}

fn hash(algorithm: &str, parts: &[&[u8]]) -> String {
    let all = parts.concat();
    let bytes = match algorithm {
        "5" => md5::Md5::digest(&all).to_vec(),
        "6" => digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &all)
            .as_ref()
            .to_vec(),
        "7" => digest::digest(&digest::SHA256, &all).as_ref().to_vec(),
        _ => digest::digest(&digest::SHA3_256, &all).as_ref().to_vec(),
    };
    let hex = bytes.iter().map(|byte| format!("{byte:02x}"));
    format!("0x{}", hex.collect::<String>())
}

/// Goes through the security stage; gives the last response.
async fn authenticate(
    initiator: &Initiator,
    login: &Login,
    (algorithm, secret, mutual): (&str, &str, bool),
) -> u16 {
    let mut keys: Vec<_> = login
        .keys
        .iter()
        .map(|(key, value)| (&**key, &**value))
        .collect();
    keys.push(("AuthMethod", "CHAP,None"));
    let response = initiator.login_step(login.bhs(0, Some(1)), &keys).await;
    assert_eq!(
        (response.u16(36), response.bhs[1]),
        (0, 0),
        "no transit without proof"
    );
    assert_eq!(initiator.agreed("AuthMethod"), "CHAP");
    let offer = format!("99,{algorithm}");
    initiator
        .login_step(login.bhs(0, None), &[("CHAP_A", &offer)])
        .await;
    assert_eq!(initiator.agreed("CHAP_A"), algorithm);
    let identifier: u8 = initiator.agreed("CHAP_I").parse().unwrap();
    let challenge = initiator.agreed("CHAP_C");
    let challenge: Vec<u8> = (2..challenge.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&challenge[at..at + 2], 16).unwrap())
        .collect();
    let response = hash(algorithm, &[&[identifier], secret.as_bytes(), &challenge]);
    let mut keys = vec![("CHAP_N", "alice"), ("CHAP_R", &response)];
    let wanted = "0x000102030405060708090a0b0c0d0e0f";
    if mutual {
        keys.extend([("CHAP_I", "77"), ("CHAP_C", wanted)]);
    }
    let response = initiator.login_step(login.bhs(0, Some(1)), &keys).await;
    if response.u16(36) != 0 {
        return response.u16(36);
    }
    if mutual {
        let wanted: Vec<u8> = (0..16).collect();
        let proof = hash(algorithm, &[&[77], TARGET.as_bytes(), &wanted]);
        assert_eq!(initiator.agreed("CHAP_R"), proof);
        assert_eq!(initiator.agreed("CHAP_N"), "target");
    }
    assert_eq!(response.bhs[1], 0x81);
    let response = initiator.login_step(login.bhs(1, Some(3)), &[]).await;
    assert_eq!((response.u16(36), response.bhs[1]), (0, 0x87));
    initiator.enter(login, &response);
    0
}

#[test]
fn chap_lets_in_who_knows_the_secret() {
    Bench::new(5).run(20, async |client: Client| {
        let login = Login::normal(SECRET);
        for algorithm in ["5", "6", "7", "8"] {
            for mutual in [false, true] {
                let initiator = client.connect().await;
                let shown = (algorithm, ALICE, mutual);
                assert_eq!(authenticate(&initiator, &login, shown).await, 0);
                initiator.make_ready().await;
            }
            let initiator = client.connect().await;
            let shown = (algorithm, "something else", false);
            let status = authenticate(&initiator, &login, shown).await;
            assert_eq!(status, 0x0201);
            assert!(initiator.is_closed().await);
        }
    });
}

#[test]
fn discovery_asks_for_secrets_of_its_own() {
    let bench = Bench::new(9);
    bench.catalog.discovery.replace(secrets());
    bench.run(20, async |client: Client| {
        let login = Login::discovery();
        let initiator = client.connect().await;
        let refused = initiator.log_in(&login).await;
        assert_eq!(refused, Err(0x0201), "without a secret");
        let initiator = client.connect().await;
        let wrong = ("7", "something else", false);
        assert_eq!(authenticate(&initiator, &login, wrong).await, 0x0201);
        assert!(initiator.is_closed().await);
        for mutual in [false, true] {
            let initiator = client.connect().await;
            let shown = ("7", ALICE, mutual);
            assert_eq!(authenticate(&initiator, &login, shown).await, 0);
            initiator.text(NO_TAG, "SendTargets=All\0").await;
            let answer = initiator.expect(0x24).await.text();
            assert!(answer.contains(DISK) && answer.contains(SECRET), "{answer}");
        }
        // Logins to targets go by the target's.
        client.session(&[]).await;
    });
}

#[test]
fn a_target_that_cannot_be_served_refuses_new_sessions_and_keeps_old_ones() {
    let bench = Bench::new(10);
    let catalog = bench.catalog.clone();
    bench.run(20, async move |client: Client| {
        let session = client.session(&[("MaxConnections", "2")]).await;
        catalog.ready.set(false);
        for _ in 0..2 {
            let initiator = client.connect().await;
            let refused = initiator.log_in(&Login::normal(DISK)).await;
            assert_eq!(refused, Err(0x0301), "the same initiator port");
            assert!(initiator.is_closed().await);
        }
        assert_eq!(session.write(3, &[7; 512]).await.bhs[3], 0, "it is in use");
        // Who only asks what there is gets an answer.
        let initiator = client.connect().await;
        initiator.log_in(&Login::discovery()).await.unwrap();
        catalog.ready.set(true);
        let renewed = client.session(&[]).await;
        assert_eq!(renewed.read(3, 1).await, [7; 512]);
        assert!(session.is_closed().await, "its port logged in anew");
    });
}

#[test]
fn nobody_skips_the_security_stage() {
    Bench::new(6).run(20, async |client: Client| {
        let login = Login::normal(SECRET);
        let keys: Vec<_> = login
            .keys
            .iter()
            .map(|(key, value)| (&**key, &**value))
            .collect();
        for (csg, nsg, more) in [
            (0, 1, None),
            (0, 3, None),
            (1, 3, None),
            (0, 1, Some(("AuthMethod", "None"))),
            (0, 1, Some(("CHAP_R", "0x00"))),
        ] {
            let initiator = client.connect().await;
            let mut keys = keys.clone();
            keys.extend(more);
            let response = initiator.login_step(login.bhs(csg, Some(nsg)), &keys).await;
            assert_eq!(response.u16(36), 0x0201, "{csg} {nsg} {more:?}");
        }
        // Chosen, and then not done.
        let initiator = client.connect().await;
        let mut keys = keys.clone();
        keys.push(("AuthMethod", "CHAP"));
        initiator.login_step(login.bhs(0, None), &keys).await;
        let response = initiator.login_step(login.bhs(0, Some(1)), &[]).await;
        assert_eq!((response.u16(36), response.bhs[1]), (0, 0));
        let response = initiator.login_step(login.bhs(1, Some(3)), &[]).await;
        assert_eq!(response.u16(36), 0x020b);
    });
}

#[test]
fn discovery_shows_what_an_initiator_may_use() {
    let bench = Bench::new(7);
    bench.run(5, async |client: Client| {
        let initiator = client.connect().await;
        initiator.log_in(&Login::discovery()).await.unwrap();
        initiator.text(NO_TAG, "SendTargets=All\0").await;
        let answer = initiator.expect(0x24).await;
        assert_eq!((answer.bhs[1], answer.u32(20)), (0x80, NO_TAG));
        let expected = format!(
            "TargetName={DISK} TargetAddress=10.0.0.1:3260,1 \
             TargetName={SECRET} TargetAddress=10.0.0.1:3260,1 "
        );
        assert_eq!(answer.text(), expected);
        initiator
            .text(NO_TAG, &format!("SendTargets={SECRET}\0"))
            .await;
        let answer = initiator.expect(0x24).await.text();
        assert_eq!(
            answer,
            format!("TargetName={SECRET} TargetAddress=10.0.0.1:3260,1 ")
        );
        initiator
            .text(NO_TAG, &format!("SendTargets={DENIED}\0"))
            .await;
        assert_eq!(initiator.expect(0x24).await.text(), "");
        initiator.command(0x80, [0; 16], 0, &[]).await;
        assert_eq!(initiator.expect(0x3f).await.bhs[2], 4, "no commands here");
        initiator.log_out(0, 0).await;
        assert_eq!(initiator.expect(0x26).await.bhs[2], 0);
        assert!(initiator.is_closed().await);
        let initiator = client.session(&[]).await;
        initiator.text(NO_TAG, "SendTargets=\0").await;
        let answer = initiator.expect(0x24).await.text();
        assert_eq!(
            answer,
            format!("TargetName={DISK} TargetAddress=10.0.0.1:3260,1 ")
        );
        initiator.text(NO_TAG, "SendTargets=All\0").await;
        assert_eq!(initiator.expect(0x24).await.text(), "SendTargets=Reject ");
    });
}

#[test]
fn long_answers_come_in_pieces() {
    let portal = |address: &str, group| Portal {
        address: address.into(),
        group,
    };
    let options = IscsiOptions {
        portals: vec![portal("[2001:db8::1]:3260", 3), portal("192.0.2.1:3260", 4)],
        ..IscsiOptions::default()
    };
    let bench = Bench::with(8, options);
    bench.catalog.more.set(100);
    bench.run(5, async |client: Client| {
        for discovery in [true, false] {
            let initiator = client.connect().await;
            let login = if discovery {
                Login::discovery()
            } else {
                Login::normal(DISK)
            };
            let keys = [("MaxRecvDataSegmentLength", "512")];
            initiator.log_in(&login.with(&keys)).await.unwrap();
            let wanted = if discovery { "All" } else { "" };
            initiator
                .text(NO_TAG, &format!("SendTargets={wanted}\0"))
                .await;
            let mut text = String::new();
            loop {
                let answer = initiator.expect(0x24).await;
                assert!(answer.data.len() <= 512);
                text.push_str(&answer.text());
                if answer.bhs[1] & 0x80 != 0 {
                    break;
                }
                assert_eq!(answer.bhs[1], 0x40, "the text goes on");
                initiator.text(answer.u32(20), "").await;
            }
            let count = if discovery { 102 } else { 1 };
            assert_eq!(text.matches("TargetName=").count(), count);
            let addresses = "TargetAddress=[2001:db8::1]:3260,3 TargetAddress=192.0.2.1:3260,4 ";
            assert_eq!(text.matches(addresses).count(), count);
        }
    });
}
