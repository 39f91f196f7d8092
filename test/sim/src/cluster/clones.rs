//! Clones in a run: somebody makes them of snapshots and of snapshots of clones, writes to them, has them
//! flattened, deletes them and what they stand on, while everything else goes on.
//!
//! One user, one request at a time: so what a sector may show is known without a search. What is checked:
//! a clone shows the snapshot wherever nothing was written to it, and what was written elsewhere; within
//! an attach the last acknowledged write is shown, and after one what was flushed or anything later; its
//! snapshots show what it showed; and once all is well all of it can be read.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use ashlar_client::{
    BlockDevice, BlockError, ClusterSource, Durability, Snapshot, SourceError, Volume,
    VolumeOptions, ZeroMode,
};
use ashlar_proto::api::{CloneSnapshot, CreateSnapshot, FlattenVolume, Revision};
use ashlar_reactor::Reactor;
use ashlar_reactor::sim::{Process, Rng, SECTOR_BYTES, World, pattern_of};

use super::conductor::{ANSWER_MAX, CallError, Road, SimCluster};
use super::snapshots::Album;
use super::source::ConductorSource;
use super::{Cluster, VOLUME_NAME, finish, host};
use crate::history::{SECTORS_PER_BLOCK, fill};
use crate::workload::{Record, Shape, sectors_of};

/// Where their user lives.
const USER_HOST: u8 = 151;
/// Longest pause between two things that it does, in ms.
const PAUSE_MS_MAX: u64 = 3_000;
/// Requests of one attach.
const REQUESTS_MAX: u64 = 60;
/// Clones at once.
const ALIVE_MAX: usize = 3;
/// What it writes is told by numbers from here on.
const FIRST_VALUE: u32 = 1 << 30;
/// How long an attach or a request may take before it does something else.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long all that is left may take to be read once all is well.
const PATIENCE_AT_LAST: Duration = Duration::from_secs(900);
/// Sectors of one read.
const READ_SECTORS: u64 = 256;

/// What somebody may make a clone of, and what that shows.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    pub(super) volume: String,
    pub(super) snapshot: String,
    pub(super) values: Vec<u32>,
}

/// A clone, and what each of its sectors may show when it is attached anew.
#[derive(Clone, Debug)]
struct Clone {
    name: String,
    possible: Vec<Vec<u32>>,
    pictures: Vec<Pattern>,
}

/// What one attach has seen and done.
struct Session {
    /// What a sector shows, where that is known.
    current: Vec<Option<u32>>,
    /// Some write to it may take effect at any time.
    is_wild: Vec<bool>,
}

/// See the module.
pub(super) struct Cloner {
    process: Process,
    lab: Rc<Lab>,
}

struct Lab {
    reactor: Reactor,
    road: Road,
    record: Record,
    album: Rc<Album>,
    shape: Shape,
    clones: RefCell<Vec<Clone>>,
    rng: RefCell<Rng>,
    made: RefCell<u32>,
    written: RefCell<u32>,
}

impl Cluster {
    /// From now on somebody makes clones of the keeper's snapshots.
    pub(super) fn start_cloner(&mut self, album: &Rc<Album>) {
        let process = self.world.process("cloner", host(USER_HOST));
        let reactor = process.reactor().clone();
        let road = Road {
            reactor: reactor.clone(),
            host: host(USER_HOST),
            conductor: Rc::clone(&self.conductor),
        };
        let lab = Rc::new(Lab {
            reactor: reactor.clone(),
            road,
            record: self.record.clone(),
            album: Rc::clone(album),
            shape: self.shape,
            clones: RefCell::default(),
            rng: RefCell::new(self.rng.fork()),
            made: RefCell::default(),
            written: RefCell::new(FIRST_VALUE),
        });
        drop(reactor.spawn(Rc::clone(&lab).go_on()));
        self.cloner = Some(Cloner { process, lab });
    }
}

impl Cloner {
    /// It does no more.
    pub(super) fn stop(&self) {
        self.process.crash();
    }

    /// Reads all that is left: all is well, so that must succeed.
    pub(super) async fn look_at_all(&self, world: &World) -> Result<(), String> {
        let process = world.process("cloner-at-last", host(USER_HOST));
        let reactor = process.reactor().clone();
        let lab = Rc::new(Lab {
            reactor: reactor.clone(),
            road: Road {
                reactor,
                ..self.lab.road.clone()
            },
            record: self.lab.record.clone(),
            album: Rc::clone(&self.lab.album),
            shape: self.lab.shape,
            clones: RefCell::new(self.lab.clones.take()),
            rng: RefCell::new(self.lab.rng.borrow_mut().fork()),
            made: RefCell::default(),
            written: RefCell::default(),
        });
        let looking = async move { lab.look_at_all().await };
        let looked = finish(world, &process, PATIENCE_AT_LAST, looking).await?;
        process.crash();
        looked
    }
}

impl Session {
    fn new(sectors: usize) -> Self {
        Self {
            current: vec![None; sectors],
            is_wild: vec![false; sectors],
        }
    }
}

fn offset(sectors: &Range<u64>) -> u64 {
    sectors.start * SECTOR_BYTES as u64
}

fn length(sectors: &Range<u64>) -> u64 {
    (sectors.end - sectors.start) * SECTOR_BYTES as u64
}

fn indices(sectors: &Range<u64>) -> Range<usize> {
    let narrow = |sector| usize::try_from(sector).unwrap_or(usize::MAX);
    narrow(sectors.start)..narrow(sectors.end)
}

impl Lab {
    fn chance(&self, per_million: u32) -> bool {
        self.rng.borrow_mut().chance(per_million)
    }

    fn index(&self, len: usize) -> usize {
        self.rng.borrow_mut().index(len)
    }

    fn fail(&self, what: String) {
        self.record.fail(what);
    }

    async fn go_on(self: Rc<Self>) {
        loop {
            let pause = self.rng.borrow_mut().between(1, PAUSE_MS_MAX);
            self.reactor.sleep(Duration::from_millis(pause)).await;
            let drawn = self.rng.borrow_mut().below(100);
            match drawn {
                0..25 => self.make().await,
                25..75 => self.use_some().await,
                75..85 => self.look_at_picture().await,
                85..93 => self.flatten().await,
                _ => self.delete().await,
            }
        }
    }

    async fn ask<T, F>(&self, deed: impl FnOnce(SimCluster) -> F) -> Result<T, CallError>
    where
        T: 'static,
        F: Future<Output = Result<T, ashlar_conductor::ClusterError>> + 'static,
    {
        self.road.ask(ANSWER_MAX, deed).await
    }

    fn draw(&self) -> Option<Clone> {
        let all = self.clones.borrow();
        if all.is_empty() {
            return None;
        }
        let at = self.index(all.len());
        Some(all[at].clone())
    }

    fn with<T>(&self, name: &str, change: impl FnOnce(&mut Clone) -> T) -> Option<T> {
        let mut all = self.clones.borrow_mut();
        all.iter_mut().find(|clone| clone.name == name).map(change)
    }

    async fn make(&self) {
        if self.clones.borrow().len() >= ALIVE_MAX {
            return;
        }
        let mut patterns = self.album.patterns(VOLUME_NAME);
        patterns.extend(self.pictures());
        if patterns.is_empty() {
            return;
        }
        let pattern = patterns.swap_remove(self.index(patterns.len()));
        self.made.replace_with(|made| *made + 1);
        let name = format!("c{}", self.made.borrow());
        let request = CloneSnapshot {
            name: name.clone(),
            size_bytes: None,
            replicas: None,
            ack: None,
        };
        let (volume, snapshot) = (pattern.volume, pattern.snapshot);
        let asked = self
            .ask(async move |cluster: SimCluster| {
                let made = cluster.clone_snapshot(volume, snapshot, request, Duration::ZERO);
                made.await.map(drop)
            })
            .await;
        if asked.is_ok() {
            let possible = pattern.values.iter().map(|value| vec![*value]).collect();
            self.clones.borrow_mut().push(Clone {
                name,
                possible,
                pictures: Vec::new(),
            });
        }
    }

    /// The snapshots of all clones.
    fn pictures(&self) -> Vec<Pattern> {
        let all = self.clones.borrow();
        all.iter()
            .flat_map(|clone| clone.pictures.clone())
            .collect()
    }

    async fn flatten(&self) {
        let Some(clone) = self.draw() else { return };
        let stop = self.chance(100_000);
        let asked = self.ask(async move |cluster: SimCluster| {
            let request = FlattenVolume { stop };
            let flattened = cluster.flatten(clone.name, request, Duration::ZERO);
            flattened.await.map(drop)
        });
        drop(asked.await);
    }

    async fn delete(&self) {
        let Some(clone) = self.draw() else { return };
        if !clone.pictures.is_empty() && self.chance(700_000) {
            let picture = clone.pictures[self.index(clone.pictures.len())].clone();
            let name = picture.snapshot.clone();
            self.with(&clone.name, |clone| {
                clone.pictures.retain(|other| other.snapshot != name);
            });
            let when_unused = self.chance(500_000);
            let asked = self.ask(async move |cluster: SimCluster| {
                let (volume, snapshot) = (picture.volume, picture.snapshot);
                let wait = Duration::ZERO;
                cluster
                    .delete_snapshot(volume, snapshot, when_unused, wait)
                    .await
            });
            drop(asked.await);
            return;
        }
        let name = clone.name.clone();
        let asked = self.ask(async move |cluster: SimCluster| {
            cluster.delete(name, true, Duration::ZERO).await.map(drop)
        });
        // Where it is refused, it stays: its snapshots have clones.
        if !matches!(asked.await, Err(CallError::Refused(_))) {
            self.clones
                .borrow_mut()
                .retain(|other| other.name != clone.name);
        }
    }

    async fn attach(&self, name: &str) -> Option<Volume> {
        let source = ConductorSource::new(self.road.clone());
        let mut options = VolumeOptions::new("cloner");
        options.attach_timeout = PATIENCE;
        options.io_timeout = Duration::from_secs(5);
        let attached = Volume::attach(&self.reactor, source, name, options).await;
        attached.ok()
    }

    async fn use_some(&self) {
        let Some(clone) = self.draw() else { return };
        let name = &clone.name;
        let Some(volume) = self.attach(name).await else {
            return;
        };
        let mut session = Session::new(clone.possible.len());
        let requests = self.rng.borrow_mut().between(1, REQUESTS_MAX);
        for _ in 0..requests {
            let request = self.request(&volume, name, &mut session);
            match self.reactor.timeout(PATIENCE, request).await {
                Ok(Err(BlockError::Fenced | BlockError::Detached)) | Err(_) => return,
                Ok(_) => {}
            }
        }
        if self.chance(200_000) {
            self.take_picture(&volume, name, &session).await;
        }
        if self.chance(500_000) && volume.detach().await.is_ok() {
            self.note_flushed(name, &session);
        }
    }

    async fn request(
        &self,
        volume: &Volume,
        name: &str,
        session: &mut Session,
    ) -> Result<(), BlockError> {
        let shape = Shape {
            sectors: sectors_of(volume),
            ..self.shape
        };
        let sectors = shape.range(&mut self.rng.borrow_mut());
        let drawn = self.rng.borrow_mut().below(100);
        match drawn {
            0..45 => self.read(volume, name, session, sectors).await,
            45..80 => self.write(volume, name, session, sectors).await,
            80..90 => self.zero(volume, name, session, sectors).await,
            _ => {
                volume.flush().await?;
                self.note_flushed(name, session);
                Ok(())
            }
        }
    }

    /// What was acknowledged is durable now.
    fn note_flushed(&self, name: &str, session: &Session) {
        self.with(name, |clone| {
            let states = session.current.iter().zip(&session.is_wild);
            for (possible, (current, is_wild)) in clone.possible.iter_mut().zip(states) {
                if let Some(value) = current.filter(|_| !is_wild) {
                    *possible = vec![value];
                }
            }
        });
    }

    /// Something is about to be written to sectors: from now on it may be there.
    fn note_begun(&self, name: &str, session: &mut Session, sectors: &Range<u64>, value: u32) {
        for at in indices(sectors) {
            session.is_wild[at] = true;
        }
        self.with(name, |clone| {
            for possible in &mut clone.possible[indices(sectors)] {
                if !possible.contains(&value) {
                    possible.push(value);
                }
            }
        });
    }

    async fn write(
        &self,
        volume: &Volume,
        name: &str,
        session: &mut Session,
        sectors: Range<u64>,
    ) -> Result<(), BlockError> {
        let value = self.written.replace_with(|written| *written + 1);
        let mut buffer = self
            .reactor
            .buffer(usize::try_from(length(&sectors)).unwrap_or(0));
        fill(value, sectors.start, &mut buffer);
        let was_wild: Vec<bool> = session.is_wild[indices(&sectors)].to_vec();
        self.note_begun(name, session, &sectors, value);
        volume
            .write(offset(&sectors), buffer, Durability::Accepted)
            .await?;
        note_done(session, &sectors, &was_wild, value);
        Ok(())
    }

    async fn zero(
        &self,
        volume: &Volume,
        name: &str,
        session: &mut Session,
        sectors: Range<u64>,
    ) -> Result<(), BlockError> {
        let trims = self.chance(500_000);
        let sectors = if trims {
            let first = sectors.start.next_multiple_of(SECTORS_PER_BLOCK);
            let last = sectors.end - sectors.end % SECTORS_PER_BLOCK;
            first..last.max(first)
        } else {
            sectors
        };
        if sectors.is_empty() {
            return Ok(());
        }
        let was_wild: Vec<bool> = session.is_wild[indices(&sectors)].to_vec();
        self.note_begun(name, session, &sectors, 0);
        let (at, len, how) = (offset(&sectors), length(&sectors), Durability::Accepted);
        if trims {
            volume.trim(at, len, how).await?;
        } else {
            volume.write_zeroes(at, len, ZeroMode::Unmap, how).await?;
        }
        note_done(session, &sectors, &was_wild, 0);
        Ok(())
    }

    async fn read(
        &self,
        volume: &Volume,
        name: &str,
        session: &mut Session,
        sectors: Range<u64>,
    ) -> Result<(), BlockError> {
        let len = u32::try_from(length(&sectors)).unwrap_or(u32::MAX);
        let pieces = volume.read(offset(&sectors), len).await?;
        let data: Vec<u8> = pieces.iter().flat_map(|piece| piece.to_vec()).collect();
        let Some(values) = self.values(sectors.start, &data) else {
            return Ok(());
        };
        let Some(possible) = self.with(name, |clone| clone.possible[indices(&sectors)].to_vec())
        else {
            return Ok(());
        };
        for ((at, value), possible) in indices(&sectors).zip(values).zip(possible) {
            let known = session.current[at].filter(|_| !session.is_wild[at]);
            if known.is_some_and(|known| known != value) || !possible.contains(&value) {
                self.fail(format!(
                    "clone {name} shows {value} in sector {at}, where it should show {known:?} of \
                     {possible:?}"
                ));
                return Ok(());
            }
            if !session.is_wild[at] {
                session.current[at] = Some(value);
            }
        }
        Ok(())
    }

    /// What sectors show; none where that is no data of this place.
    fn values(&self, first: u64, data: &[u8]) -> Option<Vec<u32>> {
        let mut values = Vec::new();
        for (sector, bytes) in (first..).zip(data.chunks(SECTOR_BYTES)) {
            let found = pattern_of(bytes);
            let is_here =
                |&(number, block): &(u64, u64)| number == 0 || block == sector / SECTORS_PER_BLOCK;
            let Some((number, _)) = found.filter(is_here) else {
                self.fail(format!("a clone shows {found:?} in sector {sector}"));
                return None;
            };
            values.push(u32::try_from(number).unwrap_or(u32::MAX));
        }
        Some(values)
    }

    /// Reads all of a device.
    async fn read_all(&self, device: &impl BlockDevice) -> Result<Option<Vec<u32>>, BlockError> {
        let mut values = Vec::new();
        let mut sector = 0;
        let end = sectors_of(device);
        while sector < end {
            let sectors = sector..(sector + READ_SECTORS).min(end);
            let len = u32::try_from(length(&sectors)).unwrap_or(u32::MAX);
            let pieces = device.read(offset(&sectors), len).await?;
            let data: Vec<u8> = pieces.iter().flat_map(|piece| piece.to_vec()).collect();
            let Some(read) = self.values(sector, &data) else {
                return Ok(None);
            };
            values.extend(read);
            sector = sectors.end;
        }
        Ok(Some(values))
    }

    /// Keeps a clone as it is: nobody else writes to it.
    async fn take_picture(&self, volume: &Volume, name: &str, session: &Session) {
        if session.is_wild.contains(&true) {
            return;
        }
        let Ok(Ok(Some(values))) = self.reactor.timeout(PATIENCE, self.read_all(volume)).await
        else {
            return;
        };
        self.made.replace_with(|made| *made + 1);
        let snapshot = format!("p{}", self.made.borrow());
        let request = CreateSnapshot {
            name: snapshot.clone(),
        };
        let of = name.to_owned();
        let asked = self.ask(async move |cluster: SimCluster| {
            let made = cluster.create_snapshot(of, request, 0, Duration::ZERO);
            made.await.map(drop)
        });
        if asked.await.is_ok() {
            let picture = Pattern {
                volume: name.to_owned(),
                snapshot,
                values,
            };
            self.with(name, |clone| clone.pictures.push(picture));
        }
    }

    async fn open(&self, picture: &Pattern) -> Option<Snapshot> {
        let source = ConductorSource::new(self.road.clone());
        let mut options = VolumeOptions::new("cloner");
        options.attach_timeout = PATIENCE;
        options.io_timeout = Duration::from_secs(4);
        let (volume, snapshot) = (&picture.volume, &picture.snapshot);
        let opened = Snapshot::open(&self.reactor, source, volume, snapshot, options);
        opened.await.ok()
    }

    async fn look_at_picture(&self) {
        let Some(clone) = self.draw().filter(|clone| !clone.pictures.is_empty()) else {
            return;
        };
        let picture = &clone.pictures[self.index(clone.pictures.len())];
        let Some(opened) = self.open(picture).await else {
            return;
        };
        let reading = self.read_all(&opened);
        if let Ok(Ok(Some(values))) = self.reactor.timeout(PATIENCE, reading).await {
            self.compare(picture, &values);
        }
    }

    fn compare(&self, picture: &Pattern, values: &[u32]) {
        let differs = (0..values.len()).find(|&at| values.get(at) != picture.values.get(at));
        if let Some(at) = differs {
            let (volume, snapshot) = (&picture.volume, &picture.snapshot);
            self.fail(format!(
                "snapshot {volume}@{snapshot} of a clone shows {} in sector {at}, not {:?}",
                values[at],
                picture.values.get(at)
            ));
        }
    }

    async fn look_at_all(&self) -> Result<(), String> {
        let clones = self.clones.borrow().clone();
        for clone in clones {
            let name = clone.name.clone();
            let volume = loop {
                if let Some(volume) = self.attach(&name).await {
                    break volume;
                }
                let source = ConductorSource::new(self.road.clone());
                if let Err(SourceError::NotFound) = source.map(&name, Revision::default()).await {
                    return Err(format!("clone {name} is gone"));
                }
                self.reactor.sleep(Duration::from_millis(200)).await;
            };
            let values = self.read_all(&volume).await;
            let values = values.map_err(|error| format!("clone {name} cannot be read: {error}"))?;
            for (at, value) in values.into_iter().flatten().enumerate() {
                if !clone.possible[at].contains(&value) {
                    let possible = &clone.possible[at];
                    return Err(format!(
                        "clone {name} shows {value} in sector {at} in the end, not one of {possible:?}"
                    ));
                }
            }
            for picture in &clone.pictures {
                let opened = self.open(picture).await;
                let opened = opened.ok_or_else(|| format!("{picture:?} cannot be opened"))?;
                let values = self.read_all(&opened).await;
                let values =
                    values.map_err(|error| format!("{picture:?} cannot be read: {error}"))?;
                self.compare(picture, &values.unwrap_or_default());
            }
            let detached = volume.detach().await;
            detached.map_err(|error| format!("clone {name} cannot be detached: {error}"))?;
        }
        Ok(())
    }
}

/// A write is acknowledged; sectors to which an earlier one may still come stay so.
fn note_done(session: &mut Session, sectors: &Range<u64>, was_wild: &[bool], value: u32) {
    for (at, was_wild) in indices(sectors).zip(was_wild) {
        session.is_wild[at] = *was_wild;
        session.current[at] = Some(value);
    }
}
