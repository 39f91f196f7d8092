//! The exports of the NBD server: every volume of the cluster, attached while somebody uses it, and
//! every snapshot as `VOLUME@SNAPSHOT`, read-only. A volume that is published to a node is there for that
//! node alone, as `VOLUME:PUBLICATION`. The iSCSI server has its volumes from here, too.
//!
//! Invariant: an export is attached at most once by this process, however many connections use it;
//! some moments after the last one closed it is detached, cleanly. An open that meets an attach or
//! a detach in progress waits for it and looks again.
//!
//! ```text
//!  (none) ── open ──▶ Changing ──▶ Open ── no lease for LINGER ──▶ Changing ──▶ (none)
//!                        │ failed    ▲ │ opened again
//!                        ▼           └─┘
//!                      (none)
//! ```

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::time::Duration;

use ashlar_client::{
    BlockDevice, BlockError, Durability, Geometry, Snapshot, Volume, VolumeHealth, VolumeOptions,
    ZeroMode,
};
use ashlar_nbd_server::{ChangesError, ExportCatalog, ExportDevice, ExportInfo, OpenError};
use ashlar_proto::api::{AttachServer, PublishedName, TakeVolume};
use ashlar_proto::message::Extent;
use ashlar_proto::{Layer, PortalGroup, VolumeId};
use ashlar_reactor::channel::Notify;
use ashlar_reactor::{Buffer, Reactor, SharedBuffer};

use crate::bitmaps::Bitmaps;
use crate::cluster_source::{self, HttpClusterSource};
use crate::exported::Exported;

/// How long a volume stays attached after its last user left: most tools look first and open again
/// at once to copy.
const LINGER: Duration = Duration::from_millis(200);

/// What is known of one export.
enum Entry {
    /// Being attached or detached: wait for the bell, then look again.
    Changing(Rc<Notify>),
    /// Attached; each user holds the lease.
    Open {
        device: Exported,
        lease: Weak<Lease>,
    },
}

struct Inner {
    reactor: Reactor,
    source: HttpClusterSource,
    options: VolumeOptions,
    entries: RefCell<HashMap<String, Entry>>,
    /// The portal group of the iSCSI server of this process, once it is known.
    server: Cell<Option<PortalGroup>>,
}

/// The volumes of a cluster as exports.
#[derive(Clone)]
pub struct VolumeCatalog(Rc<Inner>);

/// Held by every user of one attached volume; the last drop starts the detach.
struct Lease {
    catalog: Weak<Inner>,
    name: String,
}

/// A volume as a connection sees it; keeps it attached.
#[derive(Clone)]
pub struct ExportedVolume {
    device: Exported,
    bitmaps: Rc<Bitmaps>,
    _lease: Rc<Lease>,
}

impl VolumeCatalog {
    /// A catalog with nothing attached yet.
    pub fn new(reactor: &Reactor, source: HttpClusterSource, options: VolumeOptions) -> Self {
        let (reactor, entries) = (reactor.clone(), RefCell::default());
        Self(Rc::new(Inner {
            reactor,
            source,
            options,
            entries,
            server: Cell::new(None),
        }))
    }

    /// Whether an open may succeed now: it is attached, or the conductor knows of it and says so within
    /// `patience`.
    pub async fn may_open(&self, name: &str, patience: Duration) -> bool {
        let inner = &self.0;
        if let Some(Entry::Open { device, .. }) = inner.entries.borrow().get(name)
            && !device.is_over()
        {
            return true;
        }
        let asked = inner.source.export(name);
        let answer = inner.reactor.timeout(patience, asked).await;
        !matches!(answer, Err(_) | Ok(Err(OpenError::Unavailable)))
    }

    /// The volumes that are attached, by name, and how they fare.
    pub fn attached(&self) -> Vec<(String, VolumeHealth)> {
        let entries = self.0.entries.borrow();
        let health = |(name, entry): (&String, &Entry)| match entry {
            Entry::Open {
                device: Exported::Volume(volume),
                ..
            } => Some((name.clone(), volume.health())),
            _ => None,
        };
        let mut attached: Vec<_> = entries.iter().filter_map(health).collect();
        attached.sort_by(|a, b| a.0.cmp(&b.0));
        attached
    }

    /// This process is an iSCSI server, too: it says so when it attaches.
    pub fn set_server(&self, group: PortalGroup) {
        self.0.server.set(Some(group));
    }

    /// As [`ExportCatalog::open`]; with `take`, from another iSCSI server that has the volume in that
    /// generation. What this process has attached in an earlier one is over then.
    pub async fn open_from(
        &self,
        name: &str,
        take: Option<TakeVolume>,
    ) -> Result<ExportedVolume, OpenError> {
        let inner = &self.0;
        loop {
            if let Some(bell) = inner.change_in_progress(name) {
                bell.notified().await;
                continue;
            }
            if let Some(Entry::Open { device, lease }) = inner.entries.borrow_mut().get_mut(name)
                && !device.is_over()
                && take.is_none_or(|take| device.version() > take.generation.get())
            {
                let held = lease.upgrade().unwrap_or_else(|| new_lease(inner, name));
                *lease = Rc::downgrade(&held);
                return Ok(ExportedVolume::new(inner, device.clone(), held));
            }
            break;
        }
        let (bell, _) = inner.begin_change(name);
        let opened = match inner.device(name, take).await {
            Ok(device) => {
                let held = new_lease(inner, name);
                let entry = Entry::Open {
                    device: device.clone(),
                    lease: Rc::downgrade(&held),
                };
                inner.entries.borrow_mut().insert(name.to_owned(), entry);
                Ok(ExportedVolume::new(inner, device, held))
            }
            Err(error) => {
                tracing::warn!(volume = name, %error, "cannot open");
                inner.entries.borrow_mut().remove(name);
                Err(error)
            }
        };
        bell.notify_all();
        opened
    }

    /// What is wrong with a publication of which a conductor does not know: that is for the leading one to
    /// say, which an attach asks. Another may answer as of a moment ago, and who has the volume would be
    /// turned away for good.
    pub async fn refusal_of_published(&self, name: &str) -> OpenError {
        // It runs to its end, also where who asks goes: what is being opened is nobody else's to open.
        let (catalog, name) = (self.clone(), name.to_owned());
        let opening = async move { catalog.open_from(&name, None).await };
        match self.0.reactor.spawn(opening).await {
            Err(error) => error,
            Ok(_) => OpenError::Unavailable,
        }
    }

    /// Detaches every volume, used or not; for the end of the process.
    pub async fn detach_all(&self) {
        loop {
            let next = self.0.entries.borrow().keys().next().cloned();
            let Some(name) = next else { return };
            self.0.detach(&name).await;
        }
    }
}

impl Inner {
    /// Attaches a volume, or opens a snapshot.
    async fn device(&self, name: &str, take: Option<TakeVolume>) -> Result<Exported, OpenError> {
        let (reactor, source) = (&self.reactor, self.source.clone());
        let mut options = self.options.clone();
        let server = self.server.get();
        options.server = server.map(|group| AttachServer { group, take });
        if let Some((volume, snapshot)) = name.split_once('@') {
            let opened = Snapshot::open(reactor, source, volume, snapshot, options).await;
            let opened = opened.map(Exported::Snapshot);
            return opened.map_err(|error| cluster_source::open_snapshot_error(&error));
        }
        let published: Option<PublishedName> = name.parse().ok();
        options.publication = published.as_ref().map(|named| named.publication);
        let volume = published.as_ref().map_or(name, |named| &named.volume);
        let attached = Volume::attach(reactor, source, volume, options).await;
        let attached = attached.map(Exported::Volume);
        attached.map_err(|error| cluster_source::open_error(&error))
    }

    /// The bell of a change in progress, if there is one.
    fn change_in_progress(&self, name: &str) -> Option<Rc<Notify>> {
        match self.entries.borrow().get(name) {
            Some(Entry::Changing(bell)) => Some(Rc::clone(bell)),
            _ => None,
        }
    }

    /// Marks the export as changing and gives what it was.
    fn begin_change(&self, name: &str) -> (Rc<Notify>, Option<Entry>) {
        let bell = Rc::new(Notify::new());
        let entry = Entry::Changing(Rc::clone(&bell));
        let before = self.entries.borrow_mut().insert(name.to_owned(), entry);
        (bell, before)
    }

    async fn detach(&self, name: &str) {
        while let Some(bell) = self.change_in_progress(name) {
            bell.notified().await;
        }
        if !self.entries.borrow().contains_key(name) {
            return;
        }
        let (bell, before) = self.begin_change(name);
        if let Some(Entry::Open { device, .. }) = before
            && let Err(error) = device.let_go().await
        {
            tracing::warn!(volume = name, %error, "detach was not clean: the next attach settles it");
        }
        self.entries.borrow_mut().remove(name);
        bell.notify_all();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(catalog) = self.catalog.upgrade() else {
            return;
        };
        let name = self.name.clone();
        let reactor = catalog.reactor.clone();
        reactor.spawn(async move {
            catalog.reactor.sleep(LINGER).await;
            let unused = match catalog.entries.borrow().get(&name) {
                Some(Entry::Open { lease, .. }) => lease.strong_count() == 0,
                _ => false,
            };
            if unused {
                catalog.detach(&name).await;
            }
        });
    }
}

impl ExportCatalog for VolumeCatalog {
    type Device = ExportedVolume;

    async fn list(&self) -> Result<Vec<ExportInfo>, OpenError> {
        self.0.source.exports().await
    }

    async fn find(&self, name: &str) -> Result<ExportInfo, OpenError> {
        match self.0.source.export(name).await {
            Err(OpenError::Unknown | OpenError::Denied)
                if name.parse::<PublishedName>().is_ok() =>
            {
                Err(self.refusal_of_published(name).await)
            }
            found => found,
        }
    }

    async fn bitmaps(&self, name: &str) -> Result<Vec<String>, OpenError> {
        self.0.source.bitmaps(name).await
    }

    async fn open(&self, name: &str) -> Result<ExportedVolume, OpenError> {
        self.open_from(name, None).await
    }
}

impl ExportedVolume {
    fn new(inner: &Inner, device: Exported, lease: Rc<Lease>) -> Self {
        let bitmaps = Bitmaps::new(&inner.reactor, &inner.source, &lease.name);
        Self {
            device,
            bitmaps: Rc::new(bitmaps),
            _lease: lease,
        }
    }

    /// The generation of its attach; of a snapshot, its layer.
    pub fn version(&self) -> u32 {
        self.device.version()
    }

    /// What it is, whatever it is called: a volume, or the snapshot of one at a layer.
    pub fn identity(&self) -> (VolumeId, Option<Layer>) {
        match &self.device {
            Exported::Volume(volume) => (volume.id(), None),
            Exported::Snapshot(snapshot) => {
                let info = snapshot.info();
                (info.volume, Some(info.layer))
            }
        }
    }
}

fn new_lease(inner: &Rc<Inner>, name: &str) -> Rc<Lease> {
    Rc::new(Lease {
        catalog: Rc::downgrade(inner),
        name: name.to_owned(),
    })
}

impl BlockDevice for ExportedVolume {
    fn geometry(&self) -> Geometry {
        self.device.geometry()
    }

    async fn read(&self, offset: u64, len: u32) -> Result<Vec<SharedBuffer>, BlockError> {
        self.device.read(offset, len).await
    }

    async fn write(
        &self,
        offset: u64,
        data: Buffer,
        durability: Durability,
    ) -> Result<(), BlockError> {
        self.device.write(offset, data, durability).await
    }

    async fn write_zeroes(
        &self,
        offset: u64,
        len: u64,
        mode: ZeroMode,
        durability: Durability,
    ) -> Result<(), BlockError> {
        self.device
            .write_zeroes(offset, len, mode, durability)
            .await
    }

    async fn trim(&self, offset: u64, len: u64, durability: Durability) -> Result<(), BlockError> {
        self.device.trim(offset, len, durability).await
    }

    async fn flush(&self) -> Result<(), BlockError> {
        self.device.flush().await
    }

    async fn extents(
        &self,
        offset: u64,
        len: u64,
        extents_max: usize,
    ) -> Result<Vec<Extent>, BlockError> {
        self.device.extents(offset, len, extents_max).await
    }
}

impl ExportDevice for ExportedVolume {
    async fn changes(
        &self,
        bitmap: &str,
        offset: u64,
        len: u64,
        extents_max: usize,
    ) -> Result<Vec<Extent>, ChangesError> {
        let (device, range) = (&self.device, (offset, len));
        self.bitmaps
            .changes(device, bitmap, range, extents_max)
            .await
    }
}
