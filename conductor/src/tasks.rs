//! What is under way, and what has ended of late: how far each long operation has come, and how fast.
//!
//! Invariants: what is under way is what the state says; nothing is decided by what is noted here; at most
//! [`ENDED_KEPT_MAX`] that have ended are kept.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ashlar_proto::api::{Revision, Task, TaskKind, TaskState};

use crate::membership::Moment;

/// Tasks that have ended and are still shown.
const ENDED_KEPT_MAX: usize = 256;

/// How much of a task is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Nobody can tell.
    Unknown,
    /// So much of so much.
    Done {
        /// What is done.
        done: u64,
        /// All there is to do.
        all: u64,
    },
    /// So much is left of as much as there was at most.
    Left(u64),
}

/// A long operation that the state shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Underway {
    pub(crate) kind: TaskKind,
    /// What it is about, by its id.
    pub(crate) of: String,
    /// What it is about, as people call it.
    pub(crate) subject: String,
    pub(crate) extent: Extent,
}

impl Underway {
    /// See [`Task::id`].
    pub(crate) fn id(&self) -> String {
        format!("{}-{}", word(self.kind), self.of)
    }
}

/// A kind, as ids of tasks begin.
pub(crate) fn word(kind: TaskKind) -> &'static str {
    match kind {
        TaskKind::CreateVolume => "create-volume",
        TaskKind::DeleteVolume => "delete-volume",
        TaskKind::ResizeVolume => "resize-volume",
        TaskKind::FlattenVolume => "flatten-volume",
        TaskKind::RebuildVolume => "rebuild-volume",
        TaskKind::ApplyLayers => "apply-layers",
        TaskKind::SealSnapshot => "seal-snapshot",
        TaskKind::DrainNode => "drain-node",
        TaskKind::DrainDisk => "drain-disk",
        TaskKind::EvacuateDisk => "evacuate-disk",
        TaskKind::Rebalance => "rebalance",
    }
}

/// Whether a task of that kind can be called off.
pub(crate) fn is_cancelable(kind: TaskKind) -> bool {
    match kind {
        TaskKind::ResizeVolume
        | TaskKind::FlattenVolume
        | TaskKind::DrainNode
        | TaskKind::DrainDisk
        | TaskKind::EvacuateDisk
        | TaskKind::Rebalance => true,
        TaskKind::CreateVolume
        | TaskKind::DeleteVolume
        | TaskKind::RebuildVolume
        | TaskKind::ApplyLayers
        | TaskKind::SealSnapshot => false,
    }
}

/// One that is under way, since when, and how it began.
#[derive(Clone, Debug)]
struct Followed {
    task: Task,
    since: Moment,
    /// What was done when it was first seen.
    done_first: u64,
    /// The most that was ever left.
    left_most: u64,
    is_canceled: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct TaskBook {
    running: BTreeMap<String, Followed>,
    ended: VecDeque<Task>,
    /// The revision of what was noted last.
    at: Option<Revision>,
}

impl TaskBook {
    /// Whether a look would find what the last one did.
    pub(crate) fn is_idle(&self, at: Revision) -> bool {
        self.running.is_empty() && self.at == Some(at)
    }

    /// Notes what is under way; whether any task began or ended.
    pub(crate) fn note(
        &mut self,
        now: Moment,
        wall_ms: u64,
        at: Revision,
        underway: Vec<Underway>,
    ) -> bool {
        self.at = Some(at);
        let mut seen = BTreeSet::new();
        let mut is_news = false;
        for one in underway {
            let id = one.id();
            seen.insert(id.clone());
            is_news |= !self.running.contains_key(&id);
            let followed = self
                .running
                .entry(id)
                .or_insert_with(|| Followed::begin(&one, now, wall_ms));
            followed.note(now, &one);
        }
        let over: Vec<String> = self
            .running
            .keys()
            .filter(|id| !seen.contains(*id))
            .cloned()
            .collect();
        for id in &over {
            if let Some(followed) = self.running.remove(id) {
                self.end(followed, wall_ms);
            }
        }
        is_news || !over.is_empty()
    }

    fn end(&mut self, followed: Followed, wall_ms: u64) {
        self.ended.retain(|task| task.id != followed.task.id);
        if self.ended.len() == ENDED_KEPT_MAX {
            self.ended.pop_front();
        }
        let is_done = !followed.is_canceled;
        self.ended.push_back(Task {
            state: if is_done {
                TaskState::Done
            } else {
                TaskState::Canceled
            },
            progress_percent: if is_done {
                Some(100)
            } else {
                followed.task.progress_percent
            },
            remaining_seconds: None,
            ended_ms: Some(wall_ms),
            cancelable: false,
            ..followed.task
        });
    }

    /// Notes that somebody has called one off.
    pub(crate) fn note_canceled(&mut self, id: &str) {
        if let Some(followed) = self.running.get_mut(id) {
            followed.is_canceled = true;
        }
    }

    /// One of them: where it runs, as it runs.
    pub(crate) fn task(&self, id: &str) -> Option<&Task> {
        let running = self.running.get(id).map(|followed| &followed.task);
        running.or_else(|| self.ended.iter().find(|task| task.id == id))
    }

    /// All of them, by id.
    pub(crate) fn tasks(&self) -> Vec<Task> {
        let running = self.running.values().map(|followed| &followed.task);
        let ended = self.ended.iter();
        let ended = ended.filter(|task| !self.running.contains_key(&task.id));
        let mut tasks: Vec<Task> = running.chain(ended).cloned().collect();
        tasks.sort_by(|a, b| a.id.cmp(&b.id));
        tasks
    }
}

impl Followed {
    fn begin(one: &Underway, now: Moment, wall_ms: u64) -> Self {
        Self {
            task: Task {
                id: one.id(),
                kind: one.kind,
                subject: one.subject.clone(),
                state: TaskState::Running,
                progress_percent: None,
                remaining_seconds: None,
                began_ms: wall_ms,
                ended_ms: None,
                cancelable: is_cancelable(one.kind),
            },
            since: now,
            done_first: match one.extent {
                Extent::Done { done, .. } => done,
                Extent::Unknown | Extent::Left(_) => 0,
            },
            left_most: 0,
            is_canceled: false,
        }
    }

    fn note(&mut self, now: Moment, one: &Underway) {
        let (done, all) = match one.extent {
            Extent::Unknown => return,
            Extent::Done { done, all } => (done, all),
            Extent::Left(left) => {
                self.left_most = self.left_most.max(left);
                (self.left_most - left, self.left_most)
            }
        };
        let percent = u128::from(done) * 100 / u128::from(all.max(1));
        self.task.progress_percent = u8::try_from(percent.min(99)).ok();
        let since = done.saturating_sub(self.done_first);
        let left = u128::from(all.saturating_sub(done));
        let elapsed_ms = now.since(self.since).as_millis();
        self.task.remaining_seconds = (since > 0)
            .then(|| elapsed_ms.saturating_mul(left) / u128::from(since) / 1000)
            .and_then(|seconds| u64::try_from(seconds).ok());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(seconds: u64) -> Moment {
        Moment::after_start(Duration::from_secs(seconds))
    }

    fn one(kind: TaskKind, extent: Extent) -> Underway {
        Underway {
            kind,
            of: "7".to_owned(),
            subject: "v".to_owned(),
            extent,
        }
    }

    #[test]
    fn the_rate_so_far_tells_what_is_left() {
        let mut book = TaskBook::default();
        let flatten = |done| one(TaskKind::FlattenVolume, Extent::Done { done, all: 100 });
        assert!(book.note(at(10), 1, Revision(1), vec![flatten(20)]));
        let first = book.task("flatten-volume-7").unwrap();
        assert_eq!(
            (first.progress_percent, first.remaining_seconds),
            (Some(20), None)
        );
        assert!(!book.note(at(20), 2, Revision(1), vec![flatten(40)]));
        let later = book.task("flatten-volume-7").unwrap();
        assert_eq!(later.progress_percent, Some(40));
        assert_eq!(later.remaining_seconds, Some(30));
        assert!(later.cancelable && later.began_ms == 1);
    }

    #[test]
    fn what_is_left_is_measured_by_the_most_that_was() {
        let mut book = TaskBook::default();
        let rebuild = |left| one(TaskKind::RebuildVolume, Extent::Left(left));
        for (seconds, left) in [(0, 2), (10, 4), (20, 3)] {
            book.note(at(seconds), 0, Revision(1), vec![rebuild(left)]);
        }
        let task = book.task("rebuild-volume-7").unwrap();
        assert_eq!(task.progress_percent, Some(25));
        assert_eq!(task.remaining_seconds, Some(60));
    }

    #[test]
    fn what_is_under_way_no_more_has_ended() {
        let mut book = TaskBook::default();
        let resize = one(TaskKind::ResizeVolume, Extent::Unknown);
        book.note(at(1), 10, Revision(1), vec![resize.clone()]);
        assert!(!book.is_idle(Revision(1)));
        assert!(book.note(at(2), 20, Revision(2), Vec::new()));
        let task = book.task("resize-volume-7").unwrap();
        assert_eq!((task.state, task.ended_ms), (TaskState::Done, Some(20)));
        assert!(book.is_idle(Revision(2)) && !book.is_idle(Revision(3)));
        book.note(at(3), 30, Revision(3), vec![resize]);
        book.note_canceled("resize-volume-7");
        assert_eq!(book.tasks().len(), 1);
        book.note(at(4), 40, Revision(4), Vec::new());
        let task = book.task("resize-volume-7").unwrap();
        assert_eq!((task.state, task.cancelable), (TaskState::Canceled, false));
        assert_eq!(book.tasks().len(), 1);
    }

    #[test]
    fn only_so_many_that_ended_are_kept() {
        let mut book = TaskBook::default();
        for number in 0..ENDED_KEPT_MAX + 5 {
            let create = Underway {
                of: number.to_string(),
                ..one(TaskKind::CreateVolume, Extent::Unknown)
            };
            book.note(at(1), 0, Revision(1), vec![create]);
        }
        book.note(at(1), 0, Revision(1), Vec::new());
        assert_eq!(book.tasks().len(), ENDED_KEPT_MAX);
    }
}
