//! `ashlar disk format` and `ashlar disk inspect`; making the disk files of `ashlar up`.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use ashlar_proto::message::BlockKind;
use ashlar_proto::{ByteCount, DiskId, LaneIndex, Layer, VolumeId};
use ashlar_reactor::{DiskOptions, Reactor};
use ashlar_store::disk::{FormatOptions, UnrecoveredDisk, format_disk, open_disk};
use ashlar_store::lane::{DamageCounts, LaneReport, SegmentReportState, SlotReport, VerifyReport};
use serde::Serialize;
use serde_json::{Value, json};

use crate::args::{FormatArgs, InspectArgs, ReactorArgs};
use crate::output::{bytes, print_json, print_table, print_text};
use crate::runtime;

/// Commands that look at one disk need no tuning.
const OFFLINE: ReactorArgs = ReactorArgs {
    engine: None,
    spin_us: 0,
};

/// Makes a disk file of `size` bytes, its space reserved, and formats it. It appears under its
/// name only when it is whole.
pub async fn make(reactor: &Reactor, path: &Path, size: u64) -> anyhow::Result<()> {
    let dir = path.parent().context("a disk file has a directory")?;
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let unfinished = path.with_extension("unfinished");
    let file = File::create(&unfinished)
        .with_context(|| format!("cannot make {}", unfinished.display()))?;
    reserve(&file, &unfinished, size)?;
    drop(file);
    let options = FormatOptions {
        force: true,
        ..FormatOptions::new(new_disk_id(reactor))
    };
    let formatted = format_disk(reactor, DiskOptions::new(&unfinished), options).await;
    formatted.with_context(|| format!("cannot format {}", unfinished.display()))?;
    std::fs::rename(&unfinished, path)
        .and_then(|()| File::open(dir)?.sync_all())
        .with_context(|| format!("cannot make {}", path.display()))
}

/// Formats a disk as large as it is, of which the caller knows that it is empty.
pub async fn format_whole(reactor: &Reactor, path: &Path, lanes: u16) -> anyhow::Result<DiskId> {
    let disk = new_disk_id(reactor);
    let options = FormatOptions {
        lanes,
        ..FormatOptions::new(disk)
    };
    let formatted = format_disk(reactor, DiskOptions::new(path), options).await;
    formatted.with_context(|| format!("cannot format {}", path.display()))?;
    Ok(disk)
}

/// Reserves `size` bytes for a file, so that it never runs out of space later.
fn reserve(file: &File, path: &Path, size: u64) -> anyhow::Result<()> {
    let size = i64::try_from(size).context("--size is too large")?;
    nix::fcntl::posix_fallocate(file, 0, size).with_context(|| {
        let wanted = bytes(u64::try_from(size).unwrap_or(0));
        format!(
            "cannot reserve {wanted} for {}: free some space or ask for less",
            path.display()
        )
    })
}

fn new_disk_id(reactor: &Reactor) -> DiskId {
    let half = || u128::from(reactor.random_u64());
    DiskId::new(half() << 64 | half())
}

/// `ashlar disk format`.
pub fn format(args: &FormatArgs, json: bool) -> anyhow::Result<()> {
    let path = &args.path;
    let is_device = path
        .metadata()
        .is_ok_and(|m| m.file_type().is_block_device());
    if !is_device {
        let present = path.metadata().map(|m| m.len()).unwrap_or(0);
        let size = args.size.unwrap_or(present);
        ensure!(size > 0, "{} is a file: give its --size", path.display());
        ensure!(
            size >= present,
            "{} is larger than --size already",
            path.display()
        );
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path);
        reserve(
            &file.with_context(|| format!("cannot open {}", path.display()))?,
            path,
            size,
        )?;
    }
    let disk = runtime::run(&OFFLINE, async |reactor: Reactor| {
        let disk = new_disk_id(&reactor);
        let options = FormatOptions {
            size: args.size.map(ByteCount::new),
            lanes: args.lanes,
            force: args.force,
            ..FormatOptions::new(disk)
        };
        let formatted = format_disk(&reactor, DiskOptions::new(path), options).await;
        formatted.with_context(|| format!("cannot format {}", path.display()))?;
        Ok(disk)
    })?;
    if json {
        return print_json(&json!({ "disk": disk, "path": path }));
    }
    print_text(&format!("formatted {} as disk {disk}", path.display()))
}

/// `ashlar disk inspect`.
pub fn inspect(args: &InspectArgs, json: bool) -> anyhow::Result<()> {
    let report = runtime::run(&OFFLINE, async |reactor: Reactor| {
        let options = DiskOptions {
            read_only: true,
            ..DiskOptions::new(&args.path)
        };
        let disk = open_disk(&reactor, options).await;
        let disk = disk.with_context(|| format!("cannot inspect {}", args.path.display()))?;
        look(&disk, args).await
    })?;
    if json {
        print_json(&report)
    } else {
        show(&report)
    }
}

/// What the inspector found on a disk.
#[derive(Debug, Serialize)]
struct DiskView {
    path: String,
    disk: DiskId,
    cluster: Option<ashlar_proto::ClusterId>,
    size_bytes: u64,
    segment_bytes: u64,
    lanes: Vec<LaneView>,
    /// All damage, by kind.
    damage: BTreeMap<&'static str, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    blocks: Option<Vec<BlockView>>,
}

#[derive(Debug, Serialize)]
struct LaneView {
    lane: u16,
    slots: Vec<Value>,
    segments_used: usize,
    segments_free: usize,
    shards: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verified: Option<Value>,
}

/// One block of the map of a volume.
#[derive(Debug, Serialize)]
struct BlockView {
    shard: u32,
    block: u32,
    kind: &'static str,
    seq: u64,
    crc: u32,
    offset: u64,
}

async fn look(disk: &UnrecoveredDisk, args: &InspectArgs) -> anyhow::Result<DiskView> {
    let mut damage = BTreeMap::new();
    let mut lanes = Vec::new();
    let mut blocks = args.volume.map(|_| Vec::new());
    add_damage(
        &mut damage,
        &DamageCounts {
            superblock: disk.damaged_superblocks(),
            ..DamageCounts::default()
        },
    );
    for index in 0..disk.lanes() {
        let lane = disk.lane(LaneIndex::new(index)).inspect().await;
        let mut lane = lane.with_context(|| format!("lane {index}"))?;
        if let (Some(volume), Some(blocks)) = (args.volume, &mut blocks) {
            map(&mut lane, volume, blocks).await;
        }
        let verified = if args.no_verify {
            None
        } else {
            Some(lane.verify().await)
        };
        let found = verified
            .as_ref()
            .map_or_else(|| lane.damage(), |report| report.damage);
        add_damage(&mut damage, &found);
        lanes.push(lane_view(index, &lane, verified.as_ref()));
    }
    if let (Some(volume), Some([])) = (args.volume, blocks.as_deref()) {
        let held = lanes.iter().flat_map(|lane| &lane.shards);
        let name = volume.to_string();
        if !held
            .into_iter()
            .any(|shard| shard["volume"] == name.as_str())
        {
            bail!("the disk holds nothing of volume {volume}");
        }
    }
    Ok(DiskView {
        path: args.path.display().to_string(),
        disk: disk.disk(),
        cluster: disk.cluster(),
        size_bytes: disk.size().get(),
        segment_bytes: disk.segment_size().get(),
        lanes,
        damage,
        blocks,
    })
}

fn add_damage(all: &mut BTreeMap<&'static str, u64>, found: &DamageCounts) {
    let counts = [
        ("data", found.data),
        ("batch", found.batch),
        ("leaf", found.leaf),
        ("root", found.root),
        ("superblock", found.superblock),
        ("slot", found.slot),
        ("summary", found.summary),
    ];
    for (kind, count) in counts {
        *all.entry(kind).or_default() += count;
    }
}

/// The newest version of every block of a volume's shards on this lane.
async fn map(lane: &mut LaneReport, volume: VolumeId, blocks: &mut Vec<BlockView>) {
    let shards = lane
        .shards()
        .into_iter()
        .filter(|shard| shard.key.volume == volume);
    for shard in shards.collect::<Vec<_>>() {
        let newest = Layer::new(u32::MAX);
        lane.map(shard.key, newest, |report| {
            blocks.push(BlockView {
                shard: shard.key.shard.get(),
                block: report.block.get(),
                kind: match report.kind {
                    Some(BlockKind::Data) => "data",
                    Some(BlockKind::Zero) => "zeroes",
                    Some(BlockKind::Absent) => "absent",
                    None => "damaged",
                },
                seq: report.seq.get(),
                crc: report.crc,
                offset: report.offset,
            });
        })
        .await;
    }
}

fn lane_view(index: u16, lane: &LaneReport, verified: Option<&VerifyReport>) -> LaneView {
    let slots = lane.slots().map(|slot| match slot {
        SlotReport::Empty => json!({ "state": "empty" }),
        SlotReport::Damaged => json!({ "state": "damaged" }),
        SlotReport::Valid {
            number,
            from,
            incarnation,
            clean,
            shards,
            roots,
        } => json!({
            "state": "valid", "number": number, "from": from, "incarnation": incarnation,
            "clean": clean, "shards": shards, "roots": roots,
        }),
    });
    let shards = lane.shards().into_iter().map(|shard| {
        json!({
            "volume": shard.key.volume, "shard": shard.key.shard, "replica": shard.replica,
            "blocks": shard.blocks, "generation": shard.generation, "stable": shard.stable,
            "highest": shard.highest,
        })
    });
    let used =
        |segment: &ashlar_store::lane::SegmentReport| segment.state == SegmentReportState::Used;
    let segments_used = lane.segments().filter(used).count();
    LaneView {
        lane: index,
        slots: slots.to_vec(),
        segments_used,
        segments_free: lane.segments().count() - segments_used,
        shards: shards.collect(),
        verified: verified.map(|report| {
            json!({
                "data_good": report.data_good,
                "leaves_good": report.leaves_good,
                "damaged_blocks": report.damaged_blocks.len(),
            })
        }),
    }
}

fn show(view: &DiskView) -> anyhow::Result<()> {
    let cluster = view
        .cluster
        .map_or_else(|| "none yet".to_owned(), |id| id.to_string());
    let found: Vec<String> = view
        .damage
        .iter()
        .filter(|(_, n)| **n > 0)
        .map(|(k, n)| format!("{k} {n}"))
        .collect();
    let facts = [
        ("disk", view.disk.to_string()),
        ("cluster", cluster),
        ("size", bytes(view.size_bytes)),
        ("segments of", bytes(view.segment_bytes)),
        (
            "damage",
            if found.is_empty() {
                "none".to_owned()
            } else {
                found.join(", ")
            },
        ),
    ];
    for (name, value) in facts {
        print_text(&format!("{name:<12} {value}"))?;
    }
    for lane in &view.lanes {
        let (used, free) = (lane.segments_used, lane.segments_free);
        print_text(&format!(
            "\nlane {}: {used} segments used, {free} free",
            lane.lane
        ))?;
        for slot in &lane.slots {
            print_text(&format!("  slot {slot}"))?;
        }
        if let Some(verified) = &lane.verified {
            print_text(&format!("  verified {verified}"))?;
        }
        for shard in &lane.shards {
            print_text(&format!("  shard {shard}"))?;
        }
    }
    let Some(blocks) = &view.blocks else {
        return Ok(());
    };
    let rows = blocks.iter().map(|block| {
        vec![
            block.shard.to_string(),
            block.block.to_string(),
            block.kind.to_owned(),
            block.seq.to_string(),
            format!("{:08x}", block.crc),
            block.offset.to_string(),
        ]
    });
    print_text("")?;
    print_table(
        &["shard", "block", "kind", "seq", "crc", "offset"],
        rows.collect(),
    )
}
