//! As whom somebody has attached a volume: what was shown, whatever name it gives itself.

use ashlar_proto::api::IdentitySubject;
use serde::{Deserialize, Serialize};

/// See the module. Nothing is known of who has shown nothing, nor of an attach that an older build granted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AttachedAs {
    /// The node of the certificate that its connection was opened with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<String>,
    /// That certificate's serial number, in hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) serial: Option<String>,
    /// The user of the key or token that it has shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<String>,
}

impl AttachedAs {
    /// Itself, unless it says nothing.
    pub(crate) fn known(self) -> Option<Self> {
        (self != Self::default()).then_some(self)
    }

    /// Whether that subject is it.
    pub(crate) fn is_of(&self, subject: &IdentitySubject) -> bool {
        match subject {
            IdentitySubject::Node(name) => self.node.as_ref() == Some(name),
            IdentitySubject::Serial(serial) => self.serial.as_ref() == Some(serial),
        }
    }

    /// The names by which it is known.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        [&self.node, &self.user]
            .into_iter()
            .filter_map(|name| name.as_deref())
    }
}
