//! Where the tests run: a reactor, a disk, addresses to listen at, over one driver.

use ashlar_proto::Address;
use ashlar_reactor::sim::{DiskSpec, World};
use ashlar_reactor::{Engine, Reactor, RuntimeOptions, probe_engine, run};
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

/// Size of the lab's disk in bytes.
pub const DISK_BYTES: u64 = 16 << 20;

/// Longest that a test may take.
const LIMIT: Duration = Duration::from_secs(60);

/// What a test works with.
pub struct Lab {
    pub reactor: Reactor,
    /// A disk of [`DISK_BYTES`] zeroes.
    pub disk: PathBuf,
    /// A TCP address to listen at, port 0.
    pub tcp: Address,
    /// A Unix address to listen at; nothing is there yet.
    pub unix: Address,
    /// Nobody listens there.
    pub refused: Address,
    /// Time is virtual: nothing waits for real.
    pub is_simulated: bool,
}

impl Lab {
    /// A second connection point: a listener and both ends of a connection to it.
    pub async fn pair(
        &self,
        address: &Address,
    ) -> (ashlar_reactor::Stream, ashlar_reactor::Stream) {
        let listener = self.reactor.listen(address).await.expect("listens");
        let target = listener.local_address();
        let reactor = self.reactor.clone();
        let connecting = self
            .reactor
            .spawn(async move { reactor.connect(&target).await.expect("connects") });
        let server = listener.accept().await.expect("accepts");
        (connecting.await, server)
    }
}

/// Runs `test` on io_uring, if that is permitted here.
pub fn on_uring<F: Future<Output = ()>>(test: impl FnOnce(Lab) -> F) {
    match probe_engine(None) {
        (Engine::IoUring, _) => on_engine(Engine::IoUring, test),
        (Engine::Aio, warning) => eprintln!("skipped: {}", warning.unwrap_or_default()),
    }
}

/// Runs `test` on Linux AIO and epoll.
pub fn on_aio<F: Future<Output = ()>>(test: impl FnOnce(Lab) -> F) {
    on_engine(Engine::Aio, test);
}

fn on_engine<F: Future<Output = ()>>(engine: Engine, test: impl FnOnce(Lab) -> F) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("directory");
    let disk = directory.path().join("disk");
    let file = File::create(&disk).expect("disk file");
    file.set_len(DISK_BYTES).expect("disk size");
    drop(file);
    let unix = Address::Unix(directory.path().join("socket"));
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    run(RuntimeOptions::new(engine), |reactor| async move {
        let lab = Lab {
            reactor: reactor.clone(),
            disk,
            tcp: Address::Tcp((loopback, 0).into()),
            unix,
            refused: Address::Tcp((loopback, 1).into()),
            is_simulated: false,
        };
        let result = reactor.timeout(LIMIT, test(lab)).await;
        assert!(result.is_ok(), "test took longer than {LIMIT:?}");
    })
    .expect("engine starts");
}

/// Runs `test` under the simulator, with several seeds.
pub fn on_sim<F: Future<Output = ()> + 'static>(test: impl Fn(Lab) -> F) {
    for seed in 1..=5 {
        let world = World::new(seed);
        let host = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
        let disk = PathBuf::from("/disk");
        let _disk = world.add_disk(host, &disk, DiskSpec::new(DISK_BYTES));
        let process = world.process("lab", host);
        let lab = Lab {
            reactor: process.reactor().clone(),
            disk,
            tcp: Address::Tcp((host, 0).into()),
            unix: Address::Unix("/socket".into()),
            refused: Address::Tcp((host, 1).into()),
            is_simulated: true,
        };
        let task = process.reactor().spawn(test(lab));
        world.run(LIMIT, task).expect("test ends in time");
    }
}

/// Makes tests of async functions over a [`Lab`], one under each driver.
macro_rules! suite {
    ($($name:ident),* $(,)?) => {
        suite!(@drivers uring on_uring, aio on_aio, sim on_sim; ($($name),*));
    };
    (real: $($name:ident),* $(,)?) => {
        suite!(@drivers real_uring on_uring, real_aio on_aio; ($($name),*));
    };
    (@drivers $($driver:ident $runner:ident),*; $names:tt) => {
        $(suite!(@driver $driver $runner $names);)*
    };
    (@driver $driver:ident $runner:ident ($($name:ident),*)) => {
        mod $driver {
            $(
                #[test]
                fn $name() {
                    crate::conformance::lab::$runner(super::$name);
                }
            )*
        }
    };
}
pub(crate) use suite;
