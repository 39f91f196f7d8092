//! Which initiators an entry of an access list, or a secret, is about.

use std::fmt;
use std::str::FromStr;

use super::IscsiName;
use super::name::fold;

/// One initiator by its name; or, with a trailing `*`, all whose names begin so. `*` alone: all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InitiatorPattern(String);

impl InitiatorPattern {
    /// Whether it is about that initiator.
    #[must_use]
    pub fn matches(&self, initiator: &IscsiName) -> bool {
        match self.0.strip_suffix('*') {
            Some(start) => initiator.as_str().starts_with(start),
            None => initiator.as_str() == self.0,
        }
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The text says nothing of initiators.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is no name of initiators: give an iSCSI name, as iqn.1994-05.com.redhat:host-a, or \
     the beginning of names and *"
)]
pub struct ParsePatternError {
    text: Box<str>,
}

impl FromStr for InitiatorPattern {
    type Err = ParsePatternError;

    fn from_str(text: &str) -> Result<Self, ParsePatternError> {
        let error = || ParsePatternError {
            text: text.chars().take(80).collect::<String>().into(),
        };
        match text.strip_suffix('*') {
            Some(start) => {
                let start = fold(start).ok_or_else(error)?;
                Ok(Self(format!("{start}*")))
            }
            None => {
                let name: IscsiName = text.parse().map_err(|_| error())?;
                Ok(Self(name.as_str().to_owned()))
            }
        }
    }
}

impl From<IscsiName> for InitiatorPattern {
    fn from(name: IscsiName) -> Self {
        Self(name.as_str().to_owned())
    }
}

impl fmt::Display for InitiatorPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

super::text_form!(InitiatorPattern);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_a_name_or_its_beginning() {
        let host: IscsiName = "iqn.1994-05.com.redhat:host-a".parse().unwrap();
        let cases = [
            ("iqn.1994-05.com.redhat:host-a", true),
            ("IQN.1994-05.com.redhat:HOST-A", true),
            ("iqn.1994-05.com.redhat:*", true),
            ("iqn.1994-05.com.redhat:host-a*", true),
            ("*", true),
            ("iqn.1994-05.com.redhat:host", false),
            ("iqn.1994-05.com.redhat:host-ab*", false),
            ("eui.*", false),
        ];
        for (text, expected) in cases {
            let pattern: InitiatorPattern = text.parse().unwrap();
            assert_eq!(pattern.matches(&host), expected, "{text}");
        }
    }

    #[test]
    fn what_names_nobody_is_refused() {
        for text in ["", "host-a", "**", "iqn.* *", "iqn.1994-05.com.redhat:a*b"] {
            assert!(text.parse::<InitiatorPattern>().is_err(), "{text:?}");
        }
    }
}
