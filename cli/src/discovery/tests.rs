//! What a store takes of what its patterns name, and what it leaves alone: files stand for devices.

use std::io::{Seek, SeekFrom, Write};

use super::*;
use crate::runtime;

const SIZE: u64 = 256 << 20;

/// A directory with disks in it; on the disk of the build, for direct IO.
fn directory() -> tempfile::TempDir {
    let target = std::env::current_exe().unwrap();
    tempfile::tempdir_in(target.parent().unwrap()).unwrap()
}

fn blank(directory: &Path, name: &str) -> PathBuf {
    let path = directory.join(name);
    std::fs::File::create(&path).unwrap().set_len(SIZE).unwrap();
    path
}

fn filter(directory: &Path, pattern: &str, disk_format_empty: bool) -> DiskFilterArgs {
    DiskFilterArgs {
        disk_filter: vec![directory.join(pattern).to_str().unwrap().to_owned()],
        disk_format_empty,
        disk_format_lanes: 1,
    }
}

fn found(given: &[PathBuf], filter: &DiskFilterArgs) -> Result<Vec<PathBuf>, String> {
    let reactor = crate::args::ReactorArgs {
        engine: None,
        spin_us: 0,
    };
    let disks = runtime::run(&reactor, async |reactor: Reactor| {
        disks(&reactor, given, filter).await
    });
    disks.map_err(|error| format!("{error:#}"))
}

fn write_at(path: &Path, offset: u64, bytes: &[u8]) {
    let mut file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(offset)).unwrap();
    file.write_all(bytes).unwrap();
}

#[test]
fn empty_disks_are_formatted_only_where_that_was_allowed() {
    let directory = directory();
    let disk = blank(directory.path(), "disk-a");
    let other = blank(directory.path(), "other");
    let refused = found(&[], &filter(directory.path(), "disk-*", false)).unwrap_err();
    assert!(refused.contains("--disk-format-empty"), "{refused}");
    assert!(empty::check(&disk).is_ok(), "it was written to");

    let allowed = filter(directory.path(), "disk-*", true);
    assert_eq!(found(&[], &allowed), Ok(vec![disk.clone()]));
    assert!(empty::check(&disk).is_err());
    assert!(empty::check(&other).is_ok(), "no pattern names it");

    // It is Ashlar's now, and stays what it is.
    let before = std::fs::read(&disk).unwrap();
    let served = found(&[], &filter(directory.path(), "disk-*", false));
    assert_eq!(served, Ok(vec![disk.clone()]));
    assert_eq!(found(&[], &allowed), Ok(vec![disk.clone()]));
    assert!(std::fs::read(&disk).unwrap() == before, "formatted twice");
}

#[test]
fn whatever_is_on_a_disk_stays() {
    let directory = directory();
    let all = filter(directory.path(), "disk-*", true);
    let places = [
        (0, "its first byte"),
        (510, "a partition table's mark"),
        (1080, "ext4"),
        (65_600, "Btrfs"),
        ((2 << 20) + 5, "VMFS"),
        ((4 << 20) - 1, "the last byte of the first end"),
        (SIZE - (4 << 20), "the first byte of the last end"),
        (SIZE - 512, "a second partition table"),
        (SIZE - 1, "its last byte"),
    ];
    for (offset, what) in places {
        let disk = blank(directory.path(), "disk-a");
        write_at(&disk, offset, &[0x53]);
        let before = std::fs::read(&disk).unwrap();
        let refused = found(&[], &all).unwrap_err();
        assert!(refused.contains("not touched"), "{what}: {refused}");
        assert!(std::fs::read(&disk).unwrap() == before, "{what}");
    }
}

#[test]
fn what_has_a_name_is_told_by_it() {
    let directory = directory();
    let disk = blank(directory.path(), "disk-a");
    let made = std::process::Command::new("mkfs.ext4")
        .args(["-q", "-F"])
        .arg(&disk)
        .status();
    assert!(made.unwrap().success());
    let refused = found(&[], &filter(directory.path(), "disk-*", true)).unwrap_err();
    assert!(refused.contains("it holds `ext4`"), "{refused}");
}

#[test]
fn a_damaged_disk_of_ours_is_not_formatted_again() {
    let directory = directory();
    let disk = blank(directory.path(), "disk-a");
    let all = filter(directory.path(), "disk-*", true);
    found(&[], &all).unwrap();
    write_at(&disk, 100, &[0xff; 64]);
    write_at(&disk, SIZE - 4096 + 100, &[0xff; 64]);
    let before = std::fs::read(&disk).unwrap();
    match found(&[], &all) {
        Ok(served) => assert!(served == [disk.as_path()], "one copy was good"),
        Err(refused) => assert!(refused.contains("disk-a: "), "{refused}"),
    }
    assert!(std::fs::read(&disk).unwrap() == before, "it was written to");
}

#[test]
fn a_device_is_served_once_however_many_names_it_has() {
    let directory = directory();
    let disk = blank(directory.path(), "disk-a");
    std::os::unix::fs::symlink(&disk, directory.path().join("disk-b")).unwrap();
    let all = filter(directory.path(), "disk-*", true);
    assert_eq!(found(&[], &all).unwrap().len(), 1);
    let given = [disk];
    assert_eq!(found(&given, &all), Ok(given.to_vec()));
}

#[test]
fn one_disk_that_is_refused_leaves_the_others_served() {
    let directory = directory();
    let taken = blank(directory.path(), "disk-a");
    write_at(&taken, 0, b"something");
    let free = blank(directory.path(), "disk-b");
    std::fs::create_dir(directory.path().join("disk-c")).unwrap();
    let all = filter(directory.path(), "disk-*", true);
    assert_eq!(found(&[], &all), Ok(vec![free]));
}

#[test]
fn nothing_of_that_name_is_an_error_that_says_so() {
    let directory = directory();
    let refused = found(&[], &filter(directory.path(), "disk-*", true)).unwrap_err();
    assert!(
        refused.contains("there is nothing of that name"),
        "{refused}"
    );
}
