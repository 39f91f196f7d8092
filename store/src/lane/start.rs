//! From a formatted part of a disk to a lane that serves.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use ashlar_proto::limits::BLOCK_BYTES_U64;
use ashlar_proto::{BLOCK_BYTES, Incarnation, LaneIndex, Lsn};
use ashlar_reactor::{DetachedDisk, Disk, DiskError, Reactor};

use crate::disk::layout::LaneLayout;
use crate::lane::core::{Core, CoreRc, Events, FlushTurns};
use crate::lane::error::RecoveryError;
use crate::lane::handle::Lane;
use crate::lane::options::LaneOptions;
use crate::lane::pace::Pace;
use crate::lane::planted::Bug;
use crate::lane::recovery::Recovery;
use crate::lane::scan::Device;
use crate::lane::segment::Segment;
use crate::lane::signal::Turnstile;
use crate::lane::slot::Slot;
use crate::lane::state::State;

/// Segments that the first slots name.
const FIRST_NAMED: u32 = 256;

/// Writes the two slots of an empty lane.
pub(crate) async fn format_lane(
    reactor: &Reactor,
    disk: &Disk,
    layout: LaneLayout,
) -> Result<(), DiskError> {
    for number in [1, 2] {
        let slot = Slot {
            number,
            from: Lsn::new(1),
            next_lsn: Lsn::new(1),
            durable: Lsn::new(0),
            next_order: 1,
            next_handle: 1,
            incarnation: Incarnation::new(0),
            clean: true,
            gaps: Vec::new(),
            segments: vec![Segment::NEVER_USED; layout.segments as usize],
            named: (0..layout.segments.min(FIRST_NAMED)).collect(),
            shards: Vec::new(),
            roots: Vec::new(),
            spaces: Vec::new(),
        };
        let bytes = slot.encode();
        let mut buffer = reactor.buffer(bytes.len());
        buffer.copy_from_slice(&bytes);
        let offset = layout.slot_offsets[usize::from(number % 2 == 1)];
        disk.write(offset, vec![buffer.freeze()]).await?;
    }
    debug_assert!(BLOCK_BYTES as u64 == BLOCK_BYTES_U64);
    disk.flush().await
}

/// A lane whose log has not been read yet.
#[derive(Debug)]
pub struct UnrecoveredLane {
    pub(crate) index: LaneIndex,
    pub(crate) device: Device,
}

/// A lane on its way to another thread.
#[derive(Debug)]
pub struct DetachedLane {
    index: LaneIndex,
    layout: LaneLayout,
    disk: DetachedDisk,
}

impl DetachedLane {
    /// The lane, to be recovered and served by `reactor`.
    #[must_use]
    pub fn adopt(self, reactor: &Reactor) -> UnrecoveredLane {
        UnrecoveredLane {
            index: self.index,
            device: Device {
                reactor: reactor.clone(),
                disk: reactor.adopt_disk(self.disk),
                layout: self.layout,
            },
        }
    }
}

impl UnrecoveredLane {
    /// Its position on the disk.
    #[must_use]
    pub fn index(&self) -> LaneIndex {
        self.index
    }

    /// Makes it ready to be recovered and served by a reactor on another thread.
    ///
    /// # Errors
    /// [`DiskError::Open`]: the process has too many open files.
    pub fn detach(self) -> Result<DetachedLane, DiskError> {
        Ok(DetachedLane {
            index: self.index,
            layout: self.device.layout,
            disk: self.device.disk.share()?,
        })
    }

    /// Recovers it as its defaults say.
    ///
    /// # Errors
    /// [`RecoveryError`] when its slots cannot be read or the device fails.
    pub async fn recover(self) -> Result<Lane, RecoveryError> {
        self.recover_with(LaneOptions::default()).await
    }

    /// Reads the newest slot and the log behind it; then begins a new incarnation, flushes, takes
    /// two checkpoints, and only now returns a lane that answers.
    ///
    /// # Errors
    /// [`RecoveryError`] when its slots cannot be read or the device fails.
    pub async fn recover_with(self, options: LaneOptions) -> Result<Lane, RecoveryError> {
        let volatile = self.device.disk.geometry().volatile_cache;
        let recovery = Recovery::new(self.device.clone(), self.index, &options, volatile);
        let state = recovery.run().await?;
        let core = self.core(state, options, volatile);
        let lane = self.index.get();
        spawn_parts(&core);
        if !core.has_bug(Bug::NoRecoveryFlush) {
            let failed = |_| RecoveryError::Device { lane };
            // What completed before the crash and was not flushed must not leave any more.
            let flushed = core.disk.flush().await;
            flushed.map_err(|_| RecoveryError::Device { lane })?;
            core.flush().await.map_err(failed)?;
            for _ in 0..2 {
                core.checkpoint(false).await.map_err(failed)?;
            }
        } else {
            core.settle_without_slots();
        }
        core.events.sweep_wanted.raise();
        core.events.purge_wanted.raise();
        Ok(Lane::over(core))
    }

    fn core(&self, state: State, options: LaneOptions, volatile: bool) -> CoreRc {
        let geometry = self.device.disk.geometry();
        Rc::new(Core {
            index: self.index,
            reactor: self.device.reactor.clone(),
            disk: self.device.disk.clone(),
            layout: self.device.layout,
            planted: options.planted(),
            options,
            volatile,
            is_file: !geometry.is_block_device,
            state: RefCell::new(state),
            pace: Pace::default(),
            events: Events::default(),
            flushes: FlushTurns::default(),
            checkpoints: Turnstile::default(),
            fold_through: Cell::new(0),
            checkpoints_asked: Cell::new(0),
            stopped: Cell::new(false),
        })
    }
}

fn spawn_parts(core: &CoreRc) {
    let reactor = &core.reactor;
    drop(reactor.spawn(core.clone().run_opener()));
    drop(reactor.spawn(core.clone().run_checkpoints()));
    drop(reactor.spawn(core.clone().run_sweep()));
    drop(reactor.spawn(core.clone().run_relief()));
    drop(reactor.spawn(core.clone().run_collector()));
    drop(reactor.spawn(core.clone().run_purge()));
    drop(reactor.spawn(core.clone().run_idle_marks()));
}

impl Core {
    /// The planted bug: serves at once what recovery found.
    fn settle_without_slots(&self) {
        let mut state = self.state.borrow_mut();
        let gaps = state.lsns.gaps_for_slot(Lsn::new(0));
        state.lsns.gaps_recorded(&gaps);
        let through = state.lsns.done_through();
        state.lsns.flushed_through(through);
    }
}

/// A lane of a disk that has been opened.
pub(crate) fn scan_device(
    reactor: &Reactor,
    disk: &Disk,
    layout: LaneLayout,
    index: LaneIndex,
) -> UnrecoveredLane {
    UnrecoveredLane {
        index,
        device: Device {
            reactor: reactor.clone(),
            disk: disk.clone(),
            layout,
        },
    }
}
