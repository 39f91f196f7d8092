//! A server in a simulated world over devices that take their time.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(
    clippy::unwrap_used,
    reason = "a test that meets the unexpected has failed"
)]

pub mod device;
pub mod initiator;

use ashlar_client::Geometry;
use ashlar_iscsi_server::{
    Access, Authentication, CatalogError, ChapSecret, IscsiOptions, IscsiServer, Registrations,
    Reservations, ReservationsError, TargetCatalog, TargetInfo, UnitInfo,
};
use ashlar_proto::Address;
use ashlar_reactor::Reactor;
use ashlar_reactor::sim::World;
use device::SlowDevice;
pub use initiator::{Initiator, Login};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

pub const MIB: u64 = 1 << 20;
pub const MILLI: Duration = Duration::from_millis(1);

/// The targets that there are.
pub const DISK: &str = "iqn.2026-01.test:disk";
pub const SECRET: &str = "iqn.2026-01.test:secret";
pub const DENIED: &str = "iqn.2026-01.test:denied";
pub const ALICE: &str = "a secret of alice";
pub const TARGET: &str = "a secret of target";

/// Whether targets can be told, and how many there are beside the first three.
pub struct Catalog {
    pub device: SlowDevice,
    pub more: Cell<usize>,
    pub available: Cell<bool>,
    /// What discovery asks for.
    pub discovery: RefCell<Authentication>,
    /// Whether sessions with targets are of use.
    pub ready: Cell<bool>,
    /// `DISK` is not among the targets any more.
    pub withdrawn: Cell<bool>,
    reservations: RefCell<HashMap<u128, Reservations>>,
}

/// What alice has to know, and is shown.
pub fn secrets() -> Authentication {
    let secret = |name: &str, secret: &str| ChapSecret {
        name: name.into(),
        secret: secret.into(),
    };
    Authentication {
        initiator: vec![secret("alice", ALICE)],
        target: Some(secret("target", TARGET)),
    }
}

impl Catalog {
    fn target(name: &str, access: Access) -> TargetInfo {
        let unit = |lun, id| UnitInfo {
            lun,
            volume: "disk".into(),
            id,
            read_only: false,
        };
        TargetInfo {
            name: name.into(),
            alias: None,
            access,
            units: vec![unit(0, 1), unit(1, 2)],
        }
    }
}

impl TargetCatalog for Catalog {
    type Device = SlowDevice;

    async fn discovery(&self, _initiator: &str) -> Result<Access, CatalogError> {
        Ok(Access::Granted(self.discovery.borrow().clone()))
    }

    async fn ready(&self, _target: &TargetInfo) -> Result<(), CatalogError> {
        let is_ready = self.ready.get();
        is_ready.then_some(()).ok_or(CatalogError::Unavailable)
    }

    async fn targets(&self, _initiator: &str) -> Result<Vec<TargetInfo>, CatalogError> {
        if !self.available.get() {
            return Err(CatalogError::Unavailable);
        }
        let open = || Access::Granted(Authentication::default());
        let mut targets = vec![
            Self::target(DISK, open()),
            Self::target(SECRET, Access::Granted(secrets())),
            Self::target(DENIED, Access::Denied),
        ];
        if self.withdrawn.get() {
            targets.remove(0);
        }
        for number in 0..self.more.get() {
            targets.push(Self::target(
                &format!("iqn.2026-01.test:more-{number:04}"),
                open(),
            ));
        }
        Ok(targets)
    }

    async fn open(&self, _volume: &str) -> Result<SlowDevice, CatalogError> {
        Ok(self.device.clone())
    }

    async fn reservations(&self, id: u128) -> Result<Reservations, ReservationsError> {
        Ok(self
            .reservations
            .borrow()
            .get(&id)
            .cloned()
            .unwrap_or_default())
    }

    async fn replace_reservations(
        &self,
        id: u128,
        seen: u64,
        value: &Registrations,
    ) -> Result<u64, ReservationsError> {
        let mut all = self.reservations.borrow_mut();
        let kept = all.entry(id).or_default();
        if kept.version != seen {
            return Err(ReservationsError::Conflict);
        }
        kept.version += 1;
        kept.value = value.clone();
        Ok(kept.version)
    }
}

/// A server in a world, at two portals; every unit is the same device of 16 MiB.
pub struct Bench {
    pub world: World,
    pub client: Reactor,
    pub reactor: Reactor,
    pub server: Rc<IscsiServer>,
    pub catalog: Rc<Catalog>,
    pub portals: Vec<Address>,
}

impl Bench {
    pub fn new(seed: u64) -> Self {
        Self::with(seed, IscsiOptions::default())
    }

    pub fn with(seed: u64, options: IscsiOptions) -> Self {
        let world = World::new(seed);
        let process = world.process("server", "10.0.0.1".parse().unwrap());
        let reactor = process.reactor().clone();
        let client = world.process("client", "10.0.0.2".parse().unwrap());
        let geometry = Geometry {
            size_bytes: 16 * MIB,
            block_bytes_min: 512,
            block_bytes_preferred: 4096,
            request_bytes_max: 32 << 20,
            read_only: false,
        };
        let catalog = Rc::new(Catalog {
            device: SlowDevice::new(&reactor, geometry),
            more: Cell::new(0),
            available: Cell::new(true),
            discovery: RefCell::default(),
            ready: Cell::new(true),
            withdrawn: Cell::new(false),
            reservations: RefCell::default(),
        });
        let portals: Vec<Address> = vec![
            "10.0.0.1:3260".parse().unwrap(),
            "10.0.0.1:3261".parse().unwrap(),
        ];
        let started = {
            let (reactor, portals, catalog) = (reactor.clone(), portals.clone(), catalog.clone());
            async move { IscsiServer::serve(&reactor, &portals, catalog, options).await }
        };
        let started = reactor.spawn(started);
        let server = world.run(Duration::from_secs(1), started).unwrap().unwrap();
        Self {
            client: client.reactor().clone(),
            world,
            reactor,
            server: Rc::new(server),
            catalog,
            portals,
        }
    }

    pub fn device(&self) -> SlowDevice {
        self.catalog.device.clone()
    }

    /// Runs a test's client to its end, within a bound of virtual time.
    pub fn run<T: 'static, F>(&self, seconds: u64, client: impl FnOnce(Client) -> F) -> T
    where
        F: Future<Output = T> + 'static,
    {
        let task = self.client.spawn(client(Client {
            reactor: self.client.clone(),
            portals: self.portals.clone(),
        }));
        let limit = Duration::from_secs(seconds);
        self.world
            .run(limit, task)
            .expect("the client ends in time")
    }
}

/// Where a test's client runs, and what it may connect to.
#[derive(Clone)]
pub struct Client {
    pub reactor: Reactor,
    pub portals: Vec<Address>,
}

impl Client {
    /// A connection that has said nothing.
    pub async fn connect(&self) -> Initiator {
        Initiator::connect(&self.reactor, &self.portals[0]).await
    }

    /// One through the other portal.
    pub async fn connect_elsewhere(&self) -> Initiator {
        Initiator::connect(&self.reactor, &self.portals[1]).await
    }

    /// A normal session with `keys` negotiated, whose unit 0 is ready.
    pub async fn session(&self, keys: &[(&str, &str)]) -> Initiator {
        let initiator = self.connect().await;
        initiator
            .log_in(&Login::normal(DISK).with(keys))
            .await
            .unwrap();
        initiator.make_ready().await;
        initiator
    }

    /// Another initiator port's.
    pub async fn session_of(&self, port: u8, keys: &[(&str, &str)]) -> Initiator {
        let initiator = self.connect().await;
        let login = Login::normal(DISK).with(keys).isid(port);
        initiator.log_in(&login).await.unwrap();
        initiator.make_ready().await;
        initiator
    }
}
