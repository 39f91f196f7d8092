//! A target with three units, and hosts that send it CDBs.

use crate::catalog::{
    Access, Authentication, CatalogError, Reservations, ReservationsError, TargetCatalog,
    TargetInfo, UnitInfo, Versioned,
};
use crate::scsi::reservations::Registrations;
use crate::scsi::{Nexus, NexusId, Status, Target};
use crate::standing::{Mark, Standing, Taking};
use ashlar_client::{BlockDevice, BlockError, Durability, Geometry, MemoryDevice, ZeroMode};
use ashlar_proto::message::Extent;
use ashlar_reactor::channel::Notify;
use ashlar_reactor::sim::World;
use ashlar_reactor::{Buffer, Reactor, SharedBuffer};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

pub(super) const MIB: u64 = 1 << 20;
/// Blocks of the first unit.
pub(super) const BLOCKS: u64 = 16 * MIB / 512;

/// A device in memory that takes its time, fails when told to, and may grow.
#[derive(Clone)]
pub(super) struct Device {
    inner: MemoryDevice,
    reactor: Reactor,
    pub(super) fault: Rc<Cell<Option<BlockError>>>,
    pub(super) size_bytes: Rc<Cell<u64>>,
    pub(super) delay: Rc<Cell<Duration>>,
    pub(super) read_only: bool,
}

impl Device {
    fn new(reactor: &Reactor, size_bytes: u64, read_only: bool) -> Self {
        Self {
            inner: MemoryDevice::new(reactor, 4 * size_bytes),
            reactor: reactor.clone(),
            fault: Rc::default(),
            size_bytes: Rc::new(Cell::new(size_bytes)),
            delay: Rc::default(),
            read_only,
        }
    }

    pub(super) fn flushes(&self) -> u64 {
        self.inner.flushes()
    }

    async fn take_time(&self) -> Result<(), BlockError> {
        if !self.delay.get().is_zero() {
            let nanos = u64::try_from(self.delay.get().as_nanos()).unwrap();
            let delay = Duration::from_nanos(self.reactor.random_u64() % nanos);
            self.reactor.sleep(delay).await;
        }
        self.fault.get().map_or(Ok(()), Err)
    }
}

impl BlockDevice for Device {
    fn geometry(&self) -> Geometry {
        Geometry {
            size_bytes: self.size_bytes.get(),
            read_only: self.read_only,
            ..self.inner.geometry()
        }
    }

    async fn read(&self, offset: u64, len: u32) -> Result<Vec<SharedBuffer>, BlockError> {
        self.take_time().await?;
        let whole = self.inner.read(offset, len).await?;
        // In two pieces, as a volume gives what lies in two shards.
        let [whole] = &whole[..] else {
            return Ok(whole);
        };
        let cut = whole.len() / 2;
        Ok(vec![whole.slice(..cut), whole.slice(cut..)])
    }

    async fn write(&self, at: u64, data: Buffer, to: Durability) -> Result<(), BlockError> {
        self.take_time().await?;
        self.inner.write(at, data, to).await
    }

    async fn write_zeroes(
        &self,
        offset: u64,
        len: u64,
        mode: ZeroMode,
        durability: Durability,
    ) -> Result<(), BlockError> {
        self.take_time().await?;
        self.inner.write_zeroes(offset, len, mode, durability).await
    }

    async fn trim(&self, offset: u64, len: u64, to: Durability) -> Result<(), BlockError> {
        self.take_time().await?;
        self.inner.trim(offset, len, to).await
    }

    async fn flush(&self) -> Result<(), BlockError> {
        self.take_time().await?;
        self.inner.flush().await
    }

    async fn extents(&self, at: u64, len: u64, most: usize) -> Result<Vec<Extent>, BlockError> {
        self.take_time().await?;
        self.inner.extents(at, len, most).await
    }
}

/// Devices by volume, and reservations by unit.
pub(super) struct Catalog {
    pub(super) devices: BTreeMap<String, Device>,
    pub(super) kept: RefCell<BTreeMap<u128, Reservations>>,
    pub(super) opened: Cell<usize>,
    /// How many changes of reservations still meet somebody else's.
    pub(super) conflicts: Cell<usize>,
    pub(super) unreachable: Cell<bool>,
    /// How every unit stands; told when it changes.
    pub(super) standing: RefCell<Standing>,
    pub(super) changed: Notify,
    /// What was taken from others, and who was asked for it.
    pub(super) taken: RefCell<Vec<Taking>>,
    pub(super) asked: Cell<usize>,
    /// Whether another server goes by the reservations that it is asked about.
    pub(super) confirms: Cell<bool>,
    /// The versions that were gone by here.
    pub(super) confirmed: RefCell<Vec<(u64, u64)>>,
    pub(super) generation: Cell<u64>,
    /// Whether nobody is told of reservations for now.
    pub(super) holds_back: Cell<bool>,
}

impl Catalog {
    /// From now on units stand so.
    pub(super) fn stand(&self, change: impl FnOnce(&mut Standing)) {
        let mut standing = self.standing.borrow_mut();
        standing.mark.unit += 1;
        change(&mut standing);
        self.changed.notify_all();
    }
}

impl TargetCatalog for Catalog {
    type Device = Device;

    async fn discovery(&self, _: &str) -> Result<Access, CatalogError> {
        Ok(Access::Granted(Authentication::default()))
    }

    async fn targets(&self, _: &str) -> Result<Vec<TargetInfo>, CatalogError> {
        Ok(Vec::new())
    }

    async fn open(&self, volume: &str) -> Result<Device, CatalogError> {
        self.opened.set(self.opened.get() + 1);
        let device = self.devices.get(volume).ok_or(CatalogError::Unknown)?;
        Ok(device.clone())
    }

    async fn standing(&self, _: &UnitInfo, after: Mark) -> Option<Standing> {
        while self.standing.borrow().mark == after {
            self.changed.notified().await;
        }
        Some(self.standing.borrow().clone())
    }

    async fn take(&self, volume: &str, from: Taking) -> Result<Device, CatalogError> {
        if from.generation != self.standing.borrow().generation {
            return Err(CatalogError::InUse);
        }
        self.taken.borrow_mut().push(from);
        self.open(volume).await
    }

    async fn ask_for(&self, _: &str, _: u64) {
        self.asked.set(self.asked.get() + 1);
    }

    fn generation(&self, _: &Device) -> u64 {
        self.generation.get()
    }

    async fn confirm_reservations(
        &self,
        _: &str,
        generation: u64,
        version: u64,
    ) -> Result<(), ReservationsError> {
        self.confirmed.borrow_mut().push((generation, version));
        Ok(())
    }

    async fn are_reservations_confirmed(&self, _: &str, _: u64) -> Result<bool, ReservationsError> {
        Ok(self.confirms.get())
    }

    async fn reservations(&self, id: u128) -> Result<Reservations, ReservationsError> {
        while self.holds_back.get() {
            self.changed.notified().await;
        }
        if self.unreachable.get() {
            return Err(ReservationsError::Unavailable);
        }
        Ok(self.kept.borrow().get(&id).cloned().unwrap_or_default())
    }

    async fn replace_reservations(
        &self,
        id: u128,
        seen: u64,
        value: &Registrations,
    ) -> Result<u64, ReservationsError> {
        if self.unreachable.get() {
            return Err(ReservationsError::Unavailable);
        }
        let mut kept = self.kept.borrow_mut();
        let held = kept.entry(id).or_default();
        if self.conflicts.get() > 0 {
            self.conflicts.set(self.conflicts.get() - 1);
            held.version += 1;
        }
        if held.version != seen {
            return Err(ReservationsError::Conflict);
        }
        let (version, value) = (seen + 1, value.clone());
        *held = Versioned { version, value };
        Ok(version)
    }
}

/// The world, and the target in it: `disk` (16 MiB), `other` (8 MiB), `locked` (1 MiB, read-only).
pub(super) struct Bench {
    world: World,
    pub(super) reactor: Reactor,
    pub(super) catalog: Rc<Catalog>,
    pub(super) target: Rc<Target<Catalog>>,
    hosts: Cell<u64>,
}

pub(super) fn unit(lun: u16, volume: &str, read_only: bool) -> UnitInfo {
    UnitInfo {
        lun,
        volume: volume.into(),
        id: 0x1000 + u128::from(lun),
        read_only,
    }
}

pub(super) fn units() -> Vec<UnitInfo> {
    vec![
        unit(0, "disk", false),
        unit(1, "other", false),
        unit(2, "locked", true),
    ]
}

impl Bench {
    pub(super) fn new(seed: u64) -> Self {
        let world = World::new(seed);
        let process = world.process("server", "10.0.0.1".parse().unwrap());
        let reactor = process.reactor().clone();
        let devices = [
            ("disk", 16, false),
            ("other", 8, false),
            ("locked", 1, true),
        ];
        let devices = devices.into_iter().map(|(name, size, read_only)| {
            let device = Device::new(&reactor, size * MIB, read_only);
            (name.to_owned(), device)
        });
        let catalog = Rc::new(Catalog {
            devices: devices.collect(),
            kept: RefCell::default(),
            opened: Cell::new(0),
            conflicts: Cell::new(0),
            unreachable: Cell::new(false),
            standing: RefCell::new(Standing::alone()),
            changed: Notify::new(),
            taken: RefCell::default(),
            asked: Cell::new(0),
            confirms: Cell::new(true),
            holds_back: Cell::new(false),
            confirmed: RefCell::default(),
            generation: Cell::new(1),
        });
        let target = Target::new(&reactor, Rc::clone(&catalog), "iqn.t", &units());
        Self {
            world,
            reactor,
            catalog,
            target,
            hosts: Cell::new(0),
        }
    }

    pub(super) fn device(&self, volume: &str) -> &Device {
        &self.catalog.devices[volume]
    }

    /// A new nexus, that has yet to be told so.
    pub(super) fn connect(&self) -> Host {
        let number = self.hosts.get() + 1;
        self.hosts.set(number);
        let nexus = Nexus {
            id: NexusId(number),
            initiator: format!("iqn.host{number}"),
            isid: [0x40, 0, 0, 0, 0, u8::try_from(number).unwrap()],
            target: "iqn.t".into(),
            portal_group: 1,
        };
        self.target.connect(&nexus);
        Host {
            target: Rc::clone(&self.target),
            reactor: self.reactor.clone(),
            nexus,
        }
    }

    /// Runs a test's hosts to their end.
    pub(super) fn run<T: 'static>(&self, hosts: impl Future<Output = T> + 'static) -> T {
        let task = self.reactor.spawn(hosts);
        let ran = self.world.run(Duration::from_secs(600), task);
        ran.expect("the hosts end in time")
    }
}

/// Runs `test` with one host that was told of its nexus.
pub(super) fn alone<F: Future<Output = ()> + 'static>(test: impl FnOnce(Host) -> F) {
    let bench = Bench::new(1);
    let host = bench.connect();
    let test = test(host.clone());
    bench.run(async move {
        host.ready().await;
        test.await;
    });
}

/// What came back.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Got {
    pub(super) status: Status,
    pub(super) sense: Vec<u8>,
    pub(super) data: Vec<u8>,
    pub(super) aborts: Vec<NexusId>,
}

impl Got {
    pub(super) fn good(self) -> Vec<u8> {
        assert_eq!(self.status, Status::Good, "sense {:02x?}", self.sense);
        assert!(self.sense.is_empty());
        self.data
    }

    /// Sense key, additional code and qualifier, of fixed format.
    pub(super) fn check(&self) -> (u8, u8, u8) {
        assert_eq!(self.status, Status::CheckCondition);
        assert_eq!(self.sense[0] & 0x7f, 0x70);
        assert!(self.data.is_empty());
        (self.sense[2], self.sense[12], self.sense[13])
    }

    pub(super) fn conflict(&self) {
        assert_eq!(self.status, Status::ReservationConflict);
        assert!(self.sense.is_empty() && self.data.is_empty());
    }

    /// The INFORMATION field.
    pub(super) fn information(&self) -> u32 {
        assert_eq!(self.sense[0] & 0x80, 0x80, "it is valid");
        u32::from_be_bytes(self.sense[3..7].try_into().unwrap())
    }
}

/// An initiator.
#[derive(Clone)]
pub(super) struct Host {
    pub(super) target: Rc<Target<Catalog>>,
    reactor: Reactor,
    pub(super) nexus: Nexus,
}

impl Host {
    pub(super) async fn send_to(&self, lun: u8, cdb: &[u8], data: &[u8]) -> Got {
        let mut lun_bytes = [0; 8];
        lun_bytes[1] = lun;
        let mut padded = [0; 16];
        padded[..cdb.len()].copy_from_slice(cdb);
        let mut planned = self.target.plan(lun_bytes, &padded);
        planned.offer(data.len() as u64);
        let takes = usize::try_from(planned.data_out_bytes).unwrap();
        let gives = planned.data_in_bytes;
        let data = &data[..data.len().min(takes)];
        let buffer = (!data.is_empty()).then(|| {
            let mut buffer = self.reactor.buffer(data.len());
            buffer.copy_from_slice(data);
            buffer
        });
        let outcome = self.target.execute(&self.nexus, planned, buffer).await;
        let pieces = outcome.data_in.iter().map(|piece| piece.to_vec());
        let data = pieces.collect::<Vec<_>>().concat();
        assert!(data.len() as u64 <= gives, "more than was planned");
        Got {
            status: outcome.status,
            sense: outcome.sense,
            data,
            aborts: outcome.aborts.nexuses,
        }
    }

    pub(super) async fn send(&self, cdb: &[u8], data: &[u8]) -> Got {
        self.send_to(0, cdb, data).await
    }

    /// Takes what each unit has to tell.
    pub(super) async fn ready(&self) {
        for lun in 0..3 {
            while self.send_to(lun, &[0; 6], &[]).await.status != Status::Good {}
        }
    }

    pub(super) async fn read(&self, lba: u64, blocks: u32) -> Got {
        self.send(&cdb16(0x88, 0, lba, blocks), &[]).await
    }

    pub(super) async fn write(&self, lba: u64, data: &[u8]) -> Got {
        let blocks = u32::try_from(data.len() / 512).unwrap();
        self.send(&cdb16(0x8a, 0, lba, blocks), data).await
    }
}

/// A CDB of 16 bytes with a logical block address and a length.
pub(super) fn cdb16(opcode: u8, flags: u8, lba: u64, blocks: u32) -> Vec<u8> {
    let mut cdb = vec![opcode, flags];
    cdb.extend(lba.to_be_bytes());
    cdb.extend(blocks.to_be_bytes());
    cdb.extend([0, 0]);
    cdb
}

/// A CDB of 12 bytes.
pub(super) fn cdb12(opcode: u8, flags: u8, lba: u32, blocks: u32) -> Vec<u8> {
    let mut cdb = vec![opcode, flags];
    cdb.extend(lba.to_be_bytes());
    cdb.extend(blocks.to_be_bytes());
    cdb.extend([0, 0]);
    cdb
}

/// A CDB of 10 bytes.
pub(super) fn cdb10(opcode: u8, flags: u8, lba: u32, blocks: u16) -> Vec<u8> {
    let mut cdb = vec![opcode, flags];
    cdb.extend(lba.to_be_bytes());
    cdb.push(0);
    cdb.extend(blocks.to_be_bytes());
    cdb.push(0);
    cdb
}

/// Bytes in which each place differs from its neighbours.
pub(super) fn pattern(len: usize) -> Vec<u8> {
    let bytes = (0..len).map(|at| u8::try_from((at * 7 + at / 251) % 256).unwrap());
    bytes.collect()
}

pub(super) const LBA_OUT_OF_RANGE: (u8, u8, u8) = (5, 0x21, 0);
pub(super) const INVALID_FIELD_IN_CDB: (u8, u8, u8) = (5, 0x24, 0);
pub(super) const INVALID_FIELD_IN_LIST: (u8, u8, u8) = (5, 0x26, 0);
pub(super) const LIST_LENGTH: (u8, u8, u8) = (5, 0x1a, 0);
