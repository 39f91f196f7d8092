//! The ways to targets, for people: iSCSI servers, and which of them serves a volume.

use std::collections::BTreeMap;

use ashlar_proto::VolumeId;
use ashlar_proto::api::{IscsiServer, TargetUnit, Volume};

use super::{unit_word, words};
use crate::admin::ask;
use crate::output::{print_json, print_table};

/// What is known of servers and of who serves what.
#[derive(Debug, Default)]
pub struct Paths {
    servers: Vec<IscsiServer>,
    volumes: BTreeMap<VolumeId, Volume>,
}

impl Paths {
    /// As the conductor knows it.
    pub fn ask(api: &str) -> anyhow::Result<Self> {
        let servers = ask(api, async |client| client.servers().await)?.items;
        let volumes = ask(api, async |client| client.volumes().await)?.items;
        Ok(Self {
            servers,
            volumes: volumes
                .into_iter()
                .map(|volume| (volume.id, volume))
                .collect(),
        })
    }

    /// A unit, and who serves it.
    pub fn unit_words(&self, unit: &TargetUnit) -> String {
        let owner = self
            .volumes
            .get(&unit.volume)
            .and_then(|volume| self.owner(volume));
        let served = owner.map_or_else(String::new, |owner| format!(", served by {owner}"));
        format!("{}{served}", unit_word(unit))
    }

    /// Each server in a line.
    pub fn server_words(&self) -> Vec<String> {
        let line = |server: &IscsiServer| {
            let state = if server.up { "" } else { " (down)" };
            let portals = words(&server.portals);
            format!("{}: {}{state} at {portals}", server.group, server.name)
        };
        self.servers.iter().map(line).collect()
    }

    /// The name of the server that has a volume attached, or what its owner says of itself.
    fn owner(&self, volume: &Volume) -> Option<String> {
        let owner = volume.attached_by.clone()?;
        let group = volume.service.group;
        let mut servers = self.servers.iter();
        let server = servers.find(|server| group == Some(server.group) || server.owner == owner);
        Some(server.map_or(owner, |server| server.name.clone()))
    }

    fn served_by(&self, server: &IscsiServer) -> Vec<String> {
        let is_served = |volume: &&Volume| self.owner(volume).as_ref() == Some(&server.name);
        let served = self.volumes.values().filter(is_served);
        served.map(|volume| volume.name.clone()).collect()
    }
}

/// `ashlar target servers`.
pub fn servers(api: &str, json: bool) -> anyhow::Result<()> {
    let paths = Paths::ask(api)?;
    if json {
        return print_json(&paths.servers);
    }
    let row = |server: &IscsiServer| {
        vec![
            server.group.to_string(),
            server.name.clone(),
            if server.up { "up" } else { "down" }.to_owned(),
            words(&server.portals),
            words(&paths.served_by(server)),
        ]
    };
    let header = ["group", "name", "state", "portals", "serves"];
    print_table(&header, paths.servers.iter().map(row).collect())
}
