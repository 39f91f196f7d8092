//! The audit log as a file: a line of JSON for each entry, made durable in batches.
//!
//! A thread of its own writes, so that no request waits for the disk. What cannot be written is kept, up to
//! a bound, and tried again; what is left out is told in the log of the process; the metadata have it. SIGHUP has the file opened anew, for who
//! rotates it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use ashlar_proto::api::AuditEntry;

/// Entries that wait to be written.
const QUEUED_MAX: usize = 4096;

/// Entries that are made durable at once.
const BATCH_MAX: usize = 256;

/// Bytes that wait for a file that cannot be written.
const UNWRITTEN_BYTES_MAX: usize = 16 << 20;

/// The pause before what could not be written is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, PartialEq, Eq)]
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
        let (id, reason) = match self.words.try_send(Word::Line(line)) {
            Ok(()) => return,
            Err(TrySendError::Full(_)) => (entry.id, "it is too slow"),
            Err(TrySendError::Disconnected(_)) => (entry.id, "nobody writes it any more"),
        };
        tracing::error!(id, reason, "an entry is left out of the audit file");
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

fn write_all(path: &Path, file: File, queued: &Receiver<Word>) {
    let mut out = Out::new(path, file);
    loop {
        // What could not be written is tried again also where nothing new comes.
        let word = match out.unwritten.is_empty() {
            true => queued.recv().map_err(|_| RecvTimeoutError::Disconnected),
            false => queued.recv_timeout(RETRY_PAUSE),
        };
        let is_over = word == Err(RecvTimeoutError::Disconnected);
        let more = queued.try_iter().take(BATCH_MAX);
        for word in word.into_iter().chain(more) {
            match word {
                Word::Line(line) => out.add(line),
                Word::OpenAnew => out.opens_anew = true,
            }
        }
        out.write();
        if is_over {
            return;
        }
    }
}

/// The file, and what is not in it yet.
struct Out<'a> {
    path: &'a Path,
    file: File,
    unwritten: Vec<u8>,
    /// Lines in there.
    lines: u64,
    /// The file ends in the midst of a line.
    is_torn: bool,
    /// The last try failed: told once.
    has_failed: bool,
    opens_anew: bool,
}

impl<'a> Out<'a> {
    fn new(path: &'a Path, file: File) -> Self {
        Self {
            path,
            file,
            unwritten: Vec::new(),
            lines: 0,
            is_torn: false,
            has_failed: false,
            opens_anew: false,
        }
    }

    fn add(&mut self, line: Vec<u8>) {
        if self.unwritten.len() + line.len() > UNWRITTEN_BYTES_MAX {
            let path = self.path.display();
            tracing::error!(%path, "the audit file cannot be written: an entry is left out");
            return;
        }
        self.unwritten.extend(line);
        self.lines += 1;
    }

    /// Writes what there is. What the disk has no room for stays, to be written again; so does what could not
    /// be made durable, which is there twice then.
    fn write(&mut self) {
        let before = self.lines;
        let written = self.try_write();
        let (path, lines) = (self.path.display(), self.lines);
        match &written {
            Ok(()) if self.has_failed => {
                tracing::info!(%path, lines = before, "the audit file is written again");
            }
            Err(error) if !self.has_failed => {
                tracing::error!(%path, %error, lines, "the audit file cannot be written yet");
            }
            _ => {}
        }
        self.has_failed = written.is_err();
        if std::mem::take(&mut self.opens_anew) {
            self.open_anew();
        }
    }

    fn try_write(&mut self) -> io::Result<()> {
        if self.unwritten.is_empty() {
            return Ok(());
        }
        if self.is_torn {
            self.file.write_all(b"\n")?;
            self.is_torn = false;
        }
        let mut count = 0;
        let written = loop {
            match self.file.write(&self.unwritten[count..]) {
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(more) => count += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
            if count == self.unwritten.len() {
                break self.file.sync_data();
            }
        };
        if written.is_ok() {
            self.unwritten.clear();
            self.lines = 0;
        } else if count < self.unwritten.len() {
            self.forget(count);
        }
        written
    }

    /// So many bytes are in the file: whole lines of them are done with, and a torn one comes again.
    fn forget(&mut self, count: usize) {
        let is_end = |byte: &u8| *byte == b'\n';
        let whole = self.unwritten[..count].iter().rposition(is_end);
        let whole = whole.map_or(0, |last| last + 1);
        self.is_torn = whole < count;
        let gone = self.unwritten.drain(..whole);
        let lines = gone.filter(is_end).count();
        self.lines -= u64::try_from(lines).unwrap_or(u64::MAX);
    }

    fn open_anew(&mut self) {
        match open(self.path) {
            Ok(new) => (self.file, self.is_torn) = (new, false),
            Err(error) => {
                let path = self.path.display();
                tracing::error!(%path, %error, "the audit file cannot be opened");
            }
        }
    }
}

#[cfg(test)]
mod tests {
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
            changes_left_out: 0,
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

    /// The disk was full for a moment: lines of that time came to nothing, and the last one before was torn.
    #[test]
    fn what_could_not_be_written_is_written_once_it_can_be() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit");
        std::fs::write(&path, b"").unwrap();
        let mut out = Out::new(&path, File::open(&path).unwrap());
        for line in ["{\"one\":1}\n", "{\"two\":2}\n"] {
            out.add(line.as_bytes().to_vec());
            out.write();
        }
        assert!(out.has_failed && !out.is_torn && out.lines == 2);
        out.forget("{\"one\":1}\n{\"t".len());
        assert!(out.is_torn && out.lines == 1);
        std::fs::write(&path, b"{\"one\":1}\n{\"t").unwrap();
        out.file = open(&path).unwrap();
        out.write();
        assert!(!out.has_failed && out.unwritten.is_empty() && out.lines == 0);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "{\"one\":1}\n{\"t\n{\"two\":2}\n");
    }

    #[test]
    fn what_waits_for_a_file_is_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit");
        let mut out = Out::new(&path, open(&path).unwrap());
        for _ in 0..40 {
            out.add(vec![b'x'; UNWRITTEN_BYTES_MAX / 32]);
        }
        assert_eq!(out.lines, 32);
        assert_eq!(out.unwritten.len(), UNWRITTEN_BYTES_MAX);
    }
}
