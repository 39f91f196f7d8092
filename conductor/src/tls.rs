//! How a conductor knows who asks: its certificate, the authority's, and who is denied.

use std::sync::Arc;
use std::time::Duration;

use ashlar_identity::{Admission, Authority, ConfigError, Credentials, Denied, server_config};
use ashlar_proto::ClusterId;
use ashlar_proto::api::NodeRole;
use rustls::ServerConfig;

/// See the module. Clones share certificate and denials.
#[derive(Clone, Debug)]
pub struct ConductorTls {
    /// The cluster: that of its certificate.
    pub cluster: ClusterId,
    /// What it shows.
    pub credentials: Credentials,
    /// The authority's certificate, PEM.
    pub authority_pem: String,
    /// The authority itself, where its key is here: without it nobody is given a certificate.
    pub authority: Option<Arc<Authority>>,
    /// How long the certificates are good that it gives.
    pub certificate_ttl: Duration,
    /// Whether who comes over loopback has to show a certificate as well.
    pub also_loopback: bool,
    /// Who is let in no more; kept as the metadata say.
    pub denied: Denied,
}

impl ConductorTls {
    /// TLS for its listener. A client without a certificate may connect, too: what it may ask is looked at
    /// request by request.
    pub(crate) fn server(&self) -> Result<Arc<ServerConfig>, ConfigError> {
        let admission = Admission {
            cluster: Some(self.cluster),
            roles: NodeRole::ALL.to_vec(),
            denied: self.denied.clone(),
        };
        server_config(&self.credentials, &self.authority_pem, admission, false)
    }
}
