//! What the reader gives of images, and what it refuses.

use super::*;
use ashlar_image::Format;
use std::os::unix::fs::FileExt;

/// 3 MiB and a bit: data, a hole, a block in a sea of zeroes, an odd end.
fn content() -> Vec<u8> {
    let mut bytes = vec![0; (3 << 20) + 4096 + 100];
    bytes[..10_000].fill(1);
    bytes[(2 << 20) + 8192..(2 << 20) + 8193].fill(2);
    let len = bytes.len();
    bytes[len - 1] = 3;
    bytes
}

fn raw(bytes: &[u8]) -> Image {
    let file = tempfile::tempfile().unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    for run in zero::data_runs(bytes, BLOCK_LEN) {
        let at = run.start as u64;
        file.write_all_at(&bytes[run], at).unwrap();
    }
    Image::open(file, Format::Raw).unwrap()
}

fn job(image: Image, done: Option<Mark>) -> Job {
    Job {
        image,
        done,
        volume_bytes: 4 << 20,
        stop: Arc::default(),
        progress: Arc::new(Progress::Quiet),
    }
}

fn sum(bytes: &[u8]) -> String {
    let mut hash = Sha256::new();
    hash.add(bytes);
    hash.text()
}

/// What a volume holds after the pieces, how many bytes were data, and how it ended.
fn apply(job: Job, volume: &mut [u8]) -> (u64, Result<Piece, ReadError>) {
    let pieces = start(job).unwrap();
    let mut data = 0;
    let mut next = None;
    loop {
        let piece = pieces.recv_blocking().unwrap();
        match piece {
            Ok(Piece::Data { offset, bytes }) => {
                assert!(
                    offset.is_multiple_of(BLOCK_BYTES) && bytes.len().is_multiple_of(BLOCK_LEN)
                );
                assert_eq!(*next.get_or_insert(offset), offset, "without gaps");
                let at = usize::try_from(offset).unwrap();
                volume[at..at + bytes.len()].copy_from_slice(&bytes);
                data += bytes.len() as u64;
                next = Some(offset + bytes.len() as u64);
            }
            Ok(Piece::Zeroes { offset, len }) => {
                assert!(len > 0 && len.is_multiple_of(BLOCK_BYTES));
                assert_eq!(*next.get_or_insert(offset), offset, "without gaps");
                let at = usize::try_from(offset).unwrap();
                volume[at..at + usize::try_from(len).unwrap()].fill(0);
                next = Some(offset + len);
            }
            Ok(Piece::Mark(_)) => {}
            end => return (data, end),
        }
    }
}

#[test]
fn all_comes_in_order_and_zeroes_are_no_data() {
    let content = content();
    let pipe = std::io::Cursor::new(content.clone());
    for image in [raw(&content), Image::stream(pipe, true).unwrap()] {
        let mut volume = vec![0xee; 4 << 20];
        let (data, end) = apply(job(image, None), &mut volume);
        let Ok(Piece::End(mark)) = end else {
            panic!("no end");
        };
        assert_eq!(mark.done_bytes, content.len() as u64);
        assert_eq!(mark.sha256, sum(&content));
        assert_eq!(volume[..content.len()], content);
        assert_eq!(data, 3 * 4096 + 4096 + 4096);
    }
}

#[test]
fn what_is_done_is_hashed_and_not_given() {
    let content = content();
    let half = 1 << 20;
    let done = Mark {
        done_bytes: half as u64,
        sha256: sum(&content[..half]),
    };
    let mut volume = vec![0xee; 4 << 20];
    let (_, end) = apply(job(raw(&content), Some(done.clone())), &mut volume);
    assert!(matches!(end, Ok(Piece::End(mark)) if mark.sha256 == sum(&content)));
    assert!(volume[..half].iter().all(|byte| *byte == 0xee));
    assert_eq!(volume[half..content.len()], content[half..]);

    let mut changed = content.clone();
    changed[9_999] = 7;
    for other in [&changed[..], &content[..half - 4096]] {
        let (_, end) = apply(job(raw(other), Some(done.clone())), &mut volume);
        assert!(matches!(end, Err(ReadError::Changed)));
    }
}

#[test]
fn an_image_longer_than_the_volume_is_an_error() {
    let pipe = std::io::repeat(5);
    let image = Image::stream(pipe, true).unwrap();
    let mut volume = vec![0; 4 << 20];
    let (data, end) = apply(job(image, None), &mut volume);
    assert!(matches!(end, Err(ReadError::TooLong { .. })));
    assert_eq!(data, 4 << 20);
}

#[test]
fn one_that_is_asked_to_stop_says_how_far_it_came() {
    let content = content();
    let job = job(raw(&content), None);
    job.stop.store(true, Ordering::Relaxed);
    let (_, end) = apply(job, &mut []);
    assert!(matches!(end, Ok(Piece::Stopped(mark)) if mark.done_bytes == 0));
}
