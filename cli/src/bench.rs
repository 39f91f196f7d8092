//! `ashlar bench`: load against a volume through the client library, without a front end.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use ashlar_client::{BlockDevice, BlockError, Durability};
use ashlar_reactor::{Instant, Reactor};
use hdrhistogram::Histogram;
use nix::sys::resource::{UsageWho, getrusage};
use serde::Serialize;

use crate::args::{BenchArgs, BenchPattern};
use crate::output::{print_json, print_text};
use crate::runtime;

/// What a run reached.
#[derive(Debug, Serialize)]
struct BenchReport {
    volume: String,
    pattern: String,
    block_size_bytes: u64,
    depth: u32,
    seconds: f64,
    requests: u64,
    iops: f64,
    mib_per_second: f64,
    latency_us: Latency,
    /// CPU time of this process alone: the owner, not the stores.
    cpu_us_per_request: f64,
}

/// Microseconds.
#[derive(Debug, Serialize)]
struct Latency {
    mean: f64,
    p50: f64,
    p99: f64,
    p99_9: f64,
    max: f64,
}

/// Where the next request goes.
struct Cursor {
    pattern: BenchPattern,
    slots: u64,
    next: u64,
}

impl Cursor {
    fn next(&mut self, reactor: &Reactor) -> u64 {
        match self.pattern {
            BenchPattern::Randread | BenchPattern::Randwrite => reactor.random_u64() % self.slots,
            BenchPattern::Read | BenchPattern::Write => {
                self.next += 1;
                (self.next - 1) % self.slots
            }
        }
    }
}

/// What the workers of a run share.
struct Load<D> {
    reactor: Reactor,
    device: D,
    cursor: RefCell<Cursor>,
    block_bytes: u32,
    deadline: Instant,
    latency: RefCell<Histogram<u64>>,
}

impl<D: BlockDevice> Load<D> {
    async fn work(&self) -> Result<(), BlockError> {
        while self.reactor.now() < self.deadline {
            let (offset, is_write) = {
                let mut cursor = self.cursor.borrow_mut();
                let slot = cursor.next(&self.reactor);
                let is_write = matches!(
                    cursor.pattern,
                    BenchPattern::Write | BenchPattern::Randwrite
                );
                (slot * u64::from(self.block_bytes), is_write)
            };
            let start = self.reactor.now();
            if is_write {
                let data = self.payload();
                self.device
                    .write(offset, data, Durability::Accepted)
                    .await?;
            } else {
                self.device.read(offset, self.block_bytes).await?;
            }
            let took = u64::try_from((self.reactor.now() - start).as_nanos()).unwrap_or(u64::MAX);
            self.latency.borrow_mut().saturating_record(took.max(1));
        }
        Ok(())
    }

    /// Not all zeroes, different each time, cheap to make: one random word in each 512 bytes.
    fn payload(&self) -> ashlar_reactor::Buffer {
        let mut data = self.reactor.buffer(self.block_bytes as usize);
        for sector in data.chunks_mut(512) {
            sector[..8].copy_from_slice(&self.reactor.random_u64().to_le_bytes());
        }
        data
    }
}

/// Runs the load and prints the report.
pub fn run(args: &BenchArgs, json: bool) -> anyhow::Result<()> {
    let block_bytes = u32::try_from(args.block_size)
        .ok()
        .filter(|bytes| *bytes > 0 && bytes % 4096 == 0 && *bytes <= 32 << 20)
        .context("--block-size must be a multiple of 4 KiB, at most 32 MiB")?;
    let report = runtime::with_volume(&args.api.api, &args.volume, &args.reactor, {
        async |reactor: Reactor, device| load(&reactor, device, args, block_bytes).await
    })?;
    if json {
        print_json(&report)
    } else {
        show(&report)
    }
}

async fn load<D: BlockDevice>(
    reactor: &Reactor,
    device: D,
    args: &BenchArgs,
    block_bytes: u32,
) -> anyhow::Result<BenchReport> {
    let slots = device.geometry().size_bytes / u64::from(block_bytes);
    ensure!(
        slots > 0,
        "the volume is smaller than one request of {block_bytes} bytes"
    );
    let start = reactor.now();
    let cpu_before = cpu_time()?;
    let load = Rc::new(Load {
        reactor: reactor.clone(),
        device,
        cursor: RefCell::new(Cursor {
            pattern: args.rw,
            slots,
            next: 0,
        }),
        block_bytes,
        deadline: start + args.time,
        latency: RefCell::new(Histogram::new_with_bounds(1, 60_000_000_000, 3)?),
    });
    let workers: Vec<_> = (0..args.depth)
        .map(|_| {
            let load = Rc::clone(&load);
            reactor.spawn(async move { load.work().await })
        })
        .collect();
    for worker in workers {
        worker.await.context("a request failed")?;
    }
    let seconds = (reactor.now() - start).as_secs_f64();
    let cpu = cpu_time()?.saturating_sub(cpu_before);
    let latency = load.latency.borrow();
    if latency.is_empty() {
        bail!("no request completed in {seconds:.1} s");
    }
    Ok(report(args, seconds, cpu, &latency))
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn report(args: &BenchArgs, seconds: f64, cpu: Duration, ns: &Histogram<u64>) -> BenchReport {
    let us = |ns: u64| ns as f64 / 1000.0;
    let requests = ns.len();
    BenchReport {
        volume: args.volume.clone(),
        pattern: format!("{:?}", args.rw).to_lowercase(),
        block_size_bytes: args.block_size,
        depth: args.depth,
        seconds,
        requests,
        iops: requests as f64 / seconds,
        mib_per_second: (requests * args.block_size) as f64 / seconds / f64::from(1 << 20),
        latency_us: Latency {
            mean: ns.mean() / 1000.0,
            p50: us(ns.value_at_quantile(0.5)),
            p99: us(ns.value_at_quantile(0.99)),
            p99_9: us(ns.value_at_quantile(0.999)),
            max: us(ns.max()),
        },
        cpu_us_per_request: cpu.as_secs_f64() * 1e6 / requests as f64,
    }
}

fn show(report: &BenchReport) -> anyhow::Result<()> {
    print_text(&format!(
        "{} of {} bytes at depth {} on {} for {:.1} s",
        report.pattern, report.block_size_bytes, report.depth, report.volume, report.seconds
    ))?;
    print_text(&format!(
        "  {:.0} IOPS, {:.1} MiB/s",
        report.iops, report.mib_per_second
    ))?;
    let latency = &report.latency_us;
    print_text(&format!(
        "  latency µs: mean {:.1}, p50 {:.1}, p99 {:.1}, p99.9 {:.1}, max {:.1}",
        latency.mean, latency.p50, latency.p99, latency.p99_9, latency.max
    ))?;
    print_text(&format!(
        "  owner CPU: {:.1} µs a request",
        report.cpu_us_per_request
    ))
}

/// User and system time of this process.
fn cpu_time() -> anyhow::Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let micros = |time: nix::sys::time::TimeVal| {
        let whole = u64::try_from(time.tv_sec()).unwrap_or(0) * 1_000_000;
        whole + u64::try_from(time.tv_usec()).unwrap_or(0)
    };
    Ok(Duration::from_micros(
        micros(usage.user_time()) + micros(usage.system_time()),
    ))
}
