//! Compressed clusters: deflate without a frame, or zstd in one frame or several.

use std::io::Read;

use miniz_oxide::inflate::decompress_slice_iter_to_slice;
use ruzstd::decoding::StreamingDecoder;

use super::header::Compression;

/// Most bytes of history that a zstd frame may ask for; clusters have 2 MiB at most.
const ZSTD_WINDOW_MAX: u64 = 8 << 20;

/// Unpacks one cluster; `packed` may have more bytes after it. False if it is no whole cluster.
pub(super) fn unpack(compression: Compression, packed: &[u8], cluster: &mut [u8]) -> bool {
    match compression {
        Compression::Deflate => inflate(packed, cluster),
        Compression::Zstd => unzstd(packed, cluster),
    }
}

fn inflate(packed: &[u8], cluster: &mut [u8]) -> bool {
    let pieces = std::iter::once(packed);
    let unpacked = decompress_slice_iter_to_slice(cluster, pieces, false, true);
    unpacked == Ok(cluster.len())
}

fn unzstd(mut packed: &[u8], cluster: &mut [u8]) -> bool {
    let mut done = 0;
    while done < cluster.len() {
        let decoder = StreamingDecoder::new_with_max_window_size(&mut packed, ZSTD_WINDOW_MAX);
        let Ok(mut decoder) = decoder else {
            return false;
        };
        let before = done;
        loop {
            match decoder.read(&mut cluster[done..]) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(_) => return false,
            }
        }
        // An empty frame would be asked for another one for ever.
        if done == before {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> Vec<u8> {
        (0..1u32 << 16).map(|n| (n / 7 % 251) as u8).collect()
    }

    #[test]
    fn deflate_ends_at_the_cluster_and_rest_is_ignored() {
        let plain = cluster();
        let mut packed = miniz_oxide::deflate::compress_to_vec(&plain, 6);
        let whole = packed.len();
        packed.extend([0xaa; 400]);
        let mut out = vec![0; plain.len()];
        assert!(unpack(Compression::Deflate, &packed, &mut out));
        assert_eq!(out, plain);
        assert!(!unpack(
            Compression::Deflate,
            &packed[..whole / 2],
            &mut out
        ));
        let mut larger = vec![0; plain.len() + 1];
        assert!(!unpack(Compression::Deflate, &packed, &mut larger));
        let mut smaller = vec![0; plain.len() - 1];
        assert!(!unpack(Compression::Deflate, &packed, &mut smaller));
    }

    #[test]
    fn zstd_may_come_in_several_frames() {
        use ruzstd::encoding::{CompressionLevel, compress_to_vec};
        let plain = cluster();
        let (first, second) = plain.split_at(1000);
        let mut packed = compress_to_vec(first, CompressionLevel::Fastest);
        packed.extend(compress_to_vec(second, CompressionLevel::Fastest));
        let whole = packed.len();
        packed.extend([0; 300]);
        let mut out = vec![0; plain.len()];
        assert!(unpack(Compression::Zstd, &packed, &mut out));
        assert_eq!(out, plain);
        assert!(!unpack(Compression::Zstd, &packed[..whole / 2], &mut out));
        assert!(!unpack(Compression::Zstd, &[], &mut out));
    }
}
