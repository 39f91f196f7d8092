//! The plain model that a lane is held against: which writes were sent, acknowledged, flushed or
//! lost, and what each view must show of them.

use ashlar_proto::{Layer, LayerRange, LayerTable};

use super::bench::{key, layer};
use crate::lane::ShardKey;

/// The blocks that are looked at: some of two leaves.
pub(super) const BLOCKS: [u32; 8] = [0, 1, 2, 3, 256, 257, 258, 259];

/// One version of one block that was sent.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    /// Which life of which volume.
    pub(super) life: u64,
    pub(super) label: u32,
    pub(super) block: u32,
    pub(super) seq: u64,
    pub(super) zero: bool,
    pub(super) acked: bool,
    pub(super) flushed: bool,
    pub(super) lost: bool,
}

/// A volume with its intervals.
#[derive(Clone, Debug)]
pub(super) struct Volume {
    pub(super) number: u64,
    pub(super) life: u64,
    /// The live ones, low and high: ascending.
    pub(super) intervals: Vec<(u32, u32)>,
    /// Labels that were dropped: ascending; they may lie within live intervals.
    pub(super) dropped: Vec<(u32, u32)>,
    pub(super) table_version: u32,
}

impl Volume {
    pub(super) fn key(&self) -> ShardKey {
        key(self.number)
    }

    pub(super) fn head(&self) -> u32 {
        self.intervals.last().unwrap().1
    }

    pub(super) fn interval_of(&self, label: u32) -> Option<(u32, u32)> {
        let has = |run: &&(u32, u32)| (run.0..=run.1).contains(&label);
        let found = self.intervals.iter().find(has).copied();
        found.filter(|_| !self.dropped.iter().any(|run| has(&run)))
    }

    /// The layers that can be read.
    pub(super) fn views(&self) -> impl Iterator<Item = Layer> + '_ {
        self.intervals.iter().map(|run| layer(run.1))
    }

    pub(super) fn table(&self) -> LayerTable {
        let runs = |runs: &[(u32, u32)]| {
            let run = |&(low, high): &(u32, u32)| LayerRange::new(layer(low), layer(high));
            runs.iter().map(run).collect()
        };
        LayerTable {
            version: self.table_version,
            live: runs(&self.intervals),
            dropped: runs(&self.dropped),
        }
    }
}

/// What a block shows: none, or seq and whether it is zeroes.
pub(super) type Shown = Option<(u64, bool)>;

/// All that was sent.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) volumes: Vec<Volume>,
    pub(super) sent: Vec<Sent>,
}

impl Model {
    /// Where a version stands in the order of a view: none when it is not in it.
    fn rank(&self, volume: &Volume, view: Layer, sent: &Sent) -> Option<(u32, u64)> {
        if sent.life != volume.life || sent.label > view.get() {
            return None;
        }
        let (low, _) = volume.interval_of(sent.label)?;
        Some((low, sent.seq))
    }

    fn versions<'a>(
        &'a self,
        volume: &'a Volume,
        view: Layer,
        block: u32,
    ) -> impl Iterator<Item = (usize, (u32, u64), &'a Sent)> + 'a {
        let of_block = self.sent.iter().enumerate();
        let of_block = of_block.filter(move |(_, sent)| sent.block == block && !sent.lost);
        of_block.filter_map(move |(at, sent)| {
            let rank = self.rank(volume, view, sent)?;
            Some((at, rank, sent))
        })
    }

    /// Checks what a lane shows while it runs: at least what was acknowledged before, at most
    /// what has been sent.
    pub(super) fn check_live(
        &self,
        volume: &Volume,
        view: Layer,
        block: u32,
        shown: Shown,
        acked_before: usize,
    ) -> Result<(), String> {
        let floor = self
            .versions(volume, view, block)
            .filter(|(at, _, sent)| sent.acked && *at < acked_before)
            .map(|(_, rank, _)| rank)
            .max();
        let found = shown.and_then(|(seq, zero)| {
            let mut versions = self.versions(volume, view, block);
            versions.find(|(_, _, sent)| (sent.seq, sent.zero) == (seq, zero))
        });
        let rank = found.map(|(_, rank, _)| rank);
        if shown.is_some() && found.is_none() || rank < floor {
            let number = volume.number;
            return Err(format!(
                "LIVE {number} at {view} block {block}: shows {shown:?}, acknowledged {floor:?}"
            ));
        }
        Ok(())
    }

    /// Checks what a recovered lane shows, and settles the fate of what was in doubt.
    pub(super) fn check_crash(
        &mut self,
        volume: &Volume,
        view: Layer,
        block: u32,
        shown: Shown,
        power: bool,
    ) -> Result<(), String> {
        let versions: Vec<(usize, (u32, u64))> = self
            .versions(volume, view, block)
            .map(|(at, rank, _)| (at, rank))
            .collect();
        let kept = |sent: &Sent| sent.flushed || sent.acked && !power;
        let floor = versions
            .iter()
            .filter(|(at, _)| kept(&self.sent[*at]))
            .map(|(_, rank)| *rank)
            .max();
        let number = volume.number;
        let found = match shown {
            None => None,
            Some((seq, zero)) => {
                let found = versions
                    .iter()
                    .find(|(at, _)| (self.sent[*at].seq, self.sent[*at].zero) == (seq, zero));
                let Some(found) = found else {
                    return Err(format!(
                        "RETURNED {number} at {view} block {block}: {shown:?} was lost or never was"
                    ));
                };
                Some(*found)
            }
        };
        let rank = found.map(|(_, rank)| rank);
        if rank < floor {
            return Err(format!(
                "LOST {number} at {view} block {block}: shows {shown:?}, kept {floor:?}"
            ));
        }
        for (at, above) in versions {
            if Some(above) > rank {
                self.sent[at].lost = true;
            }
        }
        if let Some((at, _)) = found {
            self.sent[at].acked = true;
            self.sent[at].flushed = true;
        }
        Ok(())
    }

    /// After a crash: what was never acknowledged and does not show is gone.
    pub(super) fn settle(&mut self) {
        for sent in &mut self.sent {
            sent.lost |= !sent.acked;
        }
    }

    /// Whether a block has a write on its way.
    pub(super) fn is_busy(&self, life: u64, block: u32) -> bool {
        self.sent
            .iter()
            .any(|s| s.life == life && s.block == block && !s.acked && !s.lost)
    }

    /// Whether a volume has a write on its way.
    pub(super) fn is_any_busy(&self, life: u64) -> bool {
        self.sent
            .iter()
            .any(|s| s.life == life && !s.acked && !s.lost)
    }
}
