//! The way into a reactor from other threads: a queue and a wake-up.
//!
//! Wakers and [`Remote`] put their message into `Shared` and unpark the reactor only if it is
//! asleep. The flag protocol: the reactor sets `asleep`, then looks at the queue once more, then
//! sleeps; a sender enqueues, then takes `asleep` away and, if it was set, unparks. Both use
//! sequentially consistent operations, so one of the two sees the other.

use crate::Reactor;
use crate::meters::Meters;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Ends a driver's blocking poll. Called from any thread.
pub(crate) trait Unpark: Send + Sync {
    /// Makes the current or the next blocking poll return.
    fn unpark(&self);
}

/// Work for a reactor from elsewhere.
pub(crate) enum Message {
    /// Poll the task with this slot and generation.
    Wake { index: u32, generation: u16 },
    /// Run this on the reactor's thread.
    Run(Box<dyn FnOnce(&Reactor) + Send>),
}

/// The part of a reactor that other threads may touch.
pub(crate) struct Shared {
    queue: Mutex<Queue>,
    /// Something may be in the queue: looked at without the lock.
    pending: AtomicBool,
    asleep: AtomicBool,
    unpark: Arc<dyn Unpark>,
    /// What the reactor counts.
    pub(crate) meters: Meters,
}

#[derive(Default)]
struct Queue {
    messages: VecDeque<Message>,
    stopped: bool,
}

impl Shared {
    pub(crate) fn new(unpark: Arc<dyn Unpark>) -> Self {
        Self {
            queue: Mutex::default(),
            pending: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
            unpark,
            meters: Meters::default(),
        }
    }

    /// Passes `message` on and wakes the reactor; gives it back if the reactor has stopped.
    pub(crate) fn send(&self, message: Message) -> Result<(), Message> {
        {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            if queue.stopped {
                return Err(message);
            }
            queue.messages.push_back(message);
            self.pending.store(true, Ordering::SeqCst);
        }
        if self.asleep.swap(false, Ordering::SeqCst) {
            self.unpark.unpark();
        }
        Ok(())
    }

    /// Whether [`Shared::take`] would find something.
    pub(crate) fn is_pending(&self) -> bool {
        self.pending.load(Ordering::SeqCst)
    }

    /// Moves all messages to the end of `messages`.
    pub(crate) fn take(&self, messages: &mut VecDeque<Message>) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        self.pending.store(false, Ordering::SeqCst);
        messages.append(&mut queue.messages);
    }

    /// Declares the reactor asleep; false if there is work, then it must not sleep.
    pub(crate) fn fall_asleep(&self) -> bool {
        self.asleep.store(true, Ordering::SeqCst);
        if self.is_pending() {
            self.wake_up();
            return false;
        }
        true
    }

    /// Declares the reactor awake.
    pub(crate) fn wake_up(&self) {
        self.asleep.store(false, Ordering::SeqCst);
    }

    /// Refuses messages from now on and drops those that wait.
    pub(crate) fn stop(&self) {
        let messages = {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.stopped = true;
            std::mem::take(&mut queue.messages)
        };
        drop(messages);
    }
}

/// A handle on a reactor for other threads.
#[derive(Clone)]
pub struct Remote {
    pub(crate) shared: Arc<Shared>,
}

/// The reactor has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the reactor has stopped")]
pub struct Stopped;

impl Remote {
    /// What the reactor counts.
    #[must_use]
    pub fn meters(&self) -> &Meters {
        &self.shared.meters
    }

    /// Runs `work` on the reactor's thread, soon. It is control work: it may allocate, it must
    /// not block.
    ///
    /// # Errors
    /// [`Stopped`]: the reactor's run is over, `work` was dropped.
    pub fn spawn(&self, work: Box<dyn FnOnce(&Reactor) + Send>) -> Result<(), Stopped> {
        self.shared.send(Message::Run(work)).map_err(|_| Stopped)
    }
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Remote")
    }
}
