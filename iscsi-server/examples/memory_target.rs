//! Serves devices in memory over iSCSI: to try initiators on, and to measure the front end alone.
//!
//! ```text
//! memory [--listen ADDRESS] [--size MIB] [--engine io_uring|aio] [--chap NAME:SECRET]
//!        [--mutual NAME:SECRET] [--portal HOST:PORT]
//! ```
//!
//! Targets: `iqn.2026-01.io.ashlar:memory` with unit 0 (given size) and unit 1 (1 MiB), and
//! `iqn.2026-01.io.ashlar:read-only`. With `--chap` they ask for that secret, and with `--mutual`
//! show the other. It serves until its standard input ends.

use ashlar_client::{Geometry, MemoryDevice};
use ashlar_iscsi_server::{
    Access, Authentication, CatalogError, ChapSecret, IscsiOptions, IscsiServer, Portal,
    Registrations, Reservations, ReservationsError, TargetCatalog, TargetInfo, UnitInfo,
};
use ashlar_proto::Address;
use ashlar_reactor::channel::remote;
use ashlar_reactor::{Engine, Reactor, RuntimeOptions, probe_engine, run};
use std::cell::RefCell;
use std::collections::HashMap;
use std::error::Error;
use std::io::Read;
use std::rc::Rc;

const MIB: u64 = 1 << 20;

struct Arguments {
    listen: Address,
    size_bytes: u64,
    engine: Option<Engine>,
    secrets: Authentication,
    options: IscsiOptions,
}

fn secret(text: &str) -> Result<ChapSecret, Box<dyn Error>> {
    let (name, secret) = text.split_once(':').ok_or("give NAME:SECRET")?;
    Ok(ChapSecret {
        name: name.into(),
        secret: secret.into(),
    })
}

fn arguments() -> Result<Arguments, Box<dyn Error>> {
    let mut arguments = Arguments {
        listen: "127.0.0.1:3260".parse()?,
        size_bytes: 1024 * MIB,
        engine: None,
        secrets: Authentication::default(),
        options: IscsiOptions::default(),
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().ok_or("each flag takes a value")?;
        match word.as_str() {
            "--listen" => arguments.listen = value.parse()?,
            "--size" => arguments.size_bytes = value.parse::<u64>()? * MIB,
            "--engine" => arguments.engine = Some(value.parse()?),
            "--chap" => arguments.secrets.initiator.push(secret(&value)?),
            "--mutual" => arguments.secrets.target = Some(secret(&value)?),
            "--portal" => arguments.options.portals.push(Portal {
                address: value,
                group: 1,
            }),
            _ => return Err(format!("no such flag: {word}").into()),
        }
    }
    Ok(arguments)
}

struct Catalog {
    targets: Vec<TargetInfo>,
    devices: HashMap<String, MemoryDevice>,
    reservations: RefCell<HashMap<u128, Reservations>>,
}

impl Catalog {
    fn new(reactor: &Reactor, size_bytes: u64, secrets: &Authentication) -> Self {
        let mut devices = HashMap::new();
        let mut unit = |lun, volume: &str, size_bytes, read_only| {
            let geometry = Geometry {
                size_bytes,
                block_bytes_min: 512,
                block_bytes_preferred: 4096,
                request_bytes_max: 32 << 20,
                read_only,
            };
            let device = MemoryDevice::with_geometry(reactor, geometry);
            devices.insert(volume.to_owned(), device);
            UnitInfo {
                lun,
                volume: volume.into(),
                id: 0x00a5_8a50_0000_0000_0000_0000_0000_0000 + devices.len() as u128,
                read_only,
            }
        };
        let target = |name: &str, units| TargetInfo {
            name: format!("iqn.2026-01.io.ashlar:{name}"),
            alias: Some(name.into()),
            access: Access::Granted(secrets.clone()),
            units,
        };
        let memory = vec![
            unit(0, "memory", size_bytes, false),
            unit(1, "small", MIB, false),
        ];
        let read_only = vec![unit(0, "read-only", MIB, true)];
        Self {
            targets: vec![target("memory", memory), target("read-only", read_only)],
            devices,
            reservations: RefCell::default(),
        }
    }
}

impl TargetCatalog for Catalog {
    type Device = MemoryDevice;

    async fn discovery(&self, _initiator: &str) -> Result<Access, CatalogError> {
        Ok(Access::Granted(Authentication::default()))
    }

    async fn targets(&self, _initiator: &str) -> Result<Vec<TargetInfo>, CatalogError> {
        Ok(self.targets.clone())
    }

    async fn open(&self, volume: &str) -> Result<MemoryDevice, CatalogError> {
        self.devices
            .get(volume)
            .cloned()
            .ok_or(CatalogError::Unknown)
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

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = arguments()?;
    let (engine, warning) = probe_engine(arguments.engine);
    if let Some(warning) = warning {
        eprintln!("{warning}");
    }
    run(RuntimeOptions::new(engine), |reactor| async move {
        let catalog = Catalog::new(&reactor, arguments.size_bytes, &arguments.secrets);
        let addresses = [arguments.listen];
        let server = IscsiServer::serve(&reactor, &addresses, Rc::new(catalog), arguments.options);
        let server = server.await?;
        for address in server.local_addresses() {
            println!("serving at {address} by {engine}");
        }
        let (ended, end) = remote::bounded::<()>(1);
        std::thread::spawn(move || {
            let mut rest = Vec::new();
            let _ = std::io::stdin().read_to_end(&mut rest);
            drop(ended);
        });
        let _ = end.recv().await;
        server.stop().await;
        Ok(())
    })?
}
