//! What the state says is under way, and the plan that calls it off.

use ashlar_proto::DiskId;
use ashlar_proto::api::{
    Evacuation, FlattenVolume, ResizeVolume, Schedulable, TaskKind, VolumeState,
};

use super::{ClusterState, Plan};
use crate::live::Live;
use crate::refusal::{Refusal, TaskRefusal};
use crate::row::VolumeRow;
use crate::tasks::{Extent, Underway};

impl ClusterState {
    /// All that is under way.
    pub(crate) fn underway(&self) -> Vec<Underway> {
        let mut tasks = Vec::new();
        let busy = self.volumes_with_work();
        for volume in busy.iter().filter_map(|id| self.volumes.get(id)) {
            self.tasks_of_volume(volume, &mut tasks);
        }
        self.tasks_of_nodes(&mut tasks);
        self.tasks_of_disks(&mut tasks);
        if self.rebalance.active && !self.rebalance.paused {
            tasks.push(Underway {
                kind: TaskKind::Rebalance,
                of: "cluster".to_owned(),
                subject: "cluster".to_owned(),
                extent: Extent::Unknown,
            });
        }
        tasks
    }

    fn tasks_of_volume(&self, volume: &VolumeRow, tasks: &mut Vec<Underway>) {
        let mut push = |kind, extent| {
            tasks.push(Underway {
                kind,
                of: volume.id.to_string(),
                subject: volume.name.clone(),
                extent,
            });
        };
        match volume.state {
            VolumeState::Creating => return push(TaskKind::CreateVolume, Extent::Unknown),
            VolumeState::Deleting => return push(TaskKind::DeleteVolume, Extent::Unknown),
            VolumeState::Ready => {}
        }
        if volume.grows_to.is_some() {
            push(TaskKind::ResizeVolume, Extent::Unknown);
        }
        if let (Some(done), Some(origin)) = (volume.flattened_to, volume.origin) {
            let (done, all) = (done.get(), origin.bytes.get());
            push(TaskKind::FlattenVolume, Extent::Done { done, all });
        }
        if volume.layers_applied < volume.layers.version {
            push(TaskKind::ApplyLayers, Extent::Unknown);
        }
        let replicas = self.shards_of(volume.id).flat_map(|shard| &shard.replicas);
        let behind = replicas.filter(|replica| !replica.in_sync).count();
        if behind > 0 {
            push(TaskKind::RebuildVolume, Extent::Left(behind as u64));
        }
        let unsettled = self.snapshots.above(volume.id, volume.settled_layer);
        for snapshot in unsettled.filter(|snapshot| !snapshot.deleted) {
            tasks.push(Underway {
                kind: TaskKind::SealSnapshot,
                of: format!("{}.{:08x}", volume.id, snapshot.layer.get()),
                subject: format!("{}@{}", volume.name, snapshot.name),
                extent: Extent::Unknown,
            });
        }
    }

    fn tasks_of_nodes(&self, tasks: &mut Vec<Underway>) {
        let drained = self.nodes.values();
        for node in drained.filter(|node| node.schedulable == Schedulable::Draining) {
            let disks = self.disks.iter().filter(|(_, row)| row.node == node.id);
            let held: usize = disks.map(|(disk, _)| self.replicas_on(*disk)).sum();
            if held > 0 {
                tasks.push(Underway {
                    kind: TaskKind::DrainNode,
                    of: node.id.to_string(),
                    subject: node.name.clone(),
                    extent: Extent::Left(held as u64),
                });
            }
        }
    }

    fn tasks_of_disks(&self, tasks: &mut Vec<Underway>) {
        for (disk, row) in &self.disks {
            let held = self.replicas_on(*disk);
            let kind = if row.schedulable == Schedulable::Draining {
                TaskKind::DrainDisk
            } else if matches!(
                self.evacuation(*disk),
                Evacuation::Moving | Evacuation::Waiting
            ) {
                TaskKind::EvacuateDisk
            } else {
                continue;
            };
            if held > 0 {
                tasks.push(Underway {
                    kind,
                    of: disk.to_string(),
                    subject: disk.to_string(),
                    extent: Extent::Left(held as u64),
                });
            }
        }
    }

    /// Calls a task off.
    pub(crate) fn plan_cancel(&self, live: &Live, id: &str) -> Result<Plan<()>, Refusal> {
        let found = self.underway().into_iter().find(|one| one.id() == id);
        let id = || -> String { id.chars().take(120).collect() };
        let Some(task) = found else {
            let is_known = live.tasks.task(&id()).is_some();
            return Err(match is_known {
                true => TaskRefusal::NotCancelable { id: id() },
                false => TaskRefusal::NotFound { id: id() },
            }
            .into());
        };
        match task.kind {
            TaskKind::ResizeVolume => {
                let volume = self.require(&task.subject)?;
                let request = ResizeVolume {
                    size_bytes: volume.size_bytes,
                    shrink: false,
                    generation: None,
                };
                let plan = self.plan_resize(live, &task.subject, &request)?;
                Ok(plan.without_answer())
            }
            TaskKind::FlattenVolume => {
                let plan = self.plan_flatten(&task.subject, FlattenVolume { stop: true })?;
                Ok(plan.without_answer())
            }
            TaskKind::DrainNode => {
                let plan = self.plan_schedule_node(&task.subject, Schedulable::Open)?;
                Ok(plan.without_answer())
            }
            TaskKind::DrainDisk => {
                let disk = disk_of(&task);
                let plan = self.plan_schedule_disk(disk, Schedulable::Open)?;
                Ok(plan.without_answer())
            }
            TaskKind::EvacuateDisk => Ok(self.plan_clear_disk(disk_of(&task))?.without_answer()),
            TaskKind::Rebalance => Ok(self.plan_pause(true).without_answer()),
            TaskKind::CreateVolume
            | TaskKind::DeleteVolume
            | TaskKind::RebuildVolume
            | TaskKind::ApplyLayers
            | TaskKind::SealSnapshot => Err(TaskRefusal::NotCancelable { id: id() }.into()),
        }
    }
}

/// The disk that a task is about.
fn disk_of(task: &Underway) -> DiskId {
    task.of.parse().unwrap_or_default()
}
