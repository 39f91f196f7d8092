//! Why iSCSI servers cannot be taken in, heard or forgotten.

/// A server is not taken in, heard or forgotten.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServerRefusal {
    #[error("there is no iSCSI server `{server}`: see `ashlar target servers`")]
    NotFound { server: String },
    #[error(
        "another run of the iSCSI server `{name}` has taken the place of this one: give each server a \
         --name of its own"
    )]
    Replaced { name: String },
    #[error("iSCSI server `{name}` is up: stop it first")]
    IsUp { name: String },
}
