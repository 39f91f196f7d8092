//! A memory device whose operations take a set time, and that counts what is in flight.

use ashlar_client::{BlockDevice, BlockError, Durability, Geometry, MemoryDevice, ZeroMode};
use ashlar_proto::message::Extent;
use ashlar_reactor::{Buffer, Reactor, SharedBuffer};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

#[derive(Clone)]
pub struct SlowDevice {
    pub inner: MemoryDevice,
    reactor: Reactor,
    /// How long each operation takes.
    pub delay: Rc<Cell<Duration>>,
    pub now: Rc<Cell<usize>>,
    pub most: Rc<Cell<usize>>,
    pub most_bytes: Rc<Cell<u64>>,
    now_bytes: Rc<Cell<u64>>,
    /// Beginnings (`w 4096`) and ends (`W 4096`) of reads and writes, with their offsets.
    pub log: Rc<RefCell<Vec<String>>>,
}

impl SlowDevice {
    pub fn new(reactor: &Reactor, geometry: Geometry) -> Self {
        Self {
            inner: MemoryDevice::with_geometry(reactor, geometry),
            reactor: reactor.clone(),
            delay: Rc::default(),
            now: Rc::default(),
            most: Rc::default(),
            most_bytes: Rc::default(),
            now_bytes: Rc::default(),
            log: Rc::default(),
        }
    }

    async fn take_time(&self, bytes: u64) {
        self.now.set(self.now.get() + 1);
        self.now_bytes.set(self.now_bytes.get() + bytes);
        self.most.set(self.most.get().max(self.now.get()));
        self.most_bytes
            .set(self.most_bytes.get().max(self.now_bytes.get()));
        let counted = Counted(self, bytes);
        if !self.delay.get().is_zero() {
            self.reactor.sleep(self.delay.get()).await;
        }
        drop(counted);
    }
}

struct Counted<'a>(&'a SlowDevice, u64);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.now.set(self.0.now.get() - 1);
        self.0.now_bytes.set(self.0.now_bytes.get() - self.1);
    }
}

impl BlockDevice for SlowDevice {
    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }

    async fn read(&self, offset: u64, len: u32) -> Result<Vec<SharedBuffer>, BlockError> {
        self.log.borrow_mut().push(format!("r {offset}"));
        self.take_time(len.into()).await;
        let read = self.inner.read(offset, len).await;
        self.log.borrow_mut().push(format!("R {offset}"));
        read
    }

    async fn write(
        &self,
        offset: u64,
        data: Buffer,
        durability: Durability,
    ) -> Result<(), BlockError> {
        self.log.borrow_mut().push(format!("w {offset}"));
        self.take_time(data.len() as u64).await;
        let written = self.inner.write(offset, data, durability).await;
        self.log.borrow_mut().push(format!("W {offset}"));
        written
    }

    async fn write_zeroes(
        &self,
        offset: u64,
        len: u64,
        mode: ZeroMode,
        durability: Durability,
    ) -> Result<(), BlockError> {
        self.inner.write_zeroes(offset, len, mode, durability).await
    }

    async fn trim(&self, offset: u64, len: u64, durability: Durability) -> Result<(), BlockError> {
        self.inner.trim(offset, len, durability).await
    }

    async fn flush(&self) -> Result<(), BlockError> {
        self.inner.flush().await
    }

    async fn extents(
        &self,
        offset: u64,
        len: u64,
        extents_max: usize,
    ) -> Result<Vec<Extent>, BlockError> {
        self.inner.extents(offset, len, extents_max).await
    }
}
