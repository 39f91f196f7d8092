//! Logical unit numbers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::limits::LUN_MAX;

/// The number of a logical unit of a target: 0 to [`LUN_MAX`], what the flat space addressing of
/// SAM-5 section 4.7.7.3 reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Lun(u16);

impl Lun {
    /// The first that is given where none is asked for.
    pub const FIRST: Self = Self(1);

    /// The number, if there may be such a one.
    ///
    /// # Errors
    /// [`ParseLunError`] beyond [`LUN_MAX`].
    pub fn new(raw: u16) -> Result<Self, ParseLunError> {
        if raw <= LUN_MAX {
            Ok(Self(raw))
        } else {
            Err(ParseLunError)
        }
    }

    /// The raw number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

/// There is no such number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a LUN is a number from 0 to {LUN_MAX}")]
pub struct ParseLunError;

impl TryFrom<u16> for Lun {
    type Error = ParseLunError;

    fn try_from(raw: u16) -> Result<Self, ParseLunError> {
        Self::new(raw)
    }
}

impl From<Lun> for u16 {
    fn from(lun: Lun) -> Self {
        lun.0
    }
}

impl FromStr for Lun {
    type Err = ParseLunError;

    fn from_str(text: &str) -> Result<Self, ParseLunError> {
        text.parse().map_err(|_| ParseLunError).and_then(Self::new)
    }
}

impl fmt::Display for Lun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn luns_end_where_flat_addressing_does() {
        assert_eq!("16383".parse::<Lun>().unwrap().get(), 16383);
        for text in ["16384", "65536", "-1", "", "x"] {
            assert_eq!(text.parse::<Lun>(), Err(ParseLunError), "{text}");
        }
        assert!(serde_json::from_str::<Lun>("16384").is_err());
        assert_eq!(serde_json::to_string(&Lun::FIRST).unwrap(), "1");
    }
}
