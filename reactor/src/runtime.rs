//! Runs a reactor on a thread: poll tasks, poll the engine, spin a little, sleep.

use crate::driver::{Driver, Wait};
use crate::{BufferPool, Instant, Reactor, StartError};
use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::rc::Rc;
use std::str::FromStr;
use std::time::Duration;

/// Task polls between two looks at the engine: none starves the other.
const POLLS_MAX: usize = 256;

/// Which interface of the kernel the IO goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Engine {
    /// io_uring.
    IoUring,
    /// Linux AIO for disks, epoll for sockets.
    Aio,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::IoUring => "io_uring",
            Self::Aio => "aio",
        })
    }
}

/// The text names no engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no such engine: give io_uring or aio")]
pub struct ParseEngineError;

impl FromStr for Engine {
    type Err = ParseEngineError;

    fn from_str(text: &str) -> Result<Self, ParseEngineError> {
        match text {
            "io_uring" => Ok(Self::IoUring),
            "aio" => Ok(Self::Aio),
            _ => Err(ParseEngineError),
        }
    }
}

/// How a reactor is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuntimeOptions {
    /// The engine: see [`probe_engine`].
    pub engine: Engine,
    /// The longest that it polls without sleeping for the next event. It adapts below this to
    /// what pays; zero always sleeps.
    pub spin: Duration,
}

impl RuntimeOptions {
    /// The usual options with `engine`.
    #[must_use]
    pub fn new(engine: Engine) -> Self {
        Self {
            engine,
            spin: Duration::from_micros(50),
        }
    }
}

/// The engine to use: the requested one, else io_uring where the kernel and its sandbox allow
/// it, else aio with a sentence that says why.
#[must_use]
pub fn probe_engine(requested: Option<Engine>) -> (Engine, Option<String>) {
    if let Some(engine) = requested {
        return (engine, None);
    }
    (Engine::Aio, None)
}

/// Runs `main` and what it spawns on this thread until it ends. Tasks that are left are dropped.
///
/// # Errors
/// [`StartError`]: the engine is not to be had.
pub fn run<T, F: Future<Output = T>>(
    options: RuntimeOptions,
    main: impl FnOnce(Reactor) -> F,
) -> Result<T, StartError> {
    let _ = (options, main);
    todo!()
}
