//! What `ashlar disk inspect` sees on stopped disks, and whether replicas agree.

use crate::binary;
use crate::cluster::Cluster;
use crate::tool::Tool;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long one disk may take.
const LIMIT: Duration = Duration::from_secs(120);

/// (shard, block) → what a replica's map has there.
pub type BlockMap = BTreeMap<(u64, u64), Block>;

/// A block of a replica's map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// Zeroes; which write made them does not count.
    Zeroes,
    /// Lost here.
    Damaged,
    /// Bytes.
    Data {
        /// Their CRC32C.
        crc: u64,
        /// Which write made them.
        seq: u64,
    },
}

/// A volume of three replicas on three stores: every disk holds all of it.
#[derive(Debug)]
pub struct Replicas {
    volume: String,
    disks: Vec<PathBuf>,
}

impl Replicas {
    /// Notes where a volume's replicas are, while the cluster runs.
    ///
    /// # Errors
    ///
    /// If the cluster does not say.
    pub fn of(cluster: &Cluster, volume: &str) -> Result<Self> {
        let shown = cluster.json(["volume", "show", volume])?;
        let volume = shown["id"]
            .as_str()
            .context("a volume has no id")?
            .to_owned();
        Ok(Self {
            volume,
            disks: cluster.disk_paths()?,
        })
    }

    /// The disks.
    #[must_use]
    pub fn disks(&self) -> &[PathBuf] {
        &self.disks
    }

    /// Every replica's map, once the cluster has stopped.
    ///
    /// # Errors
    ///
    /// If the inspector cannot read a disk.
    pub fn maps(&self) -> Result<Vec<BlockMap>> {
        self.disks
            .iter()
            .map(|disk| block_map(disk, &self.volume))
            .collect()
    }

    /// Compares all replicas, once the cluster has stopped; gives how many blocks of data each has.
    ///
    /// # Errors
    ///
    /// If they differ, or hold nothing.
    pub fn agree(&self) -> Result<usize> {
        compare(&self.maps()?)
    }

    /// As [`Replicas::agree`], and every block on these disks has the content that its checksum says.
    ///
    /// # Errors
    ///
    /// If replicas differ or hold nothing, or anything is damaged.
    pub fn agree_undamaged(&self) -> Result<usize> {
        let mut maps = Vec::new();
        for path in &self.disks {
            let report = disk(path, Some(&self.volume))?;
            let damage = report["damage"].as_object().context("no damage")?;
            let is_sound = damage.values().all(|count| count == 0);
            ensure!(is_sound, "{}: {damage:?}", path.display());
            maps.push(map_in(&report)?);
        }
        compare(&maps)
    }
}

fn compare(maps: &[BlockMap]) -> Result<usize> {
    let (first, others) = maps.split_first().context("no replica")?;
    for (index, other) in others.iter().enumerate() {
        let keys = first.keys().chain(other.keys());
        let different: Vec<_> = keys
            .filter(|&key| first.get(key) != other.get(key))
            .collect();
        if let Some(&key) = different.first() {
            anyhow::bail!(
                "replicas 0 and {} differ in {} blocks, first {key:?}: {:?} and {:?}",
                index + 1,
                different.len(),
                first.get(key),
                other.get(key)
            );
        }
    }
    let data = first
        .values()
        .filter(|block| matches!(block, Block::Data { .. }))
        .count();
    ensure!(data > 0, "the replicas hold nothing");
    Ok(data)
}

/// All that the inspector says about a disk that nobody has open.
///
/// # Errors
///
/// If it fails or prints no JSON.
pub fn disk(path: &Path, volume: Option<&str>) -> Result<Value> {
    let mut tool = Tool::new(binary::ashlar())
        .args(["disk", "inspect", "--json"])
        .arg(path);
    if let Some(volume) = volume {
        tool = tool.args(["--volume", volume]);
    }
    let text = tool.limit(LIMIT).check()?;
    serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))
}

/// Damage of one kind that the inspector finds, every checksum checked.
///
/// # Errors
///
/// If it cannot read the disk.
pub fn damage(path: &Path, kind: &str) -> Result<u64> {
    let report = disk(path, None)?;
    report["damage"][kind]
        .as_u64()
        .with_context(|| format!("no count of {kind}: {report}"))
}

fn block_map(path: &Path, volume: &str) -> Result<BlockMap> {
    map_in(&disk(path, Some(volume))?)
}

fn map_in(report: &Value) -> Result<BlockMap> {
    let blocks = report["blocks"]
        .as_array()
        .context("the inspector shows no blocks")?;
    let mut map = BlockMap::new();
    for block in blocks {
        let number = |name: &str| {
            block[name]
                .as_u64()
                .with_context(|| format!("{name}: {block}"))
        };
        let content = match block["kind"].as_str() {
            Some("absent") => continue,
            Some("zeroes") => Block::Zeroes,
            Some("damaged") => Block::Damaged,
            Some("data") => Block::Data {
                crc: number("crc")?,
                seq: number("seq")?,
            },
            _ => anyhow::bail!("unknown kind: {block}"),
        };
        map.insert((number("shard")?, number("block")?), content);
    }
    Ok(map)
}
