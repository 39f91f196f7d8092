//! The disks of a store: who they are, where their lanes are served, how they stand.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;

use ashlar_proto::api::{Ailing, DiskReport, Incident};
use ashlar_proto::{ByteCount, ClusterId, DiskId};
use ashlar_reactor::future::join_all;
use ashlar_reactor::{DiskOptions, Reactor};

use crate::ailing::{AilingWatch, Evidence};
use crate::disk::{UnrecoveredDisk, open_disk};
use crate::health::DiskHealth;
use crate::report;
use crate::service::StartStoreError;
use crate::worker::LaneReport;

/// A disk of the store.
pub(crate) struct DiskEntry {
    pub(crate) id: DiskId,
    pub(crate) path: String,
    pub(crate) lanes: u16,
    pub(crate) size: ByteCount,
    pub(crate) volatile_cache: bool,
    /// Of each lane, which worker serves it.
    pub(crate) places: RefCell<Vec<usize>>,
    /// `None` while it is being given to a cluster.
    pub(crate) disk: RefCell<Option<UnrecoveredDisk>>,
    pub(crate) superblocks_damaged: u64,
    pub(crate) cluster: Cell<Option<ClusterId>>,
    pub(crate) health: Arc<DiskHealth>,
    pub(crate) watch: RefCell<AilingWatch>,
}

impl DiskEntry {
    /// Gives it to a cluster, durably.
    pub(crate) async fn join(&self, cluster: ClusterId) {
        let Some(mut disk) = self.disk.take() else {
            return;
        };
        match disk.set_cluster(cluster).await {
            Ok(()) => self.cluster.set(Some(cluster)),
            Err(error) => self.health.fail(error.to_string()),
        }
        self.disk.replace(Some(disk));
    }

    /// How it stands, from its lanes.
    pub(crate) fn report(&self, lanes: &[LaneReport], reactor: &Reactor) -> DiskReport {
        let sum = |bytes: fn(&LaneReport) -> ByteCount| {
            ByteCount::new(lanes.iter().map(|lane| bytes(lane).get()).sum())
        };
        let mut damage = report::damage(lanes);
        if self.superblocks_damaged > 0 {
            damage.insert("superblock".to_owned(), self.superblocks_damaged);
        }
        DiskReport {
            id: self.id,
            path: self.path.clone(),
            lanes: self.lanes,
            usable_bytes: sum(|lane| lane.usage.usable),
            used_bytes: sum(|lane| lane.usage.used),
            volatile_cache: self.volatile_cache,
            damage,
            failed: self.health.failure().map(str::to_owned),
            ailing: self.judge(lanes, reactor),
            missing: report::missing(lanes),
            map: report::map(lanes),
            writes: report::writes(lanes),
            reserved_bytes: sum(|lane| lane.usage.reserved),
            unfilled_bytes: sum(|lane| lane.usage.unfilled),
            full: lanes.iter().any(|lane| lane.is_full),
            refused_writes: lanes.iter().map(|lane| lane.stats.refused).sum(),
            largest: report::largest(lanes),
        }
    }
}

impl DiskEntry {
    /// Whether it ails, by what its lanes have counted until now.
    fn judge(&self, lanes: &[LaneReport], reactor: &Reactor) -> Option<Ailing> {
        let mut evidence = Evidence::of(lanes);
        evidence.damage += self.superblocks_damaged;
        let mut watch = self.watch.borrow_mut();
        let ailing = watch.observe(reactor.now(), evidence, || {
            tracing::warn!(disk = %self.path, ?evidence,
                "the disk ails: its replicas are to move elsewhere");
            let random = u32::try_from(reactor.random_u64() >> 32);
            Incident(random.unwrap_or_default())
        });
        ailing.cloned()
    }
}

/// Opens every disk that can be identified; the others are told as sentences.
pub(crate) async fn open_disks(
    reactor: &Reactor,
    options: &[DiskOptions],
) -> Result<(BTreeMap<DiskId, DiskEntry>, Vec<String>), StartStoreError> {
    let mut disks: BTreeMap<DiskId, DiskEntry> = BTreeMap::new();
    let (mut unreadable, mut first) = (Vec::new(), None);
    let opening = options.iter().map(|disk| open_disk(reactor, disk.clone()));
    for (options, opened) in options.iter().zip(join_all(opening).await) {
        let path = options.path.display().to_string();
        let disk = match opened {
            Ok(disk) => disk,
            Err(error) => {
                tracing::error!(disk = %path, %error, "disk cannot be used");
                unreadable.push(format!("{path}: {error}"));
                first.get_or_insert(error);
                continue;
            }
        };
        let entry = DiskEntry {
            id: disk.disk(),
            lanes: disk.lanes(),
            size: disk.size(),
            volatile_cache: disk.has_volatile_cache(),
            superblocks_damaged: disk.damaged_superblocks(),
            cluster: Cell::new(disk.cluster()),
            health: Arc::new(DiskHealth::new(path.clone())),
            path,
            places: RefCell::default(),
            disk: RefCell::new(Some(disk)),
            watch: RefCell::new(AilingWatch::new(reactor.now())),
        };
        if let Some(other) = disks.get(&entry.id) {
            return Err(StartStoreError::SameDisk {
                disk: entry.id,
                path: entry.path,
                other: other.path.clone(),
            });
        }
        disks.insert(entry.id, entry);
    }
    match (disks.is_empty(), first) {
        (false, _) => Ok((disks, unreadable)),
        (true, Some(first)) => Err(StartStoreError::NoDisk { first }),
        (true, None) => Err(StartStoreError::NoDisks),
    }
}
