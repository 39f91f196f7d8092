//! The name of a node in its certificate: a URI such as `ashlar://CLUSTER/store/node-1` (in the manner of
//! SPIFFE identifiers).

use std::fmt;
use std::str::FromStr;

use ashlar_proto::ClusterId;
use ashlar_proto::api::NodeRole;
use ashlar_proto::limits::NAME_BYTES_MAX;

/// What begins each of them.
const SCHEME: &str = "ashlar://";

/// A node of a cluster, as its certificate names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// What the node is.
    pub role: NodeRole,
    /// Its name: [`Identity::is_name`].
    pub name: String,
}

/// The text names no node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no identity of the form ashlar://CLUSTER/ROLE/NAME")]
pub struct ParseIdentityError;

impl Identity {
    /// Whether a node may have that name: 1 to 63 of `a-z A-Z 0-9 . _ -`, beginning with a letter or digit.
    #[must_use]
    pub fn is_name(text: &str) -> bool {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b".-_".contains(&b);
        let first = text.bytes().next();
        text.len() <= NAME_BYTES_MAX
            && first.is_some_and(|b| b.is_ascii_alphanumeric())
            && text.bytes().all(inner)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}/{}", self.cluster, self.role, self.name)
    }
}

impl FromStr for Identity {
    type Err = ParseIdentityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let rest = text.strip_prefix(SCHEME).ok_or(ParseIdentityError)?;
        let mut parts = rest.split('/');
        let mut next = || parts.next().ok_or(ParseIdentityError);
        let (cluster, role, name) = (next()?, next()?, next()?);
        if parts.next().is_some() || !Self::is_name(name) {
            return Err(ParseIdentityError);
        }
        Ok(Self {
            cluster: cluster.parse().map_err(|_| ParseIdentityError)?,
            role: role.parse().map_err(|_| ParseIdentityError)?,
            name: name.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_its_uri() {
        let identity = Identity {
            cluster: ClusterId::new(0xab),
            role: NodeRole::FrontEnd,
            name: "nbd-1.rack_2".to_owned(),
        };
        let text = "ashlar://000000000000000000000000000000ab/front-end/nbd-1.rack_2";
        assert_eq!(identity.to_string(), text);
        assert_eq!(text.parse(), Ok(identity));
    }

    #[test]
    fn what_is_no_identity_is_refused() {
        let id = "000000000000000000000000000000ab";
        for text in [
            "",
            "ashlar://",
            "spiffe://a/store/b",
            &format!("ashlar://{id}/store"),
            &format!("ashlar://{id}/store/"),
            &format!("ashlar://{id}/store/a/b"),
            &format!("ashlar://{id}/root/a"),
            &format!("ashlar://{id}/store/a b"),
            &format!("ashlar://{id}/store/{}", "x".repeat(64)),
            "ashlar://12/store/a",
        ] {
            assert_eq!(text.parse::<Identity>(), Err(ParseIdentityError), "{text}");
        }
    }
}
