//! Buffers: alignment, reuse, sharing, and what outlives what.

use super::*;

#[test]
fn buffers_are_aligned_and_reused() {
    let pool = BufferPool::new();
    for len in [
        0,
        1,
        4096,
        4097,
        70_000,
        1 << 20,
        4 << 20,
        (4 << 20) + 1,
        33 << 20,
    ] {
        let mut buffer = pool.buffer(len);
        assert_eq!(buffer.len(), len);
        assert!(buffer.capacity() >= len);
        assert_eq!(buffer.as_ptr() as usize % PAGE_BYTES, 0);
        buffer.fill(0xa5);
        let first = buffer.as_ptr();
        drop(buffer);
        if len <= 4 << 20 {
            assert_eq!(pool.buffer(len).as_ptr(), first, "{len}");
        }
    }
}

#[test]
fn slices_share_memory_until_the_last_goes() {
    let pool = BufferPool::new();
    let mut buffer = pool.buffer(8192);
    buffer[4096..].fill(7);
    let shared = buffer.freeze();
    let address = shared.as_ptr();
    let part = shared.slice(4096..);
    assert!(part.is_aligned() && shared.is_aligned());
    assert!(!shared.slice(1..4097).is_aligned());
    drop(shared);
    assert!(part.iter().all(|byte| *byte == 7));
    assert_ne!(
        pool.buffer(8192).as_ptr(),
        address,
        "memory in use was given out"
    );
    drop(part);
    assert_eq!(pool.buffer(8192).as_ptr(), address);
}

#[test]
fn only_the_last_handle_thaws() {
    let pool = BufferPool::new();
    let shared = pool.buffer(4096).freeze();
    let other = shared.clone();
    let shared = shared.try_thaw().expect_err("shared");
    drop(other);
    let mut buffer = shared.try_thaw().expect("unique");
    buffer[0] = 1;
}

#[test]
fn memory_outlives_the_pool_handle() {
    let pool = BufferPool::new();
    let mut buffer = pool.buffer(4096);
    drop(pool);
    buffer.fill(1);
    let shared = buffer.freeze();
    assert_eq!(shared[4095], 1);
}

#[test]
fn large_buffers_are_unmapped() {
    let pool = BufferPool::new();
    let buffer = pool.buffer(5 << 20);
    assert_eq!(pool.mapped_bytes(), 5 << 20);
    drop(buffer);
    assert_eq!(pool.mapped_bytes(), 0);
}

#[test]
#[should_panic(expected = "slice 2..5 of 4 bytes")]
fn slices_outside_panic() {
    let pool = BufferPool::new();
    let _ = pool.buffer(4).freeze().slice(2..5);
}
