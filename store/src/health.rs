//! Whether a disk serves: once it has failed, it serves nothing until its store starts anew.

use std::sync::OnceLock;

/// The health of one disk, shared by its lanes on all threads.
#[derive(Debug)]
pub(crate) struct DiskHealth {
    path: String,
    failure: OnceLock<String>,
}

impl DiskHealth {
    pub(crate) fn new(path: String) -> Self {
        Self {
            path,
            failure: OnceLock::new(),
        }
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failure.get().is_some()
    }

    /// Why it serves nothing.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    /// The disk serves nothing from here on; the first reason counts.
    pub(crate) fn fail(&self, why: String) {
        if self.failure.set(why).is_ok() {
            let why = self.failure();
            tracing::error!(disk = %self.path, why, "disk failed: it serves nothing any more");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_counts() {
        let health = DiskHealth::new("/dev/a".into());
        assert!(!health.has_failed());
        health.fail("one".into());
        health.fail("two".into());
        assert_eq!(health.failure(), Some("one"));
    }
}
