//! Publications of volumes to nodes.

use ashlar_proto::api::{PublishVolume, UnpublishVolume, Volume};

use super::ApiClient;
use crate::ApiError;

impl ApiClient {
    /// `POST /v1/volumes/{name}/publish`.
    pub async fn publish_volume(
        &self,
        name: &str,
        request: &PublishVolume,
    ) -> Result<Volume, ApiError> {
        self.post(&["volumes", name, "publish"], request).await
    }

    /// `POST /v1/volumes/{name}/unpublish`.
    pub async fn unpublish_volume(
        &self,
        name: &str,
        request: &UnpublishVolume,
    ) -> Result<Volume, ApiError> {
        self.post(&["volumes", name, "unpublish"], request).await
    }
}
