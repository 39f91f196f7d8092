//! Refusals of requests that say under which conditions they are to be carried out.

use ashlar_proto::api::Revision;

/// A request is not carried out as things stand, by its own word.
#[expect(
    missing_docs,
    reason = "each message says what its variant and fields are"
)]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConditionRefusal {
    #[error(
        "the idempotency key was given to another request: give each request its own, and repeat one \
         with the same method, path, query and body"
    )]
    KeyReused,
    #[error(
        "it is at revision {} now, and the request is for another: read it again, and send \
         `If-Match` with what its `ETag` is then", .current.0
    )]
    Changed { current: Revision },
    #[error("it is not there any more, and the request is for what it was: read it again")]
    Gone,
}
