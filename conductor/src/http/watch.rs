//! List + watch: newline-delimited JSON that begins with what is there, or after a revision.
//!
//! A watch is level-triggered: an item that changed several times since the last line may be sent
//! once, as it stands. Each line says the revision that it brings the reader to.
//!
//! ```text
//! feeder task ── bounded channel ──▶ body ──▶ socket
//!    └─ ends when the reader takes nothing for SLOW_READER, when the conductor stops, or after
//!       a Reset line where the revision is no longer kept
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use ashlar_proto::api::{Disk, Node, Revision, Volume, WatchEvent};
use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_core::Stream;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::problem::{Answer, Refused};
use super::{Api, WATCHES_MAX};
use crate::access::caller::Caller;
use crate::cluster::{Cluster, ClusterError, EVENTS_MAX, View};
use crate::membership::Moment;
use crate::meta::{Events, MetaStore};
use crate::row::AnyRow;
use crate::state::Subject;

/// Lines that wait for a reader.
const LINES_QUEUED_MAX: usize = 256;

/// How long a reader may take nothing before it is dropped.
const SLOW_READER: Duration = Duration::from_secs(20);

/// How long a conductor that follows is waited for to come to where a reader is.
const BEHIND_MAX: Duration = Duration::from_secs(2);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    #[serde(default)]
    pub(super) watch: bool,
    pub(super) after: Option<Revision>,
}

/// What can be watched.
trait Watched: Serialize + Send + Sync + Sized + 'static {
    /// All of them.
    fn all(view: &View, at: Moment) -> Vec<Self>;

    /// The item, if the subject is one of these.
    fn find(view: &View, at: Moment, subject: Subject) -> Option<Self>;

    /// The item as a removed row last said it was.
    fn removed(view: &View, row: AnyRow) -> Option<Self>;

    /// Whether it is the business of who watches; what is of no project is that of whoever got so far.
    fn is_seen_by(&self, _: &Caller) -> bool {
        true
    }
}

impl Watched for Volume {
    fn all(view: &View, _: Moment) -> Vec<Self> {
        view.state.volumes()
    }

    fn find(view: &View, _: Moment, subject: Subject) -> Option<Self> {
        match subject {
            Subject::Volume(id) => view.state.volume(id),
            Subject::Node(_) | Subject::Disk(_) => None,
        }
    }

    fn removed(_: &View, row: AnyRow) -> Option<Self> {
        match row {
            AnyRow::Volume(row) => Some(crate::state::ClusterState::empty().show_removed(&row)),
            _ => None,
        }
    }

    fn is_seen_by(&self, caller: &Caller) -> bool {
        caller.sees(&self.name)
    }
}

impl Watched for Node {
    fn all(view: &View, at: Moment) -> Vec<Self> {
        view.state.nodes(&view.live, at)
    }

    fn find(view: &View, at: Moment, subject: Subject) -> Option<Self> {
        match subject {
            Subject::Node(id) => view.state.node(id, &view.live, at),
            Subject::Volume(_) | Subject::Disk(_) => None,
        }
    }

    fn removed(_: &View, row: AnyRow) -> Option<Self> {
        match row {
            AnyRow::Node(row) => Some(crate::state::removed_node(row)),
            _ => None,
        }
    }
}

impl Watched for Disk {
    fn all(view: &View, _: Moment) -> Vec<Self> {
        view.state.disks(&view.live)
    }

    fn find(view: &View, _: Moment, subject: Subject) -> Option<Self> {
        match subject {
            Subject::Disk(id) => view.state.disk(id, &view.live),
            Subject::Volume(_) | Subject::Node(_) => None,
        }
    }

    fn removed(view: &View, row: AnyRow) -> Option<Self> {
        match row {
            AnyRow::Disk(row) => Some(view.state.removed_disk(row)),
            _ => None,
        }
    }
}

pub(super) fn volumes<M: MetaStore>(
    api: &Arc<Api<M>>,
    after: Option<Revision>,
    caller: Caller,
) -> Answer<Response> {
    open::<Volume, M>(api, after, Some(caller))
}

pub(super) fn nodes<M: MetaStore>(api: &Arc<Api<M>>, after: Option<Revision>) -> Answer<Response> {
    open::<Node, M>(api, after, None)
}

pub(super) fn disks<M: MetaStore>(api: &Arc<Api<M>>, after: Option<Revision>) -> Answer<Response> {
    open::<Disk, M>(api, after, None)
}

fn open<T: Watched, M: MetaStore>(
    api: &Arc<Api<M>>,
    after: Option<Revision>,
    caller: Option<Caller>,
) -> Answer<Response> {
    let Ok(permit) = Arc::clone(&api.watches).try_acquire_owned() else {
        return Err(Refused::too_many_watches(WATCHES_MAX));
    };
    let (lines, queued) = mpsc::channel(LINES_QUEUED_MAX);
    let mut stopping = api.stopping.clone();
    let feeder = Feeder {
        cluster: Arc::clone(&api.cluster),
        lines,
        caller,
        _permit: permit,
    };
    tokio::spawn(async move {
        tokio::select! {
            ended = feeder.run::<T>(after) => match ended {
                Ok(()) | Err(Ended::ReaderGone) => {}
                Err(Ended::ReaderSlow) => tracing::info!("a watch was dropped: its reader is slow"),
                Err(Ended::Failed(error)) => tracing::error!(%error, "a watch failed"),
            },
            _ = stopping.wait_for(|stopping| *stopping) => {}
        }
    });
    let kind = HeaderValue::from_static("application/x-ndjson");
    Ok((
        [(header::CONTENT_TYPE, kind)],
        Body::from_stream(Lines(queued)),
    )
        .into_response())
}

/// The queued lines as a body.
struct Lines(mpsc::Receiver<Bytes>);

impl Stream for Lines {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context).map(|line| line.map(Ok))
    }
}

/// Why a watch ended before its time.
enum Ended {
    ReaderGone,
    ReaderSlow,
    Failed(ClusterError),
}

impl From<ClusterError> for Ended {
    fn from(error: ClusterError) -> Self {
        Self::Failed(error)
    }
}

struct Feeder<M> {
    cluster: Arc<Cluster<M>>,
    lines: mpsc::Sender<Bytes>,
    /// Who watches, where only some items are to be seen.
    caller: Option<Caller>,
    _permit: OwnedSemaphorePermit,
}

impl<M: MetaStore> Feeder<M> {
    async fn run<T: Watched>(self, after: Option<Revision>) -> Result<(), Ended> {
        let mut revisions = self.cluster.revisions();
        let mut at = match after {
            Some(after) => {
                // A conductor that follows may be behind the one that the reader had before.
                let come = |view: &View| (view.state.revision() >= after).then_some(());
                if self.cluster.leads().is_err() {
                    self.cluster.wait_for(BEHIND_MAX, come).await;
                }
                after
            }
            None => self.send_all::<T>().await?,
        };
        let mut idle_until = tokio::time::Instant::now();
        loop {
            // The state is ahead of the wake-up for a moment: what a list said is not the future.
            revisions.mark_unchanged();
            let current = self.cluster.read(|view| view.state.revision());
            if at > current {
                return self.send(&WatchEvent::<T>::Reset).await;
            }
            if at < current {
                match self.send_changes::<T>(at).await? {
                    Some((reached, sent)) => {
                        at = reached;
                        if sent {
                            idle_until = tokio::time::Instant::now() + self.bookmark();
                        }
                        continue;
                    }
                    None => return self.send(&WatchEvent::<T>::Reset).await,
                }
            }
            tokio::select! {
                changed = revisions.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                }
                () = tokio::time::sleep_until(idle_until) => {
                    self.send(&WatchEvent::<T>::Bookmark { revision: at }).await?;
                    idle_until = tokio::time::Instant::now() + self.bookmark();
                }
                () = self.lines.closed() => return Err(Ended::ReaderGone),
            }
        }
    }

    fn shows<T: Watched>(&self, item: &T) -> bool {
        let caller = self.caller.as_ref();
        caller.is_none_or(|caller| item.is_seen_by(caller))
    }

    fn bookmark(&self) -> Duration {
        self.cluster.timing().bookmark
    }

    async fn send_all<T: Watched>(&self) -> Result<Revision, Ended> {
        let at = self.cluster.now();
        let (revision, items) = self
            .cluster
            .read(|view| (view.state.revision(), T::all(view, at)));
        for item in items.into_iter().filter(|item| self.shows(item)) {
            self.send(&WatchEvent::Put { revision, item }).await?;
        }
        Ok(revision)
    }

    /// Sends what changed after `from`; gives the revision reached and whether a line was sent, or
    /// nothing where those changes are no longer kept.
    async fn send_changes<T: Watched>(
        &self,
        from: Revision,
    ) -> Result<Option<(Revision, bool)>, Ended> {
        let events = self.cluster.store().events(from, EVENTS_MAX).await;
        let (list, up_to) = match events.map_err(ClusterError::from)? {
            Events::Read { list, up_to } => (list, up_to),
            Events::Compacted => return Ok(None),
        };
        let now = self.cluster.now();
        let mut gone: BTreeMap<Revision, Vec<T>> = BTreeMap::new();
        let mut latest: BTreeMap<Subject, Revision> = BTreeMap::new();
        for event in &list {
            if let (None, Some(before)) = (&event.value, &event.before) {
                let row = AnyRow::decode(&event.key, before).map_err(ClusterError::from)?;
                let item = self.cluster.read(|view| T::removed(view, row));
                let item = item.filter(|item| self.shows(item));
                gone.entry(event.revision).or_default().extend(item);
            }
        }
        let puts = self.cluster.read(|view| {
            let keys: BTreeSet<_> = list
                .iter()
                .map(|event| (&event.key, event.revision))
                .collect();
            for (key, revision) in keys {
                for subject in view.state.subjects(key) {
                    let seen = latest.entry(subject).or_insert(revision);
                    *seen = (*seen).max(revision);
                }
            }
            let found = latest.iter().filter_map(|(subject, revision)| {
                let item = T::find(view, now, *subject)?;
                self.shows(&item).then_some((*revision, item))
            });
            found.collect::<Vec<_>>()
        });
        let mut lines: Vec<(Revision, WatchEvent<T>)> = Vec::new();
        for (revision, items) in gone {
            let deleted = items
                .into_iter()
                .map(|item| WatchEvent::Delete { revision, item });
            lines.extend(deleted.map(|line| (revision, line)));
        }
        lines.extend(
            puts.into_iter()
                .map(|(at, item)| (at, WatchEvent::Put { revision: at, item })),
        );
        // By revision, so that whoever resumes after any line has missed nothing before it.
        lines.sort_by_key(|(revision, _)| *revision);
        let sent = !lines.is_empty();
        for (_, line) in lines {
            self.send(&line).await?;
        }
        Ok(Some((up_to, sent)))
    }

    async fn send<T: Serialize>(&self, event: &WatchEvent<T>) -> Result<(), Ended> {
        let Ok(mut line) = serde_json::to_vec(event) else {
            return Ok(());
        };
        line.push(b'\n');
        match tokio::time::timeout(SLOW_READER, self.lines.send(line.into())).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Ended::ReaderGone),
            Err(_) => Err(Ended::ReaderSlow),
        }
    }
}
