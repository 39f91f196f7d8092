//! The files of an identity: certificate, key, and the authority's certificate.
//!
//! ```text
//! DIR/ca-cert.pem   the authority's certificate
//! DIR/ca-key.pem    its key, 0600: at conductors alone
//! DIR/cert.pem      the node's certificate
//! DIR/key.pem       its key, 0600
//! ```
//!
//! Invariant: a file is replaced by renaming, after its bytes are on the disk: a crash leaves the old one
//! or the new one. A key is written before the certificate that needs it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::authority::{Authority, AuthorityError};

const AUTHORITY: &str = "ca-cert.pem";
const AUTHORITY_KEY: &str = "ca-key.pem";
const CERTIFICATE: &str = "cert.pem";
const KEY: &str = "key.pem";

/// A file of an identity cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// The system refused.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others than its owner may read a key.
    #[error("{path} can be read by others: `chmod 600 {path}`")]
    Exposed {
        /// The file.
        path: PathBuf,
    },
    /// There is one already.
    #[error("{path} exists: an authority is made once; choose another directory")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The authority in it cannot be used.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

/// See the module.
#[derive(Clone, Debug)]
pub struct IdentityDir {
    path: PathBuf,
}

impl IdentityDir {
    /// The one at `path`, which need not be there.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The authority's certificate, PEM; `None` where there is none.
    ///
    /// # Errors
    /// [`DirectoryError::File`].
    pub fn authority_pem(&self) -> Result<Option<String>, DirectoryError> {
        self.read(AUTHORITY)
    }

    /// Certificate and key, PEM; `None` where either is missing.
    ///
    /// # Errors
    /// [`DirectoryError::File`], [`DirectoryError::Exposed`].
    pub fn certificate_and_key(&self) -> Result<Option<(String, String)>, DirectoryError> {
        let (certificate, key) = (self.read(CERTIFICATE)?, self.read_secret(KEY)?);
        Ok(certificate.zip(key))
    }

    /// The key alone, PEM: it may be there before its certificate.
    ///
    /// # Errors
    /// [`DirectoryError::File`], [`DirectoryError::Exposed`].
    pub fn key(&self) -> Result<Option<String>, DirectoryError> {
        self.read_secret(KEY)
    }

    /// The authority with its key; `None` where that is not here.
    ///
    /// # Errors
    /// [`DirectoryError`].
    pub fn authority(&self) -> Result<Option<Authority>, DirectoryError> {
        let Some((certificate, key)) = self.read(AUTHORITY)?.zip(self.read_secret(AUTHORITY_KEY)?)
        else {
            return Ok(None);
        };
        Ok(Some(Authority::load(&certificate, &key)?))
    }

    /// Keeps a new authority.
    ///
    /// # Errors
    /// [`DirectoryError::Exists`], [`DirectoryError::File`].
    pub fn keep_authority(&self, authority: &Authority, key: &str) -> Result<(), DirectoryError> {
        for name in [AUTHORITY_KEY, AUTHORITY] {
            let path = self.path.join(name);
            if path.exists() {
                return Err(DirectoryError::Exists { path });
            }
        }
        self.write(AUTHORITY_KEY, key, 0o600)?;
        self.write(AUTHORITY, authority.certificate_pem(), 0o644)
    }

    /// Keeps the key of a node.
    ///
    /// # Errors
    /// [`DirectoryError::File`].
    pub fn keep_key(&self, key: &str) -> Result<(), DirectoryError> {
        self.write(KEY, key, 0o600)
    }

    /// Keeps the certificate of a node, whose key is kept, and its authority's.
    ///
    /// # Errors
    /// [`DirectoryError::File`].
    pub fn keep_certificate(
        &self,
        certificate: &str,
        authority: &str,
    ) -> Result<(), DirectoryError> {
        self.write(AUTHORITY, authority, 0o644)?;
        self.write(CERTIFICATE, certificate, 0o644)
    }

    fn read(&self, name: &str) -> Result<Option<String>, DirectoryError> {
        let path = self.path.join(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(DirectoryError::File { path, source }),
        }
    }

    fn read_secret(&self, name: &str) -> Result<Option<String>, DirectoryError> {
        let path = self.path.join(name);
        if let Ok(facts) = fs::metadata(&path)
            && facts.permissions().mode() & 0o077 != 0
        {
            return Err(DirectoryError::Exposed { path });
        }
        self.read(name)
    }

    fn write(&self, name: &str, text: &str, mode: u32) -> Result<(), DirectoryError> {
        let path = self.path.join(name);
        let written = replace(&self.path, name, text, mode);
        written.map_err(|source| DirectoryError::File { path, source })
    }
}

fn replace(dir: &Path, name: &str, text: &str, mode: u32) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)?;
    let fresh = dir.join(format!("{name}.new"));
    // What an earlier attempt left may have another mode.
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&fresh, dir.join(name))?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use ashlar_proto::ClusterId;

    use super::*;

    fn mode(path: PathBuf) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn keys_are_for_their_owner_alone() {
        let parent = tempfile::tempdir().unwrap();
        let dir = IdentityDir::at(parent.path().join("a/b"));
        assert!(dir.authority().unwrap().is_none() && dir.key().unwrap().is_none());
        let (made, key) = Authority::create(ClusterId::new(7), SystemTime::now()).unwrap();
        dir.keep_authority(&made, &key).unwrap();
        dir.keep_key("key").unwrap();
        assert!(dir.certificate_and_key().unwrap().is_none());
        dir.keep_certificate("certificate", made.certificate_pem())
            .unwrap();
        assert_eq!(mode(dir.path().join(KEY)), 0o600);
        assert_eq!(mode(dir.path().join(AUTHORITY_KEY)), 0o600);
        assert_eq!(mode(dir.path().to_owned()), 0o700);
        let pair = ("certificate".to_owned(), "key".to_owned());
        assert_eq!(dir.certificate_and_key().unwrap(), Some(pair));
        assert_eq!(
            dir.authority().unwrap().unwrap().cluster(),
            ClusterId::new(7)
        );
        let again = dir.keep_authority(&made, &key);
        assert!(matches!(again, Err(DirectoryError::Exists { .. })));
    }

    #[test]
    fn a_key_that_others_may_read_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let dir = IdentityDir::at(parent.path());
        dir.keep_key("key").unwrap();
        let path = dir.path().join(KEY);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(dir.key(), Err(DirectoryError::Exposed { .. })));
    }
}
