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

use ashlar_proto::api::{Revision, WatchEvent};
use axum::body::{Body, Bytes};
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_core::Stream;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::page::{Filter, Selection, page};
use super::problem::{Answer, Refused};
use super::watched::Watched;
use super::{Api, WATCHES_MAX, veil};
use crate::cluster::{Cluster, ClusterError, EVENTS_MAX, View};
use crate::meta::{Event, Events, MetaStore};
use crate::row::AnyRow;
use crate::state::Subject;

/// Lines that wait for a reader.
const LINES_QUEUED_MAX: usize = 256;

/// How long a reader may take nothing before it is dropped.
const SLOW_READER: Duration = Duration::from_secs(20);

/// How long a conductor that follows is waited for to come to where a reader is.
const BEHIND_MAX: Duration = Duration::from_secs(2);

/// How the lines of a watch are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// Newline-delimited JSON.
    Lines,
    /// Server-sent events (HTML Standard section 9.2): the id of each is its revision.
    Events,
}

/// What the headers of a request for a list say of a watch.
pub(super) struct Wanted {
    style: Style,
    last_event: Option<Revision>,
}

impl<S: Send + Sync> FromRequestParts<S> for Wanted {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refused> {
        let accepted = parts.headers.get_all(header::ACCEPT).iter();
        let mut accepted = accepted
            .filter_map(|value| value.to_str().ok())
            .flat_map(|v| v.split(','));
        let is_events =
            |kind: &str| kind.split(';').next().map(str::trim) == Some("text/event-stream");
        let style = if accepted.any(is_events) {
            Style::Events
        } else {
            Style::Lines
        };
        let last = parts
            .headers
            .get("last-event-id")
            .filter(|_| style == Style::Events);
        let last_event = last.map(|value| {
            let number = value
                .to_str()
                .ok()
                .and_then(|text| text.trim().parse().ok());
            number.ok_or_else(|| Refused::malformed("`Last-Event-ID` is no revision"))
        });
        let last_event = last_event.transpose()?.map(Revision);
        Ok(Self { style, last_event })
    }
}

/// A page of a list, or a watch of it.
pub(super) fn list<T: Watched, M: MetaStore>(
    api: &Arc<Api<M>>,
    selection: Selection,
    wanted: &Wanted,
) -> Answer<Response> {
    if !selection.watch && wanted.style == Style::Lines {
        return Ok(page::<T, M>(api, &selection)?.into_response());
    }
    let after = wanted.last_event.or(selection.after);
    open::<T, M>(api, after, selection.filter, wanted.style)
}

fn open<T: Watched, M: MetaStore>(
    api: &Arc<Api<M>>,
    after: Option<Revision>,
    filter: Filter,
    style: Style,
) -> Answer<Response> {
    let Ok(permit) = Arc::clone(&api.watches).try_acquire_owned() else {
        return Err(Refused::too_many_watches(WATCHES_MAX));
    };
    let (lines, queued) = mpsc::channel(LINES_QUEUED_MAX);
    let mut stopping = api.stopping.clone();
    let feeder = Feeder {
        cluster: Arc::clone(&api.cluster),
        lines,
        filter,
        style,
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
    let kind = HeaderValue::from_static(match style {
        Style::Lines => "application/x-ndjson",
        Style::Events => "text/event-stream",
    });
    let fresh = HeaderValue::from_static("no-store");
    Ok((
        [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, fresh)],
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
    filter: Filter,
    style: Style,
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

    fn bookmark(&self) -> Duration {
        self.cluster.timing().bookmark
    }

    async fn send_all<T: Watched>(&self) -> Result<Revision, Ended> {
        let at = self.cluster.now();
        let (revision, items) = self.cluster.read(|view| {
            let items: Vec<T> = T::after(view, at, None, &self.filter).collect();
            (view.state.revision(), items)
        });
        for item in items {
            self.send_part(&WatchEvent::Put { revision, item }, false)
                .await?;
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
                let item = item.filter(|item| item.is_seen(&self.filter));
                gone.entry(event.revision).or_default().extend(item);
            }
        }
        let puts = self.cluster.read(|view| {
            for (subject, revision) in subjects_of::<T>(view, &list)? {
                let seen = latest.entry(subject).or_insert(revision);
                *seen = (*seen).max(revision);
            }
            let found = latest.iter().filter_map(|(subject, revision)| {
                let item = T::find(view, now, subject)?;
                item.is_seen(&self.filter).then_some((*revision, item))
            });
            Ok::<_, ClusterError>(found.collect::<Vec<_>>())
        })?;
        let mut lines: Vec<(Revision, WatchEvent<T>)> = Vec::new();
        for (revision, items) in gone {
            let deleted = items
                .into_iter()
                .map(|item| WatchEvent::Delete { revision, item });
            lines.extend(deleted.map(|line| (revision, line)));
        }
        lines.extend(puts.into_iter().map(|(revision, item)| {
            // What is asked for no more is gone for who asks.
            let line = if item.is_selected(&self.filter) {
                WatchEvent::Put { revision, item }
            } else {
                WatchEvent::Delete { revision, item }
            };
            (revision, line)
        }));
        // By revision, so that whoever resumes after any line has missed nothing before it.
        lines.sort_by_key(|(revision, _)| *revision);
        let sent = !lines.is_empty();
        let mut lines = lines.into_iter().peekable();
        while let Some((revision, line)) = lines.next() {
            // Whoever resumes in the middle of a revision would miss the rest of it.
            let is_whole = lines.peek().is_none_or(|(next, _)| *next != revision);
            self.send_part(&line, is_whole).await?;
        }
        Ok(Some((up_to, sent)))
    }

    async fn send<T: Serialize>(&self, event: &WatchEvent<T>) -> Result<(), Ended> {
        self.send_part(event, true).await
    }

    /// Sends an event, and whether with it all up to its revision has been sent.
    async fn send_part<T: Serialize>(
        &self,
        event: &WatchEvent<T>,
        is_whole: bool,
    ) -> Result<(), Ended> {
        let json = veil::text(self.filter.caller.as_ref(), event);
        let Some(line) = json.map(|json| told(event, &json, self.style, is_whole)) else {
            return Ok(());
        };
        match tokio::time::timeout(SLOW_READER, self.lines.send(line.into())).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Ended::ReaderGone),
            Err(_) => Err(Ended::ReaderSlow),
        }
    }
}

/// Whose appearance these events may change, and when.
fn subjects_of<T: Watched>(
    view: &View,
    list: &[Event],
) -> Result<BTreeSet<(Subject, Revision)>, ClusterError> {
    let mut subjects = BTreeSet::new();
    for event in list {
        let mut of = view.state.subjects(&event.key);
        if T::IS_SNAPSHOT {
            of.extend(view.state.snapshots_touched(event)?);
        }
        subjects.extend(of.into_iter().map(|subject| (subject, event.revision)));
    }
    Ok(subjects)
}

/// An event, of which `json` tells, as a reader gets it. One that is the last of its revision has an id, by which the reader goes
/// on after it.
fn told<T>(event: &WatchEvent<T>, json: &str, style: Style, is_whole: bool) -> Vec<u8> {
    let (kind, revision) = match event {
        WatchEvent::Put { revision, .. } => ("put", Some(revision)),
        WatchEvent::Delete { revision, .. } => ("delete", Some(revision)),
        WatchEvent::Bookmark { revision } => ("bookmark", Some(revision)),
        WatchEvent::Reset => ("reset", None),
    };
    let text = match (style, revision.filter(|_| is_whole)) {
        (Style::Lines, _) => format!("{json}\n"),
        (Style::Events, Some(at)) => format!("id: {}\nevent: {kind}\ndata: {json}\n\n", at.0),
        (Style::Events, None) => format!("event: {kind}\ndata: {json}\n\n"),
    };
    text.into_bytes()
}
