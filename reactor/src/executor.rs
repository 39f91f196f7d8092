//! Tasks of one reactor and the wakers that queue them.
//!
//! A waker is a number: reactor, generation and index of the task's slot. Cloning and dropping
//! it cost nothing. Waking on the reactor's own thread pushes the slot on a queue; waking from
//! another thread goes through the reactor's remote queue. A stale waker may wake a task that
//! took the slot over, so every future tolerates spurious polls.

use crate::remote::{Message, Shared};
use crate::sim::Rng;
use crate::task::Runnable;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, RawWaker, RawWakerVTable, Waker};

/// The tasks of a reactor.
pub(crate) struct Executor {
    id: u16,
    slots: RefCell<Slots>,
    ready: RefCell<VecDeque<u32>>,
    /// The slot being polled, if any.
    running: Cell<Option<u32>>,
    /// Draws the next task among the ready ones: only under the simulator.
    order: RefCell<Option<Rng>>,
    /// The future that the run is for is in no slot; this says that it was woken.
    main_woken: Cell<bool>,
}

/// In a waker: the future that the run is for.
const MAIN: u32 = u32::MAX;

#[derive(Default)]
struct Slots {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

struct Slot {
    task: Option<Rc<dyn Runnable>>,
    generation: u16,
    queued: bool,
}

impl Executor {
    /// An executor that other threads reach through `shared`.
    pub(crate) fn new(shared: Arc<Shared>) -> Rc<Self> {
        let executor = Rc::new(Self {
            id: register(shared),
            slots: RefCell::default(),
            ready: RefCell::default(),
            running: Cell::new(None),
            order: RefCell::new(None),
            main_woken: Cell::new(false),
        });
        LOCAL.with(|local| local.add(executor.id, &raw const *executor));
        executor
    }

    /// Takes a task on and queues its first poll.
    pub(crate) fn insert(&self, task: Rc<dyn Runnable>) -> TaskId {
        let mut slots = self.slots.borrow_mut();
        let index = slots.free.pop().unwrap_or_else(|| {
            let index = u32::try_from(slots.slots.len()).expect("tasks are counted in u32");
            slots.slots.push(Slot {
                task: None,
                generation: 0,
                queued: false,
            });
            index
        });
        let slot = &mut slots.slots[index as usize];
        slot.task = Some(task);
        slot.queued = true;
        self.ready.borrow_mut().push_back(index);
        TaskId {
            index,
            generation: slot.generation,
        }
    }

    /// Queues a poll of the task, if it is still that one and not queued already.
    pub(crate) fn wake(&self, index: u32, generation: u16) {
        if index == MAIN {
            self.main_woken.set(true);
            return;
        }
        let mut slots = self.slots.borrow_mut();
        let Some(slot) = slots.slots.get_mut(index as usize) else {
            return;
        };
        if slot.generation == generation && slot.task.is_some() && !slot.queued {
            slot.queued = true;
            self.ready.borrow_mut().push_back(index);
        }
    }

    /// Whether a task, or the main future, waits to be polled.
    pub(crate) fn has_ready(&self) -> bool {
        self.main_woken.get() || !self.ready.borrow().is_empty()
    }

    /// Wakes the main future.
    pub(crate) fn main_waker(&self) -> Waker {
        self.waker(MAIN, 0)
    }

    /// Whether the main future was woken since last asked.
    pub(crate) fn take_main_woken(&self) -> bool {
        self.main_woken.replace(false)
    }

    /// Polls up to `polls_max` ready tasks; tells how many it polled.
    pub(crate) fn run(&self, polls_max: usize) -> usize {
        let mut polls = 0;
        while polls < polls_max {
            let Some(index) = self.next_ready() else {
                break;
            };
            let (task, generation) = {
                let mut slots = self.slots.borrow_mut();
                let slot = &mut slots.slots[index as usize];
                slot.queued = false;
                (slot.task.clone(), slot.generation)
            };
            let Some(task) = task else { continue };
            polls += 1;
            let waker = self.waker(index, generation);
            let running = Running::mark(&self.running, index);
            let done = task.poll(&mut Context::from_waker(&waker));
            drop(running);
            drop(task);
            if done {
                self.remove(TaskId { index, generation });
            }
        }
        polls
    }

    fn next_ready(&self) -> Option<u32> {
        let mut ready = self.ready.borrow_mut();
        match &mut *self.order.borrow_mut() {
            Some(rng) if ready.len() > 1 => {
                let drawn = rng.index(ready.len());
                ready.swap_remove_front(drawn)
            }
            _ => ready.pop_front(),
        }
    }

    /// From now on the next task is drawn from `rng`, not the one that waits longest.
    pub(crate) fn shuffle(&self, rng: Rng) {
        self.order.replace(Some(rng));
    }

    /// Forgets a task that has ended; its slot is free again.
    pub(crate) fn remove(&self, id: TaskId) {
        let task = {
            let mut slots = self.slots.borrow_mut();
            let slot = &mut slots.slots[id.index as usize];
            if slot.generation != id.generation {
                return;
            }
            slot.generation = slot.generation.wrapping_add(1);
            let task = slot.task.take();
            slots.free.push(id.index);
            task
        };
        // Outside of the borrow: what the task owned may wake and spawn others.
        drop(task);
    }

    /// Ends a task: drops its future, now or when its running poll returns.
    pub(crate) fn abort(&self, id: TaskId) {
        let task = {
            let slots = self.slots.borrow();
            match slots.slots.get(id.index as usize) {
                Some(slot) if slot.generation == id.generation => slot.task.clone(),
                _ => None,
            }
        };
        let Some(task) = task else { return };
        task.abort();
        if self.running.get() == Some(id.index) {
            return; // its poll tells that it is done
        }
        drop(task);
        self.remove(id);
    }

    /// Ends all tasks, also those that ending tasks spawn.
    pub(crate) fn abort_all(&self) {
        loop {
            let ids: Vec<TaskId> = (0..)
                .zip(&self.slots.borrow().slots)
                .filter(|(_, slot)| slot.task.is_some())
                .map(|(index, slot)| TaskId {
                    index,
                    generation: slot.generation,
                })
                .collect();
            if ids.is_empty() {
                break;
            }
            for id in ids {
                self.abort(id);
            }
        }
        self.ready.borrow_mut().clear();
    }

    fn waker(&self, index: u32, generation: u16) -> Waker {
        let packed = pack(self.id, generation, index);
        // SAFETY: the table keeps the contract of `RawWaker`: the data is a plain number, the
        // functions are thread-safe and own nothing.
        unsafe { Waker::new(std::ptr::without_provenance(packed), &VTABLE) }
    }
}

/// Marks the slot being polled; also a poll that panics takes the mark away, so that the end of
/// the run can drop its task.
struct Running<'a>(&'a Cell<Option<u32>>);

impl<'a> Running<'a> {
    fn mark(running: &'a Cell<Option<u32>>, index: u32) -> Self {
        running.set(Some(index));
        Self(running)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.set(None);
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        let _ = LOCAL.try_with(|local| local.remove(self.id));
        unregister(self.id);
    }
}

/// Names a task of an executor for as long as it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TaskId {
    index: u32,
    generation: u16,
}

const _: () = assert!(
    usize::BITS == 64,
    "wakers pack reactor, generation and slot into a pointer"
);

fn pack(id: u16, generation: u16, index: u32) -> usize {
    (usize::from(id) << 48) | (usize::from(generation) << 32) | index as usize
}

#[expect(clippy::cast_possible_truncation, reason = "takes the fields apart")]
fn unpack(packed: usize) -> (u16, u16, u32) {
    ((packed >> 48) as u16, (packed >> 32) as u16, packed as u32)
}

static VTABLE: RawWakerVTable = RawWakerVTable::new(
    |data| RawWaker::new(data, &VTABLE),
    wake_packed,
    wake_packed,
    |_| {},
);

fn wake_packed(data: *const ()) {
    let (id, generation, index) = unpack(data.addr());
    let woken = LOCAL.try_with(|local| {
        let executor = local.find(id);
        // SAFETY: an executor takes itself off this thread's list when it is dropped, which
        // happens on this thread, so a pointer on the list is alive.
        unsafe { executor.as_ref() }.map(|executor| executor.wake(index, generation))
    });
    if !matches!(woken, Ok(Some(()))) {
        let shared = lock_registry().get(usize::from(id)).cloned().flatten();
        if let Some(shared) = shared {
            // A reactor that has stopped has no tasks to wake.
            let _ = shared.send(Message::Wake { index, generation });
        }
    }
}

/// The executors of this thread: one in production, many under the simulator.
struct Local {
    last: Cell<(u16, *const Executor)>,
    all: RefCell<Vec<(u16, *const Executor)>>,
}

thread_local! {
    static LOCAL: Local = const {
        Local { last: Cell::new((0, std::ptr::null())), all: RefCell::new(Vec::new()) }
    };
}

impl Local {
    fn add(&self, id: u16, executor: *const Executor) {
        self.all.borrow_mut().push((id, executor));
    }

    fn remove(&self, id: u16) {
        self.all.borrow_mut().retain(|entry| entry.0 != id);
        self.last.set((0, std::ptr::null()));
    }

    /// Null if it is none of this thread.
    fn find(&self, id: u16) -> *const Executor {
        let last = self.last.get();
        if last.0 == id && !last.1.is_null() {
            return last.1;
        }
        let all = self.all.borrow();
        match all.iter().find(|entry| entry.0 == id) {
            Some(entry) => {
                self.last.set(*entry);
                entry.1
            }
            None => std::ptr::null(),
        }
    }
}

/// All reactors of the process, by id.
static REGISTRY: Mutex<Vec<Option<Arc<Shared>>>> = Mutex::new(Vec::new());

fn lock_registry() -> std::sync::MutexGuard<'static, Vec<Option<Arc<Shared>>>> {
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

fn register(shared: Arc<Shared>) -> u16 {
    let mut registry = lock_registry();
    let free = registry.iter().position(Option::is_none);
    let index = free.unwrap_or_else(|| {
        registry.push(None);
        registry.len() - 1
    });
    registry[index] = Some(shared);
    u16::try_from(index).expect("a process has at most 65536 reactors")
}

fn unregister(id: u16) {
    let shared = lock_registry()[usize::from(id)].take();
    drop(shared);
}
