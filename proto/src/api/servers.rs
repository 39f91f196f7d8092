//! iSCSI servers of a cluster: who they are, where initiators reach them, and which of them serves a
//! volume.
//!
//! A server is known by its name, and has one portal group for ever. Each run of it is another owner:
//! what an earlier run had attached, the run that is there now does not have.

use serde::{Deserialize, Serialize};

use super::{is_false, is_no_count};
use crate::ids::{Generation, VolumeId};
use crate::iscsi::PortalGroup;

/// An iSCSI server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct IscsiServer {
    /// Its name.
    pub name: String,
    /// Its portal group, which no other server has.
    pub group: PortalGroup,
    /// Where initiators reach it, as they are told: `HOST:PORT`, an IPv6 address in brackets.
    pub portals: Vec<String>,
    /// What its last run says of itself when it attaches volumes.
    pub owner: String,
    /// Whether it is heard.
    pub up: bool,
}

/// `POST /v1/iscsi/servers`: a run of a server says that it is there. It takes the place of an earlier
/// run of that name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RegisterServer {
    /// See [`IscsiServer::name`]: 1 to 63 of `a-z 0-9 . _ -`, beginning with a letter or
    /// digit.
    pub name: String,
    /// See [`IscsiServer::portals`].
    pub portals: Vec<String>,
    /// See [`IscsiServer::owner`].
    pub owner: String,
}

/// The answer to [`RegisterServer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ServerRegistered {
    /// Its portal group.
    pub group: PortalGroup,
    /// How often to send a heartbeat.
    pub heartbeat_ms: u64,
}

/// `POST /v1/iscsi/servers/{group}/heartbeat`: that run still serves. Refused once another run has taken
/// its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ServerHeartbeat {
    /// As it registered.
    pub owner: String,
    /// It ends: whoever waits for it need not.
    #[serde(default, skip_serializing_if = "is_false")]
    pub leaving: bool,
}

/// That an iSCSI server attaches. It takes a volume from no other server that is heard, not with
/// [`super::AttachRequest::force`] either, unless `take` says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct AttachServer {
    /// Its portal group.
    pub group: PortalGroup,
    /// From whom it takes the volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub take: Option<TakeVolume>,
}

/// Takes a volume from an iSCSI server, if nobody has taken it since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct TakeVolume {
    /// The generation of the attach that is to end. Any other is refused with `stale-generation`.
    pub generation: Generation,
    /// Somebody asked for it, so that the volume is taken from a server that is heard, too.
    #[serde(default, skip_serializing_if = "is_false")]
    pub asked: bool,
}

/// What iSCSI servers need to know of a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VolumeService {
    /// The server that has it attached, or whose earlier run has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<PortalGroup>,
    /// The server that is to have it next: who has it lets it go, and nobody else attaches it meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted_by: Option<PortalGroup>,
    /// Counts the changes of its persistent reservations.
    #[serde(default, skip_serializing_if = "is_no_count")]
    pub reservations: u64,
}

impl VolumeService {
    /// Whether it says nothing.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// `POST /v1/volumes/{name}/hand-over`: asks who has the volume attached in that generation to let it go
/// to another server. Nobody must rely on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct HandOver {
    /// The volume: another may have its name since.
    pub volume: VolumeId,
    /// The generation of the attach that is to end.
    pub generation: Generation,
    /// Who is to have it next.
    pub to: PortalGroup,
}

/// `POST /v1/volumes/{name}/reservations/confirm`: who has the volume attached in that generation goes by
/// that version of its reservations: nothing that came by an earlier one has any effect later than this
/// version allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ConfirmReservations {
    /// The volume: another may have its name since.
    pub volume: VolumeId,
    /// The generation of its attach.
    pub generation: Generation,
    /// The version that it goes by.
    pub version: u64,
}

/// `GET /v1/volumes/{name}/reservations/confirmed?version=V&wait_ms=N`: whether whoever serves the volume
/// goes by that version, or a later one; waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ReservationsConfirmed {
    /// Whether it does, or nobody serves it.
    pub confirmed: bool,
}
