//! A server in a simulated world, a device that takes its time, and a client that speaks the
//! protocol byte by byte: written from doc/proto.md, sharing nothing with the server.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(
    clippy::unwrap_used,
    reason = "a test that meets the unexpected has failed"
)]

use ashlar_client::{BlockDevice, BlockError, Durability, Geometry, MemoryDevice, ZeroMode};
use ashlar_nbd_server::{
    ChangesError, ExportCatalog, ExportDevice, ExportInfo, NbdOptions, NbdServer, OpenError,
};
use ashlar_proto::Address;
use ashlar_proto::message::{BlockKind, Extent};
use ashlar_reactor::sim::World;
use ashlar_reactor::{Buffer, NetError, Reactor, SharedBuffer, Stream};
use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

pub const MIB: u64 = 1 << 20;
pub const IHAVEOPT: u64 = 0x4948_4156_454f_5054;

/// A memory device whose every operation takes a random time, and that counts what is in flight.
#[derive(Clone)]
pub struct SlowDevice {
    pub inner: MemoryDevice,
    reactor: Reactor,
    delay: Duration,
    pub now: Rc<Cell<usize>>,
    pub most: Rc<Cell<usize>>,
    pub most_bytes: Rc<Cell<u64>>,
    now_bytes: Rc<Cell<u64>>,
    pub fault: Rc<Cell<Option<BlockError>>>,
}

impl SlowDevice {
    pub fn new(reactor: &Reactor, geometry: Geometry, delay: Duration) -> Self {
        Self {
            inner: MemoryDevice::with_geometry(reactor, geometry),
            reactor: reactor.clone(),
            delay,
            now: Rc::default(),
            most: Rc::default(),
            most_bytes: Rc::default(),
            now_bytes: Rc::default(),
            fault: Rc::default(),
        }
    }

    async fn take_time(&self, bytes: u64) -> Result<(), BlockError> {
        let _counted = Counted::new(self, bytes);
        if !self.delay.is_zero() {
            let nanos = u64::try_from(self.delay.as_nanos()).unwrap();
            let delay = Duration::from_nanos(self.reactor.random_u64() % nanos);
            self.reactor.sleep(delay).await;
        }
        self.fault.get().map_or(Ok(()), Err)
    }
}

/// Counts one operation as in flight, until it ends or is dropped.
struct Counted<'a>(&'a SlowDevice, u64);

impl<'a> Counted<'a> {
    fn new(device: &'a SlowDevice, bytes: u64) -> Self {
        device.now.set(device.now.get() + 1);
        device.now_bytes.set(device.now_bytes.get() + bytes);
        device.most.set(device.most.get().max(device.now.get()));
        let most_bytes = device.most_bytes.get().max(device.now_bytes.get());
        device.most_bytes.set(most_bytes);
        Self(device, bytes)
    }
}

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
        self.take_time(len.into()).await?;
        self.inner.read(offset, len).await
    }

    async fn write(
        &self,
        offset: u64,
        data: Buffer,
        durability: Durability,
    ) -> Result<(), BlockError> {
        self.take_time(data.len() as u64).await?;
        self.inner.write(offset, data, durability).await
    }

    async fn write_zeroes(
        &self,
        offset: u64,
        len: u64,
        mode: ZeroMode,
        durability: Durability,
    ) -> Result<(), BlockError> {
        self.take_time(0).await?;
        self.inner.write_zeroes(offset, len, mode, durability).await
    }

    async fn trim(&self, offset: u64, len: u64, durability: Durability) -> Result<(), BlockError> {
        self.take_time(0).await?;
        self.inner.trim(offset, len, durability).await
    }

    async fn flush(&self) -> Result<(), BlockError> {
        self.take_time(0).await?;
        self.inner.flush().await
    }

    async fn extents(
        &self,
        offset: u64,
        len: u64,
        extents_max: usize,
    ) -> Result<Vec<Extent>, BlockError> {
        self.take_time(0).await?;
        self.inner.extents(offset, len, extents_max).await
    }
}

/// Since `all` everything was written that has data, since `none` nothing; `gone` is listed, and is no
/// more when it is asked for.
impl ExportDevice for SlowDevice {
    async fn changes(
        &self,
        bitmap: &str,
        offset: u64,
        len: u64,
        extents_max: usize,
    ) -> Result<Vec<Extent>, ChangesError> {
        match bitmap {
            "all" => Ok(self.extents(offset, len, extents_max).await?),
            "none" => {
                let mut extents = self.extents(offset, len, extents_max).await?;
                for extent in &mut extents {
                    extent.kind = BlockKind::Absent;
                }
                Ok(extents)
            }
            _ => Err(ChangesError::NoBitmap),
        }
    }
}

/// Exports by name.
pub struct Catalog {
    pub exports: Vec<(ExportInfo, SlowDevice)>,
    pub reactor: Reactor,
    /// How long an open takes.
    pub opening: Rc<Cell<Duration>>,
    /// Opens that have run to their end.
    pub opened: Rc<Cell<usize>>,
}

impl ExportCatalog for Catalog {
    type Device = SlowDevice;

    async fn list(&self) -> Result<Vec<ExportInfo>, OpenError> {
        Ok(self.exports.iter().map(|(info, _)| info.clone()).collect())
    }

    async fn bitmaps(&self, name: &str) -> Result<Vec<String>, OpenError> {
        let bitmaps: &[_] = match name {
            "disk" => &["all", "none", "gone"],
            "locked" => &["none", "1", "2", "3", "4", "5", "6", "7", "8"],
            _ => return Err(OpenError::Unknown),
        };
        Ok(bitmaps.iter().map(|&bitmap| bitmap.to_owned()).collect())
    }

    async fn open(&self, name: &str) -> Result<SlowDevice, OpenError> {
        if !self.opening.get().is_zero() {
            self.reactor.sleep(self.opening.get()).await;
        }
        self.opened.set(self.opened.get() + 1);
        let mut exports = self.exports.iter();
        let found = exports.find(|(info, _)| info.name == name);
        Ok(found.ok_or(OpenError::Unknown)?.1.clone())
    }
}

/// A server in a world, with the exports `disk` (16 MiB) and `locked` (1 MiB, read-only).
pub struct Bench {
    pub world: World,
    pub client: Reactor,
    pub reactor: Reactor,
    pub server: Rc<NbdServer>,
    pub device: SlowDevice,
    pub address: Address,
    /// How long opens take, and how many have run to their end.
    pub opening: Rc<Cell<Duration>>,
    pub opened: Rc<Cell<usize>>,
}

impl Bench {
    pub fn new(seed: u64, delay: Duration, options: NbdOptions) -> Self {
        let world = World::new(seed);
        let process = world.process("server", "10.0.0.1".parse().unwrap());
        let reactor = process.reactor().clone();
        let client = world.process("client", "10.0.0.2".parse().unwrap());
        let disk = ExportInfo::new("disk", 16 * MIB);
        let mut locked = ExportInfo::new("locked", MIB);
        locked.geometry.read_only = true;
        locked.description = Some("may not be written".into());
        let device = SlowDevice::new(&reactor, disk.geometry, delay);
        let other = SlowDevice::new(&reactor, locked.geometry, delay);
        let opening = Rc::new(Cell::new(Duration::ZERO));
        let opened = Rc::new(Cell::new(0));
        let catalog = Rc::new(Catalog {
            exports: vec![(disk, device.clone()), (locked, other)],
            reactor: reactor.clone(),
            opening: opening.clone(),
            opened: opened.clone(),
        });
        let address: Address = "10.0.0.1:10809".parse().unwrap();
        let started = {
            let (reactor, address) = (reactor.clone(), address.clone());
            async move { NbdServer::serve(&reactor, &address, catalog, options).await }
        };
        let started = reactor.spawn(started);
        let server = world.run(Duration::from_secs(1), started).unwrap().unwrap();
        Self {
            client: client.reactor().clone(),
            world,
            reactor,
            server: Rc::new(server),
            device,
            address,
            opening,
            opened,
        }
    }

    /// Runs a test's client to its end, within a bound of virtual time.
    pub fn run<T: 'static, F>(&self, seconds: u64, client: impl FnOnce(Reactor, Address) -> F) -> T
    where
        F: Future<Output = T> + 'static,
    {
        let task = self
            .client
            .spawn(client(self.client.clone(), self.address.clone()));
        let limit = Duration::from_secs(seconds);
        self.world
            .run(limit, task)
            .expect("the client ends in time")
    }
}

/// A client's end of a connection.
#[derive(Clone)]
pub struct Peer {
    pub reactor: Reactor,
    pub stream: Stream,
    held: Rc<std::cell::RefCell<Vec<u8>>>,
}

impl Peer {
    pub async fn connect(reactor: &Reactor, address: &Address) -> Self {
        let stream = reactor.connect(address).await.expect("server accepts");
        Self {
            reactor: reactor.clone(),
            stream,
            held: Rc::default(),
        }
    }

    pub async fn try_send(&self, bytes: &[u8]) -> Result<(), NetError> {
        let mut buffer = self.reactor.buffer(bytes.len());
        buffer.copy_from_slice(bytes);
        self.stream.send(vec![buffer.freeze()]).await
    }

    pub async fn send(&self, bytes: &[u8]) {
        self.try_send(bytes).await.expect("server takes it");
    }

    /// The next `len` bytes; fewer where the stream ends.
    pub async fn receive_up_to(&self, len: usize) -> Vec<u8> {
        while self.held.borrow().len() < len {
            let buffer = self.reactor.buffer(64 << 10);
            let (buffer, received) = self.stream.recv(buffer).await;
            match received {
                Ok(0) | Err(_) => break,
                Ok(received) => self.held.borrow_mut().extend(&buffer[..received]),
            }
        }
        let mut held = self.held.borrow_mut();
        let len = len.min(held.len());
        held.drain(..len).collect()
    }

    pub async fn receive(&self, len: usize) -> Vec<u8> {
        let bytes = self.receive_up_to(len).await;
        assert_eq!(bytes.len(), len, "the server closed the connection");
        bytes
    }

    pub async fn is_closed(&self) -> bool {
        self.receive_up_to(1).await.is_empty()
    }

    pub async fn u16(&self) -> u16 {
        u16::from_be_bytes(self.receive(2).await.try_into().unwrap())
    }

    pub async fn u32(&self) -> u32 {
        u32::from_be_bytes(self.receive(4).await.try_into().unwrap())
    }

    pub async fn u64(&self) -> u64 {
        u64::from_be_bytes(self.receive(8).await.try_into().unwrap())
    }

    /// The greeting, answered with `flags`.
    pub async fn greet(&self, flags: u32) {
        assert_eq!(self.u64().await, 0x4e42_444d_4147_4943);
        assert_eq!(self.u64().await, IHAVEOPT);
        assert_eq!(self.u16().await, 3);
        self.send(&flags.to_be_bytes()).await;
    }

    pub async fn send_option(&self, option: u32, data: &[u8]) {
        let mut bytes = IHAVEOPT.to_be_bytes().to_vec();
        bytes.extend(option.to_be_bytes());
        bytes.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
        bytes.extend(data);
        self.send(&bytes).await;
    }

    pub async fn option_reply(&self, option: u32) -> (u32, Vec<u8>) {
        assert_eq!(self.u64().await, 0x0003_e889_0455_65a9);
        assert_eq!(self.u32().await, option);
        let kind = self.u32().await;
        let len = self.u32().await as usize;
        (kind, self.receive(len).await)
    }

    /// Sends an option and gives all replies to it.
    pub async fn option(&self, option: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
        self.send_option(option, data).await;
        let mut replies = Vec::new();
        loop {
            let (kind, data) = self.option_reply(option).await;
            replies.push((kind, data));
            if kind == 1 || kind >= 1 << 31 {
                return replies;
            }
        }
    }

    /// The kind of the last reply to an option.
    pub async fn outcome(&self, option: u32, data: &[u8]) -> u32 {
        self.option(option, data).await.pop().unwrap().0
    }

    /// A connection in transmission: 0 simple, 1 structured, 2 extended.
    pub async fn ready(reactor: &Reactor, address: &Address, export: &str, dialect: u8) -> Self {
        let peer = Self::connect(reactor, address).await;
        peer.greet(3).await;
        match dialect {
            0 => {}
            1 => assert_eq!(peer.outcome(8, &[]).await, 1),
            _ => assert_eq!(peer.outcome(11, &[]).await, 1),
        }
        if dialect > 0 {
            let replies = peer.option(10, &meta(export, &["base:allocation"])).await;
            assert_eq!(replies.len(), 2);
        }
        assert_eq!(peer.outcome(7, &info(export, &[3])).await, 1);
        peer
    }

    /// Sends a compact request.
    pub async fn request(&self, flags: u16, command: u16, cookie: u64, offset: u64, len: u32) {
        self.send(&request(flags, command, cookie, offset, len))
            .await;
    }

    /// A simple reply: cookie and error.
    pub async fn simple(&self) -> (u64, u32) {
        assert_eq!(self.u32().await, 0x6744_6698);
        let error = self.u32().await;
        (self.u64().await, error)
    }

    /// A structured chunk: flags, type, cookie, payload.
    pub async fn chunk(&self) -> (u16, u16, u64, Vec<u8>) {
        assert_eq!(self.u32().await, 0x668e_33ef);
        let (flags, kind) = (self.u16().await, self.u16().await);
        let cookie = self.u64().await;
        let len = self.u32().await as usize;
        (flags, kind, cookie, self.receive(len).await)
    }

    /// An extended chunk: flags, type, cookie, offset, payload.
    pub async fn extended_chunk(&self) -> (u16, u16, u64, u64, Vec<u8>) {
        assert_eq!(self.u32().await, 0x6e8a_278c);
        let (flags, kind) = (self.u16().await, self.u16().await);
        let (cookie, offset) = (self.u64().await, self.u64().await);
        let len = usize::try_from(self.u64().await).unwrap();
        (flags, kind, cookie, offset, self.receive(len).await)
    }

    /// Writes and waits for the reply; gives the error.
    pub async fn write(&self, offset: u64, data: &[u8]) -> u32 {
        let len = u32::try_from(data.len()).unwrap();
        let mut bytes = request(0, 1, 77, offset, len);
        bytes.extend(data);
        self.send(&bytes).await;
        let (cookie, error) = self.simple().await;
        assert_eq!(cookie, 77);
        error
    }

    /// Reads in the simple dialect.
    pub async fn read(&self, offset: u64, len: u32) -> Result<Vec<u8>, u32> {
        self.request(0, 0, 78, offset, len).await;
        match self.simple().await {
            (78, 0) => Ok(self.receive(len as usize).await),
            (78, error) => Err(error),
            (cookie, _) => panic!("reply to {cookie}"),
        }
    }
}

pub fn request(flags: u16, command: u16, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    let mut bytes = 0x2560_9513u32.to_be_bytes().to_vec();
    bytes.extend(flags.to_be_bytes());
    bytes.extend(command.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    bytes.extend(len.to_be_bytes());
    bytes
}

pub fn extended_request(flags: u16, command: u16, cookie: u64, offset: u64, len: u64) -> Vec<u8> {
    let mut bytes = 0x21e4_1c71u32.to_be_bytes().to_vec();
    bytes.extend(flags.to_be_bytes());
    bytes.extend(command.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    bytes.extend(len.to_be_bytes());
    bytes
}

/// The data of `NBD_OPT_INFO` and `NBD_OPT_GO`.
pub fn info(name: &str, requests: &[u16]) -> Vec<u8> {
    let mut data = u32::try_from(name.len()).unwrap().to_be_bytes().to_vec();
    data.extend(name.as_bytes());
    data.extend(u16::try_from(requests.len()).unwrap().to_be_bytes());
    for request in requests {
        data.extend(request.to_be_bytes());
    }
    data
}

/// The data of the options about metadata contexts.
pub fn meta(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = u32::try_from(name.len()).unwrap().to_be_bytes().to_vec();
    data.extend(name.as_bytes());
    data.extend(u32::try_from(queries.len()).unwrap().to_be_bytes());
    for query in queries {
        data.extend(u32::try_from(query.len()).unwrap().to_be_bytes());
        data.extend(query.as_bytes());
    }
    data
}
