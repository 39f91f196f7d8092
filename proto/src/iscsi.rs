//! What names things in iSCSI: nodes, their ports, groups of initiators, logical units.

mod group;
mod initiators;
mod lun;
mod name;
mod port;

pub use group::{ParseGroupError, PortalGroup};
pub use initiators::{InitiatorPattern, ParsePatternError};
pub use lun::{Lun, ParseLunError};
pub use name::{IscsiName, ParseIscsiNameError};
pub use port::{InitiatorPort, ParsePortError};

/// Text forms for serde: a text that does not parse is refused as the type itself refuses it.
macro_rules! text_form {
    ($name:ident) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
use text_form;
