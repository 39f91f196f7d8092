//! A listening socket.

use super::Stream;
use super::pipe::Pipe;
use crate::driver::{ListenerHandle, Op, Outcome};
use crate::local::{self, LocalListener};
use crate::operations::Operation;
use crate::reactor::Core;
use crate::{NetError, OsError, SharedBuffer};
use ashlar_proto::Address;
use std::cell::Cell;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

/// Accepts connections at an address. Stops listening when dropped.
pub struct Listener {
    core: Rc<Core>,
    kind: Kind,
    address: Address,
    /// The last accept failed for want of descriptors or memory, and was logged.
    is_short: Cell<bool>,
}

/// How long accepting rests when descriptors or memory have run out.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(100);

/// Errors of accept(2) that tell of the connection, not of the listener.
fn is_of_one_connection(error: OsError) -> bool {
    matches!(
        error.errno(),
        libc::ECONNABORTED
            | libc::EINTR
            | libc::EPROTO
            | libc::EPERM
            | libc::ENETDOWN
            | libc::ENOPROTOOPT
            | libc::EHOSTDOWN
            | libc::ENONET
            | libc::EHOSTUNREACH
            | libc::ENETUNREACH
            | libc::ETIMEDOUT
    )
}

fn is_shortage(error: OsError) -> bool {
    matches!(
        error.errno(),
        libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM
    )
}

enum Kind {
    Socket(ListenerHandle),
    Pipe(LocalListener<SharedBuffer>),
}

impl Listener {
    pub(crate) fn bind(core: &Rc<Core>, address: &Address) -> Result<Self, NetError> {
        let (kind, address) = if let Address::Local(name) = address {
            (Kind::Pipe(local::listen_on(core, name)?), address.clone())
        } else {
            let (handle, bound) = core.driver().listen(address)?;
            (Kind::Socket(handle), bound)
        };
        Ok(Self {
            core: Rc::clone(core),
            kind,
            address,
            is_short: Cell::new(false),
        })
    }

    /// The next connection. Waits out a lack of file descriptors.
    ///
    /// # Errors
    /// [`NetError::Shutdown`], [`NetError::Io`]: this listener is of no more use.
    pub async fn accept(&self) -> Result<Stream, NetError> {
        let listener = match &self.kind {
            Kind::Pipe(pipe) => {
                let channel = pipe.accept().await.ok_or(NetError::Shutdown)?;
                let peer = self.address.to_string();
                return Ok(Stream::over_pipe(&self.core, Pipe::over(channel), peer));
            }
            Kind::Socket(handle) => *handle,
        };
        loop {
            let result = match Operation::submit(&self.core, Op::Accept { listener }).await {
                Outcome::Connected(result) => result,
                outcome => unreachable!("an accept ended as {outcome:?}"),
            };
            match result {
                Ok(connected) => return Ok(Stream::over_socket(&self.core, connected)),
                Err(NetError::Io(error)) if is_of_one_connection(error) => {}
                // The connection went before it was accepted.
                Err(NetError::Reset) => {}
                Err(NetError::Io(error)) if is_shortage(error) => {
                    if !self.is_short.replace(true) {
                        tracing::warn!(listener = %self.address, %error, "cannot accept: waiting");
                    }
                    self.core.sleep(SHORTAGE_PAUSE).await;
                    continue;
                }
                Err(error) => return Err(error),
            }
            self.is_short.set(false);
        }
    }

    /// Where it listens; with the port that was taken if 0 was asked for.
    #[must_use]
    pub fn local_address(&self) -> Address {
        self.address.clone()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Kind::Socket(handle) = self.kind {
            self.core.driver().close_listener(handle);
        }
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Listener({})", self.address)
    }
}
