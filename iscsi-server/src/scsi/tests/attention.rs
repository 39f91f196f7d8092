//! Unit attentions, resets, and units that come, go and grow.

use super::bench::*;
use crate::scsi::NexusId;

const READY: [u8; 6] = [0; 6];
const LUN_0: [u8; 8] = [0; 8];

#[test]
fn a_new_nexus_is_told_once_on_each_unit() {
    let bench = Bench::new(1);
    let host = bench.connect();
    bench.run(async move {
        for lun in 0..3 {
            let got = host.send_to(lun, &READY, &[]).await;
            assert_eq!(got.check(), (6, 0x29, 0));
            host.send_to(lun, &READY, &[]).await.good();
        }
    });
}

#[test]
fn inquiry_and_report_luns_leave_attentions_and_request_sense_takes_them() {
    let bench = Bench::new(1);
    let host = bench.connect();
    bench.run(async move {
        host.send(&[0x12, 0, 0, 0, 96, 0], &[]).await.good();
        host.send(&cdb12(0xa0, 0, 0, 64), &[]).await.good();
        let sense = host.send(&[3, 1, 0, 0, 252, 0], &[]).await.good();
        assert_eq!(sense[..4], [0x72, 6, 0x29, 0]);
        let sense = host.send(&[3, 0, 0, 0, 252, 0], &[]).await.good();
        let mut none = [0; 18];
        none[0] = 0x70;
        none[7] = 10;
        assert_eq!(sense, none);
        host.send(&READY, &[]).await.good();
    });
}

#[test]
fn a_reset_is_told_to_all_and_brings_defaults_back() {
    let bench = Bench::new(1);
    let (one, other) = (bench.connect(), bench.connect());
    let target = bench.target.clone();
    bench.run(async move {
        one.ready().await;
        other.ready().await;
        let list = [0, 0, 0, 0, 0x0a, 10, 4, 0x10, 8, 0, 0, 0, 2, 0x58, 0, 0];
        one.send(&[0x15, 0x10, 0, 0, 16, 0], &list).await.good();
        let got = other.send(&READY, &[]).await;
        assert_eq!(
            got.sense[..4],
            [0x72, 6, 0x2a, 1],
            "mode parameters changed"
        );
        let got = one.write(0, &[0; 512]).await;
        assert_eq!(got.sense[..4], [0x72, 7, 0x27, 2], "software write protect");
        assert!(target.reset_unit(LUN_0, one.nexus.id));
        assert_eq!(one.send(&READY, &[]).await.check(), (6, 0x29, 3));
        one.write(0, &[0; 512]).await.good();
        assert_eq!(other.send(&READY, &[]).await.check(), (6, 0x29, 3));
        other.send_to(1, &READY, &[]).await.good();
        assert!(!target.reset_unit([0, 9, 0, 0, 0, 0, 0, 0], one.nexus.id));
        target.reset(other.nexus.id);
        for (lun, host) in (0..3).flat_map(|lun| [(lun, &one), (lun, &other)]) {
            let got = host.send_to(lun, &READY, &[]).await;
            assert_eq!(got.check(), (6, 0x29, 3));
        }
        target.tasks_cleared(LUN_0, &[one.nexus.id, NexusId(99)]);
        assert_eq!(one.send(&READY, &[]).await.check(), (6, 0x2f, 0));
        one.send(&READY, &[]).await.good();
    });
}

#[test]
fn growth_is_told_to_all() {
    let bench = Bench::new(1);
    let (one, other) = (bench.connect(), bench.connect());
    let device = bench.device("disk").clone();
    let target = bench.target.clone();
    bench.run(async move {
        one.ready().await;
        other.ready().await;
        device.size_bytes.set(32 * MIB);
        target.update(&units());
        for host in [&one, &other] {
            assert_eq!(host.send(&READY, &[]).await.check(), (6, 0x2a, 9));
            let told = host.send(&cdb10(0x25, 0, 0, 0), &[]).await.good();
            assert_eq!(told, [0, 0, 0xff, 0xff, 0, 0, 2, 0]);
            host.read(2 * BLOCKS - 1, 1).await.good();
        }
        device.size_bytes.set(33 * MIB);
        one.read(0, 1).await.good();
        assert_eq!(other.send(&READY, &[]).await.check(), (6, 0x2a, 9));
    });
}

#[test]
fn units_that_come_and_go_are_told_until_they_are_listed() {
    let bench = Bench::new(1);
    let host = bench.connect();
    let target = bench.target.clone();
    bench.run(async move {
        host.ready().await;
        let mut units = units();
        units.remove(1);
        units.push(unit(300, "other", false));
        target.update(&units);
        assert_eq!(host.send(&READY, &[]).await.check(), (6, 0x3f, 0x0e));
        let luns = host.send(&cdb12(0xa0, 0, 0, 64), &[]).await.good();
        assert_eq!(luns[..8], [0, 0, 0, 24, 0, 0, 0, 0]);
        assert_eq!(luns[16..18], [0, 2]);
        assert_eq!(luns[24..26], [0x41, 0x2c]);
        host.send_to(2, &READY, &[]).await.good();
        let gone = host.send_to(1, &READY, &[]).await;
        assert_eq!(gone.check(), (5, 0x25, 0));
        target.update(&units);
        host.send(&READY, &[]).await.good();
        target.update(&[]);
        let luns = host.send(&cdb12(0xa0, 0, 0, 64), &[]).await.good();
        assert_eq!(luns, [0; 8]);
    });
}

#[test]
fn the_device_is_let_go_with_the_last_nexus() {
    let bench = Bench::new(1);
    let (one, other) = (bench.connect(), bench.connect());
    let (catalog, target) = (bench.catalog.clone(), bench.target.clone());
    let again = bench.connect();
    target.disconnect(again.nexus.id);
    bench.run(async move {
        one.ready().await;
        other.ready().await;
        assert_eq!(catalog.opened.get(), 3, "once for each unit");
        target.disconnect(one.nexus.id);
        other.read(0, 1).await.good();
        assert_eq!(catalog.opened.get(), 3);
        target.disconnect(other.nexus.id);
        target.connect(&again.nexus);
        again.ready().await;
        assert_eq!(catalog.opened.get(), 6);
    });
}
