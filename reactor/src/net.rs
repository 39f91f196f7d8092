//! Stream sockets: TCP, Unix, and pipes within the reactor.

mod listener;
mod pipe;
mod stream;

pub use listener::Listener;
pub use stream::{DetachedStream, Stream};

pub(crate) use stream::DetachedSocket;
