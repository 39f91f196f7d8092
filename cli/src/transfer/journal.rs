//! How far a transfer has come, in a small file beside the image: what a later run goes on from.
//!
//! Written to a temporary file, synced and renamed: a crash leaves the old one or the new one. It is
//! written only after what it says is durable, so the truth may be ahead of it, never behind.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use ashlar_proto::{Generation, VolumeId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::file::Identity;

/// The version of what is written here.
pub const VERSION: u32 = 1;

/// Content up to an offset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// How many bytes of the content, from its beginning on.
    pub done_bytes: u64,
    /// Their SHA-256.
    pub sha256: String,
}

/// An import that is not finished.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportJournal {
    pub version: u32,
    /// Which file is read.
    pub source: Identity,
    pub format: String,
    pub volume: String,
    /// None until the volume was made.
    pub volume_id: Option<VolumeId>,
    /// Whether the volume may have held something before, so that holes must be written.
    pub into_existing: bool,
    /// What is in the volume, durably.
    #[serde(flatten)]
    pub mark: Mark,
}

/// An export that is not finished.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportJournal {
    pub version: u32,
    pub format: String,
    pub volume: String,
    pub volume_id: VolumeId,
    /// Of the attachment that exported up to here: the next one has the next number, if nobody else
    /// has attached the volume in between.
    pub generation: Generation,
    pub size_bytes: u64,
    /// Where a qcow2 file goes on.
    pub next_cluster: Option<u64>,
    /// What is in the partial file, durably.
    #[serde(flatten)]
    pub mark: Mark,
}

/// A journal's place.
#[derive(Clone, Debug)]
pub struct JournalFile {
    path: PathBuf,
}

impl JournalFile {
    /// `FILE.ashlar-import`, or `FILE.ashlar-export`.
    pub fn beside(file: &Path, suffix: &str) -> Self {
        let path = with_suffix(file, suffix);
        Self { path }
    }

    /// What it says; none if it is not there.
    ///
    /// # Errors
    /// When it cannot be read or is of another version.
    pub fn load<T: DeserializeOwned>(&self) -> anyhow::Result<Option<T>> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let shown = self.path.display();
        let text = match fs::read_to_string(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.with_context(|| format!("cannot read the journal {shown}"))?,
        };
        let advice = || format!("the journal {shown} makes no sense; begin anew with --restart");
        let version: Version = serde_json::from_str(&text).with_context(advice)?;
        ensure!(
            version.version == VERSION,
            "the journal {shown} is of version {}, this program's is {VERSION}: go on with the \
             program that began, or begin anew with --restart",
            version.version
        );
        serde_json::from_str(&text).map(Some).with_context(advice)
    }

    /// Writes it durably.
    ///
    /// # Errors
    /// When its directory cannot be written to.
    pub fn save<T: Serialize>(&self, journal: &T) -> anyhow::Result<()> {
        let write = || -> io::Result<()> {
            let temporary = with_suffix(&self.path, "tmp");
            let mut file = File::create(&temporary)?;
            file.write_all(&serde_json::to_vec_pretty(journal)?)?;
            file.sync_all()?;
            fs::rename(&temporary, &self.path)?;
            sync_directory(&self.path)
        };
        write().with_context(|| format!("cannot write the journal {}", self.path.display()))
    }

    /// Takes it away, durably.
    ///
    /// # Errors
    /// When it is there and stays.
    pub fn remove(&self) -> anyhow::Result<()> {
        remove_file(&self.path)?;
        sync_directory(&self.path)
            .with_context(|| format!("cannot remove the journal {}", self.path.display()))
    }
}

/// `PATH.SUFFIX`.
pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// Makes durable what names the directory of `path` has.
///
/// # Errors
/// Those of the directory.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| *parent != Path::new(""));
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

/// Removes a file if it is there.
///
/// # Errors
/// When it is there and stays.
pub fn remove_file(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal() -> ExportJournal {
        ExportJournal {
            version: VERSION,
            format: "qcow2".to_owned(),
            volume: "data".to_owned(),
            volume_id: VolumeId::new(7),
            generation: Generation::new(3),
            size_bytes: 1 << 30,
            next_cluster: Some(12),
            mark: Mark {
                done_bytes: 4096,
                sha256: "00ff".to_owned(),
            },
        }
    }

    #[test]
    fn what_is_saved_is_loaded_until_removed() {
        let directory = tempfile::tempdir().unwrap();
        let file = JournalFile::beside(&directory.path().join("disk.img"), "ashlar-export");
        assert!(file.path.ends_with("disk.img.ashlar-export"));
        assert_eq!(file.load::<ExportJournal>().unwrap(), None);
        file.save(&journal()).unwrap();
        assert_eq!(file.load().unwrap(), Some(journal()));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        file.remove().unwrap();
        file.remove().unwrap();
        assert_eq!(file.load::<ExportJournal>().unwrap(), None);
    }

    #[test]
    fn journals_that_make_no_sense_say_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let file = JournalFile::beside(&directory.path().join("disk.img"), "ashlar-export");
        for (text, says) in [
            ("{", "--restart"),
            ("{\"version\": 2}", "of version 2"),
            ("{\"version\": 1}", "--restart"),
        ] {
            fs::write(&file.path, text).unwrap();
            let error = file.load::<ExportJournal>().unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
