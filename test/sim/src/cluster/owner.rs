//! One owner of the volume: a process that attaches, serves requests, and may be crashed.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use ashlar_client::{Volume, VolumeOptions};
use ashlar_proto::DiskId;
use ashlar_reactor::Task;
use ashlar_reactor::sim::{Process, Rng, World};

use super::conductor::Road;
use super::source::ConductorSource;
use super::stores::Store;
use super::{Cluster, VOLUME_NAME, finish};
use crate::history::Life;
use crate::workload::{Record, Shape, Worker, read_into, sectors_of};

/// Where owners live, one after another.
pub(super) const OWNER_HOSTS: [IpAddr; 3] = [owner_host(100), owner_host(101), owner_host(102)];

const fn owner_host(number: u8) -> IpAddr {
    IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, number))
}

/// Pause after a failed attach.
const RETRY: Duration = Duration::from_millis(500);
/// How long a request of the test itself may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// What an owner's process has got to.
#[derive(Default)]
struct Progress {
    volume: RefCell<Option<(Volume, Life)>>,
    workers: RefCell<Vec<Task<()>>>,
    trouble: RefCell<String>,
    stop: Rc<Cell<bool>>,
}

/// A handle on one owner.
pub(super) struct Owner {
    host: IpAddr,
    process: Process,
    progress: Rc<Progress>,
}

impl Cluster {
    /// Starts an owner, which attaches as soon as it can and then serves random requests.
    pub(super) fn start_owner(&mut self) {
        self.owners_started += 1;
        let name = format!("owner-{}", self.owners_started);
        let host = OWNER_HOSTS[self.owners_started as usize % OWNER_HOSTS.len()];
        let common = self.common_process();
        let local = match &common {
            Some(_) => self.stores.iter().map(Store::local_address).collect(),
            None => Vec::new(),
        };
        let process = common.unwrap_or_else(|| self.world.process(&name, host));
        let progress = Rc::new(Progress::default());
        let reactor = process.reactor().clone();
        let source = Rc::new(ConductorSource::new(Road {
            reactor: reactor.clone(),
            host,
            conductor: Rc::clone(&self.conductor),
        }));
        let (shape, record) = (self.shape, self.record.clone());
        let (archive, lost) = (self.conductor.archive().clone(), Rc::clone(&self.lost));
        let ack = self.ack;
        let (mut rng, shared) = (self.rng.fork(), Rc::clone(&progress));
        let spoilt = Rc::clone(&self.spoilt);
        let served = Rc::clone(&self.served);
        let quick = self.rng.chance(500_000);
        drop(process.reactor().spawn(async move {
            let volume = loop {
                let mut options = VolumeOptions::new(name.clone());
                options.force = true;
                options.local.clone_from(&local);
                if quick {
                    options.attach_patience = Duration::from_millis(500);
                    options.flush_interval = Duration::from_millis(200);
                    options.io_timeout = Duration::from_secs(5);
                    options.scrub_interval = Duration::from_secs(8);
                    options.scrub_pace = 1 << 20;
                }
                match Volume::attach(&reactor, Rc::clone(&source), VOLUME_NAME, options).await {
                    Ok(volume) => break volume,
                    Err(error) => shared.trouble.replace(error.to_string()),
                };
                reactor.sleep(RETRY).await;
            };
            let generation = volume.generation();
            let sets = archive.ledger(|ledger| ledger.sets(generation));
            let after = served.replace(served.get().max(generation));
            let before = archive.ledger(|ledger| ledger.take_overs(after, generation));
            let mut lossy = false;
            // Stores had the volume in between, and lost what an owner would have lost.
            for (shard, before, kept) in before {
                let needed = before.len() - ack.ack_count(before.len()) + 1;
                let (lost, spoilt) = (lost.borrow(), spoilt.borrow());
                let shard = shard.get() as usize;
                let is_intact = |d: &&DiskId| !lost.contains(&(**d, shard)) && !spoilt.contains(d);
                lossy |= kept.iter().filter(is_intact).count() < needed;
            }
            for (shard, (before, now)) in sets.iter().enumerate() {
                let needed = before.len() - ack.ack_count(before.len()) + 1;
                let (mut lost, spoilt) = (lost.borrow_mut(), spoilt.borrow());
                let is_intact = |d: &&DiskId| !lost.contains(&(**d, shard)) && !spoilt.contains(d);
                lossy |= now.iter().filter(is_intact).count() < needed;
                for disk in now {
                    lost.remove(&(*disk, shard));
                }
            }
            let life = record.history.borrow_mut().serve(lossy);
            shared.volume.replace(Some((volume.clone(), life)));
            for _ in 0..shape.depth {
                let worker = Worker {
                    device: volume.clone(),
                    reactor: reactor.clone(),
                    life,
                    rng: rng.fork(),
                    shape,
                    record: record.clone(),
                    stop: Rc::clone(&shared.stop),
                    only_reads: false,
                };
                shared
                    .workers
                    .borrow_mut()
                    .push(reactor.spawn(worker.run()));
            }
        }));
        self.owners.push(Owner {
            host,
            process,
            progress,
        });
    }
}

impl Owner {
    pub(super) fn serves(&self) -> bool {
        self.progress.volume.borrow().is_some()
    }

    /// Whether another owner has its volume.
    pub(super) fn is_fenced(&self) -> bool {
        let volume = self.progress.volume.borrow();
        volume.as_ref().is_some_and(|held| held.0.health().fenced)
    }

    pub(super) fn trouble(&self) -> String {
        self.progress.trouble.borrow().clone()
    }

    /// Sectors of the volume that it serves.
    pub(super) fn sectors(&self) -> u64 {
        let volume = self.progress.volume.borrow();
        volume.as_ref().map_or(0, |held| sectors_of(&held.0))
    }

    /// Has it read beside its other requests: where its writes wait for replicas that it does not
    /// reach, it goes on reading.
    pub(super) fn start_reader(&self, shape: Shape, record: &Record, rng: Rng) {
        let Some((volume, life)) = self.progress.volume.borrow().clone() else {
            return;
        };
        let worker = Worker {
            device: volume,
            reactor: self.process.reactor().clone(),
            life,
            rng,
            shape,
            record: record.clone(),
            stop: Rc::clone(&self.progress.stop),
            only_reads: true,
        };
        let reading = self.process.reactor().spawn(worker.run());
        self.progress.workers.borrow_mut().push(reading);
    }

    pub(super) fn host(&self) -> IpAddr {
        self.host
    }

    pub(super) fn is_alive(&self) -> bool {
        self.process.is_alive()
    }

    pub(super) fn crash(&self) {
        self.process.crash();
    }

    /// Waits until every worker has ended its request.
    pub(super) async fn stop_workers(&self, world: &World) -> Result<(), String> {
        self.progress.stop.set(true);
        let limit = world.now() + PATIENCE;
        loop {
            if self.progress.workers.borrow().iter().all(Task::is_finished) {
                return Ok(());
            }
            if world.now() >= limit || !self.process.is_alive() {
                return Err("requests never end".to_owned());
            }
            world.sleep(Duration::from_millis(10)).await;
        }
    }

    /// Reads a range: all is well, so it must succeed.
    pub(super) async fn read(
        &self,
        world: &World,
        sectors: Range<u64>,
        record: &Record,
    ) -> Result<(), String> {
        let attached = self.progress.volume.borrow().clone();
        let (volume, life) = attached.ok_or("the owner serves")?;
        let (record, range) = (record.clone(), sectors.clone());
        let read = async move { read_into(&volume, life, range, &record).await };
        let result = finish(world, &self.process, PATIENCE, read).await?;
        result.map_err(|error| format!("sectors {sectors:?} cannot be read: {error}"))
    }

    pub(super) async fn detach(&self, world: &World) -> Result<(), String> {
        let attached = self.progress.volume.borrow_mut().take();
        let (volume, _) = attached.ok_or("the owner serves")?;
        let detached = finish(world, &self.process, PATIENCE, async move {
            volume.detach().await
        })
        .await?;
        detached.map_err(|error| format!("cannot detach: {error}"))
    }
}
