//! The codes of problems: all of them, and those that requests of one form have in common.

use super::auth::AccessCode;
use super::problem::Code;

impl Code {
    /// All, in their order.
    pub(super) const ALL: &'static [Self] = &[
        Self::RouteNotFound,
        Self::MethodNotAllowed,
        Self::Malformed,
        Self::TooLarge,
        Self::NotJson,
        Self::Invalid,
        Self::VolumeNotFound,
        Self::VolumeExists,
        Self::VolumeAttached,
        Self::VolumeNotReady,
        Self::VolumeHasSnapshots,
        Self::VolumeLarger,
        Self::VolumeUnseen,
        Self::SnapshotNotFound,
        Self::SnapshotExists,
        Self::SnapshotNotReady,
        Self::SnapshotNotNewest,
        Self::SnapshotHasClones,
        Self::CloneChainTooLong,
        Self::TooManySnapshots,
        Self::LayersExhausted,
        Self::GroupInProgress,
        Self::GroupNotHeld,
        Self::GroupFailed,
        Self::GroupOver,
        Self::VolumeUnfenced,
        Self::StaleGeneration,
        Self::StaleEpoch,
        Self::ShardNotFound,
        Self::ReplicaGone,
        Self::NoRoom,
        Self::OverCommitted,
        Self::NodeNotFound,
        Self::NodeNameTaken,
        Self::NodeInUse,
        Self::NodeUp,
        Self::DiskNotFound,
        Self::DiskElsewhere,
        Self::DiskInUse,
        Self::DiskServed,
        Self::ClientDenied,
        Self::ClientNotDenied,
        Self::TargetNotFound,
        Self::TargetExists,
        Self::UnitNotFound,
        Self::LunTaken,
        Self::VolumeInTarget,
        Self::VolumeMapped,
        Self::InitiatorNotFound,
        Self::ChapNotFound,
        Self::SecretReused,
        Self::ServerNotFound,
        Self::ServerReplaced,
        Self::ServerUp,
        Self::ReservationsChanged,
        Self::KeyReused,
        Self::ObjectChanged,
        Self::MatchNeeded,
        Self::TaskNotFound,
        Self::TaskNotCancelable,
        Self::TooManyWatches,
        Self::TimedOut,
        Self::Stopping,
        Self::NotLeader,
        Self::NoLeader,
        Self::LeadLost,
        Self::MetadataUnavailable,
        Self::OutcomeUnknown,
        Self::MetadataFull,
        Self::TooMuchAtOnce,
        Self::CertificateRequired,
        Self::RoleRefused,
        Self::IdentityDenied,
        Self::IdentityNotDenied,
        Self::SpeaksForOther,
        Self::NoAuthority,
        Self::JoinTokenUnknown,
        Self::JoinTokenExpired,
        Self::JoinTokenUsed,
        Self::JoinTokenOfOther,
        Self::JoinTokenNotFound,
        Self::Internal,
        Self::Access(AccessCode::NotAuthenticated),
        Self::Access(AccessCode::CredentialsRefused),
        Self::Access(AccessCode::CredentialsExpired),
        Self::Access(AccessCode::CredentialsRevoked),
        Self::Access(AccessCode::UserDenied),
        Self::Access(AccessCode::TooManyFailures),
        Self::Access(AccessCode::NotPermitted),
        Self::Access(AccessCode::ProjectNotPermitted),
        Self::Access(AccessCode::VolumeKeyNeeded),
        Self::Access(AccessCode::UserNotFound),
        Self::Access(AccessCode::UserExists),
        Self::Access(AccessCode::LastAdmin),
        Self::Access(AccessCode::KeyNotFound),
        Self::Access(AccessCode::ProjectNotFound),
        Self::Access(AccessCode::ProjectExists),
        Self::Access(AccessCode::ProjectInUse),
        Self::Access(AccessCode::QuotaExceeded),
    ];

    /// Of any request under `/v1`.
    pub(super) const OF_ANY: [Self; 19] = [
        Self::Access(AccessCode::NotAuthenticated),
        Self::Access(AccessCode::CredentialsRefused),
        Self::Access(AccessCode::CredentialsExpired),
        Self::Access(AccessCode::CredentialsRevoked),
        Self::Access(AccessCode::UserDenied),
        Self::Access(AccessCode::TooManyFailures),
        Self::Access(AccessCode::NotPermitted),
        Self::Access(AccessCode::ProjectNotPermitted),
        Self::CertificateRequired,
        Self::RoleRefused,
        Self::IdentityDenied,
        Self::TimedOut,
        Self::Stopping,
        Self::NotLeader,
        Self::NoLeader,
        Self::LeadLost,
        Self::MetadataUnavailable,
        Self::OutcomeUnknown,
        Self::Internal,
    ];

    /// Of requests with a body.
    pub(super) const OF_BODIES: [Self; 4] = [
        Self::Malformed,
        Self::TooLarge,
        Self::NotJson,
        Self::Invalid,
    ];

    /// Of requests that change something.
    pub(super) const OF_CHANGES: [Self; 2] = [Self::MetadataFull, Self::TooMuchAtOnce];

    /// Of requests that are known when they are sent again, or say which revision they are for.
    pub(super) const OF_CONDITIONS: [Self; 4] = [
        Self::Malformed,
        Self::TooLarge,
        Self::KeyReused,
        Self::ObjectChanged,
    ];

    /// Of changes of one volume.
    pub(super) const OF_VOLUME: [Self; 6] = [
        Self::VolumeNotFound,
        Self::VolumeNotReady,
        Self::VolumeAttached,
        Self::StaleGeneration,
        Self::GroupInProgress,
        Self::VolumeUnfenced,
    ];

    /// Of volumes that are made or grow.
    pub(super) const OF_PLACEMENT: [Self; 3] = [
        Self::NoRoom,
        Self::OverCommitted,
        Self::Access(AccessCode::QuotaExceeded),
    ];
}
