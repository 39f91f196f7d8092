//! The codes of problems: all of them, and those that requests of one form have in common.

use super::auth::AccessCode;
use super::problem::Code;

/// An enum of codes, and all of them in their order, `LISTED`: none is told of without being there, nor is one
/// there that is not told of. Those that are elsewhere defined come after.
macro_rules! codes {
    (
        $(#[$about:meta])*
        $visible:vis enum $name:ident { $($code:ident,)* } $(and $others:ident($inner:ty))?
    ) => {
        $(#[$about])*
        $visible enum $name { $($code,)* $($others($inner),)? }

        impl $name {
            /// All that are defined here.
            pub(crate) const LISTED: &'static [Self] = &[$(Self::$code,)*];
        }
    };
}
pub(crate) use codes;

impl Code {
    /// All, in their order.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        let access = AccessCode::LISTED.iter().copied();
        // For people it is the other one.
        let access = access
            .filter(|code| *code != AccessCode::Invalid)
            .map(Self::Access);
        Self::LISTED.iter().copied().chain(access)
    }

    /// Of any request under `/v1`.
    pub(super) const OF_ANY: [Self; 20] = [
        Self::Access(AccessCode::NotAuthenticated),
        Self::Access(AccessCode::CredentialsRefused),
        Self::Access(AccessCode::CredentialsExpired),
        Self::Access(AccessCode::CredentialsRevoked),
        Self::Access(AccessCode::UserDenied),
        Self::Access(AccessCode::TooManyFailures),
        Self::Access(AccessCode::HostNotPermitted),
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
    pub(super) const OF_VOLUME: [Self; 9] = [
        Self::VolumeNotFound,
        Self::VolumeNotReady,
        Self::MetadataRecovering,
        Self::VolumeAttached,
        Self::VolumePublished,
        Self::PublicationOver,
        Self::StaleGeneration,
        Self::GroupInProgress,
        Self::VolumeUnfenced,
    ];

    /// Of volumes that are made or grow.
    pub(super) const OF_PLACEMENT: [Self; 5] = [
        Self::MetadataRecovering,
        Self::NoRoom,
        Self::OverCommitted,
        Self::Access(AccessCode::ProjectNotFound),
        Self::Access(AccessCode::QuotaExceeded),
    ];
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_code_is_told_of_once() {
        let told: Vec<&str> = Code::all().map(|code| code.facts().0).collect();
        let different: BTreeSet<&str> = told.iter().copied().collect();
        assert_eq!(told.len(), different.len());
        assert_eq!(
            told.len(),
            Code::LISTED.len() + AccessCode::LISTED.len() - 1
        );
        assert_eq!(AccessCode::Invalid.facts().0, Code::Invalid.facts().0);
    }
}
