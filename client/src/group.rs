//! One request of a front end, cut into writes: it holds its blocks and its budget until all of
//! them are acknowledged, whether or not anybody still waits for it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::block_device::BlockError;
use crate::budget::Permit;
use crate::locks::RangeGuard;
use crate::signal::Promise;

/// What a request may have in flight, and where room is scarce, what it may take of that.
pub(crate) type Permits = (Permit, Option<Permit>);

/// See the module.
#[derive(Debug)]
pub(crate) struct WriteGroup {
    remaining: Cell<usize>,
    failed: Cell<Option<BlockError>>,
    held: RefCell<Option<(RangeGuard, Permits)>>,
    promise: Promise<Result<(), BlockError>>,
}

impl WriteGroup {
    /// A request of `writes` writes.
    pub(crate) fn new(writes: usize, guard: RangeGuard, permits: Permits) -> Rc<Self> {
        assert!(writes > 0, "a request has writes");
        Rc::new(Self {
            remaining: Cell::new(writes),
            failed: Cell::new(None),
            held: RefCell::new(Some((guard, permits))),
            promise: Promise::new(),
        })
    }

    /// One of its writes has ended.
    pub(crate) fn end_one(&self, result: Result<(), BlockError>) {
        if let Err(error) = result {
            self.failed.set(Some(error));
        }
        let remaining = self.remaining.get() - 1;
        self.remaining.set(remaining);
        if remaining == 0 {
            self.held.take();
            let failed = self.failed.get();
            self.promise.keep(failed.map_or(Ok(()), Err));
        }
    }

    /// Tells who waits that it takes too long. The writes go on, and hold their blocks.
    pub(crate) fn give_up(&self, error: BlockError) {
        self.promise.keep(Err(error));
    }

    /// Nothing more will come of it.
    pub(crate) fn abandon(&self, error: BlockError) {
        self.held.take();
        self.promise.keep(Err(error));
    }

    /// Waits for the outcome.
    pub(crate) async fn outcome(&self) -> Result<(), BlockError> {
        self.promise.kept().await
    }
}
