//! The NBD devices of this host that are ours, as sysfs has them: a device tells by its backend's
//! identifier (Linux 5.14 and newer) whose it is, whoever made it and whenever.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ashlar_proto::VolumeId;

/// What an identifier of ours begins with.
const PREFIX: &str = "ashlar:";
/// Bytes of the unit in which sysfs tells sizes, whatever the device's own is.
const SECTOR_BYTES: u64 = 512;

/// The number of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct DeviceIndex(u32);

impl DeviceIndex {
    /// That of a number.
    pub const fn new(index: u32) -> Self {
        Self(index)
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The device's node.
    pub fn path(self) -> PathBuf {
        PathBuf::from(format!("/dev/{self}"))
    }
}

impl fmt::Display for DeviceIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nbd{}", self.0)
    }
}

/// What is behind a device. Text form: `ashlar:ID:EXPORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Backend {
    /// The volume.
    pub volume: VolumeId,
    /// Its name at the server.
    pub export: String,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}:{}", self.volume, self.export)
    }
}

/// The text is no identifier of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotOurs;

impl FromStr for Backend {
    type Err = NotOurs;

    fn from_str(text: &str) -> Result<Self, NotOurs> {
        let text = text.strip_prefix(PREFIX).ok_or(NotOurs)?;
        let (volume, export) = text.split_once(':').ok_or(NotOurs)?;
        Ok(Self {
            volume: volume.parse().map_err(|_| NotOurs)?,
            export: export.to_owned(),
        })
    }
}

/// A device of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NbdDevice {
    /// Its number.
    pub index: DeviceIndex,
    /// What is behind it.
    pub backend: Backend,
    /// Connections that it has, alive or not.
    pub connections: usize,
    /// Its size.
    pub size_bytes: u64,
    /// The kernel refuses writes.
    pub read_only: bool,
}

/// All of them, below `/sys/block`.
///
/// # Errors
/// Where that cannot be listed.
pub(super) fn list(sys_block: &Path) -> io::Result<Vec<NbdDevice>> {
    let mut devices = Vec::new();
    for entry in std::fs::read_dir(sys_block)? {
        let entry = entry?;
        let name = entry.file_name();
        let index = name.to_str().and_then(|name| name.strip_prefix("nbd"));
        if let Some(index) = index.and_then(|index| index.parse().ok()) {
            devices.extend(look(&entry.path(), DeviceIndex(index)));
        }
    }
    devices.sort_by_key(|device| device.index);
    Ok(devices)
}

/// A device, if it is ours; one that goes away meanwhile is none.
fn look(directory: &Path, index: DeviceIndex) -> Option<NbdDevice> {
    let read = |name: &str| {
        let text = std::fs::read_to_string(directory.join(name)).ok()?;
        Some(text.trim().to_owned())
    };
    let backend = read("backend")?.parse().ok()?;
    let sectors: u64 = read("size")?.parse().ok()?;
    let queues = std::fs::read_dir(directory.join("mq")).ok();
    Some(NbdDevice {
        index,
        backend,
        connections: queues.map_or(1, Iterator::count),
        size_bytes: sectors.saturating_mul(SECTOR_BYTES),
        read_only: read("ro")? == "1",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn ours_are_told_by_their_backend() {
        let sys = tempfile::tempdir().unwrap();
        let place = |path: &str| sys.path().join(path);
        for device in ["nbd0", "nbd1", "nbd12", "sda"] {
            write(&place(&format!("{device}/size")), "2048\n");
            write(&place(&format!("{device}/ro")), "0\n");
        }
        write(&place("nbd1/backend"), "somebody's\n");
        write(
            &place("nbd12/backend"),
            "ashlar:0000000000000abc:pvc-1@snap\n",
        );
        write(&place("nbd12/ro"), "1\n");
        for queue in ["0", "1"] {
            std::fs::create_dir_all(place("nbd12/mq").join(queue)).unwrap();
        }
        let found = list(sys.path()).unwrap();
        let expected = NbdDevice {
            index: DeviceIndex(12),
            backend: Backend {
                volume: VolumeId::new(0xabc),
                export: "pvc-1@snap".to_owned(),
            },
            connections: 2,
            size_bytes: 1 << 20,
            read_only: true,
        };
        assert_eq!(found, [expected]);
        assert_eq!(found[0].index.path(), Path::new("/dev/nbd12"));
    }

    #[test]
    fn identifiers_survive_text() {
        let backend = Backend {
            volume: VolumeId::new(7),
            export: "v".to_owned(),
        };
        assert_eq!(backend.to_string().parse(), Ok(backend));
        for text in ["", "ashlar:", "ashlar:7:v", "v"] {
            assert_eq!(text.parse::<Backend>(), Err(NotOurs), "{text}");
        }
    }
}
