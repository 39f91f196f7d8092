//! Refusals about long operations.

/// A task is not as the request needs it.
#[expect(
    missing_docs,
    reason = "each message says what its variant and fields are"
)]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TaskRefusal {
    #[error(
        "there is no task `{id}`: see `ashlar task list`; those that ended are kept for a time only"
    )]
    NotFound { id: String },
    #[error("task `{id}` cannot be called off: it has ended, or goes on to its end by itself")]
    NotCancelable { id: String },
}
