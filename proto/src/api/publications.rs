//! Publications: which node a volume is for.
//!
//! A published volume is attached only by who shows its publication, which the export `NAME:PUBLICATION`
//! of a front end does. Whoever showed an earlier one is fenced.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::is_false;
use crate::{PublicationId, VolumeId};

/// That a volume is a node's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Publication {
    /// This publication: another one, to the same node, too, has another id.
    pub id: PublicationId,
    /// The node, as its orchestrator calls it.
    pub node: String,
    /// Nobody is to write there.
    #[serde(default, skip_serializing_if = "is_false")]
    pub read_only: bool,
}

/// `POST /v1/volumes/{name}/publish`: gives the volume to a node. The same again changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PublishVolume {
    /// The volume: another may have its name since.
    pub volume: VolumeId,
    /// The node: 1 to 1024 bytes without control characters.
    pub node: String,
    /// Nobody is to write there.
    #[serde(default, skip_serializing_if = "is_false")]
    pub read_only: bool,
}

/// `POST /v1/volumes/{name}/unpublish`: takes the volume from a node, and from who has it attached there. What
/// is not published changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct UnpublishVolume {
    /// The volume: another may have its name since.
    pub volume: VolumeId,
    /// The node; left out, whichever has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

/// What front ends call a volume that is published. Text form: `NAME:PUBLICATION`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedName {
    /// The volume's name, which has no `:`.
    pub volume: String,
    /// Its publication.
    pub publication: PublicationId,
}

/// The text names no published volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotPublished;

impl fmt::Display for PublishedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.volume, self.publication)
    }
}

impl FromStr for PublishedName {
    type Err = NotPublished;

    fn from_str(text: &str) -> Result<Self, NotPublished> {
        let (volume, publication) = text.split_once(':').ok_or(NotPublished)?;
        Ok(Self {
            volume: volume.to_owned(),
            publication: publication.parse().map_err(|_| NotPublished)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_published_volumes_survive_text() {
        let name = PublishedName {
            volume: "shop/v".to_owned(),
            publication: PublicationId::new(0xab),
        };
        assert_eq!(name.to_string(), "shop/v:00000000000000ab");
        assert_eq!(name.to_string().parse(), Ok(name));
        for text in ["v", "v:", "v:x", "v@s"] {
            assert_eq!(text.parse::<PublishedName>(), Err(NotPublished), "{text}");
        }
    }
}
