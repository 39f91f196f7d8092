//! Who a node is: `ashlar/NAME`. What does not begin so is none of our nodes.

use std::fmt;
use std::str::FromStr;

/// What tells our nodes from others.
const PREFIX: &str = "ashlar/";
/// The longest name: that of a host (RFC 1123 section 2.1).
const NAME_BYTES_MAX: usize = 253;

/// A node that attaches volumes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodeName(String);

/// The text is no name of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a node's name is 1 to {NAME_BYTES_MAX} of A-Z a-z 0-9 . _ -")]
pub struct NodeNameError;

impl FromStr for NodeName {
    type Err = NodeNameError;

    fn from_str(text: &str) -> Result<Self, NodeNameError> {
        let possible = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(possible) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NodeNameError)
        }
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl NodeName {
    /// As COs have it.
    pub(crate) fn to_id(&self) -> String {
        format!("{PREFIX}{}", self.0)
    }

    /// The node that has the id.
    pub(crate) fn of_id(id: &str) -> Option<Self> {
        id.strip_prefix(PREFIX)?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_text_and_strange_ones_are_none() {
        let node: NodeName = "host-1.example".parse().unwrap();
        assert_eq!(NodeName::of_id(&node.to_id()), Some(node));
        for id in ["", "host-1", "ashlar/", "ashlar/a b", "some-fake-node-id"] {
            assert_eq!(NodeName::of_id(id), None, "{id}");
        }
    }
}
