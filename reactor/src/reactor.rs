//! The handle that everything on a reactor's thread works through.
//!
//! It is passed explicitly, never found in a thread-local, so that the simulator can run many
//! reactors, each a process of its own, in one thread.

use crate::buffer::{Buffer, BufferPool};
use crate::disk::{DetachedDisk, Disk, DiskOptions};
use crate::driver::{Completion, Driver, Wait};
use crate::executor::Executor;
use crate::link::LinkSecurity;
use crate::local::LocalRegistry;
use crate::meters::{Measure, Meters, Operation, Stage};
use crate::net::{DetachedStream, Listener, Stream};
use crate::operations::Operations;
use crate::remote::{Message, Remote, Shared};
use crate::sim::Rng;
use crate::task::{self, Task};
use crate::timer::{self, Sleep, Timers};
use crate::{DiskError, Elapsed, Instant, NetError};
use ashlar_proto::Address;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

/// How long an attempt to open a disk that somebody else holds is repeated: the kernel lets go
/// of a killed process's lock only when its last IO has ended.
const OPEN_RETRY: Duration = Duration::from_secs(3);
const OPEN_RETRY_PAUSE: Duration = Duration::from_millis(50);

/// How long an attempt to listen where somebody else listens is repeated: a killed process's
/// socket stays open until the kernel has taken its io_uring apart, after the process is gone.
const LISTEN_RETRY: Duration = Duration::from_secs(3);
const LISTEN_RETRY_PAUSE: Duration = Duration::from_millis(20);

/// A handle on a reactor. Cheap to clone; stays on its thread.
#[derive(Clone)]
pub struct Reactor {
    core: Rc<Core>,
}

/// What the handles of one reactor share.
pub(crate) struct Core {
    driver: Rc<dyn Driver>,
    executor: Rc<Executor>,
    shared: Arc<Shared>,
    operations: RefCell<Operations>,
    timers: RefCell<Timers>,
    pool: BufferPool,
    local: LocalRegistry,
    links: RefCell<Option<LinkSecurity>>,
    completions: RefCell<Vec<Completion>>,
    messages: RefCell<VecDeque<Message>>,
}

impl Core {
    pub(crate) fn driver(&self) -> &dyn Driver {
        &*self.driver
    }

    pub(crate) fn operations(&self) -> &RefCell<Operations> {
        &self.operations
    }

    pub(crate) fn timers(&self) -> &RefCell<Timers> {
        &self.timers
    }

    pub(crate) fn meters(&self) -> &Meters {
        &self.shared.meters
    }

    pub(crate) fn local(&self) -> &LocalRegistry {
        &self.local
    }

    /// Waits for `duration`, where only the core is at hand.
    pub(crate) async fn sleep(self: &Rc<Self>, duration: Duration) {
        let core = Rc::clone(self);
        Reactor { core }.sleep(duration).await;
    }
}

impl Reactor {
    /// Spawns a task; its first poll comes after the caller's.
    pub fn spawn<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> Task<T> {
        task::spawn(&self.core.executor, future)
    }

    /// Secures the links that are made and accepted from now on.
    pub fn secure_links(&self, security: LinkSecurity) {
        *self.core.links.borrow_mut() = Some(security);
    }

    /// How links are secured, if they are.
    pub(crate) fn link_security(&self) -> Option<LinkSecurity> {
        self.core.links.borrow().clone()
    }

    /// The monotonic clock.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.core.driver.now()
    }

    /// Milliseconds since 1970: to show to people, never to decide by.
    #[must_use]
    pub fn wall_clock_ms(&self) -> u64 {
        self.core.driver.wall_clock_ms()
    }

    /// Waits for `duration`.
    pub fn sleep(&self, duration: Duration) -> Sleep {
        self.sleep_until(self.now() + duration)
    }

    /// Waits until `at`.
    pub fn sleep_until(&self, at: Instant) -> Sleep {
        Sleep::new(self.clone(), at)
    }

    /// Runs `future` for at most `duration`, then drops it.
    ///
    /// # Errors
    /// [`Elapsed`]: the time passed first.
    pub async fn timeout<T>(
        &self,
        duration: Duration,
        future: impl Future<Output = T>,
    ) -> Result<T, Elapsed> {
        timer::until(self.sleep(duration), future).await
    }

    /// Lets all other ready tasks run first.
    pub fn yield_now(&self) -> impl Future<Output = ()> + use<> {
        let mut yielded = false;
        std::future::poll_fn(move |context| {
            if yielded {
                return Poll::Ready(());
            }
            yielded = true;
            context.waker().wake_by_ref();
            Poll::Pending
        })
    }

    /// A random number: seeded under the simulator, from the system otherwise.
    #[must_use]
    pub fn random_u64(&self) -> u64 {
        self.core.driver.random_u64()
    }

    /// A page-aligned buffer of `len` bytes with arbitrary (stale, never uninitialised) contents.
    #[must_use]
    pub fn buffer(&self, len: usize) -> Buffer {
        self.core.pool.buffer(len)
    }

    /// The pool that [`Reactor::buffer`] takes from.
    #[must_use]
    pub fn buffer_pool(&self) -> &BufferPool {
        &self.core.pool
    }

    /// Opens a disk for direct IO and locks it, before anything of it is read. A disk that is in
    /// use is tried again for a few seconds.
    ///
    /// # Errors
    /// [`DiskError::Open`], [`DiskError::InUse`], [`DiskError::NotADisk`],
    /// [`DiskError::NoDirectIo`].
    pub async fn open_disk(&self, options: DiskOptions) -> Result<Disk, DiskError> {
        let deadline = self.now() + OPEN_RETRY;
        loop {
            match self.core.driver.open_disk(&options) {
                Ok((handle, geometry)) => {
                    return Ok(Disk::new(&self.core, handle, geometry, options));
                }
                Err(DiskError::InUse { .. }) if self.now() < deadline => {
                    self.sleep(OPEN_RETRY_PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes on a disk that another reactor shared.
    #[must_use]
    pub fn adopt_disk(&self, disk: DetachedDisk) -> Disk {
        let DetachedDisk {
            handle,
            geometry,
            options,
        } = disk;
        let handle = self.core.driver.adopt_disk(handle, geometry);
        Disk::new(&self.core, handle, geometry, options)
    }

    /// Listens at `address`. TCP port 0 takes a free one: see [`Listener::local_address`]. An
    /// address that is in use is tried again for a few seconds.
    ///
    /// # Errors
    /// [`NetError::Listen`].
    pub async fn listen(&self, address: &Address) -> Result<Listener, NetError> {
        let deadline = self.now() + LISTEN_RETRY;
        loop {
            match Listener::bind(&self.core, address) {
                Err(NetError::Listen { error, .. })
                    if error.errno() == libc::EADDRINUSE
                        && !matches!(address, Address::Local(_))
                        && self.now() < deadline =>
                {
                    self.sleep(LISTEN_RETRY_PAUSE).await;
                }
                result => return result,
            }
        }
    }

    /// Connects to `address`; [`Address::Local`] reaches listeners on this reactor only.
    ///
    /// There is no time limit of its own: wrap it in [`Reactor::timeout`].
    ///
    /// # Errors
    /// [`NetError::Connect`].
    pub async fn connect(&self, address: &Address) -> Result<Stream, NetError> {
        Stream::connect(&self.core, address).await
    }

    /// Takes on a stream that another reactor detached.
    #[must_use]
    pub fn adopt(&self, stream: DetachedStream) -> Stream {
        Stream::adopt(&self.core, stream)
    }

    /// What this reactor counts.
    #[must_use]
    pub fn meters(&self) -> &Meters {
        self.core.meters()
    }

    /// Counts a request of so many bytes that begins at a stage; it ends when the measure is dropped.
    #[must_use]
    pub fn measure(&self, stage: Stage, operation: Operation, bytes: u64) -> Measure<'_> {
        Measure::begin(&self.core, stage, operation, bytes)
    }

    /// A handle for other threads.
    #[must_use]
    pub fn remote(&self) -> Remote {
        Remote {
            shared: Arc::clone(&self.core.shared),
        }
    }

    /// A reactor over `driver`, with nothing that runs it yet.
    pub(crate) fn over(driver: Rc<dyn Driver>, pool: BufferPool) -> Self {
        let shared = Arc::new(Shared::new(driver.unpark()));
        Self {
            core: Rc::new(Core {
                executor: Executor::new(Arc::clone(&shared)),
                driver,
                shared,
                operations: RefCell::default(),
                timers: RefCell::default(),
                pool,
                local: LocalRegistry::default(),
                links: RefCell::default(),
                completions: RefCell::default(),
                messages: RefCell::default(),
            }),
        }
    }

    pub(crate) fn core(&self) -> &Rc<Core> {
        &self.core
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.core.shared
    }

    /// Whether a task waits to be polled.
    pub(crate) fn has_ready(&self) -> bool {
        self.core.executor.has_ready()
    }

    /// Wakes the future that the run is for, which the runtime polls itself.
    pub(crate) fn main_waker(&self) -> Waker {
        self.core.executor.main_waker()
    }

    /// Whether that future was woken since last asked.
    pub(crate) fn take_main_woken(&self) -> bool {
        self.core.executor.take_main_woken()
    }

    /// Polls up to `polls_max` ready tasks; tells how many it polled.
    pub(crate) fn run_ready(&self, polls_max: usize) -> usize {
        self.core.executor.run(polls_max)
    }

    /// From now on the next task is drawn from `rng`, not the one that waits longest.
    pub(crate) fn shuffle_tasks(&self, rng: Rng) {
        self.core.executor.shuffle(rng);
    }

    /// When the next timer is due.
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        self.core.timers.borrow().next()
    }

    /// Wakes the tasks whose timers are due at `now`; tells how many.
    pub(crate) fn fire_timers(&self, now: Instant) -> usize {
        let mut fired = 0;
        loop {
            let due = self.core.timers.borrow_mut().pop_due(now);
            let Some(waker) = due else { return fired };
            waker.wake();
            fired += 1;
        }
    }

    /// Acts on what other threads have sent; tells whether there was anything.
    pub(crate) fn take_messages(&self) -> bool {
        if !self.core.shared.is_pending() {
            return false;
        }
        let mut messages = self.core.messages.take();
        self.core.shared.take(&mut messages);
        for message in messages.drain(..) {
            match message {
                Message::Wake { index, generation } => {
                    self.core.executor.wake(index, generation);
                }
                Message::Run(work) => work(self),
            }
        }
        self.core.messages.replace(messages);
        true
    }

    /// Polls the driver and hands out what has completed; tells how many operations that were.
    pub(crate) fn poll_driver(&self, wait: Wait) -> usize {
        let mut completions = self.core.completions.take();
        self.core.driver.poll(wait, &mut completions);
        let count = completions.len();
        for completion in completions.drain(..) {
            self.core.complete(completion);
        }
        self.core.completions.replace(completions);
        count
    }

    /// Ends all tasks and refuses work from other threads: the process's death as far as its
    /// tasks can tell, or the end of a run.
    pub(crate) fn stop(&self) {
        self.core.shared.stop();
        self.core.executor.abort_all();
        self.core.local.clear();
    }
}

impl std::fmt::Debug for Reactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reactor")
    }
}
