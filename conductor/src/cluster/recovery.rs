//! The metadata compared with what stores hold, and put right.
//!
//! The comparison is of the rows as they are after the stores have told what they hold: what a disk has
//! seen that no row knows of is not of a change that was under way.

use std::sync::Arc;
use std::time::Duration;

use ashlar_proto::NodeId;
use ashlar_proto::api::{
    ACCEPTED_MAX, CheckMetadata, FINDINGS_MAX, FindingKind, InventoryPage, MetadataChecked,
    MetadataFinding,
};

use super::{Cluster, ClusterError, View};
use crate::meta::{Change, MetaStore, Outcome as Committed, Term};
use crate::recovery::{Found, Outcome, compare};
use crate::refusal::{InvalidRequest, NodeRefusal, Refusal};
use crate::row::{AnyRow, recovery_key};
use crate::state::Plan;

/// The rows of a part of a repair, about, and their bytes: far below what a transaction of etcd takes.
const PART_ROWS: usize = 1000;
const PART_BYTES: usize = 1 << 19;

/// Parts, at most.
const PARTS_MAX: usize = 100_000;

impl<M: MetaStore> Cluster<M> {
    /// Takes a page of what a node holds.
    ///
    /// # Errors
    /// [`ClusterError::Refused`], [`ClusterError::NotLeader`].
    pub fn hear_inventory(&self, node: NodeId, page: InventoryPage) -> Result<(), ClusterError> {
        self.leads()?;
        let is_done = self.change_live(|view| {
            let disks = view.state.disks_on(node);
            let disks = disks.ok_or(Refusal::from(NodeRefusal::NotFound { node }))?;
            let noted = view.live.inventories.note(node, &disks, page);
            noted.map_err(|error| {
                tracing::warn!(%node, %error, "what a store tells of its disks cannot be: it is left out");
                Refusal::from(error)
            })
        })?;
        if is_done {
            self.bells.ring_everybody();
        }
        Ok(())
    }

    /// Asks stores what they hold, waits for them up to `wait`, and says what differs; puts right what is
    /// safe if that is asked for.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn check_metadata(
        self: &Arc<Self>,
        request: CheckMetadata,
        wait: Duration,
    ) -> Result<MetadataChecked, ClusterError> {
        let lists = [
            ("accept", request.accept.len()),
            ("gone", request.gone.len()),
        ];
        if let Some((field, _)) = lists.into_iter().find(|(_, count)| *count > ACCEPTED_MAX) {
            let most = ACCEPTED_MAX;
            return Err(Refusal::from(InvalidRequest::TooMany { field, most }).into());
        }
        self.leads()?;
        let _one = self.checking.lock().await;
        let (found, silent) = self.ask_stores(&request, wait).await;
        let (disks, replicas) = (found.disks.len() as u64, found.replicas.len() as u64);
        let found = Arc::new(found);
        let outcome = if request.repair || request.give_up {
            self.mend_metadata(&found, &request).await?
        } else {
            self.read(|view| compare(&view.state.to_compare(), &found))
        };
        let recovering = self.read(|view| view.state.is_recovering());
        let asked = MetadataChecked {
            recovering,
            disks,
            replicas,
            silent,
            ..MetadataChecked::default()
        };
        Ok(told(outcome, asked))
    }

    async fn ask_stores(&self, request: &CheckMetadata, wait: Duration) -> (Found, Vec<NodeId>) {
        let now_ms = self.wall_ms();
        self.change_live(|view| view.live.inventories.begin(now_ms));
        // Whoever asks may go away meanwhile.
        let _asking = Asking(self);
        let all_told = |view: &View| {
            let mut up = view.state.nodes_up().into_iter();
            up.all(|node| view.live.inventories.has_told(node))
                .then_some(())
        };
        self.wait_for(wait, all_told).await;
        self.change_live(|view| {
            let all = view.state.node_ids().into_iter();
            let silent = all.filter(|node| !view.live.inventories.has_told(*node));
            let silent = silent.collect();
            let mut found = view.live.inventories.end();
            found.accepted = request.accept.iter().copied().collect();
            found.gone = request.gone.iter().copied().collect();
            found.all_disks = request.all_disks;
            (found, silent)
        })
    }

    /// Puts what can be put, a part of the volumes at a time; what ends the recovery comes last. What was
    /// found is compared anew with the rows of each part's moment.
    async fn mend_metadata(
        self: &Arc<Self>,
        found: &Arc<Found>,
        request: &CheckMetadata,
    ) -> Result<Outcome, ClusterError> {
        let mut first = None;
        for _ in 0..PARTS_MAX {
            let (found, request) = (Arc::clone(found), request.clone());
            let plan = move |view: &View| Ok(mend(view, &found, &request));
            let ((outcome, is_last), _) = self.transact(plan).await?;
            let outcome = first.get_or_insert(outcome);
            if is_last {
                return Ok(std::mem::take(outcome));
            }
        }
        Err(ClusterError::Contended)
    }

    /// Begins a recovery where the rows lack what a conductor only ever writes together: before anybody is
    /// told anything that follows from them. To be called in the turn of who begins to lead.
    pub(super) async fn begin_recovery(&self, term: Term) -> Result<(), ClusterError> {
        let mut transaction = self.read(|view| {
            let plan = view.state.plan_recovery();
            view.state.transaction(&plan.reads, plan.changes)
        });
        if transaction.changes.is_empty() {
            return Ok(());
        }
        tracing::error!(
            "the metadata lack rows of volumes: stores are told nothing, and volumes are held back, until \
             `ashlar meta check --repair` has compared them with what stores hold"
        );
        transaction.term = Some(term);
        match self.commit(transaction).await? {
            Committed::Committed(_) | Committed::Conflict => self.follow().await,
            Committed::Deposed => Err(ClusterError::NotLeader { leader: None }),
        }
    }
}

/// Ends the asking of stores, however it ends.
struct Asking<'a, M: MetaStore>(&'a Cluster<M>);

impl<M: MetaStore> Drop for Asking<'_, M> {
    fn drop(&mut self) {
        self.0.change_live(|view| {
            view.live.inventories.end();
        });
    }
}

/// The next part of the changes that put right what can be, what was found, and whether it is the last part.
fn mend(view: &View, found: &Found, request: &CheckMetadata) -> Plan<(Outcome, bool)> {
    let known = view.state.to_compare();
    let mut outcome = compare(&known, found);
    outcome.mended = request.repair;
    let mut groups = std::mem::take(&mut outcome.puts);
    if !request.repair {
        groups.clear();
    }
    if request.give_up {
        // Whoever may have such a volume is fenced, although nobody knows what it has written.
        for (volume, rows) in std::mem::take(&mut outcome.guards) {
            groups.entry(volume).or_insert(rows);
        }
    }
    let mut changes = Vec::new();
    let mut bytes = 0;
    for rows in groups.into_values() {
        if changes.len() >= PART_ROWS || bytes >= PART_BYTES {
            return Plan {
                reads: Vec::new(),
                changes,
                answer: (outcome, false),
            };
        }
        let part: Vec<Change> = rows.iter().map(AnyRow::put).collect();
        bytes += part.iter().map(Change::bytes).sum::<usize>();
        changes.extend(part);
    }
    changes.extend(
        outcome
            .counters
            .clone()
            .map(|row| AnyRow::Cluster(row).put()),
    );
    if let Some(before) = &known.recovery {
        let after = outcome.recovery_after(before).filter(|_| !request.give_up);
        match after {
            Some(after) if !request.repair || after == *before => {}
            Some(after) => changes.push(AnyRow::Recovery(after).put()),
            None => changes.push(Change::Delete {
                key: recovery_key(),
            }),
        }
    }
    Plan {
        reads: Vec::new(),
        changes,
        answer: (outcome, true),
    }
}

/// The answer: what rows were put for is mended.
fn told(outcome: Outcome, asked: MetadataChecked) -> MetadataChecked {
    let Outcome {
        findings,
        undecided,
        mended,
        ..
    } = outcome;
    let is_mended = |finding: &MetadataFinding| {
        let of_undecided = finding
            .volume
            .is_some_and(|volume| undecided.contains(&volume));
        mended && finding.kind == FindingKind::Repairable && !of_undecided
    };
    let (mut mended, mut findings): (Vec<_>, Vec<_>) = findings.into_iter().partition(is_mended);
    let all = findings.len() + mended.len();
    mended.truncate(FINDINGS_MAX);
    findings.truncate(FINDINGS_MAX);
    MetadataChecked {
        left_out: (all - findings.len() - mended.len()) as u64,
        mended,
        findings,
        ..asked
    }
}
