//! Mode pages, logs, and what MAINTENANCE IN tells.

use super::bench::*;

#[test]
fn the_sense_format_is_as_the_control_page_says() {
    alone(|host| async move {
        let got = host.read(u64::MAX, 1).await;
        assert_eq!(got.check(), LBA_OUT_OF_RANGE);
        let mut page = host
            .send(&[0x5a, 8, 0x0a, 0, 0, 0, 0, 0, 255, 0], &[])
            .await
            .good();
        page[..2].fill(0);
        page[3] = 0;
        page[8 + 2] |= 4;
        let len = u16::try_from(page.len()).unwrap();
        host.send(&cdb10(0x55, 0x10, 0, len), &page).await.good();
        let got = host.read(u64::MAX, 1).await;
        assert_eq!(got.sense, [0x72, 5, 0x21, 0, 0, 0, 0, 0]);
    });
}

#[test]
fn saved_values_and_wrong_selects_are_refused() {
    alone(|host| async move {
        let got = host.send(&[0x1a, 0, 0xca, 0, 255, 0], &[]).await;
        assert_eq!(got.check(), (5, 0x39, 0));
        for flags in [0x00, 0x11] {
            let got = host.send(&[0x15, flags, 0, 0, 0, 0], &[]).await;
            assert_eq!(got.check(), INVALID_FIELD_IN_CDB);
        }
        let got = host.send(&[0x15, 0x10, 0, 0, 3, 0], &[0; 3]).await;
        assert_eq!(got.check(), LIST_LENGTH);
        let list = [0, 0, 0, 0, 0x0a, 10, 0, 0x10, 0, 0, 0, 0, 2, 0x59, 0, 0];
        let got = host.send(&[0x15, 0x10, 0, 0, 16, 0], &list).await;
        assert_eq!(got.check(), INVALID_FIELD_IN_LIST);
        assert_eq!(got.sense[15..18], [0x80, 0, 13]);
        host.send(&[0x15, 0x10, 0, 0, 0, 0], &[]).await.good();
    });
}

#[test]
fn all_pages_are_told_with_the_capacity() {
    alone(|host| async move {
        let all = host.send(&[0x1a, 0, 0x3f, 0, 255, 0], &[]).await.good();
        assert_eq!(all[3..12], [8, 0, 0, 0x80, 0, 0, 0, 2, 0]);
        assert_eq!(
            host.send(&[0x1a, 0, 0x3f, 0, 4, 0], &[]).await.good(),
            all[..4]
        );
        let log = host
            .send(&cdb10(0x4d, 0, 0x4000_0000, 64), &[])
            .await
            .good();
        assert_eq!(log, [0, 0, 0, 2, 0, 0x2f]);
    });
}

#[test]
fn supported_commands_are_told_one_by_one() {
    alone(|host| async move {
        let ask = |options, opcode, action| {
            [
                0xa3, 0x0c, options, opcode, 0, action, 0, 0, 0xff, 0xff, 0, 0,
            ]
        };
        let all = host.send(&ask(0, 0, 0), &[]).await.good();
        for row in all[4..].chunks(8) {
            let (opcode, action, has_action) = (row[0], row[3], row[5] & 1 != 0);
            assert!(has_action || action == 0);
            let with = host.send(&ask(2, opcode, action), &[]).await;
            let without = host.send(&ask(1, opcode, action), &[]).await;
            let (told, refused) = if has_action {
                (with, without)
            } else {
                (without, with)
            };
            let told = told.good();
            assert_eq!((told[1], told[3], told[4]), (3, row[7], opcode));
            assert_eq!(refused.check(), INVALID_FIELD_IN_CDB);
        }
        let timed = host.send(&ask(0x80, 0, 0), &[]).await.good();
        assert_eq!(timed[9] & 2, 2);
        assert_eq!(timed.len() - 4, (all.len() - 4) / 8 * 20);
    });
}

#[test]
fn the_rest_of_maintenance_is_told() {
    alone(|host| async move {
        let groups = host.send(&cdb12(0xa3, 0x0a, 0, 64), &[]).await.good();
        assert_eq!(groups, [0, 0, 0, 12, 0, 0x8f, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1]);
        assert_eq!(
            host.send(&cdb12(0xa3, 0x0a, 0, 4), &[]).await.good(),
            groups[..4]
        );
        let tasks = host.send(&cdb12(0xa3, 0x0d, 0, 4), &[]).await.good();
        assert_eq!(tasks, [0xd8, 0, 0, 0]);
        let time = host.send(&cdb12(0xa3, 0x0f, 0, 64), &[]).await.good();
        assert_eq!((time.len(), time[1]), (12, 10));
        let named = host.send(&cdb12(0xa3, 0x05, 0, 64), &[]).await.good();
        assert_eq!(named, [0; 4]);
        let defects = host
            .send(&[0x37, 0, 0x1d, 0, 0, 0, 0, 0, 32, 0], &[])
            .await
            .good();
        assert_eq!(defects, [0, 0x1d, 0, 0]);
        let defects = host.send(&cdb12(0xb7, 0x18, 0, 32), &[]).await.good();
        assert_eq!(defects, [0, 0x18, 0, 0, 0, 0, 0, 0]);
    });
}
