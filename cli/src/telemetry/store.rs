//! The disks of a store, as the store reports them.

use std::pin::Pin;
use std::time::Duration;

use ashlar_proto::api::DiskReport;
use ashlar_store::StoreControl;

use super::Source;
use super::exposition::Family;

/// How long a store may take to report.
const REPORT_MAX: Duration = Duration::from_secs(3);

/// A store of this process.
pub struct StoreSource {
    node: String,
    control: StoreControl,
}

impl StoreSource {
    /// Under the name of its node.
    pub fn new(node: &str, control: StoreControl) -> Self {
        let node = node.to_owned();
        Self { node, control }
    }
}

impl Source for StoreSource {
    fn collect(&self) -> Pin<Box<dyn Future<Output = Vec<Family>> + Send + '_>> {
        Box::pin(async {
            match tokio::time::timeout(REPORT_MAX, self.control.report()).await {
                Ok(Ok(reports)) => families(&self.node, &reports),
                _ => Vec::new(),
            }
        })
    }
}

type Gauge = (&'static str, &'static str, fn(&DiskReport) -> Option<u64>);

/// Bytes and states of a disk.
const GAUGES: [Gauge; 9] = [
    (
        "ashlar_disk_usable_bytes",
        "Bytes of a disk that volumes can use.",
        |d| Some(d.usable_bytes.get()),
    ),
    (
        "ashlar_disk_live_bytes",
        "Bytes that live blocks and their map take.",
        |d| Some(d.used_bytes.get()),
    ),
    (
        "ashlar_disk_reserved_bytes",
        "Bytes that are kept for replicas with reservations, taken or not.",
        |d| Some(d.reserved_bytes.get()),
    ),
    ("ashlar_disk_failed", "1 if the disk serves nothing.", |d| {
        Some(u64::from(d.failed.is_some()))
    }),
    ("ashlar_disk_ailing", "1 if the disk is going bad.", |d| {
        Some(u64::from(d.ailing.is_some()))
    }),
    (
        "ashlar_disk_full",
        "1 if a lane of the disk takes no new blocks.",
        |d| Some(u64::from(d.full)),
    ),
    (
        "ashlar_disk_map_budget_bytes",
        "Memory that the map of a disk may take.",
        |d| d.map.map(|map| map.budget_bytes.get()),
    ),
    (
        "ashlar_disk_map_leaf_bytes",
        "Memory that leaves of the map take.",
        |d| d.map.map(|map| map.leaf_bytes.get()),
    ),
    (
        "ashlar_disk_map_overlay_bytes",
        "Memory that changes take which are in no leaf yet.",
        |d| d.map.map(|map| map.overlay_bytes.get()),
    ),
];

/// What has happened on a disk since the store started.
const COUNTERS: [Gauge; 8] = [
    (
        "ashlar_disk_request_written_bytes_total",
        "Bytes that requests wrote: those of owners, and copies from other replicas.",
        |d| d.writes.map(|w| w.request_bytes.get()),
    ),
    (
        "ashlar_disk_device_written_bytes_total",
        "Bytes that the device was given for that: data, headers, moves, map, checkpoints.",
        |d| d.writes.map(|w| w.device_bytes.get()),
    ),
    (
        "ashlar_disk_moved_bytes_total",
        "Bytes of live data that the collector moved out of old segments, most of which were dead.",
        |d| d.writes.map(|w| w.moved_bytes.get()),
    ),
    (
        "ashlar_disk_refused_writes_total",
        "Writes refused for want of room.",
        |d| Some(d.refused_writes),
    ),
    (
        "ashlar_disk_map_hits_total",
        "Leaves of the map that requests found in memory.",
        |d| d.map.map(|map| map.hits),
    ),
    (
        "ashlar_disk_map_misses_total",
        "Leaves of the map that were read for requests.",
        |d| d.map.map(|map| map.misses),
    ),
    (
        "ashlar_disk_map_evictions_total",
        "Leaves of the map that made room for others.",
        |d| d.map.map(|map| map.evictions),
    ),
    (
        "ashlar_disk_map_loads_total",
        "Leaves of the map that were read, for requests or for other work.",
        |d| d.map.map(|map| map.misses + map.scanned),
    ),
];

fn families(node: &str, reports: &[DiskReport]) -> Vec<Family> {
    let mut families: Vec<Family> = Vec::new();
    let all = GAUGES.iter().map(|row| (row, Family::gauge(row.0, row.1)));
    let counters = COUNTERS.iter();
    let all = all.chain(counters.map(|row| (row, Family::counter(row.0, row.1))));
    for ((_, _, read), mut family) in all {
        for disk in reports {
            let id = disk.id.to_string();
            let labels = [("node", node), ("disk", &id), ("path", &disk.path)];
            if let Some(value) = read(disk) {
                family.push(&labels, value);
            }
        }
        families.push(family);
    }
    families.push(damage(node, reports));
    families
}

/// Found since the disk was formatted or last cleared, so it may get less.
fn damage(node: &str, reports: &[DiskReport]) -> Family {
    let mut family = Family::gauge(
        "ashlar_disk_damage",
        "Damage that was found on a disk, by kind, since it was formatted or cleared.",
    );
    for disk in reports {
        let id = disk.id.to_string();
        for (kind, count) in &disk.damage {
            let labels = [("node", node), ("disk", &id), ("kind", kind)];
            family.push(&labels, *count);
        }
    }
    family
}
