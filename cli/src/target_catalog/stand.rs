//! How logical units stand among the iSCSI servers: made of what the conductor says of their volumes and of
//! the servers.

use ashlar_client::{ClusterSource, SourceError};
use ashlar_iscsi_server::{Mark, ServerPort, Standing, UnitOwner};
use ashlar_proto::PortalGroup;
use ashlar_proto::api::{IscsiServer, Revision, ServedTargets, Volume, is_repair_owner};
use ashlar_reactor::future::{Either, race};

use super::offer::UnitOf;
use super::{Inner, RETRY};

impl Inner {
    /// How a unit stands, once that differs from what was seen at `after`.
    pub(super) async fn standing(&self, unit: &UnitOf, after: Mark) -> Standing {
        loop {
            let Ok(served) = self.served().await else {
                continue;
            };
            let Some(own) = self.own_group().await else {
                self.reactor.sleep(RETRY).await;
                continue;
            };
            if unit.layer.is_some() {
                if served.revision.0 != after.servers {
                    return of_snapshot(own, &served);
                }
                self.other_servers(served.revision).await;
                continue;
            }
            let other = self.other(unit, &served, after).await;
            match other {
                Ok(Some((volume, revision))) if volume.id == unit.volume => {
                    let mark = Mark {
                        unit: revision.0,
                        servers: served.revision.0,
                    };
                    return of_volume(own, &volume, &served.servers, mark);
                }
                Ok(None) | Err(SourceError::Unchanged) => {}
                Ok(Some(_)) | Err(_) => self.reactor.sleep(RETRY).await,
            }
        }
    }

    /// The volume of a unit, at once where the servers are others than were seen, else when it has
    /// changed; nothing where the servers changed first.
    async fn other(
        &self,
        unit: &UnitOf,
        served: &ServedTargets,
        after: Mark,
    ) -> Result<Option<(Volume, Revision)>, SourceError> {
        let name = &unit.volume_name;
        if served.revision.0 != after.servers {
            let volume = self.source.volume(name).await?;
            return Ok(Some((volume, Revision(after.unit))));
        }
        let servers = async {
            self.other_servers(served.revision).await;
            Ok(None)
        };
        let map = async {
            let map = self.source.map(name, Revision(after.unit)).await?;
            Ok(Some((map.volume, map.revision)))
        };
        match race(map, servers).await {
            Either::First(other) | Either::Second(other) => other,
        }
    }

    /// Waits until something else was said of targets and servers.
    async fn other_servers(&self, seen: Revision) {
        let is_same = || {
            let served = self.served.borrow();
            served
                .as_ref()
                .is_some_and(|served| served.revision == seen)
        };
        while is_same() {
            self.heard.notified().await;
        }
    }
}

fn ports(servers: &[IscsiServer]) -> Vec<ServerPort> {
    let port = |server: &IscsiServer| ServerPort {
        group: server.group.get(),
        up: server.up,
    };
    servers.iter().map(port).collect()
}

/// Of a snapshot: nothing is written to it.
fn of_snapshot(own: PortalGroup, served: &ServedTargets) -> Standing {
    Standing {
        mark: Mark {
            unit: 0,
            servers: served.revision.0,
        },
        own: own.get(),
        servers: ports(&served.servers),
        ..Standing::alone()
    }
}

/// Of a volume.
fn of_volume(own: PortalGroup, volume: &Volume, servers: &[IscsiServer], mark: Mark) -> Standing {
    Standing {
        mark,
        own: own.get(),
        servers: ports(servers),
        owner: owner_of(volume, servers),
        generation: volume.generation.get().into(),
        wanted_by: volume.service.wanted_by.map(PortalGroup::get),
        size_bytes: volume.size_bytes.get(),
        reservations: volume.service.reservations,
    }
}

fn owner_of(volume: &Volume, servers: &[IscsiServer]) -> UnitOwner {
    let Some(owner) = &volume.attached_by else {
        return UnitOwner::Nobody;
    };
    if is_repair_owner(owner) {
        return UnitOwner::Nobody;
    }
    let run = servers.iter().find(|server| server.owner == *owner);
    let group = volume.service.group.or(run.map(|server| server.group));
    match group {
        Some(group) => UnitOwner::Server {
            group: group.get(),
            alive: run.is_some_and(|server| server.up && server.group == group),
        },
        None => UnitOwner::Other,
    }
}
