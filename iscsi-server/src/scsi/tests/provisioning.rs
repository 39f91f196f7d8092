//! UNMAP, WRITE SAME, GET LBA STATUS, SANITIZE.

use super::bench::*;
use crate::scsi::Status;
use std::time::Duration;

fn unmap_list(lba: u64, count: u32) -> Vec<u8> {
    let mut list = vec![0, 22, 0, 16, 0, 0, 0, 0];
    list.extend(lba.to_be_bytes());
    list.extend(count.to_be_bytes());
    list.extend([0; 4]);
    list
}

fn status_cdb(lba: u64, allocation: u32) -> Vec<u8> {
    cdb16(0x9e, 0x12, lba, allocation)
}

#[test]
fn unmapped_blocks_read_as_zeroes_and_no_others() {
    alone(|host| async move {
        host.write(0, &[7; 32 * 512]).await.good();
        let unmap = [0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0];
        host.send(&unmap, &unmap_list(3, 18)).await.good();
        let read = host.read(0, 32).await.good();
        let expected = [vec![7; 3 * 512], vec![0; 18 * 512], vec![7; 11 * 512]].concat();
        assert!(read == expected);
        let told = host.send(&status_cdb(0, 72), &[]).await.good();
        assert_eq!(told[..8], [0, 0, 0, 68, 0, 0, 0, 0]);
        assert_eq!(
            told[8..24],
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0]
        );
        assert_eq!(
            told[24..40],
            [0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 8, 1, 0, 0, 0]
        );
        assert_eq!(
            told[40..56],
            [0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 16, 0, 0, 0, 0]
        );
        assert_eq!(told[56..68], [0, 0, 0, 0, 0, 0, 0, 32, 0, 0, 0x7f, 0xe0]);
    });
}

#[test]
fn unmap_of_nothing_succeeds_and_of_too_much_does_not() {
    alone(|host| async move {
        let unmap = [0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0];
        host.send(&[0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[])
            .await
            .good();
        host.send(&unmap, &unmap_list(BLOCKS, 0)).await.good();
        let got = host.send(&unmap, &unmap_list(BLOCKS, 1)).await;
        assert_eq!(got.check(), LBA_OUT_OF_RANGE);
        let got = host.send(&[0x42, 0, 0, 0, 0, 0, 0, 0, 7, 0], &[0; 7]).await;
        assert_eq!(got.check(), LIST_LENGTH);
        let got = host.send(&[0x42, 1, 0, 0, 0, 0, 0, 0, 0, 0], &[]).await;
        assert_eq!(got.check(), INVALID_FIELD_IN_CDB, "ANCHOR");
    });
}

#[test]
fn write_same_repeats_a_block_or_unmaps() {
    alone(|host| async move {
        let block = pattern(512);
        host.send(&cdb16(0x93, 0, 5, 5000), &block).await.good();
        let read = host.read(4, 5002).await.good();
        assert!(read[..512].iter().all(|&byte| byte == 0));
        assert!(read[512..5001 * 512].chunks(512).all(|held| held == block));
        assert!(read[5001 * 512..].iter().all(|&byte| byte == 0));
        host.send(&cdb10(0x41, 8, 16, 8), &[0; 512]).await.good();
        host.send(&cdb16(0x93, 1 | 8, 24, 8), &[]).await.good();
        host.send(&cdb16(0x93, 0, 32, 8), &[0; 512]).await.good();
        assert!(host.read(16, 24).await.good().iter().all(|&byte| byte == 0));
        let told = host.send(&status_cdb(16, 40), &[]).await.good();
        assert_eq!(told[16..21], [0, 0, 0, 16, 1], "unmapped");
        assert_eq!(
            told[36], 0,
            "zeroes that were not to be unmapped are mapped"
        );
    });
}

#[test]
fn write_same_of_no_blocks_goes_to_the_end() {
    alone(|host| async move {
        host.write(BLOCKS - 4, &[1; 2048]).await.good();
        host.send(&cdb16(0x93, 0, BLOCKS - 3, 0), &[2; 512])
            .await
            .good();
        let read = host.read(BLOCKS - 4, 4).await.good();
        assert!(read == [vec![1; 512], vec![2; 1536]].concat());
        let got = host.send(&cdb16(0x93, 0, BLOCKS + 1, 0), &[2; 512]).await;
        assert_eq!(got.check(), LBA_OUT_OF_RANGE);
        for flags in [0x10, 0x18, 0x04, 0x02] {
            let got = host.send(&cdb16(0x93, flags, 0, 1), &[2; 512]).await;
            assert_eq!(got.check(), INVALID_FIELD_IN_CDB, "{flags:#x}");
        }
        let got = host
            .send(&cdb16(0x93, 0, 0, (1 << 20) + 1), &[2; 512])
            .await;
        assert_eq!(got.check(), INVALID_FIELD_IN_CDB);
    });
}

#[test]
fn status_is_told_from_any_block_to_the_end() {
    alone(|host| async move {
        let told = host.send(&status_cdb(BLOCKS - 3, 24), &[]).await.good();
        assert_eq!(told[..8], [0, 0, 0, 20, 0, 0, 0, 0]);
        assert_eq!(
            told[8..],
            [0, 0, 0, 0, 0, 0, 0x7f, 0xfd, 0, 0, 0, 3, 1, 0, 0, 0]
        );
        let got = host.send(&status_cdb(BLOCKS, 24), &[]).await;
        assert_eq!(got.check(), LBA_OUT_OF_RANGE);
        assert_eq!(
            host.send(&status_cdb(0, 4), &[]).await.good(),
            [0, 0, 0, 20]
        );
    });
}

#[test]
fn sanitize_erases_or_overwrites_everything() {
    alone(|host| async move {
        host.write(0, &[1; 4096]).await.good();
        host.send(&cdb10(0x48, 0x02, 0, 0), &[]).await.good();
        assert_eq!(host.read(0, 8).await.good(), vec![0; 4096]);
        let told = host.send(&status_cdb(0, 1024), &[]).await.good();
        assert_eq!(told.len(), 24, "one descriptor");
        assert_eq!(told[16..21], [0, 0, 0x80, 0, 1]);
        let list = [1, 0, 0, 2, 0xa5, 0x5a];
        host.send(&cdb10(0x48, 0x01, 0, 6), &list).await.good();
        let read = host.read(BLOCKS - 8, 8).await.good();
        assert!(read.chunks(2).all(|pair| pair == [0xa5, 0x5a]));
        for (action, len) in [(1, 4), (1, 517), (2, 8), (3, 0), (0, 0), (0x1f, 8)] {
            let got = host.send(&cdb10(0x48, action, 0, len), &[0; 600]).await;
            assert_eq!(got.check(), INVALID_FIELD_IN_CDB, "{action} {len}");
        }
        let got = host
            .send(&cdb10(0x48, 0x01, 0, 6), &[0, 0, 0, 2, 1, 1])
            .await;
        assert_eq!(got.check(), INVALID_FIELD_IN_LIST);
        host.send(&cdb10(0x48, 0x1f, 0, 0), &[]).await.good();
    });
}

#[test]
fn sanitize_keeps_others_out_until_it_is_done() {
    let bench = Bench::new(3);
    let (host, reactor) = (bench.connect(), bench.reactor.clone());
    bench.device("disk").delay.set(Duration::from_secs(1));
    bench.run(async move {
        host.ready().await;
        let list = [1, 0, 0, 1, 0xa5];
        host.send(&cdb10(0x48, 0x81, 0, 5), &list).await.good();
        assert_eq!(host.read(0, 1).await.check(), (2, 4, 0x1b));
        assert_eq!(host.send(&[0; 6], &[]).await.check(), (2, 4, 0x1b));
        host.send(&[0x12, 0, 0, 0, 36, 0], &[]).await.good();
        let sense = host.send(&[3, 0, 0, 0, 18, 0], &[]).await.good();
        assert_eq!((sense[2], sense[12], sense[13]), (2, 4, 0x1b));
        while host.send(&[0; 6], &[]).await.status != Status::Good {
            reactor.sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(host.read(0, 1).await.good(), vec![0xa5; 512]);
    });
}

#[test]
fn a_unit_that_is_read_only_is_not_written() {
    alone(|host| async move {
        let unmap = (
            [0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0].to_vec(),
            unmap_list(0, 8),
        );
        let writes = [
            (cdb10(0x2a, 0, 0, 1), vec![0; 512]),
            (cdb16(0x8a, 0, 0, 1), vec![0; 512]),
            (cdb16(0x8b, 0, 0, 1), vec![0; 512]),
            (cdb16(0x8e, 0, 0, 1), vec![0; 512]),
            (cdb16(0x89, 0, 0, 1), vec![0; 1024]),
            (cdb10(0x41, 8, 0, 1), vec![]),
            (cdb16(0x93, 0, 0, 1), vec![0; 512]),
            (cdb10(0x48, 2, 0, 0), vec![]),
            unmap,
        ];
        for (cdb, data) in writes {
            let got = host.send_to(2, &cdb, &data).await;
            assert_eq!(got.check(), (7, 0x27, 0), "{:#x}", cdb[0]);
        }
        host.send_to(2, &cdb16(0x88, 0, 0, 1), &[]).await.good();
        let mode = host.send_to(2, &[0x1a, 8, 0x0a, 0, 4, 0], &[]).await.good();
        assert_eq!(mode[2], 0x90, "WP and DPOFUA");
    });
}
