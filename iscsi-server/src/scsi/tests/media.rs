//! Reading, writing, verifying, comparing.

use super::bench::*;
use crate::scsi::Status;
use ashlar_client::BlockError;
use std::time::Duration;

#[test]
fn what_is_written_in_any_form_is_read_in_any_form() {
    alone(|host| async move {
        let data = pattern(2048);
        let writes: [(Vec<u8>, u64); 7] = [
            (vec![0x0a, 0, 0, 8, 4, 0], 8),
            (cdb10(0x2a, 0, 16, 4), 16),
            (cdb12(0xaa, 0, 24, 4), 24),
            (cdb16(0x8a, 0, 33, 4), 33),
            (cdb10(0x2e, 2, 40, 4), 40),
            (cdb12(0xae, 0, 48, 4), 48),
            (cdb16(0x8e, 0x12, 56, 4), 56),
        ];
        for (cdb, lba) in writes {
            host.send(&cdb, &data).await.good();
            let short = u32::try_from(lba).unwrap();
            let low = u8::try_from(lba).unwrap();
            let reads = [
                vec![0x08, 0, 0, low, 4, 0],
                cdb10(0x28, 0x18, short, 4),
                cdb12(0xa8, 0, short, 4),
                cdb16(0x88, 0, lba, 4),
            ];
            for read in reads {
                assert_eq!(host.send(&read, &[]).await.good(), data);
            }
        }
        let zero = host.send(&[0x08, 0, 1, 0, 0, 0], &[]).await.good();
        assert_eq!(zero, vec![0; 256 * 512], "0 blocks of READ(6) are 256");
    });
}

#[test]
fn blocks_beyond_the_end_are_refused() {
    alone(|host| async move {
        let last = host.read(BLOCKS - 1, 1).await.good();
        assert_eq!(last.len(), 512);
        assert!(host.read(BLOCKS, 0).await.good().is_empty());
        for (lba, count) in [(BLOCKS, 1), (BLOCKS - 1, 2), (BLOCKS + 1, 0), (u64::MAX, 1)] {
            for opcode in [0x88, 0x8a, 0x8f, 0x90, 0x91, 0x8b, 0x8e] {
                let data = vec![0; 512 * usize::try_from(count).unwrap()];
                let got = host.send(&cdb16(opcode, 0, lba, count), &data).await;
                assert_eq!(got.check(), LBA_OUT_OF_RANGE, "{opcode:#x} {lba} {count}");
            }
        }
    });
}

#[test]
fn protection_and_transfers_too_long_are_refused() {
    alone(|host| async move {
        for opcode in [0x88, 0x8a, 0x8b, 0x8e, 0x8f, 0x89, 0x93] {
            let got = host.send(&cdb16(opcode, 0x20, 0, 1), &[0; 512]).await;
            assert_eq!(got.check(), INVALID_FIELD_IN_CDB, "{opcode:#x}");
            assert_eq!(got.sense[15..18], [0xcf, 0, 1], "bit 7 of byte 1");
        }
        let got = host.read(0, 65_537).await;
        assert_eq!(got.check(), INVALID_FIELD_IN_CDB);
        assert_eq!(got.sense[15..18], [0xc0, 0, 10]);
    });
}

#[test]
fn of_a_write_with_less_data_than_its_length_whole_blocks_are_written() {
    alone(|host| async move {
        host.write(0, &[1; 2048]).await.good();
        for (flags, opcode, byte) in [(0, 0x8a, 2), (2, 0x8e, 3)] {
            let cdb = cdb16(opcode, flags, 0, 3);
            host.send(&cdb, &[byte; 1100]).await.good();
            let read = host.read(0, 4).await.good();
            assert!(read == [vec![byte; 1024], vec![1; 1024]].concat());
            host.send(&cdb, &[9; 500]).await.good();
            host.send(&cdb, &[]).await.good();
            assert!(host.read(0, 4).await.good() == read);
        }
    });
}

#[test]
fn commands_that_need_all_their_data_do_nothing_with_less_or_more() {
    alone(|host| async move {
        host.write(0, &[1; 1024]).await.good();
        let wrong = [
            (cdb16(0x8b, 0, 0, 2), 512),
            (cdb16(0x8f, 2, 0, 2), 512),
            (cdb16(0x89, 0, 0, 1), 512),
            (cdb16(0x93, 0, 0, 1), 256),
            ([0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0].to_vec(), 8),
        ];
        for (cdb, len) in wrong {
            let got = host.send(&cdb, &vec![2; len]).await;
            assert_eq!(got.check(), (5, 0x0e, 0x03), "{:#x}", cdb[0]);
        }
        let got = host.send(&cdb10(0x41, 8, 0, 1), &[0; 1024]).await;
        assert_eq!(
            got.check(),
            INVALID_FIELD_IN_CDB,
            "WRITE SAME takes one block"
        );
        let got = host.send(&cdb16(0x89, 0, 0, 0), &[0; 1024]).await;
        assert_eq!(got.check(), INVALID_FIELD_IN_CDB, "no blocks, but data");
        assert_eq!(host.read(0, 2).await.good(), vec![1; 1024]);
    });
}

#[test]
fn force_unit_access_makes_writes_durable() {
    let bench = Bench::new(1);
    let (host, device) = (bench.connect(), bench.device("disk").clone());
    let reactor = bench.reactor.clone();
    bench.run(async move {
        host.ready().await;
        host.write(0, &[1; 512]).await.good();
        assert_eq!(device.flushes(), 0);
        host.send(&cdb16(0x8a, 0x08, 0, 1), &[1; 512]).await.good();
        assert_eq!(device.flushes(), 1);
        host.send(&cdb10(0x35, 0, 0, 0), &[]).await.good();
        assert_eq!(device.flushes(), 2);
        host.send(&cdb16(0x91, 0x02, 0, 0), &[]).await.good();
        reactor.sleep(Duration::from_millis(1)).await;
        assert_eq!(device.flushes(), 3, "IMMED flushes too");
        // Without a write cache every write is durable.
        let list = [&[0, 0, 0, 0, 0x08, 18][..], &[0; 18]].concat();
        host.send(&[0x15, 0x10, 0, 0, 24, 0], &list).await.good();
        host.write(0, &[1; 512]).await.good();
        assert_eq!(device.flushes(), 4);
    });
}

#[test]
fn verify_compares_and_says_where_it_differs() {
    alone(|host| async move {
        let mut data = pattern(3 << 20);
        host.write(3, &data).await.good();
        let blocks = 6144;
        host.send(&cdb16(0x8f, 0, 3, blocks), &[]).await.good();
        host.send(&cdb16(0x8f, 2, 3, blocks), &data).await.good();
        data[2_000_001] ^= 1;
        let got = host.send(&cdb16(0x8f, 2, 3, blocks), &data).await;
        assert_eq!(got.check(), (0x0e, 0x1d, 0));
        assert_eq!(got.information(), 2_000_001);
        let got = host.send(&cdb10(0x2f, 4, 0, 1), &[0; 512]).await;
        assert_eq!(got.check(), INVALID_FIELD_IN_CDB, "BYTCHK 10b");
        let one = pattern(512);
        host.write(0, &[one.clone(), one.clone(), one.clone()].concat())
            .await
            .good();
        host.send(&cdb12(0xaf, 6, 0, 3), &one).await.good();
        host.write(2, &[0; 512]).await.good();
        let got = host.send(&cdb12(0xaf, 6, 0, 3), &one).await;
        assert_eq!(got.check(), (0x0e, 0x1d, 0));
        assert_eq!(got.information(), 1025, "pattern begins with 0");
    });
}

#[test]
fn compare_and_write_writes_only_on_a_match() {
    alone(|host| async move {
        host.write(1, &[1; 1024]).await.good();
        let cdb = cdb16(0x89, 0, 1, 2);
        let data = [[1; 1024], [2; 1024]].concat();
        host.send(&cdb, &data).await.good();
        assert_eq!(host.read(1, 2).await.good(), vec![2; 1024]);
        let mut wrong = [[2; 1024], [3; 1024]].concat();
        wrong[700] = 9;
        let got = host.send(&cdb, &wrong).await;
        assert_eq!(got.check(), (0x0e, 0x1d, 0));
        assert_eq!(got.information(), 700);
        assert_eq!(host.read(1, 2).await.good(), vec![2; 1024]);
        let got = host.send(&cdb, &data[..1024]).await;
        assert_eq!(got.check(), (5, 0x0e, 0x03));
        let got = host.send(&cdb16(0x89, 0, BLOCKS, 1), &[0; 1024]).await;
        assert_eq!(got.check(), LBA_OUT_OF_RANGE);
        host.send(&cdb16(0x89, 0, 1, 0), &[]).await.good();
    });
}

#[test]
fn or_write_sets_bits() {
    alone(|host| async move {
        host.write(5, &[0x0f; 1024]).await.good();
        host.send(&cdb16(0x8b, 0, 5, 2), &[0xf0; 1024]).await.good();
        assert_eq!(host.read(5, 2).await.good(), vec![0xff; 1024]);
        host.send(&cdb16(0x8b, 0, 5, 0), &[]).await.good();
    });
}

/// Hosts count in one block by COMPARE AND WRITE, on a device that takes its time: were two of
/// them to read before either wrote, a count would be lost.
#[test]
fn compare_and_write_is_atomic_among_hosts() {
    let bench = Bench::new(7);
    bench.device("disk").delay.set(Duration::from_millis(2));
    let counted: Vec<_> = (0..4)
        .map(|_| {
            let host = bench.connect();
            bench.reactor.spawn(async move {
                host.ready().await;
                let mut counted = 0u32;
                while counted < 25 {
                    let before = host.read(9, 1).await.good();
                    let mut after = before.clone();
                    after[0] += 1;
                    let data = [before, after].concat();
                    let got = host.send(&cdb16(0x89, 0, 9, 1), &data).await;
                    if got.status == Status::Good {
                        counted += 1;
                    } else {
                        assert_eq!(got.check().0, 0x0e);
                    }
                }
            })
        })
        .collect();
    let host = bench.connect();
    bench.run(async move {
        for task in counted {
            task.await;
        }
        host.ready().await;
        assert_eq!(host.read(9, 1).await.good()[0], 100);
    });
}

/// The transport drops a command that its initiator aborts: what has begun on the medium goes on to
/// its end, and others wait for that and no longer.
#[test]
fn an_aborted_compare_and_write_is_done_or_not_begun() {
    for wait_us in [0, 100, 500, 1000, 2000, 4000] {
        let bench = Bench::new(wait_us);
        let (host, reactor) = (bench.connect(), bench.reactor.clone());
        let delay = bench.device("disk").delay.clone();
        bench.run(async move {
            host.ready().await;
            delay.set(Duration::from_millis(2));
            let sender = host.clone();
            let task = reactor.spawn(async move {
                let data = [[0; 1024], [1; 1024]].concat();
                sender.send(&cdb16(0x89, 0, 0, 2), &data).await
            });
            reactor.sleep(Duration::from_micros(wait_us)).await;
            task.abort();
            drop(task);
            let first = host.read(0, 2).await.good();
            assert!(first == vec![0; 1024] || first == vec![1; 1024]);
            assert_eq!(host.read(0, 2).await.good(), first, "nothing comes after");
            host.write(0, &[2; 1024]).await.good();
            assert_eq!(host.read(0, 2).await.good(), vec![2; 1024]);
        });
    }
}

#[test]
fn errors_of_the_device_are_told_so_that_hosts_do_the_right_thing() {
    let bench = Bench::new(1);
    let (host, device) = (bench.connect(), bench.device("disk").clone());
    let catalog = bench.catalog.clone();
    bench.run(async move {
        host.ready().await;
        let expected = [
            (BlockError::Corrupt, (3, 0x11, 0), (3, 0x0c, 0)),
            (BlockError::Unavailable, (2, 4, 1), (2, 4, 1)),
            (BlockError::NoSpace, (7, 0x27, 7), (7, 0x27, 7)),
            (BlockError::ReadOnly, (7, 0x27, 0), (7, 0x27, 0)),
            (BlockError::OutOfRange, LBA_OUT_OF_RANGE, LBA_OUT_OF_RANGE),
            (BlockError::Fenced, (2, 4, 0x0b), (2, 4, 0x0b)),
            (BlockError::Detached, (2, 4, 0x0b), (2, 4, 0x0b)),
        ];
        for (fault, reading, writing) in expected {
            device.fault.set(Some(fault));
            assert_eq!(host.read(0, 1).await.check(), reading, "{fault:?}");
            assert_eq!(host.write(0, &[0; 512]).await.check(), writing, "{fault:?}");
        }
        device.fault.set(None);
        let before = catalog.opened.get();
        host.read(0, 1).await.good();
        host.read(0, 1).await.good();
        assert_eq!(catalog.opened.get(), before + 1, "it is opened anew, once");
    });
}

#[test]
fn pre_fetch_start_and_the_like_succeed() {
    alone(|host| async move {
        host.send(&cdb10(0x34, 0, 0, 8), &[]).await.good();
        host.send(&cdb16(0x90, 2, 0, 0), &[]).await.good();
        host.send(&[0x1b, 0, 0, 0, 1, 0], &[]).await.good();
        host.send(&[0x1b, 0, 0, 0, 0, 0], &[]).await.good();
        host.read(0, 1).await.good();
        let eject = host.send(&[0x1b, 0, 0, 0, 2, 0], &[]).await;
        assert_eq!(eject.check(), INVALID_FIELD_IN_CDB);
        host.send(&[0x1e, 0, 0, 0, 1, 0], &[]).await.good();
        host.send(&[0x1d, 4, 0, 0, 0, 0], &[]).await.good();
    });
}
