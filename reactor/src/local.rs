//! Connections between tasks of one reactor: pairs of bounded channels, found by name.
//!
//! Values pass by pointer; nothing is serialised. The name space is per reactor and per type of
//! value, so that links that carry whole frames and plain byte streams do not meet by mistake.

use crate::channel::{self, Receiver, Sender};
use crate::reactor::Core;
use crate::{NetError, OsError, Reactor};
use ashlar_proto::Address;
use std::any::{Any, TypeId};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

/// Values that a connection holds in each direction before the sender waits.
const QUEUE_MAX: usize = 64;
/// Connections that wait to be accepted.
const BACKLOG_MAX: usize = 128;

/// The listeners of one reactor.
#[derive(Default)]
pub(crate) struct LocalRegistry {
    /// The value is the `Sender<LocalChannel<T>>` of the listener.
    listeners: RefCell<BTreeMap<(String, TypeId), Box<dyn Any>>>,
}

impl LocalRegistry {
    pub(crate) fn clear(&self) {
        let listeners = self.listeners.take();
        drop(listeners);
    }
}

/// One end of a connection.
pub struct LocalChannel<T> {
    /// To the other end.
    pub sender: Sender<T>,
    /// From the other end.
    pub receiver: Receiver<T>,
}

/// Accepts connections to a name.
pub struct LocalListener<T: 'static> {
    core: Rc<Core>,
    name: String,
    arrivals: Receiver<LocalChannel<T>>,
}

impl<T: 'static> LocalListener<T> {
    /// The next connection; `None` if the reactor is stopping.
    pub async fn accept(&self) -> Option<LocalChannel<T>> {
        self.arrivals.recv().await
    }

    /// The name it listens at.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl<T: 'static> Drop for LocalListener<T> {
    fn drop(&mut self) {
        let key = (std::mem::take(&mut self.name), TypeId::of::<T>());
        let listener = self.core.local().listeners.borrow_mut().remove(&key);
        drop(listener);
    }
}

impl<T: 'static> fmt::Debug for LocalListener<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalListener({})", self.name)
    }
}

impl<T> fmt::Debug for LocalChannel<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LocalChannel")
    }
}

/// Listens at `name` on this reactor for connections that carry `T`.
///
/// # Errors
/// [`NetError::Listen`]: the name is taken.
pub fn listen<T: 'static>(reactor: &Reactor, name: &str) -> Result<LocalListener<T>, NetError> {
    listen_on(reactor.core(), name)
}

/// Connects to the listener at `name` on this reactor.
///
/// # Errors
/// [`NetError::Connect`]: nobody listens there, or too many wait to be accepted.
pub fn connect<T: 'static>(reactor: &Reactor, name: &str) -> Result<LocalChannel<T>, NetError> {
    connect_on(reactor.core(), name)
}

pub(crate) fn listen_on<T: 'static>(
    core: &Rc<Core>,
    name: &str,
) -> Result<LocalListener<T>, NetError> {
    let key = (name.to_owned(), TypeId::of::<T>());
    let mut listeners = core.local().listeners.borrow_mut();
    if listeners.contains_key(&key) {
        return Err(NetError::Listen {
            address: Address::Local(name.to_owned()),
            error: OsError::from_errno(libc::EADDRINUSE),
        });
    }
    let (sender, arrivals) = channel::bounded::<LocalChannel<T>>(BACKLOG_MAX);
    listeners.insert(key, Box::new(sender));
    Ok(LocalListener {
        core: Rc::clone(core),
        name: name.to_owned(),
        arrivals,
    })
}

pub(crate) fn connect_on<T: 'static>(
    core: &Rc<Core>,
    name: &str,
) -> Result<LocalChannel<T>, NetError> {
    let refused = |errno| NetError::Connect {
        address: Address::Local(name.to_owned()),
        error: OsError::from_errno(errno),
    };
    let arrivals = {
        let listeners = core.local().listeners.borrow();
        let listener = listeners.get(&(name.to_owned(), TypeId::of::<T>()));
        let sender = listener.and_then(|any| any.downcast_ref::<Sender<LocalChannel<T>>>());
        sender.cloned().ok_or_else(|| refused(libc::ECONNREFUSED))?
    };
    let (near_sender, far_receiver) = channel::bounded(QUEUE_MAX);
    let (far_sender, near_receiver) = channel::bounded(QUEUE_MAX);
    let far = LocalChannel {
        sender: far_sender,
        receiver: far_receiver,
    };
    arrivals.try_send(far).map_err(|_| refused(libc::EAGAIN))?;
    Ok(LocalChannel {
        sender: near_sender,
        receiver: near_receiver,
    })
}
