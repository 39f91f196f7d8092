//! Plans for iSCSI servers: who they are, whether they are heard, and from whom they may take a volume.
//!
//! Invariants: a server keeps its portal group for as long as it has a row, and no other has that; one
//! that is up is not forgotten; a volume is taken from a server that is up, and whose run it is that
//! attached it, only where somebody asked for that and nobody took it since.

use ashlar_proto::PortalGroup;
use ashlar_proto::api::{
    AttachRequest, ConfirmReservations, HandOver, IscsiServer, RegisterServer, VolumeService,
};
use ashlar_proto::limits::{PORTAL_BYTES_MAX, SERVER_PORTALS_MAX, SERVERS_MAX};

use super::owners::stale_generation;
use super::targets::too_many;
use super::{ClusterState, Plan};
use crate::live::Live;
use crate::meta::Change;
use crate::refusal::{
    InvalidRequest, Refusal, ServerRefusal, VolumeRefusal, check_name, check_text,
};
use crate::row::{AnyRow, ServerRow, VolumeRow, server_key};

impl ServerRow {
    /// As people see it.
    pub(crate) fn show(&self) -> IscsiServer {
        IscsiServer {
            name: self.name.clone(),
            group: self.group,
            portals: self.portals.clone(),
            owner: self.owner.clone(),
            up: self.up,
        }
    }
}

impl ClusterState {
    /// All servers, by portal group.
    pub(crate) fn servers(&self) -> Vec<IscsiServer> {
        self.servers.values().map(ServerRow::show).collect()
    }

    /// One of them.
    pub(crate) fn server(&self, group: PortalGroup) -> Option<IscsiServer> {
        self.servers.get(&group).map(ServerRow::show)
    }

    /// The servers that are up.
    pub(crate) fn servers_up(&self) -> Vec<PortalGroup> {
        let up = self.servers.values().filter(|row| row.up);
        up.map(|row| row.group).collect()
    }

    /// A run of a server is there. An earlier run of that name is over.
    pub(crate) fn plan_server_register(
        &self,
        request: &RegisterServer,
    ) -> Result<Plan<PortalGroup>, Refusal> {
        check_name(&request.name)?;
        check_text("owner", &request.owner)?;
        if request.portals.len() > SERVER_PORTALS_MAX {
            return Err(too_many("portals", SERVER_PORTALS_MAX));
        }
        if !request.portals.iter().all(|portal| is_portal(portal)) {
            return Err(InvalidRequest::Text { field: "portals" }.into());
        }
        let known = self.servers.values().find(|row| row.name == request.name);
        if known.is_none() && self.servers.len() >= SERVERS_MAX {
            return Err(too_many("servers", SERVERS_MAX));
        }
        let group = known.map_or_else(|| self.free_group(), |row| row.group);
        let row = ServerRow {
            group,
            name: request.name.clone(),
            portals: request.portals.clone(),
            owner: request.owner.clone(),
            up: true,
        };
        let changes = if known == Some(&row) {
            Vec::new()
        } else {
            vec![AnyRow::Server(row).put()]
        };
        Ok(Plan {
            reads: Vec::new(),
            changes,
            answer: group,
        })
    }

    /// The one after the highest: a group of old is what hosts may still know another server by.
    fn free_group(&self) -> PortalGroup {
        let last = self
            .servers
            .last_key_value()
            .map_or(0, |(group, _)| group.get());
        let free =
            |raw: &u16| PortalGroup::new(*raw).is_some_and(|g| !self.servers.contains_key(&g));
        let next = last.checked_add(1).filter(free);
        let raw = next.or_else(|| (1..=u16::MAX).find(free));
        // There are fewer servers than groups.
        raw.and_then(PortalGroup::new).unwrap_or(PortalGroup::FIRST)
    }

    /// A run of a server is heard, or says that it ends.
    pub(crate) fn plan_server_heard(
        &self,
        group: PortalGroup,
        owner: &str,
        leaving: bool,
    ) -> Result<Plan<()>, Refusal> {
        let Some(row) = self.servers.get(&group) else {
            return Err(ServerRefusal::NotFound {
                server: group.to_string(),
            }
            .into());
        };
        if row.owner != owner {
            let name = row.name.clone();
            return Err(ServerRefusal::Replaced { name }.into());
        }
        if row.up != leaving {
            return Ok(Plan::nothing(()));
        }
        let row = ServerRow {
            up: !leaving,
            ..row.clone()
        };
        Ok(Plan {
            reads: Vec::new(),
            changes: vec![AnyRow::Server(row).put()],
            answer: (),
        })
    }

    /// Servers that have fallen silent are down; gives their names.
    pub(crate) fn plan_server_silence(&self, silent: &[PortalGroup]) -> Plan<Vec<String>> {
        let rows = silent.iter().filter_map(|group| self.servers.get(group));
        let rows: Vec<&ServerRow> = rows.filter(|row| row.up).collect();
        let down = |row: &&ServerRow| {
            let row = (*row).clone();
            AnyRow::Server(ServerRow { up: false, ..row }).put()
        };
        Plan {
            reads: Vec::new(),
            changes: rows.iter().map(down).collect(),
            answer: rows.iter().map(|row| row.name.clone()).collect(),
        }
    }

    /// A server that is no more is forgotten: hosts are not told of its portals any more.
    pub(crate) fn plan_server_forget(&self, name: &str) -> Result<Plan<()>, Refusal> {
        let name = name.to_owned();
        let Some(row) = self.servers.values().find(|row| row.name == name) else {
            return Err(ServerRefusal::NotFound { server: name }.into());
        };
        if row.up {
            return Err(ServerRefusal::IsUp { name }.into());
        }
        let key = server_key(row.group);
        Ok(Plan {
            reads: Vec::new(),
            changes: vec![Change::Delete { key }],
            answer: (),
        })
    }

    /// What iSCSI servers need to know of a volume.
    pub(super) fn service_of(&self, row: &VolumeRow) -> VolumeService {
        VolumeService {
            group: row.served_by,
            wanted_by: row.wanted_by,
            reservations: self.version_of(row),
        }
    }

    /// Whether the run of the server that has a volume attached is the one that is there now, and up.
    pub(super) fn is_served(&self, row: &VolumeRow) -> bool {
        let server = row.served_by.and_then(|group| self.servers.get(&group));
        server.is_some_and(|server| server.up && row.attached_by.as_ref() == Some(&server.owner))
    }

    /// Whether a server may take the volume from who has it: `None` where another rule says that.
    pub(super) fn is_taken_by_server(
        &self,
        current: &VolumeRow,
        request: &AttachRequest,
    ) -> Option<bool> {
        let server = request.server?;
        current.served_by?;
        if !self.is_served(current)
            && (server.take.is_some() || current.served_by == Some(server.group))
        {
            return Some(true);
        }
        match server.take {
            Some(take) => Some(take.asked),
            // Not by force either.
            None if self.is_served(current) => Some(false),
            None => None,
        }
    }

    /// Refuses a run of a server that another one has taken the place of.
    pub(super) fn check_server(&self, request: &AttachRequest) -> Result<(), ServerRefusal> {
        let Some(server) = request.server else {
            return Ok(());
        };
        match self.servers.get(&server.group) {
            Some(row) if row.owner == request.owner => Ok(()),
            Some(row) => Err(ServerRefusal::Replaced {
                name: row.name.clone(),
            }),
            None => Err(ServerRefusal::NotFound {
                server: server.group.to_string(),
            }),
        }
    }

    /// Refuses to take a volume that somebody else has taken since.
    pub(super) fn check_taken(
        current: &VolumeRow,
        request: &AttachRequest,
    ) -> Result<(), VolumeRefusal> {
        let take = request.server.and_then(|server| server.take);
        match take {
            Some(take) if take.generation != current.generation => {
                Err(stale_generation(current, take.generation))
            }
            _ => Ok(()),
        }
    }

    /// Another server is to have the volume next.
    pub(crate) fn plan_hand_over(
        &self,
        name: &str,
        request: &HandOver,
    ) -> Result<Plan<()>, Refusal> {
        let current = self.require_same(name, request.volume)?;
        if current.generation != request.generation {
            return Err(stale_generation(current, request.generation).into());
        }
        if !self.servers.contains_key(&request.to) {
            let server = request.to.to_string();
            return Err(ServerRefusal::NotFound { server }.into());
        }
        if current.wanted_by == Some(request.to) {
            return Ok(Plan::nothing(()));
        }
        let row = VolumeRow {
            wanted_by: Some(request.to),
            ..current.clone()
        };
        Ok(Plan {
            reads: Vec::new(),
            changes: vec![AnyRow::Volume(row).put()],
            answer: (),
        })
    }

    /// Takes in that who serves a volume goes by a version of its reservations.
    pub(crate) fn note_confirmed(
        &self,
        live: &mut Live,
        name: &str,
        request: &ConfirmReservations,
    ) -> Result<(), Refusal> {
        let current = self.require_same(name, request.volume)?;
        if current.generation != request.generation {
            return Err(stale_generation(current, request.generation).into());
        }
        let said = (request.generation, request.version);
        let known = live.confirmed.entry(request.volume).or_insert(said);
        *known = (*known).max(said);
        Ok(())
    }

    /// Whether who serves a volume goes by that version of its reservations, or nobody does who would go
    /// by any.
    pub(crate) fn is_confirmed(
        &self,
        live: &Live,
        name: &str,
        version: u64,
    ) -> Result<bool, VolumeRefusal> {
        let current = self.require(name)?;
        if current.attached_by.is_none() || current.served_by.is_none() {
            return Ok(true);
        }
        let said = live.confirmed.get(&current.id);
        Ok(said.is_some_and(|said| said.0 == current.generation && said.1 >= version))
    }
}

/// `HOST:PORT`, as far as it matters here: what stands in a text that initiators read.
fn is_portal(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    text.len() <= PORTAL_BYTES_MAX && text.bytes().all(is_plain) && text.contains(':')
}
