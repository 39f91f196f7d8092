//! The last events of the rows, in memory, as a watch of etcd brought them.
//!
//! Pure. Invariants: events lie in the order of their revisions, whole transactions only; all of them
//! from `from` (excluded) to `reached` are there.

use std::collections::VecDeque;

use ashlar_proto::api::Revision;

use crate::meta::{Event, Events};

/// Transactions that are kept for those who resume a watch, and bytes of all of them, at most.
pub(super) const TRANSACTIONS_KEPT: usize = 4096;
const BYTES_KEPT: usize = 64 << 20;

/// One transaction.
struct Entry {
    revision: Revision,
    events: Vec<Event>,
    bytes: usize,
}

/// The events there are.
pub(super) struct EventLog {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// Events after this one are all there.
    from: Revision,
    reached: Revision,
}

impl EventLog {
    /// Empty: knows of nothing before `from`.
    pub(super) fn new(from: Revision) -> Self {
        Self {
            entries: VecDeque::new(),
            bytes: 0,
            from,
            reached: from,
        }
    }

    /// The revision of the last transaction.
    pub(super) fn reached(&self) -> Revision {
        self.reached
    }

    /// The oldest transaction that is kept; what there is before it nobody here needs any more.
    pub(super) fn from(&self) -> Revision {
        self.from
    }

    /// Adds the events of one transaction. One that is there already changes nothing.
    pub(super) fn add(&mut self, revision: Revision, events: Vec<Event>) {
        if revision <= self.reached {
            return;
        }
        let length = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        let of = |e: &Event| e.key.as_str().len() + length(&e.value) + length(&e.before);
        let bytes = events.iter().map(of).sum();
        self.bytes += bytes;
        self.reached = revision;
        self.entries.push_back(Entry {
            revision,
            events,
            bytes,
        });
        while self.entries.len() > TRANSACTIONS_KEPT || self.bytes > BYTES_KEPT {
            let Some(oldest) = self.entries.pop_front() else {
                break;
            };
            self.bytes -= oldest.bytes;
            self.from = oldest.revision;
        }
    }

    /// Events after a revision, as many whole transactions as fit about `limit` events.
    pub(super) fn after(&self, after: Revision, limit: usize) -> Events {
        if after < self.from || after > self.reached {
            return Events::Compacted;
        }
        let first = self
            .entries
            .partition_point(|entry| entry.revision <= after);
        let (mut list, mut up_to) = (Vec::new(), after);
        for entry in self.entries.range(first..) {
            if list.len() >= limit.max(1) {
                break;
            }
            list.extend(entry.events.iter().cloned());
            up_to = entry.revision;
        }
        Events::Read { list, up_to }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::Key;

    fn event(revision: u64, bytes: usize) -> Event {
        Event {
            revision: Revision(revision),
            key: Key::new("k"),
            value: Some(vec![0; bytes]),
            before: None,
        }
    }

    fn read(log: &EventLog, after: u64, limit: usize) -> (usize, u64) {
        match log.after(Revision(after), limit) {
            Events::Read { list, up_to } => (list.len(), up_to.0),
            Events::Compacted => panic!("they are kept"),
        }
    }

    #[test]
    fn a_transaction_is_read_whole_or_not_at_all() {
        let mut log = EventLog::new(Revision(7));
        log.add(Revision(9), vec![event(9, 1), event(9, 1)]);
        log.add(Revision(12), vec![event(12, 1)]);
        assert_eq!(read(&log, 7, 1), (2, 9));
        assert_eq!(read(&log, 8, 3), (3, 12));
        assert_eq!(read(&log, 9, 1), (1, 12));
        assert_eq!(read(&log, 12, 1), (0, 12));
    }

    #[test]
    fn what_is_not_known_is_compacted() {
        let log = EventLog::new(Revision(7));
        assert_eq!(log.after(Revision(6), 1), Events::Compacted);
        assert_eq!(log.after(Revision(8), 1), Events::Compacted);
        assert_eq!(read(&log, 7, 1), (0, 7));
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many() {
        let mut log = EventLog::new(Revision(0));
        for revision in 1..=TRANSACTIONS_KEPT as u64 + 3 {
            log.add(Revision(revision), vec![event(revision, 1)]);
        }
        assert_eq!(log.from(), Revision(3));
        assert_eq!(log.after(Revision(2), 1), Events::Compacted);
        assert_eq!(read(&log, 3, 1), (1, 4));
    }

    #[test]
    fn the_oldest_go_when_they_are_too_large() {
        let mut log = EventLog::new(Revision(0));
        for revision in 1..=3 {
            log.add(Revision(revision), vec![event(revision, BYTES_KEPT / 2)]);
        }
        assert_eq!(log.from(), Revision(2));
        assert_eq!(read(&log, 2, 1), (1, 3));
    }

    #[test]
    fn what_comes_twice_is_there_once() {
        let mut log = EventLog::new(Revision(0));
        log.add(Revision(2), vec![event(2, 1)]);
        log.add(Revision(2), vec![event(2, 1)]);
        log.add(Revision(1), vec![event(1, 1)]);
        assert_eq!(read(&log, 0, 10), (1, 2));
    }
}
