//! What the reactor itself costs: 4 KiB direct random writes to a file, and TCP round trips.
//!
//! `perf FILE [io_uring|aio] [SECONDS] [SPIN_MICROS]`; the file is made, 1 GiB, if it is not there. Compare
//! with `fio --rw=randwrite --bs=4k --direct=1 --ioengine=io_uring --iodepth=32`.

use ashlar_proto::Address;
use ashlar_reactor::{DiskOptions, Engine, Reactor, RuntimeOptions, SharedBuffer, Stream, run};
use nix::time::{ClockId, clock_gettime};
use std::cell::Cell;
use std::error::Error;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

const FILE_BYTES: u64 = 1 << 30;
const BLOCK: usize = 4096;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = PathBuf::from(arguments.next().ok_or("give a file to write to")?);
    let engine: Engine = arguments.next().as_deref().unwrap_or("io_uring").parse()?;
    let seconds: u64 = arguments.next().as_deref().unwrap_or("5").parse()?;
    let time = Duration::from_secs(seconds);
    let mut options = RuntimeOptions::new(engine);
    if let Some(spin) = arguments.next() {
        options.spin = Duration::from_micros(spin.parse()?);
    }
    prepare(&path)?;
    run(options, |reactor| async move {
        for depth in [1, 32] {
            let writes = write_randomly(&reactor, &path, depth, time).await?;
            writes.print(&format!("write depth {depth}"));
        }
        for connections in [1, 32] {
            let trips = echo(&reactor, connections, time).await?;
            trips.print(&format!("echo {connections} connections"));
        }
        Ok(())
    })?
}

/// Fills the file, so that writes to it allocate nothing.
fn prepare(path: &Path) -> std::io::Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    let chunk = vec![1u8; 1 << 20];
    while file.metadata()?.len() < FILE_BYTES {
        file.write_all(&chunk)?;
    }
    file.sync_all()
}

/// How much was done, in which time, at what cost.
struct Measurement {
    operations: u64,
    took: Duration,
    cpu: Duration,
}

impl Measurement {
    fn print(&self, what: &str) {
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let operations = self.operations as f64;
        println!(
            "{what:24} {:9.0} /s   {:6.2} µs of CPU each",
            operations / self.took.as_secs_f64(),
            self.cpu.as_secs_f64() * 1e6 / operations,
        );
    }
}

/// Counts what tasks do until a moment.
struct Meter {
    reactor: Reactor,
    start: ashlar_reactor::Instant,
    cpu: Duration,
    time: Duration,
    operations: Rc<Cell<u64>>,
}

impl Meter {
    fn start(reactor: &Reactor, time: Duration) -> Self {
        Self {
            reactor: reactor.clone(),
            start: reactor.now(),
            cpu: cpu(),
            time,
            operations: Rc::default(),
        }
    }

    fn is_over(&self) -> bool {
        self.reactor.now() - self.start >= self.time
    }

    fn count(&self) {
        self.operations.set(self.operations.get() + 1);
    }

    fn end(&self) -> Measurement {
        Measurement {
            operations: self.operations.get(),
            took: self.reactor.now() - self.start,
            cpu: cpu() - self.cpu,
        }
    }
}

/// CPU that this process has used, in user and kernel mode, of all its threads.
fn cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

async fn write_randomly(
    reactor: &Reactor,
    path: &Path,
    depth: usize,
    time: Duration,
) -> Result<Measurement, Box<dyn Error>> {
    let disk = reactor.open_disk(DiskOptions::new(path)).await?;
    let meter = Rc::new(Meter::start(reactor, time));
    let blocks = disk.geometry().size_bytes / BLOCK as u64;
    let tasks: Vec<_> = (0..depth)
        .map(|_| {
            let (disk, meter, reactor) = (disk.clone(), Rc::clone(&meter), reactor.clone());
            let data = reactor.buffer(BLOCK).freeze();
            reactor.clone().spawn(async move {
                while !meter.is_over() {
                    let block = reactor.random_u64() % blocks;
                    disk.write(block * BLOCK as u64, vec![data.clone()]).await?;
                    meter.count();
                }
                Ok::<(), ashlar_reactor::DiskError>(())
            })
        })
        .collect();
    for task in tasks {
        task.await?;
    }
    Ok(meter.end())
}

async fn echo(
    reactor: &Reactor,
    connections: usize,
    time: Duration,
) -> Result<Measurement, Box<dyn Error>> {
    let listener = reactor.listen(&"127.0.0.1:0".parse::<Address>()?).await?;
    let meter = Rc::new(Meter::start(reactor, time));
    let mut tasks = Vec::new();
    for _ in 0..connections {
        let client = reactor.connect(&listener.local_address()).await?;
        let server = listener.accept().await?;
        let inner = reactor.clone();
        drop(reactor.spawn(async move { while pass_on(&inner, &server).await {} }));
        let (meter, reactor) = (Rc::clone(&meter), reactor.clone());
        tasks.push(reactor.clone().spawn(async move {
            let word: SharedBuffer = reactor.buffer(64).freeze();
            while !meter.is_over() && client.send(vec![word.clone()]).await.is_ok() {
                let (_, result) = client.recv(reactor.buffer(64)).await;
                assert_eq!(result, Ok(64), "the echo is whole");
                meter.count();
            }
        }));
    }
    for task in tasks {
        task.await;
    }
    Ok(meter.end())
}

/// Sends back what comes; false at the end.
async fn pass_on(reactor: &Reactor, stream: &Stream) -> bool {
    let (buffer, result) = stream.recv(reactor.buffer(64)).await;
    match result {
        Ok(got) if got > 0 => {
            let heard = buffer.freeze().slice(..got);
            stream.send(vec![heard]).await.is_ok()
        }
        _ => false,
    }
}
