//! Disks.

use super::lab::{DISK_BYTES, Lab, suite};
use ashlar_reactor::future::join_all;
use ashlar_reactor::{
    Buffer, CachePolicy, Disk, DiskError, DiskOptions, PAGE_BYTES, Reactor, SharedBuffer,
};
use std::time::Duration;

suite!(
    written_is_read_back,
    gather_write_lands_in_order,
    gather_write_of_many_pieces,
    large_transfers,
    many_at_once,
    flush_succeeds,
    discard_succeeds,
    range_beyond_the_end_is_refused,
    read_only_disk_refuses_writes,
    empty_operations_do_nothing,
    missing_disk_is_an_error,
    directory_is_no_disk,
    held_disk_is_in_use,
    closed_disk_opens_again,
    shared_disk_is_held_until_the_last_handle_goes,
    cache_policy_is_believed,
    dropped_reads_and_writes_are_safe,
    dropped_write_runs_its_course,
    geometry_tells_the_size,
);

const PAGE: u64 = PAGE_BYTES as u64;

async fn open(lab: &Lab) -> Disk {
    lab.reactor
        .open_disk(DiskOptions::new(&lab.disk))
        .await
        .expect("opens")
}

/// A buffer of pages, each filled by its place and `salt`.
fn pages(reactor: &Reactor, count: usize, salt: u8) -> Buffer {
    let mut buffer = reactor.buffer(count * PAGE_BYTES);
    for (index, page) in buffer.chunks_mut(PAGE_BYTES).enumerate() {
        page.fill(salt.wrapping_add(u8::try_from(index % 251).expect("small")));
    }
    buffer
}

async fn read(disk: &Disk, reactor: &Reactor, offset: u64, len: usize) -> Buffer {
    let (buffer, result) = disk.read(offset, reactor.buffer(len)).await;
    result.expect("reads");
    buffer
}

async fn written_is_read_back(lab: Lab) {
    let disk = open(&lab).await;
    for offset in [0, PAGE, 5 * PAGE, DISK_BYTES - PAGE] {
        let salt = u8::try_from(offset / PAGE % 200).expect("small") + 1;
        let data = pages(&lab.reactor, 1, salt).freeze();
        disk.write(offset, vec![data.clone()])
            .await
            .expect("writes");
        assert_eq!(*read(&disk, &lab.reactor, offset, PAGE_BYTES).await, *data);
    }
    // What was never written reads as zeroes.
    let untouched = read(&disk, &lab.reactor, 64 * PAGE, PAGE_BYTES).await;
    assert!(untouched.iter().all(|byte| *byte == 0));
}

async fn gather_write_lands_in_order(lab: Lab) {
    let disk = open(&lab).await;
    let long = pages(&lab.reactor, 4, 10).freeze();
    let pieces = vec![
        pages(&lab.reactor, 1, 1).freeze(),
        long.slice(PAGE_BYTES..3 * PAGE_BYTES),
        pages(&lab.reactor, 1, 99).freeze(),
        long.slice(..PAGE_BYTES),
        long.slice(..0),
        long.slice(PAGE_BYTES..2 * PAGE_BYTES),
    ];
    disk.write(7 * PAGE, pieces).await.expect("writes");
    let back = read(&disk, &lab.reactor, 7 * PAGE, 6 * PAGE_BYTES).await;
    let first: Vec<u8> = back.chunks(PAGE_BYTES).map(|page| page[0]).collect();
    assert_eq!(first, [1, 11, 12, 99, 10, 11]);
}

async fn gather_write_of_many_pieces(lab: Lab) {
    let disk = open(&lab).await;
    let piece = pages(&lab.reactor, 1, 77).freeze();
    let pieces: Vec<SharedBuffer> = (0..2500).map(|_| piece.clone()).collect();
    disk.write(PAGE, pieces).await.expect("writes");
    let back = read(&disk, &lab.reactor, PAGE, 2500 * PAGE_BYTES).await;
    assert!(back.iter().all(|byte| *byte == 77));
    let after = read(&disk, &lab.reactor, 2501 * PAGE, PAGE_BYTES).await;
    assert!(after.iter().all(|byte| *byte == 0));
}

async fn large_transfers(lab: Lab) {
    let disk = open(&lab).await;
    let count = 9 << 8; // 9 MiB
    let data = pages(&lab.reactor, count, 3).freeze();
    disk.write(2 << 20, vec![data.clone()])
        .await
        .expect("writes");
    let back = read(&disk, &lab.reactor, 2 << 20, data.len()).await;
    assert!(*back == *data);
}

async fn many_at_once(lab: Lab) {
    let disk = open(&lab).await;
    let writes = (0..512u64).map(|index| {
        let disk = disk.clone();
        let salt = u8::try_from(index % 200).expect("small") + 1;
        let data = pages(&lab.reactor, 1, salt).freeze();
        async move { disk.write(index * PAGE, vec![data]).await }
    });
    for result in join_all(writes).await {
        result.expect("writes");
    }
    let reads = (0..512u64).map(|index| {
        let disk = disk.clone();
        let buffer = lab.reactor.buffer(PAGE_BYTES);
        async move { disk.read(index * PAGE, buffer).await }
    });
    for (index, (buffer, result)) in join_all(reads).await.into_iter().enumerate() {
        result.expect("reads");
        let salt = u8::try_from(index % 200).expect("small") + 1;
        assert!(buffer.iter().all(|byte| *byte == salt), "page {index}");
    }
}

async fn flush_succeeds(lab: Lab) {
    let disk = open(&lab).await;
    let data = pages(&lab.reactor, 1, 3).freeze();
    disk.write(0, vec![data]).await.expect("writes");
    let (first, second) = (disk.flush(), disk.flush());
    for result in join_all([first, second]).await {
        result.expect("flushes");
    }
}

async fn discard_succeeds(lab: Lab) {
    let disk = open(&lab).await;
    disk.discard(0, 16 * PAGE).await.expect("discards");
    assert!(matches!(
        disk.discard(DISK_BYTES, PAGE).await,
        Err(DiskError::OutOfRange { .. })
    ));
}

async fn range_beyond_the_end_is_refused(lab: Lab) {
    let disk = open(&lab).await;
    let size = disk.geometry().size_bytes;
    for offset in [size, size - PAGE, 1 << 40, u64::MAX - PAGE + 1] {
        let (buffer, result) = disk.read(offset, lab.reactor.buffer(2 * PAGE_BYTES)).await;
        assert_eq!(buffer.len(), 2 * PAGE_BYTES);
        let expected = DiskError::OutOfRange {
            offset,
            len: 2 * PAGE,
            size,
        };
        assert_eq!(result, Err(expected.clone()));
        let data = pages(&lab.reactor, 2, 1).freeze();
        assert_eq!(disk.write(offset, vec![data]).await, Err(expected));
    }
}

async fn read_only_disk_refuses_writes(lab: Lab) {
    let options = DiskOptions {
        read_only: true,
        ..DiskOptions::new(&lab.disk)
    };
    let disk = lab.reactor.open_disk(options).await.expect("opens");
    let data = pages(&lab.reactor, 1, 1).freeze();
    assert_eq!(disk.write(0, vec![data]).await, Err(DiskError::ReadOnly));
    assert_eq!(disk.discard(0, PAGE).await, Err(DiskError::ReadOnly));
    let _ = read(&disk, &lab.reactor, 0, PAGE_BYTES).await;
}

async fn empty_operations_do_nothing(lab: Lab) {
    let disk = open(&lab).await;
    disk.write(0, Vec::new()).await.expect("writes");
    let (_, result) = disk.read(0, lab.reactor.buffer(0)).await;
    result.expect("reads");
    disk.discard(DISK_BYTES, 0).await.expect("discards");
}

async fn missing_disk_is_an_error(lab: Lab) {
    let options = DiskOptions::new(lab.disk.with_file_name("no-such-disk"));
    let result = lab.reactor.open_disk(options).await;
    assert!(matches!(result, Err(DiskError::Open { .. })), "{result:?}");
}

async fn directory_is_no_disk(lab: Lab) {
    if lab.is_simulated {
        return; // there are no directories
    }
    let options = DiskOptions::new(lab.disk.parent().expect("has a directory"));
    let result = lab.reactor.open_disk(options).await;
    assert!(
        matches!(result, Err(DiskError::NotADisk { .. })),
        "{result:?}"
    );
}

async fn shared_disk_is_held_until_the_last_handle_goes(lab: Lab) {
    let disk = open(&lab).await;
    let shared = lab.reactor.adopt_disk(disk.share().expect("shares"));
    assert_eq!(shared.geometry(), disk.geometry());
    let data = pages(&lab.reactor, 1, 3).freeze();
    disk.write(0, vec![data.clone()]).await.expect("writes");
    assert_eq!(*read(&shared, &lab.reactor, 0, PAGE_BYTES).await, *data);
    drop(disk);
    let result = lab.reactor.open_disk(DiskOptions::new(&lab.disk)).await;
    assert!(matches!(result, Err(DiskError::InUse { .. })), "{result:?}");
    shared.write(PAGE, vec![data]).await.expect("writes");
    shared.flush().await.expect("flushes");
    drop(shared);
    drop(open(&lab).await);
}

async fn held_disk_is_in_use(lab: Lab) {
    let held = open(&lab).await;
    let start = lab.reactor.now();
    let result = lab.reactor.open_disk(DiskOptions::new(&lab.disk)).await;
    assert!(matches!(result, Err(DiskError::InUse { .. })), "{result:?}");
    assert!(
        lab.reactor.now() - start >= Duration::from_secs(1),
        "gave up before a dead holder's IO could end"
    );
    // A holder that lets go in time is waited for.
    let reactor = lab.reactor.clone();
    drop(lab.reactor.spawn(async move {
        reactor.sleep(Duration::from_millis(300)).await;
        drop(held);
    }));
    let _ = open(&lab).await;
}

async fn closed_disk_opens_again(lab: Lab) {
    for salt in 1..4 {
        let disk = open(&lab).await;
        let clone = disk.clone();
        drop(disk);
        let data = pages(&lab.reactor, 1, salt).freeze();
        clone.write(0, vec![data]).await.expect("writes");
    }
    let disk = open(&lab).await;
    assert_eq!(read(&disk, &lab.reactor, 0, PAGE_BYTES).await[0], 3);
}

async fn cache_policy_is_believed(lab: Lab) {
    for (cache, volatile) in [
        (CachePolicy::Volatile, true),
        (CachePolicy::WriteThrough, false),
    ] {
        let options = DiskOptions {
            cache,
            ..DiskOptions::new(&lab.disk)
        };
        let disk = lab.reactor.open_disk(options).await.expect("opens");
        assert_eq!(disk.geometry().volatile_cache, volatile);
    }
}

async fn dropped_reads_and_writes_are_safe(lab: Lab) {
    let disk = open(&lab).await;
    for round in 0..50u64 {
        let offset = round * PAGE;
        let reading = disk.read(offset, lab.reactor.buffer(64 * PAGE_BYTES));
        let data = pages(&lab.reactor, 64, 1).freeze();
        let writing = disk.write(offset, vec![data]);
        // Polled once, so it is under way; then dropped, while its memory is asked for again.
        let never = Duration::ZERO;
        let _ = lab.reactor.timeout(never, reading).await;
        let _ = lab.reactor.timeout(never, writing).await;
        let mut others = lab.reactor.buffer(64 * PAGE_BYTES);
        others.fill(0xee);
        lab.reactor.yield_now().await;
        assert!(
            others.iter().all(|byte| *byte == 0xee),
            "written after it was freed"
        );
    }
    disk.flush().await.expect("flushes");
}

async fn dropped_write_runs_its_course(lab: Lab) {
    let disk = open(&lab).await;
    let data = pages(&lab.reactor, 1, 42).freeze();
    let _ = lab
        .reactor
        .timeout(Duration::ZERO, disk.write(0, vec![data]))
        .await;
    // Another clone of the disk may close meanwhile.
    drop(disk);
    lab.reactor.sleep(Duration::from_secs(1)).await;
    let disk = open(&lab).await;
    assert_eq!(read(&disk, &lab.reactor, 0, PAGE_BYTES).await[0], 42);
}

async fn geometry_tells_the_size(lab: Lab) {
    let disk = open(&lab).await;
    let geometry = disk.geometry();
    assert_eq!(geometry.size_bytes, DISK_BYTES);
    assert_eq!(geometry.block_bytes, 4096);
}
