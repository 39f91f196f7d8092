//! How an owner behaves: bounds in time and memory, each with its default and its reason.

use std::time::Duration;

use ashlar_proto::api::AttachServer;
use ashlar_proto::limits::HOLD_MAX;
use ashlar_proto::{Address, PublicationId};

/// Bounds of a volume's owner.
#[derive(Clone, Debug)]
pub struct VolumeOptions {
    /// Who attaches: text for people, unique for one run of one front end.
    pub owner: String,
    /// Take the volume from an owner that still holds it.
    pub force: bool,
    /// Attach only to bring replicas back: any other owner takes the volume without force.
    pub repair: bool,
    /// Who attaches is an iSCSI server: which one, and from whom it takes the volume.
    pub server: Option<AttachServer>,
    /// The publication that it is for: needed where the volume is published to a node.
    pub publication: Option<PublicationId>,
    /// Stores of this process: reach the first address through the second.
    pub local: Vec<(Address, Address)>,
    /// How long to wait for replicas beyond those that a take-over needs.
    pub attach_patience: Duration,
    /// How long to try to attach at all.
    pub attach_timeout: Duration,
    /// How long of that to wait for a conductor that does not answer.
    pub conductor_timeout: Duration,
    /// How long a request waits for enough replicas before it fails.
    pub io_timeout: Duration,
    /// How long a replica may take to answer before its session is ended, as long as its store shows
    /// that it lives.
    pub request_timeout: Duration,
    /// How long a store may show no sign of life while requests wait before its sessions are ended.
    /// Longer, up to `request_timeout`, for one whose answers have taken long lately.
    pub silence_timeout: Duration,
    /// How long to connect to a store and be greeted.
    pub connect_timeout: Duration,
    /// How long a replica may be away before it is proposed out of the in-sync set; half of it where
    /// writes wait for it.
    pub replica_grace: Duration,
    /// How long writes are held back for a group of snapshots at most; then they go on, and that group
    /// fails.
    pub hold_max: Duration,
    /// Bytes of requests in flight.
    pub in_flight_bytes: u64,
    /// Of these, bytes of writes that may take room while room is scarce on some replica: what all
    /// owners of a disk have of it together should fit between its soft mark and its end.
    pub scarce_bytes: u64,
    /// Requests in flight.
    pub in_flight_requests: usize,
    /// Bytes of writes kept until all replicas hold them durably, beyond which writes wait and
    /// replicas that lag are given up.
    pub retained_bytes_max: u64,
    /// Bytes of writes not flushed at which the owner flushes by itself.
    pub flush_bytes: u64,
    /// Time after which it does, too.
    pub flush_interval: Duration,
    /// Pause before each pass of the scrub over the volume; zero for no scrub at all.
    pub scrub_interval: Duration,
    /// Bytes of the volume that each replica reads in a second for it; zero: only maps are compared.
    pub scrub_pace: u64,
}

impl VolumeOptions {
    /// The defaults, for `owner`.
    #[must_use]
    pub fn new(owner: impl Into<String>) -> Self {
        Self {
            owner: owner.into(),
            force: false,
            repair: false,
            server: None,
            publication: None,
            local: Vec::new(),
            attach_patience: Duration::from_secs(5),
            attach_timeout: Duration::from_secs(60),
            conductor_timeout: Duration::from_secs(60),
            io_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(8),
            silence_timeout: Duration::from_millis(600),
            connect_timeout: Duration::from_secs(3),
            replica_grace: Duration::from_secs(2),
            hold_max: HOLD_MAX,
            in_flight_bytes: 64 << 20,
            scarce_bytes: 1 << 20,
            in_flight_requests: 1024,
            retained_bytes_max: 192 << 20,
            flush_bytes: 64 << 20,
            flush_interval: Duration::from_secs(5),
            scrub_interval: Duration::from_secs(24 * 3600),
            scrub_pace: 8 << 20,
        }
    }
}
