//! This server among the iSCSI servers of the cluster: it registers, and is heard from then on.
//!
//! ```text
//! register ──▶ portal group ──▶ heartbeats ── another run has its name ──▶ over: nobody logs in
//!     ▲                            │ unknown
//!     └────────────────────────────┘
//! ```
//!
//! Invariant: the portal group that was given once stays, also while the conductor is away.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use ashlar_client::SourceError;
use ashlar_proto::PortalGroup;
use ashlar_proto::api::{RegisterServer, ServerHeartbeat};
use ashlar_reactor::channel::Notify;

use super::{Inner, RETRY};

/// How long the conductor is waited for that is to hear of the end.
const LEAVE_MAX: Duration = Duration::from_secs(2);

/// How often heartbeats are sent at most and at least, whatever the conductor says.
const BEAT_MIN: Duration = Duration::from_millis(50);
const BEAT_MAX: Duration = Duration::from_secs(60);

/// What is known of this server.
#[derive(Default)]
pub struct Member {
    group: Cell<Option<PortalGroup>>,
    /// Where initiators are told to come, if they are told anything else than where they came to.
    portals: RefCell<Vec<String>>,
    /// Told when the group is known.
    pub joined: Notify,
    is_over: Cell<bool>,
}

impl Member {
    /// Its portal group, once it is known, and as long as no other run has it.
    pub fn group(&self) -> Option<PortalGroup> {
        self.group.get().filter(|_| !self.is_over.get())
    }

    /// Its portals, if any were given.
    pub fn portals(&self) -> Vec<String> {
        self.portals.borrow().clone()
    }

    /// Notes where initiators are told to come.
    pub fn set_portals(&self, portals: Vec<String>) {
        *self.portals.borrow_mut() = portals;
    }
}

/// Keeps this server registered, for as long as anybody uses its targets.
pub async fn take_part(targets: Weak<Inner>, request: RegisterServer) {
    let mut is_refused = false;
    loop {
        let Some((reactor, source)) = targets.upgrade().map(|inner| inner.means()) else {
            return;
        };
        match source.register_server(request.clone()).await {
            Ok(registered) => {
                let period = Duration::from_millis(registered.heartbeat_ms);
                let Some(inner) = targets.upgrade() else {
                    return;
                };
                inner.join(registered.group);
                drop(inner);
                let owner = request.owner.clone();
                if !beat(
                    &targets,
                    registered.group,
                    owner,
                    period.clamp(BEAT_MIN, BEAT_MAX),
                )
                .await
                {
                    return;
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut is_refused, true) {
                    tracing::warn!(%error, name = request.name,
                        "this iSCSI server cannot register: nobody can log in until it can");
                }
                reactor.sleep(RETRY).await;
            }
        }
    }
}

/// Sends heartbeats; whether it is to register anew.
async fn beat(targets: &Weak<Inner>, group: PortalGroup, owner: String, period: Duration) -> bool {
    loop {
        let Some((reactor, source)) = targets.upgrade().map(|inner| inner.means()) else {
            return false;
        };
        reactor.sleep(period).await;
        let Some(inner) = targets.upgrade() else {
            return false;
        };
        if inner.member.is_over.get() {
            return false;
        }
        drop(inner);
        let heartbeat = ServerHeartbeat {
            owner: owner.clone(),
            leaving: false,
        };
        match source.server_heartbeat(group, heartbeat).await {
            Err(SourceError::Refused { code }) if &*code == "server-not-found" => return true,
            Err(SourceError::Refused { code }) if &*code == "server-replaced" => {
                tracing::error!(
                    "another iSCSI server has registered under the name of this one: nobody can log in \
                     here any more; give each server a --name of its own"
                );
                if let Some(inner) = targets.upgrade() {
                    inner.member.is_over.set(true);
                }
                return false;
            }
            // The next one may be heard.
            Ok(()) | Err(_) => {}
        }
    }
}

impl Inner {
    fn join(&self, group: PortalGroup) {
        if self.member.group.replace(Some(group)) != Some(group) {
            tracing::info!(%group, "this iSCSI server is known to the conductor");
        }
        self.volumes.set_server(group);
        self.member.joined.notify_all();
    }

    /// The portal group of this server; waits a moment for it.
    pub(super) async fn own_group(&self) -> Option<PortalGroup> {
        let known = async {
            loop {
                if let Some(group) = self.member.group.get() {
                    return group;
                }
                self.member.joined.notified().await;
            }
        };
        self.reactor.timeout(super::PATIENCE, known).await.ok()?;
        self.member.group()
    }
}

/// Says that this server ends.
pub async fn leave(inner: &Rc<Inner>, owner: String) {
    if inner.member.is_over.replace(true) {
        return;
    }
    let Some(group) = inner.member.group.get() else {
        return;
    };
    let heartbeat = ServerHeartbeat {
        owner,
        leaving: true,
    };
    let told = inner.source.server_heartbeat(group, heartbeat);
    let _elapsed = inner.reactor.timeout(LEAVE_MAX, told).await;
}
