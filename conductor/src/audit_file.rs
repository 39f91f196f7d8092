//! The audit log as a file: a line of JSON for each entry, made durable in batches.
//!
//! A thread of its own writes, so that no request waits for the disk. What cannot be written is counted
//! and told in the log of the process; the metadata have it. SIGHUP has the file opened anew, for who
//! rotates it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use ashlar_proto::api::AuditEntry;

/// Entries that wait to be written.
const QUEUED_MAX: usize = 4096;

/// Entries that are made durable at once.
const BATCH_MAX: usize = 256;

enum Word {
    Line(Vec<u8>),
    OpenAnew,
}

/// The file. Clones append to the same one.
#[derive(Clone, Debug)]
pub(crate) struct AuditFile {
    words: SyncSender<Word>,
}

impl AuditFile {
    /// Opens the file, or makes it for its owner alone.
    ///
    /// # Errors
    /// It cannot be opened, or no thread can be had.
    pub(crate) fn open(path: PathBuf) -> io::Result<Self> {
        let file = open(&path)?;
        let (words, queued) = sync_channel(QUEUED_MAX);
        std::thread::Builder::new()
            .name("ashlar-audit".to_owned())
            .spawn(move || write_all(&path, file, &queued))?;
        Ok(Self { words })
    }

    /// Appends an entry, soon.
    pub(crate) fn append(&self, entry: &AuditEntry) {
        let Ok(mut line) = serde_json::to_vec(entry) else {
            return;
        };
        line.push(b'\n');
        if let Err(TrySendError::Full(_)) = self.words.try_send(Word::Line(line)) {
            tracing::error!(
                id = entry.id,
                "the audit file is too slow: an entry is left out"
            );
        }
    }

    /// Opens it anew under its name.
    pub(crate) fn open_anew(&self) {
        let _ = self.words.try_send(Word::OpenAnew);
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(0o600).open(path)
}

fn write_all(path: &Path, mut file: File, queued: &Receiver<Word>) {
    while let Ok(first) = queued.recv() {
        let mut lines = Vec::new();
        let mut opens_anew = false;
        let more = queued.try_iter().take(BATCH_MAX);
        for word in std::iter::once(first).chain(more) {
            match word {
                Word::Line(line) => lines.extend(line),
                Word::OpenAnew => opens_anew = true,
            }
        }
        if let Err(error) = file.write_all(&lines).and_then(|()| file.sync_data()) {
            tracing::error!(path = %path.display(), %error, "the audit file cannot be written");
        }
        if opens_anew {
            match open(path) {
                Ok(new) => file = new,
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "the audit file cannot be opened");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ashlar_proto::api::AuditOutcome;

    use super::*;

    fn entry(id: u64) -> AuditEntry {
        AuditEntry {
            id,
            time_ms: 1,
            who: "ada".to_owned(),
            means: "open".to_owned(),
            from: String::new(),
            what: "POST /v1/volumes".to_owned(),
            request: None,
            outcome: AuditOutcome::Done,
            code: None,
            changes: Vec::new(),
            left_out: 0,
        }
    }

    fn ids(path: &Path, count: usize) -> Vec<u64> {
        for _ in 0..500 {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let lines = text.lines().map(serde_json::from_str::<AuditEntry>);
            let ids: Vec<u64> = lines.flatten().map(|entry| entry.id).collect();
            if ids.len() >= count {
                return ids;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{} has no {count} lines", path.display())
    }

    #[test]
    fn entries_are_appended_and_go_on_in_a_new_file_once_it_was_rotated() {
        let directory = tempfile::tempdir().unwrap();
        let (path, old) = (directory.path().join("audit"), directory.path().join("old"));
        let file = AuditFile::open(path.clone()).unwrap();
        (1..=3).for_each(|id| file.append(&entry(id)));
        assert_eq!(ids(&path, 3), [1, 2, 3]);
        std::fs::rename(&path, &old).unwrap();
        file.open_anew();
        while !path.exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
        file.append(&entry(4));
        assert_eq!(ids(&path, 1), [4]);
        assert_eq!(ids(&old, 3), [1, 2, 3]);
        drop(file);
        let again = AuditFile::open(path.clone()).unwrap();
        again.append(&entry(5));
        assert_eq!(ids(&path, 2), [4, 5]);
    }
}
