//! EXTENDED COPY between units, and its results.

use super::bench::*;
use crate::scsi::copy::tests::{cscd, list, segment};
use crate::scsi::vpd;

fn copy_cdb(len: usize) -> Vec<u8> {
    cdb16(0x83, 0, 0, u32::try_from(len).unwrap())
}

/// The CSCD descriptors of the first two units.
fn both() -> Vec<Vec<u8>> {
    vec![cscd(vpd::naa(0x1000)), cscd(vpd::naa(0x1001))]
}

#[test]
fn blocks_are_copied_from_unit_to_unit() {
    alone(|host| async move {
        let data = pattern(5 << 20);
        host.write(8, &data).await.good();
        let list = list(3, &both(), &[segment(0, 1, 10_240, 8, 24)]);
        host.send(&copy_cdb(list.len()), &list).await.good();
        let read = host
            .send_to(1, &cdb16(0x88, 0, 24, 10_240), &[])
            .await
            .good();
        assert!(read == data);
        let status = host.send(&[0x84, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0], &[]);
        let status = status.await.good();
        assert_eq!(status, [0, 0, 0, 8, 1, 0, 1, 0, 0, 0x50, 0, 0]);
        let none = host.send(&[0x84, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0], &[]);
        assert_eq!(none.await.check(), INVALID_FIELD_IN_CDB);
    });
}

#[test]
fn ranges_that_overlap_are_copied_as_they_were() {
    alone(|host| async move {
        let data = pattern(6 << 20);
        host.write(0, &data).await.good();
        let forth = list(1, &both(), &[segment(0, 0, 12_288, 0, 100)]);
        host.send(&copy_cdb(forth.len()), &forth).await.good();
        assert!(host.read(100, 12_288).await.good() == data);
        let back = list(1, &both(), &[segment(0, 0xffff, 12_288, 100, 7)]);
        host.send(&copy_cdb(back.len()), &back).await.good();
        assert!(host.read(7, 12_288).await.good() == data);
    });
}

#[test]
fn what_cannot_be_copied_aborts() {
    alone(|host| async move {
        let last = BLOCKS - 1;
        let wrong = [
            (segment(0, 2, 1, 0, 0), both()),
            (segment(0, 0, 2, 0, last), both()),
            (segment(0, 0, 2, last, 0), both()),
            (segment(0, 0, 1, 0, 0), vec![cscd([9; 8])]),
            (
                segment(0, 1, 1, 0, 0),
                vec![both()[0].clone(), cscd(vpd::naa(0x1002))],
            ),
        ];
        for (segment, targets) in wrong {
            let list = list(1, &targets, &[segment]);
            let got = host.send(&copy_cdb(list.len()), &list).await;
            assert_eq!(got.check().0, 0x0a);
        }
        host.send(&copy_cdb(0), &[]).await.good();
        let long = host.send(&copy_cdb(2000), &[0; 2000]).await;
        assert_eq!(long.check(), LIST_LENGTH);
        let told = host.send(&cdb16(0x84, 3, 0, 1024), &[]).await.good();
        assert_eq!(told.len(), 47);
    });
}

#[test]
fn a_reservation_keeps_copies_out() {
    let bench = Bench::new(1);
    let (one, other) = (bench.connect(), bench.connect());
    bench.run(async move {
        one.ready().await;
        other.ready().await;
        other.send_to(1, &[0x16, 0, 0, 0, 0, 0], &[]).await.good();
        let list = list(1, &both(), &[segment(0, 1, 1, 0, 0)]);
        one.send(&copy_cdb(list.len()), &list).await.conflict();
        other.send_to(1, &[0x17, 0, 0, 0, 0, 0], &[]).await.good();
        one.send(&copy_cdb(list.len()), &list).await.good();
    });
}
