//! The requests that are being carried out: many futures polled by one task.
//!
//! A slot's memory and waker are made once and used for request after request, so a request costs
//! no allocation and no task. A wake-up marks its slot and wakes the task; the task then polls
//! the marked slots only.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

const WORD_BITS: usize = 64;

/// Up to a fixed number of futures.
pub struct InFlight<F: Future> {
    slots: Vec<Slot<F>>,
    free: Vec<usize>,
    marks: Arc<Marks>,
}

struct Slot<F> {
    future: Pin<Box<Option<F>>>,
    waker: Waker,
}

/// Which slots were woken, and the task that polls them.
struct Marks {
    words: Box<[AtomicU64]>,
    task: Mutex<Waker>,
}

/// Wakes one slot.
struct SlotWaker {
    marks: Arc<Marks>,
    index: usize,
}

impl Marks {
    fn mark(&self, index: usize) {
        self.words[index / WORD_BITS].fetch_or(1 << (index % WORD_BITS), Ordering::AcqRel);
    }
}

impl Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.marks.mark(self.index);
        let task = self.marks.task.lock();
        task.unwrap_or_else(PoisonError::into_inner).wake_by_ref();
    }
}

impl<F: Future> InFlight<F> {
    /// For at most `futures_max` at a time.
    pub fn new(futures_max: usize) -> Self {
        let words = futures_max.div_ceil(WORD_BITS);
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            marks: Arc::new(Marks {
                words: (0..words).map(|_| AtomicU64::new(0)).collect(),
                task: Mutex::new(Waker::noop().clone()),
            }),
        }
    }

    /// Whether none is left.
    pub fn is_empty(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    /// Takes a future in; it is polled with the next [`InFlight::poll`].
    pub fn start(&mut self, future: F) {
        let index = self.free.pop().unwrap_or_else(|| {
            let index = self.slots.len();
            assert!(
                index < self.marks.words.len() * WORD_BITS,
                "more requests in flight than were admitted"
            );
            self.slots.push(Slot {
                future: Box::pin(None),
                waker: Waker::from(Arc::new(SlotWaker {
                    marks: Arc::clone(&self.marks),
                    index,
                })),
            });
            index
        });
        self.slots[index].future.set(Some(future));
        self.marks.mark(index);
    }

    /// Polls the futures that were woken; gives what has ended to `finished` and tells whether
    /// there was any.
    pub fn poll(&mut self, context: &mut Context<'_>, mut finished: impl FnMut(F::Output)) -> bool {
        let mut any = false;
        {
            let task = self.marks.task.lock();
            let mut task = task.unwrap_or_else(PoisonError::into_inner);
            if !task.will_wake(context.waker()) {
                task.clone_from(context.waker());
            }
        }
        for word in 0..self.marks.words.len() {
            let mut marked = self.marks.words[word].swap(0, Ordering::AcqRel);
            while marked != 0 {
                let bit = marked.trailing_zeros() as usize;
                marked &= marked - 1;
                let index = word * WORD_BITS + bit;
                let slot = &mut self.slots[index];
                let Some(future) = slot.future.as_mut().as_pin_mut() else {
                    continue; // a wake-up that came after the end
                };
                if let Poll::Ready(output) = future.poll(&mut Context::from_waker(&slot.waker)) {
                    slot.future.set(None);
                    self.free.push(index);
                    any = true;
                    finished(output);
                }
            }
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::rc::Rc;

    async fn wait_for(gate: Rc<Cell<Option<Waker>>>, open: Rc<Cell<bool>>, name: u32) -> u32 {
        std::future::poll_fn(|context| {
            if open.get() {
                return Poll::Ready(());
            }
            gate.set(Some(context.waker().clone()));
            Poll::Pending
        })
        .await;
        name
    }

    #[test]
    fn only_woken_futures_are_polled_and_slots_are_used_again() {
        let mut in_flight = InFlight::new(130);
        let mut context = Context::from_waker(Waker::noop());
        let open = Rc::new(Cell::new(false));
        let gates: Vec<_> = (0..130).map(|_| Rc::new(Cell::new(None))).collect();
        for round in 0..3u32 {
            open.set(false);
            for (gate, name) in gates.iter().zip(0u32..) {
                in_flight.start(wait_for(Rc::clone(gate), Rc::clone(&open), name + round));
            }
            assert!(!in_flight.poll(&mut context, |_| panic!("none is ready")));
            open.set(true);
            assert!(!in_flight.poll(&mut context, |_| panic!("none was woken")));
            let mut finished = Vec::new();
            for index in [129, 3] {
                gates[index].take().unwrap().wake();
            }
            assert!(in_flight.poll(&mut context, |name| finished.push(name)));
            finished.sort_unstable();
            assert_eq!(finished, [3 + round, 129 + round]);
            for gate in &gates {
                if let Some(waker) = gate.take() {
                    waker.wake();
                }
            }
            in_flight.poll(&mut context, |name| finished.push(name));
            assert_eq!(finished.len(), 130);
            assert!(in_flight.is_empty());
        }
        assert_eq!(in_flight.slots.len(), 130);
    }
}
