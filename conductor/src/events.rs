//! What has happened in the cluster, for people: the last few events, in memory.
//!
//! Invariants: numbers only grow, also from one run of the conductor to the next, for they begin at the
//! time of the start; at most [`EVENTS_KEPT_MAX`] are kept; each is in the log as well.

use std::collections::VecDeque;

use ashlar_proto::api::{Event, EventKind};

/// Events that are kept.
pub(crate) const EVENTS_KEPT_MAX: usize = 1000;

/// Numbers for each millisecond before the start: far more than there can be events.
const IDS_PER_MS: u64 = 1000;

/// The last events.
#[derive(Debug, Default)]
pub(crate) struct EventLog {
    kept: VecDeque<Event>,
}

impl EventLog {
    /// Notes one.
    pub(crate) fn note(&mut self, time_ms: u64, kind: EventKind, subject: String, text: String) {
        match kind {
            EventKind::DiskAboveSoft
            | EventKind::DiskAboveHard
            | EventKind::DiskFull
            | EventKind::OverCommitted => tracing::warn!(subject, "{text}"),
            EventKind::DiskBelowHard | EventKind::DiskBelowSoft | EventKind::OverCommitEnded => {
                tracing::info!(subject, "{text}");
            }
        }
        let first = time_ms.saturating_mul(IDS_PER_MS);
        let last = self.kept.back().map(|event| event.id);
        if self.kept.len() == EVENTS_KEPT_MAX {
            self.kept.pop_front();
        }
        self.kept.push_back(Event {
            id: last.map_or(first, |last| last + 1),
            time_ms,
            kind,
            subject,
            text,
        });
    }

    /// Those after a number, the oldest first.
    pub(crate) fn after(&self, id: u64) -> Vec<Event> {
        let from = self.kept.partition_point(|event| event.id <= id);
        self.kept.range(from..).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_numbered_and_the_oldest_go() {
        let mut log = EventLog::default();
        for time in 5..5 + EVENTS_KEPT_MAX as u64 + 3 {
            let (subject, text) = (String::new(), time.to_string());
            log.note(time, EventKind::DiskFull, subject, text);
        }
        let all = log.after(0);
        assert_eq!(all.len(), EVENTS_KEPT_MAX);
        assert_eq!(all[0].text, "8");
        assert!(all.is_sorted_by(|a, b| a.id < b.id));
        let last = all.last().unwrap().id;
        assert_eq!(log.after(last - 2), all[EVENTS_KEPT_MAX - 2..]);
        assert_eq!(log.after(last), []);
        // The next run begins above, as it starts later.
        let mut next = EventLog::default();
        next.note(7000, EventKind::DiskFull, String::new(), String::new());
        assert!(next.after(0)[0].id > last);
    }
}
