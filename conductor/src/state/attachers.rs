//! Who may attach a volume: not the denied, nor who does not give its key; and what a repair may pass by.
//!
//! Invariant: it is looked at in the transaction of the attach, so that a key or a denial that was answered
//! before the attach holds for it. The owner's name is the client's own word; denials go by the certificate and
//! the user as well, which the volume's row keeps.

use ashlar_proto::api::{AttachRequest, Attachment, NodeRole, Role, repair_owner};

use super::{ClusterState, Plan};
use crate::live::Live;
use crate::membership::Moment;
use crate::refusal::{AccessRefusal, IdentityRefusal, Refusal};
use crate::row::{AttachedAs, Hidden};

/// Who asks for an attach.
#[derive(Clone, Debug)]
pub(crate) struct Attacher {
    /// Its name.
    pub(crate) who: String,
    pub(crate) role: Role,
    /// Whether a certificate says so.
    pub(crate) is_certified: bool,
    /// What it has shown, if anything: it is kept with the volume.
    pub(crate) shown: Option<AttachedAs>,
    /// The hash of the volume's key that it gives.
    pub(crate) key: Option<Hidden>,
}

impl ClusterState {
    /// The next generation, for one who may have it.
    pub(crate) fn plan_attach_by(
        &self,
        live: &Live,
        now: Moment,
        name: &str,
        request: &AttachRequest,
        by: &Attacher,
    ) -> Result<Plan<Attachment>, Refusal> {
        self.refuse_attacher(name, request, by)?;
        self.plan_attach_as(live, now, name, request, by.shown.clone())
    }

    /// Refuses an attach to who may not have it. The repair owner of the node that has the volume as its task
    /// needs no key and is not denied; another one is as anybody.
    pub(crate) fn refuse_attacher(
        &self,
        name: &str,
        request: &AttachRequest,
        by: &Attacher,
    ) -> Result<(), Refusal> {
        self.refuse_denied_identity(by)?;
        if request.repair {
            refuse_repair(request, by)?;
            if self.has_as_task(name, &request.owner) {
                return Ok(());
            }
        }
        self.refuse_denied(&request.owner, by.shown.as_ref())?;
        Ok(self.check_volume_key(name, by.key.as_ref())?)
    }

    /// Refuses who was denied after its request was let in.
    fn refuse_denied_identity(&self, by: &Attacher) -> Result<(), IdentityRefusal> {
        match &by.shown {
            Some(shown) if self.denied_identities.keys().any(|who| shown.is_of(who)) => {
                let name = shown.node.clone().unwrap_or_default();
                Err(IdentityRefusal::Denied { name })
            }
            _ => Ok(()),
        }
    }

    fn has_as_task(&self, name: &str, owner: &str) -> bool {
        let repairer = self.volume_named(name).and_then(|row| row.repairer);
        let node = repairer.and_then(|id| self.nodes.get(&id));
        node.is_some_and(|node| repair_owner(&node.name) == owner)
    }
}

/// Stores repair, each in its own name where a certificate says which that is.
fn refuse_repair(request: &AttachRequest, by: &Attacher) -> Result<(), Refusal> {
    if !matches!(by.role, Role::Admin | Role::Store) {
        return Err(AccessRefusal::Role {
            who: by.who.clone(),
            role: by.role.name(),
            needed: "a store",
        }
        .into());
    }
    let is_named = by.is_certified && by.role == Role::Store;
    if is_named && request.owner != repair_owner(&by.who) {
        let owner: String = request.owner.chars().take(120).collect();
        return Err(IdentityRefusal::SpeaksForOther {
            role: NodeRole::Store,
            name: by.who.clone(),
            other: format!("owner `{owner}`"),
        }
        .into());
    }
    Ok(())
}
