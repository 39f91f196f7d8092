//! Whether a process serves, and if not, why.
//!
//! It is not ready while it starts, while it stops, and while a condition says so. A front end or a
//! store that serves stays ready when no conductor answers, for it goes on serving: who took it out of
//! use for that would make an outage of what is none.

use std::collections::BTreeSet;
use std::sync::Mutex;

use super::lock;

/// What every process waits for first.
pub const START: &str = "it starts";

type Condition = Box<dyn Fn() -> Option<String> + Send + Sync>;

/// See the module.
pub struct Readiness {
    waits: Mutex<BTreeSet<&'static str>>,
    conditions: Mutex<Vec<Condition>>,
}

/// What a process that ends waits for, in vain.
const STOP: &str = "it stops";

impl Readiness {
    /// Of a process that starts.
    pub fn starting() -> Self {
        Self {
            waits: Mutex::new(BTreeSet::from([START])),
            conditions: Mutex::default(),
        }
    }

    /// Not ready as long as the condition says why.
    pub fn add(&self, condition: impl Fn() -> Option<String> + Send + Sync + 'static) {
        lock(&self.conditions).push(Box::new(condition));
    }

    /// Not ready until that is there.
    pub fn wait_for(&self, what: &'static str) {
        lock(&self.waits).insert(what);
    }

    /// That is there. Whether it was the last that was waited for.
    pub fn is_there(&self, what: &'static str) -> bool {
        let mut waits = lock(&self.waits);
        waits.remove(what) && waits.is_empty()
    }

    /// Not ready any more.
    pub fn stop(&self) {
        lock(&self.waits).insert(STOP);
    }

    /// Why it is not ready; empty if it is.
    pub fn reasons(&self) -> Vec<String> {
        let waits: Vec<&str> = lock(&self.waits).iter().copied().collect();
        let conditions = lock(&self.conditions);
        let told = conditions.iter().filter_map(|condition| condition());
        waits.into_iter().map(str::to_owned).chain(told).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn it_is_ready_when_nothing_is_waited_for_and_no_condition_speaks_against_it() {
        let readiness = Readiness::starting();
        readiness.wait_for("no conductor has been heard");
        assert!(!readiness.is_there(START));
        assert_eq!(readiness.reasons(), ["no conductor has been heard"]);
        assert!(readiness.is_there("no conductor has been heard"));
        assert!(!readiness.is_there("no conductor has been heard"));
        let leads = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&leads);
        readiness.add(move || {
            let leads = asked.load(Ordering::Relaxed);
            (!leads).then(|| "nobody leads".to_owned())
        });
        assert_eq!(readiness.reasons(), ["nobody leads"]);
        leads.store(true, Ordering::Relaxed);
        assert!(readiness.reasons().is_empty());
        readiness.stop();
        assert_eq!(readiness.reasons(), [STOP]);
    }
}
