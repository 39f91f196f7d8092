//! Target portal groups.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The tag of a target portal group (RFC 7143 section 4.4.1): 1 to 65535. Each iSCSI server has one for
/// all of its portals; it is the relative identifier of its port and the number of its target port group
/// as well (SPC-4 sections 3.1.115 and 5.15).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct PortalGroup(NonZeroU16);

impl PortalGroup {
    /// The group of a server that is alone.
    pub const FIRST: Self = Self(NonZeroU16::MIN);

    /// The group of that number, if there may be such a one.
    #[must_use]
    pub const fn new(raw: u16) -> Option<Self> {
        match NonZeroU16::new(raw) {
            Some(raw) => Some(Self(raw)),
            None => None,
        }
    }

    /// The raw number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0.get()
    }
}

/// There is no such group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a portal group is a number from 1 to 65535")]
pub struct ParseGroupError;

impl FromStr for PortalGroup {
    type Err = ParseGroupError;

    fn from_str(text: &str) -> Result<Self, ParseGroupError> {
        let raw = text.parse().map_err(|_| ParseGroupError)?;
        Self::new(raw).ok_or(ParseGroupError)
    }
}

impl fmt::Display for PortalGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_begin_with_one() {
        assert_eq!(
            "65535".parse::<PortalGroup>().map(PortalGroup::get),
            Ok(65535)
        );
        for text in ["0", "65536", "-1", "", "x"] {
            assert_eq!(text.parse::<PortalGroup>(), Err(ParseGroupError), "{text}");
        }
        assert!(serde_json::from_str::<PortalGroup>("0").is_err());
        assert_eq!(serde_json::to_string(&PortalGroup::FIRST).unwrap(), "1");
    }
}
