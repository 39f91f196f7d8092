//! What the controller tells the node of a publication, through the CO: `publish_context`.

use std::collections::HashMap;

use ashlar_proto::PublicationId;
use tonic::Status;

const PUBLICATION: &str = "publication";
const READ_ONLY: &str = "readonly";

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PublishContext {
    /// The publication: by this the node's front end attaches the volume.
    pub publication: PublicationId,
    /// Nobody is to write.
    pub read_only: bool,
}

impl PublishContext {
    /// Of these.
    pub fn new(publication: PublicationId, read_only: bool) -> Self {
        Self {
            publication,
            read_only,
        }
    }

    /// As the CO carries it.
    pub fn to_map(self) -> HashMap<String, String> {
        HashMap::from([
            (PUBLICATION.to_owned(), self.publication.to_string()),
            (READ_ONLY.to_owned(), self.read_only.to_string()),
        ])
    }

    /// From what the CO brings.
    ///
    /// # Errors
    /// INVALID_ARGUMENT where it is not what the controller gave.
    pub fn of(map: &HashMap<String, String>) -> Result<Self, Status> {
        let publication = map.get(PUBLICATION).and_then(|text| text.parse().ok());
        let publication = publication.ok_or_else(|| {
            Status::invalid_argument(format!(
                "`publish_context` has no `{PUBLICATION}`: pass on what ControllerPublishVolume gave"
            ))
        })?;
        let read_only = map.get(READ_ONLY).is_some_and(|text| text == "true");
        Ok(Self::new(publication, read_only))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publication_goes_by_way_of_the_co() {
        for read_only in [false, true] {
            let context = PublishContext::new(PublicationId::new(0xab), read_only);
            assert_eq!(PublishContext::of(&context.to_map()).unwrap(), context);
        }
        let strange = HashMap::from([(PUBLICATION.to_owned(), "7".to_owned())]);
        for map in [HashMap::new(), strange] {
            let refused = PublishContext::of(&map).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        }
    }
}
