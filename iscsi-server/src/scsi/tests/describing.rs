//! What a unit says of itself, and of commands that it does not know.

use super::bench::*;

#[test]
fn replies_are_cut_to_the_allocation_length() {
    alone(|host| async move {
        let whole = host.send(&[0x12, 0, 0, 1, 0, 0], &[]).await.good();
        assert_eq!(whole.len(), 96);
        for len in 0..=96 {
            let got = host.send(&[0x12, 0, 0, 0, len, 0], &[]).await.good();
            assert_eq!(got, whole[..usize::from(len)]);
        }
        let got = host.send(&[0x12, 0, 1, 0, 96, 0], &[]).await;
        assert_eq!(got.check(), INVALID_FIELD_IN_CDB);
        let got = host.send(&[0x12, 1, 0xc7, 0, 96, 0], &[]).await;
        assert_eq!(got.check(), INVALID_FIELD_IN_CDB);
    });
}

#[test]
fn capacities_are_told() {
    alone(|host| async move {
        let told = host.send(&cdb10(0x25, 0, 0, 0), &[]).await.good();
        assert_eq!(told, [0, 0, 0x7f, 0xff, 0, 0, 2, 0]);
        for allocation in 0..40 {
            let cdb = cdb16(0x9e, 0x10, 0, allocation);
            let told = host.send(&cdb, &[]).await.good();
            let len = usize::try_from(allocation).unwrap().min(32);
            assert_eq!(told.len(), len);
            if len == 32 {
                let expected = [0, 0, 0, 0, 0, 0, 0x7f, 0xff, 0, 0, 2, 0, 0, 3, 0xc0, 0];
                assert_eq!(told[..16], expected);
            }
        }
        let got = host.send(&cdb10(0x25, 0, 5, 0), &[]).await;
        assert_eq!(got.check(), INVALID_FIELD_IN_CDB, "a block without PMI");
    });
}

#[test]
fn vital_product_data_names_the_unit() {
    alone(|host| async move {
        let pages = host.send(&[0x12, 1, 0, 0, 255, 0], &[]).await.good();
        for &page in &pages[4..] {
            host.send(&[0x12, 1, page, 2, 0, 0], &[]).await.good();
        }
        let serial = host.send(&[0x12, 1, 0x80, 0, 255, 0], &[]).await.good();
        assert_eq!(&serial[4..], b"00000000000000000000000000001000");
        let other = host
            .send_to(1, &[0x12, 1, 0x80, 0, 255, 0], &[])
            .await
            .good();
        assert_ne!(serial, other);
    });
}

#[test]
fn a_unit_that_there_is_not_says_so() {
    alone(|host| async move {
        let data = host.send_to(9, &[0x12, 0, 0, 0, 36, 0], &[]).await.good();
        assert_eq!((data[0], data.len()), (0x7f, 36));
        let luns = host.send_to(9, &cdb12(0xa0, 0, 0, 64), &[]).await.good();
        assert_eq!(luns[3], 24);
        let sense = host.send_to(9, &[3, 0, 0, 0, 18, 0], &[]).await.good();
        assert_eq!((sense[2], sense[12]), (5, 0x25));
        let got = host.send_to(9, &cdb16(0x88, 0, 0, 1), &[]).await;
        assert_eq!(got.check(), (5, 0x25, 0));
        let got = host.send_to(9, &[0x12, 1, 0x83, 0, 36, 0], &[]).await;
        assert_eq!(got.check(), (5, 0x25, 0));
    });
}

#[test]
fn unknown_commands_and_service_actions_are_refused() {
    alone(|host| async move {
        assert_eq!(host.send(&[0x01; 6], &[]).await.check(), (5, 0x20, 0));
        assert_eq!(host.send(&[0x7f; 16], &[]).await.check(), (5, 0x20, 0));
        for (opcode, action) in [(0x9e, 0x1f), (0xa3, 0), (0x48, 3), (0x5e, 4), (0x84, 9)] {
            let got = host
                .send(&[opcode, action, 0, 0, 0, 0, 0, 0, 0, 0], &[])
                .await;
            assert_eq!(got.check(), INVALID_FIELD_IN_CDB);
            assert_eq!(got.sense[16..18], [0, 1], "byte 1");
        }
    });
}

#[test]
fn lists_of_luns_are_selected() {
    alone(|host| async move {
        let all = host
            .send(&[0xa0, 0, 2, 0, 0, 0, 0, 0, 0, 32, 0, 0], &[])
            .await
            .good();
        assert_eq!(all[..8], [0, 0, 0, 24, 0, 0, 0, 0]);
        assert_eq!(all[16..24], [0, 1, 0, 0, 0, 0, 0, 0]);
        let none = host
            .send(&[0xa0, 0, 1, 0, 0, 0, 0, 0, 0, 32, 0, 0], &[])
            .await
            .good();
        assert_eq!(none, [0; 8]);
        let got = host
            .send(&[0xa0, 0, 3, 0, 0, 0, 0, 0, 0, 32, 0, 0], &[])
            .await;
        assert_eq!(got.check(), INVALID_FIELD_IN_CDB);
    });
}
