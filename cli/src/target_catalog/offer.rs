//! What initiators are offered: targets as the conductor keeps them, and volumes that are in none.
//! Pure.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use ashlar_iscsi_server::{Access, Authentication, ChapSecret, TargetInfo, UnitInfo};
use ashlar_proto::api::{
    ChapLogin, PublishedName, ServedTarget, ServedTargets, Snapshot, SnapshotState, Volume,
    VolumeState,
};
use ashlar_proto::{ClusterId, IscsiName, Layer, Lun, PublicationId, VolumeId};
use aws_lc_rs::digest;

/// What the names of targets begin with that stand for a volume or a snapshot each.
const PREFIX: &str = "iqn.2026-11.io.ashlar:";

/// The same for those of a project, whose name follows: no name of a target has a `/`.
const PROJECT_PREFIX: &str = "iqn.2026-11.io.ashlar.projects:";

/// The same for those that are published to a node: the publication and the volume's name follow.
const PUBLISHED_PREFIX: &str = "iqn.2026-11.io.ashlar.publications:";

/// What a logical unit stands for.
///
/// Text form, which [`UnitInfo::volume`] has: `NAME#ID`, `NAME:PUBLICATION#ID` or `NAME@SNAPSHOT#ID.LAYER`. No
/// name has a `#`, a `:` or an `@` in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitOf {
    /// The volume.
    pub volume: VolumeId,
    /// Its name.
    pub volume_name: String,
    /// The layer of the snapshot and its name, if it is one.
    pub layer: Option<(Layer, String)>,
    /// The volume is published to a node, and offered for that one.
    pub publication: Option<PublicationId>,
}

impl UnitOf {
    /// The export that it is.
    pub fn export(&self) -> String {
        match (&self.layer, self.publication) {
            (Some((_, snapshot)), _) => format!("{}@{snapshot}", self.volume_name),
            (None, Some(id)) => format!("{}:{id}", self.volume_name),
            (None, None) => self.volume_name.clone(),
        }
    }

    /// What it is whatever it is called.
    pub fn identity(&self) -> (VolumeId, Option<Layer>) {
        (self.volume, self.layer.as_ref().map(|(layer, _)| *layer))
    }

    /// What names it for ever, wherever it is served: of the cluster, the volume, and the layer. Each publication
    /// is a unit of its own: sessions of a node that has lost the volume do not share one with those of the node
    /// that has it now. Hashed, so that any part of it differs as well.
    fn id(&self, cluster: ClusterId) -> u128 {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(b"ashlar logical unit");
        context.update(&cluster.get().to_be_bytes());
        context.update(&self.volume.get().to_be_bytes());
        if let Some((layer, _)) = &self.layer {
            context.update(&layer.get().to_be_bytes());
        }
        if let Some(publication) = self.publication {
            context.update(b"publication");
            context.update(&publication.get().to_be_bytes());
        }
        let mut id = [0; 16];
        id.copy_from_slice(&context.finish().as_ref()[..16]);
        u128::from_be_bytes(id)
    }
}

impl fmt::Display for UnitOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.export(), self.volume)?;
        match &self.layer {
            None => Ok(()),
            Some((layer, _)) => write!(f, ".{layer}"),
        }
    }
}

/// The text is of no logical unit of this catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoUnit;

impl FromStr for UnitOf {
    type Err = NoUnit;

    fn from_str(text: &str) -> Result<Self, NoUnit> {
        let (export, ids) = text.split_once('#').ok_or(NoUnit)?;
        let (volume, layer) = match ids.split_once('.') {
            None => (ids, None),
            Some((volume, layer)) => (volume, Some(layer.parse().map_err(|_| NoUnit)?)),
        };
        let volume = volume.parse().map_err(|_| NoUnit)?;
        let (volume_name, layer) = match (export.split_once('@'), layer) {
            (None, None) => (export, None),
            (Some((name, snapshot)), Some(layer)) => {
                (name, Some((Layer::new(layer), snapshot.to_owned())))
            }
            _ => return Err(NoUnit),
        };
        let (volume_name, publication) = match volume_name.split_once(':') {
            None => (volume_name, None),
            Some((name, id)) if layer.is_none() => (name, Some(id.parse().map_err(|_| NoUnit)?)),
            Some(_) => return Err(NoUnit),
        };
        Ok(Self {
            volume,
            volume_name: volume_name.to_owned(),
            layer,
            publication,
        })
    }
}

/// The volumes and snapshots that can be offered.
#[derive(Debug, Default)]
pub struct Listed {
    pub(super) units: Vec<UnitOf>,
}

impl Listed {
    /// Those that are ready.
    pub fn new(volumes: Vec<Volume>, snapshots: Vec<Snapshot>) -> Self {
        let volumes = volumes.into_iter();
        let volumes = volumes.filter(|volume| volume.state == VolumeState::Ready);
        let volumes = volumes.map(|volume| UnitOf {
            volume: volume.id,
            volume_name: volume.name,
            layer: None,
            publication: volume.publication.map(|publication| publication.id),
        });
        let snapshots = snapshots.into_iter();
        let snapshots = snapshots.filter(|snapshot| snapshot.state == SnapshotState::Ready);
        let snapshots = snapshots.map(|snapshot| UnitOf {
            volume: snapshot.volume,
            volume_name: snapshot.volume_name,
            layer: Some((snapshot.layer, snapshot.name)),
            publication: None,
        });
        let units = volumes.chain(snapshots).collect();
        Self { units }
    }
}

/// A target, and what its units stand for.
#[derive(Debug)]
pub struct Offer {
    /// The target.
    pub target: TargetInfo,
    /// Its units by their identifiers.
    pub units: Vec<(u128, UnitOf)>,
}

/// The targets that the conductor keeps, as an initiator sees them; `None` is one whose name is none.
pub fn configured(served: &ServedTargets, initiator: Option<&IscsiName>) -> Vec<Offer> {
    let targets = served.targets.iter();
    targets
        .map(|target| offer(served.cluster, target, initiator))
        .collect()
}

fn offer(cluster: ClusterId, target: &ServedTarget, initiator: Option<&IscsiName>) -> Offer {
    let units = target.units.iter().map(|unit| {
        let of = UnitOf {
            volume: unit.volume,
            volume_name: unit.volume_name.clone(),
            layer: None,
            publication: None,
        };
        let info = info(cluster, unit.lun, &of, unit.read_only);
        (info, of)
    });
    let (infos, of): (Vec<UnitInfo>, Vec<UnitOf>) = units.unzip();
    Offer {
        units: infos.iter().map(|info| info.id).zip(of).collect(),
        target: TargetInfo {
            name: target.name.as_str().to_owned(),
            alias: target.alias.clone(),
            access: access(target, initiator),
            units: infos,
        },
    }
}

fn info(cluster: ClusterId, lun: Lun, of: &UnitOf, read_only: bool) -> UnitInfo {
    UnitInfo {
        lun: lun.get(),
        volume: of.to_string(),
        id: of.id(cluster),
        read_only,
    }
}

/// What an initiator has to show to be told of targets; `None` is one whose name is none.
pub fn discovery(served: &ServedTargets, initiator: Option<&IscsiName>) -> Access {
    let secrets = &served.discovery;
    let logins = initiator.and_then(|initiator| secrets.admits(initiator));
    access_of(logins, secrets.mutual.as_ref())
}

fn access(target: &ServedTarget, initiator: Option<&IscsiName>) -> Access {
    let logins = initiator.and_then(|initiator| target.admits(initiator));
    access_of(logins, target.mutual.as_ref())
}

fn access_of(logins: Option<Vec<&ChapLogin>>, mutual: Option<&ChapLogin>) -> Access {
    let Some(logins) = logins else {
        return Access::Denied;
    };
    Access::Granted(Authentication {
        initiator: logins.into_iter().map(secret).collect(),
        target: mutual.map(secret),
    })
}

fn secret(login: &ChapLogin) -> ChapSecret {
    ChapSecret {
        name: login.user.clone(),
        secret: login.secret.reveal().as_bytes().to_vec(),
    }
}

/// Whether a target of that name may be one that stands for a volume or a snapshot.
pub fn may_be_of_volume(name: &str) -> bool {
    let prefixes = [PREFIX, PROJECT_PREFIX, PUBLISHED_PREFIX];
    prefixes.iter().any(|prefix| name.starts_with(prefix))
}

/// The export of the publication that a target's name is of.
pub fn export_of_published(name: &str) -> Option<String> {
    let (publication, volume) = name.strip_prefix(PUBLISHED_PREFIX)?.split_once(':')?;
    let named = PublishedName {
        volume: volume.replacen(':', "/", 1),
        publication: publication.parse().ok()?,
    };
    Some(named.to_string())
}

/// What is left of a target whose publication is over. A host that lost its connections before it was told
/// tries for ever where the target is not found, and what it still has to write waits as long; where the
/// target is there, without a unit, that fails at once.
pub fn without_units(name: &str) -> TargetInfo {
    TargetInfo {
        name: name.to_owned(),
        alias: None,
        access: Access::Granted(Authentication::default()),
        units: Vec::new(),
    }
}

/// A target for each volume that no target offers, and for each snapshot: open to everybody, with it as
/// its LUN 1. One that is published is there under its publication's name alone. Where somebody has made a
/// target of that name there is only that one.
pub fn others(served: &ServedTargets, listed: &Listed) -> Vec<Offer> {
    let units = served.targets.iter().flat_map(|target| &target.units);
    let offered: BTreeSet<VolumeId> = units.map(|unit| unit.volume).collect();
    let taken: BTreeSet<&str> = served.targets.iter().map(|t| t.name.as_str()).collect();
    let is_free = |of: &&UnitOf| of.layer.is_some() || !offered.contains(&of.volume);
    let units = listed.units.iter().filter(is_free);
    let offers = units.map(|of| offer_alone(served.cluster, of));
    offers
        .filter(|offer| !taken.contains(offer.target.name.as_str()))
        .collect()
}

fn offer_alone(cluster: ClusterId, of: &UnitOf) -> Offer {
    let volume = match (of.publication, of.volume_name.split_once('/')) {
        (Some(id), _) => format!(
            "{PUBLISHED_PREFIX}{id}:{}",
            of.volume_name.replace('/', ":")
        ),
        (None, None) => format!("{PREFIX}{}", of.volume_name),
        (None, Some((project, volume))) => format!("{PROJECT_PREFIX}{project}:{volume}"),
    };
    let name = match &of.layer {
        None => volume,
        Some((_, snapshot)) => format!("{volume}:{snapshot}"),
    };
    let unit = info(cluster, Lun::FIRST, of, of.layer.is_some());
    Offer {
        units: vec![(unit.id, of.clone())],
        target: TargetInfo {
            name,
            alias: None,
            access: Access::Granted(Authentication::default()),
            units: vec![unit],
        },
    }
}

#[cfg(test)]
mod tests;
