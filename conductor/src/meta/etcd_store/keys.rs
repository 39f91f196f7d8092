//! The keys of a cluster in etcd, and the values of those that are no rows.
//!
//! ```text
//! ROOT/row/…     the rows, by their own keys
//! ROOT/head      who committed last; every transaction changes it
//! ROOT/leader    who leads, bound to a lease; its create revision is the term
//! ```

use serde::{Deserialize, Serialize};

use crate::meta::Key;

/// The layout above.
pub(super) const FORMAT_CURRENT: u64 = 1;

/// What the keys of a cluster begin with unless told otherwise.
const ROOT: &str = "/ashlar";

/// The keys below one root.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    root: String,
}

impl Keys {
    /// Those below `root`; below `/ashlar` where it is empty.
    pub(super) fn new(root: &str) -> Self {
        let root = root.trim_end_matches('/');
        let root = if root.is_empty() { ROOT } else { root };
        let root = root.to_owned();
        Self { root }
    }

    pub(super) fn head(&self) -> Vec<u8> {
        format!("{}/head", self.root).into_bytes()
    }

    pub(super) fn leader(&self) -> Vec<u8> {
        format!("{}/leader", self.root).into_bytes()
    }

    /// From the first key to beyond the last.
    pub(super) fn all(&self) -> (Vec<u8>, Vec<u8>) {
        let first = format!("{}/", self.root).into_bytes();
        (first.clone(), end_of(first))
    }

    pub(super) fn row(&self, key: &str) -> Vec<u8> {
        format!("{}/row/{key}", self.root).into_bytes()
    }

    /// From the first row whose key begins with `prefix` and lies beyond `after`, to beyond the last.
    pub(super) fn rows(&self, prefix: &str, after: Option<&Key>) -> (Vec<u8>, Vec<u8>) {
        let first = self.row(prefix);
        let end = end_of(first.clone());
        let beyond = after.map(|key| {
            let mut beyond = self.row(key.as_str());
            beyond.push(0);
            beyond
        });
        (first.clone().max(beyond.unwrap_or(first)), end)
    }

    /// The row that a key names.
    pub(super) fn row_of(&self, key: &[u8]) -> Option<Key> {
        let rest = key.strip_prefix(self.row("").as_slice())?;
        std::str::from_utf8(rest).ok().map(Key::new)
    }
}

/// The first key beyond all that begin so.
fn end_of(mut prefix: Vec<u8>) -> Vec<u8> {
    while let Some(last) = prefix.pop() {
        if last < u8::MAX {
            prefix.push(last + 1);
            return prefix;
        }
    }
    // Beyond all keys, as etcd writes it.
    vec![0]
}

/// The value of the head: no two transactions have the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) format: u64,
    /// Whose it is: drawn at random by each process.
    pub(super) by: String,
    pub(super) number: u64,
}

/// The value of the leader's key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LeaderValue {
    /// Where its API is.
    pub(super) api: String,
    /// As in [`Head::by`].
    pub(super) by: String,
}

/// What the values of a cluster's own keys look like.
pub(super) fn bytes_of(value: &impl Serialize) -> Vec<u8> {
    // Texts and numbers: nothing that JSON cannot say.
    serde_json::to_vec(value).expect("plain data")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts((first, end): (Vec<u8>, Vec<u8>)) -> (String, String) {
        (
            String::from_utf8(first).unwrap(),
            String::from_utf8(end).unwrap(),
        )
    }

    #[test]
    fn ranges_hold_the_keys_that_begin_so() {
        let keys = Keys::new("/a/");
        assert_eq!(texts(keys.all()), ("/a/".into(), "/a0".into()));
        assert_eq!(
            texts(keys.rows("volume/", None)),
            ("/a/row/volume/".into(), "/a/row/volume0".into())
        );
        let after = Key::new("volume/7");
        let (first, _) = texts(keys.rows("volume/", Some(&after)));
        assert_eq!(first, "/a/row/volume/7\0");
        let before = Key::new("node/7");
        let (first, _) = texts(keys.rows("volume/", Some(&before)));
        assert_eq!(first, "/a/row/volume/");
        assert_eq!(end_of(vec![1, 255, 255]), [2]);
        assert_eq!(end_of(vec![255]), [0]);
    }

    #[test]
    fn only_rows_are_taken_for_rows() {
        let keys = Keys::new("");
        assert_eq!(keys.row_of(b"/ashlar/row/node/1"), Some(Key::new("node/1")));
        assert_eq!(keys.row_of(b"/ashlar/head"), None);
        assert_eq!(keys.row_of(b"/other/row/node/1"), None);
        assert_eq!(keys.row_of(b"/ashlar/row/\xff"), None);
    }
}
