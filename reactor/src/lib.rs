//! Thread-per-core runtime: executor, timers, sockets, disks, buffers; drivers uring, aio, sim.
//!
//! Everything works through a [`Reactor`] handle that is passed explicitly. A reactor is one
//! thread, one ring, no locks; between threads there are [`Remote`] and [`channel::remote`].
//!
//! ```text
//! Stream  Listener  Disk  Sleep  Task  channel      what callers see
//!      └── operations ──┘  timers  executor         one slab, one ordered map, one queue
//!              driver (trait)                       owns buffers while the kernel works on them
//!        uring │ aio │ sim
//! ```

#![allow(
    unsafe_code,
    reason = "system calls, memory given to the kernel, task pinning: each with its SAFETY line"
)]

mod aio;
mod buffer;
pub mod channel;
mod disk;
mod driver;
mod error;
mod executor;
pub mod future;
pub mod link;
pub mod local;
pub mod meters;
mod net;
mod operations;
mod os;
mod reactor;
mod remote;
mod runtime;
pub mod sim;
mod task;
mod time;
mod timer;
pub mod tls;
mod uring;

pub use buffer::{Buffer, BufferPool, PAGE_BYTES, SharedBuffer};
pub use disk::{CachePolicy, DetachedDisk, Disk, DiskGeometry, DiskOptions};
pub use error::{DiskError, DiskOperation, NetError, OsError, StartError};
pub use net::{DetachedStream, Listener, Stream};
pub use reactor::Reactor;
pub use remote::{Remote, Stopped};
pub use runtime::{Engine, ParseEngineError, RuntimeOptions, probe_engine, run};
pub use task::Task;
pub use time::{Elapsed, Instant};
pub use timer::Sleep;

pub(crate) use net::DetachedSocket;
