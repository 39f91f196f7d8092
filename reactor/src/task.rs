//! One spawned future and the handle on its result.

use crate::executor::{Executor, TaskId};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

/// What the executor needs of a task, whatever its future.
pub(crate) trait Runnable {
    /// Polls the future; true if the task has ended.
    fn poll(&self, context: &mut Context<'_>) -> bool;
    /// Drops the future, at once or when the poll that is running returns.
    fn abort(&self);
}

/// What the handle needs of a task, whatever its future.
trait Joinable<T> {
    fn take_output(&self, waker: &Waker) -> Poll<T>;
    fn is_finished(&self) -> bool;
}

/// A task: its future until it has ended, then its output until that is taken.
struct TaskCell<F: Future> {
    stage: RefCell<Stage<F>>,
    aborted: Cell<bool>,
    joiner: RefCell<Option<Waker>>,
}

enum Stage<F: Future> {
    Running(F),
    Finished(F::Output),
    Ended,
}

impl<F: Future> Runnable for TaskCell<F> {
    fn poll(&self, context: &mut Context<'_>) -> bool {
        let mut stage = self.stage.borrow_mut();
        let Stage::Running(future) = &mut *stage else {
            return true;
        };
        // SAFETY: the future lives in the heap allocation of its task, is never moved out of
        // `Running` and is dropped in place.
        let future = unsafe { Pin::new_unchecked(future) };
        let Poll::Ready(output) = future.poll(context) else {
            if self.aborted.get() {
                *stage = Stage::Ended;
                return true;
            }
            return false;
        };
        *stage = Stage::Finished(output);
        drop(stage);
        if let Some(waker) = self.joiner.borrow_mut().take() {
            waker.wake();
        }
        true
    }

    fn abort(&self) {
        self.aborted.set(true);
        if let Ok(mut stage) = self.stage.try_borrow_mut()
            && matches!(*stage, Stage::Running(_))
        {
            // Dropping it runs foreign code, which must not find the stage borrowed by a
            // re-entrant abort: `try_borrow_mut` above makes that one a no-op.
            *stage = Stage::Ended;
        }
    }
}

impl<F: Future> Joinable<F::Output> for TaskCell<F> {
    fn take_output(&self, waker: &Waker) -> Poll<F::Output> {
        // A task that awaits its own handle finds its stage borrowed: it waits for ever.
        if let Ok(mut stage) = self.stage.try_borrow_mut() {
            // A running future must not be moved: look before taking.
            if !matches!(*stage, Stage::Running(_)) {
                return match std::mem::replace(&mut *stage, Stage::Ended) {
                    Stage::Finished(output) => Poll::Ready(output),
                    _ => panic!("awaited a task that was aborted or has given its result"),
                };
            }
        }
        *self.joiner.borrow_mut() = Some(waker.clone());
        Poll::Pending
    }

    fn is_finished(&self) -> bool {
        self.stage
            .try_borrow()
            .is_ok_and(|stage| !matches!(*stage, Stage::Running(_)))
    }
}

/// A handle on a spawned task: await it for the result. Dropping it detaches the task, which
/// then runs on by itself.
pub struct Task<T> {
    cell: Rc<dyn Joinable<T>>,
    id: TaskId,
    executor: Weak<Executor>,
}

impl<T> Task<T> {
    /// Ends the task: its future is dropped where it stands. Awaiting it afterwards panics,
    /// unless it had finished before.
    pub fn abort(&self) {
        if let Some(executor) = self.executor.upgrade() {
            executor.abort(self.id);
        }
    }

    /// Whether it has run to its end or was aborted.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.cell.is_finished()
    }
}

impl<T> Future for Task<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        self.cell.take_output(context.waker())
    }
}

impl<T> fmt::Debug for Task<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Task({:?})", self.id)
    }
}

/// Spawns `future` on `executor`.
pub(crate) fn spawn<F>(executor: &Rc<Executor>, future: F) -> Task<F::Output>
where
    F: Future + 'static,
{
    let cell = Rc::new(TaskCell {
        stage: RefCell::new(Stage::Running(future)),
        aborted: Cell::new(false),
        joiner: RefCell::new(None),
    });
    let id = executor.insert(Rc::clone(&cell) as Rc<dyn Runnable>);
    Task {
        cell,
        id,
        executor: Rc::downgrade(executor),
    }
}
