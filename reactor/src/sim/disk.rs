//! The disks of a world: requests in flight, latencies, locks, and the handle that tests hold.
//!
//! A request takes effect on the device when its latency has passed, and completes at once then;
//! until that moment a crash may let any part of a write happen. Latencies are drawn one by one,
//! so requests complete in any order.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use super::core::{Event, ProcessId, State};
use super::device::{Device, DiskCounters, MediaError};
use super::fault::DiskFaults;
use super::media::{PAGE_BYTES, Page};
use super::net::Host;
use super::world::Core;
use crate::disk::{CachePolicy, DiskGeometry, DiskOptions};
use crate::driver::{Completion, DiskHandle, Outcome, Token};
use crate::{Buffer, DiskError, OsError, SharedBuffer};

/// Of a million requests, how many take twenty times as long.
const TAIL_PER_MILLION: u32 = 5_000;

/// What a simulated disk is like.
#[derive(Clone, Copy, Debug)]
pub struct DiskSpec {
    /// Size in bytes.
    pub bytes: u64,
    /// Whether completed writes may be lost until they are flushed.
    pub volatile_cache: bool,
    /// Whether it is a block device (with discard) and not a file.
    pub is_block_device: bool,
    /// Shortest time of a request; up to as much again is drawn on top.
    pub latency: Duration,
    /// Time of a flush.
    pub flush_latency: Duration,
    /// Bytes per second that it moves at most.
    pub bytes_per_second: u64,
}

impl DiskSpec {
    /// A fast NVMe drive of this size with a volatile cache.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        Self {
            bytes,
            volatile_cache: true,
            is_block_device: true,
            latency: Duration::from_micros(20),
            flush_latency: Duration::from_micros(500),
            bytes_per_second: 2 << 30,
        }
    }

    /// The same with a cache that survives power losses.
    #[must_use]
    pub fn write_through(bytes: u64) -> Self {
        Self {
            volatile_cache: false,
            ..Self::new(bytes)
        }
    }
}

enum Request {
    Read { offset: u64, buffer: Buffer },
    Write { offset: u64, pages: Vec<Page> },
    Flush { mark: u64 },
    Discard { offset: u64, len: u64 },
}

struct InFlight {
    process: ProcessId,
    handle: u32,
    token: Token,
    request: Request,
}

struct Holder {
    process: ProcessId,
    handle: u32,
    read_only: bool,
    closing: bool,
}

/// One disk of the world.
pub(super) struct DiskSlot {
    pub host: Host,
    pub path: PathBuf,
    pub spec: DiskSpec,
    pub device: Device,
    holders: Vec<Holder>,
    in_flight: BTreeMap<u64, InFlight>,
    busy_until_ns: u64,
}

impl DiskSlot {
    pub fn new(host: Host, path: &Path, spec: DiskSpec) -> Self {
        Self {
            host,
            path: path.to_owned(),
            spec,
            device: Device::new(spec.volatile_cache),
            holders: Vec::new(),
            in_flight: BTreeMap::new(),
            busy_until_ns: 0,
        }
    }

    fn release_closed(&mut self) {
        let in_flight = &self.in_flight;
        self.holders.retain(|holder| {
            let mut requests = in_flight.values();
            !holder.closing
                || requests.any(|r| (r.process, r.handle) == (holder.process, holder.handle))
        });
    }
}

impl State {
    pub fn open_disk(
        &mut self,
        process: ProcessId,
        options: &DiskOptions,
    ) -> Result<(DiskHandle, DiskGeometry), DiskError> {
        let path = || options.path.clone();
        let host = self.process(process).host;
        let found = |slot: &DiskSlot| slot.host == host && slot.path == options.path;
        let Some(index) = self.disks.iter().position(found) else {
            return Err(DiskError::Open {
                path: path(),
                error: OsError::from_errno(libc::ENOENT),
            });
        };
        let shared = |holder: &Holder| holder.read_only && options.read_only;
        if !self.disks[index].holders.iter().all(shared) {
            return Err(DiskError::InUse { path: path() });
        }
        let handle = self.hold(process, index, options.read_only);
        let spec = self.disks[index].spec;
        let geometry = DiskGeometry {
            size_bytes: spec.bytes,
            block_bytes: 4096,
            volatile_cache: match options.cache {
                CachePolicy::Detect => spec.volatile_cache,
                CachePolicy::Volatile => true,
                CachePolicy::WriteThrough => false,
            },
            is_block_device: spec.is_block_device,
            supports_discard: spec.is_block_device,
        };
        Ok((handle, geometry))
    }

    fn hold(&mut self, process: ProcessId, index: usize, read_only: bool) -> DiskHandle {
        let handle = self.process(process).handle();
        self.disks[index].holders.push(Holder {
            process,
            handle,
            read_only,
            closing: false,
        });
        DiskHandle(handle)
    }

    /// One more handle on a disk that the process holds.
    pub fn hold_disk(&mut self, process: ProcessId, index: usize) -> DiskHandle {
        let held = self.disks[index]
            .holders
            .iter()
            .find(|h| h.process == process);
        let read_only = held.is_none_or(|holder| holder.read_only);
        self.hold(process, index, read_only)
    }

    pub fn disk_of(&self, process: ProcessId, handle: u32) -> Option<usize> {
        let holds = |h: &Holder| h.process == process && h.handle == handle;
        self.disks
            .iter()
            .position(|slot| slot.holders.iter().any(holds))
    }

    pub fn close_disk(&mut self, process: ProcessId, handle: u32) {
        for slot in &mut self.disks {
            let holds = |h: &&mut Holder| h.process == process && h.handle == handle;
            if let Some(holder) = slot.holders.iter_mut().find(holds) {
                holder.closing = true;
            }
            slot.release_closed();
        }
    }

    pub fn read_disk(
        &mut self,
        process: ProcessId,
        handle: DiskHandle,
        token: Token,
        offset: u64,
        buffer: Buffer,
    ) {
        let bytes = wide(buffer.len());
        self.start(process, handle, token, bytes, |_| Request::Read {
            offset,
            buffer,
        });
    }

    pub fn write_disk(
        &mut self,
        process: ProcessId,
        handle: DiskHandle,
        token: Token,
        offset: u64,
        buffers: &[SharedBuffer],
    ) {
        let pieces = buffers.iter().flat_map(|buffer| buffer.chunks(PAGE_BYTES));
        let pages: Vec<Page> = pieces.map(Page::pack).collect();
        let bytes = wide(pages.len() * PAGE_BYTES);
        self.start(process, handle, token, bytes, |_| Request::Write {
            offset,
            pages,
        });
    }

    pub fn flush_disk(&mut self, process: ProcessId, handle: DiskHandle, token: Token) {
        self.start(process, handle, token, 0, |device| Request::Flush {
            mark: device.flush_mark(),
        });
    }

    pub fn discard_disk(
        &mut self,
        process: ProcessId,
        handle: DiskHandle,
        token: Token,
        offset: u64,
        len: u64,
    ) {
        self.start(process, handle, token, 0, |_| Request::Discard {
            offset,
            len,
        });
    }

    fn start(
        &mut self,
        process: ProcessId,
        handle: DiskHandle,
        token: Token,
        bytes: u64,
        request: impl FnOnce(&Device) -> Request,
    ) {
        let index = self.disk_of(process, handle.0);
        let index = index.expect("the reactor uses only disks that it holds open");
        self.requests += 1;
        let (id, now_ns) = (self.requests, self.now_ns);
        let slot = &mut self.disks[index];
        let request = request(&slot.device);
        let base = match request {
            Request::Flush { .. } => slot.spec.flush_latency,
            _ => slot.spec.latency,
        };
        let transfer_ns = bytes * 1_000_000_000 / slot.spec.bytes_per_second.max(1);
        slot.busy_until_ns = slot.busy_until_ns.max(now_ns) + transfer_ns;
        let mut latency_ns = nanos(base) + self.rng.between(0, nanos(base));
        if self.rng.chance(TAIL_PER_MILLION) {
            latency_ns *= 20;
        }
        let at_ns = slot.busy_until_ns + latency_ns + nanos(slot.device.faults.delay());
        let (kind, offset) = match &request {
            Request::Read { offset, .. } => ("submit read", *offset),
            Request::Write { offset, .. } => ("submit write", *offset),
            Request::Flush { mark } => {
                slot.device.note_flush_begun();
                ("submit flush", *mark)
            }
            Request::Discard { offset, .. } => ("submit discard", *offset),
        };
        self.trace.event(now_ns, kind, [id, offset, bytes]);
        slot.in_flight.insert(
            id,
            InFlight {
                process,
                handle: handle.0,
                token,
                request,
            },
        );
        self.schedule(
            at_ns,
            Event::Disk {
                disk: index,
                request: id,
            },
        );
    }

    /// A request's time has come: it takes effect and completes.
    pub fn finish_disk_request(&mut self, disk: usize, id: u64) {
        let slot = &mut self.disks[disk];
        let Some(done) = slot.in_flight.remove(&id) else {
            return;
        };
        let (device, rng) = (&mut slot.device, &mut self.rng);
        let (outcome, good) = match done.request {
            Request::Read { offset, mut buffer } => {
                let result = device.read(offset, &mut buffer, rng);
                (
                    Outcome::Read(buffer, result.map_err(io_error)),
                    result.is_ok(),
                )
            }
            Request::Write { offset, pages } => {
                let result = device.write(offset, &pages, rng);
                (Outcome::Disk(result.map_err(io_error)), result.is_ok())
            }
            Request::Flush { mark } => {
                let result = device.flushed(mark, rng);
                (Outcome::Disk(result.map_err(io_error)), result.is_ok())
            }
            Request::Discard { offset, len } => {
                device.discard(offset, len, rng);
                (Outcome::Disk(Ok(())), true)
            }
        };
        slot.release_closed();
        self.trace
            .event(self.now_ns, "disk", [id, u64::from(good), 0]);
        let process = self.process(done.process);
        if process.alive {
            process.completions.push(Completion {
                token: done.token,
                outcome,
            });
        }
    }

    /// A process died: of each of its writes in flight any part happens, and its locks are free.
    pub fn abandon_disk_requests(&mut self, process: ProcessId) {
        for slot in &mut self.disks {
            let dead = |request: &InFlight| request.process == process;
            let ids: Vec<u64> = slot
                .in_flight
                .iter()
                .filter(|(_, r)| dead(r))
                .map(|(&id, _)| id)
                .collect();
            for id in ids {
                if let Some(InFlight {
                    request: Request::Write { offset, pages },
                    ..
                }) = slot.in_flight.remove(&id)
                {
                    slot.device.tear(offset, &pages, &mut self.rng);
                }
            }
            slot.holders.retain(|holder| holder.process != process);
        }
    }
}

fn io_error(_: MediaError) -> OsError {
    OsError::IO
}

fn wide(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A test's handle on one disk of the world: faults, damage, counters, a look at the media.
#[derive(Clone)]
pub struct SimDisk {
    pub(super) world: Rc<Core>,
    pub(super) index: usize,
}

impl SimDisk {
    fn with<T>(&self, act: impl FnOnce(&mut DiskSlot) -> T) -> T {
        act(&mut self.world.state.borrow_mut().disks[self.index])
    }

    /// Changes what is wrong with the disk.
    pub fn faults(&self, change: impl FnOnce(&mut DiskFaults)) {
        self.with(|slot| change(&mut slot.device.faults));
    }

    /// Flips bit `bit` (0 is the lowest of the byte at `offset`) on the media.
    pub fn flip(&self, offset: u64, bit: usize) {
        self.with(|slot| slot.device.flip(offset, bit));
    }

    /// The next read of the block at `offset` shows what it held before its unflushed writes;
    /// false when it has none.
    #[must_use]
    pub fn hide_once(&self, offset: u64) -> bool {
        self.with(|slot| slot.device.hide_once(offset))
    }

    /// What lies on the media from `offset` on, past cache and faults.
    pub fn peek(&self, offset: u64, target: &mut [u8]) {
        self.with(|slot| slot.device.peek(offset, target));
    }

    /// Replaces whole blocks on the media, past cache and faults.
    ///
    /// # Panics
    /// When `bytes` is no multiple of 4096.
    pub fn poke(&self, offset: u64, bytes: &[u8]) {
        self.with(|slot| slot.device.poke(offset, bytes));
    }

    /// What it has done so far.
    #[must_use]
    pub fn counters(&self) -> DiskCounters {
        self.with(|slot| slot.device.counters)
    }

    /// Page writes that a power loss now could undo.
    #[must_use]
    pub fn unflushed_pages(&self) -> usize {
        self.with(|slot| slot.device.unflushed_pages())
    }

    /// What it is like.
    #[must_use]
    pub fn spec(&self) -> DiskSpec {
        self.with(|slot| slot.spec)
    }
}

impl std::fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimDisk({})", self.index)
    }
}
