//! Nodes and certificates that are let in no more. Shared by all that let anybody in; replaced as a whole
//! when the conductor says so.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use ashlar_proto::api::IdentitySubject;

use crate::presented::Presented;

/// See the module. Clones share one list.
#[derive(Clone, Debug, Default)]
pub struct Denied {
    list: Arc<RwLock<BTreeSet<IdentitySubject>>>,
    /// How often the list has changed.
    changes: Arc<AtomicU64>,
}

impl Denied {
    /// Nobody is denied yet.
    #[must_use]
    pub fn nobody() -> Self {
        Self::default()
    }

    /// These are from now on, and no others. Whether that is news.
    pub fn replace(&self, subjects: impl IntoIterator<Item = IdentitySubject>) -> bool {
        let fresh: BTreeSet<IdentitySubject> = subjects.into_iter().collect();
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        let is_news = *list != fresh;
        *list = fresh;
        if is_news {
            // With the list still locked: who sees the count and then asks is answered by the new list.
            self.changes.fetch_add(1, Ordering::Release);
        }
        is_news
    }

    /// How often the list has changed: who has judged somebody need not do so again until it has.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Whether who presents that is let in no more.
    #[must_use]
    pub fn denies(&self, presented: &Presented) -> bool {
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        // Nearly always there is nobody on it.
        !list.is_empty() && names(presented).iter().any(|name| list.contains(name))
    }
}

fn names(presented: &Presented) -> [IdentitySubject; 2] {
    [
        IdentitySubject::Node(presented.identity.name.clone()),
        IdentitySubject::Serial(presented.serial.clone()),
    ]
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use ashlar_proto::ClusterId;
    use ashlar_proto::api::NodeRole;

    use super::*;
    use crate::name::Identity;

    #[test]
    fn nodes_and_serials_are_denied() {
        let presented = Presented {
            identity: Identity {
                cluster: ClusterId::new(1),
                role: NodeRole::Store,
                name: "a".to_owned(),
            },
            serial: "ab12".to_owned(),
            hosts: Vec::new(),
            not_before: UNIX_EPOCH,
            not_after: UNIX_EPOCH,
        };
        let denied = Denied::nobody();
        assert!(!denied.denies(&presented));
        assert!(denied.replace([IdentitySubject::Node("a".to_owned())]));
        assert!(denied.clone().denies(&presented));
        assert!(denied.replace([IdentitySubject::Serial("ab12".to_owned())]));
        assert!(denied.denies(&presented));
        assert!(denied.replace([IdentitySubject::Node("b".to_owned())]));
        assert!(!denied.denies(&presented));
        assert_eq!(denied.clone().changes(), 3);
        assert!(!denied.replace([IdentitySubject::Node("b".to_owned())]));
        assert_eq!(denied.changes(), 3);
    }
}
