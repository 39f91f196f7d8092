//! Sets of public keys (JWK sets, RFC 7517) that tokens of others are verified with, and the files that they are
//! in.
//!
//! A set is read again when its file has changed: that is looked at every [`LOOK`] while its keys are asked for,
//! and sooner, every [`LOOK_UNKNOWN`], when a key is asked for that it has not got, as just after the issuer has
//! made another one. Invariants: only public keys verify, and only by algorithms of their kind, so that nobody who
//! can read a set can sign; a file that cannot be used leaves the keys as they were; however many ask, it is looked
//! at no more often than that.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};

use super::issuers::IssuerError;

/// Most keys of a set.
pub(super) const KEYS_MAX: usize = 64;

/// Largest file of a set: its keys fit many times, chains of certificates included.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// How often it is looked at whether a file has changed.
const LOOK: Duration = Duration::from_secs(10);

/// The same when a key is asked for that is not in the set.
const LOOK_UNKNOWN: Duration = Duration::from_secs(1);

/// A public key, and what it may be used for.
#[derive(Clone, Debug)]
pub(super) struct VerifyingKey {
    id: String,
    pub(super) algorithms: Vec<Algorithm>,
    pub(super) key: DecodingKey,
}

/// See the module.
#[derive(Debug)]
pub(super) struct KeySet {
    keys: RwLock<Vec<Arc<VerifyingKey>>>,
    file: Option<SetFile>,
}

#[derive(Debug)]
struct SetFile {
    path: PathBuf,
    looked: Mutex<Looked>,
}

/// When a file was last looked at, and what it was then.
#[derive(Debug)]
struct Looked {
    at: Instant,
    stamp: Option<Stamp>,
}

/// By what a file is told from what it was: inode, length, and time of its last change in seconds and nanoseconds.
type Stamp = (u64, u64, i64, i64);

impl KeySet {
    /// The keys of a set.
    pub(super) fn of(jwks: &[u8]) -> Result<Self, IssuerError> {
        Ok(Self {
            keys: RwLock::new(read(jwks)?),
            file: None,
        })
    }

    /// Those of a set in a file.
    pub(super) fn from_file(path: PathBuf) -> Result<Self, IssuerError> {
        let stamp = stamp_of(&path)?;
        let keys = read(&bytes_of(&path)?)?;
        let looked = Mutex::new(Looked {
            at: Instant::now(),
            stamp: Some(stamp),
        });
        Ok(Self {
            keys: RwLock::new(keys),
            file: Some(SetFile { path, looked }),
        })
    }

    /// The key of that id, as the file has it `now` or not long before.
    pub(super) fn find(&self, id: &str, now: Instant) -> Option<Arc<VerifyingKey>> {
        let known = self.get(id);
        let Some(file) = &self.file else { return known };
        let pause = if known.is_some() { LOOK } else { LOOK_UNKNOWN };
        match file.changed(now, pause) {
            Some(keys) => {
                *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
                self.get(id)
            }
            None => known,
        }
    }

    fn get(&self, id: &str) -> Option<Arc<VerifyingKey>> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.iter().find(|key| key.id == id).cloned()
    }
}

impl SetFile {
    /// The keys that are in the file now, if it has changed, and was not looked at for so long.
    fn changed(&self, now: Instant, pause: Duration) -> Option<Vec<Arc<VerifyingKey>>> {
        // While somebody looks, others go by what there is.
        let mut looked = self.looked.try_lock().ok()?;
        if now.saturating_duration_since(looked.at) < pause {
            return None;
        }
        looked.at = now;
        let stamp = stamp_of(&self.path).ok();
        if stamp == looked.stamp {
            return None;
        }
        looked.stamp = stamp;
        let keys = bytes_of(&self.path).map_err(IssuerError::from);
        match keys.and_then(|bytes| read(&bytes)) {
            Ok(keys) => {
                tracing::info!(path = %self.path.display(), keys = keys.len(), "keys read again");
                Some(keys)
            }
            Err(error) => {
                let path = self.path.display();
                tracing::warn!(%path, %error, "changed keys cannot be used: the old ones stay");
                None
            }
        }
    }
}

fn stamp_of(path: &PathBuf) -> io::Result<Stamp> {
    let file = fs::metadata(path)?;
    Ok((file.ino(), file.size(), file.mtime(), file.mtime_nsec()))
}

fn bytes_of(path: &PathBuf) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(FILE_BYTES_MAX)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The keys of a set that can verify anything.
fn read(jwks: &[u8]) -> Result<Vec<Arc<VerifyingKey>>, IssuerError> {
    let set: JwkSet = serde_json::from_slice(jwks)?;
    if set.keys.len() > KEYS_MAX {
        return Err(IssuerError::Keys);
    }
    let keys = set.keys.iter().filter_map(VerifyingKey::read).map(Arc::new);
    let keys: Vec<Arc<VerifyingKey>> = keys.collect();
    if keys.is_empty() {
        return Err(IssuerError::Keys);
    }
    Ok(keys)
}

impl VerifyingKey {
    fn read(jwk: &Jwk) -> Option<Self> {
        let is_secret = matches!(jwk.algorithm, AlgorithmParameters::OctetKey(_));
        let for_signatures = match &jwk.common.public_key_use {
            None | Some(PublicKeyUse::Signature) => true,
            Some(_) => false,
        };
        if is_secret || !for_signatures {
            return None;
        }
        let key = DecodingKey::from_jwk(jwk).ok()?;
        let algorithms = match jwk.common.key_algorithm {
            Some(algorithm) => vec![algorithm_of(algorithm)?],
            None => key.family().algorithms().to_vec(),
        };
        let is_hmac = |some: &Algorithm| AlgorithmFamily::Hmac.algorithms().contains(some);
        if algorithms.iter().any(is_hmac) {
            return None;
        }
        let id = jwk.common.key_id.clone()?;
        Some(Self {
            id,
            algorithms,
            key,
        })
    }
}

fn algorithm_of(algorithm: KeyAlgorithm) -> Option<Algorithm> {
    algorithm.to_string().parse().ok()
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
    use serde_json::json;

    use super::super::issuers::tests::base64;
    use super::*;

    fn set_of(ids: &[&str]) -> String {
        let x = base64(Ed25519KeyPair::generate().unwrap().public_key().as_ref());
        let key = |id: &&str| json!({"kty": "OKP", "crv": "Ed25519", "kid": id, "x": x});
        json!({"keys": ids.iter().map(key).collect::<Vec<_>>()}).to_string()
    }

    /// Replaces the file as whoever renews keys does.
    fn put(path: &std::path::Path, text: &str) {
        let other = path.with_extension("next");
        fs::write(&other, text).unwrap();
        fs::rename(&other, path).unwrap();
    }

    #[test]
    fn keys_come_and_go_with_their_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.json");
        put(&path, &set_of(&["a"]));
        let set = KeySet::from_file(path.clone()).unwrap();
        let began = set.file.as_ref().unwrap().looked.lock().unwrap().at;
        let has = |id: &str, seconds: u64| {
            let now = began + Duration::from_secs(seconds);
            set.find(id, now).is_some()
        };
        put(&path, &set_of(&["a", "b"]));
        assert!(has("a", 0) && !has("b", 0), "it was looked at just now");
        assert!(has("b", 1), "a key that is not known is looked for");
        put(&path, &set_of(&["b", "c"]));
        assert!(!has("c", 1) && has("a", 9), "not before its time");
        assert!(!has("a", 11), "a key that is withdrawn is none any more");
        assert!(has("b", 11) && has("c", 11));
    }

    #[test]
    fn a_file_that_cannot_be_used_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.json");
        assert!(matches!(
            KeySet::from_file(path.clone()),
            Err(IssuerError::File(_))
        ));
        put(&path, &set_of(&["a"]));
        let set = KeySet::from_file(path.clone()).unwrap();
        let mut now = Instant::now();
        for text in ["", "{", r#"{"keys": []}"#] {
            put(&path, text);
            now += LOOK;
            assert!(
                set.find("a", now).is_some() && set.find("b", now).is_none(),
                "{text}"
            );
        }
        fs::remove_file(&path).unwrap();
        assert!(set.find("a", now + LOOK).is_some());
        put(&path, &set_of(&["b"]));
        assert!(set.find("b", now + LOOK + LOOK_UNKNOWN).is_some());
    }
}
