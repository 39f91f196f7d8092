//! Clients that may attach no volume, and how they lose those that they have.
//!
//! Taking a volume away goes in two steps. The row counts a generation that nobody owns: the client's
//! proposals are refused from then on, and one that reaches the conductor lets go by itself. Its
//! writes end when a later owner has taken the volume over, for replicas refuse older generations then:
//! a repair owner does that at once, even if nothing is amiss, and detaches. Invariant: a volume that
//! a denied client had is `unfenced` until a later owner has said that it served it.
//!
//! A client is known by what it calls itself, and by the node or the user that it was let in as.

use ashlar_proto::VolumeId;
use ashlar_proto::api::{AllowClient, DeniedClient, DenyClient};

use super::{ClusterState, Plan};
use crate::meta::Change;
use crate::refusal::{ClientRefusal, InvalidRequest, Refusal, check_text};
use crate::row::{AnyRow, AttachedAs, DeniedRow, VolumeRow, denied_key};

/// Most denials at a time.
pub(crate) const DENIED_MAX: usize = 1024;

impl DeniedRow {
    /// Whether it concerns who says `owner` of itself and was let in as `shown`.
    fn concerns(&self, owner: &str, shown: Option<&AttachedAs>) -> bool {
        let names = shown.into_iter().flat_map(AttachedAs::names);
        self.means(owner) || names.into_iter().any(|name| self.means(name))
    }

    fn means(&self, name: &str) -> bool {
        match self.client.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == self.client || name.split(' ').next() == Some(&self.client),
        }
    }

    /// As people see it.
    pub(crate) fn show(&self) -> DeniedClient {
        DeniedClient {
            client: self.client.clone(),
            reason: self.reason.clone(),
        }
    }
}

impl ClusterState {
    /// All clients that are denied, by their texts.
    pub(crate) fn denied(&self) -> Vec<DeniedClient> {
        self.denied.values().map(DeniedRow::show).collect()
    }

    /// One of them.
    pub(crate) fn denied_client(&self, client: &str) -> Option<DeniedClient> {
        self.denied.get(client).map(DeniedRow::show)
    }

    /// Refuses who may attach nothing.
    pub(super) fn refuse_denied(
        &self,
        owner: &str,
        shown: Option<&AttachedAs>,
    ) -> Result<(), ClientRefusal> {
        let mut denials = self.denied.values();
        let Some(row) = denials.find(|row| row.concerns(owner, shown)) else {
            return Ok(());
        };
        Err(ClientRefusal::Denied {
            owner: owner.to_owned(),
            client: row.client.clone(),
            reason: row.reason.clone(),
        })
    }

    /// These clients may attach nothing any more; gives the volumes that this takes from them.
    pub(crate) fn plan_deny(&self, request: &DenyClient) -> Result<Plan<Vec<VolumeId>>, Refusal> {
        check_text("client", &request.client)?;
        if let Some(reason) = &request.reason {
            check_text("reason", reason)?;
        }
        let known = self.denied.get(&request.client);
        if known.is_none() && self.denied.len() >= DENIED_MAX {
            let (field, most) = ("client", DENIED_MAX);
            return Err(InvalidRequest::TooMany { field, most }.into());
        }
        let row = DeniedRow {
            client: request.client.clone(),
            reason: request.reason.clone(),
        };
        let is_taken = |volume: &&VolumeRow| {
            let (owner, shown) = (volume.attached_by.as_deref(), volume.attached_as.as_ref());
            !volume.attached_for_repair && owner.is_some_and(|owner| row.concerns(owner, shown))
        };
        let taken: Vec<&VolumeRow> = self.volumes.values().filter(is_taken).collect();
        let mut changes: Vec<Change> = taken.iter().map(|volume| taken_away(volume)).collect();
        if known != Some(&row) {
            changes.push(AnyRow::Denied(row.clone()).put());
        }
        Ok(Plan {
            reads: Vec::new(),
            changes,
            answer: taken.iter().map(|volume| volume.id).collect(),
        })
    }

    /// These clients may attach again.
    pub(crate) fn plan_allow(&self, request: &AllowClient) -> Result<Plan<()>, Refusal> {
        let client = &request.client;
        if !self.denied.contains_key(client) {
            let client = client.chars().take(80).collect();
            return Err(ClientRefusal::NotDenied { client }.into());
        }
        let key = denied_key(client);
        Ok(Plan {
            reads: Vec::new(),
            changes: vec![Change::Delete { key }],
            answer: (),
        })
    }

    /// The names of the volumes that may still take writes of a denied client.
    pub(crate) fn unfenced(&self) -> Vec<String> {
        let rows = self.volumes_to_do().filter(|row| row.unfenced);
        rows.map(|row| row.name.clone()).collect()
    }

    /// The names of volumes.
    pub(crate) fn names_of(&self, volumes: &[VolumeId]) -> Vec<String> {
        let rows = volumes.iter().filter_map(|id| self.volumes.get(id));
        rows.map(|row| row.name.clone()).collect()
    }
}

/// The row of a volume that is taken from who has it. A repair owner that loses it does not get it back at
/// once: its task is given out anew.
pub(super) fn taken_away(volume: &VolumeRow) -> Change {
    AnyRow::Volume(VolumeRow {
        generation: volume.generation.next(),
        attached_by: None,
        attached_as: None,
        attached_under: None,
        attached_for_repair: false,
        repairer: volume.repairer.filter(|_| !volume.attached_for_repair),
        served_by: None,
        wanted_by: None,
        unfenced: true,
        ..volume.clone()
    })
    .put()
}
