//! `ashlar volume publish` and `unpublish`.

use anyhow::Result;
use ashlar_proto::api::{PublishVolume, UnpublishVolume, Volume};

use crate::admin::ask;
use crate::cluster_source::published_name;
use crate::output::{print_json, print_text};

/// Gives a volume to a node.
pub fn publish(api: &str, name: &str, node: String, read_only: bool, json: bool) -> Result<()> {
    let volume = ask(api, async |client| {
        let volume = client.volume(name).await?.id;
        let request = PublishVolume {
            volume,
            node,
            read_only,
        };
        client.publish_volume(name, &request).await
    })?;
    show(&volume, json)
}

/// Takes a volume from a node.
pub fn unpublish(api: &str, name: &str, node: Option<String>, json: bool) -> Result<()> {
    let volume = ask(api, async |client| {
        let volume = client.volume(name).await?.id;
        let request = UnpublishVolume { volume, node };
        client.unpublish_volume(name, &request).await
    })?;
    show(&volume, json)
}

fn show(volume: &Volume, json: bool) -> Result<()> {
    if json {
        return print_json(volume);
    }
    print_text(&match published_name(volume) {
        Some(export) => format!(
            "{} is published to {}; it attaches it as nbd://HOST/{export}",
            volume.name,
            told(volume)
        ),
        None => format!("{} is published to no node", volume.name),
    })
}

/// The node of a volume, for people.
pub fn told(volume: &Volume) -> String {
    match &volume.publication {
        Some(publication) if publication.read_only => format!("{}, read-only", publication.node),
        Some(publication) => publication.node.clone(),
        None => "-".to_owned(),
    }
}
