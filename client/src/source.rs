//! Where an owner gets its grant and has its in-sync sets committed: the conductor, over whatever
//! carries the messages.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use ashlar_proto::api::{
    AttachRequest, Attachment, DetachRequest, HoldAnswer, InSyncCommitted, OwnerHeartbeat, Problem,
    ProposeInSync, ReportFlatten, ReportHold, ReportLayers, Revision, SnapshotMap, VolumeMap,
};

/// Why the conductor did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// There is no volume of that name.
    #[error("no such volume or snapshot")]
    NotFound,
    /// The volume's replicas are not made yet, or are being removed.
    #[error("volume is not ready")]
    NotReady,
    /// Another owner holds it, and the request did not force.
    #[error("volume is attached by {owner}")]
    Attached {
        /// Who holds it.
        owner: Box<str>,
    },
    /// Whoever attaches may attach nothing, or not this volume: it is another node's.
    #[error("{detail}")]
    Denied {
        /// Who said so, and what to do.
        detail: Box<str>,
    },
    /// The volume was taken from the node that it was attached for.
    #[error("volume is no more this node's: its publication is over")]
    PublicationOver,
    /// The generation or the epoch is no longer current, or the volume is another one of the same
    /// name: it was granted to another owner or deleted since.
    #[error("volume was attached elsewhere since")]
    Superseded,
    /// The set proposed has a replica that was replaced since. It was not committed, and never will
    /// be.
    #[error("a replica of the proposed set is gone")]
    ReplicaGone,
    /// The conductor refuses the request itself; repeating it changes nothing.
    #[error("conductor refused: {code}")]
    Refused {
        /// The problem's stable code.
        code: Box<str>,
    },
    /// Nothing has changed for some time: ask again.
    #[error("nothing has changed")]
    Unchanged,
    /// No answer, or none that tells: the request may or may not have been carried out.
    #[error("conductor does not answer")]
    Unreachable,
}

impl From<&Problem> for SourceError {
    fn from(problem: &Problem) -> Self {
        match problem.code.as_str() {
            _ if problem.status >= 500 => Self::Unreachable,
            "volume-not-found" | "snapshot-not-found" => Self::NotFound,
            "volume-not-ready" => Self::NotReady,
            "stale-generation" | "stale-epoch" => Self::Superseded,
            "replica-gone" => Self::ReplicaGone,
            // Whoever asks again gets the same answer.
            "client-denied" | "volume-published" => Self::Denied {
                detail: problem.detail.as_str().into(),
            },
            "publication-over" => Self::PublicationOver,
            code => Self::Refused { code: code.into() },
        }
    }
}

/// What an owner asks of the conductor.
///
/// Each call may be repeated: a proposal that was committed is answered as the first time.
#[expect(
    async_fn_in_trait,
    reason = "owners live on one thread: no Send bound is wanted"
)]
pub trait ClusterSource: 'static {
    /// Grants the next generation of a volume.
    ///
    /// # Errors
    /// Any [`SourceError`] but [`SourceError::Superseded`].
    async fn attach(
        &self,
        volume: &str,
        request: &AttachRequest,
    ) -> Result<Attachment, SourceError>;

    /// The volume's map as soon as it has changed after a revision, or as it stands after some
    /// time.
    ///
    /// # Errors
    /// [`SourceError::NotFound`], [`SourceError::Refused`], [`SourceError::Unreachable`];
    /// [`SourceError::Unchanged`] instead of the map as it stands.
    async fn map(&self, volume: &str, after: Revision) -> Result<VolumeMap, SourceError>;

    /// Gives the volume back.
    ///
    /// # Errors
    /// [`SourceError::NotFound`], [`SourceError::Superseded`], [`SourceError::Unreachable`].
    async fn detach(&self, volume: &str, request: &DetachRequest) -> Result<(), SourceError>;

    /// Says that an owner lives, and which stores it reaches. A source that no conductor stands
    /// behind has nobody to tell.
    ///
    /// # Errors
    /// [`SourceError::Refused`], [`SourceError::Unreachable`].
    async fn heartbeat(&self, _heartbeat: &OwnerHeartbeat) -> Result<(), SourceError> {
        Ok(())
    }

    /// Says how far the replicas of an attached volume have come with its layers.
    ///
    /// # Errors
    /// [`SourceError::NotFound`], [`SourceError::Superseded`], [`SourceError::Refused`],
    /// [`SourceError::Unreachable`].
    async fn report_layers(&self, volume: &str, report: &ReportLayers) -> Result<(), SourceError>;

    /// Says how far an owner has come with copying what a clone shows of its origin.
    ///
    /// # Errors
    /// [`SourceError::NotFound`], [`SourceError::Superseded`], [`SourceError::Refused`],
    /// [`SourceError::Unreachable`].
    async fn report_flatten(&self, volume: &str, report: &ReportFlatten)
    -> Result<(), SourceError>;

    /// Says something of a hold, see [`ReportHold`]. That the volume holds back writes is answered when
    /// they may go on, or after a second. A source that no conductor stands behind tells of no hold.
    ///
    /// # Errors
    /// [`SourceError::NotFound`], [`SourceError::Superseded`], [`SourceError::Unreachable`];
    /// [`SourceError::Refused`]: the hold is over.
    async fn report_hold(&self, _volume: &str, _: &ReportHold) -> Result<HoldAnswer, SourceError> {
        let code = "group-over".into();
        Err(SourceError::Refused { code })
    }

    /// What it takes to read a snapshot, as things stand.
    ///
    /// # Errors
    /// [`SourceError::NotFound`]: there is no such volume or snapshot. [`SourceError::Refused`],
    /// [`SourceError::Unreachable`].
    async fn snapshot(&self, volume: &str, snapshot: &str) -> Result<SnapshotMap, SourceError>;

    /// Commits the next in-sync set of a shard, if generation and epoch are current.
    ///
    /// # Errors
    /// [`SourceError::NotFound`], [`SourceError::Superseded`], [`SourceError::ReplicaGone`],
    /// [`SourceError::Refused`], [`SourceError::Unreachable`].
    async fn propose_in_sync(
        &self,
        volume: &str,
        proposal: &ProposeInSync,
    ) -> Result<InSyncCommitted, SourceError>;
}

type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, SourceError>> + 'a>>;

/// A [`ClusterSource`] behind a pointer, so that the owner's code is compiled once.
pub(crate) trait AnySource {
    fn map<'a>(&'a self, volume: &'a str, after: Revision) -> Answer<'a, VolumeMap>;
    fn detach<'a>(&'a self, volume: &'a str, request: &'a DetachRequest) -> Answer<'a, ()>;
    fn heartbeat<'a>(&'a self, heartbeat: &'a OwnerHeartbeat) -> Answer<'a, ()>;
    fn report_layers<'a>(&'a self, volume: &'a str, report: &'a ReportLayers) -> Answer<'a, ()>;
    fn report_flatten<'a>(&'a self, volume: &'a str, report: &'a ReportFlatten) -> Answer<'a, ()>;
    fn report_hold<'a>(&'a self, volume: &'a str, report: &'a ReportHold)
    -> Answer<'a, HoldAnswer>;
    fn snapshot<'a>(&'a self, volume: &'a str, snapshot: &'a str) -> Answer<'a, SnapshotMap>;
    fn propose<'a>(
        &'a self,
        volume: &'a str,
        proposal: &'a ProposeInSync,
    ) -> Answer<'a, InSyncCommitted>;
}

impl<C: ClusterSource> AnySource for C {
    fn map<'a>(&'a self, volume: &'a str, after: Revision) -> Answer<'a, VolumeMap> {
        Box::pin(ClusterSource::map(self, volume, after))
    }

    fn detach<'a>(&'a self, volume: &'a str, request: &'a DetachRequest) -> Answer<'a, ()> {
        Box::pin(ClusterSource::detach(self, volume, request))
    }

    fn heartbeat<'a>(&'a self, heartbeat: &'a OwnerHeartbeat) -> Answer<'a, ()> {
        Box::pin(ClusterSource::heartbeat(self, heartbeat))
    }

    fn report_layers<'a>(&'a self, volume: &'a str, report: &'a ReportLayers) -> Answer<'a, ()> {
        Box::pin(ClusterSource::report_layers(self, volume, report))
    }

    fn report_flatten<'a>(&'a self, volume: &'a str, report: &'a ReportFlatten) -> Answer<'a, ()> {
        Box::pin(ClusterSource::report_flatten(self, volume, report))
    }

    fn report_hold<'a>(
        &'a self,
        volume: &'a str,
        report: &'a ReportHold,
    ) -> Answer<'a, HoldAnswer> {
        Box::pin(ClusterSource::report_hold(self, volume, report))
    }

    fn snapshot<'a>(&'a self, volume: &'a str, snapshot: &'a str) -> Answer<'a, SnapshotMap> {
        Box::pin(ClusterSource::snapshot(self, volume, snapshot))
    }

    fn propose<'a>(
        &'a self,
        volume: &'a str,
        proposal: &'a ProposeInSync,
    ) -> Answer<'a, InSyncCommitted> {
        Box::pin(self.propose_in_sync(volume, proposal))
    }
}

impl<C: ClusterSource> ClusterSource for Rc<C> {
    async fn attach(
        &self,
        volume: &str,
        request: &AttachRequest,
    ) -> Result<Attachment, SourceError> {
        C::attach(self, volume, request).await
    }

    async fn map(&self, volume: &str, after: Revision) -> Result<VolumeMap, SourceError> {
        C::map(self, volume, after).await
    }

    async fn detach(&self, volume: &str, request: &DetachRequest) -> Result<(), SourceError> {
        C::detach(self, volume, request).await
    }

    async fn heartbeat(&self, heartbeat: &OwnerHeartbeat) -> Result<(), SourceError> {
        C::heartbeat(self, heartbeat).await
    }

    async fn report_layers(&self, volume: &str, report: &ReportLayers) -> Result<(), SourceError> {
        C::report_layers(self, volume, report).await
    }

    async fn report_flatten(
        &self,
        volume: &str,
        report: &ReportFlatten,
    ) -> Result<(), SourceError> {
        C::report_flatten(self, volume, report).await
    }

    async fn report_hold(
        &self,
        volume: &str,
        report: &ReportHold,
    ) -> Result<HoldAnswer, SourceError> {
        C::report_hold(self, volume, report).await
    }

    async fn snapshot(&self, volume: &str, snapshot: &str) -> Result<SnapshotMap, SourceError> {
        C::snapshot(self, volume, snapshot).await
    }

    async fn propose_in_sync(
        &self,
        volume: &str,
        proposal: &ProposeInSync,
    ) -> Result<InSyncCommitted, SourceError> {
        C::propose_in_sync(self, volume, proposal).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(status: u16, code: &str) -> Problem {
        Problem {
            kind: format!("urn:ashlar:problem:{code}"),
            title: String::new(),
            status,
            detail: String::new(),
            code: code.to_owned(),
        }
    }

    #[test]
    fn problems_become_what_an_owner_understands() {
        let cases = [
            (problem(404, "volume-not-found"), SourceError::NotFound),
            (problem(409, "volume-not-ready"), SourceError::NotReady),
            (problem(409, "stale-generation"), SourceError::Superseded),
            (problem(409, "stale-epoch"), SourceError::Superseded),
            (problem(409, "replica-gone"), SourceError::ReplicaGone),
            (
                problem(403, "client-denied"),
                SourceError::Denied { detail: "".into() },
            ),
            (problem(503, "stopping"), SourceError::Unreachable),
            (problem(500, "internal"), SourceError::Unreachable),
            (
                problem(422, "invalid-request"),
                SourceError::Refused {
                    code: "invalid-request".into(),
                },
            ),
        ];
        for (problem, expected) in cases {
            assert_eq!(SourceError::from(&problem), expected);
        }
    }
}
