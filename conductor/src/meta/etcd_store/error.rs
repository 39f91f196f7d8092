//! What can go wrong between a conductor and etcd.

use tonic::Status;

/// etcd cannot do what was asked, or does not say whether it has.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EtcdError {
    /// An address that is none.
    #[error("`{endpoint}` is no address of etcd: give http://HOST:PORT or https://HOST:PORT")]
    Endpoint {
        /// What was given.
        endpoint: String,
    },
    /// The certificates cannot be used.
    #[error("the certificates for etcd cannot be used: {reason}")]
    Tls {
        /// Why.
        reason: String,
    },
    /// No member answers, or those that do have no leader. Nothing was changed.
    #[error("no member of etcd answers ({reason}): is a majority of them running?")]
    Unavailable {
        /// What the last one said.
        reason: String,
    },
    /// A change was sent, and no member says whether it was made.
    #[error("etcd does not say whether the change was made ({reason}): look before you repeat it")]
    OutcomeUnknown {
        /// What was heard last.
        reason: String,
    },
    /// The database of etcd has reached its quota.
    #[error(
        "etcd has reached its space quota and takes no writes: compact and defragment it, raise \
         --quota-backend-bytes, then `etcdctl alarm disarm`"
    )]
    Full,
    /// A transaction has more rows than fit one of etcd's.
    #[error(
        "the change is of {rows} rows, and {most} are the most that one transaction of etcd takes"
    )]
    TooManyRows {
        /// How many.
        rows: usize,
        /// How many may be.
        most: usize,
    },
    /// A transaction has more bytes than one of etcd's takes.
    #[error(
        "the change has {bytes} bytes, and {most} are the most that one transaction of etcd takes"
    )]
    TooLarge {
        /// How many.
        bytes: usize,
        /// How many may be.
        most: usize,
    },
    /// The user, the password or the certificate is not accepted.
    #[error("etcd refuses this user: {reason}")]
    Denied {
        /// Its words.
        reason: String,
    },
    /// A conductor leads, so nobody else may change all rows.
    #[error("a conductor leads ({leader}): stop all conductors first")]
    Led {
        /// Where its API is.
        leader: String,
    },
    /// It refuses for another reason.
    #[error("etcd refuses: {reason}")]
    Refused {
        /// Its words.
        reason: String,
    },
    /// It has keys here that no conductor writes like that.
    #[error("key {key} in etcd is not as a conductor writes it: is the prefix shared with others?")]
    Strange {
        /// The key.
        key: String,
    },
}

/// What to do about a call that failed.
#[derive(Debug)]
pub(super) enum Fault {
    /// Another member may do better. The call may have been carried out.
    Elsewhere(String),
    /// The token is not known any more: log in again.
    Login,
    /// What was asked for is compacted.
    Compacted,
    /// No use in trying again; nothing was changed.
    Final(EtcdError),
}

impl From<Status> for Fault {
    fn from(status: Status) -> Self {
        use tonic::Code as C;
        let text = status.message();
        let reason = text.to_owned();
        match status.code() {
            C::ResourceExhausted if text.contains("space exceeded") => Self::Final(EtcdError::Full),
            C::Unauthenticated => Self::Login,
            C::InvalidArgument if text.contains("invalid auth token") => Self::Login,
            C::PermissionDenied => Self::Final(EtcdError::Denied { reason }),
            C::OutOfRange if text.contains("compacted") => Self::Compacted,
            C::InvalidArgument if text.contains("authentication failed") => {
                Self::Final(EtcdError::Denied { reason })
            }
            C::InvalidArgument
            | C::NotFound
            | C::FailedPrecondition
            | C::OutOfRange
            | C::Unimplemented => Self::Final(EtcdError::Refused { reason }),
            _ => Self::Elsewhere(if reason.is_empty() {
                status.code().description().to_owned()
            } else {
                reason
            }),
        }
    }
}
