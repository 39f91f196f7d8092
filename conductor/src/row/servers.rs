//! The rows of iSCSI servers.

use ashlar_proto::PortalGroup;
use serde::{Deserialize, Serialize};

use crate::meta::Key;

/// An iSCSI server; no two have one name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ServerRow {
    pub(crate) group: PortalGroup,
    pub(crate) name: String,
    pub(crate) portals: Vec<String>,
    /// What its last run says of itself when it attaches volumes.
    pub(crate) owner: String,
    pub(crate) up: bool,
}

pub(crate) fn server_key(group: PortalGroup) -> Key {
    Key::new(format!("iscsi-server/{:04x}", group.get()))
}
