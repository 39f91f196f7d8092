//! The conductor's API as typed calls. A problem's detail is what a person sees.

mod access;
mod conductors;
mod identities;
mod lists;
mod once;
mod publications;
mod servers;
mod targets;
mod tasks;
mod token;

use std::time::Duration;

use crate::tls;
use ashlar_proto::api::{
    AllowClient, AskMaps, Assignments, AttachRequest, Attachment, ChangePoolSettings,
    ChangeSettings, CheckMetadata, ClearDisk, ClientDenied, CloneSnapshot, ClusterStatus,
    CreateSnapshot, CreateSnapshotGroup, CreateVolume, DenyClient, DetachRequest, Disk, Events,
    ExplainedPlacement, FlattenVolume, Heartbeat, HeartbeatAnswer, HoldAnswer, InSyncCommitted,
    InventoryPage, List, MetadataChecked, Node, OwnerHeartbeat, PoolSettings, Problem,
    ProposeInSync, Rebalance, RebalancePlan, RegisterNode, Registered, ReportFlatten, ReportHold,
    ReportLayers, ReserveVolume, ResizeVolume, Revision, RollbackVolume, Schedulable, SetRebalance,
    SetSchedulable, SetSpace, Settings, Snapshot, SnapshotGroup, SnapshotMap, Space,
    VOLUME_KEY_HEADER, Volume, VolumeMaps,
};
use ashlar_proto::{DiskId, NodeId};
use conductors::Conductors;
pub use lists::VolumeFilter;
use reqwest::redirect::Policy;
use reqwest::{Client, Method, RequestBuilder, Response, Url};
use rustls::ClientConfig;
use serde::Serialize;
use serde::de::DeserializeOwned;
pub use token::{Token, VolumeKeys};

/// How long to connect.
const CONNECT_MAX: Duration = Duration::from_secs(3);

/// How long an answer may take that waits for nobody.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// How long a connection is kept on which nothing is asked: not as long as conductors keep one, so that none ends
/// under a request.
const IDLE_MAX: Duration = Duration::from_secs(40);

/// How long create and delete may take: the conductor waits for stores up to 30 s.
const STORES_MAX: Duration = Duration::from_secs(45);

/// How long the conductor is to wait for an owner to tell all replicas.
pub const OWNER_WAIT: Duration = Duration::from_secs(30);

/// A call was not answered as hoped.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The address of the API is no HTTP address.
    #[error("`{text}` is no address of an API: give http://HOST:PORT or https://HOST:PORT")]
    Address {
        /// What was given.
        text: String,
    },
    /// The address wants TLS, and nobody has said whom to trust.
    #[error(
        "`{text}` is reached by TLS, and whom to trust there is not known: give --identity-dir or \
         --ca"
    )]
    NoTrust {
        /// What was given.
        text: String,
    },
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    /// The conductor refused, and says why.
    #[error("{}", .0.detail)]
    Refused(Problem),
    /// Nobody answers there.
    #[error("the conductor at {url} cannot be reached ({reason}): is it running?")]
    Unreachable {
        /// Where.
        url: Url,
        /// Why.
        reason: String,
    },
    /// The answer did not come in time, or broke off: the call may have been carried out.
    #[error("the conductor at {url} did not answer: {reason}")]
    NoAnswer {
        /// Where.
        url: Url,
        /// Why.
        reason: String,
    },
    /// What answers there is no conductor, or one of another version.
    #[error("what answers at {url} is no conductor of this version: {reason}")]
    Strange {
        /// Where.
        url: Url,
        /// Why.
        reason: String,
    },
}

impl ApiError {
    /// The HTTP status of a refusal.
    pub fn http_status(&self) -> Option<u16> {
        self.problem().map(|problem| problem.status)
    }

    /// Whether nobody answered.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::NoAnswer { .. })
    }

    /// The refusal, if it is one.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Refused(problem) => Some(problem),
            _ => None,
        }
    }
}

/// The innermost cause, which says what a person can act on.
#[must_use]
pub fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// How long a call waits at one of several conductors: one that falls silent is noticed so soon.
const POLL_MAX: Duration = Duration::from_secs(5);

/// The API of a cluster, at the one of its conductors that leads. Cheap to clone; connections are kept
/// and shared.
#[derive(Clone, Debug)]
pub struct ApiClient {
    http: Client,
    base: Conductors,
    token: Option<Token>,
    volume_keys: Option<VolumeKeys>,
}

impl ApiClient {
    /// A client of the API at `http://HOST:PORT`, or `HOST:PORT` alone; at any of several, with commas
    /// between them. With `https://` it goes by what [`identify`](crate::identify) was told.
    pub fn new(api: &str) -> Result<Self, ApiError> {
        let base = Conductors::parse(api)?;
        let config = if base.is_secure() {
            let no_trust = || ApiError::NoTrust {
                text: api.to_owned(),
            };
            tls::of_process().ok_or_else(no_trust)?
        } else {
            tls::none()?
        };
        Self::make(api, base, config)
    }

    /// The same, going by `config` for `https://`.
    pub fn with_tls(api: &str, config: ClientConfig) -> Result<Self, ApiError> {
        Self::make(api, Conductors::parse(api)?, config)
    }

    fn make(api: &str, base: Conductors, config: ClientConfig) -> Result<Self, ApiError> {
        let http = Client::builder()
            .tls_backend_preconfigured(config)
            .connect_timeout(CONNECT_MAX)
            .pool_idle_timeout(IDLE_MAX)
            .pool_idle_timeout(IDLE_MAX)
            .redirect(Policy::none())
            .no_proxy()
            .build();
        let wrong = |_| ApiError::Address {
            text: api.to_owned(),
        };
        let http = http.map_err(wrong)?;
        Ok(Self {
            http,
            base,
            token: None,
            volume_keys: None,
        })
    }

    /// The same, showing with each call who asks, and giving the keys of volumes where they are needed.
    #[must_use]
    pub fn showing(self, token: Option<Token>, volume_keys: Option<VolumeKeys>) -> Self {
        Self {
            token,
            volume_keys,
            ..self
        }
    }

    /// How long a call may wait that is repeated when it finds no news.
    fn poll_wait(&self, wait: Duration) -> Duration {
        if self.base.are_several() {
            wait.min(POLL_MAX)
        } else {
            wait
        }
    }

    /// `GET /v1/status`.
    pub async fn status(&self) -> Result<ClusterStatus, ApiError> {
        self.get(&["status"]).await
    }

    /// `GET /v1/metadata/backup`: all metadata at one moment, as a file.
    pub async fn back_up_metadata(&self) -> Result<Vec<u8>, ApiError> {
        let get = self.request(Method::GET, &["metadata", "backup"]);
        let response = send(get.timeout(STORES_MAX), &self.base).await?;
        let bytes = response.bytes().await.map_err(|error| ApiError::NoAnswer {
            url: self.base.first(),
            reason: root_cause(&error),
        })?;
        Ok(bytes.into())
    }

    /// `POST /v1/metadata/check`: waits for the stores, too.
    pub async fn check_metadata(&self, check: &CheckMetadata) -> Result<MetadataChecked, ApiError> {
        let wait = Duration::from_millis(check.wait_ms.unwrap_or_default());
        let post = self.request(Method::POST, &["metadata", "check"]);
        let post = post.json(check).timeout(STORES_MAX.max(wait + ANSWER_MAX));
        json(send(post, &self.base).await?, &self.base).await
    }

    /// `GET /v1/volumes/{name}`.
    pub async fn volume(&self, name: &str) -> Result<Volume, ApiError> {
        self.get(&["volumes", name]).await
    }

    /// `POST /v1/volumes`: returns when the stores have made it, or after 30 s as it then stands.
    pub async fn create_volume(&self, request: &CreateVolume) -> Result<Volume, ApiError> {
        let post = self.request(Method::POST, &["volumes"]);
        json(
            send(post.json(request).timeout(STORES_MAX), &self.base).await?,
            &self.base,
        )
        .await
    }

    /// `POST /v1/volumes/{name}/resize`: returns when the stores have grown, or after 30 s with the
    /// volume as it then stands.
    pub async fn resize_volume(
        &self,
        name: &str,
        request: &ResizeVolume,
    ) -> Result<Volume, ApiError> {
        let post = self.request(Method::POST, &["volumes", name, "resize"]);
        json(
            send(post.json(request).timeout(STORES_MAX), &self.base).await?,
            &self.base,
        )
        .await
    }

    /// `DELETE /v1/volumes/{name}`: returns when the stores have removed it, or after 30 s.
    pub async fn delete_volume(&self, name: &str, force: bool) -> Result<(), ApiError> {
        let delete = self
            .request(Method::DELETE, &["volumes", name])
            .query(&[("force", force)]);
        send(delete.timeout(STORES_MAX), &self.base).await.map(drop)
    }

    /// `GET /v1/volumes/{volume}/snapshots/{snapshot}`.
    pub async fn snapshot(&self, volume: &str, snapshot: &str) -> Result<Snapshot, ApiError> {
        self.get(&["volumes", volume, "snapshots", snapshot]).await
    }

    /// `GET /v1/volumes/{volume}/snapshots/{snapshot}/map`.
    pub async fn snapshot_map(
        &self,
        volume: &str,
        snapshot: &str,
    ) -> Result<SnapshotMap, ApiError> {
        let path = ["volumes", volume, "snapshots", snapshot, "map"];
        let get = self.with_key(self.request(Method::GET, &path), volume);
        json(send(get, &self.base).await?, &self.base).await
    }

    /// `POST /v1/volumes/{volume}/snapshots`: returns when it is ready, or after 30 s as it then
    /// stands.
    pub async fn create_snapshot(
        &self,
        volume: &str,
        request: &CreateSnapshot,
    ) -> Result<Snapshot, ApiError> {
        let post = self.request(Method::POST, &["volumes", volume, "snapshots"]);
        let post = waiting(post, OWNER_WAIT).json(request);
        json(send(post, &self.base).await?, &self.base).await
    }

    /// `POST /v1/snapshot-groups`: returns when all are ready, or after 30 s as they then stand.
    pub async fn create_snapshot_group(
        &self,
        request: &CreateSnapshotGroup,
    ) -> Result<SnapshotGroup, ApiError> {
        let post = self.request(Method::POST, &["snapshot-groups"]);
        let post = waiting(post, OWNER_WAIT).json(request);
        json(send(post, &self.base).await?, &self.base).await
    }

    /// `DELETE /v1/volumes/{volume}/snapshots/{snapshot}`: returns when all in-sync replicas go by
    /// that, or after `wait`.
    pub async fn delete_snapshot(
        &self,
        volume: &str,
        snapshot: &str,
        when_unused: bool,
        wait: Duration,
    ) -> Result<(), ApiError> {
        let path = ["volumes", volume, "snapshots", snapshot];
        let delete = waiting(self.request(Method::DELETE, &path), wait);
        let delete = delete.query(&[("when_unused", when_unused)]);
        send(delete, &self.base).await.map(drop)
    }

    /// `POST /v1/volumes/{volume}/snapshots/{snapshot}/rollback`: returns when all in-sync replicas go
    /// by that, or after 30 s with the volume as it then stands.
    pub async fn rollback(
        &self,
        volume: &str,
        snapshot: &str,
        request: &RollbackVolume,
    ) -> Result<Volume, ApiError> {
        let path = ["volumes", volume, "snapshots", snapshot, "rollback"];
        let post = waiting(self.request(Method::POST, &path), OWNER_WAIT).json(request);
        json(send(post, &self.base).await?, &self.base).await
    }

    /// `POST /v1/volumes/{volume}/snapshots/{snapshot}/clone`: returns when its stores have made it, or
    /// after 30 s with the volume as it then stands.
    pub async fn clone_snapshot(
        &self,
        volume: &str,
        snapshot: &str,
        request: &CloneSnapshot,
    ) -> Result<Volume, ApiError> {
        let path = ["volumes", volume, "snapshots", snapshot, "clone"];
        let post = waiting(self.request(Method::POST, &path), OWNER_WAIT).json(request);
        json(send(post, &self.base).await?, &self.base).await
    }

    /// `POST /v1/volumes/{volume}/flatten`: returns when all is copied, or after `wait` with the volume
    /// as it then stands.
    pub async fn flatten(
        &self,
        volume: &str,
        request: &FlattenVolume,
        wait: Duration,
    ) -> Result<Volume, ApiError> {
        let path = ["volumes", volume, "flatten"];
        let post = waiting(self.request(Method::POST, &path), wait).json(request);
        json(send(post, &self.base).await?, &self.base).await
    }

    /// `POST /v1/volumes/{volume}/flattened`.
    pub async fn report_flatten(
        &self,
        volume: &str,
        request: &ReportFlatten,
    ) -> Result<(), ApiError> {
        self.tell(&["volumes", volume, "flattened"], request).await
    }

    /// `POST /v1/volumes/{volume}/layers`.
    pub async fn report_layers(
        &self,
        volume: &str,
        request: &ReportLayers,
    ) -> Result<(), ApiError> {
        self.tell(&["volumes", volume, "layers"], request).await
    }

    /// `POST /v1/volumes/{volume}/hold`.
    pub async fn report_hold(
        &self,
        volume: &str,
        request: &ReportHold,
    ) -> Result<HoldAnswer, ApiError> {
        self.post(&["volumes", volume, "hold"], request).await
    }

    /// `POST /v1/volumes/{name}/attach`.
    pub async fn attach(
        &self,
        name: &str,
        request: &AttachRequest,
    ) -> Result<Attachment, ApiError> {
        let post = self.request(Method::POST, &["volumes", name, "attach"]);
        let post = self.with_key(post.json(request), name);
        json(send(post, &self.base).await?, &self.base).await
    }

    /// `POST /v1/volumes/{name}/detach`.
    pub async fn detach(&self, name: &str, request: &DetachRequest) -> Result<(), ApiError> {
        self.tell(&["volumes", name, "detach"], request).await
    }

    /// `POST /v1/volumes/{name}/in-sync`.
    pub async fn propose_in_sync(
        &self,
        name: &str,
        request: &ProposeInSync,
    ) -> Result<InSyncCommitted, ApiError> {
        self.post(&["volumes", name, "in-sync"], request).await
    }

    /// `POST /v1/maps`: waits up to `wait` for one of them to change.
    pub async fn volume_maps(
        &self,
        request: &AskMaps,
        wait: Duration,
    ) -> Result<VolumeMaps, ApiError> {
        let wait = self.poll_wait(wait);
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let post = self.request(Method::POST, &["maps"]).json(request);
        let post = post
            .query(&[("wait_ms", wait_ms)])
            .timeout(wait.saturating_add(ANSWER_MAX));
        json(send(post, &self.base).await?, &self.base).await
    }

    /// `POST /v1/nodes/{node}/cordon` and the like; `node` is a name or an id.
    pub async fn schedule_node(&self, node: &str, to: Schedulable) -> Result<Node, ApiError> {
        let path = ["nodes", node, schedule_verb(to)];
        self.post(&path, &SetSchedulable {}).await
    }

    /// `POST /v1/disks/{disk}/cordon` and the like.
    pub async fn schedule_disk(&self, disk: DiskId, to: Schedulable) -> Result<Disk, ApiError> {
        let disk = disk.to_string();
        let path = ["disks", &disk, schedule_verb(to)];
        self.post(&path, &SetSchedulable {}).await
    }

    /// `POST /v1/disks/{disk}/clear`.
    pub async fn clear_disk(&self, disk: DiskId) -> Result<Disk, ApiError> {
        self.post(&["disks", &disk.to_string(), "clear"], &ClearDisk {})
            .await
    }

    /// `DELETE /v1/nodes/{node}`.
    pub async fn remove_node(&self, node: &str) -> Result<(), ApiError> {
        let delete = self.request(Method::DELETE, &["nodes", node]);
        send(delete, &self.base).await.map(drop)
    }

    /// `DELETE /v1/disks/{disk}`.
    pub async fn remove_disk(&self, disk: DiskId) -> Result<(), ApiError> {
        let delete = self.request(Method::DELETE, &["disks", &disk.to_string()]);
        send(delete, &self.base).await.map(drop)
    }

    /// `POST /v1/clients/deny`: returns when the replicas of its volumes refuse it, or after 30 s.
    pub async fn deny_client(&self, request: &DenyClient) -> Result<ClientDenied, ApiError> {
        let post = self.request(Method::POST, &["clients", "deny"]);
        let sent = send(post.json(request).timeout(STORES_MAX), &self.base);
        json(sent.await?, &self.base).await
    }

    /// `POST /v1/clients/allow`.
    pub async fn allow_client(&self, client: &str) -> Result<(), ApiError> {
        let request = AllowClient {
            client: client.to_owned(),
        };
        self.tell(&["clients", "allow"], &request).await
    }

    /// `POST /v1/placement:explain`.
    pub async fn explain_placement(
        &self,
        request: &CreateVolume,
    ) -> Result<ExplainedPlacement, ApiError> {
        self.post(&["placement:explain"], request).await
    }

    /// `GET /v1/config`: of the cluster, or of a volume.
    pub async fn settings(&self, volume: Option<&str>) -> Result<Settings, ApiError> {
        let get = self.request(Method::GET, &["config"]);
        let query: Vec<(&str, &str)> = volume.map(|name| ("volume", name)).into_iter().collect();
        json(
            send(get.query(&query).timeout(ANSWER_MAX), &self.base).await?,
            &self.base,
        )
        .await
    }

    /// `POST /v1/config`.
    pub async fn change_settings(&self, request: &ChangeSettings) -> Result<Settings, ApiError> {
        self.post(&["config"], request).await
    }

    /// `GET /v1/config/pools`.
    pub async fn pools(&self) -> Result<List<PoolSettings>, ApiError> {
        self.get(&["config", "pools"]).await
    }

    /// `GET /v1/config/pools/POOL`: a pool is named by its labels, `media=nvme,zone=a`, in any order.
    pub async fn pool_settings(&self, pool: &str) -> Result<Settings, ApiError> {
        self.get(&["config", "pools", pool]).await
    }

    /// `POST /v1/config/pools/POOL`.
    pub async fn change_pool_settings(
        &self,
        pool: &str,
        request: &ChangePoolSettings,
    ) -> Result<Settings, ApiError> {
        self.post(&["config", "pools", pool], request).await
    }

    /// `GET /v1/space`.
    pub async fn space(&self) -> Result<Space, ApiError> {
        self.get(&["space"]).await
    }

    /// `POST /v1/space`.
    pub async fn set_space(&self, request: &SetSpace) -> Result<Space, ApiError> {
        self.post(&["space"], request).await
    }

    /// `POST /v1/volumes/{name}/reserve`.
    pub async fn reserve_volume(
        &self,
        name: &str,
        request: &ReserveVolume,
    ) -> Result<Volume, ApiError> {
        let post = self.request(Method::POST, &["volumes", name, "reserve"]);
        json(
            send(post.json(request).timeout(STORES_MAX), &self.base).await?,
            &self.base,
        )
        .await
    }

    /// `GET /v1/events`: those after a number, once there are any or the wait is over.
    pub async fn events(&self, after: u64, wait: Duration) -> Result<Events, ApiError> {
        self.poll(&["events"], Revision(after), wait).await
    }

    /// `GET /v1/rebalance`.
    pub async fn rebalance(&self) -> Result<Rebalance, ApiError> {
        self.get(&["rebalance"]).await
    }

    /// `GET /v1/rebalance/plan`.
    pub async fn rebalance_plan(&self) -> Result<RebalancePlan, ApiError> {
        self.get(&["rebalance", "plan"]).await
    }

    /// `POST /v1/rebalance/pause`, or `…/resume`.
    pub async fn pause_rebalance(&self, paused: bool) -> Result<Rebalance, ApiError> {
        let verb = if paused { "pause" } else { "resume" };
        self.post(&["rebalance", verb], &SetRebalance {}).await
    }

    /// `POST /v1/nodes/register`.
    pub async fn register(&self, request: &RegisterNode) -> Result<Registered, ApiError> {
        self.post(&["nodes", "register"], request).await
    }

    /// `POST /v1/nodes/{id}/heartbeat`.
    pub async fn heartbeat(
        &self,
        node: NodeId,
        beat: &Heartbeat,
    ) -> Result<HeartbeatAnswer, ApiError> {
        self.post(&["nodes", &node.to_string(), "heartbeat"], beat)
            .await
    }

    /// `POST /v1/nodes/{id}/inventory`.
    pub async fn tell_inventory(&self, node: NodeId, page: &InventoryPage) -> Result<(), ApiError> {
        self.tell(&["nodes", &node.to_string(), "inventory"], page)
            .await
    }

    /// `POST /v1/owners/heartbeat`.
    pub async fn owner_heartbeat(&self, beat: &OwnerHeartbeat) -> Result<(), ApiError> {
        self.tell(&["owners", "heartbeat"], beat).await
    }

    /// `GET /v1/nodes/{id}/assignments`: waits up to `wait` for a list newer than `after`.
    pub async fn assignments(
        &self,
        node: NodeId,
        after: Revision,
        wait: Duration,
    ) -> Result<Assignments, ApiError> {
        let node = node.to_string();
        self.poll(&["nodes", &node, "assignments"], after, wait)
            .await
    }

    /// A long poll for what has changed after a revision, or what has another number that grows.
    async fn poll<T: DeserializeOwned>(
        &self,
        path: &[&str],
        after: Revision,
        wait: Duration,
    ) -> Result<T, ApiError> {
        let wait = self.poll_wait(wait);
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let get = self
            .request(Method::GET, path)
            .query(&[("after", after.0), ("wait_ms", wait_ms)])
            .timeout(wait.saturating_add(ANSWER_MAX));
        json(send(get, &self.base).await?, &self.base).await
    }

    /// Gives the key of a volume, if one is known.
    fn with_key(&self, request: RequestBuilder, volume: &str) -> RequestBuilder {
        let key = self.volume_keys.as_ref().and_then(|keys| keys.of(volume));
        match key {
            Some(key) => request.header(VOLUME_KEY_HEADER, key.reveal()),
            None => request,
        }
    }

    fn request(&self, method: Method, path: &[&str]) -> RequestBuilder {
        let mut url = self.base.first();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("v1").extend(path);
        }
        let key = once::key(&method, path);
        let mut request = self.http.request(method, url).timeout(ANSWER_MAX);
        if let Some(key) = key {
            request = request.header(once::HEADER, key);
        }
        match self.token.as_ref().and_then(Token::current) {
            Some(token) => request.bearer_auth(token.reveal()),
            None => request,
        }
    }

    async fn get<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T, ApiError> {
        json(
            send(self.request(Method::GET, path), &self.base).await?,
            &self.base,
        )
        .await
    }

    async fn post<T: DeserializeOwned>(
        &self,
        path: &[&str],
        body: &impl Serialize,
    ) -> Result<T, ApiError> {
        let post = self.request(Method::POST, path).json(body);
        json(send(post, &self.base).await?, &self.base).await
    }

    async fn tell(&self, path: &[&str], body: &impl Serialize) -> Result<(), ApiError> {
        let post = self.request(Method::POST, path).json(body);
        send(post, &self.base).await.map(drop)
    }
}

/// A request that the conductor may answer only after some time.
fn waiting(request: RequestBuilder, wait: Duration) -> RequestBuilder {
    let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    let request = request.query(&[("wait_ms", wait_ms)]);
    request.timeout(wait.saturating_add(ANSWER_MAX))
}

fn schedule_verb(to: Schedulable) -> &'static str {
    match to {
        Schedulable::Open => "uncordon",
        Schedulable::Cordoned => "cordon",
        Schedulable::Draining => "drain",
    }
}

async fn send(request: RequestBuilder, base: &Conductors) -> Result<Response, ApiError> {
    base.send(request).await
}

async fn json<T: DeserializeOwned>(response: Response, base: &Conductors) -> Result<T, ApiError> {
    response.json().await.map_err(|error| {
        if error.is_decode() {
            strange(&base.first(), root_cause(&error))
        } else {
            ApiError::NoAnswer {
                url: base.first(),
                reason: root_cause(&error),
            }
        }
    })
}

fn strange(base: &Url, reason: String) -> ApiError {
    ApiError::Strange {
        url: base.clone(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_may_leave_out_the_scheme() {
        for text in [
            "http://127.0.0.1:7100",
            "127.0.0.1:7100",
            "http://[::1]:7100/",
            "127.0.0.1:7100, http://10.0.0.2:7100",
        ] {
            let client = ApiClient::new(text).unwrap();
            let request = client
                .request(Method::GET, &["volumes", "a b"])
                .build()
                .unwrap();
            assert!(
                request.url().as_str().ends_with(":7100/v1/volumes/a%20b"),
                "{text}"
            );
        }
        for text in [
            "",
            "unix:/run/a",
            "http://",
            "ftp://a",
            "a:1,,b:2",
            "a:1,https://b:2",
        ] {
            assert!(
                matches!(ApiClient::new(text), Err(ApiError::Address { .. })),
                "{text}"
            );
        }
        let untrusted = ApiClient::new("https://127.0.0.1:1");
        assert!(matches!(untrusted, Err(ApiError::NoTrust { .. })));
    }

    #[tokio::test]
    async fn nobody_there_is_unreachable() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let error = ApiClient::new(&address.to_string())
            .unwrap()
            .status()
            .await
            .unwrap_err();
        assert!(
            error.is_unreachable() && error.http_status().is_none(),
            "{error}"
        );
        assert!(error.to_string().contains("is it running?"), "{error}");
    }
}
