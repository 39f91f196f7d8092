//! Open files of the ring, registered with it while there is room in its table: the kernel then
//! need not look the descriptor up for each operation.

use super::ring::Ring;
use crate::driver::Token;
use io_uring::types;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

/// Size of the ring's table of files. Files beyond it work by descriptor.
const REGISTERED_MAX: u32 = 1024;

/// A disk, a socket or a listener.
pub(super) struct File {
    pub(super) fd: OwnedFd,
    slot: Option<u32>,
    /// Sockets: the last receive left something to receive.
    pub(super) has_more: Cell<bool>,
    /// Sockets: a send is in the kernel, others wait in order.
    pub(super) is_sending: Cell<bool>,
    pub(super) sends_waiting: RefCell<VecDeque<Token>>,
}

/// How the kernel is told which file.
#[derive(Clone, Copy)]
pub(super) enum Target {
    Registered(types::Fixed),
    Descriptor(types::Fd),
}

impl File {
    pub(super) fn target(&self) -> Target {
        match self.slot {
            Some(slot) => Target::Registered(types::Fixed(slot)),
            None => Target::Descriptor(types::Fd(self.fd.as_raw_fd())),
        }
    }
}

/// The ring's table of files.
pub(super) struct Files {
    free: Vec<u32>,
}

impl Files {
    pub(super) fn new(ring: &Ring) -> Self {
        let free = match ring.submitter().register_files_sparse(REGISTERED_MAX) {
            Ok(()) => (0..REGISTERED_MAX).rev().collect(),
            Err(_) => Vec::new(),
        };
        Self { free }
    }

    /// Takes a file on.
    pub(super) fn add(&mut self, ring: &Ring, fd: OwnedFd) -> Rc<File> {
        let slot = self.free.pop().filter(|slot| {
            ring.submitter()
                .register_files_update(*slot, &[fd.as_raw_fd()])
                .is_ok()
        });
        Rc::new(File {
            fd,
            slot,
            has_more: Cell::new(false),
            is_sending: Cell::new(false),
            sends_waiting: RefCell::default(),
        })
    }

    /// Takes a file out that nothing is in flight on.
    pub(super) fn remove(&mut self, ring: &Ring, file: File) -> OwnedFd {
        if let Some(slot) = file.slot
            && ring.submitter().register_files_update(slot, &[-1]).is_ok()
        {
            self.free.push(slot);
        }
        file.fd
    }
}
