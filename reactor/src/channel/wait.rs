//! A first-come, first-served line of waiting tasks.
//!
//! Who is at the head stays there until it has got what it waits for, so nobody overtakes a
//! woken task; leaving the line (by getting it, or by being dropped) is what lets the next pass.

use std::collections::VecDeque;
use std::task::Waker;

/// The line.
#[derive(Default)]
pub(super) struct WaitLine {
    waiting: VecDeque<(u64, Waker)>,
    enrolled: u64,
}

/// A place in the line, if any.
pub(super) type Place = Option<u64>;

impl WaitLine {
    /// Whether whoever holds `place` (or has none yet) is next.
    pub(super) fn may_pass(&self, place: Place) -> bool {
        self.waiting
            .front()
            .is_none_or(|(first, _)| Some(*first) == place)
    }

    /// Takes a place at the end, or renews the waker of the one held.
    pub(super) fn enroll(&mut self, place: &mut Place, waker: &Waker) {
        if let Some(held) = *place {
            if let Some(entry) = self.waiting.iter_mut().find(|(id, _)| *id == held) {
                entry.1.clone_from(waker);
            }
            return;
        }
        self.enrolled += 1;
        *place = Some(self.enrolled);
        self.waiting.push_back((self.enrolled, waker.clone()));
    }

    /// Gives a place up.
    pub(super) fn leave(&mut self, place: &mut Place) {
        if let Some(held) = place.take() {
            if self.waiting.front().is_some_and(|(id, _)| *id == held) {
                self.waiting.pop_front();
            } else {
                self.waiting.retain(|(id, _)| *id != held);
            }
        }
    }

    /// The first one's waker: to be woken outside of any borrow or lock.
    pub(super) fn first(&self) -> Option<Waker> {
        self.waiting.front().map(|(_, waker)| waker.clone())
    }

    /// Everybody's wakers; they keep their places.
    pub(super) fn all(&self) -> Vec<Waker> {
        self.waiting
            .iter()
            .map(|(_, waker)| waker.clone())
            .collect()
    }
}

/// Wakes whom there is.
pub(super) fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// Wakes them all.
pub(super) fn wake_all(wakers: Vec<Waker>) {
    for waker in wakers {
        waker.wake();
    }
}
