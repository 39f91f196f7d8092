//! The file of pre-shared keys for NBD, read anew when it has changed.
//!
//! It is looked at before each handshake, so that a user who is taken out gets in no more. A file that
//! has become unreadable or wrong leaves those let in who were: that is logged once for each change.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ashlar_nbd_server::{PskKeys, PskKeysError, PskSource};

/// More than any list has; what is longer is refused by its parser.
const FILE_BYTES_MAX: u64 = 2 << 20;

/// Why a file of keys is not used.
#[derive(Debug, thiserror::Error)]
pub enum PskFileError {
    /// It cannot be opened or read.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// It is a directory, a pipe, a device.
    #[error("it is no regular file")]
    NoFile,
    /// More than its owner may read or write it.
    #[error("others than its owner may use it (mode {mode:04o}): chmod 600")]
    Open {
        /// Its permissions.
        mode: u32,
    },
    /// It is no list of keys.
    #[error(transparent)]
    Keys(#[from] PskKeysError),
}

/// What tells one state of a file from another. The time of the last change counts changes of the
/// permissions, too.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size_bytes: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(facts: &Metadata) -> Self {
        Self {
            device: facts.dev(),
            inode: facts.ino(),
            size_bytes: facts.len(),
            changed: (facts.ctime(), facts.ctime_nsec()),
        }
    }
}

/// A file of pre-shared keys.
#[derive(Debug)]
pub struct PskFile {
    path: PathBuf,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    /// The state that was read last, well or not; `None`: there was no file.
    seen: Option<Stamp>,
    keys: Arc<PskKeys>,
}

impl PskFile {
    /// Reads it for the first time.
    ///
    /// # Errors
    /// [`PskFileError`].
    pub fn open(path: &Path) -> Result<Self, PskFileError> {
        let seen = stamp(path);
        let keys = Arc::new(read(path)?);
        let path = path.to_owned();
        let current = Mutex::new(Current { seen, keys });
        Ok(Self { path, current })
    }
}

impl PskSource for PskFile {
    fn keys(&self) -> Arc<PskKeys> {
        // Before it is read: a change in between is seen the next time.
        let stamp = stamp(&self.path);
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.seen != stamp {
            let path = self.path.display();
            match read(&self.path) {
                Ok(keys) => {
                    tracing::info!(%path, users = keys.users(), "pre-shared keys read anew");
                    current.keys = Arc::new(keys);
                }
                Err(error) => tracing::error!(
                    %path,
                    "pre-shared keys cannot be read, those of before are good: {error}"
                ),
            }
            current.seen = stamp;
        }
        Arc::clone(&current.keys)
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let facts = std::fs::metadata(path).ok()?;
    Some(Stamp::of(&facts))
}

fn read(path: &Path) -> Result<PskKeys, PskFileError> {
    // A pipe in its place would be waited for.
    if !std::fs::metadata(path)?.is_file() {
        return Err(PskFileError::NoFile);
    }
    let file = File::open(path)?;
    let facts = file.metadata()?;
    let mode = facts.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(PskFileError::Open { mode });
    }
    let mut text = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut text)?;
    Ok(PskKeys::parse(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const KEY: &str = "00112233445566778899aabbccddeeff";

    fn write(path: &Path, text: &str) {
        // A new file in the old one's place, as editors do it: no two have the same stamp.
        let beside = path.with_extension("new");
        std::fs::write(&beside, text).unwrap();
        chmod(&beside, 0o600);
        std::fs::rename(beside, path).unwrap();
    }

    fn chmod(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_file_that_others_may_use_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("psk");
        write(&path, &format!("alice:{KEY}\n"));
        PskFile::open(&path).unwrap();
        for mode in [0o640, 0o604, 0o620, 0o601] {
            chmod(&path, mode);
            let refused = PskFile::open(&path).unwrap_err().to_string();
            assert!(refused.contains("chmod 600"), "{refused}");
        }
        let refused = PskFile::open(directory.path()).unwrap_err();
        assert!(matches!(refused, PskFileError::NoFile), "{refused}");
        let refused = PskFile::open(&path.with_extension("none")).unwrap_err();
        assert!(matches!(refused, PskFileError::Io(_)), "{refused}");
    }

    #[test]
    fn a_changed_file_is_read_anew_and_a_wrong_one_leaves_the_keys() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("psk");
        write(&path, &format!("alice:{KEY}\n"));
        let file = PskFile::open(&path).unwrap();
        assert!(file.keys().key_of(b"alice").is_some());
        write(&path, &format!("bob:{KEY}\n"));
        assert!(file.keys().key_of(b"alice").is_none());
        assert!(file.keys().key_of(b"bob").is_some());
        write(&path, "no list\n");
        assert!(file.keys().key_of(b"bob").is_some());
        std::fs::remove_file(&path).unwrap();
        assert!(file.keys().key_of(b"bob").is_some());
        write(&path, &format!("carol:{KEY}\n"));
        assert!(file.keys().key_of(b"bob").is_none());
        assert!(file.keys().key_of(b"carol").is_some());
    }
}
