//! When an owner was last heard on one connection, and which volumes it has opened there.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use ashlar_proto::api::OwnerSeen;
use ashlar_proto::{FrameHeader, Generation, Status, VolumeId};
use ashlar_reactor::Instant;

/// Of one connection.
#[derive(Debug)]
pub(crate) struct Heard {
    at: Cell<Instant>,
    opened: RefCell<BTreeMap<VolumeId, Generation>>,
}

impl Heard {
    /// A connection that has just begun.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            at: Cell::new(now),
            opened: RefCell::default(),
        }
    }

    /// The owner asks something.
    pub(crate) fn note(&self, now: Instant) {
        self.at.set(now);
    }

    /// A request to open a shard was answered.
    pub(crate) fn note_opened(&self, request: &FrameHeader, status: Status) {
        if status == Status::Ok {
            let mut opened = self.opened.borrow_mut();
            let generation = opened.entry(request.volume).or_default();
            *generation = request.generation.max(*generation);
        }
    }

    /// What can be said of it now.
    pub(crate) fn owners(&self, now: Instant) -> Vec<OwnerSeen> {
        let idle_ms = u64::try_from((now - self.at.get()).as_millis()).unwrap_or(u64::MAX);
        let opened = self.opened.borrow();
        let seen = opened.iter().map(|(&volume, &generation)| OwnerSeen {
            volume,
            generation,
            idle_ms,
        });
        seen.collect()
    }
}

/// One entry for each volume: of its newest generation, the least idle.
pub(crate) fn newest(all: impl IntoIterator<Item = OwnerSeen>) -> Vec<OwnerSeen> {
    let mut by_volume: BTreeMap<VolumeId, OwnerSeen> = BTreeMap::new();
    for seen in all {
        let known = by_volume.entry(seen.volume).or_insert(seen);
        let is_newer = seen.generation > known.generation;
        if is_newer || seen.generation == known.generation && seen.idle_ms < known.idle_ms {
            *known = seen;
        }
    }
    by_volume.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ashlar_proto::FrameKind;
    use std::time::Duration;

    fn at(seconds: u64) -> Instant {
        Instant::EPOCH + Duration::from_secs(seconds)
    }

    fn seen(volume: u64, generation: u32, idle_ms: u64) -> OwnerSeen {
        OwnerSeen {
            volume: VolumeId::new(volume),
            generation: Generation::new(generation),
            idle_ms,
        }
    }

    fn opens(volume: u64, generation: u32) -> FrameHeader {
        FrameHeader {
            volume: VolumeId::new(volume),
            generation: Generation::new(generation),
            ..FrameHeader::request(FrameKind::Open, 1)
        }
    }

    #[test]
    fn an_owner_is_known_by_what_it_opened_and_idle_since_it_last_asked() {
        let heard = Heard::new(at(1));
        heard.note(at(2));
        assert_eq!(heard.owners(at(3)), []);
        heard.note_opened(&opens(7, 2), Status::Ok);
        heard.note_opened(&opens(7, 1), Status::Ok);
        heard.note_opened(&opens(7, 3), Status::Fenced);
        heard.note(at(6));
        assert_eq!(heard.owners(at(8)), [seen(7, 2, 2000)]);
    }

    #[test]
    fn of_each_volume_the_newest_generation_counts_and_its_least_idle_session() {
        let all = [seen(1, 1, 5), seen(2, 3, 9), seen(1, 2, 80), seen(1, 2, 70)];
        assert_eq!(newest(all), [seen(1, 2, 70), seen(2, 3, 9)]);
    }
}
