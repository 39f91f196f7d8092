//! The reader of qcow2 images: header, tables and compressed clusters.
//!
//! Beside never panicking, it must give runs that cover the disk without gaps, and all bytes that it
//! promises.

use ashlar_image::{ImageError, Qcow2Image, RunKind};
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

/// Most runs that are looked at: disks may be very large.
const RUNS_MAX: usize = 48;
/// Most bytes that are read of each.
const READ_BYTES_MAX: u64 = 3000;

/// Reads one image.
pub(crate) fn run(input: &[u8]) -> u64 {
    let mut seen = DefaultHasher::new();
    if let Err(error) = walk(input, &mut seen) {
        std::mem::discriminant(&error).hash(&mut seen);
        if let ImageError::Damaged { what, .. } | ImageError::Truncated { what, .. } = error {
            what.hash(&mut seen);
        }
    }
    seen.finish()
}

fn walk(input: &[u8], seen: &mut DefaultHasher) -> Result<(), ImageError> {
    let mut image = Qcow2Image::open(input.to_vec())?;
    let size = image.size_bytes();
    let mut at = 0;
    for _ in 0..RUNS_MAX {
        let Some(run) = image.run_at(at)? else {
            assert_eq!(at, size, "runs end with the disk");
            break;
        };
        assert!(run.len > 0, "a run makes progress");
        assert!(run.len <= size - at, "a run ends with the disk");
        (run.kind == RunKind::Data, run.len.ilog2()).hash(seen);
        let len = usize::try_from(run.len.min(READ_BYTES_MAX)).expect("a few");
        let mut bytes = vec![0xee; len];
        assert_eq!(image.read_at(&mut bytes, at)?, len, "bytes are there");
        if run.kind == RunKind::Zeroes {
            assert!(bytes.iter().all(|byte| *byte == 0), "zeroes are zeroes");
        }
        at += run.len;
    }
    Ok(())
}
