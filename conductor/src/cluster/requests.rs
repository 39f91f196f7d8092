//! What the API asks of the cluster, one method a request, and the clock's look at silent nodes.

use std::sync::Arc;
use std::time::Duration;

use ashlar_proto::api::{
    AskMaps, Assignments, AttachRequest, Attachment, CreateVolume, DetachRequest, Heartbeat,
    HeartbeatAnswer, InSyncCommitted, OwnerBeat, OwnerHeartbeat, ProposeInSync, RegisterNode,
    Registered, ResizeVolume, Revision, Volume, VolumeMap, VolumeMaps, VolumeState,
};
use ashlar_proto::limits::MAPS_ASKED_MAX;
use ashlar_proto::planted::{Planted, is_planted};
use ashlar_proto::{NodeId, VolumeId};

use super::{Cluster, ClusterError, View};
use crate::evidence::Witness;
use crate::meta::MetaStore;
use crate::refusal::{
    InvalidRequest, NodeRefusal, Refusal, VolumeRefusal, check_observed, check_owner,
};
use crate::state::Attacher;

/// How often to look whether the nodes of a volume were heard.
const NODES_POLL: Duration = Duration::from_millis(20);

impl<M: MetaStore> Cluster<M> {
    /// Makes a volume and waits for its stores, up to `wait`; gives it as it then stands.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn create(
        self: &Arc<Self>,
        request: CreateVolume,
        wait: Duration,
    ) -> Result<Volume, ClusterError> {
        let name = request.name.clone();
        let shard_bytes = self.shard_bytes;
        let plan = move |view: &View| view.state.plan_create(&view.live, &request, shard_bytes);
        let id = self.transact_once(plan).await?;
        self.created(id, name, wait).await
    }

    /// Waits for the stores of a new volume, up to `wait`; gives it as it then stands.
    pub(super) async fn created(
        self: &Arc<Self>,
        id: VolumeId,
        name: String,
        wait: Duration,
    ) -> Result<Volume, ClusterError> {
        self.settle().await?;
        let ready = |view: &View| {
            let volume = view.state.volume(id)?;
            (volume.state != VolumeState::Creating).then_some(())
        };
        self.wait_for(wait, ready).await;
        let volume = self.read(|view| view.state.volume_with_shards(id));
        volume.ok_or_else(|| Refusal::from(VolumeRefusal::NotFound { name }).into())
    }

    /// Deletes a volume and waits for its stores, up to `wait`; gives what is left of it.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn delete(
        self: &Arc<Self>,
        name: String,
        force: bool,
        wait: Duration,
    ) -> Result<Option<Volume>, ClusterError> {
        let id = self
            .transact_once(move |view| view.state.plan_delete(&name, force))
            .await?;
        self.settle().await?;
        let gone = |view: &View| view.state.volume(id).is_none().then_some(());
        self.wait_for(wait, gone).await;
        Ok(self.read(|view| view.state.volume(id)))
    }

    /// Gives a volume another size; where it grows, waits for its stores, up to `wait`. Gives it as it
    /// then stands.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn resize(
        self: &Arc<Self>,
        name: String,
        request: ResizeVolume,
        wait: Duration,
    ) -> Result<Volume, ClusterError> {
        let not_found = VolumeRefusal::NotFound { name: name.clone() };
        let plan = move |view: &View| view.state.plan_resize(&view.live, &name, &request);
        let (id, target) = self.transact_once(plan).await?;
        self.settle().await?;
        let is_over = |view: &View| {
            let volume = view.state.volume(id);
            let grows = volume.is_some_and(|volume| volume.grows_to == Some(target));
            (!grows).then_some(())
        };
        self.wait_for(wait, is_over).await;
        let volume = self.read(|view| view.state.volume_with_shards(id));
        volume.ok_or_else(|| Refusal::from(not_found).into())
    }

    /// Grants the next generation, whoever asks.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn attach(
        self: &Arc<Self>,
        name: String,
        request: AttachRequest,
    ) -> Result<Attachment, ClusterError> {
        self.attach_for(name, request, None).await
    }

    /// Grants the next generation to somebody who may have it.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub(crate) async fn attach_by(
        self: &Arc<Self>,
        name: String,
        request: AttachRequest,
        by: Attacher,
    ) -> Result<Attachment, ClusterError> {
        self.attach_for(name, request, Some(by)).await
    }

    async fn attach_for(
        self: &Arc<Self>,
        name: String,
        request: AttachRequest,
        by: Option<Attacher>,
    ) -> Result<Attachment, ClusterError> {
        self.await_nodes_of(&name).await;
        let cluster = Arc::clone(self);
        let plan = move |view: &View| {
            let now = cluster.now();
            match &by {
                Some(by) => view
                    .state
                    .plan_attach_by(&view.live, now, &name, &request, by),
                None => view.state.plan_attach(&view.live, now, &name, &request),
            }
        };
        if is_planted(Planted::GrantEarly) {
            let attachment = self.read(&plan)?.answer;
            let cluster = Arc::clone(self);
            self.runtime
                .spawn(Box::pin(async move { drop(cluster.transact(plan).await) }));
            return Ok(attachment);
        }
        let (attachment, revision) = self.transact(plan).await?;
        let (now, volume) = (self.now(), &attachment.volume);
        self.change_live(|view| {
            let evidence = &mut view.live.evidence;
            evidence.note_owner(now, volume.id, volume.generation);
        });
        Ok(Attachment {
            revision,
            ..attachment
        })
    }

    /// Just after it has begun to lead, the nodes of a volume may be elsewhere than when a conductor last
    /// did, and an owner sent to the old place would propose them away. They are heard soon, or
    /// are down.
    async fn await_nodes_of(&self, name: &str) {
        let heard = |view: &View| {
            let mut nodes = view.state.nodes_up_of(name);
            nodes.all(|node| {
                view.live
                    .membership
                    .heartbeat_age(node, self.now())
                    .is_some()
            })
        };
        while !self.read(heard) && self.reign_age() < self.timing.silence {
            self.runtime.sleep(NODES_POLL).await;
        }
    }

    /// Ends an attach.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn detach(
        self: &Arc<Self>,
        name: String,
        request: DetachRequest,
    ) -> Result<(), ClusterError> {
        let plan = move |view: &View| view.state.plan_detach(&name, &request);
        self.transact(plan).await.map(|_| ())
    }

    /// Commits an in-sync set.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn propose(
        self: &Arc<Self>,
        name: String,
        request: ProposeInSync,
    ) -> Result<InSyncCommitted, ClusterError> {
        let plan = move |view: &View| {
            view.state.refuse_held_back(&name)?;
            view.state.plan_in_sync(&name, &request)
        };
        Ok(self.transact(plan).await?.0)
    }

    /// Takes a store in.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn register(
        self: &Arc<Self>,
        request: RegisterNode,
    ) -> Result<Registered, ClusterError> {
        let reports = request.disks.clone();
        let plan = move |view: &View| view.state.plan_register(&request);
        let (node, _) = self.transact(plan).await?;
        let now = self.now();
        let cluster = self.change_live(|view| {
            view.live.membership.heard(node, now);
            view.live.applied.remove(&node);
            view.live
                .reports
                .extend(reports.into_iter().map(|report| (report.id, report)));
            view.state.cluster()
        });
        let beat = u64::try_from(self.timing.heartbeat.as_millis()).unwrap_or(u64::MAX);
        Ok(Registered {
            node,
            cluster,
            heartbeat_ms: beat,
        })
    }

    /// Hears a node.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn heartbeat(
        self: &Arc<Self>,
        node: NodeId,
        heartbeat: Heartbeat,
    ) -> Result<HeartbeatAnswer, ClusterError> {
        check_observed(&heartbeat.seen).map_err(Refusal::from)?;
        let (reports, applied) = (heartbeat.disks.clone(), heartbeat.applied);
        let seen = heartbeat.seen.clone();
        let plan = move |view: &View| view.state.plan_heartbeat(node, &heartbeat.disks);
        self.transact(plan).await?;
        let now = self.now();
        self.change_live(|view| {
            view.live.membership.heard(node, now);
            view.live.applied.insert(node, applied);
            let evidence = &mut view.live.evidence;
            let peers = view.state.known(&seen.peers);
            evidence.note_reach(now, Witness::Node(node), &peers);
            evidence.note_sightings(now, node, seen.owners.as_deref());
            view.live
                .reports
                .extend(reports.into_iter().map(|report| (report.id, report)));
        });
        self.settle().await?;
        Ok(self.read(|view| HeartbeatAnswer {
            peers: view.state.peers_of(node),
            inventory: view.live.inventories.asked(node),
        }))
    }

    /// Hears an owner.
    ///
    /// # Errors
    /// [`ClusterError::Refused`].
    pub fn hear_owner(&self, heartbeat: OwnerHeartbeat) -> Result<(), ClusterError> {
        check_owner(&heartbeat).map_err(Refusal::from)?;
        self.leads()?;
        let now = self.now();
        self.change_live(|view| {
            let evidence = &mut view.live.evidence;
            let is_owner = |beat: &OwnerBeat| {
                let (volume, generation) = (beat.volume, beat.generation);
                view.state
                    .has_attached(volume, generation, &heartbeat.owner)
            };
            // Who was replaced learns of it by the map.
            let own: Vec<&OwnerBeat> = heartbeat.volumes.iter().filter(|b| is_owner(b)).collect();
            for beat in &own {
                evidence.note_owner(now, beat.volume, beat.generation);
            }
            if !own.is_empty() {
                let stores = view.state.known(&heartbeat.stores);
                let witness = view.state.witness(&heartbeat.owner);
                evidence.note_reach(now, witness, &stores);
            }
        });
        Ok(())
    }

    /// A node's assignments, once they are newer than `after` or the wait is over. Only who leads before
    /// and after the wait knows them: a store removes what is not on the list, and one of a moment ago
    /// lacks what the store has made since. During a recovery nobody knows them: the answer is that nothing
    /// is newer than `after`, which any store takes for no news.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn assignments(
        &self,
        node: NodeId,
        after: Revision,
        wait: Duration,
    ) -> Result<Assignments, ClusterError> {
        let current = |view: &View| {
            view.state
                .assigned(node)
                .ok_or(Refusal::from(NodeRefusal::NotFound { node }))
        };
        let term = self.leads()?;
        let changed = |view: &View| match current(view) {
            Ok(at) if (at == after || view.state.is_recovering()) && view.leads_in(term) => None,
            other => Some(other.map(|_| ())),
        };
        self.read(|view| current(view).map(|_| ()))?;
        let bell = self.bells.of_node(node);
        if let Some(refused) = self.wait_at(&bell, wait, changed).await {
            refused?;
        }
        if self.leads()? != term {
            return Err(ClusterError::NotLeader { leader: None });
        }
        self.read(|view| {
            let revision = current(view)?;
            if view.state.is_recovering() {
                return Ok(Assignments {
                    cluster: view.state.cluster(),
                    revision: after,
                    replicas: Vec::new(),
                    repairs: Vec::new(),
                });
            }
            Ok(Assignments {
                cluster: view.state.cluster(),
                revision,
                replicas: view.state.assignments(node),
                repairs: view.state.repairs(node),
            })
        })
    }

    /// A volume's map, once it has changed after `after` or the wait is over.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn map(
        &self,
        name: String,
        after: Revision,
        wait: Duration,
    ) -> Result<VolumeMap, ClusterError> {
        let changed = |view: &View| match view.state.map_changed(&name) {
            _ if view.is_behind(after) => None,
            Some(at) if !view.state.is_newer(at, after) => None,
            _ => Some(()),
        };
        self.wait_for(wait, changed).await;
        self.check_not_behind(after)?;
        self.read(|view| view.state.refuse_held_back(&name))
            .map_err(Refusal::from)?;
        let map = self.read(|view| view.state.map(&name));
        map.ok_or_else(|| Refusal::from(VolumeRefusal::NotFound { name }).into())
    }

    /// The maps of volumes that have changed, once one has or the wait is over.
    pub(crate) async fn maps(
        &self,
        request: AskMaps,
        wait: Duration,
    ) -> Result<VolumeMaps, ClusterError> {
        let asked = request.volumes;
        if asked.len() > MAPS_ASKED_MAX {
            let (field, most) = ("volumes", MAPS_ASKED_MAX);
            return Err(Refusal::from(InvalidRequest::TooMany { field, most }).into());
        }
        let known = asked.iter().map(|asked| asked.after).max();
        let known = known.unwrap_or_default();
        let changed = |view: &View| {
            if view.is_behind(known) {
                return None;
            }
            let maps = view.state.changed_maps(&asked);
            (maps != VolumeMaps::default()).then_some(maps)
        };
        let maps = self.wait_for(wait, changed).await;
        self.check_not_behind(known)?;
        Ok(maps.unwrap_or_default())
    }

    /// A map of a moment ago is none to whoever knows a newer one: it would take replicas away from an owner
    /// that has just got them.
    fn check_not_behind(&self, after: Revision) -> Result<(), ClusterError> {
        if self.read(|view| view.is_behind(after)) {
            return Err(ClusterError::NotLeader { leader: None });
        }
        Ok(())
    }

    /// Moves volumes on whose stores have done their part.
    pub(super) async fn settle(self: &Arc<Self>) -> Result<(), ClusterError> {
        if self.read(|view| view.state.has_unsettled()) {
            self.transact(|view| Ok(view.state.plan_settle(&view.live)))
                .await?;
        }
        Ok(())
    }

    /// Looks for silent nodes, and for what is amiss; to be called a few times per silence.
    pub(super) async fn tick(self: &Arc<Self>) -> Result<(), ClusterError> {
        let now = self.now();
        self.keep_to_settings();
        let silent = self.change_live(|view| view.live.membership.silent(now));
        if self.read(|view| !view.state.plan_silence(&silent).changes.is_empty()) {
            let plan = move |view: &View| Ok(view.state.plan_silence(&silent));
            let (names, _) = self.transact(plan).await?;
            for name in names {
                tracing::warn!(node = name, "node is down: it sends no heartbeats");
            }
            self.settle().await?;
        }
        self.look_at_servers().await?;
        self.look_at_space();
        self.look_at_tasks();
        if self.read(|view| view.state.is_recovering()) {
            return Ok(());
        }
        self.heal().await
    }
}
