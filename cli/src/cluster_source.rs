//! The conductor as owners see it: calls cross from a reactor thread to the HTTP client's runtime.
//!
//! ```text
//! reactor thread: owner ── bounded channel ──▶ tokio: one task per call ── HTTP ──▶ conductor
//!                   ▲                             └ maps: one watch for all (`map_watch`)
//!                   └────────── answer, by a channel of its own ──┘
//! ```

use std::time::Duration;

use ashlar_client::{AttachError, ClusterSource, OpenSnapshotError, SourceError};
use ashlar_nbd_server::{ExportInfo, OpenError};
use ashlar_proto::PortalGroup;
use ashlar_proto::api::{
    AttachRequest, Attachment, ConfirmReservations, DetachRequest, HandOver, HoldAnswer,
    InSyncCommitted, OwnerHeartbeat, ProposeInSync, PublishedName, RegisterServer,
    ReplaceReservations, ReportFlatten, ReportHold, ReportLayers, Revision, ServedTargets,
    ServerHeartbeat, ServerRegistered, Snapshot, SnapshotMap, SnapshotState, Volume, VolumeMap,
    VolumeReservations, VolumeState,
};
use ashlar_reactor::channel::remote;
use tokio::runtime::Handle;

use crate::bitmaps;
use crate::map_watch;
use crate::owner_beats::OwnerBeats;
use crate::server_calls::ServerCall;
use ashlar_api_client::{ApiClient, ApiError};

/// Calls that wait to be sent; beyond them owners wait.
const CALLS_QUEUED_MAX: usize = 64;

/// How long a question for targets waits for news.
const TARGETS_WAIT: Duration = Duration::from_secs(30);

/// Where the outcome of a call is waited for.
pub type Answer<T> = remote::Sender<Result<T, SourceError>>;

/// A call on its way.
enum Call {
    Map(String, Revision, Answer<VolumeMap>),
    Once(Once),
}

/// One that is answered as soon as it is carried out.
enum Once {
    Attach(String, AttachRequest, Answer<Attachment>),
    Detach(String, DetachRequest, Answer<()>),
    Propose(String, ProposeInSync, Answer<InSyncCommitted>),
    ReportLayers(String, ReportLayers, Answer<()>),
    ReportFlatten(String, ReportFlatten, Answer<()>),
    ReportHold(String, ReportHold, Answer<HoldAnswer>),
    Snapshot(String, String, Answer<SnapshotMap>),
    List(Answer<(Vec<Volume>, Vec<Snapshot>)>),
    Snapshots(String, Answer<Vec<Snapshot>>),
    Show(String, Answer<Volume>),
    Targets(Revision, Answer<ServedTargets>),
    Reservations(String, Answer<VolumeReservations>),
    ReplaceReservations(String, ReplaceReservations, Answer<VolumeReservations>),
    Server(ServerCall),
}

/// A conductor reached by HTTP, from any thread. Clones share the connections.
#[derive(Clone)]
pub struct HttpClusterSource {
    calls: remote::Sender<Call>,
    beats: OwnerBeats,
}

impl HttpClusterSource {
    /// Calls go out on `runtime`, until the last clone is dropped.
    pub fn new(client: ApiClient, runtime: &Handle) -> Self {
        let beats = OwnerBeats::new(client.clone(), runtime);
        let (calls, queue) = remote::bounded(CALLS_QUEUED_MAX);
        let maps = map_watch::start(client.clone(), runtime);
        runtime.spawn(async move {
            while let Some(call) = queue.recv().await {
                match call {
                    Call::Map(name, after, answer) => {
                        let ask = map_watch::Ask {
                            name,
                            after,
                            answer,
                        };
                        // The watch lasts as long as this end of it.
                        let _ = maps.send(ask);
                    }
                    Call::Once(call) => {
                        tokio::spawn(carry_out(client.clone(), call));
                    }
                }
            }
        });
        Self { calls, beats }
    }

    /// All volumes and snapshots.
    pub async fn list(&self) -> Result<(Vec<Volume>, Vec<Snapshot>), SourceError> {
        self.call(|answer| Call::Once(Once::List(answer))).await
    }

    /// All iSCSI targets with their secrets, once they have changed after `after` or some time is over.
    pub async fn served_targets(&self, after: Revision) -> Result<ServedTargets, SourceError> {
        self.call(|answer| Call::Once(Once::Targets(after, answer)))
            .await
    }

    /// The persistent reservations of a volume.
    pub async fn reservations(&self, volume: &str) -> Result<VolumeReservations, SourceError> {
        self.call(|answer| Call::Once(Once::Reservations(volume.to_owned(), answer)))
            .await
    }

    /// Replaces them; [`SourceError::Refused`] with `reservations-changed` if they were changed since.
    pub async fn replace_reservations(
        &self,
        volume: &str,
        request: ReplaceReservations,
    ) -> Result<VolumeReservations, SourceError> {
        let volume = volume.to_owned();
        self.call(|answer| Call::Once(Once::ReplaceReservations(volume, request, answer)))
            .await
    }

    /// A volume by its name, without its shards.
    pub async fn volume(&self, name: &str) -> Result<Volume, SourceError> {
        self.call(|answer| Call::Once(Once::Show(name.to_owned(), answer)))
            .await
    }

    /// A run of an iSCSI server is there.
    pub async fn register_server(
        &self,
        request: RegisterServer,
    ) -> Result<ServerRegistered, SourceError> {
        self.call(|answer| Call::Once(Once::Server(ServerCall::Register(request, answer))))
            .await
    }

    /// It still is; [`SourceError::Refused`] with `server-replaced` if another run is.
    pub async fn server_heartbeat(
        &self,
        group: PortalGroup,
        heartbeat: ServerHeartbeat,
    ) -> Result<(), SourceError> {
        self.call(|answer| Call::Once(Once::Server(ServerCall::Beat(group, heartbeat, answer))))
            .await
    }

    /// Asks who has a volume attached to let it go.
    pub async fn hand_over(&self, volume: &str, request: HandOver) -> Result<(), SourceError> {
        let volume = volume.to_owned();
        self.call(|answer| Call::Once(Once::Server(ServerCall::HandOver(volume, request, answer))))
            .await
    }

    /// Says by which version of its reservations a volume is served; [`SourceError::Superseded`] if
    /// another owner serves it.
    pub async fn confirm_reservations(
        &self,
        volume: &str,
        request: ConfirmReservations,
    ) -> Result<(), SourceError> {
        let volume = volume.to_owned();
        self.call(|answer| Call::Once(Once::Server(ServerCall::Confirm(volume, request, answer))))
            .await
    }

    /// Whether whoever serves a volume goes by that version, waiting some time for it.
    pub async fn reservations_confirmed(
        &self,
        volume: &str,
        version: u64,
    ) -> Result<bool, SourceError> {
        let volume = volume.to_owned();
        let call = |answer| ServerCall::Confirmed(volume, version, answer);
        let said = self
            .call(|answer| Call::Once(Once::Server(call(answer))))
            .await?;
        Ok(said.confirmed)
    }

    /// The volumes that can be attached and the snapshots that can be read, as exports.
    pub async fn exports(&self) -> Result<Vec<ExportInfo>, OpenError> {
        let listed = self.list().await;
        let (volumes, snapshots) = listed.map_err(|error| source_error(&error))?;
        let ready = volumes
            .into_iter()
            .filter(|volume| volume.state == VolumeState::Ready);
        let export = |volume: Volume| {
            let name = published_name(&volume).map_or(volume.name, |named| named.to_string());
            ExportInfo::new(name, volume.size_bytes.get())
        };
        let readable = snapshots.iter().filter(|s| s.state == SnapshotState::Ready);
        Ok(ready
            .map(export)
            .chain(readable.map(snapshot_export))
            .collect())
    }

    /// One of them by its name; a snapshot's is `VOLUME@SNAPSHOT`, that of a volume which is published to a
    /// node `VOLUME:PUBLICATION`.
    pub async fn export(&self, name: &str) -> Result<ExportInfo, OpenError> {
        if let Some((volume, snapshot)) = name.split_once('@') {
            let map = self.snapshot(volume, snapshot).await;
            let map = map.map_err(|error| source_error(&error))?;
            return Ok(snapshot_export(&map.snapshot));
        }
        let published: Option<PublishedName> = name.parse().ok();
        let of = published.as_ref().map_or(name, |named| &named.volume);
        let shown = self.call(|answer| Call::Once(Once::Show(of.to_owned(), answer)));
        let volume = shown.await.map_err(|error| source_error(&error))?;
        if volume.state != VolumeState::Ready {
            return Err(OpenError::Unavailable);
        }
        let size_bytes = volume.size_bytes.get();
        let Some(named) = published else {
            return Ok(ExportInfo::new(volume.name, size_bytes));
        };
        let current = volume.publication.filter(|one| one.id == named.publication);
        let publication = current.ok_or(OpenError::Denied)?;
        let mut export = ExportInfo::new(named.to_string(), size_bytes);
        export.geometry.read_only = publication.read_only;
        Ok(export)
    }

    /// The dirty bitmaps of one of them, by name.
    pub async fn bitmaps(&self, name: &str) -> Result<Vec<String>, OpenError> {
        let volume = bitmaps::volume_of(name).to_owned();
        let listed = self.call(|answer| Call::Once(Once::Snapshots(volume, answer)));
        let snapshots = listed.await.map_err(|error| source_error(&error))?;
        bitmaps::names(name, snapshots)
    }

    async fn call<T: Send>(&self, call: impl FnOnce(Answer<T>) -> Call) -> Result<T, SourceError> {
        let (answer, answers) = remote::bounded(1);
        let sent = self.calls.send(call(answer)).await;
        sent.map_err(|_| SourceError::Unreachable)?;
        answers
            .recv()
            .await
            .unwrap_or(Err(SourceError::Unreachable))
    }
}

impl ClusterSource for HttpClusterSource {
    async fn attach(
        &self,
        volume: &str,
        request: &AttachRequest,
    ) -> Result<Attachment, SourceError> {
        let (volume, request) = (volume.to_owned(), request.clone());
        self.call(|answer| Call::Once(Once::Attach(volume, request, answer)))
            .await
    }

    async fn map(&self, volume: &str, after: Revision) -> Result<VolumeMap, SourceError> {
        let volume = volume.to_owned();
        self.call(|answer| Call::Map(volume, after, answer)).await
    }

    async fn detach(&self, volume: &str, request: &DetachRequest) -> Result<(), SourceError> {
        let (volume, request) = (volume.to_owned(), request.clone());
        self.call(|answer| Call::Once(Once::Detach(volume, request, answer)))
            .await
    }

    async fn heartbeat(&self, heartbeat: &OwnerHeartbeat) -> Result<(), SourceError> {
        self.beats.note(heartbeat.clone());
        Ok(())
    }

    async fn report_layers(&self, volume: &str, report: &ReportLayers) -> Result<(), SourceError> {
        let (volume, report) = (volume.to_owned(), *report);
        self.call(|answer| Call::Once(Once::ReportLayers(volume, report, answer)))
            .await
    }

    async fn report_flatten(
        &self,
        volume: &str,
        report: &ReportFlatten,
    ) -> Result<(), SourceError> {
        let (volume, report) = (volume.to_owned(), *report);
        self.call(|answer| Call::Once(Once::ReportFlatten(volume, report, answer)))
            .await
    }

    async fn report_hold(
        &self,
        volume: &str,
        report: &ReportHold,
    ) -> Result<HoldAnswer, SourceError> {
        let (volume, report) = (volume.to_owned(), *report);
        self.call(|answer| Call::Once(Once::ReportHold(volume, report, answer)))
            .await
    }

    async fn snapshot(&self, volume: &str, snapshot: &str) -> Result<SnapshotMap, SourceError> {
        let (volume, snapshot) = (volume.to_owned(), snapshot.to_owned());
        self.call(|answer| Call::Once(Once::Snapshot(volume, snapshot, answer)))
            .await
    }

    async fn propose_in_sync(
        &self,
        volume: &str,
        proposal: &ProposeInSync,
    ) -> Result<InSyncCommitted, SourceError> {
        let (volume, proposal) = (volume.to_owned(), proposal.clone());
        self.call(|answer| Call::Once(Once::Propose(volume, proposal, answer)))
            .await
    }
}

async fn carry_out(client: ApiClient, call: Once) {
    match call {
        Once::Attach(name, request, answer) => {
            let outcome = match client.attach(&name, &request).await {
                Err(error) if code(&error) == Some("volume-attached") => {
                    Err(attached(&client, &name).await)
                }
                other => other.map_err(|error| translate(&name, &error)),
            };
            let _ = answer.try_send(outcome);
        }
        Once::Detach(name, request, answer) => {
            let outcome = client.detach(&name, &request).await;
            tell(&answer, &name, outcome);
        }
        Once::Propose(name, request, answer) => {
            let outcome = client.propose_in_sync(&name, &request).await;
            tell(&answer, &name, outcome);
        }
        Once::ReportLayers(name, request, answer) => {
            let outcome = client.report_layers(&name, &request).await;
            tell(&answer, &name, outcome);
        }
        Once::ReportFlatten(name, request, answer) => {
            let outcome = client.report_flatten(&name, &request).await;
            tell(&answer, &name, outcome);
        }
        Once::ReportHold(name, request, answer) => {
            let outcome = client.report_hold(&name, &request).await;
            tell(&answer, &name, outcome);
        }
        Once::Snapshot(name, snapshot, answer) => {
            let outcome = client.snapshot_map(&name, &snapshot).await;
            tell(&answer, &name, outcome);
        }
        Once::List(answer) => {
            let listed = async {
                let volumes = client.volumes().await?.items;
                Ok((volumes, client.snapshots(None, false).await?.items))
            };
            let outcome: Result<_, ApiError> = listed.await;
            tell(&answer, "*", outcome);
        }
        Once::Snapshots(name, answer) => {
            let outcome = client
                .snapshots(Some(&name), false)
                .await
                .map(|list| list.items);
            tell(&answer, &name, outcome);
        }
        Once::Show(name, answer) => {
            let outcome = client.volume(&name).await;
            tell(&answer, &name, outcome);
        }
        Once::Targets(after, answer) => {
            let outcome = client.served_targets(after, TARGETS_WAIT).await;
            tell(&answer, "*", outcome);
        }
        Once::Reservations(name, answer) => {
            let outcome = client.reservations(&name).await;
            tell(&answer, &name, outcome);
        }
        Once::Server(call) => call.carry_out(&client).await,
        Once::ReplaceReservations(name, request, answer) => {
            let outcome = client.replace_reservations(&name, &request).await;
            tell(&answer, &name, outcome);
        }
    }
}

/// Gives the outcome of a call to who waits for it: an answer that finds nobody belongs to one that no
/// longer does.
pub fn tell<T: Send>(answer: &Answer<T>, volume: &str, outcome: Result<T, ApiError>) {
    let _ = answer.try_send(outcome.map_err(|error| translate(volume, &error)));
}

/// Who has the volume, for the message.
async fn attached(client: &ApiClient, name: &str) -> SourceError {
    let owner = client
        .volume(name)
        .await
        .ok()
        .and_then(|volume| volume.attached_by);
    let owner = owner.unwrap_or_else(|| "another owner".to_owned()).into();
    SourceError::Attached { owner }
}

fn code(error: &ApiError) -> Option<&str> {
    error.problem().map(|problem| problem.code.as_str())
}

/// A failed call as an owner understands it.
pub fn translate(volume: &str, error: &ApiError) -> SourceError {
    tracing::debug!(volume, %error, "a call to the conductor failed");
    match error {
        ApiError::Refused(problem) => problem.into(),
        ApiError::Unreachable { .. } | ApiError::NoAnswer { .. } | ApiError::Strange { .. } => {
            SourceError::Unreachable
        }
        ApiError::Address { .. } | ApiError::NoTrust { .. } | ApiError::Tls(_) => {
            SourceError::Refused {
                code: "address".into(),
            }
        }
    }
}

/// What front ends call a volume that is published.
pub fn published_name(volume: &Volume) -> Option<PublishedName> {
    let publication = volume.publication.as_ref()?.id;
    let volume = volume.name.clone();
    Some(PublishedName {
        volume,
        publication,
    })
}

/// A snapshot as an export: it can only be read.
fn snapshot_export(snapshot: &Snapshot) -> ExportInfo {
    let name = format!("{}@{}", snapshot.volume_name, snapshot.name);
    let mut export = ExportInfo::new(name, snapshot.size_bytes.get());
    export.geometry.read_only = true;
    export
}

/// Why an export cannot be opened, from why its snapshot cannot.
pub fn open_snapshot_error(error: &OpenSnapshotError) -> OpenError {
    match error {
        OpenSnapshotError::Source(error) => source_error(error),
        OpenSnapshotError::NotReady => OpenError::Unavailable,
        OpenSnapshotError::Map { .. } => OpenError::Failed(Box::new(error.clone())),
    }
}

/// Why an export cannot be opened, from why its volume cannot be attached.
pub fn open_error(error: &AttachError) -> OpenError {
    match error {
        AttachError::Source(error) => source_error(error),
        AttachError::Fenced => OpenError::InUse,
        AttachError::Unavailable { .. } => OpenError::Unavailable,
        AttachError::ReplicaFails { .. }
        | AttachError::Damaged { .. }
        | AttachError::Origin(_)
        | AttachError::Map { .. } => OpenError::Failed(Box::new(error.clone())),
    }
}

fn source_error(error: &SourceError) -> OpenError {
    match error {
        SourceError::NotFound => OpenError::Unknown,
        SourceError::PublicationOver => OpenError::Denied,
        SourceError::Attached { .. } | SourceError::Superseded => OpenError::InUse,
        SourceError::NotReady | SourceError::Unreachable | SourceError::Unchanged => {
            OpenError::Unavailable
        }
        SourceError::ReplicaGone | SourceError::Denied { .. } | SourceError::Refused { .. } => {
            OpenError::Failed(Box::new(error.clone()))
        }
    }
}
