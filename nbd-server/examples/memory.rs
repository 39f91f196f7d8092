//! Serves devices in memory over NBD: to try clients on, and to measure the front end alone.
//!
//! ```text
//! memory [--listen ADDRESS] [--size MIB] [--engine io_uring|aio] [--tls allow|require --cert F --key F]
//! ```
//!
//! Exports: `memory` (given size), `small` (1 MiB) and `read-only` (1 MiB). It serves until its
//! standard input ends.

use ashlar_client::{Geometry, MemoryDevice};
use ashlar_nbd_server::{
    ExportCatalog, ExportInfo, NbdOptions, NbdServer, OpenError, Tls, tls_config,
};
use ashlar_proto::Address;
use ashlar_reactor::channel::remote;
use ashlar_reactor::{Engine, Reactor, RuntimeOptions, probe_engine, run};
use std::error::Error;
use std::io::Read;
use std::rc::Rc;

const MIB: u64 = 1 << 20;

struct Arguments {
    listen: Address,
    size_bytes: u64,
    engine: Option<Engine>,
    tls: Tls,
}

fn arguments() -> Result<Arguments, Box<dyn Error>> {
    let mut arguments = Arguments {
        listen: "127.0.0.1:10809".parse()?,
        size_bytes: 1024 * MIB,
        engine: None,
        tls: Tls::Off,
    };
    let (mut tls, mut cert, mut key) = (None, None, None);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().ok_or("each flag takes a value")?;
        match word.as_str() {
            "--listen" => arguments.listen = value.parse()?,
            "--size" => arguments.size_bytes = value.parse::<u64>()? * MIB,
            "--engine" => arguments.engine = Some(value.parse()?),
            "--tls" => tls = Some(value),
            "--cert" => cert = Some(std::fs::read(value)?),
            "--key" => key = Some(std::fs::read(value)?),
            _ => return Err(format!("no such flag: {word}").into()),
        }
    }
    if let (Some(tls), Some(cert), Some(key)) = (tls, cert, key) {
        let config = tls_config(&cert, &key, None)?;
        arguments.tls = match tls.as_str() {
            "require" => Tls::Require(config.into()),
            _ => Tls::Allow(config.into()),
        };
    }
    Ok(arguments)
}

struct Catalog {
    exports: Vec<(ExportInfo, MemoryDevice)>,
}

impl Catalog {
    fn new(reactor: &Reactor, size_bytes: u64) -> Self {
        let export = |name: &str, size_bytes, read_only| {
            let mut info = ExportInfo::new(name, size_bytes);
            info.description = Some(format!("{size_bytes} bytes of memory"));
            info.geometry = Geometry {
                read_only,
                ..info.geometry
            };
            let device = MemoryDevice::with_geometry(reactor, info.geometry);
            (info, device)
        };
        Self {
            exports: vec![
                export("memory", size_bytes, false),
                export("small", MIB, false),
                export("read-only", MIB, true),
            ],
        }
    }
}

impl ExportCatalog for Catalog {
    type Device = MemoryDevice;

    async fn list(&self) -> Result<Vec<ExportInfo>, OpenError> {
        Ok(self.exports.iter().map(|(info, _)| info.clone()).collect())
    }

    async fn open(&self, name: &str) -> Result<MemoryDevice, OpenError> {
        let mut exports = self.exports.iter();
        let found = exports.find(|(info, _)| info.name == name);
        Ok(found.ok_or(OpenError::Unknown)?.1.clone())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = arguments()?;
    let (engine, warning) = probe_engine(arguments.engine);
    if let Some(warning) = warning {
        eprintln!("{warning}");
    }
    run(RuntimeOptions::new(engine), |reactor| async move {
        let catalog = Rc::new(Catalog::new(&reactor, arguments.size_bytes));
        let options = NbdOptions {
            tls: arguments.tls,
            ..NbdOptions::default()
        };
        let server = NbdServer::serve(&reactor, &arguments.listen, catalog, options).await?;
        println!("serving at {} by {engine}", server.local_address());
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
