//! The iSCSI sessions of this host and their disks, as sysfs has them.
//!
//! ```text
//! /sys/class/iscsi_session/sessionN/targetname
//!                                  /device/targetH:B:T/H:B:T:LUN/block/sdX/holders/dm-M
//! ```

use std::io;
use std::path::{Path, PathBuf};

/// The logical unit that a volume is at the target of its own.
const LUN: &str = "1";
/// What the identifier of a multipath map begins with.
const MAP_PREFIX: &str = "mpath-";

/// What is there of a target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sessions {
    /// Sessions, with or without a disk.
    pub count: usize,
    /// The disks: `sdX`.
    pub disks: Vec<String>,
    /// The multipath map over them, `dm-M`, and its name.
    pub map: Option<(String, String)>,
}

/// The sessions with a target, below `/sys`.
///
/// # Errors
/// Where sysfs cannot be read.
pub(super) fn of_target(sys: &Path, target: &str) -> io::Result<Sessions> {
    let mut found = Sessions::default();
    for session in entries(&sys.join("class/iscsi_session"))? {
        if read(&session.join("targetname")).as_deref() != Some(target) {
            continue;
        }
        found.count += 1;
        for disk in disks(&session.join("device"))? {
            if found.map.is_none() {
                found.map = map_over(sys, &disk)?;
            }
            found.disks.push(disk);
        }
    }
    found.disks.sort();
    Ok(found)
}

/// The targets that there are sessions with, below `/sys`.
///
/// # Errors
/// Where sysfs cannot be read.
pub(super) fn targets(sys: &Path) -> io::Result<Vec<String>> {
    let sessions = entries(&sys.join("class/iscsi_session"))?;
    let names = sessions
        .iter()
        .filter_map(|session| read(&session.join("targetname")));
    Ok(names.collect())
}

/// The disks of a session that are the volume's logical unit.
fn disks(device: &Path) -> io::Result<Vec<String>> {
    let mut disks = Vec::new();
    for target in entries(device)? {
        if !name(&target).starts_with("target") {
            continue;
        }
        for unit in entries(&target)? {
            if name(&unit).rsplit_once(':').map(|(_, lun)| lun) == Some(LUN) {
                let blocks = entries(&unit.join("block"))?;
                disks.extend(blocks.iter().map(|block| name(block)));
            }
        }
    }
    Ok(disks)
}

fn map_over(sys: &Path, disk: &str) -> io::Result<Option<(String, String)>> {
    for holder in entries(&sys.join("block").join(disk).join("holders"))? {
        let holder = name(&holder);
        let dm = sys.join("block").join(&holder).join("dm");
        if read(&dm.join("uuid")).is_some_and(|uuid| uuid.starts_with(MAP_PREFIX)) {
            return Ok(read(&dm.join("name")).map(|map| (holder, map)));
        }
    }
    Ok(None)
}

/// What is in a directory; nothing where there is none.
fn entries(directory: &Path) -> io::Result<Vec<PathBuf>> {
    match std::fs::read_dir(directory) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn read(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn disks_are_those_of_the_targets_first_unit() {
        let sys = tempfile::tempdir().unwrap();
        let place = |path: &str| sys.path().join(path);
        assert_eq!(of_target(sys.path(), "iqn:v").unwrap(), Sessions::default());
        for (session, target, unit, disk) in [
            (1, "iqn:v", "2:0:0:1", "sdb"),
            (2, "iqn:v", "3:0:0:1", "sda"),
            (3, "iqn:w", "4:0:0:1", "sdc"),
            (4, "iqn:v", "5:0:0:7", "sdd"),
        ] {
            let session = format!("class/iscsi_session/session{session}");
            write(&place(&format!("{session}/targetname")), target);
            let unit = format!("{session}/device/target{}/{unit}", &unit[..5]);
            std::fs::create_dir_all(place(&format!("{unit}/block/{disk}"))).unwrap();
            std::fs::create_dir_all(place(&format!("{session}/device/power"))).unwrap();
        }
        let found = of_target(sys.path(), "iqn:v").unwrap();
        assert_eq!((found.count, found.map), (3, None));
        let mut listed = targets(sys.path()).unwrap();
        listed.sort();
        assert_eq!(listed, ["iqn:v", "iqn:v", "iqn:v", "iqn:w"]);
        assert_eq!(found.disks, ["sda", "sdb"]);

        // A volume group over a disk is none; a multipath map is.
        write(&place("block/sda/holders/dm-0/x"), "");
        write(&place("block/dm-0/dm/uuid"), "LVM-abc\n");
        write(&place("block/sdb/holders/dm-1/x"), "");
        write(&place("block/dm-1/dm/uuid"), "mpath-36001\n");
        write(&place("block/dm-1/dm/name"), "mpatha\n");
        let found = of_target(sys.path(), "iqn:v").unwrap();
        let map = ("dm-1".to_owned(), "mpatha".to_owned());
        assert_eq!(found.map, Some(map));
    }
}
