//! Secrets that are hashed to see whether they are right: one at a time, and each paid for before.
//!
//! Invariants:
//! - who has the turn keeps it until the hash is computed, also where nobody waits for that any more: a
//!   client that goes away frees no processor for the next one;
//! - a failure is charged before the hash is computed and given back if the secret is right, so that
//!   going away costs as much as waiting;
//! - what was right is remembered by its digest, and costs nothing from then on.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::failures::Failures;
use super::keys;
use crate::refusal::AccessRefusal;
use crate::row::HashRow;

/// Keys that are remembered as hashed.
const VERIFIED_MAX: usize = 1024;

/// Longest wait for the turn to have a key hashed.
const HASHING_WAIT: Duration = Duration::from_secs(5);

/// The digest of a key as it was shown.
pub(super) type Digest = [u8; 32];

/// See the module. Clones are the same.
#[derive(Clone)]
pub(super) struct Hashing(Arc<Inner>);

struct Inner {
    /// Digests of keys, and the hash that each was compared with.
    verified: Mutex<HashMap<Digest, String>>,
    failures: Mutex<Failures>,
    turn: Arc<Semaphore>,
    started: Instant,
}

impl Hashing {
    pub(super) fn new() -> Self {
        Self(Arc::new(Inner {
            verified: Mutex::default(),
            failures: Mutex::default(),
            turn: Arc::new(Semaphore::new(1)),
            started: Instant::now(),
        }))
    }

    /// Whether the secret of that digest is the one of the hash: remembered, or found out now.
    ///
    /// # Errors
    /// [`AccessRefusal::TooOften`]: it was not looked at.
    pub(super) async fn is_right(
        &self,
        from: IpAddr,
        seen: Digest,
        secret: &str,
        hash: &HashRow,
    ) -> Result<bool, AccessRefusal> {
        if self.is_verified(&seen, hash) {
            return Ok(true);
        }
        self.refuse_frequent(from)?;
        let turn = timeout(HASHING_WAIT, Arc::clone(&self.0.turn).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else {
            return Err(AccessRefusal::TooOften { seconds: 1 });
        };
        // Those who had the turn before may have failed, or had the same key.
        if self.is_verified(&seen, hash) {
            return Ok(true);
        }
        self.refuse_frequent(from)?;
        let now = self.elapsed_ms();
        lock(&self.0.failures).charge_hashed(from, now);
        let (own, secret, hash) = (self.clone(), secret.to_owned(), hash.clone());
        let hashed = tokio::task::spawn_blocking(move || {
            let is_right = keys::matches(&secret, &hash);
            if is_right {
                own.remember(seen, hash.hash.0);
                lock(&own.0.failures).give_back(from);
            }
            drop(turn);
            is_right
        });
        Ok(hashed.await.unwrap_or(false))
    }

    /// Something wrong was shown that cost next to nothing to look at.
    pub(super) fn charge_address(&self, from: IpAddr) {
        let now = self.elapsed_ms();
        lock(&self.0.failures).charge_address(from, now);
    }

    fn is_verified(&self, seen: &Digest, hash: &HashRow) -> bool {
        lock(&self.0.verified).get(seen) == Some(&hash.hash.0)
    }

    fn remember(&self, seen: Digest, hash: String) {
        let mut verified = lock(&self.0.verified);
        if verified.len() >= VERIFIED_MAX {
            verified.clear();
        }
        verified.insert(seen, hash);
    }

    fn refuse_frequent(&self, from: IpAddr) -> Result<(), AccessRefusal> {
        let now = self.elapsed_ms();
        match lock(&self.0.failures).wait_seconds(from, now) {
            Some(seconds) => Err(AccessRefusal::TooOften { seconds }),
            None => Ok(()),
        }
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.0.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
impl Hashing {
    /// How many keys are remembered.
    pub(super) fn verified(&self) -> usize {
        lock(&self.0.verified).len()
    }

    /// Whether that address owes something.
    pub(super) fn has_charged(&self, from: IpAddr) -> bool {
        lock(&self.0.failures).owes(from)
    }

    /// Whether something is being hashed.
    pub(super) fn is_busy(&self) -> bool {
        self.0.turn.available_permits() == 0
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
