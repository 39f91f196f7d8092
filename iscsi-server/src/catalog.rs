//! What a server offers: targets, who may use them, their logical units, and where persistent
//! reservations are kept.

use ashlar_client::BlockDevice;

use crate::scsi::reservations::Registrations;
use crate::standing::{Mark, Standing, Taking};

/// An address that an initiator can connect to, as `SendTargets` tells it (RFC 7143 section 13.8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Portal {
    /// `HOST:PORT`; an IPv6 address stands in brackets.
    pub address: String,
    /// The portal group: connections of one session may spread over the portals of a group.
    pub group: u16,
}

/// A secret of CHAP and the name that goes with it (RFC 7143 section 12.1.3).
#[derive(Clone, PartialEq, Eq)]
pub struct ChapSecret {
    /// `CHAP_N`: 1 to 255 bytes.
    pub name: String,
    /// 12 to 255 bytes.
    pub secret: Vec<u8>,
}

impl std::fmt::Debug for ChapSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ChapSecret({})", self.name)
    }
}

/// What one initiator has to show, and is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Authentication {
    /// What the initiator must know: any one of them; none: nothing is asked for.
    pub initiator: Vec<ChapSecret>,
    /// What the target shows an initiator that asks for it.
    pub target: Option<ChapSecret>,
}

/// Whether an initiator may log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// It may, once it has shown this.
    Granted(Authentication),
    /// It may not: to it the target does not exist in discovery, and logins are refused.
    Denied,
}

/// A logical unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitInfo {
    /// Its number: 0 to 16383.
    pub lun: u16,
    /// The volume, as [`TargetCatalog::open`] takes it.
    pub volume: String,
    /// What names the logical unit for ever, wherever it is served: the NAA and the T10 designator,
    /// and the serial number are made of it.
    pub id: u128,
    /// Whether writes are refused.
    pub read_only: bool,
}

/// A target, as one initiator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetInfo {
    /// Its iSCSI name, normalised: `iqn.`, `eui.` or `naa.`, at most 223 bytes.
    pub name: String,
    /// For people.
    pub alias: Option<String>,
    /// Whether this initiator may log in.
    pub access: Access,
    /// By number, none twice.
    pub units: Vec<UnitInfo>,
}

/// What a server is among those that offer the same targets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerIdentity {
    /// The only one: its options say how initiators reach it.
    Alone,
    /// One of several.
    Member {
        /// Its portal group.
        group: u16,
        /// The portals of all that are heard; its own first.
        portals: Vec<Portal>,
    },
}

/// Why the catalog could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// There is no such target, or volume.
    #[error("no such target or volume")]
    Unknown,
    /// Somebody else has the volume.
    #[error("volume is attached elsewhere")]
    InUse,
    /// It cannot be served now; a retry may help.
    #[error("not available now: too few replicas, or no conductor, answer")]
    Unavailable,
    /// Anything else, in its own words.
    #[error("{0}")]
    Failed(#[source] Box<dyn std::error::Error>),
}

/// Something and the number of its change: who replaces it says which one it saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Versioned<T> {
    /// 0 where it was never changed.
    pub version: u64,
    /// What it is.
    pub value: T,
}

/// The persistent reservations of one logical unit as they are kept.
pub type Reservations = Versioned<Registrations>;

/// Why reservations could not be read or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReservationsError {
    /// They were changed meanwhile: read them again.
    #[error("the reservations were changed meanwhile")]
    Conflict,
    /// Where they are kept cannot be reached: nothing is known to have changed.
    #[error("where reservations are kept cannot be reached")]
    Unavailable,
}

/// The targets of a server.
#[expect(
    async_fn_in_trait,
    reason = "catalogs live on one thread: no Send bound is wanted"
)]
pub trait TargetCatalog: 'static {
    /// What an opened logical unit is.
    type Device: BlockDevice;

    /// What an initiator has to show for discovery.
    ///
    /// # Errors
    /// [`CatalogError`].
    async fn discovery(&self, initiator: &str) -> Result<Access, CatalogError>;

    /// All targets, as this initiator sees them.
    ///
    /// # Errors
    /// [`CatalogError`].
    async fn targets(&self, initiator: &str) -> Result<Vec<TargetInfo>, CatalogError>;

    /// One of them by its name.
    ///
    /// # Errors
    /// [`CatalogError::Unknown`], or as [`TargetCatalog::targets`].
    async fn target(&self, name: &str, initiator: &str) -> Result<TargetInfo, CatalogError> {
        let targets = self.targets(initiator).await?;
        let mut targets = targets.into_iter();
        targets
            .find(|target| target.name == name)
            .ok_or(CatalogError::Unknown)
    }

    /// Whether a session with the target is of use now: asked at the end of a login that begins one.
    ///
    /// # Errors
    /// [`CatalogError::Unavailable`]: none of its logical units can be opened; the login is refused so
    /// that the initiator tries again later (RFC 7143 section 11.13.5, status 0301h).
    async fn ready(&self, _target: &TargetInfo) -> Result<(), CatalogError> {
        Ok(())
    }

    /// A handle on the device of a volume. All handles of a volume are on one device. It may take
    /// its time; once begun it runs to its end. The device is let go when the last handle is dropped.
    ///
    /// # Errors
    /// [`CatalogError`].
    async fn open(&self, volume: &str) -> Result<Self::Device, CatalogError>;

    /// The persistent reservations of the logical unit `id`.
    ///
    /// # Errors
    /// [`ReservationsError::Unavailable`].
    async fn reservations(&self, id: u128) -> Result<Reservations, ReservationsError>;

    /// Replaces them if they are still of that version; they are durable on return. Gives the new
    /// version.
    ///
    /// # Errors
    /// [`ReservationsError`].
    async fn replace_reservations(
        &self,
        id: u128,
        seen: u64,
        value: &Registrations,
    ) -> Result<u64, ReservationsError>;

    /// What this server is among others. `came_to` is where an initiator has come to, to be told of where
    /// the server knows no better.
    ///
    /// # Errors
    /// [`CatalogError::Unavailable`]: that is not known yet, or another one has taken its place.
    async fn server(&self, _came_to: &str) -> Result<ServerIdentity, CatalogError> {
        Ok(ServerIdentity::Alone)
    }

    /// How a unit stands, once that differs from what was seen at `after`; `None`: it never will.
    async fn standing(&self, _unit: &UnitInfo, after: Mark) -> Option<Standing> {
        (after == Mark::default()).then(Standing::alone)
    }

    /// As [`TargetCatalog::open`], from an owner that has it.
    ///
    /// # Errors
    /// [`CatalogError::InUse`]: that owner has it no more, or it must not be taken from it.
    async fn take(&self, volume: &str, _from: Taking) -> Result<Self::Device, CatalogError> {
        self.open(volume).await
    }

    /// Asks the owner of that generation to let a volume go to this server. Nothing is promised.
    async fn ask_for(&self, _volume: &str, _generation: u64) {}

    /// The generation in which a device is open here: another owner has a higher one.
    fn generation(&self, _device: &Self::Device) -> u64 {
        0
    }

    /// Says that this server goes by that version of a volume's reservations, which it has open in that
    /// generation.
    ///
    /// # Errors
    /// [`ReservationsError::Conflict`]: another owner has the volume. Or it could not be said.
    async fn confirm_reservations(
        &self,
        _volume: &str,
        _generation: u64,
        _version: u64,
    ) -> Result<(), ReservationsError> {
        Ok(())
    }

    /// Whether whoever serves a volume goes by that version of its reservations; waits some time for it.
    ///
    /// # Errors
    /// [`ReservationsError::Unavailable`].
    async fn are_reservations_confirmed(
        &self,
        _volume: &str,
        _version: u64,
    ) -> Result<bool, ReservationsError> {
        Ok(true)
    }
}
