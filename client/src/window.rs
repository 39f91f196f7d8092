//! The seqs that an owner gives: from its window, and from the next one once that is recorded.
//!
//! Pure. A window is left after half of its numbers: replicas take what is less than
//! [`SEQ_AHEAD_MAX`] above its start, so that a stable that stands still (one replica dead, the
//! conductor too) never stops the writes.

use ashlar_proto::limits::SEQ_AHEAD_MAX;
use ashlar_proto::{Seq, Window};

/// Numbers given of a window at which the next one is asked for.
const ASK_AT: u32 = 1 << 22;

/// The last number that is given of a window.
const LAST: u32 = (1 << 23) - 1;

const _: () = assert!((LAST as u64) < SEQ_AHEAD_MAX && ASK_AT < LAST);

/// See the module.
#[derive(Debug)]
pub(crate) struct Seqs {
    last: Seq,
    reserve: Option<Window>,
    asking: bool,
}

impl Seqs {
    /// Seqs of a window that enough replicas have recorded.
    pub(crate) fn new(window: Window) -> Self {
        Self {
            last: window.start(),
            reserve: None,
            asking: false,
        }
    }

    /// Goes on to the last `left` numbers of the window.
    #[cfg(test)]
    pub(crate) fn skip_to_last(&mut self, left: u64) {
        let end = self.last.window().start().get() + u64::from(LAST);
        self.last = Seq::from_raw(end - left).unwrap_or(self.last);
    }

    /// The last seq given.
    pub(crate) fn last(&self) -> Seq {
        self.last
    }

    /// The highest window that replicas may be told of.
    pub(crate) fn window(&self) -> Window {
        self.reserve.unwrap_or(self.last.window())
    }

    /// The highest window that replicas may be told of soon: the one that is being recorded, if one is.
    pub(crate) fn window_ahead(&self) -> Window {
        if self.asking {
            self.last.window().next()
        } else {
            self.window()
        }
    }

    /// Whether one can be given now.
    pub(crate) fn is_available(&self) -> bool {
        self.next_here().is_some() || self.reserve.is_some()
    }

    /// The next one.
    pub(crate) fn give(&mut self) -> Option<Seq> {
        let next = match self.next_here() {
            Some(next) => next,
            None => self.reserve.take()?.start().next_in_window()?,
        };
        self.last = next;
        Some(next)
    }

    fn next_here(&self) -> Option<Seq> {
        let next = self.last.next_in_window();
        next.filter(|next| next.number() <= LAST)
    }

    /// The window to record now, if it is time; asks once.
    pub(crate) fn ask(&mut self) -> Option<Window> {
        let due = self.last.number() >= ASK_AT && self.reserve.is_none() && !self.asking;
        due.then(|| {
            self.asking = true;
            self.last.window().next()
        })
    }

    /// The window asked for was recorded by enough replicas, or it was not and is to be asked for
    /// again.
    pub(crate) fn answer(&mut self, recorded: Option<Window>) {
        self.asking = false;
        if let Some(window) = recorded {
            assert!(window > self.last.window(), "windows only grow");
            self.reserve = Some(window);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_left_only_for_a_recorded_one() {
        let mut seqs = Seqs::new(Window::new(4));
        assert_eq!(seqs.ask(), None);
        while seqs.last().number() < ASK_AT {
            assert!(seqs.give().is_some());
        }
        assert_eq!(seqs.window_ahead(), Window::new(4));
        assert_eq!(seqs.ask(), Some(Window::new(5)));
        assert_eq!(seqs.ask(), None, "asks once");
        assert_eq!(seqs.window_ahead(), Window::new(5));
        let mut last = seqs.last();
        while let Some(next) = seqs.give() {
            assert!(next > last && next != next.window().burial());
            last = next;
        }
        assert!(!seqs.is_available());
        seqs.answer(None);
        assert_eq!(seqs.ask(), Some(Window::new(5)));
        seqs.answer(Some(Window::new(5)));
        assert_eq!(seqs.window(), Window::new(5));
        assert_eq!(
            seqs.give().map(|seq| (seq.window().get(), seq.number())),
            Some((5, 1))
        );
    }
}
