//! The identity service: who the driver is, what it can do, whether the conductor answers.

use std::collections::HashMap;

use ashlar_api_client::ApiClient;
use tonic::{Request, Response, Status};

use crate::protocol::identity_server::Identity;
use crate::protocol::plugin_capability::service::Type as ServiceType;
use crate::protocol::plugin_capability::volume_expansion::Type as ExpansionType;
use crate::protocol::plugin_capability::{Service, Type, VolumeExpansion};
use crate::protocol::{
    GetPluginCapabilitiesRequest, GetPluginCapabilitiesResponse, GetPluginInfoRequest,
    GetPluginInfoResponse, PluginCapability, ProbeRequest, ProbeResponse,
};
use crate::refusal;

/// The driver's name, as StorageClasses give it.
pub const DRIVER_NAME: &str = "csi.ashlar.io";

/// The service.
#[derive(Debug)]
pub(crate) struct IdentityService {
    /// The conductor, where this process needs it.
    pub api: Option<ApiClient>,
}

#[tonic::async_trait]
impl Identity for IdentityService {
    async fn get_plugin_info(
        &self,
        _: Request<GetPluginInfoRequest>,
    ) -> Result<Response<GetPluginInfoResponse>, Status> {
        Ok(Response::new(GetPluginInfoResponse {
            name: DRIVER_NAME.to_owned(),
            vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
            manifest: HashMap::new(),
        }))
    }

    /// The same from controllers and nodes, as the specification asks.
    async fn get_plugin_capabilities(
        &self,
        _: Request<GetPluginCapabilitiesRequest>,
    ) -> Result<Response<GetPluginCapabilitiesResponse>, Status> {
        let service = |service: ServiceType| {
            let r#type = service.into();
            Type::Service(Service { r#type })
        };
        let online = ExpansionType::Online.into();
        let capabilities = [
            service(ServiceType::ControllerService),
            service(ServiceType::VolumeAccessibilityConstraints),
            service(ServiceType::GroupControllerService),
            service(ServiceType::SnapshotMetadataService),
            Type::VolumeExpansion(VolumeExpansion { r#type: online }),
        ];
        let capabilities = capabilities
            .into_iter()
            .map(|one| PluginCapability { r#type: Some(one) });
        Ok(Response::new(GetPluginCapabilitiesResponse {
            capabilities: capabilities.collect(),
        }))
    }

    /// Ready is who has an answer from the conductor, where that is needed.
    async fn probe(&self, _: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        if let Some(api) = &self.api {
            let status = api.status().await;
            status
                .map_err(|error| Status::failed_precondition(refusal::of_api(error).message()))?;
        }
        Ok(Response::new(ProbeResponse { ready: Some(true) }))
    }
}
