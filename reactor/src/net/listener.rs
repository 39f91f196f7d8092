//! A listening socket.

use super::Stream;
use super::pipe::Pipe;
use crate::driver::{ListenerHandle, Op, Outcome};
use crate::local::{self, LocalListener};
use crate::operations::Operation;
use crate::reactor::Core;
use crate::{NetError, SharedBuffer};
use ashlar_proto::Address;
use std::fmt;
use std::rc::Rc;

/// Accepts connections at an address. Stops listening when dropped.
pub struct Listener {
    core: Rc<Core>,
    kind: Kind,
    address: Address,
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
        match Operation::submit(&self.core, Op::Accept { listener }).await {
            Outcome::Connected(result) => Ok(Stream::over_socket(&self.core, result?)),
            outcome => unreachable!("an accept ended as {outcome:?}"),
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
