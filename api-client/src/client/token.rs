//! What callers show: a key or token, and keys of volumes. In files they are read again now and then, so
//! that who renews them has nobody start anew.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ashlar_proto::api::Secret;
use ashlar_proto::volume_name::canonical;

/// How long what was read counts.
const FRESH: Duration = Duration::from_secs(5);

/// Most bytes of a file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A file whose content is kept for a moment.
#[derive(Debug)]
struct Watched<T> {
    path: PathBuf,
    read: Mutex<Option<(Instant, Option<T>)>>,
}

impl<T: Clone> Watched<T> {
    fn new(path: PathBuf) -> Self {
        let read = Mutex::new(None);
        Self { path, read }
    }

    /// What is in it; what was in it before, where it cannot be read.
    fn current(&self, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, value)) = &*read
            && at.elapsed() < FRESH
        {
            return value.clone();
        }
        let before = read.take().and_then(|(_, value)| value);
        let value = text_of(&self.path).and_then(|text| parse(&text)).or(before);
        *read = Some((Instant::now(), value.clone()));
        value
    }
}

fn text_of(path: &Path) -> Option<String> {
    use std::io::Read;
    let mut text = String::new();
    let file = std::fs::File::open(path).ok()?;
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

/// A key or a token.
#[derive(Clone, Debug)]
pub struct Token(Source);

#[derive(Clone, Debug)]
enum Source {
    Fixed(Secret),
    File(Arc<Watched<Secret>>),
}

impl Token {
    /// One that stays.
    #[must_use]
    pub fn fixed(secret: Secret) -> Self {
        Self(Source::Fixed(secret))
    }

    /// The first line of a file.
    #[must_use]
    pub fn file(path: PathBuf) -> Self {
        Self(Source::File(Arc::new(Watched::new(path))))
    }

    /// As it is now; nothing where the file has none and never had.
    #[must_use]
    pub fn current(&self) -> Option<Secret> {
        match &self.0 {
            Source::Fixed(secret) => Some(secret.clone()),
            Source::File(file) => file.current(|text| {
                let line = text.lines().next()?.trim();
                (!line.is_empty()).then(|| Secret::new(line))
            }),
        }
    }
}

/// The keys of volumes: a file with a line `VOLUME KEY` for each. Lines that begin with `#` are for people.
#[derive(Clone, Debug)]
pub struct VolumeKeys(Arc<Watched<BTreeMap<String, Secret>>>);

impl VolumeKeys {
    /// Those of a file.
    #[must_use]
    pub fn file(path: PathBuf) -> Self {
        Self(Arc::new(Watched::new(path)))
    }

    /// That of a volume.
    #[must_use]
    pub fn of(&self, volume: &str) -> Option<Secret> {
        let keys = self.0.current(|text| Some(parse_keys(text)))?;
        keys.get(canonical(volume)).cloned()
    }
}

fn parse_keys(text: &str) -> BTreeMap<String, Secret> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let pairs = lines.filter_map(|line| line.trim().split_once(char::is_whitespace));
    let pair =
        |(volume, key): (&str, &str)| (canonical(volume).to_owned(), Secret::new(key.trim()));
    pairs.map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_volumes_are_found_by_their_names() {
        let keys = parse_keys("# mine\n\ndata k1\n  p/db\tk2 \ndefault/a k3\nalone\n");
        let key = |name: &str| keys.get(name).map(|key| key.reveal().to_owned());
        assert_eq!(key("data").as_deref(), Some("k1"));
        assert_eq!(key("p/db").as_deref(), Some("k2"));
        assert_eq!(key("a").as_deref(), Some("k3"));
        assert_eq!(keys.len(), 3);
        assert!(!format!("{keys:?}").contains("k1"));
    }

    #[test]
    fn a_token_that_cannot_be_read_is_none_and_none_is_printed() {
        let missing = Token::file(PathBuf::from("/nonexistent/token"));
        assert!(missing.current().is_none());
        let fixed = Token::fixed(Secret::new("correct horse"));
        assert!(!format!("{fixed:?}").contains("horse"));
    }
}
