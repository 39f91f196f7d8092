//! What a request says beside its body: the key by which it is known when it is sent again, and which
//! revision of its object it is about.
//!
//! It belongs to the task that serves the request: whoever plans the change that the request is for takes
//! it from there, so that both take effect in one transaction.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ashlar_proto::api::Revision;

use crate::refusal::{ConditionRefusal, Refusal};
use crate::row::OnceRow;
use crate::state::{ClusterState, Object};

tokio::task_local! {
    static ASKING: Arc<Asking>;
}

/// By what a request is known when it is sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Keyed {
    /// The key.
    pub(crate) key: String,
    /// What it asks for, see [`OnceRow::request`].
    pub(crate) request: String,
}

/// What an object must be for a request to be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    /// The object.
    pub(crate) object: Object,
    /// One of these; any at all where there is no list.
    pub(crate) revisions: Option<Vec<Revision>>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Asking {
    pub(crate) keyed: Option<Keyed>,
    pub(crate) expected: Option<Expected>,
    replayed: AtomicBool,
}

impl Asking {
    /// A request with these.
    pub(crate) fn new(keyed: Option<Keyed>, expected: Option<Expected>) -> Arc<Self> {
        Arc::new(Self {
            keyed,
            expected,
            replayed: AtomicBool::new(false),
        })
    }

    /// What the request that is being served says; nothing where none is.
    pub(crate) fn current() -> Arc<Self> {
        ASKING.try_with(Arc::clone).unwrap_or_default()
    }

    /// Serves it.
    pub(crate) async fn scope<T>(self: Arc<Self>, work: impl Future<Output = T>) -> T {
        ASKING.scope(self, work).await
    }

    /// What was done for it earlier.
    ///
    /// # Errors
    /// [`ConditionRefusal::KeyReused`].
    pub(crate) fn done<'a>(
        &self,
        state: &'a ClusterState,
    ) -> Result<Option<&'a OnceRow>, ConditionRefusal> {
        let Some(keyed) = &self.keyed else {
            return Ok(None);
        };
        match state.done_once(&keyed.key) {
            Some(row) if row.request != keyed.request => Err(ConditionRefusal::KeyReused),
            found => Ok(found),
        }
    }

    /// Whether its object is as it says.
    ///
    /// # Errors
    /// [`ConditionRefusal::Changed`], [`ConditionRefusal::Gone`].
    pub(crate) fn check(&self, state: &ClusterState) -> Result<(), Refusal> {
        let Some(expected) = &self.expected else {
            return Ok(());
        };
        let current = state.revision_of(&expected.object);
        let current = current.ok_or(ConditionRefusal::Gone)?;
        let fits = expected.revisions.as_ref();
        if fits.is_none_or(|revisions| revisions.contains(&current)) {
            Ok(())
        } else {
            Err(ConditionRefusal::Changed { current }.into())
        }
    }

    /// Notes that what was done for it earlier is answered.
    pub(crate) fn note_replay(&self) {
        self.replayed.store(true, Ordering::Relaxed);
    }

    /// Whether it was.
    pub(crate) fn is_replayed(&self) -> bool {
        self.replayed.load(Ordering::Relaxed)
    }
}
