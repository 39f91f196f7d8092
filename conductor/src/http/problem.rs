//! Refusals as RFC 9457 problems with stable codes.

use std::time::Duration;

use ashlar_proto::api::{NodeRole, Problem};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::auth::{AccessCode, code_of};
use super::codes::codes;
use crate::cluster::{ClusterError, NotMade};
use crate::meta::MetaError;
use crate::meta::etcd_store::EtcdError;
use crate::refusal::{
    AccessRefusal, ClientRefusal, ConditionRefusal, DiskRefusal, GroupRefusal, IdentityRefusal,
    NodeRefusal, Refusal, ReservationsRefusal, ResizeRefusal, ServerRefusal, SnapshotRefusal,
    SpaceRefusal, TargetRefusal, TaskRefusal, VolumeRefusal,
};

/// A handler's answer.
pub(super) type Answer<T> = Result<T, Refused>;

/// A request refused: the code and what to tell people.
#[derive(Debug)]
pub(crate) struct Refused {
    code: Code,
    detail: String,
    /// When it may be tried again, if that is known.
    retry_seconds: Option<u64>,
    /// The refusal itself, where it names what is not everybody's to see.
    naming: Option<Box<Refusal>>,
}

/// A refusal that names what is not everybody's to see, in the extensions of its answer.
#[derive(Clone, Debug)]
pub(super) struct Naming(pub(super) Box<Refusal>);

/// The code of a refusal, in the extensions of its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProblemCode(pub(super) &'static str);

codes! {
    /// Every problem there is. `docs/api.md` lists them; a code once given keeps its meaning.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    pub(super) enum Code {
        RouteNotFound,
        MethodNotAllowed,
        Malformed,
        TooLarge,
        NotJson,
        Invalid,
        VolumeNotFound,
        VolumeExists,
        VolumeAttached,
        VolumePublished,
        VolumePublishedOtherwise,
        PublicationOver,
        VolumeNotReady,
        MetadataRecovering,
        VolumeHasSnapshots,
        VolumeLarger,
        VolumeUnseen,
        SnapshotNotFound,
        SnapshotExists,
        SnapshotNotReady,
        SnapshotNotNewest,
        SnapshotHasClones,
        CloneChainTooLong,
        TooManySnapshots,
        LayersExhausted,
        GroupInProgress,
        GroupNotHeld,
        GroupFailed,
        GroupOver,
        VolumeUnfenced,
        StaleGeneration,
        StaleEpoch,
        ShardNotFound,
        ReplicaGone,
        NoRoom,
        OverCommitted,
        NodeNotFound,
        NodeNameTaken,
        NodeInUse,
        NodeUp,
        DiskNotFound,
        DiskElsewhere,
        DiskInUse,
        DiskServed,
        ClientDenied,
        ClientNotDenied,
        TargetNotFound,
        TargetExists,
        UnitNotFound,
        LunTaken,
        VolumeInTarget,
        VolumeMapped,
        InitiatorNotFound,
        ChapNotFound,
        SecretReused,
        ServerNotFound,
        ServerReplaced,
        ServerUp,
        ReservationsChanged,
        KeyReused,
        ObjectChanged,
        MatchNeeded,
        TaskNotFound,
        TaskNotCancelable,
        TooManyWatches,
        TimedOut,
        Stopping,
        NotLeader,
        NoLeader,
        LeadLost,
        MetadataUnavailable,
        OutcomeUnknown,
        MetadataFull,
        TooMuchAtOnce,
        CertificateRequired,
        RoleRefused,
        IdentityDenied,
        IdentityNotDenied,
        SpeaksForOther,
        NoAuthority,
        JoinTokenUnknown,
        JoinTokenExpired,
        JoinTokenUsed,
        JoinTokenOfOther,
        JoinTokenNotFound,
        Internal,
    } and Access(AccessCode)
}

impl Code {
    /// Code, title and status.
    pub(super) fn facts(self) -> (&'static str, &'static str, StatusCode) {
        use StatusCode as S;
        match self {
            Self::RouteNotFound => ("route-not-found", "No such route", S::NOT_FOUND),
            Self::MethodNotAllowed => (
                "method-not-allowed",
                "Method not allowed",
                S::METHOD_NOT_ALLOWED,
            ),
            Self::Malformed => (
                "malformed-request",
                "Request cannot be read",
                S::BAD_REQUEST,
            ),
            Self::TooLarge => ("body-too-large", "Body too large", S::PAYLOAD_TOO_LARGE),
            Self::NotJson => ("not-json", "Body is not JSON", S::UNSUPPORTED_MEDIA_TYPE),
            Self::Invalid => (
                "invalid-request",
                "Field out of range",
                S::UNPROCESSABLE_ENTITY,
            ),
            Self::VolumeNotFound => ("volume-not-found", "No such volume", S::NOT_FOUND),
            Self::VolumeExists => ("volume-exists", "Volume exists", S::CONFLICT),
            Self::VolumeAttached => ("volume-attached", "Volume is attached", S::CONFLICT),
            Self::VolumePublished => (
                "volume-published",
                "Volume is published to a node",
                S::CONFLICT,
            ),
            Self::VolumePublishedOtherwise => (
                "volume-published-otherwise",
                "Volume is published to that node with other rights",
                S::CONFLICT,
            ),
            Self::PublicationOver => ("publication-over", "Publication is over", S::CONFLICT),
            Self::VolumeNotReady => ("volume-not-ready", "Volume is not ready", S::CONFLICT),
            Self::VolumeHasSnapshots => {
                ("volume-has-snapshots", "Volume has snapshots", S::CONFLICT)
            }
            Self::VolumeLarger => ("volume-larger", "Volume is larger", S::CONFLICT),
            Self::VolumeUnseen => (
                "generation-needed",
                "Generation of the last attach is needed",
                S::CONFLICT,
            ),
            Self::SnapshotNotFound => ("snapshot-not-found", "No such snapshot", S::NOT_FOUND),
            Self::SnapshotExists => ("snapshot-exists", "Snapshot exists", S::CONFLICT),
            Self::MetadataRecovering => (
                "metadata-recovering",
                "Metadata are recovering",
                S::SERVICE_UNAVAILABLE,
            ),
            Self::SnapshotNotReady => ("snapshot-not-ready", "Snapshot is sealing", S::CONFLICT),
            Self::SnapshotNotNewest => (
                "snapshot-is-not-newest",
                "Snapshot is not the newest",
                S::CONFLICT,
            ),
            Self::SnapshotHasClones => ("snapshot-has-clones", "Snapshot has clones", S::CONFLICT),
            Self::CloneChainTooLong => (
                "clone-chain-too-long",
                "Too many clones of clones",
                S::CONFLICT,
            ),
            Self::TooManySnapshots => ("too-many-snapshots", "Too many snapshots", S::CONFLICT),
            Self::LayersExhausted => ("layers-exhausted", "Layers are used up", S::CONFLICT),
            Self::GroupInProgress => (
                "group-in-progress",
                "Volume is in a group of snapshots that is being made",
                S::CONFLICT,
            ),
            Self::GroupNotHeld => (
                "group-not-held",
                "Owners did not answer in time",
                S::CONFLICT,
            ),
            Self::GroupFailed => (
                "group-failed",
                "Snapshots are not of one moment",
                S::CONFLICT,
            ),
            Self::GroupOver => ("group-over", "Group of snapshots is over", S::CONFLICT),
            Self::VolumeUnfenced => (
                "volume-unfenced",
                "Denied client is not fenced yet",
                S::CONFLICT,
            ),
            Self::StaleGeneration => ("stale-generation", "Generation is over", S::CONFLICT),
            Self::StaleEpoch => ("stale-epoch", "Epoch is over", S::CONFLICT),
            Self::ShardNotFound => ("shard-not-found", "No such shard", S::NOT_FOUND),
            Self::ReplicaGone => ("replica-gone", "Replica is gone", S::CONFLICT),
            Self::NoRoom => (
                "no-placement",
                "No room for the replicas",
                S::INSUFFICIENT_STORAGE,
            ),
            Self::OverCommitted => (
                "over-committed",
                "More than may be promised",
                S::INSUFFICIENT_STORAGE,
            ),
            Self::NodeNotFound => ("node-not-found", "No such node", S::NOT_FOUND),
            Self::NodeNameTaken => ("node-name-taken", "Node name is taken", S::CONFLICT),
            Self::NodeInUse => ("node-in-use", "Node holds replicas", S::CONFLICT),
            Self::NodeUp => ("node-up", "Node is up", S::CONFLICT),
            Self::DiskNotFound => ("disk-not-found", "No such disk", S::NOT_FOUND),
            Self::DiskInUse => ("disk-in-use", "Disk holds replicas", S::CONFLICT),
            Self::DiskServed => ("disk-served", "Disk is served", S::CONFLICT),
            Self::DiskElsewhere => ("disk-elsewhere", "Disk is served elsewhere", S::CONFLICT),
            Self::ClientDenied => ("client-denied", "Client is denied", S::FORBIDDEN),
            Self::ClientNotDenied => ("client-not-denied", "Client is not denied", S::NOT_FOUND),
            Self::TargetNotFound => ("target-not-found", "No such target", S::NOT_FOUND),
            Self::TargetExists => ("target-exists", "Target exists", S::CONFLICT),
            Self::UnitNotFound => ("unit-not-found", "Target has no such LUN", S::NOT_FOUND),
            Self::LunTaken => ("lun-taken", "LUN is taken", S::CONFLICT),
            Self::VolumeInTarget => (
                "volume-in-target",
                "Target has the volume already",
                S::CONFLICT,
            ),
            Self::VolumeMapped => ("volume-mapped", "Volume is mapped in a target", S::CONFLICT),
            Self::InitiatorNotFound => (
                "initiator-not-found",
                "Target does not name the initiator",
                S::NOT_FOUND,
            ),
            Self::ChapNotFound => ("chap-not-found", "No such CHAP secret", S::NOT_FOUND),
            Self::SecretReused => (
                "chap-secret-reused",
                "Secret of both directions",
                S::CONFLICT,
            ),
            Self::ServerNotFound => ("server-not-found", "No such iSCSI server", S::NOT_FOUND),
            Self::ServerReplaced => ("server-replaced", "Another run serves", S::CONFLICT),
            Self::ServerUp => ("server-up", "iSCSI server is up", S::CONFLICT),
            Self::ReservationsChanged => (
                "reservations-changed",
                "Reservations have changed",
                S::PRECONDITION_FAILED,
            ),
            Self::KeyReused => (
                "idempotency-key-reused",
                "Idempotency key is that of another request",
                S::UNPROCESSABLE_ENTITY,
            ),
            Self::ObjectChanged => (
                "object-changed",
                "Object is not as the request says",
                S::PRECONDITION_FAILED,
            ),
            Self::MatchNeeded => (
                "if-match-needed",
                "Request must say which revision it is for",
                S::PRECONDITION_REQUIRED,
            ),
            Self::TaskNotFound => ("task-not-found", "No such task", S::NOT_FOUND),
            Self::TaskNotCancelable => (
                "task-not-cancelable",
                "Task cannot be called off",
                S::CONFLICT,
            ),
            Self::TooManyWatches => ("too-many-watches", "Too many watches", S::TOO_MANY_REQUESTS),
            Self::TimedOut => ("timed-out", "Request took too long", S::SERVICE_UNAVAILABLE),
            Self::Stopping => ("stopping", "Conductor is stopping", S::SERVICE_UNAVAILABLE),
            Self::NotLeader => (
                "not-leader",
                "Another conductor leads",
                S::TEMPORARY_REDIRECT,
            ),
            Self::NoLeader => ("no-leader", "No conductor leads", S::SERVICE_UNAVAILABLE),
            Self::LeadLost => (
                "lead-lost",
                "Conductor leads no more",
                S::SERVICE_UNAVAILABLE,
            ),
            Self::MetadataUnavailable => (
                "metadata-unavailable",
                "Metadata do not answer",
                S::SERVICE_UNAVAILABLE,
            ),
            Self::OutcomeUnknown => (
                "outcome-unknown",
                "Outcome is not known",
                S::SERVICE_UNAVAILABLE,
            ),
            Self::MetadataFull => (
                "metadata-full",
                "Metadata are full",
                S::INSUFFICIENT_STORAGE,
            ),
            Self::TooMuchAtOnce => (
                "too-much-at-once",
                "More than one transaction of the metadata takes",
                S::UNPROCESSABLE_ENTITY,
            ),
            Self::Access(code) => code.facts(),
            Self::CertificateRequired => (
                "certificate-required",
                "No certificate was shown",
                S::UNAUTHORIZED,
            ),
            Self::RoleRefused => ("role-refused", "Role may not ask this", S::FORBIDDEN),
            Self::IdentityDenied => ("identity-denied", "Node is denied", S::FORBIDDEN),
            Self::IdentityNotDenied => ("identity-not-denied", "Not denied", S::NOT_FOUND),
            Self::SpeaksForOther => ("speaks-for-other", "Node speaks for another", S::FORBIDDEN),
            Self::NoAuthority => ("no-authority", "Conductor has no authority", S::CONFLICT),
            Self::JoinTokenUnknown => (
                "join-token-unknown",
                "Join token is not known",
                S::UNAUTHORIZED,
            ),
            Self::JoinTokenExpired => (
                "join-token-expired",
                "Join token has expired",
                S::UNAUTHORIZED,
            ),
            Self::JoinTokenUsed => ("join-token-used", "Join token was used", S::UNAUTHORIZED),
            Self::JoinTokenOfOther => (
                "join-token-of-other",
                "Join token is for another node",
                S::FORBIDDEN,
            ),
            Self::JoinTokenNotFound => ("join-token-not-found", "No such join token", S::NOT_FOUND),
            Self::Internal => ("internal", "Conductor failed", S::INTERNAL_SERVER_ERROR),
        }
    }
}

impl Refused {
    fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            retry_seconds: None,
            naming: None,
        }
    }

    pub(super) fn no_route(path: &str) -> Self {
        Self::new(
            Code::RouteNotFound,
            format!("there is no route {path}: see docs/api.md"),
        )
    }

    pub(super) fn no_method(method: &Method, path: &str) -> Self {
        Self::new(
            Code::MethodNotAllowed,
            format!("{path} does not take {method}"),
        )
    }

    pub(super) fn malformed(detail: impl Into<String>) -> Self {
        Self::new(Code::Malformed, detail)
    }

    pub(super) fn too_large(most: usize) -> Self {
        Self::new(Code::TooLarge, format!("a body is at most {most} bytes"))
    }

    pub(super) fn not_json() -> Self {
        Self::new(
            Code::NotJson,
            "send the body with `Content-Type: application/json`",
        )
    }

    pub(super) fn no_match() -> Self {
        Self::new(
            Code::MatchNeeded,
            "it replaces the whole: read it first, and send `If-Match` with its `ETag`, or `*`",
        )
    }

    pub(super) fn no_volume(name: &str) -> Self {
        Refusal::from(VolumeRefusal::NotFound {
            name: name.to_owned(),
        })
        .into()
    }

    pub(super) fn too_many_watches(most: usize) -> Self {
        Self::new(
            Code::TooManyWatches,
            format!("{most} watches are open: try again later"),
        )
    }

    pub(super) fn timed_out() -> Self {
        Self::new(
            Code::TimedOut,
            "the request took too long and was given up: try again",
        )
    }

    pub(super) fn not_leader(leader: &str) -> Self {
        Self::new(
            Code::NotLeader,
            format!("this conductor does not lead: ask the one at {leader}"),
        )
    }

    pub(super) fn no_leader() -> Self {
        Self::new(
            Code::NoLeader,
            "no conductor leads at the moment: try again",
        )
    }

    /// It follows, and has not heard for so long whether there is anything new.
    pub(super) fn stale(age: Duration) -> Self {
        let detail = format!(
            "this conductor has not reached a majority of etcd for {} s, and may not know what has changed: \
             ask another one, or try again",
            age.as_secs()
        );
        Self::new(Code::NoLeader, detail)
    }

    pub(super) fn no_certificate() -> Self {
        Self::new(
            Code::CertificateRequired,
            "show a certificate of the cluster: a node gets one with a join token, see \
             `ashlar node token create`",
        )
    }

    pub(super) fn wrong_role(role: NodeRole, roles: &[NodeRole]) -> Self {
        let words: Vec<&str> = roles.iter().map(|role| role.word()).collect();
        let words = words.join(" or ");
        Self::new(
            Code::RoleRefused,
            format!("a {role} may not ask this: it is for a {words}"),
        )
    }

    pub(super) fn no_authority() -> Self {
        Self::new(
            Code::NoAuthority,
            "this conductor has not the key of the cluster's authority: give it --identity-dir with \
             what `ashlar cluster init` made",
        )
    }

    pub(super) fn no_randomness() -> Self {
        Self::new(Code::Internal, "the system gives no random numbers")
    }

    /// Its code.
    pub(super) fn code(&self) -> &'static str {
        self.code.facts().0
    }

    pub(super) fn stopping() -> Self {
        Self::new(
            Code::Stopping,
            "the conductor is stopping: try again in a moment",
        )
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        let code = match &refusal {
            Refusal::Invalid(_) => Code::Invalid,
            Refusal::Placement(_) | Refusal::Space(SpaceRefusal::NotKept { .. }) => Code::NoRoom,
            Refusal::Space(SpaceRefusal::OverCommitted { .. }) => Code::OverCommitted,
            Refusal::Volume(refusal) => match refusal {
                VolumeRefusal::NotFound { .. } => Code::VolumeNotFound,
                VolumeRefusal::Exists { .. } => Code::VolumeExists,
                VolumeRefusal::Attached { .. } => Code::VolumeAttached,
                VolumeRefusal::Published { .. } => Code::VolumePublished,
                VolumeRefusal::PublishedOtherwise { .. } => Code::VolumePublishedOtherwise,
                VolumeRefusal::PublicationOver { .. } => Code::PublicationOver,
                VolumeRefusal::NotReady { .. } => Code::VolumeNotReady,
                VolumeRefusal::Recovering { .. } => Code::MetadataRecovering,
                VolumeRefusal::StaleGeneration { .. } | VolumeRefusal::OtherVolume { .. } => {
                    Code::StaleGeneration
                }
                VolumeRefusal::StaleEpoch { .. } => Code::StaleEpoch,
                VolumeRefusal::NoSuchShard { .. } => Code::ShardNotFound,
                VolumeRefusal::ReplicaGone { .. } => Code::ReplicaGone,
            },
            Refusal::Snapshot(refusal) => match refusal {
                SnapshotRefusal::NotFound { .. } => Code::SnapshotNotFound,
                SnapshotRefusal::Exists { .. } => Code::SnapshotExists,
                SnapshotRefusal::NotReady { .. } => Code::SnapshotNotReady,
                SnapshotRefusal::NotNewest { .. } => Code::SnapshotNotNewest,
                SnapshotRefusal::HasClones { .. } => Code::SnapshotHasClones,
                SnapshotRefusal::ChainTooLong { .. } => Code::CloneChainTooLong,
                SnapshotRefusal::TooMany { .. } => Code::TooManySnapshots,
                SnapshotRefusal::TooManyRuns { .. } | SnapshotRefusal::Exhausted { .. } => {
                    Code::LayersExhausted
                }
                SnapshotRefusal::OfVolume { .. } => Code::VolumeHasSnapshots,
            },
            Refusal::Group(refusal) => match refusal {
                GroupRefusal::Twice { .. } => Code::Invalid,
                GroupRefusal::InProgress { .. } => Code::GroupInProgress,
                GroupRefusal::Unfenced { .. } => Code::VolumeUnfenced,
                GroupRefusal::Silent { .. } => Code::GroupNotHeld,
                GroupRefusal::Changed { .. } | GroupRefusal::Broken { .. } => Code::GroupFailed,
                GroupRefusal::Over => Code::GroupOver,
            },
            Refusal::Resize(refusal) => match refusal {
                ResizeRefusal::Smaller { .. } => Code::VolumeLarger,
                ResizeRefusal::Unseen { .. } => Code::VolumeUnseen,
                ResizeRefusal::HasSnapshots { .. } => Code::VolumeHasSnapshots,
            },
            Refusal::Node(refusal) => match refusal {
                NodeRefusal::NotFound { .. } | NodeRefusal::Unknown { .. } => Code::NodeNotFound,
                NodeRefusal::InUse { .. } => Code::NodeInUse,
                NodeRefusal::IsUp { .. } => Code::NodeUp,
                NodeRefusal::NameTaken { .. } => Code::NodeNameTaken,
                NodeRefusal::DiskElsewhere { .. } => Code::DiskElsewhere,
            },
            Refusal::Disk(refusal) => match refusal {
                DiskRefusal::NotFound { .. } => Code::DiskNotFound,
                DiskRefusal::InUse { .. } => Code::DiskInUse,
                DiskRefusal::IsServed { .. } => Code::DiskServed,
            },
            Refusal::Client(refusal) => match refusal {
                ClientRefusal::Denied { .. } => Code::ClientDenied,
                ClientRefusal::NotDenied { .. } => Code::ClientNotDenied,
            },
            Refusal::Target(refusal) => code_of_target(refusal),
            Refusal::Server(refusal) => match refusal {
                ServerRefusal::NotFound { .. } => Code::ServerNotFound,
                ServerRefusal::Replaced { .. } => Code::ServerReplaced,
                ServerRefusal::IsUp { .. } => Code::ServerUp,
            },
            Refusal::Reservations(ReservationsRefusal::Changed { .. }) => Code::ReservationsChanged,
            Refusal::Access(refusal) => Code::Access(code_of(refusal)),
            Refusal::Identity(refusal) => code_of_identity(refusal),
            Refusal::Condition(refusal) => match refusal {
                ConditionRefusal::KeyReused => Code::KeyReused,
                ConditionRefusal::Changed { .. } | ConditionRefusal::Gone => Code::ObjectChanged,
            },
            Refusal::Task(refusal) => match refusal {
                TaskRefusal::NotFound { .. } => Code::TaskNotFound,
                TaskRefusal::NotCancelable { .. } => Code::TaskNotCancelable,
            },
        };
        let retry_seconds = match &refusal {
            Refusal::Access(AccessRefusal::TooOften { seconds }) => Some(*seconds),
            _ => None,
        };
        let detail = refusal.to_string();
        let is_naming = refusal.names_volumes();
        Self {
            retry_seconds,
            naming: is_naming.then(|| Box::new(refusal)),
            ..Self::new(code, detail)
        }
    }
}

fn code_of_identity(refusal: &IdentityRefusal) -> Code {
    match refusal {
        IdentityRefusal::TokenUnknown => Code::JoinTokenUnknown,
        IdentityRefusal::TokenExpired { .. } => Code::JoinTokenExpired,
        IdentityRefusal::TokenUsed { .. } => Code::JoinTokenUsed,
        IdentityRefusal::TokenOfOther { .. } | IdentityRefusal::NameKnown { .. } => {
            Code::JoinTokenOfOther
        }
        IdentityRefusal::TokenNotFound { .. } => Code::JoinTokenNotFound,
        IdentityRefusal::Denied { .. } => Code::IdentityDenied,
        IdentityRefusal::NotDenied { .. } => Code::IdentityNotDenied,
        IdentityRefusal::Ttl | IdentityRefusal::Serial { .. } => Code::Invalid,
        IdentityRefusal::SpeaksForOther { .. } => Code::SpeaksForOther,
    }
}

fn code_of_target(refusal: &TargetRefusal) -> Code {
    match refusal {
        TargetRefusal::NotFound { .. } => Code::TargetNotFound,
        TargetRefusal::Exists { .. } => Code::TargetExists,
        TargetRefusal::NoUnit { .. } => Code::UnitNotFound,
        TargetRefusal::LunTaken { .. } => Code::LunTaken,
        TargetRefusal::Mapped { .. } => Code::VolumeInTarget,
        TargetRefusal::VolumeMapped { .. } => Code::VolumeMapped,
        TargetRefusal::NotAllowed { .. } => Code::InitiatorNotFound,
        TargetRefusal::NoChap { .. } | TargetRefusal::NoDiscoveryChap => Code::ChapNotFound,
        TargetRefusal::SecretReused { .. } | TargetRefusal::DiscoverySecretReused => {
            Code::SecretReused
        }
    }
}

fn code_of_etcd(error: &EtcdError) -> Code {
    match error {
        EtcdError::Unavailable { .. } => Code::MetadataUnavailable,
        EtcdError::OutcomeUnknown { .. } => Code::OutcomeUnknown,
        EtcdError::Full => Code::MetadataFull,
        EtcdError::TooManyRows { .. } | EtcdError::TooLarge { .. } => Code::TooMuchAtOnce,
        _ => Code::Internal,
    }
}

impl From<ClusterError> for Refused {
    fn from(error: ClusterError) -> Self {
        match error {
            ClusterError::Refused(refusal) => refusal.into(),
            ClusterError::Stopping => Self::stopping(),
            // It led when the request came; a part of it may have been done.
            ClusterError::NotLeader { .. } => Self::new(
                Code::LeadLost,
                "this conductor leads no more, and may have done a part of this: look before you \
                 repeat it",
            ),
            ClusterError::Meta(MetaError::Etcd(error)) => {
                tracing::error!(%error, "a request failed");
                Self::new(code_of_etcd(&error), error.to_string())
            }
            ClusterError::Contended => Self::new(Code::TimedOut, error.to_string()),
            ClusterError::Meta(_) | ClusterError::Row(_) => {
                tracing::error!(%error, "a request failed");
                Self::new(Code::Internal, error.to_string())
            }
        }
    }
}

impl From<NotMade> for Refused {
    fn from(error: NotMade) -> Self {
        match error {
            NotMade::Cluster(error) => error.into(),
            NotMade::Key(error) => {
                tracing::error!(%error, "a request failed");
                Self::new(Code::Internal, error.to_string())
            }
        }
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let (code, title, status) = refused.code.facts();
        Self {
            kind: format!("urn:ashlar:problem:{code}"),
            title: title.to_owned(),
            status: status.as_u16(),
            detail: refused.detail,
            code: code.to_owned(),
        }
    }
}

impl From<ClusterError> for Problem {
    fn from(error: ClusterError) -> Self {
        Refused::from(error).into()
    }
}

impl IntoResponse for Refused {
    fn into_response(mut self) -> Response {
        let (code, _, status) = self.code.facts();
        let (retry_seconds, naming) = (self.retry_seconds, self.naming.take());
        let problem = Problem::from(self);
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let json = HeaderValue::from_static("application/problem+json");
        let mut response = (status, [(header::CONTENT_TYPE, json)], body).into_response();
        let headers = response.headers_mut();
        if status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer realm=\"ashlar\"");
            headers.insert(header::WWW_AUTHENTICATE, scheme);
        }
        if let Some(seconds) = retry_seconds {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response.extensions_mut().insert(ProblemCode(code));
        if let Some(refusal) = naming {
            response.extensions_mut().insert(Naming(refusal));
        }
        response
    }
}
