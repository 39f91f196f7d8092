//! The codes of problems of access: 401 where who asks is not known, 403 where that one may not.

use axum::http::StatusCode;

use crate::http::codes::codes;
use crate::refusal::AccessRefusal;

codes! {
    /// See the module. A code once given keeps its meaning.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    pub(crate) enum AccessCode {
        NotAuthenticated,
        CredentialsRefused,
        CredentialsExpired,
        CredentialsRevoked,
        UserDenied,
        TooManyFailures,
        HostNotPermitted,
        NotPermitted,
        ProjectNotPermitted,
        VolumeKeyNeeded,
        UserNotFound,
        UserExists,
        LastAdmin,
        KeyNotFound,
        ProjectNotFound,
        ProjectExists,
        ProjectInUse,
        QuotaExceeded,
        Invalid,
    }
}

impl AccessCode {
    /// Code, title and status.
    pub(crate) fn facts(self) -> (&'static str, &'static str, StatusCode) {
        use StatusCode as S;
        match self {
            Self::NotAuthenticated => (
                "not-authenticated",
                "Who asks is not known",
                S::UNAUTHORIZED,
            ),
            Self::CredentialsRefused => (
                "credentials-refused",
                "Key or token is wrong",
                S::UNAUTHORIZED,
            ),
            Self::CredentialsExpired => (
                "credentials-expired",
                "Key or token has ended",
                S::UNAUTHORIZED,
            ),
            Self::CredentialsRevoked => (
                "credentials-revoked",
                "Key or token was revoked",
                S::UNAUTHORIZED,
            ),
            Self::UserDenied => ("user-denied", "User is denied", S::UNAUTHORIZED),
            Self::TooManyFailures => (
                "too-many-failures",
                "Too many wrong keys and tokens",
                S::TOO_MANY_REQUESTS,
            ),
            Self::HostNotPermitted => (
                "host-not-permitted",
                "Asked by a name that is not the conductor's",
                S::FORBIDDEN,
            ),
            Self::NotPermitted => ("not-permitted", "Role does not reach that", S::FORBIDDEN),
            Self::ProjectNotPermitted => {
                ("project-not-permitted", "Not in that project", S::FORBIDDEN)
            }
            Self::VolumeKeyNeeded => ("volume-key-needed", "Volume has a key", S::FORBIDDEN),
            Self::UserNotFound => ("user-not-found", "No such user", S::NOT_FOUND),
            Self::UserExists => ("user-exists", "User exists", S::CONFLICT),
            Self::LastAdmin => ("last-admin", "Last admin", S::CONFLICT),
            Self::KeyNotFound => ("key-not-found", "No such key", S::NOT_FOUND),
            Self::ProjectNotFound => ("project-not-found", "No such project", S::NOT_FOUND),
            Self::ProjectExists => ("project-exists", "Project exists", S::CONFLICT),
            Self::ProjectInUse => ("project-in-use", "Project has volumes", S::CONFLICT),
            Self::QuotaExceeded => ("quota-exceeded", "Quota of the project", S::CONFLICT),
            Self::Invalid => (
                "invalid-request",
                "Field out of range",
                S::UNPROCESSABLE_ENTITY,
            ),
        }
    }
}

/// The code of a refusal.
pub(crate) fn code_of(refusal: &AccessRefusal) -> AccessCode {
    match refusal {
        AccessRefusal::NotKnown => AccessCode::NotAuthenticated,
        AccessRefusal::Wrong => AccessCode::CredentialsRefused,
        AccessRefusal::Expired => AccessCode::CredentialsExpired,
        AccessRefusal::Revoked => AccessCode::CredentialsRevoked,
        AccessRefusal::UserDenied { .. } => AccessCode::UserDenied,
        AccessRefusal::TooOften { .. } => AccessCode::TooManyFailures,
        AccessRefusal::ForeignHost { .. } => AccessCode::HostNotPermitted,
        AccessRefusal::Role { .. } | AccessRefusal::TokenByToken => AccessCode::NotPermitted,
        AccessRefusal::OtherProject { .. } | AccessRefusal::NotWhole { .. } => {
            AccessCode::ProjectNotPermitted
        }
        AccessRefusal::VolumeKey { .. } => AccessCode::VolumeKeyNeeded,
        AccessRefusal::NoUser { .. } => AccessCode::UserNotFound,
        AccessRefusal::UserExists { .. } => AccessCode::UserExists,
        AccessRefusal::LastAdmin { .. } => AccessCode::LastAdmin,
        AccessRefusal::NoKey { .. } => AccessCode::KeyNotFound,
        AccessRefusal::NoProject { .. } => AccessCode::ProjectNotFound,
        AccessRefusal::ProjectExists { .. } => AccessCode::ProjectExists,
        AccessRefusal::ProjectInUse { .. } => AccessCode::ProjectInUse,
        AccessRefusal::QuotaBytes { .. } | AccessRefusal::QuotaVolumes { .. } => {
            AccessCode::QuotaExceeded
        }
        AccessRefusal::TokenOfNobody
        | AccessRefusal::TokenTime { .. }
        | AccessRefusal::TokenId { .. }
        | AccessRefusal::DefaultProject { .. } => AccessCode::Invalid,
    }
}
