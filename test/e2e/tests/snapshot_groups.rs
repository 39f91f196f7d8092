//! Snapshots of several volumes as one group: all of one moment, on front ends that know nothing of each
//! other, or none at all.

use anyhow::{Context, Result, ensure};
use ashlar_e2e::cluster::free_port;
use ashlar_e2e::ledger::Random;
use ashlar_e2e::nbd::{Command, NbdClient};
use ashlar_e2e::process::{Service, wait_for};
use ashlar_e2e::{Cluster, ClusterOptions, binary};
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
const BLOCK: usize = 4096;

/// A cluster whose front ends are two: volume `a` is written through one, `b` through the other.
struct Bench {
    cluster: Cluster,
    second: Service,
    ports: [u16; 2],
}

impl Bench {
    fn start() -> Result<Self> {
        let cluster = Cluster::start(ClusterOptions {
            separate: true,
            ..ClusterOptions::default()
        })?;
        for name in ["a", "b", "c"] {
            cluster.create_volume(name, "64MiB", 3)?;
        }
        let port = free_port()?;
        let api = format!("http://{}", cluster.api_address());
        let listen = format!("127.0.0.1:{port}");
        let arguments = ["nbd", "--conductor", &api, "--listen", &listen];
        let log = cluster.path().join("second-nbd.log");
        let second = Service::start("second nbd", &log, binary::ashlar(), arguments)?;
        wait_for("the second front end", LIMIT, || {
            std::net::TcpStream::connect(("127.0.0.1", port))?;
            Ok(())
        })?;
        let ports = [cluster.nbd_port(), port];
        Ok(Self {
            cluster,
            second,
            ports,
        })
    }

    /// Makes a group of `a` and `b`, however often that takes.
    fn make(&self, name: &str) -> Result<()> {
        wait_for("a group", LIMIT, || {
            let create = ["snapshot", "create", "--group", "a", "b", name];
            self.cluster.ashlar(create).check().map(drop)
        })
    }

    /// The number that the snapshot of a volume shows.
    fn shown(&self, volume: &str, name: &str) -> Result<u64> {
        let mut reader = NbdClient::connect(self.ports[0], &format!("{volume}@{name}"))?;
        let number = number_in(&reader.read(0, BLOCK)?)?;
        reader.disconnect()?;
        Ok(number)
    }

    /// The names of a volume's snapshots.
    fn names(&self, volume: &str) -> Result<Vec<String>> {
        let list = self.cluster.json(["snapshot", "list", volume])?;
        let names = list.as_array().context("no list")?.iter().map(|snapshot| {
            ensure!(snapshot["state"] == "ready", "{snapshot}");
            Ok(snapshot["name"].as_str().context("no name")?.to_owned())
        });
        names.collect()
    }

    /// Checks that `a` is as far as `b` or one ahead, and as far as it was told to be.
    fn check(&self, name: &str, acked: [u64; 2]) -> Result<()> {
        let (a, b) = (self.shown("a", name)?, self.shown("b", name)?);
        ensure!(a == b || a == b + 1, "{name} is of two moments: {a}, {b}");
        ensure!(
            a >= acked[0] && b >= acked[1],
            "{name} shows {a}, {b} and lacks {acked:?}"
        );
        Ok(())
    }
}

fn number_in(block: &[u8]) -> Result<u64> {
    let number = block.first_chunk().context("a block is longer")?;
    Ok(u64::from_le_bytes(*number))
}

fn write(client: &mut NbdClient, number: u64) -> Result<()> {
    let mut block = vec![0; BLOCK];
    block[..8].copy_from_slice(&number.to_le_bytes());
    let error = client.call(Command::Write, 0, u32::try_from(BLOCK)?, &block)?;
    ensure!(error == 0, "write of {number}: errno {error}");
    Ok(())
}

/// Writes 1 to each volume in turn, then 2 …, each once the one before is acknowledged.
struct Writer {
    acked: Arc<[AtomicU64; 2]>,
    longest_us: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<u64>>,
}

impl Writer {
    fn start(mut clients: Vec<NbdClient>) -> Self {
        let acked: Arc<[AtomicU64; 2]> = Arc::default();
        let longest_us = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let (told, longest, stopped) = (
            Arc::clone(&acked),
            Arc::clone(&longest_us),
            Arc::clone(&stop),
        );
        let thread = std::thread::spawn(move || {
            let mut number = 0;
            while !stopped.load(Ordering::SeqCst) {
                number += 1;
                for (client, told) in clients.iter_mut().zip(told.iter()) {
                    let began = Instant::now();
                    write(client, number)?;
                    let took = u64::try_from(began.elapsed().as_micros())?;
                    longest.fetch_max(took, Ordering::SeqCst);
                    told.store(number, Ordering::SeqCst);
                }
            }
            clients.into_iter().try_for_each(NbdClient::disconnect)?;
            Ok(number)
        });
        Self {
            acked,
            longest_us,
            stop,
            thread,
        }
    }

    fn acked(&self) -> [u64; 2] {
        [0, 1].map(|at: usize| self.acked[at].load(Ordering::SeqCst))
    }

    /// The longest write since this was asked last.
    fn longest(&self) -> Duration {
        Duration::from_micros(self.longest_us.swap(0, Ordering::SeqCst))
    }

    /// Waits until each volume has taken some more writes.
    fn goes_on(&self) -> Result<()> {
        let before = self.acked();
        wait_for("more writes", LIMIT, || {
            let now = self.acked();
            ensure!(now[0] > before[0] + 5, "{before:?}, {now:?}");
            Ok(())
        })
    }

    fn end(self) -> Result<u64> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("the writer ends")
    }
}

#[test]
fn a_group_is_of_one_moment_across_front_ends() -> Result<()> {
    const GROUPS: u64 = 15;
    let bench = Bench::start()?;
    let cluster = &bench.cluster;
    // Nobody has the third one attached.
    let mut client = NbdClient::connect(bench.ports[1], "c")?;
    write(&mut client, 33)?;
    client.disconnect()?;
    let a = NbdClient::connect(bench.ports[0], "a")?;
    let b = NbdClient::connect(bench.ports[1], "b")?;
    let writer = Writer::start(vec![a, b]);
    writer.goes_on()?;
    eprintln!("longest write without groups: {:?}", writer.longest());
    let mut random = Random(5);
    let mut pauses = Vec::new();
    for round in 1..=GROUPS {
        std::thread::sleep(Duration::from_millis(random.below(200)));
        writer.longest();
        let (name, acked) = (format!("g{round}"), writer.acked());
        let at_name = format!("@{name}");
        let made = cluster.json(["snapshot", "create", "--group", "a", "c", "b", &at_name])?;
        writer.goes_on()?;
        pauses.push(writer.longest());
        let snapshots = made["snapshots"].as_array().context("no list")?;
        let volumes: Vec<_> = snapshots.iter().map(|s| &s["volume_name"]).collect();
        ensure!(volumes == ["a", "c", "b"], "{made}");
        let group = &made["group"];
        let is_of_it = |s: &Value| s["group"] == *group && s["state"] == "ready";
        ensure!(snapshots.iter().all(is_of_it), "{made}");
        bench.check(&name, acked)?;
        ensure!(bench.shown("c", &name)? == 33, "{name}");
    }
    pauses.sort();
    eprintln!("longest write in each of {GROUPS} groups: {pauses:?}");
    // Of a group each snapshot goes its own way.
    let shown = cluster
        .ashlar(["snapshot", "show", "b@g2", "--no-usage"])
        .check()?;
    ensure!(shown.contains("group"), "{shown}");
    cluster.ashlar(["snapshot", "delete", "a@g2"]).check()?;
    bench.shown("b", "g2")?;
    ensure!(bench.names("a")?.len() == 14 && bench.names("b")?.len() == 15);
    // What cannot be is refused before anybody holds.
    for (volumes, expected) in [
        (["a", "a"], "named twice"),
        (["a", "nope"], "no volume `nope`"),
        (["a", "b"], "`b` has a snapshot `g2` already"),
    ] {
        let [one, other] = volumes;
        let refused = cluster.ashlar(["snapshot", "create", "--group", one, other, "@g2"]);
        let refused = refused.run()?;
        ensure!(!refused.status.success(), "{volumes:?} are taken");
        ensure!(refused.stderr.contains(expected), "{}", refused.stderr);
    }
    let written = writer.end()?;
    eprintln!("{written} rounds of writes");
    Ok(())
}

#[test]
fn a_front_end_that_hangs_fails_the_group_and_holds_nobody_up() -> Result<()> {
    let mut bench = Bench::start()?;
    let writer = Writer::start(vec![NbdClient::connect(bench.ports[0], "a")?]);
    let mut b = NbdClient::connect(bench.ports[1], "b")?;
    write(&mut b, 1)?;
    writer.goes_on()?;
    bench.second.pause();
    writer.longest();
    let began = Instant::now();
    let create = ["snapshot", "create", "--group", "a", "b", "@g"];
    let refused = bench.cluster.ashlar(create).run()?;
    let took = began.elapsed();
    writer.goes_on()?;
    let pause = writer.longest();
    eprintln!("refused after {took:?}, longest write {pause:?}");
    ensure!(!refused.status.success(), "a group without an owner");
    let text = &refused.stderr;
    ensure!(text.contains("from the owner of volume `b` ("), "{text}");
    ensure!(!text.contains("volume `a`"), "{text}");
    ensure!(took < Duration::from_secs(10), "refused after {took:?}");
    ensure!(pause < Duration::from_secs(5), "a write took {pause:?}");
    for name in ["a", "b"] {
        let names = bench.names(name)?;
        ensure!(names.is_empty(), "{name}: {names:?}");
    }
    // It comes to life again: neither is it held for what is over, nor is the next group.
    bench.second.resume();
    write(&mut b, 2)?;
    bench.cluster.ashlar(create).check()?;
    ensure!(
        bench.shown("b", "g")? == 2,
        "what was acknowledged is not there"
    );
    writer.end()?;
    b.disconnect()
}

#[test]
fn a_conductor_that_dies_leaves_no_part_of_a_group() -> Result<()> {
    const ROUNDS: u64 = 6;
    let mut bench = Bench::start()?;
    let a = NbdClient::connect(bench.ports[0], "a")?;
    let b = NbdClient::connect(bench.ports[1], "b")?;
    let writer = Writer::start(vec![a, b]);
    let mut random = Random(8);
    let mut made = 0;
    for round in 1..=ROUNDS {
        // Owners hear of a conductor that is back after a pause.
        bench.make(&format!("@w{round}"))?;
        let (name, acked) = (format!("@g{round}"), writer.acked());
        let create = ["snapshot", "create", "--group", "a", "b", &name];
        let create = bench.cluster.ashlar(create);
        let asked = std::thread::spawn(move || create.run());
        std::thread::sleep(Duration::from_millis(random.below(400)));
        bench.cluster.service("conductor").kill();
        let asked = asked.join().expect("the command ends")?;
        writer.goes_on()?;
        bench.cluster.restart()?;
        // What was left half-done is cleaned up soon, and no snapshot stays as it was at the crash.
        writer.goes_on()?;
        let names = wait_for("the same snapshots of both", LIMIT, || {
            let (a, b) = (bench.names("a")?, bench.names("b")?);
            ensure!(a == b, "{a:?}, {b:?}");
            Ok(a)
        })?;
        let is_there = names.iter().any(|known| name[1..] == *known);
        ensure!(
            is_there || !asked.status.success(),
            "{name} was made and is not there: {names:?}"
        );
        if is_there {
            made += 1;
            bench.check(&name[1..], acked)?;
        }
    }
    eprintln!("{made} of {ROUNDS} made");
    bench.make("@last")?;
    bench.check("last", [0, 0])?;
    writer.end()?;
    Ok(())
}
