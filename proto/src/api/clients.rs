//! Clients that may attach no volume.

use serde::{Deserialize, Serialize};

/// A client that may attach no volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DeniedClient {
    /// Whom it concerns: what the owner of an attach says of itself, or the first word of that; with
    /// a trailing `*` whatever begins so.
    pub client: String,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `POST /v1/clients/deny`: these clients may attach no volume from now on, and lose those that
/// they have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct DenyClient {
    /// As [`DeniedClient::client`].
    pub client: String,
    /// Why, for people.
    #[serde(default)]
    pub reason: Option<String>,
}

/// The answer to [`DenyClient`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ClientDenied {
    /// Who is denied.
    #[serde(flatten)]
    pub denied: DeniedClient,
    /// The names of the volumes that were taken from it.
    pub taken: Vec<String>,
    /// Of these, the ones whose replicas may still take its writes: too few of them, or no store, could
    /// be asked yet. It goes on.
    pub unfenced: Vec<String>,
}

/// `POST /v1/clients/allow`: takes a [`DenyClient`] of the same text back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct AllowClient {
    /// The text that was denied.
    pub client: String,
}
