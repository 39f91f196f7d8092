//! What is written is read again as it was.

use super::*;
use crate::image::RunKind;
use crate::qcow2::Qcow2Image;
use proptest::prelude::*;

/// One cluster of data in some of the clusters of a disk.
fn pattern(cluster: u64) -> Vec<u8> {
    let mut bytes = vec![0; CLUSTER_LEN];
    bytes[..8].copy_from_slice(&(cluster + 1).to_be_bytes());
    bytes
}

fn check(file: &File, size: u64, used: &[u64]) {
    let mut image = Qcow2Image::open(file.try_clone().unwrap()).unwrap();
    assert_eq!(image.size_bytes(), size);
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(run) = image.run_at(at).unwrap() {
        if run.kind == RunKind::Data {
            found.extend(at / CLUSTER..(at + run.len).div_ceil(CLUSTER));
        }
        at += run.len;
    }
    assert_eq!(found, used);
    for cluster in used {
        let mut bytes = vec![0; CLUSTER_LEN];
        let count = image.read_at(&mut bytes, cluster * CLUSTER).unwrap();
        assert_eq!(bytes[..count], pattern(*cluster)[..count]);
    }
}

fn write(target: &mut Qcow2Target, size: u64, clusters: &[u64]) {
    for cluster in clusters {
        let at = cluster * CLUSTER;
        let len = usize::try_from(size - at).unwrap().min(CLUSTER_LEN);
        target.write(&pattern(*cluster)[..len], at).unwrap();
    }
}

#[test]
fn every_cluster_of_the_file_is_counted_once() {
    let file = tempfile::tempfile().unwrap();
    let size = 3 * L2_COVERS + 4096;
    let used = [0, 1, 5, TABLE_ENTRIES, 3 * TABLE_ENTRIES];
    let mut target = Qcow2Target::create(file.try_clone().unwrap(), size).unwrap();
    write(&mut target, size, &used);
    target.finish().unwrap();
    check(&file, size, &used);
    // header, refcount table, L1, 3 L2 tables, 5 of data, 1 refcount block
    let clusters = 1 + 1 + 1 + 3 + 5 + 1;
    assert_eq!(file.len_bytes().unwrap(), clusters * CLUSTER);
    let mut counts = vec![0; CLUSTER_LEN];
    file.fill(&mut counts, (clusters - 1) * CLUSTER).unwrap();
    let sum: u64 = counts.iter().map(|byte| u64::from(*byte)).sum();
    assert_eq!(sum, clusters);
}

#[test]
fn an_empty_disk_is_an_image_too() {
    for size in [0, 4096, 1 << 40] {
        let file = tempfile::tempfile().unwrap();
        let target = Qcow2Target::create(file.try_clone().unwrap(), size).unwrap();
        target.finish().unwrap();
        check(&file, size, &[]);
    }
}

#[test]
fn refcount_tables_are_long_enough_for_full_disks() {
    for size in [1u64 << 20, 1 << 30, (2 << 30) - CLUSTER, 1 << 42, 1 << 46] {
        let layout = Layout::of(size);
        let used = layout.first_free() + layout.l1_entries + size.div_ceil(CLUSTER);
        let room = layout.refcount_table_clusters * TABLE_ENTRIES;
        let blocks = used.div_ceil(BLOCK_COUNTS - 1);
        assert!(blocks <= room, "{size}: {blocks} blocks, {room} entries");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    /// The crash: a checkpoint reaches the file, the note of it does not, so an older one is taken up.
    #[test]
    fn a_resumed_image_is_as_if_written_at_once(
        clusters in prop::collection::btree_set(0u64..2 * TABLE_ENTRIES, 1..20),
        noted in 0usize..20,
        beyond in 0usize..20,
    ) {
        let clusters: Vec<u64> = clusters.into_iter().collect();
        let noted = noted.min(clusters.len());
        let beyond = (noted + beyond).min(clusters.len());
        let size = 2 * L2_COVERS;
        let file = tempfile::tempfile().unwrap();
        let mut target = Qcow2Target::create(file.try_clone().unwrap(), size).unwrap();
        write(&mut target, size, &clusters[..noted]);
        let next = target.checkpoint().unwrap();
        write(&mut target, size, &clusters[noted..beyond]);
        target.checkpoint().unwrap();
        drop(target);
        let done = clusters[..noted].last().map_or(0, |last| (last + 1) * CLUSTER);
        let file_again = file.try_clone().unwrap();
        let mut target = Qcow2Target::resume(file_again, size, next, done).unwrap();
        write(&mut target, size, &clusters[noted..]);
        target.finish().unwrap();
        check(&file, size, &clusters);
        let tables: std::collections::BTreeSet<_> = clusters.iter().map(|c| c / TABLE_ENTRIES).collect();
        let expected = 1 + 1 + 1 + tables.len() + clusters.len() + 1;
        prop_assert_eq!(file.len_bytes().unwrap(), expected as u64 * CLUSTER);
    }
}
