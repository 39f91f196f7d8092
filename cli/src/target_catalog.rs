//! The targets of the iSCSI server: those that the conductor keeps, and, where that is asked for,
//! one for each volume and snapshot that none of them offers.
//!
//! ```text
//! conductor ── long poll ──▶ served ──┐
//!           ── on demand ──▶ listing ─┴─▶ offer (pure) ──▶ discovery, login
//! VolumeCatalog ── leases, shared with NBD ──▶ open
//! ```
//!
//! Invariants: what the conductor said last counts while it is away; a logical unit that is opened is
//! the volume that it was offered as, not another one of that name.

mod listing;
mod member;
mod offer;
mod registrations;
mod stand;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::time::Duration;

use ashlar_client::SourceError;
use ashlar_iscsi_server::{
    Access, CatalogError, Mark, Portal, Registrations, Reservations, ReservationsError,
    ServerIdentity, Standing, Taking, TargetCatalog, TargetInfo, UnitInfo, Versioned,
};
use ashlar_nbd_server::OpenError;
use ashlar_proto::api::{
    ConfirmReservations, HandOver, RegisterServer, ReplaceReservations, Revision, ServedTargets,
    TakeVolume,
};
use ashlar_proto::{Address, Generation, IscsiName, PortalGroup};
use ashlar_reactor::Reactor;
use ashlar_reactor::channel::Notify;

use crate::catalog::{ExportedVolume, VolumeCatalog};
use crate::cluster_source::HttpClusterSource;
use listing::Listing;
use member::Member;
use offer::{Listed, UnitOf};

/// How long to wait before a conductor that did not answer is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// How long a login waits for the conductor before it goes by what that said last.
const PATIENCE: Duration = Duration::from_secs(2);

struct Inner {
    reactor: Reactor,
    source: HttpClusterSource,
    volumes: VolumeCatalog,
    all_volumes: bool,
    /// What the conductor said of targets last.
    served: RefCell<Option<Rc<ServedTargets>>>,
    heard: Notify,
    /// What it said of volumes and snapshots last.
    listing: Listing,
    /// What the identifiers that were given out stand for.
    units: RefCell<HashMap<u128, UnitOf>>,
    /// This server among others.
    member: Member,
    /// Whether the conductor did not answer when it was last asked for targets.
    is_away: Cell<bool>,
}

/// See the module. Clones are handles on the same.
#[derive(Clone)]
pub struct ClusterTargets(Rc<Inner>);

impl ClusterTargets {
    /// The targets of the cluster behind `source`, their volumes attached through `volumes`. With
    /// `all_volumes`, volumes that no target offers are offered as well, to everybody.
    pub fn new(
        reactor: &Reactor,
        source: HttpClusterSource,
        volumes: VolumeCatalog,
        all_volumes: bool,
    ) -> Self {
        let inner = Rc::new(Inner {
            reactor: reactor.clone(),
            listing: Listing::new(reactor, source.clone()),
            source,
            volumes,
            all_volumes,
            served: RefCell::default(),
            heard: Notify::new(),
            units: RefCell::default(),
            member: Member::default(),
            is_away: Cell::new(false),
        });
        reactor.spawn(follow(Rc::downgrade(&inner)));
        Self(inner)
    }

    /// Registers this server, and keeps it registered. Its portals are those `given`, or where each
    /// initiator came to; others are told of these addresses then.
    pub fn take_part(&self, name: &str, owner: &str, given: &[String], addresses: &[Address]) {
        let portals = if given.is_empty() {
            reachable(addresses)
        } else {
            given.to_vec()
        };
        self.0.member.set_portals(given.to_vec());
        let request = RegisterServer {
            name: name.to_owned(),
            portals,
            owner: owner.to_owned(),
        };
        let inner = Rc::downgrade(&self.0);
        drop(self.0.reactor.spawn(member::take_part(inner, request)));
    }

    /// Says that this server ends, so that nobody waits for it. Call it when its volumes are detached.
    pub async fn leave(&self, owner: &str) {
        member::leave(&self.0, owner.to_owned()).await;
    }

    async fn open_unit(
        &self,
        volume: &str,
        take: Option<TakeVolume>,
    ) -> Result<ExportedVolume, CatalogError> {
        let unit: UnitOf = volume.parse().map_err(|_| CatalogError::Unknown)?;
        let opened = self.0.volumes.open_from(&unit.export(), take).await;
        let device = opened.map_err(open_error)?;
        if device.identity() == unit.identity() {
            Ok(device)
        } else {
            tracing::warn!(volume, "another volume has that name now");
            self.0.listing.doubt();
            Err(CatalogError::Unknown)
        }
    }
}

/// Keeps what is known of targets up to date, for as long as anybody wants to know.
async fn follow(targets: Weak<Inner>) {
    let mut after = Revision::default();
    loop {
        let Some((reactor, source)) = targets.upgrade().map(|inner| inner.means()) else {
            return;
        };
        let answer = source.served_targets(after).await;
        let Some(inner) = targets.upgrade() else {
            return;
        };
        match answer {
            Ok(served) => {
                after = served.revision;
                inner.learn(served);
            }
            Err(error) => {
                inner.miss(&error);
                drop(inner);
                reactor.sleep(RETRY).await;
            }
        }
    }
}

impl Inner {
    fn means(&self) -> (Reactor, HttpClusterSource) {
        (self.reactor.clone(), self.source.clone())
    }

    fn learn(&self, served: ServedTargets) {
        if self.is_away.replace(false) {
            tracing::info!("the conductor answers again: targets are as it says");
        }
        *self.served.borrow_mut() = Some(Rc::new(served));
        self.heard.notify_all();
    }

    fn miss(&self, error: &SourceError) {
        if !self.is_away.replace(true) {
            tracing::warn!(%error, "targets stay as they were: the conductor does not say how they are");
        }
    }

    /// What the conductor said last; waits for its first word.
    async fn served(&self) -> Result<Rc<ServedTargets>, CatalogError> {
        let word = async {
            loop {
                let served = self.served.borrow().clone();
                match served {
                    Some(served) => return served,
                    None => self.heard.notified().await,
                }
            }
        };
        let heard = self.reactor.timeout(PATIENCE, word).await;
        heard.map_err(|_| CatalogError::Unavailable)
    }

    /// The targets of that name that stand for a volume or a snapshot: one, or none.
    async fn of_volume(&self, served: &ServedTargets, name: &str) -> Vec<offer::Offer> {
        let find = |listed: &Listed| {
            let mut offers = offer::others(served, listed);
            offers.retain(|offer| offer.target.name == name);
            offers
        };
        if let Some(listed) = self.listing.fresh() {
            let found = find(&listed);
            if !found.is_empty() {
                return found;
            }
        }
        find(&*self.listing.renewed().await)
    }

    /// Notes what the units of an offer stand for.
    fn note(&self, offers: Vec<offer::Offer>) -> Vec<TargetInfo> {
        let mut units = self.units.borrow_mut();
        let note = |offer: offer::Offer| {
            units.extend(offer.units);
            offer.target
        };
        offers.into_iter().map(note).collect()
    }

    fn unit(&self, id: u128) -> Option<UnitOf> {
        self.units.borrow().get(&id).cloned()
    }
}

impl TargetCatalog for ClusterTargets {
    type Device = ExportedVolume;

    async fn discovery(&self, initiator: &str) -> Result<Access, CatalogError> {
        // Nobody is shown more than what it may log in to; who has to show a secret for that, too.
        let served = self.0.served().await?;
        Ok(offer::discovery(&served, initiator.parse().ok().as_ref()))
    }

    async fn ready(&self, target: &TargetInfo) -> Result<(), CatalogError> {
        for unit in &target.units {
            let Ok(unit) = unit.volume.parse::<UnitOf>() else {
                continue;
            };
            if self.0.volumes.may_open(&unit.export(), PATIENCE).await {
                return Ok(());
            }
        }
        let is_empty = target.units.is_empty();
        is_empty.then_some(()).ok_or(CatalogError::Unavailable)
    }

    async fn targets(&self, initiator: &str) -> Result<Vec<TargetInfo>, CatalogError> {
        let inner = &self.0;
        let initiator: Option<IscsiName> = initiator.parse().ok();
        let served = inner.served().await?;
        let mut offers = offer::configured(&served, initiator.as_ref());
        if inner.all_volumes {
            let listed = inner.listing.renewed().await;
            offers.extend(offer::others(&served, &listed));
        }
        Ok(inner.note(offers))
    }

    async fn target(&self, name: &str, initiator: &str) -> Result<TargetInfo, CatalogError> {
        let inner = &self.0;
        let initiator: Option<IscsiName> = initiator.parse().ok();
        let served = inner.served().await?;
        let mut offers = offer::configured(&served, initiator.as_ref());
        offers.retain(|offer| offer.target.name == name);
        if offers.is_empty() && inner.all_volumes && offer::may_be_of_volume(name) {
            offers = inner.of_volume(&served, name).await;
        }
        match (inner.note(offers).pop(), offer::export_of_published(name)) {
            (Some(target), _) => Ok(target),
            (None, Some(published)) if inner.all_volumes => {
                match inner.volumes.refusal_of_published(&published).await {
                    OpenError::Denied => Ok(offer::without_units(name)),
                    error => {
                        inner.listing.doubt();
                        Err(open_error(error))
                    }
                }
            }
            _ => Err(CatalogError::Unknown),
        }
    }

    async fn open(&self, volume: &str) -> Result<ExportedVolume, CatalogError> {
        self.open_unit(volume, None).await
    }

    async fn server(&self, came_to: &str) -> Result<ServerIdentity, CatalogError> {
        let inner = &self.0;
        let own = inner.own_group().await.ok_or(CatalogError::Unavailable)?;
        let portal = |address: &String, group: PortalGroup| Portal {
            address: address.clone(),
            group: group.get(),
        };
        let mut given = inner.member.portals();
        if given.is_empty() {
            given.push(came_to.to_owned());
        }
        let mut portals: Vec<Portal> = given.iter().map(|at| portal(at, own)).collect();
        let served = inner.served().await?;
        let others = served
            .servers
            .iter()
            .filter(|server| server.up && server.group != own);
        for server in others {
            portals.extend(server.portals.iter().map(|at| portal(at, server.group)));
        }
        let group = own.get();
        Ok(ServerIdentity::Member { group, portals })
    }

    async fn standing(&self, unit: &UnitInfo, after: Mark) -> Option<Standing> {
        let unit: UnitOf = unit.volume.parse().ok()?;
        Some(self.0.standing(&unit, after).await)
    }

    async fn take(&self, volume: &str, from: Taking) -> Result<ExportedVolume, CatalogError> {
        let generation = u32::try_from(from.generation).map_err(|_| CatalogError::InUse)?;
        let take = TakeVolume {
            generation: Generation::new(generation),
            asked: from.asked,
        };
        self.open_unit(volume, Some(take)).await
    }

    async fn ask_for(&self, volume: &str, generation: u64) {
        let (Ok(unit), Some(to)) = (volume.parse::<UnitOf>(), self.0.member.group()) else {
            return;
        };
        let Ok(generation) = u32::try_from(generation) else {
            return;
        };
        let request = HandOver {
            volume: unit.volume,
            generation: Generation::new(generation),
            to,
        };
        if let Err(error) = self.0.source.hand_over(&unit.volume_name, request).await {
            tracing::debug!(volume, %error, "a volume cannot be asked for");
        }
    }

    fn generation(&self, device: &ExportedVolume) -> u64 {
        device.version().into()
    }

    async fn confirm_reservations(
        &self,
        volume: &str,
        generation: u64,
        version: u64,
    ) -> Result<(), ReservationsError> {
        let unit: UnitOf = volume.parse().map_err(|_| ReservationsError::Unavailable)?;
        if unit.layer.is_some() {
            return Ok(());
        }
        let generation = u32::try_from(generation).map_err(|_| ReservationsError::Conflict)?;
        let request = ConfirmReservations {
            volume: unit.volume,
            generation: Generation::new(generation),
            version,
        };
        let said = self
            .0
            .source
            .confirm_reservations(&unit.volume_name, request);
        said.await.map_err(|error| match error {
            SourceError::Superseded => ReservationsError::Conflict,
            error => reservations_error(&unit, &error),
        })
    }

    async fn are_reservations_confirmed(
        &self,
        volume: &str,
        version: u64,
    ) -> Result<bool, ReservationsError> {
        let unit: UnitOf = volume.parse().map_err(|_| ReservationsError::Unavailable)?;
        let source = &self.0.source;
        let said = source.reservations_confirmed(&unit.volume_name, version);
        said.await
            .map_err(|error| reservations_error(&unit, &error))
    }

    async fn reservations(&self, id: u128) -> Result<Reservations, ReservationsError> {
        let unit = self.0.unit(id).ok_or(ReservationsError::Unavailable)?;
        if unit.layer.is_some() {
            return Ok(Versioned::default());
        }
        let asked = self.0.source.reservations(&unit.volume_name).await;
        let held = asked.map_err(|error| reservations_error(&unit, &error))?;
        if held.volume != unit.volume {
            return Err(ReservationsError::Unavailable);
        }
        let value = registrations::known(&held.reservations);
        Ok(Versioned {
            version: held.version,
            value,
        })
    }

    async fn replace_reservations(
        &self,
        id: u128,
        seen: u64,
        value: &Registrations,
    ) -> Result<u64, ReservationsError> {
        let unit = self.0.unit(id).ok_or(ReservationsError::Unavailable)?;
        // Nobody keeps those of a snapshot: nothing is written to it.
        if unit.layer.is_some() {
            return Err(ReservationsError::Unavailable);
        }
        let request = ReplaceReservations {
            volume: unit.volume,
            seen,
            reservations: registrations::kept(value).ok_or(ReservationsError::Unavailable)?,
        };
        let name = &unit.volume_name;
        let replaced = self.0.source.replace_reservations(name, request).await;
        let replaced = replaced.map_err(|error| reservations_error(&unit, &error))?;
        Ok(replaced.version)
    }
}

/// The addresses that another host can be told of.
fn reachable(addresses: &[Address]) -> Vec<String> {
    let told = |address: &Address| match address {
        Address::Tcp(at) if at.ip().is_unspecified() => {
            tracing::warn!(%address,
                "initiators of other iSCSI servers are not told of this one: give --portal HOST:PORT");
            None
        }
        Address::Tcp(at) => Some(at.to_string()),
        Address::Unix(_) | Address::Local(_) => None,
    };
    addresses.iter().filter_map(told).collect()
}

fn open_error(error: OpenError) -> CatalogError {
    match error {
        OpenError::Unknown => CatalogError::Unknown,
        OpenError::InUse => CatalogError::InUse,
        OpenError::Unavailable | OpenError::ShuttingDown => CatalogError::Unavailable,
        // It is no more what it was offered as.
        OpenError::Denied => CatalogError::Unknown,
        OpenError::Failed(cause) => CatalogError::Failed(cause),
    }
}

fn reservations_error(unit: &UnitOf, error: &SourceError) -> ReservationsError {
    match error {
        SourceError::Refused { code } if &**code == "reservations-changed" => {
            ReservationsError::Conflict
        }
        _ => {
            let volume = unit.volume_name.as_str();
            tracing::warn!(volume, %error, "reservations cannot be read or kept");
            ReservationsError::Unavailable
        }
    }
}
