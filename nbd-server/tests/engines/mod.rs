//! A server of a device in memory, on each engine of this machine.

#![allow(
    clippy::unwrap_used,
    reason = "a test that meets the unexpected has failed"
)]

use ashlar_client::MemoryDevice;
use ashlar_nbd_server::{ExportCatalog, ExportInfo, NbdOptions, NbdServer, OpenError, Tls};
use ashlar_proto::Address;
use ashlar_reactor::channel::remote;
use ashlar_reactor::{Engine, RuntimeOptions, StartError, run};
use std::rc::Rc;
use std::time::Duration;

/// The size of the one export, `secret`.
pub const SIZE: u64 = 64 << 20;

struct Catalog(MemoryDevice);

impl ExportCatalog for Catalog {
    type Device = MemoryDevice;

    async fn list(&self) -> Result<Vec<ExportInfo>, OpenError> {
        Ok(vec![ExportInfo::new("secret", SIZE)])
    }

    async fn open(&self, _name: &str) -> Result<MemoryDevice, OpenError> {
        Ok(self.0.clone())
    }
}

/// Runs `client` on a thread of its own against a server on each engine that this machine has.
pub fn on_each_engine(tls: &Tls, client: impl Fn(u16) + Send + Clone + 'static) {
    for engine in [Engine::IoUring, Engine::Aio] {
        let (tls, client) = (tls.clone(), client.clone());
        let ran = run(RuntimeOptions::new(engine), |reactor| async move {
            let catalog = Rc::new(Catalog(MemoryDevice::new(&reactor, SIZE)));
            let options = NbdOptions {
                tls,
                ..NbdOptions::default()
            };
            let address = "127.0.0.1:0".parse().unwrap();
            let served = NbdServer::serve(&reactor, &address, catalog, options).await;
            let server = served.unwrap();
            let Address::Tcp(bound) = server.local_address() else {
                panic!("it listens at a port");
            };
            let (ended, end) = remote::bounded::<()>(1);
            let thread = std::thread::spawn(move || {
                let _ended = ended;
                client(bound.port());
            });
            let _ = reactor.timeout(Duration::from_secs(60), end.recv()).await;
            server.stop().await;
            assert!(thread.join().is_ok(), "the client failed on {engine}");
        });
        match ran {
            Err(StartError::IoUring { error }) => eprintln!("no io_uring here: {error}"),
            ran => ran.unwrap(),
        }
    }
}
