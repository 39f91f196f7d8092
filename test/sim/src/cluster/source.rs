//! The conductor as owners of a simulated cluster see it: its own code, and the way there.

use std::time::Duration;

use ashlar_client::{ClusterSource, SourceError};
use ashlar_proto::api::{
    AttachRequest, Attachment, DetachRequest, HoldAnswer, InSyncCommitted, OwnerHeartbeat, Problem,
    ProposeInSync, ReportFlatten, ReportHold, ReportLayers, Revision, SnapshotMap, VolumeMap,
};

use ashlar_proto::limits::HOLD_MAX;

use super::VOLUME;
use super::conductor::{ANSWER_MAX, CallError, Road, SimCluster};

/// How long a question for the map waits for news.
const MAP_WAIT: Duration = Duration::from_secs(30);

/// An owner's road to the conductor.
#[derive(Clone)]
pub struct ConductorSource {
    road: Road,
}

impl ConductorSource {
    pub fn new(road: Road) -> Self {
        Self { road }
    }
}

impl ClusterSource for ConductorSource {
    async fn attach(
        &self,
        volume: &str,
        request: &AttachRequest,
    ) -> Result<Attachment, SourceError> {
        let archive = self.road.conductor.archive().clone();
        let (name, request) = (volume.to_owned(), request.clone());
        let deed = async move |cluster: SimCluster| {
            let attachment = cluster.attach(name, request).await?;
            if attachment.volume.id == VOLUME {
                archive.ledger(|ledger| ledger.grant(&attachment));
            }
            Ok(attachment)
        };
        self.road.ask(ANSWER_MAX, deed).await.map_err(translate)
    }

    async fn map(&self, volume: &str, after: Revision) -> Result<VolumeMap, SourceError> {
        let archive = self.road.conductor.archive().clone();
        let name = volume.to_owned();
        let deed = async move |cluster: SimCluster| {
            let map = cluster.map(name, after, MAP_WAIT).await?;
            if map.volume.id == VOLUME {
                archive.ledger(|ledger| ledger.show_map(&map));
            }
            Ok(map)
        };
        let patience = MAP_WAIT + ANSWER_MAX;
        self.road.ask(patience, deed).await.map_err(translate)
    }

    async fn detach(&self, volume: &str, request: &DetachRequest) -> Result<(), SourceError> {
        let archive = self.road.conductor.archive().clone();
        let (name, request) = (volume.to_owned(), request.clone());
        let deed = async move |cluster: SimCluster| {
            if request.volume == VOLUME {
                archive.ledger(|ledger| ledger.detach(&request));
            }
            cluster.detach(name, request).await
        };
        self.road.ask(ANSWER_MAX, deed).await.map_err(translate)
    }

    async fn heartbeat(&self, heartbeat: &OwnerHeartbeat) -> Result<(), SourceError> {
        let heartbeat = heartbeat.clone();
        let deed = async move |cluster: SimCluster| cluster.hear_owner(heartbeat);
        self.road.ask(ANSWER_MAX, deed).await.map_err(translate)
    }

    async fn report_layers(&self, volume: &str, report: &ReportLayers) -> Result<(), SourceError> {
        let archive = self.road.conductor.archive().clone();
        let (name, report) = (volume.to_owned(), *report);
        let deed = async move |cluster: SimCluster| {
            if report.volume == VOLUME {
                archive.ledger(|ledger| ledger.report(&report));
            }
            cluster.report_layers(name, report).await
        };
        self.road.ask(ANSWER_MAX, deed).await.map_err(translate)
    }

    async fn report_flatten(
        &self,
        volume: &str,
        report: &ReportFlatten,
    ) -> Result<(), SourceError> {
        let (name, report) = (volume.to_owned(), *report);
        let deed = async move |cluster: SimCluster| cluster.report_flatten(name, report).await;
        self.road.ask(ANSWER_MAX, deed).await.map_err(translate)
    }

    async fn report_hold(
        &self,
        volume: &str,
        report: &ReportHold,
    ) -> Result<HoldAnswer, SourceError> {
        let (name, report) = (volume.to_owned(), *report);
        let deed = async move |cluster: SimCluster| cluster.report_hold(name, report).await;
        if let Some(after) = self.road.conductor.draw_echo() {
            let again = deed.clone();
            let echo = async move |cluster| drop(again(cluster).await);
            self.road.conductor.tell(after, echo);
        }
        let patience = HOLD_MAX + ANSWER_MAX;
        self.road.ask(patience, deed).await.map_err(translate)
    }

    async fn snapshot(&self, volume: &str, snapshot: &str) -> Result<SnapshotMap, SourceError> {
        let (volume, snapshot) = (volume.to_owned(), snapshot.to_owned());
        let deed = async move |cluster: SimCluster| cluster.snapshot_map(&volume, &snapshot);
        self.road.ask(ANSWER_MAX, deed).await.map_err(translate)
    }

    async fn propose_in_sync(
        &self,
        volume: &str,
        proposal: &ProposeInSync,
    ) -> Result<InSyncCommitted, SourceError> {
        let archive = self.road.conductor.archive().clone();
        let (name, proposal) = (volume.to_owned(), proposal.clone());
        let deed = async move |cluster: SimCluster| {
            let is_ours = proposal.volume == VOLUME;
            if is_ours {
                archive.ledger(|ledger| ledger.propose(&proposal));
            }
            let committed = cluster.propose(name, proposal).await?;
            if is_ours {
                archive.ledger(|ledger| ledger.show(&committed.shard));
            }
            Ok(committed)
        };
        if let Some(after) = self.road.conductor.draw_echo() {
            let again = deed.clone();
            let echo = async move |cluster| drop(again(cluster).await);
            self.road.conductor.tell(after, echo);
        }
        self.road.ask(ANSWER_MAX, deed).await.map_err(translate)
    }
}

/// A failed call as an owner understands it.
fn translate(error: CallError) -> SourceError {
    let problem = match error {
        CallError::Unreachable => return SourceError::Unreachable,
        CallError::Refused(error) => Problem::from(error),
    };
    if problem.code == "volume-attached" {
        let owner = "another owner".into();
        return SourceError::Attached { owner };
    }
    (&problem).into()
}
