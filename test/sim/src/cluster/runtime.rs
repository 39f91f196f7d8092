//! The conductor's runtime in a simulated process: virtual time, and tasks of the process's reactor.
//!
//! What the conductor asks for from wherever it runs goes into a queue, which a task of the process
//! empties ([`SimRuntime::drive`]): spawned work and sleeps become tasks beside it. The clock is that
//! of the process, read before each poll: time stands still while a task runs. All ends with the
//! process.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Poll, Waker};
use std::time::Duration;

use ashlar_conductor::{Runtime, Work};
use ashlar_reactor::Reactor;

/// See the module.
#[derive(Default)]
pub struct SimRuntime {
    now_ns: AtomicU64,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    driver: Option<Waker>,
}

enum Job {
    Run(Work),
    /// Rings when the time has passed; nobody may wait for it any more.
    Ring(Duration, Weak<Alarm>),
}

#[derive(Default)]
struct Alarm(Mutex<Rung>);

#[derive(Default)]
struct Rung {
    has_rung: bool,
    waiter: Option<Waker>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Alarm {
    fn ring(&self) {
        let mut rung = lock(&self.0);
        rung.has_rung = true;
        if let Some(waiter) = rung.waiter.take() {
            waiter.wake();
        }
    }

    async fn rung(self: Arc<Self>) {
        poll_fn(|context| {
            let mut rung = lock(&self.0);
            if rung.has_rung {
                return Poll::Ready(());
            }
            rung.waiter = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl SimRuntime {
    /// Does what the conductor asks for, for as long as the process lives.
    pub async fn drive(self: Arc<Self>, reactor: Reactor) {
        loop {
            match self.next().await {
                Job::Run(work) => {
                    drop(reactor.spawn(Arc::clone(&self).on_time(reactor.clone(), work)))
                }
                Job::Ring(after, alarm) => {
                    let sleep = reactor.sleep(after);
                    drop(reactor.spawn(async move {
                        sleep.await;
                        if let Some(alarm) = alarm.upgrade() {
                            alarm.ring();
                        }
                    }));
                }
            }
        }
    }

    async fn next(&self) -> Job {
        poll_fn(|context| {
            let mut queue = lock(&self.queue);
            if let Some(job) = queue.jobs.pop_front() {
                return Poll::Ready(job);
            }
            queue.driver = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// The future, which finds the clock of the process right whenever it is polled.
    pub async fn on_time<T>(
        self: Arc<Self>,
        reactor: Reactor,
        future: impl Future<Output = T>,
    ) -> T {
        let mut future = pin!(future);
        poll_fn(|context| {
            let now_ns = reactor.now().as_nanos();
            self.now_ns.store(now_ns, Ordering::Relaxed);
            future.as_mut().poll(context)
        })
        .await
    }

    fn put(&self, job: Job) {
        let mut queue = lock(&self.queue);
        queue.jobs.push_back(job);
        if let Some(driver) = queue.driver.take() {
            driver.wake();
        }
    }
}

impl Runtime for SimRuntime {
    fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.now_ns.load(Ordering::Relaxed))
    }

    fn wall_ms(&self) -> u64 {
        u64::try_from(self.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn sleep(&self, duration: Duration) -> Work {
        let alarm = Arc::new(Alarm::default());
        self.put(Job::Ring(duration, Arc::downgrade(&alarm)));
        Box::pin(alarm.rung())
    }

    fn spawn(&self, work: Work) {
        self.put(Job::Run(work));
    }
}
