//! Images that are read as they should be, and bad ones that are refused.

use super::*;
use crate::qcow2::COPIED;
use proptest::prelude::*;

const CLUSTER: usize = 512;

/// A small image of version 3 with clusters of 512 bytes: header, L1, one L2 table, two clusters of
/// data, one compressed.
fn small() -> Vec<u8> {
    let mut file = vec![0; 6 * CLUSTER];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"QFI\xfb");
    put(4, &3u32.to_be_bytes());
    put(20, &9u32.to_be_bytes());
    put(24, &(100 * CLUSTER as u64 + 7).to_be_bytes());
    put(36, &2u32.to_be_bytes());
    put(40, &(CLUSTER as u64).to_be_bytes());
    put(96, &4u32.to_be_bytes());
    put(100, &104u32.to_be_bytes());
    put(CLUSTER, &((2 * CLUSTER as u64) | COPIED).to_be_bytes());
    let packed = miniz_oxide::deflate::compress_to_vec(&[9; CLUSTER], 6);
    let entries = [
        0,
        (3 * CLUSTER as u64) | COPIED,
        (4 * CLUSTER as u64) | COPIED,
        ZERO,
        COMPRESSED | (5 * CLUSTER as u64 + 3),
    ];
    for (index, entry) in entries.iter().enumerate() {
        put(2 * CLUSTER + index * 8, &entry.to_be_bytes());
    }
    put(3 * CLUSTER, &[1; CLUSTER]);
    put(4 * CLUSTER, &[2; CLUSTER]);
    put(5 * CLUSTER + 3, &packed);
    file
}

fn walk(file: Vec<u8>) -> Result<(Vec<Run>, u64), ImageError> {
    let mut image = Qcow2Image::open(file)?;
    let mut runs = Vec::new();
    let (mut at, mut sum) = (0, 0);
    while let Some(run) = image.run_at(at)? {
        assert!(run.len > 0 && run.len <= image.size_bytes() - at);
        let mut bytes = vec![0xee; usize::try_from(run.len.min(8192)).unwrap()];
        assert_eq!(image.read_at(&mut bytes, at)?, bytes.len());
        sum += bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
        at += run.len;
        if runs.len() > 1000 {
            break;
        }
        runs.push(run);
    }
    Ok((runs, sum))
}

fn set(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = small();
    file[at..at + bytes.len()].copy_from_slice(bytes);
    file
}

#[test]
fn clusters_are_found_where_the_tables_say() {
    let (runs, sum) = walk(small()).unwrap();
    let run = |kind, clusters: u64| Run {
        kind,
        len: clusters * CLUSTER as u64,
    };
    let mut expected = vec![
        run(RunKind::Zeroes, 1),
        run(RunKind::Data, 2),
        run(RunKind::Zeroes, 1),
        run(RunKind::Data, 1),
        run(RunKind::Zeroes, 59),
        run(RunKind::Zeroes, 36),
    ];
    expected[5].len += 7;
    assert_eq!(runs, expected);
    assert_eq!(sum, (1 + 2 + 9) * CLUSTER as u64);
}

#[test]
fn what_is_not_read_here_is_refused_by_name() {
    let refused = |file: Vec<u8>, text: &str| {
        let error = walk(file).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    };
    refused(b"GIF89a, and some text".to_vec(), "no qcow2 image");
    refused(Vec::new(), "no qcow2 image");
    refused(small()[..60].to_vec(), "truncated");
    refused(small()[..CLUSTER + 4].to_vec(), "its L1 table");
    refused(small()[..2 * CLUSTER + 4].to_vec(), "an L2 table");
    refused(small()[..4 * CLUSTER].to_vec(), "a cluster of data");
    refused(small()[..5 * CLUSTER].to_vec(), "a compressed cluster");
    refused(set(4, &4u32.to_be_bytes()), "version");
    refused(set(8, &4096u64.to_be_bytes()), "backing file");
    refused(set(32, &1u32.to_be_bytes()), "encrypted");
    refused(set(20, &40u32.to_be_bytes()), "cluster size");
    refused(set(24, &u64::MAX.to_be_bytes()), "size of the disk");
    refused(set(36, &1u32.to_be_bytes()), "L1 table too short");
    refused(set(40, &513u64.to_be_bytes()), "not aligned");
    refused(set(40, &(u64::MAX - 511).to_be_bytes()), "truncated");
    refused(set(72, &2u64.to_be_bytes()), "corrupt");
    refused(set(72, &4u64.to_be_bytes()), "another file");
    refused(set(72, &8u64.to_be_bytes()), "header");
    refused(set(72, &16u64.to_be_bytes()), "subclusters");
    refused(set(72, &32u64.to_be_bytes()), "not known");
    refused(set(5 * CLUSTER + 3, &[0xff; 8]), "cannot be unpacked");
}

proptest! {
    #[test]
    fn any_bytes_end_in_runs_or_an_error(
        changes in prop::collection::vec((0usize..6 * CLUSTER, any::<u8>()), 0..12),
        len in 0usize..=6 * CLUSTER,
    ) {
        let mut file = small();
        for (at, byte) in changes {
            file[at] = byte;
        }
        file.truncate(len);
        let _ = walk(file);
    }
}
