//! Marks of devices that are being formatted here.
//!
//! A driver that dies while it formats leaves neither nothing nor a file system, which nobody may format
//! over, unless it is known that nothing else was ever there:
//!
//! 1. the device is empty   2. mark   3. mkfs   4. no mark   5. mount
//!
//! Who finds a mark formats again. It goes with the stage: afterwards the volume may be used elsewhere. Where
//! that was never told to this host, the mark is of a publication that is over: such a mark says nothing, for
//! since then another node may have filled the volume. Marks need not outlive the machine; without one a
//! half-made file system is refused.

use std::path::{Path, PathBuf};

use ashlar_proto::{PublicationId, VolumeId};
use tonic::Status;

/// The mark of one volume in one publication, which may be there or not.
#[derive(Debug)]
pub(super) struct Mark {
    path: PathBuf,
    publication: PublicationId,
}

impl Mark {
    /// That of a volume, in the driver's directory.
    pub fn of(state: &Path, volume: VolumeId, publication: PublicationId) -> Self {
        Self {
            path: path(state, volume),
            publication,
        }
    }

    /// Whether formatting was begun in this publication and has not come to its end.
    ///
    /// # Errors
    /// INTERNAL where the mark cannot be read: what it says decides whether data is written over.
    pub fn is_set(&self) -> Result<bool, Status> {
        match std::fs::read_to_string(&self.path) {
            Ok(text) => Ok(text.parse() == Ok(self.publication)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(failed(&self.path, &error)),
        }
    }

    /// Formatting begins.
    ///
    /// # Errors
    /// INTERNAL where the mark cannot be written.
    pub fn set(&self) -> Result<(), Status> {
        let parent = self.path.parent().map_or(Ok(()), std::fs::create_dir_all);
        let set = parent.and_then(|()| std::fs::write(&self.path, self.publication.to_string()));
        set.map_err(|error| failed(&self.path, &error))
    }

    /// It has ended.
    ///
    /// # Errors
    /// INTERNAL where the mark cannot be removed: nothing may be mounted while it is there.
    pub fn clear(&self) -> Result<(), Status> {
        clear_at(&self.path)
    }
}

/// The volume goes elsewhere: whatever mark there is of it says nothing any more.
///
/// # Errors
/// INTERNAL where it cannot be removed.
pub(super) fn clear(state: &Path, volume: VolumeId) -> Result<(), Status> {
    clear_at(&path(state, volume))
}

fn path(state: &Path, volume: VolumeId) -> PathBuf {
    state.join(format!("{volume}.formatting"))
}

fn clear_at(path: &Path) -> Result<(), Status> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(path, &error)),
        _ => Ok(()),
    }
}

fn failed(path: &Path, error: &std::io::Error) -> Status {
    Status::internal(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_of_one_volume_and_one_publication_until_it_is_cleared() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        let mark = |volume, publication| {
            let (volume, publication) = (VolumeId::new(volume), PublicationId::new(publication));
            Mark::of(&state, volume, publication)
        };
        let (one, other, later) = (mark(1, 7), mark(2, 7), mark(1, 8));
        one.clear().unwrap();
        one.set().unwrap();
        one.set().unwrap();
        assert!(one.is_set().unwrap() && !other.is_set().unwrap());
        assert!(
            !later.is_set().unwrap(),
            "another node had the volume since"
        );
        one.clear().unwrap();
        assert!(!one.is_set().unwrap());
        one.set().unwrap();
        clear(&state, VolumeId::new(1)).unwrap();
        assert!(!one.is_set().unwrap());
    }
}
