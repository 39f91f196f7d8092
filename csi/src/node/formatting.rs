//! Marks of devices that are being formatted here.
//!
//! A driver that dies while it formats leaves neither nothing nor a file system, which nobody may format
//! over, unless it is known that nothing else was ever there:
//!
//! 1. the device is empty   2. mark   3. mkfs   4. no mark   5. mount
//!
//! Who finds a mark formats again. It goes with the stage: afterwards the volume may be used elsewhere.
//! Marks need not outlive the machine; without one a half-made file system is refused.

use std::path::{Path, PathBuf};

use ashlar_proto::VolumeId;
use tonic::Status;

/// The mark of one volume, which may be there or not.
#[derive(Debug)]
pub(super) struct Mark(PathBuf);

impl Mark {
    /// That of a volume, in the driver's directory.
    pub fn of(state: &Path, volume: VolumeId) -> Self {
        Self(state.join(format!("{volume}.formatting")))
    }

    /// Whether formatting was begun and has not come to its end.
    pub fn is_set(&self) -> bool {
        self.0.exists()
    }

    /// Formatting begins.
    ///
    /// # Errors
    /// INTERNAL where the mark cannot be written.
    pub fn set(&self) -> Result<(), Status> {
        let parent = self.0.parent().map_or(Ok(()), std::fs::create_dir_all);
        let set = parent.and_then(|()| std::fs::write(&self.0, ""));
        set.map_err(|error| Status::internal(format!("{}: {error}", self.0.display())))
    }

    /// It has ended, or the volume goes elsewhere.
    ///
    /// # Errors
    /// INTERNAL where the mark cannot be removed: nothing may be mounted while it is there.
    pub fn clear(&self) -> Result<(), Status> {
        match std::fs::remove_file(&self.0) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Status::internal(format!("{}: {error}", self.0.display())))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_of_one_volume_until_it_is_cleared() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        let (one, other) = (
            Mark::of(&state, VolumeId::new(1)),
            Mark::of(&state, VolumeId::new(2)),
        );
        one.clear().unwrap();
        one.set().unwrap();
        one.set().unwrap();
        assert!(one.is_set() && !other.is_set());
        one.clear().unwrap();
        assert!(!one.is_set());
    }
}
