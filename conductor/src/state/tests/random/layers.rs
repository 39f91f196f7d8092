//! Snapshots in random sequences: made, deleted, gone back to, and reported on, in any order.

use ashlar_proto::api::{CreateSnapshot, ReportLayers, RollbackVolume, SnapshotState};
use ashlar_proto::{Layer, LayerTable};

use super::*;

/// What was last seen of each volume's layers, and of each snapshot.
#[derive(Default)]
pub(super) struct Layers {
    volumes: BTreeMap<VolumeId, Seen>,
    ready: BTreeSet<(VolumeId, Layer)>,
    pub(super) rollbacks: u32,
}

struct Seen {
    head: Layer,
    settled: Layer,
    applied: u32,
    table: LayerTable,
}

impl Layers {
    /// What holds of the layers of every volume at all times, and of what became of them.
    pub(super) fn check(&mut self, state: &ClusterState) {
        for volume in state.volumes.values() {
            check_volume(state, volume);
            let now = Seen {
                head: volume.head_layer,
                settled: volume.settled_layer,
                applied: volume.layers_applied,
                table: volume.layers.clone(),
            };
            if let Some(before) = self.volumes.insert(volume.id, now) {
                check_step(&before, volume);
            }
            for snapshot in state.snapshots_of(&volume.name, true).unwrap() {
                let at = (volume.id, snapshot.layer);
                let is_ready = snapshot.state == SnapshotState::Ready;
                assert!(is_ready || !self.ready.contains(&at), "{snapshot:?}");
                if is_ready {
                    self.ready.insert(at);
                }
            }
        }
    }
}

fn check_volume(state: &ClusterState, volume: &VolumeRow) {
    let (table, head) = (&volume.layers, volume.head_layer);
    assert!(table.is_sound(), "{table:?}");
    assert!(volume.settled_layer < head, "{volume:?}");
    assert!(table.version < head.get() && volume.layers_applied <= table.version);
    assert!(
        !volume.settled || volume.attached_by.is_none(),
        "{volume:?}"
    );
    // The head is its own, or the last of all.
    let of_head = table.interval_of(head).unwrap();
    assert_eq!(of_head.high, head);
    let layers: Vec<Layer> = state.snapshots.of(volume.id).map(|row| row.layer).collect();
    for layer in &layers {
        assert!(*layer < head, "{volume:?}");
        let interval = table.interval_of(*layer).unwrap();
        assert_eq!(interval.high, *layer, "it is the top of its interval");
    }
    // No interval is left that nobody reads, and none is dropped as a whole.
    for run in &table.live {
        let is_read = layers.contains(&run.high) || run.high == head;
        assert!(is_read || !layers.iter().any(|layer| *layer > run.high));
        assert!(!table.is_dropped(run.high), "{table:?}");
    }
    let from_one = |runs: &[ashlar_proto::LayerRange]| {
        let mut below = 0;
        runs.iter().all(|run| {
            let follows = run.low.get() == below + 1;
            below = run.high.get();
            follows
        })
    };
    assert!(from_one(&table.live), "{table:?}");
}

fn check_step(before: &Seen, after: &VolumeRow) {
    assert!(before.head <= after.head_layer);
    assert!(before.settled <= after.settled_layer);
    assert!(before.applied <= after.layers_applied);
    assert!(before.table.version <= after.layers.version);
    if before.table.version == after.layers.version {
        assert_eq!(before.table, after.layers);
    }
    for run in &before.table.dropped {
        let stays = |label: &u32| after.layers.is_dropped(Layer::new(*label));
        assert!((run.low.get()..=run.high.get()).all(|label| stays(&label)));
    }
}

impl World {
    /// Somebody makes, deletes or goes back to a snapshot of some volume; or tries.
    pub(super) fn change_snapshots(&mut self) {
        let volume = format!("v{}", self.rng.below(VOLUMES));
        let there = self.bench.state.snapshots_of(&volume, true).unwrap();
        let mut name = format!("s{}", self.rng.below(6));
        let deed = self.rng.below(7);
        if deed > 3 && !there.is_empty() {
            let pick = self.rng.below(there.len() as u64);
            name.clone_from(&there[usize::try_from(pick).unwrap()].name);
        }
        match deed {
            0..=3 => {
                let request = CreateSnapshot { name };
                let plan = self.bench.state.plan_snapshot_create(&volume, &request, 0);
                if let Ok(plan) = plan {
                    self.bench.commit(plan);
                }
            }
            4 => {
                let plan = self.bench.state.plan_snapshot_delete(&volume, &name, false);
                if let Ok(plan) = plan {
                    self.bench.commit(plan);
                }
            }
            _ => {
                let request = RollbackVolume {
                    force: self.rng.one_in(2),
                    delete_newer: self.rng.one_in(2),
                };
                let plan = self.bench.state.plan_rollback(&volume, &name, request);
                if let Ok(plan) = plan {
                    self.layers.rollbacks += 1;
                    self.bench.commit(plan);
                }
            }
        }
        self.layers.check(&self.bench.state);
    }

    /// An owner says anything of its layers; the conductor takes what is possible.
    pub(super) fn report_some(&mut self) {
        let id = VolumeId::new(self.rng.below(VOLUMES) + 1);
        let volume = self.bench.state.volumes[&id].clone();
        let (head, version) = (volume.head_layer.get(), volume.layers.version);
        let request = ReportLayers {
            volume: id,
            generation: volume.generation,
            settled: Layer::new(u32::try_from(self.rng.below(u64::from(head) + 2)).unwrap()),
            table: u32::try_from(self.rng.below(u64::from(version) + 2)).unwrap(),
        };
        let plan = self.bench.state.plan_report_layers(&volume.name, &request);
        assert_eq!(plan.is_ok(), volume.attached_by.is_some());
        if let Ok(plan) = plan {
            self.bench.commit(plan);
        }
        self.layers.check(&self.bench.state);
    }

    /// The owner of a volume has brought all its replicas to where they should be.
    pub(super) fn report_layers(&mut self, volume: &VolumeRow) {
        let request = ReportLayers {
            volume: volume.id,
            generation: volume.generation,
            settled: Layer::new(volume.head_layer.get() - 1),
            table: volume.layers.version,
        };
        let plan = self.bench.state.plan_report_layers(&volume.name, &request);
        self.bench.commit(plan.unwrap());
    }

    /// Whether owners have something to do for snapshots and tables yet.
    pub(super) fn is_any_layer_pending(&self) -> bool {
        let state = &self.bench.state;
        let mut volumes = state.volumes.values();
        volumes.any(|volume| state.has_layers_pending(volume))
    }
}
