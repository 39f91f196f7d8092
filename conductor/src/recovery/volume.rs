//! One volume: its shards, its generation, its layers; and one that no row knows, made anew.

use std::collections::{BTreeMap, BTreeSet};

use ashlar_proto::api::{AckRule, FoundReplica, Reserve, VolumeState};
use ashlar_proto::limits::{BLOCK_BYTES_U64, SHARD_BYTES_DEFAULT, VOLUME_BYTES_MIN};
use ashlar_proto::{ByteCount, DiskId, Generation, Layer, LayerTable, ShardIndex, VolumeId};

use super::code::Code;
use super::shard::{Judged, Look};
use super::trust::Around;
use super::{Found, GENERATIONS_SKIPPED, Known, Outcome};
use crate::row::{AnyRow, NameRow, RecoveryCause, ShardRow, VolumeRow};
use crate::state::shards_needed;

/// Compares what is known of a volume with its replicas.
pub(super) fn compare(
    known: &Known,
    found: &Found,
    volume: VolumeId,
    replicas: &[&FoundReplica],
    outcome: &mut Outcome,
) {
    let row = known.volumes.get(&volume);
    if let Some(row) = row.filter(|row| row.state != VolumeState::Ready) {
        unready(known, row, replicas, outcome);
        return;
    }
    if row.is_none() && known.recovery.is_none() {
        outcome.find(Code::VolumeDeleted, Some(volume), None);
        return;
    }
    // How much there is of it only all disks together can say.
    if row.is_none() && !outcome.complete {
        let found = replicas.len();
        outcome.find(Code::VolumeRowLostOfSome { found }, Some(volume), None);
        return;
    }
    let shards = Shards::new(known, found, volume, replicas, outcome);
    let mut judged = BTreeMap::new();
    for look in shards.looks() {
        match look.judge() {
            Ok(one) => {
                judged.insert(look.index, one);
            }
            Err(code) => outcome.find(code, Some(volume), Some(look.index)),
        }
    }
    for (index, one) in &judged {
        for code in &one.codes {
            outcome.find(code.clone(), Some(volume), Some(*index));
        }
    }
    let guards: Vec<ShardRow> = shards.looks().filter_map(Look::guarded).collect();
    let look = LookAtVolume {
        known,
        volume,
        replicas,
        judged,
        around: shards.around,
    };
    let rows = match row {
        Some(row) => {
            let guards = guards.into_iter().map(AnyRow::Shard);
            let guards: Vec<AnyRow> = guards.chain(look.guarded(row)).collect();
            outcome.guards.insert(volume, guards);
            look.mended(row, outcome)
        }
        None => look.made(outcome),
    };
    if !outcome.undecided.contains(&volume) && !rows.is_empty() {
        outcome.puts.insert(volume, rows);
    }
}

/// What is being made or removed is not there yet, or no more, and nobody has it; unless the row is of a
/// backup of before it was there.
fn unready(known: &Known, row: &VolumeRow, replicas: &[&FoundReplica], outcome: &mut Outcome) {
    let was_owned = replicas
        .iter()
        .any(|it| it.generation > Generation::default());
    if row.state == VolumeState::Creating && was_owned && known.recovery.is_some() {
        outcome.find(Code::Unfinished, Some(row.id), None);
    }
}

/// Each shard of a volume that there is or should be.
struct Shards<'a> {
    known: &'a Known,
    heard: BTreeSet<DiskId>,
    volume: VolumeId,
    replicas: BTreeMap<ShardIndex, Vec<&'a FoundReplica>>,
    around: Around,
}

impl<'a> Shards<'a> {
    fn new(
        known: &'a Known,
        found: &Found,
        volume: VolumeId,
        replicas: &[&'a FoundReplica],
        outcome: &Outcome,
    ) -> Self {
        let row = known.volumes.get(&volume);
        let mut by_shard: BTreeMap<ShardIndex, Vec<&FoundReplica>> = BTreeMap::new();
        for replica in replicas {
            by_shard.entry(replica.shard).or_default().push(replica);
        }
        let needed = (0..row.map_or(0, shards_needed)).map(ShardIndex::new);
        let rows = known.shards.keys().filter(|at| at.0 == volume);
        for index in needed.chain(rows.map(|at| at.1)) {
            by_shard.entry(index).or_default();
        }
        Self {
            known,
            heard: found.disks.union(&found.gone).copied().collect(),
            volume,
            replicas: by_shard,
            around: Around {
                wanted: row.map(|row| usize::from(row.replicas)),
                all_heard: outcome.all_heard,
                complete: outcome.complete,
                owned: found.owned.contains(&volume),
                accepted: found.accepted.contains(&volume),
            },
        }
    }

    fn looks(&self) -> impl Iterator<Item = Look<'_>> {
        let recovery = self.known.recovery.as_ref();
        let recovery = recovery.filter(|recovery| recovery.holds_back(self.volume));
        let skipped = recovery.map_or(0, |recovery| recovery.epochs_skipped);
        let restored = recovery.is_some_and(|it| it.cause == RecoveryCause::Restored);
        self.replicas.iter().map(move |(index, found)| Look {
            known: self.known,
            heard: &self.heard,
            volume: self.volume,
            index: *index,
            found,
            skipped,
            restored,
            around: self.around,
        })
    }
}

struct LookAtVolume<'a> {
    known: &'a Known,
    volume: VolumeId,
    replicas: &'a [&'a FoundReplica],
    judged: BTreeMap<ShardIndex, Judged>,
    around: Around,
}

impl LookAtVolume<'_> {
    /// The rows of a volume that has one, as far as they change.
    fn mended(&self, row: &VolumeRow, outcome: &mut Outcome) -> Vec<AnyRow> {
        let needed = shards_needed(row);
        if self.judged.keys().any(|index| index.get() >= needed) {
            outcome.find(Code::BeyondEnd, Some(self.volume), None);
        }
        let mut mended = row.clone();
        let seen = self.seen();
        if self.is_behind(row) {
            let said = row.generation;
            let behind = Code::GenerationBehind { said, seen };
            outcome.find(behind, Some(self.volume), None);
        }
        let is_rebuilt = self.judged.values().any(|one| one.is_rebuilt);
        if self.is_behind(row) || is_rebuilt {
            fence(&mut mended, seen);
        }
        self.layers(row, &mut mended, outcome);
        let mut rows = self.changed_shards();
        if mended != *row {
            rows.push(AnyRow::Volume(mended));
        }
        rows
    }

    /// The highest generation that any replica has seen.
    fn seen(&self) -> Generation {
        let seen = self.replicas.iter().map(|it| it.generation).max();
        seen.unwrap_or_default()
    }

    /// Whether an owner may have a generation that the row knows nothing of. A restore has raised that of the
    /// row, so one that is equal was given out since the backup.
    fn is_behind(&self, row: &VolumeRow) -> bool {
        let seen = self.seen();
        let recovery = self.known.recovery.as_ref();
        let recovery = recovery.filter(|recovery| recovery.holds_back(self.volume));
        let is_restored = recovery.is_some_and(|it| it.cause == RecoveryCause::Restored);
        seen > row.generation || (is_restored && seen == row.generation)
    }

    /// The row as it is, with whoever may have the volume fenced, if that is needed.
    fn guarded(&self, row: &VolumeRow) -> Option<AnyRow> {
        self.is_behind(row).then(|| {
            let mut guarded = row.clone();
            fence(&mut guarded, self.seen());
            AnyRow::Volume(guarded)
        })
    }

    fn changed_shards(&self) -> Vec<AnyRow> {
        let rows = self.judged.values().filter_map(|one| one.row.clone());
        let is_new = |row: &ShardRow| self.known.shards.get(&(row.volume, row.index)) != Some(row);
        rows.filter(is_new).map(AnyRow::Shard).collect()
    }

    /// The head, and the table by which layers are read, as the newest replica has them.
    fn layers(&self, row: &VolumeRow, mended: &mut VolumeRow, outcome: &mut Outcome) {
        let top = self.replicas.iter().map(|it| it.top).max();
        let top = top.unwrap_or_default();
        let tables = self.replicas.iter().map(|it| it.layers.as_ref());
        let newest = tables.clone().flatten().max_by_key(|table| table.version);
        let version = newest.map_or(0, |table| table.version);
        if top <= row.head_layer && version <= row.layers.version {
            return;
        }
        let newest = newest.filter(|_| tables.clone().all(|table| table.is_some()));
        let Some(table) = newest.filter(|table| table.is_sound() && self.fits(table, row)) else {
            outcome.find(Code::LayersUnknown, Some(self.volume), None);
            return;
        };
        let (said, seen) = (row.head_layer, top.max(row.head_layer));
        outcome.find(Code::LayersBehind { said, seen }, Some(self.volume), None);
        if table.version > row.layers.version {
            mended.layers = table.clone();
        }
        // After a rollback the head is above all that was dropped.
        mended.head_layer = match mended.layers.is_dropped(seen) {
            true => Layer::new(seen.get().saturating_add(1)),
            false => seen,
        };
    }

    /// Whether all snapshots that the rows know can be read by that table.
    fn fits(&self, table: &LayerTable, row: &VolumeRow) -> bool {
        if table.version <= row.layers.version {
            return true;
        }
        let snapshots = self.known.snapshots.iter();
        let mut layers = snapshots.filter(|it| it.volume == self.volume);
        layers.all(|snapshot| {
            let interval = table.interval_of(snapshot.layer);
            interval.is_some_and(|run| run.high == snapshot.layer)
                && !table.is_dropped(snapshot.layer)
        })
    }

    /// The rows of a volume that has none.
    fn made(&self, outcome: &mut Outcome) -> Vec<AnyRow> {
        if outcome.undecided.contains(&self.volume) {
            return Vec::new();
        }
        let row = match self.volume_row() {
            Ok(row) => row,
            Err(why) => {
                outcome.find(Code::VolumeUnknown { why }, Some(self.volume), None);
                return Vec::new();
            }
        };
        let lost = Code::VolumeRowLost {
            name: row.name.clone(),
            size: row.size_bytes,
            shards: self.judged.len(),
            accepted: self.around.accepted,
        };
        outcome.find(lost, Some(self.volume), None);
        let mut rows = self.changed_shards();
        rows.push(AnyRow::Name(NameRow {
            name: row.name.clone(),
            volume: row.id,
        }));
        rows.push(AnyRow::Volume(row));
        rows
    }

    fn volume_row(&self) -> Result<VolumeRow, &'static str> {
        if self.around.owned {
            return Err("its owner is connected to a store");
        }
        let has_layers = |it: &&FoundReplica| {
            let version = it.layers.as_ref().map(|table| table.version);
            it.top > FIRST_HEAD || version != Some(0)
        };
        if self.replicas.iter().any(has_layers) {
            return Err("it had snapshots");
        }
        let lengths = self.lengths()?;
        let (size_bytes, shard_bytes) = extent(&lengths)?;
        let members = self.judged.values().filter_map(|one| one.row.as_ref());
        let members = members.map(|row| row.replicas.len()).max().unwrap_or(1);
        let mut row = VolumeRow {
            id: self.volume,
            name: self.name(),
            size_bytes,
            shard_bytes,
            replicas: u8::try_from(members).unwrap_or(1),
            ack: AckRule::Majority,
            state: VolumeState::Ready,
            generation: Generation::default(),
            head_layer: FIRST_HEAD,
            attached_by: None,
            attached_as: None,
            attached_under: None,
            publication: None,
            attached_for_repair: false,
            repairer: None,
            unfenced: false,
            layers: LayerTable::default(),
            layers_applied: 0,
            settled_layer: Layer::default(),
            settled: false,
            grows_to: None,
            kept_bytes: ByteCount::default(),
            reserve: Reserve::None,
            origin: None,
            flattened_to: None,
            labels: BTreeMap::new(),
            served_by: None,
            wanted_by: None,
            key_hash: None,
        };
        fence(&mut row, self.seen());
        Ok(row)
    }

    /// The blocks of each shard, of all from the first one on.
    fn lengths(&self) -> Result<Vec<u64>, &'static str> {
        let is_next = |(at, index): (u32, &ShardIndex)| at == index.get();
        if self.judged.is_empty() || !(0..).zip(self.judged.keys()).all(is_next) {
            return Err("some of its shards are missing");
        }
        let of_shard = |index: &ShardIndex| {
            let replicas = self.replicas.iter().filter(|it| it.shard == *index);
            let longest = replicas.map(|it| u64::from(it.blocks.get())).max();
            longest.ok_or("some of its shards are on no disk")
        };
        self.judged.keys().map(of_shard).collect()
    }

    /// The name that leads to it, else one by its id that no other has.
    fn name(&self) -> String {
        let names = &self.known.names;
        let own = names.iter().find(|(_, volume)| **volume == self.volume);
        let by_id = format!("recovered-{}", self.volume);
        let others = (2..).map(|number| format!("{by_id}-{number}"));
        let mut free = std::iter::once(by_id.clone())
            .chain(others)
            .filter(|name| !names.contains_key(name));
        own.map(|(name, _)| name.clone())
            .or_else(|| free.next())
            .unwrap_or(by_id)
    }
}

/// The head of a volume that never had a snapshot.
const FIRST_HEAD: Layer = Layer::new(1);

/// Nobody has the volume any more, and who had it is fenced: by generations above all that were seen or
/// given out, and by stores that attach it for a moment.
fn fence(row: &mut VolumeRow, seen: Generation) {
    let above = seen.get().saturating_add(GENERATIONS_SKIPPED);
    row.generation = row.generation.max(Generation::new(above));
    row.attached_by = None;
    row.attached_for_repair = false;
    row.served_by = None;
    row.settled = false;
    row.unfenced = seen > Generation::default();
}

/// The size of a volume and of its shards, by the blocks of each shard.
fn extent(lengths: &[u64]) -> Result<(ByteCount, ByteCount), &'static str> {
    let blocks = lengths
        .iter()
        .try_fold(0_u64, |sum, next| sum.checked_add(*next));
    let size = blocks.and_then(|blocks| blocks.checked_mul(BLOCK_BYTES_U64));
    let size = size.filter(|size| *size >= VOLUME_BYTES_MIN);
    let size = size.ok_or("it is too small or too large")?;
    let shard = match lengths {
        [first, rest @ ..] if !rest.is_empty() => {
            let full = lengths.len() - 1;
            let is_full = lengths.iter().take(full).all(|length| length == first);
            if !is_full || rest.last() > Some(first) {
                return Err("its shards have different lengths");
            }
            first * BLOCK_BYTES_U64
        }
        _ => SHARD_BYTES_DEFAULT.max(size),
    };
    Ok((ByteCount::new(size), ByteCount::new(shard)))
}
