//! What a StorageClass (`parameters`) and a VolumeAttributesClass (`mutable_parameters`) can say.
//!
//! A key that is not known is refused: a misspelt one would silently give another volume than was meant.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;

use ashlar_proto::ByteCount;
use ashlar_proto::api::{AckRule, Reserve, Volume};
use ashlar_proto::limits::REPLICAS_MAX;
use tonic::Status;

use crate::topology::is_part;

/// Copies of a volume of which no number is asked for.
pub(crate) const REPLICAS_DEFAULT: u8 = 3;
/// What sidecars add for people: names of claims and the like.
const SIDECAR_PREFIX: &str = "csi.storage.k8s.io/";
/// The key of the file system, in parameters and in the volume's context.
const FS_TYPE: &str = "fsType";
/// The key of the way to attach, in parameters and in the volume's context.
const ATTACH: &str = "attach";

/// A file system that the node service makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum FileSystem {
    /// ext4.
    #[default]
    Ext4,
    /// XFS.
    Xfs,
    /// Btrfs.
    Btrfs,
}

/// How a host attaches the volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Attach {
    /// NBD.
    #[default]
    Nbd,
    /// iSCSI.
    Iscsi,
}

/// What is asked of a new volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Parameters {
    /// Copies, if a number is asked for.
    pub replicas: Option<u8>,
    /// The acknowledgement rule, if one is.
    pub ack: Option<AckRule>,
    /// The file system, where the capability names none.
    pub fs: Option<FileSystem>,
    /// How hosts attach it.
    pub attach: Attach,
    /// The labels of the disks that it may lie on, if they are named.
    pub pool: Option<String>,
    /// The label that a replica is to share with the node that uses the volume, if one is named.
    pub near: Option<String>,
    /// What can be changed later.
    pub mutable: Mutable,
}

/// What can be changed of a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mutable {
    /// What is kept for it, if that is asked for.
    pub reserve: Option<Reserve>,
    /// Its limits: settings of volumes, whose values the conductor reads.
    pub limits: BTreeMap<String, String>,
}

impl Parameters {
    /// Reads both maps.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for a key or a value that is not known.
    pub fn of(
        fixed: &HashMap<String, String>,
        mutable: &HashMap<String, String>,
    ) -> Result<Self, Status> {
        let mut parameters = Self::default();
        for (key, value) in fixed {
            match key.as_str() {
                "replicas" => {
                    let replicas = value.parse().ok();
                    let possible = |count: &u8| (1..=REPLICAS_MAX).contains(&usize::from(*count));
                    let replicas = replicas.filter(possible);
                    parameters.replicas =
                        Some(replicas.ok_or_else(|| wrong(key, value, "1 to 3"))?);
                }
                "ack" => {
                    parameters.ack = Some(match value.as_str() {
                        "majority" => AckRule::Majority,
                        "all" => AckRule::All,
                        _ => return Err(wrong(key, value, "majority or all")),
                    });
                }
                FS_TYPE => parameters.fs = Some(value.parse()?),
                ATTACH => parameters.attach = value.parse()?,
                "pool" => parameters.pool = Some(value.clone()),
                "near" if is_part(value) => parameters.near = Some(value.clone()),
                "near" => return Err(wrong(key, value, "a label of nodes, as zone")),
                key if key.starts_with(SIDECAR_PREFIX) => {}
                key => {
                    if !parameters.mutable.read(key, value)? {
                        let known = format!("replicas, ack, fsType, attach, pool, near, {MUTABLE}");
                        return Err(unknown(key, &known));
                    }
                }
            }
        }
        let mutable = Mutable::of(mutable)?;
        parameters.mutable.reserve = mutable.reserve.or(parameters.mutable.reserve);
        parameters.mutable.limits.extend(mutable.limits);
        Ok(parameters)
    }

    /// The settings of a volume that is made anew, near to that place.
    pub fn settings(&self, near: Option<&str>) -> BTreeMap<String, String> {
        let mut settings = self.settings_of_copy(near);
        settings.extend(self.pool.clone().map(|pool| ("pool".to_owned(), pool)));
        settings
    }

    /// The settings that a copy is given once it is made: it lies in the pool of what it is a copy of.
    pub fn settings_of_copy(&self, near: Option<&str>) -> BTreeMap<String, String> {
        let mut settings = self.mutable.limits.clone();
        settings.extend(near.map(|near| ("near".to_owned(), near.to_owned())));
        settings
    }

    /// Whether a volume is such a one. What can be changed may have been.
    pub fn fit(&self, volume: &Volume) -> bool {
        self.replicas
            .is_none_or(|replicas| replicas == volume.replicas)
            && self.ack.is_none_or(|ack| ack == volume.ack)
    }

    /// What nodes need to know of the volume later.
    pub fn context(&self) -> HashMap<String, String> {
        let mut context = HashMap::from([(ATTACH.to_owned(), self.attach.to_string())]);
        if let Some(fs) = self.fs {
            context.insert(FS_TYPE.to_owned(), fs.to_string());
        }
        context
    }
}

impl Mutable {
    /// Reads what is to be changed.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for a key or a value that is not known.
    pub fn of(map: &HashMap<String, String>) -> Result<Self, Status> {
        let mut changes = Self::default();
        for (key, value) in map {
            if !changes.read(key, value)? {
                return Err(unknown(key, MUTABLE));
            }
        }
        Ok(changes)
    }

    /// Takes one in; whether there is such a key.
    fn read(&mut self, key: &str, value: &str) -> Result<bool, Status> {
        let limit = match key {
            "reserve" => {
                self.reserve = Some(reserve(value)?);
                return Ok(true);
            }
            "iops" => "iops-max",
            "bandwidth" => "bandwidth-max",
            _ => return Ok(false),
        };
        self.limits.insert(limit.to_owned(), value.to_owned());
        Ok(true)
    }
}

/// The keys of what can be changed.
const MUTABLE: &str = "reserve, iops and bandwidth";

/// The file system that a volume's context names, if any.
///
/// # Errors
/// INVALID_ARGUMENT for one that is not known.
pub(crate) fn fs_of_context(
    context: &HashMap<String, String>,
) -> Result<Option<FileSystem>, Status> {
    context.get(FS_TYPE).map(|text| text.parse()).transpose()
}

/// How a volume's context says that hosts attach it, if it does.
///
/// # Errors
/// INVALID_ARGUMENT for a way that is not known.
pub(crate) fn attach_of_context(
    context: &HashMap<String, String>,
) -> Result<Option<Attach>, Status> {
    context.get(ATTACH).map(|text| text.parse()).transpose()
}

fn reserve(value: &str) -> Result<Reserve, Status> {
    match value {
        "none" => Ok(Reserve::None),
        "all" => Ok(Reserve::All),
        bytes => match bytes.parse() {
            Ok(bytes) if bytes > 0 => Ok(Reserve::Bytes(ByteCount::new(bytes))),
            _ => Err(wrong("reserve", value, "none, all or a number of bytes")),
        },
    }
}

fn wrong(key: &str, value: &str, possible: &str) -> Status {
    Status::invalid_argument(format!("parameter `{key}` is `{value}`: give {possible}"))
}

fn unknown(key: &str, known: &str) -> Status {
    Status::invalid_argument(format!("there is no parameter `{key}`: there are {known}"))
}

impl FromStr for FileSystem {
    type Err = Status;

    fn from_str(text: &str) -> Result<Self, Status> {
        match text {
            "ext4" => Ok(Self::Ext4),
            "xfs" => Ok(Self::Xfs),
            "btrfs" => Ok(Self::Btrfs),
            _ => Err(wrong(FS_TYPE, text, "ext4, xfs or btrfs")),
        }
    }
}

impl fmt::Display for FileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        })
    }
}

impl FromStr for Attach {
    type Err = Status;

    fn from_str(text: &str) -> Result<Self, Status> {
        match text {
            "nbd" => Ok(Self::Nbd),
            "iscsi" => Ok(Self::Iscsi),
            _ => Err(wrong(ATTACH, text, "nbd or iscsi")),
        }
    }
}

impl fmt::Display for Attach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nbd => "nbd",
            Self::Iscsi => "iscsi",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(fixed: &[(&str, &str)], mutable: &[(&str, &str)]) -> Result<Parameters, Status> {
        let map = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter();
            pairs
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect()
        };
        Parameters::of(&map(fixed), &map(mutable))
    }

    #[test]
    fn all_parameters_are_read() {
        let fixed = [
            ("replicas", "2"),
            ("ack", "all"),
            ("fsType", "xfs"),
            ("attach", "iscsi"),
            ("reserve", "none"),
            ("pool", "media=nvme"),
            ("near", "zone"),
            ("iops", "500"),
            ("bandwidth", "50MiB"),
            ("csi.storage.k8s.io/pvc/name", "claim"),
        ];
        let read = read(&fixed, &[("reserve", "4096"), ("iops", "unlimited")]).unwrap();
        assert_eq!(read.replicas, Some(2));
        assert_eq!(read.ack, Some(AckRule::All));
        assert_eq!(read.fs, Some(FileSystem::Xfs));
        assert_eq!(read.near.as_deref(), Some("zone"));
        assert_eq!(
            read.mutable.reserve,
            Some(Reserve::Bytes(ByteCount::new(4096))),
            "what can be changed counts more"
        );
        let settings = [
            ("bandwidth-max", "50MiB"),
            ("iops-max", "unlimited"),
            ("near", "zone=a"),
            ("pool", "media=nvme"),
        ];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(read.settings(Some("zone=a")), BTreeMap::from(settings));
        assert!(!read.settings_of_copy(None).contains_key("pool"));
        assert_eq!(
            fs_of_context(&read.context()).unwrap(),
            Some(FileSystem::Xfs)
        );
        assert_eq!(
            attach_of_context(&read.context()).unwrap(),
            Some(Attach::Iscsi)
        );
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for (key, value) in [
            ("replica", "3"),
            ("replicas", "0"),
            ("replicas", "4"),
            ("ack", "one"),
            ("fsType", "ext3"),
            ("attach", "floppy"),
            ("near", "zone=a"),
            ("reserve", "0"),
        ] {
            let code = read(&[(key, value)], &[]).unwrap_err().code();
            assert_eq!(code, tonic::Code::InvalidArgument, "{key}={value}");
        }
        for key in ["replicas", "pool"] {
            assert!(read(&[], &[(key, "3")]).is_err(), "{key} is not mutable");
        }
    }
}
