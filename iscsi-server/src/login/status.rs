//! Why logins are refused, and how that is told (RFC 7143 section 11.13.5).

/// A refusal; its code is the status class and detail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LoginStatus {
    /// The request does not follow the rules.
    #[error("login does not follow the protocol")]
    InitiatorError,
    /// The initiator did not prove who it is, or begins where it has not yet.
    #[error("authentication failed")]
    AuthenticationFailure,
    /// The target is not for this initiator.
    #[error("this initiator may not use the target")]
    Forbidden,
    /// There is no such target.
    #[error("there is no such target")]
    NotFound,
    /// The initiator speaks other versions only.
    #[error("initiator asks for a protocol version that is not known")]
    UnsupportedVersion,
    /// The session has all the connections that it may have.
    #[error("session has as many connections as it may have")]
    TooManyConnections,
    /// A name is missing.
    #[error("login lacks a key that it must have")]
    MissingParameter,
    /// There are no sessions of this type.
    #[error("session type is not known")]
    SessionType,
    /// There is no session of this TSIH.
    #[error("session to be joined does not exist")]
    NoSession,
    /// A request that makes no sense in the stage that the login is in.
    #[error("request is not valid during login")]
    InvalidRequest,
    /// Something failed here.
    #[error("target failed")]
    TargetError,
    /// It cannot be served now.
    #[error("target is not available now")]
    Unavailable,
}

impl LoginStatus {
    /// Class and detail.
    pub(crate) fn code(self) -> u16 {
        match self {
            Self::InitiatorError => 0x0200,
            Self::AuthenticationFailure => 0x0201,
            Self::Forbidden => 0x0202,
            Self::NotFound => 0x0203,
            Self::UnsupportedVersion => 0x0205,
            Self::TooManyConnections => 0x0206,
            Self::MissingParameter => 0x0207,
            Self::SessionType => 0x0209,
            Self::NoSession => 0x020a,
            Self::InvalidRequest => 0x020b,
            Self::TargetError => 0x0300,
            Self::Unavailable => 0x0301,
        }
    }
}
