//! Every route, and what it takes: which role, whose project, and whether it is in the audit log.
//!
//! Pure. What is not in the table takes an admin of the whole cluster; a test holds the table against
//! the routers.

use ashlar_proto::api::Role;
use serde_json::Value;

use super::caller::Caller;
use crate::refusal::AccessRefusal;

/// What a request takes of who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Nothing.
    Nothing,
    /// To be known.
    Known,
    /// To read.
    View,
    /// To change volumes and what is around them.
    Operate,
    /// To change who may do what, and what holds for everybody.
    Administer,
    /// To be a store.
    Store,
    /// To be a front end.
    FrontEnd,
    /// To have volumes attached.
    Attach,
}

impl Need {
    /// Whether a role reaches it.
    pub(crate) fn is_met_by(self, role: Role) -> bool {
        match self {
            Self::Nothing | Self::Known | Self::View => true,
            Self::Operate => matches!(role, Role::Admin | Role::Operator),
            Self::Administer => role == Role::Admin,
            Self::Store => matches!(role, Role::Admin | Role::Store),
            Self::FrontEnd => matches!(role, Role::Admin | Role::FrontEnd),
            Self::Attach => role != Role::Viewer,
        }
    }

    /// Who would be let through, in words.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Nothing | Self::Known => "somebody who is known",
            Self::View => "a viewer",
            Self::Operate => "an operator",
            Self::Administer => "an admin",
            Self::Store => "a store",
            Self::FrontEnd => "a front end",
            Self::Attach => "an operator, a store or a front end",
        }
    }
}

/// What a request is about, hence whose project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    /// Nothing of a project, or what the handler picks by who asks.
    Nothing,
    /// The whole cluster.
    Cluster,
    /// The volume in the path.
    Volume,
    /// The volume that the body calls `name`.
    Named,
    /// The volume in the path, and the one that the body calls `name`.
    VolumeAndNamed,
    /// Those that the body lists as `volumes`.
    Listed,
}

impl About {
    /// Whether the body says it.
    pub(crate) fn is_in_body(self) -> bool {
        matches!(self, Self::Named | Self::VolumeAndNamed | Self::Listed)
    }
}

/// What is written into the audit log of a request that was let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Noted {
    /// Nothing: it reads, or a process reports what is so.
    Never,
    /// What it changed, if it did, and that it was refused.
    Changes,
    /// That it was done, too, where it changes no row.
    Always,
}

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rule {
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    pub(crate) need: Need,
    pub(crate) about: About,
    pub(crate) noted: Noted,
}

const fn get(path: &'static str, need: Need, about: About) -> Rule {
    let (method, noted) = ("GET", Noted::Never);
    Rule {
        method,
        path,
        need,
        about,
        noted,
    }
}

/// Somebody changes something.
const fn change(method: &'static str, path: &'static str, need: Need, about: About) -> Rule {
    let noted = Noted::Changes;
    Rule {
        method,
        path,
        need,
        about,
        noted,
    }
}

/// A process says what is so.
const fn report(path: &'static str, need: Need, about: About) -> Rule {
    let (method, noted) = ("POST", Noted::Never);
    Rule {
        method,
        path,
        need,
        about,
        noted,
    }
}

/// What holds for a route that is not in the table.
const UNLISTED: Rule = change("", "", Need::Administer, About::Cluster);

/// The rule of a route. HEAD is answered as GET is.
pub(crate) fn rule(method: &str, path: &str) -> Rule {
    let method = if method == "HEAD" { "GET" } else { method };
    let mut rules = RULES.iter();
    let found = rules.find(|rule| rule.method == method && rule.path == path);
    found.copied().unwrap_or(UNLISTED)
}

use About::{Cluster, Listed, Named, Nothing, Volume, VolumeAndNamed};
use Need::{Administer, Attach, FrontEnd, Known, Operate, Store, View};

/// The table.
#[rustfmt::skip]
pub(crate) const RULES: &[Rule] = &[
    get("/healthz", Need::Nothing, Nothing),
    get("/v1/leader", Need::Nothing, Nothing),
    get("/v1/openapi.json", Need::Nothing, Nothing),
    get("/v1/status", View, Cluster),
    // All rows, secrets and hashes with them.
    Rule { noted: Noted::Always, ..get("/v1/metadata/backup", Administer, Cluster) },
    change("POST", "/v1/metadata/check", Administer, Cluster),
    get("/v1/volumes", View, Nothing),
    change("POST", "/v1/volumes", Operate, Named),
    get("/v1/volumes/{name}", View, Volume),
    change("DELETE", "/v1/volumes/{name}", Operate, Volume),
    get("/v1/volumes/{name}/map", View, Volume),
    change("POST", "/v1/volumes/{name}/attach", Attach, Volume),
    change("POST", "/v1/volumes/{name}/detach", Attach, Volume),
    change("POST", "/v1/volumes/{name}/publish", Operate, Volume),
    change("POST", "/v1/volumes/{name}/unpublish", Operate, Volume),
    change("POST", "/v1/volumes/{name}/resize", Operate, Volume),
    change("POST", "/v1/volumes/{name}/reserve", Operate, Volume),
    report("/v1/volumes/{name}/in-sync", Attach, Volume),
    report("/v1/volumes/{name}/layers", Attach, Volume),
    report("/v1/volumes/{name}/flattened", Attach, Volume),
    report("/v1/volumes/{name}/hold", Attach, Volume),
    get("/v1/volumes/{name}/snapshots", View, Volume),
    change("POST", "/v1/volumes/{name}/snapshots", Operate, Volume),
    get("/v1/volumes/{name}/snapshots/{snapshot}", View, Volume),
    change("DELETE", "/v1/volumes/{name}/snapshots/{snapshot}", Operate, Volume),
    get("/v1/volumes/{name}/snapshots/{snapshot}/map", Attach, Volume),
    change("POST", "/v1/volumes/{name}/snapshots/{snapshot}/rollback", Operate, Volume),
    change("POST", "/v1/volumes/{name}/snapshots/{snapshot}/clone", Operate, VolumeAndNamed),
    change("POST", "/v1/volumes/{name}/flatten", Operate, Volume),
    change("POST", "/v1/volumes/{name}/key/set", Operate, Volume),
    change("POST", "/v1/volumes/{name}/key/clear", Operate, Volume),
    change("POST", "/v1/snapshot-groups", Operate, Listed),
    get("/v1/snapshots", View, Nothing),
    report("/v1/maps", View, Listed),
    get("/v1/nodes", View, Cluster),
    report("/v1/nodes/register", Store, Cluster),
    report("/v1/nodes/{id}/heartbeat", Store, Cluster),
    report("/v1/nodes/{id}/inventory", Store, Cluster),
    get("/v1/nodes/{id}/assignments", Store, Cluster),
    report("/v1/owners/heartbeat", Attach, Cluster),
    change("DELETE", "/v1/nodes/{id}", Administer, Cluster),
    change("POST", "/v1/nodes/{id}/cordon", Operate, Cluster),
    change("POST", "/v1/nodes/{id}/uncordon", Operate, Cluster),
    change("POST", "/v1/nodes/{id}/drain", Operate, Cluster),
    get("/v1/disks", View, Cluster),
    change("DELETE", "/v1/disks/{id}", Administer, Cluster),
    change("POST", "/v1/disks/{id}/cordon", Operate, Cluster),
    change("POST", "/v1/disks/{id}/uncordon", Operate, Cluster),
    change("POST", "/v1/disks/{id}/drain", Operate, Cluster),
    change("POST", "/v1/disks/{id}/clear", Operate, Cluster),
    change("POST", "/v1/disks/{id}/label", Operate, Cluster),
    get("/v1/clients/denied", View, Cluster),
    change("POST", "/v1/clients/deny", Operate, Cluster),
    change("POST", "/v1/clients/allow", Operate, Cluster),
    get("/v1/targets", View, Cluster),
    change("POST", "/v1/targets", Operate, Cluster),
    get("/v1/targets/{name}", View, Cluster),
    change("DELETE", "/v1/targets/{name}", Operate, Cluster),
    change("POST", "/v1/targets/{name}/units", Operate, Cluster),
    change("DELETE", "/v1/targets/{name}/units/{lun}", Operate, Cluster),
    change("PUT", "/v1/targets/{name}/acl", Operate, Cluster),
    change("POST", "/v1/targets/{name}/acl/allow", Operate, Cluster),
    change("POST", "/v1/targets/{name}/acl/remove", Operate, Cluster),
    change("POST", "/v1/targets/{name}/chap/set", Operate, Cluster),
    change("POST", "/v1/targets/{name}/chap/clear", Operate, Cluster),
    get("/v1/iscsi/targets", FrontEnd, Cluster),
    get("/v1/iscsi/discovery", View, Cluster),
    change("POST", "/v1/iscsi/discovery/chap/set", Operate, Cluster),
    change("POST", "/v1/iscsi/discovery/chap/clear", Operate, Cluster),
    get("/v1/iscsi/servers", View, Cluster),
    report("/v1/iscsi/servers", FrontEnd, Cluster),
    change("DELETE", "/v1/iscsi/servers/{server}", Operate, Cluster),
    report("/v1/iscsi/servers/{server}/heartbeat", FrontEnd, Cluster),
    report("/v1/volumes/{name}/hand-over", FrontEnd, Volume),
    get("/v1/volumes/{name}/reservations", View, Volume),
    change("PUT", "/v1/volumes/{name}/reservations", FrontEnd, Volume),
    report("/v1/volumes/{name}/reservations/confirm", FrontEnd, Volume),
    get("/v1/volumes/{name}/reservations/confirmed", FrontEnd, Volume),
    get("/v1/space", View, Cluster),
    change("POST", "/v1/space", Administer, Cluster),
    get("/v1/events", View, Cluster),
    get("/v1/rebalance", View, Cluster),
    get("/v1/rebalance/plan", View, Cluster),
    change("POST", "/v1/rebalance/pause", Operate, Cluster),
    change("POST", "/v1/rebalance/resume", Operate, Cluster),
    get("/v1/join-tokens", Administer, Cluster),
    change("POST", "/v1/join-tokens", Administer, Cluster),
    change("DELETE", "/v1/join-tokens/{id}", Administer, Cluster),
    // Its join token is its permission.
    Rule { noted: Noted::Always, ..report("/v1/enrol", Need::Nothing, Nothing) },
    Rule { noted: Noted::Always, ..report("/v1/enrol/renew", Known, Nothing) },
    get("/v1/identities/denied", View, Cluster),
    change("POST", "/v1/identities/deny", Administer, Cluster),
    change("POST", "/v1/identities/allow", Administer, Cluster),
    change("POST", "/v1/volumes/{name}/label", Operate, Volume),
    change("PUT", "/v1/volumes/{name}/labels", Operate, Volume),
    get("/v1/tasks", View, Cluster),
    get("/v1/tasks/{id}", View, Cluster),
    change("POST", "/v1/tasks/{id}/cancel", Operate, Cluster),
    get("/v1/config", View, Cluster),
    change("POST", "/v1/config", Administer, Cluster),
    get("/v1/config/pools", View, Cluster),
    get("/v1/config/pools/{pool}", View, Cluster),
    change("POST", "/v1/config/pools/{pool}", Administer, Cluster),
    report("/v1/placement:explain", Operate, Cluster),
    get("/v1/whoami", Known, Nothing),
    get("/v1/users", Administer, Cluster),
    change("POST", "/v1/users", Administer, Cluster),
    change("DELETE", "/v1/users/{name}", Administer, Cluster),
    change("POST", "/v1/users/{name}/role", Administer, Cluster),
    change("POST", "/v1/users/{name}/deny", Administer, Cluster),
    change("POST", "/v1/users/{name}/allow", Administer, Cluster),
    change("POST", "/v1/users/{name}/keys", Administer, Cluster),
    get("/v1/keys", Administer, Cluster),
    change("POST", "/v1/keys/{id}/revoke", Administer, Cluster),
    Rule { method: "POST", path: "/v1/tokens", need: Known, about: Nothing, noted: Noted::Always },
    get("/v1/tokens/revoked", Administer, Cluster),
    change("POST", "/v1/tokens/{id}/revoke", Administer, Cluster),
    change("POST", "/v1/tokens/rotate", Administer, Cluster),
    get("/v1/projects", View, Nothing),
    change("POST", "/v1/projects", Administer, Cluster),
    change("POST", "/v1/projects/{name}/quota", Administer, Cluster),
    change("DELETE", "/v1/projects/{name}", Administer, Cluster),
    get("/v1/audit", Administer, Cluster),
];

/// Refuses what a caller may not do. `volume` is the one in the path, decoded; `body` what was sent.
pub(crate) fn permit(
    caller: &Caller,
    rule: &Rule,
    volume: Option<&str>,
    body: Option<&Value>,
) -> Result<(), AccessRefusal> {
    caller.require(rule.need)?;
    if rule.about == Cluster {
        return caller.require_whole();
    }
    if matches!(rule.about, Volume | VolumeAndNamed) {
        // A rule about a volume is of a route that has one in its path.
        caller.require_volume(volume.unwrap_or("/"))?;
    }
    if !rule.about.is_in_body() {
        return Ok(());
    }
    match body.and_then(|body| names_in(rule.about, body)) {
        Some(named) => named
            .iter()
            .try_for_each(|name| caller.require_volume(name)),
        // Its handler refuses that, or reads it in another way than this: who is bound is let do neither.
        None => caller.require_whole(),
    }
}

/// The volumes that a body names; nothing if it is not plain which.
fn names_in(about: About, body: &Value) -> Option<Vec<&str>> {
    match about {
        Named | VolumeAndNamed => Some(vec![body.get("name")?.as_str()?]),
        Listed => {
            let list = body.get("volumes")?.as_array()?.iter();
            list.map(|item| item.as_str().or_else(|| item.get("name")?.as_str()))
                .collect()
        }
        Nothing | Cluster | Volume => None,
    }
}

#[cfg(test)]
mod tests;
