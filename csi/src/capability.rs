//! What a CO wants to do with a volume, checked.
//!
//! A volume is one node's at a time, so modes of several nodes are refused.

use tonic::Status;

use crate::parameters::FileSystem;
use crate::protocol::VolumeCapability;
use crate::protocol::volume_capability::AccessType;
use crate::protocol::volume_capability::access_mode::Mode;
use crate::refusal::missing;

/// How a volume shows on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// A block device.
    Block,
    /// A directory with a file system.
    Mount {
        /// The file system, if one is asked for.
        fs: Option<FileSystem>,
        /// Options of mount(8).
        flags: Vec<String>,
    },
}

/// A capability that a volume can have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Capability {
    /// How it shows.
    pub shape: Shape,
    /// Nobody is to write.
    pub read_only: bool,
    /// It may show at one place of the node only.
    pub single_place: bool,
}

impl Capability {
    /// Reads one.
    ///
    /// # Errors
    /// INVALID_ARGUMENT where the capability is not whole, or no volume has it.
    pub fn of(capability: Option<&VolumeCapability>) -> Result<Self, Status> {
        let capability = capability.ok_or_else(|| missing("volume_capability"))?;
        let access = capability.access_type.as_ref();
        let shape = match access.ok_or_else(|| missing("volume_capability.access_type"))? {
            AccessType::Block(_) => Shape::Block,
            AccessType::Mount(mount) => {
                if !mount.volume_mount_group.is_empty() {
                    return Err(Status::invalid_argument(
                        "`volume_mount_group` is given, and no such capability of nodes is offered",
                    ));
                }
                let fs = (!mount.fs_type.is_empty()).then(|| mount.fs_type.parse());
                Shape::Mount {
                    fs: fs.transpose()?,
                    flags: mount.mount_flags.clone(),
                }
            }
        };
        let mode = capability.access_mode.as_ref();
        let mode = mode.ok_or_else(|| missing("volume_capability.access_mode"))?;
        let (read_only, single_place) = match Mode::try_from(mode.mode) {
            Ok(Mode::SingleNodeWriter | Mode::SingleNodeMultiWriter) => (false, false),
            Ok(Mode::SingleNodeSingleWriter) => (false, true),
            Ok(Mode::SingleNodeReaderOnly) => (true, false),
            Ok(Mode::Unknown) | Err(_) => {
                return Err(missing("volume_capability.access_mode.mode"));
            }
            Ok(mode) => {
                return Err(Status::invalid_argument(format!(
                    "access mode {} is not possible: a volume is one node's at a time",
                    mode.as_str_name()
                )));
            }
        };
        Ok(Self {
            shape,
            read_only,
            single_place,
        })
    }

    /// Reads those of a request that needs at least one.
    ///
    /// # Errors
    /// As [`Self::of`], or where there is none.
    pub fn all(capabilities: &[VolumeCapability]) -> Result<Vec<Self>, Status> {
        if capabilities.is_empty() {
            return Err(missing("volume_capabilities"));
        }
        let read = capabilities.iter().map(|one| Self::of(Some(one)));
        read.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::volume_capability::{AccessMode, BlockVolume, MountVolume};

    fn read(access: Option<AccessType>, mode: Mode) -> Result<Capability, Status> {
        Capability::of(Some(&VolumeCapability {
            access_type: access,
            access_mode: Some(AccessMode { mode: mode.into() }),
        }))
    }

    #[test]
    fn modes_of_one_node_are_possible() {
        let block = || Some(AccessType::Block(BlockVolume {}));
        let flags = |mode| {
            let read = read(block(), mode).unwrap();
            (read.read_only, read.single_place)
        };
        assert_eq!(flags(Mode::SingleNodeWriter), (false, false));
        assert_eq!(flags(Mode::SingleNodeMultiWriter), (false, false));
        assert_eq!(flags(Mode::SingleNodeSingleWriter), (false, true));
        assert_eq!(flags(Mode::SingleNodeReaderOnly), (true, false));
        for mode in [
            Mode::Unknown,
            Mode::MultiNodeReaderOnly,
            Mode::MultiNodeSingleWriter,
            Mode::MultiNodeMultiWriter,
        ] {
            assert!(read(block(), mode).is_err(), "{mode:?}");
        }
        assert!(read(None, Mode::SingleNodeWriter).is_err());
    }

    #[test]
    fn file_systems_are_those_that_nodes_make() {
        let mount = |fs_type: &str| {
            let mount = MountVolume {
                fs_type: fs_type.to_owned(),
                ..MountVolume::default()
            };
            read(Some(AccessType::Mount(mount)), Mode::SingleNodeWriter)
        };
        let xfs = Some(FileSystem::Xfs);
        assert!(matches!(mount("xfs").unwrap().shape, Shape::Mount { fs, .. } if fs == xfs));
        assert!(matches!(
            mount("").unwrap().shape,
            Shape::Mount { fs: None, .. }
        ));
        assert!(mount("ntfs").is_err());
    }
}
