//! Snapshots in a run: somebody makes them, looks at them for as long as they live, deletes them, and
//! goes back to one now and then, while everything else goes on.
//!
//! What is checked: a snapshot is the volume at one moment between its request and the word that it is
//! ready ([`crate::linear`], [`crate::cut`]); from the first look at it on it never changes, whoever is
//! asked; and what differs between two of them is told as changed.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use ashlar_client::{
    BlockDevice, BlockError, ClusterSource, OpenSnapshotError, Snapshot, SourceError, VolumeOptions,
};
use ashlar_conductor::ClusterError;
use ashlar_proto::Layer;
use ashlar_proto::api::{CreateSnapshot, RollbackVolume, SnapshotState};
use ashlar_proto::message::BlockKind;
use ashlar_reactor::Reactor;
use ashlar_reactor::sim::{Process, Rng, SECTOR_BYTES, World};

use super::clones::Pattern;
use super::conductor::{ANSWER_MAX, CallError, HELD_UP_MAX, Road, SimCluster};
use super::source::ConductorSource;
use super::{Cluster, VOLUME_NAME, finish, host};
use crate::history::{Ending, Moment, Picture, SECTORS_PER_BLOCK};
use crate::workload::{Record, sectors_of};

/// Where who looks after snapshots lives.
const KEEPER_HOST: u8 = 150;
/// Longest pauses between two things that it does, in ms: of some runs, and of others.
const PAUSES_MS_MAX: [u64; 2] = [400, 6_000];
/// How long it waits for a snapshot to be ready before it does something else.
const READY_WITHIN: Duration = Duration::from_secs(10);
/// Snapshots that live at once.
const ALIVE_MAX: usize = 6;
/// Blocks of one read.
const READ_SECTORS: u64 = 256;
/// How long all that is left may take to be looked at once all is well.
const PATIENCE: Duration = Duration::from_secs(600);

/// What is known of a snapshot.
#[derive(Clone, Debug)]
struct Kept {
    name: String,
    requested: Moment,
    /// Whether the conductor has said that it is there.
    is_known: bool,
    layer: Option<Layer>,
    /// What it showed when it was looked at first.
    values: Option<Vec<u32>>,
}

/// See the module.
pub(super) struct Keeper {
    process: Process,
    pub(super) album: Rc<Album>,
}

/// The snapshots of the run.
pub(super) struct Album {
    reactor: Reactor,
    road: Road,
    record: Record,
    /// Sectors that the volume may come to have.
    sectors_most: u64,
    kept: RefCell<Vec<Kept>>,
    rng: RefCell<Rng>,
    made: RefCell<u32>,
    /// The layer that a rollback goes back to which is under way.
    going_back_to: Cell<Option<Layer>>,
    /// Longest pause between two things that it does, in ms.
    pause_ms_max: u64,
    /// Whether it goes back to snapshots, too.
    rolls_back: bool,
}

impl Cluster {
    /// From now on somebody makes snapshots.
    pub(super) fn start_keeper(&mut self) {
        let process = self.world.process("keeper", keeper_host());
        let reactor = process.reactor().clone();
        let road = Road {
            reactor: reactor.clone(),
            host: keeper_host(),
            conductor: Rc::clone(&self.conductor),
        };
        let album = Rc::new(Album {
            reactor: reactor.clone(),
            road,
            record: self.record.clone(),
            sectors_most: self.sectors_most(),
            kept: RefCell::default(),
            rng: RefCell::new(self.rng.fork()),
            made: RefCell::default(),
            going_back_to: Cell::default(),
            pause_ms_max: PAUSES_MS_MAX[self.rng.index(2)],
            rolls_back: self.rng.chance(500_000),
        });
        drop(reactor.spawn(Rc::clone(&album).keep()));
        self.keeper = Some(Keeper { process, album });
    }
}

fn keeper_host() -> IpAddr {
    host(KEEPER_HOST)
}

impl Keeper {
    /// It makes no more of them.
    pub(super) fn stop(&self) {
        self.process.crash();
    }

    /// Looks at all that are left: all is well, so that must succeed. Gives their layers.
    pub(super) async fn look_at_all(&self, world: &World) -> Result<Vec<Layer>, String> {
        let process = world.process("keeper-at-last", keeper_host());
        let reactor = process.reactor().clone();
        let kept = self.album.kept.take();
        let album = Rc::new(Album {
            reactor: reactor.clone(),
            road: Road {
                reactor,
                ..self.album.road.clone()
            },
            record: self.album.record.clone(),
            sectors_most: self.album.sectors_most,
            kept: RefCell::new(kept),
            rng: RefCell::new(self.album.rng.borrow_mut().fork()),
            made: RefCell::default(),
            going_back_to: self.album.going_back_to.clone(),
            pause_ms_max: PAUSES_MS_MAX[0],
            rolls_back: false,
        });
        let looked = Rc::clone(&album);
        let looking = async move { looked.look_at_all().await };
        let layers = finish(world, &process, PATIENCE, looking).await?;
        process.crash();
        layers
    }
}

impl Album {
    fn chance(&self, per_million: u32) -> bool {
        self.rng.borrow_mut().chance(per_million)
    }

    fn now(&self) -> Moment {
        self.record.history.borrow_mut().tick()
    }

    /// What is known of those that are there.
    pub(super) fn patterns(&self, volume: &str) -> Vec<Pattern> {
        let all = self.kept.borrow();
        let known = all.iter().filter_map(|kept| {
            Some(Pattern {
                volume: volume.to_owned(),
                snapshot: kept.name.clone(),
                values: kept.values.clone()?,
            })
        });
        known.collect()
    }

    async fn keep(self: Rc<Self>) {
        loop {
            let pause = self.rng.borrow_mut().between(1, self.pause_ms_max);
            self.reactor.sleep(Duration::from_millis(pause)).await;
            let drawn = self.rng.borrow_mut().below(100);
            match drawn {
                0..40 => self.make().await,
                40..70 => self.look_at_some().await,
                70..92 => self.delete_some().await,
                _ if self.rolls_back => self.go_back().await,
                _ => {}
            }
        }
    }

    async fn ask<T, F>(&self, deed: impl FnOnce(SimCluster) -> F) -> Result<T, CallError>
    where
        T: 'static,
        F: Future<Output = Result<T, ClusterError>> + 'static,
    {
        self.road.ask(ANSWER_MAX, deed).await
    }

    async fn make(&self) {
        if self.kept.borrow().len() >= ALIVE_MAX {
            return;
        }
        self.made.replace_with(|made| *made + 1);
        let name = format!("s{}", self.made.borrow());
        let requested = self.now();
        self.kept.borrow_mut().push(Kept {
            name: name.clone(),
            requested,
            is_known: false,
            layer: None,
            values: None,
        });
        let request = CreateSnapshot { name: name.clone() };
        let asked = self
            .ask(async move |cluster: SimCluster| {
                let volume = VOLUME_NAME.to_owned();
                cluster
                    .create_snapshot(volume, request, 0, Duration::ZERO)
                    .await
            })
            .await;
        match asked {
            Ok(_) => self.note_known(&name),
            Err(CallError::Refused(error)) => {
                tracing::info!(%error, "a snapshot is not made");
                self.forget(&name);
                return;
            }
            Err(CallError::Unreachable) => {}
        }
        if self.chance(800_000) {
            let looking = self.look_at(&name);
            let looked = self.reactor.timeout(READY_WITHIN, looking).await;
            if matches!(looked, Ok(Ok(()))) && self.chance(500_000) {
                // At once again: perhaps of a replica that was not quite there.
                let _ = self.look_at(&name).await;
            }
        }
    }

    fn note_known(&self, name: &str) {
        let mut all = self.kept.borrow_mut();
        if let Some(kept) = all.iter_mut().find(|kept| kept.name == name) {
            kept.is_known = true;
        }
    }

    fn forget(&self, name: &str) {
        self.kept.borrow_mut().retain(|kept| kept.name != name);
    }

    fn find(&self, name: &str) -> Option<Kept> {
        let all = self.kept.borrow();
        all.iter().find(|kept| kept.name == name).cloned()
    }

    fn may_be_gone(&self, kept: &Kept) -> bool {
        let to = self.going_back_to.get();
        let is_newer = |to| kept.layer.is_none_or(|layer| layer > to);
        !kept.is_known || to.is_some_and(is_newer)
    }

    fn draw(&self) -> Option<Kept> {
        let all = self.kept.borrow();
        if all.is_empty() {
            return None;
        }
        let at = self.rng.borrow_mut().index(all.len());
        Some(all[at].clone())
    }

    async fn look_at_some(&self) {
        if let Some(kept) = self.draw() {
            let looking = self.look_at(&kept.name);
            let _elapsed = self.reactor.timeout(READY_WITHIN, looking).await;
        }
    }

    async fn open(&self, name: &str) -> Result<Snapshot, OpenSnapshotError> {
        let source = ConductorSource::new(self.road.clone());
        let mut options = VolumeOptions::new("keeper");
        options.attach_timeout = READY_WITHIN;
        options.io_timeout = Duration::from_secs(4);
        Snapshot::open(&self.reactor, source, VOLUME_NAME, name, options).await
    }

    /// Reads a snapshot: the first time to know it, later to see that it is the same. Whether all of
    /// it could be read.
    async fn look_at(&self, name: &str) -> Result<(), String> {
        let opened = self.open(name).await.map_err(|error| error.to_string())?;
        let ready = self.now();
        let layer = opened.info().layer;
        let mut values = Vec::new();
        let (mut sector, sectors) = (0, sectors_of(&opened));
        while sector < sectors {
            let end = (sector + READ_SECTORS).min(sectors);
            let read = self.read(&opened, sector..end).await;
            values.extend(read.map_err(|error| error.to_string())?);
            sector = end;
        }
        let Some(kept) = self.find(name) else {
            return Ok(());
        };
        match kept.values {
            None => {
                let mut all = self.kept.borrow_mut();
                let kept = all.iter_mut().find(|kept| kept.name == name);
                if let Some(kept) = kept {
                    (kept.is_known, kept.layer) = (true, Some(layer));
                    kept.values = Some(values.clone());
                    self.record.history.borrow_mut().show(Picture {
                        requested: kept.requested,
                        ready,
                        values,
                    });
                }
            }
            Some(known) => {
                let differs = (0..known.len()).find(|&at| known.get(at) != values.get(at));
                if let Some(at) = differs {
                    self.record.fail(format!(
                        "snapshot {name} of layer {layer} has changed: sector {at} was {} and is {}",
                        known[at], values[at]
                    ));
                }
                self.compare(&opened).await;
            }
        }
        Ok(())
    }

    async fn read(
        &self,
        snapshot: &Snapshot,
        sectors: std::ops::Range<u64>,
    ) -> Result<Vec<u32>, BlockError> {
        let bytes = SECTOR_BYTES as u64;
        let len = u32::try_from((sectors.end - sectors.start) * bytes).unwrap_or(u32::MAX);
        let pieces = snapshot.read(sectors.start * bytes, len).await?;
        let data: Vec<u8> = pieces.iter().flat_map(|piece| piece.to_vec()).collect();
        let values = self.record.history.borrow().values(sectors.start, &data);
        Ok(values.unwrap_or_else(|wrong| {
            self.record.fail(format!(
                "a snapshot shows what was never written there: {wrong:?}"
            ));
            Vec::new()
        }))
    }

    /// What differs from an older snapshot is told as changed since.
    async fn compare(&self, newer: &Snapshot) {
        let layer = newer.info().layer;
        let find = |layer| {
            let all = self.kept.borrow();
            let found = all.iter().find(|kept| kept.layer == Some(layer));
            found.and_then(|kept| kept.values.clone())
        };
        let older = newer.others().iter().map(|other| other.layer);
        let Some(older) = older.filter(|other| *other < layer).max() else {
            return;
        };
        let (Some(before), Some(after)) = (find(older), find(layer)) else {
            return;
        };
        let sectors = sectors_of(newer);
        let bytes = sectors * SECTOR_BYTES as u64;
        // What it has grown by was zero before.
        let mut before = before;
        before.resize(after.len(), 0);
        let Ok(runs) = newer.changed_since(older, 0, bytes, usize::MAX).await else {
            // The older one may be gone by now.
            return;
        };
        let mut sector = 0;
        for run in runs {
            let end = sector + u64::from(run.count.get()) * SECTORS_PER_BLOCK;
            let range = usize::try_from(sector).unwrap_or(0)
                ..usize::try_from(end.min(sectors)).unwrap_or(0);
            if run.kind == BlockKind::Absent && before[range.clone()] != after[range.clone()] {
                self.record.fail(format!(
                    "snapshots of layers {older} and {layer} differ in sectors {range:?}, which are \
                     told as unchanged"
                ));
            }
            sector = end;
        }
    }

    async fn delete_some(&self) {
        let Some(kept) = self.draw() else { return };
        // What is not sure to be there yet might come later, and be taken for another.
        if !kept.is_known {
            return;
        }
        self.forget(&kept.name);
        let archive = self.road.conductor.archive().clone();
        archive.ledger(|ledger| ledger.delete_snapshot());
        let (name, unused) = (kept.name, self.chance(500_000));
        let asked = self.ask(async move |cluster: SimCluster| {
            let volume = VOLUME_NAME.to_owned();
            let wait = Duration::ZERO;
            cluster.delete_snapshot(volume, name, unused, wait).await
        });
        if let Err(error) = asked.await {
            tracing::info!(%error, "a snapshot may not be deleted");
        }
    }

    /// Makes the volume what it was at a snapshot.
    async fn go_back(&self) {
        let Some(kept) = self.draw() else { return };
        let (Some(mut values), Some(layer)) = (kept.values, kept.layer) else {
            return;
        };
        // What the volume has grown by since is zero again.
        values.resize(usize::try_from(self.sectors_most).unwrap_or(0), 0);
        let archive = self.road.conductor.archive().clone();
        archive.ledger(|ledger| ledger.roll_back());
        let before = archive.ledger(|ledger| ledger.rollbacks());
        self.going_back_to.set(Some(layer));
        let restored = self.record.history.borrow_mut().restore(values);
        let request = RollbackVolume {
            force: true,
            delete_newer: true,
        };
        let name = kept.name;
        let asked = self
            .ask(async move |cluster: SimCluster| {
                let volume = VOLUME_NAME.to_owned();
                let back = cluster.rollback(volume, name, request, Duration::ZERO);
                back.await.map(drop)
            })
            .await;
        if let Err(CallError::Unreachable) = asked {
            // It may be under way still, to a conductor that stalls.
            self.reactor.sleep(HELD_UP_MAX * 4).await;
        }
        // An error tells nothing either: the metadata may have it all the same.
        if archive.ledger(|ledger| ledger.rollbacks()) == before {
            self.going_back_to.set(None);
            let mut history = self.record.history.borrow_mut();
            history.end(restored, Ending::Refused);
            return;
        }
        // Newer ones went with it; those that nobody knows of yet may come after it or before.
        let is_older = |kept: &Kept| kept.layer.is_some_and(|other| other <= layer);
        self.kept.borrow_mut().retain(is_older);
        self.going_back_to.set(None);
        while !archive.ledger(|ledger| ledger.is_table_applied()) {
            self.reactor.sleep(Duration::from_millis(5)).await;
        }
        self.record.history.borrow_mut().end(restored, Ending::Done);
    }

    async fn look_at_all(&self) -> Result<Vec<Layer>, String> {
        let names: Vec<String> = self.kept.borrow().iter().map(|k| k.name.clone()).collect();
        for name in names {
            let source = ConductorSource::new(self.road.clone());
            let there = loop {
                match source.snapshot(VOLUME_NAME, &name).await {
                    Ok(map) if map.snapshot.state == SnapshotState::Ready => break true,
                    Err(SourceError::NotFound) => break false,
                    Ok(_) | Err(_) => self.reactor.sleep(Duration::from_millis(200)).await,
                }
            };
            match there {
                true => self
                    .look_at(&name)
                    .await
                    .map_err(|error| format!("snapshot {name} cannot be read: {error}"))?,
                // Its request was lost, or a rollback that was under way in the end took it along.
                false if self.find(&name).is_some_and(|kept| self.may_be_gone(&kept)) => {
                    self.forget(&name);
                }
                false => return Err(format!("snapshot {name} is gone")),
            }
        }
        let kept = self.kept.borrow();
        Ok(kept.iter().filter_map(|kept| kept.layer).collect())
    }
}
