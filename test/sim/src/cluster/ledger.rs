//! What the conductor has committed, asked and answered, held against its promises.
//!
//! It reads the rows as they are committed and knows nothing of the plans behind them:
//!
//! - an in-sync set, and with it the epoch, changes only as an owner has proposed, of the generation
//!   and on the epoch that were current; so no replica leaves a set by the conductor's own doing;
//! - no set is empty, and no proposal takes one replica in and another out, but for one beside which
//!   another of its node counts;
//! - generations and epochs rise by one, no generation is granted twice, and what is granted, shown
//!   or answered was committed;
//! - no two replicas of a shard lie on one node, but for one that leaves and its successor, of
//!   which one counts; none is there that is neither old nor fresh, one at most leaves, and ids are never used again;
//! - a volume is detached only by the owner that has it, or by a rollback that somebody asked for;
//! - a volume never gets smaller;
//! - heads, settled layers and tables only grow, what is settled lies below the head and is so as an
//!   owner has said, and snapshots stay until somebody deletes them.

use std::collections::{BTreeMap, BTreeSet};

use ashlar_proto::api::{
    Attachment, DetachRequest, ProposeInSync, Replica, ReportLayers, Shard, VolumeMap, VolumeState,
};
use ashlar_proto::{
    ByteCount, DiskId, Epoch, Generation, Layer, LayerTable, ReplicaId, ShardIndex,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::stores::store_of;
use super::{VOLUME, VOLUME_NAME};

type Set = BTreeSet<ReplicaId>;

/// A row as it is stored.
#[derive(Deserialize)]
struct Stored<T> {
    row: T,
}

/// What matters of a volume's row.
#[derive(Clone, Debug, Deserialize)]
struct VolumeRow {
    replicas: u8,
    size_bytes: ByteCount,
    #[serde(default)]
    grows_to: Option<ByteCount>,
    shard_bytes: ByteCount,
    state: VolumeState,
    generation: Generation,
    attached_by: Option<String>,
    head_layer: Layer,
    #[serde(default)]
    settled_layer: Layer,
    #[serde(default)]
    layers: LayerTable,
    #[serde(default)]
    layers_applied: u32,
    #[serde(default)]
    settled: bool,
}

/// What matters of a shard's row.
#[derive(Clone, Debug, Deserialize)]
struct ShardRow {
    index: ShardIndex,
    epoch: Epoch,
    replicas: Vec<Replica>,
}

impl ShardRow {
    fn set(&self) -> Set {
        in_sync(&self.replicas)
    }
}

fn in_sync(replicas: &[Replica]) -> Set {
    replicas
        .iter()
        .filter(|r| r.in_sync)
        .map(|r| r.id)
        .collect()
}

/// See the module. It looks at one volume; the others are clones of its snapshots.
#[derive(Default)]
pub struct Ledger {
    volume: Option<VolumeRow>,
    shards: BTreeMap<ShardIndex, ShardRow>,
    nodes: BTreeSet<String>,
    /// The disks in sync for each shard when a generation was committed, and its epoch.
    granted: BTreeMap<Generation, Vec<(Epoch, Vec<DiskId>)>>,
    /// Generations that an owner may have been told of.
    answered: BTreeSet<Generation>,
    /// Every set that was ever committed.
    sets: BTreeMap<(ShardIndex, Epoch), Set>,
    /// What has reached the conductor.
    proposed: BTreeSet<(Generation, ShardIndex, Epoch, Set)>,
    detached: BTreeSet<Generation>,
    /// Those that were detached with all settled.
    settled: BTreeSet<Generation>,
    /// What owners have said of their layers.
    reported: BTreeSet<(Generation, Layer, u32)>,
    /// Deletions that somebody has asked for, and rollbacks.
    deletes: usize,
    rollbacks_asked: usize,
    rollbacks: usize,
    /// Where every replica ever was.
    places: BTreeMap<ReplicaId, (ShardIndex, DiskId)>,
    failure: Option<String>,
}

/// Whether a row is of the volume that is looked at, or of none.
fn is_ours(key: &str) -> bool {
    let mut parts = key.split('/');
    match (parts.next(), parts.next()) {
        (Some("volume" | "shard" | "snapshot"), Some(id)) => id.parse() == Ok(VOLUME),
        (Some("name"), Some(name)) => name == VOLUME_NAME,
        _ => true,
    }
}

impl Ledger {
    /// What is wrong: the first of it.
    pub fn failure(&self) -> Option<String> {
        self.failure.clone()
    }

    /// Whether the volume can be attached.
    pub fn is_ready(&self) -> bool {
        let state = self.volume.as_ref().map(|volume| volume.state);
        state == Some(VolumeState::Ready)
    }

    /// Nodes that have registered.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// The size of the volume.
    pub fn size(&self) -> ByteCount {
        let size = self.volume.as_ref().map(|volume| volume.size_bytes);
        size.unwrap_or_default()
    }

    /// The size that it is to have.
    pub fn size_to_be(&self) -> ByteCount {
        let volume = self.volume.as_ref();
        let grows_to = volume.and_then(|volume| volume.grows_to);
        grows_to.unwrap_or(self.size())
    }

    /// The shards that owners are told of, as they stand.
    pub fn shards(&self) -> Vec<Shard> {
        let shard = |row: &ShardRow| Shard {
            index: row.index,
            epoch: row.epoch,
            replicas: row.replicas.clone(),
        };
        let volume = self.volume.as_ref();
        let bytes = volume.map_or(1, |volume| volume.shard_bytes.get());
        let served = self.size().get().div_ceil(bytes);
        let is_served = |row: &&ShardRow| u64::from(row.index.get()) < served;
        let rows = self.shards.values().filter(is_served);
        rows.map(shard).collect()
    }

    /// For each shard: the set that a generation was granted on, and the set now.
    pub fn sets(&self, generation: Generation) -> Vec<(Vec<DiskId>, Vec<DiskId>)> {
        let granted = self.granted.get(&generation).cloned().unwrap_or_default();
        let granted = granted.into_iter().map(|(_, disks)| disks);
        let now = self.in_sync().into_iter().map(|(_, disks)| disks);
        granted.zip(now).collect()
    }

    /// For each take-over between two generations, and each shard: the set that it was granted on, and
    /// who of it was in the next set.
    pub fn take_overs(
        &self,
        after: Generation,
        until: Generation,
    ) -> Vec<(ShardIndex, Vec<DiskId>, Vec<DiskId>)> {
        let between = self
            .granted
            .iter()
            .filter(|(g, _)| after < **g && **g < until);
        let mut all = Vec::new();
        for shards in between.map(|(_, shards)| shards) {
            for ((epoch, before), index) in shards.iter().zip(self.shards.keys()) {
                let next = self.sets.get(&(*index, epoch.next()));
                let place = |id| self.places.get(id).map(|(_, disk)| *disk);
                let next = next.map(|set| set.iter().filter_map(place).collect::<Vec<_>>());
                let mut kept = before.clone();
                kept.retain(|disk| next.as_ref().is_none_or(|next| next.contains(disk)));
                all.push((*index, before.clone(), kept));
            }
        }
        all
    }

    fn in_sync(&self) -> Vec<(Epoch, Vec<DiskId>)> {
        let disks = |row: &ShardRow| {
            let in_sync = row.replicas.iter().filter(|r| r.in_sync);
            (row.epoch, in_sync.map(|r| r.disk).collect())
        };
        self.shards.values().map(disks).collect()
    }

    pub fn fail(&mut self, what: String) {
        self.failure
            .get_or_insert_with(|| format!("the conductor: {what}"));
    }

    // What reaches the conductor, and what it answers.

    /// A proposal has arrived.
    pub fn propose(&mut self, proposal: &ProposeInSync) {
        let set = proposal.in_sync.iter().copied().collect();
        let ProposeInSync {
            generation,
            shard,
            epoch,
            ..
        } = *proposal;
        self.proposed.insert((generation, shard, epoch, set));
    }

    /// A request to detach has arrived.
    pub fn detach(&mut self, request: &DetachRequest) {
        self.detached.insert(request.generation);
        if request.settled {
            self.settled.insert(request.generation);
        }
    }

    /// What an owner says of its layers has arrived.
    pub fn report(&mut self, report: &ReportLayers) {
        let ReportLayers {
            generation,
            settled,
            table,
            ..
        } = *report;
        self.reported.insert((generation, settled, table));
    }

    /// Somebody is about to ask that a snapshot be deleted.
    pub fn delete_snapshot(&mut self) {
        self.deletes += 1;
    }

    /// Somebody is about to ask for a rollback.
    pub fn roll_back(&mut self) {
        self.rollbacks_asked += 1;
    }

    /// Rollbacks that were committed.
    pub fn rollbacks(&self) -> usize {
        self.rollbacks
    }

    /// Whether all in-sync replicas go by the volume's last table, as its owner has said.
    pub fn is_table_applied(&self) -> bool {
        let volume = self.volume.as_ref();
        volume.is_some_and(|row| row.layers_applied >= row.layers.version)
    }

    /// The layer that writes go to.
    pub fn head_layer(&self) -> Layer {
        let volume = self.volume.as_ref();
        volume.map_or(Layer::default(), |row| row.head_layer)
    }

    /// An attach is answered.
    pub fn grant(&mut self, attachment: &Attachment) {
        let generation = attachment.volume.generation;
        if !self.granted.contains_key(&generation) {
            self.fail(format!(
                "generation {generation} is granted and not committed"
            ));
        }
        if !self.answered.insert(generation) {
            self.fail(format!("generation {generation} is granted twice"));
        }
        attachment
            .volume
            .shards
            .iter()
            .for_each(|shard| self.show(shard));
    }

    /// A map is answered.
    pub fn show_map(&mut self, map: &VolumeMap) {
        map.volume.shards.iter().for_each(|shard| self.show(shard));
    }

    /// A shard is answered.
    pub fn show(&mut self, shard: &Shard) {
        let at = (shard.index, shard.epoch);
        if self.sets.get(&at) != Some(&in_sync(&shard.replicas)) {
            self.fail(format!("shows a set that was not committed:\n  {shard:?}"));
        }
    }

    // What it commits.

    /// A row was changed, or removed.
    pub fn changed(&mut self, key: &str, value: Option<&[u8]>) {
        if !is_ours(key) {
            return;
        }
        match (key.split('/').next(), value) {
            (Some("volume"), Some(value)) => match parse(value) {
                Some(row) => self.put_volume(row),
                None => self.fail(format!("row {key} cannot be read")),
            },
            (Some("shard"), Some(value)) => match parse(value) {
                Some(row) => self.put_shard(row),
                None => self.fail(format!("row {key} cannot be read")),
            },
            (Some("node"), Some(_)) => {
                self.nodes.insert(key.to_owned());
            }
            (Some("snapshot"), None) if self.deletes + self.rollbacks_asked > 0 => {}
            (_, None) => self.fail(format!("row {key} is removed, which nobody asked for")),
            _ => {}
        }
    }

    /// The rows are again as they once were.
    pub fn go_back<'a>(
        &mut self,
        rows: impl Iterator<Item = (&'a ashlar_conductor::meta::Key, &'a [u8])>,
    ) {
        self.volume = None;
        self.shards.clear();
        for (key, value) in rows.filter(|(key, _)| is_ours(key.as_str())) {
            match key.as_str().split('/').next() {
                Some("volume") => self.volume = parse(value),
                Some("shard") => {
                    let row: Option<ShardRow> = parse(value);
                    self.shards.extend(row.map(|row| (row.index, row)));
                }
                _ => {}
            }
        }
    }

    fn put_volume(&mut self, row: VolumeRow) {
        let before = self.volume.replace(row.clone());
        let Some(before) = before else {
            return;
        };
        if let Err(what) = self.check_layers(&before, &row) {
            self.fail(format!("{what}:\n  {before:?}\n  becomes {row:?}"));
        }
        if row.size_bytes < before.size_bytes {
            self.fail(format!(
                "the volume gets smaller:\n  {before:?}\n  becomes {row:?}"
            ));
        }
        let (old, new) = (before.generation, row.generation);
        let is_rollback = new == old.next() && row.attached_by.is_none();
        if is_rollback && self.rollbacks < self.rollbacks_asked {
            self.rollbacks += 1;
        } else if new == old.next() {
            let sets = self.in_sync();
            if self.granted.insert(new, sets).is_some() {
                self.fail(format!("generation {new} is committed twice"));
            }
            if row.attached_by.is_none() {
                self.fail(format!("generation {new} is granted to nobody"));
            }
        } else if new != old {
            self.fail(format!("generation {old} becomes {new}"));
        } else if before.attached_by != row.attached_by
            && !(row.attached_by.is_none() && self.detached.contains(&new))
        {
            self.fail(format!(
                "generation {new} is ended, which its owner did not ask for"
            ));
        }
    }

    fn check_layers(&self, before: &VolumeRow, row: &VolumeRow) -> Result<(), &'static str> {
        if row.head_layer < before.head_layer || row.settled_layer < before.settled_layer {
            return Err("a layer falls");
        }
        if row.layers.version < before.layers.version
            || row.layers_applied < before.layers_applied
            || row.layers_applied > row.layers.version
            || !row.layers.is_sound()
        {
            return Err("a layer table is not what it may be");
        }
        if row.settled_layer >= row.head_layer {
            return Err("the head is settled");
        }
        let is_said = |layer: Layer, table: u32| {
            let mut said = self.reported.iter();
            said.any(|said| said.0 == before.generation && said.1 >= layer && said.2 >= table)
        };
        let is_detached = row.attached_by.is_none() && self.settled.contains(&row.generation);
        let was_detached = before.attached_by.is_none() && before.settled;
        if row.settled_layer > before.settled_layer
            && !is_said(row.settled_layer, 0)
            && !is_detached
            && !was_detached
        {
            return Err("a layer is settled, which no owner has said");
        }
        if row.layers_applied > before.layers_applied
            && !is_said(Layer::default(), row.layers_applied)
        {
            return Err("a table is applied, which no owner has said");
        }
        Ok(())
    }

    fn put_shard(&mut self, row: ShardRow) {
        let before = self.shards.insert(row.index, row.clone());
        if let Err(what) = self.check_shard(before.as_ref(), &row) {
            self.fail(format!("{what}:\n  {before:?}\n  becomes {row:?}"));
        }
        for replica in &row.replicas {
            self.places.insert(replica.id, (row.index, replica.disk));
        }
        self.sets.insert((row.index, row.epoch), row.set());
    }

    fn check_shard(&self, before: Option<&ShardRow>, row: &ShardRow) -> Result<(), &'static str> {
        let asked = self.volume.as_ref().map(|volume| volume.replicas);
        let asked = asked.map_or(usize::MAX - 1, usize::from);
        let leaving = row.replicas.iter().filter(|r| r.leaving);
        if Self::shares_node(row) {
            return Err("two replicas of a shard lie on one node");
        }
        if row.replicas.len() > asked + 1 || leaving.count() > 1 {
            return Err("a shard has more replicas than one that is asked for and one that moves");
        }
        let set = row.set();
        if set.is_empty() {
            return Err("an empty set is committed");
        }
        let Some(before) = before else {
            return Ok(());
        };
        if row.replicas.len() < asked {
            return Err("a shard has fewer replicas than were asked for");
        }
        let known = |r: &Replica| before.replicas.iter().find(|b| b.id == r.id);
        for replica in &row.replicas {
            let place = (row.index, replica.disk);
            match known(replica) {
                Some(old) if old.disk != replica.disk => return Err("a replica moves as it is"),
                Some(old) if replica.fresh && !old.fresh => return Err("an old replica is fresh"),
                Some(_) => {}
                None if self.places.contains_key(&replica.id) => {
                    return Err("the id of a replica is used again");
                }
                None if !replica.fresh || replica.in_sync => {
                    return Err("a new replica counts as an old one");
                }
                None => {}
            }
            let old_place = self.places.get(&replica.id);
            if old_place.is_some_and(|old| *old != place) {
                return Err("a replica is of another shard or disk");
            }
        }
        let old = before.set();
        if set == old && row.epoch == before.epoch {
            return Ok(());
        }
        self.check_change(before, row, &old, set)
    }

    /// Whether two replicas lie on one node that may not: only one that leaves and its successor do,
    /// and both of a set only while there is no other.
    fn shares_node(row: &ShardRow) -> bool {
        row.replicas.iter().enumerate().any(|(at, one)| {
            let node = store_of(one.disk);
            let mut met = row.replicas[at + 1..].iter();
            met.any(|other| {
                let is_pair = one.leaving && !other.leaving;
                let do_both_count = one.in_sync && other.in_sync && row.set().len() > 2;
                store_of(other.disk) == node && (!is_pair || do_both_count)
            })
        })
    }

    /// The set has changed: somebody must have asked for that.
    fn check_change(
        &self,
        before: &ShardRow,
        row: &ShardRow,
        old: &Set,
        set: Set,
    ) -> Result<(), &'static str> {
        if row.epoch != before.epoch.next() {
            return Err("an in-sync set changes and its epoch does not rise by one");
        }
        if self.sets.contains_key(&(row.index, row.epoch)) {
            return Err("an epoch is committed twice");
        }
        let is_swap = || {
            let node = |id: &ReplicaId| self.places.get(id).map(|(_, disk)| store_of(*disk));
            let mut left = old.difference(&set);
            left.clone().count() == 1 && left.all(|id| set.iter().any(|n| node(n) == node(id)))
        };
        if !set.is_subset(old) && !old.is_subset(&set) && !is_swap() {
            return Err("one proposal takes a replica in and another out");
        }
        let volume = self.volume.as_ref().ok_or("there is no volume")?;
        if volume.attached_by.is_none() {
            return Err("an in-sync set changes while nobody has the volume");
        }
        let proposal = (volume.generation, row.index, before.epoch, set);
        if !self.proposed.contains(&proposal) {
            return Err("an in-sync set changes as no current owner has proposed");
        }
        Ok(())
    }
}

fn parse<T: DeserializeOwned>(value: &[u8]) -> Option<T> {
    let stored: Option<Stored<T>> = serde_json::from_slice(value).ok();
    stored.map(|stored| stored.row)
}

#[cfg(test)]
mod tests;
