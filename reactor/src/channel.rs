//! Ways to pass values and permits between tasks, and between threads.
//!
//! [`bounded`], [`oneshot`], [`Notify`] and [`Semaphore`] stay on one thread and cost no atomics;
//! [`remote`] crosses threads. Every queue has a maximum; who waits is served first come, first
//! served, and a dropped future gives its place to the next.

mod local;
mod notify;
mod one;
pub mod remote;
mod semaphore;
mod wait;

pub use local::{Receiver, Sender, bounded};
pub use notify::Notify;
pub use one::{OneshotReceiver, OneshotSender, oneshot};
pub use semaphore::{Permit, Semaphore};

/// The other end is gone or has closed the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the channel is closed")]
pub struct Closed;

/// A value that could not be sent, and why. Gives the value back.
#[derive(Debug, PartialEq, Eq)]
pub enum TrySendError<T> {
    /// The channel holds as many values as it may.
    Full(T),
    /// The receiver is gone or has closed the channel.
    Closed(T),
}

#[cfg(test)]
mod tests;
